"""A plan on a runtime of our own: the engine, its tensors, its inspector, its contexts.

Works from TensorRT 8.6 on by what a version has, never by numbers. Behaviour is taken from
`NvInferRuntime.h` and the Python bindings (`python/src/infer/pyCore.cpp`) of release 10 unless a
docstring says otherwise.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.inference.common import short
from edgejoule.inference.trt.context import Context, short_log
from edgejoule.inference.trt.library import Log

# Members of `trt.DataType` -> this project's names.
DATA_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
    "FP8": "float8_e4m3fn",
}

_AGAIN = "build it again on this machine"
_OR_INSTALL = f"{_AGAIN}, or install the version that built it"
# What TensorRT logs when a plan does not deserialise -> what that means. Texts as users of TensorRT
# 8.2 to 11 quote them (NVIDIA/TensorRT issues 564, 2176, 3130, 3898; pytorch/TensorRT pull request
# 3090; the last one but two from TensorRT-RTX 1.5 itself); "expecting" is what is here, "got" the
# plan's.
_REFUSALS: tuple[tuple[str, str, str], ...] = (
    (
        r"expecting compute (?P<here>[\d.]*\d) got compute (?P<plan>[\d.]*\d)",
        "it was built for a GPU of compute capability {plan}, this one has {here}",
        _AGAIN,
    ),
    (
        r"expecting library version \S+ got (?P<plan>\d[\w.]*\w)",
        "it was built by TensorRT {plan}",
        _OR_INSTALL,
    ),
    (
        r"Version tag does not match\D*(?P<here>\d+)\D+(?P<plan>\d+)",
        "it was built by another version of TensorRT (its format is {plan}, here it is {here})",
        _OR_INSTALL,
    ),
    (
        r"not compatible with this version of TensorRT|Version tag does not match",
        "it was built by another version of TensorRT",
        _OR_INSTALL,
    ),
    (
        r"Platform specific tag mismatch",
        "it was built on another platform (operating system, processor or kind of GPU)",
        _AGAIN,
    ),
    (
        r"[Mm]agic ?[Tt]ag|empty memory buffer",
        "it is no plan, or one of a version of TensorRT far from this one",
        f"give a plan as trtexec --saveEngine writes it, or {_AGAIN}",
    ),
    (
        r"[Hh]ost(?: executable)? code",
        "it carries a runtime of its own (version-compatible), which would run unseen code here",
        "build it without VERSION_COMPATIBLE, or with EXCLUDE_LEAN_RUNTIME",
    ),
    (
        r"(?:[Cc]annot|[Cc]ould not) find plugin:? *(?P<plugin>[\w:]+)|getPluginCreator",
        "it needs a plugin that is not here ({plugin})",
        "only TensorRT's own plugins are loaded; build the engine without it",
    ),
)
_OUT_OF_MEMORY = re.compile(r"out of memory|OutOfMemory|OUT_OF_MEMORY|insufficient memory", re.I)


@dataclass(frozen=True)
class Binding:
    """An input or output of an engine.

    Attributes:
        name: TensorRT's name.
        is_input: Whether it is an input.
        dtype: `float32`, `float16`, `bfloat16`, `int8`, `int32`, `int64`, `bool`, `uint8`,
            `float8_e4m3fn`; another of TensorRT's in lower case.
        shape: -1 where it is dynamic.
        on_host: Whether its values lie in host memory (shape tensors).
        is_shape: Whether shapes depend on its values.
        layout: `LINEAR`, or another of TensorRT's formats.
    """

    name: str
    is_input: bool
    dtype: str
    shape: tuple[int, ...]
    on_host: bool = False
    is_shape: bool = False
    layout: str = "LINEAR"


@dataclass(frozen=True)
class ShapeRange:
    """What one input may be under an optimisation profile: shapes, or values of a shape tensor."""

    least: tuple[int, ...]
    best: tuple[int, ...]
    most: tuple[int, ...]


def open_engine(trt: Any, plan: bytes, log: Any, allocator: Any = None) -> Engine:
    """Deserialise a plan on a runtime of its own, on the current CUDA device.

    Args:
        trt: The module.
        plan: The plan's bytes.
        log: Of `make_log`.
        allocator: A `trt.IGpuAllocator` for the engine's memory.

    Raises:
        UsageError: The plan is not for this TensorRT, GPU or platform, or is no plan.
        MeasurementError: It does not deserialise for another reason, want of memory among them.
    """
    before = log.error_count
    try:
        runtime = trt.Runtime(log)
    except Exception as error:  # pybind11: "factory function returned nullptr", a TypeError
        logged = short_log("; ".join(log.errors_since(before)) or short(error))
        raise MeasurementError(
            f"TensorRT {trt.__version__} creates no runtime ({logged})",
            "check that the NVIDIA driver works (nvidia-smi) and serves this version of TensorRT",
        ) from error
    if allocator is not None:
        runtime.gpu_allocator = allocator
    # Plans name plugins of TensorRT's own library, which has to be told to offer them.
    trt.init_libnvinfer_plugins(log, "")
    try:
        engine = runtime.deserialize_cuda_engine(plan)
    except Exception as error:
        raise refusal(trt, "; ".join(log.errors_since(before)) or short(error)) from error
    if engine is None:
        raise refusal(trt, "; ".join(log.errors_since(before)))
    return Engine(trt, runtime, engine, log, allocator)


def refusal(trt: Any, logged: str) -> EdgejouleError:
    """Return the error for a plan that did not deserialise, from what TensorRT logged."""
    version = f"TensorRT {trt.__version__}"
    if _OUT_OF_MEMORY.search(logged):
        return MeasurementError(
            f"{version} has not enough memory for the engine ({short_log(logged)})",
            "free memory of the GPU, raise --memory-limit-gib, or use a smaller batch",
        )
    for pattern, reason, mend in _REFUSALS:
        if found := re.search(pattern, logged):
            told = {key: value or "unnamed" for key, value in found.groupdict().items()}
            text = reason.format(**told)
            return UsageError(f"{version} does not take the plan: {text}", mend)
    return MeasurementError(
        f"{version} cannot load the plan ({short_log(logged) or 'without a word'})", _AGAIN
    )


class Engine:
    """A deserialised plan.

    Attributes:
        trt: The module.
        bindings: Inputs and outputs in TensorRT's order.
        aux_streams: Streams that it runs layers on besides the caller's; above 0 layers may
            overlap, and their sum is not the latency.
        layers: How many layers TensorRT counts.
        verbosity: `NONE`, `LAYER_NAMES_ONLY` or `DETAILED`, as it was built.
        memory_bytes: Activation memory of one context; None where TensorRT does not say.
    """

    def __init__(self, trt: Any, runtime: Any, engine: Any, log: Log, allocator: Any) -> None:
        self.trt = trt
        self.log = log
        # Kept in the order in which they must outlive one another.
        self._allocator = allocator
        self._runtime = runtime
        self._engine = engine
        self.bindings = tuple(
            _binding(trt, engine, engine.get_tensor_name(index))
            for index in range(engine.num_io_tensors)
        )
        self.aux_streams = int(engine.num_aux_streams)
        self.layers = int(engine.num_layers)
        self.verbosity = str(engine.profiling_verbosity.name)
        self.memory_bytes = _memory_bytes(engine)

    @property
    def raw(self) -> Any:
        """The `ICudaEngine`.

        Raises:
            MeasurementError: It was given back.
        """
        if self._engine is None:
            raise MeasurementError("the engine was closed")
        return self._engine

    @property
    def inputs(self) -> tuple[Binding, ...]:
        """The inputs, in TensorRT's order."""
        return tuple(binding for binding in self.bindings if binding.is_input)

    @property
    def outputs(self) -> tuple[Binding, ...]:
        """The outputs, in TensorRT's order."""
        return tuple(binding for binding in self.bindings if not binding.is_input)

    def binding(self, name: str) -> Binding:
        """Return an input or output.

        Raises:
            UsageError: There is none of that name.
        """
        for binding in self.bindings:
            if binding.name == name:
                return binding
        has = ", ".join(binding.name for binding in self.bindings)
        raise UsageError(f"the engine has no tensor {name!r}", f"it has {has}")

    def optimisation_profiles(self) -> tuple[Mapping[str, ShapeRange], ...]:
        """Return what each optimisation profile allows for the inputs that are not fixed."""
        engine = self.raw
        profiles = []
        for index in range(engine.num_optimization_profiles):
            ranges = {}
            for binding in self.inputs:
                if -1 in binding.shape:
                    shapes = engine.get_tensor_profile_shape(binding.name, index)
                elif binding.is_shape and hasattr(engine, "get_tensor_profile_values"):
                    # The bindings take the number first, whatever their keywords are called.
                    shapes = engine.get_tensor_profile_values(index, binding.name)
                else:
                    continue
                if len(shapes) == 3:
                    ranges[binding.name] = ShapeRange(*(tuple(map(int, s)) for s in shapes))
            profiles.append(ranges)
        return tuple(profiles)

    def inspector_json(self, context: Context | None = None) -> str:
        """Return what TensorRT says of the layers, as it says it.

        Args:
            context: With its input shapes set; what depends on shapes is then given in numbers
                (`IEngineInspector::setExecutionContext`). Without one a context is made for the
                while, on its default shapes.

        Raises:
            MeasurementError: The inspector gives nothing of an engine that it knows more of.
        """
        with contextlib.ExitStack() as stack:
            if context is None:
                context = self.context()
                stack.callback(context.close)
            inspector = self.raw.create_engine_inspector()
            # Not kept alive by the inspector, so it has to go before the context does.
            inspector.execution_context = context.raw
            try:
                text = inspector.get_engine_information(self.trt.LayerInformationFormat.JSON)
            except UnicodeDecodeError as error:
                raise MeasurementError(
                    f"the engine's layer names are not UTF-8 ({short(error)})",
                    "export the model with plain names",
                ) from error
            finally:
                del inspector
        if not text and self.verbosity != "NONE":
            raise MeasurementError(
                f"TensorRT's inspector says nothing of the engine ({self.log.last_error()})"
            )
        return str(text or "")

    def context(self, profile: int = 0, stream: int = 0) -> Context:
        """Return an execution context.

        Args:
            profile: Optimisation profile that it runs with.
            stream: CUDA stream on which another profile than the first is set; the caller waits
                for it before the first inference.

        Raises:
            UsageError: There is no such profile.
            MeasurementError: TensorRT makes none, for want of memory or another reason.
        """
        count = int(self.raw.num_optimization_profiles)
        if not 0 <= profile < max(1, count):
            raise UsageError(
                f"the engine has no optimisation profile {profile}", f"it has 0 to {count - 1}"
            )
        return Context(self, profile, stream)

    def close(self) -> None:
        """Free the engine and its runtime; contexts are closed before."""
        self._engine = None
        self._runtime = None
        self._allocator = None


def _binding(trt: Any, engine: Any, name: str) -> Binding:
    dtype = str(engine.get_tensor_dtype(name).name)
    return Binding(
        name=name,
        is_input=engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
        dtype=DATA_TYPES.get(dtype, dtype.lower()),
        shape=tuple(int(size) for size in engine.get_tensor_shape(name)),
        on_host=engine.get_tensor_location(name) == trt.TensorLocation.HOST,
        is_shape=bool(engine.is_shape_inference_io(name)),
        layout=str(engine.get_tensor_format(name).name),
    )


def _memory_bytes(engine: Any) -> int | None:
    """Return the activation memory: the second name is new in 10.1, the first gone in 11."""
    for name in ("device_memory_size_v2", "device_memory_size"):
        size = getattr(engine, name, None)
        if size is not None:
            return int(size)
    return None
