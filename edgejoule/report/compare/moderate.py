"""Variances from few repeats, each helped by what all layers' variances say together.

Three repeats on either side leave four degrees of freedom for a layer's variance: by luck it is
tiny for some of sixty layers, and they would be called different. But the layers of one network on
one machine scatter alike. So each variance is taken as drawn from a common distribution,

    s2 | sigma2 ~ sigma2 chi2(f) / f,      1 / sigma2 ~ chi2(d0) / (d0 s0)

whose d0 and s0 follow from the mean and the variance of log s2 over the layers (the logarithm of
chi2(f) / f has mean psi(f/2) - log(f/2) and variance psi'(f/2)):

    Var log s2 = psi'(f/2) + psi'(d0/2)
    E log s2   = log s0 + psi(f/2) - log(f/2) - psi(d0/2) + log(d0/2)

The posterior mean of 1/sigma2 gives (d0 s0 + f s2) / (d0 + f) with d0 + f degrees of freedom, and
change over its root is Student's t with that many. Where layers scatter alike d0 is large and they
are pooled; where they do not it is small and each stands for itself. Short layers scatter more than
long ones: log s0 is a line over the logarithm of the layer's time where there are enough layers.
This is the empirical Bayes estimate that gene expression is compared with (Smyth, Statistical
Applications in Genetics and Molecular Biology 3, 2004), derived for times of layers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

FEWEST = 3  # below, nothing is learnt from the others
FEWEST_FOR_LINE = 12
# (relative deviation of 1e-5)^2: below it is rounding of float32, and its logarithm means nothing.
LEAST_VARIANCE = 1e-10


def moderate(variance: Floats, freedom: float, level: Floats | None = None) -> tuple[Floats, float]:
    """Return each variance helped by the others, and the degrees of freedom of all of them.

    Args:
        variance: Of the logarithm of some layers' values, each with `freedom` degrees of freedom.
        freedom: Of each.
        level: Logarithm of each layer's value, which the variance may depend on; None: it does not.

    Returns:
        Variances of the same order, and their degrees of freedom: never more than all layers'
        together have.
    """
    from scipy.special import digamma, polygamma

    variance = np.maximum(np.asarray(variance, np.float64), LEAST_VARIANCE)
    count = len(variance)
    if count < FEWEST or freedom <= 0:
        return variance, float(freedom)
    seen = np.log(variance) - digamma(freedom / 2.0) + math.log(freedom / 2.0)
    fitted, parameters = _fitted(seen, level)
    spare = count - parameters
    spread = float(np.sum((seen - fitted) ** 2)) / spare - float(polygamma(1, freedom / 2.0))
    prior = _trigamma_inverse(spread) * 2.0 if spread > 0.0 else math.inf
    centre = fitted
    if math.isfinite(prior):
        centre = fitted + float(digamma(prior / 2.0)) - math.log(prior / 2.0)
    # The prior itself was estimated: it cannot be surer than all layers together.
    prior = min(prior, spare * freedom)
    moderated: Floats = (prior * np.exp(centre) + freedom * variance) / (prior + freedom)
    return moderated, prior + freedom


def _fitted(seen: Floats, level: Floats | None) -> tuple[Floats, int]:
    """Return a constant, or a line over `level` where there are enough values, and its size."""
    if level is None or len(seen) < FEWEST_FOR_LINE or float(np.ptp(level)) < 1e-9:
        return np.full(len(seen), float(np.mean(seen))), 1
    slope, start = np.polyfit(level, seen, 1)
    return start + slope * np.asarray(level, np.float64), 2


def _trigamma_inverse(value: float) -> float:
    """Return x with psi'(x) = value; psi' falls from infinity to 0, so halving finds it."""
    from scipy.special import polygamma

    low, high = 1e-8, 1e8
    for _ in range(80):
        middle = math.sqrt(low * high)
        if float(polygamma(1, middle)) > value:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)
