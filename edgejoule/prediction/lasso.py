"""The published model: sparse polynomial regression per type of layer, fitted with scikit-learn.

After NeuralPower (Cai, Juan, Stamoulis, Marculescu, ACML 2017, arXiv:1710.05420): polynomials of
the layer's shape, for runtime with FLOPs and memory accesses as special terms, for power with the
logarithms of the shape beside it, coefficients by Lasso, degree and penalty by cross-validation.
docs/Prediction.md says where this differs.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from edgejoule.prediction.features import Layers, or_zero
from edgejoule.prediction.regressors import polynomial_inputs, polynomial_terms

DEGREES = (1, 2, 3)
# More terms than this are not tried: Lasso would choose among more terms than there are layers.
MOST_TERMS = 150
# Penalties, as parts of the smallest one that leaves no term.
RATIOS = tuple(float(one) for one in np.logspace(0, -4, 25))

_SHAPE = (
    "batch_size", "input_channels", "input_height", "input_width", "kernel_0", "kernel_1",
    "stride_0", "stride_1", "padding_0", "padding_1", "output_channels", "output_height",
    "output_width",
)  # fmt: skip
_POOLING = tuple(name for name in _SHAPE if not name.startswith("padding"))
_OTHERS = ("batch_size", "input_elements", "output_elements", "inputs")
_SPECIAL = ("flops", "bytes_moved")


def variables_of(kind: str) -> tuple[str, ...]:
    """Return the published variables of a type; the sizes alone for types not in the paper."""
    if kind == "convolution":
        return _SHAPE
    if kind.endswith("convolution"):
        return (*_SHAPE, "groups")
    return _POOLING if kind == "pooling" else _OTHERS


@dataclass(frozen=True)
class Path:
    """Polynomials of one degree, one per penalty.

    Attributes:
        degree: Of the polynomial.
        names: Its variables.
        with_logarithms: Whether their logarithms are variables too.
        exponents: (terms, variables) int64.
        special: Names of the special terms.
        mean, scale: (terms + special,) of the fitted layers, for standardising.
        coefficients: (penalties, terms + special).
        intercept: Mean of what was fitted.
        floor: Its smallest value.
    """

    degree: int
    names: list[str]
    with_logarithms: bool
    exponents: np.ndarray
    special: list[str]
    mean: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    intercept: float
    floor: float

    def predict(self, layers: Layers) -> np.ndarray:
        """Return the predictions of every penalty, (n, penalties)."""
        columns = polynomial_inputs(layers, self.names, self.with_logarithms)
        terms = polynomial_terms(columns, self.exponents, or_zero(layers, self.special))
        found: np.ndarray = np.maximum(
            self.intercept + (terms - self.mean) / self.scale @ self.coefficients.T, self.floor
        )
        return found

    def regressor(self, penalty: int) -> dict[str, Any]:
        """Return the polynomial of one penalty without the terms that Lasso left out."""
        coefficients = self.coefficients[penalty]
        kept = np.flatnonzero(coefficients)
        of_shape = kept[kept < len(self.exponents)]
        of_special = kept[kept >= len(self.exponents)] - len(self.exponents)
        return {
            "form": "polynomial",
            "names": self.names,
            "logarithms": self.with_logarithms,
            "exponents": self.exponents[of_shape],
            "special": [self.special[index] for index in of_special],
            "mean": self.mean[kept],
            "scale": self.scale[kept],
            "coefficients": coefficients[kept],
            "intercept": self.intercept,
            "floor": self.floor,
            "degree": self.degree,
            "alpha": RATIOS[penalty],
        }


def fit_paths(layers: Layers, target: np.ndarray, kind: str, *, power: bool) -> list[Path]:
    """Fit polynomials of every degree that is small enough, each for every penalty.

    Args:
        layers: Of one type.
        target: (n,), above zero.
        kind: The type.
        power: The target is a power: logarithms take the place of the special terms.
    """
    names = _distinct(layers, variables_of(kind))
    paths = []
    for degree in DEGREES:
        exponents = _exponents(len(names) * (2 if power else 1), degree)
        if degree > 1 and len(exponents) > min(MOST_TERMS, len(layers)):
            break
        paths.append(_fit_path(layers, target, names, exponents, degree, power))
    return paths


def _fit_path(
    layers: Layers,
    target: np.ndarray,
    names: list[str],
    exponents: np.ndarray,
    degree: int,
    power: bool,
) -> Path:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lasso_path

    special = [] if power else list(_SPECIAL)
    columns = polynomial_inputs(layers, names, power)
    terms = polynomial_terms(columns, exponents, or_zero(layers, special))
    mean = terms.mean(axis=0)
    scale = terms.std(axis=0)
    scale[scale <= 1e-12 * np.maximum(1.0, np.abs(mean))] = np.inf  # a constant: no term
    standard = np.asfortranarray((terms - mean) / scale)
    intercept = float(target.mean())
    centred = target - intercept
    products = standard.T @ centred
    largest = float(np.abs(products).max(initial=0.0)) / len(target)
    coefficients = np.zeros((len(RATIOS), terms.shape[1]))
    if largest > 0:
        with warnings.catch_warnings():
            # A path that has not converged at its smallest penalties is judged like any other.
            warnings.simplefilter("ignore", ConvergenceWarning)
            _, found, _ = lasso_path(
                standard, centred, alphas=[largest * ratio for ratio in RATIOS],
                precompute=standard.T @ standard, Xy=products, max_iter=300, tol=1e-3,
            )  # fmt: skip
        coefficients = np.asarray(found).T
    scale[np.isinf(scale)] = 1.0
    return Path(
        degree, names, power, exponents, special, mean, scale, coefficients, intercept,
        float(target.min()),
    )  # fmt: skip


def _distinct(layers: Layers, names: tuple[str, ...]) -> list[str]:
    """Leave out variables that are constant here or equal to one before: they add no term."""
    kept: list[str] = []
    seen: list[np.ndarray] = []
    for name in names:
        column = or_zero(layers, [name])[:, 0]
        if np.ptp(column) > 0 and not any(np.array_equal(column, other) for other in seen):
            kept.append(name)
            seen.append(column)
    return kept


def _exponents(variables: int, degree: int) -> np.ndarray:
    """Return the powers of all products of 1 to `degree` variables, (terms, variables)."""
    rows = [
        np.bincount(chosen, minlength=variables)
        for size in range(1, degree + 1)
        for chosen in combinations_with_replacement(range(variables), size)
    ]
    return np.array(rows, dtype=np.int64).reshape(len(rows), variables)
