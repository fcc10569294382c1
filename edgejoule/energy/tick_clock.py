"""When an energy counter ticked, where its ticks are regular. Numpy.

    counter   |        |        |        |        |     every 100 ms on an H200, strictly
    reads      .   .   .   .   .   .   .   .   .   .    a tick shows up to one read's distance late

A counter that is read twice per tick stamps each tick late by up to half of it: over a second that
is several per cent of power. But its ticks are numbered (none is missed), and a driver's timer is
far steadier than that: the power between two ticks is the counter's rise over their number times
the period. Where the ticks are not regular, or as many as the reads, the stamps stay as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.trace import RailPower

if TYPE_CHECKING:
    import numpy.typing as npt

FEWEST_TICKS = 20
# A tick seen at once is stamped with its own read: nothing is to be gained.
_LATE_SHARE = 0.75
_REGULAR_SHARE = 0.95
_TOLERANCE = 0.05  # of the period, beyond what the reads allow
_ROUNDS = 2
_NEIGHBOURS = 24  # ticks on either side that say how many passed while nothing was read
_STRAYS = 0.01
_PROJECTIONS = 300


def regular_ticks(series: RailPower) -> RailPower:
    """Return a counter's series with its ticks where a steady clock puts them.

    Args:
        series: Power of one counter (`late_ns` is set); anything else is returned as it is.

    Returns:
        The series with the same energy in every stretch, or the one given where its ticks are too
        few, not regular, or faster than the reads.
    """
    if series.late_ns is None or len(series.t_ns) < 2 * FEWEST_TICKS:
        return series
    stamps = np.column_stack([series.t_ns[::2], series.t_ns[1::2] + 1]).ravel()
    ticks, places = np.unique(stamps, return_inverse=True)
    late = np.zeros(len(ticks), np.int64)
    late[places] = series.late_ns
    found = _on_a_clock(ticks, late)
    if found is None:
        return series
    moved, unknown_ns = found
    at = moved[places].reshape(-1, 2)
    old_s = np.diff(stamps.reshape(-1, 2)).ravel().astype(np.float64)
    new_s = np.diff(at).ravel().astype(np.float64)
    power = series.power_mw[::2] * old_s / new_s
    at[:, 1] -= 1
    return replace(
        series,
        t_ns=at.ravel(),
        power_mw=np.repeat(power, 2),
        unknown_ns=np.interp(series.unknown_ns, ticks, moved).astype(np.int64),
        late_ns=np.full(len(series.t_ns), unknown_ns),
    )


def _on_a_clock(
    ticks: npt.NDArray[np.int64], late: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], int] | None:
    """Return when each tick was at the latest by a steady clock, and by how much earlier it may be.

    None: they are not regular.
    """
    steps = np.diff(ticks).astype(np.float64)
    usual = float(np.median(steps))
    if np.median(late) > _LATE_SHARE * usual:
        return None
    near = steps[(steps > 0.4 * usual) & (steps < 1.6 * usual)]
    if len(near) < FEWEST_TICKS - 1:
        return None
    period = float(near.mean())
    shown = (ticks - ticks[0]).astype(np.float64)
    # A read that took long is stamped in its middle and may show what came after that.
    slow = late - np.median(late).astype(np.int64)
    ahead = np.where((slow > 0) & (slow < period), slow, 0)
    for _ in range(_ROUNDS):
        # After a rest of the reads the counter shows its last tick: at most one period ago.
        low, high = shown - np.minimum(late, period), shown + ahead
        number = _numbers(low, high, late + ahead, period)
        line = _within(number, low, high)
        if not 0.5 * usual < line[1] < 1.5 * usual:
            return None
        period = float(line[1])
    fitted = line[0] + line[1] * number
    regular = (fitted >= low - _TOLERANCE * period) & (fitted <= high + _TOLERANCE * period)
    if np.mean(regular) < _REGULAR_SHARE:
        return None
    # Every read bounds the phase: a tick is not after the read that shows it, and after the one
    # before. A few strays (a read that took long) do not count.
    latest = float(np.quantile(high - period * number, _STRAYS))
    earliest = float(np.quantile(low - period * number, 1 - _STRAYS))
    if latest < earliest:
        latest = earliest = 0.5 * (latest + earliest)
    moved: npt.NDArray[np.int64] = ticks[0] + np.rint(latest + period * number).astype(np.int64)
    return moved, int(latest - earliest)


def _numbers(
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    within: npt.NDArray[np.int64],
    period: float,
) -> npt.NDArray[np.float64]:
    """Number the ticks, float64 (n,), from 0.

    Every change is a tick, and the read before it saw the one before: where the reads are closer
    than the ticks it is the next one, however late it was seen. (By the distance of the stamps it
    would not always be: reads that are twice as often as ticks slip against them, and then a step
    is half a period or one and a half.) Only where nothing was read for a period may ticks be
    missing; how many, the neighbours on both sides say.

    Args:
        low: float64 (n,), ns, each tick was not before.
        high: float64 (n,), nor after.
        within: int64 (n,), for how long the counter had not been seen.
        period: Between ticks.
    """
    most = np.floor(within[1:] / period + _TOLERANCE)
    unsure = np.flatnonzero(most > 0)
    ends = np.append(unsure, len(low) - 1)[1:]
    number = np.arange(len(low), dtype=np.float64)
    for place, end in zip(unsure.tolist(), ends.tolist(), strict=True):
        before = slice(max(0, place + 1 - _NEIGHBOURS), place + 1)
        after = slice(place + 1, min(end + 1, place + 1 + _NEIGHBOURS))
        phases = [
            0.5 * float(np.max(low[side] - period * number[side]))
            + 0.5 * float(np.min(high[side] - period * number[side]))
            for side in (before, after)
        ]
        missed = min(round((phases[1] - phases[0]) / period), int(most[place]))
        number[place + 1 :] += max(0, missed)
    return number


def _within(
    number: npt.NDArray[np.float64], low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return begin and slope of a line that lies between two bounds, as nearly as it can.

    Where in a read's distance a tick falls drifts like a saw's teeth, slowly: least squares through
    the middles would follow it. Only what lies outside of the bounds pulls here (projections in
    turn on the bounds and on all lines).
    """
    centre = number - number.mean()
    pull = centre / float(centre @ centre)
    target = 0.5 * (low + high)
    line = np.zeros(2)
    for _ in range(_PROJECTIONS):
        slope = float(pull @ target)
        line = np.array([float(target.mean()) - slope * float(number.mean()), slope])
        fitted = line[0] + slope * number
        target = np.clip(fitted, low, high)
        if np.array_equal(target, fitted):
            break
    return line
