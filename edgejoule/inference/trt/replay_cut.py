"""A layer of a TensorRT engine as an ONNX graph of its own, cut out of the graph that was built.

weights -> [DequantizeLinear] -+         constants and what only prepares them go with it
x -----------------------------> [Conv] -> [Relu] -> y      nodes behind the layer
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError
from edgejoule.inference.backend import Layer
from edgejoule.inference.onnx_replay_graph import Graph, Value
from edgejoule.inference.workload import InputSpec

_LARGEST_PROTO = 1_900_000_000  # protobuf ends at 2 GB, and shape inference with it


def load_typed(path: Path, inputs: Sequence[InputSpec]) -> tuple[Graph, dict[str, Value]]:
    """Read a graph and work out what its tensors are.

    Args:
        path: The ONNX file.
        inputs: The inputs as they are measured, for open dimensions.

    Returns:
        The graph, and type and shape of every tensor for which they follow from it.

    Raises:
        UsageError: It cannot be read.
        MeasurementError: It is too large for ONNX's shape inference.
    """
    import onnx

    from edgejoule.inference.onnx_graph import fix_shapes, load_graph

    model = load_graph(path)
    fix_shapes(model, inputs, path)
    if model.ByteSize() > _LARGEST_PROTO:
        raise MeasurementError(f"{path} is too large for the shapes in it to be worked out")
    graph = Graph.of(model, str(path.parent))
    values = graph.values()
    inferred = onnx.shape_inference.infer_shapes(model).graph
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        dims = tuple(int(dim.dim_value) for dim in tensor.shape.dim)
        if tensor.elem_type and tensor.HasField("shape") and all(dim > 0 for dim in dims):
            values.setdefault(value.name, Value(int(tensor.elem_type), dims))
    return graph, values


def key_of_layer(layer: Layer, graph: Graph) -> str:
    """Return what makes two layers equal: type, tactic, tensors with formats, their nodes' own."""
    said = layer.attributes
    nodes = [
        [
            graph.nodes[name].op_type,
            sorted(
                one.SerializeToString(deterministic=True).hex()
                for one in graph.nodes[name].attribute
            ),
        ]
        for name in layer.nodes
        if name in graph.nodes
    ]
    tensors = [[t.shape, t.dtype] for t in (*layer.inputs, *layer.outputs)]
    formats = [
        [one.get("Format/Datatype"), one.get("Format")]
        for key in ("Inputs", "Outputs")
        for one in said.get(key, ())
        if isinstance(one, Mapping)
    ]
    own = asdict(layer)
    window = [own[key] for key in ("kernel", "stride", "padding", "dilation", "groups", "weights")]
    return json.dumps([layer.type, layer.tactic, nodes, tensors, formats, window])


def cut(graph: Graph, names: Sequence[str], values: Mapping[str, Value]) -> Any:
    """Return a graph of some nodes with what only prepares their constants.

    Its inputs are the tensors that come from elsewhere; its outputs those that are read elsewhere
    or leave the graph.

    Args:
        graph: The whole.
        names: The nodes.
        values: Of `load_typed`.

    Raises:
        MeasurementError: A node is not there, or an input's shape is not known.
    """
    import onnx

    missing = [name for name in names if name not in graph.nodes]
    if missing:
        raise MeasurementError(f"node {missing[0]} behind it is not in the graph")
    nodes = _with_constants(graph, set(names))
    model = onnx.ModelProto()
    model.ir_version = graph.model.ir_version
    model.opset_import.extend(graph.model.opset_import)
    model.functions.extend(graph.model.functions)
    model.graph.name = "replay"
    made = {name for node in nodes for name in node.output}
    for name in dict.fromkeys(name for node in nodes for name in graph.reads(node)):
        if name in graph.weights:
            model.graph.initializer.append(graph.weight(name))
        elif name not in made:
            model.graph.input.append(_info(name, values, "input"))
    model.graph.node.extend(nodes)
    if not model.graph.input:
        raise MeasurementError("it reads constants alone")
    own = {node.name for node in nodes}
    others = [node for node in graph.model.graph.node if node.name not in own]
    read = graph.outputs.union(*(graph.reads(node) for node in others))
    leaving = [out for name in names for out in graph.nodes[name].output if out in read]
    model.graph.output.extend(_info(name, values, "output") for name in leaving)
    if not leaving:
        raise MeasurementError("nothing reads what it computes")
    return model


def _with_constants(graph: Graph, names: set[str]) -> list[Any]:
    """Return nodes in the order of the graph, with those that prepare their constants."""
    constant = set(graph.weights)
    makers = {}
    for node in graph.model.graph.node:
        if constant.issuperset(graph.reads(node)):
            constant.update(node.output)
            makers.update(dict.fromkeys(node.output, node.name))
    found = set(names)
    waiting = list(names)
    while waiting:
        needed = {makers[one] for one in graph.reads(graph.nodes[waiting.pop()]) if one in makers}
        waiting += needed - found
        found |= needed
    return [node for node in graph.model.graph.node if node.name in found]


def _info(name: str, values: Mapping[str, Value], what: str) -> Any:
    import onnx

    value = values.get(name)
    if value is None:
        raise MeasurementError(f"type and shape of its {what} {name} are not known")
    return onnx.helper.make_tensor_value_info(name, value.dtype, value.shape)
