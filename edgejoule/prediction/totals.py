"""From layers to a network: time in no layer, mean power, and how far off a total may be.

Latency is that of the clean pass. It differs from the sum of the layers' times by launching,
copying and waiting between them (the gap), and by what the layer profiler itself costs, so it may
also be shorter. Power is the network's mean in the clean pass; energy is power times latency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

LEVEL = 0.9
_PENALTIES = (0.1, 1.0, 10.0, 100.0)
_MOST_TRIED = 60

# --- time in no layer -----------------------------------------------------------------------------


def latency_ms(gap: Mapping[str, Any], layers_ms: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """Return the latency of networks, (n,) ms, from the sums of their layers and their counts."""
    stretched, launched = gap["share"] * layers_ms, gap["per_layer_ms"] * layers
    found: np.ndarray = (
        stretched + launched if gap["form"] == "sum" else np.maximum(stretched, launched)
    )
    return found


def fit_gap(
    layers_ms: np.ndarray, layers: np.ndarray, latency: np.ndarray, networks: np.ndarray
) -> dict[str, Any]:
    """Fit how latency follows from the layers, in the form that does better on held-out networks.

    `sum`: share x time in layers + so much per layer, as on a processor that launches and computes
    in turns. `longer`: the longer of the two, as with a host that launches ahead of its device.

    Args:
        layers_ms: (n,) time in layers per inference as the profiler measured it.
        layers: (n,) number of layers.
        latency: (n,) of the clean pass, ms.
        networks: (n,) which network each run is of.
    """
    losses = {}
    for form, fit in _FORMS.items():
        errors = []
        for name in np.unique(networks.astype(str)):
            test = networks == name
            if test.all():
                continue
            gap = fit(layers_ms[~test], layers[~test], latency[~test])
            predicted = latency_ms(gap, layers_ms[test], layers[test])
            errors.extend(np.abs(np.log(predicted / latency[test])).tolist())
        losses[form] = float(np.mean(errors)) if errors else 0.0
    best = min(losses, key=losses.__getitem__)
    return _FORMS[best](layers_ms, layers, latency)


def _fit_sum(layers_ms: np.ndarray, layers: np.ndarray, latency: np.ndarray) -> dict[str, Any]:
    from scipy.optimize import nnls

    columns = np.stack([layers_ms, layers], axis=1) / latency[:, None]
    found, _ = nnls(columns, np.ones(len(latency)))
    return {"form": "sum", "share": float(found[0]), "per_layer_ms": float(found[1])}


def _fit_longer(layers_ms: np.ndarray, layers: np.ndarray, latency: np.ndarray) -> dict[str, Any]:
    """Try every pair of slopes on which some run lies."""
    shares, per_layer = latency / layers_ms, latency / layers
    places = np.linspace(0, len(latency) - 1, min(len(latency), _MOST_TRIED)).astype(int)
    shares, per_layer = np.sort(shares)[places], np.sort(per_layer)[places]
    predicted = np.maximum(
        shares[:, None, None] * layers_ms, per_layer[None, :, None] * layers
    )  # (shares, per_layer, runs)
    losses = np.abs(np.log(predicted / latency)).mean(axis=2)
    row, column = np.unravel_index(int(losses.argmin()), losses.shape)
    return {
        "form": "longer",
        "share": float(shares[row]),
        "per_layer_ms": float(per_layer[column]),
    }


_FORMS = {"sum": _fit_sum, "longer": _fit_longer}

# --- mean power of a network ----------------------------------------------------------------------


def work_rates(flops: np.ndarray, moved: np.ndarray, latency: np.ndarray) -> np.ndarray:
    """Return what the power of networks is predicted from, (n, 2): log FLOPs and bytes per ms."""
    rates: np.ndarray = np.log(np.stack([1.0 + flops, 1.0 + moved], axis=1) / latency[:, None])
    return rates


def fit_power(rates: np.ndarray, power_mw: np.ndarray, networks: np.ndarray) -> dict[str, Any]:
    """Fit log power to the rates of work by ridge regression; the penalty by held-out networks."""
    losses = {}
    names = np.unique(networks.astype(str))
    for penalty in _PENALTIES:
        errors = []
        for name in names:
            test = networks == name
            if not test.all():
                found = predict_power(_ridge(rates[~test], power_mw[~test], penalty), rates[test])
                errors.extend(np.abs(np.log(found / power_mw[test])).tolist())
        losses[penalty] = float(np.mean(errors)) if errors else 0.0
    return _ridge(rates, power_mw, min(losses, key=losses.__getitem__))


def predict_power(model: Mapping[str, Any], rates: np.ndarray) -> np.ndarray:
    """Return the mean power of networks, (n,) mW, within the range that was measured."""
    standard = (rates - model["mean"]) / model["scale"]
    found = np.exp(model["intercept"] + standard @ model["coefficients"])
    inside: np.ndarray = np.clip(found, model["lowest_mw"], model["highest_mw"])
    return inside


def _ridge(rates: np.ndarray, power_mw: np.ndarray, penalty: float) -> dict[str, Any]:
    mean, scale = rates.mean(axis=0), np.maximum(rates.std(axis=0), 1e-9)
    standard = (rates - mean) / scale
    target = np.log(power_mw)
    square = standard.T @ standard + penalty * np.eye(standard.shape[1])
    return {
        "mean": mean,
        "scale": scale,
        "coefficients": np.linalg.solve(square, standard.T @ (target - target.mean())),
        "intercept": float(target.mean()),
        "penalty": penalty,
        "lowest_mw": float(power_mw.min()),
        "highest_mw": float(power_mw.max()),
    }


# --- intervals ------------------------------------------------------------------------------------


def interval_factor(
    predicted: np.ndarray, measured: np.ndarray, networks: np.ndarray
) -> float | None:
    """Return by what factor a total may be off either way, from held-out errors; None: too few.

    Split conformal prediction on the absolute logarithm of the ratio, a network being one draw,
    the worst of its runs: of n networks the ceil((n + 1) x 0.9)-th smallest (Lei et al., J. Am.
    Stat. Assoc. 113, 2018). The errors come from cross-validation instead of one split.
    """
    worst: dict[str, float] = {}
    for name, ratio in zip(networks, np.abs(np.log(predicted / measured)), strict=True):
        if np.isfinite(ratio):
            worst[str(name)] = max(worst.get(str(name), 0.0), float(ratio))
    place = math.ceil((len(worst) + 1) * LEVEL)
    return math.exp(sorted(worst.values())[place - 1]) if place <= len(worst) else None
