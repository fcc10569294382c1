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
FEWEST_BLOCKS = 4
# A block of so many autocorrelation times is nearly independent of its neighbours: the nominal 95 %
# then covers 91 % or more of the truths (tests/test_energy_statistics.py).
TIMES_PER_BLOCK = 4.0
_SUMMED_TIMES = 5.0


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
    return Mean(float(np.mean(values)), half_width_of(block_means(values, blocks)), n)


def half_width_of(block_means: np.ndarray) -> float | None:
    """Return the half-width of the 95 % interval of the mean of independent block means."""
    count = len(block_means)
    if count < 2:
        return None
    return t95(count - 1) * float(np.std(block_means, ddof=1)) / math.sqrt(count)


@dataclass(frozen=True)
class Line:
    """A straight line through successive values.

    Attributes:
        change: From the begin of the first value to the end of the last.
        half_width: Of the change's 95 % interval, None below three blocks.
        blocks: Blocks behind it.
    """

    change: float
    half_width: float | None
    blocks: int


def autocorrelation_time(values: np.ndarray) -> float:
    """Return the integrated autocorrelation time of successive values, in steps; at least 1.

    So many successive values tell as much of the mean as one independent one: the variance of the
    mean of n values is this over n times the variance of one. The sum of correlations ends where it
    has gone on for five times itself (Sokal's window), because farther away there is only noise.
    It is estimated low where the values last fewer than some 20 such times.

    Args:
        values: 1-D, equally spaced in time.
    """
    n = len(values)
    if n < 2:
        return 1.0
    centred = np.asarray(values, np.float64) - np.mean(values)
    size = 1 << (2 * n - 1).bit_length()  # padded, so that the end does not meet the begin
    spectrum = np.fft.rfft(centred, size)
    products = np.fft.irfft(spectrum * np.conj(spectrum), size)[:n]
    # What is left of equal values is rounding.
    if products[0] <= n * (1e-9 * float(np.max(np.abs(values)))) ** 2:
        return 1.0
    times = 2.0 * np.cumsum(products / products[0]) - 1.0
    ended = np.flatnonzero(np.arange(n) >= _SUMMED_TIMES * times)
    return max(1.0, float(times[ended[0] if len(ended) else n - 1]))


def blocks_for(independent: float, most: int = BLOCKS) -> int:
    """Return into how many blocks to cut, so that each is long against the autocorrelation time.

    Args:
        independent: How many autocorrelation times there are.
        most: Most blocks; there are never fewer than four, unless this is less.
    """
    return min(most, max(FEWEST_BLOCKS, int(independent / TIMES_PER_BLOCK)))


def block_means(values: np.ndarray, blocks: int) -> np.ndarray:
    """Return the means of at most `blocks` equal consecutive blocks of values."""
    starts = block_starts(len(values), blocks)
    sizes = np.diff(np.append(starts, len(values)))
    means: np.ndarray = np.add.reduceat(np.asarray(values, np.float64), starts) / sizes
    return means


def line_through(values: np.ndarray) -> Line | None:
    """Fit a straight line to successive values, with an interval that their likeness does not fool.

    The line goes through the means of blocks that are long against the autocorrelation time of
    what a first line leaves over.

    Args:
        values: 1-D, equally spaced in time.

    Returns:
        The line, None for fewer than two values.
    """
    n = len(values)
    if n < 2:
        return None
    steps = np.arange(n, dtype=np.float64)
    slope, start = np.polyfit(steps, values, 1)
    rest = values - (start + slope * steps)
    blocks = blocks_for(n / autocorrelation_time(rest), min(BLOCKS, n))
    means, at = block_means(values, blocks), block_means(steps, blocks)
    at -= at.mean()
    spread = float(at @ at)
    slope = float(at @ means) / spread
    half = None
    if blocks >= 3:
        left = means - means.mean() - slope * at
        half = t95(blocks - 2) * math.sqrt(float(left @ left) / (blocks - 2) / spread) * n
    return Line(slope * n, half, blocks)


def combine(*half_widths: float | None) -> float | None:
    """Return the half-width of a sum of independent terms; None if any term's is not known."""
    known = [width for width in half_widths if width is not None]
    return math.hypot(*known) if len(known) == len(half_widths) else None
