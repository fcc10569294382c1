"""The measured roofline of a device: the most arithmetic and the most memory traffic per second.

    GFLOP/s
      |        ___________________ peak_gflops: a large matrix product in the run's dtype
      |       /
      |      /  peak_gbs: copy and triad over arrays that no cache holds
      |_____/____________________ FLOP per byte

Both are measured in the measuring process with what the backend itself computes with, under its
own settings (threads, TensorFloat-32), so that they are roofs of this run and not of a data sheet.
A figure is the best of its repetitions, as in the empirical roofline toolkit (Lo et al.,
"Roofline Model Toolkit", PMBS 2014, after Williams, Waterman, Patterson, "Roofline", CACM 52(4),
2009); arrays are sized by the rule of STREAM (McCalpin, 1995): each at least four times the last
cache. A GPU that lowers its clock under sustained load does less than its best.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgejoule.errors import EdgejouleError

CPU_BUDGET_S = 2.0
GPU_BUDGET_S = 1.0
# Side lengths of the products tried, as far as the time lasts.
SIDES = (256, 512, 1024, 2048, 4096, 8192, 16384)
_MIB = 2**20
_MOST_REPETITIONS = 20
_CACHES_PER_ARRAY = 4  # STREAM's rule
_LEAST_ARRAY_BYTES = 16 * _MIB
_MOST_ARRAY_BYTES = 1024 * _MIB
_MEMORY_SHARE = 8  # an array takes at most this part of what is free

Times = Callable[[int], Sequence[float]]
"""Executes something so many times and returns the seconds of each."""


class Kernels(Protocol):
    """What one library offers to measure with, on one device and in one dtype."""

    how: str  # with what, in words
    cache_bytes: int | None  # the last cache before the memory
    free_bytes: int | None  # memory that may be taken
    no_product: str | None  # why there is no product in this dtype

    def product(self, side: int) -> Times:
        """Return the product of two square matrices of normal values."""

    def streams(self, array_bytes: int) -> dict[str, tuple[int, Times]]:
        """Return what streams over arrays of that size: name -> (bytes of one execution, it)."""

    def close(self) -> None:
        """Give the memory back."""


@dataclass(frozen=True)
class Best:
    """The best of some repetitions.

    Attributes:
        per_s: Operations or bytes per second in the fastest.
        what: What was executed.
        n: Repetitions.
        spread: Standard deviation of their times over the mean, None for a single one.
    """

    per_s: float
    what: str
    n: int
    spread: float | None


def measure_roofline(
    backend: str, device: str, dtype: str, threads: int = 0, budget_s: float | None = None
) -> dict[str, Any]:
    """Measure the roofs of this device in this process.

    Args:
        backend: Name of the run's backend; ONNX Runtime's is measured with ONNX Runtime.
        device: `cpu` or `cuda:<index>`.
        dtype: The run's dtype, resolved.
        threads: CPU threads as the run was given them, 0: the library's default.
        budget_s: Longest time; None: 2 s on a CPU, 1 s on a GPU.

    Returns:
        What `measure.json` holds under `roofline`: `peak_gflops` and `peak_gbs` (null where not
        measured, then `why` says why), `how`, `dtype`, `n` and `spread` of either under `gflops`
        and `gbs`, `product` and `stream` (what was fastest), `array_mib`, `cache_mib`, `seconds`.
        What a library raises is a `why`, too: a roof is not worth a run.
    """
    if budget_s is None:
        budget_s = CPU_BUDGET_S if device == "cpu" else GPU_BUDGET_S
    try:
        kernels = _kernels(backend, device, dtype, threads)
        if isinstance(kernels, str):
            return not_measured(kernels, dtype)
        try:
            found = measure_with(kernels, dtype, budget_s)
        finally:
            kernels.close()
    except EdgejouleError:  # the parent asked to stop
        raise
    except Exception as error:  # noqa: BLE001 (a library may raise anything; the run goes on)
        return not_measured(f"{type(error).__name__}: {str(error)[:200]}", dtype)
    return found


def not_measured(why: str, dtype: str) -> dict[str, Any]:
    """Return what stands in place of a roofline that was not measured."""
    return {"peak_gflops": None, "peak_gbs": None, "dtype": dtype, "why": why}


def measure_with(kernels: Kernels, dtype: str, budget_s: float) -> dict[str, Any]:
    """Measure both roofs with given kernels; see `measure_roofline`."""
    started_s = time.monotonic()
    array_bytes = array_size(kernels.cache_bytes, kernels.free_bytes)
    product = None
    if kernels.no_product is None:
        sides = sides_within(kernels.free_bytes)
        product = best_product(kernels.product, 0.5 * budget_s, sides)
    stream = best_stream(
        lambda: kernels.streams(array_bytes), budget_s - (time.monotonic() - started_s)
    )
    cache = kernels.cache_bytes
    return {
        "peak_gflops": None if product is None else product.per_s * 1e-9,
        "peak_gbs": stream.per_s * 1e-9,
        "how": kernels.how,
        "dtype": dtype,
        "n": {"gflops": 0 if product is None else product.n, "gbs": stream.n},
        "spread": {"gflops": None if product is None else product.spread, "gbs": stream.spread},
        "product": None if product is None else product.what,
        "stream": stream.what,
        "array_mib": array_bytes / _MIB,
        "cache_mib": None if cache is None else cache / _MIB,
        "seconds": round(time.monotonic() - started_s, 3),
        "why": kernels.no_product,
    }


def array_size(cache_bytes: int | None, free_bytes: int | None) -> int:
    """Return the bytes of an array that no cache holds, as far as there is memory for it."""
    wanted = max(_LEAST_ARRAY_BYTES, _CACHES_PER_ARRAY * (cache_bytes or 32 * _MIB))
    allowed = _MOST_ARRAY_BYTES
    if free_bytes is not None:
        allowed = min(allowed, free_bytes // _MEMORY_SHARE)
    # Whole KiB, so that every dtype divides it.
    return max(_MIB, min(wanted, allowed) // 1024 * 1024)


def best_stream(make: Callable[[], dict[str, tuple[int, Times]]], budget_s: float) -> Best:
    """Return the fastest of several ways to stream through memory, within a time."""
    deadline_s = time.monotonic() + budget_s
    found: list[Best] = []
    for name, (moved, times) in (streams := make()).items():
        left_s = deadline_s - time.monotonic()
        seconds = repeated(times, left_s / (len(streams) - len(found)))
        found.append(Best(moved / min(seconds), name, len(seconds), _spread(seconds)))
    return max(found, key=lambda best: best.per_s)


def sides_within(free_bytes: int | None) -> tuple[int, ...]:
    """Return the sizes whose three matrices, four bytes a value, take a quarter of what is free.

    The smallest is always among them.
    """
    if free_bytes is None:
        return SIDES
    return tuple(s for s in SIDES if s == SIDES[0] or 3 * 4 * s**2 <= free_bytes // 4)


def best_product(
    product: Callable[[int], Times], budget_s: float, sides: Sequence[int] | None = None
) -> Best:
    """Return the fastest matrix product over sizes that grow as far as the time lasts."""
    deadline_s = time.monotonic() + budget_s
    found: list[Best] = []
    last_s = 0.0
    for side in SIDES if sides is None else sides:
        left_s = deadline_s - time.monotonic()
        # The next size takes eight times as long, is made ready and runs twice at least.
        if found and 3 * 8 * last_s > left_s:
            break
        seconds = repeated(product(side), max(0.0, left_s / 3))
        last_s = min(seconds)
        found.append(Best(2 * side**3 / last_s, f"{side} x {side}", len(seconds), _spread(seconds)))
    return max(found, key=lambda best: best.per_s)


def repeated(times: Times, budget_s: float) -> list[float]:
    """Execute once unseen, then as often as the time lasts; return the seconds of each.

    At least once, at most twenty times.
    """
    first_s = max(1e-9, *times(1))
    count = int(min(_MOST_REPETITIONS, max(1.0, budget_s / first_s - 1)))
    return [max(1e-9, value) for value in times(count)]


def _spread(seconds: Sequence[float]) -> float | None:
    return statistics.stdev(seconds) / statistics.mean(seconds) if len(seconds) > 1 else None


def _kernels(backend: str, device: str, dtype: str, threads: int) -> Kernels | str:
    """Return what to measure with, or why there is nothing."""
    if backend == "onnxruntime" and device == "cpu":
        from edgejoule.inference.roofline_onnx import OnnxKernels

        return OnnxKernels(dtype, threads)
    if "torch" in sys.modules:  # never loaded for this alone: it takes seconds and memory
        from edgejoule.inference.roofline_torch import torch_kernels

        return torch_kernels(device, dtype)
    if device == "cpu":
        from edgejoule.inference.roofline_numpy import NumpyKernels

        return NumpyKernels(dtype)
    return f"backend {backend} loads no library that could compute on {device} beside it"
