"""Bring a folder of the older text layout into a dataset, one run per model.

docs/OlderLayout.md says what becomes what. A recording that is damaged is named and passed by, the
others are imported; one that was imported before is left alone, so that an import that was stopped
is run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgejoule.config import check_name, slug
from edgejoule.dataset.older.facts import read_run_file
from edgejoule.dataset.older.importing_run import (
    Said,
    absent,
    config_of,
    name_of,
    write_recording,
)
from edgejoule.dataset.older.layout import find_recording, recording_names
from edgejoule.dataset.older.recording import read_recording
from edgejoule.dataset.older.tables import Supply, supply_of
from edgejoule.dataset.older.times import Zone
from edgejoule.dataset.run_directory import check_result_folder, existing_run, run_directories
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import canonical_json, sha256_of

_NOTHING_SAID = Said()
Progress = Callable[[str, int, int], None]


@dataclass
class ImportedRun:
    """What became of one recording.

    Attributes:
        model: The recording's folder.
        action: `imported`, `known` (it was imported before), `would import` or `failed`.
        run: The run's name, empty where it failed.
        status: The run's status, empty where nothing was read.
        layers: Its layers.
        inferences: Its inferences.
        bytes: Size of its files.
        seconds: How long it took.
        notes: What was decided.
        missing: What a complete run would have.
        other: What was said otherwise when it was imported before: `weights`, `board`.
        error: Why it failed.
    """

    model: str
    action: str
    run: str = ""
    status: str = ""
    layers: int = 0
    inferences: int = 0
    bytes: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    error: str = ""


@dataclass
class Imported:
    """What became of a folder.

    Attributes:
        dataset: Where the runs are.
        runs: One per recording.
        no_recordings: Folders that hold none.
    """

    dataset: Path
    runs: list[ImportedRun]
    no_recordings: list[str]

    @property
    def failed(self) -> bool:
        """Whether a recording could not be imported."""
        return any(run.action == "failed" for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "dataset": str(self.dataset),
            "runs": [vars(run) for run in self.runs],
            "no_recordings": self.no_recordings,
        }


def import_folder(
    folder: Path,
    dataset: Path,
    zone: Zone,
    *,
    models: Sequence[str] = (),
    said: Said = _NOTHING_SAID,
    dry_run: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Imported:
    """Import the recordings of a folder.

    Args:
        folder: The folder of the older layout.
        dataset: The dataset; made if it is not there.
        zone: The zone of the layout's local times.
        models: Names of recordings; empty: all.
        said: What the user says of them.
        dry_run: Read everything and write nothing.
        progress: Is told what is read, and how many bytes of how many.

    Raises:
        UsageError: No such folder or model, or the dataset is something else.
    """
    names, others = recording_names(folder, models)
    _check_dataset(folder, dataset)
    supply = supply_of(said.board)
    before = _imported_before(dataset)
    done = Imported(dataset, [], others)
    for name in names:
        began = time.monotonic()
        try:
            run = _import_one(folder, dataset, name, zone, said, supply, before, dry_run, progress)
        except MeasurementError as error:
            run = ImportedRun(name, "failed", error=str(error))
        run.seconds = time.monotonic() - began
        done.runs.append(run)
    return done


def _check_dataset(folder: Path, dataset: Path) -> None:
    """Refuse a dataset that is, or lies in, or holds, a folder of the older layout."""
    here, there = folder.resolve(), dataset.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UsageError(
            f"{dataset} and {folder} lie in one another", "give another folder with --dataset"
        )
    if dataset.is_dir():
        try:
            old, _ = recording_names(dataset)
        except UsageError:
            old = []
        if old:
            raise UsageError(
                f"{dataset} is a folder of the older layout itself",
                "give another folder with --dataset",
            )
    check_result_folder(dataset)


def _imported_before(dataset: Path) -> dict[bytes, Mapping[str, Any]]:
    """Return the recordings that a dataset has: hashes of the files -> `run.json`.

    Not by the run's name: that has the board in it, which a user may say later.
    """
    found: dict[bytes, Mapping[str, Any]] = {}
    for path in run_directories(dataset) if dataset.is_dir() else []:
        try:
            run = existing_run(dataset, path.name)
        except MeasurementError:
            continue  # whoever needs its name says what is wrong with it
        files = ((run or {}).get("imported") or {}).get("files")
        if run is not None and files:
            found[canonical_json(files)] = {**run, "run": path.name}
    return found


def _import_one(
    folder: Path,
    dataset: Path,
    name: str,
    zone: Zone,
    said: Said,
    supply: Supply,
    before: Mapping[bytes, Mapping[str, Any]],
    dry_run: bool,
    progress: Progress,
) -> ImportedRun:
    check_name(slug(name))
    recording = find_recording(folder, name)
    hashes = {file: sha256_of(path) for file, path in recording.files.items()}
    size = sum(path.stat().st_size for path in recording.files.values())

    run_name = name_of(dataset, name, config_of(name, read_run_file(recording.run_file), said))
    facts = ImportedRun(name, "would import", run_name, bytes=size)
    known = before.get(canonical_json(hashes))
    if known is not None:
        facts.action, facts.run, facts.status = "known", known["run"], known["status"]
        if known["weights"] != said.weights:
            facts.other.append("weights")
        if known["board_id"] != said.board:
            facts.other.append("board")
        return facts
    if dataset.is_dir() and existing_run(dataset, run_name) is not None:
        raise MeasurementError(
            f"{dataset / run_name} is another run already",
            "import into another --dataset, or move that run away",
        )

    def told(what: str, done: int, total: int) -> None:
        progress(f"{name}: {what}", done, total)

    read = read_recording(recording, zone, told)
    facts.layers, facts.inferences = len(read.durations_ms), read.inferences
    if dry_run:
        facts.notes, facts.missing = [*read.notes], [*read.missing, *absent(read)]
        if read.power_ns is not None:
            facts.notes.append(supply.note)
        if read.wrong:
            facts.missing.insert(0, read.wrong)
        return facts
    path, run = write_recording(dataset, read, said, supply, hashes)
    facts.action, facts.run, facts.status = "imported", path.name, run["status"]
    facts.notes, facts.missing = run["imported"]["notes"], run["missing"]
    return facts
