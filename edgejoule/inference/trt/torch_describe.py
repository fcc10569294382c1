"""The layers of a compiled model in the order of its graph, and the files of its engines.

Each engine is opened once on a runtime of our own, for its inspector; a plan that cannot be opened
here could not be measured either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import EdgejouleError, MeasurementError
from edgejoule.inference.backend import Layer
from edgejoule.inference.common import write_json
from edgejoule.inference.torch_graph import describe_layers, executed_nodes
from edgejoule.inference.trt.describe import describe_engine
from edgejoule.inference.trt.torch_compile import heard
from edgejoule.inference.trt.torch_parts import EnginePart, Parts, slot_of

if TYPE_CHECKING:
    from edgejoule.inference.torch_event_cost import KernelTime
    from edgejoule.inference.trt.origin import Origin

ENGINES_FILE = "engines.json"


@dataclass(frozen=True)
class EngineFile:
    """What the measuring process needs of one engine.

    Attributes:
        plan: Name of its file.
        inputs: Names of its inputs, in the order of the slot's arguments.
        outputs: Names of its outputs, in the order of the slot's results.
        single: Whether the slot returns a tensor where the engine has one output.
        layers: Its layers' names, in the order of execution.
    """

    plan: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    single: bool
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Described:
    """A compiled model's layers.

    Attributes:
        layers: Of all engines and parts in PyTorch, in the order of execution.
        engines: Facts of each engine, for the settings; `note` where something is amiss.
        files: What the measuring process needs of each.
        keep: Files that stay with the run.
    """

    layers: tuple[Layer, ...]
    engines: tuple[dict[str, Any], ...]
    files: tuple[EngineFile, ...]
    keep: tuple[str, ...]


def describe_parts(
    parts: Parts,
    origin: Callable[[EnginePart], Origin],
    trt: Any,
    log: Any,
    allocator: Any,
    artefacts: Path,
) -> Described:
    """Write every engine's plan and inspector, and describe the layers.

    Args:
        parts: The compiled model taken apart.
        origin: Returns the graph that an engine was built from.
        trt: The module `tensorrt`.
        log: Of `make_log`.
        allocator: For the engines' memory, or None.
        artefacts: The folder.

    Raises:
        UsageError: An engine is for another TensorRT or GPU.
        MeasurementError: An engine cannot be opened, or does not tell its layers in detail.
    """
    texts: list[str] = []
    facts: list[dict[str, Any]] = []
    for part in parts.engines:
        (artefacts / _plan_name(part)).write_bytes(part.plan)
        text, told = _inspect(part, trt, log, allocator)
        (artefacts / _inspector_name(part)).write_text(text, encoding="utf-8")
        texts.append(text)
        facts.append(told)
    layers: list[Layer] = []
    named: dict[int, tuple[str, ...]] = {}
    nodes = executed_nodes(parts.module.graph)
    for node, described in zip(nodes, describe_layers(parts.module), strict=True):
        slot = slot_of(node)
        if slot is None:
            layers.append(replace(described, index=len(layers)))
            continue
        graph = origin(parts.engines[slot])
        own = describe_engine(texts[slot], first_index=len(layers), origin=graph)
        facts[slot] |= {"first_layer": len(layers), "layers": len(own)}
        if note := wide_note(facts[slot]["bindings"], own):
            facts[slot]["note"] = note
        named[slot] = tuple(layer.name for layer in own)
        layers += own
    files = tuple(
        EngineFile(_plan_name(part), part.inputs, part.outputs, part.single, named[part.index])
        for part in parts.engines
    )
    keep = tuple(_inspector_name(part) for part in parts.engines)
    return Described(tuple(layers), tuple(facts), files, keep)


def wide_note(bindings: Sequence[Mapping[str, Any]], layers: Sequence[Layer]) -> str:
    """Return what to say of an engine that computes wider than its tensors are; else nothing.

    Of a run in float16 or bfloat16 the engines' tensors have that dtype, whatever their layers
    compute in: torch_tensorrt casts.

    Args:
        bindings: Of the engine's facts.
        layers: As the inspector tells them.
    """
    half = sorted({one["dtype"] for one in bindings} & {"float16", "bfloat16"})
    told = [{tensor.dtype for tensor in layer.outputs} - {None} for layer in layers]
    told = [dtypes for dtypes in told if dtypes]
    wide = sum("float32" in dtypes for dtypes in told)
    if not half or 2 * wide <= len(told):
        return ""
    return (
        f"{wide} of {len(told)} layers that tell their dtype write float32, though the engine's "
        f"tensors are {' and '.join(half)}: it does not compute in the run's dtype"
    )


def write_engines(artefacts: Path, files: Sequence[EngineFile], kernel: KernelTime) -> None:
    """Write what the measuring process needs besides the plans.

    Args:
        artefacts: The folder.
        files: Of `describe_parts`.
        kernel: Time of the small kernel that the cost of events is measured with.
    """
    content = {"engines": [asdict(one) for one in files], "kernel": asdict(kernel)}
    write_json(artefacts / ENGINES_FILE, content)


def _plan_name(part: EnginePart) -> str:
    return f"engine-{part.index}.plan"


def _inspector_name(part: EnginePart) -> str:
    return f"inspector-{part.index}.json"


def _inspect(part: EnginePart, trt: Any, log: Any, allocator: Any) -> tuple[str, dict[str, Any]]:
    """Return the inspector's text, and facts of the engine."""
    from edgejoule.inference.trt.engine import open_engine, refusal

    # Where torch_tensorrt has logged first, TensorRT goes on talking to its logger, not to ours.
    with heard() as lines:
        try:
            engine = open_engine(trt, part.plan, log, allocator)
        except EdgejouleError as error:
            if not lines:
                raise
            raise refusal(trt, "; ".join(line.text for line in lines)) from error
    try:
        if engine.verbosity != "DETAILED":
            raise MeasurementError(
                f"engine {part.index} was built with {engine.verbosity} profiling verbosity, "
                "though DETAILED was set: its layers cannot be told",
                "delete what caches engines, and report the version of torch_tensorrt",
            )
        facts = {
            "name": part.name,
            "held_by": part.held_by,
            "plan_bytes": len(part.plan),
            "plan_sha256": hashlib.sha256(part.plan).hexdigest(),
            "bindings": [
                {
                    "name": binding.name,
                    "input": binding.is_input,
                    "dtype": binding.dtype,
                    "shape": list(binding.shape),
                }
                for binding in engine.bindings
            ],
            "aux_streams": engine.aux_streams,
            "activation_bytes": engine.memory_bytes,
        }
        return engine.inspector_json(), facts
    finally:
        engine.close()
