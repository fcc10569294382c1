"""A synthetic but realistic recording of layers: log-normal durations around each layer's median,
a clock that wanders, gaps between layers. Times in whole steps of the profiler's clock. And a
dataset's repository, made without DVC."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from edgejoule.dataset.run_directory import run_directories, seal_file
from edgejoule.dataset.versions.git import init_repository, run_git
from edgejoule.files import files_below, sha256_of, write_json
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


def write_pointer(dataset: Path, name: str) -> Path:
    """Write a run's pointer as DVC does, by DVC's rules, without DVC."""
    folder = dataset / name
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    files = files_below(folder)
    listed = [
        {"md5": hashlib.md5((folder / file).read_bytes()).hexdigest(), "relpath": file}
        for file in files
    ]
    oid = hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest()
    path = dataset / f"{name}.dvc"
    path.write_text(
        f"outs:\n- md5: {oid}.dir\n"
        f"  size: {sum((folder / file).stat().st_size for file in files)}\n"
        f"  nfiles: {len(files)}\n  hash: md5\n  path: {name}\n"
        "meta:\n  edgejoule:\n"
        f"    run_json_sha256: \n      {sha256_of(folder / 'run.json')}\n"
        f"    config_sha256: \n      {run['config_sha256']}\n"
        f"    status: {run['status']}\n"
        f"    simulated: {str(run['simulated']).lower()}\n"
        f"    weights: {run['weights']}\n",
        encoding="utf-8",
    )
    return path


def make_repository(dataset: Path) -> None:
    """Make a dataset a repository with one version, without DVC."""
    init_repository(dataset)
    (dataset / ".dvc").mkdir()
    (dataset / ".dvc" / "config").write_text("[core]\n    analytics = false\n", encoding="utf-8")
    (dataset / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n", encoding="utf-8")
    (dataset / ".gitignore").write_text("/*/\n!/.dvc/\n", encoding="utf-8")
    (dataset / ".dvcignore").write_text(".partial\n", encoding="utf-8")
    baseline = {"timestamp": "20241121-051743", "avg_idle_power": 4234560.2, "rails": {}}
    write_json(dataset / "idling_power.json", seal_file(baseline))
    for run in run_directories(dataset):
        write_pointer(dataset, run.name)
    commit(dataset)


def commit(dataset: Path) -> None:
    """Commit what is versioned of a dataset."""
    versioned = [".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"]
    versioned += ["dataset.json", "idling_power.json"]
    versioned += sorted(path.name for path in dataset.glob("*.dvc") if path.is_file())
    run_git(dataset, "add", "--force", "--", *versioned)
    run_git(dataset, "commit", "--quiet", "-m", "a version")
