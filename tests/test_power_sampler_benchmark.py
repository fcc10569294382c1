"""The sampler's benchmark: what it works out of what it measured, and that its parts run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fcntl")  # Linux and macOS

from benchmarks import sampler, sampler_cost
from edgejoule.power.simulator import Tree
from edgejoule.power.sweeper import Tally
from edgejoule.processes import PROJECT_ROOT

PERIOD_NS = 6_600_000


@pytest.mark.parametrize(("scale_us", "longest_ms"), [(60, 0), (60, 4), (400, 40)])
def test_lateness_is_found_again(scale_us: float, longest_ms: int) -> None:
    """Sweeps as `Rhythm.run` begins them, with known lateness, some of more than a period."""
    draw = random.Random(scale_us + longest_ms)
    tally, begins, ends, truth = Tally(), [], [], []
    deadline_ns = 10**15
    for n in range(3000):
        late_ns = 20_000 + int(draw.expovariate(1 / (scale_us * 1000)))
        late_ns += draw.randrange(longest_ms * 1_000_000) if longest_ms and n % 50 == 7 else 0
        tally.late_by(late_ns)
        truth.append(late_ns)
        begins.append(deadline_ns + late_ns + 3_000)  # the first stamp comes a little behind
        ends.append(begins[-1] + 30_000)
        deadline_ns += max(1, -(-(ends[-1] - deadline_ns) // PERIOD_NS)) * PERIOD_NS
    found = sampler.lateness_of(np.array(begins), np.array(ends), PERIOD_NS, tally.lateness_us_log2)
    # The bins tell the grid's place to some us; what is asked of them are percentiles.
    assert np.abs(found - np.array(truth)).max() < 20_000
    assert np.ptp(found - np.array(truth)) < 1_000


def test_when_an_effect_is_small_enough() -> None:
    assert sampler.verdict(-0.001, 0.004) == "yes"
    assert sampler.verdict(0.006, 0.02) == "no"
    assert sampler.verdict(-0.01, 0.02) == "not resolved (width 3.00 %)"


def test_an_effect_with_its_interval() -> None:
    rng = np.random.default_rng(0)
    found = sampler._effect(list(rng.normal(np.log(1.02), 0.01, 400)))
    for name in ("median", "mean"):
        one = found[name]
        assert one["low_percent"] < 2.0 < one["high_percent"]
        assert one["high_percent"] - one["low_percent"] < 0.4
        assert one["at_most_half_a_percent"] == "no"
    assert found["pairs"] == 400


def test_costs_are_medians_and_ratios_within_a_round() -> None:
    spent = {"ours": [1000.0, 2000.0, 9000.0], "raw": [4000.0, 6000.0, 9000.0]}
    found = sampler_cost._costs(spent)
    assert found["ours"] == {"sweep_us": 2.0, "ratio_to_ours": 1.0, "n": 3}
    assert found["raw"] == {"sweep_us": 6.0, "ratio_to_ours": 3.0, "n": 3}


@pytest.fixture
def sysfs(tmp_path: Path) -> str:
    tree = Tree(tmp_path / "sys")
    for rail in range(3):
        tree.show(rail, 5000 + rail, 100 * rail)
    tree.close()
    return str(tmp_path / "sys")


def test_all_ways_read_the_same_files(sysfs: str, tmp_path: Path) -> None:
    paths = sampler_cost.value_files(sysfs)
    assert [Path(path).name for path in paths] == [
        f"{kind}{n}_input" for n in (1, 2, 3) for kind in ("in", "curr")
    ]
    rows: list[tuple[int, int]] = []
    sampler_cost.plain_sweep(paths, rows)
    assert [value for _, value in rows] == [5000, 0, 5001, 100, 5002, 200]
    with sampler_cost.ways_of_reading(sysfs, tmp_path) as ways:
        assert tuple(ways) == sampler_cost.WAYS
        for found, n in (
            (sampler_cost.back_to_back(ways, 2, 3), 2),
            (sampler_cost.one_per_period(ways, 2, period_ns=1000), 2),
        ):
            assert {row["n"] for row in found.values()} == {n}
            assert found["ours"]["ratio_to_ours"] == 1.0


def test_the_other_poller_says_what_it_used(sysfs: str, tmp_path: Path) -> None:
    stamps = tmp_path / "stamps"
    paths = sampler_cost.value_files(sysfs)
    with sampler_cost.polling(paths, 0.3, PERIOD_NS, stamps) as process:
        said, _ = process.communicate(timeout=60)
    found = json.loads(said)
    begins = np.frombuffer(stamps.read_bytes(), np.int64)
    assert len(begins) == found["sweeps"] >= 1
    assert found["seconds"] >= 0.3
    assert np.all(np.diff(begins) >= PERIOD_NS)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'no qemu here' >&2; exit 2", {"skipped": "no qemu here"}),
        ("exit 3", {"skipped": "boot.sh ended with status 3"}),
        ("""echo noise; echo '{"sweeps": 1}'""", {"sweeps": 1}),
    ],
)
def test_without_the_emulator_it_is_left_out_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, found: dict[str, Any]
) -> None:
    boot = tmp_path / "boot.sh"
    boot.write_text(f"#!/bin/sh\n{script}\n")
    boot.chmod(0o755)
    monkeypatch.setattr(sampler, "BOOT", boot)
    assert sampler.real_driver() == found


def test_help_teaches() -> None:
    command = [sys.executable, str(PROJECT_ROOT / "benchmarks" / "sampler.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for word in ("--quick", "--json", "--real-driver", "Goals", "examples:"):
        assert word in done.stdout
