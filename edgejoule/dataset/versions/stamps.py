"""Which runs of this folder were checked file by file, and have not been touched since.

A stamp is made of the names, sizes and times of a run's files. One that still fits saves hashing
gigabytes again; whoever wants certainty says `verify`. Kept below `.git`, never versioned; losing
it loses nothing. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from edgejoule.dataset.run_directory import RUN_JSON
from edgejoule.files import files_below, sha256_of, write_json

_VERSION = 1


def is_stamped(dataset: Path, run: str, run_json_sha256: str | None) -> bool:
    """Say whether a run was checked whole, with this `run.json`, and is untouched since."""
    found = _read(dataset).get(run)
    if not isinstance(found, dict) or run_json_sha256 is None:
        return False
    return found.get("run_json_sha256") == run_json_sha256 and found.get("stamp") == _stamp(
        dataset / run
    )


def stamp(dataset: Path, runs: Iterable[str]) -> None:
    """Remember that these runs have just been checked."""
    folder = dataset / ".git" / "edgejoule"
    if not folder.parent.is_dir():
        return  # a worktree keeps its own elsewhere: then each pull hashes
    stamps = _read(dataset)
    for run in runs:
        run_json = sha256_of(dataset / run / RUN_JSON)
        stamps[run] = {"run_json_sha256": run_json, "stamp": _stamp(dataset / run)}
    here = {run: value for run, value in stamps.items() if (dataset / run).is_dir()}
    folder.mkdir(exist_ok=True)
    write_json(folder / "checked.json", {"schema_version": _VERSION, "runs": here})


def _stamp(folder: Path) -> str | None:
    digest = hashlib.sha256()
    try:
        for name in files_below(folder):
            status = (folder / name).lstat()
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    except OSError:
        return None
    return digest.hexdigest()


def _read(dataset: Path) -> dict[str, object]:
    try:
        path = dataset / ".git" / "edgejoule" / "checked.json"
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or found.get("schema_version") != _VERSION:
        return {}
    runs = found.get("runs")
    return runs if isinstance(runs, dict) else {}
