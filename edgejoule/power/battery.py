"""A laptop's battery as a power sensor: slow and coarse, but the whole machine.

`<sysfs_root>/class/power_supply/<name>/` with `type` `Battery` gives `power_now` (uW), or
`voltage_now` (uV) and `current_now` (uA). What flows is the machine's draw only while `status` is
`Discharging`; on a charger the battery's power is that of charging.

Left out: chargers (`Mains`, `USB`: USB-C ports are power supplies too) and the batteries of mice
and keyboards (`scope` `Device`).

The sign of `current_now` is a mess in existing drivers (Linux, Documentation/ABI/testing/
sysfs-class-power and its history): some report discharge as negative, so that the magnitude is
taken. ACPI's driver asks the battery at most once per `cache_time`, 1 s (drivers/acpi/battery.c),
and many batteries renew their values more slowly than that.

Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgejoule.errors import EdgejouleError, MeasurementError
from edgejoule.power.sensor import Channel, Group, Total
from edgejoule.power.sysfs_files import names_in, number_of, reading_of, reason_of, text_of

REFRESH_NS = 1_000_000_000
DISCHARGING = "Discharging"
_RAIL = "battery"
_NOT_NOW = errno.ENODATA if hasattr(errno, "ENODATA") else errno.EIO
_UNPLUG = "unplug the charger; see that `status` says Discharging"


@dataclass(frozen=True)
class Supply:
    """A power supply of the machine: its directory's name, and why it is left out, if it is."""

    name: str
    left_out: str = ""


def find_supplies(sysfs_root: str = "/sys") -> tuple[Supply, ...]:
    """Return all power supplies, batteries of the machine with an empty `left_out`."""
    folder = _folder(sysfs_root)
    return tuple(Supply(name, _why_not(folder / name)) for name in names_in(folder))


class BatterySensor:
    """All batteries of the machine that discharge.

    Args:
        sysfs_root: Where sysfs lies.

    Raises:
        MeasurementError: No battery, none that discharges, one that charges, or no power of it.
    """

    name = "battery"
    simulated = False

    def __init__(self, sysfs_root: str = "/sys") -> None:
        folder = _folder(sysfs_root)
        supplies = find_supplies(sysfs_root)
        self._channels: list[Channel] = []
        self._descriptors: list[int] = []
        self._statuses: list[int] = []
        self._left_out = [{"supply": s.name, "why": s.left_out} for s in supplies if s.left_out]
        batteries = [s.name for s in supplies if not s.left_out]
        if not batteries:
            raise MeasurementError(f"no battery below {folder}", "a desktop or a server has none")
        states = {name: text_of(folder / name / "status") or "?" for name in batteries}
        if DISCHARGING not in states.values() or "Charging" in states.values():
            said = ", ".join(f"{name} is {state}" for name, state in states.items())
            raise MeasurementError(f"the battery's power is not the machine's: {said}", _UNPLUG)
        for name in batteries:
            if states[name] == DISCHARGING:
                self._open(folder / name)
            else:
                self._left_out.append({"supply": name, "why": f"status is {states[name]}"})
        if not self._channels:
            self.close()
            reasons = "; ".join(f"{item['supply']}: {item['why']}" for item in self._left_out)
            raise MeasurementError(
                f"no battery tells its power ({reasons})", "this machine's battery cannot be used"
            )

    def channels(self) -> tuple[Channel, ...]:
        """Per battery its power, or its voltage and its current."""
        return tuple(self._channels)

    def groups(self) -> tuple[Group, ...]:
        """One group per battery."""
        names = dict.fromkeys(channel.chip for channel in self._channels)
        return tuple(
            Group(name, tuple(c.index for c in self._channels if c.chip == name), REFRESH_NS)
            for name in names
        )

    def read(self, index: int) -> int:
        """Return the magnitude of a value now, uW, uV or uA.

        Raises:
            OSError: As the file gave it; ENODATA while the battery does not discharge (the charger
                was plugged in); EBADMSG if there is no number.
        """
        status = os.pread(self._statuses[index], 32, 0).strip().decode("ascii", "replace")
        if status != DISCHARGING:
            raise OSError(_NOT_NOW, f"the battery is {status}, not {DISCHARGING}")
        return abs(number_of(self._descriptors[index]))

    def configuration(self) -> dict[str, Any]:
        """Return how it is read, and what was left out and why."""
        return {
            "batteries": list(dict.fromkeys(channel.chip for channel in self._channels)),
            "sign": "magnitude: drivers disagree about the sign of discharge",
            "refresh_how": "ACPI's driver asks at most once a second; not measured here",
            "left_out": self._left_out,
        }

    def close(self) -> None:
        """Close all descriptors."""
        for descriptors in (self._descriptors, self._statuses):
            while descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptors.pop())

    def _open(self, directory: Path) -> None:
        name = directory.name
        try:
            self._add(directory, (("power", "uW", "power_now"),))
        except OSError as no_power:
            both = (("voltage", "uV", "voltage_now"), ("current", "uA", "current_now"))
            try:
                self._add(directory, both)
            except OSError as error:
                why = f"power_now: {reason_of(no_power)}; voltage and current: {reason_of(error)}"
                self._left_out.append({"supply": name, "why": why})

    def _add(self, directory: Path, files: tuple[tuple[str, str, str], ...]) -> None:
        """Take the channels of a battery, all or none."""
        opened: list[int] = []
        try:
            for _, _, source in files:
                opened.append(os.open(directory / source, os.O_RDONLY))
                number_of(opened[-1])
            statuses = [os.open(directory / "status", os.O_RDONLY) for _ in files]
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        for quantity, unit, source in files:
            index = len(self._channels)
            self._channels.append(
                Channel(
                    index, f"{_RAIL}_{directory.name}", quantity, unit, directory.name, source,
                    sensor=self.name,
                )
            )  # fmt: skip
        self._descriptors += opened
        self._statuses += statuses


def battery_total(rails: Iterable[str]) -> Total | None:
    """Return the total of the batteries' rails: their sum. None: there is none."""
    batteries = tuple(dict.fromkeys(r for r in rails if r.startswith(f"{_RAIL}_")))
    if not batteries:
        return None
    return Total(
        rails=batteries,
        contains="the whole machine, screen and all, as its battery feeds it",
        excludes="losses in the battery itself",
        source="Linux Documentation/ABI/testing/sysfs-class-power",
    )


def looked_for(sysfs_root: str = "/sys") -> list[str]:
    """Return, a line each, what the batteries give here or why not."""
    try:
        sensor = BatterySensor(sysfs_root)
    except EdgejouleError as error:
        return [f"battery: {error}"]
    with contextlib.closing(sensor):
        lines = [
            f"battery: {channel.chip} {channel.source}: "
            + reading_of(partial(sensor.read, channel.index), channel.unit)
            for channel in sensor.channels()
        ]
        left_out = sensor.configuration()["left_out"]
    return lines + [f"battery: {item['supply']}: left out, {item['why']}" for item in left_out]


def _why_not(directory: Path) -> str:
    kind = text_of(directory / "type")
    if kind != "Battery":
        return f"type is {kind or 'not readable'}"
    if text_of(directory / "scope") == "Device":
        return "the battery of another device (scope is Device)"
    if text_of(directory / "present") == "0":
        return "not present"
    return ""


def _folder(sysfs_root: str) -> Path:
    return Path(sysfs_root, "class", "power_supply")
