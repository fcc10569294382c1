"""Energy over windows: exact for steps, ramps and duty cycles; additive; honest about coverage."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.energy.integrate import energies_mj, energy_mj
from edgejoule.energy.trace import RailPower
from edgejoule.errors import MeasurementError

MS = 1_000_000
UPTIME = 8_640_000_000_000_001  # a hundred days: float64 cannot hold such a time to the ns


def series_of(times: np.ndarray, power: np.ndarray) -> RailPower:
    return RailPower("VDD_IN", times.astype(np.int64), power.astype(np.float64))


@st.composite
def traces(draw: st.DrawFn) -> RailPower:
    """Any trace with uneven steps."""
    steps = draw(st.lists(st.integers(1, 20 * MS), min_size=2, max_size=40))
    powers = draw(st.lists(st.floats(-100, 60_000), min_size=len(steps), max_size=len(steps)))
    return series_of(UPTIME + np.cumsum(steps), np.array(powers))


@given(
    offset=st.floats(0, 20_000),
    slope=st.floats(-5, 5),
    start=st.floats(0, 0.4),
    length=st.floats(0.05, 0.6),
)
def test_a_ramp_is_exact(offset: float, slope: float, start: float, length: float) -> None:
    times = UPTIME + np.arange(0, 1000 * MS + 1, 7 * MS)
    elapsed_ms = (times - UPTIME) / MS
    span = int(times[-1] - times[0])
    first = UPTIME + int(start * span)
    last = first + int(length * span)
    a, b = (first - UPTIME) / MS, (last - UPTIME) / MS
    truth = (offset * (b - a) + slope * (b * b - a * a) / 2) * 1e-3
    found = energy_mj(series_of(times, offset + slope * elapsed_ms), first, last)
    assert found.energy_mj == pytest.approx(truth, rel=1e-9, abs=1e-6)
    assert found.coverage == 1.0
    assert found.mean_mw == pytest.approx(truth / ((b - a) * 1e-3), rel=1e-9, abs=1e-6)


@given(
    period_ms=st.floats(40, 90),
    duty=st.floats(0.5, 0.9),
    low=st.floats(1000, 6000),
    high=st.floats(0, 6000),
    phase=st.floats(0, 1),
)
def test_duty_cycles_stay_within_a_thousandth(
    period_ms: float, duty: float, low: float, high: float, phase: float
) -> None:
    # 50 kHz for a second: each of the at most 51 edges is wrong by at most half a step of 20 us,
    # together 0.08 % of the least energy.
    times = UPTIME + np.arange(0, 1000 * MS + 1, 20_000)
    turn = (times - UPTIME) / (period_ms * MS) + phase
    series = series_of(times, np.where(turn % 1.0 < duty, low + high, low))
    ends = turn[[0, -1]]
    busy_turns = np.floor(ends) * duty + np.minimum(ends % 1.0, duty)
    truth = low + high * (busy_turns[1] - busy_turns[0]) * period_ms * 1e-3
    found = energy_mj(series, int(times[0]), int(times[-1])).energy_mj
    assert found == pytest.approx(truth, rel=1e-3)


@given(before=st.floats(0, 9000), after=st.floats(0, 9000), at=st.floats(0.1, 0.9))
def test_a_step_is_right_within_its_edge(before: float, after: float, at: float) -> None:
    times = UPTIME + np.arange(0, 10_000 * MS, 7 * MS)
    step_ns = UPTIME + int(at * 9_900 * MS)
    series = series_of(times, np.where(times < step_ns, before, after))
    start, end = int(times[0]), int(times[-1])
    truth = (before * (step_ns - start) + after * (end - step_ns)) * 1e-9
    error = abs(energy_mj(series, start, end).energy_mj - truth)
    assert error <= 0.5 * 7 * MS * abs(after - before) * 1e-9 + 1e-9 * truth + 1e-9


@given(trace=traces(), cuts=st.lists(st.floats(0, 1), min_size=3, max_size=10, unique=True))
def test_adjacent_windows_add_up(trace: RailPower, cuts: list[float]) -> None:
    first, last = int(trace.t_ns[0]), int(trace.t_ns[-1])
    edges = np.unique([first + int(cut * (last - first)) for cut in cuts])
    if len(edges) < 2:
        return
    parts = energies_mj(trace, edges[:-1], edges[1:])
    whole = energy_mj(trace, int(edges[0]), int(edges[-1]))
    assert parts.sum() == pytest.approx(whole.energy_mj, rel=1e-9, abs=1e-6)
    singles = [energy_mj(trace, int(a), int(b)).energy_mj for a, b in pairwise(edges)]
    assert parts.tolist() == pytest.approx(singles, rel=1e-9, abs=1e-6)


@given(trace=traces(), data=st.data())
def test_points_on_the_line_change_nothing(trace: RailPower, data: st.DataObject) -> None:
    """More samples of the same power, equal ones included, give the same energy."""
    extra = data.draw(st.integers(int(trace.t_ns[0]), int(trace.t_ns[-1])))
    times = np.union1d(trace.t_ns, [extra])
    power = np.interp(times - trace.t_ns[0], trace.t_ns - trace.t_ns[0], trace.power_mw)
    start, end = int(trace.t_ns[0]), int(trace.t_ns[-1])
    dense = energy_mj(series_of(times, power), start, end).energy_mj
    assert dense == pytest.approx(energy_mj(trace, start, end).energy_mj, rel=1e-9, abs=1e-6)


FLAT = series_of(np.arange(0, 110, 10) * MS, np.full(11, 5000.0))


def test_what_is_not_covered_is_not_made_up() -> None:
    part = energy_mj(FLAT, 50 * MS, 250 * MS)
    assert part.coverage == 0.25
    assert (part.energy_mj, part.mean_mw) == pytest.approx((250.0, 5000.0))
    assert part.largest_gap_ns == 150 * MS
    before = energy_mj(FLAT, -60 * MS, 40 * MS)
    assert (before.coverage, before.largest_gap_ns) == (0.4, 60 * MS)
    for start, end in ((-20, -10), (-20, 0), (100, 110), (200, 300)):
        nothing = energy_mj(FLAT, start * MS, end * MS)
        assert math.isnan(nothing.energy_mj)
        assert math.isnan(nothing.mean_mw)
        assert nothing.coverage == 0.0
    many = energies_mj(FLAT, [0, 50 * MS, -1, 10], [100 * MS, 101 * MS, 5, 10])
    assert many[0] == pytest.approx(500.0)
    assert np.isnan(many).tolist() == [False, True, True, False]
    assert many[3] == 0.0
    for few in (FLAT.t_ns[:1], FLAT.t_ns[:0]):
        short = series_of(few, np.zeros(len(few)))
        assert math.isnan(energy_mj(short, 0, 10).energy_mj)
        assert np.isnan(energies_mj(short, [0], [10])).all()


def test_gaps_and_edges_are_told() -> None:
    times = np.array([0, 10, 20, 80, 90]) * MS
    series = series_of(times, np.array([0.0, 1000.0, 1000.0, 3000.0, 3000.0]))
    found = energy_mj(series, 5 * MS, 85 * MS)
    assert found.n == 3
    assert found.largest_gap_ns == 60 * MS
    # Left edge between 0 and 1000 mW 10 ms apart, right edge between equal powers.
    assert found.edge_error_mj == pytest.approx(0.5 * 10 * MS * 1000 * 1e-9)
    assert energy_mj(series, 10 * MS, 80 * MS).edge_error_mj == 0.0
    inside = energy_mj(series, 30 * MS, 40 * MS)
    assert (inside.n, inside.largest_gap_ns) == (0, 60 * MS)


def test_windows_must_run_forward() -> None:
    with pytest.raises(MeasurementError, match="must end after it starts"):
        energy_mj(FLAT, 5, 5)
    with pytest.raises(MeasurementError, match="none before its start"):
        energies_mj(FLAT, [5], [4])
    with pytest.raises(MeasurementError, match="as many ends"):
        energies_mj(FLAT, [5, 6], [7])
