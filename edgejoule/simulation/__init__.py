"""Passes with known truth, to test attribution: networks, boards, sensors, the sampler's schedule.

Numpy alone; shares no code with what it tests.
"""

from edgejoule.simulation.library import SCENARIOS
from edgejoule.simulation.scenario import Gaps, Rail, Scenario, Sensor
from edgejoule.simulation.simulate import Simulated, simulate

__all__ = ["SCENARIOS", "Gaps", "Rail", "Scenario", "Sensor", "Simulated", "simulate"]
