"""The project's sampler on the unmodified driver: what it reads, its energy, what it survives."""

from __future__ import annotations

import errno

import numpy as np
import numpy.typing as npt
import pytest

from edgejoule.energy.integrate import energy_mj
from tests.real_driver.conftest import STEPS_MV, STEPS_UV, Booted, on

pytestmark = [pytest.mark.real_driver, pytest.mark.timeout(1800)]

SETTLED_NS = 300_000_000
MONITOR, BOTH = "moving", "moving_attribution"


def readings_not_in_the_register(booted: Booted, scenario: str) -> tuple[int, int]:
    """Count the readings of which the register held no such value between their stamps."""
    channels, samples = booted.samples(scenario)
    wrong = 0
    for channel in channels:
        table = booted.table(scenario, channel["chip"])
        number = int(channel["source"].removesuffix("_input")[-1])
        current = channel["quantity"] == "current"
        register = 2 * number - 1 - current
        scale = STEPS_UV * 1000 // channel["shunt_uohm"] if current else STEPS_MV
        rows = samples[samples["channel"] == channel["index"]]
        first, last = table.cycle(register, rows["t0_ns"]), table.cycle(register, rows["t1_ns"])
        rows, first, last = rows[first >= 0], first[first >= 0], last[first >= 0]
        assert len(rows) > 50
        shown = table.steps[:, register] * scale
        right = np.zeros(len(rows), bool)
        for after in range(int((last - first).max()) + 1):
            right |= (shown[np.minimum(first + after, last)] == rows["raw"]) & (rows["errno"] == 0)
        wrong += int(np.count_nonzero(~right))
    return wrong, len(samples)


@on()
def test_each_reading_is_what_the_register_held_between_its_stamps(booted: Booted) -> None:
    wrong, count = readings_not_in_the_register(booted, MONITOR)
    assert count > 500
    assert wrong == 0


@on("orin-nano", "agx-orin")
def test_so_it_is_at_both_rates(booted: Booted) -> None:
    assert readings_not_in_the_register(booted, BOTH)[0] == 0


def energy_errors(booted: Booted, scenario: str) -> dict[str, float]:
    """Return by how much the energy of each rail is off, relative."""
    result = booted.result(scenario)
    start_ns, end_ns = result["start_ns"] + SETTLED_NS, result["end_ns"]
    rails = booted.rails(scenario)
    errors = {}
    for channel in booted.samples(scenario)[0]:
        if channel["quantity"] == "current":
            number = int(channel["source"].removesuffix("_input")[-1])
            table = booted.table(scenario, channel["chip"])
            truth = table.energy_mj(number, channel["shunt_uohm"], start_ns, end_ns)
            measured = energy_mj(rails[channel["rail"]], start_ns, end_ns)
            assert measured.coverage == 1.0
            errors[channel["rail"]] = measured.energy_mj / truth - 1
    assert len(errors) >= 3
    return errors


@on()
def test_energy_of_a_moving_signal_at_the_monitor_rate(booted: Booted) -> None:
    errors = energy_errors(booted, MONITOR)
    assert max(map(abs, errors.values())) <= 0.005, errors


@on("orin-nano", "agx-orin")
def test_energy_of_a_moving_signal_at_both_rates(booted: Booted) -> None:
    errors = energy_errors(booted, BOTH)
    assert max(map(abs, errors.values())) <= 0.005, errors


def starts(samples: npt.NDArray[np.void], channel: int) -> npt.NDArray[np.int64]:
    """Return when the reads of a channel began."""
    result: npt.NDArray[np.int64] = samples["t0_ns"][samples["channel"] == channel]
    return result


@on("orin-nano", "agx-orin")
def test_the_monitor_sweeps_each_chip_once_per_refresh(booted: Booted) -> None:
    ready = booted.result(MONITOR)["ready"]
    _, samples = booted.samples(MONITOR)
    # 1.1 ms each for voltage and current; the second chip of an AGX Orin has one channel on.
    cycles_ns = {"1-0040": 6_600_000, "1-0041": 2_200_000}
    for group in ready["groups"]:
        # Where the driver's whole ms leave open what the cycle is, the shortest is taken.
        period_ns = group["period_ns"] or group["refresh_ns"]
        assert 0.7 * cycles_ns[group["name"]] < period_ns <= cycles_ns[group["name"]]
        between = np.diff(starts(samples, group["channels"][0]))
        assert np.median(between) == pytest.approx(period_ns, rel=0.01)
        # The guest's clock counts instructions: a sweep is late by what others do, not by chance.
        assert np.mean(np.abs(between - period_ns) < 0.2 * period_ns) > 0.95


@on("orin-nano", "agx-orin")
def test_attribution_polls_irregularly_within_a_quarter_of_the_refresh(booted: Booted) -> None:
    result = booted.result(BOTH)
    channels, samples = booted.samples(BOTH)
    current = next(c["index"] for c in channels if c["quantity"] == "current")
    (group,) = [g for g in result["ready"]["groups"] if current in g["channels"]]
    quarter = group["refresh_ns"] / 4
    between = np.diff(starts(samples, current))
    assert np.mean(between <= 1.1 * quarter) > 0.95
    assert np.std(between) > 0.1 * quarter
    # So no value that the register showed goes unseen.
    table = booted.table(BOTH, channels[current]["chip"])
    rows = samples[samples["channel"] == current]
    inside = rows[(rows["t0_ns"] > result["start_ns"] + SETTLED_NS)]
    cycles = table.cycle(0, inside["t0_ns"])
    assert len(np.unique(cycles)) >= 0.999 * (cycles.max() - cycles.min() + 1)


@on()
def test_the_sampler_lives_through_unbinding(booted: Booted) -> None:
    result = booted.result("rebinding")
    assert result["status"] == 0
    channels, samples = booted.samples("rebinding")
    own = np.array([c["index"] for c in channels if c["chip"] == "1-0040"])
    rows = samples[np.isin(samples["channel"], own)]
    before = rows[rows["t1_ns"] < result["unbind_from_ns"]]
    gone = rows[
        (rows["t0_ns"] > result["unbind_until_ns"]) & (rows["t1_ns"] < result["bind_from_ns"])
    ]
    back = rows[rows["t0_ns"] > result["bind_until_ns"] + SETTLED_NS]
    assert min(len(before), len(gone), len(back)) >= 6
    assert set(before["errno"]) == {0}
    assert set(gone["errno"]) == {errno.ENODEV}
    assert set(back["errno"]) == {0}
    first = {c["quantity"]: c["index"] for c in channels if c["source"][-7] == "1"}
    shunt = next(c["shunt_uohm"] for c in channels if c["index"] == first["current"])
    # What was written to the registers meanwhile, not what was last read.
    assert set(back["raw"][back["channel"] == first["voltage"]]) == {600 * STEPS_MV}
    current = {200 * STEPS_UV * 1000 // shunt}
    assert set(back["raw"][back["channel"] == first["current"]]) == current
    (report,) = result["said"]
    assert report["errors"]["ENODEV"] == np.count_nonzero(samples["errno"] == errno.ENODEV)


@on("agx-orin")
def test_the_other_chip_goes_on_while_one_is_unbound(booted: Booted) -> None:
    channels, samples = booted.samples("rebinding")
    other = [c["index"] for c in channels if c["chip"] == "1-0041"]
    rows = samples[np.isin(samples["channel"], other)]
    assert set(rows["errno"]) == {0}


@on("blocking", "single-shot")
def test_a_read_that_times_out_is_a_row_with_etimedout(booted: Booted) -> None:
    result = booted.result("no_conversion")
    assert result["status"] == 0
    _, samples = booted.samples("no_conversion")
    before = samples[samples["t1_ns"] < result["gone_ns"]]
    gone = samples[(samples["t0_ns"] > result["gone_ns"]) & (samples["t1_ns"] < result["back_ns"])]
    back = samples[samples["t0_ns"] > result["back_ns"]]
    assert set(before["errno"]) == {0}
    assert len(gone) >= 6
    assert set(gone["errno"]) == {errno.ETIMEDOUT}
    assert len(back) >= 6
    assert set(back["errno"]) == {0}
    assert set(gone["raw"]) == {0}
    (report,) = result["said"]
    assert report["errors"] == {"ETIMEDOUT": np.count_nonzero(samples["errno"])}


@on()
def test_a_driver_that_waits_in_every_read_is_known_as_one(booted: Booted) -> None:
    _, samples = booted.samples(MONITOR)
    took_ns = samples["t1_ns"] - samples["t0_ns"]
    waits = np.median(took_ns) > 0.5 * booted.table(MONITOR, "1-0040").period_ns
    assert waits == booted.machine.blocking
    # The kernel sleeps a quarter of a cycle to a whole one between two looks, so that the reads of
    # one opening are long and short by chance: every opening must come to the same answer.
    for opening in booted.result("rails")["openings"]:
        assert opening == [booted.machine.blocking] * len(booted.machine.chips)


@on("blocking", "single-shot")
def test_the_period_is_one_that_waiting_reads_can_keep(booted: Booted) -> None:
    _, samples = booted.samples(MONITOR)
    took_ns = samples["t1_ns"] - samples["t0_ns"]
    # Six files; a conversion is used up by each.
    assert booted.result(MONITOR)["ready"]["period_ns"] > 6 * np.mean(took_ns)


@on("orin-nano")
def test_a_sensor_that_is_gone_for_good_ends_the_sampler_in_words(booted: Booted) -> None:
    result = booted.result("gone_for_good")
    assert result["status"] == 1
    (message,) = [m for m in result["said"] if m["kind"] == "error"]
    assert "ENODEV" in message["message"]
    assert "bound" in message["mend"]
    # What was read until then stays.
    _, samples = booted.samples("gone_for_good")
    assert np.count_nonzero(samples["errno"] == 0) > 100


@on("orin-nano")
def test_a_sweep_costs_a_fraction_of_open_read_close(booted: Booted) -> None:
    spent = booted.result("cpu")
    assert spent["values"] == [5000, 800] * 3
    # Time in the guest is counted in instructions: about a ninth, and the same each time.
    assert spent["sampler_ns"] < spent["polling_ns"] / 4, spent
