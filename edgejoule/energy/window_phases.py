"""Which phases and averagings are looked at closely, and on how much of the data. Numpy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.window_design import Guess, Values
from edgejoule.energy.window_fit import Problem
from edgejoule.energy.window_search import SAMPLES, Found, scan

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats

_SCANNED = 600
_PER_SAMPLE = 40  # values per N, to see an average of N
_STARTS = 3
_APART = 0.12  # of a window: phases as near as that are one


def some(problem: Problem, guess: Guess, count: int) -> Problem:
    """Return part of the data: in a row where values depend on one another, else all over it."""
    have = len(problem.values.shown_ns)
    wanted = max(count, int(_PER_SAMPLE * guess.samples) if guess.samples > 1 else 0)
    if have <= wanted:
        return replace(problem, likeness=0.0)
    if guess.samples > 1:
        first = (have - wanted) // 2
        return replace(problem.part(first, first + wanted), likeness=0.0)
    values = problem.values
    rows = np.arange(wanted) * have // wanted
    kept = None if problem.kept is None else problem.kept[rows]
    few = Values(
        values.shown_ns[rows], values.value_mw[rows], values.block[rows], values.phase[rows]
    )
    return replace(problem, values=few, kept=kept, likeness=0.0)


def phases(problem: Problem) -> list[Found]:
    """Return the few best phases, apart from one another."""
    found: list[Found] = []
    values = problem.values.value_mw
    for samples in _averagings(values) if problem.samples is None else (problem.samples,):
        have = len(values)
        wanted = min(have, max(_SCANNED, int(_PER_SAMPLE * samples) if samples > 1 else 0))
        first = (have - wanted) // 2
        part = problem.part(first, first + wanted)
        lengths = None if problem.window_ns is None else np.array([problem.window_ns])
        found += scan(problem.exposure, part.values, problem.refresh_ns, samples, lengths)
    found.sort(key=lambda one: one.error)
    apart: list[Found] = []
    for one in found:
        near = [
            other
            for other in apart
            if other.guess.samples == one.guess.samples
            and abs(other.guess.centre_ns - one.guess.centre_ns) < _APART * one.guess.window_ns
            and abs(other.guess.window_ns - one.guess.window_ns) < _APART * one.guess.window_ns
        ]
        if not near:
            apart.append(one)
        if len(apart) == _STARTS:
            break
    return apart


def _averagings(values: Floats) -> tuple[float, ...]:
    """Return which averagings may be: neighbours are alike where there is one."""
    seen = np.isfinite(values)
    both = seen[1:] & seen[:-1]
    centred = values - np.mean(values[seen])
    product = centred[1:][both] @ centred[:-1][both]
    alike = float(product / max(float(centred[seen] @ centred[seen]), 1e-300))
    most = 3.0 / max(1e-9, 1.0 - alike) if alike < 1 else math.inf
    return tuple(n for n in SAMPLES if n == 1 or (n <= most and _PER_SAMPLE * n < len(values)))
