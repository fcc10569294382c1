"""Least squares and profile likelihood over the response of a rail. Numpy, scipy.

`calibration_response` says what the model is. Four parts are found over centre c = d + w / 2 + tau,
ln w, tau^2 and ln N: in these the problem stays regular where tau is 0 or N is 1, because a short
low-pass is a shift (taken by c) and a spread that grows with tau^2.

Intervals are by profile likelihood (the part is held, all others are fitted again), because delay,
window and low-pass make one response together, and the region they are left in is bent and cut off
at 0. The threshold is widened by how much the residuals of neighbouring values are alike or
greater where they matter (sandwich over blocks of time, `calibration_clock.clustered`), and where
the model fits worse than the data's noise explains: see `calibration_interval`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.calibration_clock import clustered
from edgejoule.energy.calibration_interval import NAMES, Interval, profile
from edgejoule.energy.calibration_response import NUISANCE, Answer, Response
from edgejoule.energy.calibration_solve import differences, solve

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats

_SUBSET = 2500
_STARTS = 3
_SAMPLES = (1.0, 4.0, 16.0, 64.0, 256.0)


@dataclass(frozen=True)
class ResponseFit:
    """What fits best, and what can be said of each part.

    Attributes:
        best: The set that fits best, taken together.
        intervals: Per name (`delay_ns`, `window_ns`, `tau_ns`, `samples`, `centre_ns`).
        correlations: Per pair of names, of the estimates.
        low: Level at load 0, mean over the data, and its half-width.
        high: Level at load 1, likewise.
        residual: Standard deviation of what is left, in the value's unit.
        noise: The same where the load was steady for long; None: it hardly ever was.
        values: How many shown values were used.
        outliers: How many were left out.
        likeness: How much wider the intervals were made because neighbours are alike.
    """

    best: Response
    intervals: dict[str, Interval]
    correlations: dict[tuple[str, str], float]
    low: tuple[float, float]
    high: tuple[float, float]
    residual: float
    noise: float | None
    values: int
    outliers: int
    likeness: float

    @property
    def swing(self) -> float:
        """By how much the value follows the load."""
        return abs(self.high[0] - self.low[0])

    @property
    def misfit(self) -> float:
        """What the noise does not explain of the residual, over the swing; 0: all is explained."""
        unexplained = self.residual**2 - (self.noise or 0.0) ** 2
        return math.sqrt(max(0.0, unexplained)) / max(self.swing, 1e-300)


def fit_response(answer: Answer, step: float = 0.0) -> ResponseFit:
    """Fit the response and an interval of each of its parts.

    Args:
        answer: The data of a rail.
        step: Of the values: noise is not below that of rounding, even where it is not seen.
    """
    starts = _coarse(answer)
    best = min((solve(answer, start) for start in starts), key=lambda found: found[1])[0]
    least = math.inf
    for _ in range(2):  # outliers and the clock's error are judged by a fit without them
        answer.settle(best)
        best, least = solve(answer, best)
    best, least = min(
        ((best, least), *(solve(answer, again) for again in _simpler(best))), key=lambda f: f[1]
    )
    likeness, correlations = _spread(answer, best)
    degrees = max(1, answer.count - answer.outliers - NUISANCE)
    left = math.sqrt(least / degrees)
    noise = answer.noise(best)
    if noise is not None:
        noise = max(noise, step / math.sqrt(12))
    excess = 1.0 if noise is None or noise <= 0 else max(1.0, left / noise)
    intervals = profile(answer, best, least, likeness, excess)
    window = best.window_ns
    neighbours = (
        replace(best, delay_ns=best.delay_ns + 1e-2 * window),
        replace(best, window_ns=1.01 * window),
        replace(best, tau_ns=best.tau_ns + 1e-2 * window),
        replace(best, samples=1.01 * best.samples),
    )
    low, high = answer.levels(best, neighbours)
    scale = math.sqrt(max(1e-12, 1 - answer.likeness**2))
    return ResponseFit(
        best,
        intervals,
        correlations,
        low,
        high,
        residual=left / scale,
        noise=None if noise is None else noise / scale,
        values=answer.count,
        outliers=answer.outliers,
        likeness=max(likeness.values()),
    )


def _simpler(best: Response) -> list[Response]:
    """Return starts with a part switched off: where it is 0, the way there is flat."""
    found = []
    if best.tau_ns > 0:
        found.append(replace(best, tau_ns=0.0, delay_ns=best.delay_ns + best.tau_ns))
    if best.samples > 1:
        found.append(replace(best, samples=1.0))
    return found


def _coarse(answer: Answer) -> list[Response]:
    """Return a few starts: the best of a grid over averaging, window and centre."""
    part = answer.first(_SUBSET)
    refresh = answer.refresh_ns
    scored: list[tuple[float, Response]] = []
    for samples in _SAMPLES:
        for window in (refresh / 6, 0.9 * refresh, 4 * refresh, max(10 * refresh, 1e9)):
            lags = np.arange(
                -0.5 * refresh, 4 * refresh + 0.5 * window, max(0.15 * refresh, window / 3)
            )
            for lag in lags:
                response = Response(float(lag), window, 0.0, samples)
                scored.append((float(np.sum(part.residual(response) ** 2)), response))
    scored.sort(key=lambda pair: pair[0])
    chosen: list[Response] = []
    for _, response in scored:
        if all((r.samples, r.window_ns) != (response.samples, response.window_ns) for r in chosen):
            chosen.append(response)
        if len(chosen) == _STARTS:
            break
    return chosen


def _spread(
    answer: Answer, best: Response
) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    """Return by how much neighbours' likeness widens each part, and how the parts hang together.

    In centre, ln window, tau^2 and ln N, then carried over to the parts themselves.
    """
    refresh = answer.refresh_ns
    window, tau = best.window_ns / refresh, best.tau_ns / refresh
    x = np.array([best.centre_ns / refresh, math.log(window), tau**2, math.log(best.samples)])
    steps = np.array([1e-3 * window, 2e-3, 4e-4 * window**2, 2e-3])

    def residual(x: Floats) -> Floats:
        t = math.sqrt(max(0.0, x[2]))
        w = math.exp(x[1])
        n = math.exp(max(0.0, x[3]))
        return answer.residual(Response((x[0] - w / 2 - t) * refresh, w * refresh, t * refresh, n))

    x[2:] += 2 * steps[2:] * (x[2:] < steps[2:])  # a little inside, where slopes are two-sided
    slopes = -differences(residual, x, steps, np.full(4, np.inf))
    left = residual(x)
    inverse = np.linalg.pinv(slopes.T @ slopes)
    plain = inverse * float(left @ left) / max(1, len(left) - 4)
    robust = clustered(slopes, left)
    t = max(math.sqrt(x[2]), 0.05 * window)
    # Rows: delay, window, tau, samples, centre over the four coordinates.
    carry = np.array(
        [
            [1, -window / 2, -0.5 / t, 0],
            [0, window, 0, 0],
            [0, 0, 0.5 / t, 0],
            [0, 0, 0, best.samples],
            [1, 0, 0, 0],
        ]
    )
    plain, robust = carry @ plain @ carry.T, carry @ robust @ carry.T
    wider = {
        name: float(np.clip(robust[k, k] / max(plain[k, k], 1e-300), 1.0, 1e6))
        for k, name in enumerate(NAMES)
    }
    scale = np.sqrt(np.maximum(np.diag(robust), 1e-300))
    together = robust / np.outer(scale, scale)
    pairs = {(NAMES[a], NAMES[b]): float(together[a, b]) for a in range(4) for b in range(a + 1, 4)}
    return wider, pairs
