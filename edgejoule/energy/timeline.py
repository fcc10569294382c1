"""What attribution starts from: when layers ran, and what a channel showed. Numpy.

    inference i   start_ns |..[layer 0][layer 1]..[layer 2]....| end_ns      (.. gaps)
    reads         |t0 t1|  |t0 t1|   |t0 t1|     an irregular poll of one channel

All times are CLOCK_MONOTONIC of the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.errors import MeasurementError

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class Timeline:
    """The inferences of the profiled pass with the times of their layers.

    Attributes:
        start_ns: int64 (n,), increasing.
        end_ns: int64 (n,), each after its start and not after the next start.
        layer_ns: float64 (n, layers): time in each layer, layers in the order of execution.
        offset_ns: int64 (n, layers): when each layer begins, from the inference's start; None where
            the backend gives durations only.
        held_ns: int64 (n,): time within each that is there because of the profiler alone; None:
            none. It lies before the first layer.
        spans_ns: int64 (k, 2): stretches, in order, in which nothing but these inferences and the
            waiting between them took place; outside of them the profiler was harvested or other
            things ran, and the power drawn is nobody's. None: one stretch around all of them.

    Raises:
        MeasurementError: The lengths do not fit.
    """

    start_ns: npt.NDArray[np.int64]
    end_ns: npt.NDArray[np.int64]
    layer_ns: npt.NDArray[np.float64]
    offset_ns: npt.NDArray[np.int64] | None = None
    held_ns: npt.NDArray[np.int64] | None = None
    spans_ns: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n = len(self.start_ns)
        shapes = [self.end_ns.shape == (n,), self.layer_ns.ndim == 2 and len(self.layer_ns) == n]
        if self.offset_ns is not None:
            shapes.append(self.offset_ns.shape == self.layer_ns.shape)
        if self.held_ns is not None:
            shapes.append(self.held_ns.shape == (n,))
        if not all(shapes):
            raise MeasurementError("a timeline's columns differ in length")

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.layer_ns.shape[1])

    @property
    def gap_ns(self) -> npt.NDArray[np.float64]:
        """Time of each inference in no layer, float64 (n,)."""
        gap: npt.NDArray[np.float64] = (self.end_ns - self.start_ns) - self.layer_ns.sum(axis=1)
        return gap


@dataclass(frozen=True)
class ChannelReads:
    """Every read of one channel in the profiled pass that gave a value, in order of time.

    Attributes:
        rail: The rail.
        t0_ns: int64 (m,) before each read.
        t1_ns: int64 (m,) after it.
        raw: int64 (m,) as read; a refresh shows where it changes.
        power_mw: float64 (m,) what it means: of a current, times the voltage read nearest.
        lsb_mw: Step of `power_mw`, 0: not known.
        refresh_ns: The sensor's refresh as its driver says, None: not known.
        samples: N of the chip's running mean as its driver says, None: not known.
        window_ns: Time of the channel's own conversion as its driver says, None: not known.
    """

    rail: str
    t0_ns: npt.NDArray[np.int64]
    t1_ns: npt.NDArray[np.int64]
    raw: npt.NDArray[np.int64]
    power_mw: npt.NDArray[np.float64]
    lsb_mw: float = 0.0
    refresh_ns: float | None = None
    samples: int | None = None
    window_ns: float | None = None
