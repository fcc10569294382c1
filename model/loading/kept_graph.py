"""Graphs kept in `model/graphs/` without weights, filled at load: no torch is needed.

In a kept file each weight is an input of the graph (so it stays valid ONNX), and the model's
metadata says how to draw it: the name of the parameter behind it and a factor (what is left of a
folded batch normalisation). `model.graphs.make` writes the files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgejoule.errors import UsageError
from edgejoule.inference.workload import InputSpec, LoadedModel, ModelRequest
from model.loading.network import Network
from model.loading.node_paths import module_path
from model.loading.spec import sha256_of
from model.loading.weights import draw

FOLDER = Path(__file__).resolve().parent.parent / "graphs"
FILL = "edgejoule.fill"  # JSON: weight -> [parameter, factor]
MADE_WITH = "edgejoule.made_with"


def kept_path(name: str) -> Path:
    """Return where the graph of a network is kept, if it is."""
    return FOLDER / f"{name}.onnx"


def is_kept(name: str) -> bool:
    """Say whether a network's graph is kept."""
    return kept_path(name).is_file()


def load_kept(network: Network, request: ModelRequest) -> LoadedModel:
    """Fill a kept graph with random weights and write it to `request.directory`.

    Raises:
        UsageError: onnx is not installed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise UsageError(
            f"the graph of {network.name} needs the onnx package ({error})", "pip install onnx"
        ) from error
    path = kept_path(network.name)
    proto = onnx.load(str(path))
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    fill: dict[str, list[Any]] = json.loads(properties[FILL])
    inputs: list[Any] = []
    for item in list(proto.graph.input):
        if item.name not in fill:
            inputs.append(item)
            continue
        parameter, factor = fill[item.name]
        values = draw(parameter, request.seed, _shape(item))
        values *= factor
        proto.graph.initializer.append(numpy_helper.from_array(values, item.name))
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    target = request.directory / f"{network.name}.onnx"
    onnx.save(proto, str(target))
    nodes: dict[str, str] = {}
    for node in proto.graph.node:
        props = {entry.key: entry.value for entry in node.metadata_props}
        found = module_path(node.name, node.op_type, props, list(node.input))
        if found:
            nodes[node.name] = found
    return LoadedModel(
        name=network.name,
        form="onnx",
        module=None,
        onnx_path=target,
        inputs=tuple(InputSpec(item.name, _shape(item)) for item in inputs),
        weights="random",
        source={
            "library": "kept graph",
            "graph": f"model/graphs/{path.name}",
            "graph_sha256": sha256_of(path),
            "made_with": properties.get(MADE_WITH, ""),
            "seed": request.seed,
        },
        normalisation=network.normalisation(),
        module_paths=nodes,
    )


def _shape(item: Any) -> tuple[int, ...]:
    return tuple(size.dim_value for size in item.type.tensor_type.shape.dim)
