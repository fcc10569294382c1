"""Clocks: what is solved at once against the same done step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgejoule.energy.calibration_clock import _followed as followed
from edgejoule.energy.calibration_clock import _stood_still, _wander
from edgejoule.energy.calibration_rhythm import _agreements, _at_one_phase
from edgejoule.energy.window_clock import _softplus


def _filtered(
    number: np.ndarray, residual: np.ndarray, blur: np.ndarray, walk: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return likelihood, states and variances by Kalman's filter, then the smoother."""
    count = len(number)
    states, variances = np.empty(count), np.empty(count)
    state, variance, last, total = 0.0, 1e6 * float(np.max(blur)), float(number[0]), 0.0
    for k in range(count):
        variance += walk * (number[k] - last)
        last = number[k]
        error, expected = residual[k] - state, variance + blur[k]
        total -= 0.5 * (math.log(expected) + error * error / expected)
        state += variance / expected * error
        variance *= 1 - variance / expected
        states[k], variances[k] = state, variance
    for k in range(count - 2, -1, -1):
        ahead = variances[k] + walk * (number[k + 1] - number[k])
        share = variances[k] / ahead
        states[k] += share * (states[k + 1] - states[k])
        variances[k] += share**2 * (variances[k + 1] - ahead)
    return total, states, variances


def _changes(seed: int, wander: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    number = np.cumsum(random.integers(1, 4, 400)).astype(np.float64)
    blur = random.uniform(0.5, 2.0, 400) * 1e8
    walk = np.cumsum(random.normal(0, wander, 400) * np.sqrt(np.diff(number, prepend=number[0])))
    return number, walk + random.normal(0, np.sqrt(blur)), blur


@pytest.mark.parametrize("walk", [1e3, 1e6, 1e9])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_walk_is_what_the_filter_and_the_smoother_give(walk: float, seed: int) -> None:
    number, residual, blur = _changes(seed, 3e3)
    first = 1.0 / (1e6 * float(np.max(blur)))
    likelihood, states, _, _ = followed(number, residual, blur, first, walk)
    expected, smooth, _ = _filtered(number, residual, blur, walk)
    assert likelihood == pytest.approx(expected, abs=1e-5)
    assert states == pytest.approx(smooth, rel=1e-6, abs=1e-2)


def test_a_clock_that_stands_still_is_a_filter_without_a_walk() -> None:
    number, residual, blur = _changes(4, 0.0)
    first = 1.0 / (1e6 * float(np.max(blur)))
    expected = _filtered(number, residual, blur, 0.0)[0]
    assert _stood_still(residual, blur, first) == pytest.approx(expected, abs=1e-5)
    numbers, corrections, _ = _wander(number, residual, blur)
    assert len(numbers) == len(corrections) == 1


def test_a_wander_comes_with_its_errors() -> None:
    number, residual, blur = _changes(5, 2e4)
    numbers, corrections, variances = _wander(number, residual, blur)
    walks = float(np.mean(blur)) * np.geomspace(1e-5, 10, 13)
    best = max(walks, key=lambda walk: _filtered(number, residual, blur, walk)[0])
    _, states, spreads = _filtered(number, residual, blur, best)
    assert numbers == pytest.approx(number)
    assert corrections == pytest.approx(states, rel=1e-6, abs=1e-2)
    assert variances == pytest.approx(spreads, rel=1e-6)


def test_agreement_in_phase_is_that_of_each_frequency_alone() -> None:
    random = np.random.default_rng(6)
    parts = [np.sort(random.uniform(0, 2e9, size)) for size in (300, 301, 17)]
    frequencies = np.linspace(1.4e-7, 1.6e-7, 41)
    for found, frequency in zip(_agreements(parts, frequencies), frequencies, strict=True):
        turns = [np.mean(np.exp(2j * np.pi * frequency * (part - part[0]))) for part in parts]
        assert found == pytest.approx(float(np.mean(np.abs(turns) ** 2)), rel=1e-9, abs=1e-12)


def test_changes_at_one_phase_are_counted_stretch_by_stretch() -> None:
    random = np.random.default_rng(7)
    turns = np.arange(40)[:, None] * 20.0 + np.arange(20) + random.normal(0, 0.12, (40, 20))
    turns += random.uniform(0, 1, (40, 1))
    allowed = random.uniform(0.12, 0.22, (40, 20))
    expected = 0
    for part, near in zip(turns, allowed, strict=True):
        apart = part[:, None] - part[None, :]
        together = np.abs(apart - np.rint(apart)) <= near[:, None]
        around = part - part[int(np.argmax(np.sum(together, axis=0)))]
        around -= np.rint(around)
        around -= np.median(around[np.abs(around) <= near])
        expected += int(np.sum(np.abs(around - np.rint(around)) <= near))
    assert 0 < expected < turns.size
    assert _at_one_phase(turns, allowed) == expected


def test_softplus_of_pairs_is_the_plain_sum() -> None:
    random = np.random.default_rng(8)
    first, second = random.normal(0, 60, 500), random.normal(0, 900, 500)
    plain = np.logaddexp(0.0, first).sum() + np.logaddexp(0.0, second).sum()
    assert _softplus(first, second) == pytest.approx(float(plain), rel=1e-12)
