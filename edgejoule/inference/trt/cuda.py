"""The CUDA runtime by ctypes: memory, streams, events and graphs without torch.

Names, structures and numbers are those of the CUDA Runtime API reference, 10.2 to 13. ctypes
releases the GIL while a call runs, so that other threads go on while this one waits; Ctrl-C is
handled when the call returns. Every answer is checked.

The current device belongs to the thread (`cudaSetDevice`): a second thread calls `use` first.

Standard library only; arrays are taken as numpy's, which is not imported.
"""

from __future__ import annotations

import ctypes
import uuid
from collections.abc import Callable, Iterable
from ctypes import (
    POINTER,
    byref,
    c_char_p,
    c_float,
    c_int,
    c_size_t,
    c_uint,
    c_ulonglong,
    c_void_p,
)
from typing import TYPE_CHECKING, Any

from edgejoule.errors import UsageError
from edgejoule.inference.trt import cuda_types as types
from edgejoule.inference.trt.cuda_find import candidates
from edgejoule.inference.trt.cuda_types import CudaDevice, CudaError, CudaOutOfMemory, DevicePrefix

if TYPE_CHECKING:
    import numpy as np

_OUT = POINTER(c_void_p)
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaRuntimeGetVersion": (POINTER(c_int),),
    "cudaDriverGetVersion": (POINTER(c_int),),
    "cudaGetDeviceCount": (POINTER(c_int),),
    "cudaSetDevice": (c_int,),
    "cudaGetDevice": (POINTER(c_int),),
    "cudaGetDeviceProperties": (POINTER(DevicePrefix), c_int),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaMemGetInfo": (POINTER(c_size_t), POINTER(c_size_t)),
    "cudaMalloc": (_OUT, c_size_t),
    "cudaFree": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaMemsetAsync": (c_void_p, c_int, c_size_t, c_void_p),
    "cudaStreamCreateWithFlags": (_OUT, c_uint),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaEventCreate": (_OUT,),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventSynchronize": (c_void_p,),
    "cudaEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cudaEventDestroy": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, _OUT),
    "cudaGraphInstantiateWithFlags": (_OUT, c_void_p, c_ulonglong),
    # As it was until 11; from 12 on it takes what the one above takes, which is there from 11.4 on.
    "cudaGraphInstantiate": (_OUT, c_void_p, _OUT, c_char_p, c_size_t),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaGetLastError": (),
}
_MENDS = {
    types.OUT_OF_MEMORY: "take a smaller batch or --input-shape, or end what else uses the GPU",
    types.STUB_LIBRARY: "a stub library of the toolkit stands before the driver's own",
}
_WITHOUT_GPU = "another backend measures on the CPU: --backend onnxruntime"


class Cuda:
    """The runtime, with at least one device; see `load_cuda`. Methods raise `CudaError`.

    Addresses, streams, events and graphs are plain integers, as TensorRT's Python API takes them.

    Attributes:
        path: The library that was loaded.
        runtime_version: Of that library, as `12.9`.
        driver_version: The newest runtime that this driver serves, as `13.0`.
    """

    def __init__(self, library: Any, path: str) -> None:
        self.path = path
        self._library = library
        for name, argtypes in _SIGNATURES.items():
            function = getattr(library, name, None)
            if function is not None:
                function.argtypes, function.restype = argtypes, c_int
        for name in ("cudaGetErrorName", "cudaGetErrorString"):
            function = getattr(library, name)
            function.argtypes, function.restype = (c_int,), c_char_p
        self.driver_version = _version(self._number("cudaDriverGetVersion"))
        self.runtime_version = self._own_version()

    def device_count(self) -> int:
        """How many devices this process may use."""
        return self._number("cudaGetDeviceCount")

    def use(self, index: int) -> None:
        """Make a device the current one of this thread."""
        self._call("cudaSetDevice", index)

    def current(self) -> int:
        """The current device of this thread, 0 if none was chosen."""
        return self._number("cudaGetDevice")

    def device(self, index: int) -> CudaDevice:
        """Describe a device; makes no context on it."""
        told = DevicePrefix()
        self._call("cudaGetDeviceProperties", byref(told), index)
        name = told.name.decode(errors="replace")
        kind = "MIG" if " MIG " in name else "GPU"  # "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
        unique = bytes(told.uuid)
        return CudaDevice(
            name=name,
            compute_capability=(
                self._number("cudaDeviceGetAttribute", types.ATTRIBUTE_MAJOR, index),
                self._number("cudaDeviceGetAttribute", types.ATTRIBUTE_MINOR, index),
            ),
            total_bytes=told.totalGlobalMem,
            integrated=bool(
                self._number("cudaDeviceGetAttribute", types.ATTRIBUTE_INTEGRATED, index)
            ),
            uuid=f"{kind}-{uuid.UUID(bytes=unique)}" if any(unique) else None,
        )

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the current device, all processes together.

        The first call makes the device's context, which itself takes memory. On an integrated GPU
        `free` leaves out what the kernel could still reclaim (CUDA for Tegra, `cudaMemGetInfo`).
        """
        free, total = c_size_t(), c_size_t()
        self._call("cudaMemGetInfo", byref(free), byref(total))
        return free.value, total.value

    def l2_bytes(self, index: int) -> int | None:
        """Return the L2 cache of a device, None if the runtime does not say."""
        try:
            return self._number("cudaDeviceGetAttribute", types.ATTRIBUTE_L2, index) or None
        except CudaError:
            return None

    def allocate(self, nbytes: int) -> int:
        """Allocate device memory and return its address, at least 256-byte aligned.

        Raises:
            CudaOutOfMemory: The device has no room for it.
        """
        if nbytes < 0:
            raise ValueError(f"{nbytes} bytes cannot be allocated")
        # The runtime gives a null pointer for nothing, which TensorRT refuses as an address.
        return self._handle("cudaMalloc", max(nbytes, 1))

    def free(self, address: int) -> None:
        """Give device memory back; waits for the device."""
        self._call("cudaFree", address)

    def copy_to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        """Enqueue a copy of a C-contiguous array to device memory.

        A numpy array is pageable memory: the runtime waits for the stream, takes the bytes into a
        buffer of its own and returns, maybe before they reached the device (CUDA Runtime API, "API
        synchronization behavior"). The array may change at once; the device is ready after
        `synchronise`.
        """
        _check_contiguous(array)
        self._copy(address, array.ctypes.data, array.nbytes, types.COPY_TO_DEVICE, stream)

    def copy_to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        """Enqueue a copy of device memory to a C-contiguous array.

        Into pageable memory, as a numpy array is, this may return only once it is done, but is sure
        to be done only after `synchronise`.
        """
        _check_contiguous(array)
        self._copy(array.ctypes.data, address, array.nbytes, types.COPY_TO_HOST, stream)

    def copy_on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Enqueue a copy from device memory to device memory."""
        self._copy(target, source, nbytes, types.COPY_ON_DEVICE, stream)

    def fill(self, address: int, value: int, nbytes: int, stream: int) -> None:
        """Enqueue setting every byte to a value."""
        self._call("cudaMemsetAsync", address, value, nbytes, stream)

    def stream(self) -> int:
        """Make a stream that does not wait for the default stream."""
        return self._handle("cudaStreamCreateWithFlags", types.STREAM_NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream; what runs on it is completed."""
        self._call("cudaStreamDestroy", stream)

    def synchronise(self, stream: int) -> None:
        """Wait until all work of a stream is done; what failed in it is raised here.

        Whether the waiting thread spins, yields or sleeps is the driver's choice
        (`cudaDeviceScheduleAuto`).
        """
        self._call("cudaStreamSynchronize", stream)

    def event(self) -> int:
        """Make an event that takes the time."""
        return self._handle("cudaEventCreate")

    def record(self, event: int, stream: int) -> None:
        """Enqueue taking the time."""
        self._call("cudaEventRecord", event, stream)

    def wait_event(self, event: int) -> None:
        """Wait until an event's time is taken."""
        self._call("cudaEventSynchronize", event)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Return the time between two events that are over, ms; its step is about 0.5 us.

        Raises:
            CudaError: `cudaErrorNotReady`: one of them is not over.
        """
        value = c_float()
        self._call("cudaEventElapsedTime", byref(value), start, end)
        return value.value

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""
        self._call("cudaEventDestroy", event)

    def begin_capture(self, stream: int) -> None:
        """Record what this thread enqueues on a stream, in place of running it."""
        self._call("cudaStreamBeginCapture", stream, types.CAPTURE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """End recording and return a graph ready to launch.

        Raises:
            CudaError: Something in between could not be captured (`cudaErrorStreamCapture...`); the
                stream can be used again.
        """
        recorded = self._handle("cudaStreamEndCapture", of=stream)
        try:
            return self._instantiate(recorded)
        finally:
            self._call("cudaGraphDestroy", recorded)

    def abandon_capture(self, stream: int) -> None:
        """End a capture that went wrong, so that the stream can be used again; never raises."""
        recorded = c_void_p()
        self._library.cudaStreamEndCapture(stream, byref(recorded))
        if recorded.value:
            self._library.cudaGraphDestroy(recorded)
        self._library.cudaGetLastError()

    def launch(self, graph: int, stream: int) -> None:
        """Enqueue a graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Destroy a graph that `end_capture` made."""
        self._call("cudaGraphExecDestroy", graph)

    def _own_version(self) -> str:
        try:
            return _version(self._number("cudaRuntimeGetVersion"))
        except CudaError as error:
            # 11 does not say it without a driver, 12 and 13 do.
            if error.code != types.INSUFFICIENT_DRIVER:
                raise
            return "of a version that it does not tell"

    def _instantiate(self, recorded: int) -> int:
        if getattr(self._library, "cudaGraphInstantiateWithFlags", None) is not None:
            return self._handle("cudaGraphInstantiateWithFlags", recorded, 0)
        return self._handle("cudaGraphInstantiate", recorded, None, None, 0)

    def _copy(self, target: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        if nbytes:
            self._call("cudaMemcpyAsync", target, source, nbytes, kind, stream)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise self._error(code, name)

    def _error(self, code: int, function: str) -> CudaError:
        """Describe an error and take it out of the runtime's memory.

        The runtime keeps the last error of each thread; whoever asks next (torch does after a
        launch) would take this one, which is raised here, for its own. Fatal ones stay anyway.
        """
        self._library.cudaGetLastError()
        name = (self._library.cudaGetErrorName(code) or b"").decode(errors="replace")
        text = (self._library.cudaGetErrorString(code) or b"").decode(errors="replace")
        kind = CudaOutOfMemory if code == types.OUT_OF_MEMORY else CudaError
        return kind(code, name or f"error {code}", text, function, _MENDS.get(code, ""))

    def _number(self, name: str, *arguments: Any) -> int:
        value = c_int()
        self._call(name, byref(value), *arguments)
        return value.value

    def _handle(self, name: str, *arguments: Any, of: int | None = None) -> int:
        """Return what a call makes; `of`, if given, stands before it among the arguments."""
        value = c_void_p()
        before = () if of is None else (of,)
        self._call(name, *before, byref(value), *arguments)
        return value.value or 0


def load_cuda(paths: Iterable[str] | None = None, load: Callable[[str], Any] = ctypes.CDLL) -> Cuda:
    """Load the first CUDA runtime that this machine's driver serves and that sees a device.

    Args:
        paths: What to try, in order; None: `cuda_find.candidates`.
        load: What loads a library.

    Raises:
        UsageError: No runtime, no driver or one too old for each runtime, or no device.
    """
    refused: list[str] = []
    for path in candidates() if paths is None else paths:
        cuda = None
        try:
            cuda = Cuda(load(path), path)
            cuda.device_count()
        except (OSError, AttributeError):  # not there, or not a runtime
            continue
        except CudaError as error:
            refused.append(_refusal(cuda, error))
            if error.code == types.NO_DEVICE:
                break  # no runtime will see one
            continue  # another runtime may do: an older one, or one that is whole
        return cuda
    if not refused:
        raise UsageError(
            "no CUDA runtime (libcudart) is found here",
            "install CUDA (on a Jetson: nvidia-jetpack), or pip install nvidia-cuda-runtime-cu12 "
            f"for a driver of CUDA 12; {_WITHOUT_GPU}",
        )
    raise UsageError(f"no GPU can be used: {refused[0]}", _WITHOUT_GPU)


def _refusal(cuda: Cuda | None, error: CudaError) -> str:
    """Say why a runtime that loads is of no use."""
    if cuda is not None and error.code == types.INSUFFICIENT_DRIVER:
        if cuda.driver_version == "0.0":
            return "there is no NVIDIA driver here (in a container: start it with --gpus all)"
        return (
            f"the driver serves CUDA {cuda.driver_version}, {cuda.path} is "
            f"{cuda.runtime_version} (cudaErrorInsufficientDriver)"
        )
    if error.code == types.NO_DEVICE:
        return "no CUDA device is visible (CUDA_VISIBLE_DEVICES, or none in this container)"
    if error.code == types.DRIVER_MISMATCH:
        return "the driver is older or newer than the CUDA libraries beside it"
    return str(error)


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _check_contiguous(array: np.ndarray) -> None:
    if not array.flags.c_contiguous:
        raise ValueError("only a C-contiguous array can be copied")
