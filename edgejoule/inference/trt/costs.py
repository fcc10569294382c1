"""Window, weights, operations and bytes of a TensorRT layer, where its record gives them.

Counted by the rule of `edgejoule.inference.flops`: what is fused into a convolution or a matrix
product counts nothing beside it. A record that contradicts itself gives None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

from edgejoule.inference import flops, onnx_graph, torch_graph
from edgejoule.inference.backend import LayerKind
from edgejoule.inference.layer_kinds import Window, canonical_padding, ints, kind_of_tensorrt
from edgejoule.inference.trt.inspector import InspectedLayer, dtype_of

# Pointwise functions of `Operations` (`auto const var0 = pwgen::iMax(arg0, literal1);`) that cost
# one operation per element by the house rule; seen in recordings of 8.2 and 10.1.
_ONE_EACH = {"iMax", "iMin", "iPlus", "iMinus", "iMul", "iDiv", "iNeg", "iAbs", "iReLU", "iClip"}
_MOVES = {"Reformat", "Shuffle", "Slice", "Padding", "Concat", "Concatenation", "Gather", "Cast",
          "Identity", "Split", "Squeeze", "Unsqueeze", "Shape", "Constant"}  # fmt: skip
# A layer that fuses a convolution with a pooling prefixes the fields of each.
_OF_CONVOLUTION = ("", "Conv", "Convolution")
_OF_POOLING = ("", "Pooling", "Pool")


def is_convolution(layer: InspectedLayer) -> bool:
    """Whether it runs as a convolution or deconvolution, whatever the model calls it."""
    kind = kind_of_tensorrt(layer.layer_type)
    return kind in ("convolution", "deconvolution") or (
        layer.record.get("ParameterType") in ("Convolution", "Deconvolution")
    )


def window_of(layer: InspectedLayer) -> Window:
    """Return the window of a convolution or pooling."""
    record = layer.record
    convolution = is_convolution(layer)
    prefixes = _OF_CONVOLUTION if convolution else _OF_POOLING
    kernel = _numbers(record, prefixes, ("Kernel",) if convolution else ("WindowSize", "Kernel"))
    if kernel is None:
        return Window()
    groups = _value(record, prefixes, ("Groups",)) if convolution else None
    return Window(
        kernel,
        _numbers(record, prefixes, ("Stride",)),
        canonical_padding(
            _numbers(record, prefixes, ("PrePadding",)),
            _numbers(record, prefixes, ("PostPadding",)),
        ),
        _numbers(record, prefixes, ("Dilation",)),
        groups if isinstance(groups, int) else None,
    )


def count_weights(layer: InspectedLayer, kind: LayerKind | None) -> int | None:
    """Return the number of weights, bias included; None where the record does not say."""
    weights = _constant(layer.record.get("Weights"))
    if weights is None:
        return 0 if kind in ("pooling", "reformat", "nothing") else None
    bias = _constant(layer.record.get("Bias"))
    return weights[0] + (bias[0] if bias else 0)


def count_bytes(layer: InspectedLayer) -> int | None:
    """Return the bytes of inputs, outputs and weights, each counted once, without layout padding.

    A `NoOp` moves nothing: its output is its input under another name.
    """
    if layer.layer_type == "NoOp":
        return 0
    tensors = {one.name: one for one in (*layer.inputs, *layer.outputs)}
    if not tensors:
        return None
    parts: list[tuple[Any, str | None]] = [(one.shape, one.dtype) for one in tensors.values()]
    for key in ("Weights", "Bias"):
        held = _constant(layer.record.get(key))
        if held is not None and held[0] > 0:
            parts.append(((held[0],), held[1]))
        elif held is None and key in layer.record:
            return None
    return flops.bytes_of(parts)


def count_flops(layer: InspectedLayer, types: Iterable[str | None]) -> int | None:
    """Return the operations of one execution.

    Args:
        layer: As the inspector describes it.
        types: Types of the nodes behind it; None among them is an unknown one.
    """
    counted = None
    if layer.layer_type == "NoOp":
        counted = 0
    elif not layer.outputs:
        counted = None
    elif is_convolution(layer):
        counted = _convolution(layer)
    elif kind_of_tensorrt(layer.layer_type) == "matrix_product":
        counted = _product(layer)
    elif (kernel := window_of(layer).kernel) is not None:
        output = layer.outputs[0].shape
        counted = None if output is None else flops.pooling(output, kernel)
    elif layer.layer_type == "Reduce":
        first = layer.inputs[0].shape if layer.inputs else None
        counted = None if first is None else flops.elementwise(first)
    elif layer.layer_type in _MOVES:
        counted = 0 if layer.record.get("Origin") != "QDQ" else None
    else:
        counted = _elementwise(layer, list(types))
    return counted


def _elementwise(layer: InspectedLayer, types: Sequence[str | None]) -> int | None:
    """Operations of a pointwise layer, by its own list of them, else by the nodes behind it."""
    sizes = {prod(one.shape) if one.shape is not None else None for one in layer.outputs}
    output = layer.outputs[0].shape
    if isinstance(layer.record.get("Operations"), list):
        each = _pointwise(layer.record["Operations"])
    else:
        costs = [per_element(kind) for kind in types]
        each = None if not costs or None in costs else sum(cost or 0 for cost in costs)
    if each is None or output is None or len(sizes) > 1:
        return None
    return flops.elementwise(output, each)


def per_element(kind: str | None) -> int | None:
    """Operations per element of the output of a node of this type, None where not fixed."""
    if kind is None:
        return None
    if "." not in kind:
        one, two = onnx_graph.ONE_PER_ELEMENT, {"BatchNormalization"}
        return 0 if kind in onnx_graph.MOVES else 1 if kind in one else 2 if kind in two else None
    name = kind.split(".")[1].rstrip("_")
    if name in torch_graph.MOVES:
        return 0
    if name in torch_graph.ONE_PER_ELEMENT:
        return 1
    return 2 if name in torch_graph.TWO_PER_ELEMENT else None


def _convolution(layer: InspectedLayer) -> int | None:
    """Operations by the shapes, if the number of weights agrees with them."""
    window = window_of(layer)
    maps = _value(layer.record, _OF_CONVOLUTION, ("OutMaps",))
    data = layer.inputs[0].shape if layer.inputs else None
    output = layer.outputs[0].shape
    kernel, groups = window.kernel, window.groups or 1
    if kernel is None or data is None or output is None or not isinstance(maps, int):
        return None
    if len(data) != len(kernel) + 2 or maps < 1 or groups < 1 or data[1] % groups or maps % groups:
        return None
    held = _constant(layer.record.get("Weights"))
    expected = maps * (data[1] // groups) * prod(kernel)
    if held is not None and held[0] not in (0, expected):
        return None
    if _transposed(layer):
        return flops.transposed_convolution(data, (data[1], maps // groups, *kernel))
    if "Pool" in (layer.layer_type or ""):
        inside = _convolved(data[2:], window)
        output = None if inside is None else (data[0], maps, *inside)
    if output is None or len(output) < 2 or output[1] != maps:
        return None
    return flops.convolution(output, (maps, data[1] // groups, *kernel))


def _transposed(layer: InspectedLayer) -> bool:
    kind = kind_of_tensorrt(layer.layer_type)
    return kind == "deconvolution" or layer.record.get("ParameterType") == "Deconvolution"


def _convolved(data: tuple[int, ...], window: Window) -> tuple[int, ...] | None:
    """Spatial shape behind the convolution alone (explicit padding, rounded down)."""
    kernel, stride, padding = window.kernel, window.stride, window.padding
    dilation = window.dilation or (1,) * len(data)
    if kernel is None or stride is None or padding is None:
        return None
    both = padding * 2 if len(padding) == len(data) else padding
    axes = len(data)
    if not len(kernel) == len(stride) == len(dilation) == axes or len(both) != 2 * axes:
        return None
    if min(stride) < 1:
        return None
    return tuple(
        (data[i] + both[i] + both[axes + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(axes)
    )


def _product(layer: InspectedLayer) -> int | None:
    """Operations of a matrix product: the inner length in which all three shapes agree."""
    if len(layer.inputs) < 2:
        return None
    a, b, output = layer.inputs[0].shape, layer.inputs[1].shape, layer.outputs[0].shape
    if a is None or b is None or output is None or min(len(a), len(b)) < 2:
        return None
    batch = max(prod(a[:-2]), prod(b[:-2]))
    inner = {
        a[at]
        for at, rows in ((-1, -2), (-2, -1))
        for bt, columns in ((-2, -1), (-1, -2))
        if a[at] == b[bt] and prod(output) == batch * a[rows] * b[columns]
    }
    return flops.matrix_product(output, inner.pop()) if len(inner) == 1 else None


def _pointwise(operations: list[Any]) -> int | None:
    """Operations per element of a pointwise expression; None where one has no fixed cost."""
    total = 0
    for line in operations:
        called = re.findall(r"pwgen::(\w+)\(", str(line))
        if not called or any(name not in _ONE_EACH for name in called):
            return None
        total += len(called)
    return total


def _constant(value: Any) -> tuple[int, str | None] | None:
    """Return count and dtype of `{"Type": "Half", "Count": 9408}`."""
    if not isinstance(value, Mapping):
        return None
    count = value.get("Count")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        return None
    return count, dtype_of(value.get("Type"))


def _value(record: Mapping[str, Any], prefixes: tuple[str, ...], keys: tuple[str, ...]) -> Any:
    names = (prefix + key for key in keys for prefix in prefixes)
    return next((record[name] for name in names if name in record), None)


def _numbers(
    record: Mapping[str, Any], prefixes: tuple[str, ...], keys: tuple[str, ...]
) -> tuple[int, ...] | None:
    found = ints(_value(record, prefixes, keys))
    return found if found is not None and min(found) >= 0 else None
