"""Power from a current that is read often and a voltage that is read seldom. Numpy.

    true     P = I V(I),   V(I) = V0 - r I      a supply gives way where more is drawn
    as read  I x the voltage read nearest       which is of another moment, and in steps

A current is a mean over a window of its own; the voltage paired with it is of a window milliseconds
away, in which other layers ran. Its mean is right, and that it falls while a layer draws much is
lost: layers of high power come out too high and those of low power too low, by r times what their
current differs from the mean, over V. With 20 milliohms at 5 V and 0.75 A that is 0.3 %, in one
direction, however long one measures. So the voltage is taken as a slow level less r times the
current itself.

`r` shows between times of little load, around the pass, and the pass: a mean over many windows is
right for both. Pairs of readings within the pass show it too small, being of different moments.
Where nothing around the pass tells, how much the voltage varies at all bounds it: currents and
voltages are means over windows of one length, so the voltage's spread is at least r times the
current's. Half of that bound is taken then, and the interval is from none to all of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.statistics import block_means, block_starts, half_width_of, t95

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.energy.timeline import ChannelReads

    Floats = npt.NDArray[np.float64]

_LEVELS = 20  # of the voltage over the pass
_PIECE_NS = 25_000_000.0  # of the time around it, some refreshes long
_FEWEST = 4  # readings in a piece
_APART = 0.1  # by what share a piece's power differs from the pass's to say anything
_SPREADS = 1.1  # two spreads of one pass differ by chance
_AROUND_NS = 2_000_000_000


@dataclass(frozen=True)
class Supply:
    """How the supply of a rail gives way.

    Attributes:
        per_mw: Relative fall of the voltage per mW more of power, 0: taken as none.
        half_width: Of its 95 % interval.
        mean_mw: Mean power of the pass, about which it is counted.
    """

    per_mw: float
    half_width: float
    mean_mw: float

    def moved(self, power_mw: Floats) -> Floats:
        """Return by how much powers move with the half-width: what the interval must hold."""
        result: Floats = self.half_width * power_mw * (power_mw - self.mean_mw)
        return result


def with_supply(
    reads: ChannelReads, start_ns: int, end_ns: int
) -> tuple[ChannelReads, Supply | None]:
    """Return reads whose power counts each current at its own voltage.

    Args:
        reads: Current times the voltage read nearest, also from around the pass.
        start_ns: Begin of the pass.
        end_ns: Its end.

    Returns:
        The reads, and what was found; None, and the reads unchanged, where the reading is the power
        itself.
    """
    counts = reads.raw.astype(np.float64)
    known = counts != 0
    if not np.any(known):
        return reads, None
    per_count = np.interp(
        np.arange(len(counts)), np.flatnonzero(known), reads.power_mw[known] / counts[known]
    )
    middle = 0.5 * (reads.t0_ns - start_ns) + 0.5 * (reads.t1_ns - start_ns)
    length = float(end_ns - start_ns)
    inside = (middle >= 0) & (middle <= length)
    mean = float(per_count[inside].mean()) if np.any(inside) else 0.0
    if not mean or float(np.ptp(per_count)) < 1e-9 * abs(mean):
        return reads, None
    level, flat_mw = per_count / mean, counts * mean
    mean_mw = float(flat_mw[inside].mean())
    slope, half = _fall(level, flat_mw, middle, inside, length)
    undone = level + slope * (flat_mw - mean_mw)
    slow = _slow(undone, middle, inside)
    power_mw = flat_mw * (slow - slope * (flat_mw - mean_mw))
    return replace(reads, power_mw=power_mw), Supply(slope, half, mean_mw)


def _fall(
    level: Floats,
    power_mw: Floats,
    middle: Floats,
    inside: npt.NDArray[np.bool_],
    length: float,
) -> tuple[float, float]:
    """Return the relative fall of the voltage per mW and its half-width."""
    near = ~inside & (middle > -_AROUND_NS) & (middle < length + _AROUND_NS)
    mean_mw = float(power_mw[inside].mean())
    steps = np.diff(np.unique(level))
    steps = steps[steps > 1e-6]
    step = float(steps.min()) if len(steps) else 0.0
    spread_mw = float(np.std(power_mw[inside]))
    beyond = max(0.0, float(np.var(level[inside])) - step**2 / 12.0)
    most = _SPREADS * math.sqrt(beyond) / spread_mw if spread_mw else 0.0
    pieces = []
    for side in (middle < 0, middle > length):
        at = np.flatnonzero(near & side)
        if len(at) < _FEWEST:
            continue
        piece = np.floor((middle[at] - middle[at[0]]) / _PIECE_NS)
        for number in np.unique(piece):
            chosen = at[piece == number]
            away = mean_mw - float(power_mw[chosen].mean())
            if len(chosen) >= _FEWEST and abs(away) > _APART * mean_mw:
                pieces.append((float(level[chosen].mean()) - 1.0, away))
    if not pieces:
        return 0.5 * most, 0.5 * most
    up, away = np.array(pieces).T
    weight = float(away @ away)
    slope = max(0.0, float(up @ away) / weight)
    # Of one power always the same step is read: rounding does not average out there.
    rounding = step / math.sqrt(12.0) * 1.96 * float(np.abs(away).sum()) / weight
    rest = up - slope * away
    scatter = 0.0
    if len(up) > 2:
        error = math.sqrt(float(rest @ rest) / (len(up) - 1) / weight)
        scatter = t95(len(up) - 1) * error
    within = half_width_of(block_means(level[inside], _LEVELS)) or 0.0
    half = math.hypot(rounding, scatter, within * float(np.abs(away).sum()) / weight)
    return (slope, half) if half < 0.5 * most else (0.5 * most, 0.5 * most)


def _slow(level: Floats, middle: Floats, inside: npt.NDArray[np.bool_]) -> Floats:
    """Return the level of the voltage without what the load makes of it, slowly changing."""
    at, value = middle[inside], level[inside]
    count = min(_LEVELS, max(1, len(value) // 50))
    starts = block_starts(len(value), count)
    sizes = np.diff(np.append(starts, len(value)))
    times = np.add.reduceat(at, starts) / sizes
    return np.interp(middle, times, np.add.reduceat(value, starts) / sizes)
