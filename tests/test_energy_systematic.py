"""Systematic bounds: what each sensor's figures come to, per row; and the scaled column."""

import json
import math

import numpy as np
import pytest

from edgejoule.energy.proportional import attribute
from edgejoule.energy.rows import EnergyRow
from edgejoule.energy.scaled import with_scaled
from edgejoule.energy.statistics import block_starts
from edgejoule.energy.systematic import (
    SensorTolerance,
    baseline_choice_mw,
    rail_voltages_mv,
    rounding_mw,
    systematic_bounds,
    with_systematic,
)
from edgejoule.power.sensor import Channel


def ina(rail="VDD_IN", shunt=5000, lsb=8.0, bus_lsb=8.0, first=0, sensor="ina3221"):
    """Voltage and current of a rail, as a run's channel table has them."""
    return [
        Channel(first, rail, "voltage", "mV", "1-0040", "in1", None, bus_lsb, sensor).to_json(),
        Channel(first + 1, rail, "current", "mA", "1-0040", "c1", shunt, lsb, sensor).to_json(),
    ]


def run_sensor(channels, name="ina3221", simulated=False, **more):
    return {"name": name, "simulated": simulated, "channels": channels, **more}


def test_the_ina3221s_figures_are_those_of_its_data_sheet():
    """5 mOhm at 5 V: 100 uV of offset (80 and 40 K x 0.5) are 20 mA, that is 100 mW."""
    found = systematic_bounds(run_sensor(ina()), "VDD_IN", {"VDD_IN": 5000.0})
    assert found.offset_mw == pytest.approx(100.0)
    assert found.step_mw == pytest.approx(20.0)  # half of 8 mA at 5 V
    chip = 2 * (0.0025 + 40 * 50e-6)
    assert found.gain_rel == pytest.approx(chip + 0.01 + (16 + 3.2) / 5000)
    assert any("SBOS576" in source for source in found.sources)
    assert any("shunt" in text and "assumption" in text for text in found.assumptions)


def test_without_a_voltage_or_a_shunt_nothing_is_made_up():
    assert systematic_bounds(run_sensor(ina()), "VDD_IN").offset_mw is None
    no_shunt = systematic_bounds(run_sensor(ina(shunt=None)), "VDD_IN", {"VDD_IN": 5000.0})
    assert no_shunt.offset_mw is None
    assert no_shunt.bound_mj(10.0, 1.0) is None
    assert systematic_bounds(run_sensor(ina()), "VDD_SOC").gain_rel is None


def test_the_finer_chip_is_told_by_its_step():
    found = systematic_bounds(
        run_sensor(ina("VIN", bus_lsb=3.125, lsb=None)), "VIN", {"VIN": 19000.0}
    )
    assert found.gain_rel == pytest.approx(0.007 + 0.01 + 6.6 / 19000)
    assert found.step_mw is None  # no step of the current is known: no bound
    assert found.bound_mj(1.0, 1.0) is None


@pytest.mark.parametrize(
    ("name", "channel", "gain"),
    [
        ("nvml", Channel(0, "GPU", "power", "mW", "GPU-1", "power", sensor="nvml"), 0.05),
        ("rapl", Channel(0, "package-0", "energy", "uJ", "p", "e", sensor="rapl"), None),
        ("battery", Channel(0, "BAT0", "power", "uW", "BAT0", "p", sensor="battery"), None),
        ("tegrastats", Channel(0, "VDD_IN", "power", "mW", "t", "VDD_IN", sensor="tegrastats"),
         0.009 + 0.01),
        ("something", Channel(0, "X", "power", "mW", "t", "x", sensor="something"), None),
    ],
)  # fmt: skip
def test_other_sensors_say_what_is_known_and_from_where(name, channel, gain):
    found = systematic_bounds(run_sensor([channel.to_json()], name), channel.rail)
    assert found.gain_rel == (None if gain is None else pytest.approx(gain))
    assert found.sources
    known = found.bound_mj(100.0, 10.0)
    assert (known is None) == (name != "nvml")
    if known is not None:
        assert known == pytest.approx(5.0 + 0.5e-2, abs=1e-6)
        assert any("assumption" in text for text in found.assumptions)


def test_the_simulated_board_is_exact_but_for_its_steps():
    found = systematic_bounds(
        run_sensor(ina(sensor="simulated"), "simulated", True), "VDD_IN", {"VDD_IN": 5000.0}
    )
    assert (found.gain_rel, found.offset_mw, found.step_mw) == (0.0, 0.0, pytest.approx(20.0))


def test_a_total_has_the_largest_gain_and_all_offsets():
    channels = ina("A") + ina("B", shunt=2000, first=2) + ina("C", first=4)
    sensor = run_sensor(channels, total={"rails": ["A", "B"], "contains": "", "excludes": ""})
    voltages = {"A": 5000.0, "B": 19700.0}
    a, b = (systematic_bounds(sensor, rail, voltages) for rail in "AB")
    found = systematic_bounds(sensor, "total", voltages)
    assert found.offset_mw == pytest.approx(a.offset_mw + b.offset_mw)
    assert found.step_mw == pytest.approx(a.step_mw + b.step_mw)
    assert found.gain_rel == max(a.gain_rel, b.gain_rel)
    assert len(found.sources) == 1  # said once
    assert systematic_bounds(sensor, "total", {"A": 5000.0}).offset_mw is None
    assert systematic_bounds({**sensor, "total": None}, "total", voltages).gain_rel is None


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_rounding_leaves_no_more_than_is_said(spread):
    """Means of rounded normal values, for every place of the true mean between two steps."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, spread, 20_000)
    worst = max(
        abs(float(np.mean(np.rint(place + noise) - (place + noise))))
        for place in np.linspace(0, 1, 41)
    )
    assert worst <= rounding_mw(1.0, spread) + 4 * 0.3 / math.sqrt(20_000)
    assert rounding_mw(1.0, spread) <= 0.5 == rounding_mw(1.0, None)
    assert rounding_mw(0.0, spread) == 0.0


def rows_of(**changes):
    base = {
        "method": "window", "rail": "VDD_IN", "kind": "layer", "layer": 0, "gross_mj": 10.0,
        "gross_statistical_mj": 0.1, "dynamic_mj": 6.0, "dynamic_statistical_mj": 0.1,
        "systematic_mj": None, "n": 5, "resolved": True, "time_ms": 2.0,
    }  # fmt: skip
    return EnergyRow(**{**base, **changes})


TOLERANCE = SensorTolerance(0.01, 100.0, 20.0)


def test_a_bound_is_gain_offset_and_the_choice_of_baseline():
    (row,) = with_systematic([rows_of()], TOLERANCE, 50.0)
    assert row.systematic_mj == pytest.approx(0.01 * 10.0 + 0.120 * 2.0 + 0.050 * 2.0)
    assert row.gross_statistical_mj == 0.1  # apart
    (gross_only,) = with_systematic([rows_of(dynamic_mj=None)], TOLERANCE, 50.0)
    assert gross_only.systematic_mj == pytest.approx(0.01 * 10.0 + 0.120 * 2.0)
    (alone,) = with_systematic([rows_of(method="replay", alone_ms=3.0)], TOLERANCE, 50.0)
    assert alone.systematic_mj == pytest.approx(0.01 * 10.0 + 0.120 * 2.0 + 0.050 * 3.0)
    (unknown,) = with_systematic([rows_of()], SensorTolerance(None, 0.0, 0.0), None)
    assert unknown.systematic_mj is None


def test_groups_and_sums_take_the_time_of_what_they_hold():
    nothing = {"gross_mj": None, "dynamic_mj": None, "resolved": False, "group": 1}
    rows = [
        rows_of(),
        rows_of(layer=1, time_ms=1.0, **nothing),
        rows_of(layer=2, time_ms=0.5, **nothing),
        rows_of(kind="group", layer=None, group=1, time_ms=None, gross_mj=7.0),
        rows_of(kind="gap", layer=None, time_ms=0.25, gross_mj=1.0),
        rows_of(kind="closure", layer=None, time_ms=None, gross_mj=18.0),
    ]
    bounds = [row.systematic_mj for row in with_systematic(rows, TOLERANCE, None)]
    assert bounds[1] is bounds[2] is None
    assert bounds[3] == pytest.approx(0.07 + 0.12 * 1.5)
    assert bounds[5] == pytest.approx(0.18 + 0.12 * 3.75)
    # Bounds add up as the energies do: what is wrong is wrong for all alike.
    assert bounds[5] == pytest.approx(bounds[0] + bounds[3] + bounds[4])
    without = with_systematic([rows_of(kind="group", time_ms=None, group=9)], TOLERANCE, None)
    assert without[0].systematic_mj is None


def test_the_bound_holds_what_a_wrong_sensor_makes_of_a_run():
    """Gain, offset and another baseline at their worst move gross and dynamic by no more."""
    n = 40
    duration_ns = np.full(n, 5_000_000)
    true_mj = np.full(n, 40.0)
    layer_ns = np.outer(np.diff(np.append(block_starts(n), n)), [3_000_000.0, 1_000_000.0])
    exact = attribute("x", true_mj, duration_ns, layer_ns, 2000.0, None)
    bounded = with_systematic(exact, SensorTolerance(0.02, 150.0, 0.0), 30.0)
    for gain, offset, choice in [(0.02, 150.0, 30.0), (-0.02, -150.0, -30.0), (0.02, 150.0, -30.0)]:
        read_mj = (1 + gain) * true_mj + offset * 5e-3
        idle = (1 + gain) * 2000.0 + offset + choice
        wrong = attribute("x", read_mj, duration_ns, layer_ns, idle, None)
        for row, moved in zip(bounded, wrong, strict=True):
            assert abs(moved.gross_mj - row.gross_mj) <= row.systematic_mj + 1e-9
            assert abs(moved.dynamic_mj - row.dynamic_mj) <= row.systematic_mj + 1e-9


def test_the_choice_of_baseline_is_the_farthest_that_could_have_been():
    assert baseline_choice_mw(2000.0, [1990.0, 2010.0, 2035.0]) == 35.0
    assert baseline_choice_mw(None, [1.0]) is None
    assert baseline_choice_mw(2000.0, []) is None


def test_voltages_are_read_from_a_trace(tmp_path):
    """As the format has it: a read that failed has an errno and no value."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    from edgejoule.dataset.schema import METADATA_KEY

    channels = ina("VDD_IN") + ina("VDD_SOC", first=2)
    columns = {
        "channel": pa.array([0, 1, 0, 2, 3, 0], pa.int16()),
        "raw": pa.array([5000, 800, 5008, 4900, 700, None], pa.int64()),
        "errno": pa.array([None, None, None, None, None, 5], pa.int16()),
    }
    metadata = {METADATA_KEY: json.dumps({"channels": channels})}
    table = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "power.parquet")
    found = rail_voltages_mv(tmp_path / "power.parquet")
    assert found == {"VDD_IN": 5004.0, "VDD_SOC": 4900.0}


def test_scaled_energies_are_shares_of_the_clean_pass():
    n = 40
    layer_ns = np.outer(np.diff(np.append(block_starts(n), n)), [600_000.0, 300_000.0])
    rows = attribute("x", np.full(n, 4.0), np.full(n, 1_000_000), layer_ns, 1000.0, None)
    scaled = with_scaled(rows, 3.0, 2.5)
    parts = [row for row in scaled if row.kind in ("layer", "gap")]
    assert sum(row.scaled_gross_mj for row in parts) == pytest.approx(3.0)
    assert sum(row.scaled_dynamic_mj for row in parts) == pytest.approx(2.5)
    assert parts[0].scaled_gross_mj == pytest.approx(0.6 * 3.0)
    assert [row.gross_mj for row in scaled] == [row.gross_mj for row in rows]  # nothing rescaled
    whole, closure = scaled[-2:]
    assert (whole.scaled_gross_mj, closure.scaled_gross_mj) == (None, 3.0)
    assert with_scaled(rows, None, 2.5)[0].scaled_gross_mj is None
    assert with_scaled(rows[:2], 3.0, 2.5) == rows[:2]  # no sum, no shares


def test_what_is_not_resolved_has_no_share_and_its_group_has():
    nothing = {"gross_mj": None, "dynamic_mj": None, "resolved": False, "group": 1}
    rows = [
        rows_of(),
        rows_of(layer=1, **nothing),
        rows_of(kind="group", layer=None, group=1, gross_mj=6.0, dynamic_mj=-7.0),
        rows_of(kind="closure", layer=None, gross_mj=16.0, dynamic_mj=-1.0),
    ]
    scaled = with_scaled(rows, 8.0, 1.0)
    assert [row.scaled_gross_mj for row in scaled] == [5.0, None, 3.0, 8.0]
    assert [row.scaled_dynamic_mj for row in scaled] == [None] * 4  # a sum below 0 has no shares
