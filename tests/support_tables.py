"""Finished runs whose layers, times and energies are given number by number.

Built through the same sealing as a measured run; what is not given is `support_dataset`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgejoule.config import defaults_of
from edgejoule.dataset.run_directory import finish, set_defaults_if_absent
from edgejoule.dataset.schema import table_schema, write_table
from edgejoule.files import canonical_json
from tests import support_dataset
from tests.support_dataset import Plan

ONE_RAIL = (("VDD_IN", 1000),)  # 5 W, of which 1 W is idle


def tensor(*shape: int, dtype: str = "float32") -> dict[str, Any]:
    return {"name": "t", "shape": list(shape), "dtype": dtype}


# What LeNet's first layers are, in ONNX Runtime's words.
LAYERS: tuple[dict[str, Any], ...] = (
    {
        "index": 0,
        "name": "conv1",
        "type": "FusedConv",
        "operation": "convolution",
        "module_path": "features.0",
        "inputs": [tensor(1, 1, 32, 32)],
        "outputs": [tensor(1, 6, 28, 28)],
        "kernel": [5, 5],
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 1,
        "weights": 156,
        "flops": 235200,
        "bytes_moved": 23536,
        "fused": ["Conv", "Tanh"],
    },
    {
        "index": 1,
        "name": "pool1",
        "type": "AveragePool",
        "operation": "pooling",
        "module_path": "features.1",
        "inputs": [tensor(1, 6, 28, 28)],
        "outputs": [tensor(1, 6, 14, 14)],
        "kernel": [2, 2],
        "stride": [2, 2],
        "padding": [0, 0],
        "weights": 0,
        "flops": 4704,
        "bytes_moved": 23520,
        "fused": ["AveragePool"],
    },
    {
        "index": 2,
        "name": 'fc, "the last"',
        "type": "Gemm",
        "operation": "dense",
        "module_path": "",
        "inputs": [tensor(1, 84)],
        "outputs": [tensor(1, 10)],
        "weights": 850,
        "flops": 1680,
        "bytes_moved": 3776,
        "fused": [],
    },
)


def build(
    dataset: Path,
    name: str = "lenet",
    *,
    layers: Sequence[Mapping[str, Any]] = LAYERS,
    times_ms: Sequence[Sequence[float]] | None = None,
    energy: Sequence[Mapping[str, Any]] | None = None,
    idle: Sequence[Mapping[str, Any]] | None = None,
    config: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    **plan: Any,
) -> Path:
    """Build a finished run and return its directory.

    Args:
        dataset: The dataset's folder.
        name: The run's name, and the model's.
        layers: `layers` of its engine.json.
        times_ms: Duration of each layer in each profiled inference; None: the plan's.
        energy: Rows of its energy.parquet; None: 5 W split by time, on each rail of the plan.
        idle: Its idle.json; None: a loaded baseline of 1 W on each rail.
        config: Replaces fields of its configuration.
        run: Replaces fields of its run.json.
        plan: Fields of `Plan`; one rail unless said otherwise.
    """
    planned = replace(Plan(), **{"model": name, "rails": ONE_RAIL, **plan})
    if times_ms is not None:
        planned = replace(planned, profiled=len(times_ms))
    set_defaults_if_absent(dataset, defaults_of(support_dataset.config_of(planned)))
    partial = support_dataset.prepare(dataset, planned, name=name)
    engine = json.loads((partial / "engine.json").read_text(encoding="utf-8"))
    (partial / "engine.json").write_bytes(canonical_json({**engine, "layers": list(layers)}))
    if times_ms is not None:
        write_layers(partial, times_ms)
    if energy is not None:
        write_energy(partial, energy)
    if idle is not None:
        (partial / "idle.json").write_bytes(canonical_json(list(idle)))
    document = support_dataset.run_of(planned)
    document["config"] = {**document["config"], **(config or {})}
    return finish(partial, {**document, **(run or {})}, name)


def write_layers(folder: Path, times_ms: Sequence[Sequence[float]]) -> None:
    cells = [(i, k, ms) for i, row in enumerate(times_ms) for k, ms in enumerate(row)]
    write_table(
        folder / "layers.parquet",
        "layers",
        {
            "inference": [cell[0] for cell in cells],
            "layer": [cell[1] for cell in cells],
            "duration_ms": [cell[2] for cell in cells],
            "start_offset_ns": [None] * len(cells),
        },
    )


def energy_row(method: str, rail: str, layer: int | None, **values: Any) -> dict[str, Any]:
    """A row of energy.parquet of kind `layer`, or `gap` without a layer; unknown unless given."""
    unknown = ("gross_statistical_mj", "dynamic_mj", "dynamic_statistical_mj", "systematic_mj")
    row: dict[str, Any] = {
        "method": method,
        "rail": rail,
        "kind": "gap" if layer is None else "layer",
        "layer": layer,
        "gross_mj": 1.0,
        **dict.fromkeys((*unknown, "resolved")),
        "n": 6,
    }
    return {**row, **values}


def write_energy(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = {name: [row.get(name) for row in rows] for name in table_schema("energy").names}
    write_table(folder / "energy.parquet", "energy", columns)
