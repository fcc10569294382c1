"""Means with an interval that successive values' likeness does not shrink. Numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Student's t, two-sided 95 %, by degrees of freedom (any table of the distribution).
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
        2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064,
        2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip
BLOCKS = 20


@dataclass(frozen=True)
class Mean:
    """A mean, the half-width of its 95 % interval (None below two blocks), and n values."""

    value: float
    half_width: float | None
    n: int


def t95(degrees_of_freedom: int) -> float:
    """Return Student's t for a two-sided 95 % interval; above 30 by Cornish-Fisher's first term."""
    if degrees_of_freedom < 1:
        return math.inf
    if degrees_of_freedom <= len(_T95):
        return _T95[degrees_of_freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees_of_freedom)


def block_starts(n: int, blocks: int = BLOCKS) -> np.ndarray:
    """Return the first index of each of at most `blocks` equal consecutive blocks of n values."""
    count = max(1, min(blocks, n))
    return np.arange(count) * n // count


def mean_of(values: np.ndarray, blocks: int = BLOCKS) -> Mean:
    """Return the mean of successive values with an interval from the means of consecutive blocks.

    Method of batch means: neighbours in time are alike, so that n values tell less than n
    independent ones; the means of 20 long blocks are nearly independent. It holds *within this
    process*; what changes from one process to the next it cannot see.

    Args:
        values: 1-D, in the order of time.
        blocks: Number of blocks; with fewer values each value is its own block.
    """
    n = len(values)
    if n == 0:
        return Mean(math.nan, None, 0)
    starts = block_starts(n, blocks)
    sizes = np.diff(np.append(starts, n))
    means = np.add.reduceat(np.asarray(values, dtype=np.float64), starts) / sizes
    return Mean(float(np.mean(values)), half_width_of(means), n)


def half_width_of(block_means: np.ndarray) -> float | None:
    """Return the half-width of the 95 % interval of the mean of independent block means."""
    count = len(block_means)
    if count < 2:
        return None
    return t95(count - 1) * float(np.std(block_means, ddof=1)) / math.sqrt(count)


def combine(*half_widths: float | None) -> float | None:
    """Return the half-width of a sum of independent terms; None if any term's is not known."""
    known = [width for width in half_widths if width is not None]
    return math.hypot(*known) if len(known) == len(half_widths) else None
