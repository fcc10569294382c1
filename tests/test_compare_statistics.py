"""What a comparison shows of simulated runs whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgejoule.report.compare.judge import Changes, Sample, changes_of
from edgejoule.report.compare.moderate import moderate
from edgejoule.report.compare.separate import separate
from edgejoule.report.compare.student import holm, quantile, tail
from edgejoule.report.compare.usual import centre_of, latency_of, usual


def sample(
    random: np.random.Generator,
    runs: int,
    layers: int,
    *,
    own: float = 0.004,
    common: float = 0.05,
    noise: float = 0.01,
    change: np.ndarray | float = 0.0,
    likeness: float = 0.0,
    builds: tuple[int, ...] | None = None,
) -> Sample:
    """Return processes of one network: 20 blocks each, layers whose scatter differs twofold."""
    level = np.linspace(-4.0, 0.0, layers)
    each = own * np.linspace(0.7, 1.4, layers)
    centres = []
    for _ in range(runs):
        blocks = noise * random.normal(size=(20, layers)) + 0.01 * random.normal(size=(20, 1))
        for step in range(1, 20):
            blocks[step] += likeness * blocks[step - 1]
        process = random.normal(0, common) + each * random.normal(size=layers)
        centres.append(centre_of(level + change + process + blocks, common=True))
    return Sample(
        np.array([one.value for one in centres]),
        np.array([one.variance for one in centres]),
        np.array([np.full(layers, one.freedom) for one in centres]),
        builds or (0,) * runs,
        tuple(one.common for one in centres),
    )


def shown(changes: Changes) -> np.ndarray:
    found: np.ndarray = holm(changes.p_value).shown & (np.abs(changes.own) > np.log(1.01))
    return found


@pytest.mark.parametrize(("runs", "layers"), [(1, 8), (1, 60), (2, 8), (2, 60), (3, 20), (5, 60)])
def test_repeats_are_hardly_ever_called_different(runs: int, layers: int) -> None:
    random = np.random.default_rng(runs * 100 + layers)
    share, any_shown = [], []
    for _ in range(80):
        sides = [sample(random, runs, layers, own=0.02, likeness=0.5) for _ in "ab"]
        found = shown(changes_of(sides[0], sides[1], apart=True))
        share.append(found.mean())
        any_shown.append(found.any())
    assert np.mean(share) <= 0.02
    # Holm keeps any false one at 5 %; 80 trials at 5 % exceed 9 of them once in 100.
    assert np.sum(any_shown) <= 9


@pytest.mark.parametrize(
    ("runs", "factor", "least"), [(1, 1.10, 0.95), (1, 1.03, 0.5), (3, 1.10, 0.95), (3, 1.03, 0.5)]
)
def test_a_slowed_layer_is_found(runs: int, factor: float, least: float) -> None:
    random = np.random.default_rng(7)
    found = []
    for trial in range(60):
        change = np.zeros(40)
        change[trial % 40] = np.log(factor)
        sides = [sample(random, runs, 40), sample(random, runs, 40, change=change)]
        changes = changes_of(sides[0], sides[1], apart=True)
        found.append(bool(shown(changes)[trial % 40] and changes.own[trial % 40] > 0.0))
    assert np.mean(found) >= least


@pytest.mark.parametrize("runs", [1, 3])
def test_several_slowed_layers_do_not_hide_each_other(runs: int) -> None:
    random = np.random.default_rng(3)
    change = np.zeros(40)
    change[5:13] = np.log(1.10)
    found, others = [], []
    for _ in range(30):
        sides = [sample(random, runs, 40), sample(random, runs, 40, change=change)]
        is_shown = shown(changes_of(sides[0], sides[1], apart=True))
        found.append(is_shown[5:13].sum())
        others.append(is_shown.sum() - found[-1])
    assert np.mean(found) >= 7.8
    assert np.mean(others) <= 0.15


def test_a_clock_that_moved_is_no_layers_own_change() -> None:
    random = np.random.default_rng(4)
    first = sample(random, 3, 30, common=0.0)
    second = sample(random, 3, 30, common=0.0, change=np.log(1.2))
    changes = changes_of(first, second, apart=True)
    assert not shown(changes).any()
    assert changes.common is not None
    assert changes.common.change == pytest.approx(np.log(1.2), abs=0.01)
    assert changes.common.p_value < 0.01
    together = changes_of(first, second, apart=False)
    assert shown(together).all()


def test_processes_of_one_build_are_one_value() -> None:
    random = np.random.default_rng(5)
    builds = [sample(random, 2, 20, builds=(0, 1)) for _ in "ab"]

    def twice(one: Sample) -> Sample:
        """Return every build measured twice, with the same result."""
        value, variance, freedom = (
            np.repeat(part, 2, axis=0) for part in (one.value, one.variance, one.freedom)
        )
        return Sample(value, variance, freedom, (0, 0, 1, 1))

    found = changes_of(twice(builds[0]), twice(builds[1]), apart=True)
    once = changes_of(builds[0], builds[1], apart=True)
    assert found.scope == "over builds (2 against 2)"
    assert found.variance == pytest.approx(once.variance)
    assert found.freedom == pytest.approx(once.freedom)


def test_few_layers_of_one_process_each_are_not_judged() -> None:
    random = np.random.default_rng(6)
    sides = [sample(random, 1, 4) for _ in "ab"]
    assert np.isnan(changes_of(sides[0], sides[1], apart=True).p_value).all()
    assert not np.isnan(changes_of(sides[0], sides[1], apart=False).p_value).any()
    repeats = [sample(random, 3, 4) for _ in "ab"]
    assert not np.isnan(changes_of(repeats[0], repeats[1], apart=True).p_value).any()


def test_moderated_variances_come_near_the_truth_and_keep_the_level() -> None:
    random = np.random.default_rng(8)
    errors, false = [], 0
    for _ in range(300):
        prior = 10.0
        true = prior / random.chisquare(prior, 60)
        raw = true * random.chisquare(2, 60) / 2
        moderated, freedom = moderate(raw, 2.0)
        errors.append(np.mean(np.log(moderated / true) ** 2) / np.mean(np.log(raw / true) ** 2))
        p_values = tail(random.normal(0, np.sqrt(true)) / np.sqrt(moderated), np.full(60, freedom))
        false += int((p_values < 0.05).sum())
    assert np.mean(errors) < 0.3
    assert 0.035 <= false / (300 * 60) <= 0.065


def test_variances_that_depend_on_the_time_follow_it() -> None:
    random = np.random.default_rng(9)
    level = np.linspace(-5.0, 1.0, 80)
    true = np.exp(-level)
    moderated, freedom = moderate(true * random.chisquare(2, 80) / 2, 2.0, level)
    assert np.corrcoef(np.log(moderated), -level)[0, 1] > 0.95
    assert freedom > 10.0


def test_holm_agrees_with_its_definition() -> None:
    found = holm(np.array([0.04, 0.001, np.nan, 0.03, 0.012]))
    # 0.001 <= 0.05 / 4, 0.012 <= 0.05 / 3, 0.03 > 0.05 / 2, and what follows is not looked at.
    assert found.shown.tolist() == [False, True, False, False, True]
    assert found.adjusted[[1, 4, 3, 0]] == pytest.approx([0.004, 0.036, 0.06, 0.06])
    assert holm(np.array([0.04, 0.001, 0.02, 0.012])).shown.all()
    assert not holm(np.array([0.06, 0.9])).shown.any()


@given(st.lists(st.floats(0.0, 1.0), max_size=30))
def test_an_interval_excludes_zero_where_it_is_shown(p_values: list[float]) -> None:
    found = holm(np.array(p_values))
    for p_value, level, is_shown in zip(p_values, found.level, found.shown, strict=True):
        assert is_shown == (p_value <= level)
        assert level <= 0.05


def test_students_t_agrees_with_scipys_distribution() -> None:
    freedom = np.array([1.5, 4.0, 30.0])
    assert quantile(np.full(3, 0.01), freedom) == pytest.approx(stats.t.isf(0.005, freedom))
    value = np.array([3.0, -2.0, 1.0])
    assert tail(value, freedom) == pytest.approx(2 * stats.t.sf(np.abs(value), freedom))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(5, 30),
    st.floats(-0.5, 0.5),
    st.booleans(),
)
def test_swapping_the_sides_swaps_the_signs(
    seed: int, first: int, second: int, layers: int, change: float, apart: bool
) -> None:
    random = np.random.default_rng(seed)
    moved = np.zeros(layers)
    moved[layers // 2] = change
    one, other = sample(random, first, layers), sample(random, second, layers, change=moved)
    there = changes_of(one, other, apart=apart)
    back = changes_of(other, one, apart=apart)
    assert there.own == pytest.approx(-back.own, abs=1e-9)
    assert there.p_value == pytest.approx(back.p_value, rel=1e-5, abs=1e-9)
    assert (shown(there) == shown(back)).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(5, 30), st.booleans())
def test_a_side_with_itself_shows_nothing(seed: int, runs: int, layers: int, apart: bool) -> None:
    one = sample(np.random.default_rng(seed), runs, layers)
    found = changes_of(one, one, apart=apart)
    assert not shown(found).any()
    assert found.total == pytest.approx(np.zeros(layers))


def test_equal_changes_need_no_variance() -> None:
    found = separate(np.zeros(10), np.zeros(10), np.full(10, 9.0))
    assert found.p_value == pytest.approx(np.ones(10))
    assert found.process_variance == 0.0


def test_the_usual_time_is_deaf_to_what_disturbs_and_hears_a_change() -> None:
    random = np.random.default_rng(10)
    quiet = np.exp(random.normal(0, 0.02, (400, 3)))
    disturbed = quiet.copy()
    disturbed[random.random((400, 3)) < 0.1] *= 50.0
    values = [centre_of(usual(one), common=False).value for one in (quiet, disturbed, quiet * 1.1)]
    assert values[1] == pytest.approx(values[0], abs=0.005)
    assert values[2] == pytest.approx(values[0] + np.log(1.1))
    assert np.abs(np.log(disturbed.mean(axis=0))).min() > 1.0


@pytest.mark.parametrize(("likeness", "least"), [(0.0, 0.9), (0.3, 0.9), (0.6, 0.84)])
def test_block_intervals_cover_although_neighbours_are_alike(likeness: float, least: float) -> None:
    random = np.random.default_rng(11)
    level = np.linspace(-4.0, 0.0, 20)
    covered = []
    for _ in range(150):
        one = sample(random, 1, 20, own=0.0, common=0.0, likeness=likeness)
        half = quantile(np.full(20, 0.05), one.freedom[0]) * np.sqrt(one.variance[0])
        off = one.value[0] - level
        covered.append(np.mean(np.abs(off - np.median(off)) <= half))
    assert np.mean(covered) >= least


def test_latency_of_drifting_inferences_is_unsure() -> None:
    random = np.random.default_rng(12)
    noise = 0.02 * random.normal(size=2000)
    steady, drifting = (
        latency_of(np.exp(noise)),
        latency_of(np.exp(noise + np.linspace(0, 0.2, 2000))),
    )
    assert steady is not None
    assert drifting is not None
    assert drifting[1] > 50 * steady[1]
    assert latency_of(np.ones(3)) is None
