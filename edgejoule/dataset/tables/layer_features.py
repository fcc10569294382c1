"""What a predictor may use of a layer: from its entry in `engine.json` to flat columns.

The same function serves a layer that was measured and one that nobody measured. Nothing is
guessed: what the runtime did not say, and what a layer does not have, is None. Standard library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

Shape = list[int]


def layer_features(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns `layer_columns.FEATURES` of one layer, in their order.

    Args:
        layer: An entry of `layers` in `engine.json`, of any schema version; lists or tuples.

    Returns:
        Column -> value. `input_*`, `output_*`: of the first tensor, but for the elements, which
        are over all. Kernel, stride, padding, dilation: of the first two spatial axes; padding is
        begin plus end.
    """
    inputs, outputs = layer.get("inputs") or (), layer.get("outputs") or ()
    first_in, first_out = _first_shape(inputs), _first_shape(outputs)
    axes = _spatial_axes(layer, first_in)
    return {
        "batch_size": _at(first_in, 0),
        "input_shape": first_in,
        "output_shape": first_out,
        "inputs": len(inputs) or None,
        "outputs": len(outputs) or None,
        "input_elements": _elements(inputs),
        "output_elements": _elements(outputs),
        "input_channels": _at(first_in, 1),
        "output_channels": _at(first_out, 1),
        "input_height": _at(first_in, 2, dimensions=4),
        "input_width": _at(first_in, 3, dimensions=4),
        "output_height": _at(first_out, 2, dimensions=4),
        "output_width": _at(first_out, 3, dimensions=4),
        **_two("kernel", layer.get("kernel")),
        **_two("stride", layer.get("stride")),
        **_two("padding", both_sides(layer.get("padding"), axes)),
        **_two("dilation", layer.get("dilation")),
        "groups": layer.get("groups"),
        "weights": layer.get("weights"),
        "flops": layer.get("flops"),
        "bytes_moved": layer.get("bytes_moved"),
        "layer_dtype": outputs[0].get("dtype") if outputs else None,
        "fused": "+".join(layer.get("fused") or ()) or None,
        "tactic": layer.get("tactic"),
    }


def both_sides(padding: Sequence[int] | None, axes: int | None) -> list[int] | None:
    """Return begin plus end of a padding per spatial axis.

    Args:
        padding: One number per axis, where both sides are equal, or all begins and then all ends.
        axes: How many spatial axes the layer has.

    Returns:
        One number per axis; None where the padding is not known or fits neither form.
    """
    if padding is None or axes is None:
        return None
    if len(padding) == axes:
        return [2 * side for side in padding]
    if len(padding) == 2 * axes:
        return [padding[axis] + padding[axes + axis] for axis in range(axes)]
    return None


def tensor_shape(tensor: Mapping[str, Any]) -> Shape | None:
    """Return a tensor's shape, None if it is not known in every dimension."""
    shape = tensor.get("shape")
    if shape is None or any(not isinstance(size, int) or size < 0 for size in shape):
        return None
    return list(shape)


def _first_shape(tensors: Sequence[Mapping[str, Any]]) -> Shape | None:
    return tensor_shape(tensors[0]) if tensors else None


def _at(shape: Shape | None, axis: int, dimensions: int | None = None) -> int | None:
    """Return one dimension; with `dimensions` only of a shape that has just as many."""
    if shape is None or len(shape) <= axis or dimensions not in {None, len(shape)}:
        return None
    return shape[axis]


def _elements(tensors: Sequence[Mapping[str, Any]]) -> int | None:
    shapes = [tensor_shape(tensor) for tensor in tensors]
    known = [prod(shape) for shape in shapes if shape is not None]
    return sum(known) if shapes and len(known) == len(shapes) else None


def _spatial_axes(layer: Mapping[str, Any], first_input: Shape | None) -> int | None:
    """Return how many axes a window moves along; its own extents tell it best."""
    for name in ("kernel", "stride", "dilation"):
        if layer.get(name) is not None:
            return len(layer[name])
    return len(first_input) - 2 if first_input is not None and len(first_input) > 2 else None


def _two(name: str, extent: Sequence[int] | None) -> dict[str, int | None]:
    given = [*(extent or ())][:2]
    return {f"{name}_{axis}": given[axis] if axis < len(given) else None for axis in (0, 1)}
