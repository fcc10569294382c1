"""A prediction for one network: its layers, its totals with intervals, and where it is a guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgejoule.errors import UsageError
from edgejoule.prediction.describe import Described
from edgejoule.prediction.features import layers_of
from edgejoule.prediction.fitting import predict_layers
from edgejoule.prediction.learning import MODELS
from edgejoule.prediction.source import POWERS

# A number this much beyond the range of its type is beyond it: shapes are whole numbers.
_TOLERANCE = 1.001
# In words; what is made of them (intensity, ...) would say the same twice.
_RANGES = (
    "batch_size", "flops", "bytes_moved", "weights", "input_elements", "output_elements",
    "input_channels", "output_channels", "input_height", "input_width", "kernel_0", "kernel_1",
    "stride_0", "stride_1", "dilation_0", "groups",
)  # fmt: skip


def answer(model: Mapping[str, Any], network: Described, which: str) -> dict[str, Any]:
    """Predict a network.

    Args:
        model: A model read by `load_model` or made by `build_model`.
        network: Its layers.
        which: One of `MODELS`.

    Returns:
        Plain JSON: `network`, `model`, `configuration`, `simulated`, `notes`; `layers` with
        `runtime_ms`, `beyond` (what is outside the range that was learnt) and, where they were
        learnt or measured, powers and `measured_ms`; `totals`: name -> `value`, `low`, `high` (null
        without an interval), `measured`.

    Raises:
        UsageError: There is no such model.
    """
    if which not in MODELS:
        raise UsageError(f"there is no model {which!r}", f"there are {', '.join(MODELS)}")
    layers = layers_of(network.rows)
    predictor = model["predictor"]
    found = predict_layers(predictor, layers, which)
    notes = [*model["notes"], *network.notes]
    types = predictor["types"]
    unknown = sorted({kind for kind in layers.kinds.tolist() if kind not in types})
    if unknown:
        notes.append(
            f"types of layers that the model has never seen: {', '.join(unknown)}; they are "
            "predicted as the rest is"
        )
    measured = network.measured or {}
    rows = []
    for index, row in enumerate(network.rows):
        kind = str(layers.kinds[index])
        numbers = {name: float(layers.numbers[name][index]) for name in _RANGES}
        one = {
            "layer": index,
            "name": row["layer_name"],
            "layer_type": row["layer_type"],
            "type": kind,
            "runtime_ms": float(found["runtime_ms"][index]),
            "beyond": _beyond(types.get(kind), numbers, str(layers.layer_types[index])),
        }
        for power in POWERS:
            if f"power_{power}_mw" in found:
                level = float(found[f"power_{power}_mw"][index])
                one[f"power_{power}_mw"] = level
                one[f"energy_{power}_mj"] = level * one["runtime_ms"] * 1e-3
        if "runtime_ms" in measured:
            one["measured_ms"] = measured["runtime_ms"][index]
        rows.append(one)
    beyond = sum(1 for one in rows if one["beyond"])
    if beyond:
        share = sum(one["runtime_ms"] for one in rows if one["beyond"]) / found["layers_ms"]
        notes.append(
            f"{beyond} of {len(rows)} layers ({100 * share:.0f} % of the predicted time) lie "
            "beyond what was learnt: neither they nor the interval can be relied on there"
        )
    if "latency_ms" not in found:
        notes.append("no latency: too few runs of the model have a clean pass")
    return {
        "network": network.name,
        "model": which,
        "configuration": dict(model["configuration"]),
        "learnt_from": {"networks": len(model["networks"]), "dataset": dict(model["dataset"])},
        "simulated": model["simulated"],
        "rail": model["rail"],
        "level": model["level"],
        "notes": notes,
        "layers": rows,
        "totals": _totals(predictor["factors"][which], found, measured),
    }


def _totals(
    factors: Mapping[str, float | None], found: Mapping[str, Any], measured: Mapping[str, Any]
) -> dict[str, Any]:
    totals: dict[str, Any] = {}
    for name in _TOTALS:
        if name not in found:
            continue
        factor = factors.get(name)
        value = found[name]
        real = measured.get(name)
        if name == "layers_ms" and "runtime_ms" in measured:
            real = float(np.nansum([x for x in measured["runtime_ms"] if x is not None]))
        totals[name] = {
            "value": value,
            "low": None if factor is None else value / factor,
            "high": None if factor is None else value * factor,
            "measured": real,
        }
    return totals


_TOTALS = (
    "layers_ms", "gap_ms", "latency_ms", "gross_mw", "gross_mj", "dynamic_mw", "dynamic_mj",
)  # fmt: skip


def _beyond(facts: Mapping[str, Any] | None, numbers: Mapping[str, float], word: str) -> list[str]:
    """Return in what a layer is outside the range of its type; all of it for an unknown type."""
    if facts is None:
        return ["unknown type"]
    found = [] if word in facts["words"] else [f"{word} was not seen"]
    if not facts["own"]:
        found.append("too few of its type were seen")
    for name, value in numbers.items():
        if np.isnan(value):
            continue
        bounds = facts["ranges"].get(name)
        if bounds is None:
            found.append(f"{name} was not known")
        elif value > bounds[1] * _TOLERANCE:
            found.append(f"{name} {value:.4g} above {bounds[1]:.4g}")
        elif value * _TOLERANCE < bounds[0]:
            found.append(f"{name} {value:.4g} below {bounds[0]:.4g}")
    return found
