"""An exported torch program as a flat list of steps, and what each step is.

Every `call_function` of the graph that does something is a step and so a layer. `getitem` only
takes a tensor out of what the step before returned; it happens within that step. The same list is
made in both processes, from the same file, so that the layers described are the steps timed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from edgejoule.inference import flops
from edgejoule.inference.backend import Layer, Tensor
from edgejoule.inference.layer_kinds import Window, aten_window, kind_of_aten, with_weights

_CHECKS = ("_guards_fn",)  # of the inputs' shapes; torch puts it into an exported module

# Operations that cost a fixed number per element of the output, without in-place mark.
ONE_PER_ELEMENT = frozenset((
    "add", "sub", "mul", "div", "relu", "relu6", "neg", "abs", "clamp", "clamp_min", "hardtanh",
    "maximum", "minimum",
))  # fmt: skip
TWO_PER_ELEMENT = frozenset(("batch_norm", "_native_batch_norm_legit_no_training"))
MOVES = frozenset((
    "alias", "cat", "chunk", "clone", "contiguous", "dropout", "expand", "flatten", "narrow",
    "permute", "reshape", "select", "slice", "split", "squeeze", "stack", "t", "transpose",
    "unflatten", "unsqueeze", "view", "_to_copy", "to", "detach", "feature_dropout",
))  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One operation with its arguments resolved to slots of the environment.

    Attributes:
        name: Name of the graph's node.
        function: What is called.
        args: Positional arguments; those that are tensors stand as None and in `slots`.
        slots: (position, slot) of arguments taken from the environment.
        build: Makes (args, kwargs) from the environment where tensors are nested; else None.
        kwargs: Keyword arguments without tensors.
        out: Slot of the result.
        items: (index, slot) of `getitem`s of the result.
        free: Slots that nothing reads after this step.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    slots: tuple[tuple[int, int], ...]
    build: Callable[[list[Any]], tuple[Sequence[Any], Mapping[str, Any]]] | None
    kwargs: Mapping[str, Any]
    out: int
    items: tuple[tuple[Any, int], ...]
    free: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """A flat program: the steps, and the environment they start from (weights in their slots)."""

    steps: tuple[Step, ...]
    environment: tuple[Any, ...]
    inputs: tuple[int, ...]

    def arguments(self, step: Step, environment: list[Any]) -> tuple[Any, Any]:
        """Return the positional and keyword arguments of a step."""
        if step.build is not None:
            return step.build(environment)
        args = list(step.args)
        for position, slot in step.slots:
            args[position] = environment[slot]
        return args, step.kwargs

    def start(self, inputs: Iterable[Any]) -> list[Any]:
        """Return a fresh environment with these inputs."""
        environment = list(self.environment)
        for slot, value in zip(self.inputs, inputs, strict=True):
            environment[slot] = value
        return environment


def executed_nodes(graph: Any) -> list[Any]:
    """Return the nodes that are steps, in order."""
    return [
        node
        for node in graph.nodes
        if (node.op == "call_function" and not _is_item(node))
        or (node.op == "call_module" and node.target not in _CHECKS)
    ]


def flatten_program(module: Any) -> Program:
    """Turn an exported program's `GraphModule` into a flat list of steps."""
    slots = {node: index for index, node in enumerate(module.graph.nodes)}
    environment: list[Any] = [None] * len(slots)
    inputs: list[int] = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            inputs.append(slots[node])
        elif node.op == "get_attr":
            environment[slots[node]] = operator.attrgetter(node.target)(module)
    nodes = executed_nodes(module.graph)
    last_use = _last_uses(module.graph, nodes)
    steps = tuple(
        _step(module, node, slots, [slots[value] for value in last_use.get(node, ())])
        for node in nodes
    )
    return Program(steps, tuple(environment), tuple(inputs))


def _is_item(node: Any) -> bool:
    """Whether this only takes an element out of what another step returned."""
    return (
        node.op == "call_function"
        and node.target is operator.getitem
        and getattr(node.args[0], "op", "") in ("call_function", "call_module")
        and not hasattr(node.args[1], "op")
    )


def _items(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, tuple[Any, ...]]]:
    """Return the `getitem` nodes below a node with the indices that lead to each."""
    found = []
    for user in node.users:
        if _is_item(user) and user.args[0] is node:
            below = (*path, user.args[1])
            found.append((user, below))
            found += _items(user, below)
    return found


def _owner(node: Any) -> Any:
    """Return the step that a value comes from."""
    while _is_item(node):
        node = node.args[0]
    return node


def _last_uses(graph: Any, nodes: Sequence[Any]) -> dict[Any, list[Any]]:
    """Return for each step the values that nothing needs after it; outputs live to the end."""
    order = {node: index for index, node in enumerate(nodes)}
    kept = set()
    for node in graph.nodes:
        if node.op == "output":
            kept = set(node.all_input_nodes)
    last: dict[Any, list[Any]] = {}
    for node in graph.nodes:
        if node.op in ("get_attr", "output") or node in kept or _owner(node) not in order:
            continue
        users = [order[_owner(user)] for user in node.users if _owner(user) in order]
        final = max([*users, order[_owner(node)]])
        last.setdefault(nodes[final], []).append(node)
    return last


def _step(module: Any, node: Any, slots: Mapping[Any, int], free: Sequence[int]) -> Step:
    function = operator.attrgetter(node.target)(module) if node.op == "call_module" else node.target
    flat = not any(_nested(value) for value in node.args) and not any(
        hasattr(value, "op") or _nested(value) for value in node.kwargs.values()
    )
    items = []
    for item, path in _items(node):
        items.append((path, slots[item]))
    return Step(
        name=node.name,
        function=function,
        args=tuple(None if hasattr(value, "op") else value for value in node.args),
        slots=tuple((i, slots[v]) for i, v in enumerate(node.args) if hasattr(v, "op")),
        build=None if flat else _builder(node, slots),
        kwargs=dict(node.kwargs) if flat else {},
        out=slots[node],
        items=tuple(items),
        free=tuple(free),
    )


def _nested(value: Any) -> bool:
    """Whether a container holds a node somewhere."""
    if isinstance(value, slice):
        return any(hasattr(part, "op") for part in (value.start, value.stop, value.step))
    if isinstance(value, dict):
        return any(hasattr(item, "op") or _nested(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(hasattr(item, "op") or _nested(item) for item in value)
    return False


def _builder(
    node: Any, slots: Mapping[Any, int]
) -> Callable[[list[Any]], tuple[Sequence[Any], Mapping[str, Any]]]:
    from torch.fx import node as fx_node

    map_arg: Any = fx_node.map_arg
    args, kwargs = node.args, node.kwargs

    def build(environment: list[Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        def resolve(inner: Any) -> Any:
            return environment[slots[inner]]

        return map_arg(args, resolve), map_arg(kwargs, resolve)

    return build


def describe_layers(module: Any) -> tuple[Layer, ...]:
    """Describe the steps of an exported program's `GraphModule`, in order."""
    return tuple(_describe(i, node) for i, node in enumerate(executed_nodes(module.graph)))


def _describe(index: int, node: Any) -> Layer:
    sources = list(node.all_input_nodes)
    weights = [source for source in sources if source.op == "get_attr"]
    inputs = [tensor for s in sources if s.op != "get_attr" for tensor in _tensors(s)]
    outputs = _tensors(node)
    attributes = _attributes(node)
    formula = _FORMULAS.get(_operation(node))
    counted = None
    if formula is not None:
        shapes = [_shape(source) for source in node.args if hasattr(source, "op")]
        try:
            counted = formula(shapes, outputs[0].shape if outputs else None, attributes)
        except (TypeError, IndexError, KeyError):
            counted = None  # a shape that is not known, or an unusual call
    held = [tensor for weight in weights for tensor in _tensors(weight)]
    every = {t.name: t for t in (*inputs, *outputs, *held)}
    target = str(node.target)
    path = _module_path(node)
    window = _call_window(node, target, attributes)
    kind = with_weights(kind_of_aten(target), bool(held))
    if kind == "convolution" and attributes.get("transposed"):
        kind = "deconvolution"
    return Layer(
        index=index,
        name=node.name,
        type=target,
        inputs=tuple(inputs),
        outputs=outputs,
        attributes=attributes,
        module_path=path,
        nodes=(node.name, *(item.name for item, _ in _items(node))),
        flops=counted,
        bytes_moved=flops.bytes_of((t.shape, t.dtype) for t in every.values()),
        operation=kind,
        kernel=window.kernel,
        stride=window.stride,
        padding=window.padding,
        dilation=window.dilation,
        groups=window.groups,
        weights=_count(held),
        fused=(target,),
        modules=() if path is None else (path,),
    )


def _call_window(node: Any, target: str, attributes: Mapping[str, Any]) -> Window:
    weight = node.args[1] if len(node.args) > 1 else None
    return aten_window(target, attributes, _shape(weight) if hasattr(weight, "op") else None)


def _count(weights: Sequence[Tensor]) -> int | None:
    """Number of elements, None where a shape is not known."""
    shapes = [tensor.shape for tensor in weights]
    known = [prod(shape) for shape in shapes if shape is not None]
    return sum(known) if len(known) == len(shapes) else None


def _module_path(node: Any) -> str | None:
    """Return where in the user's model a node comes from (`layer1.0.conv1`)."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return None
    return plain_path(str(list(stack.values())[-1][0]))


def plain_path(path: str) -> str:
    """Return a module path in dots.

    The stricter exporter writes `L['self'].layer1[0].conv1` or `L__self___layer1.0`.
    """
    return path.replace("L['self']", "").replace("[", ".").replace("]", "").strip(".")


def _shape(node: Any) -> tuple[int, ...] | None:
    shape = getattr(node.meta.get("val"), "shape", None)
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return None
    return tuple(shape)


def _tensors(node: Any) -> tuple[Tensor, ...]:
    """Return the tensors a node stands for: one, or as many as it returns."""
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        return tuple(
            _tensor(f"{node.name}.{index}", item)
            for index, item in enumerate(value)
            if hasattr(item, "shape")
        )
    return (_tensor(node.name, value),) if hasattr(value, "shape") else ()


def _tensor(name: str, value: Any) -> Tensor:
    static = all(isinstance(dim, int) for dim in value.shape)
    dtype = str(value.dtype).removeprefix("torch.")
    return Tensor(name, tuple(value.shape) if static else None, dtype)


def _operation(node: Any) -> str:
    """Return the operation without its overload and in-place mark: `relu` for `aten.relu_.default`.

    Empty for what is not one of aten's.
    """
    parts = str(node.target).split(".")
    return parts[1].rstrip("_") if parts[0] == "aten" and len(parts) > 1 else ""


def _attributes(node: Any) -> dict[str, Any]:
    """Return the arguments that are no tensors by their names, and a convolution's kernel."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {}
    named = dict(zip((arg.name for arg in schema.arguments), node.args, strict=False))
    named.update(node.kwargs)
    found = {
        name: _plain(value)
        for name, value in named.items()
        if not hasattr(value, "op") and not _nested(value) and value is not None
    }
    if "conv" in _operation(node) and len(node.args) > 1 and (shape := _shape(node.args[1])):
        found.setdefault("kernel_size", list(shape[2:]))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) else str(value)


_Shapes = Sequence[Any]
_Formula = Callable[[_Shapes, Any, Mapping[str, Any]], "int | None"]


def _convolution(shapes: _Shapes, out: Any, attributes: Mapping[str, Any]) -> int:
    if attributes.get("transposed"):
        return flops.transposed_convolution(shapes[0], shapes[1])
    return flops.convolution(out, shapes[1])


def _window(out: Any, attributes: Mapping[str, Any], dims: int) -> int:
    kernel = attributes["kernel_size"]
    window = [kernel] * dims if isinstance(kernel, int) else list(kernel)
    return flops.pooling(out, window * dims if len(window) == 1 else window)


_FORMULAS: dict[str, _Formula] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "_convolution"), _convolution),
    **dict.fromkeys(
        ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        lambda s, _out, _a: flops.transposed_convolution(s[0], s[1]),
    ),
    **dict.fromkeys(
        ("linear", "mm", "bmm", "matmul"),
        lambda s, out, _a: flops.matrix_product(out, s[0][-1]),
    ),
    **dict.fromkeys(("addmm", "baddbmm"), lambda s, out, _a: flops.matrix_product(out, s[1][-1])),
    "scaled_dot_product_attention": lambda s, _out, _a: flops.attention(s[0], s[1], s[2]),
    **dict.fromkeys(("max_pool1d", "avg_pool1d"), lambda _s, out, a: _window(out, a, 1)),
    **dict.fromkeys(("max_pool2d", "avg_pool2d"), lambda _s, out, a: _window(out, a, 2)),
    **dict.fromkeys(("max_pool3d", "avg_pool3d"), lambda _s, out, a: _window(out, a, 3)),
    **dict.fromkeys(
        ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "mean", "sum"),
        lambda s, _out, _a: flops.elementwise(s[0]),
    ),
    **dict.fromkeys(ONE_PER_ELEMENT, lambda _s, out, _a: flops.elementwise(out)),
    **dict.fromkeys(TWO_PER_ELEMENT, lambda _s, out, _a: flops.elementwise(out, 2)),
    **dict.fromkeys(MOVES, lambda _s, _out, _a: 0),
}
