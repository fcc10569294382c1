"""Energy over windows of time, exactly at the windows' edges. Numpy only.

Power is linear between its points, so energy is the sum of trapezoids; where a window begins or
ends between two points the trapezoid is cut there. All points count. With the running sum of the
trapezoids a window costs two look-ups, however long it is.

    E(a, b) = S(b) - S(a)          S(t): energy from the first point to a time within the series

What an edge can be wrong by (`Integral.edge_error_mj`) can be bounded only under an assumption,
which differs with what the points are:

- readings of power: the power between two of them lies between their two values. Whoever knows the
  sensor's refresh says so: a reading then stands for the power of up to one refresh before it;
- ticks of an energy counter: what a stretch between two ticks holds is known, and it may all lie on
  one side of the edge.

Not in the bound: what happens between the points away from the edges (a load that is not in step
with the sampling averages out there), steps and gain of the converter.
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
GAP_FACTOR = 3  # a distance of points above so many usual ones is a gap
_TYPICAL_OF = 65_536  # points that the usual distance is taken from, at most about twice as many


@dataclass(frozen=True)
class Integral:
    """Energy of one rail over one window.

    Attributes:
        energy_mj: Energy over the covered part; nan if nothing is covered. Gaps within the trace
            are bridged by a straight line, and counted.
        mean_mw: Mean power over the covered part; nan if nothing is covered.
        n: Points of the series within the window.
        coverage: Share of the window that lies between the first and the last point; energy is
            never extrapolated.
        largest_gap_ns: Longest stretch of the window without a point at both its ends known;
            uncovered parts count.
        edge_error_mj: Bound on what the two edges can make the energy wrong by, under the
            assumption in this module's text.
        gaps: Stretches of the window that are too long without a point, or in which a counter was
            reset; uncovered ones count.
        gap_share: Their share of the window.
        typical_ns: The rail's usual distance of points (median over the whole trace), None below
            two points. A sum of rails: the longest of its parts'.
    """

    energy_mj: float
    mean_mw: float
    n: int
    coverage: float
    largest_gap_ns: int
    edge_error_mj: float
    gaps: int = 0
    gap_share: float = 0.0
    typical_ns: int | None = None


def energy_mj(
    series: RailPower, start_ns: int, end_ns: int, refresh_ns: int | None = None
) -> Integral:
    """Integrate a rail's power over one window.

    Args:
        series: The rail's power.
        start_ns: Begin of the window.
        end_ns: Its end.
        refresh_ns: The sensor's refresh, where it is known. A trace that is read faster than that
            in part (attribution mode) has no gap where it is read once a refresh; and the bound at
            the edges takes into account that a reading may be that old.

    Raises:
        MeasurementError: The window does not end after it starts.
    """
    if end_ns <= start_ns:
        raise MeasurementError(f"a window must end after it starts: {start_ns} to {end_ns} ns")
    times = series.t_ns
    length_ns = end_ns - start_ns
    typical = typical_ns(series)
    if len(times) < 2 or end_ns <= times[0] or start_ns >= times[-1]:
        inside = int(np.count_nonzero((times >= start_ns) & (times <= end_ns)))
        return Integral(math.nan, math.nan, inside, 0.0, length_ns, 0.0, 1, 1.0, typical)
    first_ns, last_ns = max(start_ns, int(times[0])), min(end_ns, int(times[-1]))
    energy = float(
        _cumulative_at(series, np.array([first_ns, last_ns]), _running_mj(series)) @ [-1, 1]
    )
    lower, upper = np.searchsorted(times, [start_ns, end_ns + 1])
    # The points of the window and the one on each side: the gaps that touch the window.
    around = times[max(lower - 1, 0) : upper + 1]
    gap_ns = max(int(np.diff(around).max(initial=0)), first_ns - start_ns, end_ns - last_ns)
    covered_ns = last_ns - first_ns
    spans = gaps_ns(series, start_ns, end_ns, refresh_ns)
    return Integral(
        energy_mj=energy,
        mean_mw=energy / (covered_ns * _MJ_PER_MW_NS),
        n=int(upper - lower),
        coverage=covered_ns / length_ns,
        largest_gap_ns=gap_ns,
        edge_error_mj=_edges_error_mj(series, first_ns, last_ns, refresh_ns or 0),
        gaps=len(spans),
        gap_share=float(np.diff(spans).sum()) / length_ns,
        typical_ns=typical,
    )


def typical_ns(series: RailPower) -> int | None:
    """Return the usual distance of a rail's points, the median; None below two points."""
    if series.parts:
        known = [found for found in map(typical_ns, series.parts) if found is not None]
        return max(known, default=None)
    times = series.t_ns if series.late_ns is None else series.t_ns[::2]
    steps = np.diff(times)
    if not len(steps):
        return None
    return int(np.median(steps[:: max(1, len(steps) // _TYPICAL_OF)]))


def gaps_ns(
    series: RailPower, start_ns: int, end_ns: int, refresh_ns: int | None = None
) -> npt.NDArray[np.int64]:
    """Return the gaps of a trace within a window: where nothing was known of the power.

    A gap is a distance of two points above `GAP_FACTOR` usual ones (the rail's median, at least
    the refresh), a stretch in which a counter was reset, and what the trace does not cover. A sum
    of rails has the gaps of each.

    Returns:
        int64 (k, 2): start and end of each, cut at the window, in order, not overlapping.
    """
    spans = _merged(np.clip(_spans_ns(series, start_ns, end_ns, refresh_ns), start_ns, end_ns))
    return spans[spans[:, 1] > spans[:, 0]]


def _spans_ns(
    series: RailPower, start_ns: int, end_ns: int, refresh_ns: int | None
) -> npt.NDArray[np.int64]:
    if series.parts:
        parts = [_spans_ns(part, start_ns, end_ns, refresh_ns) for part in series.parts]
        return np.concatenate(parts)
    times = series.t_ns
    usual = typical_ns(series)
    if usual is None:
        return np.array([[start_ns, end_ns]], np.int64)
    longest_ns = GAP_FACTOR * max(usual, refresh_ns or 0)
    lower, upper = np.searchsorted(times, [start_ns, end_ns])
    around = times[max(lower - 1, 0) : upper + 1]
    long = np.flatnonzero(np.diff(around) > longest_ns)
    inner = np.column_stack([around[long], around[long + 1]])
    outer = np.array([[start_ns, times[0]], [times[-1], end_ns]], np.int64)
    outer = outer[np.diff(outer).ravel() > 0]
    return np.concatenate([inner, outer, series.unknown_ns]).astype(np.int64)


def _merged(spans: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the union of spans as spans that do not touch, in order."""
    if not len(spans):
        return spans
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    reach = np.maximum.accumulate(spans[:, 1])
    fresh = np.concatenate([[True], spans[1:, 0] > reach[:-1]])
    last = np.append(np.flatnonzero(fresh)[1:], len(spans)) - 1
    return np.column_stack([spans[fresh, 0], reach[last]])


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


def _edges_error_mj(series: RailPower, first_ns: int, last_ns: int, refresh_ns: int) -> float:
    """Return the bound on what the two edges of a covered window can be wrong by."""
    if series.parts:
        return sum(
            _edges_error_mj(part, first_ns, last_ns, refresh_ns)
            for part in series.parts
            if len(part.t_ns) > 1
        )
    if series.late_ns is not None:
        return _tick_error_mj(series, first_ns) + _tick_error_mj(series, last_ns)
    if refresh_ns:
        return sum(_held_error_mj(series, at, refresh_ns) for at in (first_ns, last_ns))
    left, right = np.searchsorted(series.t_ns, [first_ns, last_ns])
    if left == right and series.t_ns[left] != last_ns:
        # Both edges between the same two points: one piece, not two.
        return _piece_error_mj(series, first_ns, last_ns)
    from_ns = series.t_ns[right - 1] if series.t_ns[right] != last_ns else last_ns
    return _piece_error_mj(series, first_ns, int(series.t_ns[left])) + _piece_error_mj(
        series, int(from_ns), last_ns
    )


def _piece_error_mj(series: RailPower, start_ns: int, end_ns: int) -> float:
    """Return how far the energy of a piece between two points is from all low and from all high."""
    if end_ns <= start_ns:
        return 0.0
    right = int(np.searchsorted(series.t_ns, end_ns))
    before_ns, after_ns = int(series.t_ns[right - 1]), int(series.t_ns[right])
    step_mw = abs(float(series.power_mw[right] - series.power_mw[right - 1]))
    middle = (0.5 * (end_ns - start_ns) + (start_ns - before_ns)) / (after_ns - before_ns)
    return (end_ns - start_ns) * step_mw * max(middle, 1 - middle) * _MJ_PER_MW_NS


def _held_error_mj(series: RailPower, at_ns: int, refresh_ns: int) -> float:
    """Return the bound at an edge for readings that are up to a refresh old.

    What is read and what was drawn within a refresh and a reading's distance of the edge differ no
    more than the least and the largest reading do. A step that lies up to a refresh from the edge
    may show in a reading up to a refresh and a reading's distance later still: readings are looked
    at that far out.
    """
    times = series.t_ns
    right = int(np.clip(np.searchsorted(times, at_ns), 1, len(times) - 1))
    reach_ns = refresh_ns + int(times[right] - times[right - 1])
    far_ns = reach_ns + refresh_ns
    lower = max(0, int(np.searchsorted(times, at_ns - far_ns)) - 1)
    upper = int(np.searchsorted(times, at_ns + far_ns, side="right")) + 1
    return reach_ns * float(np.ptp(series.power_mw[lower:upper])) * _MJ_PER_MW_NS


def _tick_error_mj(series: RailPower, at_ns: int) -> float:
    """Return the bound at an edge within a counter's stretch.

    A counter never runs ahead: at least what the last tick showed has been used. At most what the
    next tick shows has; near the stretch's end, where that tick may have come unseen, at most what
    the one after it shows.
    """
    point = int(np.searchsorted(series.t_ns, at_ns, side="right")) - 1
    start = point - point % 2
    end_ns = int(series.t_ns[start + 1]) + 1
    share = min(1.0, (at_ns - int(series.t_ns[start])) / (end_ns - int(series.t_ns[start])))
    stretch_mj = _stretch_mj(series, start)
    above_mj = (1 - share) * stretch_mj
    late_ns = 0 if series.late_ns is None else int(series.late_ns[start + 1])
    if at_ns > end_ns - late_ns:
        following = start + 2
        if following < len(series.t_ns):
            above_mj += _stretch_mj(series, following)
        else:
            above_mj += float(series.power_mw[start]) * late_ns * _MJ_PER_MW_NS
    return max(share * stretch_mj, above_mj)


def _stretch_mj(series: RailPower, start: int) -> float:
    length_ns = int(series.t_ns[start + 1]) + 1 - int(series.t_ns[start])
    return float(series.power_mw[start]) * length_ns * _MJ_PER_MW_NS
