"""A synthetic but realistic recording of layers: log-normal durations around each layer's median,
a clock that wanders, gaps between layers. Times in whole steps of the profiler's clock."""

from __future__ import annotations

import numpy as np

from edgejoule.records import LAYERS, NULL_NS

DTYPE = np.dtype([(field, code) for field, code in LAYERS.fields])
MEDIAN_NS = (3_000, 400_000)
JITTER = 0.03  # standard deviation of the logarithm, of a layer
CLOCK = 0.01  # and of all layers of an inference


def layer_times(
    inferences: int, layers: int, step_ns: int = 1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return durations and start offsets in ns, each of shape (inferences, layers), int64."""
    random = np.random.default_rng(seed)
    median = np.exp(random.uniform(*np.log(MEDIAN_NS), layers))
    clock = np.exp(random.normal(0, CLOCK, (inferences, 1)))
    duration = median * clock * np.exp(random.normal(0, JITTER, (inferences, layers)))
    gap = random.gamma(2.0, 400.0, (inferences, layers))
    duration, gap = (
        np.rint(value / step_ns).astype(np.int64) * step_ns for value in (duration, gap)
    )
    duration = np.maximum(duration, step_ns)
    return duration, np.cumsum(duration + gap, axis=1) - duration


def layer_records(duration: np.ndarray, start: np.ndarray | None, first: int = 0) -> np.ndarray:
    """Return the records of `layers.bin`; `first` is the number of the first inference."""
    inferences, layers = duration.shape
    block = np.zeros(inferences * layers, DTYPE)
    block["inference"] = np.repeat(np.arange(first, first + inferences), layers)
    block["layer"] = np.tile(np.arange(layers), inferences)
    block["duration_ns"] = duration.ravel()
    block["start_offset_ns"] = NULL_NS if start is None else start.ravel()
    return block
