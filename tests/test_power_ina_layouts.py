"""Where power monitors are found: hwmon, NVIDIA's iio, the INA238; boards by their rails."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.power.ina3221 import (
    RAIL_FDS_VARIABLE,
    Ina3221Sensor,
    find_chips,
    inherited_descriptors,
    looked_for,
)
from edgejoule.power.ina_files import RailFiles
from edgejoule.power.ina_layouts import DRIVERS, Supply, supplies_of, unbound
from tests.support_power import (
    FakeReads,
    make_chip,
    make_iio_chip,
    make_ina238,
    orin_nx,
    without_privilege,
)

REPOSITORY = Path(__file__).resolve().parents[1]
NANO = ("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody can enter, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def entrypoint() -> ModuleType:
    """The container's entrypoint, which is no module of the package."""
    spec = importlib.util.spec_from_file_location(
        "entrypoint", REPOSITORY / "docker" / "entrypoint.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rails_of(sensor: Ina3221Sensor) -> list[str]:
    return list(dict.fromkeys(channel.rail for channel in sensor.channels()))


def test_the_iio_layout_of_jetpack_4(tmp_path: Path) -> None:
    directory = make_iio_chip(tmp_path, "6-0040", NANO)
    sensor = Ina3221Sensor(str(tmp_path))
    assert [(c.rail, c.quantity, c.unit, c.source, c.chip) for c in sensor.channels()[:4]] == [
        ("POM_5V_IN", "voltage", "mV", "in_voltage0_input", "6-0040"),
        ("POM_5V_IN", "current", "mA", "in_current0_input", "6-0040"),
        ("POM_5V_GPU", "voltage", "mV", "in_voltage1_input", "6-0040"),
        ("POM_5V_GPU", "current", "mA", "in_current1_input", "6-0040"),
    ]
    assert [sensor.read(index) for index in range(6)] == [5001, 100, 5002, 200, 5003, 300]
    voltage, current = sensor.channels()[:2]
    assert (voltage.lsb, current.lsb, current.shunt_uohm) == (8.0, 8.0, 5000)
    # 0x7c07 of the device tree: 3 x 2 x 140 us, a running mean of 512.
    assert sensor.groups()[0].refresh_ns == 840_000
    assert voltage.averaging == "running mean of 512 conversions"
    chip = sensor.configuration()["chips"]["6-0040"]
    assert (chip["driver"], chip["running_mode"], chip["samples"]) == ("ina3221x", 1, 512)
    assert chip["power_files"] == ["in_power0_input", "in_power1_input", "in_power2_input"]
    assert json.dumps(sensor.configuration())
    (directory / "in_current0_input").write_text("-8\n")
    assert sensor.read(1) == -8


def test_the_iio_layout_where_the_device_tree_is_masked(tmp_path: Path) -> None:
    directory = make_iio_chip(tmp_path, "6-0040", NANO)
    (directory / "of_node").unlink()
    sensor = Ina3221Sensor(str(tmp_path))
    assert sensor.channels()[1].lsb is None
    assert (sensor.refresh_ns, sensor.groups()[0].blocking) == (None, False)
    how = sensor.configuration()["chips"]["6-0040"]["refresh"]["how"]
    assert "masks /sys/firmware" in how


def test_the_iio_driver_in_triggered_mode_waits_in_each_read(tmp_path: Path) -> None:
    make_iio_chip(tmp_path, "6-0040", NANO, running_mode=0)
    group = Ina3221Sensor(str(tmp_path)).groups()[0]
    assert (group.refresh_ns, group.blocking) == (None, True)


def test_damaged_cells_of_the_device_tree_say_nothing(tmp_path: Path) -> None:
    directory = make_iio_chip(tmp_path, "6-0040", NANO, shunts_mohm=(5, None, 20))
    (directory / "of_node" / "channel@0" / "reg").write_bytes(b"\0")
    sensor = Ina3221Sensor(str(tmp_path))
    assert [c.shunt_uohm for c in sensor.channels()[1::2]] == [None, None, 20_000]


def test_a_chip_is_found_wherever_it_is_linked_from_and_once(tmp_path: Path) -> None:
    directory = make_iio_chip(tmp_path, "6-0040", NANO)
    assert len(find_chips(str(tmp_path), DRIVERS)) == 1  # listed by two buses
    bus = tmp_path / "bus" / "iio" / "devices"
    (bus / directory.name).unlink()
    assert [chip.address for chip in find_chips(str(tmp_path), DRIVERS)] == ["6-0040"]
    (tmp_path / "bus" / "i2c" / "devices" / "6-0040").unlink()
    assert find_chips(str(tmp_path), DRIVERS) == ()
    driver = tmp_path / "bus" / "i2c" / "drivers" / "ina3221x"
    driver.mkdir(parents=True)
    (driver / "6-0040").symlink_to(directory.parent)
    (driver / "bind").write_text("")
    assert [chip.address for chip in find_chips(str(tmp_path), DRIVERS)] == ["6-0040"]


def test_hwmon_chips_are_found_without_their_class(tmp_path: Path) -> None:
    directory = orin_nx(tmp_path)
    (tmp_path / "class" / "hwmon" / "hwmon0").unlink()
    devices = tmp_path / "bus" / "i2c" / "devices"
    devices.mkdir(parents=True)
    (devices / "1-0040").symlink_to(directory.parent.parent)
    assert [chip.address for chip in find_chips(str(tmp_path))] == ["1-0040"]


def test_chips_are_in_order_of_bus_and_address(tmp_path: Path) -> None:
    for hwmon, address in enumerate(("2-0041", "1-0041", "1-0040")):
        make_chip(tmp_path, address, ("A", "B", "C"), hwmon=hwmon)
    chips = find_chips(str(tmp_path))
    assert [chip.address for chip in chips] == ["1-0040", "1-0041", "2-0041"]


def test_thor_has_both_chips_in_one_sensor(tmp_path: Path) -> None:
    make_chip(tmp_path, "2-0040", ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"), hwmon=3)
    make_ina238(tmp_path, "2-0044", hwmon=4, label="VIN", shunt_uohm=2000)
    sensor = Ina3221Sensor(str(tmp_path))
    assert rails_of(sensor) == ["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0", "VIN"]
    voltage, current = sensor.channels()[6:]
    assert (voltage.source, voltage.unit, voltage.lsb) == ("in1_input", "mV", 3.125)
    assert (current.source, current.unit, current.lsb) == ("curr1_input", "mA", None)
    assert (current.shunt_uohm, current.chip) == (2000, "2-0044")
    assert (sensor.read(6), sensor.read(7)) == (19_000, 2500)
    assert voltage.averaging == "mean of 16 conversions"
    groups = [(group.name, group.channels, group.refresh_ns) for group in sensor.groups()]
    assert groups == [
        ("2-0040", (0, 1, 2, 3, 4, 5), 6_600_000),
        ("2-0044", (6, 7), 50_496_000),
    ]
    assert sensor.refresh_ns == 6_600_000
    chip = sensor.configuration()["chips"]["2-0044"]
    assert (chip["driver"], chip["power_files"]) == ("ina238", ["power1_input"])
    only = Ina3221Sensor(str(tmp_path), drivers=("ina238",))
    assert rails_of(only) == ["VIN"]


@pytest.mark.parametrize("file", ["in1_label", "curr1_label", "power1_label", "label"])
def test_an_ina238s_label_can_stand_in_several_files(tmp_path: Path, file: str) -> None:
    make_ina238(tmp_path, "2-0044", label="VIN", label_file=file)
    assert rails_of(Ina3221Sensor(str(tmp_path))) == ["VIN"]


def test_without_a_label_a_rail_goes_by_address_and_that_is_said(tmp_path: Path) -> None:
    make_ina238(tmp_path, "2-0044")
    make_iio_chip(tmp_path, "6-0040", ("POM_5V_IN", None, "NC"))
    sensor = Ina3221Sensor(str(tmp_path))
    assert rails_of(sensor) == ["2-0044_ch1", "POM_5V_IN", "6-0040_ch2"]
    configuration = sensor.configuration()
    assert configuration["chips"]["2-0044"]["named_by_address"] == ["2-0044_ch1"]
    assert configuration["chips"]["6-0040"]["named_by_address"] == ["6-0040_ch2"]
    assert [item["why"] for item in configuration["left_out"]] == ["not connected"]


def test_a_label_three_times_on_two_chips(tmp_path: Path) -> None:
    make_chip(tmp_path, "1-0040", ("VDD", "VDD", "VDD"))
    make_chip(tmp_path, "1-0041", ("VDD", "VDD", "VDD"), hwmon=1)
    rails = rails_of(Ina3221Sensor(str(tmp_path)))
    assert len(rails) == 6
    assert rails[:4] == ["VDD", "VDD@1-0040", "VDD@1-0040_ch3", "VDD@1-0041"]


@pytest.mark.parametrize(
    ("label", "connected"),
    [("NC", False), ("NC_1", False), ("VDD NC", False), ("SYNC", True), ("VDD_NCX", True),
     (None, True)],
)  # fmt: skip
def test_not_connected_is_a_word(label: str | None, connected: bool) -> None:
    supply = Supply(1, label, None, None, "in1_input", "curr1_input", 8.0, None)
    assert supply.connected is connected


@pytest.mark.parametrize(
    ("board", "chips"),
    [
        ("orin-nano", [("1-0040", ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"), 5000)]),
        ("xavier-nx", [("7-0040", ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"), 5000)]),
        (
            "agx-xavier",
            [("1-0040", ("GPU", "CPU", "SOC"), 5000), ("1-0041", ("CV", "VDDRQ", "SYS5V"), 5000)],
        ),
        (
            "igx-orin",
            [
                ("1-0040", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), 2000),
                ("2-0041", ("CVB_ATX_12V", "CVB_ATX_3V3", "CVB_ATX_5V"), 2000),
            ],
        ),
    ],
)
def test_boards_of_hwmon(
    tmp_path: Path, board: str, chips: list[tuple[str, tuple[str, ...], int]]
) -> None:
    for hwmon, (address, labels, shunt) in enumerate(chips):
        make_chip(tmp_path, address, labels, hwmon=9 - hwmon, shunt_uohm=shunt)
    sensor = Ina3221Sensor(str(tmp_path))
    assert rails_of(sensor) == [label for _, labels, _ in chips for label in labels], board
    steps = {c.lsb for c in sensor.channels() if c.quantity == "current"}
    assert steps == {40_000 / chips[0][2]}


def test_boards_of_iio(tmp_path: Path) -> None:
    # TX2: module 0x40, 0x41; carrier 0x42.
    chips = {
        "0-0040": ("VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI"),
        "0-0041": ("VDD_IN", "VDD_SYS_CPU", "VDD_SYS_DDR"),
        "0-0042": ("VDD_MUX", "VDD_5V0_IO_SYS", "VDD_3V3_SYS"),
    }
    for device, (address, labels) in enumerate(chips.items()):
        make_iio_chip(tmp_path, address, labels, device=2 - device, shunts_mohm=(10, 10, 10))
    sensor = Ina3221Sensor(str(tmp_path))
    assert rails_of(sensor) == [label for labels in chips.values() for label in labels]
    assert [group.name for group in sensor.groups()] == list(chips)


def test_nothing_found_says_where_was_looked_and_what_was_there(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="no INA3221 below") as caught:
        Ina3221Sensor(str(tmp_path))
    line = str(caught.value)
    for place in ("class/hwmon", "bus/iio/devices"):
        assert str(tmp_path / place) in line
    assert "no INA238" in line
    other = tmp_path / "class" / "hwmon" / "hwmon0"
    other.mkdir(parents=True)
    (other / "name").write_text("nvme\n")
    lines = looked_for(str(tmp_path))
    assert lines == [
        f"ina3221 or ina238 in {tmp_path}/class/hwmon/*/name (there: nvme)",
        f"ina3221x in {tmp_path}/bus/iio/devices/*/name (there: nothing)",
        f"ina3221 or ina3221x or ina238 in {tmp_path}/bus/i2c/devices/*/name without a driver "
        "(there: none)",
    ]
    with pytest.raises(MeasurementError, match=r"no INA238 below [^ ]*class/hwmon;"):
        Ina3221Sensor(str(tmp_path), drivers=("ina238",))


def test_a_chip_without_its_driver_is_said_with_the_mend(tmp_path: Path) -> None:
    device = tmp_path / "bus" / "i2c" / "devices" / "1-0040"
    device.mkdir(parents=True)
    (device / "name").write_text("ina3221\n")
    assert unbound(str(tmp_path), DRIVERS) == [("1-0040", "ina3221")]
    with pytest.raises(MeasurementError, match=r"1-0040 \(ina3221\); .*modprobe ina3221"):
        Ina3221Sensor(str(tmp_path))
    assert "there: ina3221 1-0040" in looked_for(str(tmp_path))[2]
    (device / "driver").mkdir()
    assert unbound(str(tmp_path), DRIVERS) == []


def test_an_unknown_driver_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="known are ina3221, ina3221x, ina238"):
        Ina3221Sensor(str(tmp_path), drivers=("ina226",))


def test_an_iio_chip_that_is_bound_again_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_iio_chip(tmp_path, "6-0040", NANO, device=0)
    fake = FakeReads(monkeypatch)
    sensor = Ina3221Sensor(str(tmp_path), clock=fake.clock)
    fake.fail_all(old, errno.ENODEV)
    old.rename(old.with_name("iio:device3"))
    (old.with_name("iio:device3") / "in_voltage0_input").unlink()
    (old.with_name("iio:device3") / "in_voltage0_input").write_text("4990\n")
    assert sensor.read(0) == 4990
    with pytest.raises(OSError, match="No such device"):
        sensor.read(1)


def test_single_shot_of_the_device_tree_waits(tmp_path: Path) -> None:
    directory = orin_nx(tmp_path)
    node = tmp_path / "firmware" / "node"
    node.mkdir(parents=True)
    (node / "ti,single-shot").write_text("")
    (directory / "of_node").symlink_to(node)
    sensor = Ina3221Sensor(str(tmp_path))
    assert sensor.groups()[0].blocking
    assert sensor.configuration()["chips"]["1-0040"]["single_shot"] is True


@pytest.mark.parametrize("kind", ["hwmon", "iio", "ina238"])
def test_the_entrypoint_opens_what_root_alone_may_read(
    public: Path, monkeypatch: pytest.MonkeyPatch, entrypoint: ModuleType, kind: str
) -> None:
    if kind == "iio":
        directory = make_iio_chip(public, "6-0040", NANO)
    elif kind == "ina238":
        directory = make_ina238(public, "2-0044", label="VIN")
    else:
        directory = orin_nx(public)
    for file in directory.iterdir():
        if file.is_file() and file.name != "name":
            file.chmod(0o400)
    kept = entrypoint.open_rail_files(public)
    names = {Path(path).name for path in kept}
    assert not names & {"in7_input", "curr4_input", "in_power0_input", "power1_input", "name"}
    monkeypatch.setenv(RAIL_FDS_VARIABLE, json.dumps(kept))
    with without_privilege():
        assert len(inherited_descriptors()) == len(kept)
        sensor = Ina3221Sensor(str(public))
        first = {"iio": "POM_5V_IN", "ina238": "VIN", "hwmon": "VDD_IN"}[kind]
        assert sensor.channels()[0].rail == first
        assert all(sensor.read(channel.index) > 0 for channel in sensor.channels())
        assert not sensor.configuration()["left_out"]
        assert sensor.refresh_ns is not None
        sensor.close()
    for descriptor in kept.values():
        os.close(descriptor)


def test_an_inherited_descriptor_of_a_chip_bound_anew_is_not_taken(public: Path) -> None:
    file = public / "in1_input"
    file.write_text("1\n")
    descriptor = os.open(file, os.O_RDONLY)
    files = RailFiles({os.path.realpath(file): descriptor})
    file.rename(public / "old")
    file.write_text("2\n")
    file.chmod(0)
    with without_privilege():
        with pytest.raises(PermissionError):
            files.open(file)
        assert files.text(file) is None
    file.unlink()
    with pytest.raises(FileNotFoundError):
        files.open(file)
    os.close(descriptor)


def test_a_directory_is_no_text(tmp_path: Path) -> None:
    assert RailFiles({}).text(tmp_path) is None


@given(
    st.dictionaries(
        st.sampled_from(
            [f"in{n}_{kind}" for n in (1, 2, 3) for kind in ("label", "enable", "input")]
            + [f"curr{n}_input" for n in (1, 2, 3)]
            + ["shunt1_resistor", "update_interval", "samples", "name"]
        ),
        st.binary(max_size=40),
        max_size=10,
    )
)
def test_damaged_files_raise_nothing_but_our_errors(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = orin_nx(Path(folder))
        for name, data in files.items():
            (directory / name).write_bytes(data)
        try:
            sensor = Ina3221Sensor(folder)
        except EdgejouleError:
            return
        json.dumps(sensor.configuration())
        for channel in sensor.channels():
            with contextlib.suppress(OSError):
                assert isinstance(sensor.read(channel.index), int)
        sensor.close()


def test_supplies_are_numbered_as_on_the_chip(tmp_path: Path) -> None:
    make_iio_chip(tmp_path, "6-0040", NANO)
    (chip,) = find_chips(str(tmp_path), DRIVERS)
    assert [supply.number for supply in supplies_of(chip, RailFiles({}))] == [1, 2, 3]
