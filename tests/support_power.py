"""Sysfs trees as the Linux ina3221 driver lays them out, and rows of reads, for tests."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

SAMPLE = np.dtype(
    [("t0_ns", "<i8"), ("t1_ns", "<i8"), ("raw", "<i8"), ("channel", "<i4"), ("errno", "<i4")]
)


def make_chip(
    root: Path,
    address: str,
    labels: Sequence[str | None],
    *,
    hwmon: int = 0,
    shunt_uohm: int | None = 5000,
    device_link: bool = True,
    enabled: Sequence[int] = (1, 1, 1),
    update_interval: int | None = 7,
) -> Path:
    """Make one chip; channel n reads 5000 + n mV and 100 * n mA. Return its directory."""
    chip = root / "devices" / "platform" / f"i2c-{address[0]}" / address
    directory = chip / "hwmon" / f"hwmon{hwmon}"
    directory.mkdir(parents=True)
    (directory / "name").write_text("ina3221\n")
    (directory / "samples").write_text("1\n")
    if update_interval is not None:
        (directory / "update_interval").write_text(f"{update_interval}\n")
    for number, label in enumerate(labels, 1):
        if label is not None:
            (directory / f"in{number}_label").write_text(f"{label}\n")
        (directory / f"in{number}_enable").write_text(f"{enabled[number - 1]}\n")
        (directory / f"in{number}_input").write_text(f"{5000 + number}\n")
        (directory / f"curr{number}_input").write_text(f"{100 * number}\n")
        (directory / f"in{number + 3}_input").write_text("4000\n")  # a shunt voltage, uV
        if shunt_uohm is not None:
            (directory / f"shunt{number}_resistor").write_text(f"{shunt_uohm}\n")
    (directory / "in7_label").write_text("sum of shunt voltages\n")
    (directory / "in7_input").write_text("12000\n")
    (directory / "curr4_input").write_text("600\n")
    if device_link:
        (directory / "device").symlink_to(os.path.relpath(chip, directory))
    classes = root / "class" / "hwmon"
    classes.mkdir(parents=True, exist_ok=True)
    (classes / f"hwmon{hwmon}").symlink_to(os.path.relpath(directory, classes))
    return directory


def orin_nx(root: Path) -> Path:
    """Make the tree of an Orin NX."""
    return make_chip(root, "1-0040", ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"))


@contextlib.contextmanager
def without_privilege() -> Iterator[None]:
    """Be nobody for a while if the tests run as root, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def gone_within(pids: Sequence[int], seconds: float) -> bool:
    """Whether none of the processes runs any more (a zombie does not run)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(_runs(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def voltage_and_current(rail: str = "VDD_IN", first: int = 0) -> list[dict[str, object]]:
    """Return the channel table of one rail."""
    return [
        {"index": first, "rail": rail, "quantity": "voltage", "unit": "mV"},
        {"index": first + 1, "rail": rail, "quantity": "current", "unit": "mA"},
    ]
