"""Times of a run's layers, from `layers.parquet`: means, medians, intervals. Exact, memory bounded.

    rows (inference, layer, ms), sorted by inference
        -- stable sort by layer -->  layer 0: ms ms ms ...   layer 1: ms ms ms ...
        -- cut into blocks ------->  block means, which are nearly independent: the interval

A file of up to 8 million rows is read once. A longer one is read once for the counts and then once
per group of layers that fits, so that the medians stay exact and memory does not grow with the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgejoule.energy.statistics import BLOCKS, block_starts, half_width_of
from edgejoule.report.series import LayerTimes

if TYPE_CHECKING:
    import numpy as np

VALUES_AT_ONCE = 8_000_000  # durations in memory together: 32 MB, and some times that while sorting
_BATCH = 500_000
_COLUMNS = ("layer", "duration_ms")


def load_layer_times(
    path: Path, blocks: int = BLOCKS, *, values_at_once: int = VALUES_AT_ONCE
) -> LayerTimes:
    """Read the times of a run's layers.

    Args:
        path: A `layers.parquet`.
        blocks: Into how many consecutive blocks each layer's executions are cut.
        values_at_once: Durations that may be in memory together.

    Returns:
        Every layer that the file has. All are cut into the same number of blocks; a layer that
        has less than half as many executions as another (a damaged run) has no blocks if it has
        too few for them.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no such table, or a duration in it is no number.
    """
    file = _Layers(path)
    if file.rows <= values_at_once:
        pieces = [_sorted(*file.read())]
    else:
        pieces = [
            _sorted(*file.read(group)) for group in _groups(file.counts(), max(1, values_at_once))
        ]
    return _summed(pieces, blocks)


@dataclass(frozen=True)
class _Piece:
    """Some layers: their numbers, where each one's durations start, and the durations, float32."""

    layers: np.ndarray
    starts: np.ndarray
    duration_ms: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        import numpy as np

        found: np.ndarray = np.diff(np.append(self.starts, len(self.duration_ms)))
        return found


class _Layers:
    """A `layers.parquet`, read in batches."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        with path.open("rb") as file:
            try:
                found = pq.ParquetFile(file)
                self.rows = int(found.metadata.num_rows)
                schema = found.schema_arrow
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{path.name} cannot be read ({error})") from error
        absent = [name for name in _COLUMNS if name not in schema.names]
        if absent:
            raise ValueError(f"{path.name} has no column {', '.join(absent)}")
        types = schema.field("layer").type, schema.field("duration_ms").type
        if not (pa.types.is_integer(types[0]) and pa.types.is_floating(types[1])):
            raise ValueError(f"{path.name}: layer is {types[0]}, duration_ms is {types[1]}")

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, ...]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        # An open file, not a path: a name is never interpreted.
        with self.path.open("rb") as file:
            try:
                for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=list(columns)):
                    if any(column.null_count for column in batch.columns):
                        raise ValueError(f"{self.path.name} has a row without a layer or a time")
                    yield tuple(batch[name].to_numpy() for name in columns)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{self.path.name} cannot be read ({error})") from error

    def read(self, only: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return layer and duration (ms, float32) of every row, or of the rows of some layers."""
        import numpy as np

        layers, durations = [np.empty(0, np.int16)], [np.empty(0, np.float32)]
        for layer, duration in self.batches(_COLUMNS):
            if not np.isfinite(duration).all():
                raise ValueError(f"{self.path.name} has durations that are no finite numbers")
            chosen = slice(None) if only is None else np.isin(layer, only)
            layers.append(layer[chosen])
            durations.append(duration[chosen].astype(np.float32, copy=False))
        return np.concatenate(layers), np.concatenate(durations)

    def counts(self) -> dict[int, int]:
        """Return how often each layer stands in the file."""
        import numpy as np

        found: dict[int, int] = {}
        for (layer,) in self.batches(("layer",)):
            numbers, counts = np.unique(layer, return_counts=True)
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                found[number] = found.get(number, 0) + count
        return found


def _groups(counts: dict[int, int], most: int) -> Iterator[np.ndarray]:
    """Return groups of layers with at most `most` durations each; one layer may have more."""
    import numpy as np

    group: list[int] = []
    held = 0
    for layer in sorted(counts):
        if group and held + counts[layer] > most:
            yield np.array(group)
            group, held = [], 0
        group.append(layer)
        held += counts[layer]
    if group:
        yield np.array(group)


def _sorted(layer: np.ndarray, duration_ms: np.ndarray) -> _Piece:
    """Return durations by layer, each layer's in the order of the file."""
    import numpy as np

    width = int(layer.max()) + 1 if len(layer) else 0
    if width > 0 and len(layer) % width == 0:
        # Every run of ours: each inference has each layer, in order. A look is cheaper than a sort.
        numbers = np.arange(width, dtype=layer.dtype)
        if (layer.reshape(-1, width) == numbers).all():
            height = len(layer) // width
            columns = np.ascontiguousarray(duration_ms.reshape(height, width).T).ravel()
            return _Piece(numbers, np.arange(width) * height, columns)
    order = np.argsort(layer, kind="stable")  # of 16-bit numbers: a radix sort
    ranked = layer[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])[: len(ranked)])
    return _Piece(ranked[starts], starts, duration_ms[order])


def _summed(pieces: Sequence[_Piece], blocks: int) -> LayerTimes:
    import numpy as np

    count = {
        int(layer): int(executions)
        for piece in pieces
        for layer, executions in zip(piece.layers, piece.counts, strict=True)
    }
    # In a run that was cut the last inference lacks layers: all get the blocks of the shorter ones.
    most = max(count.values(), default=0)
    cut = min([blocks, *(executions for executions in count.values() if 2 * executions >= most)])
    total_ms: dict[int, float] = {}
    median_ms: dict[int, float] = {}
    half_ms: dict[int, float] = {}
    block_ms: dict[int, np.ndarray] = {}
    for piece in pieces:
        for index, first in zip(piece.layers.tolist(), piece.starts.tolist(), strict=True):
            times = piece.duration_ms[first : first + count[index]]
            starts = block_starts(len(times), cut)
            sums = np.add.reduceat(times, starts, dtype=np.float64)
            total_ms[index] = float(sums.sum())
            median_ms[index] = float(np.median(times))
            if len(starts) < cut:
                continue
            block_ms[index] = sums / np.diff(np.append(starts, len(times)))
            half = half_width_of(block_ms[index])
            if half is not None:
                half_ms[index] = half
    mean_ms = {index: total / count[index] for index, total in total_ms.items()}
    return LayerTimes(count, mean_ms, median_ms, half_ms, block_ms, total_ms)
