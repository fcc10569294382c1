"""Which folder a run's figures go into: its name, unless another file has that name already."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

FIGURES = "figures"
_INSTEAD = "report-figures"


def figures_folder(folder: Path) -> Path:
    """Return where the figures of a report in `folder` go: not into a run that has that name."""
    found = folder / FIGURES
    return folder / _INSTEAD if (found / "run.json").exists() else found


def folder_names(runs: Sequence[str], taken: Iterable[str]) -> dict[str, str]:
    """Return run -> folder, no two alike where case or composition of letters makes no difference.

    A dataset made on Linux may hold `Net` and `net`; on a stick or a Mac they were one folder.

    Args:
        runs: Names of the runs; the first in order keeps its name.
        taken: Names of files beside the folders.
    """
    used = {_key(name) for name in taken}
    found = {}
    for run in sorted(runs):
        name, count = run, 1
        while _key(name) in used:
            count += 1
            name = f"{run}~{count}"
        used.add(_key(name))
        found[run] = name
    return found


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
