"""Write a run as a Perfetto trace, whole or not at all.

The order in the file: the clock, the tracks, inferences with layers, the replay pass, counters, and
last the phases with a mark that says what the file shows and what it does not. Perfetto sorts by
time; what stands last could only be known last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import read_json
from edgejoule.report.series_load import guarded, phases_of
from edgejoule.report.tables import RunTables, load_run, part
from edgejoule.report.target import run_around, whole_file
from edgejoule.report.trace.selection import LAYERED, Chosen, Selection, choose_inferences

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgejoule.report.trace.executions import Inferences
    from edgejoule.report.trace.packets import Packets
    from edgejoule.report.trace.slices import Counts
    from edgejoule.report.trace.tracks import Tracks

Progress = Callable[[str, int, int], None]
SUFFIX = ".perfetto-trace"


@dataclass(frozen=True)
class Written:
    """What a trace holds.

    Attributes:
        path: The file.
        bytes: Its size.
        packets: Its packets.
        inferences: Slices of inferences.
        layers: Slices of layers.
        modelled: Of these, those whose begin is modelled.
        segments: Of the replay pass.
        values: Counter -> its values.
        left_out: Sentences about what was chosen not to be shown.
        missing: Sentences about what could not be.
    """

    path: Path
    bytes: int
    packets: int
    inferences: int
    layers: int
    modelled: int
    segments: int
    values: Mapping[str, int]
    left_out: tuple[str, ...]
    missing: tuple[str, ...]


def write_trace(
    run_path: Path,
    target: Path,
    selection: Selection | None = None,
    *,
    around: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Written:
    """Write a run as a trace.

    Args:
        run_path: The run directory.
        target: The file.
        selection: Which inferences.
        around: Counters only while the chosen inferences ran, not over the whole run.
        overwrite: Whether the file may be there already.
        progress: Told what is written, and how much of how much.

    Raises:
        UsageError: The file is there, would lie in a run directory, or cannot be written.
        MeasurementError: The run cannot be read, or has nothing to show.
    """
    run = load_run(run_path)
    _check_target(target, overwrite)
    source = _Source(run, selection or Selection())
    with whole_file(target, "give -o FILE") as file:
        return source.write(file, target, around, progress)


def _check_target(target: Path, overwrite: bool) -> None:
    if run_around(target.resolve().parent) is not None:
        raise UsageError(
            f"{target} lies in a run directory, which is never changed", "give another -o FILE"
        )
    if target.is_dir():
        raise UsageError(f"{target} is a folder", "give a file as -o FILE")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} is there already", "give another -o FILE, or --overwrite")


class _Source:
    """A run, and what of it could not be read so far."""

    def __init__(self, run: RunTables, selection: Selection) -> None:
        from edgejoule.report.trace.executions import count_inferences

        self.run, self.path = run, run.path
        self.missing = list(run.missing)
        self.engine: list[Mapping[str, Any]] = []
        with suppress(MeasurementError):  # that it cannot be read stands in `missing` already
            listed = read_json(self.path / "engine.json")
            listed = listed.get("layers") if isinstance(listed, dict) else None
            listed = listed if isinstance(listed, list) else []
            self.engine = [one for one in listed if isinstance(one, Mapping)]
        counts = self._read("inferences.parquet", count_inferences) or {}
        self.chosen = Chosen({})
        if counts:
            self.chosen = choose_inferences(counts, len(run.layers), selection)
        elif selection.passes:
            choose_inferences({}, 0, selection)
        self.phases = phases_of(run.run)

    def _read(self, name: str, read: Callable[[Path], Any]) -> Any:
        """Return what `read` makes of a file; None, and a sentence, where it cannot."""
        file = self.path / name
        if not file.exists():
            if name in part(self.run.run, "files"):
                self._lacks(f"{name} is missing")
            return None
        missing: list[str] = []
        found = guarded(lambda: read(file), name, missing)
        for one in missing:
            self._lacks(one)
        return found

    def _lacks(self, sentence: str) -> None:
        if sentence not in self.missing:
            self.missing.append(sentence)

    def write(self, file: BinaryIO, target: Path, around: bool, progress: Progress) -> Written:
        """Write everything that can be read."""
        from edgejoule.report.trace.counters import write_power, write_resources
        from edgejoule.report.trace.executions import read_inferences
        from edgejoule.report.trace.packets import Packets
        from edgejoule.report.trace.slices import Counts, write_phases, write_replay
        from edgejoule.report.trace.tracks import Tracks, write_clock

        inferences = self._read(
            "inferences.parquet", lambda path: read_inferences(path, self.chosen.spans)
        )
        packets = Packets(file)
        anchor = part(self.run.run, "clock", "wall_anchor")
        wall = [_whole_ns(anchor.get(key)) for key in ("monotonic_ns", "wall_ns")]
        known = wall[0] is not None and wall[1] is not None
        write_clock(packets, (wall[0] or 0) if known else self._first_ns(inferences), wall[1])
        tracks = Tracks(packets, self.run.name, self.run.marks, self._about_process())
        phase_track = tracks.thread("phases", "what the run did, and when")
        counts, last = Counts(), 0
        shown: tuple[int, int] | None = None
        if inferences is not None and len(inferences.start_ns):
            counts = self._inferences(packets, tracks, inferences, progress)
            last = int(inferences.end_ns[-1])
            shown = (int(inferences.start_ns[0]), last) if around else None
        names = self._names()
        segments = self._read(
            "replay.parquet", lambda path: write_replay(packets, tracks, path, names)
        )
        values: dict[str, int] = {}
        values |= self._read(
            "power.parquet",
            lambda path: write_power(
                packets, tracks, path, shown, lambda done, rows: progress("power", done, rows)
            ),
        ) or {}  # fmt: skip
        values |= self._read(
            "resources.parquet", lambda path: write_resources(packets, tracks, path, shown)
        ) or {}  # fmt: skip
        left = list(self.chosen.left_out)
        if shown is not None:
            left.append("counters: only while the inferences shown here ran")
        if not (self.phases or counts.inferences or values):
            raise MeasurementError(f"{self.path}: nothing to show; {'; '.join(self.missing)}")
        ends = [last, *(end or start for _, start, end in self.phases)]
        about = self._about(left)
        write_phases(packets, phase_track, tracks.process, self.phases, max(ends), about)
        packets.flush()
        return Written(
            target, packets.bytes, packets.count, counts.inferences, counts.layers,
            counts.modelled, segments or 0, values, tuple(left), tuple(self.missing),
        )  # fmt: skip

    def _first_ns(self, inferences: Inferences | None) -> int:
        starts = [start for _, start, _ in self.phases]
        if inferences is not None and len(inferences.start_ns):
            starts.append(int(inferences.start_ns[0]))
        return min(starts, default=0)

    def _about_process(self) -> str:
        return (
            "the measuring process of an edgejoule run; the numbers of process and threads are "
            "made up, a run does not record them"
        )

    def _about(self, left: list[str]) -> dict[str, object]:
        config = self.run.config
        return {
            "run": self.run.name,
            "marks": ", ".join(self.run.marks) or "none",
            "not shown": "; ".join(left) or "nothing",
            "missing": "; ".join(self.missing) or "nothing",
            **{key: config.get(key) for key in ("model", "backend", "dtype", "device")},
            **{key: self.run.run.get(key) for key in ("board_id", "power_mode", "started_at",
                                                      "config_sha256", "schema_version")},
            "notes": " ".join(self.run.notes) or "none",
        }  # fmt: skip

    def _names(self) -> dict[int, str]:
        names = {_index(one, place): str(one.get("name", f"layer {place}"))
                 for place, one in enumerate(self.engine)}  # fmt: skip
        return {**names, **{layer.index: layer.name for layer in self.run.layers}}

    def _held_ns(self) -> npt.NDArray[np.int64] | None:
        import numpy as np

        measure: dict[str, Any] = {}
        with suppress(MeasurementError):
            measure = read_json(self.path / "measure.json")
        held = part(measure if isinstance(measure, dict) else {}, "profiled").get("held_us")
        if not isinstance(held, list) or not all(isinstance(one, int) for one in held) or not held:
            return None
        return np.array([min(max(one, 0), 1 << 40) for one in held], np.int64) * 1000

    def _inferences(
        self, packets: Packets, tracks: Tracks, inferences: Inferences, progress: Progress
    ) -> Counts:
        """Write inferences and layers."""
        from edgejoule.report.trace.attributes import energies, layer_values
        from edgejoule.report.trace.executions import Executions, read_executions
        from edgejoule.report.trace.slices import LayerSlices
        from edgejoule.report.trace.starts import GapModel, gap_model

        if inferences.unusable:
            self._lacks(f"{inferences.unusable} inferences overlap others or end before they begin")
        held_ns = self._held_ns()
        models: list[GapModel] = []

        def model() -> GapModel:
            if not models:
                models.append(gap_model(self.run.run, *self._means(inferences, held_ns)))
            return models[0]

        layers = self.path / "layers.parquet"
        starts = [] if LAYERED not in inferences.passes else self._read("layers.parquet", _starts)

        unusable: list[int] = []

        def executions() -> Iterator[Executions]:
            # A file that is damaged in its midst costs what comes behind, not the trace.
            found = read_executions(layers, inferences, LAYERED, model, held_ns)
            while starts:
                missing: list[str] = []
                batch = guarded(lambda: next(found, None), layers.name, missing)
                self.missing += missing
                if batch is None:
                    break
                unusable.append(batch.unusable)
                yield batch
            if sum(unusable):
                self._lacks(f"{sum(unusable)} executions of layers have no inference or no time")

        about = {_index(one, place): one for place, one in enumerate(self.engine)}
        names, energy = self._names(), energies(self.run)
        values = {layer: layer_values(about.get(layer, {"name": name}), layer)
                  | ({"energy": energy[layer]} if layer in energy else {})
                  for layer, name in names.items()}  # fmt: skip
        kind = {
            (True,): ", measured starts",
            (False,): ", MODELLED starts",
            (True, False): ", some starts MODELLED",
        }
        told = kind.get(tuple(starts or ()), "")
        track = tracks.thread(
            f"inferences and layers{told}",
            f"the backend gives durations only: {model().told}" if False in (starts or ()) else "",
        )
        slices = LayerSlices(packets, tracks, names, values, lambda: model().told)
        slices.write(
            track, inferences, executions(), starts or (), held_ns,
            lambda done, total: progress("inferences", done, total),
        )  # fmt: skip
        return slices.counts

    def _means(
        self, inferences: Inferences, held_ns: npt.NDArray[np.int64] | None
    ) -> tuple[npt.NDArray[np.float64], float]:
        """Return each layer's mean time and the mean gap of the profiled inferences, ns."""
        import numpy as np

        means = np.zeros(max((layer.index for layer in self.run.layers), default=-1) + 1)
        for layer in self.run.layers:
            if layer.index >= 0:
                means[layer.index] = layer.mean_ms * 1e6
        rows = inferences.of(LAYERED)
        spent = (inferences.end_ns - inferences.start_ns)[rows]
        free = float(spent.mean() - means.sum()) if len(rows) else 0.0
        return means, max(free - (0.0 if held_ns is None else float(held_ns.mean())), 0.0)


def _starts(path: Path) -> list[bool]:
    """Return whether begins of layers are measured: True, False, or both occur."""
    import pyarrow.parquet as pq

    nulls = rows = 0
    with path.open("rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(columns=["start_offset_ns"]):
            nulls, rows = nulls + batch.column(0).null_count, rows + batch.num_rows
    return [measured for measured, count in ((True, rows - nulls), (False, nulls)) if count]


def _index(item: Mapping[str, Any], place: int) -> int:
    index = item.get("index", place)
    return index if isinstance(index, int) and not isinstance(index, bool) else place


def _whole_ns(value: object) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 1 << 63 else None  # type: ignore[operator,return-value]
