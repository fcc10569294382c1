"""What the header of a trace says of averaging and conversion time in an INA3221."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgejoule.energy.reads import _conversion
from edgejoule.energy.window import _told
from edgejoule.simulation import SCENARIOS, simulate
from edgejoule.simulation.recording import _sensor


@pytest.fixture(scope="module")
def header() -> dict[str, Any]:
    scenario = replace(SCENARIOS["hard"], inferences=50, clean=20)
    return _sensor(simulate(scenario, 0))


def _of(header: dict[str, Any], **changes: Any) -> tuple[int | None, float | None]:
    entry = header["channels"][1]
    chips = header["configuration"]["chips"]
    chip = {**chips[entry["chip"]], **changes}
    changed = {**header, "configuration": {"chips": {entry["chip"]: chip}}}
    return _conversion(changed, entry, float(header["refresh_ns"]))


def test_the_settings_of_a_chip_are_read(header: dict[str, Any]) -> None:
    assert _of(header) == (16, 1_100_000.0)


def test_a_sensor_among_several_is_found(header: dict[str, Any]) -> None:
    several = {**header, "configuration": {"sensors": {"ina3221": header["configuration"]}}}
    assert _conversion(several, header["channels"][1], 6_600_000.0) == (16, 1_100_000.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"enabled": {"ch1": 1, "ch2": 1, "ch3": 0}},  # 1.65 ms: no time of the chip's
        {"enabled": {"ch1": None}},
        {"single_shot": True},
        {"refresh": {"blocking": True}},
    ],
)
def test_a_conversion_time_that_does_not_follow_is_not_made_up(
    header: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert _of(header, **changes) == (16, None)


def test_another_chip_is_not_taken_for_an_ina3221(header: dict[str, Any]) -> None:
    assert _of(header, driver="ina238") == (None, None)


def test_the_simulator_tells_what_a_driver_would_and_a_refresh_of_its_own_is_not_believed() -> None:
    reads = simulate(replace(SCENARIOS["hard"], inferences=50), 0).reads["VDD_IN"]
    assert (reads.samples, reads.window_ns) == (16, 1_100_000.0)
    assert _told(reads, 6_601_000.0) == (16.0, pytest.approx(1_100_166.7, abs=1))
    assert _told(reads, 7_000_000.0) == (None, None)
    nvml = simulate(replace(SCENARIOS["nvml"], inferences=50), 0)
    assert next(iter(nvml.reads.values())).samples is None
