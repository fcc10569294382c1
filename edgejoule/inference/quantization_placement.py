"""Where quantise and dequantise nodes go for TensorRT, and how they are scaled.

After TensorRT's documentation (Working with Quantized Types: recommendations for the placement of
Q/DQ layers; that zero points are zero stands in its operator table):

- all inputs of weighted operations are quantised (convolution, deconvolution, products with a
  weight), activations per tensor, int8 weights per output channel;
- outputs are not: what follows may want the precision, and TensorRT moves a quantise node back
  over what commutes with it (max pooling, concatenation) by itself;
- of an addition that a convolution fuses with (a skip connection) the *other* input is quantised,
  so that the convolution's output can be 8 bits wide;
- biases and everything else stay as they are.

Every consumer gets a pair of its own, and a weight stays in floating point before its pair: the
form that all versions from 8.5 take (pre-quantised weights came with 10). Equal pairs are for
TensorRT to merge.

8-bit floats are scaled per tensor for weights too, because their relative precision does not
depend on magnitude. Their convolutions are quantised only where they are neither grouped nor
narrow (up to 16 channels): TensorRT has slow or no kernels for the others, and NVIDIA's own tool
(modelopt 0.47, `onnx/quantization/graph_utils.py`) leaves narrow ones out as well.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgejoule.errors import UsageError
from edgejoule.inference.quantization_graph import constants_of, consumers_of

if TYPE_CHECKING:
    import numpy as np

LIMITS = {"int8": 127.0, "fp8": 448.0}  # the magnitude that a range ends at
OPSETS = {"int8": 13, "fp8": 19}
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_NARROW = 16


@dataclass(frozen=True)
class _Place:
    """An input of a node that gets a pair; `axis` is the axis of a weight's output channels."""

    position: int  # of the node
    node: Any
    index: int  # of the input
    weight: bool = False
    axis: int | None = None

    @property
    def tensor(self) -> str:
        """The tensor that is quantised."""
        return str(self.node.input[self.index])


def insert_pairs(
    model: Any, ranges: Mapping[str, tuple[float, float]], dtype: str
) -> dict[str, Any]:
    """Put quantise and dequantise nodes into a graph (of opset `OPSETS[dtype]` or newer).

    Args:
        model: The graph, changed in place.
        ranges: Lowest and highest value of each float32 activation.
        dtype: `int8` or `fp8`.

    Returns:
        Facts: `pairs`, `weights` and `residuals` as counts, `op_types` that were quantised, `left`
        those that could have been and why not, `always_zero` tensors without any range.

    Raises:
        UsageError: There is nothing to quantise.
    """
    constants = constants_of(model)
    weighted, left = _weighted(model, constants, ranges, dtype)
    if not weighted:
        reasons = "; ".join(f"{count} x {why}" for why, count in sorted(left.items()))
        raise UsageError(
            f"nothing in this graph can run in {dtype} ({reasons or 'no weighted operation'})",
            "use --dtype float16",
        )
    residuals = _residuals(model, constants, ranges, weighted) if dtype == "int8" else []
    places = [*weighted, *residuals]
    unknown = always_zero(ranges, [place.tensor for place in places])
    before: dict[int, list[Any]] = {}
    zeros: dict[tuple[int, ...], str] = {}
    for place in places:
        if place.weight:
            scale = _weight_scale(_values(constants[place.tensor]), place.axis, dtype)
        else:
            scale = _scale(max(map(abs, ranges[place.tensor])), dtype)
        pair = _insert(model, place, scale, _zero(model, zeros, scale.shape, dtype))
        before.setdefault(place.position, []).extend(pair)
    ordered = [
        new
        for position, node in enumerate(model.graph.node)
        for new in (*before.get(position, ()), node)
    ]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    return {
        "pairs": len(places),
        "weights": sum(place.weight for place in places),
        "residuals": len(residuals),
        "op_types": dict(sorted(Counter(p.node.op_type for p in weighted if p.weight).items())),
        "left": dict(sorted(left.items())),
        "always_zero": len(unknown),
    }


def always_zero(ranges: Mapping[str, tuple[float, float]], tensors: Iterable[str]) -> set[str]:
    """Return the tensors that were zero for every calibration input: their scale is arbitrary."""
    return {name for name in tensors if name in ranges and not any(ranges[name])}


def _weighted(
    model: Any,
    constants: Mapping[str, Any],
    ranges: Mapping[str, tuple[float, float]],
    dtype: str,
) -> tuple[list[_Place], Counter[str]]:
    """Find the inputs of weighted operations, two places each, and count what is left alone."""
    places: list[_Place] = []
    left: Counter[str] = Counter()
    for position, node in enumerate(model.graph.node):
        if node.domain not in ("", "ai.onnx") or node.op_type not in (
            *_CONVOLUTIONS, "Gemm", "MatMul"
        ):  # fmt: skip
            continue
        activation, weight = node.input[0], node.input[1]
        if weight not in constants or activation in constants:
            left[f"{node.op_type} without a constant weight on its right"] += 1
        elif activation not in ranges:
            left[f"{node.op_type} of another dtype than float32"] += 1
        elif dtype == "fp8" and (why := _unfit_for_fp8(node, constants[weight].dims)):
            left[f"{node.op_type}, {why}"] += 1
        else:
            axis = _axis(node, constants[weight].dims) if dtype == "int8" else None
            places.append(_Place(position, node, 0))
            places.append(_Place(position, node, 1, weight=True, axis=axis))
    return places, left


def _unfit_for_fp8(node: Any, dims: Sequence[int]) -> str | None:
    if node.op_type == "ConvTranspose":
        return "transposed"
    if node.op_type == "Conv" and _attribute(node, "group", 1) > 1:
        return "grouped"
    if node.op_type == "Conv" and min(dims[:2]) <= _NARROW:
        return f"{_NARROW} channels or fewer"
    return None


def _axis(node: Any, dims: Sequence[int]) -> int | None:
    """Return the axis of a weight along which its outputs lie; None where there is no single one.

    The scale of an input channel could not be taken out of the sum over them.
    """
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if _attribute(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if _attribute(node, "transB", 0) else 1
    return 1 if len(dims) == 2 else None


def _residuals(
    model: Any,
    constants: Mapping[str, Any],
    ranges: Mapping[str, tuple[float, float]],
    weighted: Sequence[_Place],
) -> list[_Place]:
    """Find, of each addition that a quantised convolution fuses with, the other input."""
    convolutions = {
        place.node.output[0]: place.position
        for place in weighted
        if place.weight and place.node.op_type in _CONVOLUTIONS
    }
    consumers = consumers_of(model)
    outputs = {value.name for value in model.graph.output}
    found: list[_Place] = []
    for position, node in enumerate(model.graph.node):
        if node.op_type != "Add" or len(set(node.input)) != 2:
            continue
        fusing = [
            index
            for index, name in enumerate(node.input)
            if name in convolutions and len(consumers[name]) == 1 and name not in outputs
        ]
        if not fusing:
            continue
        # Of two convolutions the later one fuses: the other's output is there by then.
        main = max(fusing, key=lambda index: convolutions[node.input[index]])
        other = node.input[1 - main]
        if other in ranges and other not in constants:
            found.append(_Place(position, node, 1 - main))
    return found


def _weight_scale(values: np.ndarray, axis: int | None, dtype: str) -> np.ndarray:
    import numpy as np

    others = tuple(i for i in range(values.ndim) if i != axis)
    return _scale(np.abs(values).max(axis=others if axis is not None else None), dtype)


def _scale(magnitude: Any, dtype: str) -> np.ndarray:
    """Return the step at which `magnitude` is the largest number; 1 where there is none."""
    import numpy as np

    largest = np.asarray(magnitude, dtype=np.float64)
    scale = np.where(largest > 0, largest / LIMITS[dtype], 1.0).astype(np.float32)
    # A denormal step would be taken for zero.
    floor: np.ndarray = np.maximum(scale, np.finfo(np.float32).tiny)
    return floor


def _insert(model: Any, place: _Place, scale: np.ndarray, zero: str) -> tuple[Any, Any]:
    """Lead an input of a node through a pair; return the pair's nodes."""
    from onnx import helper, numpy_helper

    node = place.node
    label = f"{node.name or node.output[0]}/input{place.index}"
    if place.weight:
        label = f"{node.name or node.output[0]}/weight"
    step = f"{label}_scale"
    model.graph.initializer.append(numpy_helper.from_array(scale, step))
    axis = {} if place.axis is None else {"axis": place.axis}
    names = [f"{label}_{kind}Linear" for kind in ("Quantize", "Dequantize")]
    pair = (
        helper.make_node(
            "QuantizeLinear", [place.tensor, step, zero], [f"{names[0]}_Output"], names[0], **axis
        ),
        helper.make_node(
            "DequantizeLinear",
            [f"{names[0]}_Output", step, zero],
            [f"{names[1]}_Output"],
            names[1],
            **axis,
        ),
    )
    node.input[place.index] = f"{names[1]}_Output"
    return pair


def _zero(model: Any, known: dict[tuple[int, ...], str], shape: tuple[int, ...], dtype: str) -> str:
    """Return the name of the zero points of that shape, made once; they carry the 8-bit type."""
    from onnx import TensorProto, helper

    if shape not in known:
        known[shape] = "_".join(["edgejoule", dtype, "zero", *map(str, shape)])
        kind = TensorProto.INT8 if dtype == "int8" else TensorProto.FLOAT8E4M3FN
        tensor = helper.make_tensor(known[shape], kind, shape, bytes(math.prod(shape)), raw=True)
        model.graph.initializer.append(tensor)
    return known[shape]


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), default)


def _values(tensor: Any) -> np.ndarray:
    from onnx import numpy_helper

    values: np.ndarray = numpy_helper.to_array(tensor)
    return values
