"""What the NVIDIA GPU that is measured does besides drawing power, and who else uses it.

The parent looks through NVML once a second: clocks, temperature, load, memory and why clocks are
held down go into `resources.bin`; whether another process is on the GPU goes into `run.json`
(`shared_gpu`). A driver that does not know a figure leaves its column out.

Standard library only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edgejoule.power.gpu_sharing import Sharing, look
from edgejoule.power.nvml import open_or_explain
from edgejoule.power.nvml_types import CLOCK_REASONS, NvmlError

# Reasons that mean a GPU is slower than it could be; an idle GPU's low clock is none.
_THROTTLED = frozenset(
    (
        *("sw_power_cap", "hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown"),
        "hw_power_brake_slowdown",
    )
)


@dataclass
class GpuWatch:
    """Looks at one GPU; `open_gpu_watch` makes it.

    Attributes:
        uuid: The GPU.
        before: The look before any process of ours ran on it, None: not looked.
        after: The look after the last of ours had ended.
        looks: Looks while ours ran.
        foreign_looks: Those that showed another process.
    """

    uuid: str
    nvml: Any
    before: Sharing | None = None
    after: Sharing | None = None
    looks: int = 0
    foreign_looks: int = 0
    _queries: dict[str, Callable[[], float]] = field(default_factory=dict)

    def look(self) -> Sharing:
        """Look once while nothing of ours is on it."""
        return look(self.nvml, self.uuid)

    def look_during(self, own_pids: Collection[int]) -> None:
        """Look once while ours runs: only the driver's list of processes says anything then."""
        seen = look(self.nvml, self.uuid, own_pids)
        if seen.foreign_pids_count is not None:
            self.looks += 1
            self.foreign_looks += "processes" in seen.by

    def read(self) -> dict[str, float]:
        """Return the figures of now by column name."""
        row = {}
        for name, query in self._queries.items():
            with contextlib.suppress(NvmlError):  # a figure that comes and goes
                row[name] = query()
        return row

    def close(self) -> None:
        """Release NVML."""
        self.nvml.close()

    def shared(self) -> bool | None:
        """Return whether somebody else used the GPU during the run; None: it cannot be told."""
        around = [seen.shared for seen in (self.before, self.after) if seen is not None]
        if any(around) or self.foreign_looks:
            return True
        return False if around and None not in around else None

    def to_json(self) -> dict[str, Any]:
        """Return what was seen, for `run.json`."""
        return {
            "gpu_uuid": self.uuid,
            "before": None if self.before is None else self.before.to_json(),
            "after": None if self.after is None else self.after.to_json(),
            "looks": self.looks,
            "foreign_looks": self.foreign_looks,
        }


def open_gpu_watch(uuid: str) -> GpuWatch:
    """Open NVML for one GPU.

    Raises:
        MeasurementError: There is no NVML here.
    """
    nvml = open_or_explain()
    watch = GpuWatch(uuid, nvml)
    try:
        device = nvml.by_uuid(uuid)
    except NvmlError:
        return watch  # every look will say so
    candidates: dict[str, Callable[[], float]] = {
        "gpu_sm_mhz": partial(nvml.clock_mhz, device, "sm"),
        "gpu_memory_mhz": partial(nvml.clock_mhz, device, "memory"),
        "gpu_temperature_c": partial(nvml.temperature_c, device),
        "gpu_load_percent": partial(nvml.utilisation_percent, device),
        "gpu_memory_used_mib": lambda: _used_mib(nvml, device),
        "gpu_power_limit_mw": partial(nvml.enforced_power_limit_mw, device),
        "gpu_throttled": lambda: float(bool(_THROTTLED & set(nvml.clock_reasons(device)))),
        "gpu_clock_reasons_bits": lambda: _reason_bits(nvml.clock_reasons(device)),
    }
    for name, query in candidates.items():
        with contextlib.suppress(NvmlError):
            query()
            watch._queries[name] = query
    return watch


def _used_mib(nvml: Any, device: Any) -> float:
    memory = nvml.memory(device)
    used = memory.total_mib - memory.free_mib - (memory.reserved_mib or 0)
    return float(used)


def _reason_bits(reasons: Collection[str]) -> float:
    """Return the reasons as the bits that nvml.h gives them, those without a name left out."""
    return float(sum(bit for bit, name in CLOCK_REASONS.items() if name in reasons))
