"""The project's reader on the unmodified driver: rails, values, channels that are off, shunts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.real_driver.conftest import STEPS_MV, STEPS_UV, Booted, on

pytestmark = [pytest.mark.real_driver, pytest.mark.timeout(1800)]

NANO = ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]
# Of Linux' device trees: label, chip, channel, shunt. And which rails make up the board's total.
FOUND = {
    "orin-nano": ([(rail, "1-0040", n + 1, 5000) for n, rail in enumerate(NANO)], ["VDD_IN"]),
    "single-shot": ([(rail, "1-0040", n + 1, 5000) for n, rail in enumerate(NANO)], ["VDD_IN"]),
    "agx-orin": (
        [
            ("VDD_GPU_SOC", "1-0040", 1, 2000),
            ("VDD_CPU_CV", "1-0040", 2, 2000),
            ("VIN_SYS_5V0", "1-0040", 3, 2000),
            ("VDDQ_VDD2_1V8AO", "1-0041", 2, 2000),
        ],
        ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"],
    ),
}


def channel_table(found: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    keys = ("rail", "chip", "source", "quantity", "unit")
    return [tuple(channel[key] for key in keys) for channel in found["channels"]]


@on()
def test_rails_are_found_by_label_and_address(booted: Booted) -> None:
    found = booted.result("rails")
    expected, total = FOUND[booted.machine.board]
    assert channel_table(found) == [
        row
        for rail, chip, n, _ in expected
        for row in (
            (rail, chip, f"in{n}_input", "voltage", "mV"),
            (rail, chip, f"curr{n}_input", "current", "mA"),
        )
    ]
    assert found["total"] == total
    shunts = [c["shunt_uohm"] for c in found["channels"] if c["quantity"] == "current"]
    assert shunts == [shunt for *_, shunt in expected]
    assert all(isinstance(value, int) for value in found["values"].values())


@on()
def test_channels_off_in_the_device_tree_are_left_out_with_a_reason(booted: Booted) -> None:
    left_out = booted.result("rails")["configuration"]["left_out"]
    assert {(item["chip"], item["source"][:3]) for item in left_out} == (
        {("1-0041", "in1"), ("1-0041", "in3")} if booted.machine.board == "agx-orin" else set()
    )
    assert all("off" in item["why"] for item in left_out)


@on()
def test_the_settings_are_recorded(booted: Booted) -> None:
    chips = booted.result("rails")["configuration"]["chips"]
    assert set(chips) == set(booted.machine.chips)
    settings = chips["1-0040"]
    # The chip's defaults, 3 channels x (1.1 + 1.1) ms, which the driver shows in whole ms.
    assert (settings["update_interval_ms"], settings["samples"]) == (7, 1)
    assert settings["enabled"] == {"ch1": 1, "ch2": 1, "ch3": 1}


@on()
def test_values_follow_the_registers(booted: Booted) -> None:
    rows = booted.result("values")["rows"]
    shunts = {(chip, n): shunt for _, chip, n, shunt in FOUND[booted.machine.board][0]}
    assert any(steps < 0 for row in rows for _, steps in row["written"].values())
    for row in rows:
        expected = {}
        for (chip, n), shunt in shunts.items():
            bus, over_shunt = row["written"][f"{chip} {n}"]
            expected[f"{chip} in{n}_input"] = bus * STEPS_MV
            # uV / mOhm = mA; whole for these shunts
            expected[f"{chip} curr{n}_input"] = over_shunt * STEPS_UV * 1000 // shunt
        assert row["read"] == expected


@on()
def test_a_channel_switched_off_gives_enodata_and_comes_back(booted: Booted) -> None:
    found = booted.result("switched_off")
    second = {"1-0040 in2_input", "1-0040 curr2_input"}
    assert {name for name, value in found["off"].items() if value == "ENODATA"} == second
    assert found["on"]["1-0040 in2_input"] == 602 * STEPS_MV
    assert all(isinstance(value, int) for value in found["on"].values())
    fresh = found["opened_while_off"]
    assert not second & set(fresh["values"])
    assert any(
        item["chip"] == "1-0040" and item["source"].startswith("in2") and "off" in item["why"]
        for item in fresh["configuration"]["left_out"]
    )


@pytest.mark.parametrize(("shunt_uohm", "step_ma"), [(2000, 20), (10000, 4)])
@on()
def test_unequal_shunts(booted: Booted, shunt_uohm: int, step_ma: int) -> None:
    found = booted.result("shunts")[str(shunt_uohm)]
    own = 40 * 1000 // FOUND[booted.machine.board][0][0][3]
    first = [c for c in found["channels"] if c["chip"] == "1-0040"]
    steps = {c["source"]: (c["shunt_uohm"], c["lsb"]) for c in first}
    assert steps["curr2_input"] == (shunt_uohm, step_ma)
    assert steps["curr1_input"][1] == own
    assert found["values"]["1-0040 curr2_input"] == 100 * step_ma
    assert found["values"]["1-0040 curr1_input"] == 100 * own
