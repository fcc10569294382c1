"""The stronger model: extremely randomised trees on logarithms, over a roofline or alone.

A roofline says how long a layer takes at most efficiency (so much per FLOP, per byte, per layer);
the trees learn by what factor a layer is off. So a layer larger than all that were measured still
scales with its work, which trees alone cannot do. Extremely randomised trees: Geurts, Ernst,
Wehenkel, Machine Learning 63, 2006.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgejoule.prediction.features import Layers, logarithms, or_zero
from edgejoule.prediction.regressors import evaluate

TREES = 40
TREES_TO_CHOOSE = 16
_FEWEST_OF_A_WORD = 3


def fit_line(layers: Layers, target: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Fit c0 + c1 x1 + ..., no coefficient below zero, by least squares of the relative error.

    Weighted by 1 / target, so that a layer of a microsecond counts as much as one of a second.
    """
    from scipy.optimize import nnls

    columns = np.hstack([np.ones((len(layers), 1)), or_zero(layers, names)])
    scale = np.maximum(columns.max(axis=0), 1e-300)
    found, _ = nnls(columns / scale / target[:, None], np.ones(len(target)))
    return {
        "form": "linear",
        "names": names,
        "coefficients": found / scale,
        "floor": float(target.min()),
    }


def fit_forest(
    layers: Layers,
    target: np.ndarray,
    base: dict[str, Any] | None,
    leaf: int,
    seed: int,
    count: int = TREES,
) -> dict[str, Any]:
    """Fit trees to the logarithm of a target, or of its ratio to a base, and take them apart.

    Layers that look alike are one, weighted by their number: networks repeat their blocks.

    Args:
        layers: Of one type.
        target: (n,), above zero.
        base: What the trees correct; None: they predict alone.
        leaf: Least number of different layers in a leaf.
        seed: Of the trees.
        count: How many trees.
    """
    import sklearn
    from sklearn.tree import ExtraTreeRegressor

    found, counts = np.unique(layers.layer_types.astype(str), return_counts=True)
    words = [str(word) for word in found[counts >= _FEWEST_OF_A_WORD]] if len(found) > 1 else []
    ratio = np.log(target if base is None else target / evaluate(base, layers))
    columns, place, weight = np.unique(
        logarithms(layers, words), axis=0, return_inverse=True, return_counts=True
    )
    mean = np.bincount(place.ravel(), ratio) / weight
    # One tree after the other, as `ExtraTreesRegressor` makes them, without its own cost per tree.
    with sklearn.config_context(skip_parameter_validation=True):
        trees = [
            ExtraTreeRegressor(min_samples_leaf=leaf, random_state=seed + index).fit(
                columns, mean[:, None], sample_weight=weight.astype(np.float64), check_input=False
            )
            for index in range(count)
        ]
    return {"form": "forest", "words": words, "base": base, "leaf": leaf, **take_apart(trees)}


def take_apart(trees: Sequence[Any]) -> dict[str, np.ndarray]:
    """Return scikit-learn's fitted regression trees as one list of nodes."""
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("feature", "threshold", "left", "right", "value")
    }
    roots = []
    start = 0
    for one in trees:
        tree = one.tree_
        leaf = tree.children_left < 0
        roots.append(start)
        parts["feature"].append(np.where(leaf, -1, tree.feature))
        parts["threshold"].append(np.where(leaf, 0.0, tree.threshold))
        parts["left"].append(np.where(leaf, 0, tree.children_left + start))
        parts["right"].append(np.where(leaf, 0, tree.children_right + start))
        parts["value"].append(np.where(leaf, tree.value[:, 0, 0], 0.0))
        start += tree.node_count
    kinds = {"feature": np.int32, "left": np.int32, "right": np.int32}
    arrays = {
        name: np.concatenate(part).astype(kinds.get(name, np.float64))
        for name, part in parts.items()
    }
    return {**arrays, "roots": np.array(roots, dtype=np.int32)}
