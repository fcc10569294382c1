"""The phase of a channel's windows, blindly: a scan over the refresh. Numpy, scipy.

Nothing is known of where a window lies before its value is shown, nor of its length, of averaging
and of where gaps lie; so an inference is taken in equal pieces of unknown power. Cumulative times
are looked up once on a grid of ages; every window that begins and ends on it is a difference of
two, so that hundreds of phases and lengths cost one product of small matrices each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.window_design import TIMING, Guess, Values
from edgejoule.energy.window_exposure import Exposure

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats

SAMPLES = (1.0, 4.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
"""What an INA3221 can average (Linux `Documentation/hwmon/ina3221.rst`)."""
_EARLIEST, _LATEST = -0.15, 1.1  # delays that are looked at, in refreshes
_LENGTHS = 1.0 / np.array([12.0, 9.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.4, 1.0])
_MOST_STEPS = 400
_FINE = 22.0  # steps per inference, at least
_PIECES = 26  # of an inference: what tells phases apart is coarse
_RIDGE = 1e-6
_LEAD = 5.0


@dataclass(frozen=True)
class Found:
    """A window that fits.

    Attributes:
        guess: Its phase, length and placement.
        error: Mean squared residual over the values' variance.
    """

    guess: Guess
    error: float


def scan(
    exposure: Exposure,
    values: Values,
    refresh_ns: float,
    samples: float,
    lengths: Floats | None = None,
    delays: tuple[float, float] | None = None,
) -> list[Found]:
    """Return the best windows under one averaging, best first.

    Args:
        exposure: The timeline.
        values: Values in a row.
        refresh_ns: Their period.
        samples: Averaging in the chip.
        lengths: Windows to try, ns; None: shares of the refresh.
        delays: Shortest and longest delay, ns; None: about a refresh.
    """
    tried = _LENGTHS * refresh_ns if lengths is None else lengths
    low, high = (_EARLIEST * refresh_ns, _LATEST * refresh_ns) if delays is None else delays
    inference = float(np.median(np.diff(exposure.start))) if len(exposure.start) > 1 else high
    step = min(float(np.min(tried)) / 5.0, inference / _FINE)
    step = max(step, (high - low) / _MOST_STEPS)
    spans = np.unique(np.maximum(1, np.rint(tried / step)).astype(np.int64))
    count = int((high - low) / step) + 1
    guess = Guess(
        0.0, step, 0.0, samples, np.zeros(3), np.zeros(exposure.layers), False, np.zeros(TIMING)
    )
    ages: Floats = low + step * np.arange(count + int(spans[-1]), dtype=np.float64)
    area = _area(exposure, values, ages)
    target, use = _target(values, samples)
    found: list[Found] = []
    for span in spans:
        errors = _errors(
            area[:count] - area[span : span + count], target, use, samples, span * step
        )
        for place_ in _minima(errors):
            centre = float(ages[place_]) + 0.5 * float(span) * step
            found.append(
                Found(
                    replace(guess, centre_ns=centre, window_ns=float(span) * step),
                    float(errors[place_]),
                )
            )
    return sorted(found, key=lambda one: one.error)


def _area(exposure: Exposure, values: Values, ages: Floats) -> Floats:
    """Return cumulative times of pieces, held and idle, float64 (ages, values, pieces + 2)."""
    at = values.shown_ns[None, :] - ages[:, None]
    row = exposure.running(at)
    held = exposure.held[row]
    spent = exposure.end[row] - exposure.start[row] - held
    passed = np.maximum(at - exposure.start[row], 0.0)
    waiting = np.minimum(passed, held)
    inside = np.clip(passed - waiting, 0.0, spent)
    whole = np.cumsum(exposure.end - exposure.start - exposure.held)
    whole = np.concatenate([[0.0], whole])[row] / _PIECES
    area = np.empty((*at.shape, _PIECES + 2))
    piece = spent / _PIECES
    for k in range(_PIECES):
        area[:, :, k] = whole + np.clip(inside - k * piece, 0.0, piece)
    area[:, :, -2] = np.concatenate([[0.0], np.cumsum(exposure.held)])[row] + waiting
    area[:, :, -1] = at - area[:, :, :-1].sum(axis=2)
    return area


def _target(values: Values, samples: float) -> tuple[Floats, np.ndarray]:
    use = np.isfinite(values.value_mw)
    if samples > 1:
        use[: min(int(_LEAD * samples), len(use) // 2)] = False
    return values.value_mw[use], use


def _errors(span: Floats, target: Floats, use: np.ndarray, samples: float, width: float) -> Floats:
    """Return the unexplained share of the variance at every age."""
    design = span / width
    if samples > 1:
        from scipy.signal import lfilter

        share = 1.0 / samples
        begin = (1.0 - share) * design.mean(axis=1, keepdims=True)
        design = lfilter([share], [1.0, share - 1.0], design, axis=1, zi=begin)[0]
    design = design[:, use]
    trend = np.linspace(-1.0, 1.0, len(target))
    mean = design.mean(axis=1, keepdims=True)
    design = design - mean
    aim = target - target.mean()
    aim = aim - trend * (trend @ aim) / (trend @ trend)
    gram = np.stack([one.T @ one for one in design])  # a product of its own each: BLAS takes it
    moment = np.stack([aim @ one for one in design])
    size = np.einsum("acc->ac", gram)
    ridge = _RIDGE * np.maximum(size, 1e-9 * size.max(axis=1, keepdims=True) + 1e-30)
    gram[:, np.arange(gram.shape[1]), np.arange(gram.shape[1])] += ridge
    solved = np.linalg.solve(gram, moment[:, :, None])[:, :, 0]
    total = float(aim @ aim)
    result: Floats = 1.0 - np.sum(solved * moment, axis=1) / max(total, 1e-300)
    return result


def _minima(errors: Floats) -> np.ndarray:
    padded = np.concatenate([[np.inf], errors, [np.inf]])
    low = (padded[1:-1] <= padded[:-2]) & (padded[1:-1] <= padded[2:])
    return np.flatnonzero(low)
