"""What all layers have in common, told apart from what a layer does on its own.

Between two processes of the same network all layers move together, because a clock or a neighbour
on the machine moved, and each moves a little on its own, because memory lies elsewhere. Neither is
a change of the network, and the second is not seen within a process: its blocks agree to a
thousandth while the next process is a percent away. But it is seen across the layers. With the
changes d of the logarithms, v their variances as far as blocks or repeats tell,

    d_l = c + b_l + e_l,      b_l ~ N(0, tau2_l),   e_l ~ N(0, v_l)

for all layers but those that really changed. c is what they have in common; tau2_l is the variance
from process to process that blocks cannot see. Layers whose blocks scatter more also differ more
from process to process (a neighbour disturbs the same layers in time and between processes), while
where memory lies touches them alike. So

    v_l + tau2_l = scale (v_l + ratio median(v))

with the ratio of greatest likelihood of some from 0 to 1000 (3 below 25 layers) and the scale that
it gives, and never less than v_l.

Those that really changed are outliers to that. One after the other the farthest is put aside, up to
a third of the layers, and held against c and the variances of those that are left, which it does
not spoil; the last that is farther than chance would have it (alpha over the number of layers left,
as in Holm's correction) and all before it count as changed (Rosner's generalised test,
Technometrics 25, 1983: going on past the first that is not far lets several equal ones not hide
each other). A layer is then judged by c and the variances of the unchanged ones other than itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.report.compare.student import ALPHA, t_value, tail

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

FEWEST = 5  # layers: with fewer, what they have in common cannot be told from what one does
_RATIOS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
_RATIO_OF_FEW = 3.0  # fewer layers do not tell a ratio
# No layer's variance is that of all the others, whose number would promise a normal distribution:
# real processes scatter some layers more. Student's t with so many degrees allows for it.
_MOST_FREEDOM = 15.0
_LEAST_VARIANCE = 1e-12  # a layer whose blocks agree to the last digit is not all that counts
# Rosner's limits hold from 25 values on; with fewer, a sixth of them (at least one) keeps the
# chance of putting any aside wrongly near alpha, seen in simulations.
_MANY, _OF_MANY, _OF_FEW = 25, 3, 6


@dataclass(frozen=True)
class Separated:
    """Changes of layers, in the order given; all are changes of logarithms.

    Attributes:
        common: What the unchanged layers have in common.
        common_variance: Of `common`, from the layers' scatter alone.
        process_variance: tau2 of a middling layer: beyond what blocks or repeats tell.
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
    centre_variance: float
    scale: float
    added: float
    count: int
    scatter: bool

    def total(self, variance: Floats) -> Floats:
        """Return the variances of changes whose blocks tell of `variance`."""
        variance = np.maximum(variance, _LEAST_VARIANCE)
        found: Floats = np.maximum(variance, self.scale * (variance + self.added))
        return found


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
        scatter: Estimate tau2_l; False: `variance` holds what processes do, as repeats show it.
        alpha: Chance that any of them is put aside although none changed.
    """
    change, variance, freedom = (np.asarray(one, np.float64) for one in (change, variance, freedom))
    count = len(change)
    left = np.arange(count)
    aside: list[int] = []
    last = 0
    for step in range(count // _OF_MANY if count >= _MANY else max(1, count // _OF_FEW)):
        fit = _fit(change[left], variance[left], scatter)
        distance = np.abs(t_value(change[left] - fit.centre, fit.total(variance[left])))
        place = int(np.argmax(distance))
        one = int(left[place])
        left = np.delete(left, place)
        aside.append(one)
        fit = _fit(change[left], variance[left], scatter)
        p_value = _against(change, variance, freedom, one, fit)[3]
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
        float(np.median(whole.total(variance[kept]) - np.maximum(variance[kept], _LEAST_VARIANCE))),
        own,
        total,
        free,
        p_values,
        len(kept),
    )


def _fit(change: Floats, variance: Floats, scatter: bool) -> _Fit:
    """Return what changes have in common, and how far they are from it, by likelihood."""
    variance = np.maximum(variance, _LEAST_VARIANCE)
    count = len(change)
    middle = float(np.median(variance))
    best, least = (0.0, 1.0), np.inf
    ratios = _RATIOS if count >= _MANY - 1 else (_RATIO_OF_FEW,)
    for ratio in ratios if scatter and count > 1 else ():
        shape = variance + ratio * middle
        weight = 1.0 / shape
        centre = float(weight @ change / weight.sum())
        scale = float(weight @ (change - centre) ** 2) / (count - 1)
        if scale <= 0.0:
            continue
        # Minus twice the logarithm of the likelihood, without constants.
        unlikely = (count - 1) * np.log(scale) + float(np.log(shape).sum())
        if unlikely < least:
            best, least = (ratio * middle, scale), unlikely
    fit = _Fit(0.0, 0.0, best[1], best[0], count, scatter)
    weight = 1.0 / fit.total(variance)
    whole = float(weight.sum())
    return replace(fit, centre=float(weight @ change) / whole, centre_variance=1.0 / whole)


def _against(
    change: Floats, variance: Floats, freedom: Floats, one: int, fit: _Fit
) -> tuple[float, float, float, float]:
    """Return a layer's own change, its variance, its degrees of freedom, and the p-value."""
    own = float(change[one]) - fit.centre
    total = float(fit.total(variance[one : one + 1])[0]) + fit.centre_variance
    # The scale may be 1 by chance where few layers tell of it: no more freedom than they have.
    free = float(freedom[one]) * (total / max(float(variance[one]), _LEAST_VARIANCE)) ** 2
    if fit.scatter:
        free = min(free, max(1.0, fit.count - 1.0), _MOST_FREEDOM)
    statistic = t_value(np.array([own]), np.array([total]))
    return own, total, free, float(tail(statistic, np.array([free]))[0])
