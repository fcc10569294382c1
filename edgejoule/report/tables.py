"""Read a run directory into what a report shows. No hardware library, any operating system.

A report must also show a run of which something is missing, so whatever cannot be read becomes a
sentence in `RunTables.missing`; only a directory without a readable `run.json` is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgejoule.energy.rollup import Rollup
from edgejoule.energy.roofline import LayerRoofline, layer_roofline, roof_of
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.report.energies import LayerEnergy, layer_energies, load_rollups
from edgejoule.report.layer_times import load_layer_times
from edgejoule.report.series import LayerTimes, RunSeries
from edgejoule.report.series_load import guarded, load_series
from edgejoule.report.text import printable

TOTAL = "total"


@dataclass(frozen=True)
class LayerRow:
    """One layer over all profiled inferences.

    Attributes:
        index: Position in the engine.
        name: The runtime's name.
        type: Operation, None if unknown.
        module_path: Module in the user's model, None is *unmapped*.
        executions: Times recorded.
        median_ms: Median duration.
        mean_ms: Mean duration.
        share: Part of the profiled inferences' time, 0 to 1, without what the profiler kept the
            device waiting; None if those are not there.
        energy: By the best method there is, None if there is none.
        roofline: Where it lies under the measured roofline.
        half_ms: Half-width of the mean's 95 % interval within this process, None if not known.
        operation: In the words that all backends share (`convolution`, ...), None if unknown.
    """

    index: int
    name: str
    type: str | None
    module_path: str | None
    executions: int
    median_ms: float
    mean_ms: float
    share: float | None
    energy: LayerEnergy | None
    roofline: LayerRoofline = field(default_factory=LayerRoofline)
    half_ms: float | None = None
    operation: str | None = None

    @property
    def module(self) -> str:
        """The module in words; the model itself has an empty path."""
        return "unmapped" if self.module_path is None else self.module_path or "(the model)"


@dataclass(frozen=True)
class RunTables:
    """A run as a report needs it.

    Attributes:
        path: The run directory.
        run: `run.json` as it is.
        layers: Every layer with recorded times, in the engine's order.
        idle: `idle.json` as it is, None if it is not there.
        missing: Sentences about what is missing or cannot be read.
        rollups: Energy summed up, one per method on the rail that stands for the run, the best
            method first.
        series: What is drawn over time; empty where it was not asked for.
    """

    path: Path
    run: Mapping[str, Any]
    layers: tuple[LayerRow, ...] = ()
    idle: Any = None
    missing: tuple[str, ...] = field(default=())
    rollups: tuple[Rollup, ...] = ()
    series: RunSeries = field(default_factory=RunSeries)

    @property
    def name(self) -> str:
        """The run's name, which is its directory's."""
        return self.path.name

    @property
    def summary(self) -> Mapping[str, Any]:
        """The summary, empty where there is none."""
        return part(self.run, "summary")

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration, empty where there is none."""
        return part(self.run, "config")

    @property
    def simulated(self) -> bool:
        """Whether power was simulated; anything but a plain `false` counts as simulated."""
        return self.run.get("simulated", False) is not False

    @property
    def marks(self) -> tuple[str, ...]:
        """What must stand wherever this run is shown."""
        found = []
        status = self.run.get("status", "complete")
        if status != "complete":
            found.append(printable(status).upper())
        if self.simulated:
            found.append("SIMULATED power")
        weights = self.run.get("weights", self.config.get("weights"))
        if weights in ("random", "user"):
            found.append("random weights" if weights == "random" else "user's weights")
        if self.run.get("shared_gpu"):
            found.append("shared GPU")
        return tuple(found)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the measurement itself remarked."""
        return texts(self.summary.get("notes"))

    def slowest(self, count: int) -> tuple[LayerRow, ...]:
        """Return the `count` layers of the greatest median time, the slowest first."""
        order = sorted(self.layers, key=lambda layer: (-layer.median_ms, layer.index))
        return tuple(order[:count])


def part(holder: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return a nested object, an empty one where it is absent or something else."""
    for key in keys:
        value = holder.get(key)
        if not isinstance(value, Mapping):
            return {}
        holder = value
    return holder


def number(holder: Mapping[str, Any], key: str) -> float | None:
    """Return a finite number, None where it is absent or something else."""
    value = holder.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:  # JSON's whole numbers have any length
        return None
    return found if math.isfinite(found) else None


def texts(value: Any) -> tuple[str, ...]:
    """Return a list's items as texts, none where it is absent or something else."""
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def list_runs(dataset: Path) -> list[Path]:
    """Return the run directories of a dataset in the order of their names.

    Raises:
        UsageError: There is no such folder, or it holds neither a run nor the mark of a dataset.
    """
    if not dataset.is_dir():
        raise UsageError(f"{dataset} is no folder", "name the folder of a dataset (raw_data)")
    runs = sorted(
        path
        for path in dataset.iterdir()
        if path.is_dir() and not path.name.startswith(".") and (path / "run.json").exists()
    )
    marks = ("idling_power.json", ".dvc", ".partial", "dataset.json")
    if not runs and not any((dataset / mark).exists() for mark in marks):
        raise UsageError(
            f"{dataset} is no dataset: no run.json in any of its folders",
            "name the folder that --result-dir was",
        )
    return runs


def load_run(path: Path, *, series: bool = False) -> RunTables:
    """Read a run directory.

    Args:
        path: The directory.
        series: Also read what is drawn over time, which takes most of the time.

    Raises:
        MeasurementError: There is no `run.json`, or it is no JSON object.
    """
    run = _json(path / "run.json")
    if isinstance(run, str) or not isinstance(run, dict):
        raise MeasurementError(
            f"{path}: {run if isinstance(run, str) else 'run.json is no object'}"
        )
    missing = list(texts(run.get("missing")))

    def expected(name: str) -> bool:
        """Without a sensor there is no file of energy, and nothing is missing."""
        return name in part(run, "files") or (path / name).exists()

    def optional(name: str) -> Any:
        value = _json(path / name)
        if isinstance(value, str):
            missing.append(value)
            return None
        return value

    engine = optional("engine.json")
    idle = optional("idle.json") if expected("idle.json") else None
    times = guarded(lambda: load_layer_times(path / "layers.parquet"), "layers.parquet", missing)
    held_ms = number(part(run, "summary", "profiled"), "held_ms_mean") or 0.0
    inference_ms = guarded(
        lambda: _profiled_ms(path / "inferences.parquet", held_ms), "inferences.parquet", missing
    )
    described = _described(engine)
    rollups: tuple[Rollup, ...] = ()
    if expected("energy.parquet"):
        means = {} if times is None else times.mean_ms
        file = path / "energy.parquet"
        found = guarded(lambda: load_rollups(file, run, described, means), file.name, missing)
        if found is not None:
            rollups, problems = found
            missing += problems
    layers = _rows(described, run, times, inference_ms, layer_energies(rollups))
    if not layers and not missing:
        missing.append("no layer times were recorded")
    drawn = load_series(path, run) if series else RunSeries()
    unsaid = tuple(text for text in drawn.missing if text not in missing)
    drawn = replace(drawn, missing=unsaid)
    return RunTables(path, run, layers, idle, tuple(missing), rollups, drawn)


def _described(engine: Any) -> dict[int, Mapping[str, Any]]:
    """Return the layers of `engine.json` by index, as far as it can be read."""
    described = engine.get("layers") if isinstance(engine, dict) else None
    found: dict[int, Mapping[str, Any]] = {}
    for position, item in enumerate(described if isinstance(described, list) else []):
        if isinstance(item, dict):
            index = _count(item.get("index", position))
            found[position if index is None else index] = item
    return found


def _rows(
    known: Mapping[int, Mapping[str, Any]],
    run: Mapping[str, Any],
    times: LayerTimes | None,
    inference_ms: float | None,
    energy: Mapping[int, LayerEnergy],
) -> tuple[LayerRow, ...]:
    if times is None:
        return ()
    rows = []
    roof = roof_of(part(run, "summary").get("roofline"))
    for index in sorted(times.count):
        item = known.get(index, {})
        own = energy.get(index)
        mean_ms = times.mean_ms[index]
        share = times.total_ms[index] / inference_ms if inference_ms else None
        rows.append(
            LayerRow(
                index,
                str(item.get("name", f"layer {index}")),
                _text(item.get("type")),
                _text(item.get("module_path")),
                times.count[index],
                times.median_ms[index],
                mean_ms,
                share,
                own,
                layer_roofline(
                    _count(item.get("flops")),
                    _count(item.get("bytes_moved")),
                    mean_ms,
                    None if own is None else own.gross_mj,
                    roof,
                ),
                times.half_ms.get(index),
                _text(item.get("operation")),
            )
        )
    return tuple(rows)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _json(path: Path) -> Any:
    """Return the file's JSON value, or as a plain string why it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return f"{path.name} is missing"
    except (OSError, ValueError, RecursionError) as error:
        return f"{path.name} cannot be read ({error})"
    return f"{path.name} holds no object" if isinstance(value, str) else value


def column(path: Path, names: list[str]) -> Any:
    """Read some columns of one Parquet file (never a folder: its name would be interpreted)."""
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        try:
            table = pq.ParquetFile(file).read(columns=names)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path.name} cannot be read ({error})") from error
    absent = [name for name in names if name not in table.column_names]
    if absent:
        raise KeyError(f"{path.name} has no column {', '.join(absent)}")
    return table


def _profiled_ms(path: Path, held_ms: float) -> float | None:
    """Return the summed duration of the profiled inferences in ms, None without any.

    Less `held_ms` for each, in which the profiler kept the device waiting.
    """
    from edgejoule.report.series_latency import passes_of

    table = column(path, ["pass", "start_ns", "end_ns"])
    names, codes = passes_of(table["pass"])
    chosen = codes == (names.index("profiled") if "profiled" in names else -2)
    total_ns = int((table["end_ns"].to_numpy() - table["start_ns"].to_numpy())[chosen].sum())
    total_ms = total_ns * 1e-6 - held_ms * int(chosen.sum())
    return total_ms if total_ms > 0 else None
