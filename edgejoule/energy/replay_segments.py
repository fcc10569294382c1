"""What a rail drew while one thing repeated: segments of the replay pass and their power. Numpy.

    |warm-up |start ................. segment ................. end|
    |<----- reach ----->|<------------ what counts --------------->|
    counter      x       x       x|~~~~~~~x~~~~~~~x~~~~~~~x|       x     whole ticks only

What a sensor shows is of the past: a reading of power is a mean that ended up to a refresh ago, a
counter's tick has what was used until then. So what it shows in the first part of a segment, the
sensor's reach less the warm-up, is left out, and at its end nothing. Between two ticks a counter's
energy is known and its distribution is not: of a counter only the whole stretches within count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.energy.integrate import GAP_FACTOR, energies_mj
from edgejoule.energy.statistics import half_width_of
from edgejoule.energy.tick_clock import regular_ticks
from edgejoule.errors import MeasurementError
from edgejoule.records import REPLAY_KINDS

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.energy.trace import RailPower

LAYER, WHOLE, IDLE, DUPLICATE = range(len(REPLAY_KINDS))
# Idle power right after a load is that of a hot chip whose clocks still fall.
IDLE_SETTLE_SHARE = 0.25
WARM_NS = 100_000_000
"""At least for so long the same was repeated before a segment began."""
_BLOCKS = 5
_FEWEST_BLOCKS = 3
_MOST_UNSEEN = 0.5  # of a segment in which a sampler that stalled read nothing
_AROUND = 25  # readings on either side that say how far apart they usually are


@dataclass(frozen=True)
class Segments:
    """Segments of the replay pass in the order of time, all int64 (n,).

    Attributes:
        kind: Index into `records.REPLAY_KINDS`.
        layer: Index of the layer, -1 where it is no layer's.
        copies: How often the layer is executed in the network (`duplicate`), else 1.
        round: Its round.
        start_ns: CLOCK_MONOTONIC.
        end_ns: After its start.
        iterations: Executions within.

    Raises:
        MeasurementError: The columns differ in length, or a segment does not end after its start.
    """

    kind: npt.NDArray[np.int64]
    layer: npt.NDArray[np.int64]
    copies: npt.NDArray[np.int64]
    round: npt.NDArray[np.int64]
    start_ns: npt.NDArray[np.int64]
    end_ns: npt.NDArray[np.int64]
    iterations: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        lengths = {len(column) for column in vars(self).values()}
        if len(lengths) != 1:
            raise MeasurementError("the segments' columns differ in length")
        if np.any(self.end_ns <= self.start_ns):
            raise MeasurementError("a segment does not end after it starts")

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """Length of each, float64 (n,)."""
        found: npt.NDArray[np.float64] = (self.end_ns - self.start_ns).astype(np.float64) * 1e-9
        return found

    def chosen(self, which: npt.NDArray[Any]) -> Segments:
        """Return some of them, by a mask or by indices."""
        return replace(self, **{name: column[which] for name, column in vars(self).items()})


def segments_of(columns: Mapping[str, Any] | npt.NDArray[Any]) -> Segments:
    """Return the segments of a `replay.bin`'s records, or of columns with the same names."""
    names = ("kind", "layer", "copies", "round", "start_ns", "end_ns", "iterations")
    found = Segments(*(np.asarray(columns[name]).astype(np.int64) for name in names))
    return found.chosen(np.argsort(found.start_ns, kind="stable"))


def read_segments(path: Path) -> Segments:
    """Return the segments of a `replay.parquet`."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    columns: dict[str, Any] = {
        name: table[name].fill_null(-1).to_numpy()
        for name in ("layer", "copies", "round", "start_ns", "end_ns", "iterations")
    }
    columns["kind"] = [REPLAY_KINDS.index(kind) for kind in table["kind"].to_pylist()]
    return segments_of(columns)


@dataclass(frozen=True)
class SegmentPower:
    """Mean power of segments on one rail; nan where the trace does not tell it.

    Attributes:
        mean_mw: float64 (n,).
        half_mw: float64 (n,), half-width of its 95 % interval from blocks within the segment.
        known_s: float64 (n,), how much of each stands behind the mean.
    """

    mean_mw: npt.NDArray[np.float64]
    half_mw: npt.NDArray[np.float64]
    known_s: npt.NDArray[np.float64]


def segment_power(
    series: RailPower, segments: Segments, reach_ns: int, warm_ns: int = WARM_NS
) -> SegmentPower:
    """Return what a rail drew in each segment.

    Args:
        series: The rail's power; of a sum each part is taken by itself, with its own ticks.
        segments: Which; of `idle` ones a first quarter is left out as well.
        reach_ns: How far a reading reaches back: a refresh and the sensor's averaging.
        warm_ns: For how long a segment's power was drawn before it began; nothing before `idle`.
    """
    if series.parts:
        parts = [segment_power(part, segments, reach_ns, warm_ns) for part in series.parts]
        return SegmentPower(
            np.sum([part.mean_mw for part in parts], axis=0),
            np.sqrt(np.sum([part.half_mw**2 for part in parts], axis=0)),
            np.min([part.known_s for part in parts], axis=0),
        )
    series = regular_ticks(series)
    length_ns = segments.end_ns - segments.start_ns
    settle_ns = np.maximum((length_ns * IDLE_SETTLE_SHARE).astype(np.int64), reach_ns)
    warmed_ns = max(0, reach_ns - warm_ns)
    start_ns = segments.start_ns + np.where(segments.kind == IDLE, settle_ns, warmed_ns)
    of_one = _of_ticks if series.late_ns is not None else _of_readings
    rows = [
        of_one(series, int(start), int(end)) if end > start else (math.nan, math.nan, 0.0)
        for start, end in zip(start_ns, segments.end_ns, strict=True)
    ]
    table = np.array(rows, np.float64).reshape(len(rows), 3)
    return SegmentPower(table[:, 0], table[:, 1], table[:, 2])


def _of_readings(series: RailPower, start_ns: int, end_ns: int) -> tuple[float, float, float]:
    """Return mean, half-width and seconds from readings of power."""
    edges = np.linspace(start_ns, end_ns, _BLOCKS + 1).astype(np.int64)
    lower, upper = np.searchsorted(series.t_ns, [start_ns, end_ns])
    if upper - lower < 2:
        return math.nan, math.nan, 0.0
    # Over a stall of the sampler power is a line to what was drawn before, by something else.
    times = series.t_ns[max(0, int(lower) - _AROUND) : int(upper) + _AROUND]
    steps = np.diff(times)
    ends = np.clip(times, start_ns, end_ns)
    stalls = (steps > GAP_FACTOR * np.median(steps)) & (np.diff(ends) > 0)
    unseen_ns = int(np.diff(ends)[stalls].sum())
    if unseen_ns > _MOST_UNSEEN * (end_ns - start_ns):
        return math.nan, math.nan, 0.0
    unseen_mj = energies_mj(series, ends[:-1][stalls], ends[1:][stalls]).sum()
    blocks_mj = energies_mj(series, edges[:-1], edges[1:])
    seconds = (end_ns - start_ns) * 1e-9
    blocks_mw = blocks_mj / (np.diff(edges) * 1e-9)
    half = half_width_of(blocks_mw) if upper - lower >= 2 * _BLOCKS else None
    known_s = seconds - unseen_ns * 1e-9
    mean_mw = float(blocks_mj.sum() - unseen_mj) / known_s
    return mean_mw, math.nan if half is None else half, known_s


def _of_ticks(series: RailPower, start_ns: int, end_ns: int) -> tuple[float, float, float]:
    """Return mean, half-width and seconds from an energy counter's whole stretches."""
    # Few of a long trace's stretches are near; the tick itself may have come before its stamp.
    lower = 2 * int(np.searchsorted(series.t_ns[::2], start_ns))
    upper = 2 * int(np.searchsorted(series.t_ns[1::2], end_ns)) + 2
    near = slice(lower, upper)
    begins, ends = series.t_ns[near][::2], series.t_ns[near][1::2] + 1
    late = np.zeros(2 * len(begins)) if series.late_ns is None else series.late_ns[near]
    keep = (begins - late[::2] >= start_ns) & (ends <= end_ns)
    count = int(np.count_nonzero(keep))
    if not count:
        return math.nan, math.nan, 0.0
    length_s = (ends[keep] - begins[keep]) * 1e-9
    power_mw = series.power_mw[near][::2][keep]
    mean = float(power_mw @ length_s / length_s.sum())
    half = half_width_of(power_mw) if count >= _FEWEST_BLOCKS else None
    return mean, math.nan if half is None else half, float(length_s.sum())
