"""Fit every model of a target per type of layer; choose degrees, penalties, trees without peeking.

Whatever is chosen is chosen by cross-validation whose folds hold whole networks, among the
networks that `fit_target` is given: a network held out by the caller is never looked at. The
held-out predictions of that cross-validation are returned too; totals and intervals come of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgejoule.errors import MeasurementError
from edgejoule.prediction import forest, lasso
from edgejoule.prediction.features import REST, Layers
from edgejoule.prediction.regressors import evaluate

# In the order of the tables: baselines, the published one, the stronger one.
MODELS = ("mean", "flops", "flops by type", "roofline", "published", "trees")
DEFAULT_MODEL = "trees"
# A type of its own needs this many layers, in this many networks.
FEWEST_LAYERS = 12
FEWEST_NETWORKS = 3
# As published; forests are slower, and five folds choose among few.
_FOLDS = {"published": 10, "trees": 5}
_PLAIN_FOLDS = 10

Key = tuple[Any, ...]  # names one candidate of a model
Regressors = dict[str, dict[str, Any]]  # type -> regressor


@dataclass(frozen=True)
class Target:
    """What is learnt: a positive number per layer.

    Attributes:
        layers: The layers, n of them.
        values: (n,) the target; NaN where it was not measured.
        networks: (n,) the network of each.
    """

    layers: Layers
    values: np.ndarray
    networks: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, which: np.ndarray) -> Target:
        """Return the part that a mask names."""
        return Target(self.layers.take(which), self.values[which], self.networks[which])


@dataclass(frozen=True)
class Fitted:
    """All models of one target.

    Attributes:
        models: Model -> type -> regressor; the type `rest` takes what has no type of its own.
        held_out: Model -> (n,) predictions of the training layers by cross-validation; NaN where
            there was no value to learn.
    """

    models: dict[str, Regressors]
    held_out: dict[str, np.ndarray]


def kinds_of(layers: Layers) -> list[str]:
    """Return the types that are there, sorted."""
    return sorted(set(layers.kinds.tolist()))


def predict(regressors: Regressors, layers: Layers) -> np.ndarray:
    """Return a prediction per layer, (n,), each by its type's regressor."""
    found = np.empty(len(layers))
    for kind in kinds_of(layers):
        chosen = layers.kinds == kind
        found[chosen] = evaluate(regressors.get(kind, regressors[REST]), layers.take(chosen))
    return found


def folds_of(networks: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return the fold of each layer, (n,): networks are dealt out evenly in a seeded order."""
    names = np.unique(networks.astype(str))
    order = np.random.default_rng(seed).permutation(len(names))
    place = dict(zip(names[order], np.arange(len(names)) % folds, strict=True))
    return np.array([place[str(name)] for name in networks], dtype=np.int64)


def parts_of(target: Target) -> dict[str, np.ndarray]:
    """Return which layers each type is fitted to; what is too rare for a type makes up the rest.

    Where too little is rare, the rest is all layers: what has no type has to be predicted somehow.
    """
    rare = np.ones(len(target), dtype=bool)
    parts = {}
    for kind in kinds_of(target.layers):
        chosen = target.layers.kinds == kind
        networks = len(np.unique(target.networks[chosen].astype(str)))
        if chosen.sum() >= FEWEST_LAYERS and networks >= FEWEST_NETWORKS:
            parts[kind] = chosen
            rare &= ~chosen
    parts[REST] = rare if rare.sum() >= FEWEST_LAYERS else np.ones_like(rare)
    return parts


def fit_target(target: Target, *, power: bool, seed: int) -> Fitted:
    """Fit every model to a target.

    Args:
        target: Training networks only, two at least; layers without a value are left out.
        power: It is a power, not a time: other terms.
        seed: Of folds and trees.
    """
    known = np.isfinite(target.values)
    target = _above_zero(target.take(known))
    models = _fit_plain(target, power)
    held_out = _hold_out_plain(target, power, seed)
    for name, offer in (("published", _published), ("trees", _trees)):
        models[name], held_out[name] = _choose(target, _FOLDS[name], offer, power, seed)
    for name, values in held_out.items():
        whole = np.full(len(known), np.nan)
        whole[known] = values
        held_out[name] = whole
    return Fitted(models, held_out)


def _above_zero(target: Target) -> Target:
    """Return the target with half of its smallest value for zeros, which are below the clock."""
    positive = target.values[target.values > 0]
    if not len(positive):
        raise MeasurementError("no layer has a value above zero", "measure with more inferences")
    values = np.where(target.values > 0, target.values, positive.min() / 2)
    return Target(target.layers, values, target.networks)


# --- models with nothing to choose ----------------------------------------------------------------


def _roofline(part: Target, power: bool) -> dict[str, Any]:
    names = ["intensity"] if power else ["flops", "bytes_moved"]
    return forest.fit_line(part.layers, part.values, names)


def _fit_plain(target: Target, power: bool) -> dict[str, Regressors]:
    fitted: dict[str, Regressors] = {"mean": {}, "flops by type": {}, "roofline": {}}
    for kind, chosen in parts_of(target).items():
        part = target.take(chosen)
        fitted["mean"][kind] = {"form": "constant", "value": float(part.values.mean())}
        fitted["flops by type"][kind] = forest.fit_line(part.layers, part.values, ["flops"])
        fitted["roofline"][kind] = _roofline(part, power)
    line = forest.fit_line(target.layers, target.values, ["flops"])
    return {**fitted, "flops": {REST: line}}


def _hold_out_plain(target: Target, power: bool, seed: int) -> dict[str, np.ndarray]:
    folds = folds_of(target.networks, _PLAIN_FOLDS, seed)
    held_out: dict[str, np.ndarray] = {}
    for fold in np.unique(folds):
        test = folds == fold
        for name, regressors in _fit_plain(target.take(~test), power).items():
            values = held_out.setdefault(name, np.full(len(target), np.nan))
            values[test] = predict(regressors, target.layers.take(test))
    return held_out


# --- models with candidates -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Offer:
    """The candidates of a model fitted to one part.

    Attributes:
        keys: Their names.
        predict: Layers -> (n, candidates).
        regressor: Number of a candidate -> its regressor.
    """

    keys: list[Key]
    predict: Callable[[Layers], np.ndarray]
    regressor: Callable[[int], dict[str, Any]]


_Offering = Callable[[Target, str, bool, int, "Key | None"], _Offer]


def _published(part: Target, kind: str, power: bool, seed: int, only: Key | None) -> _Offer:
    del seed, only  # a whole path costs little more than one penalty of it
    paths = lasso.fit_paths(part.layers, part.values, kind, power=power)
    count = len(lasso.RATIOS)
    return _Offer(
        [(path.degree, penalty) for path in paths for penalty in range(count)],
        lambda layers: np.hstack([path.predict(layers) for path in paths]),
        lambda index: paths[index // count].regressor(index % count),
    )


_FORESTS: tuple[Key, ...] = (("over", 1), ("over", 3), ("alone", 1))


def _trees(part: Target, kind: str, power: bool, seed: int, only: Key | None) -> _Offer:
    del kind
    line = _roofline(part, power)
    keys = list(_FORESTS) if only is None else [only]
    count = forest.TREES_TO_CHOOSE if only is None else forest.TREES
    fits = [
        forest.fit_forest(
            part.layers, part.values, line if form == "over" else None, leaf, seed, count
        )
        for form, leaf in keys
    ]
    return _Offer(
        keys,
        lambda layers: np.stack([evaluate(fit, layers) for fit in fits], axis=1),
        lambda index: fits[index],
    )


def _choose(
    target: Target, count: int, offering: _Offering, power: bool, seed: int
) -> tuple[Regressors, np.ndarray]:
    """Choose a candidate per type by cross-validation over networks and fit it to all of them.

    Returns:
        Type -> regressor, and the chosen ones' held-out predictions, (n,).
    """
    squared = offering is _published  # as published; the trees are judged by ratios
    folds = folds_of(target.networks, count, seed)
    offered: dict[Key, np.ndarray] = {}
    for fold in np.unique(folds):
        train = target.take(folds != fold)
        parts = parts_of(train)
        for kind in kinds_of(target.layers.take(folds == fold)):
            test = (folds == fold) & (target.layers.kinds == kind)
            part = kind if kind in parts else REST
            offer = offering(train.take(parts[part]), part, power, seed, None)
            found = offer.predict(target.layers.take(test))
            for index, key in enumerate(offer.keys):
                values = offered.setdefault(key, np.full(len(target), np.nan))
                values[test] = found[:, index]
    regressors: Regressors = {}
    held_out = np.full(len(target), np.nan)
    parts = parts_of(target)
    for kind, chosen in parts.items():
        own = chosen if kind != REST else ~np.isin(target.layers.kinds, list(parts))
        judged = own if own.any() else chosen
        key = min(
            offered, key=lambda one: _loss(offered[one][judged], target.values[judged], squared)
        )
        offer = offering(target.take(chosen), kind, power, seed, key)
        if key not in offer.keys:
            key = offer.keys[0]
        regressors[kind] = offer.regressor(offer.keys.index(key))
        held_out[own] = offered[key][own]
    return regressors, held_out


def _loss(predicted: np.ndarray, measured: np.ndarray, squared: bool) -> float:
    """Mean squared error, or mean absolute logarithm of the ratio; a gap loses."""
    if np.isnan(predicted).any():
        return float("inf")
    if squared:
        return float(np.mean((predicted - measured) ** 2))
    return float(np.mean(np.abs(np.log(predicted / measured))))
