"""Which GPU `--device` means: CUDA's ordinal for the workload, NVML's UUID for the sensor.

The two number GPUs differently (CUDA_VISIBLE_DEVICES, CUDA_DEVICE_ORDER), so that they are matched
by UUID and never by index.

Standard library only.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgejoule.errors import UsageError
from edgejoule.power.cuda_devices import CudaDevice
from edgejoule.power.nvml_library import Nvml
from edgejoule.power.nvml_types import NvmlError

CPU = "cpu"
_ORDINAL = re.compile(r"^(?:cuda(?::(?P<cuda>\d{1,4}))?|(?P<plain>\d{1,4}))$", re.ASCII)
_UUID = re.compile(r"^(GPU|MIG)-", re.IGNORECASE)
_PCI = re.compile(
    r"^(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.([0-7]))?$", re.IGNORECASE
)
_TAKES = "give cpu, cuda:N, N, a UUID (GPU-...) or a PCI bus id (0000:1b:00.0)"


@dataclass(frozen=True)
class NvmlGpu:
    """A GPU as NVML lists it.

    Attributes:
        index: NVML's index.
        uuid: `GPU-...`.
        name: The product's name.
        pci_bus_id: `00000000:1B:00.0`.
        slices: The UUIDs of its MIG slices, if it is cut.
    """

    index: int
    uuid: str
    name: str
    pci_bus_id: str | None = None
    slices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gpu:
    """The device that is measured.

    Attributes:
        device: `cuda:<ordinal>` as the measured process sees it, or `cpu`.
        ordinal: CUDA's ordinal; None for the CPU.
        uuid: What NVML calls it, for the sensor; of a slice `MIG-...`, which the sensor refuses.
            None: the CPU, or NVML does not list it.
        name: The product's name.
        pci_bus_id: Where it sits.
        why_no_uuid: Why there is no UUID, empty if there is one.
    """

    device: str
    ordinal: int | None = None
    uuid: str | None = None
    name: str = ""
    pci_bus_id: str | None = None
    why_no_uuid: str = ""

    @property
    def mig(self) -> bool:
        """Whether it is a slice of a GPU."""
        return self.uuid is not None and self.uuid.startswith("MIG-")


def nvml_gpus(nvml: Nvml) -> list[NvmlGpu]:
    """List NVML's GPUs; one that cannot be asked for its UUID is left out."""
    found = []
    for index, device in nvml.devices():
        try:
            uuid, name = nvml.uuid(device), nvml.name(device)
        except NvmlError:
            continue
        pci: str | None = None
        slices: list[str] = []
        # A GPU that cannot be cut, or a driver that does not know slices, says so by an error.
        with contextlib.suppress(NvmlError):
            pci = nvml.pci_bus_id(device)
            slices += [nvml.uuid(part) for part in nvml.mig_devices(device)]
        found.append(NvmlGpu(index, uuid, name, pci, tuple(slices)))
    return found


def choose_gpu(
    device: str, cuda: Sequence[CudaDevice], nvml: Sequence[NvmlGpu], why: str = ""
) -> Gpu:
    """Return the device that `--device` means.

    Args:
        device: `cpu`; `cuda`, `cuda:0` or `0` (CUDA's ordinal); a UUID or the beginning of one; a
            PCI bus id in CUDA's or NVML's spelling.
        cuda: The devices as the measured process will see them.
        nvml: NVML's list.
        why: Why `cuda` is empty, if it is.

    Raises:
        UsageError: Nothing or several fit; names what is there.
    """
    text = device.strip()
    if text.lower() == CPU:
        return Gpu(CPU, why_no_uuid="the CPU is measured")
    fits = _selector(text)
    if not cuda:
        raise UsageError(f"--device {device}: CUDA shows no device here ({why or 'none'})",
                         "use --device cpu, or see `nvidia-smi`")  # fmt: skip
    found = [candidate for candidate in cuda if fits(candidate)]
    there = ", ".join(_label(candidate) for candidate in cuda)
    if len(found) == 1:
        return _gpu(found[0], nvml)
    if found:
        named = ", ".join(_label(candidate) for candidate in found)
        raise UsageError(f"--device {device} fits {len(found)} devices", f"it may be {named}")
    if any(_is_that(text, gpu) for gpu in nvml):
        raise UsageError(
            f"--device {device}: that GPU is here but CUDA does not show it",
            f"CUDA_VISIBLE_DEVICES leaves {there}",
        )
    raise UsageError(f"--device {device}: no such device", f"there is {there}")


def _selector(text: str) -> Callable[[CudaDevice], bool]:
    """Return what tells whether a device is meant.

    Raises:
        UsageError: It is no way to name a device.
    """
    ordinal = _ORDINAL.match(text)
    if ordinal:
        wanted = int(ordinal["cuda"] or ordinal["plain"] or 0)
        return lambda device: device.ordinal == wanted
    if _UUID.match(text):
        prefix = text.lower()
        return lambda device: any(
            uuid.lower().startswith(prefix) for uuid in (device.uuid, device.parent_uuid or "")
        )
    place = pci_address(text)
    if place is None:
        raise UsageError(f"--device {text!r} names no device", _TAKES)
    return lambda device: pci_address(device.pci_bus_id or "") == place


def pci_address(text: str) -> tuple[int, int, int] | None:
    """Return domain, bus and device of a PCI bus id in any spelling; None if it is none.

    The function is left out: a GPU is function 0 of its device.
    """
    match = _PCI.match(text.strip())
    if match is None or match[4] not in {None, "0"}:
        return None
    return int(match[1] or "0", 16), int(match[2], 16), int(match[3], 16)


def _gpu(device: CudaDevice, nvml: Sequence[NvmlGpu]) -> Gpu:
    wanted = device.uuid.lower()
    known = [uuid for gpu in nvml for uuid in (gpu.uuid, *gpu.slices)]
    uuid = next((uuid for uuid in known if wanted and uuid.lower() == wanted), None)
    why = ""
    if uuid is None and device.mig:
        uuid = device.uuid  # older drivers name slices otherwise; a slice it is
    if uuid is None:
        why = f"NVML does not list {device.uuid or device.name}" if nvml else "NVML lists no GPU"
    return Gpu(f"cuda:{device.ordinal}", device.ordinal, uuid, device.name, device.pci_bus_id, why)


def _is_that(text: str, gpu: NvmlGpu) -> bool:
    place = pci_address(text)
    if place is not None:
        return pci_address(gpu.pci_bus_id or "") == place
    names = (gpu.uuid, *gpu.slices) if _UUID.match(text) else ()
    return any(name.lower().startswith(text.lower()) for name in names)


def _label(device: CudaDevice) -> str:
    words = (f"cuda:{device.ordinal}", device.name, device.uuid, device.pci_bus_id)
    return " ".join(word for word in words if word)
