"""Where `prepare.sh` puts what it fetches, and what the two lists of versions say."""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def contracts_folder() -> Path:
    """Return the folder that `prepare.sh` fills; it may not be there."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("EDGEJOULE_CONTRACTS") or f"{cache}/edgejoule/contracts")


def listed(name: str) -> list[str]:
    """Return the versions that a list names, in its order."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    requirements = [line.split("#")[0].strip() for line in lines]
    return [requirement.split("==")[1] for requirement in requirements if requirement]


def numbers(version: str) -> tuple[int, int, int]:
    """Return the first three numbers of a version: `10.16.1.11` is (10, 16, 1)."""
    parts = [int(part) for part in version.split(".")[:3]]
    return parts[0], parts[1], parts[2]
