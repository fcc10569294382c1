"""Where a CUDA runtime (`libcudart`) may lie, the likeliest first.

A copy that is already loaded comes first: torch and others bring their own, and a second one would
only cost memory. Then what the system's loader finds, then the packages that bring CUDA to pip
(found as files, nothing is imported), then the toolkit's folders.

Standard library only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from edgejoule.machine_state import read_text

# Newest first; a driver too old for one may do for the next.
NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2")
_LIBRARY = re.compile(r"/libcudart[^/]*\.so[^/]*$")
_IN_PACKAGES = ("nvidia/*/lib/libcudart.so*", "torch/lib/libcudart*.so*")
_IN_TOOLKIT = ("cuda*/lib64/libcudart.so.*", "cuda*/targets/*-linux/lib/libcudart.so.*")


def loaded(maps: Path = Path("/proc/self/maps")) -> list[str]:
    """Return the runtimes that this process has loaded, in the order of their addresses.

    Args:
        maps: The kernel's list of mapped files; where there is none, none is found.
    """
    found = []
    for line in (read_text(maps) or "").splitlines():
        # address perms offset dev inode path; a path may hold blanks.
        path = line.split(maxsplit=5)[5:]
        if path and _LIBRARY.search(path[0]):
            found.append(path[0])
    return list(dict.fromkeys(found))


def candidates(
    *,
    maps: Path = Path("/proc/self/maps"),
    folders: Iterable[str] | None = None,
    toolkit: Path = Path("/usr/local"),
) -> Iterator[str]:
    """Yield what to load, each once.

    Args:
        maps: As `loaded` takes it.
        folders: Where packages lie; None: `sys.path`.
        toolkit: Where `cuda*` folders lie.
    """
    in_packages = (
        path
        for folder in (sys.path if folders is None else folders)
        for pattern in _IN_PACKAGES
        for path in newest_first(Path(folder or ".").glob(pattern))
    )
    in_toolkit = newest_first(path for pattern in _IN_TOOLKIT for path in toolkit.glob(pattern))
    seen: set[str] = set()
    for found in chain(loaded(maps), NAMES, in_packages, in_toolkit):
        # One file under several names (links) is one runtime.
        same = str(Path(found).resolve()) if "/" in found else found
        if same not in seen:
            seen.add(same)
            yield found


def newest_first(paths: Iterable[Path]) -> list[str]:
    """Return the paths by the version in their file names, the highest first."""

    def version(path: Path) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", path.name.partition(".so")[2]))

    return [str(path) for path in sorted(paths, key=version, reverse=True)]
