"""Usual times: what a layer or an inference takes where nothing disturbed it, block by block.

On a machine that does other things too, a few inferences take several times as long as the rest,
and their share differs from process to process: means of two equal runs differ by tens of percent.
The *usual time* is the mean of the faster half of a block's inferences, without the fastest
twentieth (a clock's slip); the logarithms of 20 consecutive blocks are then averaged without the
farthest quarter on either side. What happens in the slower half only is not seen by it: the run's
mean latency and its energy see that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.statistics import BLOCKS, autocorrelation_time, block_starts, blocks_for

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

FASTEST, FASTER = 0.05, 0.5
TRIMMED = 0.25
FEWEST_BLOCKS = 4
_LEAST_MS = 1e-7  # less than a clock's step: a layer of no time has no logarithm
_MOST_CORRELATED = 0.9


@dataclass(frozen=True)
class Blocks:
    """Usual times of a run's layers.

    Attributes:
        layers: (layers,) index of each in the engine.
        log_ms: (blocks, layers) logarithm of the usual time.
        inferences: Behind them.
    """

    layers: npt.NDArray[np.int64]
    log_ms: Floats
    inferences: int


@dataclass(frozen=True)
class Centre:
    """Trimmed means over blocks, one element per layer.

    Attributes:
        value: Of the logarithm.
        variance: Of `value`, successive blocks' likeness accounted for; NaN below four blocks.
        freedom: Degrees of freedom of the variance.
        common: (blocks,) what all layers have in common in each block; zeros where it was not
            taken out.
    """

    value: Floats
    variance: Floats
    freedom: float
    common: Floats


def usual(durations_ms: Floats, blocks: int = BLOCKS) -> Floats:
    """Return the logarithm of the usual time in each block.

    Args:
        durations_ms: (inferences, layers), in the order of time.
        blocks: At most so many.

    Returns:
        (blocks, layers).
    """
    starts = block_starts(len(durations_ms), blocks)
    ends = np.append(starts[1:], len(durations_ms))
    found = np.empty((len(starts), durations_ms.shape[1]))
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        block = np.sort(durations_ms[start:end], axis=0)
        count = len(block)
        low = int(FASTEST * count)
        high = max(low + 1, math.ceil(FASTER * count))
        found[place] = block[low:high].mean(axis=0)
    return np.log(np.maximum(found, _LEAST_MS))


def load_blocks(path: Path) -> Blocks:
    """Read `layers.parquet` of a run directory.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no such table: layers are missing in some inferences.
        KeyError: It lacks a column.
    """
    from edgejoule.report.tables import column

    table = column(path / "layers.parquet", ["inference", "layer", "duration_ms"])
    layer = table["layer"].to_numpy()
    duration = table["duration_ms"].to_numpy()
    indices = np.unique(layer)
    if not len(indices) or len(layer) % len(indices):
        raise ValueError("layers.parquet: layers are missing in some inferences")
    shape = (len(layer) // len(indices), len(indices))
    if not (layer.reshape(shape) == indices).all():
        order = np.lexsort((layer, table["inference"].to_numpy()))
        duration, layer = duration[order], layer[order]
        if not (layer.reshape(shape) == indices).all():
            raise ValueError("layers.parquet: layers are missing in some inferences")
    log_ms = usual(duration.reshape(shape).astype(np.float64))
    return Blocks(indices.astype(np.int64), log_ms, shape[0])


def centre_of(log_ms: Floats, *, common: bool) -> Centre:
    """Return each layer's trimmed mean over the blocks of one run.

    Args:
        log_ms: (blocks, layers).
        common: Take out what all layers have in common in a block before their scatter is judged:
            for changes that are told apart from the common one.
    """
    count = len(log_ms)
    shared = np.zeros(count)
    if common:
        middle = np.median(log_ms, axis=0)
        for _ in range(4):  # a median polish: layers that wander alone do not move the rest
            shared = np.median(log_ms - middle, axis=1)
            middle = np.median(log_ms - shared[:, None], axis=0)
    rest = np.sort(log_ms - shared[:, None], axis=0)
    cut = int(TRIMMED * count)
    kept = rest[cut : count - cut]
    value = kept.mean(axis=0) + _trimmed(shared)
    if count < FEWEST_BLOCKS:
        return Centre(value, np.full(log_ms.shape[1], np.nan), 0.0, shared)
    # Yuen, Biometrika 61, 1974: the variance of a trimmed mean from the winsorised values.
    low, high = rest[cut], rest[count - cut - 1]
    held = np.clip(log_ms - shared[:, None], low, high)
    inner = count - 2 * cut
    squares = ((held - held.mean(axis=0)) ** 2).sum(axis=0)
    variance = squares / (inner * (inner - 1)) * _likeness(held)
    return Centre(value, variance, float(inner - 1), shared)


def series_variance(values: Floats) -> tuple[float, float] | None:
    """Return the variance of the mean of one series of blocks, and its degrees of freedom.

    None below four blocks.
    """
    if len(values) < FEWEST_BLOCKS:
        return None
    variance = float(np.var(values, ddof=1)) / len(values) * _likeness(values[:, None])
    return variance, float(len(values) - 1)


def latency_of(durations_ms: Floats) -> tuple[float, float, float] | None:
    """Return logarithm of the median latency, its variance within the process, and its freedom.

    The medians of blocks that are each long against the autocorrelation time.

    Args:
        durations_ms: Of successive inferences.

    Returns:
        None below four inferences.
    """
    if len(durations_ms) < FEWEST_BLOCKS:
        return None
    logs = np.log(np.maximum(np.asarray(durations_ms, np.float64), _LEAST_MS))
    # One inference that was held up for a second is not what neighbours have in common.
    low, high = np.quantile(logs, [0.01, 0.99])
    count = blocks_for(len(logs) / autocorrelation_time(np.clip(logs, low, high)))
    middles = np.array([np.median(block) for block in np.array_split(logs, count)])
    variance = float(np.var(middles, ddof=1)) / len(middles)
    return float(np.median(logs)), variance, float(len(middles) - 1)


def _trimmed(values: Floats) -> float:
    cut = int(TRIMMED * len(values))
    return float(np.sort(values)[cut : len(values) - cut].mean())


def _likeness(series: Floats) -> float:
    """Return by how much neighbours' likeness widens the variance of a mean over blocks.

    The correlation of neighbours over all layers together (that of a single one of 20 blocks is not
    told from 0), as of a first-order process: (1 + r) / (1 - r). Of a short series
    whose mean was taken out, r comes out low by (1 + 3 r) / blocks (Kendall, Biometrika 41, 1954).

    Args:
        series: (blocks, layers).
    """
    rest = series - series.mean(axis=0)
    scale = np.sqrt((rest**2).mean(axis=0))
    rest = rest[:, scale > 0.0] / scale[scale > 0.0]
    if not rest.size:
        return 1.0
    r = float((rest[1:] * rest[:-1]).sum() / (rest**2).sum())
    r += (1.0 + 3.0 * r) / len(series)
    r = min(max(r, 0.0), _MOST_CORRELATED)
    return (1.0 + r) / (1.0 - r)
