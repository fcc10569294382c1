"""What sampler and profiler cost, from blocks with known effects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgejoule.energy.observer import observer_effect, paired_percent, pairs_of
from edgejoule.energy.trace import RailPower
from tests.support_segments import REFRESH_NS, counter_of


def blocks_of(
    factor: str,
    effect: float,
    noise: float = 0.0,
    drift: float = 0.0,
    *,
    fours: int = 4,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Blocks of 0.4 s, 0.1 s apart, whose latency rises by `effect` while the factor is on."""
    random = np.random.default_rng(seed)
    blocks: list[dict[str, Any]] = []
    for four in range(fours):
        first = bool(random.integers(2))
        for on in (first, not first, not first, first):
            start_ns = 1_000_000_000 + len(blocks) * 500_000_000
            mean_ns = 10e6 * (1 + effect * on) * (1 + noise * random.standard_normal())
            mean_ns *= 1 + drift * len(blocks)
            blocks.append(
                {
                    "factor": factor,
                    "four": four,
                    "sampler": on if factor == "sampler" else True,
                    "profiler": on if factor == "profiler" else False,
                    "start_ns": start_ns,
                    "end_ns": start_ns + 400_000_000,
                    "inferences": 40,
                    "mean_ns": mean_ns,
                    "median_ns": mean_ns,
                }
            )
    return blocks


def said(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"blocks": list(blocks), "seconds": 8.0, "why": None}


def test_each_block_is_in_one_pair_of_one_on_and_one_off() -> None:
    blocks = blocks_of("sampler", 0.0)
    pairs = pairs_of(blocks, "sampler")
    assert sorted(place for pair in pairs for place in pair) == list(range(16))
    assert all(blocks[on]["sampler"] and not blocks[off]["sampler"] for on, off in pairs)
    assert all(abs(on - off) == 1 for on, off in pairs)


def test_an_effect_is_found_beside_noise_and_drift() -> None:
    blocks = blocks_of("profiler", 0.05, noise=0.005, drift=0.01)
    found = observer_effect(said(*blocks), {}, lambda _: 0)
    assert found is not None
    profiler = found["profiler"]
    low, high = profiler["interval_percent"]
    assert low < 5.0 < high
    assert high - low < 3.0
    assert profiler["resolved"] is True
    assert (profiler["pairs"], profiler["inferences"]) == (8, 640)
    assert found["sampler"]["latency_percent"] is None
    assert found["sampler"]["why"] == "no blocks of it were measured"


def test_no_effect_is_not_resolved_as_often_as_promised() -> None:
    wrong = 0
    for seed in range(100):
        blocks = blocks_of("sampler", 0.0, noise=0.01, seed=seed)
        found = observer_effect(said(*blocks), {}, lambda _: 0)
        assert found is not None
        wrong += found["sampler"]["resolved"]
    assert wrong <= 12


def test_one_pair_has_no_interval_and_none_is_nothing() -> None:
    one = np.array([1.1])
    effect = paired_percent(one, np.array([1.0]))
    assert effect is not None
    assert effect[0] == pytest.approx(10.0)
    assert effect[1] is None
    assert paired_percent(np.array([np.nan]), one) is None
    assert observer_effect(None, {}, lambda _: 0) is None
    short = {"blocks": [], "seconds": 0.0, "why": "too short"}
    found = observer_effect(short, {}, lambda _: 0)
    assert found is not None
    assert found["sampler"]["why"] == found["profiler"]["why"] == "too short"


def power_of(blocks: list[dict[str, Any]], on_mw: float, off_mw: float, factor: str) -> Any:
    """Return a function of time: each block's power holds until the next one begins."""

    def power(t_s: np.ndarray) -> np.ndarray:
        found = np.full(len(t_s), off_mw)
        for block in blocks:
            begin_s = block["start_ns"] * 1e-9 - 0.1
            at = (t_s >= begin_s) & (t_s < begin_s + 0.5)
            found[at] = on_mw if block[factor] else off_mw
        return found

    return power


def test_power_under_the_profiler_comes_from_the_trace() -> None:
    blocks = blocks_of("profiler", 0.10)
    t_ns = np.arange(0, 12_000_000_000, REFRESH_NS)
    power = power_of(blocks, 6300.0, 6000.0, "profiler")(t_ns * 1e-9)
    rail = RailPower("VDD_IN", t_ns, power)
    found = observer_effect(said(*blocks), {"VDD_IN": rail}, lambda _: 2 * REFRESH_NS)
    assert found is not None
    own = found["profiler"]["rails"]["VDD_IN"]
    assert own["power_percent"] == pytest.approx(5.0, abs=0.1)
    assert own["energy_percent"] == pytest.approx(100 * (1.05 * 1.1 - 1), abs=0.1)
    assert own["pairs"] == 8
    # A sensor that looks back farther than a block is long says nothing of it.
    blind = observer_effect(said(*blocks), {"VDD_IN": rail}, lambda _: 500_000_000)
    assert blind is not None
    assert blind["profiler"]["rails"] == {}


def test_without_the_sampler_only_a_counter_knows() -> None:
    blocks = blocks_of("sampler", 0.0)
    rests = tuple(
        (block["start_ns"] * 1e-9 - 0.1, block["start_ns"] * 1e-9 + 0.4)
        for block in blocks
        if not block["sampler"]
    )
    power = power_of(blocks, 252e3, 240e3, "sampler")
    counter = counter_of(power, 12.0, 10.0, 5.03, np.random.default_rng(0), rests=rests)
    t_ns = np.arange(0, 12_000_000_000, REFRESH_NS)
    readings = RailPower("VDD_IN", t_ns, power(t_ns * 1e-9))
    rails = {"gpu_energy": counter, "VDD_IN": readings}
    found = observer_effect(said(*blocks), rails, lambda _: 20_000_000)
    assert found is not None
    own = found["sampler"]["rails"]
    assert set(own) == {"gpu_energy"}
    assert own["gpu_energy"]["power_percent"] == pytest.approx(5.0, abs=0.5)
