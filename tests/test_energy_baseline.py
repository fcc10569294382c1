"""Idle baselines: mean, interval that likeness of neighbours does not shrink, drift."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgejoule.energy.baseline import baseline, baseline_entry
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
    assert json.dumps(entry, allow_nan=False)
