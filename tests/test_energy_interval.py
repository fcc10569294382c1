"""The older rule: what lies where, what comes out, and what it cannot tell."""

import numpy as np
import pytest

from edgejoule.energy.interval import WHY, WHY_NOTHING, attribute_interval, place_readings
from edgejoule.energy.timeline import Timeline
from edgejoule.energy.trace import RailPower


def timeline(n=50, layer_ns=(300_000, 200_000, 400_000), gap_ns=100_000, offset=False, **more):
    """Inferences back to back, layers one after the other, the gap at the end."""
    length = sum(layer_ns) + gap_ns
    start = 1_000_000 + length * np.arange(n)
    layers = np.tile(np.array(layer_ns, np.float64), (n, 1))
    begins = np.tile(np.concatenate([[0], np.cumsum(layer_ns)[:-1]]), (n, 1)) + gap_ns
    return Timeline(start, start + length, layers, begins if offset else None, **more)


def by_loop(at_ns, lines):
    """The rule as it is worded, reading by reading."""
    found = []
    for time in at_ns:
        where = -1
        for row in range(len(lines.start_ns)):
            if not lines.start_ns[row] <= time <= lines.end_ns[row]:
                continue
            where = lines.layers
            begin = float(lines.start_ns[row])
            for layer in range(lines.layers):
                if lines.offset_ns is not None:
                    begin = float(lines.start_ns[row] + lines.offset_ns[row, layer])
                if begin <= time <= begin + lines.layer_ns[row, layer]:
                    where = layer
                    break
                begin += lines.layer_ns[row, layer]
        found.append(where)
    return found


@pytest.mark.parametrize("offset", [False, True])
def test_readings_lie_where_a_loop_finds_them(offset):
    lines = timeline(12, offset=offset)
    rng = np.random.default_rng(1)
    at = np.sort(rng.integers(500_000, int(lines.end_ns[-1]) + 500_000, 400))
    # Away from where one inference meets the next: there a reading lies in both.
    at = at[~np.isin(at, np.concatenate([lines.start_ns, lines.end_ns]))]
    where, inference = place_readings(at, lines)
    assert where.tolist() == by_loop(at, lines)
    inside = where >= 0
    assert np.all(lines.start_ns[inference[inside]] <= at[inside])
    assert np.all(inference[~inside] == -1)
    assert set(where.tolist()) == {-1, 0, 1, 2, 3}


def test_time_that_the_profiler_holds_comes_first():
    lines = timeline(3, held_ns=np.full(3, 50_000))
    at = int(lines.start_ns[0]) + np.array([20_000, 60_000, 340_000, 360_000])
    where, _ = place_readings(at, lines)
    assert where.tolist() == [3, 0, 0, 1]


def test_energy_is_the_mean_reading_times_the_mean_time():
    """One reading per us of a power that steps with the layers: then the rule is right."""
    lines = timeline(20)
    at = np.arange(500_000, int(lines.end_ns[-1]) + 500_000, 1000)
    where, _ = place_readings(at, lines)
    power = np.array([5000.0, 9000.0, 3000.0, 1000.0, 700.0])[where]
    rows = attribute_interval("VDD_IN", RailPower("VDD_IN", at, power), lines, 700.0, 10.0)
    assert [row.kind for row in rows] == ["layer"] * 3 + ["gap", "inference", "closure"]
    first, second, third, gap, whole, closure = rows
    assert first.gross_mj == pytest.approx(5000.0 * 300e-6)
    assert second.dynamic_mj == pytest.approx((9000.0 - 700.0) * 200e-6)
    assert gap.gross_mj == pytest.approx(1000.0 * 100e-6)
    assert (first.n, first.resolved, first.why, first.method) == (20, None, WHY, "interval")
    assert [row.time_ms for row in rows] == pytest.approx([0.3, 0.2, 0.4, 0.1, 1.0, 1.0])
    assert first.dynamic_statistical_mj == pytest.approx(10.0 * 300e-6)  # the baseline's alone
    assert closure.gross_mj == pytest.approx(first.gross_mj + second.gross_mj + third.gross_mj
                                             + gap.gross_mj)  # fmt: skip
    assert whole.gross_mj == pytest.approx(closure.gross_mj, rel=0.01)


def test_a_sensors_mean_gives_every_layer_the_networks_mean():
    """Readings that are means over 6.6 ms say nothing of layers below 1 ms, and this shows it."""
    lines = timeline(2000)
    at = np.arange(int(lines.start_ns[0]), int(lines.end_ns[-1]), 1_350_007)
    mean = (5000.0 * 3 + 9000.0 * 2 + 3000.0 * 4 + 1000.0) / 10
    power = mean + np.random.default_rng(1).normal(0, 20, len(at))
    rows = attribute_interval("VDD_IN", RailPower("VDD_IN", at, power), lines, None, None)
    powers = [row.gross_mj / row.time_ms * 1e3 for row in rows[:3]]
    assert np.ptp(powers) < 0.02 * mean
    assert [row.dynamic_mj for row in rows] == [None] * 6


def test_a_layer_without_a_reading_has_no_energy():
    lines = timeline(4)
    at = lines.start_ns + 100_000  # always in the first layer
    series = RailPower("VDD_IN", np.append(at, at[-1] + 10_000_000), np.full(5, 2000.0))
    rows = attribute_interval("VDD_IN", series, lines, 500.0, None)
    assert (rows[1].gross_mj, rows[1].n, rows[1].why) == (None, 0, WHY_NOTHING)
    assert rows[1].time_ms == pytest.approx(0.2)
    assert rows[0].dynamic_statistical_mj is None  # the baseline's interval is not known
    assert rows[-1].gross_mj == pytest.approx(rows[0].gross_mj)
    # The first inference begins before the first reading: it has no energy of its own.
    assert rows[-2].n == 3


def test_nothing_measured_gives_rows_without_numbers():
    series = RailPower("VDD_IN", np.empty(0, np.int64), np.empty(0))
    rows = attribute_interval("VDD_IN", series, timeline(3), 500.0, 1.0)
    assert [row.gross_mj for row in rows[:-1]] == [None] * 5
    assert (rows[-2].n, rows[-1].gross_mj) == (0, 0)
