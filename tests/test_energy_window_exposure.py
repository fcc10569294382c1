"""Cumulative times against sums over a fine grid, behind a low-pass and not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.energy.timeline import Timeline
from edgejoule.energy.window_exposure import (
    BETWEEN,
    END,
    HELD,
    IDLE,
    START,
    Exposure,
    Looked,
    Placement,
)

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


def _span(
    exposure: Exposure, begin: float, end: float, placement: Placement, tau: float
) -> np.ndarray:
    """Return what each column took of a span, float64 (layers + 5,)."""
    area = np.empty((1, exposure.layers + 5))
    exposure.spans(np.array([0.5 * (begin + end)]), end - begin, tau, placement, area)
    found: np.ndarray = area[0]
    return found


def _value(exposure: Exposure, looked: Looked) -> np.ndarray:
    """Return the filtered share of every column at some times, float64 (k, layers + 5)."""
    layers = exposure.layers
    value = np.zeros((len(looked.row), layers + 5))
    np.add.at(value, (looked.shares.at, looked.shares.layer), looked.shares.share)
    value[:, layers:-1] = looked.box_share
    value[:, layers + BETWEEN] -= value[:, :layers].sum(axis=1)
    value[:, -1] = 1.0 - value[:, :-1].sum(axis=1)
    return value


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
    for k in range(8):
        inside = (grid > begin[k]) & (grid <= end[k])
        expected = one[inside].sum(axis=0) * _GRID_NS
        found = _span(exposure, begin[k], end[k], placement, 0.0)
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
    found = [_span(exposure, *ends, placement, tau) for ends in zip(begin, end, strict=True)]
    for k in range(3):
        inside = (grid > begin[k]) & (grid <= end[k])
        expected = low[inside].sum(axis=0) * _GRID_NS
        assert np.abs(found[k] - expected).max() < 0.003 * (end[k] - begin[k])
    at_end = low[np.searchsorted(grid, end) - 1]
    value = _value(exposure, exposure.look(end, placement, tau))
    assert np.abs(value - at_end).max() < 3 * _GRID_NS / tau + 0.003
    powers = np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0, 5.0])
    slope = exposure.look(end, placement, tau).slope(powers)
    assert slope == pytest.approx(value @ powers)


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
    step, tau, width = 4.0, 30e3, 50e3
    before = np.array([4e3, 8e3, 12e3])
    low, high = np.empty((200, 8)), np.empty((200, 8))
    for shift, area in ((-step, low), (step, high)):
        exposure.spans(at, width, tau, Placement(before + shift), area)
    late, early = exposure.spans(at, width, tau, Placement(before), np.empty((200, 8)))
    value = (_value(exposure, late) - _value(exposure, early))[:, :3]
    assert ((high - low) / (2 * step))[:, :3] == pytest.approx(-value, abs=2e-3)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    layers=st.integers(1, 6),
    held=st.booleans(),
    starts=st.booleans(),
    scaled=st.booleans(),
    tau=st.sampled_from([0.0, 3e3, 80e3]),
    width=st.sampled_from([7e3, 90e3, 700e3]),
)
def test_windows_are_differences_of_the_plain_definition(
    seed: int, layers: int, held: bool, starts: bool, scaled: bool, tau: float, width: float
) -> None:
    """Boxes of every inference one by one, each behind the low-pass from its begin on."""
    exposure = Exposure(_timeline(seed, layers, held, starts), _ORIGIN)
    before = np.sort(np.random.default_rng(seed).uniform(0, exposure.mean_free, layers))
    placement = Placement(before, scaled)
    every = np.arange(len(exposure.start))
    starts_ns, ends_ns, _ = exposure.boundaries(every, placement)

    def ramp(since: np.ndarray) -> np.ndarray:
        since = np.maximum(since, 0.0)
        return since + tau * np.expm1(-since / tau) if tau else since

    def taken(at: float) -> np.ndarray:
        since = (at - exposure.start)[:, None]
        spent: np.ndarray = (ramp(since - starts_ns) - ramp(since - ends_ns)).sum(axis=0)
        return spent

    middle = np.linspace(-20e3, exposure.end[-1] + 200e3, 60)
    area = np.empty((60, layers + 5))
    exposure.spans(middle, width, tau, placement, area)
    for k in range(60):
        boxes = taken(middle[k] + 0.5 * width) - taken(middle[k] - 0.5 * width)
        idle = width - boxes[layers:].sum()
        boxes[layers + BETWEEN] -= boxes[:layers].sum()
        # What is left of a box after 16 time constants is not counted.
        assert area[k] == pytest.approx(np.append(boxes, idle), abs=1e-3 + 2e-6 * tau)
