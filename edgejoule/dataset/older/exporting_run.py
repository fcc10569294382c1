"""Write one run in the older text layout. Numpy and pyarrow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from edgejoule.dataset.older.engine_info import INSPECTOR, engine_info
from edgejoule.dataset.older.layout import ENGINE_INFO, LAYER_TIMES, POWER_LOG, RUN_FILE
from edgejoule.dataset.older.power_export import power_lines
from edgejoule.dataset.older.times import Zone, format_short
from edgejoule.dataset.older.writing import (
    unique_names,
    write_indented,
    write_layer_times,
    write_power_log,
)
from edgejoule.dataset.tables.source import open_run, part
from edgejoule.errors import MeasurementError
from edgejoule.files import read_json
from edgejoule.summary import Inferences, read_inferences

_NEEDED = ("engine.json", "inferences.parquet", "layers.parquet")


def export_run(
    run: Path, folder: Path, zone: Zone, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """Write one run's folder.

    Args:
        run: The run's directory.
        folder: The folder to make; its parent's name goes into the configuration.
        zone: The zone that its local times are in.
        say: Is told what is being done.

    Returns:
        Its `run`, `layers`, `inferences`, `power_lines` and `bytes`; and what must be known of it.

    Raises:
        MeasurementError: It has no inference with times of all layers, or is damaged.
    """
    about, engine, profiled = _read_run(run)
    layers = engine["layers"]
    names = unique_names([layer["name"] for layer in layers])
    durations = _durations(run / "layers.parquet", len(layers), len(profiled.index))
    notes = []
    whole = durations.shape[1]
    if not whole:
        raise MeasurementError("it has no inference with times of all layers")
    if whole < len(profiled.index):
        notes.append(
            f"only the first {whole} of {len(profiled.index)} profiled inferences have all layers"
        )
    start_ns, end_ns = profiled.start_ns[:whole], profiled.end_ns[:whole]
    (folder / LAYER_TIMES).parent.mkdir(parents=True)
    anchor = about["clock"]["wall_anchor"]
    callbacks = None
    if anchor is None or (about.get("imported") or {}).get("times") == "modelled":
        notes.append("layers are written as plain numbers: when they ran is not known")
    else:
        callbacks = _callbacks(end_ns - anchor["monotonic_ns"] + anchor["wall_ns"], zone)

    def said(number: int) -> None:
        say(f"{run.name}: layer {number} of {len(layers)}")

    write_layer_times(folder / LAYER_TIMES, names, durations, callbacks, said)
    info = engine_info(run, engine, names)
    if info.kept is not None:
        (folder / ENGINE_INFO).write_bytes(info.kept)
    else:
        write_indented(folder / ENGINE_INFO, info.document)
    run_file = RUN_FILE.format(model=run.name)
    document = _run_file(about, layers, start_ns, end_ns, zone)
    write_indented(folder / run_file, document)
    unknown = [key for key, value in document["config"].items() if value is None]
    if unknown:
        notes.append(f"not known, so null in {run_file}: {', '.join(unknown)}")
    lines, why = _write_power(run, folder, anchor, zone)
    notes += [*info.notes, why, *_standing(about)]
    facts = {
        "run": run.name,
        "layers": len(layers),
        "inferences": whole,
        "power_lines": lines,
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }
    return facts, notes


def _write_power(
    run: Path, folder: Path, anchor: dict[str, Any] | None, zone: Zone
) -> tuple[int, str]:
    """Write the power log if there is power; return its lines and what must be known of it."""
    if anchor is None or not (run / "power.parquet").is_file():
        return 0, "no power was recorded: there is no power log"
    power, why = power_lines(run / "power.parquet")
    if power is None:
        return 0, why
    wall_us = (power.t_ns - anchor["monotonic_ns"] + anchor["wall_ns"]) // 1000
    path = folder / POWER_LOG.format(model=run.name)
    write_power_log(path, zone.to_local_us(wall_us), power.mv, power.ma)
    return len(power.t_ns), why


def _standing(about: Mapping[str, Any]) -> list[str]:
    """Say what of a run an older script cannot see."""
    notes = ["its power is simulated"] if about["simulated"] else []
    held_ms = part(about, "summary", "profiled", "held_ms_mean")
    if held_ms:
        notes.append(
            f"the profiler itself holds each inference up by {held_ms:.3g} ms on average: it is in "
            "the latencies, and energy that is made of them gives a part of itself to it"
        )
    if about["status"] != "complete":
        notes.append(f"the run is {about['status']}: {'; '.join(about.get('missing', ()))}")
    return notes


def _read_run(run: Path) -> tuple[Mapping[str, Any], dict[str, Any], Inferences]:
    """Return `run.json`, `engine.json` and the profiled inferences.

    Raises:
        MeasurementError: A file that is read is not there, or has other bytes than were sealed.
    """
    source = open_run(run)
    for name in _NEEDED:
        if not source.has(name):
            raise MeasurementError(f"it has no {name}")
    # Wrong bytes must not become right-looking text.
    for name in source.run["files"]:
        if name in (*_NEEDED, "power.parquet", "idle.json") or INSPECTOR.fullmatch(name):
            source.checked(name)
    profiled = read_inferences(run / "inferences.parquet").get("profiled")
    if profiled is None:
        raise MeasurementError("no inference was profiled")
    return source.run, read_json(run / "engine.json"), profiled


def _durations(path: Path, layers: int, inferences: int) -> np.ndarray:
    """Return float32 (layers, whole inferences) ms: those before the first that lacks a layer."""
    import pyarrow.parquet as pq

    # The file goes by inference, the older one by layer: 4 bytes for each of both at once.
    found = np.full((layers, inferences), np.nan, np.float32)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["inference", "layer", "duration_ms"]):
            inference, layer = batch["inference"].to_numpy(), batch["layer"].to_numpy()
            inside = (inference >= 0) & (inference < inferences) & (layer >= 0) & (layer < layers)
            found[layer[inside], inference[inside]] = batch["duration_ms"].to_numpy()[inside]
    torn = np.flatnonzero(np.isnan(found).any(axis=0))
    return found[:, : int(torn[0])] if len(torn) else found


def _callbacks(end_ns: np.ndarray, zone: Zone) -> Callable[[int], np.ndarray]:
    """Return what gives the callbacks of a layer: after the inference's end, a microsecond each.

    Where the next inference ends before all layers would have their turn, the last ones share a
    microsecond, so that the order over all inferences holds.
    """
    end_us = -(-end_ns // 1000)
    room = np.append(np.maximum(np.diff(end_us) - 1, 0), np.iinfo(np.int32).max)
    offset = zone.to_local_us(end_us)

    def callbacks(layer: int) -> np.ndarray:
        stamps: np.ndarray = offset + np.minimum(layer, room)
        return stamps

    return callbacks


def _run_file(
    about: Mapping[str, Any],
    layers: Sequence[dict[str, Any]],
    start_ns: np.ndarray,
    end_ns: np.ndarray,
    zone: Zone,
) -> dict[str, Any]:
    """Return the content of `<model>_tensorrt.json`; null where it is not known."""
    config = about["config"]
    extra = config.get("extra") or {}
    shape = config.get("input_shape") or next(iter(about["input"].get("shapes", {}).values()), None)
    if shape is None:
        shape = ((layers[0].get("inputs") or [{}])[0] if layers else {}).get("shape")
    latencies = ((end_ns - start_ns) / 1e9).tolist()
    total = float(end_ns[-1] - start_ns[0]) / 1e9
    return {
        "config": {
            "model": config["model"],
            "dtype": config["dtype"],
            "input_shape": shape,
            "warmup": config.get("warmup"),
            "runs": len(latencies),
            "optimization_level": extra.get("optimization_level"),
            "min_block_size": extra.get("min_block_size"),
            "result_dir": "raw_data",
        },
        "total_time": total,
        "timestamp": started_short(about, zone),
        "latencies": latencies,
        "avg_latency": float(np.mean(latencies)),
        "avg_throughput": len(latencies) / total if total > 0 else None,
    }


def started_short(about: Mapping[str, Any], zone: Zone) -> str:
    """Return when a run started as local `20241121-052004`."""
    started = datetime.fromisoformat(about["started_at"].replace("Z", "+00:00"))
    utc_us = np.array([round(started.timestamp() * 1e6)])
    return format_short(int(zone.to_local_us(utc_us)[0]))
