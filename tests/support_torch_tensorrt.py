"""A stand-in for torch_tensorrt on the double of `tensorrt`.

What it plays is the outside of each version: the signature of `compile`, the class that holds an
engine and its attributes, submodules or inline nodes, settings that are kept or ignored. An engine
does not compute what its operations do: its outputs are its first input, repeated, times one, with
the shapes and dtypes of the real ones.
"""

from __future__ import annotations

import base64
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgejoule.inference.workload import InputSpec, LoadedModel

_ALWAYS = (
    "exported_program", "inputs", "device", "disable_tf32", "workspace_size",
    "require_full_compilation", "min_block_size", "torch_executed_ops", "max_aux_streams",
    "optimization_level", "use_python_runtime", "timing_cache_path", "dryrun",
)  # fmt: skip
_CACHE = ("cache_built_engines", "reuse_cached_engines")
# From the facts on each version's `_compiler.py`; the contract lane has the wheels themselves.
SIGNATURES: dict[str, tuple[str, ...]] = {
    "2.4.0": (*_ALWAYS, "enabled_precisions", "refit", "debug"),
    "2.6.0": (*_ALWAYS, *_CACHE, "enabled_precisions", "use_explicit_typing", "immutable_weights"),
    "2.8.0": (*_ALWAYS, *_CACHE, "enabled_precisions", "use_explicit_typing", "immutable_weights"),
    "2.10.0": (*_ALWAYS, *_CACHE, "enabled_precisions", "use_explicit_typing", "immutable_weights"),
    "2.12.1": (*_ALWAYS, *_CACHE, "enabled_precisions", "use_explicit_typing", "immutable_weights"),
    "2.13.0": (*_ALWAYS, *_CACHE, "immutable_weights", "fallback_data_dependent_ops"),
    "2.14.0": (*_ALWAYS, *_CACHE, "immutable_weights", "fallback_data_dependent_ops"),
}
_TRT_DTYPES = {
    "float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "int64": "INT64", "int32": "INT32",
}  # fmt: skip


@dataclass
class Behaviour:
    """What the stand-in is to do.

    Attributes:
        memory_bytes: A workspace above this ends in TensorRT's words for want of memory.
        fails: Text that every compilation fails with.
        keeps: Settings that are kept with another value than was passed.
        warns: What it warns of.
        unseen: Whether engines are built without asking for a configuration.
        ms: Time of each engine layer.
        calls: Keyword arguments of every call.
        faults: Of the engines' reports (`make_plan`).
    """

    memory_bytes: int | None = None
    fails: str = ""
    keeps: dict[str, Any] = field(default_factory=dict)
    warns: str = ""
    unseen: bool = False
    ms: float = 0.125
    calls: list[dict[str, Any]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)


def install(
    monkeypatch: pytest.MonkeyPatch, trt: Any, version: str, signature: Sequence[str] = ()
) -> tuple[Any, Behaviour]:
    """Put the stand-in of one version in the place of torch_tensorrt for the time of a test."""
    behaviour = Behaviour()
    package = _module(monkeypatch, "torch_tensorrt", __version__=version)
    engine_classes = _classes(version, trt)
    interpreter = _interpreter(trt, behaviour)
    _module(monkeypatch, "torch_tensorrt.dynamo.conversion")
    _module(
        monkeypatch,
        "torch_tensorrt.dynamo.conversion._TRTInterpreter",
        TRTInterpreter=interpreter,
        get_node_name=_node_name,
    )

    def play(program: Any, inputs: Any, keywords: dict[str, Any]) -> Any:
        # Looked up at each call, as the real package does: whoever wraps it must be seen.
        holder = sys.modules["torch_tensorrt.dynamo.conversion._TRTInterpreter"]
        return _compile(program, keywords, behaviour, holder.TRTInterpreter, engine_classes)

    names = signature or SIGNATURES[version]
    compiled: dict[str, Any] = {"play": play}
    optional = ", ".join(f"{name}=None" for name in names if name != "exported_program")
    exec(  # the signature is what is played
        f"def compile(exported_program, {optional}, **kwargs):\n"
        "    every = dict(locals())\n"
        "    program, inputs = every.pop('exported_program'), every.pop('inputs', None)\n"
        "    every.update(every.pop('kwargs'))\n"
        "    return play(program, inputs, every)\n",
        compiled,
    )
    dynamo = _module(monkeypatch, "torch_tensorrt.dynamo", compile=compiled["compile"])
    package.dynamo = dynamo
    return package, behaviour


def _module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> Any:
    module = types.ModuleType(name)
    module.__path__ = []
    for key, value in content.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def _compile(
    program: Any, keywords: dict[str, Any], behaviour: Behaviour, interpreter: Any, classes: Any
) -> Any:
    """Split a program at the operators that stay in PyTorch, and make engines of the rest."""
    import torch
    from torch.fx.passes.split_module import split_module

    behaviour.calls.append(dict(keywords))
    if behaviour.warns:
        warnings.warn(behaviour.warns, DeprecationWarning, stacklevel=2)
    if behaviour.fails:
        raise RuntimeError(behaviour.fails)
    settings = types.SimpleNamespace(**{**keywords, **behaviour.keeps})
    module = program.module()
    for node in list(module.graph.nodes):
        if node.op == "call_module" and not node.users:
            module.graph.erase_node(node)
    stays = keywords.get("torch_executed_ops") or ()
    number, last = -1, None
    of_node: dict[Any, int] = {}
    in_pytorch: dict[int, bool] = {}
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        here = node.target in stays
        if here != last:
            number, last = number + 1, here
            in_pytorch[number] = here
        of_node[node] = number
    split = split_module(module, module, lambda node: of_node.get(node, 0))
    split.graph.set_codegen(torch.fx.graph.CodeGen())
    for old, child in list(split.named_children()):
        if not old.startswith("submod_"):
            continue
        place = int(old.rpartition("_")[2])
        new = f"_run_on_{'gpu' if in_pytorch[place] else 'acc'}_{place}"
        delattr(split, old)
        made = child if in_pytorch[place] else interpreter(child, settings).run(new, classes)
        setattr(split, new, made)
        for node in split.graph.nodes:
            if node.target == old:
                node.target = new
    split.recompile()
    return split


def _interpreter(trt: Any, behaviour: Behaviour) -> type:
    class TRTInterpreter:
        def __init__(self, module: Any, settings: Any) -> None:
            self.module = module
            self.compilation_settings = settings
            operations = [node for node in module.graph.nodes if node.op == "call_function"]
            holder = sys.modules["torch_tensorrt.dynamo.conversion._TRTInterpreter"]
            self.ctx = types.SimpleNamespace(net=_Network(operations, holder.get_node_name))

        def _populate_trt_builder_config(self, strict: bool = False) -> Any:
            config = trt.IBuilderConfig(None)
            settings = self.compilation_settings
            if settings.workspace_size:
                pool = trt.MemoryPoolType.WORKSPACE
                config.set_memory_pool_limit(pool, settings.workspace_size)
            if settings.max_aux_streams is not None:
                config.max_aux_streams = settings.max_aux_streams
            if settings.optimization_level is not None:
                config.builder_optimization_level = settings.optimization_level
            if settings.disable_tf32:
                config.clear_flag(trt.BuilderFlag.TF32)
            return config

        def run(self, name: str, classes: Any) -> Any:
            verbosity = "LAYER_NAMES_ONLY"
            if not behaviour.unseen:
                config = self._populate_trt_builder_config()
                verbosity = config.profiling_verbosity.name
                limit = behaviour.memory_bytes
                pool = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
                if limit is not None and pool > limit:
                    raise RuntimeError("Error Code 2: OutOfMemory (Requested size was 9 bytes.)")
            layers = [
                {"name": layer.name, "type": "kgen", "ms": behaviour.ms}
                for layer in self.ctx.net.layers
            ]
            inputs = [n for n in self.module.graph.nodes if n.op == "placeholder"]
            outputs = _outputs(self.module)
            names = [f"output{index}" for index in range(len(outputs))]
            plan = trt.make_plan(
                layers=layers,
                inputs=[_tensor(one.target, one) for one in inputs],
                outputs=[_tensor(n, o) for n, o in zip(names, outputs, strict=True)],
                verbosity=verbosity,
                faults=behaviour.faults,
            )
            return classes(plan, name, [one.target for one in inputs], names)

    return TRTInterpreter


def _outputs(module: Any) -> list[Any]:
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    value = output.args[0]
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _tensor(name: str, node: Any) -> dict[str, Any]:
    value = node.meta["val"]
    dtype = str(value.dtype).removeprefix("torch.")
    return {"name": name, "shape": list(value.shape), "dtype": _TRT_DTYPES[dtype], "scale": 1.0}


def _node_name(node: Any) -> str:
    """The module and the node; as in all versions, the module is gone from the node afterwards."""
    stack = node.meta.get("nn_module_stack")
    return f"{stack.popitem()[1][0]}/{node}" if stack else str(node)


class _Network:
    def __init__(self, operations: Sequence[Any], name_of: Callable[[Any], str]) -> None:
        self.layers = [
            types.SimpleNamespace(
                name=f"[X]-[aten_ops.{node.target}]-[{name_of(node)}]", metadata=""
            )
            for node in operations
        ]
        self.num_layers = len(self.layers)

    def get_layer(self, index: int) -> Any:
        return self.layers[index]


class EngineObject:
    """An engine of torch_tensorrt's own runtime: its state has the plan in base64."""

    def __init__(
        self, plan: bytes, inputs: Sequence[str] = (), outputs: Sequence[str] = ()
    ) -> None:
        self.plan, self.inputs, self.outputs = plan, inputs, outputs

    def __getstate__(self) -> tuple[Any, ...]:
        content = base64.b64encode(self.plan)
        return ("5", "engine", "0%8%7%0", content, "%".join(self.inputs), "%".join(self.outputs))


def _classes(version: str, trt: Any) -> Callable[..., Any]:
    """Return what makes the module that holds an engine, as this version does."""
    import torch

    numbers = tuple(int(part) for part in version.split(".")[:2])

    class PythonTorchTensorRTModule(torch.nn.Module):
        def __init__(self, plan: bytes, name: str, inputs: list[str], outputs: list[str]) -> None:
            super().__init__()
            self.input_names, self.output_names, self.name = inputs, outputs, name
            if numbers == (2, 4):
                self.engine = types.SimpleNamespace(serialize=lambda: memoryview(plan))
            else:
                self.serialized_engine, self.engine = plan, None
            if numbers >= (2, 7):
                self.requires_output_allocator = False

    class TorchTensorRTModule(torch.nn.Module):
        def __init__(self, plan: bytes, name: str, inputs: list[str], outputs: list[str]) -> None:
            super().__init__()
            self.input_binding_names, self.output_binding_names = inputs, outputs
            self.name, self.engine = name, EngineObject(plan, inputs, outputs)
            if numbers > (2, 4):
                self.serialized_engine = plan
            if numbers >= (2, 7):
                self.requires_output_allocator = False
            if numbers >= (2, 14):
                self.aliased_io: dict[str, Any] = {}

    return TorchTensorRTModule if numbers >= (2, 13) else PythonTorchTensorRTModule


def holders(version: str) -> Any:
    """Return the stand-in's class for a version, without installing anything."""
    return _classes(version, None)


def net() -> Any:
    """Return a network with a pooling in its middle and two outputs."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.pool = torch.nn.MaxPool2d(2)
            self.second = torch.nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.first(x))
            y = self.pool(x)
            return {"y": torch.relu(self.second(y)), "x": [x]}

    return Net().eval()


def model(module: Any = None) -> LoadedModel:
    """Return a model for the backend, the network above unless one is given."""
    inputs = (InputSpec("x", (1, 3, 8, 8)),)
    made = net() if module is None else module
    return LoadedModel("net", "torch", made, None, inputs, "random", {})


def pooling() -> frozenset[Any]:
    """Return the operator at which the network is split."""
    import torch

    return frozenset({torch.ops.aten.max_pool2d.default})


def compile_model(package: Any, arguments: Any, *, split: bool = True) -> Any:
    """Export and compile the network with the stand-in."""
    import torch

    from edgejoule.inference.trt.torch_compile import compile_program

    x = torch.randn(1, 3, 8, 8)
    program = torch.export.export(net(), (x,), strict=False)
    ops = pooling() if split else frozenset()
    return compile_program(package, program, (x,), arguments, torch_executed_ops=ops)


def build_here(folder: Path, package: Any, trt: Any, options: Any, *, split: bool = True) -> Any:
    """Do what the backend's `build` does, without a CUDA device; return what it described."""
    from edgejoule.inference.torch_event_cost import KernelTime
    from edgejoule.inference.trt.library import make_log
    from edgejoule.inference.trt.torch_build import build_parts
    from edgejoule.inference.trt.torch_compile import origin_of
    from edgejoule.inference.trt.torch_describe import describe_parts, write_engines
    from edgejoule.inference.trt.torch_program import save_program

    built = build_parts(
        package,
        model(),
        options,
        device=None,
        timing_cache=folder / "timing.cache",
        torch_executed_ops=pooling() if split else frozenset(),
    )
    paths = ("first", "pool", "second")
    described = describe_parts(
        built.parts,
        lambda part: origin_of(built.compiled, part.inputs, paths),
        trt,
        make_log(trt),
        None,
        folder,
    )
    save_program(built.parts.module, folder)
    write_engines(folder, described.files, KernelTime(None, "a test"))
    return built, described
