"""Take a compiled model apart: its engines, and one flat graph of the rest around them.

What `torch_tensorrt.dynamo.compile` returns differs with the version and the partitioner: engines
are submodules of two classes, parts left in PyTorch are nested `GraphModule`s (adjacency and
hierarchical partitioner) or nodes of the graph itself (global partitioner), and in a program that
was exported again engines are objects called through an operator. Here all of them become one flat
graph in the order of execution: every operation in PyTorch a node of its own, every engine a
*slot*, a `call_module` node whose module only marks the place.
"""

from __future__ import annotations

import base64
import binascii
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.trt import torch_names as names

SLOT = "engine_"  # target of a slot's node, before its number
_CHECKS = ("_guards_fn",)  # of the inputs' shapes; torch puts it into an exported module
_ELSEWHERE = "use --backend tensorrt, which builds one engine from the ONNX graph"


@dataclass(frozen=True)
class EnginePart:
    """One engine of a compiled model.

    Attributes:
        index: Its number, in the order of execution.
        name: What torch_tensorrt calls it (`_run_on_acc_0`).
        held_by: Class that it was found in.
        plan: The plan's bytes.
        inputs: Names of its inputs, in the order of the slot's arguments.
        outputs: Names of its outputs, in the order of the slot's results.
        single: Whether the slot returns a tensor where the engine has one output; else a tuple.
    """

    index: int
    name: str
    held_by: str
    plan: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    single: bool = True


@dataclass(frozen=True)
class Parts:
    """A compiled model taken apart.

    Attributes:
        module: A flat `torch.fx.GraphModule`; inputs one by one, outputs a tuple of tensors.
        engines: The engines; slot `engine_<k>` is `engines[k]`.
    """

    module: Any
    engines: tuple[EnginePart, ...]


def unwrap(module: Any) -> Any:
    """Return the graph within torch_tensorrt's wrappers.

    Raises:
        MeasurementError: A wrapper is still empty.
    """
    inner = {
        names.CUDA_GRAPHS_MODULE: names.CUDA_GRAPHS_INNER,
        names.MUTABLE_MODULE: names.MUTABLE_INNER,
    }
    while (attribute := inner.get(type(module).__name__)) is not None:
        module = getattr(module, attribute)
        if module is None:
            raise MeasurementError("the compiled model is empty: it was never compiled")
    return module


def take_apart(compiled: Any) -> Parts:
    """Return the engines of a compiled model and the flat graph around them.

    Raises:
        MeasurementError: The model has a shape that is not known, or an engine without a plan.
        UsageError: An engine cannot run outside torch_tensorrt.
    """
    import torch

    compiled = unwrap(compiled)
    _refuse_written_buffers(compiled)
    if _holds_engine(compiled):
        raise MeasurementError(
            "torch_tensorrt returned an engine without a graph around it",
            "report the version of torch_tensorrt",
        )
    flat = _Flat()
    inputs = [
        flat.graph.node_copy(node) for node in compiled.graph.nodes if node.op == "placeholder"
    ]
    outputs = flat.inline(compiled, "", inputs)
    leaves = [leaf for leaf in _leaves(outputs) if isinstance(leaf, torch.fx.Node)]
    if not leaves:
        raise MeasurementError("the compiled model returns nothing")
    flat.graph.output(tuple(leaves))
    flat.graph.lint()
    return Parts(torch.fx.GraphModule(flat.attributes, flat.graph), tuple(flat.engines))


def _refuse_written_buffers(compiled: Any) -> None:
    """Refuse a model that writes buffers where these have become outputs of the graph.

    torch_tensorrt 2.14 hides them from a caller of the module (`hide_copyback_outputs` in
    dynamo/lowering/_buffer_lifting.py), and does not write them back.

    Raises:
        UsageError: There are such.
    """
    buffers = getattr(compiled, "meta", {}).get(names.COPYBACK) or ()
    if buffers:
        raise UsageError(
            f"the model writes {len(buffers)} of its buffers, which torch_tensorrt turned into "
            "outputs",
            _ELSEWHERE,
        )


def slot_of(node: Any) -> int | None:
    """Return the number of the engine whose slot a node is, or None."""
    target = str(node.target)
    if node.op == "call_module" and target.startswith(SLOT) and target[len(SLOT) :].isdigit():
        return int(target[len(SLOT) :])
    return None


class _Flat:
    """The flat graph in the making."""

    def __init__(self) -> None:
        import torch

        self.graph = torch.fx.Graph()
        self.attributes: dict[str, Any] = {}
        self.engines: list[EnginePart] = []

    def inline(self, module: Any, prefix: str, inputs: Sequence[Any]) -> Any:
        """Copy a module's graph, engines as slots, graphs below it inlined; return its outputs."""
        import torch

        known: dict[Any, Any] = {}
        given = iter(inputs)
        mapping: Any = torch.fx.node.map_arg
        for node in module.graph.nodes:
            if node.op == "placeholder":
                known[node] = next(given)
            elif node.op == "output":
                return mapping(node.args[0], known.__getitem__)
            elif node.op == "get_attr":
                known[node] = self._attribute(node, module, prefix)
            elif node.op == "call_function":
                known[node] = self._function(node, known)
            elif node.op == "call_module":
                if (value := self._module(node, module, prefix, known)) is not None:
                    known[node] = value
            else:
                raise MeasurementError(
                    f"the compiled model has a node {node.name} of kind {node.op}, "
                    "which is not known",
                    "report the version of torch_tensorrt",
                )
        return ()

    def _attribute(self, node: Any, module: Any, prefix: str) -> Any:
        value = operator.attrgetter(node.target)(module)
        if any(_runs_engine(user) and user.args[1] is node for user in node.users):
            return _EngineObject(str(node.target), value)
        target = f"{prefix}{node.target}"
        self.attributes[target] = value
        copy = self.graph.node_copy(node)
        copy.target = target
        return copy

    def _function(self, node: Any, known: Mapping[Any, Any]) -> Any:
        if _runs_engine(node):
            tensors, engine = node.args
            held = known[engine]
            if not isinstance(held, _EngineObject):
                raise MeasurementError(
                    f"engine {node.name} is no attribute of the graph",
                    "report the version of torch_tensorrt",
                )
            part = part_of_object(held.value, held.name, len(self.engines))
            return self._slot(node, part, [_resolved(one, known) for one in tensors])
        if node.target is operator.getitem and isinstance(
            inlined := known.get(node.args[0]), (tuple, list)
        ):
            return inlined[node.args[1]]  # out of what a part returned that is inlined
        return self.graph.node_copy(node, lambda inner: _resolved(inner, known))

    def _module(self, node: Any, module: Any, prefix: str, known: Mapping[Any, Any]) -> Any:
        import torch

        if node.target in _CHECKS and not node.users:
            return None
        inner = unwrap(operator.attrgetter(node.target)(module))
        arguments = [_resolved(one, known) for one in node.args]
        if node.kwargs:
            raise MeasurementError(f"part {node.target} is called with keyword arguments")
        if _holds_engine(inner):
            part = part_of_module(inner, str(node.target), len(self.engines))
            return self._slot(node, part, arguments)
        if isinstance(inner, torch.fx.GraphModule):
            return self.inline(inner, f"{prefix}{node.target}.", arguments)
        raise MeasurementError(
            f"the compiled model has a part {node.target} of class {type(inner).__name__}, "
            "which is not known",
            "report the version of torch_tensorrt",
        )

    def _slot(self, node: Any, part: EnginePart, arguments: Sequence[Any]) -> Any:
        import torch

        if len(arguments) != len(part.inputs):
            raise MeasurementError(
                f"engine {part.name} has {len(part.inputs)} inputs and is given {len(arguments)}"
            )
        self.engines.append(part)
        target = f"{SLOT}{part.index}"
        self.attributes[target] = torch.nn.Identity()  # only marks the place
        copy = self.graph.create_node("call_module", target, tuple(arguments), {}, name=target)
        copy.meta = dict(node.meta)
        return copy


@dataclass(frozen=True)
class _EngineObject:
    """An engine object of torch_tensorrt's own runtime, as an attribute of a graph."""

    name: str
    value: Any


def _resolved(value: Any, known: Mapping[Any, Any]) -> Any:
    """Return what stands for a node in the flat graph; other values as they are."""
    import torch

    mapping: Any = torch.fx.node.map_arg
    return mapping(value, known.__getitem__)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def _holds_engine(module: Any) -> bool:
    return type(module).__name__ in {names.PYTHON_MODULE, names.CPP_MODULE}


def _runs_engine(node: Any) -> bool:
    return node.op == "call_function" and str(node.target) == names.EXECUTE_ENGINE


def part_of_module(module: Any, name: str, index: int) -> EnginePart:
    """Return the engine that one of torch_tensorrt's modules holds.

    Raises:
        MeasurementError: It has no plan where versions 2.4 to 2.14 have it.
        UsageError: The engine cannot run outside torch_tensorrt.
    """
    held_by = type(module).__name__
    if getattr(module, names.OUTPUT_ALLOCATOR, False):
        raise UsageError(
            f"engine {name} has outputs whose shapes depend on values",
            "from torch_tensorrt 2.13 on such operations stay in PyTorch; "
            "or use --backend onnxruntime",
        )
    if getattr(module, names.ALIASED, None):
        raise UsageError(
            f"engine {name} writes outputs into its inputs (a cache of keys and values)", _ELSEWHERE
        )
    python = held_by == names.PYTHON_MODULE
    inputs, outputs = (
        (names.PYTHON_INPUTS, names.PYTHON_OUTPUTS)
        if python
        else (names.CPP_INPUTS, names.CPP_OUTPUTS)
    )
    plan = getattr(module, names.PLAN, None)
    if plan is None:
        engine: Any = getattr(module, names.ENGINE, None)
        plan = engine.serialize() if hasattr(engine, "serialize") else _state_plan(engine, name)
    return EnginePart(
        index=index,
        name=name,
        held_by=held_by,
        plan=_checked(plan, name),
        inputs=tuple(getattr(module, inputs)),
        outputs=tuple(getattr(module, outputs)),
    )


def part_of_object(engine: Any, name: str, index: int) -> EnginePart:
    """Return the engine of an object of torch_tensorrt's own runtime, from its state.

    Raises:
        MeasurementError: The state is not known.
    """
    state = _state(engine, name)
    return EnginePart(
        index=index,
        name=name,
        held_by="Engine",
        plan=_checked(_state_plan(engine, name), name),
        inputs=_split(state[names.INPUTS_IDX]),
        outputs=_split(state[names.OUTPUTS_IDX]),
        single=False,  # the operator returns a list always
    )


def _state(engine: Any, name: str) -> Sequence[Any]:
    getter: Callable[[], Any] | None = getattr(engine, "__getstate__", None)
    state = getter() if getter is not None else None
    if isinstance(state, (tuple, list)) and len(state) == 1 and isinstance(state[0], (tuple, list)):
        state = state[0]
    if not isinstance(state, (tuple, list)) or len(state) <= names.OUTPUTS_IDX:
        raise MeasurementError(
            f"engine {name} gives no plan: {type(engine).__name__} has no state that is known",
            "report the version of torch_tensorrt",
        )
    return state


def _state_plan(engine: Any, name: str) -> bytes:
    plan = _state(engine, name)[names.ENGINE_IDX]
    try:
        return base64.b64decode(plan, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise MeasurementError(
            f"engine {name} gives no plan: field {names.ENGINE_IDX} of its state is not base64",
            "report the version of torch_tensorrt",
        ) from error


def _checked(plan: Any, name: str) -> bytes:
    content = bytes(plan) if plan is not None else b""
    if not content:
        raise MeasurementError(f"engine {name} has no plan", "report the version of torch_tensorrt")
    return content


def _split(text: Any) -> tuple[str, ...]:
    joined = text.decode() if isinstance(text, bytes) else str(text)
    return tuple(joined.split(names.BINDING_DELIMITER)) if joined else ()
