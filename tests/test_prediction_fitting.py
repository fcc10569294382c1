"""What is learnt: the known law, nothing of a network that was left out, the same every time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgejoule.errors import UsageError
from edgejoule.prediction import forest, learning, totals
from edgejoule.prediction.build import layer_power_note
from edgejoule.prediction.features import Layers
from edgejoule.prediction.fitting import Training, fit_predictor, predict_layers
from edgejoule.prediction.learning import MODELS
from edgejoule.prediction.regressors import evaluate, forest_mean
from edgejoule.prediction.scoring import (
    HeldOut,
    families_of,
    figures,
    hold_out,
    predict_group,
    score,
)
from tests.support_prediction import POWER_MW, training

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def five() -> Training:
    return training(5)


@pytest.fixture(scope="module")
def held_out(five: Training) -> HeldOut:
    return hold_out(five, [[name] for name in five.names()], 0)


def layers_of(one: Training, network: str) -> Layers:
    return one.target.layers.take(one.target.networks == network)


def test_the_held_out_network_cannot_influence_its_predictions(
    five: Training, held_out: HeldOut
) -> None:
    poisoned = training(5, factor={"net2": 1000.0})
    assert not np.array_equal(poisoned.target.values, five.target.values)
    own = five.target.networks == "net2"
    answer = predict_group((poisoned, ["net2"], 0))
    for model in MODELS:
        ((_, found, factors),) = answer[model]
        assert np.array_equal(held_out.layers[model][own], found["runtime_ms"])
        assert held_out.totals[model]["net2"]["latency_ms"] == found["latency_ms"]
        assert held_out.totals[model]["net2"]["gross_mj"] == found["gross_mj"]
        assert held_out.factors[model]["net2"] == factors
    # The poison works where it may: on a network whose predictor did see net2.
    ((_, found, _),) = predict_group((poisoned, ["net0"], 0))["trees"]
    other = five.target.networks == "net0"
    assert not np.array_equal(held_out.layers["trees"][other], found["runtime_ms"])


def test_folds_hold_whole_networks(five: Training) -> None:
    networks = five.target.networks
    folds = learning.folds_of(networks, 4, seed=1)
    assert len(set(folds.tolist())) == 4
    for name in five.names():
        assert len(set(folds[networks == name].tolist())) == 1


def test_a_held_out_prediction_of_the_choice_has_not_seen_its_network(five: Training) -> None:
    fitted = learning.fit_target(five.target, power=False, seed=0)
    poisoned = training(5, factor={"net3": 50.0}).target
    again = learning.fit_target(poisoned, power=False, seed=0)
    own = five.target.networks == "net3"
    for model in ("mean", "flops", "flops by type", "roofline"):  # nothing is chosen in these
        assert np.array_equal(fitted.held_out[model][own], again.held_out[model][own])
        assert not np.array_equal(fitted.held_out[model][~own], again.held_out[model][~own])


def test_the_law_is_found_and_the_baselines_are_not_as_good(
    five: Training, held_out: HeldOut
) -> None:
    document = score(five, held_out)
    errors = {model: document["layers"][model]["median_ape"] for model in MODELS}
    assert errors["roofline"] < 0.1  # the law is a roofline
    assert errors["trees"] < 1.0
    assert errors["published"] < errors["flops by type"] < errors["mean"]
    totals_off = document["totals"]["latency_ms"]
    assert totals_off["trees"]["median_ape"] < 1.0 < totals_off["mean"]["median_ape"]
    assert [one["network"] for one in document["runs"]] == five.names()


def test_the_same_seed_gives_the_same_and_another_does_not() -> None:
    # One network off the law: trees of another seed then differ.
    bent = training(4, factor={"net0": 1.3})
    first, again, other = (predict_group((bent, ["net1"], seed))["trees"] for seed in (0, 0, 5))
    assert np.array_equal(first[0][1]["runtime_ms"], again[0][1]["runtime_ms"])
    assert not np.array_equal(first[0][1]["runtime_ms"], other[0][1]["runtime_ms"])


@pytest.mark.once("starts interpreters, which is slow, and does not depend on versions")
def test_other_processes_find_the_same() -> None:
    three = training(3)
    groups = [[name] for name in three.names()]
    alone, spread = hold_out(three, groups, 0), hold_out(three, groups, 0, jobs=2)
    for model in MODELS:
        assert np.array_equal(alone.layers[model], spread.layers[model])
    assert alone.totals == spread.totals


def test_trees_are_evaluated_as_scikit_learn_does() -> None:
    from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

    rng = np.random.default_rng(0)
    columns = rng.normal(size=(200, 5)).astype(np.float32)
    values = columns[:, 0] ** 3 + rng.normal(size=200)
    new = rng.normal(size=(500, 5)).astype(np.float32)
    for kind in (ExtraTreesRegressor, RandomForestRegressor):
        model = kind(n_estimators=7, min_samples_leaf=2, random_state=0).fit(columns, values)
        # Thresholds themselves too: scikit-learn compares a float32 with a float64.
        edge = new.copy()
        edge[:50, 0] = np.float32(model.estimators_[0].tree_.threshold[0])
        nodes = forest.take_apart(model.estimators_)
        np.testing.assert_allclose(forest_mean(nodes, edge), model.predict(edge), rtol=1e-14)


def test_polynomials_are_those_of_scikit_learn(five: Training) -> None:
    from sklearn.linear_model import Lasso
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    from edgejoule.prediction import lasso

    chosen = five.target.layers.kinds == "convolution"
    part = five.target.take(chosen)
    path = lasso.fit_paths(part.layers, part.values, "convolution", power=False)[1]
    penalty = 8
    from edgejoule.prediction.features import or_zero

    products = PolynomialFeatures(2, include_bias=False).fit_transform(
        or_zero(part.layers, path.names)
    )
    terms = StandardScaler().fit_transform(
        np.hstack([products, or_zero(part.layers, ["flops", "bytes_moved"])])
    )
    centred = part.values - part.values.mean()
    largest = np.abs(terms.T @ centred).max() / len(centred)
    theirs = Lasso(largest * lasso.RATIOS[penalty], max_iter=100_000, tol=1e-8)
    expected = theirs.fit(terms, part.values).predict(terms)
    ours = evaluate(path.regressor(penalty), part.layers)
    # The path stops a little before it has converged.
    np.testing.assert_allclose(
        ours, np.maximum(expected, part.values.min()), atol=0.005 * part.values.max()
    )
    np.testing.assert_allclose(ours, path.predict(part.layers)[:, penalty], rtol=1e-12)


def test_layers_have_power_only_where_a_method_tells_them_apart() -> None:
    shared = training(3, method="proportional")
    assert np.isnan(shared.powers["gross"]).all()
    assert np.isfinite(training(3, method="replay").powers["gross"]).all()
    apart = training(3, method="replay")
    predictor = fit_predictor(apart, 0)
    found = predict_layers(predictor, layers_of(apart, "net0"), "trees")
    kinds = layers_of(apart, "net0").kinds
    np.testing.assert_allclose(found["power_gross_mw"][kinds == "convolution"], 2 * POWER_MW)
    np.testing.assert_allclose(found["power_gross_mw"][kinds == "activation"], POWER_MW)
    assert "power_dynamic_mw" not in found


def test_energy_is_power_times_latency() -> None:
    four = training(3)
    found = predict_layers(fit_predictor(four, 0), layers_of(four, "net0"), "trees")
    assert found["gross_mj"] == pytest.approx(found["gross_mw"] * found["latency_ms"] / 1000)
    assert POWER_MW <= found["gross_mw"] <= POWER_MW + 200  # stays where it was measured
    assert found["latency_ms"] == pytest.approx(found["layers_ms"] + found["gap_ms"])


@pytest.mark.parametrize("form", ["sum", "longer"])
def test_the_gap_is_found_in_either_form(form: str) -> None:
    layers_ms = np.array([1.0, 2.0, 3.0, 40.0, 50.0, 6.0])
    layers = np.array([100.0, 20.0, 200.0, 10.0, 30.0, 400.0])
    gap = {"form": form, "share": 1.1, "per_layer_ms": 0.05}
    latency = totals.latency_ms(gap, layers_ms, layers)
    networks = np.array(list("abcdef"), dtype=object)
    found = totals.fit_gap(layers_ms, layers, latency, networks)
    assert found == pytest.approx(gap) if form == "sum" else found["form"] == "longer"
    np.testing.assert_allclose(totals.latency_ms(found, layers_ms, layers), latency, rtol=1e-9)


def test_the_interval_is_the_conformal_quantile() -> None:
    measured = np.ones(19)
    predicted = np.exp(np.arange(1, 20) / 100)
    names = np.array([f"n{index}" for index in range(19)], dtype=object)
    # ceil(20 x 0.9) = 18th smallest of 19.
    assert totals.interval_factor(predicted, measured, names) == pytest.approx(math.exp(0.18))
    # Runs of one network count once, by the worst of them; eight networks are too few for 90 %.
    assert totals.interval_factor(predicted, measured, np.array(["a"] * 19, dtype=object)) is None
    assert totals.interval_factor(predicted[:8], measured[:8], names[:8]) is None
    assert totals.interval_factor(predicted[:9], measured[:9], names[:9]) is not None


def test_figures_by_hand() -> None:
    found = figures(np.array([1.05, 2.6, 1.0, 5.0]), np.array([1.0, 2.0, 2.0, np.nan]))
    assert found["n"] == 3
    assert found["median_ape"] == pytest.approx(30.0)
    assert found["rmspe"] == pytest.approx(100 * math.sqrt((0.05**2 + 0.3**2 + 0.5**2) / 3))
    assert found["weighted_ape"] == pytest.approx(100 * (0.05 + 0.6 + 1.0) / 5)
    assert [found[f"within_{bound}"] for bound in (10, 25, 50)] == pytest.approx(
        [100 / 3, 100 / 3, 100]
    )
    assert figures(np.array([1.0]), np.array([np.nan])) == {"n": 0}


def test_families_leave_together() -> None:
    names = ["fcn_resnet50", "resnet18", "resnet50", "vgg11"]
    assert families_of(names) == [["fcn_resnet50"], ["resnet18", "resnet50"], ["vgg11"]]
    given = families_of(names, [["fcn_resnet50", "resnet50"]])
    assert given == [["fcn_resnet50", "resnet50"], ["resnet18"], ["vgg11"]]
    with pytest.raises(UsageError, match="no network 'x'"):
        families_of(names, [["x"]])


def test_too_few_networks_are_refused(five: Training) -> None:
    with pytest.raises(UsageError, match="two networks at least, there is 1"):
        fit_predictor(five.without(["net0", "net1", "net2", "net3"]), 0)
    with pytest.raises(UsageError, match="3 groups"):
        hold_out(five, [["net0"], ["net1"]], 0)


def test_a_type_of_too_few_layers_falls_into_the_rest(five: Training) -> None:
    target = five.target
    kinds = target.layers.kinds.copy()
    kinds[:5] = "softmax"
    odd = learning.Target(
        Layers(target.layers.numbers, kinds, target.layers.layer_types),
        target.values,
        target.networks,
    )
    parts = learning.parts_of(odd)
    assert sorted(parts) == ["activation", "convolution", "rest"]
    assert parts["rest"].all()  # five are too few for a rest of their own: it is everything
    models = learning.fit_target(odd, power=False, seed=0).models
    assert np.isfinite(learning.predict(models["trees"], odd.layers)).all()


def test_what_is_said_of_the_power_of_layers() -> None:
    def rows(*pairs: tuple[str | None, bool | None]) -> list[dict[str, Any]]:
        return [{"energy_method": how, "energy_resolved": known} for how, known in pairs]

    assert layer_power_note(rows((None, None))) is None
    assert layer_power_note(rows(("replay", True), ("replay", True))) is None
    assert "by share of time" in str(layer_power_note(rows(("proportional", None))))
    assert layer_power_note(rows(("replay", True), ("replay", False), ("proportional", None))) == (
        "the power of a layer is learnt from 1 of 3 layers, attributed by replay; the others are "
        "not resolved"
    )
    assert layer_power_note(rows(("replay", True), ("window", True))) == (
        "the power of a layer is learnt from 2 of 2 layers, attributed by replay and by window"
    )
