"""The graph that an engine was built from, as far as layers are traced back to it.

The same for both ways to an engine: the ONNX graph that TensorRT's parser read, or the fx graphs
that Torch-TensorRT converted. It resolves what names tell lossily, and says which nodes lie between
two layers where a name tells nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from edgejoule.inference.onnx_origin import OriginalGraph
from edgejoule.inference.torch_graph import plain_path
from edgejoule.inference.trt.names import (
    NamedNode,
    myelin_original,
    parse_name,
    quantised_for,
    same_path,
)


@dataclass(frozen=True)
class OriginNode:
    """A node of the graph before TensorRT.

    Attributes:
        name: Name of the fx or ONNX node.
        type: `aten.convolution.default` or `Conv`.
        path: Module path, None where the exporter left none.
        reads: Names of the nodes whose results it reads, without weights and inputs.
        weighted: Whether it reads a weight.
    """

    name: str
    type: str
    path: str | None = None
    reads: tuple[str, ...] = ()
    weighted: bool = False


@dataclass(frozen=True)
class Origin:
    """A graph and the modules of the user's model.

    Attributes:
        nodes: By name, in the order of the graph.
        paths: Module paths that exist in the model; empty where they are not known.
        outputs: Names of the nodes whose results leave the graph.
        graph: The ONNX graph by tensors; None for fx graphs.
    """

    nodes: Mapping[str, OriginNode]
    paths: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()
    graph: OriginalGraph | None = field(default=None, repr=False)

    @cached_property
    def _spelled(self) -> dict[str, list[str]]:
        """Paths by what every spelling of them keeps."""
        found: dict[str, list[str]] = {}
        known = self.paths | {n.path for n in self.nodes.values() if n.path is not None}
        for path in sorted(known):
            found.setdefault(same_path(path), []).append(path)
        return found

    @cached_property
    def _myelin(self) -> dict[str, list[str]]:
        """Nodes by their names as Myelin spells them: it writes `_` for a dot."""
        found: dict[str, list[str]] = {}
        for name in self.nodes:
            found.setdefault(name.replace(".", "_"), []).append(name)
        return found

    def find(self, named: str) -> OriginNode | None:
        """Return the node of this name, or the one whose name it continues (`addmm_1_mm`)."""
        if self.graph is not None:
            return self.nodes.get(named)
        while named and named not in self.nodes:
            named, _, last = named.rpartition("_")
            if last.isdigit() and named in self.nodes:
                return None  # with its count the name is another node's
        return self.nodes.get(named)

    def find_myelin(self, layer_name: str) -> OriginNode | None:
        """Return the one node that a Myelin layer is named after, None where that is not sure."""
        names = self._myelin.get(myelin_original(layer_name).replace(".", "_"), [])
        return self.nodes[names[0]] if len(names) == 1 else None

    def path(self, named: NamedNode) -> str | None:
        """Return the module path of a node that a name tells of.

        The graph's own comes first; a lossy spelling counts only where one path of the model
        can be meant.
        """
        node = self.find(named.node)
        if node is not None and node.path is not None:
            return node.path
        if named.path is None or not named.lossy:
            return named.path
        if node is not None and not self.paths:
            return None  # the graph's own paths are not sure
        meant = self._spelled.get(same_path(named.path), [])
        if named.path in meant:
            return named.path
        if len(meant) == 1:
            return meant[0]
        return None if self._spelled else named.path

    def corrected(self, named: Iterable[NamedNode]) -> Origin:
        """Return the origin with paths as names tell them, where the graph's are damaged.

        Torch-TensorRT takes the innermost module out of each node's stack while it names layers
        (`popitem` in get_node_name, 2.4 to 2.14), so that a graph read afterwards tells parents.
        Where any name contradicts the graph, only what names tell counts.
        """
        if self.graph is not None:
            return self
        told: dict[str, str | None] = {}
        damaged = False
        for one in named:
            node = self.find(one.node)
            if node is None or one.path is None:
                continue
            same = node.path is not None and same_path(node.path) == same_path(one.path)
            damaged |= not same
            told[node.name] = node.path if same else self._meant(one)
        if not damaged:
            return self
        nodes = {name: replace(n, path=told.get(name)) for name, n in self.nodes.items()}
        return replace(self, nodes=nodes)

    def _meant(self, named: NamedNode) -> str | None:
        """Return the one path of the model that a name's path can stand for."""
        if not named.lossy:
            return named.path
        spelled = same_path(named.path or "")
        meant = [path for path in self.paths if same_path(path) == spelled]
        return meant[0] if len(meant) == 1 else None

    def between(
        self, before: Iterable[str], after: Iterable[str], claimed: set[str], leaves: bool = False
    ) -> list[str]:
        """Return the unclaimed nodes on the way from `before` to `after`, in order.

        Args:
            before: Nodes of the layers whose outputs the layer in question reads.
            after: Nodes of the layers that read its outputs.
            claimed: Nodes of all layers that are known.
            leaves: Whether its result leaves the graph.

        Returns:
            The nodes of the only way there is; empty where there is none or several.
        """
        sources = set(before)
        starts = {start for name in after for start in self.nodes[name].reads}
        ways: set[frozenset[str]] = set()
        for start in starts | (self.outputs if leaves else frozenset()):
            way, ends = self._back(start, claimed)
            if way and ends and ends <= sources:
                ways.add(way)
        only = ways.pop() if len(ways) == 1 else frozenset()
        return [name for name in self.nodes if name in only]

    def _back(self, start: str, claimed: set[str]) -> tuple[frozenset[str], set[str]]:
        """Walk back through unclaimed nodes; return them and the claimed ones they end at."""
        way: set[str] = set()
        ends: set[str] = set()
        waiting = [start]
        while waiting:
            name = waiting.pop()
            if name in claimed:
                ends.add(name)
            elif name in self.nodes and name not in way:
                way.add(name)
                waiting += self.nodes[name].reads
        return frozenset(way), ends


def onnx_origin_of(graph: Any, module_paths: Mapping[str, str]) -> Origin:
    """Index the ONNX graph that an engine was built from.

    Args:
        graph: The file, or the loaded `ModelProto`.
        module_paths: Module path by node name, before what the nodes say themselves.

    Raises:
        UsageError: The file is no ONNX graph.
    """
    from edgejoule.inference.onnx_graph import load_graph

    model = load_graph(Path(graph)) if isinstance(graph, (str, Path)) else graph
    original = OriginalGraph.of(model, module_paths)
    nodes = {}
    for node in model.graph.node:
        made_by = [original.producers[name] for name in node.input if name in original.producers]
        weights = any(name in original.weights for name in node.input)
        folded = any(_is_weight(one, original) for one in made_by)
        nodes[node.name] = OriginNode(
            node.name,
            node.op_type,
            original.paths.get(quantised_for(node.name) or node.name),
            tuple(dict.fromkeys(one.name for one in made_by)),
            weights or folded,
        )
    leaving = {value.name for value in model.graph.output}
    outputs = frozenset(node.name for node in model.graph.node if leaving.intersection(node.output))
    return Origin(nodes, frozenset(module_paths.values()), outputs, original)


def _is_weight(node: Any, original: OriginalGraph) -> bool:
    """Whether a node only prepares a weight (quantises, casts or transposes it)."""
    prepares = ("Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Transpose")
    if node.op_type == "Constant":
        return True
    if node.op_type not in prepares or not node.input:
        return False
    first = node.input[0]
    if first in original.weights:
        return True
    before = original.producers.get(first)
    return before is not None and before is not node and _is_weight(before, original)


def torch_origin_of(*modules: Any, paths: Iterable[str] = (), names: Iterable[str] = ()) -> Origin:
    """Index the fx graphs that Torch-TensorRT converts.

    Args:
        modules: `GraphModule`s (or anything with `.graph.nodes`), best before conversion: it
            damages what they tell of modules (`Origin.corrected`).
        paths: Module paths of the user's model, where known.
        names: Names of the network's layers, where the graphs are read after conversion.
    """
    nodes: dict[str, OriginNode] = {}
    outputs: set[str] = set()
    for module in modules:
        for node in module.graph.nodes:
            if node.op == "output":
                outputs.update(_owner(source).name for source in node.all_input_nodes)
            elif node.op in ("call_function", "call_module") and not _is_item(node):
                sources = [_owner(source) for source in node.all_input_nodes]
                nodes[node.name] = OriginNode(
                    node.name,
                    str(node.target),
                    _path(node),
                    tuple(
                        dict.fromkeys(
                            s.name for s in sources if s.op in ("call_function", "call_module")
                        )
                    ),
                    any(source.op == "get_attr" for source in sources),
                )
    origin = Origin(nodes, frozenset(paths), frozenset(outputs & set(nodes)))
    return origin.corrected(node for name in names for node in parse_name(name).nodes)


def _path(node: Any) -> str | None:
    stack = node.meta.get("nn_module_stack")
    return plain_path(str(list(stack.values())[-1][0])) if stack else None


def _is_item(node: Any) -> bool:
    """Whether this only takes an element out of what another node returned."""
    return node.op == "call_function" and node.target is operator.getitem


def _owner(node: Any) -> Any:
    """Return the node that a value comes from."""
    while _is_item(node):
        node = node.args[0]
    return node
