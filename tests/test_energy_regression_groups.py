"""What a regression can tell apart, and how it does on time it was not fitted to."""

import numpy as np
import pytest

from edgejoule.energy.regression import fit, normal_blocks
from edgejoule.energy.regression_folds import held_out, not_worse
from edgejoule.energy.regression_groups import resolve
from edgejoule.errors import MeasurementError


def exposures(seed, n=2000, p=4):
    return np.random.default_rng(seed).dirichlet(np.full(p, 0.3), n)


def fitted(design, truth, noise=0.05, seed=0, blocks=40):
    rng = np.random.default_rng(seed)
    return fit(normal_blocks(design, design @ truth + rng.normal(0, noise, len(design)), blocks))


def test_layers_that_differ_stand_alone():
    found = fitted(exposures(1), np.array([5.0, 1.0, 3.0, 8.0]))
    groups = resolve(found, np.array([0.1, 0.2, 0.3, 0.4]))
    assert [group.members for group in groups] == [(0,), (1,), (2,), (3,)]
    assert all(group.resolved for group in groups)
    assert groups[3].energy == pytest.approx(8.0 * 0.4, rel=0.01)


@pytest.mark.parametrize("nearly", [0.0, 1e-7, 1e-4])
def test_columns_that_go_together_become_a_group_whose_sum_is_right(nearly):
    """Layers 1 and 2 always share a window 3 to 1: neither is known, their sum is."""
    base = exposures(2)
    rng = np.random.default_rng(3)
    second = base[:, 1] / 3 * (1 + nearly * rng.normal(size=len(base)))
    design = np.column_stack([base[:, 0], base[:, 1], second, base[:, 2], base[:, 3]])
    truth, times = np.array([5.0, 1.0, 7.0, 3.0, 8.0]), np.array([0.2, 0.3, 0.1, 0.2, 0.3])
    found = fitted(design, truth)
    groups = resolve(found, times)
    assert [group.members for group in groups] == [(0,), (1, 2), (3,), (4,)]
    together = groups[1]
    assert together.resolved
    assert abs(together.energy - (1.0 * 0.3 + 7.0 * 0.1)) <= together.half_width < 0.05
    assert np.all(found.half_widths[1:3] * times[1:3] > 0.25 * found.coefficients[1:3] * times[1:3])


def test_three_alike_need_two_merges():
    base = exposures(4, p=3)
    design = np.column_stack([base[:, 0]] * 3 + [base[:, 1], base[:, 2]])
    found = fitted(design, np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    groups = resolve(found, np.full(5, 0.2))
    assert [group.members for group in groups] == [(0, 1, 2), (3,), (4,)]
    assert groups[0].energy == pytest.approx(0.2 * 6.0, rel=0.02)


def test_what_stays_unknown_is_taken_apart_and_not_resolved():
    """Two layers hardly ever seen: no sum with one another helps, and no other is drawn in."""
    rng = np.random.default_rng(5)
    design = np.column_stack([exposures(5, p=2), 1e-4 * rng.uniform(0, 1, (2000, 2))])
    found = fitted(design, np.array([5.0, 3.0, 4.0, 4.0]), noise=0.5)
    groups = resolve(found, np.array([0.5, 0.5, 1e-4, 1e-4]))
    assert [group.members for group in groups] == [(0,), (1,), (2,), (3,)]
    assert [group.resolved for group in groups] == [True, True, False, False]


def test_one_relation_among_three_makes_no_false_group():
    """The third column is the first plus the second: no two of them are told by a sum of two."""
    base = exposures(6)
    design = np.column_stack([base[:, 0], base[:, 1], base[:, 0] + base[:, 1], base[:, 2]])
    truth, times = np.array([2.0, 3.0, 4.0, 5.0]), np.array([0.3, 0.3, 0.6, 0.1])
    found = fitted(design, truth)
    for group in resolve(found, times):
        if group.resolved:
            sure = float(np.sum(truth[list(group.members)] * times[list(group.members)]))
            assert abs(group.energy - sure) <= group.half_width + 1e-9
    # All three together are known: time is theirs in the same proportion.
    chosen = np.array([0.3, 0.3, 0.6, 0.0])
    assert np.isfinite(found.half_width_of(chosen))
    assert np.isinf(found.half_width_of(np.array([0.3, 0.0, 0.0, 0.0])))


def test_resolved_ones_hold_the_truth():
    """Neighbouring windows overlap by chance: over many data sets what is said to be known is."""
    held = said = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        base = exposures(seed, n=400, p=5)
        design = np.column_stack([base, base[:, 4] * (1 + 0.05 * rng.normal(size=400))])
        truth = rng.uniform(1, 8, 6)
        groups = resolve(fitted(design, truth, 0.3, 1000 + seed, 20), np.full(6, 1.0))
        for group in groups:
            if group.resolved:
                said += 1
                held += abs(group.energy - truth[list(group.members)].sum()) <= group.half_width
    assert said >= 40 * 4
    assert held >= 0.90 * said


def test_other_models_that_fit_as_well_widen_the_answer():
    found = fitted(exposures(1), np.array([5.0, 1.0, 3.0, 8.0]))
    weights = np.full(4, 0.25)
    other = found.coefficients * [1.0, 1.5, 1.0, 1.0]
    plain, wider = resolve(found, weights), resolve(found, weights, alternatives=other[None])
    assert plain[1].resolved
    assert not wider[1].resolved
    assert wider[0].half_width == pytest.approx(plain[0].half_width)


def test_columns_without_weight_and_those_that_may_not_merge_are_left_alone():
    base = exposures(2)
    design = np.column_stack([base[:, 0], base[:, 0], base[:, 1], base[:, 2], base[:, 3]])
    found = fitted(design, np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    weights = np.array([0.2, 0.2, 0.2, 0.2, 0.0])
    allowed = np.array([True, False, True, True, True])
    groups = resolve(found, weights, mergeable=allowed)
    assert [group.members for group in groups] == [(0,), (1,), (2,), (3,)]
    assert [group.resolved for group in groups] == [False, False, True, True]


def test_held_out_error_is_that_of_fits_without_the_block():
    lstsq = np.linalg.lstsq
    design, truth = exposures(7, n=300), np.array([5.0, 1.0, 3.0, 8.0])
    target = design @ truth + np.random.default_rng(1).normal(0, 0.1, 300)
    found = held_out(normal_blocks(design, target, 10), folds=5)
    block = np.repeat(np.arange(10), 30)
    for index in range(5):
        out = found.fold[block] == index
        expected = lstsq(design[~out], target[~out], rcond=None)[0]
        assert found.coefficients[index] == pytest.approx(expected, rel=1e-6)
        for one in np.flatnonzero(found.fold == index):
            rest = target[block == one] - design[block == one] @ expected
            assert found.squared_error[one] == pytest.approx(np.mean(rest**2), rel=1e-6)
    assert found.mean_squared_error > fit(normal_blocks(design, target, 10)).residual ** 2 * 0.98
    with pytest.raises(MeasurementError, match="two blocks"):
        held_out(normal_blocks(design, target, 1))


def test_closure_is_seen_where_nothing_was_fitted():
    """A layer that stops halfway: the fit's own sums agree, those of the held-out half do not."""
    design = exposures(8, n=1000)
    held = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        target = design @ [5.0, 1.0, 3.0, 8.0] + rng.normal(0, 0.5, 1000)
        found = held_out(normal_blocks(design, target, 20))
        held += abs(found.closure - 1) <= found.closure_half_width
    assert held >= 36
    wrong = np.column_stack([design[:, :3], np.zeros(1000)])  # a layer left out of the model
    found = held_out(normal_blocks(wrong, design @ [5.0, 1.0, 3.0, 8.0], 20))
    assert abs(found.closure - 1) > found.closure_half_width


def test_only_models_that_are_worse_for_sure_are_dropped():
    rng = np.random.default_rng(2)
    common = rng.gamma(5, 1.0, 20)  # noisy blocks are noisy for all
    errors = np.stack([common, common + rng.normal(0, 0.01, 20), common + 0.2, common * 1.5])
    assert not_worse(errors).tolist()[0]
    assert not_worse(errors).tolist()[1]
    assert not_worse(errors).tolist()[2:] == [False, False]
    assert not_worse(errors[:, :1]).all()
