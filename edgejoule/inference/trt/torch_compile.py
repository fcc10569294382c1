"""Compile an exported program with torch_tensorrt, and see what it really did.

Every engine is built by `TRTInterpreter`, which asks its `_populate_trt_builder_config` for the
builder's configuration. That method has this name in all versions from 2.4 to 2.14, and it is
wrapped here while `compile` runs: the only way to detailed layer descriptions that has no side
effect (`debug=True` starts a progress monitor that disturbs the timing of tactics and, up to 2.7,
makes slower engines; a `Debugger` attaches profilers and resets logging). What the configuration
and torch_tensorrt's own settings then hold is read back and compared with what was asked.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.common import short
from edgejoule.inference.trt import torch_names as names
from edgejoule.inference.trt.origin import Origin, torch_origin_of
from edgejoule.inference.trt.torch_arguments import Arguments

_ABSENT = object()
# Kept by torch_tensorrt as objects of its own; what they amount to is read from the configuration.
_OWN_TYPES = frozenset({"device", "enabled_precisions", "timing_cache_path"})


@dataclass
class Build:
    """What one engine was built with, as TensorRT and torch_tensorrt have it.

    Attributes:
        settings: torch_tensorrt's `CompilationSettings`, those of the arguments passed.
        config: TensorRT's builder configuration and network.
        origin: The nodes of the lowered graph that became this engine.
        inputs: Names of that graph's inputs.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    origin: Origin = field(default_factory=lambda: Origin({}))
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compiled:
    """A compiled model.

    Attributes:
        module: What `compile` returned.
        builds: One per engine, in the order of building.
        version: Of torch_tensorrt.
        arguments: What `compile` was given.
    """

    module: Any
    builds: tuple[Build, ...]
    version: str
    arguments: Arguments


def load_torch_tensorrt() -> Any:
    """Return the module `torch_tensorrt`.

    Raises:
        UsageError: It is absent, or cannot be imported (without a driver it raises RuntimeError).
    """
    try:
        return importlib.import_module(names.PACKAGE)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"torch_tensorrt cannot be imported ({short(error)})",
            "pip install torch_tensorrt of the same minor version as torch "
            "(docs/TorchTensorRT.md names the versions for Jetson)",
        ) from error
    except Exception as error:  # whatever its libraries and the driver lack
        raise UsageError(
            f"torch_tensorrt is installed but cannot be loaded "
            f"({type(error).__name__}: {short(error)})",
            "it needs an NVIDIA GPU with its driver, and TensorRT and torch of its own versions",
        ) from error


def compile_function(package: Any) -> tuple[Any, tuple[str, ...], str]:
    """Return torch_tensorrt's `compile`, the names in its signature, and the package's version.

    Raises:
        UsageError: This version has no such function.
    """
    version = str(getattr(package, names.VERSION, "unknown"))
    try:
        function = getattr(importlib.import_module(names.COMPILER), names.COMPILE)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"torch_tensorrt {version} has no {names.COMPILER}.{names.COMPILE} ({short(error)})",
            f"use a version between {names.VERSIONS[0]} and {names.VERSIONS[-1]}",
        ) from error
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(function).parameters
    return function, tuple(n for n, one in parameters.items() if one.kind not in kinds), version


def compile_program(
    package: Any,
    program: Any,
    inputs: tuple[Any, ...],
    arguments: Arguments,
    *,
    torch_executed_ops: frozenset[Any] = frozenset(),
) -> Compiled:
    """Compile, with the configuration of every engine watched.

    Args:
        package: The module `torch_tensorrt`.
        program: A `torch.export.ExportedProgram` in its dtype on its device.
        inputs: Example tensors.
        arguments: Of `choose_arguments` for this version.
        torch_executed_ops: Operators that stay in PyTorch.

    Raises:
        MeasurementError: An argument was ignored, or an engine was built unseen.
    """
    import torch

    function, parameters, version = compile_function(package)
    keywords = dict(arguments.passed)
    if torch_executed_ops:
        keywords["torch_executed_ops"] = set(torch_executed_ops)
    unknown = sorted(set(keywords) - set(parameters))
    if unknown:
        raise MeasurementError(
            f"torch_tensorrt {version} would swallow the argument {unknown[0]!r} of compile"
        )
    typed = dict(keywords)
    if "enabled_precisions" in typed:
        typed["enabled_precisions"] = {getattr(torch, one) for one in typed["enabled_precisions"]}
    if "device" in typed:
        typed["device"] = torch.device(typed["device"])
    with watched_builds(version, keywords) as builds, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        module = function(program, inputs=inputs, **typed)
    for text in dict.fromkeys(f"{one.category.__name__}: {one.message}" for one in told):
        print(text, file=sys.stderr)
        _refuse_inert(version, text, keywords)
    for build in builds:
        _compare(version, keywords, build.settings)
    return Compiled(module, tuple(builds), version, arguments)


@contextlib.contextmanager
def watched_builds(version: str, arguments: Mapping[str, Any]) -> Iterator[list[Build]]:
    """Have engines built with detailed verbosity, and see what each is built with.

    Args:
        version: Of torch_tensorrt, for messages.
        arguments: Arguments of `compile`, to read back.

    Raises:
        UsageError: This version has no such method to wrap.
    """
    where = f"{names.INTERPRETER}.{names.POPULATE_CONFIG}"
    try:
        interpreter = getattr(importlib.import_module(names.INTERPRETER_MODULE), names.INTERPRETER)
        populate = getattr(interpreter, names.POPULATE_CONFIG)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"torch_tensorrt {version} has no {where}, through which engines are built with "
            f"detailed layer descriptions ({short(error)})",
            f"use a version between {names.VERSIONS[0]} and {names.VERSIONS[-1]}, "
            "or --backend tensorrt",
        ) from error
    builds: list[Build] = []

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = populate(self, *args, **kwargs)
        builds.append(_look(self, config, arguments))
        return config

    setattr(interpreter, names.POPULATE_CONFIG, watched)
    try:
        with _modules_kept():
            yield builds
    finally:
        setattr(interpreter, names.POPULATE_CONFIG, populate)


@contextlib.contextmanager
def _modules_kept() -> Iterator[None]:
    """Keep on every node what module it is of.

    torch_tensorrt names a layer by `nn_module_stack.popitem()`: the innermost module is gone
    afterwards, also for nodes that share the mapping, and for those that stay in PyTorch.
    """
    replaced = []
    for path in names.NODE_NAME_MODULES:
        with contextlib.suppress(ImportError):
            module = importlib.import_module(path)
            original = getattr(module, names.NODE_NAME, None)
            if original is not None:
                setattr(module, names.NODE_NAME, _careful(original))
                replaced.append((module, original))
    try:
        yield
    finally:
        for module, original in replaced:
            setattr(module, names.NODE_NAME, original)


def _careful(name_of: Callable[[Any], str]) -> Callable[[Any], str]:
    def careful(node: Any) -> str:
        stack = node.meta.get("nn_module_stack")
        kept = dict(stack) if stack else {}
        try:
            return name_of(node)
        finally:
            if kept:
                stack.clear()
                stack.update(kept)

    return careful


def _look(interpreter: Any, config: Any, arguments: Mapping[str, Any]) -> Build:
    """Set what torch_tensorrt has no argument for, and read what is in force."""
    trt = importlib.import_module("tensorrt")  # torch_tensorrt's own, which may be another of it
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    network = getattr(getattr(interpreter, names.INTERPRETER_CONTEXT), names.CONTEXT_NETWORK)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if not layer.metadata:  # Myelin's layers lose their names and keep this
            layer.metadata = layer.name
    settings = getattr(interpreter, names.INTERPRETER_SETTINGS)
    return Build(
        settings={name: getattr(settings, name, _ABSENT) for name in arguments},
        config=_facts(trt, config, network),
        origin=torch_origin_of(interpreter.module),
        inputs=tuple(
            str(node.target) for node in interpreter.module.graph.nodes if node.op == "placeholder"
        ),
    )


def _facts(trt: Any, config: Any, network: Any) -> dict[str, Any]:
    """Return what the builder's configuration and the network say, by TensorRT's names."""
    found = {
        "profiling_verbosity": config.profiling_verbosity.name,
        "builder_optimization_level": int(config.builder_optimization_level),
        "max_aux_streams": int(config.max_aux_streams),
        "workspace_bytes": int(config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)),
        "network_layers": int(network.num_layers),
    }
    flags = {}
    for name in ("TF32", "FP16", "BF16", "INT8", "FP8", "REFIT"):
        flag = getattr(trt.BuilderFlag, name, None)  # precisions are gone from TensorRT 11
        if flag is not None:
            flags[name] = bool(config.get_flag(flag))
    found["flags"] = flags
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if typed is not None and hasattr(network, "get_flag"):
        found["strongly_typed"] = bool(network.get_flag(typed))
    return found


@dataclass(frozen=True)
class Line:
    """What torch_tensorrt or TensorRT said.

    Attributes:
        level: By Python's logging, to which torch_tensorrt passes TensorRT's severities on.
        text: In one line.
    """

    level: int
    text: str


@contextlib.contextmanager
def heard() -> Iterator[list[Line]]:
    """Collect what torch_tensorrt and TensorRT warn of; it goes to the log of the run as before."""
    lines: list[Line] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name.startswith(names.PACKAGE):
                lines.append(Line(record.levelno, " ".join(record.getMessage().split())))

    root = logging.getLogger()
    added: list[logging.Handler] = [Listener(logging.WARNING)]
    # Python prints warnings by this one where nobody listens; now somebody does.
    if not root.handlers and logging.lastResort is not None:
        added.append(logging.lastResort)
    for handler in added:
        root.addHandler(handler)
    try:
        yield lines
    finally:
        for handler in added:
            root.removeHandler(handler)


def _refuse_inert(version: str, message: str, passed: Mapping[str, Any]) -> None:
    """Raise if torch_tensorrt says that an argument which was passed has no effect."""
    text = " ".join(message.split())
    for name in passed:
        # A warning of mere deprecation is no refusal: 2.10 to 2.12 give one at every call.
        if f"`{name}`" in text and "no effect" in text:
            raise MeasurementError(f"torch_tensorrt {version} ignores {name!r} ({text[:200]})")


def _compare(version: str, passed: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    """Raise if torch_tensorrt's settings hold another value than was passed."""
    for name, asked in passed.items():
        have = kept.get(name, _ABSENT)
        if name in _OWN_TYPES or have is _ABSENT:
            continue
        if have != asked:
            raise MeasurementError(
                f"torch_tensorrt {version} did not apply {name}={asked!r} but {have!r}",
                "leave the option away, or use another version of torch_tensorrt",
            )


def applied(compiled: Compiled) -> dict[str, Any]:
    """Return what was passed and what was in force, for `EngineDescription.settings`."""
    first = compiled.builds[0].settings if compiled.builds else {}
    return {
        "arguments": _told(compiled.arguments.passed),
        "not_available": dict(compiled.arguments.unavailable),
        "typing": compiled.arguments.typing,
        "compilation_settings": _told(first),  # the same object for all engines
        "builder": [dict(build.config) for build in compiled.builds],
    }


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that JSON can hold; of a path its last part, which is the experiment's."""
    found = {}
    for name, value in values.items():
        if value is _ABSENT:
            continue
        plain = isinstance(value, (bool, int, float, str, list, type(None)))
        found[name] = value if plain else str(value)
        if name == "timing_cache_path":
            found[name] = Path(str(value)).name
    return found


def origin_of(compiled: Compiled, inputs: Sequence[str], paths: Iterable[str]) -> Origin:
    """Return the graph that an engine was built from.

    Args:
        compiled: The compiled model.
        inputs: Names of the engine's inputs: those of the graph, by which it is found.
        paths: Module paths of the user's model.
    """
    found = [build.origin for build in compiled.builds if build.inputs == tuple(inputs)]
    if len(found) != 1:  # two engines that read the same: their nodes have names of their own
        found = [build.origin for build in compiled.builds]
    nodes = {name: node for origin in found for name, node in origin.nodes.items()}
    outputs = frozenset(name for origin in found for name in origin.outputs)
    return Origin(nodes, frozenset(paths), outputs)
