"""What a version says of its runs without their data: the pointer files of a commit.

Read without DVC and in one call of git per version, so that a folder without the data, and a
machine without DVC, can list and compare versions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgejoule.dataset.versions.git import run_git

_FIELDS = ("run_json_sha256", "config_sha256", "status", "simulated", "weights")
_LIST = re.compile(r"^[- ]\s*md5:\s+['\"]?([0-9a-f]{32}\.dir)['\"]?\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Pointer:
    """A run of a version.

    Attributes:
        run: Its name.
        oid: MD5 of the list of its files, with `.dir` behind it: the object's name in DVC.
        bytes: Size of all its files; None where the pointer does not say.
        files: How many they are, or None.
        run_json_sha256: SHA-256 of its `run.json`; None for a pointer that plain DVC wrote.
        config_sha256: Identity of its configuration, or None.
        status: As in its `run.json`, or None.
        simulated: Whether its power is not measured; None where the pointer does not say.
        weights: As in its `run.json`, or None.
    """

    run: str
    oid: str
    bytes: int | None = None
    files: int | None = None
    run_json_sha256: str | None = None
    config_sha256: str | None = None
    status: str | None = None
    simulated: bool | None = None
    weights: str | None = None


def read_pointer(run: str, text: str) -> Pointer | None:
    """Return what a pointer file's text says; None if it points at no folder."""
    oid = _LIST.search(text)
    if oid is None:
        return None
    # YAML writers put a long value on the next line.
    found = {name: _value(name, text) for name in _FIELDS}
    simulated = found["simulated"]
    return Pointer(
        run=run,
        oid=oid[1],
        bytes=_number("size", text),
        files=_number("nfiles", text),
        run_json_sha256=found["run_json_sha256"],
        config_sha256=found["config_sha256"],
        status=found["status"],
        simulated=None if simulated is None else simulated == "true",
        weights=found["weights"],
    )


def pointers_at(dataset: Path, rev: str) -> dict[str, Pointer]:
    """Return the runs of a version, by name; a pointer at no folder is left out.

    Args:
        dataset: The repository.
        rev: A commit that is there.
    """
    found = {run: read_pointer(run, text) for run, text in pointer_texts(dataset, rev).items()}
    return {run: pointer for run, pointer in found.items() if pointer is not None}


def pointer_texts(dataset: Path, rev: str) -> dict[str, str]:
    """Return the text of every pointer file of a version, by the name of what it points at."""
    # No match is a failure of `grep`, hence the first look.
    names = run_git(dataset, "ls-tree", "--name-only", "-z", rev).split("\0")
    if not any(name.endswith(".dvc") and name != ".dvc" for name in names):
        return {}
    words = ["--no-color", "--no-line-number", "--no-column", "--null", "-a", "-e", ""]
    found = run_git(dataset, "grep", *words, rev, "--", ":(top,glob)*.dvc")
    texts: dict[str, list[str]] = {}
    for line in found.split("\n"):
        place, _, text = line.partition("\0")
        if place:  # the last line is empty
            texts.setdefault(place.partition(":")[2][: -len(".dvc")], []).append(text)
    return {run: "\n".join(lines) for run, lines in sorted(texts.items())}


def _value(name: str, text: str) -> str | None:
    found = re.search(rf"^\s+{name}:\s+['\"]?([^\s'\"]+)['\"]?\s*$", text, re.MULTILINE)
    return None if found is None or found[1] in {"null", "~"} else found[1]


def _number(name: str, text: str) -> int | None:
    found = re.search(rf"^[- ]\s*{name}:\s+(\d+)\s*$", text, re.MULTILINE)
    return int(found[1]) if found else None
