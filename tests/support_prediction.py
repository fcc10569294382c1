"""Networks whose layers obey a known law, as rows of the tidy table and as runs of a dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgejoule.dataset.tables.layer_features import layer_features
from edgejoule.prediction.fitting import Training, training_of
from edgejoule.prediction.source import RunTotals
from tests.support_dataset import Plan, build_run, reseal

POWER_MW = 5000.0


def convolution(
    index: int, channels: int, outputs: int, size: int, groups: int = 1
) -> dict[str, Any]:
    """A convolution of 3 x 3 as it stands in engine.json."""
    weights = outputs * (channels // groups) * 9
    elements_in, elements_out = channels * size * size, outputs * size * size
    return {
        "index": index,
        "name": f"conv{index}",
        "type": "Conv",
        "operation": "convolution",
        "inputs": [{"name": f"x{index}", "shape": [1, channels, size, size], "dtype": "float32"}],
        "outputs": [
            {"name": f"x{index + 1}", "shape": [1, outputs, size, size], "dtype": "float32"}
        ],
        "kernel": [3, 3],
        "stride": [1, 1],
        "padding": [1, 1],
        "dilation": [1, 1],
        "groups": groups,
        "weights": weights,
        "tactic": None,
        "fused": ["Conv"],
        "nodes": [],
        "modules": [],
        "module_path": None,
        "flops": 2 * elements_out * (channels // groups) * 9,
        "bytes_moved": 4 * (elements_in + elements_out + weights),
        "attributes": {},
    }


def activation(index: int, channels: int, size: int) -> dict[str, Any]:
    """A Relu as it stands in engine.json."""
    shape = [1, channels, size, size]
    layer = convolution(index, channels, channels, size)
    return {
        **layer,
        "name": f"relu{index}",
        "type": "Relu",
        "operation": "activation",
        "inputs": [{"name": f"x{index}", "shape": shape, "dtype": "float32"}],
        "outputs": [{"name": f"x{index + 1}", "shape": shape, "dtype": "float32"}],
        **dict.fromkeys(("kernel", "stride", "padding", "dilation", "groups")),
        "weights": 0,
        "fused": ["Relu"],
        "flops": channels * size * size,
        "bytes_moved": 8 * channels * size * size,
    }


def layers_of_network(number: int) -> list[dict[str, Any]]:
    """Pairs of a convolution and a Relu, other widths and sizes in each network."""
    rng = np.random.default_rng(number)
    layers: list[dict[str, Any]] = []
    channels = 3
    for _ in range(6):
        outputs, size = int(rng.integers(4, 64)) * 4, int(rng.integers(7, 56))
        layers.append(convolution(len(layers), channels, outputs, size))
        layers.append(activation(len(layers), outputs, size))
        channels = outputs
    return layers


def law_ms(layer: dict[str, Any]) -> float:
    """What a layer takes: so much per layer, per FLOP, per byte."""
    return float(0.01 + layer["flops"] * 2e-9 + layer["bytes_moved"] * 3e-8)


def training(
    count: int = 6, *, method: str | None = None, factor: dict[str, float] | None = None
) -> Training:
    """Networks `net0`, `net1`, ... as a training set.

    Args:
        count: How many.
        method: Method of attribution that told the layers' power apart; None: no power of layers.
        factor: Network -> what its times and powers are multiplied by.
    """
    rows: list[dict[str, Any]] = []
    runs: dict[str, RunTotals] = {}
    for number in range(count):
        name = f"net{number}"
        times = (factor or {}).get(name, 1.0)
        layers = layers_of_network(number)
        rows += [
            {
                "run": name,
                "network": name,
                "layer": layer["index"],
                "layer_name": layer["name"],
                "layer_type": layer["type"],
                "operation": layer["operation"],
                **layer_features(layer),
                "runtime_ms": law_ms(layer) * times,
                "energy_method": method,
                "energy_resolved": True if method else None,
                "power_gross_mw": POWER_MW * times * (2 if layer["type"] == "Conv" else 1),
                "power_dynamic_mw": None,
            }
            for layer in layers
        ]
        latency = 1.2 * sum(map(law_ms, layers)) + 0.02 * len(layers)
        runs[name] = RunTotals(
            name, name, "0" * 64, latency * times, (POWER_MW + 100 * number) * times, None
        )
    return training_of(rows, runs)


def build_dataset(
    dataset: Path, numbers: Sequence[int] = range(4), *, simulated: bool = False, **changes: Any
) -> None:
    """Write runs of such networks, with power on one rail by the proportional method."""
    for number in numbers:
        layers = layers_of_network(number)
        layer_ns = [round(law_ms(layer) * 1e6) for layer in layers]
        plan = Plan(
            model=f"net{number}", warmup=1, clean=2, profiled=2, layer_ns=layer_ns,
            gap_ns=100_000, rails=(("VDD", 1000),), sample_ns=20_000_000, simulated=simulated,
        )  # fmt: skip
        run = build_run(dataset, plan)
        engine = json.loads((run / "engine.json").read_text(encoding="utf-8"))
        engine["layers"] = layers
        (run / "engine.json").write_text(json.dumps(engine), encoding="utf-8")
        summary = json.loads((run / "run.json").read_text(encoding="utf-8"))["summary"]
        latency = plan.span_ns * 1e-6
        clean = {
            "gross_mj": POWER_MW * latency * 1e-3,
            "dynamic_mj": 0.8 * POWER_MW * latency * 1e-3,
        }
        summary["clean"] = {"mean_ms": latency, "median_ms": latency}
        summary["energy"] = {"rails": {"VDD": {"clean": clean}}}
        reseal(run, summary=summary, **changes)
