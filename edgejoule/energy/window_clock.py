"""When each value of a channel appeared, to microseconds, from reads milliseconds apart. Numpy.

    reads   | old |      | old |   | new |          | new |
    known                     [------]   the refresh lies between these two

A least-squares line through the middles of such brackets (`calibration_clock`) is off where reads
keep step with the sensor for a while: then all brackets lie alike about the refresh. The brackets
themselves are never wrong. Each read says only that the refresh was before it or after; that is a
likelihood, steep at the read's moment, and its product over a hundred refreshes leaves some ten
microseconds, as the narrowest margins decide. The clock is a line and a correction that wanders as
a random walk; how much, and how blurred a read's moment is, the likelihood decides as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgejoule.energy.calibration_clock import ClockFit
    from edgejoule.energy.sensor_model import Floats

_PER_KNOT = 80  # refreshes
_MOST_KNOTS = 400
_WALKS_NS = (30.0, 100.0, 300.0, 1000.0, 3000.0)  # per refresh
_BLURS_NS = (5e3, 20e3, 80e3, 300e3)
_ROUNDS = 40
_LOOSE = 1e-6  # so that a clock without any change has a solution
_MARGIN = 0.02  # of a refresh: a read as near to it is nobody's


@dataclass(frozen=True)
class LocalClock:
    """When values appear, ns from the origin of the clock it came from.

    Attributes:
        rough: What it corrects.
        knots: Refresh numbers.
        corrections: ns, at the knots.
        error_ns: Standard deviation of the correction, in the middle of the data.
        blur_ns: How blurred the moment of a read is.
        walk_ns: Wander per refresh.
    """

    rough: ClockFit
    line: tuple[float, float]
    knots: Floats
    corrections: Floats
    error_ns: float
    blur_ns: float
    walk_ns: float

    def shown(self, number: Floats) -> Floats:
        """Return when values of these numbers appear."""
        result: Floats = self.line[0] + number * self.line[1]
        return result + np.interp(number, self.knots, self.corrections)

    def number(self, at_ns: Floats) -> Floats:
        """Return which value is shown at times, with the part of its refresh that has passed."""
        number = (at_ns - self.line[0]) / self.line[1]
        for _ in range(4):
            number = number - (self.shown(number) - at_ns) / self.line[1]
        return number


def follow(rough: ClockFit, t0_ns: np.ndarray, t1_ns: np.ndarray, values: np.ndarray) -> LocalClock:
    """Follow a channel's clock.

    Args:
        rough: Its rhythm.
        t0_ns: int64 (n,), before each read.
        t1_ns: int64 (n,), after.
        values: (n,), as read.
    """
    moment = (t0_ns - rough.origin_ns).astype(np.float64) + 0.5 * (t1_ns - t0_ns)
    changed = np.flatnonzero(np.diff(values) != 0)
    early, late = moment[changed], moment[changed + 1]
    near = late - early < 0.9 * rough.refresh_ns
    early, late = early[near], late[near]
    number = np.rint(rough.number(0.5 * (early + late)))
    line = np.polyfit(number, 0.5 * (early + late), 1)
    base = (float(line[1]), float(line[0]))
    straight = base[0] + number * base[1]
    low, high = early - straight, late - straight
    # Numbers were rounded on the rough clock: what lies whole refreshes off is nobody's.
    inside = (low < 0.5 * base[1]) & (high > -0.5 * base[1])
    number, low, high = number[inside], low[inside], high[inside]
    span = float(number[-1] - number[0])
    count = int(min(_MOST_KNOTS, max(3, span / _PER_KNOT + 1)))
    knots = np.linspace(float(number[0]), float(number[-1]), count)
    # A line first, then what wanders about it.
    _, state, _ = _climb(number, low, high, knots, np.zeros(count), _BLURS_NS[-1], _WALKS_NS[-1])
    slope, offset = np.polyfit(knots, state, 1)
    base = (base[0] + float(offset), base[1] + float(slope))
    shift = offset + slope * number
    low, high, state = low - shift, high - shift, np.zeros(count)
    best: tuple[float, Floats, float, float, float] | None = None
    for blur in reversed(_BLURS_NS):
        for walk in _WALKS_NS:
            evidence, state, error = _climb(number, low, high, knots, state, blur, walk)
            if best is None or evidence > best[0]:
                best = (evidence, state, error, blur, walk)
        state = best[1] if best is not None else state
    if best is None:  # pragma: no cover (there is always one)
        raise AssertionError
    return LocalClock(rough, base, knots, best[1], best[2], best[3], best[4])


def _climb(
    number: Floats,
    low: Floats,
    high: Floats,
    knots: Floats,
    start: Floats,
    blur: float,
    walk: float,
) -> tuple[float, Floats, float]:
    """Return the evidence (Laplace), the most likely correction and its error in the middle.

    The logarithm is concave: Newton's method with a shorter step where one goes too far. All
    matrices are of one off-diagonal, kept as two rows: the upper one from its second entry on.
    """
    from scipy.linalg import cholesky_banded, solveh_banded

    count = len(knots)
    spacing = (knots[-1] - knots[0]) / (count - 1)
    left = np.clip(((number - knots[0]) / spacing).astype(np.int64), 0, count - 2)
    share = (number - knots[left]) / spacing
    weight = 1.0 / (walk**2 * spacing)
    stiff = np.zeros((2, count))
    stiff[1] = 2 * weight
    stiff[1, [0, -1]] = weight
    stiff[0, 1:] = -weight
    stiff[1] += _LOOSE / blur**2

    def likelihood(state: Floats) -> float:
        at = state[left] * (1 - share) + state[left + 1] * share
        against = _softplus((low - at) / blur, (at - high) / blur)
        return -against - 0.5 * float(weight * np.sum(np.diff(state) ** 2))

    state, reached = start.copy(), likelihood(start)
    curve = stiff
    for _ in range(_ROUNDS):
        at = state[left] * (1 - share) + state[left + 1] * share
        before, after = _sigmoid((low - at) / blur), _sigmoid((at - high) / blur)
        push = (before - after) / blur
        bend = (before * (1 - before) + after * (1 - after)) / blur**2
        gradient = np.bincount(left, push * (1 - share), count)
        gradient += np.bincount(left + 1, push * share, count)
        steps = weight * np.diff(state)
        gradient[:-1] += steps
        gradient[1:] -= steps
        curve = stiff.copy()
        curve[1] += np.bincount(left, bend * (1 - share) ** 2, count)
        curve[1] += np.bincount(left + 1, bend * share**2, count)
        curve[0, 1:] += np.bincount(left, bend * share * (1 - share), count)[: count - 1]
        move = solveh_banded(curve, gradient)
        size, better = 1.0, -math.inf
        while size > 1e-3:
            better = likelihood(state + size * move)
            if better > reached:
                break
            size *= 0.5
        if better <= reached + 1e-2:
            break
        state, reached = state + size * move, better
    middle = np.zeros(count)
    middle[count // 2] = 1.0
    spread = float(solveh_banded(curve, middle)[count // 2]) ** 0.5
    halves = [float(np.sum(np.log(cholesky_banded(matrix)[1]))) for matrix in (curve, stiff)]
    return reached - halves[0] + halves[1], state, spread


def _softplus(first: Floats, second: Floats) -> float:
    """Return the sum of log(1 + e^x) over both, one logarithm for each pair."""
    both = (1.0 + np.exp(-np.abs(first))) * (1.0 + np.exp(-np.abs(second)))
    return float(np.sum(np.maximum(first, 0.0) + np.maximum(second, 0.0) + np.log(both)))


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result


def shown_values(
    clock: LocalClock, t0_ns: np.ndarray, t1_ns: np.ndarray, values: Floats, raw: np.ndarray
) -> tuple[Floats, Floats]:
    """Return every value that the sensor showed: when, and what (nan where nobody knows).

    A refresh whose reads contradict each other is nobody's.

    Args:
        clock: The channel's clock.
        t0_ns: int64 (n,), before each read.
        t1_ns: int64 (n,), after.
        values: float64 (n,), what it means.
        raw: (n,), as read: what contradicts is told by this.

    Returns:
        float64 (m,) ns from the clock's origin, and float64 (m,), no refresh left out in between.
    """
    origin = clock.rough.origin_ns
    moment = (t0_ns - origin).astype(np.float64) + 0.5 * (t1_ns - t0_ns)
    at = clock.number(moment)
    number = np.floor(at)
    margin = _MARGIN + 2.0 * clock.blur_ns / clock.line[1]
    passed = at - number
    safe = np.flatnonzero((passed > margin) & (passed < 1.0 - margin))
    if not len(safe):
        return np.empty(0), np.empty(0)
    present, first, which = np.unique(number[safe], return_index=True, return_inverse=True)
    differs = np.bincount(which, raw[safe] != raw[safe[first]][which], len(present))
    sums = np.bincount(which, values[safe]) / np.bincount(which)
    everyone = np.arange(present[0], present[-1] + 1)
    result = np.full(len(everyone), math.nan)
    good = differs == 0
    result[(present[good] - present[0]).astype(np.int64)] = sums[good]
    return clock.shown(everyone), result
