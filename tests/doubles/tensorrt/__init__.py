"""A double of the module `tensorrt` for tests: no GPU, no TensorRT, one version played at a time.

It behaves as `NvInferRuntime.h` and the Python bindings say of what this project uses: layers are
reported in the inspector's order, at the launch or when asked for; a profiler cannot be taken off;
what an override raises is printed and forgotten; a plan of another version gives None and a line in
the log. A version has the names that the real one has and no others.

The environment says which version (`_state.VARIABLE`, 10.13.0 if unset) and which names to leave
out (`_state.WITHOUT`, dotted, separated by commas), so that child processes play the same. Plans
are JSON (`_plan.make_plan`). Device memory is host memory; with the stand-in for libcudart loaded
(`tests/fake_cudart.c`) work waits on its streams and memory is its own.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from . import _plan, _state
from ._base import (
    DataType,
    Dims,
    IGpuAllocator,
    ILogger,
    IOutputAllocator,
    IProfiler,
    LayerInformationFormat,
    Logger,
    Profiler,
    ProfilingVerbosity,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
)
from ._context import IExecutionContext
from ._runtime import EngineInspector, ICudaEngine, Runtime

__version__ = _state.VERSION_TEXT
make_plan = _plan.make_plan

__all__ = [
    "DataType",
    "Dims",
    "EngineInspector",
    "ICudaEngine",
    "IExecutionContext",
    "IGpuAllocator",
    "ILogger",
    "IOutputAllocator",
    "IProfiler",
    "LayerInformationFormat",
    "Logger",
    "Profiler",
    "ProfilingVerbosity",
    "Runtime",
    "TensorFormat",
    "TensorIOMode",
    "TensorLocation",
    "init_libnvinfer_plugins",
    "make_plan",
    "volume",
]


def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
    _state.REGISTERED.append(namespace)
    return True


def volume(iterable: Any) -> int:
    total = 1
    for size in iterable:
        total *= size
    return total if iterable else 0


if importlib.util.find_spec(f"{__name__}._builder") is not None:
    from . import _builder

    globals().update(_builder.names())

for _name in filter(None, os.environ.get(_state.WITHOUT, "").split(",")):
    _owner, _, _attribute = _name.strip().rpartition(".")
    if _owner:
        delattr(globals()[_owner], _attribute)
    else:
        del globals()[_attribute]
