"""Phases, inferences, layers and replay segments as slices.

phases                  |idle_before     |load|warmup|clean            |profiled  |...
inferences and layers                          |i||i||i|   |[l0][l1]  [l2]||[l0]
layers at the same time                                     |   l3    |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.report.trace.executions import Executions, Inferences
from edgejoule.report.trace.packets import Packets, Sequence
from edgejoule.report.trace.selection import LAYERED
from edgejoule.report.trace.tracks import Tracks

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_REPLAYED = ("kind", "layer", "copies", "round", "start_ns", "end_ns", "iterations")


@dataclass
class Counts:
    """What was written.

    Attributes:
        inferences: Slices of inferences.
        layers: Slices of layers.
        modelled: Of these, those whose begin is modelled.
        beside: Of these, those on tracks of their own.
    """

    inferences: int = 0
    layers: int = 0
    modelled: int = 0
    beside: int = 0


def write_phases(
    packets: Packets,
    track: int,
    process: int,
    phases: Several[tuple[str, int, int | None]],
    last_ns: int,
    about: Mapping[str, object],
) -> None:
    """Write phases as slices, and as marks at their begin.

    Args:
        packets: The file.
        track: Where the slices go.
        process: Where the marks go.
        phases: Name, start and end, by start; None: the run was cut.
        last_ns: The last time that is known of the run.
        about: What the first mark says of the whole file.
    """
    sequence, marks = Sequence(packets, track), Sequence(packets, process)
    names = {name for name, _, _ in phases}
    slices = {name: sequence.slice_pattern(name, "phase") for name in names}
    cut = {name: sequence.slice_pattern(name, "phase", {"cut": True}) for name in names}
    starts = {name: marks.mark_pattern(f"phase {name}", "phase") for name in names}
    first = marks.mark_pattern("about this file", "about", about)
    sequence.begin()
    marks.begin()
    latest = phases[0][1] if phases else last_ns
    marks.event(first, latest)
    for place, (name, start, end) in enumerate(phases):
        # Phases do not overlap: one that a damaged run lets overlap ends where the next begins.
        after = phases[place + 1][1] if place + 1 < len(phases) else None
        until = max(last_ns, start) if end is None else end
        until = until if after is None else min(until, after)
        sequence.event((cut if end is None else slices)[name], start)
        sequence.end(until)
        marks.event(starts[name], start)


@dataclass
class LayerSlices:
    """Writes inferences with their layers.

    Attributes:
        packets: The file.
        tracks: Its tracks.
        names: Layer -> the slice's name.
        values: Layer -> its annotations.
        model: The gap model in words; asked for only where it was used.
        counts: What was written.
    """

    packets: Packets
    tracks: Tracks
    names: Mapping[int, str]
    values: Mapping[int, Mapping[str, object]]
    model: Callable[[], str]
    counts: Counts = field(default_factory=Counts)
    _lanes: list[_Lane] = field(default_factory=list)

    def write(
        self,
        track: int,
        inferences: Inferences,
        executions: Iterator[Executions],
        starts: Several[bool],
        held_ns: npt.NDArray[np.int64] | None,
        progress: Callable[[int, int], None],
    ) -> None:
        """Write all of them.

        Args:
            track: Where to.
            inferences: The inferences.
            executions: The executions of layers in them.
            starts: Whether begins are measured: True, False or both occur.
            held_ns: What the profiler held of each profiled inference, by index.
            progress: Told how many of how many inferences are written.
        """
        lane = _Lane(self.packets, track)
        begins = [lane.sequence.counted_slice(f"inference ({name})", "inference", {"pass": name})
                  for name in inferences.passes]  # fmt: skip
        held = lane.sequence.slice_pattern("held by the profiler", "profiler")
        for measured in starts:
            self._patterns(lane, measured)
        lane.sequence.begin()
        layered = inferences.passes.index(LAYERED) if LAYERED in inferences.passes else -1
        groups = _Groups(executions)
        total = len(inferences.start_ns)
        rows = zip(
            inferences.name.tolist(),
            inferences.index.tolist(),
            inferences.start_ns.tolist(),
            inferences.end_ns.tolist(),
            strict=True,
        )
        for count, (name, index, start, end) in enumerate(rows):
            lane.sequence.event(begins[name](index), start)
            if name == layered:
                group = groups.of(index)
                kept = 0 if held_ns is None or index >= len(held_ns) else int(held_ns[index])
                if kept > 0:
                    first = min([begin for _, begin, _, _, fit in group if fit], default=end)
                    lane.sequence.event(held, start)
                    lane.sequence.end(min(start + kept, first))
                self._group(lane, group, starts)
            lane.sequence.end(end)
            self.counts.inferences += 1
            if count % 5000 == 4999:
                progress(count, total)

    def _group(self, lane: _Lane, group: list[_Row], starts: Several[bool]) -> None:
        for layer, begin, end, measured, fit in group:
            own = lane if fit else self._beside(begin, starts)
            own.sequence.event(own.patterns[measured][layer], begin)
            own.sequence.end(end)
            own.busy_ns = end
            self.counts.layers += 1
            self.counts.modelled += not measured
            self.counts.beside += not fit

    def _beside(self, begin: int, starts: Several[bool]) -> _Lane:
        """Return a track beside the inferences that is free at a time."""
        for lane in self._lanes:
            if lane.busy_ns <= begin:
                return lane
        track = self.tracks.thread(
            f"layers at the same time {len(self._lanes) + 2}",
            "layers that run beside others or reach beyond their inference, at their own times",
        )
        lane = _Lane(self.packets, track)
        for measured in starts:
            self._patterns(lane, measured)
        lane.sequence.begin()
        self._lanes.append(lane)
        return lane

    def _patterns(self, lane: _Lane, measured: bool) -> None:
        start = "measured" if measured else f"modelled: {self.model()}"
        lane.patterns[measured] = {
            layer: lane.sequence.slice_pattern(
                name, "layer", {**self.values.get(layer, {}), "start": start}
            )
            for layer, name in self.names.items()
        }


class _Lane:
    """A track with its sequence and patterns: whether the start is measured -> layer -> pattern."""

    def __init__(self, packets: Packets, track: int) -> None:
        self.sequence = Sequence(packets, track)
        self.patterns: dict[bool, dict[int, bytes]] = {}
        self.busy_ns = 0


# layer, begin, end, begin measured, nests
_Row = tuple[int, int, int, bool, bool]


class _Groups:
    """Hands out the executions of one inference after the other."""

    def __init__(self, batches: Iterator[Executions]) -> None:
        self._rows = self._all(batches)
        self._next = next(self._rows, None)

    def of(self, index: int) -> list[_Row]:
        """Return the executions of an inference; those of earlier ones are gone."""
        found: list[_Row] = []
        while self._next is not None and self._next[0] <= index:
            if self._next[0] == index:
                found.append(self._next[1])
            self._next = next(self._rows, None)
        return found

    @staticmethod
    def _all(batches: Iterator[Executions]) -> Iterator[tuple[int, _Row]]:
        for batch in batches:
            rows = zip(
                batch.layer.tolist(),
                batch.begin_ns.tolist(),
                batch.end_ns.tolist(),
                batch.measured.tolist(),
                batch.fit.tolist(),
                strict=True,
            )
            yield from zip(batch.inference.tolist(), rows, strict=True)


def write_replay(packets: Packets, tracks: Tracks, path: Path, names: Mapping[int, str]) -> int:
    """Write the segments of the replay pass, and return how many there are."""
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        rows: list[dict[str, Any]] = pq.ParquetFile(file).read(list(_REPLAYED)).to_pylist()
    rows = [row for row in rows if 0 <= row["start_ns"] <= row["end_ns"]]
    rows.sort(key=lambda row: row["start_ns"])
    if not rows:
        return 0
    told = "one layer alone, again and again; the whole network; idle; a layer executed more often"
    sequence = Sequence(packets, tracks.thread("replay pass", told))
    patterns = []
    for row in rows:
        layer = row["layer"]
        what = "" if layer is None else f" {names.get(layer, layer)}"
        copies = f" x {row['copies']}" if row["kind"] == "duplicate" else ""
        values = {key: row[key] for key in ("kind", "layer", "copies", "round", "iterations")}
        patterns.append(sequence.slice_pattern(f"{row['kind']}{what}{copies}", "replay", values))
    sequence.begin()
    latest = 0
    for row, pattern in zip(rows, patterns, strict=True):
        # Segments do not overlap; of a damaged run they are cut so that slices stay in order.
        begin = max(row["start_ns"], latest)
        latest = max(row["end_ns"], begin)
        sequence.event(pattern, begin)
        sequence.end(latest)
    return len(rows)
