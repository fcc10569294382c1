"""A predictor together with what it was learnt from: the model that is saved, shown and used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgejoule import __version__
from edgejoule.dataset.tables.layer_columns import LAYER_TABLE_VERSION
from edgejoule.prediction.features import NUMBERS, REST
from edgejoule.prediction.fitting import Training, fit_predictor
from edgejoule.prediction.model_file import FORMAT, VERSION
from edgejoule.prediction.source import PROPORTIONAL, Source
from edgejoule.prediction.totals import LEVEL

UNITS = {
    "runtime_ms": "milliseconds per inference",
    "latency_ms": "milliseconds per inference, mean of the clean pass",
    "gross_mw": "milliwatts, mean of the clean pass",
    "dynamic_mw": "milliwatts above the loaded baseline",
    "gross_mj": "millijoules per inference",
    "dynamic_mj": "millijoules per inference above the loaded baseline",
    "factor": "a total is within prediction / factor and prediction x factor",
}


def layer_power_note(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what a reader must know of the powers of layers that were learnt from.

    Args:
        rows: Of the table of layers.
    """
    methods = sorted({row["energy_method"] for row in rows if row["energy_method"]})
    if methods == [PROPORTIONAL]:
        return (
            "power was split by share of time (proportional), so no layer differs in power from "
            "its network: the mean power of a network is predicted, not that of a layer"
        )
    apart = [name for name in methods if name != PROPORTIONAL]
    known = sum(row["energy_method"] in apart and bool(row["energy_resolved"]) for row in rows)
    if not apart or (known == len(rows) and len(apart) == 1):
        return None
    text = f"the power of a layer is learnt from {known} of {len(rows)} layers, attributed by "
    text += " and by ".join(apart)
    return text if known == len(rows) else f"{text}; the others are not resolved"


def build_model(source: Source, training: Training, seed: int) -> dict[str, Any]:
    """Fit a predictor to all runs of a source and say what it is."""
    batches: dict[str, int | None] = {}
    for row in source.rows:
        batches.setdefault(row["run"], row["batch_size"])
    notes = list(source.notes)
    if source.rail is not None and (said := layer_power_note(source.rows)):
        notes.append(said)
    return {
        "format": FORMAT,
        "version": VERSION,
        "table_version": LAYER_TABLE_VERSION,
        "edgejoule_version": __version__,
        "features": list(NUMBERS),
        "rest": REST,
        "seed": seed,
        "level": LEVEL,
        "configuration": dict(source.configuration),
        "versions": list(source.versions),
        "rail": source.rail,
        "simulated": source.simulated,
        "dataset": dict(source.dataset),
        "networks": training.names(),
        "runs": [
            {
                "run": run.name,
                "network": run.network,
                "run_sha256": run.run_sha256,
                "batch": batches.get(run.name),
                "unreal": list(run.unreal),
            }
            for run in source.runs.values()
        ],
        "notes": notes,
        "units": UNITS,
        "predictor": fit_predictor(training, seed),
    }
