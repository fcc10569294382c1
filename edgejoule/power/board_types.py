"""What the table of boards is made of: boards, chips, rails, totals. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rail:
    """One measured supply.

    Attributes:
        label: Its name in the device tree.
        parent: The rail that feeds it, if that is measured too.
        shunt_uohm: Shunt in micro-ohms, None where no source names one.
        also: Other names of the same rail (other kernels, tegrastats).
        optional: Not on every variant or carrier: its absence says nothing.
        note: What is uncertain, for users.
    """

    label: str
    parent: str | None = None
    shunt_uohm: int | None = None
    also: tuple[str, ...] = ()
    optional: bool = False
    note: str = ""


@dataclass(frozen=True)
class BoardChip:
    """One power monitor.

    Attributes:
        address: I2C address as sysfs writes it after the bus (`0040`); None: not known.
        rails: Its channels in order, None where nothing is connected.
        driver: `ina3221` or `ina238`.
        bus: Bus number that somebody has seen, a hint for people only.
    """

    address: str | None
    rails: tuple[Rail | None, ...]
    driver: str = "ina3221"
    bus: str = ""


@dataclass(frozen=True)
class TotalRule:
    """Rails that are added up to a total; the fields are those of `edgejoule.power.sensor.Total`.

    Attributes:
        rails: Labels; none of them lies inside another.
        contains: What the sum covers.
        excludes: What it does not.
        source: Where this is from.
        note: What users should know, said wherever this rule is used.
    """

    rails: tuple[str, ...]
    contains: str
    excludes: str
    source: str
    note: str = ""


@dataclass(frozen=True)
class Board:
    """One kind of board.

    Attributes:
        name: As users see it.
        soc: The chip (`tegra234`).
        parts: Starts of the part numbers in the device tree's `compatible` (`p3767-0003`).
        words: Words that its device tree's `model` (or soc0's `machine`) has, lower case.
        chips: Its power monitors.
        totals: The total, best first; a later rule holds where an earlier one's chip is missing.
        sources: Where chips and rails are from.
        notes: What is uncertain, for users.
    """

    name: str
    soc: str
    parts: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    chips: tuple[BoardChip, ...]
    totals: tuple[TotalRule, ...]
    sources: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def rails(self) -> tuple[Rail, ...]:
        """All rails, chip by chip."""
        return tuple(rail for chip in self.chips for rail in chip.rails if rail is not None)
