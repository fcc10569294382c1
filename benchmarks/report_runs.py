"""Synthetic runs for `benchmarks/report.py`: sizes of real ones, written without record files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgejoule.config import RunConfig, defaults_of, identity_sha256, run_name
from edgejoule.dataset.run_directory import create_partial, finish, set_defaults_if_absent
from edgejoule.dataset.schema import write_table
from edgejoule.energy.rows import EnergyRow
from edgejoule.files import write_json
from edgejoule.phases import PhaseSpan
from edgejoule.records import INFERENCES
from edgejoule.summary import (
    TOTAL,
    attribution,
    baselines,
    latency,
    pass_energy,
    phase_energies,
    profiled_figures,
    read_inferences,
    read_power,
    sum_layers,
)

S = 1_000_000_000
RAILS = {"VDD_IN": 1700, "VDD_CPU_GPU_CV": 900, "VDD_SOC": 350}  # mA while it computes
IDLE_MA = {"VDD_IN": 850, "VDD_CPU_GPU_CV": 250, "VDD_SOC": 300}
MV = 5000
SWEEP_NS = S // 150
MEDIAN_US = (3.0, 120.0)
JITTER, CLOCK = 0.03, 0.01
ZONES = ("cpu-thermal", "gpu-thermal", "soc0-thermal", "tj-thermal")
_TOTAL = {
    "rails": ["VDD_IN"], "contains": "the module", "excludes": "the carrier", "source": "synthetic"
}  # fmt: skip
_WALL = {"monotonic_ns": 0, "wall_ns": 1_732_166_404_000_000_000}


def build_runs(dataset: Path, runs: int, inferences: int, layers: int, seconds: float) -> None:
    """Write so many runs of so many inferences and layers, `seconds` of power each."""
    for number in range(runs):
        build_run(dataset, number, inferences, layers, seconds)


def build_run(dataset: Path, number: int, inferences: int, layers: int, seconds: float) -> Path:
    """Write one run and return its directory."""
    random = np.random.default_rng(number)
    config = RunConfig(
        f"network_{number:02d}", "tensorrt", "float16", "cuda:0", (1, 3, 224, 224),
        runs=inferences, sensor="ina3221",
    )  # fmt: skip
    request = {
        "config": config.to_json(), "config_sha256": identity_sha256(config),
        "machine": {"board_id": "synthetic", "gpu": {"names": ["synthetic"]}},
        "board_id": "synthetic", "power_mode": "MAXN", "weights": "random",
        "input": {"kind": "normal", "seed": 0, "shapes": {"input": [1, 3, 224, 224]}},
        "versions": {"edgejoule": "synthetic"}, "started_at": "2024-11-21T05:20:04Z",
        "command": ["measure_inference_power.py", "--model", f"network_{number:02d}"],
    }  # fmt: skip
    defaults = defaults_of(config)
    set_defaults_if_absent(dataset, defaults)
    name = run_name(config.model, config, defaults)
    partial = create_partial(dataset, name, request)
    phases = _write_times(partial, random, inferences, layers, seconds)
    channels = _write_power(partial, phases, random)
    _write_resources(partial, phases, random)
    engine = {
        "backend": "tensorrt", "versions": {}, "settings": {}, "start_offsets": False,
        "overlap": False, "layers": [_layer(index) for index in range(layers)],
    }  # fmt: skip
    write_json(partial / "engine.json", engine)
    summary = _close(partial, phases, inferences, layers)
    run = {
        **request, "status": "complete", "missing": [], "simulated": True, "summary": summary,
        "sensor": {"name": "ina3221", "simulated": True, "channels": channels, "total": _TOTAL},
        "phases": phases, "clock": {"wall_anchor": _WALL},
    }  # fmt: skip
    return finish(partial, run, name)


def _layer(index: int) -> dict[str, Any]:
    """Return a layer of `engine.json`, named about as long as TensorRT names what it fuses."""
    block, part = divmod(index, 4)
    name = f"/layer{block}/conv{part}/Conv + PWN(PWN(/layer{block}/relu{part}/Relu))"
    shape = {"shape": [1, 64, 56, 56], "dtype": "float16"}
    return {
        "index": index, "name": name, "type": "CaskConvolution",
        "operation": ("convolution", "convolution", "elementwise", "pooling")[part],
        "inputs": [{"name": f"in{index}", **shape}], "outputs": [{"name": f"out{index}", **shape}],
        "kernel": [3, 3], "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1,
        "weights": 36928, "tactic": "sm80_xmma_fprop_implicit_gemm_f16", "fused": ["Conv", "Relu"],
        "nodes": [name], "modules": [f"layer{block}"], "module_path": f"layer{block}.conv{part}",
        "flops": 231211008, "bytes_moved": 877056, "attributes": {},
    }  # fmt: skip


def _write_times(
    partial: Path, random: np.random.Generator, inferences: int, layers: int, seconds: float
) -> list[dict[str, Any]]:
    """Write inferences and layers; return the phases, which fill the time."""
    median = np.exp(random.uniform(*np.log(MEDIAN_US), layers)) * 1e3
    clock = np.exp(random.normal(0, CLOCK, (inferences, 1)))
    found = median * clock * np.exp(random.normal(0, JITTER, (inferences, layers)))
    duration_ns = np.maximum(np.rint(found).astype(np.int64), 1)
    write_table(
        partial / "layers.parquet",
        "layers",
        {
            "inference": np.repeat(np.arange(inferences, dtype=np.int32), layers),
            "layer": np.tile(np.arange(layers, dtype=np.int16), inferences),
            "duration_ms": (duration_ns.ravel() * 1e-6).astype(np.float32),
            "start_offset_ns": [None] * (inferences * layers),
        },
    )
    span_ns = duration_ns.sum(axis=1) + 1500 * layers + 30_000
    clean = max(100, inferences // 3)
    counts = {"warmup": 50, "clean": clean, "profiled": inferences}
    lengths = {name: int(np.resize(span_ns + 5_000, n).sum()) for name, n in counts.items()}
    rest = max(4 * S, int(seconds * S) - sum(lengths.values()))
    plan = [
        ("idle_before", rest // 4), ("idle_loaded_before", rest // 4),
        *((name, length + 5_000) for name, length in lengths.items()),
        ("idle_loaded_after", rest // 4), ("idle_after", rest // 4),
    ]  # fmt: skip
    phases, t_ns = [], 10 * S
    columns: dict[str, list[Any]] = {"pass": [], "index": [], "start_ns": [], "end_ns": []}
    for name, length in plan:
        phases.append({"phase": name, "start_ns": t_ns, "end_ns": t_ns + length})
        if name in counts:
            own = np.resize(span_ns, counts[name])
            begin = t_ns + np.cumsum(own + 5_000) - own
            columns["pass"] += [name] * counts[name]
            columns["index"].append(np.arange(counts[name], dtype=np.int32))
            columns["start_ns"].append(begin)
            columns["end_ns"].append(begin + own)
        t_ns += length
    table = {
        key: values if key == "pass" else np.concatenate(values) for key, values in columns.items()
    }
    table["due_ns"] = [None] * len(table["pass"])
    write_table(partial / f"{INFERENCES.name}.parquet", "inferences", table)
    return phases


def _write_power(
    partial: Path, phases: list[dict[str, Any]], random: np.random.Generator
) -> list[dict[str, Any]]:
    """Write voltage and current of each rail, every refresh; return the channel table."""
    t_ns = np.arange(phases[0]["start_ns"] - SWEEP_NS, phases[-1]["end_ns"] + SWEEP_NS, SWEEP_NS)
    t_ns = t_ns + random.integers(0, 50_000, len(t_ns))
    busy = np.zeros(len(t_ns), bool)
    for phase in phases:
        if not phase["phase"].startswith("idle"):
            busy |= (t_ns >= phase["start_ns"]) & (t_ns < phase["end_ns"])
    channels, raw = [], []
    for number, rail in enumerate(RAILS):
        current = np.where(busy, RAILS[rail], IDLE_MA[rail])
        raw.append(np.full(len(t_ns), MV))
        raw.append(current + 8 * random.integers(-6, 7, len(t_ns)))
        for quantity, unit, place in (("voltage", "mV", "in"), ("current", "mA", "curr")):
            channels.append(
                {
                    "index": len(channels), "rail": rail, "quantity": quantity, "unit": unit,
                    "chip": "1-0040", "source": f"{place}{number + 1}_input", "shunt_uohm": 5000,
                    "lsb": 8.0,
                }
            )  # fmt: skip
    count = len(channels)
    t0_ns = (t_ns[:, None] + 30_000 * np.arange(count)).ravel()
    rows = {
        "t0_ns": t0_ns,
        "t1_ns": t0_ns + 25_000,
        "channel": np.tile(np.arange(count, dtype=np.int16), len(t_ns)),
        "raw": np.column_stack(raw).ravel(),
        "errno": [None] * len(t0_ns),
    }
    metadata = {
        "channels": channels, "sensor": "ina3221", "simulated": True, "refresh_ns": SWEEP_NS,
        "configuration": {}, "total": _TOTAL, "wall_anchor": _WALL, "groups": [], "board": None,
    }  # fmt: skip
    write_table(partial / "power.parquet", "power", rows, **metadata)
    return channels


def _write_resources(
    partial: Path, phases: list[dict[str, Any]], random: np.random.Generator
) -> None:
    t_ns = np.arange(phases[0]["start_ns"], phases[-1]["end_ns"], S)
    columns = {"t_ns": t_ns, "cpu_mhz_mean": 1500.0 + random.normal(0, 5, len(t_ns))}
    for zone in ZONES:
        columns[f"temperature_{zone}_c"] = 45 + np.cumsum(random.normal(0, 0.05, len(t_ns)))
    columns["gpu_load_percent"] = random.uniform(0, 100, len(t_ns))
    columns["memory_available_mib"] = 5000 + random.normal(0, 5, len(t_ns))
    columns["rss_measuring_mib"] = 900 + random.normal(0, 1, len(t_ns))
    write_table(partial / "resources.parquet", "resources", columns)


def _close(
    partial: Path, phases: list[dict[str, Any]], inferences: int, layers: int
) -> dict[str, Any]:
    """Write baselines and energies; return the summary."""
    spans = [PhaseSpan(**phase) for phase in phases]
    passes = read_inferences(partial / "inferences.parquet")
    sums = sum_layers(partial / "layers.parquet", inferences, layers)
    power = read_power(partial / "power.parquet")
    idle = baselines(power, spans)
    write_json(partial / "idle.json", idle)
    rows = attribution(power, passes["profiled"], sums, idle)
    rows = [*(_resolved(row) for row in rows), *rows]
    columns = {name: [getattr(row, name) for row in rows] for name in vars(rows[0])}
    write_table(partial / "energy.parquet", "energy", columns)
    clean, profiled = latency(passes["clean"]), profiled_figures(passes["profiled"], sums)
    rails = {
        rail: {name: pass_energy(power, rail, passes[name], idle) for name in ("clean", "profiled")}
        for rail in power.rails
    }
    return {
        "inferences": {name: len(found.index) for name, found in passes.items()},
        "clean": clean,
        "profiled": profiled,
        "profiled_over_clean": profiled["median_ms"] / clean["median_ms"],
        "phase_energies": phase_energies(power, spans),
        "energy": {"rail": TOTAL, "total_of": ["VDD_IN"], "rails": rails, **rails[TOTAL]},
        "notes": [],
    }


def _resolved(row: EnergyRow) -> EnergyRow:
    """Return the row as if a method had told its layer from the others."""
    import dataclasses

    own = True if row.kind == "layer" else row.resolved
    return dataclasses.replace(row, method="replay", resolved=own)
