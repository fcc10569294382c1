"""The memory limit's allocator as a subclass of a real `IGpuAllocator`.

`observe(trt)` calls it as TensorRT does: through the base class's method, the module's C++ and its
trampoline, back into the override. Run as a script it takes the module's name and prints JSON. What
comes back from C++ is a capsule, whose address only the counts of the budget show.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

from edgejoule.inference.memory_limit import tensorrt_allocator


class Counter:
    """Addresses that nobody uses."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def allocate(self, nbytes: int) -> int:
        self.given.append(nbytes)
        return 4096 * len(self.given)

    def free(self, address: int) -> None:
        """Nothing is behind it."""


@contextlib.contextmanager
def standard_error() -> Iterator[list[str]]:
    """What C++ writes to stderr meanwhile, which Python's redirection does not see."""
    said: list[str] = []
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said.append(file.read().decode())


def observe(trt: Any) -> dict[str, Any]:
    base, memory = trt.IGpuAllocator, Counter()
    allocator = tensorrt_allocator(trt, memory, 1000)
    found: dict[str, Any] = {"version": trt.__version__, "calls": []}
    warnings.simplefilter("ignore", DeprecationWarning)
    with standard_error() as said, contextlib.redirect_stdout(io.StringIO()):
        for name, stream in (("allocate", ()), ("allocate_async", (7,))):
            method = getattr(base, name, None)
            if method is not None:
                for size in (600, 700, 0):
                    method(allocator, size, 256, 0, *stream)
                found["calls"].append(name)
                allocator.budget.free(4096 * len(memory.given))
    found["given"] = memory.given
    found["refusals"] = allocator.budget.refusals
    found["live"] = allocator.budget.live_bytes
    found["said"] = said[0]
    return found


if __name__ == "__main__":
    print(json.dumps(observe(importlib.import_module(sys.argv[1]))))
