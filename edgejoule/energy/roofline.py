"""Where each layer lies under the measured roofline: GFLOP/s, GB/s, GFLOP/J, what bounds it.

    least time of a layer = max(FLOPs / peak_gflops, bytes / peak_gbs)
    share of the roof     = least time / measured time
    bound                 = which of the two is larger

(Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 52(4),
2009.) FLOPs and bytes are counted from the shapes, each input, output and weight once, so that a
layer whose data stay in a cache may move more of them per second than the memory can: it then
stands above the roof, and says so. Standard library alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_BILLION = 1e9
# Beyond this it is not the spread of two measurements.
_ABOVE = 1.05
CACHED = "above the memory's roof: its data come from a cache"
FEWER = "above the product's roof: it does fewer operations than are counted, or in another dtype"


@dataclass(frozen=True)
class Roof:
    """The measured peaks of a device; None where not measured.

    Attributes:
        gflops_per_s: Most arithmetic, in `dtype`.
        gbytes_per_s: Most traffic with memory.
        dtype: The dtype of the arithmetic.
        how: With what it was measured, or why it was not.
    """

    gflops_per_s: float | None = None
    gbytes_per_s: float | None = None
    dtype: str | None = None
    how: str = "not measured"

    @property
    def ridge(self) -> float | None:
        """FLOP per byte from which on arithmetic is the bound."""
        if self.gflops_per_s is None or not self.gbytes_per_s:
            return None
        return self.gflops_per_s / self.gbytes_per_s


@dataclass(frozen=True)
class LayerRoofline:
    """A layer under the roof; None where it is not known.

    Attributes:
        gflops_per_s: Operations over time.
        gbytes_per_s: Bytes counted once over time.
        gflop_per_joule: Operations over gross energy.
        intensity: Operations per byte.
        bound: `compute` or `memory`.
        share: Least time over measured time; above 1 `note` says why.
        note: What a reader must know, empty for nothing.
    """

    gflops_per_s: float | None = None
    gbytes_per_s: float | None = None
    gflop_per_joule: float | None = None
    intensity: float | None = None
    bound: str | None = None
    share: float | None = None
    note: str = ""


def roof_of(measured: Any) -> Roof:
    """Return the roof that `measure.json` or a summary holds under `roofline`, of any format."""
    if not isinstance(measured, Mapping):
        return Roof()
    how = measured.get("how") or measured.get("why") or "not measured"
    dtype = measured.get("dtype")
    return Roof(
        _positive(measured.get("peak_gflops")),
        _positive(measured.get("peak_gbs")),
        str(dtype) if dtype is not None else None,
        str(how),
    )


def layer_roofline(
    flops: int | None,
    bytes_moved: int | None,
    time_ms: float | None,
    gross_mj: float | None,
    roof: Roof,
) -> LayerRoofline:
    """Place a layer under the roof.

    Args:
        flops: Operations of one execution, a multiply-add counting two; None: unknown.
        bytes_moved: Bytes of inputs, outputs and weights, each once.
        time_ms: Mean time of one execution.
        gross_mj: Energy of one execution, idle included; None: unknown or not resolved.
        roof: The device's.
    """
    seconds = time_ms * 1e-3 if time_ms else None
    # Nothing is bound by arithmetic that does none, nor by memory that moves nothing.
    compute_s = _over(flops, roof.gflops_per_s)
    memory_s = _over(bytes_moved, roof.gbytes_per_s)
    bound, share, note = None, None, ""
    if compute_s is not None and memory_s is not None and (compute_s or memory_s):
        bound = "compute" if compute_s >= memory_s else "memory"
        if seconds is not None:
            share = max(compute_s, memory_s) / seconds
            if share > _ABOVE:
                note = FEWER if bound == "compute" else CACHED
    return LayerRoofline(
        _per(flops, seconds),
        _per(bytes_moved, seconds),
        None
        if flops is None or not gross_mj or gross_mj < 0
        else flops / _BILLION / (gross_mj * 1e-3),
        flops / bytes_moved if flops is not None and bytes_moved else None,
        bound,
        share,
        note,
    )


def rooflines(
    layers: Sequence[Mapping[str, Any]],
    time_ms: Sequence[float | None],
    gross_mj: Sequence[float | None],
    roof: Roof,
) -> list[LayerRoofline]:
    """Place all layers of `engine.json` under the roof; the three sequences are by layer."""
    return [
        layer_roofline(one.get("flops"), one.get("bytes_moved"), ms, mj, roof)
        for one, ms, mj in zip(layers, time_ms, gross_mj, strict=True)
    ]


def _over(count: int | None, per_s: float | None) -> float | None:
    """Return the least seconds for so many operations or bytes."""
    return None if count is None or per_s is None else count / (per_s * _BILLION)


def _per(count: int | None, seconds: float | None) -> float | None:
    return None if count is None or not seconds else count / seconds / _BILLION


def _positive(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 < value < float("inf") else None
