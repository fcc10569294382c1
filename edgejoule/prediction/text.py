"""Predictions, scores and models as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgejoule.prediction.learning import MODELS
from edgejoule.report.text import ABSENT, ms, printable, table

_NAMES = {
    "layers_ms": ("time in layers", "ms"),
    "gap_ms": ("time in no layer", "ms"),
    "latency_ms": ("latency", "ms"),
    "gross_mw": ("mean power, gross", "mW"),
    "gross_mj": ("energy, gross", "mJ"),
    "dynamic_mw": ("mean power, dynamic", "mW"),
    "dynamic_mj": ("energy, dynamic", "mJ"),
}
SIMULATED = "POWER AND ENERGY ARE SIMULATED, not measured"


def configuration_line(configuration: Mapping[str, Any]) -> str:
    """Return the configuration a model is for, on one line; null values are left out."""
    return ", ".join(f"{key} {printable(one)}" for key, one in configuration.items() if one)


def answer_text(found: Mapping[str, Any]) -> str:
    """Return a prediction as text: layers, totals, notes."""
    powers = [p for p in ("gross", "dynamic") if f"power_{p}_mw" in found["layers"][0]]
    measured = "measured_ms" in found["layers"][0]
    header = ["layer", "name", "type", "ms", *(["measured"] if measured else [])]
    header += [f"{power} mW" for power in powers] + ["beyond what was learnt"]
    rows = [
        [
            str(one["layer"]),
            printable(one["name"], 40),
            printable(one["type"]),
            ms(one["runtime_ms"]),
            *([ms(one["measured_ms"])] if measured else []),
            *(_number(one[f"power_{power}_mw"]) for power in powers),
            printable("; ".join(one["beyond"]), 70),
        ]
        for one in found["layers"]
    ]
    right = {0, 3, *range(4, 4 + measured + len(powers))}
    lines = [
        f"{printable(found['network'])}: predicted by {found['model']}, learnt from "
        f"{found['learnt_from']['networks']} networks",
        f"for {configuration_line(found['configuration'])}",
        "",
        table(header, rows, right),
        "",
        table(
            ["total", "predicted", f"{100 * found['level']:.0f} % interval", "measured", ""],
            [_total_row(name, one) for name, one in found["totals"].items()],
            {1, 2, 3},
        ),
    ]
    if found["simulated"]:
        lines += ["", SIMULATED]
    return "\n".join([*lines, *_notes(found["notes"])])


def _total_row(name: str, one: Mapping[str, Any]) -> list[str]:
    word, unit = _NAMES[name]
    low, high = one["low"], one["high"]
    interval = ABSENT if low is None else f"{_number(low)} to {_number(high)}"
    return [word, _number(one["value"]), interval, _number(one["measured"]), unit]


def _notes(notes: Sequence[str]) -> list[str]:
    return ["", *(f"note: {printable(one)}" for one in notes)] if notes else []


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4g}" if abs(value) < 1e5 else f"{value:.0f}"


# --- scores ---------------------------------------------------------------------------------------

_COLUMNS = ("median_ape", "rmspe", "weighted_ape", "within_10", "within_25", "within_50", "rank")
_HEADER = ["median |error| %", "RMSPE %", "weighted %", "in 10 %", "in 25 %", "in 50 %", "rank"]


def score_text(document: Mapping[str, Any]) -> str:
    """Return the tables of a score."""
    lines = [
        f"{len(document['networks'])} networks, {len(document['scores'][0]['runs'])} runs, "
        f"{document['layers']} layers, seed {document['seed']}",
        f"for {configuration_line(document['configuration'])}",
    ]
    for one in document["scores"]:
        lines += ["", f"== {one['title']} ==", *_one_score(one, document)]
    if document["simulated"]:
        lines += ["", SIMULATED]
    return "\n".join([*lines, *_notes(document["notes"])])


def _one_score(one: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    lines = ["", "runtime of layers", _figures(one["layers"])]
    for power, models in one["layer_power"].items():
        lines += ["", f"{power} power of layers", _figures(models)]
    for name, models in one["totals"].items():
        if any(figures["n"] for figures in models.values()):
            word, _ = _NAMES[name]
            lines += ["", f"{word} of networks", _figures(models, one["coverage"][name])]
    kinds = [
        [printable(kind), str(models[MODELS[0]]["n"])]
        + [_percent(models[model].get("median_ape")) for model in MODELS]
        for kind, models in one["types"].items()
    ]
    lines += ["", "runtime of layers by type, median |error| %"]
    lines.append(table(["type", "layers", *MODELS], kinds, set(range(1, 2 + len(MODELS)))))
    shown = [name for name in _NAMES if name in ("latency_ms", "gross_mj")]
    for name in shown:
        rows = [
            [
                printable(run["run"], 40),
                str(run["layers"]),
                _number(run["measured"][name]),
                *(
                    _off(run["predicted"][model].get(name), run["measured"][name])
                    for model in MODELS
                ),
            ]
            for run in one["runs"]
            if run["measured"][name] is not None
        ]
        if rows and any(name in run["predicted"][MODELS[0]] for run in one["runs"]):
            word, unit = _NAMES[name]
            lines += ["", f"{word} of each run, and by how many % each model is off"]
            lines.append(
                table(["run", "layers", unit, *MODELS], rows, set(range(1, 3 + len(MODELS))))
            )
    del document
    return lines


def _figures(
    models: Mapping[str, Mapping[str, Any]], coverage: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    header = ["model", *_HEADER]
    if coverage is not None:
        header += ["in interval", "its factor"]
    rows = []
    for model in MODELS:
        figures = models.get(model, {})
        row = [model]
        for name in _COLUMNS:
            value = figures.get(name)
            row.append(
                ABSENT if value is None else f"{value:.3f}" if name == "rank" else _percent(value)
            )
        if coverage is not None:
            one = coverage[model]
            row += [f"{one['covered']} of {one['networks']}", _number(one["median_factor"])]
        rows.append(row)
    return table(header, rows, set(range(1, len(header))))


def _percent(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _off(predicted: float | None, measured: float | None) -> str:
    if predicted is None or not measured:
        return ABSENT
    return f"{100 * (predicted / measured - 1):+.0f}"


# --- models ---------------------------------------------------------------------------------------


def model_text(model: Mapping[str, Any]) -> str:
    """Return what a model is: configuration, data, types, what was chosen, intervals."""
    dataset = model["dataset"]
    predictor = model["predictor"]
    tags = ", ".join(map(str, dataset.get("tags") or [])) or "no tag"
    lines = [
        f"{model['format']} {model['version']}, edgejoule {printable(model['edgejoule_version'])}, "
        f"seed {model['seed']}",
        f"for {configuration_line(model['configuration'])}",
        f"backend versions: {', '.join(map(printable, model['versions']))}",
        f"dataset: sha256 {printable(dataset.get('sha256'))}, "
        f"commit {printable(dataset.get('commit') or 'none')}, {printable(tags)}",
        f"learnt from {len(model['runs'])} runs of {len(model['networks'])} networks: "
        f"{printable(', '.join(map(str, model['networks'])))}",
        "",
        table(
            ["type", "layers", "networks", "published", "trees", "FLOPs"],
            [_type_row(kind, facts, predictor) for kind, facts in predictor["types"].items()],
            {1, 2},
        ),
        "",
        f"time in no layer: {_gap_line(predictor['gap'])}",
    ]
    for name, (word, unit) in _NAMES.items():
        factor = predictor["factors"]["trees"].get(name)
        if factor is not None:
            lines.append(f"{word} ({unit}): within a factor of {factor:.3g} for 90 % of networks")
    if model["simulated"]:
        lines += ["", SIMULATED]
    return "\n".join([*lines, *_notes(model["notes"])])


def _type_row(kind: str, facts: Mapping[str, Any], predictor: Mapping[str, Any]) -> list[str]:
    models = predictor["runtime_ms"]
    published = models["published"].get(kind)
    trees = models["trees"].get(kind)
    low, high = facts["ranges"].get("flops", [None, None])
    return [
        printable(kind),
        str(facts["layers"]),
        str(facts["networks"]),
        "in the rest"
        if published is None
        else f"degree {published['degree']}, {len(published['coefficients'])} terms",
        "in the rest"
        if trees is None
        else f"{len(trees['roots'])} trees, leaf {trees['leaf']}, "
        + ("alone" if trees["base"] is None else "over a roofline"),
        f"{_number(low)} to {_number(high)}",
    ]


def _gap_line(gap: Mapping[str, Any] | None) -> str:
    if gap is None:
        return "not learnt, no clean pass"
    share, per_layer = (
        f"{gap['share']:.3f} x time in layers",
        f"{gap['per_layer_ms']:.4g} ms per layer",
    )
    if gap["form"] == "sum":
        return f"latency = {share} + {per_layer}"
    return f"latency = the longer of {share} and {per_layer}"
