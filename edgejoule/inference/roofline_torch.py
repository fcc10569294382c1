"""Products and streams with PyTorch, on a CPU or an NVIDIA GPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from edgejoule.inference.replay_rotation import last_level_cache_bytes
from edgejoule.inference.roofline_numpy import free_host_bytes, timed

_DTYPES = {
    "float32": "float32",
    "tf32": "float32",  # the process's setting makes the difference, and it is the run's
    "float16": "float16",
    "bfloat16": "bfloat16",
}


def torch_kernels(device: str, dtype: str) -> TorchKernels | str:
    """Return kernels on a device, or why there are none."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        return f"PyTorch sees no {device}"
    return TorchKernels(device, dtype)


class TorchKernels:
    """torch.mm, copies and a triad."""

    def __init__(self, device: str, dtype: str) -> None:
        import torch

        self._device = torch.device(device)
        self._on_gpu = self._device.type == "cuda"
        self.no_product = None if dtype in _DTYPES else f"PyTorch has no public product in {dtype}"
        self._dtype = getattr(torch, _DTYPES.get(dtype, "float32"))
        self.how = f"torch {torch.__version__} on {device}"
        self.cache_bytes: int | None
        self.free_bytes: int | None
        if self._on_gpu:
            facts = torch.cuda.get_device_properties(self._device)
            self.cache_bytes = getattr(facts, "L2_cache_size", None)
            self.free_bytes = torch.cuda.mem_get_info(self._device)[0]
        else:
            self.how += f", {torch.get_num_threads()} threads"
            self.cache_bytes = last_level_cache_bytes()
            self.free_bytes = free_host_bytes()

    def product(self, side: int) -> Callable[[int], Sequence[float]]:
        """Return the product of two square matrices."""
        import torch

        generator = torch.Generator(self._device).manual_seed(0)
        how: dict[str, Any] = {"device": self._device, "dtype": self._dtype}
        left, right = (torch.randn(side, side, generator=generator, **how) for _ in range(2))
        out = torch.empty(side, side, **how)
        return self._timed(lambda: torch.mm(left, right, out=out))

    def streams(self, array_bytes: int) -> dict[str, tuple[int, Callable[[int], Sequence[float]]]]:
        """Return a copy and a triad (one array plus a multiple of another)."""
        import torch

        size = array_bytes // 4
        one, two, out = (torch.ones(size, device=self._device) for _ in range(3))
        return {
            "copy": (2 * array_bytes, self._timed(lambda: out.copy_(one))),
            "triad": (3 * array_bytes, self._timed(lambda: torch.add(one, two, alpha=3, out=out))),
        }

    def close(self) -> None:
        """Give the allocator's memory back to the GPU."""
        import torch

        if self._on_gpu:
            torch.cuda.empty_cache()

    def _timed(self, execute: Callable[[], Any]) -> Callable[[int], Sequence[float]]:
        import torch

        def on_host() -> None:
            with torch.inference_mode():
                execute()

        if not self._on_gpu:
            return timed(on_host)

        def times(count: int) -> Sequence[float]:
            with torch.cuda.device(self._device):
                event: Any = torch.cuda.Event
                marks = [event(enable_timing=True) for _ in range(count + 1)]
                torch.cuda.synchronize(self._device)
                marks[0].record()
                for mark in marks[1:]:
                    on_host()
                    mark.record()
                torch.cuda.synchronize(self._device)
            pairs = itertools.pairwise(marks)
            return [before.elapsed_time(after) * 1e-3 for before, after in pairs]

        return times
