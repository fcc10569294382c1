"""One bound on the GPU's memory for PyTorch and the engines together.

Engines get their memory from PyTorch's caching allocator, so that its limit (a fraction of the
device's memory) holds for both: two bounds side by side would let a process take their sum.
"""

from __future__ import annotations

from typing import Any

from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.common import short
from edgejoule.inference.memory_limit import limit_bytes, limit_torch, tensorrt_allocator


class TorchMemory:
    """PyTorch's caching allocator under the names of `trt.cuda.Cuda`."""

    def allocate(self, nbytes: int) -> int:
        """Return the address of so many bytes on the current device.

        Raises:
            CudaOutOfMemory: The limit or the device leaves no room.
        """
        import torch

        from edgejoule.inference.trt.cuda_types import OUT_OF_MEMORY, CudaOutOfMemory

        try:
            return int(torch.cuda.caching_allocator_alloc(nbytes))  # on the current stream
        except torch.cuda.OutOfMemoryError as error:
            raise CudaOutOfMemory(
                OUT_OF_MEMORY,
                "cudaErrorMemoryAllocation",
                short(error),
                "torch.cuda.caching_allocator_alloc",
            ) from error

    def free(self, address: int) -> None:
        """Give an address back."""
        import torch

        delete: Any = torch.cuda.caching_allocator_delete  # without types
        delete(address)


class Limit:
    """The memory limit of a run, in force from here on.

    Args:
        options: The run's; without a limit nothing is done.
    """

    def __init__(self, options: BuildOptions) -> None:
        self._bytes = limit_bytes(options)
        self._enforced = limit_torch(options)
        self._allocator: Any = None

    def allocator(self, trt: Any) -> Any:
        """Return what TensorRT is to allocate with, one for all engines; None is its own way."""
        if self._bytes is None:
            return None
        if self._allocator is None:
            self._allocator = tensorrt_allocator(trt, TorchMemory(), self._bytes)
        return self._allocator

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._bytes is not None

    def settings(self) -> dict[str, Any]:
        """Return how the limit is held, and what engines took under it."""
        if self._bytes is None:
            return {}
        told: dict[str, Any] = dict(self._enforced.to_json())
        if self._allocator is not None:
            told |= self._allocator.budget.to_json()
            told["how"] += "; engines take their memory from there too"
        return {"memory_limit": told}
