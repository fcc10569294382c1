"""Which energies of a regression stand alone, which only together, and which not at all.

Two layers that always run one after the other within a sensor's window share what that window
shows: what one estimate takes the other lacks, while their sum is known. Estimates whose interval
is too wide are merged with the one that they take from most (the most negative correlation, which
follows from the design), until their sum is known well enough. One that stands alone is never drawn
in, and what stays too wide is taken apart again and is not resolved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgejoule.energy.regression import Bools, Fit, Floats

LIMIT = 0.25
# Below this two estimates do not take from each other.
_UNRELATED = -0.02


@dataclass(frozen=True)
class Group:
    """Columns whose energies are known together.

    Attributes:
        members: Indices, increasing; one: it stands alone.
        energy: Sum of coefficient times weight.
        half_width: Of its 95 % interval, inf: undetermined.
        resolved: Whether the half-width is within the limit.
    """

    members: tuple[int, ...]
    energy: float
    half_width: float
    resolved: bool


def resolve(
    fit: Fit,
    weights: Floats,
    limit: float = LIMIT,
    mergeable: Bools | None = None,
    alternatives: Floats | None = None,
) -> list[Group]:
    """Say of every column of weight whether it stands alone, in a group, or is not resolved.

    Args:
        fit: The regression.
        weights: (p,) what a coefficient is to be multiplied with to be an energy, such as a
            layer's mean time; 0: a column that is no energy (drift), left out.
        limit: Half-width over energy up to which a sum is resolved.
        mergeable: (p,) columns that may be merged; None: all of weight.
        alternatives: (m, p) coefficients of models that the data do not tell from this one. How far
            a sum differs between them is added to its half-width.

    Returns:
        Groups in the order of their smallest member; together they hold every column of weight.
    """
    taken = np.flatnonzero(weights != 0)
    may = np.ones(len(weights), bool) if mergeable is None else mergeable

    def known(members: tuple[int, ...]) -> Group:
        chosen = np.zeros(len(weights))
        chosen[list(members)] = weights[list(members)]
        energy, half = float(chosen @ fit.coefficients), fit.half_width_of(chosen)
        if alternatives is not None and len(alternatives):
            half += float(np.max(np.abs(alternatives @ chosen - energy)))
        return Group(members, energy, half, bool(half <= limit * energy))

    alone = [known((int(column),)) for column in taken]
    settled = [group for group in alone if group.resolved]
    open_ = [group for group in alone if not group.resolved and may[group.members[0]]]
    settled += [group for group in alone if not group.resolved and not may[group.members[0]]]
    covariance = fit.covariance() * np.outer(weights, weights)
    while len(open_) > 1:
        pair = _closest(open_, covariance)
        if pair is None:
            break
        merged = known(tuple(sorted(open_[pair[0]].members + open_[pair[1]].members)))
        open_ = [group for index, group in enumerate(open_) if index not in pair]
        (settled if merged.resolved else open_).append(merged)
    for group in open_:
        settled += [known((member,)) for member in group.members]
    return sorted(settled, key=lambda group: group.members)


def _closest(groups: list[Group], covariance: Floats) -> tuple[int, int] | None:
    """Return the two groups whose sums take most from each other; None: no two do."""
    choose = np.zeros((len(groups), len(covariance)))
    for row, group in enumerate(groups):
        choose[row, list(group.members)] = 1.0
    between = choose @ covariance @ choose.T
    deviation = np.sqrt(np.maximum(np.diagonal(between), 1e-300))
    correlation = between / np.outer(deviation, deviation)
    np.fill_diagonal(correlation, 1.0)
    first, second = np.unravel_index(int(np.argmin(correlation)), correlation.shape)
    if correlation[first, second] > _UNRELATED:
        return None
    return int(first), int(second)
