"""Floating-point operations and bytes of a layer, where they follow from the shapes.

One convention for every backend: a multiply-add counts two, a bias and an activation fused into
a convolution or a matrix product count nothing, an operation whose cost is not a fixed number per
element (exp, erf, sigmoid) is unknown. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

Shape = Sequence[int]

DTYPE_BYTES = {
    "float64": 8,
    "int64": 8,
    "uint64": 8,
    "float32": 4,
    "int32": 4,
    "uint32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int16": 2,
    "uint16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}


def convolution(output: Shape, weight: Shape) -> int:
    """FLOPs of a convolution; `weight` is (out channels, in channels per group, kernel...)."""
    return 2 * prod(output) * prod(weight[1:])


def transposed_convolution(inputs: Shape, weight: Shape) -> int:
    """FLOPs of a transposed convolution; `weight` is (in, out per group, kernel...)."""
    return 2 * prod(inputs) * prod(weight[1:])


def matrix_product(output: Shape, inner: int) -> int:
    """FLOPs of a (batched) matrix product that sums over `inner` terms."""
    return 2 * prod(output) * inner


def attention(query: Shape, key: Shape, value: Shape) -> int:
    """FLOPs of both matrix products of scaled dot-product attention, (..., length, width)."""
    batch = prod(query[:-2])
    scores = batch * query[-2] * key[-2]
    return 2 * scores * query[-1] + 2 * scores * value[-1]


def pooling(output: Shape, window: Shape) -> int:
    """Operations of a pooling: one per element under each window."""
    return prod(output) * prod(window)


def elementwise(output: Shape, per_element: int = 1) -> int:
    """Operations of something done once (or `per_element` times) for every output element."""
    return prod(output) * per_element


def bytes_of(tensors: Iterable[tuple[Shape | None, str | None]]) -> int | None:
    """Bytes of tensors given as (shape, dtype); None if one of them is unknown."""
    total = 0
    for shape, dtype in tensors:
        if shape is None or dtype not in DTYPE_BYTES:
            return None
        total += prod(shape) * DTYPE_BYTES[dtype]
    return total
