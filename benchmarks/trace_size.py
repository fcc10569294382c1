#!/usr/bin/env python3
"""Size, time and memory of a timeline: `report.py trace` beside the package's own builder.

    python benchmarks/trace_size.py [--quick] [--json] [--rounds 3]

A synthetic run, 30 000 inferences x 60 layers with attributes and energies as a real one has them,
and a minute of power of three rails, is written as a Perfetto trace in three ways, in turns, each
in a process of its own:

    all          every inference (`--inferences all`)
    default      as many as `report.py trace` takes by itself
    builder      every inference by `perfetto.trace_builder`, one message per packet, names as text,
                 slices alone: no attributes, no counters. With a tenth of the inferences, because
                 it holds the whole trace in memory.

Figures are medians over the rounds: CPU time, the file's size, greatest memory of the process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edgejoule.dataset.schema import read_metadata, write_table  # noqa: E402
from edgejoule.report.trace.selection import Selection  # noqa: E402
from edgejoule.report.trace.write import write_trace  # noqa: E402
from tests.support_dataset import build_run  # noqa: E402

LAYERS = 60
FIRST_NS = 10_000_000_000
OPERATIONS = ("convolution", "elementwise", "normalisation", "pooling", "dense")


def make_run(dataset: Path, inferences: int) -> Path:
    """Return a run of so many inferences."""
    run = build_run(dataset, layer_ns=[100_000] * LAYERS, profiled=2, rails=(("VDD_IN", 1000),),
                    simulated=True)  # fmt: skip
    engine = json.loads((run / "engine.json").read_text())
    for place, layer in enumerate(engine["layers"]):
        tensor = {"name": "t", "shape": [1, 64, 56, 56], "dtype": "float16"}
        layer |= {
            "name": f"features.{place}.conv + features.{place}.relu",
            "operation": OPERATIONS[place % len(OPERATIONS)],
            "module_path": f"features.{place}",
            "inputs": [tensor],
            "outputs": [tensor],
            "flops": 231_211_008,
            "bytes_moved": 1_679_616,
            "tactic": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128",
        }
    (run / "engine.json").write_text(json.dumps(engine))
    random = np.random.default_rng(0)
    median = np.exp(random.uniform(np.log(3e3), np.log(400e3), LAYERS))
    duration = median * (1 + 0.03 * random.standard_normal((inferences, LAYERS)))
    offset = np.cumsum(duration + 500, axis=1) - duration
    length = (offset[:, -1] + duration[:, -1] + 2000).astype(np.int64)
    start = FIRST_NS + np.cumsum(length + 5000) - length
    number = np.arange(inferences)
    write_table(
        run / "inferences.parquet",
        "inferences",
        {
            "pass": ["profiled"] * inferences,
            "index": number,
            "start_ns": start,
            "end_ns": start + length,
            "due_ns": [None] * inferences,
        },
    )
    write_table(
        run / "layers.parquet",
        "layers",
        {
            "inference": np.repeat(number, LAYERS),
            "layer": np.tile(np.arange(LAYERS), inferences),
            "duration_ms": (duration * 1e-6).astype(np.float32).ravel(),
            "start_offset_ns": offset.astype(np.int64).ravel(),
        },
    )
    _write_power(run / "power.parquet", random)
    return run


def _write_power(path: Path, random: np.random.Generator) -> None:
    """A minute of three rails, voltage and current every 6.6 ms."""
    metadata = read_metadata(path)
    channel = {"chip": "1-0040", "source": "in", "shunt_uohm": 5000, "lsb": 8.0}
    metadata["channels"] = [
        {**channel, "index": place, "rail": f"VDD_{place // 2}",
         "quantity": "current" if place % 2 else "voltage", "unit": "mA" if place % 2 else "mV"}
        for place in range(6)
    ]  # fmt: skip
    count = 60_000 // 7 * 6
    t0_ns = FIRST_NS + np.arange(count) // 6 * 6_600_000 + np.arange(count) % 6 * 3000
    columns = {
        "t0_ns": t0_ns,
        "t1_ns": t0_ns + 2500,
        "channel": np.arange(count) % 6,
        "raw": random.integers(1000, 5000, count),
        "errno": [None] * count,
    }
    write_table(path, "power", columns, **metadata)


def by_builder(run: Path, target: Path) -> int:
    """Write the slices by the package's builder and return how many there are."""
    import pyarrow.parquet as pq
    from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb
    from perfetto.trace_builder.proto_builder import TraceProtoBuilder

    builder = TraceProtoBuilder()
    track = builder.add_packet().track_descriptor
    track.uuid, track.name = 1, "layers"
    begin, end = pb.TrackEvent.TYPE_SLICE_BEGIN, pb.TrackEvent.TYPE_SLICE_END
    names = [one["name"] for one in json.loads((run / "engine.json").read_text())["layers"]]

    def event(t_ns: int, kind: Any, name: str | None = None) -> None:
        packet = builder.add_packet()
        packet.timestamp = t_ns
        packet.trusted_packet_sequence_id = 1
        packet.track_event.type = kind
        packet.track_event.track_uuid = 1
        if name is not None:
            packet.track_event.name = name

    inferences = pq.read_table(run / "inferences.parquet").to_pylist()
    layers = pq.read_table(run / "layers.parquet").to_pylist()
    for place, inference in enumerate(inferences):
        event(inference["start_ns"], begin, "inference (profiled)")
        for row in layers[place * LAYERS : (place + 1) * LAYERS]:
            start = inference["start_ns"] + row["start_offset_ns"]
            event(start, begin, names[row["layer"]])
            event(start + round(row["duration_ms"] * 1e6), end)
        event(inference["end_ns"], end)
    target.write_bytes(builder.serialize())
    return len(inferences) + len(layers)


def once(how: str, run: Path, target: Path) -> dict[str, float]:
    """Write once, and return slices, bytes, CPU seconds and greatest memory."""
    begin = time.process_time()
    if how == "builder":
        slices = by_builder(run, target)
    else:
        selection = Selection(every=True) if how == "all" else None
        written = write_trace(run, target, selection, overwrite=True)
        slices = written.inferences + written.layers
    seconds = time.process_time() - begin
    return {
        "slices": slices,
        "mb": target.stat().st_size / 1e6,
        "cpu_s": seconds,
        "peak_mib": peak_mib(),
    }


def peak_mib() -> float:
    """Return this process's greatest memory; `getrusage` would count its parent's before exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) / 1024


def measure(inferences: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row per way."""
    with tempfile.TemporaryDirectory() as folder:
        whole = make_run(Path(folder) / "whole", inferences)
        tenth = make_run(Path(folder) / "tenth", max(1, inferences // 10))
        ways = {"all": whole, "default": whole, "builder": tenth}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, run in ways.items():
                # A process of its own, so that one way's memory is not the next one's.
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    found[name].append(pool.apply(once, (name, run, Path(folder) / "trace")))
    rows = []
    for name, results in found.items():
        middle = {key: statistics.median(one[key] for one in results) for key in results[0]}
        rows.append(
            {
                "way": name,
                "slices": int(middle["slices"]),
                "mb": round(middle["mb"], 1),
                "bytes_per_slice": round(middle["mb"] * 1e6 / middle["slices"], 1),
                "cpu_s": round(middle["cpu_s"], 2),
                "us_per_slice": round(middle["cpu_s"] * 1e6 / middle["slices"], 2),
                "peak_mib": round(middle["peak_mib"]),
            }
        )
    return rows


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--quick", action="store_true", help="1500 inferences, one round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: %(default)s)")
    arguments = parser.parse_args()
    inferences = 1500 if arguments.quick else 30_000
    rounds = 1 if arguments.quick else arguments.rounds
    rows = measure(inferences, rounds)
    if arguments.json:
        print(json.dumps({"inferences": inferences, "layers": LAYERS, "rounds": rounds,
                          "machine": platform.machine(), "rows": rows}))  # fmt: skip
        return 0
    print(f"{inferences} inferences x {LAYERS} layers, {rounds} rounds, interleaved")
    header = list(rows[0])
    print("  ".join(f"{name:>15}" for name in header))
    for row in rows:
        print("  ".join(f"{row[name]!s:>15}" for name in header))
    return 0


if __name__ == "__main__":
    sys.exit(main())
