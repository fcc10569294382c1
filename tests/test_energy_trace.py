"""From reads to power: pairing, failed reads, other kinds of channels, totals, tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
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

MS = 1_000_000


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


def test_a_counter_with_one_tick_has_no_power_yet() -> None:
    rows = reads((0, 0, 5, 0, 0), (10, 10, 6, 0, 0), (20, 20, 6, 0, 0))
    assert len(rail_powers_of_samples(COUNTER, rows)["PKG"].t_ns) == 0
    assert len(rail_powers_of_samples(COUNTER, reads())["PKG"].t_ns) == 0


def counted(values: list[int], step_ns: int = 10 * MS, **more: object) -> RailPower:
    """Return the power of a counter that was read every `step_ns` from 0 on."""
    rows = [(k * step_ns, k * step_ns, value, 0, 0) for k, value in enumerate(values)]
    return rail_powers_of_samples([{**COUNTER[0], **more}], reads(*rows))["PKG"]


def test_a_counter_that_wraps_goes_on() -> None:
    # RAPL: max_energy_range_uj; 1 mJ per 10 ms is 100 mW.
    top = 262_143_328_850
    values = [top - 2500 + 1000 * k for k in range(6)]
    wrapped = [value if value <= top else value - top for value in values]
    series = counted(wrapped, unit="uJ", wrap=top)
    assert series.power_mw.tolist() == pytest.approx([100.0] * 8)
    assert len(series.unknown_ns) == 0
    assert energy_mj(series, 10 * MS, 50 * MS - 1).energy_mj == pytest.approx(4.0, rel=1e-6)


@pytest.mark.parametrize("more", [{}, {"wrap": 10**9}])
def test_a_counter_that_was_reset_begins_anew_and_nothing_else_is_lost(
    more: dict[str, int],
) -> None:
    # With a wrap too: from 420 back to 7 would be 10**9 mJ in 10 ms, which no wrap explains.
    series = counted([100, 200, 300, 420, 7, 107, 207, 327], **more)
    assert series.unknown_ns.tolist() == [[30 * MS, 50 * MS]]
    assert series.t_ns.tolist()[::2] == [10 * MS, 20 * MS, 50 * MS, 60 * MS]
    assert series.power_mw.tolist()[::2] == [10_000.0, 12_000.0, 10_000.0, 12_000.0]
    found = energy_mj(series, 10 * MS, 70 * MS - 1)
    assert found.gaps == 1
    assert found.gap_share == pytest.approx(1 / 3, rel=1e-6)
    assert energy_mj(series, 10 * MS, 30 * MS - 1).gaps == 0
    total = total_power([series, RailPower("B", series.t_ns, series.power_mw)])
    assert energy_mj(total, 10 * MS, 70 * MS - 1).gaps == 1


def test_a_reset_without_two_ticks_around_it_is_uncovered() -> None:
    series = counted([100, 200, 5, 105, 205])
    assert series.t_ns.tolist() == [30 * MS, 40 * MS - 1]
    assert len(series.unknown_ns) == 0
    # With nothing to compare with, what would be more than half the range is a reset.
    assert len(counted([100, 90, 80], wrap=110).t_ns) == 0
    assert len(counted([100, 10, 100, 10], wrap=110).t_ns) == 4
    assert len(counted([900, 1, 900, 1], wrap=10).t_ns) == 0  # more than its range: corrupt


@settings(deadline=None)
@given(
    steps=st.lists(st.integers(0, 400), min_size=4, max_size=60),
    start=st.integers(0, 10**4),
    outage=st.integers(1, 3),
)
def test_a_wrapping_counter_has_the_energy_of_one_that_does_not(
    steps: list[int], start: int, outage: int
) -> None:
    plain = (start + np.cumsum(steps))[::outage].tolist()
    # Of a range of 10**4 no tick is above half.
    around = counted([value % 10**4 for value in plain], wrap=10**4)
    straight = counted(plain)
    assert around.t_ns.tolist() == straight.t_ns.tolist()
    assert around.power_mw.tolist() == pytest.approx(straight.power_mw.tolist())


@pytest.mark.parametrize(
    ("unit", "raw", "power"), [("uW", 7_250_000, 7250.0), ("mW", 7250, 7250.0)]
)
def test_power_in_every_unit(unit: str, raw: int, power: float) -> None:
    channels = [{"index": 0, "rail": "VIN", "quantity": "power", "unit": unit}]
    assert rail_powers_of_samples(channels, reads((0, 2, raw, 0, 0)))["VIN"].power_mw[0] == power


@pytest.mark.parametrize(
    ("voltage", "current", "volts", "amperes"),
    [("mV", "mA", 10**3, 10**3), ("uV", "uA", 10**6, 10**6), ("uV", "mA", 10**6, 10**3)],
)
def test_voltage_times_current_in_every_unit(
    voltage: str, current: str, volts: int, amperes: int
) -> None:
    channels = voltage_and_current()
    channels[0]["unit"], channels[1]["unit"] = voltage, current
    samples = reads((0, 2, 12 * volts, 0, 0), (4, 6, 3 * amperes, 1, 0))
    series = rail_powers_of_samples(channels, samples)["VDD_IN"]
    assert series.power_mw[0] == pytest.approx(36_000.0)


@pytest.mark.parametrize(("unit", "joule"), [("mJ", 10**3), ("uJ", 10**6)])
def test_a_counter_in_every_unit(unit: str, joule: int) -> None:
    series = counted([k * joule for k in range(5)], 10**9, unit=unit)
    assert series.power_mw.tolist() == pytest.approx([1000.0] * 6)


def test_a_current_without_a_voltage_near_has_no_power() -> None:
    second = 10**9
    samples = reads(
        (0, 2, 5000, 0, 0),
        (10, 12, 1000, 1, 0),
        (second // 2, second // 2, 1000, 1, 0),
        (4 * second, 4 * second, 1000, 1, 0),  # the voltage's file has failed since
    )
    series = rail_powers_of_samples(voltage_and_current(), samples)["VDD_IN"]
    assert series.t_ns.tolist() == [11, second // 2]


def test_one_label_on_two_chips_is_two_rails() -> None:
    one = {"rail": "CPU", "quantity": "power", "unit": "mW"}
    channels = [{**one, "index": 0, "chip": "1-0040"}, {**one, "index": 1, "chip": "1-0041"}]
    rails = rail_powers_of_samples(channels, reads((0, 2, 5, 0, 0), (3, 4, 7, 1, 0)))
    assert {name: series.power_mw.tolist() for name, series in rails.items()} == {
        "CPU": [5.0],
        "CPU@1-0041": [7.0],
    }


def test_a_counter_is_preferred_to_a_power_that_is_a_mean_over_a_second() -> None:
    power = {"index": 0, "rail": "GPU", "quantity": "power", "unit": "mW", "averaging": "1 s mean"}
    samples = reads(*((k * 100, k * 100, v, c, 0) for k in range(4) for c, v in ((0, 9), (1, k))))
    both = [power, {**COUNTER[0], "index": 1, "rail": "GPU"}]
    assert rail_powers_of_samples(both, samples)["GPU"].late_ns is not None
    both[0] = {**power, "averaging": None}
    assert rail_powers_of_samples(both, samples)["GPU"].power_mw.tolist() == [9.0] * 4


def test_the_attributed_rails_many_currents_share_its_few_voltages() -> None:
    """Attribution mode: current 200 times as often as voltage, each with the nearest one."""
    rng = np.random.default_rng(3)
    times = np.sort(rng.choice(np.arange(1, 2_000_000), 100_000, replace=False)) * 1000
    slow = np.arange(0, 2_000_000_000, 4_000_000)
    volts = rng.integers(4800, 5200, len(slow))
    samples = np.zeros(len(times) + len(slow), SAMPLE)
    samples["t0_ns"] = samples["t1_ns"] = np.concatenate([times, slow + 1])
    samples["raw"] = np.concatenate([np.full(len(times), 1000), volts])
    samples["channel"] = np.repeat([1, 0], [len(times), len(slow)])
    samples = samples[np.argsort(samples["t0_ns"], kind="stable")]
    series = rail_powers_of_samples(voltage_and_current(), samples)["VDD_IN"]
    assert series.t_ns.tolist() == times.tolist()
    chosen = rng.integers(0, len(times), 500)
    nearest = [int(np.argmin(np.abs(slow + 1 - times[k]))) for k in chosen]
    assert series.power_mw[chosen].tolist() == volts[nearest].tolist()


def test_a_foreign_unit_and_disordered_times_are_refused() -> None:
    channels = [{"index": 0, "rail": "X", "quantity": "power", "unit": "W"}]
    with pytest.raises(MeasurementError, match="power in W"):
        rail_powers_of_samples(channels, reads((0, 2, 5, 0, 0)))
    channels[0]["unit"] = "mW"
    with pytest.raises(MeasurementError, match="do not increase"):
        rail_powers_of_samples(channels, reads((10, 12, 5, 0, 0), (0, 2, 5, 0, 0)))
    with pytest.raises(MeasurementError, match="differ in length"):
        RailPower("X", np.arange(3), np.zeros(2))
    with pytest.raises(MeasurementError, match="lateness differ in length"):
        RailPower("X", np.arange(3), np.zeros(3), late_ns=np.arange(2))
    with pytest.raises(MeasurementError, match="do not increase"):
        rail_powers_of_samples(COUNTER, reads((10, 10, 5, 0, 0), (10, 10, 6, 0, 0)))


@st.composite
def series_of(draw: st.DrawFn, name: str) -> RailPower:
    steps = draw(st.lists(st.integers(1, 10**7), min_size=3, max_size=30))
    powers = draw(st.lists(st.floats(0, 30_000), min_size=len(steps), max_size=len(steps)))
    # From an uptime of a hundred days on: float64 cannot hold such a time to the nanosecond.
    return RailPower(name, 8_640_000_000_000_001 + np.cumsum(steps), np.array(powers))


@settings(deadline=None)
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
