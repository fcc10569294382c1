"""What else the machine did during an idle window, and whether the window was idle.

The caller brings the facts (`edgejoule.resources` samples most of them once a second); nothing is
read here. A fact that is not known is None, and no verdict rests on it. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from edgejoule.energy.baseline import Baseline

CPU_BUSY_PERCENT = 5.0
CPU_BUSY_CORES = 0.5  # on many cores 5 % of all is several of them
GPU_BUSY_PERCENT = 5.0
SPIKE_SHARE = 0.01
DRIFT_SHARE = 0.01
WARMING_C = 2.0

_TOTAL = "total"
_QUIET = "close other programs and jobs, wait half a minute, then measure again"
_SETTLE = "wait until power and temperature no longer change, then measure again"


@dataclass(frozen=True)
class Course:
    """How a figure went over a window: at its start, at its end, on average, and its extremes."""

    start: float
    end: float
    mean: float
    min: float
    max: float


@dataclass(frozen=True)
class Conditions:
    """The machine during a window; None or empty where it is not known.

    Attributes:
        samples: How many times it was looked at.
        cpus: CPUs of the machine.
        cpu_busy_percent: Share of all CPU time that was not idle.
        load_1min: The kernel's load average.
        gpu_utilisation_percent: Share of time that the GPU ran anything.
        temperatures_c: Thermal zone -> temperature, deg C.
        clocks_mhz: Clock -> frequency, MHz.
        clocks_locked: Whether all clocks had one frequency only (`jetson_clocks`).
        throttled: Counters of throttling that rose, and by how much; `gpu`: in how many looks an
            NVIDIA GPU's clocks were held down.
        gpu_processes: Processes on the GPU that are not of this measurement.
        shared: Whether others use this GPU or board at the same time.
    """

    samples: int = 0
    cpus: int | None = None
    cpu_busy_percent: Course | None = None
    load_1min: Course | None = None
    gpu_utilisation_percent: Course | None = None
    temperatures_c: Mapping[str, Course] = field(default_factory=dict)
    clocks_mhz: Mapping[str, Course] = field(default_factory=dict)
    clocks_locked: bool | None = None
    throttled: Mapping[str, int] = field(default_factory=dict)
    gpu_processes: int | None = None
    shared: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as they stand in `idle.json`."""
        return asdict(self)

    @property
    def unknown(self) -> tuple[str, ...]:
        """What could not be looked at and might have made the window not idle."""
        absent = {
            "CPU load": self.cpu_busy_percent is None,
            "GPU load": self.gpu_utilisation_percent is None,
            "temperature": not self.temperatures_c,
        }
        return tuple(name for name, is_absent in absent.items() if is_absent)


@dataclass(frozen=True)
class Verdict:
    """Something that speaks against a baseline.

    Attributes:
        kind: `not_idle` or `drifting`.
        why: What was seen, one clause.
        mend: What to do about it.
    """

    kind: Literal["not_idle", "drifting"]
    why: str
    mend: str

    def to_json(self) -> dict[str, str]:
        """Return plain values, as they stand in `idle.json`."""
        return asdict(self)


def course_of(values: Sequence[float]) -> Course | None:
    """Return how a figure went, None without a value."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    return Course(values[0], values[-1], mean, min(values), max(values))


def conditions_of(
    rows: Sequence[Mapping[str, float]],
    *,
    cpus: int | None = None,
    clocks_locked: bool | None = None,
    gpu_processes: int | None = None,
    shared: bool | None = None,
) -> Conditions:
    """Summarise what `edgejoule.resources` and `edgejoule.gpu_watch` gave during a window.

    Args:
        rows: One mapping per look, in order: `cpu_busy_percent`, `load_1min`, `gpu_load_percent`,
            `temperature_<zone>_c`, `gpu_temperature_c`, clocks (`_mhz` in the name), counters
            `throttled_<name>`, `gpu_throttled` (0 or 1); each may be absent.
        cpus: CPUs of the machine.
        clocks_locked: Whether all clocks are locked.
        gpu_processes: Foreign processes on the GPU.
        shared: Whether the GPU or board is shared.
    """
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)

    courses = {name: course for name in columns if (course := course_of(columns[name]))}

    def named(prefix: str, suffix: str = "") -> dict[str, Course]:
        return {
            name.removeprefix(prefix).removesuffix(suffix): course
            for name, course in courses.items()
            if name.startswith(prefix) and name.endswith(suffix)
        }

    temperatures = named("temperature_", "_c")
    if "gpu_temperature_c" in courses:
        temperatures["gpu"] = courses["gpu_temperature_c"]
    clocks = {name.replace("_mhz", "", 1): one for name, one in courses.items() if "_mhz" in name}
    rose = {name: round(one.end - one.start) for name, one in named("throttled_").items()}
    rose["gpu"] = sum(value > 0 for value in columns.get("gpu_throttled", []))
    return Conditions(
        samples=len(rows),
        cpus=cpus,
        cpu_busy_percent=courses.get("cpu_busy_percent"),
        load_1min=courses.get("load_1min"),
        gpu_utilisation_percent=courses.get("gpu_load_percent"),
        temperatures_c=temperatures,
        clocks_mhz=clocks,
        clocks_locked=clocks_locked,
        throttled={name: count for name, count in rose.items() if count > 0},
        gpu_processes=gpu_processes,
        shared=shared,
    )


def judge(rails: Mapping[str, Baseline], conditions: Conditions | None = None) -> list[Verdict]:
    """Say what speaks against an idle window; nothing if all that is known is in order.

    Args:
        rails: The baseline of each rail; where there is a `total`, power is judged by it alone.
        conditions: What the machine did meanwhile.
    """
    judged = {_TOTAL: rails[_TOTAL]} if _TOTAL in rails else rails
    known = Conditions() if conditions is None else conditions
    busy = _busy(known)
    busy += [
        f"{name}: {share:.1%} of the readings are spikes"
        for name, found in judged.items()
        if (share := found.spike_share or 0.0) > SPIKE_SHARE
    ]
    verdicts = [Verdict("not_idle", "; ".join(busy), _QUIET)] if busy else []
    drifts = [text for name, found in judged.items() if (text := _drift(name, found))]
    if drifts:
        drifts += _warming(known)
        verdicts.append(Verdict("drifting", "; ".join(drifts), _SETTLE))
    return verdicts


def _busy(known: Conditions) -> list[str]:
    """Return what ran, as far as the machine's figures tell."""
    found = []
    if known.cpu_busy_percent is not None:
        limit = CPU_BUSY_PERCENT
        if known.cpus:
            limit = min(limit, 100.0 * CPU_BUSY_CORES / known.cpus)
        mean = known.cpu_busy_percent.mean
        if mean > limit:
            found.append(f"the CPUs were busy {mean:.1f} % of the time (limit {limit:.2g} %)")
    gpu = known.gpu_utilisation_percent
    if gpu is not None and gpu.mean > GPU_BUSY_PERCENT:
        found.append(f"the GPU was busy {gpu.mean:.0f} % of the time")
    if known.gpu_processes:
        found.append(f"{known.gpu_processes} other process(es) on the GPU")
    if known.shared:
        found.append("the GPU is shared with others")
    return found


def _drift(name: str, found: Baseline) -> str | None:
    """Return how a rail's power drifts, None if it does not or nothing can be said."""
    if found.trend_mw is None or found.trend_half_width_mw is None or not found.mean_mw:
        return None
    share = found.trend_mw / found.mean_mw
    if abs(found.trend_mw) <= found.trend_half_width_mw or abs(share) <= DRIFT_SHARE:
        return None
    word = "rises" if found.trend_mw > 0 else "falls"
    amount = f"{abs(found.trend_mw):.0f} +- {found.trend_half_width_mw:.0f} mW"
    return f"{name} {word} by {amount} ({abs(share):.1%}) in {found.duration_s:.0f} s"


def _warming(known: Conditions) -> list[str]:
    """Return how the zone whose temperature changed most changed, if it changed at all."""
    zones = known.temperatures_c
    if not zones:
        return []
    name = max(zones, key=lambda zone: abs(zones[zone].end - zones[zone].start))
    change = zones[name].end - zones[name].start
    if abs(change) < WARMING_C:
        return []
    return [f"meanwhile {name} went from {zones[name].start:.1f} to {zones[name].end:.1f} deg C"]
