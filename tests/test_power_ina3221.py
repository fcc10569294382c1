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
)
from tests.support_power import FakeReads, make_chip, orin_nx, without_privilege


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
    assert sensor.refresh_ns == 6_600_000  # 3 x (1.1 + 1.1) ms, shown as 7
    assert {c.sensor for c in channels} == {"ina3221"}
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
    directory = orin_nx(tmp_path)
    FakeReads(monkeypatch).fail(directory / "in2_input", errno.ENODATA)
    sensor = Ina3221Sensor(str(tmp_path))
    assert "in2_input" not in [c.source for c in sensor.channels()]
    assert sensor.configuration()["left_out"] == [
        {
            "chip": "1-0040",
            "rail": "VDD_CPU_GPU_CV",
            "source": "in2_input",
            "why": "switched off: No data available (ENODATA)",
        }
    ]


def test_a_channel_switched_off_later_stays_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = orin_nx(tmp_path)
    fake = FakeReads(monkeypatch)
    sensor = Ina3221Sensor(str(tmp_path))
    fake.fail(directory / "in2_input", errno.ENODATA)
    with pytest.raises(OSError, match="No data") as caught:
        sensor.read(2)
    assert caught.value.errno == errno.ENODATA
    assert [sensor.read(index) for index in (0, 1, 3, 4, 5)] == [5001, 100, 200, 5003, 300]
    fake.mend(directory / "in2_input")
    assert sensor.read(2) == 5002


@pytest.mark.parametrize("code", [errno.ETIMEDOUT, errno.EIO, errno.EAGAIN, errno.ENODEV])
def test_what_may_pass_is_kept_and_told_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    directory = orin_nx(tmp_path)
    fake = FakeReads(monkeypatch)
    fake.fail(directory / "curr1_input", code)
    sensor = Ina3221Sensor(str(tmp_path), clock=fake.clock)
    assert len(sensor.channels()) == 6
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        sensor.read(1)
    assert caught.value.errno == code
    fake.mend(directory / "curr1_input")
    assert sensor.read(1) == 100


def test_a_rebound_chip_is_found_again_under_another_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = orin_nx(tmp_path)
    make_chip(tmp_path, "1-0041", ("X", "Y", "Z"), hwmon=1)
    fake = FakeReads(monkeypatch)
    sensor = Ina3221Sensor(str(tmp_path), clock=fake.clock)
    numbers = sensor.descriptors()
    fake.fail_all(old, errno.ENODEV)
    (tmp_path / "class" / "hwmon" / "hwmon0").unlink()
    with pytest.raises(OSError, match="No such device"):
        sensor.read(0)
    assert sensor.read(6) == 5001  # the other chip does not mind
    (tmp_path / "devices" / "platform" / "i2c-1" / "1-0040").rename(tmp_path / "gone")
    new = make_chip(tmp_path, "1-0040", ("VDD_IN", "B", "C"), hwmon=4)
    (new / "in1_input").write_text("4321\n")
    with pytest.raises(OSError, match="No such device"):
        sensor.read(0)  # within 100 ms it is not looked for again
    fake.now_ns += 100_000_000
    assert sensor.read(3) == 200
    # All files of the chip came back at once, under the same numbers.
    assert [sensor.read(index) for index in range(6)] == [4321, 100, 5002, 200, 5003, 300]
    assert sensor.descriptors() == numbers
    assert os.pread(numbers[0], 32, 0) == b"4321\n"
    assert not os.get_inheritable(numbers[0])
    chips = sensor.configuration()["chips"]
    assert (chips["1-0040"]["reopened"], chips["1-0041"]["reopened"]) == (1, 0)
    fake.fail_all(new, errno.ENODEV)
    (new / "in1_input").unlink()
    fake.now_ns += 100_000_000
    with pytest.raises(OSError, match="No such device"):
        sensor.read(0)
    sensor.close()


def test_a_chip_that_is_away_is_not_looked_for_at_each_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = orin_nx(tmp_path)
    fake = FakeReads(monkeypatch)
    sensor = Ina3221Sensor(str(tmp_path), clock=fake.clock)
    fake.fail_all(directory, errno.ENODEV)
    looks = []
    monkeypatch.setattr(ina3221, "find_chips", lambda *_: looks.append(1) or ())
    for _ in range(1000):  # a second of sweeps
        fake.now_ns += 1_000_000
        for index in range(6):
            with pytest.raises(OSError, match="No such device"):
                sensor.read(index)
    assert len(looks) == 10


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


def test_a_file_for_root_is_left_out_with_the_mend_and_the_others_are_read(public: Path) -> None:
    directory = orin_nx(public)
    (directory / "curr2_input").chmod(0)
    with without_privilege():
        sensor = Ina3221Sensor(str(public))
        assert [c.index for c in sensor.channels()] == list(range(5))
        (item,) = sensor.configuration()["left_out"]
        assert (item["rail"], item["source"]) == ("VDD_CPU_GPU_CV", "curr2_input")
        assert item["why"] == "Permission denied (EACCES)"
        assert "sudo" in item["mend"]
        assert "udev" in item["mend"]
        sensor.close()


def test_root_only_labels_and_settings_come_open_too(
    public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # NVIDIA's 5.10 at one version: labels 0400, settings 0600.
    directory = orin_nx(public)
    files = [f for f in directory.iterdir() if f.is_file() and f.name != "name"]
    descriptors = {str(file): os.open(file, os.O_RDONLY) for file in files}
    for file in files:
        file.chmod(0)
    monkeypatch.setenv(RAIL_FDS_VARIABLE, json.dumps(descriptors))
    with without_privilege():
        sensor = Ina3221Sensor(str(public))
        assert sensor.channels()[0].rail == "VDD_IN"
        assert sensor.channels()[1].lsb == 8.0
        assert sensor.refresh_ns == 6_600_000
        sensor.close()
    for descriptor in descriptors.values():
        os.close(descriptor)


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
    for text in ("", "{", "[1]", '{"/": true}', '{"/": 1e9}', '{"\\u0000": 1}', "[" * 99999):
        monkeypatch.setenv(RAIL_FDS_VARIABLE, text)
        assert inherited_descriptors() == {}


def test_each_chip_has_its_own_rhythm(tmp_path: Path) -> None:
    make_chip(tmp_path, "1-0040", ("A", "B", "C"), update_interval=13)
    make_chip(tmp_path, "1-0041", ("D", "E", "F"), hwmon=1, update_interval=4)
    make_chip(tmp_path, "1-0042", ("G", "H", "I"), hwmon=2, update_interval=None)
    sensor = Ina3221Sensor(str(tmp_path))
    groups = sensor.groups()
    assert [(g.name, g.channels, g.refresh_ns, g.blocking) for g in groups] == [
        ("1-0040", (0, 1, 2, 3, 4, 5), 12_696_000, False),  # 3 x 2 x 2.116 ms
        ("1-0041", (6, 7, 8, 9, 10, 11), 3_528_000, False),  # 3 x 2 x 0.588 ms
        ("1-0042", (12, 13, 14, 15, 16, 17), None, False),
    ]
    assert all((g.period_ns or 0) <= (g.refresh_ns or 0) for g in groups)
    assert sensor.refresh_ns == 3_528_000


def test_a_switched_off_channel_shortens_the_cycle(tmp_path: Path) -> None:
    make_chip(tmp_path, "1-0041", ("NC", "VDDQ", None), enabled=(0, 1, 0), update_interval=2)
    sensor = Ina3221Sensor(str(tmp_path))
    assert sensor.groups()[0].refresh_ns == 2_200_000  # one channel of 1.1 + 1.1 ms
    assert sensor.configuration()["chips"]["1-0041"]["refresh"]["candidates_ns"]


def test_a_chip_of_which_nothing_is_read_has_no_group(tmp_path: Path) -> None:
    make_chip(tmp_path, "1-0040", ("A", "B", "C"))
    make_chip(tmp_path, "1-0041", ("NC", "NC", "NC"), hwmon=1)
    sensor = Ina3221Sensor(str(tmp_path))
    assert [group.name for group in sensor.groups()] == ["1-0040"]
    assert list(sensor.configuration()["chips"]) == ["1-0040", "1-0041"]


@pytest.mark.parametrize(
    ("takes_ns", "blocking"), [(70_000, False), (554_000, False), (6_700_000, True)]
)
def test_a_driver_that_waits_is_known_by_its_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes_ns: int, blocking: bool
) -> None:
    orin_nx(tmp_path)
    fake = FakeReads(monkeypatch, takes_ns)
    sensor = Ina3221Sensor(str(tmp_path), clock=fake.clock)
    assert sensor.groups()[0].blocking is blocking
    assert fake.reads == 6
    refresh = sensor.configuration()["chips"]["1-0040"]["refresh"]
    assert (refresh["read_ns"], refresh["period_ns"]) == (takes_ns, 6_600_000)


def test_a_very_slow_driver_is_not_asked_more_often_than_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = orin_nx(tmp_path)
    (directory / "samples").write_text("512\n")
    (directory / "update_interval").write_text("3379\n")  # as Linux 5.10 counts
    fake = FakeReads(monkeypatch, 3_379_000_000)
    sensor = Ina3221Sensor(str(tmp_path), clock=fake.clock)
    assert fake.reads == 2
    assert len(sensor.channels()) == 6
    group = sensor.groups()[0]
    assert (group.blocking, group.refresh_ns) == (True, 6_600_000)
    assert {c.averaging for c in sensor.channels()} == {"running mean of 512 conversions"}


def test_a_failed_opening_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orin_nx(tmp_path)
    before = len(list(Path("/dev/fd").iterdir()))

    def broken(*_: object) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr(ina3221, "refresh_of", broken)
    with pytest.raises(RuntimeError):
        Ina3221Sensor(str(tmp_path))
    assert len(list(Path("/dev/fd").iterdir())) == before


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
