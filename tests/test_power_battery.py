"""A battery as a sensor: only what discharges, never a charger or a mouse."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.errors import EdgejouleError, MeasurementError
from edgejoule.power.battery import BatterySensor, battery_total, find_supplies, looked_for
from edgejoule.power.sensor import FileBacked


def supply(root: Path, name: str, **files: str) -> Path:
    directory = root / "devices" / name
    directory.mkdir(parents=True)
    for file, text in files.items():
        (directory / file).write_text(f"{text}\n")
    classes = root / "class" / "power_supply"
    classes.mkdir(parents=True, exist_ok=True)
    (classes / name).symlink_to(Path("..", "..", "devices", name))
    return directory


def battery(root: Path, name: str = "BAT0", status: str = "Discharging", **files: str) -> Path:
    return supply(root, name, type="Battery", status=status, **files)


def read_all(root: Path) -> dict[str, int]:
    with contextlib.closing(BatterySensor(str(root))) as sensor:
        return {f"{c.rail} {c.quantity}": sensor.read(c.index) for c in sensor.channels()}


def test_a_battery_that_tells_its_power(tmp_path: Path) -> None:
    battery(tmp_path, power_now="8123000", voltage_now="12000000", current_now="676917")
    with contextlib.closing(BatterySensor(str(tmp_path))) as sensor:
        (channel,) = sensor.channels()
        assert (channel.rail, channel.quantity, channel.unit) == ("battery_BAT0", "power", "uW")
        assert (channel.chip, channel.source, channel.sensor) == ("BAT0", "power_now", "battery")
        assert sensor.read(0) == 8123000
        (group,) = sensor.groups()
        assert (group.name, group.channels, group.refresh_ns) == ("BAT0", (0,), 1_000_000_000)
        assert sensor.configuration()["batteries"] == ["BAT0"]
        # The sampler must not read the files past `read`, which sees to status and sign.
        assert not isinstance(sensor, FileBacked)


@pytest.mark.parametrize("current", ["676917", "-676917"])
def test_voltage_and_current_with_either_sign(tmp_path: Path, current: str) -> None:
    battery(tmp_path, voltage_now="12000000", current_now=current)
    with contextlib.closing(BatterySensor(str(tmp_path))) as sensor:
        assert [(c.quantity, c.unit) for c in sensor.channels()] == [
            ("voltage", "uV"),
            ("current", "uA"),
        ]
        assert [sensor.read(0), sensor.read(1)] == [12000000, 676917]


def test_a_power_that_cannot_be_read_leaves_voltage_and_current(tmp_path: Path) -> None:
    battery(tmp_path, power_now="", voltage_now="12000000", current_now="1")
    assert set(read_all(tmp_path)) == {"battery_BAT0 voltage", "battery_BAT0 current"}


def test_chargers_and_other_devices_batteries_are_left_out(tmp_path: Path) -> None:
    battery(tmp_path, power_now="5")
    supply(tmp_path, "AC", type="Mains", online="0")
    supply(tmp_path, "ucsi-source-psy-1", type="USB", voltage_now="5000000", current_now="900000")
    supply(tmp_path, "hidpp_battery_0", type="Battery", scope="Device", status="Discharging")
    supply(tmp_path, "BAT1", type="Battery", present="0", status="Unknown")
    supply(tmp_path, "odd")
    assert {found.name: found.left_out for found in find_supplies(str(tmp_path))} == {
        "AC": "type is Mains",
        "BAT0": "",
        "BAT1": "not present",
        "hidpp_battery_0": "the battery of another device (scope is Device)",
        "odd": "type is not readable",
        "ucsi-source-psy-1": "type is USB",
    }
    assert read_all(tmp_path) == {"battery_BAT0 power": 5}
    assert looked_for(str(tmp_path))[0] == "battery: BAT0 power_now: 5 uW"
    assert len(looked_for(str(tmp_path))) == 6


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown", ""])
def test_on_a_charger_it_is_not_the_machines_power(tmp_path: Path, status: str) -> None:
    battery(tmp_path, status=status, power_now="5")
    with pytest.raises(MeasurementError, match=r"is not the machine's: BAT0 is .*unplug"):
        BatterySensor(str(tmp_path))
    assert "unplug" in looked_for(str(tmp_path))[0]


def test_two_batteries_of_which_one_rests(tmp_path: Path) -> None:
    battery(tmp_path, "BAT0", power_now="7000000")
    battery(tmp_path, "BAT1", status="Not charging", power_now="0")
    with contextlib.closing(BatterySensor(str(tmp_path))) as sensor:
        assert [channel.rail for channel in sensor.channels()] == ["battery_BAT0"]
        assert sensor.configuration()["left_out"] == [
            {"supply": "BAT1", "why": "status is Not charging"}
        ]


def test_two_batteries_that_both_feed(tmp_path: Path) -> None:
    battery(tmp_path, "BAT0", power_now="7000000")
    battery(tmp_path, "BAT1", voltage_now="11000000", current_now="500000")
    with contextlib.closing(BatterySensor(str(tmp_path))) as sensor:
        rails = [channel.rail for channel in sensor.channels()]
        assert [(g.name, g.channels) for g in sensor.groups()] == [
            ("BAT0", (0,)),
            ("BAT1", (1, 2)),
        ]
        assert [sensor.read(index) for index in range(3)] == [7000000, 11000000, 500000]
    total = battery_total(rails)
    assert total is not None
    assert total.rails == ("battery_BAT0", "battery_BAT1")


def test_one_battery_that_charges_another(tmp_path: Path) -> None:
    battery(tmp_path, "BAT0", power_now="7000000")
    battery(tmp_path, "BAT1", status="Charging", power_now="5000000")
    with pytest.raises(MeasurementError, match="BAT1 is Charging"):
        BatterySensor(str(tmp_path))


def test_the_charger_is_plugged_in_meanwhile(tmp_path: Path) -> None:
    directory = battery(tmp_path, power_now="7000000")
    with contextlib.closing(BatterySensor(str(tmp_path))) as sensor:
        (directory / "status").write_text("Charging\n")
        with pytest.raises(OSError, match="is Charging, not Discharging") as caught:
            sensor.read(0)
        assert caught.value.errno == errno.ENODATA
        (directory / "status").write_text("Discharging\n")
        assert sensor.read(0) == 7000000


def test_no_battery(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"no battery below .*power_supply; a desktop"):
        BatterySensor(str(tmp_path))
    supply(tmp_path, "AC", type="Mains")
    with pytest.raises(MeasurementError, match="no battery below"):
        BatterySensor(str(tmp_path))


def test_a_battery_that_tells_nothing(tmp_path: Path) -> None:
    battery(tmp_path, voltage_now="12000000")
    with pytest.raises(MeasurementError, match=r"no battery tells its power .*power_now.*ENOENT"):
        BatterySensor(str(tmp_path))


def test_a_read_that_fails_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    battery(tmp_path, power_now="5")

    def fail(_self: BatterySensor, _index: int) -> int:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(BatterySensor, "read", fail)
    assert looked_for(str(tmp_path)) == ["battery: BAT0 power_now: No such device (ENODEV)"]


def test_no_total_without_a_battery() -> None:
    assert battery_total(["VDD_IN"]) is None


FILES = ("type", "scope", "status", "present", "power_now", "voltage_now", "current_now")
LIKELY = st.sampled_from([b"Battery", b"Discharging", b"Device", b"1", b"-5", b""])


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(FILES), LIKELY | st.binary(max_size=40)))
def test_any_content_is_values_or_the_projects_error(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    root = tmp_path_factory.mktemp("battery")
    directory = battery(root)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    with contextlib.suppress(EdgejouleError):
        assert all(value >= 0 for value in read_all(root).values())
