#!/usr/bin/env python3
"""Layer times of the torch backend on a GPU beside torch.profiler's, for each node of a network.

    python benchmarks/torch_layers.py [--model resnet50] [--batch 1 64] [--dtype float16 float32]
                                      [--device cuda:0] [--rounds N] [--quick] [--json]

Ours: CUDA events around each node of the exported program, behind a delay, less what the events
cost (`edgejoule/inference/torch_gpu_profiler.py`), as a run records them. Theirs: torch.profiler
(CUPTI) over the same nodes run one by one; a node's time is the sum of the kernels, copies and
fills whose launches lie within its `record_function`. Both in turns in one process, medians over
all inferences. Also printed: the time without the delay, as events alone would have it; and the
latency of a whole inference, eager and as a CUDA graph.

Needs an NVIDIA GPU, torch and torchvision. Takes a minute or two, with --quick under one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edgejoule.errors import UsageError, run_command  # noqa: E402
from edgejoule.inference.backend import BuildOptions  # noqa: E402
from edgejoule.inference.inputs import make_inputs  # noqa: E402
from edgejoule.inference.torch_backend import TorchBackend  # noqa: E402
from edgejoule.inference.torch_profiler import item_of  # noqa: E402
from edgejoule.inference.workload import ModelRequest  # noqa: E402

SUM_WITHIN = 0.05
RANK_LEAST = 0.98
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


def run_nodes(program: Any, inputs: Any, before: Any, after: Any) -> None:
    """Run a program node by node."""
    environment = program.start(inputs)
    for index, step in enumerate(program.steps):
        args, kwargs = program.arguments(step, environment)
        before(index)
        value = step.function(*args, **kwargs)
        after(index)
        for path, slot in step.items:
            environment[slot] = item_of(value, path)
        environment[step.out] = value
        del args, value
        for slot in step.free:
            environment[slot] = None


def traced(session: Any, inferences: int) -> tuple[np.ndarray, np.ndarray]:
    """Return device time (us) and kernels of each node by torch.profiler, (inferences, nodes)."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    program, inputs = session._program, session._sets[0]
    nodes = len(program.steps)
    marks: dict[int, Any] = {}

    def enter(index: int) -> None:
        marks[index] = record_function(f"node {index}")
        marks[index].__enter__()

    def leave(index: int) -> None:
        marks[index].__exit__(None, None, None)

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        for _ in range(inferences):
            run_nodes(program, inputs, enter, leave)
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        found.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    ranges = sorted(
        (event["ts"], event["ts"] + event["dur"], int(event["name"].split()[1]))
        for event in events
        if event.get("cat") == "user_annotation" and event["name"].startswith("node ")
    )
    if len(ranges) != inferences * nodes:
        raise UsageError(f"torch.profiler saw {len(ranges)} of {inferences * nodes} nodes")
    starts = [begin for begin, _, _ in ranges]
    launched = {
        event["args"]["correlation"]: event["ts"]
        for event in events
        if event.get("cat") in ("cuda_runtime", "cuda_driver")
    }
    times, counts = np.zeros((inferences, nodes)), np.zeros((inferences, nodes), dtype=int)
    for event in events:
        if event.get("cat") in ON_DEVICE:
            when = launched[event["args"]["correlation"]]
            place = bisect_right(starts, when) - 1
            begin, end, node = ranges[place]
            if not begin <= when <= end or node != place % nodes:
                raise UsageError("torch.profiler saw a kernel that no node launched")
            times[place // nodes, node] += event["dur"]
            counts[place // nodes, node] += 1
    return times, counts


def ours(session: Any, profiler: Any, inferences: int) -> np.ndarray:
    """Return the layer times (us) of one chunk, (inferences, layers)."""
    profiler.start(inferences)
    spans = []
    for _ in range(inferences):
        begin = time.monotonic_ns()
        profiler.infer(0)
        spans.append((begin, time.monotonic_ns()))
        profiler.after()
    times = profiler.harvest(spans)
    table: np.ndarray = times.duration_ns.reshape(inferences, len(session._program.steps)) / 1e3
    return table


def plain_events(session: Any, inferences: int) -> np.ndarray:
    """Return what events around nodes say where nothing holds the GPU back, us."""
    import torch

    nodes = len(session._program.steps)
    event: Any = torch.cuda.Event
    pairs = [(event(enable_timing=True), event(enable_timing=True)) for _ in range(nodes)]
    found = []
    for _ in range(inferences):
        run_nodes(
            session._program,
            session._sets[0],
            lambda index: pairs[index][0].record(),
            lambda index: pairs[index][1].record(),
        )
        torch.cuda.synchronize()
        found.append([first.elapsed_time(second) * 1e3 for first, second in pairs])
    return np.array(found)


def latency_us(session: Any, inferences: int) -> float:
    """Return the median latency of whole inferences."""
    found = []
    for _ in range(inferences):
        begin = time.monotonic_ns()
        session.infer(0)
        found.append((time.monotonic_ns() - begin) / 1e3)
    return statistics.median(found)


def compare(model: str, dtype: str, batch: int, device: str, rounds: int, per: int) -> Any:
    """Build a network and measure it both ways."""
    from scipy.stats import spearmanr

    import model as zoo

    backend = TorchBackend()
    options = BuildOptions(dtype, device=device)
    with tempfile.TemporaryDirectory() as folder:
        request = ModelRequest(model, "random", 0, (batch, 3, 224, 224), "torch", Path(folder))
        loaded = zoo.load(request)
        engine = backend.build(loaded, options, Path(folder))
        session: Any = backend.open(Path(folder), options)
        replayed: Any = backend.open(
            Path(folder), BuildOptions(dtype, device=device, extra={"cuda_graphs": True})
        )
    sets, _ = make_inputs("normal", loaded.inputs, None, 0, sets=1)
    session.bind(sets)
    replayed.bind(sets)
    for _ in range(50):
        session.infer(0)
        replayed.infer(0)
    profiler = session.profiler()
    mine, theirs, kernels, plain = [], [], [], []
    eager_us, graph_us = [], []
    for _ in range(rounds):
        eager_us.append(latency_us(session, per))
        graph_us.append(latency_us(replayed, per))
        mine.append(ours(session, profiler, per))
        plain.append(plain_events(session, per))
        times, counts = traced(session, per)
        theirs.append(times)
        kernels.append(counts)
    facts = profiler.facts()
    a, b = np.median(np.concatenate(mine), axis=0), np.median(np.concatenate(theirs), axis=0)
    raw = np.median(np.concatenate(plain), axis=0)
    counted = np.median(np.concatenate(kernels), axis=0).astype(int)
    ratio, rank = float(a.sum() / b.sum()), float(spearmanr(a, b).statistic)
    worst = sorted(range(len(a)), key=lambda index: -abs(a[index] - b[index]))[:5]
    session.close()
    replayed.close()
    return {
        "dtype": dtype,
        "batch": batch,
        "layers": len(a),
        "kernels": int(counted.sum()),
        "kernels_counted_alike": sum(
            layer.attributes.get("kernels") == count
            for layer, count in zip(engine.layers, counted.tolist(), strict=True)
        ),
        "inferences": rounds * per,
        "ours_us": round(float(a.sum()), 2),
        "torch_profiler_us": round(float(b.sum()), 2),
        "ratio": round(ratio, 4),
        "rank_correlation": round(rank, 4),
        "met": abs(ratio - 1) <= SUM_WITHIN and rank >= RANK_LEAST,
        "median_difference_us": round(float(np.median(np.abs(a - b))), 3),
        "events_without_delay": {
            "us": round(float(raw.sum()), 2),
            "ratio": round(float(raw.sum() / b.sum()), 4),
            "rank_correlation": round(float(spearmanr(raw, b).statistic), 4),
        },
        "latency_us": {
            "eager": round(statistics.median(eager_us), 1),
            "cuda_graph": round(statistics.median(graph_us), 1),
        },
        "worst": [
            {
                "layer": engine.layers[index].name,
                "type": engine.layers[index].type,
                "kernels": int(counted[index]),
                "ours_us": round(float(a[index]), 2),
                "torch_profiler_us": round(float(b[index]), 2),
            }
            for index in worst
        ],
        "rounds": {
            "ours_us": [round(float(np.median(one, axis=0).sum()), 2) for one in mine],
            "torch_profiler_us": [round(float(np.median(one, axis=0).sum()), 2) for one in theirs],
        },
        "per_layer": {
            "names": [layer.name for layer in engine.layers],
            "kernels": counted.tolist(),
            "ours_us": np.round(a, 3).tolist(),
            "torch_profiler_us": np.round(b, 3).tolist(),
        },
        "event_cost": facts["profiler_event_cost"],
        "delay_us": round(facts["profiler_delay_ns"] / 1e3, 1),
        "late_inferences": facts["profiler_late_inferences"],
    }


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"{result['gpu']}, driver {result['driver']}, torch {result['torch']}, CUDA "
          f"{result['cuda']}; {result['model']}, weights random, layer sums in us\n")  # fmt: skip
    print(f"{'dtype':9} {'batch':>5} {'layers':>6} {'kernels':>7} {'ours':>9} {'torch.prof.':>11} "
          f"{'ratio':>7} {'rank':>7} {'met':>4} | {'no delay':>9} {'rank':>7} | {'eager':>9} "
          f"{'graph':>9} | {'late':>9}")  # fmt: skip
    for row in result["rows"]:
        bare, whole = row["events_without_delay"], row["latency_us"]
        print(f"{row['dtype']:9} {row['batch']:>5} {row['layers']:>6} {row['kernels']:>7} "
              f"{row['ours_us']:>9} {row['torch_profiler_us']:>11} {row['ratio']:>7} "
              f"{row['rank_correlation']:>7} {'yes' if row['met'] else 'NO':>4} | "
              f"{bare['ratio']:>9} {bare['rank_correlation']:>7} | {whole['eager']:>9} "
              f"{whole['cuda_graph']:>9} | "
              f"{row['late_inferences']:>3} of {row['inferences']}")  # fmt: skip
    for row in result["rows"]:
        cost = row["event_cost"]
        print(f"\n{row['dtype']}, batch {row['batch']}: delay {row['delay_us']} us; taken off a "
              f"node of no kernel {cost['empty_ns']:.0f} ns, of one {cost['first_ns']:.0f}, per "
              f"further one {cost['further_ns']:.0f} ({cost['how']}); median difference "
              f"{row['median_difference_us']} us; furthest apart:")  # fmt: skip
        for one in row["worst"]:
            print(f"    {one['layer']:24} {one['type']:32} {one['kernels']} kernels  ours "
                  f"{one['ours_us']:>8}  torch.profiler {one['torch_profiler_us']:>8}")  # fmt: skip


def main() -> int:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="resnet50", help="default: %(default)s")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64], help="default: 1 64")
    parser.add_argument("--dtype", nargs="+", default=["float16", "float32"],
                        help="default: float16 float32")  # fmt: skip
    parser.add_argument("--device", default="cuda:0", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=10, help="default: %(default)s")
    parser.add_argument(
        "--quick", action="store_true", help="float16, three rounds: under a minute"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    arguments = parser.parse_args()

    def run() -> None:
        import torch

        if not torch.cuda.is_available():
            raise UsageError("no NVIDIA GPU that torch can use", "run it where there is one")
        rounds, dtypes = arguments.rounds, arguments.dtype
        if arguments.quick:
            rounds, dtypes = 3, ["float16"]
        rows = [
            compare(arguments.model, dtype, batch, arguments.device, rounds, 20)
            for dtype in dtypes
            for batch in arguments.batch
        ]
        result = {
            "gpu": torch.cuda.get_device_name(arguments.device),
            "driver": driver_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "model": arguments.model,
            "rows": rows,
        }
        if arguments.json:
            print(json.dumps(result))
        else:
            show(result)

    return run_command(run)


def driver_version() -> str | None:
    """Return the kernel driver's version, None where NVML does not say."""
    from edgejoule.errors import EdgejouleError
    from edgejoule.power.nvml import NvmlSensor

    try:
        sensor = NvmlSensor()
        version = sensor.configuration().get("driver")
        sensor.close()
    except (EdgejouleError, OSError):
        return None
    return None if version is None else str(version)


if __name__ == "__main__":
    sys.exit(main())
