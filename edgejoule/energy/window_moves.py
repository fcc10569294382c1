"""Where else a layer might lie: each moved alone through the gap around it. Numpy.

Near the best fit a layer's begin is known to where the error rises, and derivative columns hold
that. A short layer may fit at another place about as well, and no derivative sees it. So every
layer is tried at every place between its neighbours, all others adapting: a place that fits better
is taken, and how far powers differ between places that fit as well is part of what is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.window_design import (
    averaged,
    before_ns,
    place,
    rows_of,
    spans,
    usable,
    whitened,
)
from edgejoule.energy.window_exposure import BETWEEN, GAPS
from edgejoule.energy.window_fit import Fitted, Problem, prior

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats

_NEAREST_NS = 4_000.0
_PLACES = 14  # on each side
_ALIKE = 9.0  # in variances of the residual: places that are not told apart
_BETTER = 16.0  # likewise: a place that is taken


@dataclass(frozen=True)
class Moves:
    """Every layer at every place.

    Attributes:
        shift_ns: float64 (places,).
        gain: float64 (places, layers): by how much the sum of squares is less than where the layer
            is, in variances of the residual; -inf where it cannot be.
        powers: float64 (places, layers, columns): the coefficients then.
    """

    shift_ns: Floats
    gain: Floats
    powers: Floats

    def better(self, layers_before: Floats) -> Floats | None:
        """Return gap times before layers with the best moves made, None if there is none.

        Of neighbours only one moves at a time.
        """
        at = np.argmax(self.gain, axis=0)
        best = self.gain[at, np.arange(self.gain.shape[1])]
        taken = np.zeros(len(best), bool)
        moved = layers_before.copy()
        for layer in np.argsort(-best):
            near = taken[max(0, layer - 1) : layer + 2]
            if best[layer] > _BETTER and not near.any():
                taken[layer] = True
                moved[layer] += self.shift_ns[at[layer]]
        return moved if taken.any() else None

    def alike(self, share: float) -> Floats:
        """Return coefficients at places that fit about as well, the farthest of each layer.

        Args:
            share: Of the data that the gains were found with.
        """
        found = []
        for layer in range(self.gain.shape[1]):
            as_good = np.flatnonzero(self.gain[:, layer] > -_ALIKE * share)
            if len(as_good):
                power = self.powers[as_good, layer, layer]
                ends = {int(as_good[np.argmin(power)]), int(as_good[np.argmax(power)])}
                found += [self.powers[end, layer] for end in ends]
        return np.array(found).reshape(len(found), self.powers.shape[2])


def try_moves(problem: Problem, found: Fitted, own_ns: float) -> Moves:
    """Move every layer alone.

    Args:
        problem: The data, or part of them.
        found: A fit with layers' own begins.
        own_ns: How much these differ from the rule.
    """
    exposure, guess, columns = problem.exposure, found.guess, found.columns
    layers = exposure.layers
    before = before_ns(exposure, guess)
    room_back = np.diff(before, prepend=0.0)
    room_ahead = np.diff(before, append=exposure.mean_free)
    farthest = max(float(room_back.max()), float(room_ahead.max()), 2 * _NEAREST_NS)
    ahead = np.geomspace(_NEAREST_NS, farthest, _PLACES)
    shifts = np.concatenate([-ahead[::-1], ahead])
    rows = rows_of(problem.exposure, problem.values, guess, columns, found.powers,
                   likeness=problem.likeness, kept=problem.kept)  # fmt: skip
    gram = rows[:, :-1].T @ rows[:, :-1] + np.diag(prior(problem, columns, found.variance, own_ns))
    moment = rows[:, :-1].T @ rows[:, -1]
    valid = usable(problem.values, guess, problem.kept, problem.likeness)
    between = layers + BETWEEN
    middle = problem.values.shown_ns - guess.centre_ns
    if np.any(guess.timing_ns):
        waves = np.polynomial.legendre.legvander(problem.values.phase, len(guess.timing_ns))[:, 1:]
        middle = middle + waves @ guess.timing_ns
    solvers = [_without(gram, moment, layer, between, columns.own) for layer in range(layers)]
    here = [
        solver.reached(gram[:, layer], gram[layer, layer], float(moment[layer]))
        for layer, solver in enumerate(solvers)
    ]
    placement, shares = place(exposure, guess), np.empty((len(middle), layers + GAPS))
    gain = np.full((len(shifts), layers), -np.inf)
    powers = np.zeros((len(shifts), layers, columns.count))
    for index, shift in enumerate(shifts):
        can = (shift >= -room_back - 1.0) & (shift <= room_ahead + 1.0)
        if not can.any():
            continue
        spans(exposure, middle - shift, guess.window_ns, guess.tau_ns, placement, shares)
        moved = shares[:, :layers]
        averaged(moved, guess.samples)
        whitened(moved, problem.likeness, valid)
        across = rows[:, :-1].T @ moved
        told = moved.T @ rows[:, -1]
        own = np.einsum("kl,kl->l", moved, moved)
        for layer in np.flatnonzero(can):
            solver = solvers[layer]
            reached, coefficients = solver.reached(
                across[:, layer], float(own[layer]), float(told[layer])
            )
            gain[index, layer] = (reached - here[layer][0]) / found.variance
            powers[index, layer] = coefficients
    return Moves(shifts, gain, powers)


@dataclass(frozen=True)
class _Without:
    """Least squares over all columns but one layer's, the gap taking its place."""

    layer: int
    between: int
    columns: np.ndarray
    inverse: Floats
    moment: Floats
    count: int

    def reached(self, across: Floats, own: float, told: float) -> tuple[float, Floats]:
        """Return by how much a column of the layer lowers the squares, and all coefficients."""
        to = across.copy()
        to[self.between] += to[self.layer]
        to = to[self.columns]
        solved = self.inverse @ to
        size = max(own - float(to @ solved), 1e-9 * max(own, 1e-300))
        rest = told - float(self.moment @ solved)
        value = rest / size
        result = np.zeros(self.count)
        result[self.columns] = self.inverse @ self.moment - value * solved
        result[self.layer] = value + result[self.between]
        return rest * value, result


def _without(gram: Floats, moment: Floats, layer: int, between: int, own: int) -> _Without:
    inner, aim = gram.copy(), moment.copy()
    inner[between] += inner[layer]
    inner[:, between] += inner[:, layer]
    aim[between] += aim[layer]
    out = {layer} if own < 0 else {layer, between - BETWEEN + 5 + own + layer}
    columns = np.array([k for k in range(len(gram)) if k not in out])
    inner, aim = inner[np.ix_(columns, columns)], aim[columns]
    size = np.diagonal(inner)
    inner = inner + np.diag(1e-9 * np.maximum(size, 1e-9 * size.max()))
    return _Without(layer, between, columns, np.linalg.inv(inner), aim, len(gram))
