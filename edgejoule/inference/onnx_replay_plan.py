"""What of an ONNX graph can be replayed: which layers are equal, which tensors come from memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.inference.onnx_profile import node_of, read_events
from edgejoule.inference.onnx_replay_graph import VIEWS, Graph, Value, key_of, value_of_profile
from edgejoule.inference.replay_rotation import is_cold, reuse_distances, shared_buffers
from edgejoule.inference.replaying import ReplayPlan

if TYPE_CHECKING:
    import numpy as np

_NOTES: tuple[str, ...] = (
    "every node is repeated in a graph of its own, with what it got in the network, on as many "
    "threads; kernels that compute in place there write to memory of their own here",
    "of the caches only the last level is reproduced: what the network reads from memory each time "
    "is in as many copies in turn as exceed it",
)


@dataclass(frozen=True)
class Observed:
    """What some profiled runs of the graph have shown.

    Attributes:
        values: Types and shapes of weights, inputs and everything that was computed.
        duration_us: Shortest time of each node, by its index and name.
    """

    values: Mapping[str, Value]
    duration_us: Mapping[tuple[int, str], int]


@dataclass(frozen=True)
class ReplayLayer:
    """A layer that can be repeated.

    Attributes:
        node: Its node.
        duration_us: In the network, the shortest of a few.
        cold: The tensors it reads that come from memory in the network.
        cold_bytes: Of those.
        read_bytes: Of all that it reads.
    """

    node: Any
    duration_us: int
    cold: tuple[str, ...]
    cold_bytes: int
    read_bytes: int


def observe(graph: Graph, profile: Path, inputs: Mapping[str, np.ndarray]) -> Observed:
    """Read a profile of some runs.

    Args:
        graph: What was run.
        profile: The runtime's file.
        inputs: What was fed, in the types of the graph's inputs.
    """
    values = graph.values()
    durations: dict[tuple[int, str], int] = {}
    for event in read_events(profile):
        done = node_of(event)
        if done is None:
            continue
        key = (done.node_index, done.name)
        durations[key] = min(done.dur_us, durations.get(key, done.dur_us))
        node = graph.nodes.get(done.name)
        if node is None:
            continue
        shapes = [
            (str(kind), shape)
            for output in event["args"].get("output_type_shape", ())
            for kind, shape in output.items()
        ]
        for name, (kind, shape) in zip(filter(None, node.output), shapes, strict=False):
            value = value_of_profile(kind, shape)
            if value is not None:
                values[name] = value
    for value in graph.model.graph.input:
        if value.name in inputs:
            dtype = int(value.type.tensor_type.elem_type)
            values[value.name] = Value(dtype, tuple(inputs[value.name].shape))
    return Observed(values, durations)


def plan_layers(
    graph: Graph,
    nodes: Sequence[tuple[int, str]],
    observed: Observed,
    cache_bytes: int | None,
) -> tuple[dict[int, ReplayLayer], ReplayPlan]:
    """Say which layers are equal and which cannot be repeated, and why.

    Args:
        graph: The optimised graph.
        nodes: Index and name of every layer's node, in the order of execution.
        observed: Of `observe`.
        cache_bytes: Last-level cache, None: not known.

    Returns:
        Layer -> what is needed to repeat it, and the plan.
    """
    values = observed.values
    left_out: dict[int, str] = {}
    for index, (_, name) in enumerate(nodes):
        why = _why_not(graph, name, values)
        if why:
            left_out[index] = why
    cold = _cold(graph, nodes, values, cache_bytes)
    layers: dict[int, ReplayLayer] = {}
    groups: dict[str, list[int]] = {}
    for index, (node_index, name) in enumerate(nodes):
        if index in left_out:
            continue
        node = graph.nodes[name]
        sizes = {one: values[one].nbytes for one in graph.reads(node)}
        layers[index] = ReplayLayer(
            node,
            observed.duration_us.get((node_index, name), 0),
            cold[index],
            sum(sizes[one] for one in cold[index]),
            sum(sizes.values()),
        )
        groups.setdefault(key_of(graph, node, values, cold[index]), []).append(index)
    preserving = [i for i, layer in layers.items() if _preserves(graph, layer.node, values)]
    preserving.sort(key=lambda index: -layers[index].duration_us)
    notes = _NOTES
    if cache_bytes is None:
        notes += ("this system does not say how large its last-level cache is: nothing is rotated",)
    plan = ReplayPlan(
        groups=tuple(tuple(group) for group in groups.values()),
        left_out=left_out,
        duplicable=tuple(preserving),
        notes=notes,
    )
    return layers, plan


def _why_not(graph: Graph, name: str, values: Mapping[str, Value]) -> str:
    """Say why a node cannot be repeated alone; empty if it can."""
    node = graph.nodes.get(name)
    if node is None:
        return "the runtime put it in when it loaded the graph; it stands in no graph by itself"
    unknown = [one for one in graph.reads(node) if one not in values]
    if unknown:
        return f"its input {unknown[0]} is no tensor of numbers (a sequence, a map, text)"
    if not any(one in values for one in node.output if one):
        return "its output is no tensor of numbers (a sequence, a map, text)"
    return ""


def _cold(
    graph: Graph,
    nodes: Sequence[tuple[int, str]],
    values: Mapping[str, Value],
    cache_bytes: int | None,
) -> list[tuple[str, ...]]:
    """Return per layer which of the tensors it reads come from memory in the network."""
    same: dict[str, str] = {}  # a view -> whose memory it is
    steps: list[tuple[dict[str, int], dict[str, int]]] = []
    reads: list[dict[str, str]] = []
    for _, name in nodes:
        node = graph.nodes.get(name)
        if node is None:
            reads.append({})
            steps.append(({}, {}))
            continue
        if node.op_type in VIEWS and node.output[0] not in graph.outputs:
            same[node.output[0]] = same.get(node.input[0], node.input[0])
            reads.append({})
            steps.append(({}, {}))
            continue
        known = {one: same.get(one, one) for one in graph.reads(node) if one in values}
        reads.append(known)
        written = {one: values[one].nbytes for one in node.output if one in values}
        steps.append(({memory: values[one].nbytes for one, memory in known.items()}, written))
    own = {*graph.weights, *graph.outputs, *(value.name for value in graph.model.graph.input)}
    places = shared_buffers(steps, own)

    def placed(touched: Mapping[str, int]) -> dict[str, int]:
        found: dict[str, int] = {}
        for one, nbytes in touched.items():
            buffer = places[one][0]
            found[buffer] = max(nbytes, found.get(buffer, 0))
        return found

    distances = reuse_distances([(placed(read), placed(write)) for read, write in steps])
    found = []
    for (_, name), known, distance in zip(nodes, reads, distances, strict=True):
        node = graph.nodes.get(name)
        cold = (
            one
            for one, memory in known.items()
            if is_cold(distance[places[memory][0]], cache_bytes)
        )
        found.append(tuple(one for one in cold if not graph.is_parameter(node, one)))
    return found


def _preserves(graph: Graph, node: Any, values: Mapping[str, Value]) -> bool:
    """Whether a node turns one tensor into one of the same type and shape."""
    fed = graph.fed(node)
    outputs = [name for name in node.output if name]
    return (
        len(outputs) == 1
        and bool(fed)
        and node.op_type not in VIEWS
        and values.get(outputs[0]) == values[fed[0]]
    )
