"""What this folder alone remembers of its versions; below `.git`, so it is never versioned.

`runs.json`: which runs the folder has had, so that one that vanished is told from one that was
never fetched. `damaged.json`: which objects a check of a remote found wrong, so that the next push
sends them again. Losing either file loses nothing but that. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgejoule.dataset.versions.git import is_repository, run_git
from edgejoule.files import write_json

_VERSION = 1
CONTENT = "content"  # only a look at the content can clear it
PRESENCE = "presence"


@dataclass(frozen=True)
class Damage:
    """Why an object of a remote is bad.

    Attributes:
        files: Whose content it is, as `run/file`.
        reason: One line.
        kind: `content` if only reading it back shows it, else `presence`.
    """

    files: tuple[str, ...]
    reason: str
    kind: str = PRESENCE


def had_here(dataset: Path) -> dict[str, str]:
    """Return the runs that this folder has had: name -> SHA-256 of its `run.json` then."""
    runs = _read(dataset, "runs.json").get("runs")
    return {str(k): str(v) for k, v in runs.items()} if isinstance(runs, dict) else {}


def note_here(dataset: Path, runs: Mapping[str, str]) -> None:
    """Remember that these runs are here: name -> SHA-256 of its `run.json`."""
    before = had_here(dataset)
    if any(before.get(run) != sha256 for run, sha256 in runs.items()):
        _write(dataset, "runs.json", {"runs": {**before, **runs}})


def forget_here(dataset: Path, runs: Iterable[str]) -> None:
    """Forget that these runs were here: they were removed on purpose."""
    before = had_here(dataset)
    kept = {run: sha256 for run, sha256 in before.items() if run not in set(runs)}
    if kept != before:
        _write(dataset, "runs.json", {"runs": kept})


def noted_damaged(dataset: Path, dvc_url: str) -> dict[str, Damage]:
    """Return the objects of a store that were found bad: hash -> why."""
    stores = _read(dataset, "damaged.json").get("stores")
    found = stores.get(dvc_url) if isinstance(stores, dict) else None
    return {
        str(oid): Damage(tuple(map(str, item.get("files", ()))), str(item.get("reason")), kind)
        for oid, item in (found.items() if isinstance(found, dict) else ())
        if isinstance(item, dict) and (kind := str(item.get("kind", PRESENCE)))
    }


def note_damaged(dataset: Path, dvc_url: str, found: Mapping[str, Damage]) -> None:
    """Remember objects of a store as bad."""
    _set_damaged(dataset, dvc_url, {**noted_damaged(dataset, dvc_url), **found})


def forget_damaged(dataset: Path, dvc_url: str, oids: Iterable[str]) -> None:
    """Take objects of a store off the list: they were seen to be right, or sent again."""
    right = set(oids)
    before = noted_damaged(dataset, dvc_url)
    _set_damaged(dataset, dvc_url, {oid: why for oid, why in before.items() if oid not in right})


def _set_damaged(dataset: Path, dvc_url: str, wanted: Mapping[str, Damage]) -> None:
    if wanted == noted_damaged(dataset, dvc_url):
        return
    stores = _read(dataset, "damaged.json").get("stores")
    stores = dict(stores) if isinstance(stores, dict) else {}
    stores[dvc_url] = {oid: asdict(why) for oid, why in wanted.items()}
    kept = {url: bad for url, bad in stores.items() if bad}
    _write(dataset, "damaged.json", {"stores": kept})


def _read(dataset: Path, name: str) -> dict[str, Any]:
    """Return a note's content, {} where there is none or it was cut short."""
    if not is_repository(dataset):
        return {}
    try:
        found = json.loads((_folder(dataset) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("schema_version") == _VERSION else {}


def _write(dataset: Path, name: str, content: dict[str, Any]) -> None:
    folder = _folder(dataset)
    folder.mkdir(exist_ok=True)
    write_json(folder / name, {"schema_version": _VERSION, **content})


def _folder(dataset: Path) -> Path:
    folder = dataset / ".git"
    if not folder.is_dir():  # a worktree or a submodule keeps its own elsewhere
        folder = Path(run_git(dataset, "rev-parse", "--absolute-git-dir").strip())
    return folder / "edgejoule"
