"""From values to powers: averaging, phase, gap placement, each chosen by what the data say. Numpy.

    scan       over the refresh, for each averaging        window_search
    profile    power over an inference, phase, length      window_profile
    placed     layers laid over it
    refined    powers, phase, low-pass and placement       window_fit
    chosen     by the error on blocks of time that were not fitted

Placements that this error does not tell from the best are kept: how far energies differ between
them is part of what is not known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.regression import NormalBlocks
from edgejoule.energy.regression_folds import HeldOut, held_out, not_worse
from edgejoule.energy.window_design import (
    TIMING,
    Columns,
    Guess,
    before_ns,
    durations,
    place,
    shown_by,
    usable,
)
from edgejoule.energy.window_fit import (
    Fitted,
    Problem,
    equations,
    linear,
    prior,
    refine,
    totals,
)
from edgejoule.energy.window_moves import try_moves
from edgejoule.energy.window_phases import phases, some
from edgejoule.energy.window_profile import Profile, misfit, placed, profile
from edgejoule.energy.window_pushes import pushed, rule_of

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats, SensorParameters

_PROFILED = 10_000
_TRIED = 3000
_MOVED = 2000
_FINISHED = 8000
_WORTH = 2.5  # times the least unexplained share: phases that are looked at closely
_LIKE = 20.0  # of the rows' squares: phases that are as good as that are kept
_NO_GAP = 1e-3  # of an inference: gaps shorter than that are none
_OWN_NS = (2e3, 5e4)  # what layers' begins may differ from the rule, least and at first
_SPREAD_NS = 30e3
_OUTLIER = 6.0
_MOST_OUTLIERS = 0.03
_ALIKE = 0.05
_STEPS = 1.5  # times the variance that steps make: residuals below that are steps
_ROUGHLY, _CLOSELY = 1e-3, 5e-5
_MOVES = 4  # rounds in which layers are moved
_FEW_LAYERS = 30  # up to which they are pushed
_PUSHES, _PUSHED = 3, 6  # rounds in which layers are pushed, and how many are looked at closely
_FEW = 12.0  # values per column, below which power is taken not to drift


@dataclass(frozen=True)
class Candidate:
    """One way in which gaps may lie.

    Attributes:
        name: What it is called.
        fit: Its best fit.
        fitted: What was free.
        own_ns: How much layers' begins differ from the rule.
        held: Its error where it was not fitted.
        equations: What `prepared` gives at the fit.
    """

    name: str
    fit: Fitted
    fitted: frozenset[str]
    own_ns: float
    held: HeldOut
    equations: tuple[NormalBlocks, Floats, Floats]


@dataclass(frozen=True)
class Estimate:
    """What was found.

    Attributes:
        problem: The data, outliers and likeness settled.
        best: The candidate with the least error where it was not fitted.
        others: Those that it is not told from.
        errors: Held-out error of every candidate, mW.
        outliers: Values left out.
        misfit: float64 (layers,): mW ns per inference that the residuals put in doubt.
        alike: float64 (m, columns): coefficients of the best candidate with single layers at other
            places that fit as well.
    """

    problem: Problem
    best: Candidate
    others: list[Candidate]
    errors: dict[str, float]
    outliers: int
    alike: Floats
    misfit: Floats


def estimate(problem: Problem, model: SensorParameters | None = None) -> Estimate:
    """Return powers and everything that is not linear, with what it is not told from.

    Args:
        problem: The data.
        model: What a calibration found, or None.
    """
    if model is not None:
        problem = replace(problem, samples=model.samples, window_ns=model.window_ns)
    found = phases(problem)
    found = [one for one in found if one.error < _WORTH * found[0].error]
    profiles = [profile(some(problem, one.guess, _PROFILED), one.guess) for one in found]
    profiles.sort(key=lambda one: one.squares)
    least = profiles[0].squares
    near = [one for one in profiles if one.squares < least * (1 + _LIKE / one.rows)]
    part = some(problem, profiles[0].guess, _TRIED)
    tried = [one for seen in near for one in _candidates(part, seen, model)]
    kept = [_relocated(part, _spread(part, one)) for one in _told_apart(tried)]
    # The whole of the data for what is left; first without what lies far off.
    first = kept[0]
    settled, outliers = _settled(problem, first.fit)
    whole = [_finished(settled, one, one.fit.guess) for one in kept]
    last = _told_apart(whole)
    errors = {one.name: math.sqrt(one.held.mean_squared_error) for one in tried}
    errors |= {one.name: math.sqrt(one.held.mean_squared_error) for one in whole}
    best = last[0]
    few = some(settled, best.fit.guess, _MOVED)
    alike = np.zeros((0, best.fit.columns.count))
    if "own" in best.fitted or "placement" in best.fitted:
        share = len(few.values.shown_ns) / len(settled.values.shown_ns)
        alike = try_moves(few, best.fit, best.own_ns).alike(share)
    doubt = _doubt(some(settled, best.fit.guess, _PROFILED), best.fit)
    return Estimate(settled, best, last[1:], errors, outliers, alike, doubt)


def _doubt(problem: Problem, found: Fitted) -> Floats:
    """Return the energy of each layer that the residuals put in doubt, mW ns."""
    exposure, guess = problem.exposure, found.guess
    left = _left(problem, found)
    placement = place(exposure, guess)
    every = np.arange(min(len(exposure.start), 2000)) * len(exposure.start)
    rows = every // min(len(exposure.start), 2000)
    starts, _, _ = exposure.boundaries(rows, placement)
    begin = starts[:, : exposure.layers].mean(axis=0) - float(exposure.held[rows].mean())
    return misfit(problem, guess, left, begin)


def _left(problem: Problem, found: Fitted) -> Floats:
    """Return what a fit leaves over, nan where there is no value."""
    use = usable(problem.values, found.guess, problem.kept, 0.0)
    seen, drift = shown_by(problem.exposure, problem.values, found.guess, found.powers)
    left = np.where(use, problem.values.value_mw, 0.0) - seen
    if found.columns.drift:
        left -= drift @ np.linalg.lstsq(drift[use], left[use], rcond=None)[0]
    return np.where(use, left, math.nan)


def _told_apart(candidates: list[Candidate]) -> list[Candidate]:
    """Return the best candidate first, then those that it is not told from."""
    errors = np.array([one.held.squared_error for one in candidates])
    alike = not_worse(errors)
    order = np.argsort(errors.mean(axis=1))
    return [candidates[k] for k in order if alike[k]]


def _candidates(problem: Problem, seen: Profile, model: SensorParameters | None) -> list[Candidate]:
    """Return the fits under each way in which gaps may lie."""
    exposure = problem.exposure
    free = {"centre", "window"}
    guess = replace(seen.guess, timing_ns=np.zeros(TIMING))
    if problem.window_ns is not None:
        free.discard("window")
        guess = replace(guess, window_ns=problem.window_ns)
    if model is None:
        free.add("spread")
    else:
        guess = replace(guess, spread_ns2=model.tau_ns**2)
    spent = float(np.mean(exposure.end - exposure.start))
    if exposure.offset is not None:
        return [_fitted(problem, "true starts", guess, free, 0.0)]
    if exposure.mean_free < _NO_GAP * spent:
        return [_fitted(problem, "no gaps", guess, free, 0.0)]
    before = placed(problem, seen)
    rule, own = rule_of(exposure.layers, durations(exposure), before)
    found = []
    for scaled in (False, True):
        end = "in proportion" if scaled else "rest at the end"
        start = replace(guess, placement=rule, own_ns=own, scaled=scaled)
        found.append(_fitted(problem, f"own, {end}", start, {*free, "own"}, _OWN_NS[1]))
        start = replace(start, own_ns=np.zeros(exposure.layers))
        found.append(_fitted(problem, f"rule, {end}", start, {*free, "placement"}, 0.0))
    return found


def _fitted(problem: Problem, name: str, guess: Guess, free: set[str], own_ns: float) -> Candidate:
    """Return a candidate, its low-pass not yet fitted."""
    fitted = frozenset(free - {"spread"})
    found = refine(
        problem, guess, fitted, own_ns=own_ns, drift=_drifts(problem), converged=_ROUGHLY
    )
    return _judged(problem, name, found, frozenset(free), own_ns)


def _spread(problem: Problem, candidate: Candidate) -> Candidate:
    """Return a candidate with its low-pass."""
    if "spread" not in candidate.fitted:
        return candidate
    start = replace(candidate.fit.guess, spread_ns2=_SPREAD_NS**2)
    found = refine(
        problem, start, candidate.fitted, own_ns=candidate.own_ns, drift=_drifts(problem),
        converged=_ROUGHLY,
    )  # fmt: skip
    if found.squares > candidate.fit.squares:
        return candidate
    return _judged(problem, candidate.name, found, candidate.fitted, candidate.own_ns)


def _relocated(problem: Problem, candidate: Candidate) -> Candidate:
    """Return a candidate with layers moved to where they fit better."""
    exposure = problem.exposure
    for _ in range(_MOVES if "own" in candidate.fitted else 0):
        few = some(problem, candidate.fit.guess, _MOVED)
        moves = try_moves(few, candidate.fit, candidate.own_ns)
        before = moves.better(before_ns(exposure, candidate.fit.guess))
        if before is None:
            break
        rule, own = rule_of(exposure.layers, durations(exposure), before)
        start = replace(candidate.fit.guess, placement=rule, own_ns=own)
        found = refine(
            problem, start, candidate.fitted, own_ns=candidate.own_ns, drift=_drifts(problem),
            converged=_ROUGHLY,
        )  # fmt: skip
        if found.squares > candidate.fit.squares * (1 - _ROUGHLY):
            break
        candidate = _judged(problem, candidate.name, found, candidate.fitted, candidate.own_ns)
    # Each push is some fits per layer: with many layers they would take longer than all the rest.
    few_layers = exposure.layers <= _FEW_LAYERS
    return _pushed(problem, candidate) if few_layers and "own" in candidate.fitted else candidate


def _pushed(problem: Problem, candidate: Candidate) -> Candidate:
    """Return a candidate with layers pushed along to where they fit better."""
    for _ in range(_PUSHES):
        few = some(problem, candidate.fit.guess, _MOVED)
        best = candidate.fit
        for start in pushed(few, candidate.fit.guess, drift=_drifts(few))[:_PUSHED]:
            found = refine(problem, start, candidate.fitted, own_ns=candidate.own_ns,
                           drift=_drifts(problem), converged=_ROUGHLY)  # fmt: skip
            if found.squares < best.squares * (1 - _ROUGHLY):
                best = found
        if best is candidate.fit:
            break
        candidate = _judged(problem, candidate.name, best, candidate.fitted, candidate.own_ns)
    return candidate


def _drifts(problem: Problem) -> bool:
    return len(problem.values.shown_ns) > _FEW * (problem.exposure.layers + 20)


def _finished(problem: Problem, candidate: Candidate, guess: Guess) -> Candidate:
    """Return a candidate fitted to all data, with an eye on the sensor's clock."""
    exposure = problem.exposure
    own_ns = candidate.own_ns
    if "own" in candidate.fitted:
        before = before_ns(exposure, guess)
        rule, own = rule_of(exposure.layers, durations(exposure), before)
        guess = replace(guess, placement=rule, own_ns=own)
        own_ns = max(_OWN_NS[0], float(np.sqrt(np.mean(own**2))))
    drift = _drifts(problem)
    fitted = candidate.fitted | {"timing"} if drift else candidate.fitted
    few = some(problem, guess, _FINISHED) if guess.samples == 1 else problem
    found = refine(few, guess, fitted, own_ns=own_ns, drift=drift, converged=_CLOSELY)
    return _judged(problem, candidate.name, _powers(problem, found), fitted, own_ns)


def _powers(problem: Problem, found: Fitted) -> Fitted:
    """Return a fit's powers from all of the data."""
    columns = found.columns
    alone = Columns(columns.layers, frozenset(), drift=columns.drift > 0)
    blocks = equations(problem, found.guess, alone, found.powers, together=True)
    nothing = np.zeros(alone.count)
    best = linear(blocks, alone, nothing, nothing)
    squares = float(blocks.squared_error(best).sum())
    return replace(
        found, powers=best[: columns.powers], squares=squares, rows=int(blocks.rows.sum())
    )


def _judged(
    problem: Problem, name: str, found: Fitted, fitted: frozenset[str], own_ns: float
) -> Candidate:
    if found.columns.names != _names(fitted, found):
        found = replace(found, columns=_columns(fitted, found))
    ready = prepared(problem, found, own_ns)
    return Candidate(name, found, fitted, own_ns, _held_out(found, ready), ready)


def _columns(fitted: frozenset[str], found: Fitted) -> Columns:
    return Columns(found.columns.layers, fitted, drift=found.columns.drift > 0)


def _names(fitted: frozenset[str], found: Fitted) -> list[str]:
    return list(_columns(fitted, found).names)


def prepared(problem: Problem, found: Fitted, own_ns: float) -> tuple[NormalBlocks, Floats, Floats]:
    """Return the equations at a fit, the precision of what is known beforehand, and what was moved.

    Derivative columns there stand for the whole of what they correct, not for a last step, so that
    what is known beforehand pulls towards 0.
    """
    columns = found.columns
    blocks = equations(problem, found.guess, columns, found.powers)
    ridge = prior(problem, columns, found.variance, own_ns)
    names = columns.nonlinear()
    whole = np.zeros(columns.count)
    whole[names] = np.where(ridge[names] > 0, totals(found.guess, columns), 0.0)
    moved = np.einsum("bij,j->bi", blocks.gram, whole)
    return (
        NormalBlocks(
            blocks.gram,
            blocks.moment + moved,
            blocks.square + 2 * blocks.moment @ whole + moved @ whole,
            blocks.rows,
            blocks.column_sum,
            blocks.target_sum + blocks.column_sum @ whole,
        ),
        ridge,
        whole,
    )


def _held_out(found: Fitted, ready: tuple[NormalBlocks, Floats, Floats]) -> HeldOut:
    """Return the error where not fitted, what is known beforehand being known in every fold."""
    blocks, ridge, whole = ready
    count = len(blocks.rows)
    known = NormalBlocks(
        blocks.gram + np.diag(ridge) / count,
        blocks.moment,
        blocks.square,
        blocks.rows,
        blocks.column_sum,
        blocks.target_sum,
    )
    held = held_out(known, ~found.columns.free)
    errors = np.empty(count)
    for index, coefficients in enumerate(held.coefficients):
        out = held.fold == index
        errors[out] = blocks.squared_error(coefficients)[out] / np.maximum(blocks.rows[out], 1)
    moved = blocks.column_sum @ whole  # into the values, to be taken out of sums again
    return replace(
        held,
        squared_error=errors,
        predicted_sum=held.predicted_sum - moved,
        measured_sum=held.measured_sum - moved,
    )


def _settled(problem: Problem, found: Fitted) -> tuple[Problem, int]:
    """Leave out what lies far off and take in how alike neighbouring residuals are."""
    # Powers from all over the data: those of a part in a row leave a level over.
    few = some(problem, found.guess, _FINISHED) if found.guess.samples == 1 else problem
    left = _left(problem, _powers(few, found))
    seen = np.isfinite(left)
    if not np.any(seen):
        return problem, 0
    left = np.where(seen, left - np.median(left[seen]), 0.0)
    far = np.abs(left[seen])
    spread = 1.4826 * float(np.median(far))
    allowed = max(_OUTLIER * spread, float(np.quantile(far, 1.0 - _MOST_OUTLIERS)))
    kept = seen & (np.abs(left) <= allowed)
    both = kept[1:] & kept[:-1]
    product = float(left[1:][both] @ left[:-1][both])
    alike = product / max(float(left[kept] @ left[kept]), 1e-300)
    if float(np.var(left[kept])) < _STEPS * problem.step_mw**2 / 12.0:
        alike = 0.0  # an average that stays on a step: no noise that neighbours have in common
    return (
        replace(problem, kept=kept, likeness=min(0.98, alike) if alike > _ALIKE else 0.0),
        int(np.sum(seen & ~kept)),
    )
