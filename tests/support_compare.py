"""Run directories of made-up figures, with no more in them than a comparison reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LEVELS = np.exp(np.linspace(np.log(0.01), np.log(0.5), 12))


def durations(
    seed: int,
    *,
    levels: np.ndarray = LEVELS,
    inferences: int = 200,
    common: float = 0.05,
    own: float = 0.004,
    noise: float = 0.02,
    factors: Mapping[int, float] | None = None,
) -> np.ndarray:
    """Return one process's times of layers, ms: (inferences, layers).

    Args:
        seed: Of the process.
        levels: True times.
        inferences: How many.
        common: By what share (a standard deviation) all layers of a process are off together.
        own: By what share each is off on its own.
        noise: Scatter of single values.
        factors: Layer -> true change.
    """
    random = np.random.default_rng(seed)
    true = levels.copy()
    for layer, factor in (factors or {}).items():
        true[layer] *= factor
    process = np.exp(random.normal(0, common) + random.normal(0, own, len(levels)))
    found: np.ndarray = true * process * np.exp(random.normal(0, noise, (inferences, len(levels))))
    return found


def write_run(
    folder: Path,
    name: str,
    ms: np.ndarray,
    *,
    names: list[str] | None = None,
    modules: Sequence[str | None] | None = None,
    config: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    power_mw: float | None = 5000.0,
    resolved: Mapping[int, bool] | None = None,
    layers: bool = True,
) -> Path:
    """Write a run directory whose clean pass is as long as its layers together.

    Args:
        folder: The dataset.
        name: Of the run.
        ms: (inferences, layers).
        names: Of the layers.
        modules: Their module paths.
        config: Changes of the configuration.
        run: Changes of `run.json`.
        power_mw: Power, the same in all layers; None: no energy.
        resolved: Layer -> False for those that `window` does not resolve.
        layers: Write times of layers.
    """
    path = folder / name
    path.mkdir(parents=True)
    count = ms.shape[1]
    names = names or [f"layer{index}" for index in range(count)]
    total = ms.sum(axis=1)
    ends = np.cumsum(total * 1e6).astype(np.int64) + np.arange(1, len(total) + 1) * 1000
    starts = ends - (total * 1e6).astype(np.int64)
    table = pa.table(
        {
            "pass": pa.array(["clean"] * len(total) + ["profiled"] * len(total)),
            "index": pa.array([*range(len(total))] * 2, pa.int32()),
            "start_ns": np.concatenate([starts, starts + 10**12]),
            "end_ns": np.concatenate([ends, ends + 10**12]),
        }
    )
    pq.write_table(table, path / "inferences.parquet")
    if layers:
        numbers = np.tile(np.arange(count), len(ms)).astype(np.int16)
        rows = {
            "inference": np.repeat(np.arange(len(ms)), count).astype(np.int32),
            "layer": numbers,
            "duration_ms": ms.ravel().astype(np.float32),
        }
        pq.write_table(pa.table(rows), path / "layers.parquet")
    described = [
        {
            "index": index,
            "name": names[index],
            "type": "Conv",
            "operation": "convolution",
            "module_path": None if modules is None else modules[index],
        }
        for index in range(count)
    ]
    (path / "engine.json").write_text(json.dumps({"layers": described, "overlap": False}))
    summary: dict[str, Any] = {
        "clean": {
            "median_ms": float(np.median(total)),
            "mean_ms": float(total.mean()),
            "interval_mean_ms": [float(total.mean()) * 0.999, float(total.mean()) * 1.001],
        },
        "profiled": {"mean_ms": float(total.mean()), "held_ms_mean": 0.0},
    }
    if power_mw is not None:
        summary["energy"] = _energy(path, ms, power_mw, resolved or {})
    plain: dict[str, Any] = {
        "name": name,
        "status": "complete",
        "started_at": "2026-01-02T03:04:05+00:00",
        "board_id": "board one",
        "power_mode": None,
        "simulated": False,
        "weights": "pretrained",
        "config": {
            "model": "net", "backend": "onnxruntime", "dtype": "float32", "device": "cpu",
            "input": "normal", "input_shape": [1, 3, 8, 8], "repeat": 0, "rebuild": 0,
            "runs": len(ms), **(config or {}),
        },
        "input": {"kind": "normal", "sha256": "aa", "shapes": {"input": [1, 3, 8, 8]}},
        "machine": {"cpu": {"model": "a cpu"}, "gpu": {"names": None}, "kernel": "6.1"},
        "versions": {"onnxruntime": "1.30"},
        "sensor": {"name": "rapl", "channels": []},
        "summary": summary,
        "files": {},
        **(run or {}),
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(plain))
    return path


def _energy(
    path: Path, ms: np.ndarray, power_mw: float, resolved: Mapping[int, bool]
) -> dict[str, Any]:
    """Write `energy.parquet` by `window` and return the summary's part."""
    rows = []
    empty = {"rail": "total", "method": "window", "group": None, "n": len(ms), "why": None}
    for index, time in enumerate(ms.mean(axis=0)):
        told = resolved.get(index, True)
        energy = float(time * power_mw * 1e-3)
        rows.append(
            {
                **empty, "kind": "layer", "layer": index, "time_ms": float(time),
                "gross_mj": energy if told else None,
                "gross_statistical_mj": energy * 0.002 if told else None,
                "dynamic_mj": energy / 2 if told else None,
                "dynamic_statistical_mj": energy * 0.002 if told else None,
                "resolved": told,
            }
        )  # fmt: skip
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    table = pa.table(columns)
    for name in ("gross_mj", "gross_statistical_mj", "dynamic_mj", "dynamic_statistical_mj"):
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].cast(pa.float64()))
    place = table.column_names.index("layer")
    table = table.set_column(place, "layer", table["layer"].cast(pa.int16()))
    pq.write_table(table, path / "energy.parquet")
    whole = float(ms.sum(axis=1).mean() * power_mw * 1e-3)
    clean = {
        "gross_mj": whole, "gross_statistical_mj": whole * 0.002, "dynamic_mj": whole / 2,
        "dynamic_statistical_mj": whole * 0.002, "mean_mw": power_mw, "n": len(ms),
    }  # fmt: skip
    return {"rail": "total", "rails": {"total": {"clean": clean, "profiled": clean}}}


def write_repeats(
    folder: Path, seeds: range, factors: Mapping[int, float] | None = None, **changes: Any
) -> Path:
    """Write a dataset of repeats of one configuration."""
    for repeat, seed in enumerate(seeds, 1):
        ms = durations(seed, factors=factors)
        config = {"repeat": repeat, **changes.get("config", {})}
        rest = {key: value for key, value in changes.items() if key != "config"}
        write_run(folder, f"net-r{repeat}", ms, config=config, **rest)
    return folder
