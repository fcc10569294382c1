"""Energy of inferences between which the pass waited."""

from __future__ import annotations

import numpy as np
import pytest

from edgejoule.energy.integrate import energies_mj
from edgejoule.energy.trace import RailPower
from edgejoule.energy.waiting import energies_without_waiting

MS = 1_000_000


def smeared(busy_mw: float, idle_mw: float, waits_ms: np.ndarray) -> tuple[RailPower, np.ndarray]:
    """A sensor too slow for inferences of 3 ms: it shows the mean over inferences and waits."""
    start = np.concatenate([[0], np.cumsum((3.0 + waits_ms) * MS)]).astype(np.int64)[:-1]
    share = 3.0 * len(waits_ms) / (3.0 * len(waits_ms) + waits_ms.sum())
    times = np.arange(0, start[-1] + 100 * MS, 6 * MS)
    mean = idle_mw + (busy_mw - idle_mw) * share
    return RailPower("VDD_IN", times, np.full(len(times), mean)), start


def test_waiting_counts_as_idle_and_not_as_inference() -> None:
    waits_ms = np.random.default_rng(1).uniform(0, 0.75, 4000)
    series, start = smeared(9000.0, 4000.0, waits_ms)
    end = start + 3 * MS
    spans = np.array([[0, end[-1] + MS]])
    found = energies_without_waiting(series, start, end, spans, 4000.0)
    assert found.mean() == pytest.approx(27.0, rel=1e-3)
    plain = energies_mj(series, start, end).mean()
    assert plain < 0.96 * 27.0


def test_what_comes_after_a_stretch_is_nobodys() -> None:
    start = np.array([0, 10 * MS, 1000 * MS, 1010 * MS])
    end = start + 5 * MS
    times = np.arange(0, 2000 * MS, MS)
    series = RailPower("total", times, np.full(len(times), 1000.0))
    spans = np.array([[0, 20 * MS], [1000 * MS, 1020 * MS]])
    found = energies_without_waiting(series, start, end, spans, 400.0)
    assert found == pytest.approx([8.0, 5.0, 8.0, 5.0])
