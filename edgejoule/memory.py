"""What a run took of memory: the process, the GPU, the board, and how often it was above its limit.

    discrete GPU   process: resident memory; GPU: its own memory     two, the peak is the GPU's
    unified        process and GPU share the board's memory          one, the board's rise
    CPU            process: resident memory                          one

On a board whose GPU uses the host's memory, what the GPU takes is part of what the board has less
available; some of it is also part of the process's resident memory, some is not. The two are never
added: what the process and its GPU took together is how far the board's used memory rose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MIB = 2**20
_GIB_MIB = 1024
_RSS, _AVAILABLE, _GPU = "rss_measuring_mib", "memory_available_mib", "gpu_memory_used_mib"

Row = tuple[int, Mapping[str, float]]


@dataclass(frozen=True)
class Peaks:
    """The most of each kind of memory, MiB; None where nobody looked.

    Attributes:
        rss_mib: Resident memory of the measuring process: the larger of what it reports itself
            (its high-water mark) and what was sampled.
        gpu_allocator_mib: What the runtime's allocator held.
        gpu_driver_mib: What the driver says is used on the GPU, all processes together.
        gpu_rise_mib: How far that rose above the first sample.
        board_mib: Used memory of the board (total - available).
        board_rise_mib: How far that rose above the first sample.
    """

    rss_mib: float | None
    gpu_allocator_mib: float | None
    gpu_driver_mib: float | None
    gpu_rise_mib: float | None
    board_mib: float | None
    board_rise_mib: float | None


def memory_summary(
    directory: Path,
    setup: Mapping[str, Any],
    measure: Mapping[str, Any],
    machine: Mapping[str, Any],
    limit_gib: float | None,
    until_ns: int | None = None,
) -> dict[str, Any]:
    """Return `summary.memory` of a run.

    Args:
        directory: Holds `resources.parquet`, if the machine was watched.
        setup: What the set-up process reported (`peak_rss_mib`).
        measure: What the measuring process reported (`peak_rss_mib`, `settings` with
            `peak_gpu_mib` or `memory_limit`, `gpu_integrated`).
        machine: What `describe_machine` found (`memory_mib`, `soc`, `l4t`).
        limit_gib: The limit that was asked for.
        until_ns: Rows from then on are left out: what repeats layers, or measures what the device
            can do, takes memory that the network does not. None: all count.
    """
    rows = read_rows(directory / "resources.parquet")
    if until_ns is not None:
        rows = [row for row in rows if row[0] < until_ns]
    return summarise(rows, setup, measure, machine, limit_gib)


def read_rows(resources: Path) -> list[Row]:
    """Read the columns that count from `resources.parquet`: (t_ns, MiB by column) in order."""
    import pyarrow.parquet as pq

    if not resources.is_file():
        return []
    there = set(pq.read_schema(resources).names)
    columns = ["t_ns", *(name for name in (_RSS, _AVAILABLE, _GPU) if name in there)]
    rows: list[Row] = []
    for row in pq.read_table(resources, columns=columns).to_pylist():
        t_ns = row.pop("t_ns")
        rows.append((t_ns, {name: value for name, value in row.items() if value is not None}))
    return rows


def summarise(
    rows: Sequence[Row],
    setup: Mapping[str, Any],
    measure: Mapping[str, Any],
    machine: Mapping[str, Any],
    limit_gib: float | None,
) -> dict[str, Any]:
    """Return `summary.memory` from the samples and reports; see `memory_summary`.

    Returns:
        `peak_mib` (null where not known), `how` it is made up, `unified` (null: it cannot be
        told), each part of `Peaks` under its name, the processes' own peaks, and `limit`: null,
        or how it was held and how often the samples were above it.
    """
    settings = measure.get("settings") or {}
    unified = is_unified(settings, machine, rows)
    uses_gpu = _gpu_bytes(settings) is not None or _number(settings, "peak_gpu_mib") is not None
    uses_gpu = uses_gpu or bool(settings.get("gpu"))
    total_mib = _number(machine, "memory_mib")
    peaks = peaks_of(rows, settings, measure, total_mib)
    peak_mib, how = _peak(peaks, unified, uses_gpu)
    found: dict[str, Any] = {
        "peak_mib": _rounded(peak_mib),
        "how": how,
        "unified": unified if uses_gpu else None,
        "setup_peak_rss_mib": setup.get("peak_rss_mib"),
        "measure_peak_rss_mib": measure.get("peak_rss_mib"),
        "peak_gpu_allocator_mib": _rounded(peaks.gpu_allocator_mib),
        "peak_gpu_driver_mib": _rounded(peaks.gpu_driver_mib),
        "gpu_rise_mib": _rounded(peaks.gpu_rise_mib),
        "peak_board_mib": _rounded(peaks.board_mib),
        "board_rise_mib": _rounded(peaks.board_rise_mib),
        "samples": len(rows),
        "limit": None,
    }
    if limit_gib is not None:
        limit_mib = limit_gib * _GIB_MIB
        found["limit"] = _limit(rows, settings, limit_mib, unified, uses_gpu, total_mib)
        # What lasts less than a second shows in no sample, but in the peaks.
        found["limit"]["peak_above"] = None if peak_mib is None else peak_mib > limit_mib
    return found


def is_unified(
    settings: Mapping[str, Any], machine: Mapping[str, Any], rows: Sequence[Row]
) -> bool | None:
    """Whether GPU and host share one memory; None: nobody says, or there is no GPU."""
    told = settings.get("gpu_integrated")
    if isinstance(told, bool):
        return told
    # L4T runs on NVIDIA's boards only, and their GPUs are integrated ones.
    family = str((machine.get("soc") or {}).get("family") or "")
    if machine.get("l4t") or "tegra" in family.lower():
        return True
    # NVML answers "not supported" for the memory of a GPU that has none of its own.
    return False if _column(rows, _GPU) else None


def peaks_of(
    rows: Sequence[Row],
    settings: Mapping[str, Any],
    measure: Mapping[str, Any],
    total_mib: float | None,
) -> Peaks:
    """Return the peaks; a column that was never sampled gives None."""
    rss = [*_column(rows, _RSS)]
    own = _number(measure, "peak_rss_mib")
    if own:
        rss.append(own)
    gpu = _column(rows, _GPU)
    used = [] if total_mib is None else [total_mib - free for free in _column(rows, _AVAILABLE)]
    allocated = _gpu_bytes(settings)
    allocator = _number(settings, "peak_gpu_mib")
    known = [
        value for value in (allocator, None if allocated is None else allocated / _MIB) if value
    ]
    return Peaks(
        rss_mib=max(rss, default=None),
        gpu_allocator_mib=max(known, default=None),
        gpu_driver_mib=max(gpu, default=None),
        gpu_rise_mib=max(gpu) - gpu[0] if gpu else None,
        board_mib=max(used, default=None),
        board_rise_mib=max(used) - used[0] if used else None,
    )


def _peak(peaks: Peaks, unified: bool | None, uses_gpu: bool) -> tuple[float | None, str]:
    """Return one peak of the run and in words what it is the peak of."""
    if not uses_gpu:
        return peaks.rss_mib, "resident memory of the measuring process"
    if unified:
        if peaks.board_rise_mib is None:
            return None, "GPU and host share one memory, and nobody watched the board's"
        return (
            peaks.board_rise_mib,
            "rise of the board's used memory over the first sample: process and GPU together, "
            "since they share it; not added to the resident memory, which is part of it",
        )
    if peaks.gpu_rise_mib is not None:
        return (
            peaks.gpu_rise_mib,
            "rise of the GPU's used memory over the first sample, CUDA context included; the "
            "process's resident memory is beside it, in the host's",
        )
    if peaks.gpu_allocator_mib is not None:
        return (
            peaks.gpu_allocator_mib,
            "what the runtime's allocator held on the GPU, without the CUDA context; the "
            "process's resident memory is beside it, in the host's",
        )
    return None, "the GPU's memory was not watched"


def _limit(
    rows: Sequence[Row],
    settings: Mapping[str, Any],
    limit_mib: float,
    unified: bool | None,
    uses_gpu: bool,
    total_mib: float | None,
) -> dict[str, Any]:
    """Return how a limit was held and how often what it is about was above it."""
    held = settings.get("memory_limit") or {}
    series, of = _series(rows, unified, uses_gpu, total_mib)
    above = [value > limit_mib for _, value in series]
    return {
        "limit_mib": round(limit_mib, 3),
        "kind": held.get("kind", "soft" if series else "unavailable"),
        "how": held.get("how", f"watched once a second: {of}" if series else "nobody watched it"),
        "watched": of if series else None,
        "samples": len(series) or None,
        "violations": sum(above) if series else None,
        "longest_s": longest_s([t_ns for t_ns, _ in series], above) if series else None,
        "refusals": held.get("refusals"),
        "largest_refused_mib": _rounded(_in_mib(held.get("largest_refused_bytes"))),
    }


def _series(
    rows: Sequence[Row], unified: bool | None, uses_gpu: bool, total_mib: float | None
) -> tuple[list[tuple[int, float]], str]:
    """Return what is compared with the limit at each sample, and its name."""
    if not uses_gpu:
        of = "resident memory of the measuring process"
        return [(t, row[_RSS]) for t, row in rows if _RSS in row], of
    if unified:
        of = "rise of the board's used memory"
        if total_mib is None:
            return [], of
        series = [(t, total_mib - row[_AVAILABLE]) for t, row in rows if _AVAILABLE in row]
    else:
        of = "rise of the GPU's used memory"
        series = [(t, row[_GPU]) for t, row in rows if _GPU in row]
    return [(t, value - series[0][1]) for t, value in series], of


def longest_s(times_ns: Sequence[int], above: Sequence[bool]) -> float:
    """Return the longest stretch above the limit: from its first sample to the first one below.

    A stretch that the samples end in lasts until the last of them.
    """
    longest_ns, since = 0, None
    for t_ns, over in zip(times_ns, above, strict=True):
        if since is not None:
            longest_ns = max(longest_ns, t_ns - since)
        if not over:
            since = None
        elif since is None:
            since = t_ns
    return round(longest_ns / 1e9, 3)


def _gpu_bytes(settings: Mapping[str, Any]) -> float | None:
    """Return the peak of TensorRT's allocator."""
    return _number(settings.get("memory_limit") or {}, "allocator_peak_bytes")


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for _, row in rows if name in row]


def _number(of: Mapping[str, Any], key: str) -> float | None:
    value = of.get(key)
    return float(value) if isinstance(value, (int, float)) and value is not True else None


def _in_mib(nbytes: Any) -> float | None:
    return nbytes / _MIB if isinstance(nbytes, int) and nbytes else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
