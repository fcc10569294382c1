"""Student's t for any degrees of freedom, and Holm's correction for many comparisons.

Holm (Scandinavian Journal of Statistics 6, 1979): of m p-values the least is held against
alpha / m, the next against alpha / (m - 1), and so on until one is not below. The chance that
*anything* is shown that is not there stays under alpha, however the values depend on each other:
the layers of one process share its clocks and caches, and a check that turns red must not do so
because sixty layers were looked at. Benjamini-Hochberg would show more where many layers changed,
but bounds the share of false ones among those shown only, and under some dependence not even that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Bools = npt.NDArray[np.bool_]

ALPHA = 0.05


@dataclass(frozen=True)
class Corrected:
    """What Holm's correction makes of some p-values, in their order.

    Attributes:
        adjusted: p-values to be held against alpha itself.
        level: At which each was held: an interval of 1 - level excludes zero if and only if the
            value is shown.
        shown: Which are below their level.
    """

    adjusted: Floats
    level: Floats
    shown: Bools


def holm(p_values: Floats, alpha: float = ALPHA) -> Corrected:
    """Correct p-values for how many they are; NaN (not compared) counts for nothing."""
    p_values = np.asarray(p_values, np.float64)
    count = len(p_values)
    adjusted, level = np.full(count, np.nan), np.full(count, np.nan)
    shown = np.zeros(count, np.bool_)
    order = [int(place) for place in np.argsort(p_values, kind="stable")]
    order = [place for place in order if not np.isnan(p_values[place])]
    known = len(order)
    largest, failed = 0.0, False
    step_level = alpha
    for step, place in enumerate(order):
        largest = max(largest, min(1.0, float(p_values[place]) * (known - step)))
        adjusted[place] = largest
        if not failed:
            # Those that follow the first failure are held against the level at which it failed.
            step_level = alpha / (known - step)
            failed = bool(p_values[place] > step_level)
        shown[place] = not failed
        level[place] = step_level
    return Corrected(adjusted, level, shown)


def tail(statistic: Floats, freedom: Floats) -> Floats:
    """Return the two-sided p-value of Student's t; NaN stays NaN."""
    from scipy.special import stdtr

    p_values: Floats = 2.0 * stdtr(freedom, -np.abs(statistic))
    return p_values


def quantile(level: Floats, freedom: Floats) -> Floats:
    """Return Student's t that is exceeded in absolute value with probability `level`."""
    from scipy.special import stdtrit

    found: Floats = -stdtrit(freedom, np.asarray(level, np.float64) / 2.0)
    return found


def t_value(change: Floats, variance: Floats) -> Floats:
    """Return change over standard error; 0 for no change, whatever the variance."""
    error = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.asarray(change, np.float64) / error
    return np.where((change == 0.0) & ~np.isnan(error), 0.0, ratio)
