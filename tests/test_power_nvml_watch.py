"""The benchmark that watches NVML: its estimates against sources whose truth is known."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).resolve().parent.parent / "benchmarks" / "nvml_watch.py"
START_NS = 7_000_000_000


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nvml_watch", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def switching(seconds: float, seed: int = 3) -> list[tuple[int, int]]:
    draws = random.Random(seed)
    now_ns, stretches = START_NS, []
    while now_ns < START_NS + seconds * 1e9:
        end_ns = now_ns + int(draws.uniform(0.03, 0.5) * 1e9)
        stretches.append((now_ns, end_ns))
        now_ns = end_ns + int(draws.uniform(0.03, 0.5) * 1e9)
    return stretches


def readings(
    bench: ModuleType, stretches: list[tuple[int, int]], period_ms: float, window_ms: float,
    delay_ms: float, noise_mw: float = 2000,
) -> list[tuple[int, float]]:  # fmt: skip
    """What a source shows: each period, the mean over a window that ended some time ago."""
    draws = random.Random(5)
    on = bench.OnTime(stretches)
    points, when = [], float(START_NS)
    while when < stretches[-1][1]:
        end = when - delay_ms * 1e6
        share = (on.until(end) - on.until(end - window_ms * 1e6)) / (window_ms * 1e6)
        points.append((int(when), 120_000 + 200_000 * share + draws.gauss(0, noise_mw)))
        when += period_ms * 1e6
    return points


@pytest.mark.parametrize(
    ("period_ms", "window_ms", "delay_ms"),
    [(102, 25, 0), (102, 25, 60), (100, 100, 0), (100, 1000, 20), (20, 10, 4)],
)
def test_the_window_and_the_delay_are_found(
    bench: ModuleType, period_ms: float, window_ms: float, delay_ms: float
) -> None:
    stretches = switching(40)
    points = readings(bench, stretches, period_ms, window_ms, delay_ms)
    found = bench.fit_window(points, stretches)
    assert found["window_ms"] == pytest.approx(window_ms, rel=0.15, abs=2)
    assert found["window_low_ms"] <= window_ms <= found["window_high_ms"]
    assert found["delay_ms"] == pytest.approx(delay_ms, abs=12)
    assert found["explained"] > 0.95


def test_nothing_is_said_of_what_the_load_does_not_explain(bench: ModuleType) -> None:
    stretches = switching(40)
    noise = readings(bench, stretches, 100, 25, 0, noise_mw=500_000)
    assert bench.fit_window(noise, stretches)["window_ms"] is None
    flat = [(when, 5.0) for when, _ in noise]
    assert bench.fit_window(flat, stretches)["window_ms"] is None
    assert bench.fit_window(noise[:30], stretches)["window_ms"] is None
    fewer = [(when, -value) for when, value in readings(bench, stretches, 100, 25, 0)]
    assert bench.fit_window(fewer, stretches)["window_ms"] is None  # less power under load


def test_the_period_survives_equal_values(bench: ModuleType) -> None:
    changes = [(START_NS + k * 100_000_000, k) for k in range(100) if k % 7]
    found = bench.period(changes)
    assert found["period_ms"] == pytest.approx(100, abs=0.01)
    assert bench.period(changes[:4])["period_ms"] is None


def test_the_time_under_load(bench: ModuleType) -> None:
    on = bench.OnTime([(100, 200), (300, 350)])
    assert [on.until(t) for t in (50, 100, 150, 250, 300, 320, 400)] == [0, 0, 50, 100, 100, 120,
                                                                         150]  # fmt: skip


def test_counter_and_integrals_agree_between_ticks(bench: ModuleType) -> None:
    ticks = [(START_NS + k * 100_000_000, 1000 + k * 20_000) for k in range(50)]  # 200 W
    steady = [(START_NS - 1, 200_000), (START_NS + 2_000_000_000, 100_000)]
    found = bench.agreement({"gpu_energy": ticks, "gpu_instant": steady, "late": ticks[5:]})
    assert found["seconds"] == pytest.approx(4.8)
    assert found["counter_w"] == pytest.approx(200)
    assert found["mean_w"]["gpu_instant"] == pytest.approx((1.9 * 200 + 2.9 * 100) / 4.8, abs=0.01)
    assert found["of_counter"]["gpu_instant"] == pytest.approx(0.6979, abs=1e-3)
    assert found["of_counter"]["late"] is None
    assert bench.as_power(ticks)[0] == (ticks[2][0], pytest.approx(200_000))
    without = bench.agreement({"gpu_instant": steady})
    assert (without["counter_w"], without["mean_w"]) == (None, {"gpu_instant": 150.0})


def test_watching_keeps_changes_and_outlives_failures(bench: ModuleType) -> None:
    values = iter([1, 1, 2])

    def read() -> int:
        try:
            return next(values)
        except StopIteration:
            raise OSError from None

    changes = bench.watch({"source": read}, 0.05)
    assert [value for _, value in changes["source"]] == [1, 2]
    assert set(bench.cost(read, 100)) == {"median_us", "p99_us"}
