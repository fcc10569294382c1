"""The flat graph around the engines, as files: `program.json` and the tensors in `tensors.pt`.

torch's own ways do not fit: `torch.export` does not take a graph with foreign engines in it, and a
pickled `GraphModule` is traced again when it is loaded, under other names. So the nodes are written
one by one as they are, and the measuring process builds the same graph from them. It needs torch,
but not torch_tensorrt.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.common import short, write_json
from edgejoule.inference.trt.torch_parts import slot_of

_NODES_FILE = "program.json"
_TENSORS_FILE = "tensors.pt"
_MEND = "use --backend tensorrt, which builds one engine from the ONNX graph"


def save_program(module: Any, artefacts: Path) -> None:
    """Write a flat `GraphModule` (`torch_parts.take_apart`).

    Raises:
        UsageError: A part in PyTorch has something that a file cannot hold.
    """
    import torch

    nodes = []
    tensors: dict[str, Any] = {}
    for node in module.graph.nodes:
        target: Any = None
        if node.op == "call_function":
            target = _target_text(node)
        elif node.op in ("get_attr", "call_module"):
            target = str(node.target)
        if node.op == "get_attr":
            tensors[target] = _tensor(node, _attribute(module, target))
        encode = _Encoder(node.name)
        nodes.append(
            {
                "op": node.op,
                "name": node.name,
                "target": target,
                "args": [encode(value) for value in node.args],
                "kwargs": {name: encode(value) for name, value in node.kwargs.items()},
            }
        )
    write_json(artefacts / _NODES_FILE, {"nodes": nodes})
    torch.save(tensors, str(artefacts / _TENSORS_FILE))


def load_program(artefacts: Path, device: str, slot: Callable[[int], Any]) -> Any:
    """Build the flat `GraphModule` again.

    Args:
        artefacts: The folder.
        device: Where its tensors go.
        slot: Makes the module of an engine's slot, by its number.

    Raises:
        UsageError: An operator is not known to this torch.
    """
    import torch

    content = json.loads((artefacts / _NODES_FILE).read_text(encoding="utf-8"))
    stored = torch.load(str(artefacts / _TENSORS_FILE), map_location=device, weights_only=True)
    attributes: dict[str, Any] = dict(stored)
    graph = torch.fx.Graph()
    known: dict[str, Any] = {}
    for one in content["nodes"]:
        decode = _Decoder(known)
        target = one["target"]
        if one["op"] == "call_function":
            target = _target(target)
        elif one["op"] == "placeholder":
            target = one["name"]
        elif one["op"] == "output":
            target = "output"
        args = tuple(decode(value) for value in one["args"])
        kwargs = {name: decode(value) for name, value in one["kwargs"].items()}
        node = graph.create_node(one["op"], target, args, kwargs, name=one["name"])
        if node.name != one["name"]:
            raise MeasurementError(
                f"the saved program cannot be read: {one['name']} became {node.name}"
            )
        number = slot_of(node)
        if number is not None:
            attributes[target] = slot(number)
        known[node.name] = node
    graph.lint()
    return torch.fx.GraphModule(attributes, graph)


def _attribute(module: Any, target: str) -> Any:
    for part in target.split("."):
        module = getattr(module, part)
    return module


def _tensor(node: Any, value: Any) -> Any:
    import torch

    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        raise UsageError(
            f"a part left in PyTorch reads {node.target}, a {type(value).__name__}, which a file "
            "cannot hold",
            _MEND,
        )
    return value.detach()


def _target_text(node: Any) -> dict[str, str]:
    """Return a function as text that finds it again."""
    import torch

    function: Any = node.target
    overload: Any = torch._ops.OpOverload  # its only name
    packet: Any = torch._ops.OpOverloadPacket
    if isinstance(function, (overload, packet)):
        return {"operator": str(function)}
    name = getattr(function, "__qualname__", getattr(function, "__name__", ""))
    module = getattr(function, "__module__", "") or ""
    found = {"module": module, "function": name}
    try:
        same = _target(found) is function
    except UsageError:
        same = False
    if not same:
        raise UsageError(
            f"a part left in PyTorch calls {name or function!r}, which a file cannot hold", _MEND
        )
    return found


def _target(text: Mapping[str, str]) -> Any:
    """Return the function."""
    import torch

    try:
        if "operator" not in text:
            found: Any = importlib.import_module(text["module"])
            return _attribute(found, text["function"])
        first, *rest = text["operator"].split(".")
        found = getattr(torch.ops, first)
        try:
            return _attribute(found, ".".join(rest))
        except AttributeError:
            importlib.import_module(first)  # torchvision's operators are there once it is
            return _attribute(found, ".".join(rest))
    except (AttributeError, ImportError, ValueError) as error:
        name = text.get("operator") or f"{text['module']}.{text['function']}"
        raise UsageError(
            f"a part left in PyTorch calls {name}, which is not known here ({short(error)})",
            "import what defines it in the file of the model, or use --backend tensorrt",
        ) from error


class _Encoder:
    """Arguments of one node as JSON; what JSON has no word for is a mapping of one entry."""

    def __init__(self, node: str) -> None:
        import torch

        self.node = node
        self._ways: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
            ((bool, int, str, type(None)), lambda value: value),
            (float, lambda value: value if math.isfinite(value) else {"float": str(value)}),
            (torch.fx.Node, lambda value: {"node": value.name}),
            (tuple, lambda value: {"tuple": [self(item) for item in value]}),
            (list, lambda value: [self(item) for item in value]),
            (dict, lambda value: {"dict": [[self(k), self(v)] for k, v in value.items()]}),
            (
                slice,
                lambda value: {"slice": [self(value.start), self(value.stop), self(value.step)]},
            ),
            (torch.device, lambda value: {"device": str(value)}),
            (
                (torch.dtype, torch.layout, torch.memory_format),
                lambda value: {"torch": str(value).removeprefix("torch.")},
            ),
        )

    def __call__(self, value: Any) -> Any:
        """Return the value as JSON.

        Raises:
            UsageError: It is of a type that has no way.
        """
        for types, way in self._ways:
            if isinstance(value, types):
                return way(value)
        raise UsageError(
            f"{self.node}, left in PyTorch, has an argument of type {type(value).__name__}, which "
            "a file cannot hold",
            _MEND,
        )


class _Decoder:
    """The way back."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        import torch

        self._ways: dict[str, Callable[[Any], Any]] = {
            "node": lambda content: known[content],
            "tuple": lambda content: tuple(self(item) for item in content),
            "dict": lambda content: {self(key): self(item) for key, item in content},
            "slice": lambda content: slice(*(self(part) for part in content)),
            "float": float,
            "device": torch.device,
            "torch": lambda content: getattr(torch, content),
        }

    def __call__(self, value: Any) -> Any:
        """Return the value that stands in the JSON.

        Raises:
            MeasurementError: It is not of `_Encoder`.
        """
        if isinstance(value, list):
            return [self(item) for item in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind not in self._ways:
            raise MeasurementError(f"the saved program cannot be read: {kind!r} is not known")
        return self._ways[kind](content)
