"""When a sensor renews its value: its period and phase, from when polled values change. Numpy.

    reads     |   |     |  |    |   |  |     |   |     |
    value     5   5     9  9    9   9  7     7   7     7
    refresh       x          x           x          x         (two of the four change the value)
    known       [-----]            [-----]                    a change lies between two reads

Polls are irregular, changes are missed where neighbours are equal (steps, chip averaging), some
come late. So nothing is concluded from the gaps between changes: the period is the lowest
frequency at which all change times agree in phase (a periodogram of their moments), then a line,
or a parabola where the sensor's clock drifts, is fitted to the moments over their numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.calibration_rhythm import COHERENT, Rhythm, count_refreshes, find_rhythm
from edgejoule.energy.statistics import t95

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats

BLOCKS = 40
_FEWEST_CHANGES = 30
_SIGNIFICANT = 4.0  # in standard errors: below it a clock is taken as steady
_BETTER = 8.0  # log-likelihood by which a wandering clock must explain the changes better


@dataclass(frozen=True)
class ClockFit:
    """The sensor's rhythm: value number n is shown at about `shown(n)`.

    Attributes:
        origin_ns: Times below count from here (CLOCK_MONOTONIC).
        refresh_ns: Mean period over the data.
        refresh_half_ns: Half-width of its 95 % interval.
        phase_ns: When value 0 is shown, from the origin; number 0 is in the middle of the data.
        phase_half_ns: Half-width of its 95 % interval; the same for any value in mid-data.
        age_half_ns: How well the shown times are known in the mean over the data, likewise.
        drift_per_s: Relative change of the period per second.
        drift_half: Half-width of its 95 % interval.
        jitter_ns: How far single refreshes lie from the fit, beyond what the polls blur.
        wander_ns: Largest correction of `shown` for slow wander of the clock, 0: none was needed.
        coherence: Share of the change times that agrees in phase, 0..1.
        changes: How many changes were used.
        strays: How many were left out, as they lie on no refresh: of a reader or a sensor that came
            late, or of neither's making.
        read_ns: Median duration of a read: within it nobody knows when the value was taken.
        reads_per_refresh: How many reads there were per refresh, in the median.
    """

    origin_ns: int
    refresh_ns: float
    refresh_half_ns: float
    phase_ns: float
    phase_half_ns: float
    age_half_ns: float
    drift_per_s: float
    drift_half: float
    jitter_ns: float
    wander_ns: float
    coherence: float
    changes: int
    strays: int
    read_ns: float
    reads_per_refresh: float
    _coefficients: tuple[float, float, float]
    _knots: Floats
    _corrections: Floats

    def shown(self, number: Floats) -> Floats:
        """Return when values are shown, ns from the origin, float64."""
        phase, period, bend = self._coefficients
        result: Floats = phase + number * (period + number * bend)
        return result + np.interp(number, self._knots, self._corrections)

    def number(self, at_ns: Floats) -> Floats:
        """Return which value is shown at times, with the part of its refresh that has passed."""
        phase, period, bend = self._coefficients
        number = (at_ns - phase) / period
        for _ in range(4):  # drift and wander are small: this closes in at once
            number = number - (self.shown(number) - at_ns) / (period + 2 * bend * number)
        return number


@dataclass(frozen=True)
class NoClock:
    """The rhythm cannot be known from these reads, and why."""

    why: str


def fit_clock(t0_ns: np.ndarray, t1_ns: np.ndarray, values: np.ndarray) -> ClockFit | NoClock:
    """Find a channel's refresh from polled values.

    Args:
        t0_ns: int64 (n,), increasing, before each read.
        t1_ns: int64 (n,), after each read.
        values: (n,), as read.

    Returns:
        The rhythm, or why it cannot be known.
    """
    changed = np.flatnonzero(np.diff(values) != 0)
    if len(changed) < _FEWEST_CHANGES:
        return NoClock(
            f"the value changed {len(changed)} times, at least {_FEWEST_CHANGES} are needed"
        )
    origin_ns = int(t0_ns[0])
    early = (t0_ns[changed] - origin_ns).astype(np.float64)
    late = (t1_ns[changed + 1] - origin_ns).astype(np.float64)
    spacing = float(np.median(np.diff(t0_ns)))
    kept = late - early < 6 * spacing  # what changed within a gap tells nothing
    middle, width = 0.5 * (early + late)[kept], (late - early)[kept]
    if len(middle) < _FEWEST_CHANGES:
        return NoClock("the reads have too many gaps")
    rhythm = find_rhythm(middle, width, spacing)
    if rhythm is None:
        return NoClock("the value changed at too few different times")
    coherence = rhythm.coherence
    if coherence < COHERENT:
        share = len(changed) / max(1, len(values) - 1)
        return NoClock(
            f"no period fits the changes (at best {coherence:.0%} agree; reads {spacing * 1e-6:.3g}"
            f" ms apart, {share:.0%} of them show a change): the sensor may renew its value faster "
            "than the reads come"
        )
    return _refine(middle, width, rhythm, t0_ns, t1_ns, origin_ns)


def _refine(
    middle: Floats,
    width: Floats,
    rhythm: Rhythm,
    t0_ns: np.ndarray,
    t1_ns: np.ndarray,
    origin_ns: int,
) -> ClockFit:
    number = count_refreshes(middle, rhythm.frequency)
    kept = np.ones(len(middle), bool)
    coefficients = np.zeros(3)
    residual = middle
    for _ in range(4):
        coefficients = _fit(number[kept], middle[kept], 2)
        residual = middle - _curve(coefficients, number)
        spread = max(1.4826 * float(np.median(np.abs(residual))), float(np.median(width)) / 12)
        kept = np.abs(residual) < 5 * spread  # a sensor or a reader that came late
    # Number 0 in the middle: period and phase are independent there.
    number = number - np.rint(float(np.mean(number[kept])))
    coefficients, covariance = _fit_with_errors(number[kept], middle[kept], 2)
    if abs(coefficients[2]) < _SIGNIFICANT * covariance[2, 2] ** 0.5:
        steady, steady_covariance = _fit_with_errors(number[kept], middle[kept], 1)
        bend_error = float(covariance[2, 2] ** 0.5)
        bend = float(coefficients[2])
        coefficients = np.append(steady, 0.0)
        covariance[:2, :2] = steady_covariance
    else:
        bend, bend_error = float(coefficients[2]), float(covariance[2, 2] ** 0.5)
    residual = (middle - _curve(coefficients, number))[kept]
    blur = width[kept] ** 2 / 12
    # No two changes in one refresh, nor a number that goes back: of such the first counts.
    highest = np.maximum.accumulate(number[kept])
    single = np.diff(highest, prepend=highest[0] - 1) > 0
    knots, corrections, variances = _wander(number[kept][single], residual[single], blur[single])
    left = residual - np.interp(number[kept], knots, corrections)
    wanders = len(knots) > 1
    # The mean error of all shown times: that of their changes, which polls blur one by one.
    age_error = math.sqrt(float(np.mean(blur)) / len(blur))
    at_zero = float(np.interp(0.0, knots, corrections))
    phase_error = math.sqrt(
        float(np.interp(0.0, knots, variances)) + float(covariance[0, 0]) * (not wanders)
    )
    t = t95(BLOCKS - 3)
    period = float(coefficients[1])
    # Numbers are refreshes: the period changes by 2 bend per refresh of `period` ns.
    per_s = 2.0 / period**2 * 1e9
    return ClockFit(
        origin_ns,
        refresh_ns=period,
        refresh_half_ns=t * float(covariance[1, 1]) ** 0.5,
        phase_ns=float(coefficients[0]) + at_zero,
        phase_half_ns=t * phase_error,
        age_half_ns=t * (age_error if wanders else phase_error),
        drift_per_s=bend * per_s,
        drift_half=float(t * bend_error * per_s),
        jitter_ns=max(0.0, float(np.var(left) - np.mean(blur))) ** 0.5,
        wander_ns=float(np.max(np.abs(corrections))),
        coherence=rhythm.coherence,
        changes=int(np.sum(kept)),
        strays=int(np.sum(~kept)),
        read_ns=float(np.median(t1_ns - t0_ns)),
        reads_per_refresh=period / float(np.median(np.diff(t0_ns))),
        _coefficients=(float(coefficients[0]), period, float(coefficients[2])),
        _knots=knots,
        _corrections=corrections,
    )


def _curve(coefficients: Floats, number: Floats) -> Floats:
    result: Floats = coefficients[0] + number * (coefficients[1] + number * coefficients[2])
    return result


def _fit(number: Floats, middle: Floats, degree: int) -> Floats:
    return _solve(number, middle, degree)[0]


def _solve(number: Floats, middle: Floats, degree: int) -> tuple[Floats, Floats, Floats]:
    """Return coefficients, the scaled design and the scales."""
    scale = max(1.0, float(np.max(np.abs(number))))
    scales: Floats = np.asarray(scale ** np.arange(degree + 1), np.float64)
    design = np.vander(number / scale, degree + 1, increasing=True)
    solution = np.linalg.lstsq(design, middle, rcond=None)[0] / scales
    coefficients = np.zeros(3)
    coefficients[: degree + 1] = solution
    return coefficients, design, scales


def _fit_with_errors(number: Floats, middle: Floats, degree: int) -> tuple[Floats, Floats]:
    """Return coefficients and their covariance; neighbours in time may be alike, blocks are not."""
    coefficients, design, scales = _solve(number, middle, degree)
    residual = middle - _curve(coefficients, number)
    robust = clustered(design, residual)
    # Never less than for independent errors: the blocks' own scatter may be small by chance.
    plain = np.linalg.pinv(design.T @ design) * float(np.var(residual, ddof=degree + 1))
    wider = np.sqrt(np.maximum(1.0, np.diag(plain) / np.maximum(np.diag(robust), 1e-300)))
    covariance = robust * np.outer(wider, wider) / np.outer(scales, scales)
    return coefficients[: degree + 1], covariance


def clustered(design: Floats, residual: Floats, blocks: int = BLOCKS) -> Floats:
    """Return the covariance of least-squares coefficients with errors alike within blocks of time.

    The sandwich estimator over consecutive blocks (Liang and Zeger, Biometrika 73, 1986), with the
    usual factor for few blocks.
    """
    count = min(blocks, len(residual))
    width = design.shape[1]
    starts = np.arange(count) * len(residual) // count
    scores = np.add.reduceat(design * residual[:, None], starts, axis=0)
    inverse = np.linalg.pinv(design.T @ design)
    factor = count / max(1, count - width)
    result: Floats = factor * (inverse @ (scores.T @ scores) @ inverse)
    return result


def _wander(number: Floats, residual: Floats, blur: Floats) -> tuple[Floats, Floats, Floats]:
    """Follow a clock that wanders: a random walk seen through polls, smoothed.

    What Kalman's filter and the smoother of Rauch, Tung and Striebel (AIAA Journal 3, 1965) give,
    the walk's size by maximum likelihood; none where a steady clock explains the changes about as
    well.

    Args:
        number: Of each change.
        residual: What a steady clock leaves, ns.
        blur: Variance of each from the polls, ns^2.

    Returns:
        Numbers, corrections and their variances; one of 0 if none is needed.
    """
    none = np.zeros(1), np.zeros(1), np.zeros(1)
    if len(number) < 2 * _FEWEST_CHANGES // 3:
        return none
    typical = float(np.mean(blur))
    walks = typical * np.geomspace(1e-5, 10, 13)
    first = 1.0 / (1e6 * float(np.max(blur)))  # precision of where it begins: hardly any
    likelihoods = [_followed(number, residual, blur, first, walk)[0] for walk in walks.tolist()]
    best = int(np.argmax(likelihoods))
    if likelihoods[best] < _stood_still(residual, blur, first) + _BETTER:
        return none
    _, states, pivots, curve = _followed(number, residual, blur, first, float(walks[best]))
    # The diagonal of a tridiagonal inverse: from the pivots of both ways through it.
    diagonal, beside = curve
    back = _pivots(diagonal[::-1], beside[::-1])[0][::-1]
    return number, states, 1.0 / (pivots + back - diagonal)


def _followed(
    number: Floats, residual: Floats, blur: Floats, first: float, walk: float
) -> tuple[float, Floats, Floats, tuple[Floats, Floats]]:
    """Return the log-likelihood of a walk, the states most likely under it, and what gives errors.

    What a filter forward in time and a smoother back give, as one set of equations: the inverse
    covariance of the states is tridiagonal. Its pivots and itself (diagonal, beside it) come last.
    """
    from scipy.linalg.lapack import dpttrs

    steps = 1.0 / (walk * np.diff(number))
    diagonal = 1.0 / blur
    diagonal[0] += first
    diagonal[:-1] += steps
    diagonal[1:] += steps
    pivots, factors = _pivots(diagonal, -steps)
    told = residual / blur
    states = dpttrs(pivots, factors, told)[0]
    spread = np.log(blur).sum() + np.log(pivots).sum() - np.log(steps).sum() - math.log(first)
    likelihood = -0.5 * float(spread + told @ residual - told @ states)
    return likelihood, states, pivots, (diagonal, -steps)


def _stood_still(residual: Floats, blur: Floats, first: float) -> float:
    """Return the log-likelihood of a clock that does not wander."""
    weight = first + float(np.sum(1.0 / blur))
    told = residual / blur
    spread = float(np.log(blur).sum()) + math.log(weight) - math.log(first)
    return -0.5 * (spread + float(told @ residual) - float(told.sum()) ** 2 / weight)


def _pivots(diagonal: Floats, beside: Floats) -> tuple[Floats, Floats]:
    """Return the pivots and factors of a tridiagonal matrix (L D L')."""
    from scipy.linalg.lapack import dpttrf

    pivots, factors, _ = dpttrf(diagonal, beside)
    return pivots, factors
