"""Every name of torch_tensorrt that this package relies on, and from which version to which.

torch_tensorrt changes its Python parts with every release, and most of what is needed here has no
promise of stability. The modules beside this one take the names from here, and the contract lane
looks each of them up in the real wheels of `VERSIONS`, so that code, table and wheels agree.
Standard library only; torch_tensorrt is never imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VERSIONS = ("2.4.0", "2.6.0", "2.8.0", "2.10.0", "2.12.1", "2.13.0", "2.14.0")
"""The versions whose wheels the table was read from."""

PACKAGE = "torch_tensorrt"  # also how the names of its loggers begin
COMPILER = "torch_tensorrt.dynamo"  # module with `compile`
COMPILE = "compile"
INTERPRETER_MODULE = "torch_tensorrt.dynamo.conversion._TRTInterpreter"
INTERPRETER = "TRTInterpreter"
POPULATE_CONFIG = "_populate_trt_builder_config"  # returns the builder's configuration
INTERPRETER_SETTINGS = "compilation_settings"
INTERPRETER_CONTEXT = "ctx"
CONTEXT_NETWORK = "net"
NODE_NAME = "get_node_name"  # names a layer, and takes the module off the node's meta
NODE_NAME_MODULES = (  # that hold it under this name
    "torch_tensorrt.dynamo.conversion.converter_utils",
    INTERPRETER_MODULE,
    "torch_tensorrt.dynamo._DryRunTracker",
)
VERSION = "__version__"

PYTHON_MODULE = "PythonTorchTensorRTModule"  # runs the engine through the Python bindings
CPP_MODULE = "TorchTensorRTModule"  # through torch_tensorrt's own runtime; alone from 2.13 on
CUDA_GRAPHS_MODULE = "CudaGraphsTorchTensorRTModule"
MUTABLE_MODULE = "MutableTorchTensorRTModule"
CUDA_GRAPHS_INNER = "compiled_module"
MUTABLE_INNER = "gm"
PLAN = "serialized_engine"
ENGINE = "engine"
PYTHON_INPUTS, PYTHON_OUTPUTS = "input_names", "output_names"
CPP_INPUTS, CPP_OUTPUTS = "input_binding_names", "output_binding_names"
OUTPUT_ALLOCATOR = "requires_output_allocator"
ALIASED = "aliased_io"
COPYBACK = "_copyback_mutation_buffers"  # meta of 2.14's graphs: buffers given back as outputs
EXECUTE_ENGINE = "tensorrt.execute_engine.default"  # how an exported program calls an engine
# Fields of an engine object's state (`SerializedInfoIndex` in core/runtime/runtime.h), which has
# the plan in base64 and the names of the bindings joined with BINDING_DELIMITER.
ENGINE_IDX, INPUTS_IDX, OUTPUTS_IDX = 3, 4, 5
BINDING_DELIMITER = "%"

FIRST_EXPLICIT_TYPING = (2, 6)  # `use_explicit_typing`: a network typed as the model is
FIRST_HALF_EXPLICIT = (2, 8)
"""First version whose explicit typing keeps a float16 or bfloat16 model in its dtype.

Up to 2.7 the epsilon of a batch normalisation becomes a float32 constant (`batch_norm` in
conversion/impl/normalization/ops.py), to which `convert_binary_elementwise` promotes the other
operand, and a strongly typed network then computes everything behind it in float32. From 2.8 on
the normalisation is folded into a scale and a shift of the model's dtype.
"""
FIRST_ALWAYS_TYPED = (2, 13)  # no other kind of network from here on

Kind = Literal["function", "class", "method", "attribute", "parameter", "constant"]
Version = tuple[int, ...]


@dataclass(frozen=True)
class Reliance:
    """One name that is relied on.

    Attributes:
        file: Path within the wheel; several separated by ` | ` where it moved (one must have it).
        name: Dotted: `compile.device` is a parameter, `TRTInterpreter.ctx` an attribute.
        kind: What it is. An attribute may be assigned in any method of the class or annotated in
            its body; a constant is assigned at the top of the file, or a member of an enumeration.
        since: First version with it; None is every version of `VERSIONS`.
        until: First version without it; None is not known to have gone.
        why: What it is needed for.
    """

    file: str
    name: str
    kind: Kind
    since: Version | None
    until: Version | None
    why: str


_COMPILER_FILE = "torch_tensorrt/dynamo/_compiler.py"
_INTERPRETER_FILE = "torch_tensorrt/dynamo/conversion/_TRTInterpreter.py"
_CONTEXT_FILE = "torch_tensorrt/dynamo/conversion/_ConversionContext.py"
_RUNTIME = "torch_tensorrt/dynamo/runtime"
_PYTHON_FILE = f"{_RUNTIME}/_PythonTorchTensorRTModule.py"
_CPP_FILE = f"{_RUNTIME}/_TorchTensorRTModule.py"
_GRAPHS_FILE = f"{_RUNTIME}/_CudaGraphsTorchTensorRTModule.py"
_MUTABLE_FILE = f"{_RUNTIME}/_MutableTorchTensorRTModule.py"
_LAYOUT_FILE = f"{_RUNTIME}/_serialized_engine_layout.py"


def _parameter(
    name: str, why: str, since: Version | None = None, until: Version | None = None
) -> Reliance:
    return Reliance(_COMPILER_FILE, f"{COMPILE}.{name}", "parameter", since, until, why)


# Arguments of `compile` by the names they have there; `torch_compile` passes no others.
PARAMETERS = (
    _parameter("exported_program", "what is compiled"),
    _parameter("inputs", "example tensors: shapes and dtypes"),
    _parameter("device", "GPU to build for"),
    _parameter("disable_tf32", "dtype float32 forbids TensorFloat-32"),
    _parameter("enabled_precisions", "precisions of a weakly typed network", until=(2, 13)),
    _parameter("use_explicit_typing", "strong typing", since=(2, 6), until=(2, 13)),
    _parameter("workspace_size", "bound on the builder's workspace"),
    _parameter("require_full_compilation", "fail rather than leave parts in PyTorch"),
    _parameter("min_block_size", "smallest part that becomes an engine"),
    _parameter("torch_executed_ops", "operators that stay in PyTorch"),
    _parameter("max_aux_streams", "one stream, so that layers do not overlap"),
    _parameter("optimization_level", "how long the builder searches"),
    _parameter("use_python_runtime", "which class holds the engine; without effect from 2.13"),
    _parameter("timing_cache_path", "a cache of this experiment's own"),
    _parameter("cache_built_engines", "off: each build is a build", since=(2, 5)),
    _parameter("reuse_cached_engines", "off: no engine of another build", since=(2, 5)),
    _parameter("immutable_weights", "no refitting, which costs speed", since=(2, 6)),
    _parameter(
        "fallback_data_dependent_ops", "shapes that depend on data stay in PyTorch", since=(2, 13)
    ),
)  # fmt: skip


def _attribute(
    file: str, name: str, why: str, since: Version | None = None, until: Version | None = None
) -> Reliance:
    return Reliance(file, name, "attribute", since, until, why)


RELIANCES: tuple[Reliance, ...] = (
    Reliance("torch_tensorrt/_version.py", VERSION, "constant", None, None, "versions of a run"),
    Reliance(
        "torch_tensorrt/logging.py", "_LOGGER", "constant", None, None,
        "what TensorRT says while it builds goes to Python's logging",
    ),
    Reliance(_COMPILER_FILE, COMPILE, "function", None, None, "compiles an exported program"),
    *PARAMETERS,
    Reliance(_INTERPRETER_FILE, INTERPRETER, "class", None, None, "makes the network"),
    Reliance(
        _INTERPRETER_FILE, f"{INTERPRETER}.{POPULATE_CONFIG}", "method", None, None,
        "wrapped: detailed verbosity, names as metadata, what is in force read back",
    ),
    Reliance(
        "torch_tensorrt/dynamo/conversion/converter_utils.py", NODE_NAME, "function", None, None,
        "wrapped: it takes the innermost module off a node's meta, which is put back",
    ),
    _attribute(_INTERPRETER_FILE, f"{INTERPRETER}.{INTERPRETER_CONTEXT}", "holds the network"),
    _attribute(
        _INTERPRETER_FILE, f"{INTERPRETER}.{INTERPRETER_SETTINGS}", "what compile made of arguments"
    ),
    _attribute(_CONTEXT_FILE, f"ConversionContext.{CONTEXT_NETWORK}", "layers, to give metadata"),
    Reliance(_PYTHON_FILE, PYTHON_MODULE, "class", None, (2, 13), "holds an engine"),
    _attribute(
        _PYTHON_FILE, f"{PYTHON_MODULE}.{ENGINE}", "2.4: the engine, serialised again",
        until=(2, 13),
    ),
    _attribute(
        _PYTHON_FILE, f"{PYTHON_MODULE}.{PLAN}", "the plan", since=(2, 5), until=(2, 13)
    ),
    _attribute(
        _PYTHON_FILE, f"{PYTHON_MODULE}.{PYTHON_INPUTS}", "order of the inputs", until=(2, 13)
    ),
    _attribute(
        _PYTHON_FILE, f"{PYTHON_MODULE}.{PYTHON_OUTPUTS}", "order of the outputs", until=(2, 13)
    ),
    _attribute(
        _PYTHON_FILE, f"{PYTHON_MODULE}.{OUTPUT_ALLOCATOR}", "refused: shapes that depend on data",
        since=(2, 7), until=(2, 13),
    ),
    Reliance(_CPP_FILE, CPP_MODULE, "class", None, None, "holds an engine"),
    _attribute(_CPP_FILE, f"{CPP_MODULE}.{ENGINE}", "2.4: its state has the plan"),
    _attribute(_CPP_FILE, f"{CPP_MODULE}.{PLAN}", "the plan", since=(2, 5)),
    _attribute(_CPP_FILE, f"{CPP_MODULE}.{CPP_INPUTS}", "order of the inputs"),
    _attribute(_CPP_FILE, f"{CPP_MODULE}.{CPP_OUTPUTS}", "order of the outputs"),
    _attribute(
        _CPP_FILE, f"{CPP_MODULE}.{OUTPUT_ALLOCATOR}", "refused: shapes that depend on data",
        since=(2, 7),
    ),
    _attribute(
        _CPP_FILE, f"{CPP_MODULE}.{ALIASED}", "refused: outputs within inputs", since=(2, 14)
    ),
    Reliance(
        f"{_CPP_FILE} | {_LAYOUT_FILE}", "ENGINE_IDX", "constant", (2, 5), None,
        "where an engine object's state has the plan",
    ),
    Reliance(_GRAPHS_FILE, CUDA_GRAPHS_MODULE, "class", (2, 6), None, "unwrapped"),
    _attribute(
        _GRAPHS_FILE, f"{CUDA_GRAPHS_MODULE}.{CUDA_GRAPHS_INNER}", "what it wraps", since=(2, 6)
    ),
    Reliance(_MUTABLE_FILE, MUTABLE_MODULE, "class", (2, 5), None, "unwrapped"),
    _attribute(_MUTABLE_FILE, f"{MUTABLE_MODULE}.{MUTABLE_INNER}", "what it wraps", since=(2, 5)),
    Reliance(
        "torch_tensorrt/dynamo/lowering/_buffer_lifting.py", "hide_copyback_outputs", "function",
        (2, 14), None, "refused: buffers that a model writes become outputs of the graph",
    ),
)  # fmt: skip


def parameters() -> frozenset[str]:
    """Return the arguments of `compile` that are ever passed."""
    return frozenset(one.name.partition(".")[2] for one in PARAMETERS)


def version_of(text: str) -> Version:
    """Return the numbers of a version: (2, 8, 0) of `2.8.0+cu126`, (2, 4, 0) of `2.4.0a0`."""
    numbers: list[int] = []
    for part in text.partition("+")[0].split("."):
        digits = ""
        for character in part:
            if not character.isdigit():
                break
            digits += character
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)
