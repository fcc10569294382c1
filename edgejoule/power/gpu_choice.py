"""From `--device` to a GPU: CUDA's list, NVML's list, and the match of the two by UUID.

Standard library only.
"""

from __future__ import annotations

import contextlib

from edgejoule.errors import EdgejouleError
from edgejoule.power.cuda_devices import CudaDevice, CudaList, cuda_devices
from edgejoule.power.gpus import Gpu, NvmlGpu, choose_gpu, nvml_gpus

_NO_LIBRARY = "no CUDA driver"  # how CudaList.why begins then


def listed_by_nvml() -> list[NvmlGpu]:
    """Return NVML's GPUs, none where there is no NVML."""
    from edgejoule.power.nvml import open_or_explain

    try:
        nvml = open_or_explain()
    except EdgejouleError:
        return []
    with contextlib.closing(nvml):
        return nvml_gpus(nvml)


def find_gpu(device: str) -> Gpu:
    """Return the GPU that `--device` means.

    Where CUDA's own library is not here (a container that was given the driver's tools only) GPUs
    are numbered as NVML does; nothing can compute on them from here then.

    Raises:
        UsageError: Nothing or several fit; names what is there.
    """
    cuda, nvml = cuda_devices(), listed_by_nvml()
    if nvml and cuda.why.startswith(_NO_LIBRARY):
        cuda = CudaList(
            tuple(CudaDevice(gpu.index, gpu.uuid, gpu.name, gpu.pci_bus_id) for gpu in nvml),
            cuda.why,
        )
    return choose_gpu(device, cuda.devices, nvml, cuda.why)
