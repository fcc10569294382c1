"""The four forms of fitted models, as plain dictionaries, and their evaluation with numpy alone.

- `constant`: one number, `value`.
- `linear`: c0 + c1 x1 + ...; `names` of the x, `coefficients` (c0 first), `floor`.
- `polynomial`: `intercept` + sum of `coefficients` x standardised terms. Terms are products of the
  variables `names` (and of their `logarithms`) to the powers `exponents`, and the `special` ones;
  `mean`, `scale`, `floor`, and as a record `degree`, `alpha`.
- `forest`: exp(mean over trees), times `base` where there is one; `words` (layer types that are
  told apart), the nodes `feature`, `threshold`, `left`, `right`, `value`, the `roots`, `leaf`.

What is predicted is always above zero: polynomials and lines may fall below, so they stop at
`floor`, the smallest value they were fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgejoule.prediction.features import Layers, logarithms, or_zero

Regressor = Mapping[str, Any]


def evaluate(regressor: Regressor, layers: Layers) -> np.ndarray:
    """Return a prediction per layer, (n,) float64, in the unit that the regressor was fitted to."""
    form = regressor["form"]
    if form == "constant":
        return np.full(len(layers), float(regressor["value"]))
    if form == "linear":
        return _linear(regressor, or_zero(layers, regressor["names"]))
    if form == "polynomial":
        return _polynomial(regressor, layers)
    return _forest(regressor, layers)


def _linear(regressor: Regressor, columns: np.ndarray) -> np.ndarray:
    coefficients = regressor["coefficients"]
    found: np.ndarray = np.maximum(coefficients[0] + columns @ coefficients[1:], regressor["floor"])
    return found


def polynomial_inputs(layers: Layers, names: list[str], with_logarithms: bool) -> np.ndarray:
    """Return the variables of a polynomial, (n, names), with their logarithms twice as many."""
    columns = or_zero(layers, names)
    return np.hstack([columns, np.log1p(columns)]) if with_logarithms else columns


def polynomial_terms(columns: np.ndarray, exponents: np.ndarray, special: np.ndarray) -> np.ndarray:
    """Return the products of powers, (n, terms), and the special terms behind them."""
    terms = np.ones((len(columns), len(exponents)))
    for index in range(columns.shape[1]):
        for power in range(1, int(exponents[:, index].max(initial=0)) + 1):
            terms[:, exponents[:, index] >= power] *= columns[:, index : index + 1]
    return np.hstack([terms, special])


def _polynomial(regressor: Regressor, layers: Layers) -> np.ndarray:
    columns = polynomial_inputs(layers, regressor["names"], regressor["logarithms"])
    special = or_zero(layers, regressor["special"])
    terms = polynomial_terms(columns, regressor["exponents"], special)
    standard = (terms - regressor["mean"]) / regressor["scale"]
    found: np.ndarray = np.maximum(
        regressor["intercept"] + standard @ regressor["coefficients"], regressor["floor"]
    )
    return found


def _forest(regressor: Regressor, layers: Layers) -> np.ndarray:
    if len(layers) == 0:
        return np.empty(0)
    logarithm = forest_mean(regressor, logarithms(layers, regressor["words"]))
    found: np.ndarray = np.exp(logarithm)
    base = regressor["base"]
    return found if base is None else np.multiply(found, evaluate(base, layers))


def forest_mean(forest: Regressor, columns: np.ndarray) -> np.ndarray:
    """Return the mean over the trees, (n,); every tree is followed from its root to a leaf.

    Args:
        forest: Trees as one list of nodes; `feature` is -1 in a leaf, and children come after
            their parents. A row goes left where its number is at most the threshold.
        columns: (n, features) float32.
    """
    rows = np.arange(len(columns))
    feature, threshold = forest["feature"], forest["threshold"]
    total = np.zeros(len(columns))
    for root in forest["roots"]:
        node = np.full(len(columns), int(root))
        inner = feature[node] >= 0
        while inner.any():
            at = node[inner]
            left = columns[rows[inner], feature[at]] <= threshold[at]
            node[inner] = np.where(left, forest["left"][at], forest["right"][at])
            inner = feature[node] >= 0
        total += forest["value"][node]
    mean: np.ndarray = total / len(forest["roots"])
    return mean
