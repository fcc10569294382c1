"""Idle baselines: mean, interval that likeness of neighbours does not shrink, drift."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgejoule.energy.baseline import (
    Baseline,
    baseline,
    baseline_entry,
    baseline_from_json,
    compare,
)
from edgejoule.energy.conditions import Conditions, Course, conditions_of, course_of, judge
from edgejoule.energy.trace import RailPower
from edgejoule.errors import MeasurementError

MS = 1_000_000


def series_of(power: np.ndarray) -> RailPower:
    return RailPower("VDD_IN", np.arange(len(power), dtype=np.int64) * 7 * MS, power)


def test_a_steady_rail() -> None:
    found = baseline(series_of(np.full(1001, 4800.0)), 0, 7000 * MS)
    assert found.mean_mw == pytest.approx(4800.0)
    assert (found.sd_mw, found.n, found.blocks) == (0.0, 1001, 20)
    assert found.half_width_mw == pytest.approx(0.0, abs=1e-9)
    assert (found.duration_s, found.coverage) == (7.0, 1.0)
    assert found.drift_mw == pytest.approx(0.0, abs=1e-6)
    assert json.loads(json.dumps(found.to_json()))["mean_mw"] == found.mean_mw


def test_drift_is_second_half_minus_first() -> None:
    found = baseline(series_of(np.linspace(4000.0, 5000.0, 1001)), 0, 7000 * MS)
    assert found.mean_mw == pytest.approx(4500.0)
    assert found.drift_mw == pytest.approx(500.0)


def test_the_interval_covers_and_more_samples_of_the_same_noise_do_not_shrink_it() -> None:
    rng = np.random.default_rng(1)
    covered, widths, dense_widths = 0, [], []
    for _ in range(300):
        # Noise that lasts 350 ms: 2000 points of it are worth 40.
        noise = np.repeat(rng.normal(0, 30, 40), 50)
        found = baseline(series_of(5000 + noise), 0, 1999 * 7 * MS)
        assert found.interval_mw is not None
        assert found.half_width_mw is not None
        covered += found.interval_mw[0] <= 5000 <= found.interval_mw[1]
        widths.append(found.half_width_mw)
        dense = RailPower("X", np.arange(20_000) * 700_000, 5000 + np.repeat(noise, 10))
        dense_widths.append(baseline(dense, 0, 19_999 * 700_000).half_width_mw)
    assert 0.90 < covered / 300 < 0.985
    assert np.mean(dense_widths) == pytest.approx(np.mean(widths), rel=0.05)
    naive = 1.96 * 30 / np.sqrt(2000)
    assert np.mean(widths) > 4 * naive


def test_what_is_not_known_is_null() -> None:
    series = series_of(np.full(101, 4800.0))
    nothing = baseline(series, 10**12, 10**12 + 10)
    assert (nothing.mean_mw, nothing.half_width_mw, nothing.n) == (None, None, 0)
    few = baseline(series, 0, 30 * MS)
    assert (few.n, few.blocks, few.half_width_mw, few.interval_mw) == (5, 1, None, None)
    assert few.mean_mw == pytest.approx(4800.0)
    between = baseline(series, 1, 2)
    assert (between.n, between.sd_mw, between.drift_mw) == (0, None, None)
    assert between.mean_mw == pytest.approx(4800.0)
    with pytest.raises(MeasurementError):
        baseline(series, 5, 5)


def test_the_entry_of_idle_json() -> None:
    rails = {"VDD_IN": series_of(np.full(101, 4800.0))}
    entry = baseline_entry("loaded", "after", rails, 0, 700 * MS)
    assert (entry["kind"], entry["when"], entry["start_ns"], entry["end_ns"]) == (
        "loaded",
        "after",
        0,
        700 * MS,
    )
    assert entry["rails"]["VDD_IN"]["mean_mw"] == pytest.approx(4800.0)
    assert (entry["conditions"], entry["verdicts"]) == (None, [])
    assert json.dumps(entry, allow_nan=False)
    busy = baseline_entry("cold", "before", rails, 0, 700 * MS, Conditions(shared=True), 7 * MS)
    assert busy["conditions"]["shared"] is True
    assert [verdict["kind"] for verdict in busy["verdicts"]] == ["not_idle"]
    again = json.loads(json.dumps(busy, allow_nan=False))
    whole = baseline(rails["VDD_IN"], 0, 700 * MS, 7 * MS)
    assert baseline_from_json(again["rails"]["VDD_IN"]) == whole
    # As an older version wrote it, and with a key of a newer one.
    older = {key: again["rails"]["VDD_IN"][key] for key in OLD_KEYS}
    assert baseline_from_json({**older, "newer": 1}).mean_mw == whole.mean_mw


OLD_KEYS = (
    *("mean_mw", "sd_mw", "half_width_mw", "interval_mw", "n", "blocks", "duration_s"),
    *("drift_mw", "coverage", "method"),
)


def noisy(seed: int, n: int, sd: float = 30.0, level: float = 5000.0) -> np.ndarray:
    return level + np.random.default_rng(seed).normal(0, sd, n)


def lasting(seed: int, n: int, steps: int, sd: float = 30.0) -> np.ndarray:
    """Return noise that lasts `steps` points at a time."""
    rng = np.random.default_rng(seed)
    return np.repeat(5000.0 + rng.normal(0, sd, -(-n // steps)), steps)[:n]


def test_the_autocorrelation_time_and_what_the_window_is_worth() -> None:
    end = 8000 * 7 * MS
    white = baseline(series_of(noisy(1, 8001)), 0, end)
    assert white.autocorrelation_s == pytest.approx(0.014, rel=0.3)  # a cell of two readings
    all_slow = [baseline(series_of(lasting(seed, 8001, 100)), 0, end) for seed in range(20)]
    assert np.mean([one.autocorrelation_s or 0 for one in all_slow]) == pytest.approx(0.7, rel=0.15)
    slow = all_slow[0]
    assert slow.autocorrelation_s is not None
    assert slow.effective_n == pytest.approx(56.0 / slow.autocorrelation_s)
    assert slow.interval_note is None
    assert 10 <= slow.blocks <= 20
    assert slow.half_width_mw is not None
    assert white.half_width_mw is not None
    assert slow.half_width_mw > 3 * white.half_width_mw


def test_a_window_too_short_for_its_noise_says_so() -> None:
    wandering = 5000 + np.cumsum(np.random.default_rng(3).normal(0, 3, 4001))
    found = baseline(series_of(wandering), 0, 4000 * 7 * MS)
    assert found.blocks == 4
    assert found.interval_note is not None
    assert "may be too narrow" in found.interval_note
    few = baseline(series_of(noisy(4, 12)), 0, 11 * 7 * MS)
    assert few.interval_note is not None
    assert "too few readings" in few.interval_note
    assert (few.autocorrelation_s, few.effective_n, few.trend_mw) == (None, None, None)


def test_the_interval_covers_noise_that_lasts_from_ms_to_a_second() -> None:
    """60 s of idle, as the readings come: AR(1) noise from a hundredth to half a second."""
    rng = np.random.default_rng(8)
    for steps in (2, 20, 80):
        covered = 0
        for _ in range(120):
            coarse = rng.normal(0, 30, 8600 + 40 * steps)
            kernel = np.exp(-np.arange(8 * steps) / (steps / 2))
            noise = np.convolve(coarse, kernel / kernel.sum(), "valid")[:8001]
            found = baseline(series_of(5000 + noise), 0, 8000 * 7 * MS)
            assert found.interval_mw is not None
            covered += found.interval_mw[0] <= 5000 <= found.interval_mw[1]
        assert covered >= 0.88 * 120  # 95 % nominal, 120 trials


def test_a_gap_in_the_idle_window_is_told() -> None:
    whole = series_of(noisy(5, 2001))
    keep = (whole.t_ns < 4000 * MS) | (whole.t_ns > 5000 * MS)
    holed = RailPower("VDD_IN", whole.t_ns[keep], whole.power_mw[keep])
    found = baseline(holed, 0, 14_000 * MS)
    assert found.gaps == 1
    assert found.gap_share == pytest.approx(1 / 14, rel=0.02)
    assert baseline(whole, 20_000 * MS, 30_000 * MS).gap_share == 1.0


def test_spikes_are_no_idle() -> None:
    power = noisy(6, 10_001)
    calm = judge({"total": baseline(series_of(power), 0, 70_000 * MS)})
    assert calm == []
    power[::50] += 1500  # something wakes up every 350 ms
    spiky = baseline(series_of(power), 0, 70_000 * MS)
    assert spiky.spike_share == pytest.approx(0.02, abs=1e-3)
    (verdict,) = judge({"total": spiky})
    assert verdict.kind == "not_idle"
    assert "2.0% of the readings are spikes" in verdict.why
    # A rail in coarse steps: its median deviation is 0, and one step up is no spike.
    steps = np.where(np.arange(1001) % 10 == 0, 440.0, 400.0)
    assert baseline(series_of(steps), 0, 7000 * MS).spike_share == 0.0
    # The same through a voltage that moves by 8 mV: many small jumps, some of a step.
    steps = steps * np.random.default_rng(2).choice([1.0, 1.0016], 1001)
    assert baseline(series_of(steps), 0, 7000 * MS).spike_share == 0.0


def test_a_falling_power_drifts_and_a_noisy_one_does_not() -> None:
    end = 8000 * 7 * MS
    falling = noisy(7, 8001) + np.linspace(200, 0, 8001)
    found = baseline(series_of(falling), 0, end)
    assert found.trend_mw == pytest.approx(-200, abs=10)
    assert found.trend_half_width_mw is not None
    (verdict,) = judge({"VDD_IN": found})
    assert verdict.kind == "drifting"
    assert verdict.why.startswith("VDD_IN falls by 199 +- 2 mW (3.9%)")
    zones = {"tj": Course(52.0, 47.5, 49.0, 47.5, 52.0), "cpu": Course(40.0, 40.5, 40, 40, 41)}
    (verdict,) = judge({"VDD_IN": found}, Conditions(temperatures_c=zones))
    assert "meanwhile tj went from 52.0 to 47.5 deg C" in verdict.why
    (verdict,) = judge({"VDD_IN": found}, Conditions(temperatures_c={"cpu": zones["cpu"]}))
    assert "meanwhile" not in verdict.why
    # Less than a hundredth of the power, though significant; and large, though not significant.
    assert (
        judge({"A": baseline(series_of(noisy(8, 8001) + np.linspace(0, 40, 8001)), 0, end)}) == []
    )
    unsteady = baseline(series_of(lasting(9, 8001, 1500, 400.0)), 0, end)
    assert abs(unsteady.trend_mw or 0) > 50
    assert judge({"A": unsteady}) == []
    rising = baseline(series_of(noisy(10, 8001) + np.linspace(0, 300, 8001)), 0, end)
    assert "A rises by 30" in judge({"A": rising})[0].why


def test_steady_power_is_called_drifting_rarely() -> None:
    """Of windows of one process with drawn-out noise, at most one in ten."""
    end = 2000 * 7 * MS
    called = 0
    for seed in range(100):
        found = baseline(series_of(lasting(seed, 2001, 40, 300.0)), 0, end)
        called += bool(judge({"total": found}))
    assert called <= 10


def test_where_there_is_a_total_it_alone_is_judged() -> None:
    end = 8000 * 7 * MS
    calm = baseline(series_of(noisy(1, 8001)), 0, end)
    falling = baseline(series_of(noisy(7, 8001) + np.linspace(200, 0, 8001)), 0, end)
    assert judge({"total": calm, "part": falling}) == []
    assert len(judge({"total": falling, "part": calm})) == 1


@pytest.mark.parametrize(
    ("known", "says"),
    [
        (Conditions(cpu_busy_percent=Course(9, 9, 9.0, 9, 9)), "the CPUs were busy 9.0 %"),
        (Conditions(cpu_busy_percent=Course(2, 2, 2.0, 2, 2), cpus=64), "limit 0.78 %"),
        (Conditions(gpu_utilisation_percent=Course(0, 99, 40, 0, 99)), "GPU was busy 40 %"),
        (Conditions(gpu_processes=2), "2 other process(es) on the GPU"),
        (Conditions(shared=True), "shared with others"),
    ],
)
def test_who_else_ran_is_named(known: Conditions, says: str) -> None:
    found = baseline(series_of(noisy(1, 2001)), 0, 14_000 * MS)
    (verdict,) = judge({"total": found}, known)
    assert verdict.kind == "not_idle"
    assert says in verdict.why
    assert "close other programs" in verdict.mend
    calm = Conditions(cpu_busy_percent=Course(2, 2, 2.0, 2, 2), cpus=6, shared=False)
    assert judge({"total": found}, calm) == []


def test_conditions_from_what_was_sampled() -> None:
    rows = [
        {"cpu_busy_percent": 2.0, "temperature_tj_c": 40.0, "throttled_oc1": 3.0, "load_1min": 0.2},
        {"cpu_busy_percent": 4.0, "temperature_tj_c": 42.0, "throttled_oc1": 5.0},
        {"cpu_mhz_mean": 1500.0, "gpu_mhz_17000000.gpu": 306.0, "throttled_cpu_core": 7.0},
        {"gpu_sm_mhz": 345.0, "gpu_temperature_c": 31.0, "gpu_throttled": 1.0},
    ]
    found = conditions_of(rows, cpus=6, clocks_locked=True, gpu_processes=0, shared=None)
    assert found.cpu_busy_percent == Course(2.0, 4.0, 3.0, 2.0, 4.0)
    assert found.temperatures_c["tj"] == Course(40.0, 42.0, 41.0, 40.0, 42.0)
    assert set(found.temperatures_c) == {"tj", "gpu"}
    assert set(found.clocks_mhz) == {"gpu_17000000.gpu", "cpu_mean", "gpu_sm"}
    assert found.throttled == {"oc1": 2, "gpu": 1}
    assert (found.samples, found.cpus, found.clocks_locked, found.shared) == (4, 6, True, None)
    assert found.unknown == ("GPU load",)
    assert conditions_of([{"gpu_load_percent": 3.0}]).gpu_utilisation_percent is not None
    assert conditions_of([]).unknown == ("CPU load", "GPU load", "temperature")
    assert course_of([]) is None
    assert json.dumps(found.to_json(), allow_nan=False)


def idle_of(mean: float | None, half: float | None) -> Baseline:
    return Baseline(mean, 1.0, half, None, 100, 20, 60.0, 0.0, 1.0)


def test_before_and_after_are_compared() -> None:
    warmer = compare(idle_of(5000.0, 3.0), idle_of(5080.0, 4.0), "total, loaded")
    assert (warmer.change_mw, warmer.interval_mw, warmer.significant) == (80.0, (75.0, 85.0), True)
    assert warmer.sentence == "total, loaded changed by +80 +- 5 mW (+1.6%)"
    same = compare(idle_of(5000.0, 3.0), idle_of(4998.0, 4.0))
    assert same.significant is False
    assert same.sentence == "idle power is as before: -2 +- 5 mW (-0.0%)"
    short = compare(idle_of(0.0, None), idle_of(10.0, 4.0))
    assert (short.significant, short.interval_mw) == (None, None)
    assert "too few readings" in short.sentence
    for pair in ((None, 5.0), (5.0, None)):
        none = compare(*(idle_of(mean, 1.0) for mean in pair))
        assert (none.change_mw, none.significant) == (None, None)
        assert "no comparison" in none.sentence
    assert json.dumps(warmer.to_json())


def test_the_comparison_finds_no_change_where_there_is_none() -> None:
    called = 0
    for seed in range(0, 200, 2):
        pair = (baseline(series_of(lasting(k, 2001, 20)), 0, 14_000 * MS) for k in (seed, seed + 1))
        called += bool(compare(*pair).significant)
    assert called <= 10


def test_scatter_is_about_a_line_and_needs_enough_readings() -> None:
    from edgejoule.energy.baseline import scatter_mw
    from edgejoule.energy.trace import RailPower

    times = np.arange(1000) * 1_000_000
    noise = np.random.default_rng(3).normal(0.0, 20.0, 1000)
    falling = RailPower("VDD_IN", times, 5000.0 - 3.0 * np.arange(1000) + noise)
    found = scatter_mw(falling, [(0, int(times[499])), (int(times[500]), int(times[999]))])
    assert found == pytest.approx(20.0, rel=0.1)
    assert scatter_mw(falling, [(0, int(times[40]))]) is None
