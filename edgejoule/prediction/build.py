"""A predictor together with what it was learnt from: the model that is saved, shown and used."""

from __future__ import annotations

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


def build_model(source: Source, training: Training, seed: int) -> dict[str, Any]:
    """Fit a predictor to all runs of a source and say what it is."""
    batches: dict[str, int | None] = {}
    for row in source.rows:
        batches.setdefault(row["run"], row["batch_size"])
    notes = list(source.notes)
    methods = {row["energy_method"] for row in source.rows if row["energy_method"]}
    if source.rail is not None and methods == {PROPORTIONAL}:
        notes.append(
            "power was split by share of time (proportional), so no layer differs in power from "
            "its network: the mean power of a network is predicted, not that of a layer"
        )
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
