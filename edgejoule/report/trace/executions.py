"""Inferences and executions of layers out of their tables, in batches, at their times.

    layers.parquet  -- batches of rows, cut between inferences -->  begin, end of each execution
                                                                    fit: nests in its inference

The stamps of a profiler have whole microseconds at times: a layer may seem to begin a little before
the one ahead of it ends, or to end a little after its inference. Up to 1 us such times are moved so
that slices nest. What lies farther off (layers that run at the same time) does not nest, keeps its
times and goes to a track of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.report.trace.starts import GapModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Whole = npt.NDArray[np.int64]

TOLERANCE_NS = 1_000
_ROWS = 250_000
_UNKNOWN = -(1 << 63)  # a start that is not there
_FAR_NS = 1 << 50  # 13 days
_LAYER_COLUMNS = ("inference", "layer", "duration_ms", "start_offset_ns")


@dataclass(frozen=True)
class Inferences:
    """Some inferences in order of time, arrays of one length.

    Attributes:
        name: Of which pass each is, int64: a place in `passes`.
        index: Its number in the pass.
        start_ns: int64.
        end_ns: int64.
        passes: Names of the passes.
        unusable: Rows left out because their times make no sense.
    """

    name: Whole
    index: Whole
    start_ns: Whole
    end_ns: Whole
    passes: tuple[str, ...]
    unusable: int = 0

    def of(self, name: str) -> Whole:
        """Return the rows of a pass, sorted by index."""
        import numpy as np

        rows = np.flatnonzero(self.name == self._number(name))
        found: Whole = rows[np.argsort(self.index[rows], kind="stable")]
        return found

    def _number(self, name: str) -> int:
        return self.passes.index(name) if name in self.passes else -1


@dataclass(frozen=True)
class Executions:
    """Executions of layers of some whole inferences, sorted by inference, then begin.

    Attributes:
        inference: int64 (m,): number within the profiled pass.
        layer: int64 (m,).
        begin_ns: int64 (m,), CLOCK_MONOTONIC.
        end_ns: int64 (m,).
        measured: bool (m,): whether the begin was measured; otherwise it is modelled.
        fit: bool (m,): nests in its inference, after the layer before it.
        unusable: Rows of these inferences left out: no inference, or times that make no sense.
    """

    inference: Whole
    layer: Whole
    begin_ns: Whole
    end_ns: Whole
    measured: npt.NDArray[np.bool_]
    fit: npt.NDArray[np.bool_]
    unusable: int = 0


def count_inferences(path: Path) -> dict[str, int]:
    """Return how many inferences of each pass there are, in the order of the file.

    Counted by the largest index, so that a range means the same where rows are missing.
    """
    import numpy as np

    counts: dict[str, int] = {}
    for batch in _batches(path, ("pass", "index")):
        names, place = _names(batch["pass"])
        index = batch["index"].to_numpy()
        for number, name in enumerate(names):
            own = index[place == number]
            if len(own):
                counts[name] = max(counts.get(name, 0), int(np.max(own)) + 1)
    return counts


def read_inferences(path: Path, spans: Mapping[str, tuple[int, int]]) -> Inferences:
    """Return the inferences within some ranges, pass -> first and the one after the last."""
    import numpy as np

    passes = tuple(spans)
    pieces: list[tuple[Whole, ...]] = [tuple(np.empty(0, np.int64) for _ in range(4))]
    for batch in _batches(path, ("pass", "index", "start_ns", "end_ns")):
        names, place = _names(batch["pass"])
        index = batch["index"].to_numpy().astype(np.int64)
        start, end = batch["start_ns"].to_numpy(), batch["end_ns"].to_numpy()
        for number, name in enumerate(names):
            if name in spans:
                first, last = spans[name]
                rows = np.flatnonzero((place == number) & (index >= first) & (index < last))
                own = np.full(len(rows), passes.index(name), np.int64)
                pieces.append((own, index[rows], start[rows], end[rows]))
    of, index, start, end = (np.concatenate(one) for one in zip(*pieces, strict=True))
    order = np.argsort(start, kind="stable")
    of, index, start, end = of[order], index[order], start[order], end[order]
    # An inference begins when the one before it has ended; at most by the stamps' step before.
    start, end, good = _in_turn(start, end)
    return Inferences(
        of[good], index[good], start[good], end[good], passes, int(np.count_nonzero(~good))
    )


def _in_turn(start: Whole, end: Whole) -> tuple[Whole, Whole, npt.NDArray[np.bool_]]:
    import numpy as np

    good = (start >= 0) & (end >= start) & (end < 1 << 62)
    rows = np.flatnonzero(good)
    latest = np.maximum.accumulate(end[rows]) if len(rows) else end[rows]
    # The earlier of two that overlap stays: each is held against the latest end before it.
    over = np.append(False, latest[:-1] - start[rows][1:] > TOLERANCE_NS)[: len(rows)]
    good[rows[over]] = False
    rows = rows[~over]
    before = np.append(np.int64(0), np.maximum.accumulate(end[rows]))[: len(rows)]
    start = start.copy()
    start[rows] = np.maximum(start[rows], before)
    return start, np.maximum(end, start), good


def read_executions(
    path: Path,
    inferences: Inferences,
    name: str,
    model: Callable[[], GapModel],
    held_ns: Whole | None,
) -> Iterator[Executions]:
    """Yield the executions of the chosen inferences of the profiled pass, in batches.

    Args:
        path: A `layers.parquet`.
        inferences: The chosen inferences.
        name: The pass that has layers.
        model: Gives the gap model; asked only where starts are not measured.
        held_ns: int64, by index of the inference: what the profiler held; None: nothing.
    """
    import numpy as np

    chosen = inferences.of(name)
    if not len(chosen):
        return
    wanted = inferences.index[chosen]
    held: dict[str, Whole] | None = None
    for batch in _batches(path, _LAYER_COLUMNS):
        rows = _columns(batch)
        if held is not None:
            rows = {key: np.concatenate([held[key], rows[key]]) for key in rows}
        # The last inference of a batch may go on in the next.
        cut = int(np.searchsorted(rows["inference"], rows["inference"][-1]))
        held = {key: values[cut:] for key, values in rows.items()}
        if cut:
            yield _placed({k: v[:cut] for k, v in rows.items()}, inferences, chosen, model, held_ns)
        if held["inference"][0] > wanted[-1]:
            return
    if held is not None:
        yield _placed(held, inferences, chosen, model, held_ns)


def _placed(
    rows: Mapping[str, Whole],
    inferences: Inferences,
    chosen: Whole,
    model: Callable[[], GapModel],
    held_ns: Whole | None,
) -> Executions:
    import numpy as np

    wanted = inferences.index[chosen]
    at = np.clip(np.searchsorted(wanted, rows["inference"]), 0, len(wanted) - 1)
    keep = (wanted[at] == rows["inference"]) & (rows["duration"] >= 0) & (rows["layer"] >= 0)
    # A start may be unknown; one of days beside its inference is none.
    keep &= (rows["offset"] == _UNKNOWN) | (abs(rows["offset"]) < _FAR_NS)
    asked = (rows["inference"] >= wanted[0]) & (rows["inference"] <= wanted[-1])
    unusable = int(np.count_nonzero(asked & ~keep))
    rows = {key: values[keep] for key, values in rows.items()}
    of = chosen[at[keep]]
    order = np.lexsort((rows["layer"], rows["inference"]))
    rows, of = {key: values[order] for key, values in rows.items()}, of[order]
    inference, layer = rows["inference"], rows["layer"]
    start, end = inferences.start_ns[of], inferences.end_ns[of]
    begin = rows["offset"].copy()
    first = np.searchsorted(inference, inference)
    # One start that is not known makes all of its inference a matter of the model.
    unknown = np.zeros(len(inference), bool)
    unknown[first[rows["offset"] == _UNKNOWN]] = True
    modelled = unknown[first]
    if modelled.any():
        duration = rows["duration"].astype(np.float64)
        held = np.zeros(len(inference))
        if held_ns is not None and len(held_ns):
            place = np.clip(inference, 0, len(held_ns) - 1)
            held = np.where(inference < len(held_ns), held_ns[place], 0).astype(np.float64)
        sums = np.bincount(first, duration, minlength=len(first))[first]
        gap = np.maximum((end - start) - sums, 0.0)
        held = np.clip(held, 0.0, gap)
        placed = model().begins_ns(layer, duration, first, gap - held, held)
        begin[modelled] = np.round(placed[modelled]).astype(np.int64)
    begin += start
    begin = np.maximum(begin, 0)
    found = _nested(inference, layer, begin, begin + rows["duration"], ~modelled, start, end)
    return replace(found, unusable=unusable)


def _nested(
    inference: Whole,
    layer: Whole,
    begin: Whole,
    end: Whole,
    measured: npt.NDArray[np.bool_],
    low: Whole,
    high: Whole,
) -> Executions:
    """Sort by begin, and move by at most the tolerance what then nests."""
    import numpy as np

    order = np.lexsort((layer, end, begin, inference))
    inference, layer, measured = inference[order], layer[order], measured[order]
    begin, end, low, high = begin[order], end[order], low[order], high[order]
    same = np.append(False, inference[1:] == inference[:-1])[: len(inference)]
    before = np.where(same, np.append(np.int64(0), end[:-1])[: len(end)], low)
    fit = (begin >= before - TOLERANCE_NS) & (begin >= low - TOLERANCE_NS)
    fit &= end <= high + TOLERANCE_NS
    whole = np.ones(len(inference), bool)
    first = np.searchsorted(inference, inference)
    whole[first[~fit]] = False
    nests = whole[first]
    for row in _outside(inference, begin, end, low, high, nests):
        nests[row] = True
    inner = np.flatnonzero(nests)
    b, e = np.clip(begin[inner], low[inner], high[inner]), end[inner]
    # Each ends where the next one of its inference begins, at the latest.
    after = high[inner].copy()
    together = inference[inner][1:] == inference[inner][:-1]
    after[:-1] = np.where(together, b[1:], after[:-1])
    begin, end = begin.copy(), end.copy()
    begin[inner], end[inner] = b, np.maximum(np.minimum(e, after), b)
    return Executions(inference, layer, begin, end, measured, nests)


def _outside(
    inference: Whole,
    begin: Whole,
    end: Whole,
    low: Whole,
    high: Whole,
    nests: npt.NDArray[np.bool_],
) -> Iterator[int]:
    """Yield, of inferences in which not all layers fit, those that follow one another."""
    import numpy as np

    current, last = -1, 0
    for row in np.flatnonzero(~nests).tolist():
        if inference[row] != current:
            current, last = int(inference[row]), int(low[row])
        inside = begin[row] >= low[row] - TOLERANCE_NS and end[row] <= high[row] + TOLERANCE_NS
        if inside and begin[row] >= last - TOLERANCE_NS:
            last = int(end[row])
            yield row


def _columns(batch: Any) -> dict[str, Whole]:
    import numpy as np

    duration = np.round(batch["duration_ms"].to_numpy().astype(np.float64) * 1e6)
    known = np.isfinite(duration) & (duration < _FAR_NS)
    return {
        "inference": batch["inference"].to_numpy().astype(np.int64),
        "layer": batch["layer"].to_numpy().astype(np.int64),
        "duration": np.where(known, duration, -1).astype(np.int64),
        "offset": batch["start_offset_ns"].fill_null(_UNKNOWN).to_numpy().astype(np.int64),
    }


def _names(column: Any) -> tuple[list[str], Whole]:
    """Return the different texts of a column, and which of them stands in each row."""
    import numpy as np

    encoded = column.dictionary_encode() if hasattr(column, "dictionary_encode") else column
    names = [str(one) for one in encoded.dictionary.to_pylist()]
    place: Whole = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
    return names, place


def _batches(path: Path, columns: tuple[str, ...]) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        table = pq.ParquetFile(file)
        absent = [name for name in columns if name not in table.schema_arrow.names]
        if absent:
            raise KeyError(f"{path.name} has no column {', '.join(absent)}")
        for batch in table.iter_batches(_ROWS, columns=list(columns)):
            if batch.num_rows:
                yield batch
