"""Where Linux shows the INA3221 and INA238 in sysfs, and what their files are called.

    driver   chip     directory                      files of a supply
    ina3221  INA3221  class/hwmon/hwmon<n>           in1_label in1_input curr1_input
    ina238   INA238   class/hwmon/hwmon<n>           in1_input curr1_input
    ina3221x INA3221  bus/iio/devices/iio:device<n>  rail_name_0 in_voltage0_input in_current0_input

`ina3221x` is the driver of JetPack 4; it counts from 0.

Sources: Linux drivers/hwmon/ina3221.c and ina238.c with Documentation/hwmon/*.rst; NVIDIA's
drivers/staging/iio/meter/ina3221.c of Linux 4.9. All show mV and mA; iio and the INA238 also show
power, which is left: voltage and current say more, and are what the chip measured.

The numbers <n> change from boot to boot, so a chip is known by its address (`1-0040`), and it is
found by the driver's name in its directory, wherever that is linked from.

Not supplies, and not read: `in4`..`in7` and `curr4` of the INA3221 (shunt voltages and the sums of
the channels) and `in0` of the INA238 (shunt voltage).

Standard library only; nothing is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgejoule.errors import UsageError
from edgejoule.power.ina_files import RailFiles
from edgejoule.power.sysfs_files import names_in, text_of

DRIVER = "ina3221"
DRIVERS = (DRIVER, "ina3221x", "ina238")
# Registers count 8 mV and 40 uV (TI SBOS576, registers 01h to 06h), 3.125 mV (TI SLYS026, 05h).
BUS_LSB_MV = 8.0
SHUNT_LSB_UV = 40.0
_INA238_BUS_LSB_MV = 3.125
_ADDRESS = re.compile(r"^(\d+)-([0-9a-fA-F]{4})$")
_NO_LABEL = frozenset({"(null)"})  # the iio driver prints a missing name as C does


@dataclass(frozen=True)
class Layout:
    """What one driver's files are called; `{n}` is the supply's number.

    Attributes:
        driver: What `name` says.
        part: The chip, for people.
        place: Where its directories are listed, below the root.
        below: The directory below that of the I2C device, up to its number.
        first: Number of the first supply.
        count: How many supplies there can be.
        labels: Files with the supply's name, the first that says something is taken.
        voltage: File with mV.
        current: File with mA.
        power: File with the chip's or the driver's own product.
        voltage_lsb: Step of the voltage, mV.
    """

    driver: str
    part: str
    place: str
    below: str
    first: int
    count: int
    labels: tuple[str, ...]
    voltage: str
    current: str
    power: str
    voltage_lsb: float


LAYOUTS = {
    layout.driver: layout
    for layout in (
        Layout(
            DRIVER,
            "INA3221",
            "class/hwmon",
            "hwmon/hwmon",
            1,
            3,
            ("in{n}_label",),
            "in{n}_input",
            "curr{n}_input",
            "",
            BUS_LSB_MV,
        ),
        Layout(
            "ina3221x",
            "INA3221",
            "bus/iio/devices",
            "iio:device",
            0,
            3,
            ("rail_name_{n}",),
            "in_voltage{n}_input",
            "in_current{n}_input",
            "in_power{n}_input",
            BUS_LSB_MV,
        ),
        Layout(
            "ina238",
            "INA238",
            "class/hwmon",
            "hwmon/hwmon",
            1,
            1,
            # The driver has no label; `label` is the device tree's, shown by hwmon since 5.18.
            ("in{n}_label", "curr{n}_label", "power{n}_label", "label"),
            "in{n}_input",
            "curr{n}_input",
            "power{n}_input",
            _INA238_BUS_LSB_MV,
        ),
    )
}


@dataclass(frozen=True)
class Chip:
    """One power monitor: its directory, its address (`1-0040`), the name of its driver."""

    directory: Path
    address: str
    driver: str = DRIVER


@dataclass(frozen=True)
class Supply:
    """One input of a chip.

    Attributes:
        number: 1, 2, 3, as on the chip.
        label: What the board's makers call it, None if nobody says.
        enabled: Whether the driver says that it is switched on, None if it says nothing.
        shunt_uohm: Its shunt, None if not known.
        voltage: File with mV.
        current: File with mA.
        voltage_lsb: Step of the voltage, mV.
        current_lsb: Step of the current, mA, None if not known.
        power: File with power, empty if there is none.
    """

    number: int
    label: str | None
    enabled: bool | None
    shunt_uohm: int | None
    voltage: str
    current: str
    voltage_lsb: float
    current_lsb: float | None
    power: str = ""

    @property
    def connected(self) -> bool:
        """Whether its label does not say NC, not connected."""
        return "NC" not in re.split(r"[^A-Za-z0-9]+", self.label or "")


def find_chips(sysfs_root: str = "/sys", drivers: Iterable[str] = (DRIVER,)) -> tuple[Chip, ...]:
    """Return the chips of this machine, by address.

    Args:
        sysfs_root: Where sysfs lies.
        drivers: Which drivers' chips, of `DRIVERS`.

    Raises:
        UsageError: No such driver.
    """
    found: dict[str, Chip] = {}
    for layout in layouts_of(drivers):
        for directory in _directories(Path(sysfs_root), layout):
            if text_of(directory / "name") == layout.driver:
                chip = Chip(directory, _address(directory), layout.driver)
                found.setdefault(os.path.realpath(directory), chip)
    return tuple(sorted(found.values(), key=_order))


def layouts_of(drivers: Iterable[str]) -> tuple[Layout, ...]:
    """Return the layouts of some drivers, each once.

    Raises:
        UsageError: No such driver.
    """
    names = tuple(dict.fromkeys(drivers))
    for name in names:
        if name not in LAYOUTS:
            known = ", ".join(LAYOUTS)
            raise UsageError(f"unknown driver {name!r} of a power monitor", f"known are {known}")
    return tuple(LAYOUTS[name] for name in names)


def supplies_of(chip: Chip, files: RailFiles) -> tuple[Supply, ...]:
    """Return a chip's inputs as its files say, whether they are in use or not."""
    layout = LAYOUTS[chip.driver]
    found = []
    for number in range(layout.first, layout.first + layout.count):
        enable = files.integer(chip.directory / f"in{number}_enable")
        shunt_uohm = _shunt_uohm(chip, number, files)
        step = None
        if layout.part == "INA3221" and shunt_uohm is not None and shunt_uohm > 0:
            step = SHUNT_LSB_UV * 1000.0 / shunt_uohm  # uV / uOhm = A
        # The INA238's: the driver counts in a step of its own choice, which versions differ in.
        found.append(
            Supply(
                number - layout.first + 1,
                _label(chip, layout, number, files),
                None if enable is None else enable != 0,
                shunt_uohm,
                layout.voltage.format(n=number),
                layout.current.format(n=number),
                layout.voltage_lsb,
                step,
                layout.power.format(n=number),
            )
        )
    return tuple(found)


def looked_for(sysfs_root: str = "/sys", drivers: Iterable[str] = DRIVERS) -> list[str]:
    """Return what is looked for and where, and what there is instead, one line each."""
    layouts = layouts_of(drivers)
    root = Path(sysfs_root)
    lines = []
    for place in dict.fromkeys(layout.place for layout in layouts):
        wanted = " or ".join(layout.driver for layout in layouts if layout.place == place)
        names = [text_of(root / place / name / "name") for name in names_in(root / place)]
        there = ", ".join(sorted({name for name in names if name})) or "nothing"
        lines.append(f"{wanted} in {root / place}/*/name (there: {there})")
    wanted = " or ".join(dict.fromkeys(layout.driver for layout in layouts))
    devices = root / "bus/i2c/devices"
    there = ", ".join(f"{name} {address}" for address, name in unbound(sysfs_root, drivers))
    lines.append(f"{wanted} in {devices}/*/name without a driver (there: {there or 'none'})")
    return lines


def unbound(sysfs_root: str, drivers: Iterable[str]) -> list[tuple[str, str]]:
    """Return address and name of the I2C devices that are such a chip and have no driver."""
    devices = Path(sysfs_root, "bus/i2c/devices")
    wanted = {layout.driver for layout in layouts_of(drivers)}
    found = []
    for address in names_in(devices):
        name = text_of(devices / address / "name")
        if name in wanted and not (devices / address / "driver").exists():
            found.append((address, name))
    return found


def device_tree_number(chip: Chip, name: str) -> int | None:
    """Return a 32-bit property of the chip's node in the device tree.

    None as well where /sys/firmware is masked, as Docker does.
    """
    node = device_tree_node(chip)
    return None if node is None else _cell(node / name)


def _directories(root: Path, layout: Layout) -> list[Path]:
    """Return where a layout's chips can be, also where the class does not list them."""
    found = [root / layout.place / name for name in names_in(root / layout.place)]
    parent, _, prefix = layout.below.rpartition("/")
    for bus in (root / "bus/i2c/devices", root / "bus/i2c/drivers" / layout.driver):
        for device in names_in(bus):
            below = bus / device / parent
            found += [below / name for name in names_in(below) if name.startswith(prefix)]
    return found


def _address(directory: Path) -> str:
    """Return a chip's I2C address from the `device` link, or from where the chip really lies."""
    places = [Path(os.path.realpath(directory / "device")), Path(os.path.realpath(directory))]
    for place in places:
        for part in reversed(place.parts):
            if _ADDRESS.match(part):
                return part
    return directory.name


def _order(chip: Chip) -> tuple[int, int, str]:
    found = _ADDRESS.match(chip.address)
    if found is None:
        return 1 << 32, 0, chip.address
    return int(found[1]), int(found[2], 16), chip.address


def _label(chip: Chip, layout: Layout, number: int, files: RailFiles) -> str | None:
    for template in layout.labels:
        label = files.text(chip.directory / template.format(n=number))
        if label is not None and label not in _NO_LABEL:
            return label
    return None


def _shunt_uohm(chip: Chip, number: int, files: RailFiles) -> int | None:
    """Return the shunt from the driver's file, or from the device tree where it has none."""
    if chip.driver == DRIVER:
        return files.integer(chip.directory / f"shunt{number}_resistor")
    if chip.driver == "ina238":
        shown = files.integer(chip.directory / "shunt_resistor")
        return device_tree_number(chip, "shunt-resistor") if shown is None else shown
    node = device_tree_node(chip)
    for child in names_in(node) if node is not None else ():
        if node is not None and _cell(node / child / "reg") == number:
            mohm = _cell(node / child / "ti,shunt-resistor-mohm")
            return None if mohm is None else mohm * 1000
    return None


def device_tree_node(chip: Chip) -> Path | None:
    """Return the chip's node in the device tree."""
    real = Path(os.path.realpath(chip.directory))
    places = (chip.directory, chip.directory / "device", real.parent, real.parent.parent)
    return next((at / "of_node" for at in places if (at / "of_node").is_dir()), None)


def _cell(path: Path) -> int | None:
    """Return a number of the device tree: four bytes, the highest first."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return int.from_bytes(data, "big") if len(data) == 4 else None
