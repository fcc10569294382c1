"""What tables are made from: the runs that were chosen, their files checked, their layers' times.

A table made of wrong bytes is worse than none, so every file is held against its hash in `run.json`
before it is read. Numpy and pyarrow, imported inside the functions.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.run_directory import RUN_JSON, is_dataset, run_directories
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import read_json, sha256_of

if TYPE_CHECKING:
    import numpy as np

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
# Values of a group of layers that are in memory at a time; the file is read once per group.
_VALUES_AT_ONCE = 1 << 24
_BATCH = 1 << 19


@dataclass(frozen=True)
class SourceRun:
    """A run that goes into a table.

    Attributes:
        path: Its directory.
        run: Its `run.json`, whole.
    """

    path: Path
    run: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def config(self) -> Mapping[str, Any]:
        """Its configuration."""
        found: Mapping[str, Any] = self.run["config"]
        return found

    def has(self, file: str) -> bool:
        """Say whether the run has such a file."""
        return file in self.run["files"]

    def checked(self, file: str) -> Path:
        """Return the path of a file of the run once its bytes are those that were sealed.

        Raises:
            MeasurementError: It is missing or has other bytes.
        """
        path, facts = self.path / file, self.run["files"].get(file)
        if facts is None:
            raise MeasurementError(
                f"{self.name} has no {file}",
                "a run that was cut short or measured without a power sensor lacks some",
            )
        if not path.is_file():
            problem = "it is missing"
        elif path.stat().st_size != facts["bytes"] or sha256_of(path) != facts["sha256"]:
            problem = "it has other bytes than run.json says"
        else:
            return path
        raise MeasurementError(f"{path} cannot be used: {problem}", _mend(self.path))

    def engine(self) -> dict[str, Any]:
        """Return `engine.json`.

        Raises:
            MeasurementError: It is missing, changed, or does not number its layers.
        """
        path = self.checked("engine.json")
        engine: dict[str, Any] = read_json(path)
        if [layer["index"] for layer in engine["layers"]] != list(range(len(engine["layers"]))):
            raise MeasurementError(
                f"{path} cannot be used: its layers are not numbered 0, 1, 2, ...", _mend(self.path)
            )
        return engine

    def network(self) -> str:
        """Return the name of the network, the same over all of its runs.

        The model as asked; of a user's file its name without folder and ending, so that a network
        measured from two folders is one.
        """
        asked = str(self.config.get("engine") or self.config["model"])
        is_file = self.config.get("engine") or self.config.get("model_sha256")
        # Windows' rules split at both slashes, and a run may come from another system.
        return PureWindowsPath(asked).stem if is_file else asked

    def rails(self) -> dict[str, list[str]]:
        """Return the rails of each sensor, as `run.json` says."""
        from edgejoule.power.totals import rails_by_sensor

        sensor = self.run["sensor"]
        return rails_by_sensor(sensor.get("channels", ()), sensor["name"])


def open_run(path: Path) -> SourceRun:
    """Return a run whose `run.json` is whole.

    Raises:
        MeasurementError: It is missing, damaged, of a newer format, or was changed.
    """
    from edgejoule.dataset.run_directory import seal
    from edgejoule.dataset.schema import schema_problems

    try:
        run = read_json(path / RUN_JSON)
    except MeasurementError as error:
        raise MeasurementError(error.message, _mend(path)) from error
    problem = next(iter(schema_problems("run", run)), None)
    if problem is None and seal(run)["run_sha256"] != run["run_sha256"]:
        problem = "it was changed after the run was sealed"
    if problem is not None:
        raise MeasurementError(f"{path / RUN_JSON} cannot be used: {problem}", _mend(path))
    return SourceRun(path, run)


def choose_runs(
    dataset: Path, names: Sequence[str] = (), *, incomplete: bool = False
) -> tuple[tuple[SourceRun, ...], dict[str, str]]:
    """Return the runs of a dataset that go into tables, and why the others do not.

    Args:
        dataset: The dataset's folder.
        names: Only these runs; none given: all.
        incomplete: Take incomplete and failed runs, too.

    Returns:
        The runs by name, and run -> reason for those left out.

    Raises:
        UsageError: No such dataset or run, or no run is left.
        MeasurementError: A chosen run's `run.json` cannot be used.
    """
    folders = {path.name: path for path in _folders(dataset)}
    unknown = [name for name in names if name not in folders]
    if unknown:
        known = ", ".join(folders) or "none"
        raise UsageError(f"{dataset} has no run {unknown[0]!r}", f"it has {known}")
    chosen, left_out = [], {}
    for name, path in folders.items():
        if names and name not in names:
            continue
        source = open_run(path)
        if source.run["status"] == "complete" or incomplete:
            chosen.append(source)
        else:
            missing = "; ".join(source.run.get("missing", ()))
            left_out[name] = f"{source.run['status']}: {missing or 'no reason kept'}"
    if not chosen:
        why = "; ".join(f"{name} is {reason}" for name, reason in left_out.items())
        raise UsageError(
            f"{dataset} has no complete run" + (f": {why}" if why else ""),
            "--allow-incomplete takes them (in Python incomplete=True)"
            if why
            else "measure or pull one",
        )
    return tuple(chosen), left_out


def _folders(dataset: Path) -> list[Path]:
    if not dataset.is_dir():
        raise UsageError(
            f"{dataset} is no folder",
            "give a dataset's; data_version.py pull brings one, run_experiment.sh measures one",
        )
    if (dataset / RUN_JSON).exists():
        raise UsageError(
            f"{dataset} is one run, not a dataset", f"give {dataset.parent}, and --run to choose"
        )
    if not is_dataset(dataset):
        raise UsageError(f"{dataset} is no dataset", "give the folder that --result-dir was")
    return run_directories(dataset)


def dataset_facts(dataset: Path, runs: Sequence[SourceRun]) -> dict[str, Any]:
    """Return which version of a dataset tables were made from.

    Returns:
        `sha256`: over the names and the `run_sha256` of the runs, the same wherever they lie;
        `commit` and `tags`: of the dataset's own repository, null and none without one;
        `runs`: name -> `run_sha256` and `schema_version`.
    """
    found = {
        one.name: {key: one.run[key] for key in ("run_sha256", "schema_version")} for one in runs
    }
    seals = {name: facts["run_sha256"] for name, facts in found.items()}
    text = json.dumps(seals, sort_keys=True, separators=(",", ":"))
    commit, tags = _version(dataset)
    return {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "commit": commit,
        "tags": tags,
        "runs": found,
    }


def _version(dataset: Path) -> tuple[str | None, list[str]]:
    from edgejoule.dataset.versions.git import git_output, is_repository

    if not is_repository(dataset):
        return None, []
    try:
        commit = git_output(dataset, "rev-parse", "--verify", "--quiet", "HEAD")
        tags = git_output(dataset, "tag", "--points-at", "HEAD") if commit else None
    except UsageError:  # no git on this machine: the hash over the runs says which data they are
        return None, []
    return (commit or "").strip() or None, (tags or "").split()


@dataclass(frozen=True)
class LayerRuntimes:
    """Times of a run's layers over its profiled inferences, each (layers,), ms.

    Attributes:
        inferences: How many.
        mean_ms: Mean.
        half_ms: Half-width of its 95 % interval from block means, None below two inferences.
        median_ms: Median.
    """

    inferences: int
    mean_ms: np.ndarray
    half_ms: list[float | None]
    median_ms: np.ndarray


def layer_runtimes(
    path: Path, layers: int, *, values_at_once: int = _VALUES_AT_ONCE
) -> LayerRuntimes:
    """Read `layers.parquet` in batches, a group of layers at a time, so that memory is bounded.

    Args:
        path: The file.
        layers: How many layers the engine has.
        values_at_once: Durations that may be in memory together.

    Returns:
        Over those inferences from the first on that have each layer; in a complete run all.
    """
    import numpy as np

    from edgejoule.energy.statistics import block_starts, half_width_of

    counts = np.zeros(0, np.int64)
    for inference, _, _ in _batches(path):
        counts = _counted(counts, inference)
    short = np.flatnonzero(counts != layers)
    inferences = int(short[0]) if len(short) else len(counts)
    mean_ms, median_ms = np.full(layers, np.nan), np.full(layers, np.nan)
    half_ms: list[float | None] = [None] * layers
    starts = block_starts(inferences)
    sizes = np.diff(np.append(starts, inferences))
    width = max(1, min(layers, values_at_once // max(1, inferences)))
    for first in range(0, layers if inferences else 0, width):
        last = min(layers, first + width)
        values = np.full((inferences, last - first), np.nan, np.float32)
        for inference, layer, duration_ms in _batches(path):
            own = (layer >= first) & (layer < last) & (inference < inferences)
            values[inference[own], layer[own] - first] = duration_ms[own]
        sums = np.add.reduceat(values, starts, axis=0, dtype=np.float64)
        mean_ms[first:last] = sums.sum(axis=0) / inferences
        median_ms[first:last] = np.median(values, axis=0)
        for column in range(last - first):
            half_ms[first + column] = half_width_of(sums[:, column] / sizes)
    return LayerRuntimes(inferences, mean_ms, half_ms, median_ms)


def _batches(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    import pyarrow.parquet as pq

    columns = ["inference", "layer", "duration_ms"]
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, columns=columns):
            inference, layer, duration_ms = (batch[name].to_numpy() for name in columns)
            yield inference, layer, duration_ms


def _counted(counts: np.ndarray, inference: np.ndarray) -> np.ndarray:
    import numpy as np

    more: np.ndarray = np.bincount(inference, minlength=len(counts)).astype(np.int64)
    more[: len(counts)] += counts
    return more


def finite(value: Any) -> float | None:
    """Return a number as a float, None for what is no number or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def part(holder: Any, *keys: str) -> Any:
    """Return what lies below `keys` in nested objects, None where there is nothing."""
    for key in keys:
        holder = holder.get(key) if isinstance(holder, Mapping) else None
    return holder


def _mend(run: Path) -> str:
    return (
        f"`data_version.py verify {run}` says what else is wrong; pull the run again, or leave it "
        "out by naming others with --run"
    )
