"""`IExecutionContext` of the double: shapes, addresses, launches, and the profiler's two modes."""

from __future__ import annotations

import ctypes
import math
import re
import time
import weakref
from typing import Any

import numpy as np

from . import _cuda
from ._base import (
    Dims,
    IOutputAllocator,
    IProfiler,
    ProfilingVerbosity,
    TensorIOMode,
    TensorLocation,
    call_override,
    log_error,
    require,
)
from ._state import VERSION

_NUMPY = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "uint16",  # upper halves of float32
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
    "FP8": "uint8",
}


def view(address: int, dtype: str, count: int) -> np.ndarray:
    """The numbers at an address."""
    kind = np.dtype(_NUMPY[dtype])
    raw = (ctypes.c_char * max(1, count * kind.itemsize)).from_address(address)
    return np.frombuffer(raw, dtype=kind, count=count)


def read_numbers(address: int, dtype: str, count: int) -> np.ndarray:
    values = view(address, dtype, count)
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64)


def write_numbers(address: int, dtype: str, values: np.ndarray) -> None:
    if dtype == "BF16":
        values = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    view(address, dtype, values.size)[:] = values.astype(_NUMPY[dtype])


class IExecutionContext:
    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._plan = engine._plan
        self._memory = _cuda.Memory(
            int(self._plan["activation_bytes"]), engine._runtime.gpu_allocator_, VERSION
        )
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._profiler: Any = None
        self._patients: list[Any] = []  # py::keep_alive<1, 2>: as long as the context
        self._emits = True
        self._nvtx = ProfilingVerbosity[self._plan["verbosity"]]
        self._captured: list[Any] = []
        self._waiting: list[Any] = []
        self._launched = self._ran = 0
        self._stream: int | None = None  # of the last launch with a profiler
        self._reports = 0

    def __del__(self) -> None:
        memory = getattr(self, "_memory", None)
        if memory is not None:
            memory.free()

    @property
    def engine(self) -> Any:
        return self._engine

    @property
    def profiler(self) -> Any:
        return self._profiler

    @profiler.setter
    def profiler(self, profiler: Any) -> None:
        if profiler is None:
            self._error(
                "IExecutionContext::setProfiler: Error Code 3: API Usage Error (Parameter check "
                "failed, condition: (profiler) != nullptr.)"
            )
            return
        require(profiler, IProfiler)
        self._patients.append(profiler)
        self._profiler = profiler

    @property
    def enqueue_emits_profile(self) -> bool:
        return self._emits

    @enqueue_emits_profile.setter
    def enqueue_emits_profile(self, emits: bool) -> None:
        self._emits = bool(emits)

    @property
    def nvtx_verbosity(self) -> Any:
        return self._nvtx

    @nvtx_verbosity.setter
    def nvtx_verbosity(self, verbosity: Any) -> None:
        self._nvtx = verbosity

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            raise RuntimeError("Error in set optimization profile async.")
        self._profile = profile_index
        self._shapes = {}
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        known = self._engine._tensors.get(name)
        wanted = tuple(shape)
        if known is None or not known["is_input"] or len(wanted) != len(known["shape"]):
            self._error(f"Error Code 3: API Usage Error (setInputShape: {name})")
            return False
        profiles = self._plan["profiles"]
        ranges = profiles[self._profile].get(name) if profiles else None
        for axis, (size, fixed) in enumerate(zip(wanted, known["shape"], strict=True)):
            least, most = (fixed, fixed) if fixed != -1 else (0, size)
            if fixed == -1 and ranges:
                least, most = ranges[0][axis], ranges[2][axis]
            if not least <= size <= most:
                self._error(
                    f"IExecutionContext::setInputShape: Error Code 3: API Usage Error (Parameter "
                    f"check failed, condition: engineDims.d[i] == dims.d[i]. Static dimension "
                    f"mismatch while setting input shape for {name}.)"
                )
                return False
        self._shapes[name] = wanted
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._shape(name))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        known = self._engine._tensors.get(name)
        on_device = known is not None and known["location"] == TensorLocation.DEVICE
        if known is None or (on_device and _cuda.library() is not None and memory % 256):
            self._error(f"Error Code 3: API Usage Error (setTensorAddress: {name})")
            return False
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        require(output_allocator, IOutputAllocator)
        known = self._engine._tensors.get(name)
        if known is None or known["is_input"]:
            return False
        self._allocators[name] = output_allocator
        return True

    def get_max_output_size(self, name: str) -> int:
        known = self._engine._tensors.get(name)
        if known is None or known["is_input"]:
            return -1
        first = self._engine._inputs[0]
        if known.get("positive"):
            count = math.prod(self._shape(first["name"]))
        else:
            count = math.prod(self._shape(name))
        return count * np.dtype(_NUMPY[known["dtype"]]).itemsize if count >= 0 else -1

    def infer_shapes(self) -> list[str]:
        missing = []
        for known in self._engine._inputs:
            unset = -1 in known["shape"] and known["name"] not in self._shapes
            if unset or (known.get("shape_tensor") and known["name"] not in self._addresses):
                missing.append(known["name"])
        return missing

    def execute_async_v3(self, stream_handle: int) -> bool:
        for known in self._engine._tensors.values():
            if not self._usable(known):
                self._error(
                    "IExecutionContext::enqueueV3: Error Code 3: API Usage Error (Parameter check "
                    f"failed, condition: mContext.profileObliviousBindings.at({known['name']}))"
                )
                return False
        capturing = _cuda.capturing(stream_handle)
        synchronous = self._profiler is not None and self._emits
        if capturing and (synchronous or self._plan.get("no_capture")):
            self._error(
                "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (operation not permitted "
                "when stream is capturing)"
            )
            return False
        addresses = dict(self._addresses)
        if self._ran == self._launched:
            self._waiting.clear()
        self._launched += not capturing
        profiled = self._profiler is not None

        # Kept by the context, so it must not keep the context.
        me = weakref.ref(self)

        def work() -> None:
            context = me()
            if context is None:
                return
            context._run(addresses, stream_handle)
            context._ran += not capturing
            if profiled:
                context._stream = stream_handle

        kept = self._captured if capturing else self._waiting
        if not _cuda.enqueue(stream_handle, work, kept):
            self._error("IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (invalid stream)")
            return False
        if profiled and not capturing:
            self._stream = stream_handle
        if synchronous:
            if not _cuda.synchronise(stream_handle):
                return False
            self._report()
        return True

    def report_to_profiler(self) -> bool:
        if self._emits:
            return True
        if self._profiler is None or self._stream is None or _cuda.capturing(self._stream):
            self._error(
                "IExecutionContext::reportToProfiler: Error Code 3: API Usage Error (Parameter "
                "check failed, condition: profiler attached, not capturing, enqueued before)"
            )
            return False
        _cuda.synchronise(self._stream)
        self._report()
        return True

    def _usable(self, known: dict[str, Any]) -> bool:
        """Whether a tensor has its memory."""
        name = known["name"]
        address = self._addresses.get(name, 0)
        if not address:
            return name in self._allocators
        shape = self._shape(name)
        if -1 in shape or known["location"] == TensorLocation.HOST:
            return -1 not in shape or name in self._allocators
        nbytes = math.prod(shape) * np.dtype(_NUMPY[known["dtype"]]).itemsize
        return _cuda.is_device(address, nbytes)

    def _shape(self, name: str) -> tuple[int, ...]:
        known = self._engine._tensors[name]
        if known["is_input"]:
            return self._shapes.get(name, tuple(known["shape"]))
        first = self._shape(self._engine._inputs[0]["name"])
        return tuple(
            size if size != -1 or known.get("positive") or axis >= len(first) else first[axis]
            for axis, size in enumerate(known["shape"])
        )

    def _run(self, addresses: dict[str, int], stream: int) -> None:
        """Do what the engine does: time passes, outputs are written."""
        total_ms = sum(layer["ms"] for layer in self._plan["layers"])
        _cuda.advance(stream, total_ms)
        if self._plan["sleep"]:
            time.sleep(total_ms / 1e3)
        first = self._engine._inputs[0]
        count = math.prod(self._shape(first["name"]))
        source = read_numbers(addresses[first["name"]], first["dtype"], count)
        for known in self._engine._outputs:
            name = known["name"]
            if known.get("positive"):
                self._write_positive(known, addresses.get(name, 0), source)
                continue
            size = math.prod(self._shape(name))
            values = np.resize(source, size) * known.get("scale", 1.0) + known.get("offset", 0.0)
            write_numbers(addresses[name], known["dtype"], values)

    def _write_positive(self, known: dict[str, Any], address: int, source: np.ndarray) -> None:
        values = source[source > 0]
        nbytes = values.size * np.dtype(_NUMPY[known["dtype"]]).itemsize
        allocator = self._allocators[known["name"]]
        arguments = (known["name"], address, nbytes, 256)
        address = call_override(allocator, IOutputAllocator, "reallocate_output", *arguments) or 0
        shape = Dims((values.size,))
        call_override(allocator, IOutputAllocator, "notify_shape", known["name"], shape)
        if address:
            write_numbers(address, known["dtype"], values)

    def _report(self) -> None:
        """Report the last launch, layer by layer, with the faults that are asked for."""
        number, self._reports = self._reports, self._reports + 1
        factor = 1.0 + number * float(self._plan["step"])
        rows = [
            (self._engine._reported_name(index), float(np.float32(layer["ms"] * factor)))
            for index, layer in enumerate(self._plan["layers"])
            if not layer.get("silent") and self._runs(layer["name"])
        ]
        for fault in self._plan["faults"]:
            if number < fault["from"] if "from" in fault else number != fault["inference"]:
                continue
            place = fault.get("layer", 0)
            if fault["kind"] == "drop":
                del rows[place]
            elif fault["kind"] == "extra":
                rows.insert(place, ("extra", 0.5))
            elif fault["kind"] == "swap":
                rows[place], rows[place + 1] = rows[place + 1], rows[place]
            elif fault["kind"] == "rename":
                rows[place] = ("renamed", rows[place][1])
        for name, ms in rows:
            call_override(self._profiler, IProfiler, "report_layer_time", name, ms)

    def _runs(self, name: str) -> bool:
        """Whether a layer is one of the optimisation profile in force."""
        mark = re.search(r" \[profile (\d+)\]$", name)
        own = int(mark[1]) if mark else 0
        return len(self._plan["profiles"]) < 2 or own == self._profile

    def _error(self, text: str) -> None:
        log_error(self._engine._runtime.logger, text)


def mode(is_input: bool) -> Any:
    return TensorIOMode.INPUT if is_input else TensorIOMode.OUTPUT
