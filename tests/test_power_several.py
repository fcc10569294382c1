"""Several sensors as one, their names, and which of them `auto` takes for what is measured."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.power import sensors
from edgejoule.power.nvml import INSTANT
from edgejoule.power.sensor import Channel, FileBacked, Group, Where
from edgejoule.power.sensors import (
    SENSORS,
    SensorKind,
    choose_sensor,
    identify,
    known_sensors,
    names_of,
    open_sensor,
    try_sensor,
)
from edgejoule.power.several import SeveralSensors
from tests.support_power import orin_nx
from tests.support_sampling import FakeSensor, os_error, rail_channels, renamed

NOWHERE = Where("/nowhere")


class WithFiles(FakeSensor):
    def descriptors(self) -> tuple[int | None, ...]:
        return tuple(50 + n if n != 1 else None for n in range(len(self._channels)))


def board(name: str = "ina3221") -> WithFiles:
    groups = (Group("1-0040", (0, 1), 6_600_000), Group("1-0041", (2, 3), 2_200_000, True, 5))
    return WithFiles(rail_channels("VDD_IN", "VDD_SOC"), groups, name=name)


def gpu(name: str = "nvml", rail: str = "GPU-0") -> FakeSensor:
    channels = rail_channels(rail, quantities=("power",))
    return FakeSensor(channels, (Group("GPU-1", (0,), 100_000_000),), name=name)


# --- as one ---


def test_channels_are_numbered_through_and_name_their_sensor() -> None:
    one = SeveralSensors([gpu(), board()])
    assert one.name == "nvml,ina3221"
    channels = one.channels()
    assert [channel.index for channel in channels] == [0, 1, 2, 3, 4]
    assert [c.rail for c in channels] == ["GPU-0", "VDD_IN", "VDD_IN", "VDD_SOC", "VDD_SOC"]
    assert [c.sensor for c in channels] == ["nvml", *["ina3221"] * 4]
    assert [c.quantity for c in channels[:3]] == ["power", "voltage", "current"]


def test_groups_keep_their_rhythm_and_follow_the_numbers() -> None:
    groups = SeveralSensors([gpu(), board()]).groups()
    assert groups == (
        Group("GPU-1", (0,), 100_000_000),
        Group("1-0040", (1, 2), 6_600_000),
        Group("1-0041", (3, 4), 2_200_000, True, 5),
    )
    assert sorted(index for group in groups for index in group.channels) == [0, 1, 2, 3, 4]


def test_reads_go_to_whom_they_belong() -> None:
    first, second = gpu(), board()
    first.values, second.values = [7], [10, 11, 12, os_error(errno.ENODATA)]
    one = SeveralSensors([first, second])
    assert [one.read(n) for n in (0, 3, 1)] == [7, 12, 10]
    assert (first.reads, second.reads) == ([0], [2, 0])
    with pytest.raises(OSError) as caught:  # noqa: PT011 (its errno is what counts)
        one.read(4)
    assert caught.value.errno == errno.ENODATA


def test_descriptors_of_those_that_have_them() -> None:
    one = SeveralSensors([board(), gpu(), board("tegrastats")])
    assert isinstance(one, FileBacked)
    assert one.descriptors() == (50, None, 52, 53, None, 50, None, 52, 53)


def test_a_rail_that_two_call_the_same_says_whose() -> None:
    one = SeveralSensors([board(), board("tegrastats"), gpu(rail="VDD_IN")])
    rails = [channel.rail for channel in one.channels()]
    assert rails == [
        *("VDD_IN", "VDD_IN", "VDD_SOC", "VDD_SOC"),
        *("VDD_IN@tegrastats", "VDD_IN@tegrastats", "VDD_SOC@tegrastats", "VDD_SOC@tegrastats"),
        "VDD_IN@nvml",
    ]


def test_configurations_by_sensor() -> None:
    one = SeveralSensors([gpu(), board()])
    assert one.configuration() == {
        "sensors": {"nvml": {"of": "nvml"}, "ina3221": {"of": "ina3221"}}
    }


def test_one_made_up_sensor_makes_the_whole_made_up() -> None:
    made_up = gpu("simulated")
    made_up.simulated = True
    assert SeveralSensors([board(), gpu()]).simulated is False
    assert SeveralSensors([board(), made_up]).simulated is True


def test_all_are_closed_also_if_one_cannot_be() -> None:
    class Stuck(FakeSensor):
        def close(self) -> None:
            super().close()
            raise os_error(errno.EIO)

    parts = [gpu("a"), Stuck(rail_channels("X"), name="b"), gpu("c")]
    with pytest.raises(OSError):  # noqa: PT011
        SeveralSensors(parts).close()
    assert [part.closed for part in parts] == [1, 1, 1]


# --- names ---


def test_names() -> None:
    assert names_of("nvml") == ("nvml",)
    assert names_of(" nvml , rapl,,nvml ") == ("nvml", "rapl")
    assert names_of("auto") == ("auto",)
    assert names_of("simulated,") == ("simulated",)
    for name in known_sensors():
        assert names_of(name) == (name,)


@pytest.mark.parametrize("text", ["", " ", ",", "watts", "nvml,watts", "NVML"])
def test_unknown_names(text: str) -> None:
    with pytest.raises(UsageError, match="unknown sensor") as caught:
        names_of(text)
    assert caught.value.mend.startswith("known are auto, none, ina3221")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("alone", ["auto", "none", "simulated"])
def test_what_goes_with_no_other(alone: str) -> None:
    for text in (f"{alone},nvml", f"rapl,{alone}"):
        with pytest.raises(UsageError, match=f"{alone} goes with no other") as caught:
            names_of(text)
        assert caught.value.mend == f"give {alone} alone"


# --- opening and choosing, among made-up kinds ---


class Kinds:
    """Sensors that are here or not, as the test says; all others are not."""

    def __init__(self, patch: pytest.MonkeyPatch, **here: FakeSensor) -> None:
        self.tried: list[str] = []
        self.opened: list[FakeSensor] = []
        self._here = here
        for name, kind in SENSORS.items():
            made = SensorKind(self._opener(name), lambda _where: [], kind.summary, kind.simulated)
            patch.setitem(SENSORS, name, made)

    def _opener(self, name: str) -> Any:
        def open_it(_where: Where) -> FakeSensor:
            self.tried.append(name)
            if name not in self._here:
                raise MeasurementError(f"no {name} here", f"plug in {name}")
            self.opened.append(self._here[name])
            return self._here[name]

        return open_it


def test_one_sensor_is_itself_and_several_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"nvml": gpu(), "rapl": gpu("rapl", "package-0")}
    Kinds(monkeypatch, **here)
    assert open_sensor("nvml", NOWHERE) is here["nvml"]
    both = open_sensor("rapl,nvml", NOWHERE)
    assert isinstance(both, SeveralSensors)
    assert [channel.sensor for channel in both.channels()] == ["rapl", "nvml"]


def test_one_that_cannot_be_opened_closes_those_that_were(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = Kinds(monkeypatch, nvml=gpu(), rapl=gpu("rapl"))
    with pytest.raises(MeasurementError, match="no battery here"):
        open_sensor("nvml,rapl,battery", NOWHERE)
    assert [sensor.closed for sensor in kinds.opened] == [1, 1]


@pytest.mark.parametrize("name", ["auto", "none"])
def test_what_is_no_sensor_cannot_be_opened(name: str) -> None:
    with pytest.raises(UsageError, match=f"sensor '{name}' cannot be opened"):
        open_sensor(name, NOWHERE)


def test_trying_reads_a_value_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = board()
    sensor.values[:2] = [os_error(errno.ENODATA), os_error(errno.ETIMEDOUT)]
    Kinds(monkeypatch, ina3221=sensor)
    assert try_sensor("ina3221", NOWHERE) == "VDD_SOC reads 102 mV, 2 rails"
    assert sensor.closed == 1
    sensor.values = [os_error(errno.ENODATA)] * 2 + [OSError("no number"), os_error(errno.EIO)]
    with pytest.raises(UsageError) as caught:
        try_sensor("ina3221", NOWHERE)
    text = str(caught.value)
    for part in ("VDD_IN voltage0: ENODATA", "VDD_SOC voltage2: no number", "current3: EIO"):
        assert part in text
    assert "dmesg" in caught.value.mend
    assert sensor.closed == 2


ORDERS = {
    None: ["ina3221", "tegrastats", "nvml", "rapl", "battery"],
    "cpu": ["ina3221", "tegrastats", "rapl", "battery"],
    "cuda:0": ["ina3221", "tegrastats", "nvml"],
}


@pytest.mark.parametrize("device", list(ORDERS))
def test_auto_tries_what_sees_the_device(
    monkeypatch: pytest.MonkeyPatch, device: str | None
) -> None:
    kinds = Kinds(monkeypatch, simulated=gpu("simulated"))
    choice = choose_sensor("auto", replace(NOWHERE, gpu_uuid="GPU-1"), device)
    assert kinds.tried == ORDERS[device]
    assert [name for name, _ in choice.tried] == ORDERS[device]
    assert (choice.name, choice.usable) == ("none", False)
    for name in ORDERS[device]:
        assert f"{name}: no {name} here" in choice.why
        assert f"plug in {name}" in choice.mend
    assert choice.mend.endswith("`--sensor simulated` tries things out with made-up power")


@pytest.mark.parametrize(
    ("device", "here", "taken"),
    [
        (None, ["ina3221", "nvml"], "ina3221"),
        (None, ["tegrastats", "nvml"], "tegrastats"),
        (None, ["nvml", "rapl", "battery"], "nvml,rapl"),
        (None, ["rapl", "battery"], "rapl"),
        (None, ["nvml", "battery"], "nvml"),
        (None, ["battery"], "battery"),
        ("cpu", ["nvml", "rapl"], "rapl"),
        ("cpu", ["nvml", "battery"], "battery"),
        ("cpu", ["nvml"], "none"),
        ("cuda:1", ["nvml", "rapl"], "nvml"),
        ("cuda:1", ["rapl", "battery"], "none"),
        ("cuda:1", ["ina3221", "nvml"], "ina3221"),
    ],
)
def test_what_auto_takes(
    monkeypatch: pytest.MonkeyPatch, device: str | None, here: Sequence[str], taken: str
) -> None:
    found: Any = {name: gpu(name, f"rail of {name}") for name in here}
    kinds = Kinds(monkeypatch, **found)
    choice = choose_sensor("auto", replace(NOWHERE, gpu_uuid="GPU-1"), device)
    assert choice.name == taken
    assert choice.usable is (taken != "none")
    assert [sensor.closed for sensor in kinds.opened] == [1] * len(kinds.opened)
    if choice.usable:
        assert choice.mend == ""
        assert all(f"rail of {name} reads 100 mW" in choice.why for name in taken.split(","))


def test_several_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    Kinds(monkeypatch, nvml=gpu(), rapl=gpu("rapl", "package-0"))
    choice = choose_sensor("rapl, nvml", NOWHERE)
    assert choice.name == "rapl,nvml"
    assert choice.why == (
        "asked for by name; package-0 reads 100 mW, 1 rails; GPU-0 reads 100 mW, 1 rails"
    )
    with pytest.raises(UsageError, match=r"sensor battery: no battery here; plug in battery"):
        choose_sensor("nvml,battery", NOWHERE)


def test_a_mend_is_always_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_where: Where) -> Any:
        raise EdgejouleError("it is not here")

    monkeypatch.setitem(SENSORS, "rapl", SensorKind(refuse, lambda _where: [], ""))
    with pytest.raises(UsageError) as caught:
        choose_sensor("rapl", NOWHERE)
    assert caught.value.mend == "use --sensor none to measure time alone"


# --- which board ---


def test_rails_that_are_of_no_board() -> None:
    sensor = SeveralSensors([gpu("rapl", "package-0"), gpu("nvml", INSTANT)])
    found, total = identify(sensor, NOWHERE)
    assert found is None
    assert total is not None
    assert total.rails == ("package-0", INSTANT)


def test_a_board_beside_other_sensors(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEJOULE_BOARD", raising=False)
    orin_nx(tmp_path)
    where = Where(str(tmp_path))
    here = SENSORS["ina3221"].open(where)
    one = SeveralSensors([here, gpu()])
    found, total = identify(one, where)
    assert found is not None
    assert "Jetson Orin NX" in found["names"]
    assert total is not None
    assert total.rails == ("VDD_IN",)  # the GPU is in it
    one.close()
    # What one of several sensors left out is known to the board's recognition.
    partly: Any = FakeSensor(
        renamed(rail_channels("VDD_IN", "VDD_CPU_GPU_CV"), sensor="ina3221"), name="ina3221"
    )
    left_out = [{"rail": "VDD_SOC", "why": "switched off"}]
    partly.configuration = lambda: {"left_out": left_out}
    found, total = identify(SeveralSensors([gpu(), partly]), Where(str(tmp_path / "none")))
    assert found is not None
    assert found["expected_missing"] == ["VDD_SOC"]
    assert total is not None


def test_the_table_of_sensors() -> None:
    assert set(sensors.SENSORS) == set(known_sensors()) - {"auto", "none"}
    assert [name for name, kind in SENSORS.items() if kind.simulated] == ["simulated"]
    assert all(isinstance(kind.summary, str) and kind.summary for kind in SENSORS.values())
    assert isinstance(Channel(0, "a", "power", "mW", "c", "s").to_json(), dict)
