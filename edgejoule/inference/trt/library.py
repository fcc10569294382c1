"""The module `tensorrt`: loaded, told its version, given a logger; and the list of what is used.

Versions differ in what they have, and the numbers behind their enumerations were changed (facts of
the migration from 10.x to 11.x: `STRONGLY_TYPED` is 1 in one and 0 in the other). So everything
here goes by name, and `RELIED_ON` lists every name with the versions that have it; tests compare
it with the bindings that NVIDIA published.
"""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from typing import Any, Protocol

from edgejoule.errors import UsageError
from edgejoule.inference.common import short

OLDEST = (8, 6, 0)

_INSTALL = (
    "on a Jetson: apt install python3-libnvinfer, and a Python that sees the system's packages; "
    "elsewhere: pip install tensorrt"
)
_KEPT_LINES = 200  # of warnings and of errors; a build may give thousands
# TensorRT and its plugin library keep a bare pointer to a logger, maybe longer than the objects
# that were made with it: a logger lives as long as the process.
_KEPT: list[Any] = []


class Log(Protocol):
    """TensorRT's logger as the rest of this package sees it."""

    errors: list[str]
    warnings: list[str]

    error_count: int

    def last_error(self) -> str:
        """Return the last errors as one line, the oldest first; empty if there was none."""

    def errors_since(self, count: int) -> list[str]:
        """Return the errors that came after `error_count` was this, as far as they are kept."""


@dataclass(frozen=True)
class ReliedOn:
    """A name of TensorRT's Python API that this package uses.

    Attributes:
        name: Dotted, from the module: `IExecutionContext.enqueue_emits_profile`.
        since: First version that has it; None: the oldest supported one has it.
        until: First version without it; None: the newest has it.
    """

    name: str
    since: tuple[int, int] | None = None
    until: tuple[int, int] | None = None

    def expected(self, version: tuple[int, int, int]) -> bool:
        """Whether that version of TensorRT must have the name."""
        return (self.since is None or version[:2] >= self.since) and (
            self.until is None or version[:2] < self.until
        )


def load_tensorrt() -> Any:
    """Return the module `tensorrt`.

    Raises:
        UsageError: It is absent, broken (a library missing, another Python), too old, or a folder
            of that name stands in its place.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if error.name == "tensorrt":
            raise UsageError("TensorRT's Python module is not installed", _INSTALL) from error
        raise UsageError(f"tensorrt cannot be imported ({short(error)})", _INSTALL) from error
    except Exception as error:  # a placeholder package may raise anything
        raise UsageError(
            f"tensorrt is installed but cannot be loaded ({type(error).__name__}: {short(error)})",
            "check that its libraries (libnvinfer.so) are of the same version and on the loader's "
            "path, and that the NVIDIA driver is there",
        ) from error
    if not hasattr(trt, "__version__") or not hasattr(trt, "Runtime"):
        where = getattr(trt, "__file__", None) or next(iter(getattr(trt, "__path__", "?")), "?")
        raise UsageError(f"the module tensorrt found at {where} is not NVIDIA's", _INSTALL)
    version = version_of(trt)
    if version < OLDEST:
        raise UsageError(
            f"TensorRT {trt.__version__} is older than 8.6, the oldest supported",
            "install a newer one, or measure with --backend onnxruntime",
        )
    return trt


def version_of(trt: Any) -> tuple[int, int, int]:
    """Return the version as three numbers; `10.3.0.post2` is (10, 3, 0).

    Raises:
        UsageError: The version cannot be read.
    """
    text = str(trt.__version__)
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if found is None:
        raise UsageError(f"the version of tensorrt cannot be read: {text!r}", _INSTALL)
    return int(found[1]), int(found[2]), int(found[3] or 0)


def make_log(trt: Any) -> Any:
    """Return an `ILogger` that keeps warnings and errors and prints both to stderr.

    Args:
        trt: The module.

    Returns:
        An object that is both a `trt.ILogger` and a `Log`.
    """

    class _Log(trt.ILogger):  # type: ignore[misc]  # the base is known at run time only
        def __init__(self) -> None:
            # Not `super()`: pybind11 wants the base's own initialiser called by its name.
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.error_count = 0  # of all that ever came, also those that are not kept

        def log(self, severity: Any, msg: str) -> None:
            """Keep and print what TensorRT says; called by TensorRT, from any of its threads."""
            name = severity.name
            if name in {"ERROR", "INTERNAL_ERROR"}:
                kept = self.errors
                self.error_count += 1
            elif name == "WARNING":
                kept = self.warnings
            else:
                return
            text = " ".join(str(msg).split())
            print(f"tensorrt {name.lower().replace('_', ' ')}: {text}", file=sys.stderr)
            kept.append(text)
            del kept[:-_KEPT_LINES]

        def last_error(self) -> str:
            """Return the last three errors as one line, the oldest first."""
            return " | ".join(dict.fromkeys(self.errors[-3:]))

        def errors_since(self, count: int) -> list[str]:
            """Return what came after `error_count` was this, as far as it is kept."""
            new = self.error_count - count
            return self.errors[-new:] if new > 0 else []

    log = _Log()
    _KEPT.append(log)
    return log


_USED: dict[str, tuple[str, ...]] = {
    "": ("IGpuAllocator", "IOutputAllocator", "init_libnvinfer_plugins"),
    "Builder": (
        "build_serialized_network",
        "create_builder_config",
        "create_network",
        "create_optimization_profile",
        "gpu_allocator",
    ),
    "BuilderFlag": ("TF32",),
    "DataType": ("FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8"),
    "EngineInspector": ("execution_context", "get_engine_information"),
    "IBuilderConfig": (
        "add_optimization_profile",
        "builder_optimization_level",
        "clear_flag",
        "create_timing_cache",
        "get_flag",
        "get_memory_pool_limit",
        "get_timing_cache",
        "max_aux_streams",
        "profiling_verbosity",
        "set_flag",
        "set_memory_pool_limit",
        "set_timing_cache",
    ),
    "ICudaEngine": (
        "create_engine_inspector",
        "create_execution_context",
        "get_tensor_dtype",
        "get_tensor_format",
        "get_tensor_location",
        "get_tensor_mode",
        "get_tensor_name",
        "get_tensor_profile_shape",
        "get_tensor_shape",
        "is_shape_inference_io",
        "num_aux_streams",
        "num_io_tensors",
        "num_layers",
        "num_optimization_profiles",
        "profiling_verbosity",
    ),
    "IExecutionContext": (
        "enqueue_emits_profile",
        "execute_async_v3",
        "get_max_output_size",
        "get_tensor_shape",
        "infer_shapes",
        "nvtx_verbosity",
        "profiler",
        "report_to_profiler",
        "set_input_shape",
        "set_optimization_profile_async",
        "set_output_allocator",
        "set_tensor_address",
    ),
    "ILayer": ("get_output", "metadata", "name", "num_outputs", "type"),
    "ILogger": ("log",),
    "INetworkDefinition": (
        "get_input",
        "get_layer",
        "get_output",
        "num_inputs",
        "num_layers",
        "num_outputs",
    ),
    "IOptimizationProfile": ("set_shape",),
    "IProfiler": ("report_layer_time",),
    "ITensor": ("dtype", "is_shape_tensor", "name", "shape"),
    "ITimingCache": ("serialize",),
    "LayerInformationFormat": ("JSON",),
    "MemoryPoolType": ("WORKSPACE",),
    "OnnxParser": ("get_error", "num_errors", "parse_from_file"),
    "ParserError": ("code", "desc", "node"),
    "ProfilingVerbosity": ("NONE", "LAYER_NAMES_ONLY", "DETAILED"),
    "Runtime": ("deserialize_cuda_engine", "gpu_allocator"),
    "TensorFormat": ("LINEAR",),
    "TensorIOMode": ("INPUT",),
    "TensorLocation": ("HOST",),
}
_SINCE_10: dict[str, tuple[str, ...]] = {
    "DataType": ("BF16", "INT64"),
    "IBuilderConfig": ("progress_monitor",),
    "ICudaEngine": ("get_tensor_profile_values",),
    "INetworkDefinition": ("get_flag",),
    "IProgressMonitor": ("phase_finish", "phase_start", "step_complete"),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "ParserError": ("node_name", "node_operator"),
}
_UNTIL_11: dict[str, tuple[str, ...]] = {
    "BuilderFlag": ("FP16", "FP8", "INT8"),
    "IBuilderConfig": ("int8_calibrator", "set_calibration_profile"),
    "ICudaEngine": ("device_memory_size",),
    "IInt8EntropyCalibrator2": (
        "get_batch",
        "get_batch_size",
        "read_calibration_cache",
        "write_calibration_cache",
    ),
    "NetworkDefinitionCreationFlag": ("EXPLICIT_BATCH",),
}


def _dotted(names: dict[str, tuple[str, ...]]) -> list[str]:
    return [f"{owner}.{name}" if owner else name for owner, own in names.items() for name in own]


RELIED_ON: tuple[ReliedOn, ...] = (
    *(ReliedOn(name) for name in _dotted(_USED)),
    *(ReliedOn(name, since=(10, 0)) for name in _dotted(_SINCE_10)),
    *(ReliedOn(name, until=(11, 0)) for name in _dotted(_UNTIL_11)),
    ReliedOn("BuilderFlag.BF16", since=(10, 0), until=(11, 0)),
    ReliedOn("ICudaEngine.device_memory_size_v2", since=(10, 1)),
)
"""Every name that is used, checked against real bindings by the lane `contracts`.

The versions between 8.6 and 10.0 were not looked at; nobody has them on a board.
"""
