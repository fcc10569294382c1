"""Error of a regression where nothing was fitted, and which of several models it tells apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.regression import FOLDS, NormalBlocks, solve
from edgejoule.energy.statistics import t95
from edgejoule.errors import MeasurementError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.energy.regression import Bools, Floats


@dataclass(frozen=True)
class HeldOut:
    """What a model says of blocks of time that it was not fitted to.

    Attributes:
        coefficients: float64 (folds, p), each fitted without its fold.
        fold: int64 (blocks,): which fold a block belongs to; neighbours belong to different ones.
        squared_error: float64 (blocks,): mean squared residual of each block.
        predicted_sum: float64 (blocks,): sum of the predictions over a block's rows.
        measured_sum: float64 (blocks,): sum of the values.
        rows: int64 (blocks,).
    """

    coefficients: Floats
    fold: npt.NDArray[np.int64]
    squared_error: Floats
    predicted_sum: Floats
    measured_sum: Floats
    rows: npt.NDArray[np.int64]

    @property
    def mean_squared_error(self) -> float:
        """Mean squared residual over all rows."""
        return float(np.average(self.squared_error, weights=self.rows))

    @property
    def closure(self) -> float:
        """Sum of the predictions over the sum of the values."""
        return float(self.predicted_sum.sum() / self.measured_sum.sum())

    @property
    def closure_half_width(self) -> float | None:
        """Half-width of its 95 % interval from the blocks; None below two."""
        count = len(self.rows)
        if count < 2:
            return None
        # A ratio of sums: its blocks' residuals over the mean value (delta method).
        rest = self.predicted_sum - self.closure * self.measured_sum
        spread = float(np.std(rest, ddof=1)) / abs(float(self.measured_sum.mean()))
        return t95(count - 1) * spread / math.sqrt(count)


def held_out(
    blocks: NormalBlocks,
    non_negative: Bools | None = None,
    folds: int = FOLDS,
    start: Bools | None = None,
) -> HeldOut:
    """Fit without each fold of blocks in turn and look at what it says of that fold.

    Args:
        blocks: The sums.
        non_negative: (p,) columns with a bound at 0; None: all.
        folds: How many; every so many-th block makes one, so that a drift is between known times.
        start: (p,) columns in the solution of the whole (`Fit.within`), where each begins.

    Raises:
        MeasurementError: Fewer than two blocks.
    """
    count = len(blocks.rows)
    folds = min(folds, count)
    if folds < 2:
        raise MeasurementError("a held-out error needs two blocks of time or more")
    bounded = np.ones(blocks.columns, bool) if non_negative is None else non_negative
    fold = np.arange(count) % folds
    gram, moment = blocks.gram.sum(axis=0), blocks.moment.sum(axis=0)
    length = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    scale = np.where(length > 0, length, 1.0)
    found = np.empty((folds, blocks.columns))
    error, predicted = np.empty(count), np.empty(count)
    for index in range(folds):
        out = fold == index
        rest = (gram - blocks.gram[out].sum(axis=0)) / np.outer(scale, scale)
        x, _, _ = solve(rest, (moment - blocks.moment[out].sum(axis=0)) / scale, bounded, start)
        found[index] = x / scale
        error[out] = blocks.squared_error(found[index])[out] / np.maximum(blocks.rows[out], 1)
        predicted[out] = blocks.column_sum[out] @ found[index]
    return HeldOut(found, fold, error, predicted, blocks.target_sum, blocks.rows)


def not_worse(squared_errors: Floats) -> Bools:
    """Return which of several models the held-out error does not tell from the best.

    The difference to the best is taken block by block, so that a noisy block is noisy for all; a
    model counts as worse where the difference's one-sided 97.5 % bound is above 0.

    Args:
        squared_errors: (models, blocks), `HeldOut.squared_error` of each over the same blocks.

    Returns:
        bool (models,), the best included.
    """
    best = int(np.argmin(squared_errors.mean(axis=1)))
    above = squared_errors - squared_errors[best]
    count = above.shape[1]
    if count < 2:
        return np.ones(len(above), bool)
    spread = np.std(above, axis=1, ddof=1) / math.sqrt(count)
    result: Bools = above.mean(axis=1) <= t95(count - 1) * spread
    return result
