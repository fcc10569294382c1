"""From ONNX nodes to the modules of the model they came from."""

from __future__ import annotations

import ast
from collections.abc import Mapping

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
CLASS_HIERARCHY = "pkg.torch.onnx.class_hierarchy"

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def module_path(
    name: str, op_type: str, properties: Mapping[str, str], inputs: list[str]
) -> str | None:
    """Return the module that a node came from (`layer1.0.conv1`), or None where nothing says so.

    Args:
        name: The node's name; the older exporter's `/layer1/layer1.0/conv1/Conv` holds the path.
        op_type: Its operation.
        properties: Its metadata; the newer exporter keeps the path there.
        inputs: Names of its inputs. A convolution into which batch normalisation was folded has
            that one's metadata but still the convolution's weight, and its name decides.
    """
    if op_type in _WEIGHTED and len(inputs) > 1 and inputs[1].endswith(".weight"):
        return inputs[1][: -len(".weight")]
    scopes = _scopes(properties.get(NAME_SCOPES, ""))
    if len(scopes) > 1:
        return scopes[-2] or None
    if name.startswith("/"):
        return _from_older_name(name) or None
    return None


def _scopes(text: str) -> list[str]:
    """Parse `['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d']`: the last is the node."""
    try:
        value = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError):
        return []
    return [str(item) for item in value] if isinstance(value, list) else []


def _from_older_name(name: str) -> str:
    """Turn `/layer1/layer1.0/conv1/Conv` into `layer1.0.conv1`."""
    parts: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if parts and part.startswith(parts[-1] + "."):
            parts[-1] = part
        else:
            parts.append(part)
    return ".".join(parts)
