"""What the choice of a run is made from and of: limits, candidates, cases. Standard library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgejoule.report.overview import Overview

RATE_TOLERANCE = 0.01
MISSED_SHARE = 0.001

Energy = Literal["gross", "dynamic"]
Basis = Literal["rate", "full speed", "back to back"]


@dataclass(frozen=True)
class Limits:
    """What a run has to meet; None: no such limit.

    Attributes:
        latency_ms: Latency, at `percentile`.
        percentile: `p50`, `p90` or `p99`: of the rate pass where a rate is asked for, else of the
            clean pass.
        power_w: Average power: of the rate pass where a rate is asked for, else of the clean pass.
        peak_power_w: Greatest single reading of the clean and profiled passes.
        rate_hz: Frames a second that have to be taken up.
        missed: Share of frames that may be late or dropped.
        memory_mib: Greatest memory.
        max_error: Mean relative error of the outputs against float32.
        battery_wh: Not a limit: what the battery's life is told for.
        energy: `gross` counts idle power too, as a battery pays it; `dynamic` what is above it.
        back_to_back: Runs that were not measured at the rate count by what they take at full speed.
        include_simulated: Simulated runs may win.
        models: Only these models or runs; empty: all.
    """

    latency_ms: float | None = None
    percentile: str = "p99"
    power_w: float | None = None
    peak_power_w: float | None = None
    rate_hz: float | None = None
    missed: float = MISSED_SHARE
    memory_mib: float | None = None
    max_error: float | None = None
    battery_wh: float | None = None
    energy: Energy = "gross"
    back_to_back: bool = False
    include_simulated: bool = False
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tolerance:
    """How far a rail's readings may be off, all in one direction.

    Attributes:
        gain_rel: Relative.
        constant_w: Offset and rounding to steps.
    """

    gain_rel: float
    constant_w: float

    def of_power(self, power_w: float) -> float:
        """Return the bound on an average power."""
        return self.gain_rel * abs(power_w) + self.constant_w


@dataclass(frozen=True)
class Candidate:
    """A run with what the choice needs beyond its overview.

    Attributes:
        overview: Its figures.
        frames: Frames that were due in the rate pass.
        dropped: Of these, those that were not taken up.
        clean_half_w: Half-width of the interval of average power in the clean pass.
        rate_half_w: The same in the rate pass.
        tolerance: Of the rail that stands for the run, None: not known.
        excludes: What the board's total does not contain, None: not known.
        rate_ms: Latency of the rate pass: `p50`, `p90`, `p99`, as far as known.
        rate_inferences: Behind these, None: not known.
    """

    overview: Overview
    frames: int | None = None
    dropped: int = 0
    clean_half_w: float | None = None
    rate_half_w: float | None = None
    tolerance: Tolerance | None = None
    excludes: str | None = None
    rate_ms: Mapping[str, float] = field(default_factory=dict)
    rate_inferences: int | None = None

    @property
    def frame_hz(self) -> float | None:
        """Frames a second that were due in the rate pass."""
        rate = self.overview.rate_hz
        return None if rate is None else rate * self.overview.batch


@dataclass(frozen=True)
class Reason:
    """Why a run cannot be chosen.

    Attributes:
        kind: `latency`, `power`, `peak power`, `memory`, `error`, `rate`, `missed`, `simulated`,
            `unfinished` or `energy`.
        text: In words.
        value: The figure, where a figure is beyond a limit.
        limit: That limit.
    """

    kind: str
    text: str
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class BatteryLife:
    """How long a battery lasts, hours.

    Attributes:
        hours: At the average power.
        statistical: Least and most, by the interval of the average power; None: not known.
        systematic: Least and most, by the bound on what the sensor may be off; None: not known.
    """

    hours: float
    statistical: tuple[float, float | None] | None
    systematic: tuple[float, float | None] | None


@dataclass(frozen=True)
class Case:
    """A run under the limits.

    Attributes:
        candidate: The run.
        basis: Where power and energy come from: the `rate` pass, the clean pass because no rate was
            asked for (`full speed`), or the clean pass in place of a rate pass (`back to back`).
        latency_ms: At the asked percentile, waiting for the batch included; where a rate is asked
            for, that of the rate pass at this rate, of a run without one that at full speed.
        power_w: Average power.
        power_half_w: Half-width of its interval.
        energy_mj: Energy per frame.
        energy_half_mj: Half-width of its interval within the process.
        reasons: Everything that speaks against it; empty: it meets the limits.
        battery: None where no battery was named, or why it cannot be told stands in `no_battery`.
        no_battery: Why there is no battery life.
    """

    candidate: Candidate
    basis: Basis
    latency_ms: float | None
    power_w: float | None
    power_half_w: float | None
    energy_mj: float | None
    energy_half_mj: float | None
    reasons: tuple[Reason, ...] = ()
    battery: BatteryLife | None = None
    no_battery: str | None = None

    @property
    def run(self) -> str:
        """The run's name."""
        return self.candidate.overview.run


@dataclass(frozen=True)
class Miss:
    """The run that comes nearest to one limit.

    Attributes:
        kind: Which limit, as in `Reason`.
        run: The run.
        value: Its figure.
        limit: The limit.
        met: Whether it meets this one, and fails by others.
    """

    kind: str
    run: str
    value: float
    limit: float
    met: bool


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        limits: What was asked for.
        meeting: Runs that meet the limits, the least energy first.
        failing: The others, in the order of their names.
        alike: Of the meeting ones, those whose energy is not told apart from the first's.
        misses: Where none meets the limits, the nearest to each.
        outside: Runs that `models` left out.
    """

    limits: Limits
    meeting: tuple[Case, ...]
    failing: tuple[Case, ...]
    alike: tuple[Case, ...] = ()
    misses: tuple[Miss, ...] = field(default=())
    outside: int = 0

    @property
    def best(self) -> Case | None:
        """The run to take, None where none meets the limits."""
        return self.meeting[0] if self.meeting else None
