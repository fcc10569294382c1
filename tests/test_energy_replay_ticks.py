"""A counter's ticks on their own clock: power of short stretches, and where nothing is moved."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgejoule.energy.integrate import energy_mj
from edgejoule.energy.replay_segments import Segments, segment_power
from edgejoule.energy.tick_clock import FEWEST_TICKS, regular_ticks
from edgejoule.energy.trace import RailPower
from tests.support_segments import COUNTER_REACH_NS, counter_of


def square(t_s: np.ndarray) -> np.ndarray:
    """150 W and 400 W, 1.5 s each."""
    return np.where((t_s // 1.5) % 2 == 0, 150e3, 400e3)


def stretches(seconds: float) -> tuple[Segments, np.ndarray]:
    """One segment in each of its levels, and the level."""
    start_s = np.arange(int(seconds / 1.5) - 1) * 1.5 + 0.3
    zero = np.zeros(len(start_s), np.int64)
    ns = (start_s * 1e9).astype(np.int64)
    return Segments(zero, zero, zero + 1, zero, ns, ns + 1_150_000_000, zero + 1), square(
        start_s + 0.5
    )


def worst(series: RailPower, seconds: float = 60.0) -> float:
    """Return the largest relative error of a segment's power."""
    segments, truth = stretches(seconds)
    return float(
        np.max(np.abs(segment_power(series, segments, COUNTER_REACH_NS).mean_mw / truth - 1))
    )


@pytest.mark.parametrize("read_ms", [50.0, 50.3, 20.0])
def test_a_second_of_a_slowly_ticking_counter_is_known_well(read_ms: float) -> None:
    random = np.random.default_rng(1)
    series = counter_of(square, 60.0, 100.05, read_ms, random)
    assert regular_ticks(series) is not series
    assert worst(series) < 0.002
    jittery = counter_of(square, 60.0, 100.05, read_ms, random, jitter_ms=1.0)
    assert worst(jittery) < 0.01


@pytest.mark.parametrize("seed", range(6))
def test_reads_that_slip_against_the_ticks_and_slow_ones_miscount_nothing(seed: int) -> None:
    """As on an H200: reads a little over half a tick apart, and one or two that took 0.1 s."""
    random = np.random.default_rng(seed)
    slow = ((17.0, random.uniform(0.085, 0.12)), (44.0, random.uniform(0.085, 0.12)))
    series = counter_of(square, 60.0, 100.0, 50.07, random, jitter_ms=0.3, slow=slow)
    steps_ms = np.diff(series.t_ns[::2]) * 1e-6
    assert steps_ms.min() < 60.0
    assert regular_ticks(series) is not series
    assert worst(series) < 0.005


def test_by_its_stamps_it_would_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    series = counter_of(square, 60.0, 100.05, 50.3, np.random.default_rng(1))
    monkeypatch.setattr("edgejoule.energy.replay_segments.regular_ticks", lambda one: one)
    assert worst(series) > 0.03


def test_the_energy_of_the_whole_stays() -> None:
    series = counter_of(square, 60.0, 100.05, 50.3, np.random.default_rng(2))
    moved = regular_ticks(series)
    power = series.power_mw[::2] * (series.t_ns[1::2] + 1 - series.t_ns[::2])
    assert moved.power_mw[::2] * (moved.t_ns[1::2] + 1 - moved.t_ns[::2]) == pytest.approx(power)
    assert np.all(np.diff(moved.t_ns) > 0)
    # A tick is not later than the read that shows it, and no more than a read's distance earlier.
    assert moved.late_ns is not None
    late_ns = int(moved.late_ns[0])
    ahead = series.t_ns[::2] - moved.t_ns[::2]
    assert np.mean(ahead >= -1_000_000) > 0.98
    assert np.mean(ahead + late_ns >= 0) > 0.98
    assert late_ns < 51_000_000


def test_a_rest_of_the_reads_does_not_shift_the_ticks() -> None:
    rests = ((20.03, 20.61), (40.0, 40.52))
    series = counter_of(square, 60.0, 100.05, 50.3, np.random.default_rng(3), rests=rests)
    moved = regular_ticks(series)
    for begin_s, end_s in rests:
        edges = (int((begin_s - 0.2) * 1e9), int((end_s + 0.2) * 1e9))
        grid = np.linspace(edges[0] * 1e-9, edges[1] * 1e-9, 20_000)
        truth_mj = float(square(grid).mean()) * (edges[1] - edges[0]) * 1e-9
        assert energy_mj(moved, *edges).energy_mj == pytest.approx(truth_mj, rel=0.06)
    begins, ends = moved.t_ns[::2], moved.t_ns[1::2] + 1
    at = int(np.searchsorted(begins, 40.0e9)) - 1
    middle = np.linspace(begins[at] * 1e-9, ends[at] * 1e-9, 10_000)
    # The one stretch over the rest: to a tick or two of a thousandth, not to a tick.
    assert moved.power_mw[2 * at] == pytest.approx(float(square(middle).mean()), rel=0.01)


def test_what_is_not_regular_or_not_late_stays_as_it_is() -> None:
    random = np.random.default_rng(4)
    wild = counter_of(square, 60.0, 100.0, 50.3, random, jitter_ms=20.0)
    assert regular_ticks(wild) is wild
    # RAPL: it ticks once a millisecond, and every read shows another value.
    quick = counter_of(square, 20.0, 1.0, 7.0, random)
    assert regular_ticks(quick) is quick
    few = counter_of(square, 0.1 * FEWEST_TICKS, 100.05, 50.3, random)
    assert regular_ticks(few) is few
    plain = dataclasses.replace(few, late_ns=None)
    assert regular_ticks(plain) is plain


def test_only_whole_stretches_within_a_segment_count() -> None:
    series = counter_of(square, 30.0, 100.0, 20.0, np.random.default_rng(5))
    segments, _ = stretches(30.0)
    short = dataclasses.replace(segments, end_ns=segments.start_ns + 250_000_000)
    assert np.isnan(segment_power(series, short, 200_000_000).mean_mw).all()
    found = segment_power(series, segments, 200_000_000)
    assert np.all(found.known_s > 0.6)
    assert np.all(found.known_s < 0.96)
