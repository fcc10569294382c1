"""Pulses of GPU load through torch, with edges known to some ten microseconds.

torch is imported when a load is made; nothing else here needs more than the standard library.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.processes import Parent

_LONGEST_KERNEL_S = 80e-6  # so that the end of a pulse is near where it was planned
_SIZES = tuple(1 << power for power in range(18, 28))  # values of 2 bytes
_TRIALS = 20
_QUEUED = 3  # keeps the GPU busy while the host launches the next


class GpuLoad:
    """Sums of long vectors, launched one by one, a few ahead of the GPU.

    They keep the memory busy, not the arithmetic: a load that draws much but stays below the power
    limit, so that the GPU need not change its clocks within a pulse. Matrix products on an H200
    rose beyond 800 W for a tenth of a second and then fell to the limit of 700 W.

    Args:
        device: `cuda:0` or another.
        torch: The module, for tests; None imports it.

    Raises:
        UsageError: torch or the GPU is not here.
        MeasurementError: The GPU cannot take the load.
    """

    def __init__(self, device: str, torch: Any = None) -> None:
        self._torch = _import_torch() if torch is None else torch
        if not self._torch.cuda.is_available():
            raise UsageError("torch sees no GPU", "give --load cpu, or install a torch with CUDA")
        try:
            self._device = self._torch.device(device)
            self._torch.cuda.set_device(self._device)
            self._size, took_s = self._choose()
            name = self._torch.cuda.get_device_name(self._device)
        except RuntimeError as error:
            first = str(error).strip().split("\n")[0]
            raise MeasurementError(
                f"{device} cannot be loaded: {first}", "see that nobody else uses it (nvidia-smi)"
            ) from error
        self.detail = (
            f"sums of {self._size / 2**20:g} Mi values on {name}, {took_s * 1e6:.0f} us each"
        )

    def _choose(self) -> tuple[int, float]:
        """Take the longest vectors whose sum stays short; return their size and the duration."""
        size, took_s = _SIZES[0], self._operands(_SIZES[0])
        for larger in _SIZES[1:]:
            if took_s > _LONGEST_KERNEL_S / 2:
                break
            longer_s = self._operands(larger)
            if longer_s > _LONGEST_KERNEL_S:
                break
            size, took_s = larger, longer_s
        return size, self._operands(size)

    def _operands(self, size: int) -> float:
        """Make operands of a size; return how long one sum takes, s."""
        torch = self._torch
        # Random bits: zeros would toggle nothing on their way and draw less.
        self._a = torch.randn(size, dtype=torch.float16, device=self._device)
        self._b = torch.randn(size, dtype=torch.float16, device=self._device)
        self._out = torch.empty(size, dtype=torch.float16, device=self._device)
        self._launch()  # the first call chooses a kernel
        torch.cuda.synchronize(self._device)
        began_s = time.perf_counter()
        for _ in range(_TRIALS):
            self._launch()
        torch.cuda.synchronize(self._device)
        return (time.perf_counter() - began_s) / _TRIALS

    def _launch(self) -> Any:
        self._torch.add(self._a, self._b, out=self._out)
        event = self._torch.cuda.Event()
        event.record()
        return event

    def busy(self, until_ns: int, parent: Parent) -> tuple[int, int, int, int]:
        """Load the GPU until a time; return the stamps around the load's rise and its fall.

        The GPU is idle before and after: the last sum has ended by the last stamp.
        """
        clock = time.monotonic_ns
        queued: deque[Any] = deque()
        rise_before = clock()
        queued.append(self._launch())
        rise_after = now_ns = clock()
        while now_ns < until_ns and not parent.stopping:
            if len(queued) < _QUEUED:
                queued.append(self._launch())
            elif queued[0].query():
                queued.popleft()
            now_ns = clock()
        fall_before = now_ns
        last = queued[-1]
        while not last.query():
            fall_before = clock()
        return rise_before, rise_after, fall_before, clock()


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise UsageError(
            f"a load on the GPU needs torch ({error})", "install torch, or give --load cpu"
        ) from error
    return torch


def gpu_load_possible() -> bool:
    """Whether torch is installed (it is not imported here: that takes seconds)."""
    from importlib.util import find_spec

    return find_spec("torch") is not None
