"""The INA3221 reader on trees as the Linux driver lays them out."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgejoule.errors import MeasurementError
from edgejoule.power import ina3221
from edgejoule.power.ina3221 import (
    RAIL_FDS_VARIABLE,
    Ina3221Sensor,
    find_chips,
    inherited_descriptors,
    refresh_ns,
)
from tests.support_power import make_chip, orin_nx, without_privilege


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that nobody can enter, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_rails_by_label_in_sweep_order(tmp_path: Path) -> None:
    orin_nx(tmp_path)
    sensor = Ina3221Sensor(str(tmp_path))
    channels = sensor.channels()
    assert [(c.rail, c.quantity, c.unit, c.source) for c in channels[:4]] == [
        ("VDD_IN", "voltage", "mV", "in1_input"),
        ("VDD_IN", "current", "mA", "curr1_input"),
        ("VDD_CPU_GPU_CV", "voltage", "mV", "in2_input"),
        ("VDD_CPU_GPU_CV", "current", "mA", "curr2_input"),
    ]
    assert [c.index for c in channels] == list(range(6))  # in4..in7 and curr4 are no supplies
    assert {c.chip for c in channels} == {"1-0040"}
    assert [sensor.read(c.index) for c in channels] == [5001, 100, 5002, 200, 5003, 300]
    assert sensor.refresh_ns == 7_000_000
    assert (sensor.name, sensor.simulated) == ("ina3221", False)
    sensor.close()
    sensor.close()


def test_steps_follow_from_the_shunt(tmp_path: Path) -> None:
    make_chip(tmp_path, "1-0040", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), shunt_uohm=2000)
    voltage, current, *_ = Ina3221Sensor(str(tmp_path)).channels()
    assert (voltage.lsb, voltage.shunt_uohm) == (8.0, None)
    assert (current.lsb, current.shunt_uohm) == (20.0, 2000)  # 40 uV over 2 mOhm


def test_without_a_shunt_the_step_is_not_known(tmp_path: Path) -> None:
    make_chip(tmp_path, "1-0040", ("A", "B", "C"), shunt_uohm=None)
    assert Ina3221Sensor(str(tmp_path)).channels()[1].lsb is None


def test_a_kept_descriptor_reads_current_and_negative_values(tmp_path: Path) -> None:
    directory = orin_nx(tmp_path)
    sensor = Ina3221Sensor(str(tmp_path))
    (directory / "curr1_input").write_text("-80\n")
    assert sensor.read(1) == -80


@pytest.mark.parametrize("device_link", [True, False])
def test_a_chip_is_known_by_its_address_not_its_hwmon_number(
    tmp_path: Path, device_link: bool
) -> None:
    make_chip(tmp_path, "1-0041", ("B1", "B2", "B3"), hwmon=0, device_link=device_link)
    make_chip(tmp_path, "1-0040", ("A1", "A2", "A3"), hwmon=5, device_link=device_link)
    assert [chip.address for chip in find_chips(str(tmp_path))] == ["1-0040", "1-0041"]


def test_a_chip_without_any_address_goes_by_its_hwmon_name(tmp_path: Path) -> None:
    directory = tmp_path / "class" / "hwmon" / "hwmon3"
    directory.mkdir(parents=True)
    (directory / "name").write_text("ina3221\n")
    assert [chip.address for chip in find_chips(str(tmp_path))] == ["hwmon3"]


def test_agx_orin_leaves_out_what_is_not_connected_or_switched_off(tmp_path: Path) -> None:
    make_chip(tmp_path, "1-0040", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), shunt_uohm=2000)
    make_chip(tmp_path, "1-0041", ("NC", "VDDQ_VDD2_1V8AO", None), hwmon=1, enabled=(0, 1, 0))
    other = tmp_path / "class" / "hwmon" / "hwmon2"
    other.mkdir()
    (other / "name").write_text("nvme\n")
    sensor = Ina3221Sensor(str(tmp_path))
    rails = list(dict.fromkeys(c.rail for c in sensor.channels()))
    assert rails == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"]
    configuration = sensor.configuration()
    assert [item["rail"] for item in configuration["left_out"]] == ["NC", "1-0041_ch3"]
    assert configuration["chips"]["1-0041"]["enabled"] == {"ch1": 0, "ch2": 1, "ch3": 0}
    assert json.dumps(configuration)


def test_a_missing_label_and_a_label_twice(tmp_path: Path) -> None:
    make_chip(tmp_path, "1-0040", (None, "VDD", "VDD_X"))
    make_chip(tmp_path, "1-0041", (None, "VDD", "VDD_Y"), hwmon=1)
    rails = list(dict.fromkeys(c.rail for c in Ina3221Sensor(str(tmp_path)).channels()))
    assert rails == ["1-0040_ch1", "VDD", "VDD_X", "1-0041_ch1", "VDD@1-0041", "VDD_Y"]


def test_a_channel_without_a_value_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A regular file cannot answer ENODATA as the driver does: the system call is stood in for.
    directory = orin_nx(tmp_path)
    real = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if os.path.samestat(os.fstat(descriptor), (directory / "in2_input").stat()):
            raise OSError(errno.ENODATA, "No data available")
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    sensor = Ina3221Sensor(str(tmp_path))
    assert "in2_input" not in [c.source for c in sensor.channels()]
    assert sensor.configuration()["left_out"] == [
        {
            "chip": "1-0040",
            "rail": "VDD_CPU_GPU_CV",
            "source": "in2_input",
            "why": "No data available (ENODATA)",
        }
    ]


def test_a_rebound_chip_is_found_again_under_another_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orin_nx(tmp_path)
    sensor = Ina3221Sensor(str(tmp_path))
    dead = {os.fstat(fd).st_ino for fd in sensor._descriptors}
    real = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino in dead:
            raise OSError(errno.ENODEV, "No such device")
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    (tmp_path / "class" / "hwmon" / "hwmon0").unlink()
    with pytest.raises(OSError, match="No such device"):
        sensor.read(0)
    (tmp_path / "devices").rename(tmp_path / "gone")
    directory = make_chip(tmp_path, "1-0040", ("VDD_IN", "B", "C"), hwmon=4)
    assert sensor.read(0) == 5001
    (directory / "in1_input").write_text("4321\n")
    assert sensor.read(0) == 4321
    (directory / "curr1_input").unlink()
    with pytest.raises(OSError, match="No such device"):
        sensor.read(1)


@pytest.mark.parametrize("text", ["", "abc\n"])
def test_no_number_is_an_error_of_the_read(tmp_path: Path, text: str) -> None:
    directory = orin_nx(tmp_path)
    sensor = Ina3221Sensor(str(tmp_path))
    (directory / "in1_input").write_text(text)
    with pytest.raises(OSError, match="no number") as caught:
        sensor.read(0)
    assert caught.value.errno == errno.EBADMSG


def test_no_chip_and_no_rail_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"no INA3221 below .*hwmon"):
        Ina3221Sensor(str(tmp_path))
    make_chip(tmp_path, "1-0040", ("A", "B", "C"), enabled=(0, 0, 0))
    with pytest.raises(MeasurementError, match="switched off"):
        Ina3221Sensor(str(tmp_path))


def test_root_only_files_come_as_open_descriptors(
    public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = orin_nx(public)
    files = [directory / f"{kind}{n}_input" for n in (1, 2, 3) for kind in ("in", "curr")]
    through_class = {str(public / "class" / "hwmon" / "hwmon0" / f.name): f for f in files}
    descriptors = {path: os.open(file, os.O_RDONLY) for path, file in through_class.items()}
    for file in files:
        file.chmod(0)
    with without_privilege():
        with pytest.raises(MeasurementError, match="sudo"):
            Ina3221Sensor(str(public))
        monkeypatch.setenv(RAIL_FDS_VARIABLE, json.dumps(descriptors))
        assert set(inherited_descriptors()) == {os.path.realpath(file) for file in files}
        sensor = Ina3221Sensor(str(public))
        assert sensor.read(2) == 5002
        sensor.close()
        assert os.pread(descriptors[next(iter(descriptors))], 32, 0)  # closing leaves them open
    for descriptor in descriptors.values():
        os.close(descriptor)


def test_descriptors_that_are_not_those_files_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = orin_nx(tmp_path)
    right, other = directory / "in1_input", directory / "in2_input"
    with right.open() as file:
        named = {str(right): file.fileno(), str(other): file.fileno(), str(tmp_path / "no"): 0}
        monkeypatch.setenv(RAIL_FDS_VARIABLE, json.dumps({**named, "x": "y", "z": 9999}))
        assert inherited_descriptors() == {os.path.realpath(right): file.fileno()}
    for text in ("", "{", "[1]"):
        monkeypatch.setenv(RAIL_FDS_VARIABLE, text)
        assert inherited_descriptors() == {}


def test_refresh_period() -> None:
    assert refresh_ns(None) is None
    assert refresh_ns(0) == 1_000_000
    assert refresh_ns(13) == 13_000_000


def test_the_fastest_chip_sets_the_refresh(tmp_path: Path) -> None:
    make_chip(tmp_path, "1-0040", ("A", "B", "C"), update_interval=13)
    make_chip(tmp_path, "1-0041", ("D", "E", "F"), hwmon=1, update_interval=3)
    make_chip(tmp_path, "1-0042", ("G", "H", "I"), hwmon=2, update_interval=None)
    assert Ina3221Sensor(str(tmp_path)).refresh_ns == 3_000_000


def test_a_damaged_constant_is_not_known(tmp_path: Path) -> None:
    directory = orin_nx(tmp_path)
    (directory / "update_interval").write_text("soon\n")
    (directory / "samples").write_bytes(b"\xff\n")
    sensor = Ina3221Sensor(str(tmp_path))
    assert sensor.refresh_ns is None
    chip = sensor.configuration()["chips"]["1-0040"]
    assert (chip["update_interval_ms"], chip["samples"]) == (None, None)
    assert chip["directory"] == "devices/platform/i2c-1/1-0040/hwmon/hwmon0"
    assert ina3221.DRIVER == "ina3221"
