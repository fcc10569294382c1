#!/usr/bin/env python3
"""Bytes and load time of one run: this project's format beside the older text layout.

    python benchmarks/dataset.py [--quick] [--json] [--rounds 5] [--step-ns 1] [--folder DIR]

One synthetic but realistic recording, 30 000 inferences x 60 layers, goes into a run directory as
every run does (record files, conversion, energies, seal), is verified, and is exported in the older
layout (`data_version.py export`). Durations scatter log-normally around each layer's median, in
whole steps of a profiler's clock (1 ns by default, the dearest for us); one rail, voltage and
current, is read every 1.35 ms.

Then both are loaded into the same pandas data frame (inference, layer's name, duration, wall time
of the inference's end) in turns, round after round:

    parquet             pyarrow and pandas, as docs/DatasetFormats.md shows
    json.load           the whole text, then one data frame; wall times stay text
    json.load, times    the same with wall times parsed, as a reader of energies needs them
    ijson               streamed, so that memory stays small; wall times stay text

Figures are medians over the rounds; files are in the page cache. The ratio that counts is that of
the fastest reader of the older layout. Asked: at least 10 times smaller, at least 20 times faster.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edgejoule.config import RunConfig, defaults_of, identity_sha256  # noqa: E402
from edgejoule.dataset.older.exporting import export  # noqa: E402
from edgejoule.dataset.older.times import zone_of  # noqa: E402
from edgejoule.dataset.run_directory import (  # noqa: E402
    convert,
    create_partial,
    finish,
    set_defaults_if_absent,
)
from edgejoule.dataset.schema import write_table  # noqa: E402
from edgejoule.dataset.verify import verify_run  # noqa: E402
from edgejoule.files import write_json  # noqa: E402
from edgejoule.phases import PhaseSpan  # noqa: E402
from edgejoule.records import (  # noqa: E402
    INFERENCES,
    LAYERS,
    NULL_NS,
    PASSES,
    POWER,
    RecordKind,
    RecordWriter,
)
from edgejoule.summary import (  # noqa: E402
    attribution,
    baselines,
    latency,
    phase_energies,
    profiled_figures,
    read_inferences,
    read_power,
    sum_layers,
)

SMALLER, FASTER = 10.0, 20.0  # what was asked for
LAYERS_COUNT = 60
INFERENCE_COUNTS = {"warmup": 50, "clean": 1000}
IDLE_NS = 60_000_000_000
LOG_NS = 1_350_000  # between two lines of the older power log
MV, IDLE_MA, BUSY_MA = 5000, 850, 1700
MEDIAN_US = (3.0, 120.0)
JITTER, CLOCK = 0.03, 0.01
PARQUET, JSON_LOAD, JSON_TIMES, IJSON = "parquet", "json.load", "json.load, times", "ijson"
WAYS = (PARQUET, JSON_LOAD, JSON_TIMES, IJSON)
_WALL_NS = 1_732_166_404_000_000_000  # 2024-11-21T05:20:04Z
_CHANNELS = [
    {"index": 0, "rail": "VDD_IN", "quantity": "voltage", "unit": "mV", "chip": "1-0040",
     "source": "in1_input", "shunt_uohm": None, "lsb": 8.0},
    {"index": 1, "rail": "VDD_IN", "quantity": "current", "unit": "mA", "chip": "1-0040",
     "source": "curr1_input", "shunt_uohm": 5000, "lsb": 8.0},
]  # fmt: skip
_TOTAL = {
    "rails": ["VDD_IN"],
    "contains": "the module",
    "excludes": "the carrier board",
    "source": "synthetic",
}


def build_run(dataset: Path, inferences: int, step_ns: int) -> Path:
    """Write the recording as a run and return its directory."""
    random = np.random.default_rng(0)
    config = RunConfig(
        "resnet18", "tensorrt", "float16", "cuda:0", (1, 3, 224, 224), runs=inferences,
        sensor="ina3221",
    )  # fmt: skip
    request = {
        "config": config.to_json(), "config_sha256": identity_sha256(config),
        "machine": {"board_id": "synthetic"}, "board_id": "synthetic", "power_mode": None,
        "weights": "pretrained", "input": {"kind": "normal", "seed": 0},
        "versions": {"edgejoule": "synthetic"}, "started_at": "2024-11-21T05:20:04Z",
    }  # fmt: skip
    set_defaults_if_absent(dataset, defaults_of(config))
    partial = create_partial(dataset, "resnet18", request)
    duration_ns, start_ns = _layer_times(random, inferences, step_ns)
    phases = _write_passes(partial, duration_ns, start_ns, random)
    _write_power(partial, phases, random)
    engine = {
        "backend": "tensorrt", "versions": {}, "settings": {}, "start_offsets": False,
        "overlap": False, "layers": [_layer(index) for index in range(LAYERS_COUNT)],
    }  # fmt: skip
    write_json(partial / "engine.json", engine)
    convert(partial)
    summary = _close(partial, phases, inferences)
    run = {
        **request, "status": "complete", "missing": [],
        "sensor": {"name": "ina3221", "simulated": False, "channels": _CHANNELS, "total": _TOTAL},
        "simulated": False, "summary": summary, "phases": phases,
        "clock": {"wall_anchor": {"monotonic_ns": 0, "wall_ns": _WALL_NS}},
    }  # fmt: skip
    return finish(partial, run, "resnet18")


def _layer_times(
    random: np.random.Generator, inferences: int, step_ns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return durations and starts within the inference, ns, both (inferences, layers)."""
    median = np.exp(random.uniform(*np.log(MEDIAN_US), LAYERS_COUNT)) * 1e3
    clock = np.exp(random.normal(0, CLOCK, (inferences, 1)))
    found = median * clock * np.exp(random.normal(0, JITTER, (inferences, LAYERS_COUNT)))
    duration = np.maximum(np.rint(found / step_ns).astype(np.int64), 1) * step_ns
    gap = random.integers(500, 2500, duration.shape)
    return duration, np.cumsum(duration + gap, axis=1) - duration


def _layer(index: int) -> dict[str, Any]:
    """Return a layer of `engine.json`, named about as long as TensorRT names what it fuses."""
    block, part = divmod(index, 4)
    name = f"/layer{block}/conv{part}/Conv + PWN(PWN(/layer{block}/relu{part}/Relu))"
    shape = {"shape": [1, 64, 56, 56], "dtype": "float16"}
    return {
        "index": index, "name": name, "type": "CaskConvolution", "operation": "convolution",
        "inputs": [{"name": f"in{index}", **shape}], "outputs": [{"name": f"out{index}", **shape}],
        "kernel": [3, 3], "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1,
        "weights": 36928, "tactic": "sm80_xmma_fprop_implicit_gemm_f16", "fused": ["Conv", "Relu"],
        "nodes": [name], "modules": [f"layer{block}"], "module_path": f"layer{block}",
        "flops": 231211008, "bytes_moved": 877056, "attributes": {},
    }  # fmt: skip


def _append(partial: Path, kind: RecordKind, header: dict[str, Any], records: np.ndarray) -> None:
    path = partial / f"{kind.name}.bin"
    RecordWriter(path, kind, header).close()
    with path.open("ab") as file:
        records.tofile(file)


def _records(kind: RecordKind, rows: int, **columns: Any) -> np.ndarray:
    found = np.zeros(rows, [(name, code) for name, code in kind.fields])
    for name, values in columns.items():
        found[name] = values
    return found


def _write_passes(
    partial: Path, duration_ns: np.ndarray, start_ns: np.ndarray, random: np.random.Generator
) -> list[dict[str, Any]]:
    """Write inferences and layers; return the phases that they lie in."""
    profiled_ns = (start_ns + duration_ns)[:, -1] + random.integers(20_000, 40_000, len(start_ns))
    t_ns, phases, blocks = 10_000_000_000, [], []

    def phase(name: str, length_ns: int) -> None:
        nonlocal t_ns
        phases.append({"phase": name, "start_ns": t_ns, "end_ns": t_ns + length_ns})
        t_ns += length_ns

    phase("idle_before", IDLE_NS)
    phase("idle_loaded_before", IDLE_NS // 12)
    for name, count in {**INFERENCE_COUNTS, "profiled": len(profiled_ns)}.items():
        span_ns = np.resize(profiled_ns, count)
        begin_ns = t_ns + np.cumsum(span_ns + 5_000) - span_ns
        blocks.append(
            _records(
                INFERENCES, count, start_ns=begin_ns, end_ns=begin_ns + span_ns, due_ns=NULL_NS,
                index=np.arange(count), **{"pass": PASSES.index(name)},
            )
        )  # fmt: skip
        phase(name, int((span_ns + 5_000).sum()) + 5_000)
    phase("idle_loaded_after", IDLE_NS // 12)
    _append(partial, INFERENCES, {}, np.concatenate(blocks))
    count, layers = duration_ns.shape
    rows = _records(
        LAYERS, count * layers, start_offset_ns=NULL_NS, duration_ns=duration_ns.ravel(),
        inference=np.repeat(np.arange(count), layers), layer=np.tile(np.arange(layers), count),
    )  # fmt: skip
    _append(partial, LAYERS, {}, rows)
    return phases


def _write_power(partial: Path, phases: list[dict[str, Any]], random: np.random.Generator) -> None:
    """Write the rail's readings: the sensor renews every fifth, so that many are equal."""
    first_ns, last_ns = phases[0]["start_ns"] - LOG_NS, phases[-1]["end_ns"] + 2 * LOG_NS
    t_ns = np.arange(first_ns, last_ns, LOG_NS)
    t_ns = t_ns + random.integers(0, 50_000, len(t_ns))
    busy = np.zeros(len(t_ns), bool)
    for phase in phases:
        if not phase["phase"].startswith("idle"):
            busy |= (t_ns >= phase["start_ns"]) & (t_ns < phase["end_ns"])
    current = np.where(busy, BUSY_MA, IDLE_MA) + 8 * random.integers(-6, 7, len(t_ns))
    renewed = np.arange(len(t_ns)) // 5 * 5
    rows = _records(POWER, 2 * len(t_ns))
    for channel, values in enumerate((np.full(len(t_ns), MV), current[renewed])):
        part = rows[channel::2]
        part["t0_ns"] = t_ns + channel * 30_000
        part["t1_ns"] = part["t0_ns"] + 25_000
        part["raw"], part["channel"] = values, channel
    header = {
        "channels": _CHANNELS, "sensor": "ina3221", "simulated": False, "refresh_ns": 5 * LOG_NS,
        "configuration": {}, "total": _TOTAL,
        "wall_anchor": {"monotonic_ns": 0, "wall_ns": _WALL_NS},
    }  # fmt: skip
    _append(partial, POWER, header, rows)


def _close(partial: Path, phases: list[dict[str, Any]], inferences: int) -> dict[str, Any]:
    """Write energies and baselines as every run does; return the summary."""
    spans = [PhaseSpan(**phase) for phase in phases]
    passes = read_inferences(partial / "inferences.parquet")
    sums = sum_layers(partial / "layers.parquet", inferences, LAYERS_COUNT)
    power = read_power(partial / "power.parquet")
    idle = baselines(power, spans)
    write_json(partial / "idle.json", idle)
    rows = attribution(power, passes["profiled"], sums, idle)
    names = list(vars(rows[0]))
    columns = {name: [getattr(row, name) for row in rows] for name in names}
    write_table(partial / "energy.parquet", "energy", columns)
    return {
        "inferences": {name: len(found.index) for name, found in passes.items()},
        "clean": latency(passes["clean"]),
        "profiled": profiled_figures(passes["profiled"], sums),
        "phase_energies": phase_energies(power, spans),
    }


def load_parquet(run: Path) -> pd.DataFrame:
    """Load a run of this project."""
    layers = pq.read_table(run / "layers.parquet", columns=["inference", "layer", "duration_ms"])
    inferences = pq.read_table(
        run / "inferences.parquet", columns=["index", "end_ns"],
        filters=[("pass", "=", "profiled")],
    )  # fmt: skip
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    engine = json.loads((run / "engine.json").read_text(encoding="utf-8"))
    anchor = about["clock"]["wall_anchor"]
    end_ns = inferences["end_ns"].to_numpy() + (anchor["wall_ns"] - anchor["monotonic_ns"])
    which = layers["inference"].to_numpy()
    names = [layer["name"] for layer in engine["layers"]]
    return pd.DataFrame(
        {
            "inference": which,
            "layer": pd.Categorical.from_codes(layers["layer"].to_numpy(), names),
            "duration_ms": layers["duration_ms"].to_numpy(),
            "time": end_ns[which].astype("datetime64[ns]"),
        }
    )


def load_json(folder: Path, *, times: bool = False) -> pd.DataFrame:
    """Load a recording of the older layout, whole."""
    path = folder / "trt_profiling" / "trt_layer_latency.json"
    with path.open(encoding="utf-8") as file:
        found = json.load(file)
    rows = [
        (inference, layer, duration, stamp)
        for layer, pairs in found.items()
        for inference, (duration, stamp) in enumerate(pairs)
    ]
    return _older_frame(rows, times=times)


def load_ijson(folder: Path) -> pd.DataFrame:
    """Load a recording of the older layout as a stream, layer by layer."""
    import ijson

    rows: list[tuple[int, str, float, str]] = []
    with (folder / "trt_profiling" / "trt_layer_latency.json").open("rb") as file:
        for layer, pairs in ijson.kvitems(file, "", use_float=True):
            rows += [(k, layer, duration, stamp) for k, (duration, stamp) in enumerate(pairs)]
    return _older_frame(rows, times=False)


def _older_frame(rows: list[tuple[int, str, float, str]], *, times: bool) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["inference", "layer", "duration_ms", "time"])
    if times:
        frame["time"] = pd.to_datetime(frame["time"], format="%Y%m%d-%H:%M:%S.%f")
    return frame


def same(ours: pd.DataFrame, theirs: pd.DataFrame) -> bool:
    """Say whether both hold the same durations (float32) of the same layers."""
    tables = []
    for frame in (ours, theirs):
        codes = pd.Categorical(frame["layer"].astype(str)).codes
        order = np.lexsort((codes, frame["inference"]))
        tables.append(frame["duration_ms"].to_numpy(np.float32)[order])
    return bool(np.array_equal(*tables))


def bytes_of(folder: Path) -> dict[str, int]:
    """Return the size of each file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def measure(folder: Path, inferences: int, rounds: int, step_ns: int) -> dict[str, Any]:
    """Write both, load both in turns, and return all figures."""
    run = build_run(folder / "ours", inferences, step_ns)
    problems = [finding.problem for finding in verify_run(run).findings]
    if problems:
        raise SystemExit(f"the recording is not right: {problems[0]}")
    exported = export(folder / "ours", folder / "older", zone_of("UTC"))
    older = folder / "older" / exported.runs[0]["run"]
    loaders: dict[str, Callable[[], pd.DataFrame]] = {
        PARQUET: lambda: load_parquet(run),
        JSON_LOAD: lambda: load_json(older),
        JSON_TIMES: lambda: load_json(older, times=True),
        IJSON: lambda: load_ijson(older),
    }
    if not same(loaders[PARQUET](), loaders[JSON_LOAD]()):
        raise SystemExit("the two layouts do not hold the same durations")
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in (*WAYS[number % len(WAYS) :], *WAYS[: number % len(WAYS)]):
            gc.collect()
            began = time.perf_counter()
            frame = loaders[way]()
            seconds[way].append(time.perf_counter() - began)
            rows = len(frame)
            del frame
    load = {way: statistics.median(found) for way, found in seconds.items()}
    ours_bytes, older_bytes = bytes_of(run), bytes_of(older)
    fastest = min(load[way] for way in WAYS if way != PARQUET)
    return {
        "inferences": inferences,
        "layers": LAYERS_COUNT,
        "rows": rows,
        "step_ns": step_ns,
        "rounds": rounds,
        "bytes": {"ours": ours_bytes, "older": older_bytes},
        "bytes_total": {"ours": sum(ours_bytes.values()), "older": sum(older_bytes.values())},
        "load_s": {way: round(value, 4) for way, value in load.items()},
        "load_range_s": {way: [round(min(v), 4), round(max(v), 4)] for way, v in seconds.items()},
        "times_smaller": round(sum(older_bytes.values()) / sum(ours_bytes.values()), 1),
        "times_faster": round(fastest / load[PARQUET], 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}",
        "python": platform.python_version(),
        "versions": {"pandas": pd.__version__, "numpy": np.__version__},
        "date": datetime.date.today().isoformat(),
    }


def report(found: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = [
        f"{found['inferences']} inferences x {found['layers']} layers, clock of {found['step_ns']} "
        f"ns, {found['rounds']} rounds; {found['machine']}, Python {found['python']}, "
        f"{found['date']}",
        f"{'bytes on disk':<44} {'ours':>12} {'older':>12}",
    ]
    for side in ("ours", "older"):
        for name, size in found["bytes"][side].items():
            cells = (f"{size:>12}", "") if side == "ours" else (" " * 12, f"{size:>12}")
            lines.append(f"  {name:<42} {cells[0]} {cells[1]}".rstrip())
    total = found["bytes_total"]
    lines.append(f"{'all':<44} {total['ours']:>12} {total['older']:>12}")
    lines.append(f"{'load to a data frame':<24} {'median s':>9} {'least':>9} {'most':>9}")
    for way, value in found["load_s"].items():
        least, most = found["load_range_s"][way]
        lines.append(f"  {way:<22} {value:>9.3f} {least:>9.3f} {most:>9.3f}")
    lines.append(
        f"{found['times_smaller']} times smaller (asked: {SMALLER:g}), {found['times_faster']} "
        f"times faster than the fastest reader of the older layout (asked: {FASTER:g})"
    )
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark; exit 1 if a ratio of the whole recording is below what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--quick", action="store_true", help="3000 inferences, within a minute")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--step-ns", type=int, default=1, help="the profiler's clock (default: 1)")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgejoule-", dir=arguments.folder) as folder:
        inferences = 3_000 if arguments.quick else 30_000
        found = measure(Path(folder), inferences, arguments.rounds, arguments.step_ns)
    print(json.dumps(found) if arguments.json else report(found))
    if arguments.quick:  # what was asked for is of the whole recording
        return 0
    return int(found["times_smaller"] < SMALLER or found["times_faster"] < FASTER)


if __name__ == "__main__":
    sys.exit(main())
