"""Energy over windows of time, exactly at the windows' edges. Numpy only.

Power is linear between its points, so energy is the sum of trapezoids; where a window begins or
ends between two points the trapezoid is cut there. All points count. With the running sum of the
trapezoids a window costs two look-ups, however long it is.

    E(a, b) = S(b) - S(a)          S(t): energy from the first point to a time within the series
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.errors import MeasurementError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.energy.trace import RailPower

_MJ_PER_MW_NS = 1e-9


@dataclass(frozen=True)
class Integral:
    """Energy of one rail over one window.

    Attributes:
        energy_mj: Energy over the covered part; nan if nothing is covered.
        mean_mw: Mean power over the covered part; nan if nothing is covered.
        n: Points of the series within the window.
        coverage: Share of the window that lies between the first and the last point; energy is
            never extrapolated.
        largest_gap_ns: Longest stretch of the window without a point at both its ends known;
            uncovered parts count.
        edge_error_mj: Bound on what interpolation at the two edges can be wrong by: half the
            distance of the points around the edge times their difference in power.
    """

    energy_mj: float
    mean_mw: float
    n: int
    coverage: float
    largest_gap_ns: int
    edge_error_mj: float


def energy_mj(series: RailPower, start_ns: int, end_ns: int) -> Integral:
    """Integrate a rail's power over one window.

    Raises:
        MeasurementError: The window does not end after it starts.
    """
    if end_ns <= start_ns:
        raise MeasurementError(f"a window must end after it starts: {start_ns} to {end_ns} ns")
    times = series.t_ns
    length_ns = end_ns - start_ns
    if len(times) < 2 or end_ns <= times[0] or start_ns >= times[-1]:
        inside = int(np.count_nonzero((times >= start_ns) & (times <= end_ns)))
        return Integral(math.nan, math.nan, inside, 0.0, length_ns, 0.0)
    first_ns, last_ns = max(start_ns, int(times[0])), min(end_ns, int(times[-1]))
    energy = float(
        _cumulative_at(series, np.array([first_ns, last_ns]), _running_mj(series)) @ [-1, 1]
    )
    lower, upper = np.searchsorted(times, [start_ns, end_ns + 1])
    # The points of the window and the one on each side: the gaps that touch the window.
    around = times[max(lower - 1, 0) : upper + 1]
    gap_ns = max(int(np.diff(around).max(initial=0)), first_ns - start_ns, end_ns - last_ns)
    covered_ns = last_ns - first_ns
    return Integral(
        energy_mj=energy,
        mean_mw=energy / (covered_ns * _MJ_PER_MW_NS),
        n=int(upper - lower),
        coverage=covered_ns / length_ns,
        largest_gap_ns=gap_ns,
        edge_error_mj=_edge_error_mj(series, first_ns) + _edge_error_mj(series, last_ns),
    )


def energies_mj(
    series: RailPower, starts_ns: npt.ArrayLike, ends_ns: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Integrate a rail's power over many windows at once.

    Args:
        series: The rail's power.
        starts_ns: int64 (n,).
        ends_ns: int64 (n,), none before its start.

    Returns:
        float64 (n,) mJ; nan where a window is not wholly covered by the series.

    Raises:
        MeasurementError: Different lengths, or a window that ends before it starts.
    """
    starts, ends = np.asarray(starts_ns, np.int64), np.asarray(ends_ns, np.int64)
    if starts.shape != ends.shape or np.any(ends < starts):
        raise MeasurementError("windows must have as many ends as starts, none before its start")
    if len(series.t_ns) < 2:
        return np.full(starts.shape, math.nan)
    running = _running_mj(series)
    energy = _cumulative_at(series, ends, running) - _cumulative_at(series, starts, running)
    covered = (starts >= series.t_ns[0]) & (ends <= series.t_ns[-1])
    return np.where(covered, energy, math.nan)


def _running_mj(series: RailPower) -> npt.NDArray[np.float64]:
    """Return S at every point: energy since the first one."""
    pairs = series.power_mw[1:] + series.power_mw[:-1]
    trapezoids = 0.5 * _MJ_PER_MW_NS * pairs * np.diff(series.t_ns)
    return np.concatenate([[0.0], np.cumsum(trapezoids)])


def _cumulative_at(
    series: RailPower, at_ns: npt.NDArray[np.int64], running_mj: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return S at given times within the series."""
    times, power = series.t_ns, series.power_mw
    left = np.clip(np.searchsorted(times, at_ns, side="right") - 1, 0, len(times) - 2)
    elapsed = (at_ns - times[left]).astype(np.float64)
    slope = (power[left + 1] - power[left]) / (times[left + 1] - times[left])
    partial = (power[left] + 0.5 * slope * elapsed) * elapsed * _MJ_PER_MW_NS
    result: npt.NDArray[np.float64] = running_mj[left] + partial
    return result


def _edge_error_mj(series: RailPower, at_ns: int) -> float:
    right = int(np.searchsorted(series.t_ns, at_ns))
    if series.t_ns[right] == at_ns:
        return 0.0  # an edge on a point is cut where power is known
    distance_ns = int(series.t_ns[right] - series.t_ns[right - 1])
    difference_mw = abs(float(series.power_mw[right] - series.power_mw[right - 1]))
    return 0.5 * distance_ns * difference_mw * _MJ_PER_MW_NS
