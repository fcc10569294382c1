"""One thread for small products of matrices. Standard library.

The window regression makes thousands of products of some hundred columns, a millisecond each.
OpenBLAS, which numpy's and scipy's wheels bring, hands each to a thread per core and lets these
spin in between. On cores that others use as well every product waits for the slowest of them: on
two loaded cores the whole took ten times as long as with one thread, on two idle ones it was no
faster. The number of threads is a setting of the whole process: it is put back afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Callable, Iterator
from pathlib import Path

_LOADED = Path("/proc/self/maps")
# As OpenBLAS is built into wheels: with a prefix, and with a suffix where integers have 64 bits.
_NAMES = tuple(
    f"{prefix}openblas_{{}}_num_threads{suffix}"
    for prefix in ("scipy_", "")
    for suffix in ("64_", "")
)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let OpenBLAS use one thread; where it is not there nothing happens."""
    before = [(change, count()) for count, change in switches()]
    try:
        for change, _ in before:
            change(1)
        yield
    finally:
        for change, count in before:
            change(count)


def switches() -> list[tuple[Callable[[], int], Callable[[int], None]]]:
    """Return what reads and what sets the number of threads, of every OpenBLAS in the process."""
    try:
        maps = _LOADED.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux
        return []
    found = []
    for path in sorted(set(re.findall(r"(/\S*openblas\S*)$", maps, re.MULTILINE))):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for name in _NAMES:
            count = getattr(library, name.format("get"), None)
            change = getattr(library, name.format("set"), None)
            if count is not None and change is not None:
                change.restype, change.argtypes = None, [ctypes.c_int]
                found.append((count, change))
                break
    return found
