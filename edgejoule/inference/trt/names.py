"""What stands in the name of a TensorRT layer: the nodes of the model, in each spelling.

Torch-TensorRT names a layer `[TYPE]-[aten_ops.op.overload]-[path/fx node]` (set_layer_name in
dynamo/conversion/converter_utils.py, the same in 2.4 to 2.14), casts
`Forced Cast ITensor <tensor> from A to B - [op]-[path/fx node]`, plugins `[op]-[path/fx node]`.
The path (get_node_name, the same file) is dotted from 2.5 on; 2.4 writes `/layer1/0/conv1` for
`layer1.0.conv1` but also `/features_0/0` for `features.0.0`, `__` for the model itself, and nothing
where it knows nothing. An fx node may have a suffix (`addmm_1_mm`).

The ONNX parser leaves node names, since 8.6 also in `Metadata` as `[ONNX Layer: name]`, joined by
the control characters 1e (TensorRT's fusions) or 1f (Myelin's).

TensorRT joins the names of what it fuses with ` + `, `||` (side by side) and `PWN(a, b)`
(pointwise); names what it adds by what that serves (`Reformatting CopyNode for Input Tensor 0 to
X`, `squeeze_after_X`, `reshape_before_X`); and lets Myelin name its own (`__myl_MaxMinCas_myl2_0`:
abbreviated operations). So texts are searched for what is known, never split where a name may hold
the same characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from edgejoule.inference.layer_kinds import ONNX
from edgejoule.inference.onnx_origin import path_in_name
from edgejoule.inference.torch_graph import plain_path

_REFORMAT = re.compile(r"^Reformatting CopyNode for (?:Input|Output) Tensor \d+ (?:to|from) ")
_HELPER = re.compile(
    r"^(?:copied_)?(?:un)?(?:squeeze|reshape|shuffle|transpose|flatten)(?:_node)?_(?:after|before)_"
)
_CAST = re.compile(r"(?:Forced )?Cast ITensor .*? from [\w.]+ to [\w.]+ - ")
# A bracket may stand in the last part: the stricter exporter's paths are `L['self'].layer1[0]`.
# A part that `-[` follows is no last one; one that `_output` follows belongs to a tensor's name.
_TRIPLE = re.compile(
    r"(?:\[(?P<network>[A-Z][A-Z0-9_]*)\]-)?\[(?P<target>[A-Za-z_][\w.:]*)\]"
    r"-\[(?P<node>(?:[^\[\]]|\[[^\[\]]*\])*)\](?!-\[|_output)"
)
_ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)\](?=$|[\x1e\x1f]|\[ONNX Layer: )", re.DOTALL)
_MYELIN_MARK = re.compile(r"_myl\d+(?:_\d+)?$")
_FOREIGN = re.compile(r"^\{ForeignNode\[(.*)\]\}$", re.DOTALL)
# Pairs that quantise an input are named after the node that reads it (inference/quantization.py).
_QUANTISES = re.compile(r"^(.+)/(?:input\d+|weight)_(QuantizeLinear|DequantizeLinear)$")
_JOIN = re.compile(r" \+ |\|\||\x1e|\x1f")
_JOIN_POINTWISE = re.compile(r" \+ |\|\||\x1e|\x1f|, ")
_UNNAMED = "(Unnamed Layer*"

Form = Literal["torch", "onnx", "myelin", "other"]
Role = Literal["layer", "reformat", "helper"]


@dataclass(frozen=True)
class NamedNode:
    """A node that a layer's name tells of.

    Attributes:
        node: Name of the fx or ONNX node.
        type: `aten.convolution.default`, `Conv`; None where the name does not tell it.
        path: Module path in dots; empty is the model itself, None where the name does not tell it.
        lossy: Whether a `_` in the path may stand for a dot.
        network: Types of the layers that Torch-TensorRT made of an fx node (`MATRIX_MULTIPLY`).
    """

    node: str
    type: str | None = None
    path: str | None = None
    lossy: bool = False
    network: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerName:
    """What a layer's name and metadata tell.

    Attributes:
        form: Whose spelling it is; `myelin` only where Myelin's name is all there is.
        role: `reformat` and `helper` are added by TensorRT for the layer they name.
        serves: The name of what they serve; a layer's own name where it is one.
        nodes: In the order of the name.
        weights: Modules whose weights the name holds (`conv1.weight + ...`).
        operations: What Myelin's name abbreviates, as it is spelt.
        span: The nodes are the first and last of a region.
    """

    form: Form
    role: Role = "layer"
    serves: str = ""
    nodes: tuple[NamedNode, ...] = ()
    weights: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    span: bool = False


def parse_name(name: str, metadata: str = "") -> LayerName:
    """Read a layer's name (without a profile's mark) and its metadata."""
    role, text = _role(name)
    named = [_torch_node(found) for found in _TRIPLE.finditer(_CAST.sub("", text))]
    if not named and role == "layer":
        named = [_torch_node(found) for found in _TRIPLE.finditer(_CAST.sub("", metadata))]
    if named:
        return LayerName("torch", role, text, _once(named), span=_FOREIGN.match(text) is not None)
    operations = _myelin_operations(text)
    listed = _ONNX_LAYER.findall(metadata) if role == "layer" else []
    if listed:
        return LayerName(
            "onnx", role, text, tuple(_onnx_node(one) for one in listed), _weights(text), operations
        )
    if text.startswith("__my") or _MYELIN_MARK.search(text):
        return LayerName("myelin", role, text, operations=operations)
    foreign = _FOREIGN.match(text)
    if foreign is not None:
        bounds = [_onnx_node(node) for node in foreign.group(1).split("...") if node]
        return LayerName("onnx", role, text, tuple(bounds), span=True)
    nodes = tuple(_onnx_node(token) for token in _tokens(text) if not _weight_of(token))
    return LayerName("onnx" if nodes else "other", role, text, nodes, _weights(text))


def myelin_original(name: str) -> str:
    """Return a Myelin layer's name without the mark that Myelin appends."""
    return _MYELIN_MARK.sub("", name)


def quantised_for(name: str) -> str | None:
    """Return the node for whose input a node quantises, None where the name is no such one's."""
    found = _QUANTISES.match(name)
    return found.group(1) if found else None


def same_path(path: str) -> str:
    """Return what of a module path every spelling keeps: its parts, joined by `_`."""
    return re.sub(r"[._/]+", "_", path).strip("_")


def _role(name: str) -> tuple[Role, str]:
    """Strip what says that a layer serves another one."""
    role: Role = "layer"
    text = name
    while True:
        short = _REFORMAT.sub("", text, count=1)
        if short != text:
            role = "reformat"
        elif (short := _HELPER.sub("", text, count=1)) != text:
            role = role if role == "reformat" else "helper"
        else:
            return role, text
        text = short


def _torch_node(found: re.Match[str]) -> NamedNode:
    kind = _aten_type(found["target"])
    path, lossy, node = torch_scope(found["node"])
    network = (found["network"],) if found["network"] else ()
    return NamedNode(_fx_node(node, kind), kind, path, lossy, network)


def torch_scope(text: str) -> tuple[str | None, bool, str]:
    """Split `layer1.0.conv1/convolution_1` into path, whether it is lossy, and node."""
    scope, slash, node = text.rpartition("/")
    if not slash:
        return None, False, node
    if scope in ("", "__"):
        return "", False, node
    if "/" in scope:
        return scope.strip("/").replace("/", "."), True, node
    return plain_path(scope), False, node


def _aten_type(target: str) -> str:
    """Return `aten.clone.default` for `aten_ops.clone.default` and for longer spellings of it."""
    _, mark, rest = target.partition("_ops.")
    if not mark:
        return target  # a plugin's own
    rest = rest.removeprefix("torch.ops.")
    return rest if rest.startswith("aten.") else f"aten.{rest}"


def _fx_node(node: str, kind: str) -> str:
    """Return an fx node's name without what a converter appends for each of its layers.

    fx names a node after its operator, then counts: `addmm`, `addmm_1`, `max_pool2d_default_1`.
    """
    parts = kind.split(".")
    operator = parts[1] if len(parts) > 1 else kind
    overload = f"(?:_{re.escape(parts[2])})?" if len(parts) > 2 else ""
    found = re.match(rf"{re.escape(operator)}{overload}(?:_\d+)?(?=_|$)", node)
    return found.group() if found else node


def _once(nodes: list[NamedNode]) -> tuple[NamedNode, ...]:
    """Name each fx node once, with the types of all layers that were made of it."""
    found: dict[tuple[str | None, str], NamedNode] = {}
    for node in nodes:
        first = found.setdefault((node.path, node.node), node)
        if first is not node:
            merged = replace(first, network=first.network + node.network)
            found[node.path, node.node] = merged
    return tuple(found.values())


def _onnx_node(name: str) -> NamedNode:
    return NamedNode(name, _onnx_type(name), path_in_name(quantised_for(name) or name))


def _onnx_type(name: str) -> str | None:
    """Return the type that exporters write into a name: `Conv_0`, `/fc/Gemm`, `node_Conv_295`."""
    quantises = _QUANTISES.match(name)
    if quantises:
        return quantises.group(2)
    last = _MYELIN_MARK.sub("", name).rpartition("/")[2].removeprefix("node_")
    kind = re.sub(r"_\d+$", "", last)
    return kind if kind in ONNX else None


def _tokens(text: str) -> list[str]:
    """Split a fused ONNX name; drop what TensorRT made itself."""
    join = _JOIN
    if "PWN(" in text:
        text, join = text.replace("PWN(", ""), _JOIN_POINTWISE
    tokens = []
    for part in join.split(text):
        token = part.strip()
        while token.endswith(")") and token.count(")") > token.count("("):
            token = token[:-1]
        if token and _UNNAMED not in token and not _HELPER.match(token):
            tokens.append(token)
    return tokens


def _weight_of(token: str) -> str | None:
    """Return the module that a weight's name belongs to."""
    found = re.fullmatch(r"([A-Za-z_][\w.]*)\.(?:weight|bias)", token)
    return found.group(1) if found else None


def _weights(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path for token in _tokens(text) if (path := _weight_of(token))))


def _myelin_operations(text: str) -> tuple[str, ...]:
    plain = _MYELIN_MARK.sub("", text)
    if not plain.startswith("__myl_"):
        return ("mha",) if re.match(r"_?gemm_mha(?:_|$)", plain) else ()
    return tuple(re.findall(r"[A-Z][a-z0-9]*", plain.removeprefix("__myl_")))
