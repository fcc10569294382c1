"""A whole inference as a CUDA graph, and how many kernels each step of a program launches.

A graph is captured as torch documents it ("CUDA semantics", section on CUDA graphs): the work runs
a few times on a side stream first, then once more while the stream records instead of running. The
tensors it reads and writes keep their addresses, so there is one graph per input set; the graphs
share one pool of memory, which is sound as long as what one returns is read before another runs.

A stream that records knows how many nodes its graph has so far (`cuStreamGetCaptureInfo`,
`cuGraphGetNodes` of the CUDA driver API): asked between two steps of a program, that counts the
kernels, copies and fills that a step launches, without any profiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.inference.common import short

if TYPE_CHECKING:
    from edgejoule.inference.torch_graph import Program, Step

WARM_RUNS = 3  # on the side stream: libraries set themselves up, which must not be captured
_MEND = "leave out --cuda-graphs"


class CapturedGraph:
    """A captured inference.

    Attributes:
        outputs: What the captured call returned; `replay` fills these tensors anew.
        replay: Launches the graph on the current stream and returns at once.
    """

    def __init__(self, graph: Any, outputs: Any) -> None:
        self._graph = graph  # its memory goes with it
        self.outputs = outputs
        self.replay: Callable[[], None] = graph.replay

    @property
    def pool(self) -> Any:
        """The pool of memory that further graphs may share."""
        return self._graph.pool()


def capture(
    run: Callable[[], Any],
    pool: Any = None,
    *,
    side: Any = None,
    warm: Callable[[], Any] | None = None,
) -> CapturedGraph:
    """Capture what `run` does on the GPU; the current device and its current stream are used.

    Args:
        run: One inference. It must not wait for the GPU or look at a value.
        pool: `CapturedGraph.pool` of a graph whose outputs need not outlive this one's replay.
        side: The stream to warm up on; None: a new one.
        warm: What to warm up with, where a part of `run` is enough.

    Raises:
        UsageError: It cannot be captured.
        MeasurementError: There is not enough memory for it.
    """
    import torch

    before = torch.cuda.current_stream()
    try:
        warm_up(warm or run, side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            outputs = run()
    except EdgejouleError:
        raise
    except Exception as error:
        _leave_capture(before)
        text = f"{type(error).__name__}: {short(error, 160)}"
        if "out of memory" in text.lower() or "OutOfMemory" in text:
            raise MeasurementError(
                f"not enough memory to hold the inference as a CUDA graph ({text})",
                f"{_MEND}, or try a smaller batch",
            ) from error
        raise UsageError(
            f"the model cannot be captured as a CUDA graph ({text})",
            f"{_MEND}: a model that looks at values or waits for the GPU cannot be captured",
        ) from error
    return CapturedGraph(graph, outputs)


def warm_up(run: Callable[[], Any], side: Any = None) -> None:
    """Run a few times on a side stream, as torch asks for before a capture.

    Libraries keep a workspace for every stream that they ever ran on: who captures often gives
    the same one each time.
    """
    import torch

    current: Any = torch.cuda.current_stream()
    if side is None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(WARM_RUNS):
            run()
    current.wait_stream(side)
    torch.cuda.synchronize()


def refuse_on_cpu(device: str) -> None:
    """Raise `UsageError` for a device that has no CUDA graphs."""
    if not device.startswith("cuda"):
        raise UsageError(f"--cuda-graphs: device {device} has no CUDA graphs", _MEND)


def kernels_per_step(program: Program, inputs: Sequence[Any]) -> tuple[tuple[int, ...] | None, str]:
    """Return how many kernels, copies and fills each step launches.

    Returns:
        The counts, or None where the program cannot be captured; and how they came about, or why
        there are none.
    """
    import torch

    before = torch.cuda.current_stream()
    counts: list[int] = []
    try:
        nodes = _NodeCounter()

        def run(look: Callable[[], None]) -> None:
            environment = program.start(inputs)
            look()
            for step in program.steps:
                _execute(program, step, environment)
                look()

        warm_up(lambda: run(lambda: None))
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            run(lambda: counts.append(nodes.count(torch.cuda.current_stream().cuda_stream)))
    except Exception as error:  # noqa: BLE001 (torch raises anything; the counts are then unknown)
        _leave_capture(before)
        return None, f"not counted: the program cannot be captured ({short(error, 120)})"
    finally:
        torch.cuda.empty_cache()
    found = tuple(after - start for start, after in itertools.pairwise(counts))
    return found, "counted as nodes of a captured graph"


def nodes_recorded() -> int | None:
    """Return how many nodes the current stream has recorded; None: none, or the driver is mute."""
    import torch

    if not torch.cuda.is_current_stream_capturing():
        return None
    try:
        return _NodeCounter().count(torch.cuda.current_stream().cuda_stream)
    except (OSError, RuntimeError):  # the capture itself is sound
        return None


def _execute(program: Program, step: Step, environment: list[Any]) -> None:
    """Run one step as the profilers do, and free what nothing needs after it."""
    args, kwargs = program.arguments(step, environment)
    value = step.function(*args, **kwargs)
    for path, slot in step.items:
        item = value
        for index in path:
            item = item[index]
        environment[slot] = item
    environment[step.out] = value
    for slot in step.free:
        environment[slot] = None


def _leave_capture(stream: Any) -> None:
    """Go back to the stream in use before: where a capture fails, torch stays on its own."""
    import torch

    torch.cuda.set_stream(stream)
    with contextlib.suppress(RuntimeError):  # what failed is reported already
        torch.cuda.synchronize()


class _NodeCounter:
    """Counts the nodes of the graph that a stream is recording, through the driver."""

    def __init__(self) -> None:
        # The second version of the call (CUDA 11.3) is in every driver since.
        self._driver = ctypes.CDLL("libcuda.so.1")

    def count(self, stream: int) -> int:
        """Return the number of nodes so far.

        Raises:
            RuntimeError: The driver refuses, or the stream is not recording.
        """
        status, graph = ctypes.c_int(), ctypes.c_void_p()
        code = self._driver.cuStreamGetCaptureInfo_v2(
            ctypes.c_void_p(stream),
            ctypes.byref(status),
            ctypes.byref(ctypes.c_uint64()),
            ctypes.byref(graph),
            ctypes.byref(ctypes.c_void_p()),
            ctypes.byref(ctypes.c_size_t()),
        )
        number = ctypes.c_size_t()
        if code == 0 and graph.value:
            code = self._driver.cuGraphGetNodes(graph, None, ctypes.byref(number))
        if code or not graph.value:
            raise RuntimeError(f"the CUDA driver does not count a graph's nodes (error {code})")
        return int(number.value)
