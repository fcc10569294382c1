"""Sysfs trees as the Linux drivers of power monitors lay them out, and rows of reads, for tests."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

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


def make_iio_chip(
    root: Path,
    address: str,
    labels: Sequence[str | None],
    *,
    device: int = 0,
    shunts_mohm: Sequence[int | None] = (5, 5, 5),
    continuous_config: int | None = 0x7C07,
    running_mode: int = 1,
) -> Path:
    """Make one chip as NVIDIA's iio driver of Linux 4.9 shows it; channel n as with `make_chip`.

    A label of None is printed as the driver prints it, `(null)`. Return its directory.
    """
    chip = root / "devices" / "platform" / f"i2c-{address[0]}" / address
    directory = chip / f"iio:device{device}"
    directory.mkdir(parents=True)
    for place in (chip, directory):
        (place / "name").write_text("ina3221x\n")
    (directory / "running_mode").write_text(f"{running_mode}\n")
    node = root / "firmware" / "devicetree" / "base" / f"ina3221x@{address[-2:]}"
    node.mkdir(parents=True)
    if continuous_config is not None:
        (node / "ti,continuous-config").write_bytes(continuous_config.to_bytes(4, "big"))
    for number, label in enumerate(labels):
        (directory / f"rail_name_{number}").write_text(f"{label or '(null)'}\n")
        (directory / f"in_voltage{number}_input").write_text(f"{5001 + number}\n")
        (directory / f"in_current{number}_input").write_text(f"{100 * (number + 1)}\n")
        (directory / f"in_current{number}_trigger_input").write_text("0\n")
        (directory / f"in_power{number}_input").write_text("500\n")
        channel = node / f"channel@{number}"
        channel.mkdir()
        (channel / "reg").write_bytes(number.to_bytes(4, "big"))
        mohm = shunts_mohm[number]
        if mohm is not None:
            (channel / "ti,shunt-resistor-mohm").write_bytes(mohm.to_bytes(4, "big"))
    (directory / "of_node").symlink_to(os.path.relpath(node, directory))
    _list_at(root / "bus" / "iio" / "devices", directory)
    _list_at(root / "bus" / "i2c" / "devices", chip)
    return directory


def make_ina238(
    root: Path,
    address: str,
    *,
    hwmon: int = 0,
    label: str | None = None,
    label_file: str = "in1_label",
    shunt_uohm: int | None = None,
) -> Path:
    """Make one INA238 at 19 V and 2.5 A. Return its directory."""
    chip = root / "devices" / "platform" / f"i2c-{address[0]}" / address
    directory = chip / "hwmon" / f"hwmon{hwmon}"
    directory.mkdir(parents=True)
    files = {
        "name": "ina238",
        "in0_input": "2",
        "in1_input": "19000",
        "curr1_input": "2500",
        "power1_input": "47500000",
        "temp1_input": "41000",
    }
    if label is not None:
        files[label_file] = label
    for name, text in files.items():
        (directory / name).write_text(f"{text}\n")
    if shunt_uohm is not None:
        node = root / "firmware" / "devicetree" / "base" / f"ina238@{address[-2:]}"
        node.mkdir(parents=True)
        (node / "shunt-resistor").write_bytes(shunt_uohm.to_bytes(4, "big"))
        (chip / "of_node").symlink_to(os.path.relpath(node, chip))
    (directory / "device").symlink_to(os.path.relpath(chip, directory))
    _list_at(root / "class" / "hwmon", directory)
    return directory


def _list_at(folder: Path, directory: Path) -> None:
    """Link a directory as a class or bus lists it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / directory.name).symlink_to(os.path.relpath(directory, folder))


def orin_nx(root: Path) -> Path:
    """Make the tree of an Orin NX."""
    return make_chip(root, "1-0040", ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"))


class FakeReads:
    """Stands in for `os.pread`: files that fail, files that take time on a clock of their own.

    A regular file cannot answer ENODATA or ENODEV as a driver does.

    Attributes:
        now_ns: What `clock` says.
        takes_ns: How long a read takes.
        reads: How many values were read.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, takes_ns: int = 0) -> None:
        self.now_ns = 1_000_000_000
        self.takes_ns = takes_ns
        self.reads = 0
        self._fails: dict[int, int] = {}
        self._real = os.pread
        monkeypatch.setattr(os, "pread", self._pread)

    def clock(self) -> int:
        """Return the fake time."""
        return self.now_ns

    def fail(self, path: Path, code: int) -> None:
        """Let reads of a file fail from now on."""
        self._fails[path.stat().st_ino] = code

    def fail_all(self, directory: Path, code: int) -> None:
        """Let reads of all files of a chip fail, as after it was unbound."""
        for path in directory.glob("*_input"):
            self.fail(path, code)

    def mend(self, path: Path) -> None:
        """Let a file be read again."""
        del self._fails[path.stat().st_ino]

    def _pread(self, descriptor: int, size: int, offset: int) -> bytes:
        if size <= 32:  # a value, no label or setting
            self.reads += 1
            self.now_ns += self.takes_ns
        code = self._fails.get(os.fstat(descriptor).st_ino)
        if code is not None:
            raise OSError(code, os.strerror(code))
        return self._real(descriptor, size, offset)


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
