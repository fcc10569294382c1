"""Which enumerations a version has, with its numbers, and what a test asks of the builder.

Names and numbers are those of the bindings of 8.6.1, 10.3, 10.13 and 11.1, as far as they are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from ._state import VERSION


@dataclass
class Behaviour:
    """What a test asks the builder for."""

    gpu: str = "Double GPU"
    fits_workspace: int | None = None  # a larger workspace ends in want of memory
    fits_level: int | None = None  # so does a higher optimisation level
    warn_with: str = ""  # logged as a warning before anything else
    fail_with: str = ""  # logged as an error; nothing is built
    raises: type[BaseException] | None = None  # out of build_serialized_network
    interrupt_at: int | None = None  # Ctrl-C arrives while this step is done
    allocates: int = 0  # bytes asked of the builder's allocator
    no_timing_cache: bool = False


BEHAVIOUR = Behaviour()
BUILT: list[dict[str, Any]] = []  # what each build was given


def _flags() -> dict[str, int]:
    if VERSION < (9, 0):
        names = (
            "FP16 INT8 DEBUG GPU_FALLBACK STRICT_TYPES REFIT DISABLE_TIMING_CACHE TF32 "
            "SPARSE_WEIGHTS SAFETY_SCOPE OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS "
            "DIRECT_IO REJECT_EMPTY_ALGORITHMS ENABLE_TACTIC_HEURISTIC VERSION_COMPATIBLE "
            "EXCLUDE_LEAN_RUNTIME FP8"
        )
        return {name: number for number, name in enumerate(names.split())}
    names = (
        "FP16 INT8 DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS SAFETY_SCOPE "
        "OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS DIRECT_IO REJECT_EMPTY_ALGORITHMS "
        "VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME FP8 ERROR_ON_TIMING_CACHE_MISS BF16"
    )
    found = {name: number for number, name in enumerate(names.split())}
    if VERSION >= (11, 0):
        gone = ("FP16", "INT8", "FP8", "BF16", "REJECT_EMPTY_ALGORITHMS")
        found = {
            name: number
            for name, number in found.items()
            if name not in gone and "PRECISION" not in name
        }
        found |= {"VERSION_COMPATIBLE": 12, "EXCLUDE_LEAN_RUNTIME": 13}
        found |= {"ERROR_ON_TIMING_CACHE_MISS": 15}
    return found


def _network_flags() -> dict[str, int]:
    if VERSION < (9, 0):
        return {"EXPLICIT_BATCH": 0, "EXPLICIT_PRECISION": 1}
    if VERSION < (11, 0):
        return {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
    return {"STRONGLY_TYPED": 0, "PREFER_JIT_PYTHON_PLUGINS": 1, "PREFER_AOT_PYTHON_PLUGINS": 2}


def _enum(name: str, members: dict[str, int]) -> Any:
    return IntEnum(name, members)


BuilderFlag = _enum("BuilderFlag", _flags())
NetworkDefinitionCreationFlag = _enum("NetworkDefinitionCreationFlag", _network_flags())
MemoryPoolType = _enum("MemoryPoolType", {"WORKSPACE": 0, "DLA_MANAGED_SRAM": 1, "TACTIC_DRAM": 4})
OnnxParserFlag = _enum("OnnxParserFlag", {"NATIVE_INSTANCENORM": 0})
ErrorCode = _enum(
    "ErrorCode",
    {
        "SUCCESS": 0,
        "INTERNAL_ERROR": 1,
        "MODEL_DESERIALIZE_FAILED": 3,
        "INVALID_VALUE": 4,
        "INVALID_GRAPH": 5,
        "INVALID_NODE": 6,
        "UNSUPPORTED_NODE": 8,
    },
)
