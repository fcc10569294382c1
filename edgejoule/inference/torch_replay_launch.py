"""Executions in launches of some milliseconds, back to back: CUDA graphs, or a loop.

    GPU   | launch 1 | launch 2 | launch 3 |        one graph each, one always queued ahead
    host  1 2 wait...|3 wait....|4 wait....|        returns when the oldest is through

On a CPU, and where a graph cannot be captured, the host calls each execution.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.common import short
from edgejoule.inference.torch_cuda_graph import capture, nodes_recorded
from edgejoule.inference.torch_event_cost import cycles_per_ns
from edgejoule.inference.torch_gpu_profiler import synchronise

Run = Callable[[int, int], Any]
"""(first execution, how many) -> what the last one returned, or None."""

GPU_LAUNCH_NS = 8e6
LONGEST_LAUNCH_NS = 50e6
CPU_LAUNCH_NS = 20e6
_MOST_PER_LAUNCH = 20_000
_TIMED_NS = 2e6
_SIZINGS = 3  # captures until a launch has the length that it is to have
_NEAR = 0.3
_TIMED = 3  # launches
_AHEAD = 2  # launches given to the GPU while the host waits for the first of them


class CpuLaunches:
    """A loop of the host.

    Args:
        run: Executes.
        facts: What is known of it; what is found is added.
        give_back: Called when it is closed.
    """

    def __init__(self, run: Run, facts: dict[str, Any], give_back: Callable[[], None]) -> None:
        self._run: Run | None = run
        self._next = 0
        self._give_back = give_back
        run(0, 1)
        count, took_ns = 1, 0
        while True:
            start = time.perf_counter_ns()
            run(0, count)
            took_ns = max(1, time.perf_counter_ns() - start)
            if took_ns >= _TIMED_NS or count >= _MOST_PER_LAUNCH:
                break
            count *= 2
        self._count = per_launch(took_ns / count, 1, CPU_LAUNCH_NS)
        self._facts = {**facts, "how": "loop", "executions_per_launch": self._count}

    def launch(self) -> int:
        """Execute it for about 20 ms; the turns go on where the last launch ended."""
        if self._run is None:
            raise MeasurementError("what is to be repeated was closed")
        self._run(self._next, self._count)
        self._next += self._count
        return self._count

    def facts(self) -> dict[str, Any]:
        """Return executions per launch, and what is rotated."""
        return self._facts

    def close(self) -> None:
        """Give the copies back."""
        self._run = None
        self._give_back()


class GpuLaunches:
    """CUDA graphs of several executions; a loop where none can be captured.

    One launch is queued while the host waits for the one before it, so that the GPU does not drain
    between two. When `launch` returns, the next is already running: after the last one the GPU
    works on for as long as one takes.

    Args:
        run: Executes.
        cycle: After how many executions its turns begin anew; a launch has a multiple of it.
        facts: What is known of it; what is found is added.
        give_back: Called when it is closed.
        side: The stream to warm up on before a capture.
    """

    def __init__(
        self,
        run: Run,
        cycle: int,
        facts: dict[str, Any],
        give_back: Callable[[], None],
        side: Any = None,
    ) -> None:
        self._give_back = give_back
        self._side = side
        self._queued: deque[Any] = deque()
        self.outputs: Any = None
        self._kernels: float | None = None
        self._submit: Callable[[], Any] | None = lambda: run(0, 1)
        self._count = 1
        self._count = per_launch(self._each_ns(), cycle, GPU_LAUNCH_NS)
        how = "CUDA graph"
        try:
            self._capture_sized(run, cycle)
        except UsageError as error:
            how = f"loop of the host: {short(error, 160)}"
            count = self._count
            self._submit = lambda: run(0, count)
            self.outputs = run(0, count)
        self._facts = {
            **facts,
            "how": how,
            "executions_per_launch": self._count,
            "kernels_per_execution": self._kernels,
        }

    def launch(self) -> int:
        """Wait for the end of the oldest launch that is queued; the next one runs already."""
        import torch

        cuda: Any = torch.cuda  # without types
        if self._submit is None:
            raise MeasurementError("what is to be repeated was closed")
        while len(self._queued) < _AHEAD:
            self._submit()
            # The host sleeps meanwhile: a core that spins takes power of the same rails.
            event = cuda.Event(blocking=True)
            event.record()
            self._queued.append(event)
        self._queued.popleft().synchronize()
        return self._count

    def facts(self) -> dict[str, Any]:
        """Return executions per launch, how they are launched, what is rotated, the GPU's clock.

        The clock is that right behind one more launch: a layer that alone draws what the card
        allows is slowed down, and at a lower voltage takes less energy than in its network.
        """
        if self._submit is None:
            return self._facts
        self._submit()
        return {**self._facts, "clock_mhz": round(1e3 * cycles_per_ns())}

    def close(self) -> None:
        """Wait for what is queued, then give graph and copies back."""
        import torch

        synchronise()
        self._queued.clear()
        self._submit = None
        self.outputs = None
        self._give_back()
        torch.cuda.empty_cache()

    def _capture_sized(self, run: Run, cycle: int) -> None:
        """Capture launches until one has about the length that it is to have.

        Called by the host, small kernels seem longer than they are in a graph, and in a short
        graph longer than in a long one.
        """
        import torch

        for left in reversed(range(_SIZINGS)):
            self._submit = self.outputs = None
            torch.cuda.empty_cache()  # only then is a graph's memory free for the next
            self._submit = self._captured(run)
            wanted = per_launch(self._each_ns(), cycle, GPU_LAUNCH_NS)
            if not left or abs(wanted - self._count) <= _NEAR * wanted:
                return
            self._count = wanted

    def _captured(self, run: Run) -> Callable[[], None]:
        count = self._count
        seen: list[int | None] = []

        def counted() -> Any:
            seen.append(nodes_recorded())
            found = run(0, count)
            seen.append(nodes_recorded())
            return found

        # All executions of a launch are alike: one of them wakes what there is to wake.
        graph = capture(counted, side=self._side, warm=lambda: run(0, 1))
        self.outputs = graph.outputs
        before, after = seen[-2:]
        if before is not None and after is not None:
            self._kernels = (after - before) / count
        return graph.replay

    def _each_ns(self) -> float:
        """Return how long one execution takes once what is submitted is warm."""
        import torch

        cuda: Any = torch.cuda  # without types
        if self._submit is None:
            raise MeasurementError("nothing to time")
        self._submit()
        begin = cuda.Event(enable_timing=True)
        end = cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(_TIMED):
            self._submit()
        end.record()
        synchronise()
        return max(1.0, float(begin.elapsed_time(end)) * 1e6 / (_TIMED * self._count))


def per_launch(each_ns: float, cycle: int, wanted_ns: float) -> int:
    """Return how many executions make up a launch: whole cycles, at least one."""
    cycles = max(1, round(wanted_ns / max(1.0, each_ns * cycle)))
    return cycle * max(1, min(cycles, _MOST_PER_LAUNCH // cycle))
