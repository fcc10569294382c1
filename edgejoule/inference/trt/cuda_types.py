"""What the CUDA runtime's calls take and give: numbers, one structure, a device, its errors.

Numbers and layouts are those of `driver_types.h` of CUDA 11.8, 12.9 and 13.5, where they agree.

Standard library only.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_size_t, c_ubyte, c_uint
from dataclasses import dataclass

from edgejoule.errors import MeasurementError

SUCCESS, OUT_OF_MEMORY, STUB_LIBRARY = 0, 2, 34
INSUFFICIENT_DRIVER, NO_DEVICE, DRIVER_MISMATCH = 35, 100, 803

COPY_TO_DEVICE, COPY_TO_HOST, COPY_ON_DEVICE = 1, 2, 3  # cudaMemcpyKind
ATTRIBUTE_L2 = 38  # cudaDevAttrL2CacheSize, bytes
ATTRIBUTE_INTEGRATED = 18  # cudaDevAttrIntegrated: the GPU's memory is the host's
ATTRIBUTE_MAJOR, ATTRIBUTE_MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, ...Minor
STREAM_NON_BLOCKING = 1  # cudaStreamNonBlocking: does not wait for the default stream
CAPTURE_THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal

# Those of which the header says that the process must be ended to use CUDA again.
_FATAL = frozenset((226, 700, 702, 714, 715, 716, 717, 718, 719, 721, 911))


class DevicePrefix(ctypes.Structure):
    """The members that begin `cudaDeviceProp` in every version from 10.0 on.

    What follows moved between versions; the room behind takes the rest of the largest (1032 bytes
    in 12.9) several times over.
    """

    _fields_ = (
        ("name", c_char * 256),
        ("uuid", c_ubyte * 16),
        ("luid", c_ubyte * 8),
        ("luidDeviceNodeMask", c_uint),
        ("totalGlobalMem", c_size_t),
        ("room", c_ubyte * 8192),
    )


@dataclass(frozen=True)
class CudaDevice:
    """What the runtime says of a device.

    Attributes:
        name: The product's name.
        compute_capability: As (8, 7).
        total_bytes: Its memory; of an integrated GPU the board's.
        integrated: Whether its memory is the host's (a Jetson): then it must not be counted twice.
        uuid: `GPU-...`, of a slice `MIG-...`; None: the runtime gives none.
    """

    name: str
    compute_capability: tuple[int, int]
    total_bytes: int
    integrated: bool
    uuid: str | None


class CudaError(MeasurementError):
    """A call that the runtime answered with something else than success.

    Args:
        code: cudaError_t.
        name: `cudaErrorInvalidValue`.
        text: The runtime's own words for it.
        function: The function that was called.
        mend: What to do about it.
    """

    def __init__(self, code: int, name: str, text: str, function: str, mend: str = "") -> None:
        super().__init__(f"CUDA: {function}: {name} ({text})", mend)
        self.code = code
        self.name = name
        self.function = function

    @property
    def fatal(self) -> bool:
        """Whether every further call in this process fails with the same error."""
        return self.code in _FATAL


class CudaOutOfMemory(CudaError):  # noqa: N818 (as MemoryError has its own name)
    """The device has no memory left for what was asked."""
