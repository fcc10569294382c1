"""Energy over windows: exact for steps, ramps and duty cycles; additive; honest about coverage."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.energy.integrate import energies_mj, energy_mj, gaps_ns
from edgejoule.energy.trace import RailPower, rail_powers_of_samples, total_power
from edgejoule.errors import MeasurementError
from tests.support_power import SAMPLE

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


@settings(deadline=None)
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


@settings(deadline=None)
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


@settings(deadline=None)
@given(before=st.floats(0, 9000), after=st.floats(0, 9000), at=st.floats(0.1, 0.9))
def test_a_step_is_right_within_its_edge(before: float, after: float, at: float) -> None:
    times = UPTIME + np.arange(0, 10_000 * MS, 7 * MS)
    step_ns = UPTIME + int(at * 9_900 * MS)
    series = series_of(times, np.where(times < step_ns, before, after))
    start, end = int(times[0]), int(times[-1])
    truth = (before * (step_ns - start) + after * (end - step_ns)) * 1e-9
    error = abs(energy_mj(series, start, end).energy_mj - truth)
    assert error <= 0.5 * 7 * MS * abs(after - before) * 1e-9 + 1e-9 * truth + 1e-9


@settings(deadline=None)
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


@settings(deadline=None)
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
    assert (part.gaps, part.gap_share) == (1, 0.75)
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
    # Left: 5 ms between 0 and 1000 mW, taken as 750 on average; right: between equal powers.
    assert found.edge_error_mj == pytest.approx(0.75 * 5 * MS * 1000 * 1e-9)
    assert energy_mj(series, 10 * MS, 80 * MS).edge_error_mj == 0.0
    assert (found.typical_ns, found.gaps) == (10 * MS, 1)
    assert found.gap_share == 60 / 80
    inside = energy_mj(series, 30 * MS, 40 * MS)
    assert (inside.n, inside.largest_gap_ns) == (0, 60 * MS)
    assert (inside.gaps, inside.gap_share) == (1, 1.0)
    # 10 of 60 ms from 1000 to 3000 mW, taken as 1500 on average, may have been 3000.
    assert inside.edge_error_mj == pytest.approx(0.75 * 10 * MS * 2000 * 1e-9)


def test_gaps_are_counted_against_the_rails_own_rhythm() -> None:
    slow = series_of(np.arange(0, 5000, 100) * MS, np.full(50, 1000.0))
    assert energy_mj(slow, 0, 4900 * MS).gaps == 0
    # Attribution mode: mostly every ms, once a refresh at the end.
    times = np.concatenate([np.arange(0, 1000), np.arange(1000, 1100, 7)]) * MS
    mixed = series_of(times, np.full(len(times), 1000.0))
    end = int(times[-1])
    assert energy_mj(mixed, 0, end).gaps == 1  # one stretch of reads that are 7 ms apart
    assert energy_mj(mixed, 0, end).gap_share == pytest.approx(98 / 1098)
    assert energy_mj(mixed, 0, end, refresh_ns=7 * MS).gaps == 0
    assert energy_mj(mixed, 0, end, refresh_ns=7 * MS).typical_ns == 1 * MS


def test_the_gaps_of_a_sum_are_those_of_its_rails() -> None:
    """Rails that are read one after the other: their union has small and large distances."""
    times = np.arange(0, 700, 7) * MS
    rails = [series_of(times + k * MS // 2, np.full(100, 1000.0)) for k in range(3)]
    keep = (times < 200 * MS) | (times > 260 * MS)
    rails[1] = series_of(rails[1].t_ns[keep], rails[1].power_mw[keep])
    total = total_power(rails)
    found = energy_mj(total, 10 * MS, 690 * MS)
    assert (found.typical_ns, found.gaps) == (7 * MS, 1)
    assert found.gap_share == pytest.approx(70 / 680)
    assert found.energy_mj == pytest.approx(3 * 680.0)
    assert energy_mj(rails[0], 10 * MS, 690 * MS).gaps == 0
    empty = total_power([series_of(times[:0], times[:0])])
    assert energy_mj(empty, 0, MS).gap_share == 1.0
    assert gaps_ns(empty, 0, MS).tolist() == [[0, MS]]
    assert gaps_ns(total, 0, 700 * MS)[:, 0].tolist() == [0, 196 * MS + MS // 2, 693 * MS]


@settings(deadline=None)
@given(
    trace=traces(),
    cuts=st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True),
    data=st.data(),
)
def test_no_power_between_its_neighbours_breaks_the_bound_at_the_edges(
    trace: RailPower, cuts: list[float], data: st.DataObject
) -> None:
    """The truth agrees with the line but for the two pieces that the edges cut.

    There it is anything between the two readings, here low and high in turn.
    """
    first, last = int(trace.t_ns[0]), int(trace.t_ns[-1])
    start, end = sorted(first + int(cut * (last - first)) for cut in cuts)
    if start == end:
        return
    found = energy_mj(trace, start, end)
    error = 0.0
    t, p = trace.t_ns, trace.power_mw
    for k in range(len(t) - 1):
        a, b = max(start, int(t[k])), min(end, int(t[k + 1]))
        if a >= b or (a == t[k] and b == t[k + 1]):
            continue
        line = energy_mj(trace, a, b).energy_mj
        high = data.draw(st.floats(0, 1))  # the share of the piece at the higher value
        low_mw, high_mw = sorted((float(p[k]), float(p[k + 1])))
        error += line - (high * high_mw + (1 - high) * low_mw) * (b - a) * 1e-9
    scale = 1e-9 * float(np.abs(p).max()) * (last - first) * 1e-9
    assert abs(error) <= found.edge_error_mj + scale + 1e-12


def test_the_bound_at_an_edge_is_reached() -> None:
    series = series_of(np.array([0, 10 * MS, 20 * MS]), np.array([1000.0, 3000.0, 3000.0]))
    found = energy_mj(series, 2 * MS, 20 * MS)
    step_late = (1000 * 8 + 3000 * 10) * 1e-3
    step_early = 3000 * 18e-3
    worst = max(abs(found.energy_mj - truth) for truth in (step_late, step_early))
    assert found.edge_error_mj == pytest.approx(worst)


@settings(deadline=None, max_examples=300)
@given(
    at=st.integers(-7 * MS, 7 * MS),
    low=st.floats(0, 9000),
    high=st.floats(0, 9000),
    poll=st.integers(MS // 2, 9 * MS),
    phase=st.integers(0, 7 * MS),
    edge=st.sampled_from(["start", "end"]),
)
def test_a_reading_as_old_as_a_refresh_is_within_the_bound(
    at: int, low: float, high: float, poll: int, phase: int, edge: str
) -> None:
    """A sensor that holds each value for 7 ms, and a step within 7 ms of an edge."""
    refresh = 7 * MS
    start, end = UPTIME + 200 * MS, UPTIME + 400 * MS
    step = (start if edge == "start" else end) + at
    polls = np.arange(UPTIME, UPTIME + 600 * MS, poll)
    held = polls - (polls - UPTIME + phase) % refresh
    series = series_of(polls, np.where(held < step, low, high))
    inside = min(max(step, start), end)
    truth = (low * (inside - start) + high * (end - inside)) * 1e-9
    found = energy_mj(series, start, end, refresh_ns=refresh)
    assert abs(found.energy_mj - truth) <= found.edge_error_mj + 1e-9 * truth + 1e-9


@settings(max_examples=60, deadline=None)
@given(
    update=st.integers(2, 40),
    poll=st.integers(2, 40),
    powers=st.lists(st.integers(0, 20), min_size=30, max_size=60),
    start=st.floats(0.2, 0.5),
    length=st.floats(0.1, 0.4),
)
def test_the_edges_of_a_counters_window_are_within_the_bound(
    update: int, poll: int, powers: list[int], start: float, length: float
) -> None:
    """Ticks every `update` ms, read every `poll` ms, power changing every 10 ms."""
    # Energy in mJ at each ms; the counter shows it as it was at its last update.
    energy = np.concatenate([[0], np.cumsum(np.repeat(powers, 10))])
    reads_ms = np.arange(0, len(energy), poll)
    shown = energy[reads_ms // update * update]
    samples = np.zeros(len(reads_ms), SAMPLE)
    samples["t0_ns"] = samples["t1_ns"] = UPTIME + reads_ms * MS
    samples["raw"] = shown
    channels = [{"index": 0, "rail": "PKG", "quantity": "energy", "unit": "mJ"}]
    series = rail_powers_of_samples(channels, samples)["PKG"]
    a, b = int(start * len(energy)), int((start + length) * len(energy))
    if len(series.t_ns) < 2 or not (
        series.t_ns[0] <= UPTIME + a * MS and UPTIME + b * MS <= series.t_ns[-1]
    ):
        return
    found = energy_mj(series, UPTIME + a * MS, UPTIME + b * MS)
    truth = float(energy[b] - energy[a])
    assert abs(found.energy_mj - truth) <= found.edge_error_mj * (1 + 1e-9) + 1e-6
    # From tick to tick nothing is uncertain but where the ticks are.
    assert found.edge_error_mj <= 4 * max(np.diff(energy[:: max(update, poll)]), default=0) + 1e-6


@settings(deadline=None)
@given(trace=traces(), factor=st.floats(-10, 10))
def test_energy_scales_with_power(trace: RailPower, factor: float) -> None:
    start, end = int(trace.t_ns[0]), int(trace.t_ns[-1])
    once = energy_mj(trace, start, end).energy_mj
    scaled = energy_mj(series_of(trace.t_ns, factor * trace.power_mw), start, end).energy_mj
    assert scaled == pytest.approx(factor * once, rel=1e-9, abs=1e-6)


@settings(deadline=None)
@given(trace=traces(), level=st.floats(-100, 60_000), cut=st.floats(0.01, 1))
def test_constant_power_is_exact(trace: RailPower, level: float, cut: float) -> None:
    start = int(trace.t_ns[0])
    end = start + max(1, int(cut * (int(trace.t_ns[-1]) - start)))
    flat = energy_mj(series_of(trace.t_ns, np.full(len(trace.t_ns), level)), start, end)
    assert flat.energy_mj == pytest.approx(level * (end - start) * 1e-9, rel=1e-12, abs=1e-12)
    assert flat.edge_error_mj == 0.0


@settings(deadline=None)
@given(trace=traces(), cuts=st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_a_longer_window_never_holds_less(trace: RailPower, cuts: list[float]) -> None:
    positive = series_of(trace.t_ns, np.abs(trace.power_mw))
    first, last = int(trace.t_ns[0]), int(trace.t_ns[-1])
    a, b, c = (first + int(cut * (last - first)) for cut in sorted(cuts))
    short, long = energies_mj(positive, [a, a], [b, c])
    assert long >= short - 1e-9 * abs(short) - 1e-9


def ina_grid(start: int, end: int, changes: list[int]) -> np.ndarray:
    """The times of one sweep per 6.6 ms, with points just before and at each change."""
    grid = np.arange(start, end + 6_600_000, 6_600_000)
    inside = [t for t in changes if start < t < end]
    return np.unique(
        np.concatenate([grid, np.array(inside, np.int64), np.array(inside, np.int64) - 1])
    )


@settings(deadline=None)
@given(
    levels=st.lists(st.floats(500, 30_000), min_size=2, max_size=6),
    where=st.lists(st.floats(0, 1), min_size=5, max_size=5),
    window=st.tuples(st.floats(0, 0.3), st.floats(1.0, 6.0)),
)
def test_steps_with_points_at_the_change_within_a_thousandth(
    levels: list[float], where: list[float], window: tuple[float, float]
) -> None:
    """What is left of a step is the sampling; with a point on each side of it nothing is."""
    edges = sorted(UPTIME + int(w * 7e9) for w in where[: len(levels) - 1])
    times = ina_grid(UPTIME, UPTIME + 7_000 * MS, edges)
    series = series_of(times, np.array(levels)[np.searchsorted(edges, times, side="right")])
    start = UPTIME + int(window[0] * 1e9)
    end = start + int(window[1] * 1e9)
    cuts = [start, *(min(max(e, start), end) for e in edges), end]
    truth = sum(p * (b - a) * 1e-9 for p, (a, b) in zip(levels, pairwise(cuts), strict=True))
    assert energy_mj(series, start, end).energy_mj == pytest.approx(truth, rel=1e-3)


@settings(deadline=None)
@given(
    period_ms=st.floats(15, 700),
    duty=st.floats(0.1, 0.9),
    low=st.floats(500, 6000),
    high=st.floats(0, 20_000),
    length=st.floats(1.0, 3.0),
)
def test_duty_cycles_with_points_at_the_changes_within_a_thousandth(
    period_ms: float, duty: float, low: float, high: float, length: float
) -> None:
    rises = np.arange(0, 3.2e9, period_ms * MS)
    changes = (UPTIME + np.sort(np.concatenate([rises, rises + duty * period_ms * MS]))).astype(int)
    times = ina_grid(UPTIME, UPTIME + 3_100 * MS, changes.tolist())
    busy = np.searchsorted(changes, times, side="right") % 2 == 1
    series = series_of(times, np.where(busy, low + high, low))
    start, end = UPTIME + 20 * MS, UPTIME + 20 * MS + int(length * 1e9)
    cuts = np.clip(np.append(changes, end), start, end)
    spans = np.diff(cuts)
    busy_s = float(spans[::2].sum()) * 1e-9
    truth = low * length + high * busy_s
    assert energy_mj(series, start, end).energy_mj == pytest.approx(truth, rel=1e-3)


@settings(deadline=None)
@given(
    knots=st.lists(st.floats(500, 30_000), min_size=3, max_size=8),
    length=st.floats(1.0, 2.4),
    start_s=st.floats(0, 0.5),
)
def test_ramps_with_points_at_the_bends_within_a_thousandth(
    knots: list[float], length: float, start_s: float
) -> None:
    bends = [UPTIME + k * 3_000 * MS // (len(knots) - 1) for k in range(len(knots))]
    times = ina_grid(UPTIME, bends[-1], bends)
    since, at = times - UPTIME, np.array(bends) - UPTIME
    series = series_of(times, np.interp(since, at, knots))
    start = UPTIME + int(start_s * 1e9)
    end = start + int(length * 1e9)
    # By hand: the area under the bends alone, cut at the window.
    cuts = np.unique(np.clip([start, *bends, end], start, end)) - UPTIME
    power = np.interp(cuts, at, knots)
    truth = float((0.5 * (power[1:] + power[:-1]) * np.diff(cuts)).sum()) * 1e-9
    assert energy_mj(series, start, end).energy_mj == pytest.approx(truth, rel=1e-3)


def test_windows_must_run_forward() -> None:
    with pytest.raises(MeasurementError, match="must end after it starts"):
        energy_mj(FLAT, 5, 5)
    with pytest.raises(MeasurementError, match="none before its start"):
        energies_mj(FLAT, [5], [4])
    with pytest.raises(MeasurementError, match="as many ends"):
        energies_mj(FLAT, [5, 6], [7])
