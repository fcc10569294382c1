"""Energy above idle per execution, from repeated segments, with intervals. Numpy.

    d = (P - idle) / rate        of each segment, mW / Hz = mJ; idle interpolated between the pass's
                                 own idle segments
    E = mean of d over the segments of one thing

The interval has two parts that behave differently. The scatter of the segments is each thing's own;
with two or three segments a thing's own scatter says little, so it is moderated by that of all
things together, of power in shares of power and of time in shares of time (the moderated variance
of G. Smyth, 2004, doi:10.2202/1544-6115.1027). The error of idle power is common: it moves every
energy in the same direction, and a sum of energies by the sum. It is carried as a vector over the
idle segments, so that in the ratio of a sum to the whole most of it cancels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgejoule.energy.replay_segments import (
    IDLE,
    SegmentPower,
    Segments,
    segment_power,
)
from edgejoule.energy.statistics import t95

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.energy.trace import RailPower

Thing: TypeAlias = tuple[int, int, int]
"""What is repeated: kind, layer (-1: none), copies."""

_PRIOR_DEGREES = 8
_FEW_DEGREES = 4
_PRIOR_OF_BLOCKS = 2
_SD_OF_HALF = 1.959964
# Of neighbours' mean and the one between: 1 + 1/4 + 1/4 variances.
_SECOND_DIFFERENCE = 1.5


@dataclass(frozen=True)
class Estimate:
    """Energy above idle of one execution.

    Attributes:
        energy_mj: The mean of the segments.
        own_half_mj: Half-width of its 95 % interval from the scatter of segments; nan: not known.
        idle_mj_per_mw: float64 (m,), by how much it moves with each idle segment's power.
        idle_half_mj: Half-width that the error of idle makes of it.
        above_idle_mw: Mean power above idle.
        power_mw: Mean power.
        alone_ms: Time of one execution.
        segments: Behind it.
        iterations: Executions in them.
        known_s: How long power was known.
    """

    energy_mj: float
    own_half_mj: float
    idle_mj_per_mw: npt.NDArray[np.float64]
    idle_half_mj: float
    above_idle_mw: float
    power_mw: float
    alone_ms: float
    segments: int
    iterations: int
    known_s: float

    @property
    def half_mj(self) -> float:
        """Half-width of its 95 % interval, both parts."""
        return math.hypot(self.own_half_mj, self.idle_half_mj)


@dataclass(frozen=True)
class IdlePower:
    """Idle power of the pass.

    Attributes:
        mean_mw: Mean of its segments, or the loaded baseline.
        half_mw: Half-width of the mean's 95 % interval; nan: not known.
        segment_half_mw: Half-width of one segment's own interval; nan: not known.
        first_mw: The first segment.
        last_mw: The last.
        segments: How many; 0: the loaded baseline.
    """

    mean_mw: float
    half_mw: float
    segment_half_mw: float
    first_mw: float
    last_mw: float
    segments: int


@dataclass(frozen=True)
class Estimates:
    """All things of a replay pass on one rail.

    Attributes:
        of: Thing -> its energy.
        idle: Idle power.
        power_sd: Scatter of a segment's power above idle in shares of its power, all things
            together; nan where nothing was repeated twice.
        time_sd: The same of the time of one execution.
        degrees: Degrees of freedom behind it.
    """

    of: Mapping[Thing, Estimate]
    idle: IdlePower
    power_sd: float
    time_sd: float
    degrees: int

    def sum_of(self, parts: Iterable[tuple[float, Estimate]]) -> tuple[float, float, float]:
        """Return a weighted sum's value, half-width from the things' own scatter, and from idle."""
        pairs = list(parts)
        value = sum(weight * part.energy_mj for weight, part in pairs)
        own = math.sqrt(sum((weight * part.own_half_mj) ** 2 for weight, part in pairs))
        return value, own, self.idle_half(self.idle_vector(pairs))

    def idle_vector(self, parts: Iterable[tuple[float, Estimate]]) -> npt.NDArray[np.float64]:
        """Return by how much a weighted sum moves with each idle segment's power, mJ per mW."""
        found: npt.NDArray[np.float64] = np.zeros(max(1, self.idle.segments))
        for weight, part in parts:
            found = found + weight * part.idle_mj_per_mw
        return found

    def gross_half(
        self, own_half_mj: float, vector: npt.NDArray[np.float64], idle_ms: float
    ) -> float:
        """Return the half-width of an energy to which idle power over some time is added.

        Args:
            own_half_mj: From the things' own scatter.
            vector: By how much the energy above idle moves with each idle segment's power.
            idle_ms: For how long mean idle power is added.
        """
        moves = vector + idle_ms * 1e-3 / len(vector)
        return math.hypot(own_half_mj, self.idle_half(moves))

    def idle_half(self, vector: npt.NDArray[np.float64]) -> float:
        """Return the half-width that idle's error makes of what moves with it by `vector`."""
        return float(np.linalg.norm(vector)) * self.idle.segment_half_mw


def estimate_all(
    series: RailPower,
    segments: Segments,
    reach_ns: int,
    baseline_mw: float | None,
    baseline_half_mw: float | None = None,
) -> Estimates | None:
    """Estimate the energy above idle of everything that was repeated.

    Args:
        series: The rail's power.
        segments: The segments, those of `idle` among them.
        reach_ns: As for `segment_power`.
        baseline_mw: Idle power with the engine loaded, taken where the pass has no idle of its own.
        baseline_half_mw: Half-width of its 95 % interval.

    Returns:
        The estimates; things without a segment of known power are not in. None: nothing is known
        of idle power.
    """
    power = segment_power(series, segments, reach_ns)
    known = np.isfinite(power.mean_mw)
    idle_at = known & (segments.kind == IDLE)
    middle = 0.5 * (segments.start_ns + segments.end_ns - 2 * segments.start_ns.min(initial=0))
    busy = known & (segments.kind != IDLE) & (segments.iterations > 0)
    if idle_at.any():
        weights = _between(middle[idle_at], middle[busy])
        idle = _idle_power(power, idle_at)
        levels = power.mean_mw[idle_at]
    elif baseline_mw is not None:
        half = math.nan if baseline_half_mw is None else baseline_half_mw
        weights = np.ones((int(busy.sum()), 1))
        idle = IdlePower(baseline_mw, half, half, baseline_mw, baseline_mw, 0)
        levels = np.array([baseline_mw])
    else:
        return None
    above_mw = power.mean_mw[busy] - weights @ levels
    per_execution_s = segments.seconds[busy] / segments.iterations[busy]
    found = _Busy(
        list(
            zip(
                segments.kind[busy].tolist(),
                segments.layer[busy].tolist(),
                segments.copies[busy].tolist(),
                strict=True,
            )
        ),
        above_mw,
        power.mean_mw[busy],
        power.half_mw[busy],
        per_execution_s,
        segments.iterations[busy],
        power.known_s[busy],
        weights,
    )
    return _estimates(found, idle)


@dataclass(frozen=True)
class _Busy:
    things: list[Thing]
    above_mw: npt.NDArray[np.float64]
    mean_mw: npt.NDArray[np.float64]
    half_mw: npt.NDArray[np.float64]
    per_execution_s: npt.NDArray[np.float64]
    iterations: npt.NDArray[np.int64]
    known_s: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]


def _estimates(busy: _Busy, idle: IdlePower) -> Estimates:
    energy = busy.above_mw * busy.per_execution_s
    rows: dict[Thing, list[int]] = {}
    for row, thing in enumerate(busy.things):
        rows.setdefault(thing, []).append(row)
    degrees = sum(len(at) - 1 for at in rows.values())
    power_sd = _pooled(busy.above_mw, busy.mean_mw, rows, degrees)
    time_sd = _pooled(busy.per_execution_s, busy.per_execution_s, rows, degrees)
    prior = min(_PRIOR_DEGREES, degrees)
    within = busy.half_mw / busy.mean_mw
    if degrees < _FEW_DEGREES and np.isfinite(within).any():
        # Hardly anything was repeated: what lies within the segments has to tell as well.
        of_blocks = float(np.sqrt(np.nanmean(within**2))) / _SD_OF_HALF
        power_sd, time_sd = float(np.nanmax([power_sd, of_blocks])), float(np.nan_to_num(time_sd))
        prior = max(degrees, _PRIOR_OF_BLOCKS)  # they cannot see what differs between segments
    of = {}
    for thing, at in rows.items():
        freedom = prior + len(at) - 1
        mean_mj = float(energy[at].mean())
        if freedom:
            of_power = power_sd * float(np.mean(busy.mean_mw[at] * busy.per_execution_s[at]))
            expected = of_power**2 + (time_sd * mean_mj) ** 2 if prior else 0.0
            own_mj2 = float(np.sum((energy[at] - mean_mj) ** 2))
            spread = (prior * expected + own_mj2) / freedom
            own = t95(freedom) * math.sqrt(spread / len(at))
        else:
            own = math.nan
        vector = -(busy.weights[at] * busy.per_execution_s[at][:, None]).mean(axis=0)
        of[thing] = Estimate(
            energy_mj=mean_mj,
            own_half_mj=own,
            idle_mj_per_mw=vector,
            idle_half_mj=float(np.linalg.norm(vector)) * idle.segment_half_mw,
            above_idle_mw=float(busy.above_mw[at].mean()),
            power_mw=float(busy.mean_mw[at].mean()),
            alone_ms=float(busy.per_execution_s[at].mean()) * 1e3,
            segments=len(at),
            iterations=int(busy.iterations[at].sum()),
            known_s=float(busy.known_s[at].sum()),
        )
    return Estimates(of, idle, power_sd, time_sd, degrees)


def _pooled(
    values: npt.NDArray[np.float64],
    scales: npt.NDArray[np.float64],
    rows: Mapping[Thing, list[int]],
    degrees: int,
) -> float:
    """Return the scatter about each thing's mean, in shares of its scale, over all things."""
    if not degrees:
        return math.nan
    shares = [values[at] / scales[at].mean() for at in rows.values()]
    squares = [np.sum((share - share.mean()) ** 2) for share in shares]
    return math.sqrt(float(np.sum(squares)) / degrees)


def _between(
    known: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the weights of linear interpolation: (wanted, known), constant outside."""
    units = np.eye(len(known))
    return np.column_stack([np.interp(wanted, known, unit) for unit in units])


def _idle_power(power: SegmentPower, idle_at: npt.NDArray[np.bool_]) -> IdlePower:
    """Summarise the idle segments; the error of one from how far it is off its neighbours' line."""
    levels, within = power.mean_mw[idle_at], power.half_mw[idle_at]
    count = len(levels)
    half = math.nan
    if np.isfinite(within).any():
        half = float(np.sqrt(np.nanmean(within**2)))
    if count >= 3:
        off = levels[1:-1] - 0.5 * (levels[:-2] + levels[2:])
        degrees = len(off)
        sd = math.sqrt(float(off @ off) / (_SECOND_DIFFERENCE * degrees))
        prior = 0 if math.isnan(half) else _FEW_DEGREES
        if prior:
            sd = math.sqrt(
                (prior * (half / _SD_OF_HALF) ** 2 + degrees * sd**2) / (prior + degrees)
            )
        half = t95(prior + degrees) * sd
    return IdlePower(
        mean_mw=float(levels.mean()),
        half_mw=half / math.sqrt(count),
        segment_half_mw=half,
        first_mw=float(levels[0]),
        last_mw=float(levels[-1]),
        segments=count,
    )
