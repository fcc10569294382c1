"""Block means and the proportional split: sums, shares, intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.energy.proportional import attribute, per_inference
from edgejoule.energy.statistics import block_starts, combine, half_width_of, mean_of, t95


@pytest.mark.parametrize(("dof", "value"), [(1, 12.706), (19, 2.093), (60, 2.000), (1000, 1.962)])
def test_students_t_agrees_with_the_tables(dof, value):
    assert t95(dof) == pytest.approx(value, abs=2e-3)


def test_no_degree_of_freedom_gives_no_interval():
    assert t95(0) == np.inf
    assert half_width_of(np.array([1.0])) is None
    assert mean_of(np.array([3.0])).half_width is None
    assert np.isnan(mean_of(np.array([])).value)
    assert combine(1.0, None) is None
    assert combine(3.0, 4.0) == 5.0


@given(st.integers(1, 500))
def test_blocks_cover_everything_once(n):
    starts = block_starts(n)
    sizes = np.diff(np.append(starts, n))
    assert starts[0] == 0
    assert sizes.sum() == n
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1


def test_the_interval_covers_the_mean_of_correlated_values():
    """95 % of intervals hold the truth although neighbours are alike (first-order, 0.9)."""
    rng = np.random.default_rng(1)
    covered = naive = 0
    for _ in range(300):
        noise = rng.normal(size=4000)
        values = np.empty(4000)
        values[0] = noise[0] / np.sqrt(1 - 0.81)
        for i in range(1, 4000):
            values[i] = 0.9 * values[i - 1] + noise[i]
        mean = mean_of(values)
        covered += abs(mean.value) <= mean.half_width
        naive += abs(mean.value) <= 1.96 * values.std() / np.sqrt(4000)
    assert covered >= 0.90 * 300
    assert naive < 0.60 * 300  # what independent values would claim


@given(st.data())
def test_layers_and_gap_add_up_to_the_whole(data):
    n = data.draw(st.integers(2, 60))
    layers = data.draw(st.integers(1, 8))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    duration_ns = rng.integers(1_000_000, 2_000_000, n)
    energy_mj = rng.uniform(1, 20, n)
    share = rng.dirichlet(np.ones(layers + 1))[:-1]
    starts = block_starts(n)
    layer_ns = np.outer(np.add.reduceat(duration_ns, starts), share)
    rows = attribute("VDD_IN", energy_mj, duration_ns, layer_ns, 500.0, 3.0)
    kinds = [row.kind for row in rows]
    assert kinds == ["layer"] * layers + ["gap", "inference", "closure"]
    parts, whole, closure = rows[: layers + 1], rows[-2], rows[-1]
    assert whole.gross_mj == pytest.approx(energy_mj.mean())
    assert whole.dynamic_mj == pytest.approx((energy_mj - 500.0 * duration_ns * 1e-9).mean())
    assert closure.gross_mj == pytest.approx(whole.gross_mj)
    assert closure.dynamic_mj == pytest.approx(whole.dynamic_mj)
    assert sum(part.dynamic_mj for part in parts) == pytest.approx(whole.dynamic_mj)
    for row, part in zip(parts, [*share, 1 - share.sum()], strict=True):
        assert row.gross_mj == pytest.approx(part * energy_mj.mean())
        assert row.systematic_mj is None  # another step's, as the scaled columns are
        assert row.time_ms == pytest.approx(part * duration_ns.mean() * 1e-6)
    assert whole.time_ms == closure.time_ms == pytest.approx(duration_ns.mean() * 1e-6)


def test_without_a_baseline_nothing_dynamic_is_said():
    energy_mj, duration_ns = np.full(10, 3.0), np.full(10, 1_000_000)
    rows = attribute("VDD_IN", energy_mj, duration_ns, np.full((10, 1), 600_000.0), None, None)
    assert [row.dynamic_mj for row in rows] == [None] * 4
    assert rows[0].gross_mj == pytest.approx(1.8)


def test_the_baselines_own_width_enters_the_interval():
    energy_mj, duration_ns = np.full(40, 3.0), np.full(40, 1_000_000)
    found = per_inference(energy_mj, duration_ns, 1000.0, 50.0)
    assert found.dynamic_mj == pytest.approx(2.0)
    assert found.dynamic_half_width_mj == pytest.approx(50.0 * 1e-3)
    assert found.gross_half_width_mj == pytest.approx(0.0)
    assert found.mean_mw == pytest.approx(3000.0)
    assert per_inference(energy_mj, duration_ns, 1000.0, None).dynamic_half_width_mj is None


def test_time_in_which_the_profiler_holds_the_device_back_counts_as_idle():
    """900 of 1000 us waiting at 100 W, 60 in layers and 40 between them at 400 W."""
    n, baseline_mw = 40, 100_000.0
    duration_ns = np.full(n, 1_000_000)
    busy_mj = 300_000.0 * 100e-6  # above idle
    energy_mj = np.full(n, baseline_mw * 1e-3 + busy_mj)
    blocks = np.diff(np.append(block_starts(n), n))
    layer_ns = np.outer(blocks, [45_000.0, 15_000.0])
    rows = attribute(
        "total", energy_mj, duration_ns, layer_ns, baseline_mw, None, np.full(n, 900_000)
    )
    first, second, gap, whole, closure = rows
    assert (first.dynamic_mj, second.dynamic_mj) == (
        pytest.approx(0.45 * busy_mj), pytest.approx(0.15 * busy_mj),
    )  # fmt: skip
    assert gap.dynamic_mj == pytest.approx(0.40 * busy_mj)
    assert first.gross_mj == pytest.approx(0.45 * busy_mj + baseline_mw * 45e-6)
    assert gap.gross_mj == pytest.approx(0.40 * busy_mj + baseline_mw * 940e-6)
    assert closure.gross_mj == pytest.approx(whole.gross_mj)
    assert closure.dynamic_mj == pytest.approx(whole.dynamic_mj)
    ignoring = attribute("total", energy_mj, duration_ns, layer_ns, baseline_mw, None)
    assert ignoring[0].dynamic_mj == pytest.approx(0.045 * busy_mj)  # a tenth of what it took


def test_a_profiler_cannot_hold_longer_than_the_layers_leave():
    rows = attribute(
        "total", np.full(4, 10.0), np.full(4, 1_000_000), np.full((4, 1), 600_000.0), 1000.0, None,
        held_ns=np.full(4, 900_000),
    )  # fmt: skip
    assert rows[1].dynamic_mj == pytest.approx(0.0)  # the gap
    assert rows[0].dynamic_mj == pytest.approx(9.0)


def test_the_baselines_interval_moves_what_it_is_taken_from():
    """Moving the baseline by its half-width moves energies by no more than that part of theirs."""
    n = 40
    energy_mj, duration_ns = np.full(n, 80.0), np.full(n, 10_000_000)
    held_ns = np.full(n, 8_000_000)
    blocks = np.diff(np.append(block_starts(n), n))
    layer_ns = np.outer(blocks, [1_000_000.0])

    def split(baseline_mw):
        return attribute("x", energy_mj, duration_ns, layer_ns, baseline_mw, 100.0, held_ns)

    for now, moved in zip(split(5000.0)[:2], split(5100.0)[:2], strict=True):
        assert now.dynamic_statistical_mj == pytest.approx(abs(moved.dynamic_mj - now.dynamic_mj))
        assert now.gross_statistical_mj == pytest.approx(abs(moved.gross_mj - now.gross_mj))
    assert split(5000.0)[0].dynamic_statistical_mj == pytest.approx(0.5)


def test_layers_without_any_time_are_no_division_by_zero():
    held_ns = np.full(4, 1_000_000)
    rows = attribute(
        "x", np.full(4, 5.0), np.full(4, 1_000_000), np.zeros((4, 2)), 1000.0, None, held_ns
    )
    assert [row.dynamic_mj for row in rows[:2]] == [0.0, 0.0]
