"""Non-negative least squares from block sums: exactness, intervals, cost."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.energy import regression
from edgejoule.energy.regression import fit, normal_blocks, solve
from edgejoule.errors import MeasurementError


def problem(seed, n, p, negative=0, noise=1.0):
    """Columns of very different length; the last `negative` coefficients are below 0."""
    rng = np.random.default_rng(seed)
    design = rng.uniform(0, 1, (n, p)) * 10 ** rng.uniform(-3, 3, p)
    truth = np.maximum(rng.normal(0.5, 1.0, p), 0.0) / np.linalg.norm(design, axis=0) * n
    if negative:
        truth[-negative:] = -np.abs(truth[-negative:]) - 0.1 / np.linalg.norm(design, axis=0)[-1]
    return design, truth, design @ truth + rng.normal(0, noise, n)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 12))
def test_it_is_scipys_solution_on_the_whole_design(seed, p, blocks):
    nnls = pytest.importorskip("scipy.optimize").nnls
    design, _, target = problem(seed, 5 * p + 10, p)
    scale = np.linalg.norm(design, axis=0)
    expected = nnls(design / scale, target)[0] / scale
    found = fit(normal_blocks(design, target, blocks), draws=0)
    assert found.coefficients * scale == pytest.approx(expected * scale, rel=1e-6, abs=1e-6)
    assert np.all(found.coefficients >= 0)


def test_free_columns_may_be_negative_and_leave_the_others_bounded():
    lsq_linear = pytest.importorskip("scipy.optimize").lsq_linear
    design, _, target = problem(3, 400, 12, negative=2, noise=20.0)
    bounded = np.arange(12) < 10
    lower = np.where(bounded, 0.0, -np.inf)
    scale = np.linalg.norm(design, axis=0)
    expected = lsq_linear(design / scale, target, (lower, np.inf), method="bvls", tol=1e-14).x
    found = fit(normal_blocks(design, target), bounded, draws=0)
    assert np.any(expected[10:] < 0)
    assert np.any(expected[:10] == 0)
    assert found.coefficients * scale == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_any_start_ends_at_the_same_place():
    design, _, target = problem(5, 200, 20, noise=5.0)
    scale = np.linalg.norm(design, axis=0)
    gram, moment = (design / scale).T @ (design / scale), (design / scale).T @ target
    bounded = np.ones(20, bool)
    whole, within, cost = solve(gram, moment, bounded)
    for start in (np.zeros(20, bool), ~within, within):
        assert solve(gram, moment, bounded, start)[0] == pytest.approx(whole, abs=1e-9)
    assert solve(gram, moment, bounded, within)[2] == 1 < cost


def test_the_last_resort_agrees(monkeypatch):
    pytest.importorskip("scipy")
    design, _, target = problem(8, 100, 10, negative=1, noise=20.0)
    scale = np.linalg.norm(design, axis=0)
    gram, moment = (design / scale).T @ (design / scale), (design / scale).T @ target
    bounded = np.arange(10) < 9
    expected, _, _ = solve(gram, moment, bounded)
    assert regression._by_scipy(gram, moment, bounded) == pytest.approx(expected, abs=1e-8)


def test_weights_are_rows_that_count_more_often():
    design, _, target = problem(6, 60, 4)
    times = np.arange(60) % 3 + 1
    repeated = normal_blocks(np.repeat(design, times, axis=0), np.repeat(target, times), 1)
    weighted = normal_blocks(design, target, 1, weights=times.astype(float))
    assert weighted.gram == pytest.approx(repeated.gram)
    assert weighted.moment == pytest.approx(repeated.moment)
    assert weighted.square == pytest.approx(repeated.square)


@pytest.mark.parametrize("blocks", [20, 40])
def test_nominal_95_percent_covers_at_least_90(blocks):
    """Noise that is alike over many rows (first-order, 0.8), blocks much longer than that."""
    held = total = ordinary = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n, p = 50 * blocks, 8
        design = rng.uniform(0, 1, (n, p))
        truth = rng.uniform(0.5, 3.0, p)
        noise = rng.normal(0, 1, n)
        for row in range(1, n):
            noise[row] += 0.8 * noise[row - 1]
        # Columns that are alike over time too, or their noise would average out within a block.
        design = 0.1 * design + np.repeat(rng.uniform(0, 1, (n // 10, p)), 10, axis=0)
        found = fit(normal_blocks(design, design @ truth + noise, blocks), draws=100, seed=seed)
        off = np.abs(found.coefficients - truth)
        held += int(np.sum(off <= found.half_widths))
        ordinary += int(np.sum(off <= 1.96 * np.sqrt(np.diagonal(found.white))))
        total += p
    assert held >= 0.90 * total
    assert held <= 0.995 * total  # not by being useless
    assert ordinary < 0.85 * total  # what white noise would claim


def test_coefficients_at_the_bound_are_covered_too():
    held = total = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        design = rng.uniform(0, 1, (600, 6))
        truth = np.array([0.0, 0.02, 0.05, 1.0, 2.0, 0.0])
        target = design @ truth + rng.normal(0, 0.5, 600)
        found = fit(normal_blocks(design, target, 20), draws=100, seed=seed)
        held += int(np.sum(np.abs(found.coefficients - truth) <= found.half_widths))
        total += 6
    assert held >= 0.93 * total


def test_a_half_width_is_the_largest_of_three_and_each_is_right_alone():
    """Of a plain mean all three are known: the spread of the blocks' means over their root."""
    rng = np.random.default_rng(7)
    target = np.repeat(rng.normal(10, 1, 20), 30) + rng.normal(0, 0.1, 600)  # alike within a block
    found = fit(normal_blocks(np.ones((600, 1)), target, 20), draws=20_000)
    means = target.reshape(20, 30).mean(axis=1)
    expected = 2.093 * means.std(ddof=1) / np.sqrt(20)
    nothing = np.zeros((1, 1))
    only_draws = replace(found, clustered=nothing, white=nothing)
    only_clustered = replace(found, draws=found.draws[:0], white=nothing)
    only_white = replace(found, draws=found.draws[:0], clustered=nothing)
    assert only_draws.half_widths[0] == pytest.approx(expected, rel=0.012)
    assert only_clustered.half_widths[0] == pytest.approx(expected, rel=0.01)
    assert only_white.half_widths[0] == pytest.approx(
        2.093 * target.std(ddof=1) / np.sqrt(600), rel=0.01
    )
    parts = [one.half_widths[0] for one in (only_draws, only_clustered, only_white)]
    assert found.half_widths[0] == max(parts)


def test_equal_data_give_equal_intervals_and_fewer_than_two_blocks_none():
    design, _, target = problem(2, 200, 5)
    blocks = normal_blocks(design, target, 20)
    assert np.array_equal(fit(blocks).half_widths, fit(blocks).half_widths)
    assert not np.array_equal(fit(blocks, seed=1).draws, fit(blocks).draws)
    assert np.all(np.isinf(fit(normal_blocks(design, target, 1)).half_widths))


def test_200_draws_cost_hardly_more_than_one_system_each():
    """60 columns, 40 blocks: rows appear once, when they are summed; each draw starts where the
    whole ended. One system of 60 columns is some 80 thousand multiplications."""
    rng = np.random.default_rng(0)
    design = rng.uniform(0, 1, (4000, 60))
    truth = np.maximum(rng.normal(1, 1, 60), 0)
    blocks = normal_blocks(design, design @ truth + rng.normal(0, 1, 4000), 40)
    found = fit(blocks, draws=200)
    assert found.draws.shape == (200, 60)
    assert found.solves <= 200 * 4


def test_a_prior_holds_back_and_does_not_narrow():
    rng = np.random.default_rng(4)
    design = rng.uniform(0, 1, (400, 3))
    target = design @ [1.0, 2.0, 0.3] + rng.normal(0, 0.2, 400)
    blocks = normal_blocks(design, target, 20)
    free, strong = fit(blocks), np.diag([0.0, 0.0, 1e6])
    held = fit(blocks, prior=strong)
    assert abs(held.coefficients[2]) < 1e-3 < free.coefficients[2]
    # As wide as what was said beforehand: a standard deviation of the residual's over 1000.
    width = held.half_widths[2] / held.residual
    assert 0.5 * 2.09e-3 < width < 2 * 2.09e-3
    weak = fit(blocks, prior=np.diag([0.0, 0.0, 1e-6]))
    assert weak.coefficients == pytest.approx(free.coefficients, rel=1e-4)


def test_what_is_not_finite_or_does_not_fit_is_refused():
    design = np.ones((10, 2))
    with pytest.raises(MeasurementError, match="not finite"):
        fit(normal_blocks(design, np.full(10, np.nan), 2))
    with pytest.raises(MeasurementError, match="to explain"):
        normal_blocks(design, np.ones(9))
    with pytest.raises(MeasurementError, match="to explain"):
        normal_blocks(np.ones((0, 2)), np.ones(0))
    good = normal_blocks(design, np.ones(10), 2)
    with pytest.raises(MeasurementError, match="number of columns"):
        regression.NormalBlocks(
            good.gram[:, :1], good.moment, good.square, good.rows, good.column_sum,
            good.target_sum,
        )  # fmt: skip


def test_a_column_of_nothing_is_nothing_and_unknown():
    design = np.column_stack([np.random.default_rng(1).uniform(1, 2, 200), np.zeros(200)])
    found = fit(normal_blocks(design, 3.0 * design[:, 0], 20))
    assert found.coefficients == pytest.approx([3.0, 0.0])
    assert np.isinf(found.half_widths[1])
    assert found.half_widths[0] == pytest.approx(0.0, abs=1e-6)
