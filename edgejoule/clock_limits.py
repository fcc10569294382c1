"""Which CPUs are online and what CPU and GPU clocks may reach: what a power mode sets.

Read from sysfs, nothing is written. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgejoule.machine_state import cpu_numbers, cpus_online, gpu_devfreq, read_int, read_text


@dataclass(frozen=True)
class Range:
    """How far a clock may go, in the unit of its file (CPU: kHz, GPU: Hz).

    Attributes:
        upper: The limit in force, None if it cannot be read.
        hardware: What the hardware can do, None if it is not told.
        steps: The frequencies that the hardware has, empty if not told.
    """

    upper: int | None
    hardware: int | None = None
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Limits:
    """The limits of a machine.

    Attributes:
        present: How many CPUs there are.
        online: Those that are online, None if not told.
        cpu_khz: CPU number -> limit, for CPUs with a frequency driver (not those offline).
        gpu_hz: The integrated GPU's limit, None if there is none or several differ.
    """

    present: int
    online: frozenset[int] | None
    cpu_khz: Mapping[int, Range] = field(default_factory=dict)
    gpu_hz: Range | None = None


def read_limits(sysfs_root: Path | str = "/sys") -> Limits:
    """Read the limits in force."""
    sysfs = Path(sysfs_root)
    numbers = cpu_numbers(sysfs)
    online = cpus_online(sysfs)
    cpus = {}
    for number in numbers:
        folder = sysfs / f"devices/system/cpu/cpu{number}/cpufreq"
        upper = read_int(folder / "scaling_max_freq")
        if upper is not None and (online is None or number in online):
            hardware = read_int(folder / "cpuinfo_max_freq")
            steps = _steps(folder / "scaling_available_frequencies")
            cpus[number] = Range(upper, hardware, steps)
    gpus = set()
    for folder in gpu_devfreq(sysfs):
        steps = _steps(folder / "available_frequencies")
        gpus.add(Range(read_int(folder / "max_freq"), max(steps, default=None), steps))
    gpu = gpus.pop() if len(gpus) == 1 else None
    return Limits(len(numbers), None if online is None else frozenset(online), cpus, gpu)


def _steps(path: Path) -> tuple[int, ...]:
    words = (read_text(path) or "").split()
    return tuple(
        int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 19
    )
