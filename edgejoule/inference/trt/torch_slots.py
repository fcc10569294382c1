"""What stands in a slot of the flat graph: an engine on an execution context of our own.

Inputs are read where PyTorch has them, outputs written into tensors that are allocated once, so
that an inference allocates nothing for engines and a CUDA graph can hold it. Everything runs on one
stream, so nothing has to wait for anything but its predecessor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from edgejoule.errors import MeasurementError

if TYPE_CHECKING:
    from edgejoule.inference.torch_event_cost import GpuEvents
    from edgejoule.inference.torch_graph import Program
    from edgejoule.inference.trt.engine import Binding, Engine

_ALIGNMENT = 256

Kernels = tuple[tuple[int, ...] | None, str]  # of each step, or None; and how that is known


class Replay(Protocol):
    """A captured inference."""

    outputs: Any  # tensors that every replay writes
    replay: Callable[[], None]  # puts the inference on the stream

    @property
    def pool(self) -> Any:
        """The pool of memory that further captures may share."""


class Gpu(Protocol):
    """Where a session runs: a device, and one stream for everything."""

    device: str

    def stream(self) -> int:
        """Return the handle of the stream that PyTorch uses now: ours, or one that is captured."""

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """Have PyTorch put its work on our stream."""

    def events(self) -> GpuEvents:
        """Return events of the stream; called while it is active."""

    def synchronise(self) -> None:
        """Wait until the stream has done everything."""

    def capture(self, run: Callable[[], Any], pool: Any = None) -> Replay:
        """Capture what a function puts on the stream, in the pool of another capture if given."""

    def kernels(self, program: Program, inputs: Sequence[Any]) -> Kernels:
        """Return how many kernels each step launches."""


class CudaGpu:
    """A stream of our own on a CUDA device.

    Attributes:
        device: `cuda:<index>`.
    """

    def __init__(self, device: str) -> None:
        import torch

        torch.cuda.set_device(device)
        made: Any = torch.cuda.Stream  # without types
        self.device = device
        self._stream: Any = made(device)
        self._current: Any = torch.cuda.current_stream

    def stream(self) -> int:
        """Return the handle of the current stream."""
        return int(self._current().cuda_stream)

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """Have PyTorch put its work on our stream."""
        import torch

        entered: contextlib.AbstractContextManager[Any] = torch.cuda.stream(self._stream)
        return entered

    def events(self) -> GpuEvents:
        """Return events of the current stream."""
        from edgejoule.inference.torch_gpu_profiler import CudaEvents

        return CudaEvents()

    def synchronise(self) -> None:
        """Wait for the stream; PyTorch gives the interpreter's lock away meanwhile."""
        self._stream.synchronize()

    def capture(self, run: Callable[[], Any], pool: Any = None) -> Replay:
        """Capture a CUDA graph, after a few runs."""
        from edgejoule.inference.torch_cuda_graph import capture

        return capture(run, pool)

    def kernels(self, program: Program, inputs: Sequence[Any]) -> Kernels:
        """Count the nodes of a captured graph."""
        from edgejoule.inference.torch_cuda_graph import kernels_per_step

        return kernels_per_step(program, inputs)


class EngineRunner:
    """One engine with its context and its output tensors.

    Attributes:
        engine: The engine.
        context: Its context.
        copies: How many inputs had to be copied, in all calls: TensorRT reads contiguous tensors
            whose addresses are multiples of 256 (`setTensorAddress` in NvInferRuntime.h), which
            views of PyTorch's need not be; and on the GPU, where parts in PyTorch may leave a
            tensor on the CPU or a plain number.
    """

    def __init__(
        self,
        engine: Engine,
        inputs: Sequence[str],
        outputs: Sequence[str],
        gpu: Gpu,
        *,
        single: bool,
    ) -> None:
        import torch

        self.engine = engine
        self.context = engine.context()
        self.copies = 0
        self._gpu = gpu
        told = {binding.name: _plain(binding) for binding in engine.bindings}
        unnamed = sorted(set(told).difference(inputs, outputs))
        if unnamed or not told.keys() >= set(outputs):
            raise MeasurementError(
                f"an engine has the tensors {', '.join(sorted(told))} where torch_tensorrt "
                f"named {', '.join(sorted({*inputs, *outputs}))}"
            )
        # An input that the engine does not read may have been dropped from it.
        self._inputs = [
            (index, told[name], _torch_dtype(told[name]))
            for index, name in enumerate(inputs)
            if name in told
        ]
        self._outputs = [told[name] for name in outputs]
        self._shapes: dict[int, Any] = {}
        self._addresses: dict[int, int] = {}
        self._alignment = _ALIGNMENT if gpu.device.startswith("cuda") else 1
        self._on_host = not gpu.device.startswith("cuda")
        self._tensor, self._as_tensor = torch.Tensor, torch.as_tensor
        self._row_by_row = torch.contiguous_format
        self._single = single and len(self._outputs) == 1
        self._results: tuple[Any, ...] = ()

    def __call__(self, *tensors: Any) -> Any:
        """Put one inference on the stream; return a tensor, or a tuple of them.

        Raises:
            MeasurementError: A tensor is not what the engine was built for.
        """
        changed = False
        held = []  # until the launch: a copy lives no longer than its last name
        for index, binding, dtype in self._inputs:
            tensor = tensors[index]
            if not isinstance(tensor, self._tensor) or tensor.is_cpu != self._on_host:
                tensor = self._as_tensor(tensor, device=self._gpu.device)
                self.copies += 1
                held.append(tensor)
            if not tensor.is_contiguous() or tensor.data_ptr() % self._alignment:
                tensor = tensor.clone(memory_format=self._row_by_row)
                self.copies += 1
                held.append(tensor)
            if tensor.dtype is not dtype:
                raise MeasurementError(
                    f"input {binding.name} of an engine is {tensor.dtype}, it was built for {dtype}"
                )
            if tensor.shape != self._shapes.get(index):
                self.context.set_input_shape(binding.name, tuple(map(int, tensor.shape)))
                self._shapes[index] = tensor.shape
                changed = True
            address = tensor.data_ptr()
            if address != self._addresses.get(index):
                self.context.bind(binding.name, address)
                self._addresses[index] = address
        if changed or not self._results:
            self._allocate()
        self.context.enqueue(self._gpu.stream())
        del held
        return self._results[0] if self._single else self._results

    def _allocate(self) -> None:
        """Allocate the outputs for the shapes that the inputs have now."""
        import torch

        self.context.check_shapes()
        results = []
        for binding in self._outputs:
            shape = self.context.output_shape(binding.name)
            if any(size < 0 for size in shape):
                raise MeasurementError(
                    f"output {binding.name} of an engine has a shape that depends on values",
                    "use --backend onnxruntime or torch",
                )
            tensor = torch.empty(shape, dtype=_torch_dtype(binding), device=self._gpu.device)
            self.context.bind(binding.name, tensor.data_ptr())
            results.append(tensor)
        self._results = tuple(results)

    def close(self) -> None:
        """Free the context, the outputs and the engine."""
        self._results = ()
        self.context.close()
        self.engine.close()


def _plain(binding: Binding) -> Binding:
    """Return a tensor that PyTorch can read or write where it lies.

    Raises:
        MeasurementError: It lies in host memory, or not row by row.
    """
    if binding.on_host or binding.is_shape:
        raise MeasurementError(
            f"tensor {binding.name} of an engine holds shapes, which this backend does not feed",
            "use --backend tensorrt",
        )
    if binding.layout != "LINEAR":
        raise MeasurementError(
            f"tensor {binding.name} of an engine lies in memory as {binding.layout}, PyTorch's "
            "do not",
            "use --backend tensorrt",
        )
    return binding


def _torch_dtype(binding: Binding) -> Any:
    import torch

    found = getattr(torch, binding.dtype, None)
    if found is None:
        raise MeasurementError(
            f"tensor {binding.name} of an engine is {binding.dtype}, which this torch "
            f"{torch.__version__} has not"
        )
    return found
