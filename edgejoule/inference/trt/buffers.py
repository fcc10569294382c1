"""Memory of an engine's inputs and outputs: filled before the passes, so that none is copied in.

Inputs: one piece per input set. Outputs: one piece each, used by every inference. Shape tensors
that TensorRT wants on the host lie in arrays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.trt.cuda_types import CudaError
from edgejoule.inference.trt.engine import Binding

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.inference.memory_limit import Memory
    from edgejoule.inference.trt.context import Context
    from edgejoule.inference.trt.cuda import Cuda

# numpy has no bfloat16: its values travel as the upper halves of float32.
_NUMPY = {
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "uint16",
    "int8": "int8",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
    "uint8": "uint8",
}


class Buffers:
    """Inputs and outputs of one context.

    Args:
        cuda: Copies.
        context: Its shapes are set by `fill`, its outputs bound.
        stream: On which inputs are copied.
        memory: Where they lie comes from: the same `cuda`, or what holds it to a limit.
    """

    def __init__(self, cuda: Cuda, context: Context, stream: int, memory: Memory) -> None:
        self._cuda = cuda
        self._memory = memory
        self._context = context
        self._stream = stream
        self._owned: list[int] = []
        self._arrays: list[np.ndarray] = []  # on the host, read by TensorRT
        self._outputs: dict[str, tuple[int, int]] = {}  # address and bytes
        self._on_host: dict[str, np.ndarray] = {}
        self._allocators: dict[str, Any] = {}
        self.addresses: list[dict[str, int]] = []  # per input set, of what lies on the device
        self.device_bytes = 0

    def fill(self, sets: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Take the input sets, cast and copied; set shapes; allocate and bind outputs.

        Raises:
            UsageError: An input is missing, or the engine does not take its shape or type.
            MeasurementError: There is no memory, or TensorRT refuses.
        """
        engine = self._context.engine
        for binding in engine.bindings:
            check_binding(binding)
        self.addresses = [{} for _ in sets]
        staged: list[np.ndarray] = []  # until the stream has read them
        for binding in engine.inputs:
            arrays = [self._cast(binding, one) for one in sets]
            first = arrays[0]
            if any(array.shape != first.shape for array in arrays):
                raise UsageError(f"the input sets differ in the shape of {binding.name}")
            self._context.set_input_shape(binding.name, first.shape)
            if binding.on_host:
                self._bind_on_host(binding, arrays)
                continue
            for array, addresses in zip(arrays, self.addresses, strict=True):
                address = self._allocate(array.nbytes)
                staged.append(array)
                self._cuda.copy_to_device(address, array, self._stream)
                addresses[binding.name] = address
        for name, address in self.addresses[0].items():
            self._context.bind(name, address)
        self._context.check_shapes()
        for binding in engine.outputs:
            self._bind_output(binding)
        self._cuda.synchronise(self._stream)
        staged.clear()

    def dynamic_outputs(self) -> tuple[str, ...]:
        """The outputs whose shape depends on values."""
        return tuple(self._allocators)

    def read(self) -> list[np.ndarray]:
        """Return the outputs of the last inference as floats, in the engine's order.

        Raises:
            MeasurementError: The engine has none, or one that did not fit.
        """
        import numpy as np

        found = []
        for binding in self._context.engine.outputs:
            if binding.name in self._on_host:
                found.append(self._on_host[binding.name].astype(np.float64))
                continue
            shape = self._shape(binding.name)
            raw = np.empty(shape, dtype=_NUMPY[binding.dtype])
            self._cuda.copy_to_host(raw, self._outputs[binding.name][0], self._stream)
            self._cuda.synchronise(self._stream)
            found.append(to_float(raw, binding.dtype))
        if not found:
            raise MeasurementError("the engine returns nothing")
        return found

    def close(self) -> None:
        """Give the memory back, also if the device is in error."""
        for address in self._owned:
            with contextlib.suppress(CudaError):
                self._memory.free(address)
        self._owned = []
        self._arrays = []
        self._on_host = {}
        self._allocators = {}

    def _allocate(self, nbytes: int) -> int:
        address = self._memory.allocate(nbytes)
        self._owned.append(address)
        self.device_bytes += nbytes
        return address

    def _cast(self, binding: Binding, one: Mapping[str, np.ndarray]) -> np.ndarray:
        if binding.name not in one:
            raise UsageError(
                f"the engine's input {binding.name} is given no values",
                f"the model's inputs are {', '.join(one)}; build the engine again from it",
            )
        return cast_to(one[binding.name], binding)

    def _bind_on_host(self, binding: Binding, arrays: Sequence[np.ndarray]) -> None:
        first = arrays[0]
        if any((array != first).any() for array in arrays):
            raise UsageError(
                f"the input sets differ in the values of {binding.name}, on which shapes depend",
                "give one value for all",
            )
        self._arrays.append(first)
        self._context.bind(binding.name, first.ctypes.data)

    def _bind_output(self, binding: Binding) -> None:
        import numpy as np

        name = binding.name
        shape = self._context.output_shape(name)
        if binding.on_host:
            array = np.zeros(shape, dtype=_NUMPY[binding.dtype])
            self._on_host[name] = array
            self._context.bind(name, array.ctypes.data)
            return
        if -1 in shape:
            nbytes = self._context.largest_output(name)
        else:
            nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(_NUMPY[binding.dtype]).itemsize
        address = self._allocate(nbytes)
        self._outputs[name] = address, nbytes
        self._context.bind(name, address)
        if -1 in shape:
            trt = self._context.engine.trt
            self._allocators[name] = make_output_allocator(trt, address, nbytes)
            self._context.allocate_output(name, self._allocators[name])

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self._allocators:
            return self._context.output_shape(name)
        allocator = self._allocators[name]
        if allocator.wanted > self._outputs[name][1]:
            raise MeasurementError(
                f"output {name} took {allocator.wanted} bytes, more than the "
                f"{self._outputs[name][1]} that TensorRT had named as the most"
            )
        shape: tuple[int, ...] | None = allocator.shape
        if shape is None:
            raise MeasurementError(f"TensorRT did not say of which shape output {name} is")
        return shape


def check_binding(binding: Binding) -> None:
    """Refuse an input or output that cannot be filled or read (`UsageError`)."""
    what = f"the engine's {'input' if binding.is_input else 'output'} {binding.name}"
    if binding.dtype not in _NUMPY:
        raise UsageError(
            f"{what} is of type {binding.dtype}, which is not supported",
            "build the engine with inputs and outputs of float32, float16, bfloat16 or integers",
        )
    if binding.layout != "LINEAR":
        raise UsageError(
            f"{what} is laid out as {binding.layout}",
            "build the engine with linear inputs and outputs (trtexec: without --inputIOFormats)",
        )


def cast_to(array: np.ndarray, binding: Binding) -> np.ndarray:
    """Return a C-contiguous array of the type that the engine's input has.

    Raises:
        UsageError: The values are floats and the input takes integers.
    """
    import numpy as np

    if binding.dtype == "bfloat16":
        return to_bfloat16(array)
    wanted = np.dtype(_NUMPY[binding.dtype])
    if array.dtype.kind == "f" and wanted.kind in "iub":
        raise UsageError(
            f"the engine's input {binding.name} takes {binding.dtype}, its values are "
            f"{array.dtype.name}",
            "build the engine with a float input",
        )
    return np.ascontiguousarray(array, dtype=wanted)


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    """Return values as bfloat16 in uint16, rounded to nearest, ties to even; NaN stays NaN."""
    import numpy as np

    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, (bits >> 16) | 0x40, rounded).astype(np.uint16)


def to_float(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Return an output's values as float32, or as float64 where they were integers."""
    import numpy as np

    if dtype == "bfloat16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32 if raw.dtype.kind == "f" else np.float64)


def make_output_allocator(trt: Any, address: int, nbytes: int) -> Any:
    """Return an `IOutputAllocator` that gives out one piece of memory and notes the shape.

    TensorRT asks it once per inference for an output whose shape depends on values.
    """

    class _Allocator(trt.IOutputAllocator):  # type: ignore[misc]  # known at run time only
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.shape: tuple[int, ...] | None = None  # until TensorRT tells it
            self.wanted = 0

        def reallocate_output(
            self, tensor_name: str, memory: int, size: int, alignment: int
        ) -> int:
            """Give the memory if it is enough; called by TensorRT."""
            self.wanted = size
            return address if size <= nbytes else 0

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            """Note the shape; called by TensorRT."""
            self.shape = tuple(int(size) for size in shape)

    return _Allocator()
