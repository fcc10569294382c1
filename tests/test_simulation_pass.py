"""A simulated pass: its truth against a fine grid, its values against the definition, its seeds."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from edgejoule.errors import UsageError
from edgejoule.simulation import SCENARIOS, Gaps, Scenario, Sensor, simulate
from edgejoule.simulation.chip import running
from edgejoule.simulation.signal import Steps

SMALL = dataclasses.replace(SCENARIOS["gap30-unequal"], inferences=400)


def steps(seed: int, count: int = 60) -> Steps:
    random = np.random.default_rng(seed)
    edges = np.concatenate(([0.0], np.cumsum(random.exponential(50.0, count))))
    return Steps(edges, random.uniform(1.0, 9.0, count))


def on_grid(signal: Steps, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the middles of a fine grid and the signal there, by looking at every edge."""
    at = np.arange(0.0, signal.edges[-1], step) + step / 2
    values = np.zeros_like(at)
    for start, end, level in zip(signal.edges[:-1], signal.edges[1:], signal.levels, strict=True):
        values[(at >= start) & (at < end)] = level
    return at, values


def test_means_are_those_of_a_fine_grid() -> None:
    signal = steps(1)
    at, values = on_grid(signal, 0.05)
    for start, end in [(0.0, 100.0), (333.3, 334.1), (50.0, 1500.0)]:
        inside = (at >= start) & (at < end)
        found = signal.mean(np.array([start]), np.array([end]))
        assert found[0] == pytest.approx(
            values[inside].mean(), rel=2e-2 if end - start < 2 else 2e-4
        )


@pytest.mark.parametrize("tau", [5.0, 80.0, 700.0])
def test_a_low_pass_is_that_of_small_steps_in_time(tau: float) -> None:
    signal = steps(2)
    step = 0.01
    at, values = on_grid(signal, step)
    followed = np.empty_like(values)
    state = values[0]
    share = -np.expm1(-step / tau)
    for place, value in enumerate(values.tolist()):
        state += (value - state) * share
        followed[place] = state
    start, end = np.array([200.0, 900.0]), np.array([260.0, 1800.0])
    found = signal.filtered_mean(start, end, tau)
    for one in range(2):
        inside = (at >= start[one]) & (at < end[one])
        assert found[one] == pytest.approx(followed[inside].mean(), rel=1e-3)


def test_true_energies_are_the_integral_of_the_power_that_the_rail_draws() -> None:
    scenario = dataclasses.replace(
        SMALL, ramp=0.2, input_sd=0.05, drift=0.1, rails=SCENARIOS["agx-orin"].rails
    )
    run = simulate(scenario, 5)
    work = run.workload
    for rail in scenario.rails:
        power = work.rails[rail.label]
        total = np.zeros(scenario.layers)
        whole = 0.0
        for start, end, offsets, lengths in zip(
            work.starts, work.ends, work.offset_ns, work.layer_ns, strict=True
        ):
            grid = start + (np.arange(4000) + 0.5) / 4000 * (end - start)
            drawn = power.levels[np.searchsorted(power.edges, grid, side="right") - 1]
            whole += drawn.mean() * (end - start)
            which = np.searchsorted(offsets, grid - start, side="right") - 1
            inside = (which >= 0) & (grid - start - offsets[which] < lengths[which])
            width = (end - start) / 4000
            total += np.bincount(which[inside], drawn[inside] * width, scenario.layers)
        truth = run.truth[rail.label]
        n = scenario.inferences
        assert truth.inference_mj == pytest.approx(whole * 1e-9 / n, rel=1e-4)
        assert truth.layer_mj == pytest.approx(total * 1e-9 / n, rel=3e-3)
        assert truth.layer_mj.sum() + truth.gap_mj == pytest.approx(truth.inference_mj)
    parts = [run.truth[rail.label].layer_mj for rail in scenario.rails]
    assert run.truth["total"].layer_mj == pytest.approx(sum(parts))


def test_a_register_shows_its_own_conversion_after_it_has_ended() -> None:
    scenario = dataclasses.replace(SMALL, sensor=Sensor(noise_lsb=0.0), droop_mv_per_ma=0.0)
    run = simulate(scenario, 3)
    channel = next(c for c in run.channels if c.quantity == "current")
    power = run.workload.rails["VDD_IN"]
    shown = channel.shown
    assert shown.from_ns == pytest.approx(shown.end)
    assert shown.end - shown.start == pytest.approx(1.1e6, rel=3e-4)
    assert np.median(np.diff(shown.start)) == pytest.approx(6.6e6, rel=3e-4)
    for k in range(50, 60):
        at = shown.start[k] + (np.arange(20_000) + 0.5) / 20_000 * (shown.end[k] - shown.start[k])
        drawn = power.levels[np.searchsorted(power.edges, at, side="right") - 1]
        current_ma = drawn.mean() / 5000.0 * 1e3
        assert abs(shown.counts[k] * 8.0 - current_ma) <= 4.0 + 0.5
    reads = run.reads["VDD_IN"]
    latch = reads.t0_ns + 0.7 * (reads.t1_ns - reads.t0_ns) - run.base_ns
    last = np.searchsorted(shown.from_ns, latch, side="right") - 1
    assert np.array_equal(reads.raw, shown.counts[last] * 8)


@pytest.mark.parametrize("samples", [1, 4, 16, 64, 128, 256, 512, 1024])
def test_averaging_is_the_recursive_filter(samples: int) -> None:
    values = np.random.default_rng(samples).uniform(0, 1, 300)
    found = running(values, samples)
    # The closed form of the recursion: what each conversion still weighs.
    keep = 1 - 1 / samples
    for last in (0, 1, 17, 299):
        weights = keep ** (last - np.arange(last + 1)) / samples
        expected = values.mean() * keep ** (last + 1) + weights @ values[: last + 1]
        assert found[last] == pytest.approx(expected)


def test_values_come_in_the_steps_of_the_shunt() -> None:
    fine = simulate(SMALL, 1).reads["VDD_IN"]
    coarse = simulate(dataclasses.replace(SCENARIOS["steps390"], inferences=400), 1).reads["VDD_IN"]
    assert set(np.unique(fine.raw % 8)) == {0}
    assert fine.lsb_mw == pytest.approx(8 * 4.96, rel=0.01)
    assert set(np.unique(coarse.raw % 20)) == {0}
    assert coarse.lsb_mw == pytest.approx(390, rel=0.02)


@pytest.mark.parametrize("ppm", [0, 20, -20, 200, -200])
def test_the_sensors_clock_runs_off_as_stated(ppm: int) -> None:
    scenario = dataclasses.replace(
        SMALL, inferences=4000, sensor=Sensor(oscillator_ppm=ppm, walk_ns=0.0)
    )
    shown = simulate(scenario, 2).channels[1].shown
    refresh = (shown.start[-1] - shown.start[0]) / (len(shown.start) - 1)
    assert refresh == pytest.approx(6.6e6 * (1 + ppm * 1e-6), rel=1e-9)


def test_channels_of_one_chip_follow_each_other_and_two_chips_share_nothing() -> None:
    one = simulate(dataclasses.replace(SCENARIOS["agx-orin"], inferences=300), 4)
    starts = [c.shown.start for c in one.channels if c.quantity == "current"]
    assert starts[1] - starts[0] == pytest.approx(2.2e6, rel=3e-4)
    assert starts[2] - starts[0] == pytest.approx(4.4e6, rel=3e-4)
    two = simulate(dataclasses.replace(SCENARIOS["two-chips"], inferences=3000), 4)
    first, other = two.clocks[0], two.clocks[1]
    assert first.ppm != other.ppm
    distance = np.diff(other.cycles[:1000] - first.cycles[:1000])
    assert abs(distance.mean()) > 1.0  # ns per refresh: they drift apart


@pytest.mark.parametrize("share", [0.0, 0.05, 0.15, 0.3, 0.45])
@pytest.mark.parametrize("kind", ["equal", "unequal", "end", "proportional"])
def test_gaps_take_their_share_of_the_inference(share: float, kind: str) -> None:
    scenario = Scenario(inferences=2000, gaps=Gaps(share, kind), timing_ns=0.0)
    timeline = simulate(scenario, 6).timeline
    found = timeline.gap_ns.sum() / (timeline.end_ns - timeline.start_ns).sum()
    assert found == pytest.approx(share, abs=2e-3)


def test_gaps_lie_where_the_scenario_says() -> None:
    def plan(kind: str, offset_us: float = 0.0) -> np.ndarray:
        scenario = Scenario(inferences=10, gaps=Gaps(0.3, kind, offset_us))
        return simulate(scenario, 1).plan.gap_ns

    assert np.ptp(plan("equal")[1:]) == pytest.approx(0)
    assert plan("equal", 100.0)[0] == 100e3
    assert plan("equal", 100.0).sum() == pytest.approx(plan("equal").sum())
    assert np.count_nonzero(plan("end")) == 1
    assert plan("unequal")[1:].std() > 0.5 * plan("unequal")[1:].mean()


def test_host_gaps_are_dithered_up_to_a_quarter_of_the_inference() -> None:
    work = simulate(dataclasses.replace(SMALL, inferences=3000), 1).workload
    waits = work.starts[1:] - work.ends[:-1]
    quarter = 0.25 * np.median(work.ends - work.starts)
    assert waits.min() >= 0
    assert np.quantile(waits, 0.99) < quarter * 1.02 + 100e3
    assert waits.std() == pytest.approx(quarter / np.sqrt(12), rel=0.1)


def test_a_seed_gives_the_same_pass_and_another_one_another() -> None:
    first, again, other = simulate(SMALL, 1), simulate(SMALL, 1), simulate(SMALL, 2)
    assert np.array_equal(first.reads["VDD_IN"].raw, again.reads["VDD_IN"].raw)
    assert np.array_equal(first.timeline.layer_ns, again.timeline.layer_ns)
    assert np.array_equal(first.truth["total"].layer_mj, again.truth["total"].layer_mj)
    assert not np.array_equal(first.truth["total"].layer_mj, other.truth["total"].layer_mj)


def test_true_powers_span_what_is_stated() -> None:
    truth = simulate(dataclasses.replace(SCENARIOS["base"], inferences=50), 0).truth["total"]
    assert np.ptp(truth.layer_mw) == pytest.approx(7500, rel=0.01)
    assert len(truth.layer_mj) == 20


def test_missed_conversions_repeat_the_value_before() -> None:
    scenario = dataclasses.replace(SMALL, inferences=3000, sensor=Sensor(missed=0.1))
    counts = simulate(scenario, 1).channels[1].shown.counts
    plain = simulate(dataclasses.replace(scenario, sensor=Sensor()), 1).channels[1].shown.counts
    assert np.mean(np.diff(counts) == 0) == pytest.approx(
        0.1 + 0.9 * np.mean(np.diff(plain) == 0), abs=0.03
    )


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="no such gaps: middle"):
        simulate(Scenario(gaps=Gaps(0.1, "middle")), 0)
    with pytest.raises(UsageError, match="2 durations, 3 powers"):
        simulate(Scenario(layer_us=(1.0, 2.0), power_mw=(1.0, 2.0, 3.0)), 0)


def test_stated_layers_are_taken_as_they_are() -> None:
    scenario = Scenario(
        inferences=500, layer_us=(100.0, 300.0, 200.0), power_mw=(6e3, 9e3, 12e3), slow_share=0.0
    )
    truth = simulate(scenario, 0).truth["total"]
    assert truth.layer_mj == pytest.approx([0.6, 2.7, 2.4], rel=2e-3)


def test_no_code_is_shared_with_the_estimators() -> None:
    text = (
        "import sys, edgejoule.simulation as s, dataclasses;"
        "s.simulate(dataclasses.replace(s.SCENARIOS['base'], inferences=20), 0);"
        "print(' '.join(m for m in sys.modules if m.startswith('edgejoule') or m == 'scipy'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name for name in done.stdout.split() if not name.startswith("edgejoule.simulation")}
    assert loaded == {
        "edgejoule",
        "edgejoule.energy",
        "edgejoule.energy.timeline",
        "edgejoule.errors",
    }
