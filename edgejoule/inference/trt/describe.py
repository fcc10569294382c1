"""The layers of a TensorRT engine, from the inspector's JSON and the graph behind the engine.

Where a layer's module comes from, the first that tells it:

1. The nodes in its name or metadata, looked up in the graph (`Origin`); without a graph, the path
   as the name spells it, and the module whose weight the name holds (`conv1.weight + ...`).
2. What TensorRT adds (a reformat, a reshape before or after a layer) belongs to the layer it
   serves: that layer's module is its `module_path`, it has no nodes, and its operation is
   `reformat`, or `nothing` where nothing is done.
3. ONNX: the nodes between its tensors, whose names survive in the engine.
4. The nodes that lie between the layers whose outputs it reads and those that read its outputs,
   if there is one such way through the graph and what is done on it (views apart) is done in one
   module.

Nothing else: a layer that none of these tells of is unmapped (`module_path` None).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from edgejoule.inference.backend import Layer, LayerKind, Tensor
from edgejoule.inference.layer_kinds import (
    NETWORK,
    combine,
    kind_of_tensorrt,
    kind_of_type,
    main_index,
    with_weights,
)
from edgejoule.inference.trt.costs import count_bytes, count_flops, count_weights, window_of
from edgejoule.inference.trt.inspector import Inspected, InspectedLayer, read_inspector
from edgejoule.inference.trt.names import LayerName, NamedNode, parse_name, torch_scope
from edgejoule.inference.trt.origin import Origin, OriginNode

_KEPT_ELSEWHERE = ("Name", "LayerType", "Inputs", "Outputs")
# What the runtime does for itself, whatever the model's node in its name.
_OF_THE_RUNTIME = ("reformat", "nothing")
_VIEWS = ("shape", "nothing")  # kinds of nodes that a way may hold beside what is done on it


@dataclass(frozen=True)
class _Node:
    """A node behind a layer, from the graph or, without one, from the name."""

    name: str
    type: str | None
    path: str | None
    weighted: bool | None = None
    known: bool = False  # in the graph
    network: tuple[str, ...] = ()  # what of it is in this layer
    split: bool = False  # over several layers of the engine

    @property
    def kind(self) -> LayerKind | None:
        whole = with_weights(kind_of_type(self.type), self.weighted) if self.type else None
        if not self.split or not self.network:
            return whole
        part = combine(NETWORK.get(kind) for kind in self.network)
        return whole if part is None or {part, whole} == {"matrix_product", "dense"} else part


@dataclass(frozen=True)
class _Traced:
    """A layer with what was found of its origin."""

    layer: InspectedLayer
    name: LayerName
    nodes: tuple[_Node, ...] = ()
    path: str | None = None

    @property
    def told(self) -> bool:
        """Whether it is known by more than names that nothing knows."""
        return self.path is not None or any(node.known for node in self.nodes)


def describe_engine(
    inspector_json: str, *, first_index: int = 0, origin: Origin | None = None, profile: int = 0
) -> tuple[Layer, ...]:
    """Describe the layers of one engine, in the order in which the inspector gives them.

    Args:
        inspector_json: The inspector's text, whatever its version and verbosity.
        first_index: Index of the first layer, where an engine is a part of a whole.
        origin: The graph that the engine was built from, where it is known.
        profile: Optimisation profile whose layers run.

    Raises:
        MeasurementError: The text is no inspector's JSON.
    """
    inspected = read_inspector(inspector_json)
    layers = inspected.of_profile(profile)
    names = [parse_name(layer.plain_name, layer.metadata) for layer in layers]
    if origin is not None:
        origin = origin.corrected(node for name in names for node in name.nodes)
    traced = [_traced(layer, name, origin) for layer, name in zip(layers, names, strict=True)]
    traced = _split(traced)
    if origin is not None:
        traced = _between_tensors(traced, origin)
        traced = _between_layers(traced, origin, inspected)
    traced = _served(traced)
    return tuple(_describe(first_index + i, one) for i, one in enumerate(traced))


def check_order(layers: Sequence[Layer], reported: Sequence[str]) -> str | None:
    """Compare the inspector's order of layers with the profiler's callbacks of one inference.

    Returns:
        The first difference in words, None where there is none.
    """
    for position, (layer, name) in enumerate(zip(layers, reported, strict=False)):
        if layer.name != name:
            return (
                f"callback {position} of an inference is {name!r}, "
                f"where the inspector has {layer.name!r}"
            )
    if len(layers) > len(reported):
        return (
            f"an inference reported {len(reported)} layers, the inspector has {len(layers)}: "
            f"the first that is missing is {layers[len(reported)].name!r}"
        )
    if len(reported) > len(layers):
        return (
            f"an inference reported {len(reported)} layers, the inspector has {len(layers)}: "
            f"the first that it does not have is {reported[len(layers)]!r}"
        )
    return None


def _traced(layer: InspectedLayer, name: LayerName, origin: Origin | None) -> _Traced:
    """Find the nodes that the name tells of."""
    if origin is not None and origin.graph is None and name.form != "torch":
        name = _bare(name, origin)
    found: dict[str, _Node] = {}
    for named in name.nodes:
        known = origin.find(named.node) if origin is not None else None
        path = named.path if origin is None else origin.path(named)
        if known is not None:
            node = replace(_known(known), path=path, network=named.network)
        else:
            node = _Node(named.node, named.type, path, network=named.network)
        found.setdefault(node.name, node)
    if not found and name.form == "myelin" and origin is not None:
        after = origin.find_myelin(layer.plain_name)
        if after is not None:
            found[after.name] = _known(after)
    nodes = tuple(found.values())
    path = _main_path(nodes, name.weights)
    if name.span and len({node.path for node in nodes}) > 1:
        path = None  # the ends of a region are of several modules
    return _Traced(layer, name, nodes, path)


def _bare(name: LayerName, origin: Origin) -> LayerName:
    """Recognise what Torch-TensorRT adds to a node without saying its type: `fc/linear_weight`."""
    if name.role != "layer" or not name.nodes or name.span:
        return name
    found = []
    for named in name.nodes:
        path, lossy, text = torch_scope(named.node)
        node = origin.find(text)
        if node is None or node.name == text:
            return name
        found.append(NamedNode(node.name, node.type, path, lossy))
    return replace(name, form="torch", role="helper", nodes=tuple(found))


def _split(traced: Sequence[_Traced]) -> list[_Traced]:
    """Mark nodes that are done in several layers: each of those is only a part of its node."""
    layers = Counter(node.name for one in traced if one.name.role == "layer" for node in one.nodes)
    return [
        replace(one, nodes=tuple(replace(n, split=layers[n.name] > 1) for n in one.nodes))
        for one in traced
    ]


def _known(node: OriginNode) -> _Node:
    return _Node(node.name, node.type, node.path, node.weighted, known=True)


def _main_path(nodes: Sequence[_Node], weights: Sequence[str]) -> str | None:
    """Path of the heaviest node; a weight's name tells the heaviest's where its node does not."""
    main = main_index([node.kind for node in nodes])
    if main is not None and nodes[main].path is not None:
        return nodes[main].path
    if weights:
        return weights[0]
    return next((node.path for node in nodes if node.path is not None), None)


def _between_tensors(traced: Sequence[_Traced], origin: Origin) -> list[_Traced]:
    """ONNX: tensors keep their names, so what lies between a layer's tensors is behind it."""
    graph = origin.graph
    if graph is None:
        return list(traced)

    def look(one: _Traced) -> _Traced:
        if _transparent(one) or (one.told and not one.name.span):
            return one
        behind = graph.behind(
            [tensor.name for tensor in one.layer.outputs],
            [tensor.name for tensor in one.layer.inputs],
        )
        nodes = tuple(_known(origin.nodes[node.name]) for node in behind)
        if not nodes:
            return one
        path = _main_path(nodes, one.name.weights)
        return replace(one, nodes=nodes, path=path, name=replace(one.name, span=False))

    return [look(one) for one in traced]


def _between_layers(
    traced: Sequence[_Traced], origin: Origin, inspected: Inspected
) -> list[_Traced]:
    """Map layers that say nothing by the layers around them."""
    makers = {t.name: one for one in traced for t in one.layer.outputs}
    readers: dict[str, list[_Traced]] = {}
    for one in traced:
        for tensor in one.layer.inputs:
            readers.setdefault(tensor.name, []).append(one)
    leaving = {tensor.name for tensor in inspected.tensors if tensor.is_input is not True}
    claimed = {
        node.name for one in traced if not _transparent(one) for node in one.nodes if node.known
    }

    def look(one: _Traced) -> _Traced:
        before = set() if one.told or _transparent(one) else _sources(one, makers)
        if not before:
            return one
        after, leaves = _sinks(one, readers, leaving)
        names = origin.between(before, after, claimed, leaves)
        nodes = tuple(_known(origin.nodes[name]) for name in names)
        doing = [node for node in nodes if node.kind not in _VIEWS] or nodes
        paths = {node.path for node in doing}
        if len(paths) != 1 or None in paths:
            return one
        return replace(one, nodes=nodes, path=doing[0].path)

    return [look(one) for one in traced]


def _adds(layer: InspectedLayer) -> bool:
    """Whether TensorRT added this layer: no node of the model is behind it."""
    return layer.record.get("Origin") == "REFORMAT"


def _transparent(one: _Traced) -> bool:
    return one.name.role != "layer" or _adds(one.layer)


def _sources(one: _Traced, makers: dict[str, _Traced]) -> set[str]:
    """Nodes of the layers whose outputs a layer reads; empty where one of them is not known."""
    found: set[str] = set()
    waiting = [tensor.name for tensor in one.layer.inputs]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        maker = makers.get(name)
        if name in seen or maker is None:
            continue
        seen.add(name)
        nodes = [node.name for node in maker.nodes if node.known]
        if _transparent(maker):
            waiting += [tensor.name for tensor in maker.layer.inputs]
        elif nodes:
            found.update(nodes)
        else:
            return set()
    return found


def _sinks(
    one: _Traced, readers: dict[str, list[_Traced]], leaving: set[str]
) -> tuple[set[str], bool]:
    """Nodes of the layers that read a layer's outputs, and whether one leaves the engine."""
    found: set[str] = set()
    leaves = False
    waiting = [tensor.name for tensor in one.layer.outputs]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        leaves |= name in leaving
        for reader in readers.get(name, []):
            if _transparent(reader):
                waiting += [tensor.name for tensor in reader.layer.outputs]
            else:
                found.update(node.name for node in reader.nodes if node.known)
    return found, leaves


def _served(traced: Sequence[_Traced]) -> list[_Traced]:
    """Give what TensorRT added the module of the layer it serves, and no nodes."""
    by_part: dict[str, list[_Traced]] = {}
    for one in traced:
        if one.name.role == "layer":
            name = one.layer.plain_name
            for part in {name, *name.split(" + ")}:
                by_part.setdefault(part, []).append(one)

    def serving(one: _Traced) -> _Traced:
        hosts = by_part.get(one.name.serves, [])
        return replace(one, nodes=(), path=hosts[0].path if len(hosts) == 1 else one.path)

    return [serving(one) if one.name.role != "layer" else one for one in traced]


def _describe(index: int, one: _Traced) -> Layer:
    layer = one.layer
    kinds = [node.kind for node in one.nodes]
    operation = _operation(one, kinds)
    window = window_of(layer)
    types = [node.type for node in one.nodes]
    tactic = layer.record.get("TacticName") or layer.record.get("TacticValue")
    paths = [node.path for node in one.nodes] or [one.path]
    every = [path for path in (*one.name.weights, *paths) if path is not None]
    return Layer(
        index=index,
        name=layer.name,
        type=layer.layer_type,
        inputs=tuple(Tensor(t.name, t.shape, t.dtype) for t in layer.inputs),
        outputs=tuple(Tensor(t.name, t.shape, t.dtype) for t in layer.outputs),
        attributes={k: v for k, v in layer.record.items() if k not in _KEPT_ELSEWHERE},
        module_path=one.path,
        nodes=tuple(node.name for node in one.nodes),
        flops=count_flops(layer, types),
        bytes_moved=count_bytes(layer),
        operation=operation,
        kernel=window.kernel,
        stride=window.stride,
        padding=window.padding,
        dilation=window.dilation,
        groups=window.groups,
        weights=count_weights(layer, operation),
        tactic=str(tactic) if tactic else None,
        fused=_main_first(types, kinds) or one.name.operations,
        modules=tuple(dict.fromkeys(every)),
    )


def _operation(one: _Traced, kinds: Sequence[LayerKind | None]) -> LayerKind | None:
    """What a layer does: by its nodes, but where the runtime does something of its own."""
    own = kind_of_tensorrt(one.layer.layer_type)
    by_nodes = combine(kinds) if kinds and not one.name.span else None
    found: LayerKind | None
    if own == "reformat" and one.layer.record.get("Origin") == "QDQ":
        found = "quantise"
    elif own in _OF_THE_RUNTIME:
        found = own
    elif one.name.role != "layer":
        found = "reformat"
    elif "mha" in one.name.operations:
        found = "attention"
    elif one.name.span:
        found = "fused"
    elif (by_nodes, own) == ("convolution", "deconvolution"):
        found = own  # aten calls both a convolution and tells them apart by an argument
    else:
        found = by_nodes or own or ("fused" if len(one.name.operations) > 1 else None)
    return found


def _main_first(types: Sequence[str | None], kinds: Sequence[LayerKind | None]) -> tuple[str, ...]:
    main = main_index(kinds)
    order: Iterable[int] = range(len(types))
    if main is not None:
        order = (main, *(i for i in range(len(types)) if i != main))
    return tuple(name for i in order if (name := types[i]) is not None)
