"""Casts of a float32 ONNX graph to float16 or bfloat16, for runtimes that take types literally.

A strongly typed TensorRT network computes in the types of its graph, so a half-precision engine
starts from a half-precision graph: every float32 tensor becomes the other type, as `module.half()`
does it in torch. What an operator takes is asked of ONNX's own schemas (`onnx_dtype_rules`), per
type variable: where one does not take the type (the scales of a `Resize`, a `Range`), its tensors
stay float32 between `Cast` nodes.

The graph's inputs and outputs are cast too: what feeds an engine and what it returns is then in the
type it computes in, as it is for a module in torch, and no conversion is measured that the network
does not ask for.

Other converters were looked at: `onnxruntime.transformers.float16` and onnxconverter-common (MIT)
know no bfloat16 and keep a list of blocked operators that is the CPU's, not TensorRT's; modelopt's
autocast (Apache-2.0) needs what `quantization` says of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgejoule.errors import UsageError
from edgejoule.inference.onnx_dtype_rules import FLOAT, TARGETS, Rules
from edgejoule.inference.onnx_graph import DTYPES
from edgejoule.inference.quantization_graph import load_whole, opset_of, save_whole

_FLOAT_BY_DEFAULT = {"RandomNormal", "RandomUniform"}
_TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype")
_ONNX_NAMES = {"float32": "float", "float64": "double"}


def cast_graph(source: Path, target: Path, dtype: str) -> dict[str, Any]:
    """Write a graph with its float32 tensors in another floating-point type.

    Args:
        source: The ONNX graph.
        target: Where the cast one goes; may be the same file.
        dtype: `float16` or `bfloat16`.

    Returns:
        Facts: `inputs` and `outputs` (name -> dtype), `constants` converted, `clipped` values that
        were too large, `flushed` ones that became zero, `casts` inserted, `kept_float32` (operators
        that do not take the type, with counts), `beyond_schema` (operators that take it in
        TensorRT, not in the graph's opset).

    Raises:
        UsageError: The graph is unreadable, works on sequences, or has an operator unknown to onnx
            whose outputs' types stand nowhere.
    """
    model = load_whole(source)
    rules = Rules(model, TARGETS[dtype])
    _Scope(model.graph, rules, None).cast()
    save_whole(model, target)

    def types(values: Sequence[Any]) -> dict[str, str]:
        return {
            value.name: DTYPES.get(value.type.tensor_type.elem_type, "unknown") for value in values
        }

    return {
        "dtype": dtype,
        "opset": opset_of(model),
        "inputs": types(model.graph.input),
        "outputs": types(model.graph.output),
        **rules.facts(),
    }


class _Scope:
    """A graph or subgraph while it is cast: the types that its tensors now have."""

    def __init__(self, graph: Any, rules: Rules, parent: _Scope | None) -> None:
        self._graph = graph
        self._rules = rules
        self._parent = parent
        self._types: dict[str, int] = {}
        self._done: dict[tuple[str, int], str] = {}  # casts that exist already
        self._floats: dict[str, Any] = {}  # float32 constants as they were
        self._nodes: list[Any] = []

    def cast(self) -> list[int | None]:
        """Cast the graph in place and return the types of its outputs."""
        scales = {
            node.input[1]
            for node in self._graph.node
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 1
        }
        for value in self._graph.input:
            kind = value.type.tensor_type
            if kind.elem_type == FLOAT:
                kind.elem_type = self._rules.target
            self._types[value.name] = kind.elem_type
        for tensor in self._graph.initializer:
            if tensor.data_type == FLOAT:
                self._floats[tensor.name] = type(tensor).FromString(tensor.SerializeToString())
                self._rules.convert(tensor, tensor.name in scales)
            self._types[tensor.name] = tensor.data_type
        for node in self._graph.node:
            self._node(node)
            self._nodes.append(node)
        self._finish_outputs()
        nodes = list(self._nodes)
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        self._drop_unused()
        for value in (*self._graph.value_info, *self._graph.output):
            if value.type.tensor_type.elem_type == FLOAT and value.name in self._types:
                value.type.tensor_type.elem_type = self._types[value.name]
        return [self._types.get(value.name) for value in self._graph.output]

    def _finish_outputs(self) -> None:
        """Give the float outputs of a subgraph one type, whatever the branch."""
        if self._parent is None:
            return
        for value in self._graph.output:
            if self._type(value.name) == FLOAT:
                value.name = self._as(value.name, self._rules.target)

    def _node(self, node: Any) -> None:
        subgraphs = [graph for attribute in node.attribute for graph in _graphs(attribute)]
        if subgraphs:
            self._with_subgraphs(node, subgraphs)
            return
        schema = self._rules.schema(node)
        self._attributes(node)
        if schema is None:
            self._unknown(node)
            return
        allowed = {one.type_param_str: one.allowed_type_strs for one in schema.type_constraints}
        chosen: dict[str, int] = {}
        kept = False
        formal = list(_formal(schema.inputs, len(node.input)))
        for variable in {name for name in formal if name in allowed}:
            own = [i for i, name in enumerate(formal) if name == variable and node.input[i]]
            types = {self._type(node.input[i]) for i in own}
            if types & {FLOAT, self._rules.target}:
                wanted = self._rules.target if self._rules.takes(node, allowed[variable]) else FLOAT
                kept = kept or wanted == FLOAT
                for i in own:
                    node.input[i] = self._as(node.input[i], wanted)
                chosen[variable] = wanted
            elif own and (known := next(iter(types))) is not None:
                chosen[variable] = known
        for i, name in enumerate(formal):
            if name == "tensor(float)" and node.input[i]:
                node.input[i] = self._as(node.input[i], FLOAT)
        for output, name in zip(
            node.output, _formal(schema.outputs, len(node.output)), strict=True
        ):
            if output:
                self._types[output] = self._output(node, output, name, allowed, chosen)
        if kept:
            self._rules.kept[node.op_type] += 1

    def _output(
        self,
        node: Any,
        output: str,
        formal: str,
        allowed: Mapping[str, Sequence[str]],
        chosen: Mapping[str, int],
    ) -> int:
        """Return the type of an output, by its attribute, its type variable, or the schema."""
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i:
                return int(attribute.i)
            if node.op_type in ("Constant", "ConstantOfShape") and attribute.name == "value":
                return int(attribute.t.data_type)
        if formal in chosen:
            return chosen[formal]
        only = [formal] if formal not in allowed else list(allowed[formal])
        if len(only) == 1:
            known = {f"tensor({_ONNX_NAMES.get(n, n)})": code for code, n in DTYPES.items()}
            if only[0] in known:
                return known[only[0]]
        if node.op_type == "ConstantOfShape":
            return FLOAT
        if output in self._rules.known:
            return int(self._rules.known[output])
        raise _unknown_type(node, output)

    def _unknown(self, node: Any) -> None:
        """Leave an operator that onnx does not know in float32."""
        before = list(node.input)
        for i, name in enumerate(before):
            if name and self._type(name) == self._rules.target:
                node.input[i] = self._as(name, FLOAT)
        for output in node.output:
            if output:
                if output not in self._rules.known:
                    raise _unknown_type(node, output)
                self._types[output] = self._rules.known[output]
        self._rules.kept[node.op_type] += 1

    def _with_subgraphs(self, node: Any, graphs: Sequence[Any]) -> None:
        for i, name in enumerate(node.input):
            if name and self._type(name) == FLOAT:
                node.input[i] = self._as(name, self._rules.target)
        # The body of a loop also returns its condition, which the loop itself does not.
        skipped = 1 if node.op_type == "Loop" else 0
        for graph in graphs:
            types = _Scope(graph, self._rules, self).cast()[skipped:]
            for output, kind in zip(node.output, types, strict=False):
                if output and kind is not None:
                    self._types[output] = kind

    def _attributes(self, node: Any) -> None:
        """Convert what attributes hold: constants, and the types that operators are told."""
        from onnx import TensorProto, helper

        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i == FLOAT:
                attribute.i = self._rules.target
            elif attribute.HasField("t") and attribute.t.data_type == FLOAT:
                if node.op_type == "Constant":
                    kept = TensorProto()
                    kept.CopyFrom(attribute.t)
                    self._floats[node.output[0]] = kept
                self._rules.convert(attribute.t)
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                one = attribute.name == "value_float"
                values = [attribute.f] if one else list(attribute.floats)
                shape = [] if one else [len(values)]
                tensor = helper.make_tensor("value", FLOAT, shape, values)
                self._floats[node.output[0]] = tensor
                converted = TensorProto()
                converted.CopyFrom(tensor)
                self._rules.convert(converted)
                attribute.CopyFrom(helper.make_attribute("value", converted))
        named = {attribute.name for attribute in node.attribute}
        if node.op_type in _FLOAT_BY_DEFAULT and "dtype" not in named:
            node.attribute.append(helper.make_attribute("dtype", self._rules.target))
        if node.op_type == "ConstantOfShape" and "value" not in named:
            zero = helper.make_tensor("value", FLOAT, [1], [0.0])
            self._rules.convert(zero)
            node.attribute.append(helper.make_attribute("value", zero))

    def _type(self, name: str) -> int | None:
        if name in self._types:
            return self._types[name]
        return None if self._parent is None else self._parent._type(name)

    def _as(self, name: str, wanted: int) -> str:
        """Return the name of this tensor in another floating-point type, cast where it has not."""
        from onnx import helper

        if self._type(name) not in (FLOAT, self._rules.target) or self._type(name) == wanted:
            return name
        if (name, wanted) in self._done:
            return self._done[name, wanted]
        cast = f"{name}_{DTYPES[wanted]}"
        while self._type(cast) is not None:
            cast += "_"
        original = self._original(name)
        if wanted == FLOAT and original is not None:  # as it was, not rounded and cast back
            tensor = self._graph.initializer.add()
            tensor.CopyFrom(original)
            tensor.name = cast
        else:
            self._nodes.append(helper.make_node("Cast", [name], [cast], name=cast, to=wanted))
            self._rules.casts += 1
        self._types[cast] = wanted
        self._done[name, wanted] = cast
        return cast

    def _original(self, name: str) -> Any:
        if name in self._floats:
            return self._floats[name]
        if name in self._types or self._parent is None:
            return None
        return self._parent._original(name)

    def _drop_unused(self) -> None:
        """Remove initialisers that only their float32 form is used of."""
        twins = {name for (name, wanted) in self._done if wanted == FLOAT and name in self._floats}
        used = {name for node in self._graph.node for name in _reads(node)}
        used |= {value.name for value in self._graph.output}
        for tensor in [t for t in self._graph.initializer if t.name in twins - used]:
            self._graph.initializer.remove(tensor)


def _formal(parameters: Sequence[Any], count: int) -> Iterator[str]:
    """Yield the formal type of each actual input or output; the last may stand for many."""
    for index in range(count):
        yield str(parameters[min(index, len(parameters) - 1)].type_str)


def _graphs(attribute: Any) -> list[Any]:
    return [*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs]


def _reads(node: Any) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for graph in _graphs(attribute):
            for inner in graph.node:
                yield from _reads(inner)
            for value in graph.output:
                yield value.name


def _unknown_type(node: Any, output: str) -> UsageError:
    return UsageError(
        f"the type of tensor {output!r} of {node.op_type} {node.name!r} is not known, so the graph "
        "cannot be cast",
        "note it in the graph's value_info, or use --dtype float32",
    )
