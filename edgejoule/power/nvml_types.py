"""What NVML's calls take and give: numbers, structures and its one error, as in `nvml.h`.

Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
from ctypes import c_char, c_double, c_int, c_int64, c_uint, c_ulong, c_ulonglong, c_ushort
from dataclasses import dataclass

LIBRARY = "libnvidia-ml.so.1"

FIELD_POWER_AVERAGE = 185  # NVML_FI_DEV_POWER_AVERAGE, mW, mean over 1 s
FIELD_POWER_INSTANT = 186  # NVML_FI_DEV_POWER_INSTANT, mW
CLOCKS = {"graphics": 0, "sm": 1, "memory": 2}  # nvmlClockType_t

NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, INSUFFICIENT_SIZE = 3, 4, 6, 7
DRIVER_NOT_LOADED, TIMEOUT, LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND = 9, 10, 12, 13
GPU_IS_LOST, RESET_REQUIRED, LIBRARY_MISMATCH, NO_DATA = 15, 16, 18, 21
_NAMES = {
    1: "UNINITIALIZED", 2: "INVALID_ARGUMENT", 3: "NOT_SUPPORTED", 4: "NO_PERMISSION",
    5: "ALREADY_INITIALIZED", 6: "NOT_FOUND", 7: "INSUFFICIENT_SIZE", 8: "INSUFFICIENT_POWER",
    9: "DRIVER_NOT_LOADED", 10: "TIMEOUT", 11: "IRQ_ISSUE", 12: "LIBRARY_NOT_FOUND",
    13: "FUNCTION_NOT_FOUND", 14: "CORRUPTED_INFOROM", 15: "GPU_IS_LOST", 16: "RESET_REQUIRED",
    17: "OPERATING_SYSTEM", 18: "LIB_RM_VERSION_MISMATCH", 19: "IN_USE", 20: "MEMORY",
    21: "NO_DATA", 22: "VGPU_ECC_NOT_SUPPORTED", 23: "INSUFFICIENT_RESOURCES",
    24: "FREQ_NOT_SUPPORTED", 25: "ARGUMENT_VERSION_MISMATCH", 26: "DEPRECATED",
    27: "NOT_READY", 28: "GPU_NOT_FOUND", 29: "INVALID_STATE", 30: "RESET_TYPE_NOT_SUPPORTED",
    999: "UNKNOWN",
}  # fmt: skip
_UNSUPPORTED = {NOT_SUPPORTED, FUNCTION_NOT_FOUND, 25, 26}
_ERRNO = {
    **dict.fromkeys((*_UNSUPPORTED, NO_DATA), getattr(errno, "ENODATA", errno.EIO)),
    **dict.fromkeys(
        (1, NOT_FOUND, DRIVER_NOT_LOADED, GPU_IS_LOST, RESET_REQUIRED, 28), errno.ENODEV
    ),
    NO_PERMISSION: errno.EACCES,
    TIMEOUT: errno.ETIMEDOUT,
}

# nvmlClocksEventReason* (older headers: nvmlClocksThrottleReason*)
CLOCK_REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
UNKNOWN_BYTES = 2**64 - 1  # NVML_VALUE_NOT_AVAILABLE
MIB = 2**20
TEXT_BYTES = 96  # the longest text buffer that NVML asks for (names, UUIDs)


class NvmlError(Exception):
    """A call that NVML answered with something else than success.

    Args:
        code: nvmlReturn_t.
        function: The function that was called.
    """

    def __init__(self, code: int, function: str) -> None:
        self.code = code
        self.name = f"NVML_ERROR_{_NAMES[code]}" if code in _NAMES else f"NVML_ERROR_{code}"
        self.function = function
        super().__init__(f"{function}: {self.name}")

    @property
    def unsupported(self) -> bool:
        """Whether this GPU or this driver does not know the query."""
        return self.code in _UNSUPPORTED

    def as_os_error(self) -> OSError:
        """The same as an OSError: ENODATA, ENODEV, EACCES, ETIMEDOUT, otherwise EIO."""
        return OSError(_ERRNO.get(self.code, errno.EIO), str(self))


class _Value(ctypes.Union):
    _fields_ = (
        ("dVal", c_double),
        ("uiVal", c_uint),
        ("ulVal", c_ulong),
        ("ullVal", c_ulonglong),
        ("sllVal", c_int64),
        ("siVal", c_int),
        ("usVal", c_ushort),
    )


# By nvmlValueType_t.
VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


class FieldValue(ctypes.Structure):
    """nvmlFieldValue_t, 40 bytes."""

    _fields_ = (
        ("fieldId", c_uint),
        ("scopeId", c_uint),
        ("timestamp", c_int64),
        ("latencyUsec", c_int64),
        ("valueType", c_uint),
        ("nvmlReturn", c_uint),
        ("value", _Value),
    )


class PciInfo(ctypes.Structure):
    """nvmlPciInfo_t, 68 bytes."""

    _fields_ = (
        ("busIdLegacy", c_char * 16),
        ("domain", c_uint),
        ("bus", c_uint),
        ("device", c_uint),
        ("pciDeviceId", c_uint),
        ("pciSubSystemId", c_uint),
        ("busId", c_char * 32),
    )


class MemoryV1(ctypes.Structure):
    """nvmlMemory_t; bytes."""

    _fields_ = (("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong))


class MemoryV2(ctypes.Structure):
    """nvmlMemory_v2_t, 40 bytes; bytes."""

    _fields_ = (
        ("version", c_uint),
        ("total", c_ulonglong),
        ("reserved", c_ulonglong),
        ("free", c_ulonglong),
        ("used", c_ulonglong),
    )


class ProcessInfo(ctypes.Structure):
    """nvmlProcessInfo_v2_t, 24 bytes; both `_v2` and `_v3` of the calls fill this one."""

    _fields_ = (
        ("pid", c_uint),
        ("usedGpuMemory", c_ulonglong),
        ("gpuInstanceId", c_uint),
        ("computeInstanceId", c_uint),
    )


class Utilization(ctypes.Structure):
    """nvmlUtilization_t; percent of the driver's last sampling period."""

    _fields_ = (("gpu", c_uint), ("memory", c_uint))


@dataclass(frozen=True)
class Memory:
    """A GPU's memory, MiB.

    Attributes:
        total_mib: All of it.
        free_mib: Not allocated.
        reserved_mib: Held by driver and firmware; None: this driver does not tell it apart.
    """

    total_mib: int
    free_mib: int
    reserved_mib: int | None

    @property
    def in_use_mib(self) -> int | None:
        """What processes hold. `used` is not taken: whether it contains the reserve varies."""
        if self.reserved_mib is None:
            return None
        return max(0, self.total_mib - self.free_mib - self.reserved_mib)


@dataclass(frozen=True)
class GpuProcess:
    """A process with memory on a GPU: its id in this pid namespace and MiB, where told."""

    pid: int
    memory_mib: int | None
