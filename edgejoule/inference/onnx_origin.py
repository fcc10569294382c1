"""Where a node of an optimised ONNX graph comes from.

Fusion renames and removes nodes. What survives it are tensor names, so the nodes behind a fused one
are found by walking the original graph from the fused node's outputs back to its inputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# What the optimiser adds to the name of a tensor that it lays out anew, the quantiser to one that
# it converts, and the optimiser to one whose conversion it moves.
_SUFFIXES = (
    "_nchwc", "_nhwc", "_QuantizeLinear_Output", "_DequantizeLinear_Output", "_pre_q", "_q_to_dq",
    "_dq", "_q",
)  # fmt: skip
HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "Attention")


@dataclass(frozen=True)
class OriginalGraph:
    """The graph before optimisation: which node makes a tensor, and where nodes come from."""

    producers: Mapping[str, Any]
    paths: Mapping[str, str]
    weights: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    inputs: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: Any, module_paths: Mapping[str, str]) -> OriginalGraph:
        """Index a graph; `module_paths` (node name -> path) come before what the nodes say."""
        producers = {out: node for node in model.graph.node for out in node.output if out}
        paths = {
            node.name: path
            for node in model.graph.node
            if (path := module_paths.get(node.name, exported_path(node))) is not None
        }
        weights = frozenset(tensor.name for tensor in model.graph.initializer)
        names = frozenset(node.name for node in model.graph.node)
        inputs = frozenset(value.name for value in model.graph.input)
        return cls(producers, paths, weights, names, inputs)

    def behind(self, outputs: Iterable[str], inputs: Iterable[str]) -> list[Any]:
        """Return the nodes between these tensors, in order; empty if they cannot be told."""
        stop = {self.original(name) for name in inputs} | self.weights
        found: list[Any] = []
        waiting = [self.original(name) for name in outputs if name]
        while waiting:
            tensor = waiting.pop()
            if tensor in stop or not tensor:
                continue
            node = self.producers.get(tensor)
            if node is None or len(found) > 64:
                return []  # walked past the fused node's inputs: these tensors are not its bounds
            if any(node is other for other in found):
                continue
            found.append(node)
            waiting += node.input
        return found[::-1]

    def main(self, tensors: Iterable[str], op_type: str) -> Any:
        """Return the nearest node of this type before these tensors, else the one that makes them.

        For nodes whose own tensors have no original name.
        """
        plain = op_type.removeprefix("Nhwc").removeprefix("Fused")
        level = [node for name in tensors if (node := self.producers.get(self.original(name)))]
        nearest = level[0] if level else None
        for _ in range(4):
            for node in level:
                if node.op_type == plain:
                    return node
            before = [self.producers.get(name) for node in level for name in node.input]
            level = [node for node in before if node is not None]
        return nearest

    def original(self, tensor: str) -> str:
        """Return the original name of a tensor whose layout or type was changed on the way."""
        name = tensor
        while name not in self.producers:
            suffix = next((one for one in _SUFFIXES if name.endswith(one)), None)
            if suffix is None:
                return tensor if name not in self.inputs else name
            name = name[: -len(suffix)]
        return name


def exported_path(node: Any) -> str | None:
    """Return the module path that an exporter left in a node, or None.

    A weight's name says it best, since exporters fold what follows into a convolution. The newer
    exporter keeps `name_scopes` in the node's metadata; the older one puts scopes into the name:
    `/layer1/layer1.0/conv1/Conv`.
    """
    if node.op_type in HEAVY:
        for name in node.input:
            if name.endswith(".weight"):
                return str(name.removesuffix(".weight"))
    for prop in getattr(node, "metadata_props", ()):
        if prop.key == "pkg.torch.onnx.name_scopes":
            scopes = re.findall(r"'([^']*)'", prop.value)
            return scopes[-2] if len(scopes) > 1 else None
    return path_in_name(node.name)


def path_in_name(name: str) -> str | None:
    """Return the module path that the older exporter writes into a node's name, or None."""
    if not name.startswith("/"):
        return None
    path: list[str] = []
    for scope in name.strip("/").split("/")[:-1]:
        if path and scope.startswith(path[-1] + "."):
            path[-1] = scope  # `layer1.0` names the child of a Sequential with its parent
        else:
            path.append(scope)
    return ".".join(path)


def ahead(node: Any, consumers: Mapping[str, Any], original: OriginalGraph) -> list[str]:
    """Return the first tensors behind a node that the original graph has too."""
    for name in node.output:
        plain = original.original(name)
        if plain in original.inputs:  # a conversion of what is fed
            return [out for out, first in original.producers.items() if plain in first.input][:1]
    for _ in range(4):
        found = [name for name in node.output if original.original(name) in original.producers]
        following = [consumers[name] for name in node.output if name in consumers]
        if found or not following:
            return found
        node = following[0]
    return []
