"""The driver's settings: what the reader makes of them, and that they are put back."""

from __future__ import annotations

import pytest

from tests.real_driver.conftest import Booted, on

pytestmark = [pytest.mark.real_driver, pytest.mark.timeout(1800)]

# TI, INA3221 data sheet, configuration register.
CONVERSION_US = (140, 204, 332, 588, 1100, 2116, 4156, 8244)
AVERAGED = (1, 4, 16, 64, 128, 256, 512, 1024)


def cycle_ns(config: int) -> int:
    """Return the time between two renewals of the registers."""
    channels = (config >> 12 & 7).bit_count()
    return channels * (CONVERSION_US[config >> 6 & 7] + CONVERSION_US[config >> 3 & 7]) * 1000


@on()
def test_settings_are_read_as_the_driver_shows_them(booted: Booted) -> None:
    found = booted.result("settings")
    for (samples, _, third), one in zip(found["asked"], found["found"], strict=True):
        settings = one["configuration"]["chips"]["1-0040"]
        assert settings["samples"] == int(samples) == AVERAGED[one["config"] >> 9 & 7]
        assert settings["update_interval_ms"] == one["shown_ms"]
        assert settings["enabled"]["ch3"] == int(third) == one["config"] >> 12 & 1
    assert len({one["config"] for one in found["found"]}) == len(found["found"])


def shown_ms(config: int, driver: str) -> int:
    """Return what the driver shows as update_interval: 5.10 counts the averaging in."""
    counted = AVERAGED[config >> 9 & 7] if driver == "5.10" else 1
    return (cycle_ns(config) * counted + 500_000) // 1_000_000


@on()
def test_the_refresh_is_learned_from_the_settings(booted: Booted) -> None:
    for one in booted.result("settings")["found"]:
        config = one["config"]
        assert one["shown_ms"] == shown_ms(config, booted.machine.driver)
        (group,) = [group for group in one["groups"] if group["name"] == "1-0040"]
        learned = one["configuration"]["chips"]["1-0040"]["refresh"]
        # The driver shows whole ms; what that leaves open is said, and no refresh is missed.
        assert cycle_ns(config) in learned["candidates_ns"]
        assert group["period_ns"] <= cycle_ns(config)
        alike = [
            step
            for step in range(8)
            if shown_ms(config & ~0x1F8 | step << 6 | step << 3, booted.machine.driver)
            == one["shown_ms"]
        ]
        if len(alike) == 1:
            assert group["refresh_ns"] == cycle_ns(config), learned


@on()
def test_changed_settings_are_put_back_in_the_register(booted: Booted) -> None:
    rows = booted.result("put_back")["rows"]
    assert {row["how"] for row in rows} == {"done", "raised", "killed"}
    for row in rows:
        for before, during in zip(row["before"], row["during"], strict=True):
            # 2 ms over the channels that are on: the nearest of the eight conversion times.
            channels = (before >> 12 & 7).bit_count()
            nearest = min(CONVERSION_US, key=lambda us: abs(2 * us * channels - 2000))
            assert CONVERSION_US[during >> 6 & 7] == CONVERSION_US[during >> 3 & 7] == nearest
            assert AVERAGED[during >> 9 & 7] == 4
        assert row["left"] == []
        if row["registers_shown"] or not ambiguous(row["before"], booted.machine.driver):
            assert row["after"] == row["before"], row
        else:
            # Without the register two conversion times can look alike; then it says so.
            assert row["notes"] or row["how"] == "killed"


def ambiguous(configs: list[int], driver: str) -> bool:
    """Whether `update_interval` reads the same for another conversion time."""
    if driver == "5.10":
        return False
    for config in configs:
        channels = (config >> 12 & 7).bit_count()
        shown = [(2 * us * channels + 500) // 1000 for us in CONVERSION_US]
        if shown.count(shown[config >> 3 & 7]) > 1:
            return True
    return False
