"""RAPL: the energy counters of Intel's and AMD's processors, through Linux's powercap.

`<sysfs_root>/class/powercap/intel-rapl:N` is a package (or `psys`, the platform) and
`intel-rapl:N:M` a part of it: `core`, `uncore`, `dram`. Each has `name`, `energy_uj` and
`max_energy_range_uj`; the kernel's driver serves AMD under the same names
(Documentation/power/powercap/powercap.rst, drivers/powercap/intel_rapl_common.c).

    psys          the platform as its maker wired it: may hold the package and more, or mean nothing
      package     cores, caches, graphics, memory controller
        core        inside the package: never added to it
        uncore      inside the package (a client's graphics)
      dram        the memory modules: below the package in sysfs, but not inside its counter

The counter is 32 bits wide and moves about every ms (Intel SDM volume 3B, "RAPL Domains": updated
about every 1 msec); at 200 W a range of 262 kJ lasts 22 minutes, so that one reads more often.

A processor of several dies has a package zone per die. Intel's count each for itself; those of
AMD's Zen 1 and 2 all show the one counter of the socket, and are told by being equal.

Since CVE-2020-8694 `energy_uj` is for root, and container runtimes hide the whole tree: both are
findings with a mend, not a missing sensor.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgejoule.errors import EdgejouleError, MeasurementError
from edgejoule.power.sensor import Channel, Group, Total
from edgejoule.power.sysfs_files import (
    integer_of,
    names_in,
    number_of,
    reading_of,
    reason_of,
    text_of,
)

REFRESH_NS = 1_000_000
# A counter loses nothing between two reads, and each read may wake a core of its package: reading
# at 1 kHz has cost between 0.25 and 46.75 % of the time (arXiv 2604.26815).
PERIOD_NS = 10_000_000
PACKAGE, DRAM, PSYS = "package", "dram", "psys"
_ZONE = re.compile(r"^intel-rapl:\d+(:\d+)?$")
_TWIN = re.compile(r"^intel-rapl-mmio:\d+(:\d+)?$")
_DIE = re.compile(rf"^({PACKAGE}-\d+)-die-\d+$")
_COUNTER_MAX = 2**32 - 1
# Two reads of one counter differ by what the processor draws between them: 1 J is 1 kW for 1 ms.
_SAME_UJ = 1_000_000
_DOCUMENT = "Linux Documentation/power/powercap, Intel SDM volume 3B (RAPL domains)"


@dataclass(frozen=True)
class Zone:
    """A RAPL zone: its directory's name, the zone that it lies in (or None) and its rail."""

    name: str
    parent: str | None
    rail: str


def find_zones(sysfs_root: str = "/sys") -> tuple[Zone, ...]:
    """Return the zones of the processor's registers, packages before their parts.

    Rails are `package-0`; a part is its name and its package's number (`dram-0`, of a package with
    several dies `dram-0-die-1`); `psys` stands alone.
    """
    folder = _folder(sysfs_root)
    labels = {n: text_of(folder / n / "name") for n in names_in(folder) if _ZONE.match(n)}
    zones = []
    for name in sorted((n for n, label in labels.items() if label), key=_order):
        label = labels[name] or ""
        above = name.rpartition(":")[0]
        parent = above if name.count(":") > 1 else None
        if parent is not None:
            package = (labels.get(parent) or parent).removeprefix(f"{PACKAGE}-")
            label = f"{label}-{package}"
        zones.append(Zone(name, parent, label))
    return tuple(zones)


class RaplSensor:
    """All RAPL zones below a sysfs root.

    Args:
        sysfs_root: Where sysfs lies.

    Raises:
        MeasurementError: No zones, hidden ones (a container's), or only root may read them.
    """

    name = "rapl"
    simulated = False

    def __init__(self, sysfs_root: str = "/sys") -> None:
        folder = _folder(sysfs_root)
        self._channels: list[Channel] = []
        self._descriptors: list[int] = []
        self._left_out: list[dict[str, str]] = [
            {"zone": name, "why": "the same package through another register (MMIO)"}
            for name in names_in(folder)
            if _TWIN.match(name)
        ]
        zones = find_zones(sysfs_root)
        if not zones:
            raise MeasurementError(*_why_none(folder))
        denied = None
        for zone in zones:
            try:
                self._open(folder / zone.name, zone)
            except OSError as error:
                denied = denied or (error if isinstance(error, PermissionError) else None)
                self._left_out.append({"zone": zone.name, "why": reason_of(error)})
        if not self._channels:
            if denied:
                raise MeasurementError(
                    "RAPL is here, but only root may read its energy_uj (CVE-2020-8694)",
                    "run as root, or once per start of the machine: sudo chmod a+r "
                    "/sys/class/powercap/intel-rapl:*/energy_uj "
                    "/sys/class/powercap/intel-rapl:*:*/energy_uj (a udev rule keeps it)",
                )
            reasons = "; ".join(f"{item['zone']}: {item['why']}" for item in self._left_out)
            raise MeasurementError(f"RAPL is here, but no zone can be read ({reasons})",
                                   "see `dmesg | grep -i rapl`")  # fmt: skip

    def channels(self) -> tuple[Channel, ...]:
        """One energy counter per zone."""
        return tuple(self._channels)

    def groups(self) -> tuple[Group, ...]:
        """One group: the registers move together, about every ms; swept every 10 ms."""
        indices = tuple(range(len(self._channels)))
        return (Group(self.name, indices, REFRESH_NS, period_ns=PERIOD_NS),)

    def read(self, index: int) -> int:
        """Return a counter now, uJ.

        Raises:
            OSError: As the file gave it; EBADMSG if it holds no number.
        """
        return number_of(self._descriptors[index])

    def descriptors(self) -> tuple[int, ...]:
        """Per channel the open file, for a sampler that reads files itself."""
        return tuple(self._descriptors)

    def configuration(self) -> dict[str, Any]:
        """Return which zone is which rail, and what was left out and why."""
        return {
            "zones": {channel.rail: channel.chip for channel in self._channels},
            "refresh_how": "Intel SDM: about every 1 ms; not measured here",
            "left_out": self._left_out,
        }

    def close(self) -> None:
        """Close all descriptors."""
        while self._descriptors:
            with contextlib.suppress(OSError):
                os.close(self._descriptors.pop())

    def _open(self, directory: Path, zone: Zone) -> None:
        descriptor = os.open(directory / "energy_uj", os.O_RDONLY)
        try:
            twin = self._mirrored(zone.rail, number_of(descriptor))
        except OSError:
            os.close(descriptor)
            raise
        if twin is not None:
            os.close(descriptor)
            self._left_out.append({"zone": zone.name, "why": f"the same counter as {twin}"})
            return
        wrap = integer_of(directory / "max_energy_range_uj")
        rail = zone.rail
        if any(channel.rail == rail for channel in self._channels):
            rail = f"{rail}@{zone.name}"
        index = len(self._channels)
        self._channels.append(
            Channel(
                index, rail, "energy", "uJ", zone.name, "energy_uj",
                lsb=_step_uj(wrap), sensor=self.name, wrap=wrap,
            )
        )  # fmt: skip
        self._descriptors.append(descriptor)

    def _mirrored(self, rail: str, value: int) -> str | None:
        """Return the rail of the same package whose counter this one repeats."""
        die = _DIE.match(rail)
        for channel in self._channels:
            other = _DIE.match(channel.rail)
            if die and other and die[1] == other[1]:
                near = abs(self.read(channel.index) - value) <= _SAME_UJ
                if value and near:
                    return channel.rail
        return None


def rapl_total(rails: Iterable[str]) -> Total | None:
    """Return which RAPL rails make up the processor: all packages and all memories.

    `core` and `uncore` lie inside the package. `psys` is not added, since it may contain the
    packages, and not preferred, since what it covers is for the machine's maker to wire: it is the
    total only where there is no package. None: none of them is there.
    """
    there = list(dict.fromkeys(rails))
    packages = [rail for rail in there if rail.startswith(f"{PACKAGE}-")]
    memories = [rail for rail in there if rail.startswith(f"{DRAM}-")]
    if packages:
        named = "processor packages (cores, caches, graphics in them)"
        return Total(
            rails=(*packages, *memories),
            contains=f"{named} and memory" if memories else named,
            excludes="GPU cards, disks, fans, screen, losses of the power supply"
            + ("" if memories else "; memory, which has no counter here"),
            source=_DOCUMENT,
        )
    platform = [rail for rail in there if rail.split("-")[0].split("@")[0] == PSYS]
    if platform:
        return Total(
            rails=(platform[0],),
            contains="the platform as the machine's maker wired it",
            excludes="not stated by the maker",
            source=_DOCUMENT,
        )
    return None


def looked_for(sysfs_root: str = "/sys") -> list[str]:
    """Return, a line each, what RAPL gives here or why not."""
    try:
        sensor = RaplSensor(sysfs_root)
    except EdgejouleError as error:
        return [f"rapl: {error}"]
    with contextlib.closing(sensor):
        lines = [
            f"rapl: {channel.chip} {channel.rail}: "
            + reading_of(partial(sensor.read, channel.index), channel.unit)
            for channel in sensor.channels()
        ]
        left_out = sensor.configuration()["left_out"]
    return lines + [f"rapl: {item['zone']}: left out, {item['why']}" for item in left_out]


def _why_none(folder: Path) -> tuple[str, str]:
    """Tell a hidden tree, another processor and a missing driver apart."""
    entries = names_in(folder)
    if any(name.startswith("intel-rapl") and not (folder / name).exists() for name in entries):
        return (
            f"RAPL is hidden: {folder} names zones that lead nowhere, as container runtimes "
            "hide /sys/devices/virtual/powercap",
            "run outside the container, or with that path unmasked (podman: --security-opt "
            "unmask=/sys/devices/virtual/powercap; docker: --privileged or "
            "--security-opt systempaths=unconfined)",
        )
    if any(_TWIN.match(name) for name in entries):
        return (
            f"{folder} has RAPL through MMIO alone, whose package counter other drivers share",
            "load the driver of the registers: sudo modprobe intel_rapl_msr",
        )
    return (
        f"no RAPL below {folder}",
        "on x86: sudo modprobe intel_rapl_msr (a virtual machine has none; ARM has none)",
    )


def _folder(sysfs_root: str) -> Path:
    return Path(sysfs_root, "class", "powercap")


def _order(name: str) -> list[int]:
    return [int(part) for part in name.split(":")[1:]]


def _step_uj(wrap: int | None) -> float | None:
    """Return the counter's step: the driver states its range as 2**32 - 1 steps.

    Steps are 1 J / 2**k (61.04 uJ, 15.26 uJ) or the 1 J of some servers' psys; anything else is a
    range of another origin, and the step is not known.
    """
    if not wrap:
        return None
    step = wrap / _COUNTER_MAX
    fits = [1e6 / 2**k for k in range(21) if abs(step * 2**k / 1e6 - 1) < 1e-3]
    return fits[0] if fits else None
