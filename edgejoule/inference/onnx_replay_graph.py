"""Graphs for replay, cut out of an optimised ONNX graph: one node alone, or one node several times.

    alone:       x0 --> [node 1] w0 --> y1        every copy with an output of its own; inputs and
                 x1 --> [node 2] w1 --> y2        weights that come from memory in the network in
                 x0 --> [node 3] w0 --> y3        as many copies as it takes, in turn
    duplicated:  ... x --> [node] --> y ...       y feeds the rest as before, y' and y'' nothing
                     x --> [copy] --> y'
                     x --> [copy] --> y''

Nothing of this is computed in place of its own input: inputs of `alone` are the graph's own, which
the runtime leaves as they are. Weights stay constants, since kernels pack those when they are
loaded. The runtime does not remove a node whose output nobody reads while optimisation is off; the
caller sees to it by the profile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError

# Operators whose constants are scales and zero points, which change nothing of what is done.
_SCALED = ("QLinear", "QGemm", "QAttention", "QuantizeLinear", "DequantizeLinear", "DynamicQuant")
# Operators whose output is their first input's memory: kernels that declare the alias
# (onnxruntime, core/providers/cpu/tensor: reshape.cc, flatten.h, squeeze.cc, unsqueeze.cc,
# identity_op.cc).
VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
_MOST_PARAMETERS = 64  # integers up to here are parameters (shape, axes, starts), told by value
_MOVED_ABOVE_BYTES = 2**26
_MOVED_TENSOR_BYTES = 2**16
_LARGEST_PROTO = 1_900_000_000  # protobuf ends at 2 GB
# Bits of ONNX's element types (onnx.proto, TensorProto.DataType).
_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64,
    15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4,
}  # fmt: skip
_INTEGERS = frozenset({6, 7, 9, 12, 13})
_OF_PROFILE = {
    "float": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9,
    "float16": 10, "double": 11, "uint32": 12, "uint64": 13, "bfloat16": 16,
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A tensor as it was when the graph ran: ONNX element type and shape."""

    dtype: int
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of it."""
        return prod(self.shape) * _BITS[self.dtype] // 8


def value_of_profile(kind: str, shape: Sequence[int]) -> Value | None:
    """Return a tensor as the runtime's profile writes it, None for a type without a size."""
    dtype = _OF_PROFILE.get(kind)
    return None if dtype is None else Value(dtype, tuple(int(dim) for dim in shape))


@dataclass(frozen=True)
class Graph:
    """An optimised graph, indexed; its weights may lie beside it.

    Attributes:
        model: The `onnx.ModelProto`.
        nodes: Name -> node.
        weights: Name -> `onnx.TensorProto`.
        outputs: Names of the graph's outputs.
        folder: Where external weights lie.
    """

    model: Any
    nodes: Mapping[str, Any]
    weights: Mapping[str, Any]
    outputs: frozenset[str]
    folder: str

    @classmethod
    def of(cls, model: Any, folder: str) -> Graph:
        """Index a graph."""
        return cls(
            model,
            {node.name: node for node in model.graph.node},
            {tensor.name: tensor for tensor in model.graph.initializer},
            frozenset(value.name for value in model.graph.output),
            folder,
        )

    def reads(self, node: Any) -> tuple[str, ...]:
        """Every tensor that a node reads, those of graphs within it included, each once."""
        return tuple(dict.fromkeys((*(name for name in node.input if name), *_outer(node))))

    def fed(self, node: Any) -> tuple[str, ...]:
        """The tensors that a node reads and that are no weights."""
        return tuple(name for name in self.reads(node) if name not in self.weights)

    def is_parameter(self, node: Any, name: str) -> bool:
        """Whether a constant says what a node does (shape, axes, bounds) rather than holds data."""
        tensor = self.weights.get(name)
        if tensor is None or node.op_type.startswith(_SCALED):
            return False
        count = prod(tensor.dims)
        return count <= 1 or (tensor.data_type in _INTEGERS and count <= _MOST_PARAMETERS)

    def weight(self, name: str) -> Any:
        """Return a copy of a weight, read from its file where it lies in one."""
        import onnx
        from onnx.external_data_helper import load_external_data_for_tensor

        tensor = onnx.TensorProto()
        tensor.CopyFrom(self.weights[name])
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            load_external_data_for_tensor(tensor, self.folder)
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
        return tensor

    def values(self) -> dict[str, Value]:
        """Return the weights' types and shapes."""
        return {
            name: Value(tensor.data_type, tuple(tensor.dims))
            for name, tensor in self.weights.items()
        }


def open_graph(path: Path, target: Path) -> Graph:
    """Read a graph; large weights are moved into a file, so that they are in memory once.

    Every variant of the whole graph then refers to that file, which the runtime maps.

    Args:
        path: The optimised graph.
        target: Where the graph goes if its weights are moved; they lie beside it.
    """
    import onnx

    from edgejoule.inference.onnx_graph import external_files, load_graph

    model = load_graph(path)
    if model.ByteSize() > _MOVED_ABOVE_BYTES and not external_files(model):
        onnx.save(
            model, str(target), save_as_external_data=True, location=f"{target.name}.data",
            size_threshold=_MOVED_TENSOR_BYTES,
        )  # fmt: skip
        model = load_graph(target)
    return Graph.of(model, str(path.parent))


def _outer(node: Any) -> Iterator[str]:
    """Names that the graphs within a node take from around it."""
    for attribute in node.attribute:
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            own = {value.name for value in (*graph.input, *graph.initializer)}
            own |= {name for inner in graph.node for name in inner.output}
            named = [name for inner in graph.node for name in (*inner.input, *_outer(inner))]
            named += [value.name for value in graph.output]  # may be of outside as they are
            yield from (name for name in named if name and name not in own)


def key_of(graph: Graph, node: Any, values: Mapping[str, Value], cold: Sequence[str]) -> str:
    """Return what makes two layers equal: operation, attributes, types, shapes, what is constant.

    Parameters (shapes, axes, bounds) are told by value; weights and the scales of quantised
    operators are not, since what they hold changes nothing of what is done. Equal too must be which
    of the tensors come from memory, and whether the output leaves the graph.
    """

    def of(name: str) -> Any:
        value = values.get(name)
        if not name or value is None:
            return name and "?"
        held: Any = name in graph.weights
        if graph.is_parameter(node, name):
            held = _numbers(graph.weight(name))
        return [value.dtype, value.shape, held, name in cold]

    attributes = sorted(
        (one.name, one.SerializeToString(deterministic=True).hex()) for one in node.attribute
    )
    inputs = [of(name) for name in (*node.input, *_outer(node))]
    outputs = [[*of(name)[:2], name in graph.outputs] if name else "" for name in node.output]
    return json.dumps([node.domain, node.op_type, attributes, inputs, outputs])


def _numbers(tensor: Any) -> list[Any]:
    import onnx

    found: list[Any] = onnx.numpy_helper.to_array(tensor).ravel().tolist()
    return [str(number) for number in found]


def alone(
    graph: Graph,
    node: Any,
    values: Mapping[str, Value],
    repeats: int,
    copies: int,
    cold: Sequence[str],
) -> Any:
    """Return a graph with one node several times.

    Args:
        graph: Where it comes from.
        node: The node.
        values: Types of the tensors that it reads.
        repeats: How often it stands in the graph, a multiple of `copies`.
        copies: How many copies there are of the tensors in `cold`, in turn.
        cold: Which are in turn; inputs are then called as `copy_name` says.

    Raises:
        MeasurementError: The graph is too large for one file.
    """
    import onnx

    model = _empty(graph)
    total = 0
    for name in graph.reads(node):
        for turn in range(copies if name in cold else 1):
            if name in graph.weights:
                tensor = _rolled(graph.weight(name), turn)
                tensor.name = copy_name(name, turn)
                total += tensor.ByteSize()
                if total > _LARGEST_PROTO:
                    raise MeasurementError(
                        f"its weights and their copies take {total / 2**30:.1f} GiB, more than "
                        "one graph can hold"
                    )
                model.graph.initializer.append(tensor)
            else:
                value = values[name]
                model.graph.input.append(
                    onnx.helper.make_tensor_value_info(
                        copy_name(name, turn), value.dtype, value.shape
                    )
                )
    for number in range(repeats):
        turn = number % copies
        again = model.graph.node.add()
        again.CopyFrom(node)
        again.name = repeat_name(node.name, number)
        rename = {name: copy_name(name, turn) for name in cold}
        _rename_reads(again, rename)
        del again.output[:]
        again.output.extend(name and f"{name}:{number}" for name in node.output)
    # A graph needs an output; beyond that, what leaves the network leaves this graph.
    kept = [name for name in node.output if name in graph.outputs]
    every = range(repeats) if kept else (repeats - 1,)
    first = next(name for name in node.output if name)
    for number in every:
        for name in kept or [first]:
            value_out = values.get(name)
            model.graph.output.append(
                onnx.helper.make_tensor_value_info(
                    f"{name}:{number}", 1 if value_out is None else value_out.dtype, None
                )
            )
    return model


def _rolled(tensor: Any, turn: int) -> Any:
    """Return a weight with its elements moved on by `turn` places.

    The runtime keeps what it packs of equal constants once (seen with 1.31: 25 equal copies of 2 MB
    were read as fast as one, and differing ones were not), so copies must differ.
    """
    import onnx

    if turn == 0:
        return tensor
    if tensor.HasField("raw_data"):
        size = _BITS[tensor.data_type] // 8 or 1
        cut = turn * size % max(1, len(tensor.raw_data))
        tensor.raw_data = tensor.raw_data[cut:] + tensor.raw_data[:cut]
        return tensor
    import numpy as np

    return onnx.numpy_helper.from_array(np.roll(onnx.numpy_helper.to_array(tensor), turn))


def copy_name(name: str, turn: int) -> str:
    """Name of one of several copies of a tensor; the first keeps its own."""
    return name if turn == 0 else f"{name}:copy{turn}"


def repeat_name(name: str, number: int) -> str:
    """Name of one of several executions of a node."""
    return f"{name}:{number}"


def _rename_reads(node: Any, rename: Mapping[str, str]) -> None:
    for position, name in enumerate(node.input):
        node.input[position] = rename.get(name, name)
    for attribute in node.attribute:
        for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            own = {value.name for value in (*inner.input, *inner.initializer)}
            own |= {name for one in inner.node for name in one.output}
            seen = {old: new for old, new in rename.items() if old not in own}
            for one in inner.node:
                _rename_reads(one, seen)
            for value in inner.output:
                value.name = seen.get(value.name, value.name)


def _empty(graph: Graph) -> Any:
    """Return a model without nodes that imports what the graph does (blocked layouts too)."""
    import onnx

    model = onnx.ModelProto()
    model.ir_version = graph.model.ir_version
    model.opset_import.extend(graph.model.opset_import)
    model.functions.extend(graph.model.functions)
    model.graph.name = "replay"
    return model


def with_outputs(graph: Graph, wanted: Sequence[str], values: Mapping[str, Value]) -> Any:
    """Return the whole graph with some of its tensors as outputs beside its own."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for name in wanted:
        if name not in graph.outputs:
            value = values[name]
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, value.dtype, None))
    return model


def duplicated(graph: Graph, name: str, copies: int, order: Sequence[str]) -> Any:
    """Return the whole graph with one node executed `copies` times on its input.

    Args:
        graph: What is changed.
        name: The node.
        copies: How often it stands in the graph.
        order: The nodes as they are executed; so they stand here, the copies before the node, so
            that the last execution feeds the rest.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    place = {one: number for number, one in enumerate(order)}
    nodes = sorted(graph.model.graph.node, key=lambda node: place.get(node.name, -1))
    del model.graph.node[:]
    for node in nodes:
        if node.name == name:
            for number in range(1, copies):
                again = model.graph.node.add()
                again.CopyFrom(node)
                again.name = repeat_name(name, number)
                del again.output[:]
                again.output.extend(one and f"{one}:{number}" for one in node.output)
        model.graph.node.add().CopyFrom(node)
    return model
