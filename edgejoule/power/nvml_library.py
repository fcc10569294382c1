"""NVIDIA's management library by ctypes: one method per query, every one optional.

Names, structures and numbers are those of `nvml.h` (NVIDIA's NVML API reference). A function that
this driver's library lacks counts as *not supported*, so that one code serves a driver of 2017, one
of today and a Jetson, whose NVML loads and answers `NOT_SUPPORTED` to nearly everything.

Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from ctypes import byref, c_int, c_uint, c_ulonglong
from typing import Any

from edgejoule.power.nvml_types import (
    CLOCK_REASONS,
    CLOCKS,
    FUNCTION_NOT_FOUND,
    INSUFFICIENT_SIZE,
    LIBRARY,
    LIBRARY_NOT_FOUND,
    MIB,
    NOT_SUPPORTED,
    TEXT_BYTES,
    UNKNOWN_BYTES,
    VALUE_MEMBERS,
    FieldValue,
    GpuProcess,
    Memory,
    MemoryV1,
    MemoryV2,
    NvmlError,
    PciInfo,
    ProcessInfo,
    Utilization,
)  # fmt: skip

Device = Any  # an opaque nvmlDevice_t


class Nvml:
    """An initialised NVML; see `open_nvml`.

    Methods raise `NvmlError`. Readers (`power_reader`, ...) have one buffer each: one reader per
    thread.
    """

    def __init__(self, library: Any) -> None:
        self._library = library

    def close(self) -> None:
        """Release the library; NVML counts its users."""
        with contextlib.suppress(NvmlError):
            self._call("nvmlShutdown")

    def driver_version(self) -> str:
        """The driver's version, as `580.159.03`."""
        return self._text("nvmlSystemGetDriverVersion")

    def count(self) -> int:
        """How many GPUs the driver shows here."""
        return self._uint("nvmlDeviceGetCount_v2")

    def by_index(self, index: int) -> Device:
        """A handle by NVML's index, which is not CUDA's ordinal."""
        return self._handle("nvmlDeviceGetHandleByIndex_v2", c_uint(index))

    def by_uuid(self, uuid: str) -> Device:
        """A handle by `GPU-...` or `MIG-...`."""
        return self._handle("nvmlDeviceGetHandleByUUID", uuid.encode())

    def by_pci(self, bus_id: str) -> Device:
        """A handle by PCI bus id (`00000000:1B:00.0`)."""
        return self._handle("nvmlDeviceGetHandleByPciBusId_v2", bus_id.encode())

    def devices(self) -> Iterator[tuple[int, Device]]:
        """Yield NVML's index and the handle of each GPU that can be opened."""
        for index in range(self.count()):
            with contextlib.suppress(NvmlError):
                yield index, self.by_index(index)

    def name(self, device: Device) -> str:
        """The product's name."""
        return self._text("nvmlDeviceGetName", device)

    def uuid(self, device: Device) -> str:
        """The UUID, `GPU-...`, of a slice `MIG-...`."""
        return self._text("nvmlDeviceGetUUID", device)

    def pci_bus_id(self, device: Device) -> str:
        """The PCI bus id, as `00000000:1B:00.0`."""
        info = PciInfo()
        self._call("nvmlDeviceGetPciInfo_v3", device, byref(info))
        return str(info.busId.decode(errors="replace"))

    def compute_capability(self, device: Device) -> tuple[int, int]:
        """CUDA's compute capability, as (9, 0)."""
        major, minor = c_int(), c_int()
        self._call("nvmlDeviceGetCudaComputeCapability", device, byref(major), byref(minor))
        return major.value, minor.value

    def power_limit_mw(self, device: Device) -> int:
        """The limit that is set, mW."""
        return self._uint("nvmlDeviceGetPowerManagementLimit", device)

    def enforced_power_limit_mw(self, device: Device) -> int:
        """The limit that holds, the lowest of all that apply, mW."""
        return self._uint("nvmlDeviceGetEnforcedPowerLimit", device)

    def default_power_limit_mw(self, device: Device) -> int:
        """The limit after a start of the driver, mW."""
        return self._uint("nvmlDeviceGetPowerManagementDefaultLimit", device)

    def power_limit_range_mw(self, device: Device) -> tuple[int, int]:
        """The lowest and the highest limit that can be set, mW."""
        low, high = c_uint(), c_uint()
        name = "nvmlDeviceGetPowerManagementLimitConstraints"
        self._call(name, device, byref(low), byref(high))
        return low.value, high.value

    def clock_mhz(self, device: Device, which: str) -> int:
        """A clock now; `which` is one of `CLOCKS`. What was locked cannot be asked for."""
        return self._uint("nvmlDeviceGetClockInfo", device, c_uint(CLOCKS[which]))

    def max_clock_mhz(self, device: Device, which: str) -> int:
        """The highest a clock can be."""
        return self._uint("nvmlDeviceGetMaxClockInfo", device, c_uint(CLOCKS[which]))

    def applications_clock_mhz(self, device: Device, which: str) -> int:
        """The clock that was asked for applications; newer drivers have it no more."""
        return self._uint("nvmlDeviceGetApplicationsClock", device, c_uint(CLOCKS[which]))

    def temperature_c(self, device: Device) -> int:
        """The temperature of the GPU's die, degrees Celsius."""
        return self._uint("nvmlDeviceGetTemperature", device, c_uint(0))

    def clock_reasons(self, device: Device) -> tuple[str, ...]:
        """Why the clocks are not higher: names of `CLOCK_REASONS`, `bit_0x...` for newer ones."""
        value = c_ulonglong()
        try:
            self._call("nvmlDeviceGetCurrentClocksEventReasons", device, byref(value))
        except NvmlError as error:
            if error.code != FUNCTION_NOT_FOUND:
                raise
            self._call("nvmlDeviceGetCurrentClocksThrottleReasons", device, byref(value))
        bits = (1 << place for place in range(64) if value.value >> place & 1)
        return tuple(CLOCK_REASONS.get(bit, f"bit_{bit:#x}") for bit in bits)

    def utilisation_percent(self, device: Device) -> int:
        """How much of the driver's last sampling period any kernel ran."""
        value = Utilization()
        self._call("nvmlDeviceGetUtilizationRates", device, byref(value))
        return int(value.gpu)

    def memory(self, device: Device) -> Memory:
        """The memory; from drivers before 510 without the reserve."""
        second = MemoryV2(version=ctypes.sizeof(MemoryV2) | 2 << 24)
        try:
            self._call("nvmlDeviceGetMemoryInfo_v2", device, byref(second))
        except NvmlError as error:
            if not error.unsupported:
                raise
            first = MemoryV1()
            self._call("nvmlDeviceGetMemoryInfo", device, byref(first))
            return Memory(first.total // MIB, first.free // MIB, None)
        return Memory(second.total // MIB, second.free // MIB, second.reserved // MIB)

    def processes(self, device: Device, kind: str) -> tuple[GpuProcess, ...]:
        """The processes on a GPU that this pid namespace shows; `kind`: `Compute`, `Graphics`.

        In a container the processes of others are left out by the driver: an empty list does not
        mean that the GPU is free.
        """
        name = f"nvmlDeviceGet{kind}RunningProcesses"
        try:
            return self._processes(f"{name}_v3", device)
        except NvmlError as error:
            if error.code != FUNCTION_NOT_FOUND:
                raise
            return self._processes(f"{name}_v2", device)

    def persistence_mode(self, device: Device) -> bool:
        """Whether the driver stays loaded without a client."""
        return bool(self._uint("nvmlDeviceGetPersistenceMode", device))

    def mig_mode(self, device: Device) -> bool:
        """Whether the GPU is cut into slices now."""
        now, pending = c_uint(), c_uint()
        self._call("nvmlDeviceGetMigMode", device, byref(now), byref(pending))
        return bool(now.value)

    def mig_devices(self, device: Device) -> Iterator[Device]:
        """Yield the handles of a GPU's slices."""
        for index in range(self._uint("nvmlDeviceGetMaxMigDeviceCount", device)):
            with contextlib.suppress(NvmlError):
                yield self._handle("nvmlDeviceGetMigDeviceHandleByIndex", device, c_uint(index))

    def power_reader(self, device: Device) -> Callable[[], int]:
        """A function that reads nvmlDeviceGetPowerUsage, mW.

        On Ampere (but GA100) and newer it is a mean over 1 s, on GA100 and older instantaneous.
        """
        return self._reader("nvmlDeviceGetPowerUsage", device, c_uint())

    def energy_reader(self, device: Device) -> Callable[[], int]:
        """A function that reads the energy since the driver was loaded, mJ (Volta and newer)."""
        return self._reader("nvmlDeviceGetTotalEnergyConsumption", device, c_ulonglong())

    def field_reader(self, device: Device, field_id: int) -> Callable[[], int]:
        """A function that reads one field of scope 0 (the GPU, not a module with its CPU)."""
        name = "nvmlDeviceGetFieldValues"
        function = self._function(name)
        field = FieldValue(fieldId=field_id)
        pointer = byref(field)
        value = field.value

        def read() -> int:
            code = function(device, 1, pointer)
            if code or field.nvmlReturn:
                raise NvmlError(code or field.nvmlReturn, f"{name}({field_id})")
            kind = field.valueType
            if kind == 1:  # what the power fields are
                return int(value.uiVal)
            if kind >= len(VALUE_MEMBERS):
                raise NvmlError(NOT_SUPPORTED, f"{name}({field_id})")
            number: float = getattr(value, VALUE_MEMBERS[kind])
            return int(number)

        return read

    def _reader(self, name: str, device: Device, buffer: Any) -> Callable[[], int]:
        function, pointer = self._function(name), byref(buffer)

        def read() -> int:
            code = function(device, pointer)
            if code:
                raise NvmlError(code, name)
            return int(buffer.value)

        return read

    def _processes(self, name: str, device: Device) -> tuple[GpuProcess, ...]:
        room = 16
        while True:
            # Some 535 drivers write entries of 32 bytes: twice the room keeps that from doing harm.
            entries, count = (ProcessInfo * (2 * room))(), c_uint(room)
            try:
                self._call(name, device, byref(count), entries)
            except NvmlError as error:
                if error.code != INSUFFICIENT_SIZE or room >= 4096:
                    raise
                room *= 4
                continue
            found = entries[: min(count.value, room)]
            return tuple(GpuProcess(e.pid, _mib(e.usedGpuMemory)) for e in found)

    def _function(self, name: str) -> Any:
        try:
            return getattr(self._library, name)
        except AttributeError:
            raise NvmlError(FUNCTION_NOT_FOUND, name) from None

    def _call(self, name: str, *arguments: Any) -> None:
        code = self._function(name)(*arguments)
        if code:
            raise NvmlError(code, name)

    def _uint(self, name: str, *arguments: Any) -> int:
        value = c_uint()
        self._call(name, *arguments, byref(value))
        return value.value

    def _text(self, name: str, *arguments: Any) -> str:
        buffer = ctypes.create_string_buffer(TEXT_BYTES)
        self._call(name, *arguments, buffer, c_uint(TEXT_BYTES))
        return buffer.value.decode(errors="replace")

    def _handle(self, name: str, *arguments: Any) -> Device:
        handle = ctypes.c_void_p()
        self._call(name, *arguments, byref(handle))
        return handle


def open_nvml(path: str = LIBRARY, load: Callable[[str], Any] = ctypes.CDLL) -> Nvml:
    """Load and initialise NVML.

    Args:
        path: The library.
        load: What loads it.

    Raises:
        NvmlError: No library (`LIBRARY_NOT_FOUND`), no driver, a driver of another version.
    """
    try:
        library = load(path)
    except OSError as error:
        raise NvmlError(LIBRARY_NOT_FOUND, f"loading {path}") from error
    nvml = Nvml(library)
    nvml._call("nvmlInit_v2")
    return nvml


def _mib(count: int) -> int | None:
    return None if count == UNKNOWN_BYTES else count // MIB
