"""Times of an exported program's nodes, on a CPU and on an NVIDIA GPU.

On a CPU each node is stamped before and after. On a GPU a pair of CUDA events brackets each node
and the host waits once, at the end of the inference; what the GPU waits for the host to launch a
small node is part of that node's time, as it is part of the model's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from edgejoule.inference.backend import LayerTimes
from edgejoule.inference.torch_graph import Program

if TYPE_CHECKING:
    import numpy as np

WARM_INFERENCES = 2  # of the node-by-node run, before each chunk
_STAMPS_PER_CHUNK = 100_000  # CUDA events are kept until the chunk is read, and reused


class CpuProfiler:
    """Node by node, a host stamp before and after each."""

    def __init__(self, program: Program, sets: Sequence[tuple[Any, ...]]) -> None:
        self._program = program
        self._sets = sets
        self._stamps: list[int] = []
        self.chunk_inferences = max(1, _STAMPS_PER_CHUNK // max(1, 2 * len(program.steps)))

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
                environment[slot] = _item(value, path)
            after = now()
            stamp(before)
            stamp(after)
            environment[step.out] = value
            # A tensor is freed when its last name goes, `args` and `value` among them.
            del args, value
            for slot in step.free:
                environment[slot] = None

    def harvest(self, spans: Sequence[tuple[int, int]]) -> LayerTimes:
        """Return the times of the chunk."""
        import numpy as np

        steps = len(self._program.steps)
        stamps = np.array(self._stamps, dtype=np.int64)
        self._stamps = []
        count = len(stamps) // (2 * steps) if steps else len(spans)
        starts = np.array([start for start, _ in spans[:count]], dtype=np.int64)
        table = stamps[: count * 2 * steps].reshape(count, steps, 2)
        return _times(table[:, :, 0] - starts[:, None], table[:, :, 1] - table[:, :, 0])

    def close(self) -> None:
        """Free the stamps."""
        self._stamps = []


class GpuEvents(Protocol):
    """Where a `GpuProfiler` gets its events from."""

    def new(self) -> Any:
        """Return an event with `elapsed_time(other) -> ms`."""

    def record(self, event: Any) -> None:
        """Have the GPU stamp the event when it gets there."""

    def synchronise(self) -> None:
        """Wait until the GPU has done everything it was given."""


class CudaEvents:
    """Events of the current CUDA stream."""

    def __init__(self) -> None:
        import torch

        self._stream = torch.cuda.current_stream()
        self._event: Any = torch.cuda.Event  # without types

    def new(self) -> Any:
        """Return an event that keeps its time."""
        return self._event(enable_timing=True)

    def record(self, event: Any) -> None:
        """Record it on the stream."""
        event.record(self._stream)

    def synchronise(self) -> None:
        """Wait for the device."""
        synchronise()


class GpuProfiler:
    """Node by node, a pair of CUDA events around each, one wait at the end."""

    def __init__(
        self, program: Program, sets: Sequence[tuple[Any, ...]], events: GpuEvents
    ) -> None:
        self._program = program
        self._sets = sets
        self._gpu = events
        self._per_inference = 1 + 2 * len(program.steps)
        self.chunk_inferences = max(1, _STAMPS_PER_CHUNK // self._per_inference)
        self._events: list[Any] = []
        self._host_ns: list[int] = []

    def start(self, inferences: int) -> None:
        """Make enough events, each recorded once (they come to life then), and warm up."""
        wanted = min(inferences, self.chunk_inferences) * self._per_inference
        while len(self._events) < max(wanted, self._per_inference):
            event = self._gpu.new()
            self._gpu.record(event)
            self._events.append(event)
        for _ in range(WARM_INFERENCES):
            self._host_ns = []
            self.infer(0)
        self._host_ns = []

    def infer(self, which: int) -> None:
        """Run one inference node by node and wait for its end."""
        program = self._program
        record = self._gpu.record
        first = len(self._host_ns) * self._per_inference
        events = iter(self._events[first : first + self._per_inference])
        environment = program.start(self._sets[which])
        self._host_ns.append(time.monotonic_ns())
        record(next(events))
        for step in program.steps:
            args, kwargs = program.arguments(step, environment)
            function = step.function
            record(next(events))
            value = function(*args, **kwargs)
            record(next(events))
            for path, slot in step.items:
                environment[slot] = _item(value, path)
            environment[step.out] = value
            del args, value
            for slot in step.free:
                environment[slot] = None
        self._gpu.synchronise()

    def harvest(self, spans: Sequence[tuple[int, int]]) -> LayerTimes:
        """Read the events of the chunk.

        The GPU is idle when an inference begins, so its first event happens as the host records
        it; from there on the events' own clock says when each node started.
        """
        import numpy as np

        steps = len(self._program.steps)
        count = min(len(self._host_ns), len(spans))
        offsets = np.zeros((count, steps), dtype=np.int64)
        durations = np.zeros((count, steps), dtype=np.int64)
        for index in range(count):
            first = index * self._per_inference
            base, *pairs = self._events[first : first + self._per_inference]
            begins = np.array([base.elapsed_time(event) for event in pairs[0::2]])
            lengths = np.array(
                [a.elapsed_time(b) for a, b in zip(pairs[0::2], pairs[1::2], strict=True)]
            )
            start_ns, end_ns = spans[index]
            lengths_ns = np.rint(lengths * 1e6).astype(np.int64)
            begins_ns = np.rint(begins * 1e6).astype(np.int64) + self._host_ns[index] - start_ns
            if steps:
                late = int((begins_ns + lengths_ns).max()) - (end_ns - start_ns)
                begins_ns -= max(0, late)  # the two clocks meet within microseconds, not better
            offsets[index], durations[index] = np.maximum(begins_ns, 0), lengths_ns
        self._host_ns = []
        return _times(offsets, durations)

    def close(self) -> None:
        """Free the events."""
        self._events = []


def _item(value: Any, path: tuple[Any, ...]) -> Any:
    for index in path:
        value = value[index]
    return value


def _times(offsets: np.ndarray, durations: np.ndarray) -> LayerTimes:
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


def synchronise() -> None:
    """Wait until the GPU has done everything it was given."""
    import torch

    torch.cuda.synchronize()
