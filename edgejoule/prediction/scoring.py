"""How good a predictor is on networks that it has not seen: one held out after the other.

All runs of a network leave together, whatever their batch or repeat. Each training set is fitted
from the start, its cross-validation included, in a process of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgejoule.errors import UsageError
from edgejoule.prediction.fitting import Training, fit_predictor, predict_layers
from edgejoule.prediction.learning import MODELS

Say = Callable[[str], None]
FEWEST_NETWORKS = 3
_TOTALS = ("latency_ms", "gross_mw", "dynamic_mw", "gross_mj", "dynamic_mj")


@dataclass(frozen=True)
class HeldOut:
    """Predictions of everything, each by a predictor that has not seen its group of networks.

    Attributes:
        groups: The groups of networks that left together.
        layers: Model -> (n,) runtime of each layer, ms.
        layer_power: `gross`, `dynamic` -> model -> (n,) mW; empty where no layer's power is known.
        totals: Model -> run -> name of a total -> prediction.
        factors: Model -> run -> name of a total -> factor of its interval, None without one.
    """

    groups: list[list[str]]
    layers: dict[str, np.ndarray]
    layer_power: dict[str, dict[str, np.ndarray]]
    totals: dict[str, dict[str, dict[str, float]]]
    factors: dict[str, dict[str, dict[str, float | None]]]


def families_of(names: Sequence[str], given: Sequence[Sequence[str]] = ()) -> list[list[str]]:
    """Group networks into families: those given, and by the letters that a name begins with.

    `resnet18` and `resnet50` are one family, `fcn_resnet50` is not of it.
    """
    unknown = sorted({name for family in given for name in family} - set(names))
    if unknown:
        raise UsageError(f"no network {unknown[0]!r} is here", f"there are {', '.join(names)}")
    found: dict[str, list[str]] = {}
    for name in names:
        own = next((",".join(family) for family in given if name in family), None)
        letters = re.match(r"[a-z]+", name.lower())
        found.setdefault(own or (letters.group() if letters else name), []).append(name)
    return list(found.values())


def hold_out(
    training: Training,
    groups: Sequence[Sequence[str]],
    seed: int,
    *,
    jobs: int = 1,
    say: Say = lambda line: None,
) -> HeldOut:
    """Predict each group of networks from all the others.

    Raises:
        UsageError: Too few networks or groups for training and testing.
    """
    if len(groups) < FEWEST_NETWORKS or len(training.names()) < FEWEST_NETWORKS:
        raise UsageError(
            f"scores need {FEWEST_NETWORKS} groups of networks at least, there are {len(groups)}",
            "measure more networks in this configuration",
        )
    count = len(training.target)
    layers = {model: np.full(count, np.nan) for model in MODELS}
    powers: dict[str, dict[str, np.ndarray]] = {}
    totals: dict[str, dict[str, dict[str, float]]] = {model: {} for model in MODELS}
    factors: dict[str, dict[str, dict[str, float | None]]] = {model: {} for model in MODELS}
    tasks = [(training, list(group), seed) for group in groups]
    for done, (group, answer) in enumerate(_run(tasks, jobs), start=1):
        say(f"{done}/{len(groups)} {', '.join(group)}")
        for model, runs in answer.items():
            for index, found, factor in runs:
                own = training.run == index
                layers[model][own] = found["runtime_ms"]
                for power in ("gross", "dynamic"):
                    if f"power_{power}_mw" in found:
                        place = powers.setdefault(power, {}).setdefault(
                            model, np.full(count, np.nan)
                        )
                        place[own] = found[f"power_{power}_mw"]
                name = training.runs[index].name
                totals[model][name] = {key: found[key] for key in _TOTALS if key in found}
                factors[model][name] = factor
    return HeldOut([list(group) for group in groups], layers, powers, totals, factors)


Answer = dict[str, list[tuple[int, dict[str, Any], dict[str, float | None]]]]
Task = tuple[Training, list[str], int]


def predict_group(task: Task) -> Answer:
    """Fit to all but a group and predict its runs: model -> (run, predictions, factors)."""
    training, group, seed = task
    predictor = fit_predictor(training.without(group), seed)
    own = np.isin(training.target.networks.astype(str), group)
    answer: Answer = {model: [] for model in MODELS}
    for index in sorted(set(training.run[own].tolist())):
        layers = training.target.layers.take(training.run == index)
        for model in MODELS:
            found = predict_layers(predictor, layers, model)
            answer[model].append((index, found, predictor["factors"][model]))
    return answer


def _run(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[list[str], Answer]]:
    if jobs <= 1:
        for task in tasks:
            yield task[1], predict_group(task)
        return
    import multiprocessing

    # Started anew, not forked: this process has threads of its libraries.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), context, initializer=_quiet)
    try:
        waiting = {pool.submit(predict_group, task): task[1] for task in tasks}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _quiet() -> None:
    """Leave Ctrl-C to the parent, and the processors to the other workers."""
    import signal

    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threadpool_limits(1)


# --- figures --------------------------------------------------------------------------------------


def figures(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float | int | None]:
    """Return how far predictions are off, of those that were measured above zero.

    Returns:
        `n`; `median_ape`, `rmspe`: median absolute and root mean square percentage error;
        `weighted_ape`: sum of absolute errors over the sum of what was measured, percent;
        `within_10`, `within_25`, `within_50`: percent that are off by no more; `rank`: Spearman's
        rank correlation, null where there is none.
    """
    known = np.isfinite(predicted) & np.isfinite(measured) & (measured > 0)
    predicted, measured = predicted[known], measured[known]
    if not len(measured):
        return {"n": 0}
    share = np.abs(predicted / measured - 1.0)
    return {
        "n": len(measured),
        "median_ape": float(100 * np.median(share)),
        "rmspe": float(100 * np.sqrt(np.mean(share**2))),
        "weighted_ape": float(100 * np.abs(predicted - measured).sum() / measured.sum()),
        **{f"within_{bound}": float(100 * np.mean(share <= bound / 100)) for bound in (10, 25, 50)},
        "rank": _rank_correlation(predicted, measured),
    }


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(one, other).statistic)


def coverage(held_out: HeldOut, training: Training, model: str, name: str) -> dict[str, Any]:
    """Return how many networks' totals lay within their intervals, every run of them.

    Returns:
        `networks` that had an interval, `covered` of those, `median_factor`.
    """
    inside: dict[str, bool] = {}
    factors = []
    for run in training.runs:
        factor = held_out.factors[model].get(run.name, {}).get(name)
        predicted = held_out.totals[model].get(run.name, {}).get(name)
        measured = measured_total(run, name)
        if factor is None or predicted is None or measured is None:
            continue
        factors.append(factor)
        within = predicted / factor <= measured <= predicted * factor
        inside[run.network] = inside.get(run.network, True) and within
    return {
        "networks": len(inside),
        "covered": sum(inside.values()),
        "median_factor": float(np.median(factors)) if factors else None,
    }


def measured_total(run: Any, name: str) -> float | None:
    """Return a measured total of a run: latency, power, or the energy of both."""
    if name == "latency_ms":
        return run.latency_ms  # type: ignore[no-any-return]
    power = run.gross_mw if name.startswith("gross") else run.dynamic_mw
    if power is None or run.latency_ms is None:
        return None
    return float(power if name.endswith("_mw") else power * run.latency_ms * 1e-3)


def score(training: Training, held_out: HeldOut) -> dict[str, Any]:
    """Return all figures of held-out predictions as plain JSON."""
    target = training.target
    kinds = sorted(set(target.layers.kinds.tolist()))
    document: dict[str, Any] = {
        "groups": held_out.groups,
        "layers": {model: figures(held_out.layers[model], target.values) for model in MODELS},
        "types": {
            kind: {
                model: figures(
                    held_out.layers[model][target.layers.kinds == kind],
                    target.values[target.layers.kinds == kind],
                )
                for model in MODELS
            }
            for kind in kinds
        },
        "layer_power": {
            power: {
                model: figures(values, training.powers[power]) for model, values in models.items()
            }
            for power, models in held_out.layer_power.items()
        },
        "runs": [],
        "totals": {},
        "coverage": {},
    }
    for run in training.runs:
        if run.name not in held_out.totals[MODELS[0]]:
            continue
        own = training.run == training.runs.index(run)
        document["runs"].append(
            {
                "run": run.name,
                "network": run.network,
                "layers": int(own.sum()),
                "layers_ms": float(np.nansum(target.values[own])),
                "measured": {name: measured_total(run, name) for name in _TOTALS},
                "predicted": {model: held_out.totals[model][run.name] for model in MODELS},
                "factors": {model: held_out.factors[model][run.name] for model in MODELS},
            }
        )
    for name in _TOTALS:
        document["totals"][name] = {
            model: figures(*_columns(document["runs"], model, name)) for model in MODELS
        }
        document["coverage"][name] = {
            model: coverage(held_out, training, model, name) for model in MODELS
        }
    return document


def _columns(
    runs: Sequence[dict[str, Any]], model: str, name: str
) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(one["predicted"][model].get(name), one["measured"][name]) for one in runs]
    known = [(found, real) for found, real in pairs if found is not None and real is not None]
    table = np.array(known, dtype=np.float64).reshape(len(known), 2)
    return table[:, 0], table[:, 1]
