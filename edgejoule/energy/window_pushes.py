"""Layers pushed along by one another: a move that no single layer can make. Numpy.

Where layers follow one another closely, a whole row of them may lie one place off: equal durations
and gaps as long as layers make that fit nearly as well. No layer can then move alone, its
neighbours being in its way. So each layer is pushed both ways, those in its way with it, and the
best few of all these placements are fitted anew.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.window_design import Columns, Guess, before_ns, durations
from edgejoule.energy.window_fit import Problem, equations, linear

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats

_PUSH_NS = (-160e3, -80e3, -40e3, -20e3, 20e3, 40e3, 80e3, 160e3)
_SETS = np.array([[bool(k & 1), bool(k & 2), bool(k & 4)] for k in range(8)])


def pushed(problem: Problem, guess: Guess, *, drift: bool) -> list[Guess]:
    """Return guesses with one layer pushed, by their squares with powers alone fitted.

    Args:
        problem: The data, or part of them.
        guess: Where layers lie now.
        drift: Whether power may drift.
    """
    exposure = problem.exposure
    columns = Columns(exposure.layers, frozenset(), drift=drift)
    nothing = np.zeros(columns.count)
    here = before_ns(exposure, guess)
    tried = []
    for layer in range(exposure.layers):
        for push in _PUSH_NS:
            at = float(np.clip(here[layer] + push, 0.0, exposure.mean_free))
            before = here.copy()
            before[layer:] = np.maximum(before[layer:], at)
            before[:layer] = np.minimum(before[:layer], at)
            before[layer] = at
            rule, own = rule_of(exposure.layers, durations(exposure), before)
            start = replace(guess, placement=rule, own_ns=own)
            blocks = equations(problem, start, columns, None, together=True)
            found = linear(blocks, columns, nothing, nothing)
            tried.append((float(blocks.squared_error(found).sum()), start))
    tried.sort(key=lambda one: one[0])
    return [start for _, start in tried]


def rule_of(layers: int, begin: Floats, before: Floats) -> tuple[Floats, Floats]:
    """Return the rule nearest to gap times before layers, and what they differ from it."""
    spent = max(float(begin[-1]), 1.0)
    design = np.column_stack([np.ones(layers), np.arange(layers), begin / spent])
    scale = np.maximum(np.linalg.norm(design, axis=0), 1e-12)
    design /= scale
    found = _not_negative(design.T @ design, design.T @ before)
    own = before - design @ found
    found /= scale
    rule = found / np.array([1.0, 1.0, spent])
    return rule, own


def _not_negative(gram: Floats, moment: Floats) -> Floats:
    """Return least squares of three columns, none below 0: every set of them at once."""
    systems = np.where(_SETS[:, :, None] & _SETS[:, None, :], gram, np.eye(3)) + 1e-12 * np.eye(3)
    tried = np.linalg.solve(systems, np.where(_SETS, moment, 0.0)[:, :, None])[:, :, 0]
    gain = np.where(np.all(tried >= 0, axis=1), tried @ moment, -np.inf)
    result: Floats = tried[np.argmax(gain)]
    return result
