"""Fit a whole predictor: layers' times and powers, the gap, the network's power, the intervals.

The result is plain dictionaries, lists and arrays, as `model_file` keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgejoule.errors import UsageError
from edgejoule.prediction import totals
from edgejoule.prediction.features import NUMBERS, Layers, kind_of, layers_of
from edgejoule.prediction.learning import (
    MODELS,
    Target,
    fit_target,
    kinds_of,
    parts_of,
    predict,
)
from edgejoule.prediction.source import POWERS, PROPORTIONAL, RunTotals

RUNTIME = "runtime_ms"
FEWEST_FOR_POWER = 3


@dataclass(frozen=True)
class Training:
    """What a predictor is fitted to.

    Attributes:
        target: The layers and their runtimes, ms.
        run: (n,) number of the run that a layer is of, into `runs`.
        powers: `gross`, `dynamic` -> (n,) mW of layers that a method told apart, else NaN.
        runs: The runs.
    """

    target: Target
    run: np.ndarray
    powers: Mapping[str, np.ndarray]
    runs: tuple[RunTotals, ...]

    def without(self, networks: Sequence[str]) -> Training:
        """Return what is left when all runs of these networks leave."""
        kept = ~np.isin(self.target.networks.astype(str), list(networks))
        return Training(
            self.target.take(kept),
            self.run[kept],
            {name: values[kept] for name, values in self.powers.items()},
            self.runs,
        )

    def names(self) -> list[str]:
        """Return the networks that are there, sorted."""
        return sorted(set(self.target.networks.tolist()))


def training_of(rows: Sequence[Mapping[str, Any]], runs: Mapping[str, RunTotals]) -> Training:
    """Return rows of the tidy table and their runs as a predictor takes them.

    The power of a layer is taken only from a method that tells layers apart, and only where it
    says that it did: the proportional method gives every layer of a run the same power.
    """
    order = {name: index for index, name in enumerate(runs)}

    def column(name: str) -> np.ndarray:
        return np.array(
            [np.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64
        )

    told_apart = np.array(
        [
            row.get("energy_method") not in {None, PROPORTIONAL}
            and bool(row.get("energy_resolved"))
            for row in rows
        ],
        dtype=bool,
    )
    networks = np.array([str(row["network"]) for row in rows], dtype=object)
    return Training(
        Target(layers_of(rows), column(RUNTIME), networks),
        np.array([order[row["run"]] for row in rows], dtype=np.int64),
        {name: np.where(told_apart, column(f"power_{name}_mw"), np.nan) for name in POWERS},
        tuple(runs.values()),
    )


def fit_predictor(training: Training, seed: int) -> dict[str, Any]:
    """Fit everything to a training set.

    Raises:
        UsageError: Fewer than two networks, or nothing was measured.
    """
    if len(training.names()) < 2:
        raise UsageError(
            f"a predictor needs two networks at least, there is {len(training.names())}",
            "measure more networks in this configuration",
        )
    fitted = fit_target(training.target, power=False, seed=seed)
    gap = _fit_gap(training)
    predictor: dict[str, Any] = {
        "runtime_ms": fitted.models,
        "gap": gap,
        "types": _types(training.target),
        "layer_power": {},
        "network_power": {},
        "factors": {},
    }
    sums = {name: _Sums.of(training, values) for name, values in fitted.held_out.items()}
    for name, values in sums.items():
        found = totals.latency_ms(gap, values.layers_ms, values.layers) if gap else None
        predictor["factors"][name] = {
            "latency_ms": None if found is None else values.factor(found, values.latency_ms)
        }
    for power in POWERS:
        _fit_powers(predictor, training, sums, power, seed)
    return predictor


def predict_layers(predictor: Mapping[str, Any], layers: Layers, model: str) -> dict[str, Any]:
    """Return what one model says of a network's layers and of the whole.

    Returns:
        `runtime_ms` (n,); `power_gross_mw`, `power_dynamic_mw` (n,) where layers' power was learnt;
        `layers_ms`; `latency_ms`, `gap_ms` where latency was learnt; `gross_mw`, `dynamic_mw` and
        the energies `gross_mj`, `dynamic_mj` where power was.
    """
    runtime = predict(predictor["runtime_ms"][model], layers)
    found: dict[str, Any] = {"runtime_ms": runtime, "layers_ms": float(runtime.sum())}
    for power, models in predictor["layer_power"].items():
        found[f"power_{power}_mw"] = predict(models[model], layers)
    if predictor["gap"] is None:
        return found
    count = np.array([float(len(layers))])
    latency = totals.latency_ms(predictor["gap"], runtime.sum(keepdims=True), count)
    found |= {"latency_ms": float(latency[0]), "gap_ms": float(latency[0] - runtime.sum())}
    rates = totals.work_rates(*_work(layers), latency)
    for power, fitted in predictor["network_power"].items():
        level = float(totals.predict_power(fitted["models"][model], rates)[0])
        found |= {f"{power}_mw": level, f"{power}_mj": level * found["latency_ms"] * 1e-3}
    return found


# --- parts ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sums:
    """Runs as sums over their layers; each (runs,) but `networks`."""

    layers_ms: np.ndarray
    layers: np.ndarray
    flops: np.ndarray
    moved: np.ndarray
    latency_ms: np.ndarray
    gross_mw: np.ndarray
    dynamic_mw: np.ndarray
    networks: np.ndarray

    @classmethod
    def of(cls, training: Training, values: np.ndarray) -> _Sums:
        """Sum a number per layer over the layers of each run that has a latency and all times."""
        numbers = training.target.layers.numbers
        rows: list[tuple[float, ...]] = []
        networks: list[str] = []
        for index in sorted(set(training.run.tolist())):
            own = training.run == index
            run = training.runs[index]
            total = float(np.nansum(values[own]))
            if run.latency_ms is None or total <= 0:
                continue
            work = (float(np.nansum(numbers[name][own])) for name in ("flops", "bytes_moved"))
            powers = (np.nan if one is None else one for one in (run.gross_mw, run.dynamic_mw))
            rows.append((total, float(own.sum()), *work, run.latency_ms, *powers))
            networks.append(run.network)
        columns = np.array(rows, dtype=np.float64).reshape(len(rows), 7).T
        layers_ms, layers, flops, moved, latency_ms, gross_mw, dynamic_mw = columns
        return cls(
            layers_ms, layers, flops, moved, latency_ms, gross_mw, dynamic_mw,
            np.array(networks, dtype=object),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.networks)

    def factor(self, predicted: np.ndarray, measured: np.ndarray) -> float | None:
        """Return by what factor predictions are off; see `totals.interval_factor`."""
        return totals.interval_factor(predicted, measured, self.networks)


def _work(layers: Layers) -> tuple[np.ndarray, np.ndarray]:
    flops, moved = (np.nansum(layers.numbers[name]) for name in ("flops", "bytes_moved"))
    return np.array([flops]), np.array([moved])


def _fit_gap(training: Training) -> dict[str, Any] | None:
    measured = _Sums.of(training, training.target.values)
    if len(set(measured.networks.tolist())) < 2:
        return None
    return totals.fit_gap(
        measured.layers_ms, measured.layers, measured.latency_ms, measured.networks
    )


def _fit_powers(
    predictor: dict[str, Any],
    training: Training,
    sums: Mapping[str, _Sums],
    power: str,
    seed: int,
) -> None:
    """Add the power of layers, where it is known apart, and the mean power of networks."""
    known = np.isfinite(training.powers[power])
    if len(set(training.target.networks[known].tolist())) >= FEWEST_FOR_POWER:
        target = Target(training.target.layers, training.powers[power], training.target.networks)
        predictor["layer_power"][power] = fit_target(target, power=True, seed=seed).models
    models: dict[str, Any] = {}
    for name, one in sums.items():
        level = getattr(one, f"{power}_mw")
        measured = np.isfinite(level)
        if predictor["gap"] is None or len(set(one.networks[measured].tolist())) < FEWEST_FOR_POWER:
            return
        latency = totals.latency_ms(predictor["gap"], one.layers_ms, one.layers)
        rates = totals.work_rates(one.flops, one.moved, latency)
        # As in use, the rates are of predicted latencies: those of the cross-validation.
        models[name] = (
            _constant_power(level[measured])
            if name == "mean"
            else totals.fit_power(rates[measured], level[measured], one.networks[measured])
        )
        found = _held_out_power(rates, level, one.networks, name)
        energy = level * one.latency_ms
        predictor["factors"][name] |= {
            f"{power}_mw": one.factor(found, level),
            f"{power}_mj": one.factor(found * latency, energy),
        }
    predictor["network_power"][power] = {"models": models}


def _constant_power(level: np.ndarray) -> dict[str, Any]:
    """Return the mean of all networks in the form of a ridge regression without slopes."""
    return {
        "mean": np.zeros(2),
        "scale": np.ones(2),
        "coefficients": np.zeros(2),
        "intercept": float(np.log(level.mean())),
        "penalty": 0.0,
        "lowest_mw": float(level.min()),
        "highest_mw": float(level.max()),
    }


def _held_out_power(
    rates: np.ndarray, level: np.ndarray, networks: np.ndarray, model: str
) -> np.ndarray:
    """Return the power of each run as predicted from the other networks, (runs,) mW."""
    found = np.full(len(level), np.nan)
    known = np.isfinite(level)
    for name in sorted(set(networks[known].tolist())):
        train = known & (networks != name)
        fitted = (
            _constant_power(level[train])
            if model == "mean"
            else totals.fit_power(rates[train], level[train], networks[train])
        )
        found[networks == name] = totals.predict_power(fitted, rates[networks == name])
    return found


def _types(target: Target) -> dict[str, Any]:
    """Return per type what was there: layers, networks, the runtime's words, ranges of numbers."""
    parts = parts_of(target)
    found = {}
    for kind in kinds_of(target.layers):
        own = target.layers.take(target.layers.kinds == kind)
        ranges = {}
        for name in NUMBERS:
            known = own.numbers[name][np.isfinite(own.numbers[name])]
            if len(known):
                ranges[name] = [float(known.min()), float(known.max())]
        found[kind] = {
            "layers": len(own),
            "networks": len(set(target.networks[target.layers.kinds == kind].tolist())),
            "own": kind in parts,
            "words": sorted(set(own.layer_types.tolist())),
            "ranges": ranges,
        }
    return found


__all__ = ["MODELS", "Training", "fit_predictor", "kind_of", "predict_layers", "training_of"]
