"""What is the same for an engine that was built here and for one taken in from a file.

A plan is opened once in the set-up process: its inspector says what its layers are, its bindings
what it takes. How much the inspector says was decided when the engine was built
(`ProfilingVerbosity`): `DETAILED` all, `LAYER_NAMES_ONLY` names, `NONE` nothing, and then the
profiler reports each layer under its number (`NvInferRuntime.h`, IProfiler).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import UsageError
from edgejoule.inference.backend import BuildOptions, EngineDescription, Layer, Tensor
from edgejoule.inference.common import write_json
from edgejoule.inference.trt import PLAN_FILE, SESSION_FILE
from edgejoule.inference.trt.common import device_index
from edgejoule.inference.workload import InputSpec

if TYPE_CHECKING:
    from edgejoule.inference.trt.engine import Binding, Engine, ShapeRange
    from edgejoule.inference.trt.engine_file import EngineFile
    from edgejoule.inference.trt.origin import Origin

INSPECTOR_FILE = "inspector.json"

_OF_BUILDING = ("optimization_level", "allow_fallback", "shape_min", "shape_max")
_FLOATS = ("float32", "float16", "bfloat16", "float8_e4m3fn")
# Types of layers that do no work on the GPU: the inspector lists them, the profiler need not report
# them.
SILENT = ("signal", "wait", "Constant", "NoOp")
_SAID = {
    "DETAILED": "in full",
    "LAYER_NAMES_ONLY": "by name alone: the engine was built without detailed profiling verbosity",
    "NONE": "by number alone: the engine was built with profiling verbosity none",
}


class Machine:
    """TensorRT, CUDA with the device in use, a log, and the allocator that holds a memory limit.

    Args:
        options: Device and memory limit.

    Raises:
        UsageError: TensorRT, CUDA or the device is not there.
    """

    def __init__(self, options: BuildOptions) -> None:
        from edgejoule.inference.memory_limit import limit_bytes, tensorrt_allocator
        from edgejoule.inference.trt.cuda import load_cuda
        from edgejoule.inference.trt.library import load_tensorrt, make_log

        self.options = options
        self.trt: Any = load_tensorrt()
        self.cuda = load_cuda()
        index = device_index(options.device)
        count = self.cuda.device_count()
        if index >= count:
            raise UsageError(f"there is no GPU {index} here", f"CUDA has 0 to {count - 1}")
        self.cuda.use(index)
        self.device = self.cuda.device(index)
        self.log: Any = make_log(self.trt)
        limit = limit_bytes(options)
        self.allocator: Any = (
            None if limit is None else tensorrt_allocator(self.trt, self.cuda, limit)
        )

    def open(self, plan: bytes) -> Engine:
        """Open a plan on a runtime of its own."""
        from edgejoule.inference.trt.engine import open_engine

        return open_engine(self.trt, plan, self.log, self.allocator)

    def memory_limit(self) -> dict[str, Any]:
        """Return how the memory limit was held while building, and what it refused."""
        from edgejoule.inference.memory_limit import limit_tensorrt

        said = limit_tensorrt(self.options).to_json()
        return said if self.allocator is None else {**said, **self.allocator.budget.to_json()}


def take_in(
    machine: Machine,
    engine: Engine,
    plan: bytes,
    artefacts: Path,
    inputs: Sequence[InputSpec],
    settings: dict[str, Any],
    origin: Origin | None,
) -> EngineDescription:
    """Write a plan's artefacts and describe its layers.

    Args:
        machine: Where it was opened.
        engine: The plan, opened.
        plan: Its bytes.
        artefacts: Folder for them.
        inputs: The inputs as they will be measured.
        settings: What is already known of how it was built.
        origin: The graph behind it, where it is known.
    """
    from edgejoule.inference.trt.describe import describe_engine

    profile = profile_of(engine, {spec.name: spec.shape for spec in inputs})
    text = _inspect(engine, inputs, profile)
    layers = describe_engine(text, origin=origin, profile=profile)
    if not layers and engine.verbosity == "NONE":
        layers = tuple(Layer(index, str(index)) for index in range(engine.layers))
    (artefacts / PLAN_FILE).write_bytes(plan)
    (artefacts / INSPECTOR_FILE).write_text(text, encoding="utf-8")
    write_json(
        artefacts / SESSION_FILE,
        {
            "inputs": [binding.name for binding in engine.inputs],
            "layers": [layer.name for layer in layers],
            "silent": [layer.index for layer in layers if layer.type in SILENT],
            "profile": profile,
            "cuda_graphs": bool(machine.options.extra.get("cuda_graphs")),
            "layer_count": engine.layers,
        },
    )
    found: dict[str, Any] = {
        **settings,
        "gpu": machine.device.name,
        "compute_capability": ".".join(map(str, machine.device.compute_capability)),
        "layers_described": _SAID.get(engine.verbosity, engine.verbosity),
        "profiling_verbosity": engine.verbosity,
        "aux_streams": engine.aux_streams,
        "bindings": {
            binding.name: {"dtype": binding.dtype, "shape": list(binding.shape)}
            for binding in engine.bindings
        },
        "memory_limit": machine.memory_limit(),
    }
    if engine.aux_streams:
        found["aux_streams_warning"] = (
            f"the engine runs layers on {engine.aux_streams} more streams: they may overlap, and "
            "their sum may exceed the inference"
        )
    return EngineDescription(
        backend="tensorrt",
        versions={
            "tensorrt": str(machine.trt.__version__),
            "cuda": machine.cuda.runtime_version,
            "driver": machine.cuda.driver_version,
        },
        layers=layers,
        settings=found,
        start_offsets=False,
        keep=(INSPECTOR_FILE,),
        overlap=engine.aux_streams > 0,
    )


def with_known_layers(
    description: EngineDescription, known: Sequence[Mapping[str, Any]]
) -> EngineDescription:
    """Return the layers as they were described when the graph was at hand, if they are the same.

    Args:
        description: Of the engine as it was opened.
        known: What the engine's file says of its layers.
    """
    names = [layer.name for layer in description.layers]
    if not known or names != [one.get("name") for one in known]:
        return description
    try:
        layers = tuple(layer_of(one) for one in known)
    except (TypeError, KeyError, ValueError):  # another version's idea of a layer
        return description
    return replace(description, layers=layers)


def layer_of(said: Mapping[str, Any]) -> Layer:
    """Return a layer from its JSON."""
    tensors = {
        key: tuple(
            Tensor(one["name"], None if one["shape"] is None else tuple(one["shape"]), one["dtype"])
            for one in said[key]
        )
        for key in ("inputs", "outputs")
    }
    lists = {
        key: tuple(value)
        for key, value in said.items()
        if isinstance(value, list) and key not in tensors
    }
    return Layer(**{**said, **lists, **tensors})


def profile_of(engine: Engine, shapes: Mapping[str, Sequence[int | None]]) -> int:
    """Return the first optimisation profile that holds the shapes, the first of all if none does.

    Args:
        engine: The plan, opened.
        shapes: Of inputs by name; one that the profiles say nothing of fits all.
    """
    for index, ranges in enumerate(engine.optimisation_profiles()):
        if all(_holds(ranges.get(name), shape) for name, shape in shapes.items()):
            return index
    return 0


def _holds(allowed: ShapeRange | None, shape: Sequence[int | None]) -> bool:
    return allowed is None or (
        len(shape) == len(allowed.least)
        and all(
            size is not None and low <= size <= high
            for low, size, high in zip(allowed.least, shape, allowed.most, strict=True)
        )
    )


def _inspect(engine: Engine, inputs: Sequence[InputSpec], profile: int) -> str:
    """Return the inspector's text, dynamic shapes as they will be measured."""
    wanted = {spec.name: spec.shape for spec in inputs}
    dynamic = [one.name for one in engine.inputs if -1 in one.shape and one.name in wanted]
    if not dynamic and not profile:
        return engine.inspector_json()
    context = engine.context(profile)
    try:
        for name in dynamic:
            context.set_input_shape(name, wanted[name])
        return engine.inspector_json(context)
    finally:
        context.close()


def tensors_of(bindings: Sequence[Binding]) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """Return name, shape and dtype of bindings, as an engine file has them."""
    return tuple((one.name, one.shape, one.dtype) for one in bindings)


def input_specs(engine: Engine, path: Path, asked: tuple[int, ...] | None) -> tuple[InputSpec, ...]:
    """Return what an engine is fed.

    Floats are made in float32 and cast when they are bound. Of several optimisation profiles the
    first that holds the shape asked for is taken, without one the first of all.

    Args:
        engine: The plan, opened.
        path: Its file, for messages.
        asked: `--input-shape`, of the first input.

    Raises:
        UsageError: The engine does not take that shape, does not say what it takes, or has inputs
            that decide shapes.
    """
    first = engine.inputs[0].name if engine.inputs else ""
    chosen = 0 if asked is None else profile_of(engine, {first: asked})
    profiles = engine.optimisation_profiles()
    ranges = profiles[chosen] if profiles else {}
    specs = []
    for position, binding in enumerate(engine.inputs):
        if binding.is_shape:
            raise UsageError(
                f"engine {path}: input {binding.name!r} decides the shapes of other tensors by "
                "its values",
                "build it with that value fixed",
            )
        shape = binding.shape
        if -1 in shape:
            if binding.name not in ranges:
                raise UsageError(
                    f"engine {path}: TensorRT does not say which shapes input {binding.name!r} "
                    f"{list(shape)} takes in optimisation profile {chosen}",
                    "build it with a profile that has least, best and largest shape of each input",
                )
            shape = ranges[binding.name].best
        if position == 0 and asked is not None:
            every = [one[binding.name] for one in profiles if binding.name in one]
            _check_asked(path, binding, every, asked)
            shape = asked
        dtype = "float32" if binding.dtype in _FLOATS else binding.dtype
        specs.append(InputSpec(binding.name, tuple(shape), dtype))
    return tuple(specs)


def _check_asked(
    path: Path, binding: Binding, allowed: Sequence[ShapeRange], asked: tuple[int, ...]
) -> None:
    if -1 not in binding.shape:
        if tuple(asked) == binding.shape:
            return
        takes = f"{list(binding.shape)}"
    else:
        if any(_holds(one, asked) for one in allowed):
            return
        takes = "shapes from " + ", or from ".join(
            f"{list(one.least)} to {list(one.most)}" for one in allowed
        )
    raise UsageError(
        f"engine {path}: input {binding.name!r} takes {takes}, --input-shape says {list(asked)}",
        "leave --input-shape out, or build an engine that takes it",
    )


def refuse_building_options(options: BuildOptions) -> None:
    """Refuse options that only a build could follow.

    Raises:
        UsageError: One was given.
    """
    given = [key for key in _OF_BUILDING if options.extra.get(key) is not None]
    if given:
        flag = "--" + given[0].replace("_", "-")
        raise UsageError(f"{flag}: an engine from a file is not built again", "leave it out")


def adopted_name(file: EngineFile) -> str:
    """Return the name of an engine's run: the model's, else the file's."""
    if file.facts is not None:
        return file.facts.name
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", file.path.stem).strip("-.") or "engine"
