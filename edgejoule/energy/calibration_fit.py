"""Least squares and profile likelihood over the response of a rail. Numpy, scipy.

`calibration_response` says what the model is. Four parts are found over centre c = d + w / 2 + tau,
ln w, tau^2 and ln N: in these the problem stays regular where tau is 0 or N is 1, because a short
low-pass is a shift (taken by c) and a spread that grows with tau^2.

Intervals are by profile likelihood (the part is held, all others are fitted again), because delay,
window and low-pass make one response together, and the region they are left in is bent and cut off
at 0. The threshold is widened by how much the residuals of neighbouring values are alike or
greater where they matter (sandwich over blocks of time, `calibration_clock.clustered`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.calibration_clock import BLOCKS, clustered
from edgejoule.energy.calibration_response import NUISANCE, Answer, Response
from edgejoule.energy.statistics import t95

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats

_SHORTEST = 1e-3  # of the refresh: a window below it is as good as none
_MOST_SAMPLES = 4096.0
_LONGEST_NS = 4e9
_SUBSET = 2500
_STARTS = 3
_SAMPLES = (1.0, 4.0, 16.0, 64.0, 256.0)


@dataclass(frozen=True)
class Interval:
    """A 95 % interval; an end is None where nothing bounds it within what was searched."""

    low: float | None
    high: float | None


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
    values: int
    outliers: int
    likeness: float


def fit_response(answer: Answer) -> ResponseFit:
    """Fit the response and an interval of each of its parts.

    Args:
        answer: The data of a rail.
    """
    starts = _coarse(answer)
    best = min((_solve(answer, start) for start in starts), key=lambda found: found[1])[0]
    least = math.inf
    for _ in range(2):  # outliers and the clock's error are judged by a fit without them
        answer.settle(best)
        best, least = _solve(answer, best)
    best, least = min(
        ((best, least), *(_solve(answer, again) for again in _simpler(best))), key=lambda f: f[1]
    )
    likeness, correlations = _spread(answer, best)
    intervals = _profile(answer, best, least, likeness)
    window = best.window_ns
    neighbours = (
        replace(best, delay_ns=best.delay_ns + 1e-2 * window),
        replace(best, window_ns=1.01 * window),
        replace(best, tau_ns=best.tau_ns + 1e-2 * window),
        replace(best, samples=1.01 * best.samples),
    )
    low, high = answer.levels(best, neighbours)
    degrees = max(1, answer.count - answer.outliers - NUISANCE)
    scale = math.sqrt(max(1e-12, 1 - answer.likeness**2))
    return ResponseFit(
        best,
        intervals,
        correlations,
        low,
        high,
        residual=math.sqrt(least / degrees) / scale,
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


# The free coordinates of a fit, each in units of the refresh where it is a time.
_Build = Callable[["Floats"], Response]


def _solve(answer: Answer, start: Response) -> tuple[Response, float]:
    """Return the best response near a start and its sum of squares; nothing is held."""
    refresh = answer.refresh_ns

    def build(x: Floats) -> Response:
        window, tau = refresh * math.exp(x[1]), refresh * math.sqrt(max(0.0, x[2]))
        return Response(float(x[0]) * refresh - 0.5 * window - tau, window, tau, math.exp(x[3]))

    x = [
        start.centre_ns / refresh,
        math.log(start.window_ns / refresh),
        (start.tau_ns / refresh) ** 2,
        math.log(start.samples),
    ]
    window = start.window_ns / refresh
    steps = [1e-3 * window, 2e-3, 4e-4 * window**2, 2e-3]
    found, least = _minimise(answer, build, x, steps, _bounds(refresh, "cwvn"))
    return build(found), least


def _bounds(refresh: float, names: str) -> list[tuple[float, float]]:
    longest = max(_LONGEST_NS, 4 * refresh) / refresh
    table = {
        "c": (-longest, 2 * longest),
        "w": (math.log(_SHORTEST), math.log(longest)),
        "v": (0.0, longest**2),
        "t": (0.0, longest),
        "n": (0.0, math.log(_MOST_SAMPLES)),
    }
    return [table[name] for name in names]


def _minimise(
    answer: Answer,
    build: _Build,
    start: list[float],
    steps: list[float],
    bounds: list[tuple[float, float]],
) -> tuple[Floats, float]:
    """Least squares within bounds; differences one-sided, away from a bound."""
    from scipy.optimize import least_squares

    lower, upper = np.array(bounds).T
    scale = np.array(steps)

    def residual(x: Floats) -> Floats:
        return answer.residual(build(np.clip(x, lower, upper)))

    def jacobian(x: Floats) -> Floats:
        return differences(residual, x, scale, upper)

    inside = np.clip(np.array(start, np.float64), lower + 1e-9 * scale, upper - 1e-9 * scale)
    found = least_squares(
        residual, inside, jac=jacobian, bounds=(lower, upper), x_scale=50 * scale,
        xtol=1e-7, ftol=1e-9, gtol=1e-12, max_nfev=60,
    )  # fmt: skip
    x = np.array(found.x)
    # The solver stays within; on a bound is where a part is not there at all.
    close = x - lower < 1e-3 * scale
    if np.any(close):
        x[close] = lower[close]
    return x, float(np.sum(residual(x) ** 2))


def differences(
    function: Callable[[Floats], Floats], x: Floats, steps: Floats, upper: Floats
) -> Floats:
    """Return the Jacobian by central differences, one-sided next to 0 or the upper bound."""
    columns = []
    for k, step in enumerate(steps):
        ahead, behind = x.copy(), x.copy()
        ahead[k] = min(x[k] + step, upper[k])
        behind[k] = x[k] - step
        columns.append((function(ahead) - function(behind)) / (ahead[k] - behind[k]))
    return np.stack(columns, axis=1)


_NAMES = ("delay_ns", "window_ns", "tau_ns", "samples", "centre_ns")


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
        for k, name in enumerate(_NAMES)
    }
    scale = np.sqrt(np.maximum(np.diag(robust), 1e-300))
    together = robust / np.outer(scale, scale)
    pairs = {
        (_NAMES[a], _NAMES[b]): float(together[a, b]) for a in range(4) for b in range(a + 1, 4)
    }
    return wider, pairs


def _profile(
    answer: Answer, best: Response, least: float, wider: dict[str, float]
) -> dict[str, Interval]:
    refresh = answer.refresh_ns
    variance = least / max(1, answer.count - answer.outliers - NUISANCE)
    t = t95(BLOCKS - 4)
    longest = max(_LONGEST_NS, 4 * refresh)
    limits = {
        "delay_ns": (-longest, longest),
        "window_ns": (_SHORTEST * refresh, longest),
        "tau_ns": (0.0, longest),
        "samples": (1.0, _MOST_SAMPLES),
        "centre_ns": (-longest, 2 * longest),
    }
    found = {}
    for name in _NAMES:
        held = _Held(answer, best, name)
        threshold = t**2 * wider[name] * variance
        centre: float = getattr(best, name)
        first = 0.01 * centre if name == "samples" else 0.01 * best.window_ns
        ends = [
            _end(held, centre, side * first, limit, least, threshold)
            for side, limit in zip((-1, 1), limits[name], strict=True)
        ]
        found[name] = Interval(*ends)
    return found


class _Held:
    """Fits with one part held; each begins where the last one ended."""

    def __init__(self, answer: Answer, best: Response, name: str) -> None:
        self._answer, self._name, self._best = answer, name, best
        self._last = best

    def restart(self) -> None:
        """Begin the next fit at the best response again."""
        self._last = self._best

    def __call__(self, value: float) -> float:
        """Return the least sum of squares with the part at `value`."""
        refresh, name = self._answer.refresh_ns, self._name
        last = self._last
        window, tau = last.window_ns / refresh, last.tau_ns / refresh
        steps = {
            "c": 1e-3 * window,
            "w": 2e-3,
            "v": 4e-4 * window**2,
            "t": 5e-3 * window,
            "n": 2e-3,
        }
        values = {
            "c": last.centre_ns / refresh,
            "w": math.log(window),
            "v": tau**2,
            "t": tau,
            "n": math.log(last.samples),
        }
        names = {
            "delay_ns": "wtn", "window_ns": "cvn", "tau_ns": "cwn", "samples": "cwv",
            "centre_ns": "wvn",
        }[name]  # fmt: skip

        def build(x: Floats) -> Response:
            at = dict(zip(names, (float(v) for v in x), strict=True))
            w = value if name == "window_ns" else refresh * math.exp(at["w"])
            n = value if name == "samples" else math.exp(at["n"])
            if name == "tau_ns":
                t = value
            elif "t" in at:
                t = refresh * max(0.0, at["t"])
            else:
                t = refresh * math.sqrt(max(0.0, at["v"]))
            if name == "delay_ns":
                return Response(value, w, t, n)
            c = value if name == "centre_ns" else at["c"] * refresh
            return Response(c - 0.5 * w - t, w, t, n)

        start = [values[k] for k in names]
        x, least = _minimise(
            self._answer, build, start, [steps[k] for k in names], _bounds(refresh, names)
        )
        self._last = build(x)
        return least


def _end(
    held: _Held, centre: float, first: float, limit: float, least: float, threshold: float
) -> float | None:
    """Return where the profile crosses the threshold on one side; the limit if it never does.

    The root of the excess grows nearly in proportion to the distance, so that a secant on it closes
    in within a few fits. None: beyond the limit of the search, where that is not a physical one.
    """
    held.restart()
    physical = limit in {0.0, 1.0}
    if (limit - centre) / first <= 0:
        return centre
    near, near_root = 0.0, 0.0
    goal = math.sqrt(threshold)
    distance = first
    far = None
    for _ in range(14):
        if abs(distance) >= abs(limit - centre):
            distance = limit - centre
        root = math.sqrt(max(0.0, held(centre + distance) - least))
        if abs(root / goal - 1) < 0.03:
            return centre + distance
        if root < goal:
            if distance == limit - centre:
                return limit if physical else None
            near, near_root = distance, root
            if far is None:
                grow = min(8.0, 1.1 * goal / max(root, 1e-9 * goal))
                distance *= max(1.3, grow)
                continue
        else:
            far, far_root = distance, root
        share = (goal - near_root) / (far_root - near_root)
        distance = near + (far - near) * min(0.95, max(0.05, share))
    return centre + distance
