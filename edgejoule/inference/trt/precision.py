"""Which dtype this GPU and this TensorRT can build, and what carries it: types or flags.

Two regimes. A *strongly typed* network (`NetworkDefinitionCreationFlag.STRONGLY_TYPED`, in the
bindings of 10.1 to 10.16; implied and ignored from 11.0 on) takes every type from the graph, and
flags for precision must not be set ("Explicit Quantization", documentation of TensorRT 11). A
*weakly typed* one (8.6) takes the graph as float32 and lets the builder choose where a flag allows
less. `BuilderFlag.FP16`, `BF16`, `INT8`, `FP8` are gone from the bindings of 11.0; `TF32` is still
there in 11.4 and governs float32 tensors in both regimes.

Explicit quantisation (Q/DQ in the graph): values are converted exactly where the graph says so,
even where a layer would be faster otherwise (developer guide 8.6, "Explicit Versus Implicit
Quantization"). An operation between DQ and Q for which there is no int8 or fp8 implementation is no
error: it runs in the floating type of its neighbours, which is the graph's in a strongly typed
network, and float32, or with the flag FP16 float16 too, in a weakly typed one (8.6 also wants the
flag INT8 for any quantised layer). So `allow_fallback=float16` decides the type of all that is not
quantised: without it that is float32. Implicit quantisation (a calibrator, below TensorRT 10 and
only where the graph cannot be given Q/DQ) lets the builder take int8 where it is faster; what it
does not take runs in float32, or with the fall-back in float16 too.

`OBEY_` and `PREFER_PRECISION_CONSTRAINTS` act on layers that were given a precision of their own
(`ILayer.precision`). None is given one here, since a constraint that a layer cannot meet would end
the build, and so neither flag is set.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgejoule.errors import UsageError
from edgejoule.inference.backend import DTYPES

# First compute capability that has it; support matrices of TensorRT 8.6.1 and 10.x ("Hardware and
# Precision"), half arithmetic: CUDA C++ Programming Guide, "Arithmetic Instructions" (5.3).
_SINCE_CAPABILITY = {
    "tf32": (8, 0),
    "float16": (5, 3),
    "bfloat16": (8, 0),
    "int8": (6, 1),
    "fp8": (8, 9),
}
# The support matrix of 8.6.1 gives 6.1 no float16; the TX2 (6.2) is without int8 in that of 8.2.
_WITHOUT = {(6, 1): ("float16",), (6, 2): ("int8",)}
_ORDER = ("float16", "float32", "tf32", "bfloat16", "int8", "fp8")


@dataclass(frozen=True)
class Typing:
    """How a network is given its precision.

    Attributes:
        kind: `strong`: by the types in the graph; `weak`: by flags of the builder.
        network_flags: Names of the flags the network is created with.
        builder_flags: Names of the builder's flags for precision that are set.
        tf32: Whether float32 products may be made in TensorFloat-32.
        rest: Dtype of what is not quantised, for int8 and fp8.
    """

    kind: Literal["strong", "weak"]
    network_flags: tuple[str, ...]
    builder_flags: tuple[str, ...]
    tf32: bool
    rest: str | None = None


def strongly_typed(trt: Any) -> bool:
    """Whether networks are strongly typed in this version."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def dtypes_of_version(trt: Any) -> tuple[str, ...]:
    """Return the dtypes that this TensorRT can build, the default first.

    bfloat16: `DataType.BF16` is not in the bindings of 8.6 but in those of 10.1. fp8: 8.6 has the
    name, but its header calls it not supported yet; it came with strong typing.
    """
    lacks = set()
    if not hasattr(trt.DataType, "BF16"):
        lacks.add("bfloat16")
    if not (strongly_typed(trt) and hasattr(trt.DataType, "FP8")):
        lacks.add("fp8")
    return tuple(dtype for dtype in _ORDER if dtype not in lacks)


def dtypes_of(capability: tuple[int, int], of_version: Sequence[str]) -> tuple[str, ...]:
    """Return which of the dtypes of a TensorRT a GPU has, the default first."""
    return tuple(dtype for dtype in of_version if not _lacking(dtype, capability))


def check_dtype(
    trt: Any, dtype: str, capability: tuple[int, int] | None, gpu: str = "this GPU"
) -> None:
    """Refuse a dtype that this GPU or this TensorRT does not have.

    Args:
        trt: The module.
        dtype: What is asked for.
        capability: The GPU's compute capability; None checks the version alone.
        gpu: Its name.

    Raises:
        UsageError: It is not possible, with the reason and what is.
    """
    if dtype not in DTYPES:
        raise UsageError(f"backend tensorrt has no dtype {dtype!r}", f"it has {', '.join(_ORDER)}")
    of_version = dtypes_of_version(trt)
    why_not = f"TensorRT {trt.__version__} has none" if dtype not in of_version else ""
    if not why_not and capability is not None:
        why_not = _lacking(dtype, capability, gpu)
    if why_not:
        possible = of_version if capability is None else dtypes_of(capability, of_version)
        raise UsageError(f"dtype {dtype}: {why_not}", f"use --dtype {' or '.join(possible)}")
    if dtype == "tf32" and os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        raise UsageError(
            "dtype tf32: the environment has NVIDIA_TF32_OVERRIDE=0, which forbids TensorFloat-32",
            "unset it, or use --dtype float32",
        )


def _lacking(dtype: str, capability: tuple[int, int], gpu: str = "this GPU") -> str:
    """Return why a GPU does not have a dtype, empty if it has it."""
    has = f"{gpu} has compute capability {capability[0]}.{capability[1]}"
    least = _SINCE_CAPABILITY.get(dtype, (0, 0))
    if capability < least:
        return f"{has}, {dtype} needs {least[0]}.{least[1]}"
    if dtype in _WITHOUT.get(capability, ()):
        return f"{has}, which is made without it"
    return ""


def typing_of(trt: Any, dtype: str, allow_fallback: str | None) -> Typing:
    """Return how a network of this dtype is typed in this version.

    float32 forbids TensorFloat-32, which TensorRT allows unless told otherwise; every dtype but
    `tf32` is kept from it, so that what stays in float32 is float32.

    Raises:
        UsageError: The fall-back is unknown, or asked for with a dtype that needs none.
    """
    quantised = dtype in {"int8", "fp8"}
    if allow_fallback not in {None, "float16"}:
        raise UsageError(
            f"no fall-back to {allow_fallback!r}", "use --allow-fallback float16, or none"
        )
    if allow_fallback and not quantised:
        raise UsageError(
            f"a fall-back is for int8 and fp8; {dtype} falls back to nothing",
            "leave --allow-fallback out",
        )
    rest = (allow_fallback or "float32") if quantised else None
    tf32 = dtype == "tf32"
    if strongly_typed(trt):
        return Typing("strong", ("STRONGLY_TYPED",), (), tf32, rest)
    flags = {"float16": ("FP16",), "bfloat16": ("BF16",), "int8": ("INT8",), "fp8": ("FP8",)}.get(
        dtype, ()
    )
    if rest == "float16":
        flags = (*flags, "FP16")
    explicit = ("EXPLICIT_BATCH",)
    has = trt.NetworkDefinitionCreationFlag
    return Typing("weak", tuple(f for f in explicit if hasattr(has, f)), flags, tf32, rest)
