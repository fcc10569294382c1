"""Warm-up verdicts, precision, the rate pass, chunks: all on synthetic or trivial work."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.errors import Interrupted, MeasurementError
from edgejoule.inference import passes
from edgejoule.inference.backend import LayerTimes
from edgejoule.inference.rate_pass import rate_pass
from edgejoule.inference.warmup import SteadyState
from edgejoule.phases import read_phases
from edgejoule.records import NULL_NS, PASSES
from tests.support_passes import Bench

MS = 1_000_000


def feed(steady: SteadyState, latency_ns: Callable[[int], int], most: int = 100_000) -> int:
    now = 0
    for index in range(most):
        if steady.done:
            return index
        start, now = now, now + latency_ns(index)
        steady.add(start, now)
    return most


def test_a_steady_latency_is_steady_once_both_bounds_are_met() -> None:
    steady = SteadyState(50, window_s=0.0)
    assert feed(steady, lambda _: MS) == 50
    verdict = steady.verdict()
    assert verdict.steady
    assert (verdict.inferences, verdict.median_ms, verdict.change_percent) == (50, 1.0, 0.0)
    # A model of 50 us: 50 inferences are nothing, two windows of 0.25 s are wanted.
    quick = SteadyState(50)
    assert feed(quick, lambda _: 50_000) == pytest.approx(2 * 0.25e9 / 50_000, rel=0.01)


def test_a_falling_latency_is_waited_for() -> None:
    steady = SteadyState(10, window_s=0.0)
    taken = feed(steady, lambda index: MS + int(9 * MS * 0.95**index))
    assert 50 < taken < 200
    assert steady.verdict().median_ms == pytest.approx(1.0, rel=0.1)


def test_a_latency_that_never_settles_is_given_up() -> None:
    steady = SteadyState(10, window=5, window_s=0.0, most_s=2.0)
    taken = feed(steady, lambda index: MS * (1 + (index // 5) % 2))
    verdict = steady.verdict()
    assert not verdict.steady
    assert 2.0 <= verdict.seconds < 2.02
    assert verdict.inferences == taken
    assert "gave up" in verdict.reason


def test_the_least_number_holds_also_where_time_is_up() -> None:
    steady = SteadyState(100, window=10, window_s=0.0, most_s=0.0)
    assert feed(steady, lambda index: MS * (index // 10 + 1)) == 100
    assert not steady.verdict().steady


def test_a_warm_up_that_was_ended_says_so() -> None:
    steady = SteadyState(10)
    assert steady.verdict().reason == "ended before two windows were full"
    assert steady.change is None


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(10**6, 10**9), min_size=2, max_size=50),
    st.integers(0, 20),
    st.floats(0.001, 0.2),
)
def test_a_warm_up_always_ends_and_never_before_its_least(
    pattern: list[int], least: int, tolerance: float
) -> None:
    steady = SteadyState(least, tolerance=tolerance, most_s=1.0, window_s=0.01)
    taken = feed(steady, lambda index: pattern[index % len(pattern)])
    assert steady.done
    assert taken >= max(least, 2)
    assert steady.steady == (steady.change is not None and steady.change <= tolerance)


def test_the_half_width_is_that_of_students_t() -> None:
    values = [10, 12, 9, 11, 13]
    spread = np.std(values, ddof=1) / np.sqrt(5) / np.mean(values)
    assert passes.half_width_percent(values) == pytest.approx(100 * 2.776 * spread)
    assert passes.half_width_percent([1]) is None
    assert passes.half_width_percent([0, 0]) is None
    assert passes.half_width_percent([5] * 1000) == 0


def test_the_half_width_covers_the_mean_of_drifting_values() -> None:
    """Values with memory: blocks cover the true mean about as often as they promise."""
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        noise = random.standard_normal(4000)
        drift = np.zeros(4000)
        for k in range(1, 4000):
            drift[k] = 0.9 * drift[k - 1] + noise[k]
        values = (1000 + 20 * drift).round().astype(int).tolist()
        width = passes.half_width_percent(values)
        assert width is not None
        covered += abs(np.mean(values) - 1000) <= width / 100 * np.mean(values)
    assert covered >= 175


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_every_inference_is_recorded_and_the_sets_rotate(bench: Bench) -> None:
    asked: list[int] = []
    result = passes.clean_pass(bench.runner, asked.append, runs=7)
    table = bench.table("inferences")
    assert asked == [0, 1, 2, 0, 1, 2, 0]
    assert result.inferences == len(table) == 7
    assert result.reason == "the number asked for"
    assert list(table["index"]) == list(range(7))
    assert set(table["pass"]) == {PASSES.index("clean")}
    assert set(table["due_ns"]) == {NULL_NS}
    assert (table["start_ns"] <= table["end_ns"]).all()
    assert (table["end_ns"][:-1] <= table["start_ns"][1:]).all()
    assert result.between_us is not None
    assert result.between_us > 0


def test_a_clean_pass_of_one_has_no_interval(bench: Bench) -> None:
    result = passes.clean_pass(bench.runner, lambda _: None, runs=1)
    assert (result.half_width_percent, result.between_us) == (None, None)


def test_an_automatic_clean_pass_ends_for_one_of_four_reasons(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "_JUDGE_NS", 0)
    runner, idle = bench.runner, lambda _: time.sleep(0.001)
    plain = passes.clean_pass(runner, idle, runs=None, min_s=0.05)
    assert plain.seconds >= 0.05
    assert plain.reason == "0.05 s are reached"
    few = passes.clean_pass(runner, idle, runs=None, min_s=0.05, max_runs=10, precision_percent=0.0)
    assert few.seconds >= 0.05
    assert "10 inferences are reached" in few.reason
    precise = passes.clean_pass(runner, idle, runs=None, min_s=0.02, precision_percent=10_000)
    assert "within 10000 %" in precise.reason
    late = passes.clean_pass(
        runner, idle, runs=None, min_s=0.01, max_s=0.1, precision_percent=0.0, max_runs=10**6
    )
    assert late.reason == "0.1 s are reached"


def test_a_rate_pass_takes_frames_at_their_times(bench: Bench) -> None:
    result = rate_pass(bench.runner, lambda _: None, rate_hz=100, seconds=0.2)
    table = bench.table("inferences")
    assert result.frames == 20
    assert result.inferences + result.dropped == 20
    assert (table["start_ns"] >= table["due_ns"]).all()
    steps = np.diff(table["due_ns"])
    assert (np.rint(steps / 10e6) * 10_000_000 == steps).all()
    assert 0 < result.busy_percent < 100


def test_a_slow_model_drops_frames_and_never_catches_up(bench: Bench) -> None:
    slow = rate_pass(bench.runner, lambda _: time.sleep(0.025), rate_hz=100, seconds=0.3)
    table = bench.table("inferences")
    assert slow.frames == 30
    assert slow.inferences + slow.dropped == 30
    assert slow.dropped >= 2 * (slow.inferences - 1)
    assert slow.missed_deadlines == slow.inferences
    assert (np.diff(table["start_ns"]) >= 25e6).all()
    # Each frame taken is one that was still to come when the one before ended.
    assert (table["due_ns"][1:] >= table["end_ns"][:-1]).all()


def test_a_parent_that_hangs_up_stops_a_pass(bench: Bench) -> None:
    def infer(_: int) -> None:
        bench.hang_up()

    with pytest.raises(Interrupted):
        passes.clean_pass(bench.runner, infer, runs=10**9)
    with pytest.raises(Interrupted):
        bench.runner.sleep_until(time.monotonic_ns() + 10**12)


class Profiler:
    """Reports two layers per inference; loses what the test wants it to."""

    chunk_inferences = 100

    def __init__(self, lose: Callable[[LayerTimes], LayerTimes] = lambda times: times) -> None:
        self.lose = lose
        self.started: list[int] = []
        self.ran = 0
        self.settled = 0

    def start(self, inferences: int) -> None:
        self.started.append(inferences)
        self.ran = self.settled = 0

    def infer(self, which: int) -> None:
        self.ran += 1

    def after(self) -> None:
        self.settled += 1
        assert self.settled == self.ran  # once behind every inference, before the next

    def harvest(self, spans: list[tuple[int, int]]) -> LayerTimes:
        count = len(spans)
        assert self.ran == self.settled == count
        return self.lose(
            LayerTimes(
                np.repeat(np.arange(count, dtype=np.int32), 2),
                np.tile(np.arange(2, dtype=np.int16), count),
                np.full(2 * count, 5),
                None,
                count,
            )
        )

    def close(self) -> None:
        pass


def profiled(bench: Bench, profiler: Profiler, runs: int = 25) -> passes.ProfiledResult:
    return passes.profiled_pass(
        bench.runner, profiler, bench.layers, runs=runs, layers=2, chunk_limit=7
    )


def test_chunks_hold_all_inferences_and_harvest_is_its_own_phase(bench: Bench) -> None:
    profiler = Profiler()
    result = profiled(bench, profiler)
    assert profiler.started == [7, 7, 7, 4]
    assert (result.inferences, result.recorded, result.chunks, result.rows) == (25, 25, 4, 50)
    assert result.problems == ()
    passes.require_whole(result)
    layers = bench.table("layers")
    assert list(layers["inference"]) == list(np.repeat(np.arange(25), 2))
    assert set(layers["start_offset_ns"]) == {NULL_NS}
    names = [span.phase for span in read_phases(bench.folder / "phases.jsonl")]
    assert names == ["harvest", *["profiled", "harvest"] * 4]
    inside = [s for s in read_phases(bench.folder / "phases.jsonl") if s.phase == "profiled"]
    for row in bench.table("inferences"):
        assert any(s.start_ns <= row["start_ns"] and row["end_ns"] <= s.end_ns for s in inside)


def drop_last_inference(times: LayerTimes) -> LayerTimes:
    return LayerTimes(
        times.inference[:-2], times.layer[:-2], times.duration_ns[:-2], None, times.inferences - 1
    )


def drop_one_row(times: LayerTimes) -> LayerTimes:
    return LayerTimes(times.inference[1:], times.layer[1:], times.duration_ns[1:], None, 7)


def repeat_one_row(times: LayerTimes) -> LayerTimes:
    layer = times.layer.copy()
    layer[1] = 0
    return LayerTimes(times.inference, layer, times.duration_ns, None, 7)


def report_one_more(times: LayerTimes) -> LayerTimes:
    more = times.inference.copy()
    more[-1] = 7
    return LayerTimes(more, times.layer, times.duration_ns, None, 8)


@pytest.mark.parametrize(
    ("lose", "said", "rows"),
    [
        (drop_last_inference, "recorded 6 of 7 inferences", 12),
        (drop_one_row, "13 layer times, 14 were expected", 13),
        (repeat_one_row, "14 layer times, 14 were expected", 14),
        (report_one_more, "recorded 8 of 7 inferences", 13),
    ],
)
def test_what_a_profiler_loses_is_found_after_all_is_written(
    bench: Bench, lose: Callable[[LayerTimes], LayerTimes], said: str, rows: int
) -> None:
    result = profiled(bench, Profiler(lose), runs=14)
    assert result.rows == 2 * rows
    assert len(bench.table("layers")) == 2 * rows
    with pytest.raises(MeasurementError, match=rf"inferences 0 to 6: .*{said}.*1 more chunk"):
        passes.require_whole(result)


def test_dither_waits_between_inferences_and_never_within(bench: Bench) -> None:
    dither = passes.Dither(bench.runner, median_ms=8.0, seed=1)
    assert dither.most_ms == 2.0
    assert passes.Dither(bench.runner, median_ms=100.0, seed=1).most_ms == 3.0
    profiler = Profiler()
    result = passes.profiled_pass(
        bench.runner, profiler, bench.layers, runs=12, layers=2, chunk_limit=12, dither=dither
    )
    table = bench.table("inferences")
    gaps_ms = (table["start_ns"][1:] - table["end_ns"][:-1]) * 1e-6
    drawn = random.Random(1)
    waits_ms = [drawn.uniform(0.0, 2.0) for _ in range(12)]
    # Each gap holds its wait; what else it holds depends on the machine.
    assert (gaps_ms >= np.array(waits_ms[:11]) - 1e-3).all()
    assert result.dither is not None
    assert result.dither["most_ms"] == 2.0
    assert result.dither["seconds"] >= sum(waits_ms) * 1e-3 - 1e-5
    assert "layer_ms" not in result.to_json()
    assert result.layer_ms == pytest.approx((5e-6, 5e-6))


def test_dither_heeds_the_parent(bench: Bench) -> None:
    dither = passes.Dither(bench.runner, median_ms=12.0, seed=0)
    bench.hang_up()
    with pytest.raises(Interrupted):
        dither.wait()
