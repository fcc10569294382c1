"""Times of an exported program's nodes on a CPU: each node is stamped before and after.

`torch_gpu_profiler` does the same on an NVIDIA GPU.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgejoule.inference.backend import LayerTimes
from edgejoule.inference.torch_graph import Program

if TYPE_CHECKING:
    import numpy as np

WARM_INFERENCES = 2  # of the node-by-node run, before each chunk
STAMPS_PER_CHUNK = 100_000  # kept until the chunk is read


class CpuProfiler:
    """Node by node, a host stamp before and after each."""

    def __init__(self, program: Program, sets: Sequence[tuple[Any, ...]]) -> None:
        self._program = program
        self._sets = sets
        self._stamps: list[int] = []
        self.chunk_inferences = max(1, STAMPS_PER_CHUNK // max(1, 2 * len(program.steps)))

    def start(self, inferences: int) -> None:
        """Warm up the node-by-node run."""
        del inferences
        for _ in range(WARM_INFERENCES):
            self.infer(0)
        self._stamps = []

    def infer(self, which: int) -> None:
        """Run one inference node by node."""
        program = self._program
        stamp = self._stamps.append
        now = time.monotonic_ns
        environment = program.start(self._sets[which])
        for step in program.steps:
            args, kwargs = program.arguments(step, environment)
            function = step.function
            before = now()
            value = function(*args, **kwargs)
            for path, slot in step.items:
                environment[slot] = item_of(value, path)
            after = now()
            stamp(before)
            stamp(after)
            environment[step.out] = value
            # A tensor is freed when its last name goes, `args` and `value` among them.
            del args, value
            for slot in step.free:
                environment[slot] = None

    def after(self) -> None:
        """Nothing is left to do."""

    def harvest(self, spans: Sequence[tuple[int, int]]) -> LayerTimes:
        """Return the times of the chunk."""
        import numpy as np

        steps = len(self._program.steps)
        stamps = np.array(self._stamps, dtype=np.int64)
        self._stamps = []
        count = len(stamps) // (2 * steps) if steps else len(spans)
        starts = np.array([start for start, _ in spans[:count]], dtype=np.int64)
        table = stamps[: count * 2 * steps].reshape(count, steps, 2)
        return times_of(table[:, :, 0] - starts[:, None], table[:, :, 1] - table[:, :, 0])

    def close(self) -> None:
        """Free the stamps."""
        self._stamps = []


def item_of(value: Any, path: tuple[Any, ...]) -> Any:
    """Return what a path of indices leads to within a step's result."""
    for index in path:
        value = value[index]
    return value


def times_of(offsets: np.ndarray, durations: np.ndarray) -> LayerTimes:
    """Make rows of two (inferences, layers) tables."""
    import numpy as np

    count, steps = durations.shape
    return LayerTimes(
        inference=np.repeat(np.arange(count, dtype=np.int32), steps),
        layer=np.tile(np.arange(steps, dtype=np.int16), count),
        duration_ns=np.ascontiguousarray(durations).reshape(-1),
        start_offset_ns=np.ascontiguousarray(offsets).reshape(-1),
        inferences=count,
    )
