"""Cumulative times against sums over a fine grid, behind a low-pass and not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.energy.timeline import Timeline
from edgejoule.energy.window_exposure import BETWEEN, END, HELD, IDLE, START, Exposure, Placement

_ORIGIN = 5_000_000_000
_GRID_NS = 20.0


def _timeline(seed: int, layers: int, held: bool, starts: bool) -> Timeline:
    random = np.random.default_rng(seed)
    n = 6
    layer = random.uniform(0, 60e3, (n, layers)).round()
    layer[:, random.integers(layers)] = 0.0  # a layer that takes no time
    gap = random.uniform(20e3, 80e3, n).round()
    spent = (layer.sum(axis=1) + gap).astype(np.int64)
    wait = random.integers(0, 90_000, n)
    start = _ORIGIN + np.cumsum(np.append(0, (spent + wait)[:-1]))
    keep = (0.2 * gap).astype(np.int64) if held else None
    offset = None
    if starts:
        between = np.outer(gap, np.sort(random.uniform(0, 1, layers)))
        offset = (np.cumsum(layer, axis=1) - layer + between).astype(np.int64)
    return Timeline(start, start + spent, layer, offset, keep)


def _brute(exposure: Exposure, placement: Placement, at: np.ndarray) -> np.ndarray:
    """Return which column holds each time, one-hot."""
    one = np.zeros((len(at), exposure.layers + 5))
    row = np.searchsorted(exposure.start, at, side="right") - 1
    starts, ends, _ = exposure.boundaries(np.maximum(row, 0), placement)
    layers = exposure.layers
    for k, time in enumerate(at):
        if row[k] < 0:
            one[k, layers + IDLE] = 1.0
            continue
        since = time - exposure.start[row[k]]
        inside = (since > starts[k]) & (since <= ends[k])
        layer = np.flatnonzero(inside[:layers])
        box = np.flatnonzero(inside[layers:])
        if len(layer):
            one[k, layer[0]] = 1.0
        elif len(box):
            one[k, layers + box[0]] = 1.0
        else:
            one[k, layers + IDLE] = 1.0
    return one


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    layers=st.integers(1, 5),
    held=st.booleans(),
    starts=st.booleans(),
    scaled=st.booleans(),
)
def test_exposures_are_those_of_a_fine_grid(
    seed: int, layers: int, held: bool, starts: bool, scaled: bool
) -> None:
    timeline = _timeline(seed, layers, held, starts)
    exposure = Exposure(timeline, _ORIGIN)
    random = np.random.default_rng(seed + 1)
    before = np.sort(random.uniform(0, exposure.mean_free, layers))
    placement = Placement(before, scaled)
    last = exposure.end[-1]
    grid = np.arange(0.5 * _GRID_NS, last, _GRID_NS)
    one = _brute(exposure, placement, grid)
    begin = random.uniform(0, 0.7 * last, 8)
    end = begin + random.uniform(10e3, 0.3 * last, 8)
    looked = [exposure.look(at, placement, 0.0).area for at in (begin, end)]
    for k in range(8):
        inside = (grid > begin[k]) & (grid <= end[k])
        expected = one[inside].sum(axis=0) * _GRID_NS
        found = looked[1][k] - looked[0][k]
        assert np.sum(found) == pytest.approx(end[k] - begin[k], abs=1e-3)
        # A grid errs by a step at each boundary that it crosses.
        assert np.abs(found - expected).max() < _GRID_NS * 2.5 * len(exposure.start) * (layers + 2)
        assert np.abs(found - expected).sum() < 0.02 * (end[k] - begin[k]) + 40 * _GRID_NS


@pytest.mark.parametrize("tau", [5e3, 60e3, 400e3])
def test_a_low_pass_is_that_of_a_fine_recursion(tau: float) -> None:
    exposure = Exposure(_timeline(3, 3, True, False), _ORIGIN)
    placement = Placement(np.array([5e3, 9e3, 20e3]))
    grid = np.arange(0.5 * _GRID_NS, exposure.end[-1], _GRID_NS)
    one = _brute(exposure, placement, grid)
    share = 1 - np.exp(-_GRID_NS / tau)
    low, state = np.empty_like(one), np.zeros(one.shape[1])
    state[-1] = 1.0  # before the first inference there is idle
    for k, now in enumerate(one):
        state = state + share * (now - state)
        low[k] = state
    begin, end = np.array([30e3, 150e3, 210e3]), np.array([190e3, 400e3, 215e3])
    looked = [exposure.look(at, placement, tau) for at in (begin, end)]
    found = looked[1].area - looked[0].area
    for k in range(3):
        inside = (grid > begin[k]) & (grid <= end[k])
        expected = low[inside].sum(axis=0) * _GRID_NS
        assert np.abs(found[k] - expected).max() < 0.003 * (end[k] - begin[k])
    at_end = low[np.searchsorted(grid, end) - 1]
    assert np.abs(looked[1].value - at_end).max() < 3 * _GRID_NS / tau + 0.003


def test_boxes_fill_an_inference_and_the_held_time_comes_first() -> None:
    timeline = _timeline(8, 4, True, False)
    exposure = Exposure(timeline, _ORIGIN)
    starts, ends, _ = exposure.boundaries(np.arange(6), Placement(np.array([1e3, 2e3, 3e3, 4e3])))
    length = ends - starts
    assert timeline.held_ns is not None
    assert length[:, 4 + HELD] == pytest.approx(timeline.held_ns)
    assert length[:, 4 + START] == pytest.approx(1e3)
    assert length[:, 4 + BETWEEN] - length[:, :4].sum(axis=1) == pytest.approx(3e3)
    whole = length[:, [4 + HELD, 4 + START, 4 + BETWEEN, 4 + END]].sum(axis=1)
    assert whole == pytest.approx(timeline.end_ns - timeline.start_ns)


def test_moving_all_layers_is_the_derivative_by_their_begins() -> None:
    exposure = Exposure(_timeline(5, 3, False, False), _ORIGIN)
    at = np.linspace(20e3, exposure.end[-1] - 1e3, 200)
    step, tau = 4.0, 30e3
    before = np.array([4e3, 8e3, 12e3])
    low, high = (
        exposure.look(at, Placement(before + shift), tau).area[:, :3] for shift in (-step, step)
    )
    value = exposure.look(at, Placement(before), tau).value[:, :3]
    assert (high - low) / (2 * step) == pytest.approx(-value, abs=2e-3)
