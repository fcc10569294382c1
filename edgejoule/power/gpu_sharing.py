"""Whether somebody else uses the GPU that is measured, and waiting until nobody does.

Signs, the surest first: another process in NVML's list; memory that no listed process holds (in a
container the list leaves out everyone outside); utilisation while nothing of ours runs. Of other
people's processes only counts and MiB are kept, no names and no command lines.

Standard library only.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.power.nvml_library import Device, Nvml
from edgejoule.power.nvml_types import GpuProcess, NvmlError

# A CUDA context alone takes some hundred MiB; an empty GPU with its driver loaded shows a few.
MEMORY_LIMIT_MIB = 100
# Percent of the driver's sampling period (1/6 s to 1 s): its own work gives no more than this.
UTILISATION_LIMIT_PERCENT = 5
_IDLE_LOOKS = 3
_LOOK_EVERY_S = 2.0
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(s|m|h)$", re.ASCII)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Sharing:
    """What one look at a GPU showed.

    Attributes:
        shared: Whether somebody else uses it; None: it cannot be told, see `why`.
        by: The signs: `processes`, `memory`, `utilisation`.
        foreign_pids_count: Other compute processes that this pid namespace shows; None: no list.
        foreign_graphics_count: Other graphics processes (a desktop's); alone they are no sharing.
        foreign_memory_mib: Memory that is neither ours nor the driver's reserve nor charged to a
            listed graphics process; None: unknown.
        utilisation_percent: Of the driver's last sampling period; with ours, if ours runs.
        why: In words.
    """

    shared: bool | None
    by: tuple[str, ...]
    foreign_pids_count: int | None
    foreign_graphics_count: int | None
    foreign_memory_mib: int | None
    utilisation_percent: int | None
    why: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "by": list(self.by)}

    @property
    def idle(self) -> bool:
        """Whether nothing runs there, as far as it can be told at all."""
        return self.shared is False and (self.utilisation_percent or 0) <= UTILISATION_LIMIT_PERCENT


def look(nvml: Nvml, uuid: str, own_pids: Collection[int] = ()) -> Sharing:
    """Look once.

    Args:
        nvml: An open NVML.
        uuid: The GPU.
        own_pids: Our processes on it; empty before the measured one has started.
    """
    try:
        device = nvml.by_uuid(uuid)
    except NvmlError as error:
        return Sharing(None, (), None, None, None, None, f"NVML: {error}")
    compute = _list(nvml, device, "Compute")
    graphics = _list(nvml, device, "Graphics")
    in_use_mib, utilisation = _numbers(nvml, device)
    foreign = _foreign(compute, own_pids)
    drawing = _foreign(graphics, own_pids)
    own = [p for p in (*(compute or ()), *(graphics or ())) if p.pid in own_pids]
    memory_mib = _foreign_memory_mib(in_use_mib, own, drawing or (), bool(own_pids))
    by = []
    if foreign:
        by.append("processes")
    # A desktop holds more than its processes are charged with; and a list that shows the desktop's
    # processes hides nobody's.
    if memory_mib is not None and memory_mib > MEMORY_LIMIT_MIB and not drawing:
        by.append("memory")
    if not own_pids and utilisation is not None and utilisation > UTILISATION_LIMIT_PERCENT:
        by.append("utilisation")
    shared, why = _verdict(by, compute, memory_mib, utilisation, bool(own_pids))
    return Sharing(
        shared,
        tuple(by),
        None if foreign is None else len(foreign),
        None if drawing is None else len(drawing),
        memory_mib,
        utilisation,
        why,
    )


@dataclass(frozen=True)
class Waited:
    """How waiting for an idle GPU went: how long, after how many looks, and the last one."""

    seconds: float
    looks: int
    last: Sharing


def wait_idle(
    look_once: Callable[[], Sharing],
    wait: Callable[[float], None],
    longest_s: float,
    clock_s: Callable[[], float],
    *,
    looks: int = _IDLE_LOOKS,
    every_s: float = _LOOK_EVERY_S,
) -> Waited:
    """Wait until some looks in a row show an idle GPU.

    Args:
        look_once: Looks at the GPU, before any process of ours runs on it.
        wait: Waits some seconds.
        longest_s: For how long at most.
        clock_s: Monotonic, s.
        looks: How many in a row.
        every_s: Time between two looks.

    Raises:
        MeasurementError: It was in use until the end, or it cannot be told.
    """
    begin_s, count, idle = clock_s(), 0, 0
    while True:
        last = look_once()
        count += 1
        if last.shared is None:
            raise MeasurementError(
                f"cannot tell whether the GPU is idle: {last.why}",
                "leave out --wait-idle and see that nobody uses it",
            )
        idle = idle + 1 if last.idle else 0
        waited_s = clock_s() - begin_s
        if idle >= looks:
            return Waited(waited_s, count, last)
        if waited_s + every_s > longest_s:
            raise MeasurementError(
                f"the GPU was not idle within {longest_s:g} s: {last.why}",
                "end what runs there, wait longer, or take another GPU (--device)",
            )
        wait(every_s)


def parse_duration(text: str) -> float:
    """Return the seconds of `90s`, `10m` or `1.5h`.

    Raises:
        UsageError: It is none of these, or 0.
    """
    match = _DURATION.match(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{text!r} is no duration", "write 90s, 10m or 1.5h")
    return seconds


def _list(nvml: Nvml, device: Device, kind: str) -> tuple[GpuProcess, ...] | None:
    try:
        return nvml.processes(device, kind)
    except NvmlError:
        return None


def _numbers(nvml: Nvml, device: Device) -> tuple[int | None, int | None]:
    """Return MiB that processes hold, and percent of utilisation."""
    in_use_mib = utilisation = None
    with contextlib.suppress(NvmlError):
        in_use_mib = nvml.memory(device).in_use_mib
    with contextlib.suppress(NvmlError):
        utilisation = nvml.utilisation_percent(device)
    return in_use_mib, utilisation


def _foreign(
    listed: Sequence[GpuProcess] | None, own_pids: Collection[int]
) -> list[GpuProcess] | None:
    return None if listed is None else [p for p in listed if p.pid not in own_pids]


def _foreign_memory_mib(
    in_use_mib: int | None, own: Sequence[GpuProcess], drawing: Sequence[GpuProcess], started: bool
) -> int | None:
    """Return the memory that is neither ours nor a listed desktop's.

    None while ours runs unlisted (another pid namespace) or with memory unsaid: it cannot be taken
    away from the sum then.
    """
    if in_use_mib is None or (started and not own):
        return None
    known = {process.pid: process.memory_mib for process in (*drawing, *own)}
    if any(process.memory_mib is None for process in own):
        return None
    return max(0, in_use_mib - sum(mib or 0 for mib in known.values()))


def _verdict(
    by: Sequence[str],
    compute: Sequence[GpuProcess] | None,
    memory_mib: int | None,
    utilisation: int | None,
    started: bool,
) -> tuple[bool | None, str]:
    signs = [
        "no list of processes" if compute is None else f"{len(compute)} compute processes listed",
        "memory of others unknown" if memory_mib is None else f"{memory_mib} MiB held by others",
        "utilisation unknown" if utilisation is None else f"utilisation {utilisation} %",
    ]
    seen = ", ".join(signs)
    if by:
        return True, f"in use by others ({' and '.join(by)}): {seen}"
    if memory_mib is not None:
        return False, f"nobody else seen: {seen}"
    if not started and utilisation is not None and compute is not None:
        return False, f"nobody else seen, by utilisation and the list alone: {seen}"
    return None, f"cannot be told: {seen}; a container's process list leaves out everyone outside"
