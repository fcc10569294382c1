"""CUDA's own list of devices, as the measured process will see it.

CUDA numbers devices by CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER, NVML by PCI address, so that an
index of the one says nothing in the other: only the UUID does. The list comes from the driver
(`libcuda`, CUDA driver API reference, section device management) in a short process of its own,
because a process that has called `cuInit` can no longer fork safely and holds memory.

    python -m edgejoule.power.cuda_devices      prints {"devices": [...], "why": ""}

Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from ctypes import byref, c_int
from dataclasses import asdict, dataclass
from typing import Any

from edgejoule.processes import child_environment

LIBRARY = "libcuda.so.1"
TIMEOUT_S = 60.0
_TEXT = 128
_MIG_NAME = re.compile(r"\bMIG \d+[cg]\.")  # "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
# cuInit's answers that a user meets; the driver names all others itself.
_EXPLAINED = {
    100: "no CUDA device is visible (CUDA_VISIBLE_DEVICES, or none in this container)",
    803: "the driver is older or newer than the CUDA libraries beside it",
}


@dataclass(frozen=True)
class CudaDevice:
    """A device as CUDA numbers it here.

    Attributes:
        ordinal: `cuda:<ordinal>`.
        uuid: `GPU-...`, or `MIG-...` for a slice.
        name: The product's name.
        pci_bus_id: `0000:1b:00.0`; a slice has its GPU's.
        parent_uuid: A slice's GPU, where told.
    """

    ordinal: int
    uuid: str
    name: str
    pci_bus_id: str | None = None
    parent_uuid: str | None = None

    @property
    def mig(self) -> bool:
        """Whether it is a slice of a GPU."""
        return self.uuid.startswith("MIG-")


@dataclass(frozen=True)
class CudaList:
    """The devices, and where there are none, why."""

    devices: tuple[CudaDevice, ...]
    why: str = ""


def cuda_devices(
    library: str = LIBRARY,
    *,
    timeout_s: float = TIMEOUT_S,
    extra: dict[str, str] | None = None,
) -> CudaList:
    """Ask CUDA in a process of its own; never raises for what CUDA lacks, but says it in `why`.

    Args:
        library: The driver's library.
        timeout_s: After this the process is ended (a driver can hang).
        extra: Environment variables that the measured process gets beside this one's.
    """
    command = [sys.executable, "-m", "edgejoule.power.cuda_devices", library]
    names = child_environment(extra)
    try:
        done = subprocess.run(
            command, env=names, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return CudaList((), f"CUDA did not answer within {timeout_s:g} s")
    except OSError as error:
        return CudaList((), f"cannot start a process to ask CUDA: {error.strerror}")
    try:
        # The driver may print; the answer is the last line.
        said = json.loads(done.stdout.strip().rpartition("\n")[2])
        return CudaList(tuple(CudaDevice(**item) for item in said["devices"]), str(said["why"]))
    except (ValueError, TypeError, KeyError):
        last = " ".join(done.stderr.split())[-200:]
        return CudaList((), f"asking CUDA ended with status {done.returncode} ({last})")


def ask_driver(library: str, load: Callable[[str], Any] = ctypes.CDLL) -> CudaList:
    """Ask CUDA in this process, which calls `cuInit`.

    Args:
        library: The driver's library.
        load: What loads it.
    """
    try:
        cuda = load(library)
    except OSError:
        return CudaList((), f"no CUDA driver ({library}) here")
    code = cuda.cuInit(0)
    if code:
        return CudaList((), _EXPLAINED.get(code) or f"cuInit: {_error_name(cuda, code)}")
    count = c_int()
    code = cuda.cuDeviceGetCount(byref(count))
    if code:
        return CudaList((), f"cuDeviceGetCount: {_error_name(cuda, code)}")
    devices = []
    for ordinal in range(count.value):
        device = c_int()
        code = cuda.cuDeviceGet(byref(device), ordinal)
        if code:
            return CudaList((), f"cuDeviceGet({ordinal}): {_error_name(cuda, code)}")
        devices.append(_describe(cuda, ordinal, device))
    return CudaList(tuple(devices), "" if devices else _EXPLAINED[100])


def _describe(cuda: Any, ordinal: int, device: c_int) -> CudaDevice:
    name = _text(cuda, "cuDeviceGetName", device) or "?"
    # _v2 gives a slice's own UUID; the first version gives that of its GPU.
    whole = _uuid(cuda, "cuDeviceGetUuid", device)
    own = _uuid(cuda, "cuDeviceGetUuid_v2", device) or whole
    mig = bool(_MIG_NAME.search(name)) or (whole is not None and own != whole)
    parent = f"GPU-{whole}" if mig and whole and own != whole else None
    label = f"{'MIG' if mig else 'GPU'}-{own}" if own else ""
    pci = _text(cuda, "cuDeviceGetPCIBusId", device)
    return CudaDevice(ordinal, label, name, pci.lower() if pci else None, parent)


def _text(cuda: Any, function: str, device: c_int) -> str | None:
    buffer = ctypes.create_string_buffer(_TEXT)
    if getattr(cuda, function)(buffer, _TEXT, device):
        return None
    return buffer.value.decode(errors="replace")


def _uuid(cuda: Any, function: str, device: c_int) -> str | None:
    buffer = ctypes.create_string_buffer(16)
    found = getattr(cuda, function, None)
    if found is None or found(buffer, device):
        return None
    return str(uuid.UUID(bytes=buffer.raw))


def _error_name(cuda: Any, code: int) -> str:
    text = ctypes.c_char_p()
    if getattr(cuda, "cuGetErrorName", None) is None or cuda.cuGetErrorName(code, byref(text)):
        return f"CUDA error {code}"
    return (text.value or b"").decode(errors="replace") or f"CUDA error {code}"


def main(arguments: list[str]) -> int:
    """Print the list as one line of JSON."""
    found = ask_driver(arguments[0] if arguments else LIBRARY)
    print(json.dumps({"devices": [asdict(d) for d in found.devices], "why": found.why}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
