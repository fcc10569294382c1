"""What an experiment will do, how long it takes and how much it writes, before it starts.

An estimate says what it rests on. In order: earlier runs of the same network with the same backend
in the dataset; the network's operations over how fast this machine multiplies matrices just now;
a plain assumption.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgejoule.describing import described, listed
from edgejoule.energy_methods import DEFAULT_OBSERVER_S, Methods
from edgejoule.errors import UsageError
from edgejoule.knobs import Knobs
from edgejoule.report.progress import duration
from edgejoule.report.text import printable

# What is assumed where nothing is known; round numbers, said to the user as assumptions.
ASSUMED_MS = {"cpu": 50.0, "gpu": 5.0}
ASSUMED_GPU_GFLOPS = 1000.0
CPU_EFFICIENCY = 0.4  # networks against a plain matrix product
ASSUMED_LAYERS = 100
PROFILED_OVER_CLEAN = 1.2
SETUP_S = {"cpu": 15.0, "gpu": 90.0}
PROCESS_S = 8.0  # starts and ends of processes, conversion
OBSERVER_SHARE = 0.25  # of the clean pass, at most
WAIT_SHARE, LONGEST_WAIT_S = 0.25, 3e-3  # the longest wait between profiled inferences
LAYER_RECORD_B = 24  # while it is measured
LAYER_ROW_B = 8  # in Parquet
POWER_B_PER_S = 30_000  # three rails, two values each, at the hardware's refresh


@dataclass(frozen=True)
class Network:
    """A network of the experiment.

    Attributes:
        spec: As it is given to `--model`.
        name: Its name in run names.
        input_shape: For BATCH above 1, the shape with that batch; else None.
        download_mib: Weights that are not here yet.
        gflops: Operations of one inference at the asked batch, None if unknown.
        there: Whether the dataset has a run of this name.
        forms: The forms it can be loaded in here: `torch`, `onnx`.
    """

    spec: str
    name: str
    input_shape: tuple[int, ...] | None = None
    download_mib: float = 0.0
    gflops: float | None = None
    there: bool = False
    forms: tuple[str, ...] = ("torch", "onnx")


@dataclass(frozen=True)
class Estimate:
    """Time and size of what is still to do, and what that rests on.

    Attributes:
        seconds: Of all that is still to do.
        final_mib: What it leaves on the disk.
        peak_mib: What it takes there besides while it runs.
        basis: What the estimate rests on.
        networks: Seconds by network, without those that are there.
    """

    seconds: float
    final_mib: float
    peak_mib: float
    basis: str
    networks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """What an earlier run of a network tells: ms per clean and per profiled inference, layers."""

    clean_ms: float
    profiled_ms: float
    layers: int = field(default=ASSUMED_LAYERS)


def experiment_networks(reference: str) -> tuple[str, ...]:
    """Return the default list of networks, named `package:ATTRIBUTE`.

    Raises:
        UsageError: No such package or list.
    """
    package, _, attribute = reference.partition(":")
    return listed(f"{package}:{attribute or 'EXPERIMENT'}")


def choose_networks(
    knobs: Knobs, networks: Sequence[str], describe: str = "model:describe"
) -> list[Network]:
    """Describe each network of the experiment, without importing a framework or any of its code.

    Raises:
        UsageError: An unknown network, or BATCH with one whose shape is not known.
    """
    found = []
    for spec, facts in zip(networks, described(describe, networks), strict=True):
        shape = None
        if knobs.batch > 1:
            if facts.input_shape is None:
                raise UsageError(
                    f"BATCH={knobs.batch}: the input shape of {spec} is not known",
                    "measure it with measure_inference_power.py --input-shape",
                )
            shape = (knobs.batch, *facts.input_shape[1:])
        found.append(
            Network(
                spec,
                facts.name,
                shape,
                facts.download_mib if knobs.weights == "pretrained" else 0.0,
                None if facts.gflops is None else facts.gflops * knobs.batch,
                (knobs.result_dir / facts.name / "run.json").exists(),
                facts.forms,
            )
        )
    return found


def history(dataset: Path, backend: str | None) -> dict[str, History]:
    """Return what complete earlier runs tell, by model; runs that cannot be read tell nothing."""
    found: dict[str, History] = {}
    for path in sorted(dataset.glob("[!.]*/run.json")):
        try:
            run = json.loads(path.read_bytes())
            summary, config = run["summary"], run["config"]
            if run["status"] != "complete" or backend not in (None, config["backend"]):
                continue
            layers = run["files"]["layers.parquet"]["rows"] / summary["profiled"]["inferences"]
            found[config["model"]] = History(
                summary["clean"]["median_ms"], summary["profiled"]["median_ms"], round(layers)
            )
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            continue
    return found


def matrix_gflops(seconds: float = 0.2) -> float:
    """Return how many 1e9 operations a second this machine's matrix product does now (float32)."""
    import numpy as np

    size = 512
    matrix = np.ones((size, size), np.float32)
    matrix @ matrix
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    # The best of many: other programs only ever make it slower.
    return 2 * size**3 / min(times) / 1e9


def estimate(
    knobs: Knobs,
    networks: Sequence[Network],
    known: dict[str, History],
    *,
    gpu: bool,
    gflops_per_s: float | None,
    methods: Methods | None = None,
) -> Estimate:
    """Estimate time and size of the networks that are not there yet.

    Args:
        knobs: The knobs.
        networks: All networks; those that are there count nothing.
        known: Earlier runs by model.
        gpu: Whether a GPU will be used.
        gflops_per_s: What `matrix_gflops` said, None if it was not asked.
        methods: How energy will be split over layers, None: only measured.
    """
    kind = "gpu" if gpu else "cpu"
    speed = ASSUMED_GPU_GFLOPS if gpu else gflops_per_s and gflops_per_s * CPU_EFFICIENCY
    final_b = peak_b = 0.0
    sources = {"earlier": 0, "operations": 0, "assumed": 0}
    by_network: dict[str, float] = {}
    for network in networks:
        if network.there:
            continue
        past = known.get(network.spec)
        layers = past.layers if past else ASSUMED_LAYERS
        if past:
            sources["earlier"] += 1
            clean_ms, profiled_ms = past.clean_ms, past.profiled_ms
        else:
            clean_ms = ASSUMED_MS[kind] * knobs.batch
            sources["operations" if network.gflops and speed else "assumed"] += 1
            if network.gflops and speed:
                clean_ms = network.gflops / speed * 1e3 + 0.2
            profiled_ms = clean_ms * PROFILED_OVER_CLEAN
        clean_s = clean_ms * knobs.clean_runs / 1e3 if knobs.clean_runs else knobs.clean_seconds
        measured_s = clean_s + (profiled_ms * knobs.runs + clean_ms * knobs.warmup) / 1e3
        measured_s += attribution_s(methods, clean_s, profiled_ms * 1e-3, knobs.runs)
        idle_s = 5 * knobs.run_idle_s  # four baselines and a cool-down
        one_s = measured_s + idle_s + PROCESS_S
        by_network[network.spec] = SETUP_S[kind] + knobs.repeats * one_s
        power_b = POWER_B_PER_S * (measured_s + idle_s) if knobs.sensor != "none" else 0.0
        final_b += knobs.repeats * (knobs.runs * layers * LAYER_ROW_B + power_b / 4)
        peak_b = max(peak_b, knobs.runs * layers * LAYER_RECORD_B + power_b)
    told = {
        "earlier": "earlier runs in this dataset",
        "operations": (
            f"operations at an assumed {ASSUMED_GPU_GFLOPS:g} GFLOP/s"
            if gpu
            else f"operations at {speed or 0:.0f} GFLOP/s, "
            f"{CPU_EFFICIENCY:.0%} of a matrix product timed now"
        ),
        "assumed": f"an assumed {ASSUMED_MS[kind]:g} ms per inference",
    }
    basis = "; ".join(f"{count} by {told[key]}" for key, count in sources.items() if count)
    seconds = knobs.idle_duration_s + sum(by_network.values())
    basis = basis or "nothing left to do"
    return Estimate(seconds, final_b / 2**20, peak_b / 2**20, basis, by_network)


def attribution_s(methods: Methods | None, clean_s: float, inference_s: float, runs: int) -> float:
    """Return how much longer a run takes because its energy is split over layers, at most.

    Args:
        methods: How; None: it is not.
        clean_s: Length of the clean pass.
        inference_s: Length of a profiled inference.
        runs: How many of them.
    """
    if methods is None:
        return 0.0
    seconds = min(DEFAULT_OBSERVER_S, OBSERVER_SHARE * clean_s)
    if "window" in methods.names:  # waits of up to this between inferences, half of it on average
        seconds += runs * min(WAIT_SHARE * inference_s, LONGEST_WAIT_S) / 2
    if methods.replay_budget_s is not None:
        seconds += methods.replay_budget_s * (1 if methods.check_attribution is None else 2)
    return seconds


def plan_text(
    knobs: Knobs, networks: Sequence[Network], guess: Estimate, backend: str, device: str
) -> str:
    """Return the plan as it is printed before anything starts."""
    names = ", ".join(printable(network.name) for network in networks)
    there = sum(network.there for network in networks)
    clean = (
        f"{knobs.clean_runs}" if knobs.clean_runs else f"as many as {knobs.clean_seconds:g} s hold"
    )
    repeats = f", {knobs.repeats} repeats" if knobs.repeats > 1 else ""
    push = {
        "each": "each network when it is done",
        "end": "once, at the end",
        "later": "not now; data_version.py push does it later",
        "off": "no",
    }[knobs.push]
    lines = [
        ("networks", f"{len(networks)}: {names}"),
        ("passes", f"warm-up {knobs.warmup}, clean {clean}, profiled {knobs.runs}{repeats}"),
        ("with", f"{backend} on {device}, {knobs.dtype}, batch {knobs.batch}, {knobs.weights}"),
        ("idle", f"{knobs.idle_duration_s:g} s once, 4 x {knobs.run_idle_s:g} s per run"),
        ("into", f"{printable(knobs.result_dir)}, pushed: {push}"),
        ("time", f"about {duration(guess.seconds)}"),
        ("size", f"about {size(guess.final_mib)}, while it runs {size(guess.peak_mib)} more"),
        ("rests on", guess.basis),
    ]
    if there:
        lines.insert(1, ("there", f"{there} already; skipped where the configuration agrees"))
    return "\n".join(["Plan", *(f"  {name:<9} {text}" for name, text in lines)])


def size(mib: float) -> str:
    """Return an amount of memory for people."""
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"
