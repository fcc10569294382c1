"""Which arguments `torch_tensorrt.dynamo.compile` is given, for each version.

`compile` ends in `**kwargs`: from 2.13 on it takes a misspelt or withdrawn argument without a word
(`enabled_precisions` among them), and 2.8 to 2.14 take `debug` and do nothing. So an argument is
passed only if the signature names it. One that the user asked for and the version lacks is an
error; one that is merely our default is noted as not available.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgejoule.errors import UsageError
from edgejoule.inference.trt import torch_names as names

# Those of the user's options that are arguments of `compile` under the same name.
FROM_USER = ("optimization_level", "min_block_size", "require_full_compilation")
_HALF = ("float16", "bfloat16")
TENSOR_DTYPES = {
    "float32": "float32",
    "tf32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
}
"""dtype of a run -> dtype of the model's weights and tensors, by torch's names."""

Typing = Literal["strong", "weak"]


@dataclass(frozen=True)
class Arguments:
    """What to call `compile` with.

    Attributes:
        passed: Keyword arguments, plain values; dtypes and device by their names.
        unavailable: Our own wishes that this version has no argument for -> what that means.
        typing: `strong`: layers compute in the dtypes that the model has; `weak`: TensorRT may
            choose among the enabled precisions and float32.
    """

    passed: Mapping[str, Any]
    unavailable: Mapping[str, str] = field(default_factory=dict)
    typing: Typing = "strong"


def choose_arguments(
    parameters: Collection[str],
    version: str,
    *,
    dtype: str,
    device: str,
    extra: Mapping[str, Any],
    timing_cache: str,
    workspace_bytes: int | None = None,
) -> Arguments:
    """Choose the arguments for one version.

    Args:
        parameters: Names in the signature of this version's `compile`, without `**kwargs`.
        version: Version of torch_tensorrt, for messages and for what has no argument.
        dtype: Of the run: a key of `TENSOR_DTYPES`.
        device: `cuda:<index>`.
        extra: The user's options; None counts as not given.
        timing_cache: File of this experiment's timing cache.
        workspace_bytes: Bound on the builder's workspace; None: TensorRT's own.

    Raises:
        UsageError: This version lacks something that the user asked for, or that the dtype needs.
    """
    chosen = _Chosen(frozenset(parameters), version)
    for needed in ("exported_program", "inputs"):
        chosen.require(needed, "what is compiled")
    typing = _precision(chosen, dtype)
    for name in FROM_USER:
        if extra.get(name) is not None:
            chosen.ask(name, extra[name], f"--{name.replace('_', '-')} was given")
    if extra.get("require_full_compilation"):
        if extra.get("min_block_size") is not None:
            raise UsageError(
                "--min-block-size does nothing with --require-full-compilation, which leaves no "
                "part in PyTorch",
                "leave one of the two away",
            )
        # Below it, torch_tensorrt would leave the whole model in PyTorch and say so in its log.
        chosen.ask("min_block_size", 1, "--require-full-compilation was given")
    chosen.ask("device", device, "the engine must be for the measured GPU")
    if workspace_bytes is not None:
        chosen.ask("workspace_size", workspace_bytes, "--memory-limit-gib was given")
    chosen.prefer("max_aux_streams", 0, "layers on several streams may overlap")
    chosen.prefer("timing_cache_path", timing_cache, "builds may depend on earlier ones")
    chosen.prefer("cache_built_engines", False, "there is no cache of engines")
    chosen.prefer("reuse_cached_engines", False, "there is no cache of engines")
    chosen.prefer("immutable_weights", True, "engines are not refittable unless asked for")
    if names.version_of(version) < names.FIRST_ALWAYS_TYPED:
        # Its module keeps the plan and the bindings in plain attributes, and needs no library of
        # torch_tensorrt's own. From 2.13 on the argument is there, and has no effect.
        chosen.prefer("use_python_runtime", True, "there is one class of modules")
    if not extra.get("require_full_compilation"):
        chosen.prefer(
            "fallback_data_dependent_ops", True, "outputs of unknown shape are refused after all"
        )
    return Arguments(chosen.passed, chosen.unavailable, typing)


class _Chosen:
    """Collects arguments against one signature."""

    def __init__(self, parameters: frozenset[str], version: str) -> None:
        self.parameters = parameters
        self.version = version
        self.passed: dict[str, Any] = {}
        self.unavailable: dict[str, str] = {}

    def require(self, name: str, why: str) -> None:
        """Raise `UsageError` if the signature lacks the name."""
        if name not in self.parameters:
            raise UsageError(
                f"torch_tensorrt {self.version} has no argument {name!r} of "
                f"{names.COMPILER}.{names.COMPILE} ({why})",
                f"use a version between {names.VERSIONS[0]} and {names.VERSIONS[-1]}, "
                "leave the option away, or use --backend tensorrt",
            )

    def ask(self, name: str, value: Any, why: str) -> None:
        """Pass what must be in force."""
        self.require(name, why)
        self.passed[name] = value

    def prefer(self, name: str, value: Any, otherwise: str) -> None:
        """Pass our own default where it can be passed, and note where not."""
        if name in self.parameters:
            self.passed[name] = value
        else:
            self.unavailable[name] = otherwise


def _precision(chosen: _Chosen, dtype: str) -> Typing:
    """Choose what says in which precision layers compute; return how the network is typed."""
    if dtype not in TENSOR_DTYPES:
        raise quantised(dtype)
    # Below float32 no layer should be left that could use it; it stays as torch_tensorrt has it.
    if dtype == "float32":
        chosen.ask("disable_tf32", True, "dtype float32 forbids TensorFloat-32")
    elif dtype == "tf32":
        chosen.ask("disable_tf32", False, "dtype tf32 allows TensorFloat-32")
    if "use_explicit_typing" in chosen.parameters:
        version = names.version_of(chosen.version)
        explicit = dtype not in _HALF or version >= names.FIRST_HALF_EXPLICIT
        chosen.passed["use_explicit_typing"] = explicit
        if explicit:
            # With it, `enabled_precisions` may be nothing but float32, which is its default.
            return "strong"
    if names.version_of(chosen.version) >= names.FIRST_ALWAYS_TYPED:
        return "strong"
    chosen.ask("enabled_precisions", [TENSOR_DTYPES[dtype]], f"dtype {dtype}")
    return "weak"


def quantised(dtype: str) -> UsageError:
    """Return the refusal of a dtype that this backend does not build."""
    return UsageError(
        f"backend torch-tensorrt does not build {dtype}: the model itself would have to be "
        "quantised before it is exported",
        "use --backend tensorrt, which calibrates and quantises the ONNX graph",
    )
