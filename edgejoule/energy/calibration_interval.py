"""Intervals of a response's parts by profile likelihood, honest where the model does not quite fit.

A part is held at a value and all others are fitted again; its interval ends where the sum of
squares has grown by a threshold. Taken in units of the fit's own residuals and not of the noise,
that is chi-square scaling already, and right for errors that differ from edge to edge. A wrong
shape of the model errs alike at every edge and does not average out. So intervals are wider by the
ratio of residual to noise once more, but by that end at the latest where the sum of squares has
doubled: there the fit is worse by all that the best one leaves unexplained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgejoule.energy.calibration_clock import BLOCKS
from edgejoule.energy.calibration_response import NUISANCE, Answer, Response
from edgejoule.energy.calibration_solve import (
    LONGEST_NS,
    MOST_SAMPLES,
    SHORTEST,
    bounds_of,
    minimise,
)
from edgejoule.energy.statistics import t95

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats

NAMES = ("delay_ns", "window_ns", "tau_ns", "samples", "centre_ns")


@dataclass(frozen=True)
class Interval:
    """A 95 % interval; an end is None where nothing bounds it within what was searched."""

    low: float | None
    high: float | None


def profile(
    answer: Answer, best: Response, least: float, wider: dict[str, float], excess: float
) -> dict[str, Interval]:
    """Return the interval of each part.

    Args:
        answer: The data of a rail.
        best: What fits best.
        least: Its sum of squares.
        wider: Per part, by how much neighbours' likeness widens its variance.
        excess: Residual over noise, 1 or more.
    """
    refresh = answer.refresh_ns
    variance = least / max(1, answer.count - answer.outliers - NUISANCE)
    t = t95(BLOCKS - 4)
    longest = max(LONGEST_NS, 4 * refresh)
    limits = {
        "delay_ns": (-longest, longest),
        "window_ns": (SHORTEST * refresh, longest),
        "tau_ns": (0.0, longest),
        "samples": (1.0, MOST_SAMPLES),
        "centre_ns": (-longest, 2 * longest),
    }
    found = {}
    for name in NAMES:
        held = _Held(answer, best, name)
        plain = t**2 * wider[name] * variance
        threshold = max(plain, min(plain * excess**2, least))
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
        x, least = minimise(
            self._answer, build, start, [steps[k] for k in names], bounds_of(refresh, names)
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
