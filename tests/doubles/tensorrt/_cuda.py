"""Streams and memory of the stand-in for libcudart, if one is loaded in this process.

TensorRT links the CUDA runtime; the double finds `fake_cudart.c`'s library among what is mapped.
Without one there are no streams: work is done when it is launched, on host memory.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgejoule.inference.trt import cuda as cuda_module

WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_NAME = "fake-cuda.so"
_loaded: dict[str, Any] = {}


def library() -> Any | None:
    """Return the stand-in's library, or None if none is in use."""
    if "FAKE_CUDART" not in os.environ:  # one of an earlier test may still be mapped
        return None
    if _loaded:
        return next(iter(_loaded.values()))
    maps = Path("/proc/self/maps")
    lines = maps.read_text(encoding="utf-8").splitlines() if maps.exists() else []
    paths = {line.split(maxsplit=5)[5] for line in lines if line.endswith(_NAME)}
    if not paths:
        return None
    # Two kinds of it may be mapped, of earlier tests too: the one that `load_cuda` is given.
    given = next(iter(cuda_module.candidates()), "")
    path = given if given in paths else sorted(paths)[-1]
    if path not in _loaded:
        found: Any = ctypes.CDLL(path)
        found.fake_enqueue.argtypes = (ctypes.c_void_p, WORK, ctypes.c_void_p)
        found.fake_advance.argtypes = (ctypes.c_void_p, ctypes.c_double)
        found.fake_capturing.argtypes = (ctypes.c_void_p,)
        found.fake_is_device.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        found.cudaStreamSynchronize.argtypes = (ctypes.c_void_p,)
        found.cudaMalloc.argtypes = (ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t)
        found.cudaFree.argtypes = (ctypes.c_void_p,)
        found.cudaGetDevice.argtypes = (ctypes.POINTER(ctypes.c_int),)
        found.cudaDeviceGetAttribute.argtypes = (
            ctypes.POINTER(ctypes.c_int),
            ctypes.c_int,
            ctypes.c_int,
        )
        _loaded[path] = found
    return _loaded[path]


def capability() -> str:
    """The compute capability of the current device; that of an Orin without a CUDA runtime."""
    cuda = library()
    if cuda is None:
        return "8.7"
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    cuda.cudaGetDevice(ctypes.byref(device))
    cuda.cudaDeviceGetAttribute(ctypes.byref(major), 75, device.value)
    cuda.cudaDeviceGetAttribute(ctypes.byref(minor), 76, device.value)
    return f"{major.value}.{minor.value}"


def enqueue(stream: int, work: Callable[[], None], kept: list[Any]) -> bool:
    """Put work on a stream, or do it at once where there are no streams.

    `kept` gets what must live until the work is done.
    """
    cuda = library()
    if cuda is None:
        work()
        return True
    held = WORK(lambda _argument: work())
    kept.append(held)
    return int(cuda.fake_enqueue(stream, held, None)) == 0


def synchronise(stream: int) -> bool:
    cuda = library()
    return cuda is None or int(cuda.cudaStreamSynchronize(stream)) == 0


def capturing(stream: int) -> bool:
    cuda = library()
    return cuda is not None and bool(cuda.fake_capturing(stream))


def advance(stream: int, ms: float) -> None:
    cuda = library()
    if cuda is not None:
        cuda.fake_advance(stream, ms)


def is_device(address: int, nbytes: int) -> bool:
    cuda = library()
    return cuda is None or bool(cuda.fake_is_device(address, nbytes))


class Memory:
    """A piece of device memory of TensorRT's own, by the caller's allocator if there is one."""

    def __init__(self, nbytes: int, allocator: Any, version: tuple[int, ...]) -> None:
        self._allocator = allocator
        self.address = 0
        self._asynchronous = version >= (11, 0) and hasattr(allocator, "allocate_async")
        if not nbytes:
            return
        if allocator is not None and self._asynchronous:
            self.address = int(allocator.allocate_async(nbytes, 256, 0, 0) or 0)
        elif allocator is not None:
            self.address = int(allocator.allocate(nbytes, 256, 0) or 0)
        elif (cuda := library()) is not None:
            address = ctypes.c_void_p()
            cuda.cudaMalloc(ctypes.byref(address), nbytes)
            self.address = address.value or 0
        else:
            return
        if not self.address:
            raise MemoryError

    def free(self) -> None:
        address, self.address = self.address, 0
        if not address:
            return
        if self._allocator is not None and self._asynchronous:
            self._allocator.deallocate_async(address, 0)
        elif self._allocator is not None:
            self._allocator.deallocate(address)
        elif (cuda := library()) is not None:
            cuda.cudaFree(address)
