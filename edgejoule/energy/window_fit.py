"""Fit of powers, phase and gap placement together by Gauss and Newton. Numpy.

Each step solves for all powers (not negative) and for the change of what is not linear at once, on
normal equations. What little data cannot tell is held by a prior as wide as what can be: a gap
before a layer is not longer than the inference's gap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.regression import NormalBlocks, solve
from edgejoule.energy.window_design import TIMING, Columns, Guess, Values, assemble
from edgejoule.energy.window_exposure import Exposure

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.energy.sensor_model import Floats

STEPS = 25
CONVERGED = 1e-5  # relative change of the sum of squares
_DAMPINGS = (0.0, 1e-2, 0.1, 1.0, 10.0)
_WINDOWS = (0.01, 20.0)  # shortest and longest window, in refreshes
_NOT_BELOW_0 = ("spread", "start", "launch", "share")
_HELD = 1e9
_STEP = 0.3  # of the window: how far the centre moves in a step
_OWN_NS = 20_000.0  # by how much a layer's begin differs from the rule, at first
_TIMING_NS = 20_000.0
_REMEMBERED = 4.0  # inferences within the longest time constant
_GAP_RIDGE = 1e-4  # pulls the powers of gaps together, where data do not tell them


@dataclass(frozen=True)
class Fitted:
    """A fit.

    Attributes:
        guess: What is not linear, at its best.
        powers: float64 (layers + 5,), mW.
        squares: Sum of squared residuals, mW^2.
        rows: Values behind it.
        columns: Its columns.
    """

    guess: Guess
    powers: Floats
    squares: float
    rows: int
    columns: Columns

    @property
    def variance(self) -> float:
        """Of the residual, mW^2."""
        return self.squares / max(1, self.rows - self.columns.count)


@dataclass(frozen=True)
class Problem:
    """The data of one channel.

    Attributes:
        exposure: The timeline.
        values: What was shown.
        refresh_ns: Period of the values.
        likeness: Correlation of neighbouring residuals that is taken out.
        kept: bool (k,): values that count.
        samples: N of the chip's running mean where it is known, else None.
        window_ns: Length of the window where it is known, else None.
        step_mw: Step in which values come, 0: not known.
        noise_mw: Standard deviation of values at a steady power, None: not known.
    """

    exposure: Exposure
    values: Values
    refresh_ns: float
    likeness: float = 0.0
    kept: npt.NDArray[np.bool_] | None = None
    samples: float | None = None
    window_ns: float | None = None
    step_mw: float = 0.0
    noise_mw: float | None = None

    def part(self, start: int, end: int) -> Problem:
        """Return some of the values in a row."""
        values = self.values
        cut = slice(start, end)
        block = values.block[cut] - values.block[start]
        kept = None if self.kept is None else self.kept[cut]
        part = Values(values.shown_ns[cut], values.value_mw[cut], block, values.phase[cut])
        return replace(self, values=part, kept=kept)


def equations(
    problem: Problem,
    guess: Guess,
    columns: Columns,
    powers: Floats | None,
    *,
    together: bool = False,
) -> NormalBlocks:
    """Return the normal equations at a guess, per block of time or all together."""
    return assemble(
        problem.exposure,
        problem.values,
        guess,
        columns,
        powers,
        likeness=problem.likeness,
        kept=problem.kept,
        together=together,
    )[0]


def prior(problem: Problem, columns: Columns, variance: float, own_ns: float) -> Floats:
    """Return the precision of what is known beforehand, float64 (p,), times the variance."""
    exposure = problem.exposure
    gap = max(exposure.mean_free, 1.0)
    layers = max(1, exposure.layers - 1)
    spent = max(float(exposure.mean_layer.sum()), 1.0)
    widths = {"start": gap, "launch": gap / layers, "share": gap / spent}
    deviation = np.full(columns.count, np.inf)
    for k, name in enumerate(columns.names):
        width = widths.get(name, np.inf)
        if name.startswith("own"):
            width = own_ns
        elif name.startswith("timing"):
            width = _TIMING_NS
        deviation[columns.powers + k] = width
    result: Floats = variance / deviation**2
    return result


def linear(
    blocks: NormalBlocks, columns: Columns, ridge: Floats, pull: Floats, damping: float = 0.0
) -> Floats:
    """Return the coefficients, powers not negative."""
    gram, moment = blocks.gram.sum(axis=0), blocks.moment.sum(axis=0)
    return _solved(gram, moment, columns, ridge, pull, damping)


def _solved(
    gram: Floats, moment: Floats, columns: Columns, ridge: Floats, pull: Floats, damping: float
) -> Floats:
    gram = gram + np.diag(ridge)
    diagonal = np.diagonal(gram).copy()
    names = columns.nonlinear()
    if damping:
        gram[np.diag_indices_from(gram)] += np.where(
            (np.arange(columns.count) >= names.start) & (np.arange(columns.count) < names.stop),
            damping * diagonal,
            0.0,
        )
    _tie_gaps(gram, columns)
    lengths = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    lengths = np.where(lengths > 0, lengths, 1.0)
    scaled = gram / np.outer(lengths, lengths)
    found, _, _ = solve(scaled, (moment + ridge * pull) / lengths, ~columns.free)
    result: Floats = found / lengths
    return result


def _tie_gaps(gram: Floats, columns: Columns) -> None:
    """Draw the powers of the gaps, and of idle, towards one another, weakly."""
    gaps = np.arange(columns.layers, columns.powers)
    weight = _GAP_RIDGE * float(np.max(np.diagonal(gram)[: columns.powers], initial=0.0))
    count = len(gaps)
    gram[np.ix_(gaps, gaps)] += weight * (np.eye(count) - 1.0 / count)


def totals(guess: Guess, columns: Columns) -> Floats:
    """Return the values of what has derivative columns, float64 (names,)."""
    table = {
        "centre": guess.centre_ns,
        "window": guess.window_ns,
        "spread": guess.spread_ns2,
        "start": guess.placement[0],
        "launch": guess.placement[1],
        "share": guess.placement[2],
    }
    found = [table[name] for name in columns.names if name in table]
    if columns.own >= 0:
        found += list(guess.own_ns)
    if columns.timing >= 0:
        found += list(guess.timing_ns)
    return np.array(found, np.float64)


def _longest_tau_ns(problem: Problem) -> float:
    """Return the longest low-pass worth asking for.

    A low-pass over very many inferences tells no layer from another, and costs a look back at each
    of them: with inferences of 50 us a constant of three refreshes took minutes to fit.
    """
    start = problem.exposure.start
    period = float(start[-1] - start[0]) / max(1, len(start) - 1)
    return min(3 * problem.refresh_ns, max(0.1 * problem.refresh_ns, _REMEMBERED * period))


def moved(problem: Problem, guess: Guess, columns: Columns, step: Floats) -> Guess:
    """Return a guess after a step, within what can be."""
    refresh, exposure = problem.refresh_ns, problem.exposure
    value = dict(zip(columns.names, step, strict=True))
    most = _STEP * guess.window_ns
    centre = guess.centre_ns + float(np.clip(value.get("centre", 0.0), -most, most))
    window = guess.window_ns + float(np.clip(value.get("window", 0.0), -most, most))
    window = min(max(window, _WINDOWS[0] * refresh), _WINDOWS[1] * refresh)
    room = max(guess.tau_ns, 0.1 * guess.window_ns) ** 2
    spread = guess.spread_ns2 + float(np.clip(value.get("spread", 0.0), -room, 2 * room))
    spread = min(max(spread, 0.0), _longest_tau_ns(problem) ** 2)
    placement = guess.placement.copy()
    if "start" in value:
        gap = exposure.mean_free
        spent = max(float(exposure.mean_layer.sum()), 1.0)
        most_of = np.array([gap, gap / max(1, exposure.layers - 1), gap / spent])
        steps = np.array([value["start"], value["launch"], value["share"]])
        placement = placement + np.clip(steps, -0.5 * most_of, 0.5 * most_of)
        placement = np.clip(placement, np.array([0.0, 0.0, 0.0]), most_of)
    own, timing = guess.own_ns, guess.timing_ns
    if columns.own >= 0:
        own = own + step[columns.own : columns.own + columns.layers]
    if columns.timing >= 0:
        timing = timing + step[columns.timing : columns.timing + TIMING]
    return replace(
        guess,
        centre_ns=centre,
        window_ns=window,
        spread_ns2=spread,
        placement=placement,
        own_ns=own,
        timing_ns=timing,
    )


def _step(
    known: tuple[NormalBlocks, Floats, Floats], columns: Columns, guess: Guess, damping: float
) -> Floats:
    """Return the step of what is not linear; what would go below 0 goes to 0, the rest adapting."""
    blocks, ridge, pull = known
    ridge, pull = ridge.copy(), pull.copy()
    names = columns.nonlinear()
    step = np.zeros(len(columns.names))
    have = totals(guess, columns)
    bounded = np.array([name in _NOT_BELOW_0 for name in columns.names], bool)
    held = np.zeros(len(bounded), bool)
    for _ in range(3):
        step = linear(blocks, columns, ridge, pull, damping)[names]
        below = bounded & ~held & (have + step < 0)
        if not below.any():
            break
        held |= below
        at = names.start + np.flatnonzero(below)
        ridge[at] = _HELD * np.maximum(np.diagonal(blocks.gram.sum(axis=0))[at], 1e-30)
        pull[at] = -have[below]
    return step


def refine(
    problem: Problem,
    guess: Guess,
    fitted: frozenset[str],
    *,
    steps: int = STEPS,
    own_ns: float = _OWN_NS,
    drift: bool = True,
    converged: float = CONVERGED,
) -> Fitted:
    """Return the best fit near a guess.

    Args:
        problem: The data.
        guess: Where to begin.
        fitted: Of `centre`, `window`, `spread`, `placement`, `own`, `timing` what is free.
        steps: Most steps.
        own_ns: Expected size of layers' own begins.
        drift: Whether power may drift.
        converged: Relative change of the sum of squares at which to end.
    """
    columns = Columns(problem.exposure.layers, fitted, drift=drift)
    names = columns.nonlinear()
    alone = Columns(columns.layers, frozenset(), drift=drift)
    blocks = equations(problem, guess, alone, None, together=True)
    found = linear(blocks, alone, np.zeros(alone.count), np.zeros(alone.count))
    powers, nothing = found[: columns.powers], np.zeros(columns.count)
    best = Fitted(guess, powers, math.inf, 0, columns)
    trial, damping, failures = guess, 0, 0
    step = np.zeros(len(columns.names))
    penalty_best = math.inf
    last: tuple[NormalBlocks, Floats, Floats] | None = None
    for _ in range(steps):
        blocks = equations(problem, trial, columns, powers, together=True)
        rows = int(blocks.rows.sum())
        # How good the guess is: powers alone, no step.
        held = np.zeros(columns.count)
        held[names] = 1e30
        found = linear(blocks, columns, held, nothing)
        squares = float(blocks.squared_error(found).sum())
        variance = squares / max(1, rows - columns.count)
        ridge = prior(problem, columns, variance, own_ns)
        pull = np.zeros(columns.count)
        pull[names] = -totals(trial, columns)
        penalty = squares + float(ridge[names] @ pull[names] ** 2)
        if penalty < penalty_best:
            gain = penalty_best - penalty
            done = gain < converged * penalty and damping == 0
            penalty_best, best = (
                penalty,
                Fitted(trial, found[: columns.powers], squares, rows, columns),
            )
            powers = best.powers
            last = (blocks, ridge, pull)
            damping = max(0, damping - 1)
            if done:
                break
        else:
            damping += 1
            failures += 1
            if damping >= len(_DAMPINGS) or failures > 8:
                break
        if last is None or not len(columns.names):
            break
        step = _step(last, columns, best.guess, _DAMPINGS[damping])
        trial = moved(problem, best.guess, columns, step)
    return best
