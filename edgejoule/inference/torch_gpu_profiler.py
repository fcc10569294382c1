"""Times of an exported program's nodes on an NVIDIA GPU: a pair of CUDA events around each.

    GPU  | base | delay ........................ |e node e|e node e|e node e| ...
    host | enqueues all nodes and their events                 | waits

A small node takes the GPU less time than the host needs to launch it. The GPU therefore first does
nothing for a while (`torch.cuda._sleep`), as long as it takes that the host is ahead with every
node; whether it was is looked at for every node of every inference, and counted. A duration is the
time between the node's two events less what the events themselves add (`torch_event_cost`): device
time, in a stream that is kept full, the host's launches not included. The delay lies within the
inference and in no layer; how long it was is told (`LayerTimes.held_ns`). Nothing here needs CUPTI.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgejoule.inference.backend import LayerTimes
from edgejoule.inference.torch_event_cost import (
    EventCost,
    GpuEvents,
    KernelTime,
    cycles_per_ns,
    measure_cost,
    small_kernel,
)
from edgejoule.inference.torch_graph import Program
from edgejoule.inference.torch_profiler import (
    STAMPS_PER_CHUNK,
    WARM_INFERENCES,
    item_of,
    times_of,
)

if TYPE_CHECKING:
    import numpy as np

# A stream takes about a thousand commands before it makes the host wait.
_COMMANDS_PER_SEGMENT = 600
_LEAD_TRIES = 6
_LEAD_MARGIN = 1.25
_MOST_MARGIN = 3.0
_RECENT = 8  # inferences: the slowest of them sets the delay
_LEAD_MORE_NS = 50_000.0
_MOST_INDEXES = 1_000
_BELOW_NS = 100.0
_LATE_NS = 5_000  # the host's and the GPU's clock meet within microseconds, at the first event


class CudaEvents:
    """Events of the current CUDA stream."""

    def __init__(self) -> None:
        import torch

        self._cuda: Any = torch.cuda  # without types
        self._stream = torch.cuda.current_stream()
        self._kernel = small_kernel("cuda")
        self._rate = 0.0

    def new(self) -> Any:
        """Return an event that keeps its time."""
        return self._cuda.Event(enable_timing=True)

    def record(self, event: Any) -> None:
        """Record it on the stream."""
        event.record(self._stream)

    def delay(self, nanoseconds: float) -> None:
        """Have one thread of the GPU count cycles."""
        if not self._rate:
            self.cycles_per_ns()
        self._cuda._sleep(round(nanoseconds * self._rate))

    def cycles_per_ns(self) -> float:
        """Measure the GPU's clock, from which the lengths of delays go from then on."""
        self._rate = cycles_per_ns()
        return self._rate

    def kernel(self) -> None:
        """Launch the small kernel."""
        self._kernel()

    def synchronise(self) -> None:
        """Wait for the device."""
        synchronise()


class GpuProfiler:
    """Node by node behind a delay, a pair of CUDA events around each, one wait at the end."""

    def __init__(
        self,
        program: Program,
        sets: Sequence[tuple[Any, ...]],
        events: GpuEvents,
        kernel: KernelTime,
        kernels: Sequence[int] | None,
    ) -> None:
        """Make a profiler.

        Args:
            program: What to run.
            sets: Its inputs.
            events: Of the stream to run on.
            kernel: The time of the small kernel that the events' cost is measured with.
            kernels: How many kernels each step launches, None where that is not known.
        """
        self._program = program
        self._sets = sets
        self._gpu = events
        self._kernel = kernel
        self._kernels = kernels
        self._cost: EventCost | None = None
        self._segments = _segments(len(program.steps), kernels)
        self._delays_ns = [0.0] * len(self._segments)
        self._pace: _Pace | None = None
        self._late: list[int] = []
        self._below = self._done = 0
        self._per_inference = 1 + 2 * len(program.steps)
        self.chunk_inferences = max(1, STAMPS_PER_CHUNK // self._per_inference)
        self._events: list[Any] = []
        self._host_ns: list[int] = []  # per inference: at the first event, then after each node

    def start(self, inferences: int) -> None:
        """Make enough events, each recorded once (they come to life then), and warm up.

        The first time, also measure what the events cost and how far ahead the GPU must be held.
        """
        wanted = min(inferences, self.chunk_inferences) * self._per_inference
        while len(self._events) < max(wanted, self._per_inference):
            event = self._gpu.new()
            self._gpu.record(event)
            self._events.append(event)
        self._gpu.cycles_per_ns()
        for _ in range(WARM_INFERENCES):
            self._rerun()
        if self._cost is None and self._program.steps:
            self._prepare()
        self._host_ns = []

    def recalibrate(self) -> None:
        """Measure again at the next start: something now makes launches faster or slower."""
        self._cost = None
        self._pace = None
        self._delays_ns = [0.0] * len(self._segments)

    def infer(self, which: int) -> None:
        """Run one inference node by node and wait for its end."""
        program = self._program
        record = self._gpu.record
        stamp = self._host_ns.append
        now = time.monotonic_ns
        first = len(self._host_ns) // (1 + len(program.steps)) * self._per_inference
        events = iter(self._events[first : first + self._per_inference])
        environment = program.start(self._sets[which])
        stamp(now())
        record(next(events))
        delays = dict(zip(self._segments, self._delays_ns, strict=True))
        for index, step in enumerate(program.steps):
            if delays.get(index):
                self._gpu.delay(delays[index])
            args, kwargs = program.arguments(step, environment)
            function = step.function
            record(next(events))
            value = function(*args, **kwargs)
            record(next(events))
            stamp(now())
            for path, slot in step.items:
                environment[slot] = item_of(value, path)
            environment[step.out] = value
            del args, value
            for slot in step.free:
                environment[slot] = None
        self._gpu.synchronise()

    def after(self) -> None:
        """Hold the next inference back for as long as the host needs now."""
        if self._pace is not None:
            first = len(self._host_ns) - 1 - len(self._program.steps)
            self._pace.follow(self._host_ns[-1] - self._host_ns[first])
            self._delays_ns = self._pace.delays_ns

    def harvest(self, spans: Sequence[tuple[int, int]]) -> LayerTimes:
        """Read the events of the chunk.

        The GPU is idle when an inference begins, so its first event happens as the host records
        it; from there on the events' own clock says when each node started.
        """
        import numpy as np

        steps = len(self._program.steps)
        count = min(len(self._host_ns) // (1 + steps), len(spans))
        offsets = np.zeros((count, steps), dtype=np.int64)
        durations = np.zeros((count, steps), dtype=np.int64)
        late = len(self._late)
        held_ns = np.zeros(count, dtype=np.int64)
        for index in range(count):
            begins, lengths = self._read(index)
            start_ns, end_ns = spans[index]
            begins_ns = np.rint(begins).astype(np.int64) + self._base_ns(index) - start_ns
            if steps:
                if self._is_late(index, begins):
                    self._late.append(self._done)
                last = int((begins_ns + np.rint(lengths).astype(np.int64)).max())
                # The two clocks meet within microseconds, not better.
                begins_ns -= max(0, last - (end_ns - start_ns))
                if self._cost is not None:
                    lengths = lengths - self._cost.of(self._kernels, steps)
                self._below += int(np.count_nonzero(lengths < -_BELOW_NS))
            self._done += 1
            offsets[index] = np.maximum(begins_ns, 0)
            durations[index] = np.rint(np.maximum(lengths, 0))
            if steps:
                # What the device did until the last node's end, and was no node nor its way from
                # kernel to kernel, which is there without events too.
                over = min(last, end_ns - start_ns)
                held_ns[index] = max(0, over - int(durations[index].sum()) - self._ways_ns())
        if self._pace is not None and len(self._late) > late:
            self._pace.widen()
        self._host_ns = []
        return replace(times_of(offsets, durations), held_ns=held_ns)

    def facts(self) -> dict[str, Any]:
        """Return what a duration is, and how it went, for the records."""
        return {
            "profiler_duration": "device time between two events around a node, less their cost",
            "profiler_event_cost": None if self._cost is None else self._cost.to_json(),
            "profiler_delay_ns": round(sum(self._delays_ns)),
            # Inferences in which the GPU may have waited for the host within a layer.
            "profiler_late_inferences": len(self._late),
            "profiler_late_indexes": self._late[:_MOST_INDEXES],
            # Layer times that came out below zero by more than events resolve and stand as zero.
            "profiler_times_below_zero": self._below,
            "profiler_inferences": self._done,
        }

    def close(self) -> None:
        """Free the events."""
        self._events = []

    def _ways_ns(self) -> int:
        """Return the time between the kernels of the same node, all nodes together."""
        if self._cost is None or self._kernels is None:
            return 0
        return round(self._cost.further_ns * sum(max(0, count - 1) for count in self._kernels))

    def _rerun(self) -> None:
        """Run one inference in place of whatever was run before."""
        self._host_ns = []
        self.infer(0)
        self.after()

    def _prepare(self) -> None:
        """Measure what the events cost, and how long the GPU must be held back."""
        steps = len(self._program.steps)
        launched = self._launched(0)
        self._cost = measure_cost(self._gpu, self._kernel, float(launched[-1]) / steps)
        # First for so long that the GPU surely comes after the host, to see how long it takes.
        before = [launched[first - 1] if first else 0.0 for first in self._segments]
        ends = [*self._segments[1:], steps]
        self._delays_ns = [
            float(1.5 * (launched[end - 1] - started)) + _LEAD_MORE_NS
            for started, end in zip(before, ends, strict=True)
        ]
        self._rerun()
        begins, lengths = self._read(0)
        self._pace = _Pace(self._segments, launched, begins, lengths)
        for _ in range(_LEAD_TRIES):
            self._delays_ns = self._pace.delays_ns
            self._rerun()
            if not self._is_late(0, self._read(0)[0]):
                break
            self._pace.widen()

    def _base_ns(self, index: int) -> int:
        return self._host_ns[index * (1 + len(self._program.steps))]

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return when each node began after the inference's first event, and its length, ns."""
        import numpy as np

        first = index * self._per_inference
        base, *pairs = self._events[first : first + self._per_inference]
        begins = [base.elapsed_time(event) * 1e6 for event in pairs[0::2]]
        lengths = [a.elapsed_time(b) * 1e6 for a, b in zip(pairs[0::2], pairs[1::2], strict=True)]
        return np.array(begins), np.array(lengths)

    def _launched(self, index: int) -> np.ndarray:
        """Return when the host had launched each node, ns after the inference's first event."""
        import numpy as np

        first = index * (1 + len(self._program.steps))
        stamps = np.array(self._host_ns[first : first + 1 + len(self._program.steps)], np.float64)
        launched: np.ndarray = stamps[1:] - stamps[0]
        return launched

    def _is_late(self, index: int, begins: np.ndarray) -> bool:
        """Whether the GPU came to a node before the host had launched all of it."""
        return bool((self._launched(index) + _LATE_NS > begins).any())


class _Pace:
    """How long the GPU must be held back before each segment, for a host as fast as it is now.

    Args:
        segments: The step that each begins with.
        launched: When the host had launched each step, ns after the inference's first event.
        begins: When the GPU came to each step, ns, in an inference in which it came after the host.
        lengths: How long it took for each.
    """

    def __init__(
        self, segments: list[int], launched: np.ndarray, begins: np.ndarray, lengths: np.ndarray
    ) -> None:
        bounds = [*segments, len(launched)]
        self._parts = [
            (launched[first:end], begins[first:end] - begins[first], float(lengths[end - 1]))
            for first, end in itertools.pairwise(bounds)
        ]
        self._usual_ns = float(launched[-1])
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._slower = 1.0
        self._margin = _LEAD_MARGIN
        self._plan()

    def follow(self, took_ns: int) -> None:
        """Take note of how long the host took for an inference's launches."""
        self._recent.append(took_ns / self._usual_ns)
        slowest = max(self._recent)
        if not 0.8 * self._slower < slowest <= self._slower:
            self._slower = slowest
            self._plan()

    def widen(self) -> None:
        """Leave more room: the host was late."""
        self._margin = min(_MOST_MARGIN, self._margin * 1.1)
        self._plan()

    def _plan(self) -> None:
        free_ns = 0.0  # when the GPU is through with the segments so far
        self.delays_ns = []
        for launched, since, last_ns in self._parts:
            due = launched * (self._slower * self._margin) - since
            needed = float(due.max()) + _LEAD_MORE_NS
            self.delays_ns.append(max(0.0, needed - free_ns))
            free_ns = max(free_ns, needed) + float(since[-1]) + last_ns


def _segments(steps: int, kernels: Sequence[int] | None) -> list[int]:
    """Return the steps before which the GPU is held back: few enough commands in between."""
    found: list[int] = []
    commands = _COMMANDS_PER_SEGMENT
    for index in range(steps):
        own = 2 + (1 if kernels is None else kernels[index])
        if commands + own > _COMMANDS_PER_SEGMENT:
            found.append(index)
            commands = 0
        commands += own
    return found


def synchronise() -> None:
    """Wait until the GPU has done everything it was given."""
    import torch

    torch.cuda.synchronize()
