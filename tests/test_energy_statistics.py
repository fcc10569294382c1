"""Likeness in time: the autocorrelation time, intervals and lines that respect it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.energy.statistics import (
    BLOCKS,
    autocorrelation_time,
    block_means,
    blocks_for,
    half_width_of,
    line_through,
    mean_of,
)


def alike(rng: np.random.Generator, n: int, times: float) -> np.ndarray:
    """Return AR(1) noise of sd 1 that lasts `times` integrated autocorrelation times."""
    steps = n / times  # (1 + phi) / (1 - phi)
    phi = max(0.0, (steps - 1) / (steps + 1))
    fresh = rng.normal(size=n) * np.sqrt(1 - phi * phi)
    values = np.empty(n)
    values[0] = rng.normal()
    for k in range(1, n):
        values[k] = phi * values[k - 1] + fresh[k]
    return values


@pytest.mark.parametrize("steps", [1, 3, 9, 30])
def test_the_autocorrelation_time_of_known_noise(steps: int) -> None:
    rng = np.random.default_rng(steps)
    n = 20_000
    found = [autocorrelation_time(alike(rng, n, n / steps)) for _ in range(3)]
    assert np.mean(found) == pytest.approx(steps, rel=0.15, abs=0.15)


def test_the_autocorrelation_time_of_a_moving_mean_is_its_length() -> None:
    # Means over 10 independent values: the variance of their mean is that of 10 times fewer.
    rng = np.random.default_rng(5)
    values = np.convolve(rng.normal(size=40_000), np.full(10, 0.1), "valid")
    assert autocorrelation_time(values) == pytest.approx(10, rel=0.15)
    assert autocorrelation_time(np.repeat(rng.normal(size=2000), 20)) == pytest.approx(20, rel=0.15)


def test_values_without_likeness_or_variance() -> None:
    assert autocorrelation_time(np.empty(0)) == 1.0
    assert autocorrelation_time(np.array([4.0])) == 1.0
    assert autocorrelation_time(np.full(100, 4812.7)) == 1.0
    assert autocorrelation_time(np.tile([1.0, -1.0], 500)) == 1.0  # better than independent
    assert autocorrelation_time(np.array([0.0, 1.0])) == 1.0


@settings(deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=80),
    factor=st.sampled_from([2.0**-7, 2.0**9]),  # exact, so that rounding is the same
)
def test_the_autocorrelation_time_is_bounded_and_has_no_unit(
    values: list[float], factor: float
) -> None:
    one = autocorrelation_time(np.array(values))
    assert 1.0 <= one <= len(values)
    assert autocorrelation_time(factor * np.array(values)) == pytest.approx(one)


@pytest.mark.parametrize("times", [400, 100, 40, 16, 10])
def test_the_nominal_interval_covers_where_blocks_are_long_enough(times: int) -> None:
    """Blocks of four autocorrelation times hold 90 % or more; 20 blocks regardless would not."""
    rng = np.random.default_rng(times)
    n, trials, covered, careless = 1200, 400, 0, 0
    for _ in range(trials):
        values = alike(rng, n, times)
        blocks = blocks_for(n / autocorrelation_time(values))
        covered += abs(values.mean()) <= half_width_of(block_means(values, blocks))
        careless += abs(values.mean()) <= mean_of(values).half_width
    # 90 % less two standard deviations of 400 trials; 0.99 would be an interval too wide to use.
    assert 0.87 <= covered / trials <= 0.99
    if times <= 16:
        assert careless < covered - 0.04 * trials


def test_blocks_become_fewer_and_never_too_few() -> None:
    assert blocks_for(1e6) == BLOCKS
    assert blocks_for(80) == 20
    assert blocks_for(40) == 10
    assert blocks_for(3) == 4
    assert blocks_for(3, most=2) == 2
    assert block_means(np.arange(6.0), 3).tolist() == [0.5, 2.5, 4.5]


@settings(deadline=None)
@given(
    start=st.floats(-1e4, 1e4),
    change=st.floats(-1e4, 1e4),
    n=st.integers(2, 300),
)
def test_a_line_is_found_exactly(start: float, change: float, n: int) -> None:
    """From the begin of the first value to the end of the last: n steps of change / n."""
    found = line_through(start + change * (np.arange(n) + 0.5) / n)
    assert found is not None
    assert found.change == pytest.approx(change, rel=1e-6, abs=1e-6)
    assert (found.half_width is None) == (found.blocks < 3)


def test_no_line_through_one_value() -> None:
    assert line_through(np.array([3.0])) is None
    two = line_through(np.array([1.0, 2.0]))
    assert two is not None
    assert (two.blocks, two.half_width) == (2, None)
    assert two.change == pytest.approx(2.0)


@pytest.mark.parametrize("times", [200, 40, 12])
def test_the_interval_of_a_lines_change_covers(times: int) -> None:
    rng = np.random.default_rng(times)
    n, trials, covered = 1200, 300, 0
    for _ in range(trials):
        line = line_through(alike(rng, n, times) + np.linspace(0, 2, n))
        assert line is not None
        assert line.half_width is not None
        covered += abs(line.change - 2.0) <= line.half_width
    assert 0.87 <= covered / trials <= 0.99
