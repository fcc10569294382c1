"""ONNX graphs: check one, fix its shapes, name its nodes, say what the optimised one executes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from edgejoule.errors import UsageError
from edgejoule.inference import flops
from edgejoule.inference.backend import Layer, Tensor
from edgejoule.inference.common import short
from edgejoule.inference.layer_kinds import (
    kind_of_onnx,
    kind_of_type,
    main_index,
    onnx_window,
    with_weights,
)
from edgejoule.inference.onnx_origin import HEAVY, OriginalGraph, ahead
from edgejoule.inference.workload import InputSpec

DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
_RUNTIME_DTYPES = {"float": "float32", "double": "float64"}

# Operators on quantised tensors, whose operands stand between their scales: where data, weight and
# bias are (onnxruntime ContribOperators.md, ONNX Operators.md).
_OPERANDS = {
    "QLinearConv": (0, 3, 8),
    "QLinearMatMul": (0, 3),
    "QGemm": (0, 3, 6),
    "QLinearAdd": (0, 3),
    "QLinearMul": (0, 3),
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1, 6),
    "DynamicQuantizeMatMul": (0, 1, 4),
}
# Kinds whose constant inputs are no weights but shapes, scales, indices, bounds.
_WITHOUT_WEIGHTS = ("shape", "reformat", "quantise", "nothing", "pooling", "reduction", "softmax")

_CONVOLUTIONS = {"Conv", "ConvInteger", "FusedConv", "NhwcConv", "NhwcFusedConv", "QLinearConv"}
_REDUCTIONS = {
    "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax",
    "QLinearGlobalAveragePool", "QLinearReduceMean",
}  # fmt: skip
ONE_PER_ELEMENT = {
    "Add", "Sub", "Mul", "Div", "Relu", "Clip", "Max", "Min", "Neg", "Abs", "QLinearAdd",
    "QLinearMul",
}  # fmt: skip
MOVES = {
    "Cast", "Concat", "Flatten", "Gather", "Identity", "Pad", "ReorderInput", "ReorderOutput",
    "QLinearConcat", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


@dataclass(frozen=True)
class ExecutedNode:
    """A node that one profiled inference has executed, in the order of execution."""

    node_index: int
    name: str
    op_type: str
    outputs: tuple[tuple[str, tuple[int, ...]], ...] = ()  # dtype and shape as the runtime saw them


def load_graph(path: Path) -> Any:
    """Read an ONNX file without its external weights.

    Raises:
        UsageError: It is no ONNX graph, or one that does not hold together.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file", "give an .onnx file that exists") from error
    except Exception as error:  # protobuf's error has no stable type
        raise UsageError(
            f"{path} is not a readable ONNX file ({short(error)})", "export the model again"
        ) from error
    if not model.graph.node or not model.graph.output:
        raise UsageError(f"{path} holds no ONNX graph with nodes and outputs", "export it again")
    return model


def fix_shapes(model: Any, specs: Sequence[InputSpec], path: Path) -> bool:
    """Write the asked shapes into the graph's open dimensions; return whether anything changed.

    Raises:
        UsageError: An input is missing or has another shape; both shapes are named.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    free = [value for value in model.graph.input if value.name not in weights]
    by_name = {spec.name: spec for spec in specs}
    missing = [value.name for value in free if value.name not in by_name]
    if missing or len(free) != len(specs):
        raise UsageError(
            f"{path} takes the inputs {[value.name for value in free]}, "
            f"given are {[spec.name for spec in specs]}"
        )
    values: dict[str, int] = {}
    changed = False
    for value in free:
        wanted = by_name[value.name].shape
        dims = value.type.tensor_type.shape.dim
        has = [dim.dim_value or dim.dim_param or "?" for dim in dims]
        fits = len(has) == len(wanted) and all(
            not isinstance(own, int) or own == asked for own, asked in zip(has, wanted, strict=True)
        )
        if not fits:
            raise UsageError(
                f"{path}: input {value.name!r} is of shape {has}, asked is {list(wanted)}",
                "choose an --input-shape that fits, or export with open dimensions",
            )
        for dim, asked in zip(dims, wanted, strict=True):
            if dim.dim_value == 0:
                if dim.dim_param and values.setdefault(dim.dim_param, asked) != asked:
                    raise UsageError(
                        f"{path}: dimension {dim.dim_param!r} cannot be both "
                        f"{values[dim.dim_param]} and {asked}"
                    )
                dim.dim_value = asked
                changed = True
    if changed:  # what was inferred from open dimensions is inferred again by the runtime
        del model.graph.value_info[:]
        for value in model.graph.output:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in values:
                    dim.dim_value = values[dim.dim_param]
    return changed


def name_nodes(model: Any) -> bool:
    """Give every node a name of its own that survives JSON; return whether anything changed.

    The profiler tells nodes by name and index and does not escape names.
    """
    taken: set[str] = set()
    changed = False
    for position, node in enumerate(_all_nodes(model.graph)):
        name = re.sub(r"[\x00-\x1f\x7f\"\\]", "_", node.name) or f"{node.op_type}_{position}"
        unique, count = name, 2
        while unique in taken:
            unique, count = f"{name}#{count}", count + 1
        taken.add(unique)
        if unique != node.name:
            node.name = unique
            changed = True
    return changed


def external_files(model: Any) -> set[str]:
    """Return the files in which a graph's weights lie, relative to its own folder."""
    return {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }


def subgraph_nodes(model: Any) -> set[str]:
    """Names of the nodes inside control flow: their time is part of the node around them."""
    own = {node.name for node in model.graph.node}
    return {node.name for node in _all_nodes(model.graph)} - own


def _all_nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)
            for inner in attribute.graphs:
                yield from _all_nodes(inner)


def describe_layers(
    optimised: Any, executed: Sequence[ExecutedNode], original: OriginalGraph
) -> tuple[Layer, ...]:
    """Describe what one inference executes, in order.

    Args:
        optimised: The graph the runtime executes, every node named.
        executed: What one profiled inference has executed.
        original: The graph that was optimised.
    """
    nodes = {node.name: node for node in optimised.graph.node}
    weights = {
        tensor.name: Tensor(tensor.name, tuple(tensor.dims), DTYPES.get(tensor.data_type))
        for tensor in optimised.graph.initializer
    }
    known = dict(weights)
    for value in (*optimised.graph.input, *optimised.graph.output, *optimised.graph.value_info):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        dtype = DTYPES.get(value.type.tensor_type.elem_type)
        shape = tuple(dims) if all(dim > 0 for dim in dims) else None
        known.setdefault(value.name, Tensor(value.name, shape, dtype))
    for done in executed:  # what really ran says more than what was inferred
        outputs = nodes[done.name].output if done.name in nodes else ()
        for name, (kind, shape) in zip(outputs, done.outputs, strict=False):
            known[name] = Tensor(name, shape, _RUNTIME_DTYPES.get(kind, kind))
    consumers = {name: node for node in optimised.graph.node[::-1] for name in node.input}
    return tuple(
        _describe(index, done, nodes.get(done.name), known, weights, original, consumers)
        for index, done in enumerate(executed)
    )


def _describe(
    index: int,
    done: ExecutedNode,
    node: Any,
    known: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    original: OriginalGraph,
    consumers: Mapping[str, Any],
) -> Layer:
    if node is None:  # put in by the runtime at load
        return Layer(index, done.name, done.op_type, operation=kind_of_onnx(done.op_type))
    every = [known.get(name, Tensor(name)) for name in node.input if name]
    inputs = tuple(tensor for tensor in every if tensor.name not in weights)
    outputs = tuple(known.get(name, Tensor(name)) for name in node.output if name)
    behind = original.behind(node.output, [tensor.name for tensor in inputs])
    path = original.paths.get(done.name)
    if not behind and done.name not in original.names:
        # The optimiser's own tensors: its names hold old ones, or they lead to old ones.
        main = original.main((*node.output, done.name), done.op_type)
        main = main or original.main(ahead(node, consumers, original), done.op_type)
        behind = [] if main is None else [main]
    if path is None and behind:
        main = next((n for n in behind if n.op_type in HEAVY), behind[-1])
        path = original.paths.get(main.name)
    attributes = _attributes(node)
    distinct = {tensor.name: tensor for tensor in (*every, *outputs)}
    operands = _operands(done.op_type, node, known)
    shapes = [tensor.shape if tensor else None for tensor in (*operands, None, None)]
    weighted = any(one is not None and one.name in weights for one in operands[1:])
    output = outputs[0].shape if outputs else None
    window = onnx_window(done.op_type, attributes, shapes[0], shapes[1], output)
    kind = with_weights(kind_of_onnx(done.op_type), weighted)
    if done.op_type == "Gather" and node.input[0] in weights and len(shapes[0] or ()) > 1:
        kind = "embedding"  # rows of a table of weights: what torch exports an embedding as
    return Layer(
        index=index,
        name=done.name,
        type=done.op_type,
        inputs=inputs,
        outputs=outputs,
        attributes=attributes,
        module_path=path,
        nodes=tuple(other.name for other in behind) or (done.name,),
        flops=_flops(done.op_type, [one for one in operands if one], outputs, attributes),
        bytes_moved=flops.bytes_of((t.shape, t.dtype) for t in distinct.values()),
        operation=kind,
        kernel=window.kernel,
        stride=window.stride,
        padding=window.padding,
        dilation=window.dilation,
        groups=window.groups,
        weights=_count_weights(kind, operands, weights),
        fused=_main_first([other.op_type for other in behind] or [done.op_type]),
        modules=_modules(path, behind, original),
    )


def _operands(op_type: str, node: Any, known: Mapping[str, Tensor]) -> list[Tensor | None]:
    """Return a node's inputs, data first, without the scales and zero points between them."""
    places = _OPERANDS.get(op_type, range(len(node.input)))
    names = [node.input[place] if place < len(node.input) else "" for place in places]
    return [known.get(name, Tensor(name)) if name else None for name in names]


def _count_weights(
    kind: str | None, operands: Sequence[Tensor | None], weights: Mapping[str, Tensor]
) -> int | None:
    """Number of weights that a node holds; scalars and integers beside the data are parameters."""
    if kind is None:
        return None
    if kind in _WITHOUT_WEIGHTS:
        return 0
    held = [weights[one.name] for one in operands if one is not None and one.name in weights]
    shapes = [one.shape for one in held if one.dtype not in ("int64", "bool", "string")]
    return sum(prod(shape) for shape in shapes if shape)


def _main_first(types: Sequence[str]) -> tuple[str, ...]:
    main = main_index([kind_of_type(name) for name in types])
    if main is None:
        return tuple(types)
    return (types[main], *types[:main], *types[main + 1 :])


def _modules(path: str | None, behind: Sequence[Any], original: OriginalGraph) -> tuple[str, ...]:
    """Return the modules behind a layer in the order of the graph."""
    found = [original.paths.get(node.name) for node in behind]
    if path is not None and path not in found:
        found.insert(0, path)
    return tuple(dict.fromkeys(one for one in found if one is not None))


def _attributes(node: Any) -> dict[str, Any]:
    """Return a node's numbers, lists of numbers and texts; tensors and graphs are left out."""
    import onnx

    found: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            found[attribute.name] = value.decode("utf-8", "replace")
        elif isinstance(value, (int, float)):
            found[attribute.name] = value
        elif attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
            found[attribute.name] = list(value)
    return found


_Formula = Callable[
    [tuple[int, ...], "tuple[int, ...] | None", tuple[int, ...], Mapping[str, Any]], "int | None"
]
_FORMULAS: dict[str, _Formula] = {
    **dict.fromkeys(
        _CONVOLUTIONS, lambda _x, w, out, _a: None if w is None else flops.convolution(out, w)
    ),
    "ConvTranspose": lambda x, w, _out, _a: (
        None if w is None else flops.transposed_convolution(x, w)
    ),
    **dict.fromkeys(
        (
            "MatMul",
            "FusedMatMul",
            "MatMulInteger",
            "MatMulIntegerToFloat",
            "QLinearMatMul",
            "DynamicQuantizeMatMul",
        ),
        lambda x, _w, out, a: flops.matrix_product(out, x[-2 if a.get("transA") else -1]),
    ),
    **dict.fromkeys(
        ("Gemm", "FusedGemm", "QGemm"),
        lambda x, _w, out, a: flops.matrix_product(out, x[0 if a.get("transA") else 1]),
    ),
    **dict.fromkeys(
        ("MaxPool", "AveragePool", "LpPool", "QLinearAveragePool"),
        lambda _x, _w, out, a: (
            flops.pooling(out, a["kernel_shape"]) if "kernel_shape" in a else None
        ),
    ),
    **dict.fromkeys(_REDUCTIONS, lambda x, _w, _out, _a: flops.elementwise(x)),
    **dict.fromkeys(ONE_PER_ELEMENT, lambda _x, _w, out, _a: flops.elementwise(out)),
    "BatchNormalization": lambda _x, _w, out, _a: flops.elementwise(out, 2),
}


def _flops(
    op_type: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    attributes: Mapping[str, Any],
) -> int | None:
    """FLOPs of a node, None where its type or shapes do not tell."""
    if op_type in MOVES:
        return 0
    formula = _FORMULAS.get(op_type)
    output = outputs[0].shape if outputs else None
    first = inputs[0].shape if inputs else None
    if formula is None or output is None or not first:
        return None
    return formula(first, inputs[1].shape if len(inputs) > 1 else None, output, attributes)
