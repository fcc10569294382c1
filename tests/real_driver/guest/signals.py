"""Signals for the chips to measure, as tables of conversions. Standard library only."""

from __future__ import annotations

import math
import random

from tests.real_driver.guest.chip import CYCLE_NS, Table, in_turn

# The chip has a clock of its own: its cycles are not what its settings say, to the last digit.
OSCILLATOR = 1.0037


def wandering(address: int, seconds: float) -> Table:
    """Return three channels that wander slowly, each in its own way, with noise of a step or two.

    Currents move by 80 % around their mean within seconds, voltages by 1 %.
    """
    noise = random.Random(address)
    period_ns = round(CYCLE_NS * OSCILLATOR)
    rows = []
    for cycle in range(math.ceil(seconds * 1e9 / period_ns)):
        t_s = cycle * period_ns * 1e-9
        row = []
        for channel in range(3):
            turn = 2 * math.pi * t_s / (3.1 - 0.7 * channel) + channel + address
            current = (300 - 60 * channel) * (1 + 0.8 * math.sin(turn))
            voltage = 625 + 6 * math.cos(0.7 * turn)
            row += [round(current + noise.gauss(0, 1.0)), round(voltage + noise.gauss(0, 0.4))]
        rows.append(row)
    return Table(period_ns, in_turn(period_ns), rows)
