"""From reads to power: pairing, failed reads, other kinds of channels, totals, tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.dataset.convert import convert_one
from edgejoule.energy.integrate import energy_mj
from edgejoule.energy.trace import (
    RailPower,
    rail_powers,
    rail_powers_of_samples,
    read_samples,
    total_power,
)
from edgejoule.errors import MeasurementError
from edgejoule.records import POWER, RecordWriter
from tests.support_power import SAMPLE, voltage_and_current


def reads(*rows: tuple[int, int, int, int, int]) -> np.ndarray:
    return np.array(list(rows), dtype=SAMPLE)


def test_power_is_current_times_the_voltage_nearest_in_time() -> None:
    samples = reads(
        (0, 10, 5000, 0, 0),
        (100, 110, 1000, 1, 0),  # nearer to the voltage before it
        (290, 310, 4000, 0, 0),
        (310, 330, 2000, 1, 0),  # nearer to the one just read
        (900, 910, 3000, 1, 0),  # after the last voltage
    )
    series = rail_powers_of_samples(voltage_and_current(), samples)["VDD_IN"]
    assert series.t_ns.tolist() == [105, 320, 905]
    assert series.power_mw.tolist() == [5000.0, 8000.0, 12000.0]


def test_failed_reads_have_no_value_and_equal_ones_stay() -> None:
    samples = reads(
        (0, 2, 5000, 0, 0),
        (4, 6, 1000, 1, 0),
        (10, 12, 0, 0, 110),
        (14, 16, 1000, 1, 0),
        (20, 22, 5000, 0, 0),
        (24, 26, 0, 1, 61),
        (34, 36, 1000, 1, 0),
    )
    series = rail_powers_of_samples(voltage_and_current(), samples)["VDD_IN"]
    assert series.t_ns.tolist() == [5, 15, 35]
    assert series.power_mw.tolist() == [5000.0] * 3


def test_negative_current_is_negative_power() -> None:
    samples = reads((0, 2, 5000, 0, 0), (4, 6, -80, 1, 0))
    series = rail_powers_of_samples(voltage_and_current(), samples)["VDD_IN"]
    assert series.power_mw.tolist() == [-400.0]


def test_a_rail_without_values_is_empty_and_half_a_rail_is_left_out() -> None:
    half = [{"index": 2, "rail": "HALF", "quantity": "voltage", "unit": "mV"}]
    samples = reads((0, 2, 5000, 0, 0), (4, 6, 0, 1, 61), (8, 9, 5000, 2, 0))
    rails = rail_powers_of_samples(voltage_and_current() + half, samples)
    assert list(rails) == ["VDD_IN"]
    assert len(rails["VDD_IN"].t_ns) == 0


def test_power_channels_are_taken_as_they_are() -> None:
    channels = [{"index": 0, "rail": "GPU", "quantity": "power", "unit": "mW"}]
    samples = reads((0, 2, 70000, 0, 0), (10, 12, 90000, 0, 0))
    assert rail_powers_of_samples(channels, samples)["GPU"].power_mw.tolist() == [70000.0, 90000.0]


COUNTER = [{"index": 0, "rail": "PKG", "quantity": "energy", "unit": "mJ"}]


def test_an_energy_counter_gives_the_power_between_its_ticks() -> None:
    second = 10**9
    counts = [100, 100, 150, 150, 150, 250, 250, 260]
    rows = [(i * second, i * second, count, 0, 0) for i, count in enumerate(counts)]
    series = rail_powers_of_samples(COUNTER, reads(*rows))["PKG"]
    # Ticks at 2 s (150), 5 s (250), 7 s (260): 100 mJ in 3 s, then 10 mJ in 2 s.
    assert energy_mj(series, 2 * second, 5 * second).energy_mj == pytest.approx(100)
    assert energy_mj(series, 5 * second, 7 * second - 1).energy_mj == pytest.approx(10)
    assert energy_mj(series, 3 * second, 4 * second).energy_mj == pytest.approx(100 / 3)


def test_a_counter_with_one_tick_or_a_step_back() -> None:
    rows = reads((0, 0, 5, 0, 0), (10, 10, 6, 0, 0), (20, 20, 6, 0, 0))
    assert len(rail_powers_of_samples(COUNTER, rows)["PKG"].t_ns) == 0
    rows = reads((0, 0, 5, 0, 0), (10, 10, 4, 0, 0))
    with pytest.raises(MeasurementError, match="went backwards"):
        rail_powers_of_samples(COUNTER, rows)


def test_a_foreign_unit_and_disordered_times_are_refused() -> None:
    channels = [{"index": 0, "rail": "X", "quantity": "power", "unit": "W"}]
    with pytest.raises(MeasurementError, match="power in W"):
        rail_powers_of_samples(channels, reads((0, 2, 5, 0, 0)))
    channels[0]["unit"] = "mW"
    with pytest.raises(MeasurementError, match="do not increase"):
        rail_powers_of_samples(channels, reads((10, 12, 5, 0, 0), (0, 2, 5, 0, 0)))
    with pytest.raises(MeasurementError, match="differ in length"):
        RailPower("X", np.arange(3), np.zeros(2))


@st.composite
def series_of(draw: st.DrawFn, name: str) -> RailPower:
    steps = draw(st.lists(st.integers(1, 10**7), min_size=3, max_size=30))
    powers = draw(st.lists(st.floats(0, 30_000), min_size=len(steps), max_size=len(steps)))
    # From an uptime of a hundred days on: float64 cannot hold such a time to the nanosecond.
    return RailPower(name, 8_640_000_000_000_001 + np.cumsum(steps), np.array(powers))


@given(one=series_of("A"), other=series_of("B"))
def test_the_energy_of_the_total_is_the_sum_of_the_energies(
    one: RailPower, other: RailPower
) -> None:
    total = total_power([one, other])
    if len(total.t_ns) < 2:
        return
    start, end = int(total.t_ns[0]), int(total.t_ns[-1])
    parts = [energy_mj(series, start, end).energy_mj for series in (one, other)]
    assert energy_mj(total, start, end).energy_mj == pytest.approx(sum(parts), rel=1e-9, abs=1e-9)


def test_a_total_covers_what_all_rails_cover() -> None:
    one = RailPower("A", np.array([0, 10, 20]), np.array([1.0, 1.0, 3.0]))
    other = RailPower("B", np.array([5, 15]), np.array([10.0, 20.0]))
    total = total_power([one, other], "both")
    assert total.t_ns.tolist() == [5, 10, 15]
    assert total.power_mw.tolist() == [11.0, 16.0, 22.0]
    assert total.rail == "both"
    nothing = RailPower("C", np.empty(0, np.int64), np.empty(0))
    assert len(total_power([one, nothing]).t_ns) == len(total_power([]).t_ns) == 0


def test_table_and_record_file_give_the_same_power(tmp_path: Path) -> None:
    rows = [(0, 2, 5000, 0, 0), (4, 6, 1000, 1, 0), (10, 12, 0, 0, 61), (14, 16, 1100, 1, 0)]
    header = {"channels": voltage_and_current(), "sensor": "ina3221", "simulated": False}
    writer = RecordWriter(tmp_path / "power.bin", POWER, header)
    for row in rows:
        writer.write(*row)
    writer.close()
    with (tmp_path / "power.bin").open("ab") as file:
        file.write(b"half a record")
    read_header, samples = read_samples(tmp_path / "power.bin")
    assert len(samples) == len(rows)
    first = rail_powers_of_samples(read_header["channels"], samples)["VDD_IN"]
    convert_one(tmp_path, "power")
    second = rail_powers(tmp_path / "power.parquet")["VDD_IN"]
    assert first.t_ns.tolist() == second.t_ns.tolist() == [5, 15]
    assert first.power_mw.tolist() == second.power_mw.tolist() == [5000.0, 5500.0]


def test_a_table_without_channels_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"raw": [1]}), tmp_path / "x.parquet")
    with pytest.raises(MeasurementError, match="no channel table"):
        rail_powers(tmp_path / "x.parquet")
