"""Where `benchmarks/closure.py` keeps its runs, and how they travel from machine to machine.

<result-dir>/data/<network>-b<batch>-r<repeat>/    run directories
<result-dir>/repeat-<network>-b<batch>/            those of --repeatability
<result-dir>/logs/                                 what the calls printed
<result-dir>/calls.jsonl                           a line per call
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any


def is_done(run: Path) -> bool:
    """Whether a run directory holds a complete run."""
    try:
        said = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(said.get("status") == "complete")


def calls_of(folder: Path) -> list[dict[str, Any]]:
    """Return what was noted of the calls."""
    path = folder / "calls.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def pack(folder: Path, target: Path) -> None:
    """Put the runs, the logs and the calls into one archive."""
    with tarfile.open(target, "w:gz") as archive:
        for path in sorted(folder.iterdir()):
            if path.name != "builds" and path.resolve() != target.resolve():
                archive.add(path, path.name, filter=_finished)


def _finished(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "/.partial" in member.name else member


def unpack(source: Path, folder: Path) -> None:
    """Add the runs of an archive; those that are there stay, calls are put together."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(source) as archive:
        for member in archive.getmembers():
            if member.name == "calls.jsonl":
                lines = archive.extractfile(member)
                with (folder / "calls.jsonl").open("ab") as file:
                    file.write(lines.read() if lines else b"")
            elif not (folder / member.name).exists():
                archive.extract(member, folder, filter="data")
