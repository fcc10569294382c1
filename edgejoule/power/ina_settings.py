"""How a power monitor is set, and what rhythm follows from it.

Standard library only; nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from edgejoule.power.ina_files import RailFiles
from edgejoule.power.ina_layouts import Chip, Supply, device_tree_node, device_tree_number
from edgejoule.power.ina_refresh import (
    Refresh,
    learn_ina238,
    learn_refresh,
    refresh_of_register,
)


def settings_of(
    chip: Chip, supplies: Sequence[Supply], files: RailFiles, sysfs_root: str
) -> dict[str, Any]:
    """Return how a chip is set, as plain values; None is what its driver does not show.

    `running_mode` is NVIDIA's iio driver's (1 continuous, 0 a conversion at each read);
    `power_files` are there and not read. The configuration register, which the kernel shows to
    root in debugfs, is not asked for: reading it there clears the chip's alert flags.
    """
    directory, root = os.path.realpath(chip.directory), os.path.realpath(sysfs_root)
    switched = {one.number: None if one.enabled is None else int(one.enabled) for one in supplies}
    return {
        "driver": chip.driver,
        "directory": os.path.relpath(directory, root),
        "update_interval_ms": files.integer(chip.directory / "update_interval"),
        "samples": files.integer(chip.directory / "samples"),
        "enabled": {f"ch{number}": on for number, on in switched.items()},
        "shunt_uohm": {f"ch{one.number}": one.shunt_uohm for one in supplies},
        "power_files": [
            one.power for one in supplies if one.power and (chip.directory / one.power).exists()
        ],
        "running_mode": files.integer(chip.directory / "running_mode"),
        "single_shot": _single_shot(chip),
    }


def refresh_of(
    chip: Chip, settings: Mapping[str, Any], supplies: Sequence[Supply], read_ns: int | None
) -> Refresh:
    """Learn a chip's rhythm from how it is set and from how long a read takes."""
    interval, samples = settings["update_interval_ms"], settings["samples"]
    if chip.driver == "ina238":
        return learn_ina238(interval, samples, read_ns)
    if chip.driver == "ina3221x":
        return _of_iio(chip, settings["running_mode"], read_ns)
    enabled = [supply.enabled for supply in supplies]
    count = None if None in enabled else sum(map(bool, enabled))
    single_shot = settings["single_shot"]
    return learn_refresh(interval, samples, count, read_ns, single_shot=single_shot)


def averaging_of(chip: Chip, refresh: Refresh) -> str | None:
    """Return what one reading is where the chip averages, None where it does not."""
    if refresh.samples is None or refresh.samples <= 1:
        return None
    kind = "mean" if chip.driver == "ina238" else "running mean"
    return f"{kind} of {refresh.samples} conversions"


def _of_iio(chip: Chip, running_mode: int | None, read_ns: int | None) -> Refresh:
    """Learn the rhythm under NVIDIA's iio driver: what it was told stands in the device tree."""
    if running_mode == 0:
        how = "running_mode 0: each read starts a conversion and waits for it"
        return Refresh(None, (), None, True, None, read_ns, how)
    register = device_tree_number(chip, "ti,continuous-config")
    if register is None:
        how = (
            "the iio driver shows no rhythm, and ti,continuous-config of the device tree is not "
            "to be seen (a container masks /sys/firmware)"
        )
        return Refresh(None, (), None, False, None, read_ns, how)
    return refresh_of_register(register & 0xFFFF, read_ns)


def _single_shot(chip: Chip) -> bool:
    node = device_tree_node(chip)
    return node is not None and (node / "ti,single-shot").exists()
