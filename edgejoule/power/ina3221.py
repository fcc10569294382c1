"""The INA3221 and INA238 through sysfs: rails by label and chip address, raw mV and mA.

`ina_layouts` says where their files are and what they are called, `ina_refresh` how often their
values change, `ina_files` how a file comes open that only root may read. Here: one sensor of all
chips, and what is done when a file fails.

Descriptors are opened once and read with `pread`, which gives the current value each time. A chip
that is unbound leaves its files dead (ENODEV), also when it is bound again: it is then looked up
by its address, and its new files take the place of the old ones under the same descriptor numbers.
So `descriptors` may be read directly; after a failure `read` is to be called, which does that.

    errno of a read   what it is                                           what becomes of it
    ENODATA           the channel is switched off                          left out / in the trace
    EACCES, EPERM     only root may read                                   left out, with the mend
    ENODEV            the driver was unbound                               opened anew, else trace
    ETIMEDOUT, EIO    no conversion in time, no answer on the bus          in the trace
    EAGAIN            as ETIMEDOUT, from NVIDIA's iio driver               in the trace
    EBADMSG           (ours) the file holds no number                      in the trace

Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError
from edgejoule.power.ina_files import (
    NOT_ALLOWED,
    RAIL_FDS_VARIABLE,
    RailFiles,
    inherited_descriptors,
)
from edgejoule.power.ina_layouts import (
    DRIVER,
    DRIVERS,
    Chip,
    Supply,
    find_chips,
    layouts_of,
    looked_for,
    supplies_of,
    unbound,
)
from edgejoule.power.ina_refresh import FEWEST_READS, Refresh, enough_reads, typical_read_ns
from edgejoule.power.ina_settings import averaging_of, refresh_of, settings_of
from edgejoule.power.sensor import Channel, Group
from edgejoule.power.sysfs_files import number_of, reason_of

__all__ = [
    "DRIVER",
    "DRIVERS",
    "RAIL_FDS_VARIABLE",
    "Chip",
    "Ina3221Sensor",
    "find_chips",
    "inherited_descriptors",
    "looked_for",
]

RETRY_NS = 100_000_000  # a chip that is away is looked for this often, not at each failed read
_LENGTH = 32
# Drivers without inN_enable: a channel that is switched off has its files, but no value.
_SWITCHED_OFF = getattr(errno, "ENODATA", -1)
_MEND_PERMISSION = (
    "run with sudo, or in the container, or let a udev rule make the chip's files readable"
)


@dataclass
class _Open:
    """An opened chip.

    Attributes:
        chip: Where it is.
        members: Its channels.
        settings: How it is set.
        named: Rails that nobody gives a label, so that they are named by address.
        refresh: Its rhythm.
        durations_ns: How long the reads at opening took.
        retry_ns: Until then it is not looked for again.
        reopened: How often it came back.
    """

    chip: Chip
    settings: dict[str, Any]
    members: list[int] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    refresh: Refresh | None = None
    durations_ns: list[int] = field(default_factory=list)
    retry_ns: int = 0
    reopened: int = 0


class Ina3221Sensor:
    """All INA3221 and INA238 chips below a sysfs root as one sensor.

    Args:
        sysfs_root: Where sysfs lies; `/sys` but for the simulated board and for tests.
        name: The sensor's name, `ina3221` or `simulated`.
        simulated: Whether the tree is made up.
        drivers: Which drivers' chips are read, of `DRIVERS`.
        clock: CLOCK_MONOTONIC in ns.

    Attributes:
        refresh_ns: The shortest refresh of its chips, None if none is known.

    Raises:
        MeasurementError: No chip, or none of its files can be opened and read.
        UsageError: No such driver.
    """

    def __init__(
        self,
        sysfs_root: str = "/sys",
        name: str = DRIVER,
        *,
        simulated: bool = False,
        drivers: Iterable[str] = DRIVERS,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.name = name
        self.simulated = simulated
        self._root = sysfs_root
        self._clock = clock
        self._files = RailFiles()
        self._channels: list[Channel] = []
        self._descriptors: list[int] = []
        self._of: list[_Open] = []
        self._left_out: list[dict[str, Any]] = []
        self._opened: list[_Open] = []
        drivers = tuple(drivers)
        chips = find_chips(sysfs_root, drivers)
        if not chips:
            raise MeasurementError(*_why_no_chip(sysfs_root, drivers))
        try:
            for chip in chips:
                self._open_chip(chip)
            if not self._channels:
                raise MeasurementError(*self._why_nothing())
        except BaseException:
            self.close()
            raise
        periods = [one.refresh.period_ns for one in self._opened if one.refresh is not None]
        self.refresh_ns = min((period for period in periods if period is not None), default=None)

    def channels(self) -> tuple[Channel, ...]:
        """The channels in sweep order: per rail voltage, then current."""
        return tuple(self._channels)

    def groups(self) -> tuple[Group, ...]:
        """The channels by chip, each with its rhythm."""
        return tuple(
            Group(
                one.chip.address,
                tuple(one.members),
                one.refresh.period_ns,
                one.refresh.blocking,
                one.refresh.safe_ns,
            )
            for one in self._opened
            if one.members and one.refresh is not None
        )

    def descriptors(self) -> tuple[int, ...]:
        """Per channel the open file from which `pread` gives its value; the numbers stay."""
        return tuple(self._descriptors)

    def read(self, index: int) -> int:
        """Return the raw value of a channel now, in its unit.

        A chip that was unbound and bound again is found by its address and all its files are
        opened anew; while it is away it is looked for once in 100 ms.

        Raises:
            OSError: As the file gave it; EBADMSG if it holds no number.
        """
        try:
            return int(os.pread(self._descriptors[index], _LENGTH, 0))
        except ValueError as error:
            raise OSError(errno.EBADMSG, f"no number: {error}") from error
        except OSError as error:
            if error.errno != errno.ENODEV or not self._is_back(index):
                raise
            return number_of(self._descriptors[index])

    def configuration(self) -> dict[str, Any]:
        """Return per chip how it is set and learned, and what was left out and why."""
        chips = {
            one.chip.address: {
                **one.settings,
                "refresh": None if one.refresh is None else one.refresh.to_json(),
                "named_by_address": list(one.named),
                "reopened": one.reopened,
            }
            for one in self._opened
        }
        return {"chips": chips, "left_out": list(self._left_out)}

    def close(self) -> None:
        """Close all descriptors."""
        while self._descriptors:
            with contextlib.suppress(OSError):
                os.close(self._descriptors.pop())

    def _open_chip(self, chip: Chip) -> None:
        supplies = supplies_of(chip, self._files)
        one = _Open(chip, settings_of(chip, supplies, self._files, self._root))
        self._opened.append(one)
        first = len(self._channels)
        for supply in supplies:
            self._open_supply(one, supply)
        one.members = list(range(first, len(self._channels)))
        for _ in range(FEWEST_READS):  # a chip with one channel has been read twice by now
            if one.members and len(one.durations_ns) < FEWEST_READS:
                self._try(one, self._descriptors[one.members[-1]])
        one.refresh = refresh_of(chip, one.settings, supplies, typical_read_ns(one.durations_ns))
        one.settings["samples"] = one.refresh.samples
        averaging = averaging_of(chip, one.refresh)
        if averaging is not None:
            for index in one.members:
                told = {**self._channels[index].to_json(), "averaging": averaging}
                self._channels[index] = Channel(**told)

    def _open_supply(self, one: _Open, supply: Supply) -> None:
        rail = self._rail(one.chip, supply)
        source = supply.voltage.removesuffix("_input")
        if not supply.connected:
            self._leave_out(one.chip, rail, source, "not connected")
            return
        if supply.enabled is False:
            self._leave_out(one.chip, rail, source, "switched off (enable is 0)")
            return
        before = len(self._channels)
        lsb, shunt, step = supply.voltage_lsb, supply.shunt_uohm, supply.current_lsb
        self._open(one, rail, "voltage", "mV", supply.voltage, None, lsb)
        self._open(one, rail, "current", "mA", supply.current, shunt, step)
        if supply.label is None and len(self._channels) > before:
            one.named.append(rail)

    def _rail(self, chip: Chip, supply: Supply) -> str:
        """Return the rail's name: the label, made unlike all others; without one by address."""
        by_address = f"{chip.address}_ch{supply.number}"
        if supply.label is None:
            return by_address
        taken = {channel.rail for channel in self._channels}
        names = (supply.label, f"{supply.label}@{chip.address}", f"{supply.label}@{by_address}")
        return next((name for name in names if name not in taken), by_address)

    def _open(
        self,
        one: _Open,
        rail: str,
        quantity: str,
        unit: str,
        source: str,
        shunt_uohm: int | None,
        lsb: float | None,
    ) -> None:
        chip = one.chip
        try:
            descriptor = self._files.open(chip.directory / source)
        except OSError as error:
            self._leave_out(chip, rail, source, reason_of(error), error.errno)
            return
        failed = self._try(one, descriptor)
        if failed is not None:
            os.close(descriptor)
            off = "switched off: " if failed.errno == _SWITCHED_OFF else ""
            self._leave_out(chip, rail, source, off + reason_of(failed), failed.errno)
            return
        # Anything else may pass (ETIMEDOUT, EIO): it belongs into the trace, not out of it.
        index = len(self._channels)
        self._channels.append(
            Channel(index, rail, quantity, unit, chip.address, source, shunt_uohm, lsb, self.name)
        )
        self._descriptors.append(descriptor)
        self._of.append(one)

    def _try(self, one: _Open, descriptor: int) -> OSError | None:
        """Read a file once, unless the chip is known to be slow; return why it is of no use.

        How long it took is noted, but not of an answer for which the chip was not asked.
        """
        if enough_reads(one.durations_ns):
            return None
        started_ns = self._clock()
        try:
            number_of(descriptor)
        except OSError as error:
            if error.errno == _SWITCHED_OFF or error.errno in NOT_ALLOWED:
                return error
        one.durations_ns.append(self._clock() - started_ns)
        return None

    def _is_back(self, index: int) -> bool:
        """Look for a channel's chip and open its files anew; say whether the channel's is."""
        one, now_ns = self._of[index], self._clock()
        if now_ns < one.retry_ns:
            return False
        one.retry_ns = now_ns + RETRY_NS
        chips = find_chips(self._root, (one.chip.driver,))
        found = next((chip for chip in chips if chip.address == one.chip.address), None)
        if found is None:
            return False
        back = False
        for member in one.members:
            try:
                fresh = self._files.open(found.directory / self._channels[member].source)
            except OSError:
                continue  # on its way out or in: what the kept descriptor says is the better answer
            try:
                os.dup2(fresh, self._descriptors[member], inheritable=False)
            finally:
                os.close(fresh)
            back = back or member == index
        one.chip = found
        one.reopened += back
        return back

    def _leave_out(
        self, chip: Chip, rail: str, source: str, why: str, code: int | None = None
    ) -> None:
        item = {"chip": chip.address, "rail": rail, "source": source, "why": why}
        if code in NOT_ALLOWED:
            item["mend"] = _MEND_PERMISSION
        self._left_out.append(item)

    def _why_nothing(self) -> tuple[str, str]:
        parts = {part.part for one in self._opened for part in layouts_of((one.chip.driver,))}
        reasons = sorted({str(item["why"]) for item in self._left_out})
        mends = sorted({item["mend"] for item in self._left_out if "mend" in item})
        names = " or ".join(sorted(parts, reverse=True))
        why = f"no rail of the {names} can be read ({', '.join(reasons)})"
        files = "see the chip's files in*_input, curr*_input and in*_enable"
        return why, f"its rail files are for root: {mends[0]}" if mends else files


def _why_no_chip(sysfs_root: str, drivers: tuple[str, ...]) -> tuple[str, str]:
    """Return message and mend."""
    layouts = layouts_of(drivers)
    parts = list(dict.fromkeys(layout.part for layout in layouts))
    places = dict.fromkeys(str(Path(sysfs_root, layout.place)) for layout in layouts)
    why = f"no {parts[0]} below {' or '.join(places)}" + "".join(f", no {p}" for p in parts[1:])
    bare = unbound(sysfs_root, drivers)
    if bare:
        chips = ", ".join(f"{address} ({name})" for address, name in bare)
        return f"{why}; without a driver: {chips}", f"load the driver: `modprobe {bare[0][1]}`"
    return why, "on a Jetson see that the driver is there (`lsmod`, `dmesg | grep ina`)"
