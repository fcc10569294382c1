"""Whether a predictor that was read from a file can be evaluated: every shape, every index.

A tree whose children lie before it would be walked for ever, one that names a column that is not
there would end in a traceback. Numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgejoule.prediction.features import NUMBERS, REST
from edgejoule.prediction.learning import MODELS
from edgejoule.prediction.source import POWERS


class Unfit(ValueError):  # noqa: N818 (it names a finding, and is turned into the project's error)
    """The file is no model that can be evaluated; the message says why."""


def check_predictor(predictor: Mapping[str, Any]) -> None:
    """Check a predictor.

    Raises:
        Unfit: Says what is wrong.
    """
    _check_models(predictor["runtime_ms"], "runtime_ms")
    for power, models in predictor["layer_power"].items():
        _need(power in POWERS, f"it has the power of {power!r}")
        _check_models(models, power)
    gap = predictor["gap"]
    if gap is not None:
        _need(gap["form"] in {"sum", "longer"}, "its gap has an unknown form")
        _need(_number(gap["share"]) and _number(gap["per_layer_ms"]), "its gap is no number")
    for power, fitted in predictor["network_power"].items():
        _need(power in POWERS and gap is not None, f"it has the power of {power!r}")
        _need(fitted["models"].keys() == set(MODELS), f"its {power} power lacks a model")
        for one in fitted["models"].values():
            for name in ("mean", "scale", "coefficients"):
                _need(_floats(one[name], 1) and len(one[name]) == 2, f"{power}: {name} is odd")
            for name in ("intercept", "lowest_mw", "highest_mw"):
                _need(_number(one[name]), f"{power}: {name} is no number")
            _need(bool((one["scale"] > 0).all()), f"{power}: scale is not above zero")
    for model, factors in predictor["factors"].items():
        _need(model in MODELS, f"it has intervals of {model!r}")
        for value in factors.values():
            _need(value is None or (_number(value) and value >= 1), "a factor is below 1")
    _need(set(predictor["factors"]) == set(MODELS), "it lacks intervals")
    for kind, facts in predictor["types"].items():
        for name in ("layers", "networks"):
            _need(isinstance(facts[name], int), f"type {kind}: {name} is no number")
        _need(isinstance(facts["own"], bool), f"type {kind}: own is missing")
        _need(_words(facts["words"]), f"type {kind}: words are no texts")
        for name, bounds in facts["ranges"].items():
            whole = name in NUMBERS and len(bounds) == 2 and all(map(_number, bounds))
            _need(whole, f"type {kind}: the range of {name} is odd")


def _check_models(models: Mapping[str, Any], what: str) -> None:
    _need(set(models) == set(MODELS), f"{what}: it lacks a model")
    for model, regressors in models.items():
        _need(REST in regressors, f"{what}: {model} has nothing for the rest")
        for kind, regressor in regressors.items():
            try:
                check_regressor(regressor)
            except Unfit as error:
                raise Unfit(f"{what}, {model}, {kind}: {error}") from None


def check_regressor(regressor: Mapping[str, Any]) -> None:
    """Check one regressor (`regressors` says which fields each form has).

    Raises:
        Unfit: Says what is wrong.
    """
    form = regressor["form"]
    if form == "constant":
        _need(_number(regressor["value"]), "its value is no number")
    elif form == "linear":
        _check_linear(regressor)
    elif form == "polynomial":
        _check_polynomial(regressor)
    elif form == "forest":
        _check_forest(regressor)
    else:
        raise Unfit(f"form {str(form)[:20]!r} is not known")


def _check_linear(regressor: Mapping[str, Any]) -> None:
    names, coefficients = regressor["names"], regressor["coefficients"]
    _need(_columns(names), "it names an unknown column")
    _need(_floats(coefficients, 1) and len(coefficients) == len(names) + 1, "coefficients are odd")
    _need(_number(regressor["floor"]), "its floor is no number")


def _check_polynomial(regressor: Mapping[str, Any]) -> None:
    names, special = regressor["names"], regressor["special"]
    exponents = regressor["exponents"]
    _need(_columns(names) and _columns(special), "it names an unknown column")
    _need(isinstance(regressor["logarithms"], bool), "logarithms is neither true nor false")
    variables = len(names) * (2 if regressor["logarithms"] else 1)
    whole = isinstance(exponents, np.ndarray) and exponents.dtype.kind == "i"
    _need(whole and exponents.ndim == 2 and exponents.shape[1] == variables, "exponents are odd")
    _need(bool(((exponents >= 0) & (exponents <= 8)).all()), "an exponent is out of range")
    terms = len(exponents) + len(special)
    for name in ("mean", "scale", "coefficients"):
        _need(_floats(regressor[name], 1) and len(regressor[name]) == terms, f"{name} is odd")
    _need(bool((regressor["scale"] > 0).all()), "scale is not above zero")
    _need(_number(regressor["intercept"]) and _number(regressor["floor"]), "intercept or floor")


def _check_forest(regressor: Mapping[str, Any]) -> None:
    _need(_words(regressor["words"]), "words are no texts")
    base = regressor["base"]
    if base is not None:
        _need(base["form"] == "linear", "its base is not a line")
        check_regressor(base)
    feature, roots = regressor["feature"], regressor["roots"]
    for name in ("feature", "left", "right", "roots"):
        one = regressor[name]
        _need(isinstance(one, np.ndarray) and one.dtype.kind == "i" and one.ndim == 1, f"{name}")
    for name in ("threshold", "value"):
        _need(_floats(regressor[name], 1), f"{name} is odd")
    count = len(feature)
    same = all(len(regressor[name]) == count for name in ("threshold", "left", "right", "value"))
    _need(same and count > 0 and len(roots) > 0, "its nodes are of different numbers")
    _need(bool(((roots >= 0) & (roots < count)).all()), "a root is not there")
    columns = len(NUMBERS) + len(regressor["words"])
    _need(bool(((feature >= -1) & (feature < columns)).all()), "a node asks an unknown column")
    inner = np.flatnonzero(feature >= 0)
    for name in ("left", "right"):
        child = regressor[name][inner]
        # A child behind its parent: no walk can come back.
        _need(bool(((child > inner) & (child < count)).all()), "a child is not behind its parent")


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Unfit(otherwise)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _floats(value: Any, dimensions: int) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim == dimensions


def _words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _columns(value: Any) -> bool:
    return _words(value) and all(one in NUMBERS for one in value)
