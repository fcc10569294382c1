"""Products and streams with numpy, where a CPU is measured and nothing else is loaded."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgejoule.inference.replay_rotation import last_level_cache_bytes

_DTYPES = {"float32": "float32", "tf32": "float32"}


class NumpyKernels:
    """numpy's BLAS, and copies within one thread; its `how` says so."""

    def __init__(self, dtype: str) -> None:
        self.how = "numpy (its BLAS with its own threads; memory from one thread)"
        self.cache_bytes = last_level_cache_bytes()
        self.free_bytes = free_host_bytes()
        self.no_product = None if dtype in _DTYPES else f"numpy has no fast product in {dtype}"
        self._kept: list[Any] = []

    def product(self, side: int) -> Callable[[int], Sequence[float]]:
        """Return the float32 product of two square matrices."""
        import numpy as np

        random = np.random.default_rng(0)
        left, right = (random.standard_normal((side, side), np.float32) for _ in range(2))
        out = np.empty((side, side), np.float32)
        return timed(lambda: np.matmul(left, right, out=out))

    def streams(self, array_bytes: int) -> dict[str, tuple[int, Callable[[int], Sequence[float]]]]:
        """Return a copy and a sum of two arrays."""
        import numpy as np

        one, two, out = (np.ones(array_bytes // 4, np.float32) for _ in range(3))
        return {
            "copy": (2 * array_bytes, timed(lambda: np.copyto(out, one))),
            "add": (3 * array_bytes, timed(lambda: np.add(one, two, out=out))),
        }

    def close(self) -> None:
        """Nothing is held beyond the closures."""


def timed(execute: Callable[[], Any]) -> Callable[[int], Sequence[float]]:
    """Return what executes `count` times and says how long each took."""

    def times(count: int) -> Sequence[float]:
        seconds = []
        for _ in range(count):
            start_ns = time.monotonic_ns()
            execute()
            seconds.append((time.monotonic_ns() - start_ns) * 1e-9)
        return seconds

    return times


def free_host_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return the host's available memory, None where the system does not say.

    Pages that the kernel would give up (its cache of files) count as available.
    """
    try:
        text = meminfo.read_text(encoding="ascii")
    except (OSError, ValueError):
        text = ""
    kib = re.search(r"^MemAvailable: +([0-9]+) kB", text, re.MULTILINE)
    if kib is not None:
        return int(kib[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
