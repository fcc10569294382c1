"""What a pair of CUDA events adds to the node between them, measured.

    ... | event | wait | kernel | wait | kernel | event | ...
          |<------------ what the events say ------->|
                       |<----->|      |<----->|            what the node's kernels take

An event is a command of its own on the GPU, and from one kernel to the next in a stream the GPU
takes about as long as its smallest kernel runs. On an H200 an empty pair reads 1.3 us, a pair
around one kernel 2.9 us more than the kernel, each further kernel another 1 us; the kernels of a
ResNet at batch 1 run for 1.1 us and more. So both are measured, in a stream that is kept full, with
one, two and three kernels of a known time, and taken off each node.

How long that kernel itself runs only the driver's tracing (CUPTI, through torch.profiler) can
tell: events cannot separate a kernel from the way to the next. It is asked once, in the set-up
process. Where tracing is not allowed, as on some boards, the way from kernel to kernel stays in
the node's time, and the settings say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from edgejoule.inference.probe import probe

if TYPE_CHECKING:
    import numpy as np

MOST_KERNELS = 3
_PAIRS = 96
_LAST_LEFT_OUT = 16  # nothing follows them, and the GPU is quicker with what nothing follows
_ROUNDS = 5
_TRACED = 300
_SLEEP_CYCLES = 2_000_000
_TRACE = """
import json
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
import torch
from edgejoule.inference.torch_event_cost import cycles_per_ns, small_kernel
torch.cuda.set_device("{device}")
kernel = small_kernel("{device}")
torch.cuda._sleep(400_000_000)  # until the clocks are up
for _ in range({times}):
    kernel()
rate = cycles_per_ns()
with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as traced:
    for _ in range({times}):
        kernel()
    torch.cuda.synchronize()
print(json.dumps({{"cycles_per_ns": rate, "ns": [
    event.time_range.elapsed_us() * 1e3 for event in traced.events()
    if event.device_type == DeviceType.CUDA]}}))
"""


class GpuEvents(Protocol):
    """Where events come from, and what keeps the GPU busy until the host has caught up."""

    def new(self) -> Any:
        """Return an event with `elapsed_time(other) -> ms`."""

    def record(self, event: Any) -> None:
        """Have the GPU stamp the event when it gets there."""

    def delay(self, nanoseconds: float) -> None:
        """Have the GPU do nothing else for about so long."""

    def kernel(self) -> None:
        """Launch the small kernel whose time is known."""

    def synchronise(self) -> None:
        """Wait until the GPU has done everything it was given."""

    def cycles_per_ns(self) -> float:
        """Return the GPU's clock now; the lengths of delays go by it from then on."""


@dataclass(frozen=True)
class KernelTime:
    """How long the small kernel runs.

    Attributes:
        ns: By the driver's tracing, None where that is not to be had.
        how: What said so, or why nothing does.
        cycles_per_ns: The GPU's clock then.
    """

    ns: float | None
    how: str
    cycles_per_ns: float | None = None


@dataclass(frozen=True)
class EventCost:
    """What a pair of events adds.

    Attributes:
        empty_ns: To nothing: a pair with no kernel between.
        first_ns: To a node of one kernel.
        further_ns: For each kernel more.
        how: Where the time of the kernel comes from that this was measured with.
    """

    empty_ns: float
    first_ns: float
    further_ns: float
    how: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def of(self, kernels: Sequence[int] | None, nodes: int) -> np.ndarray:
        """Return what to take off each node, ns (nodes,); one kernel each where it is not known."""
        import numpy as np

        count = np.ones(nodes) if kernels is None else np.asarray(kernels, dtype=np.float64)
        taken: np.ndarray = np.where(
            count > 0, self.first_ns + self.further_ns * (count - 1), self.empty_ns
        )
        return taken


def measure_cost(gpu: GpuEvents, kernel: KernelTime, host_ns_per_pair: float) -> EventCost:
    """Measure pairs of events around no to three small kernels, in a stream that is kept full.

    Args:
        gpu: Where to measure.
        kernel: How long that kernel runs.
        host_ns_per_pair: What the host takes to launch a node, as a first guess.
    """
    import numpy as np

    rate = gpu.cycles_per_ns()
    events = [gpu.new() for _ in range(2 * _PAIRS)]
    medians = []
    for count in range(MOST_KERNELS + 1):
        read = []
        for _ in range(_ROUNDS):
            gpu.delay(_PAIRS * host_ns_per_pair * (2 + count))
            for first, second in zip(events[0::2], events[1::2], strict=True):
                gpu.record(first)
                for _ in range(count):
                    gpu.kernel()
                gpu.record(second)
            gpu.synchronise()
            pairs = zip(events[0::2], events[1::2], strict=True)
            read.append([first.elapsed_time(second) * 1e6 for first, second in pairs])
        medians.append(float(np.median(np.array(read)[1:, : _PAIRS - _LAST_LEFT_OUT])))
    empty, one, *_, most = medians
    step = (most - one) / (MOST_KERNELS - 1)
    if kernel.ns is None:
        return EventCost(empty, one - step, 0.0, f"events alone ({kernel.how}): what the GPU takes "
                         "from one kernel to the next is part of a layer")  # fmt: skip
    kernel_ns = kernel.ns
    if kernel.cycles_per_ns is not None:
        kernel_ns *= kernel.cycles_per_ns / rate  # as many cycles, at the clock of now
    return EventCost(empty, one - kernel_ns, max(0.0, step - kernel_ns), kernel.how)


def trace_kernel(device: str) -> KernelTime:
    """Ask the driver's tracing, through torch.profiler, how long the small kernel runs.

    In a process of its own: tracing leaves something behind that makes launches slower, and where
    it is not supported it may end the process.
    """
    found = probe(_TRACE.format(device=device, times=_TRACED))
    if found.error:
        return KernelTime(None, f"the driver's tracing failed: {found.error[:100]}")
    runs = sorted(float(one) for one in found.facts["ns"])
    if len(runs) < _TRACED:
        return KernelTime(None, f"the driver's tracing saw {len(runs)} of {_TRACED} kernels")
    middle = runs[len(runs) // 4 : -(len(runs) // 4)]
    return KernelTime(
        sum(middle) / len(middle),
        "the driver's tracing (CUPTI) of a small kernel",
        float(found.facts["cycles_per_ns"]),
    )


def small_kernel(device: str) -> Callable[[], None]:
    """Return what launches the small kernel: as one of a network's smallest layers does.

    A kernel of one block would be reached sooner after an event than a layer's is.
    """
    import torch

    cell = torch.zeros(100_352, dtype=torch.float16, device=device)

    def launch() -> None:
        cell.relu_()

    return launch


def cycles_per_ns() -> float:
    """Return the clock of the current GPU now, by how long it takes to count to two million."""
    import torch

    cuda: Any = torch.cuda  # without types
    first, second = (cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    cuda._sleep(_SLEEP_CYCLES)
    second.record()
    cuda.synchronize()
    return float(_SLEEP_CYCLES / (first.elapsed_time(second) * 1e6))
