"""Bounded least squares over the parts of a response: the search itself. Numpy, scipy.

`calibration_fit` says over which coordinates, `calibration_interval` holds single ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.calibration_response import Answer, Response

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats

SHORTEST = 1e-3  # of the refresh: a window below it is as good as none
MOST_SAMPLES = 4096.0
LONGEST_NS = 4e9

# The free coordinates of a fit, each in units of the refresh where it is a time.
Build = Callable[["Floats"], Response]


def solve(answer: Answer, start: Response) -> tuple[Response, float]:
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
    found, least = minimise(answer, build, x, steps, bounds_of(refresh, "cwvn"))
    return build(found), least


def bounds_of(refresh: float, names: str) -> list[tuple[float, float]]:
    """Return the bounds of coordinates: centre, ln window, tau^2 (v), tau, ln samples.

    Args:
        refresh: Their unit of time, ns.
        names: One letter of `cwvtn` each.
    """
    longest = max(LONGEST_NS, 4 * refresh) / refresh
    table = {
        "c": (-longest, 2 * longest),
        "w": (math.log(SHORTEST), math.log(longest)),
        "v": (0.0, longest**2),
        "t": (0.0, longest),
        "n": (0.0, math.log(MOST_SAMPLES)),
    }
    return [table[name] for name in names]


def minimise(
    answer: Answer,
    build: Build,
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
