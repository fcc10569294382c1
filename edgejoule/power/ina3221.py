"""The INA3221 through Linux's hwmon: rails by label and chip address, raw mV and mA.

`<sysfs_root>/class/hwmon/*/name` says which devices are an `ina3221`; hwmon numbers change from
boot to boot, so a chip is known by its address (`1-0040`) and a rail by its label. A channel N in
1..3 has `inN_label`, `inN_input` (mV), `currN_input` (mA) and `shuntN_resistor` (micro-ohms);
`in4`..`in7` are shunt voltages and their sum, not supplies.

Steps: the register of the bus voltage counts 8 mV, that of the shunt 40 uV (TI, INA3221 data
sheet, registers 01h to 06h), so that a current step is 40 uV over the shunt.

Descriptors are opened once and read with `pread`, which gives the current value each time. A file
that only root may read can come as an open descriptor, see `inherited_descriptors`.

Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError
from edgejoule.power.sensor import Channel

DRIVER = "ina3221"
RAIL_FDS_VARIABLE = "EDGEJOULE_RAIL_FDS"
BUS_LSB_MV = 8.0
SHUNT_LSB_UV = 40.0
_ADDRESS = re.compile(r"^\d+-[0-9a-fA-F]{4}$")
# Drivers without inN_enable: a channel that is switched off has its files, but no value.
_SWITCHED_OFF = errno.ENODATA if hasattr(errno, "ENODATA") else -1


@dataclass(frozen=True)
class Chip:
    """One INA3221: its hwmon directory and its address (`1-0040`)."""

    directory: Path
    address: str


def find_chips(sysfs_root: str = "/sys") -> tuple[Chip, ...]:
    """Return the INA3221 chips of this machine, by address."""
    directories = sorted(Path(sysfs_root, "class", "hwmon").glob("*"))
    chips = [Chip(d, _address(d)) for d in directories if _text(d / "name") == DRIVER]
    return tuple(sorted(chips, key=lambda chip: chip.address))


def inherited_descriptors() -> dict[str, int]:
    """Return rail files that came already open: real path -> descriptor.

    The container's entrypoint starts as root, opens the files that only root may read, and names
    them in the environment variable EDGEJOULE_RAIL_FDS as JSON, path to descriptor. A number that
    is not (or no longer) that very file in this process is left out.
    """
    text = os.environ.get(RAIL_FDS_VARIABLE, "")
    try:
        named = json.loads(text) if text else {}
    except ValueError:
        return {}
    found = {}
    for path, descriptor in named.items() if isinstance(named, dict) else ():
        with contextlib.suppress(OSError, TypeError, ValueError):
            if os.path.samestat(os.fstat(descriptor), Path(path).stat()):
                found[os.path.realpath(path)] = descriptor
    return found


def refresh_ns(update_interval_ms: int | None) -> int | None:
    """Return the period at which the chip renews its registers, from `update_interval`.

    Drivers differ in whether `samples` is part of it (5.10: yes, 6.1: no); the averaging itself is
    a running one that renews the register each cycle either way. 0 is the fastest, read as 1 ms.
    """
    return None if update_interval_ms is None else max(1, update_interval_ms) * 1_000_000


class Ina3221Sensor:
    """All INA3221 chips below a sysfs root as one sensor.

    Args:
        sysfs_root: Where sysfs lies; `/sys` but for the simulated board and for tests.
        name: The sensor's name, `ina3221` or `simulated`.
        simulated: Whether the tree is made up.

    Raises:
        MeasurementError: No chip, or none of its files can be opened and read.
    """

    def __init__(
        self, sysfs_root: str = "/sys", name: str = DRIVER, *, simulated: bool = False
    ) -> None:
        self.name = name
        self.simulated = simulated
        self._root = sysfs_root
        self._inherited = inherited_descriptors()
        self._channels: list[Channel] = []
        self._paths: list[Path] = []
        self._descriptors: list[int] = []
        self._left_out: list[dict[str, Any]] = []
        chips = find_chips(sysfs_root)
        if not chips:
            raise MeasurementError(
                f"no INA3221 below {Path(sysfs_root, 'class', 'hwmon')}",
                "on a Jetson see that the driver is there (`lsmod`, `dmesg | grep ina3221`)",
            )
        self._configuration = {chip.address: _settings(chip, sysfs_root) for chip in chips}
        for chip in chips:
            self._open_chip(chip)
        if not self._channels:
            raise MeasurementError(*self._why_nothing())
        intervals = [c.get("update_interval_ms") for c in self._configuration.values()]
        known = [refresh_ns(interval) for interval in intervals if interval is not None]
        self.refresh_ns = min(filter(None, known), default=None)

    def channels(self) -> tuple[Channel, ...]:
        """The channels in sweep order: per rail voltage, then current."""
        return tuple(self._channels)

    def read(self, index: int) -> int:
        """Return the raw value of a channel now, in its unit.

        A chip that was unbound and bound again leaves its old files dead (ENODEV): the channel is
        then looked up and opened afresh, once per read.

        Raises:
            OSError: As the file gave it; EBADMSG if it holds no number.
        """
        try:
            return _number(self._descriptors[index])
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            self._reopen(index, error)
            return _number(self._descriptors[index])

    def configuration(self) -> dict[str, Any]:
        """Return per chip how it is set, and what was left out and why."""
        return {"chips": self._configuration, "left_out": self._left_out}

    def close(self) -> None:
        """Close all descriptors."""
        while self._descriptors:
            with contextlib.suppress(OSError):
                os.close(self._descriptors.pop())

    def _open_chip(self, chip: Chip) -> None:
        for number in (1, 2, 3):
            label = _text(chip.directory / f"in{number}_label")
            rail = label or f"{chip.address}_ch{number}"
            if label is not None and re.search(r"\bNC\b", label):
                self._leave_out(chip, rail, f"in{number}", "not connected")
                continue
            if _integer(chip.directory / f"in{number}_enable") == 0:
                self._leave_out(chip, rail, f"in{number}", "switched off (enable is 0)")
                continue
            if any(channel.rail == rail for channel in self._channels):
                rail = f"{rail}@{chip.address}"  # two chips with the same label
            shunt = _integer(chip.directory / f"shunt{number}_resistor")
            step = SHUNT_LSB_UV * 1000.0 / shunt if shunt else None  # uV / uOhm = A
            self._open(chip, rail, "voltage", "mV", f"in{number}_input", None, BUS_LSB_MV)
            self._open(chip, rail, "current", "mA", f"curr{number}_input", shunt, step)

    def _open(
        self,
        chip: Chip,
        rail: str,
        quantity: str,
        unit: str,
        source: str,
        shunt_uohm: int | None,
        lsb: float | None,
    ) -> None:
        path = chip.directory / source
        try:
            descriptor = self._descriptor(path)
        except OSError as error:
            self._leave_out(chip, rail, source, _reason(error))
            return
        try:
            _number(descriptor)
        except OSError as error:
            if error.errno == _SWITCHED_OFF:
                os.close(descriptor)
                self._leave_out(chip, rail, source, _reason(error))
                return
            # Anything else may pass (ETIMEDOUT, EIO): it belongs into the trace, not out of it.
        index = len(self._channels)
        self._channels.append(
            Channel(index, rail, quantity, unit, chip.address, source, shunt_uohm, lsb)
        )
        self._paths.append(path)
        self._descriptors.append(descriptor)

    def _descriptor(self, path: Path) -> int:
        try:
            return os.open(path, os.O_RDONLY)
        except PermissionError:
            inherited = self._inherited.get(os.path.realpath(path))
            if inherited is None:
                raise
            return os.dup(inherited)

    def _reopen(self, index: int, error: OSError) -> None:
        channel = self._channels[index]
        for chip in find_chips(self._root):
            if chip.address == channel.chip:
                try:
                    fresh = self._descriptor(chip.directory / channel.source)
                except OSError:
                    break  # on its way out: what the kept descriptor said is the better answer
                os.close(self._descriptors[index])
                self._descriptors[index] = fresh
                return
        raise error

    def _leave_out(self, chip: Chip, rail: str, source: str, why: str) -> None:
        self._left_out.append({"chip": chip.address, "rail": rail, "source": source, "why": why})

    def _why_nothing(self) -> tuple[str, str]:
        reasons = sorted({str(item["why"]) for item in self._left_out})
        if any("ermission" in reason for reason in reasons):
            mend = "its rail files are for root: run with sudo, or in the container"
        else:
            mend = "see the chip's files in*_input, curr*_input and in*_enable"
        return f"no rail of the INA3221 can be read ({', '.join(reasons)})", mend


def _settings(chip: Chip, sysfs_root: str) -> dict[str, Any]:
    """Read how a chip is set; only read, never written."""
    enabled = {f"ch{n}": _integer(chip.directory / f"in{n}_enable") for n in (1, 2, 3)}
    shunts = {f"ch{n}": _integer(chip.directory / f"shunt{n}_resistor") for n in (1, 2, 3)}
    return {
        "directory": os.path.relpath(
            os.path.realpath(chip.directory), os.path.realpath(sysfs_root)
        ),
        "update_interval_ms": _integer(chip.directory / "update_interval"),
        "samples": _integer(chip.directory / "samples"),
        "enabled": enabled,
        "shunt_uohm": shunts,
    }


def _address(directory: Path) -> str:
    """Return a chip's I2C address from the `device` link, or from where the hwmon really lies."""
    places = [Path(os.path.realpath(directory / "device")), Path(os.path.realpath(directory))]
    for place in places:
        for part in reversed(place.parts):
            if _ADDRESS.match(part):
                return part
    return directory.name


def _number(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0)
    try:
        return int(text)
    except ValueError as error:
        raise OSError(errno.EBADMSG, f"no number: {text!r}") from error


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def _integer(path: Path) -> int | None:
    text = _text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _reason(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "?")
    return f"{error.strerror} ({name})"
