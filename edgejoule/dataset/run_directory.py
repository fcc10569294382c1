"""A run's directory: made under `.partial`, filled, sealed with `run.json`, renamed into place.

The rename is the only step that makes a run look finished. Killed at any point, a run leaves a
directory under `.partial` that `recover` understands.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgejoule.config import SCHEMA_VERSION, check_name
from edgejoule.dataset.alive import LOCK_NAME, gate, hold_lock, parent_facts
from edgejoule.dataset.convert import FileFacts, convert, file_facts
from edgejoule.dataset.schema import schema_problems
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import (
    canonical_json,
    disk_errors,
    files_below,
    read_json,
    sync_file,
    sync_folder,
    write_json,
)
from edgejoule.phases import read_phases

__all__ = [
    "FileFacts",
    "check_result_folder",
    "convert",
    "create_partial",
    "existing_run",
    "finish",
    "is_dataset",
    "read_defaults",
    "release",
    "run_directories",
    "seal",
    "seal_file",
    "seal_problem",
    "set_defaults_if_absent",
]

PARTIAL = ".partial"
ASIDE = ".aside-"
RUN_JSON = "run.json"
DATASET_JSON = "dataset.json"
_WORKING_FOLDERS = ("artefacts", "sysfs")
_REQUEST_JSON = "request.json"
_WORKING_FILES = (
    *(f"{name}.bin" for name in ("page", "power", "inferences", "layers", "replay", "resources")),
    "phases.jsonl",
    _REQUEST_JSON,
    LOCK_NAME,
)
# Descriptors of the locks on the working directories of this process; see `alive`.
_held: dict[Path, int] = {}


def create_partial(dataset: Path, name: str, request: dict[str, Any]) -> Path:
    """Make the working directory of a run, `<dataset>/.partial/<name>-<id>/`, and its request.

    The directory stays locked until `finish`, `release`, or this process's death.

    Args:
        dataset: The dataset's folder; created if it is not there.
        name: The finished run's name.
        request: What `recover` needs: `config`, `config_sha256`, `machine`, ... ; `name`, `id`,
            `created_at` and `parent` are added.

    Raises:
        UsageError: The folder cannot be written, or the name is no run name.
        MeasurementError: The disk is full.
    """
    check_name(name)
    check_result_folder(dataset)
    identity = secrets.token_hex(4)
    partial = dataset / PARTIAL / f"{name}-{identity}"
    with disk_errors(dataset):
        partial.parent.mkdir(parents=True, exist_ok=True)
        with gate(partial.parent):
            partial.mkdir()
            fd = hold_lock(partial / LOCK_NAME)
            if fd is not None:
                _held[partial.resolve()] = fd
            write_json(
                partial / "request.json",
                {
                    **request,
                    "schema_version": SCHEMA_VERSION,
                    "name": name,
                    "id": identity,
                    "created_at": utc_now(),
                    "parent": parent_facts(),
                },
            )
        sync_folder(partial.parent)
    return partial


def release(partial: Path) -> None:
    """Give the lock on a working directory back: from now on `recover` may take it."""
    fd = _held.pop(partial.resolve(), None)
    if fd is not None:
        os.close(fd)


def utc_now() -> str:
    """Return the wall time as ISO 8601 in UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def seal(run: dict[str, Any]) -> dict[str, Any]:
    """Return the content of `run.json` with its own hash in `run_sha256`."""
    blank = {**run, "run_sha256": ""}
    return {**run, "run_sha256": hashlib.sha256(canonical_json(blank)).hexdigest()}


def seal_file(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of one of the dataset's own files with version and hash in it.

    `sha256` is over the file's bytes with `sha256` set to `""`, as `run_sha256` is in `run.json`.
    """
    blank = {**document, "schema_version": SCHEMA_VERSION, "sha256": ""}
    return {**blank, "sha256": hashlib.sha256(canonical_json(blank)).hexdigest()}


def seal_problem(document: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the hash that a file's content carries, None if it agrees.

    Content without one, from before schema_version 4, is taken as it is.
    """
    said = document.get("sha256")
    if said is None:
        return None
    try:
        found = hashlib.sha256(canonical_json({**document, "sha256": ""})).hexdigest()
    except ValueError:
        return "holds a number that is not finite"
    return None if found == said else "was changed after it was written (sha256)"


def finish(partial: Path, run: dict[str, Any], final_name: str, *, overwrite: bool = False) -> Path:
    """Seal a working directory and rename it to `<dataset>/<final_name>`.

    Every file is hashed and counted, `run.json` is written last, all is synced, the working files
    are deleted. With `overwrite` an existing run is moved aside first and removed afterwards.

    Args:
        partial: The working directory; `convert` and all writers are done.
        run: The content of `run.json`. Filled in here: `schema_version`, `name`, `files`,
            `run_sha256`, and `phases` (from `phases.jsonl`) if it has none.
        final_name: The run's name.
        overwrite: Replace an existing run of that name.

    Returns:
        The finished run's directory.

    Raises:
        MeasurementError: `run` does not fit the schema, or the disk is full.
        UsageError: A run of that name exists.
    """
    dataset = partial.parent.parent
    final = dataset / final_name
    if final.exists() and not overwrite:
        raise _exists(final)
    with disk_errors(partial):
        write_run_json(partial, run, final_name)
        remove_working_files(partial)
        move_into_place(partial, final, overwrite=overwrite)
    return final


def write_run_json(partial: Path, run: dict[str, Any], name: str) -> dict[str, Any]:
    """Hash the files of a directory that stay, sync them, and write its `run.json`.

    Raises:
        MeasurementError: The content does not fit the schema.
    """
    if "phases" not in run:
        log = partial / "phases.jsonl"
        spans = read_phases(log) if log.is_file() else []
        phases = [
            {"phase": span.phase, "start_ns": span.start_ns, "end_ns": span.end_ns}
            for span in spans
        ]
        run = {**run, "phases": phases}
    kept = [name for name in files_below(partial) if _stays(name)]
    facts = {name: file_facts(partial / name).to_json() for name in kept}
    sealed = seal({**run, "schema_version": SCHEMA_VERSION, "name": name, "files": facts})
    problems = schema_problems("run", sealed)
    if problems:
        raise MeasurementError(f"run.json of {name} does not fit its schema: {problems[0]}")
    for kept_name in kept:
        sync_file(partial / kept_name)
    for folder in {(partial / kept_name).parent for kept_name in kept}:
        sync_folder(folder)
    write_json(partial / RUN_JSON, sealed)
    return sealed


def remove_working_files(partial: Path) -> None:
    """Delete what only the measurement needed; what is gone already does not matter."""
    for name in _WORKING_FOLDERS:
        shutil.rmtree(partial / name, ignore_errors=True)
    for name in files_below(partial):
        if name not in {RUN_JSON, _REQUEST_JSON, LOCK_NAME} and not _stays(name):
            (partial / name).unlink(missing_ok=True)


def move_into_place(partial: Path, final: Path, *, overwrite: bool) -> None:
    """Rename a sealed working directory to its place; request and lock go last.

    Raises:
        UsageError: Something of that name exists and is not to be replaced.
    """
    aside = partial.parent / f"{ASIDE}{partial.name}"
    # Behind the gate no `recover` claims the directory between the unlocking and the rename.
    with gate(partial.parent):
        if final.exists() and not overwrite:
            raise _exists(final)
        (partial / _REQUEST_JSON).unlink(missing_ok=True)
        (partial / LOCK_NAME).unlink(missing_ok=True)
        sync_folder(partial)
        if final.exists():
            final.rename(aside)
        partial.rename(final)
        release(partial)
        sync_folder(final.parent)
        sync_folder(partial.parent)
    shutil.rmtree(aside, ignore_errors=True)


def existing_run(dataset: Path, name: str) -> dict[str, Any] | None:
    """Return the `run.json` of a finished run, None if there is none of that name.

    Raises:
        MeasurementError: Its `run.json` is damaged, or the folder is there without one.
    """
    folder = dataset / name
    if not folder.exists():
        return None
    found = read_json(folder / RUN_JSON)
    if not isinstance(found, dict):
        raise MeasurementError(f"{folder / RUN_JSON} is damaged (no JSON object)")
    return found


def run_directories(dataset: Path) -> list[Path]:
    """Return the runs of a dataset, complete or not, by name; hidden folders are none."""
    return sorted(
        path.parent
        for path in dataset.glob(f"*/{RUN_JSON}")
        if not path.parent.name.startswith(".")
    )


def is_dataset(folder: Path) -> bool:
    """Say whether a folder is a dataset: it holds a run or one of a dataset's own files."""
    if not folder.is_dir():
        return False
    marks = (DATASET_JSON, PARTIAL, ".dvc", "idling_power.json")
    return any((folder / mark).exists() for mark in marks) or bool(run_directories(folder))


def check_result_folder(folder: Path) -> None:
    """Refuse a folder that holds other things than a dataset.

    Raises:
        UsageError: It is no folder, or has visible entries and is no dataset.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", "give another --result-dir")
    with disk_errors(folder):
        visible = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
    if visible and not is_dataset(folder):
        raise UsageError(
            f"{folder} is no dataset: it holds {', '.join(visible[:3])}",
            "give a new or empty folder as --result-dir",
        )


def read_defaults(dataset: Path) -> dict[str, Any] | None:
    """Return the defaults that run names are relative to, None before the first run.

    Raises:
        MeasurementError: `dataset.json` is damaged.
    """
    path = dataset / DATASET_JSON
    if not path.exists():
        return None
    document = read_json(path)
    problem = next(iter(schema_problems("dataset", document)), None) or seal_problem(document)
    if problem:
        raise MeasurementError(
            f"{path} is damaged ({problem})",
            "bring it back from the last version, or remove it: the next run writes it anew",
        )
    defaults: dict[str, Any] = document["defaults"]
    return defaults


def set_defaults_if_absent(dataset: Path, defaults: dict[str, Any]) -> dict[str, Any]:
    """Make these the dataset's defaults unless it has some; return those that hold.

    Of several processes that try at once one wins, and all return the winner's.
    """
    found = read_defaults(dataset)
    if found is not None:
        return found
    with disk_errors(dataset):
        dataset.mkdir(parents=True, exist_ok=True)
        own = dataset / f".{DATASET_JSON}.{secrets.token_hex(4)}"
        try:
            write_json(own, seal_file({"defaults": defaults, "created_at": utc_now()}))
            try:
                # A link fails where a rename would replace the winner's file.
                os.link(own, dataset / DATASET_JSON)
            except FileExistsError:
                pass
            except OSError:  # a file system without links (FAT)
                if not (dataset / DATASET_JSON).exists():
                    own.replace(dataset / DATASET_JSON)
        finally:
            own.unlink(missing_ok=True)
        sync_folder(dataset)
    return read_defaults(dataset) or defaults


def _stays(name: str) -> bool:
    """Say whether a file of a working directory belongs to the finished run."""
    top = name.partition("/")[0]
    if top in _WORKING_FOLDERS or name in _WORKING_FILES or name == RUN_JSON:
        return False
    return not name.endswith(".tmp")


def _exists(final: Path) -> UsageError:
    return UsageError(
        f"{final} exists already", "give another --run-name, or --overwrite to replace it"
    )
