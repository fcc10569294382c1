"""Choosing a sensor by reading it, and the table of boards."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.power.boards import BOARDS, board_of, total_rails
from edgejoule.power.sensor import Where
from edgejoule.power.sensors import choose_sensor, known_sensors, open_sensor
from tests.support_power import make_chip, orin_nx


def test_auto_takes_a_sensor_by_reading_a_value(tmp_path: Path) -> None:
    orin_nx(tmp_path)
    choice = choose_sensor("auto", Where(str(tmp_path)))
    assert (choice.name, choice.usable, choice.mend) == ("ina3221", True, "")
    assert choice.why == "VDD_IN reads 5001 mV, 3 rails"
    assert choose_sensor("ina3221", Where(str(tmp_path))).why.startswith("asked for by name")


def test_auto_without_a_sensor_says_why_and_never_simulates(tmp_path: Path) -> None:
    choice = choose_sensor("auto", Where(str(tmp_path)))
    assert (choice.name, choice.usable) == ("none", False)
    tried = ["ina3221", "tegrastats", "nvml", "rapl", "battery"]
    assert [name for name, _ in choice.tried] == tried
    assert "no INA3221 below" in choice.why
    assert choice.mend


def test_a_chip_that_gives_no_value_is_not_taken(tmp_path: Path) -> None:
    directory = orin_nx(tmp_path)
    for file in directory.glob("*_input"):
        file.write_text("\n")
    choice = choose_sensor("auto", Where(str(tmp_path)))
    assert not choice.usable
    assert "VDD_IN in1_input: EBADMSG" in choice.why
    with pytest.raises(UsageError, match="no value can be read"):
        choose_sensor("ina3221", Where(str(tmp_path)))


def test_one_bad_channel_does_not_hide_the_sensor(tmp_path: Path) -> None:
    directory = orin_nx(tmp_path)
    (directory / "in1_input").write_text("\n")
    assert choose_sensor("auto", Where(str(tmp_path))).why == "VDD_IN reads 100 mA, 3 rails"


def test_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_sensor("none").usable is False
    assert choose_sensor("simulated").usable is True
    with pytest.raises(UsageError, match=r"sensor ina3221: no INA3221 below .*; .") as caught:
        choose_sensor("ina3221", Where(str(tmp_path)))
    assert caught.value.exit_code == 2
    for choose in (choose_sensor, open_sensor):
        with pytest.raises(UsageError, match="known are auto, none, ina3221, nvml, rapl"):
            choose("wattmeter")
    with pytest.raises(UsageError, match="simulated goes with no other"):
        choose_sensor("ina3221,simulated")
    real = {"ina3221", "nvml", "rapl", "tegrastats", "battery"}
    assert set(known_sensors()) == {"auto", "none", "simulated"} | real
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UsageError, match="needs Linux or macOS"):
        choose_sensor("simulated")


def test_nvmls_first_gpu_never_stands_for_an_unknown_one(tmp_path: Path) -> None:
    where = Where(str(tmp_path))
    with pytest.raises(UsageError, match="which of NVML's GPUs cuda:1 is cannot be told"):
        choose_sensor("nvml", where, "cuda:1")
    choice = choose_sensor("auto", where, "cuda:1")
    assert not choice.usable
    assert "cannot be told" in dict(choice.tried)["nvml"]


def test_the_simulated_sensor_is_marked(tmp_path: Path) -> None:
    orin_nx(tmp_path)
    sensor = open_sensor("simulated", Where(str(tmp_path)))
    assert (sensor.name, sensor.simulated) == ("simulated", True)
    with pytest.raises(MeasurementError):
        open_sensor("simulated", Where(str(tmp_path / "nowhere")))


def test_totals_of_known_boards() -> None:
    assert total_rails(("VDD_SOC", "VDD_IN", "VDD_CPU_GPU_CV")) == ("VDD_IN",)
    agx = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")
    assert total_rails(agx) == agx[:3]  # VDDQ lies inside VIN_SYS_5V0
    assert total_rails(("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU")) == ("POM_5V_IN",)
    assert len(total_rails(("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")) or ()) == 6


def test_an_unknown_board_is_never_guessed(tmp_path: Path) -> None:
    assert total_rails(("VDD_IN",)) is None
    assert total_rails(()) is None
    make_chip(tmp_path, "1-0040", ("5V", "3V3", "12V"))
    sensor = open_sensor("ina3221", Where(str(tmp_path)))
    assert board_of(c.rail for c in sensor.channels()) is None


def test_every_board_has_a_source_and_a_total_of_its_own_rails() -> None:
    for board in BOARDS:
        assert board.source
        assert board.scope
        assert set(board.total) <= board.rails
        assert board_of(board.rails) is board
