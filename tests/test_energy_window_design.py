"""Columns of the window regression: derivatives against differences, and predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgejoule.energy.timeline import Timeline
from edgejoule.energy.window_design import (
    TIMING,
    Columns,
    Guess,
    Values,
    durations,
    rows_of,
    shown_by,
)
from edgejoule.energy.window_exposure import Exposure
from edgejoule.energy.window_pushes import rule_of

_LAYERS, _COUNT = 6, 900
_POWERS = np.array([9e3, 3e3, 7e3, 4e3, 8e3, 5e3, 4e3, 3.5e3, 4.5e3, 3e3, 2e3])


def _exposure() -> Exposure:
    """Return inferences whose gaps differ: a placement in proportion is another one in each."""
    random = np.random.default_rng(3)
    layer = random.normal(1.0, 0.02, (400, _LAYERS)) * np.linspace(80e3, 300e3, _LAYERS)
    spent = (layer.sum(axis=1) + random.uniform(300e3, 900e3, 400)).astype(np.int64)
    start = np.cumsum(np.append(0, (spent + random.integers(10_000, 400_000, 400))[:-1]))
    return Exposure(Timeline(start, start + spent, layer), 0)


def _values(exposure: Exposure) -> Values:
    shown = np.linspace(exposure.start[3], exposure.end[-3], _COUNT)
    return Values(
        shown, np.ones(_COUNT), np.arange(_COUNT) * 10 // _COUNT, np.linspace(-1, 1, _COUNT)
    )


def _guess(scaled: bool, tau_ns: float, samples: float = 1.0) -> Guess:
    rule, own = np.array([50e3, 20e3, 0.05]), np.sin(np.arange(_LAYERS)) * 2e3
    return Guess(2e5, 1.1e6, tau_ns**2, samples, rule, own, scaled, np.zeros(TIMING))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("tau_ns", [0.0, 150e3])
@pytest.mark.parametrize("samples", [1.0, 4.0])
def test_columns_are_the_derivatives_of_what_is_shown(
    scaled: bool, tau_ns: float, samples: float
) -> None:
    """Also where a window reaches over several inferences whose gaps differ.

    The derivatives by the first and the last layer's begin once counted the inferences before
    times the gap of the one that runs.
    """
    exposure = _exposure()
    values, guess = _values(exposure), _guess(scaled, tau_ns, samples)
    fitted = frozenset({"centre", "window", "spread", "placement", "own", "timing"})
    columns = Columns(_LAYERS, fitted, drift=False)
    rows = rows_of(exposure, values, guess, columns, _POWERS)
    use = slice(int(5 * samples), None)

    def differs(low: Guess, high: Guess, by: float) -> np.ndarray:
        shown = [shown_by(exposure, values, one, _POWERS)[0] for one in (low, high)]
        return (shown[1] - shown[0])[use] / by

    def own(layer: int, shift: float) -> Guess:
        moved = guess.own_ns.copy()
        moved[layer] += shift
        return replace(guess, own_ns=moved)

    def rule(term: int, shift: float) -> Guess:
        return replace(guess, placement=guess.placement + np.eye(3)[term] * shift)

    def timing(term: int, shift: float) -> Guess:
        return replace(guess, timing_ns=np.eye(TIMING)[term] * shift)

    tried = {
        "centre": (replace(guess, centre_ns=2e5 - 40), replace(guess, centre_ns=2e5 + 40), 80.0),
        "window": (replace(guess, window_ns=1.1e6 - 40), replace(guess, window_ns=1.1e6 + 40), 80),
        "start": (rule(0, -40.0), rule(0, 40.0), 80.0),
        "launch": (rule(1, -8.0), rule(1, 8.0), 16.0),
        "share": (rule(2, -4e-5), rule(2, 4e-5), 8e-5),
        "timing2": (timing(1, -40.0), timing(1, 40.0), 80.0),
        **{f"own{k}": (own(k, -40.0), own(k, 40.0), 80.0) for k in range(_LAYERS)},
    }
    for name, (low, high, by) in tried.items():
        column = rows[use, columns.powers + columns.names.index(name)]
        expected = differs(low, high, by)
        scale = float(np.abs(expected).max())
        # A difference across a layer's edge is between the two sides.
        assert np.mean(np.abs(column - expected)) < 2e-3 * scale, name
        assert np.quantile(np.abs(column - expected), 0.98) < 1e-2 * scale, name


@pytest.mark.parametrize("samples", [1.0, 16.0])
def test_a_prediction_is_the_columns_times_the_powers(samples: float) -> None:
    exposure = _exposure()
    values, guess = _values(exposure), _guess(True, 40e3, samples)
    columns = Columns(_LAYERS, frozenset())
    rows = rows_of(exposure, values, guess, columns, _POWERS)
    rows[: int(5 * samples)] = np.nan
    shown, drift = shown_by(exposure, values, guess, _POWERS)
    use = slice(int(5 * samples), None)
    assert shown[use] == pytest.approx(rows[use, : columns.powers] @ _POWERS, rel=1e-12)
    assert drift[use] == pytest.approx(rows[use, columns.powers : columns.count], rel=1e-9)


@pytest.mark.parametrize("equal", [False, True])
def test_a_rule_is_the_nearest_that_is_not_negative(equal: bool) -> None:
    nnls = pytest.importorskip("scipy.optimize").nnls
    random = np.random.default_rng(11)
    for _ in range(40):
        layers = int(random.integers(1, 50))
        times = np.full(layers, 1e5) if equal else random.uniform(1e3, 3e5, layers)
        begin = np.cumsum(times) - times
        before = np.sort(random.uniform(0, 2e6, layers))
        rule, own = rule_of(layers, begin, before)
        design = np.column_stack([np.ones(layers), np.arange(layers), begin])
        assert np.all(rule >= 0)
        assert design @ rule + own == pytest.approx(before, abs=1e-3)
        scale = np.maximum(np.linalg.norm(design, axis=0), 1e-9)
        least = nnls(design / scale, before)[1]
        assert float(np.linalg.norm(own)) <= least * (1 + 1e-4) + 1.0


def test_durations_are_the_time_in_layers_before() -> None:
    exposure = _exposure()
    assert durations(exposure)[0] == 0
    assert durations(exposure)[-1] == pytest.approx(exposure.layer[:, :-1].sum(axis=1).mean())
