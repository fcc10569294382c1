"""How a sensor answers a known load: the model of a rail's values. Numpy.

The value shown at s is modelled as

    low + (high - low) x average_N( mean over [s - d - w, s - d] of lowpass_tau(load) )

with the load between 0 and 1, and besides a base line and a swing that drift slowly (a board warms
up) and a clock whose error varies slowly. All but d, w, tau and N is linear and solved for exactly.
`calibration_fit` finds the four.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.calibration_clock import BLOCKS, clustered
from edgejoule.energy.sensor_model import Filtered, Waveform, chip_average
from edgejoule.energy.statistics import t95

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats

_OUTLIER = 6.0  # times the spread
_OF_INNER = 1.27  # a normal spread over that of its inner nine tenths
_INLIERS = 0.98
_ALIKE = 0.05  # correlation of neighbours from which it is taken into account
_BASE_KNOTS = 7
_CALM = 5  # refreshes after the answer to an edge is over, from which a stretch counts as steady
_FEWEST_CALM = 30
_TIMING = 5  # Legendre polynomials in which the clock's error may vary
NUISANCE = _BASE_KNOTS + _TIMING + 6  # degrees of freedom that the fit takes


@dataclass(frozen=True)
class Response:
    """The nonlinear part of the answer; lengths in ns."""

    delay_ns: float
    window_ns: float
    tau_ns: float
    samples: float

    @property
    def centre_ns(self) -> float:
        """Mean age of what one conversion shows: delay, half the window, the low-pass."""
        return self.delay_ns + 0.5 * self.window_ns + self.tau_ns


class Answer:
    """The data of one rail: shown values, their times, the load; gives residuals of a response.

    Args:
        shown_ns: float64 (n,): when each value in a row was shown, no number left out.
        values: float64 (n,): the values, nan where none was read.
        load: The load, 0..1, on the same origin of time.
        refresh_ns: Mean period of the shown times.
    """

    def __init__(self, shown_ns: Floats, values: Floats, load: Waveform, refresh_ns: float) -> None:
        self.refresh_ns = refresh_ns
        self._load = load
        self._filtered: dict[float, Filtered] = {}
        self._shown = shown_ns
        self._seen = np.isfinite(values)
        self._values = values[self._seen]
        self._when = shown_ns[self._seen]
        self._weights = np.ones(len(self._values))
        self._timing = np.empty((len(self._values), 0))
        self.likeness = 0.0
        self._prepare()

    def _prepare(self) -> None:
        """Project the base line out of the values, once; whiten by the neighbours' likeness."""
        span = self._when[-1] - self._when[0]
        knots = self._when[0] + span * np.linspace(0, 1, _BASE_KNOTS)
        hats = np.stack([np.interp(self._when, knots, row) for row in np.eye(_BASE_KNOTS)], axis=1)
        self._trend = 2 * (self._when - self._when[0]) / span - 1
        self.base = np.hstack([hats, self._timing])
        self._q = np.linalg.qr(self._whiten(self.base))[0]
        self._target = self._clear(self._whiten(self._values))

    def _whiten(self, columns: Floats) -> Floats:
        weights = self._weights if columns.ndim == 1 else self._weights[:, None]
        result = np.array(columns)
        result[1:] -= self.likeness * columns[:-1]
        whitened: Floats = result * weights
        return whitened

    def _clear(self, column: Floats) -> Floats:
        result: Floats = column - self._q @ (self._q.T @ column)
        return result

    @property
    def count(self) -> int:
        """How many values there are."""
        return len(self._values)

    @property
    def outliers(self) -> int:
        """How many of them are left out."""
        return int(np.sum(self._weights == 0))

    def first(self, count: int) -> Answer:
        """Return the first part of the data."""
        values = np.full(len(self._shown), np.nan)
        values[self._seen] = self._values
        return Answer(self._shown[:count], values[:count], self._load, self.refresh_ns)

    def unit(self, response: Response) -> Floats:
        """Return what is shown for levels 0 and 1, at the values that were read."""
        if response.tau_ns not in self._filtered:
            self._filtered = {response.tau_ns: Filtered(self._load, response.tau_ns)}
        end = self._shown - response.delay_ns
        mean = self._filtered[response.tau_ns].mean(end - response.window_ns, end)
        return chip_average(mean, response.samples)[self._seen]

    def residual(self, response: Response) -> Floats:
        """Return what is left after the best levels, whitened, float64 (count,)."""
        unit = self.unit(response)
        shape = self._clear(self._whiten(unit))
        swing = self._clear(self._whiten(unit * self._trend))
        design = np.stack([shape, swing], axis=1)
        normal = design.T @ design
        normal += np.eye(2) * (1e-12 * np.trace(normal) + 1e-30)
        levels = np.linalg.solve(normal, design.T @ self._target)
        result: Floats = self._target - design @ levels
        return result

    def settle(self, response: Response) -> None:
        """Prepare for the final fit from a first one.

        The shown times come from polls and are off by microseconds that change slowly; this load
        knows better. So what a slow shift of time would change is projected out (to first order;
        its mean is the centre's). Then what lies far off is left out, and the neighbours' likeness
        is taken from what remains.
        """
        shift = 1e-3 * min(response.window_ns, self.refresh_ns)
        later = self.unit(replace(response, delay_ns=response.delay_ns + shift))
        sooner = self.unit(replace(response, delay_ns=response.delay_ns - shift))
        slope = (later - sooner) / (2 * shift) * self.refresh_ns
        waves = np.polynomial.legendre.legvander(self._trend, _TIMING)[:, 1:]
        self._timing = slope[:, None] * waves
        self._weights, self.likeness = np.ones(self.count), 0.0
        self._prepare()
        residual = self.residual(response)
        far = np.abs(residual)
        # From the inner nine tenths: the median alone says nothing where most values are equal.
        # And never more than a few: where the model does not quite fit, edges are not outliers.
        inner = far[far <= np.quantile(far, 0.9)]
        spread = _OF_INNER * math.sqrt(float(np.mean(inner**2)))
        allowed = max(_OUTLIER * spread, float(np.quantile(far, _INLIERS)))
        inside = far <= allowed
        kept = residual * inside
        total = float(kept @ kept)
        likeness = float(kept[1:] @ kept[:-1]) / total if total > 0 else 0.0
        if likeness > _ALIKE:
            self.likeness = min(0.98, likeness)
            inside[1:] &= inside[:-1]  # an outlier enters its successor's difference as well
        self._weights = inside.astype(np.float64)
        self._prepare()

    def noise(self, response: Response) -> float | None:
        """Return the noise where the load has been steady for long, in the unit of `residual`.

        There the model is a constant, right or wrong: what is left is the data's own. About the
        median of each level, as a standard deviation of its inner nine tenths; None where fewer
        values than can tell lie in steady stretches.
        """
        edges = self._load.edges_ns
        reach = response.delay_ns + response.window_ns + 5 * response.tau_ns
        reach = max(0.0, reach) + _CALM * self.refresh_ns
        number = np.searchsorted(edges, self._when, side="right")
        since = np.where(number > 0, self._when - edges[np.maximum(number - 1, 0)], math.inf)
        calm = (since > reach) & (self._weights > 0)
        if np.sum(calm) < _FEWEST_CALM:
            return None
        left, level = self.residual(response)[calm], self._load.power[number[calm]]
        for value in np.unique(level):
            left[level == value] -= np.median(left[level == value])
        far = np.abs(left)
        inner = far[far <= np.quantile(far, 0.9)]
        return _OF_INNER * math.sqrt(float(np.mean(inner**2)))

    def levels(
        self, response: Response, neighbours: Sequence[Response]
    ) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the levels at load 0 and 1 with half-widths, as means over the data.

        Args:
            response: The best one.
            neighbours: Responses a little off in each part, so that what is not known of the
                response widens the levels as well.
        """
        unit = self.unit(response)
        moved = [self.unit(neighbour) - unit for neighbour in neighbours]
        moved = [m / max(1e-300, float(np.max(np.abs(m)))) for m in moved]
        plain = np.column_stack([self.base, *moved, unit, unit * self._trend])
        design = self._whiten(plain)
        solution = np.linalg.lstsq(design, self._whiten(self._values), rcond=None)[0]
        residual = self._whiten(self._values) - design @ solution
        covariance = clustered(design, residual)
        width = self.base.shape[1] + len(moved)
        low = np.zeros(width + 2)
        low[:_BASE_KNOTS] = np.mean(self.base[:, :_BASE_KNOTS], axis=0)
        high = low + np.concatenate([np.zeros(width), [1.0, float(np.mean(self._trend))]])
        t = t95(BLOCKS - 2)
        found = [
            (float(c @ solution), t * math.sqrt(max(0.0, c @ covariance @ c))) for c in (low, high)
        ]
        return found[0], found[1]
