"""What all layers have in common, told apart from what a layer does on its own.

Between two processes of the same network all layers move together, because a clock or a neighbour
on the machine moved, and each moves a little on its own, because memory lies elsewhere. Neither is
a change of the network, and the second is not seen within a process: its blocks agree to a
thousandth while the next process is a percent away. But it is seen across the layers. With the
changes d of the logarithms, v their variances as far as blocks or repeats tell,

    d_l = c + b_l + e_l,      b_l ~ N(0, tau2),   e_l ~ N(0, v_l)

for all layers but those that really changed. c is what they have in common; tau2, the variance
from process to process that blocks cannot see, is what makes sum((d - c)^2 / (v + tau2)) as large
as its degrees of freedom (Paule and Mandel, J. Res. NBS 87, 1982), not below 0.

Those that really changed are outliers to that. One after the other the farthest is put aside, up to
a third of the layers, and held against c and tau2 of those that are left, which it does not spoil;
the last that is farther than chance would have it (alpha over the number of layers left, as in
Holm's correction) and all before it count as changed (Rosner's generalised test, Technometrics 25,
1983: going on past the first that is not far lets several equal ones not hide each other).
A layer is then judged by c and tau2 of the unchanged ones other than itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.report.compare.student import ALPHA, t_value, tail

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

FEWEST = 5  # layers: with fewer, what they have in common cannot be told from what one does
_STEPS = 50
# Rosner's limits hold from 25 values on; with fewer, a sixth of them (at least one) keeps the
# chance of putting any aside wrongly near alpha, seen in simulations.
_MANY, _OF_MANY, _OF_FEW = 25, 3, 6


@dataclass(frozen=True)
class Separated:
    """Changes of layers, in the order given; all are changes of logarithms.

    Attributes:
        common: What the unchanged layers have in common.
        common_variance: Of `common`, from the layers' scatter alone.
        process_variance: tau2: of a layer's change beyond what blocks or repeats tell.
        own: Each layer's change less what the others have in common.
        variance: Of `own`.
        freedom: Student's degrees of freedom of it.
        p_value: Of no change.
        unchanged: How many layers stand behind `common`.
    """

    common: float
    common_variance: float
    process_variance: float
    own: Floats
    variance: Floats
    freedom: Floats
    p_value: Floats
    unchanged: int


@dataclass(frozen=True)
class _Fit:
    centre: float
    tau2: float
    centre_variance: float
    count: int
    scatter: bool


def separate(
    change: Floats,
    variance: Floats,
    freedom: Floats,
    *,
    scatter: bool = True,
    alpha: float = ALPHA,
) -> Separated:
    """Tell own changes from the common one.

    Args:
        change: (layers,) of logarithms, at least `FEWEST` of them.
        variance: (layers,) of each, as far as blocks or repeats tell.
        freedom: (layers,) degrees of freedom of each variance.
        scatter: Estimate tau2; False: `variance` holds what processes do, as repeats show it.
        alpha: Chance that any of them is put aside although none changed.
    """
    change, variance, freedom = (
        np.asarray(one, np.float64) for one in (change, variance, freedom)
    )
    count = len(change)
    left = np.arange(count)
    aside: list[int] = []
    last = 0
    for step in range(count // _OF_MANY if count >= _MANY else max(1, count // _OF_FEW)):
        fit = _fit(change[left], variance[left], scatter)
        distance = np.abs(t_value(change[left] - fit.centre, variance[left] + fit.tau2))
        place = int(np.argmax(distance))
        one = int(left[place])
        left = np.delete(left, place)
        aside.append(one)
        p_value = _against(change, variance, freedom, one, _fit(change[left], variance[left], scatter))[3]
        if p_value <= alpha / (count - step):
            last = step + 1
    kept = np.setdiff1d(np.arange(count), np.array(aside[:last], np.int64))
    whole = _fit(change[kept], variance[kept], scatter)
    own, total, free, p_values = (np.empty(count) for _ in range(4))
    for one in range(count):
        others = kept[kept != one]
        fit = whole if len(others) == len(kept) else _fit(change[others], variance[others], scatter)
        own[one], total[one], free[one], p_values[one] = _against(
            change, variance, freedom, one, fit
        )
    return Separated(
        whole.centre,
        whole.centre_variance,
        whole.tau2,
        own,
        total,
        free,
        p_values,
        len(kept),
    )


def _fit(change: Floats, variance: Floats, scatter: bool) -> _Fit:
    """Return the weighted mean and the variance beyond `variance`, by Paule and Mandel."""
    count = len(change)
    # A layer whose blocks agree to the last digit must not be all that counts.
    variance = np.maximum(variance, 1e-12)

    tau2 = 0.0
    for _ in range(_STEPS):
        weight = 1.0 / (variance + tau2)
        centre = float(weight @ change / weight.sum())
        scaled = weight * (change - centre) ** 2
        excess = float(scaled.sum()) - (count - 1)
        # Convex and falling in tau2: Newton's steps from 0 never go beyond the root.
        step = excess / float(weight @ scaled) if excess > 0.0 and scatter else 0.0
        tau2 += step
        if step <= 1e-6 * tau2:
            break
    weight = 1.0 / (variance + tau2)
    return _Fit(
        float(weight @ change / weight.sum()), tau2, float(1.0 / weight.sum()), count, scatter
    )


def _against(
    change: Floats, variance: Floats, freedom: Floats, one: int, fit: _Fit
) -> tuple[float, float, float, float]:
    """Return a layer's own change, its variance, Satterthwaite's freedom, and the p-value."""
    own = float(change[one]) - fit.centre
    of_layers = fit.tau2 + fit.centre_variance
    total = float(variance[one]) + of_layers
    # tau2 may be 0 by chance where few layers tell of it: it lends no more freedom than they have.
    free = float(freedom[one]) * (total / max(float(variance[one]), 1e-12)) ** 2
    if fit.scatter:
        free = min(free, max(1.0, fit.count - 1.0))
    statistic = t_value(np.array([own]), np.array([total]))
    return own, total, free, float(tail(statistic, np.array([free]))[0])
