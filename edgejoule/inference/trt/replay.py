"""Replay of a TensorRT engine: each layer's nodes built into an engine of their own.

Such an engine is built with the settings of the whole (dtype, flags, level, timing cache) while the
measuring process runs, and is taken only if TensorRT makes the same layer of it: one layer of the
same type with tensors of the same types and shapes. It is launched many times in one CUDA graph;
where weights or inputs come from memory in the network, several such engines take turns.

No TensorRT has executed this: builder and runtime here are doubles, and TensorRT-RTX has parsed and
built the graphs. What follows from that stands in the plan's notes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import EdgejouleError, MeasurementError
from edgejoule.inference.backend import BuildOptions, Layer
from edgejoule.inference.replay_loop import Loop
from edgejoule.inference.replay_rotation import (
    copies_needed,
    is_cold,
    reuse_distances,
    shared_buffers,
    stays_cold,
)
from edgejoule.inference.replaying import Repeatable, ReplayPlan
from edgejoule.inference.trt import ENGINE_FILE
from edgejoule.inference.trt.adopting import layer_of
from edgejoule.inference.trt.cuda_types import CudaError
from edgejoule.inference.trt.engine_file import read_engine_file
from edgejoule.inference.trt.replay_about import read_replay_file
from edgejoule.inference.workload import InputSpec

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.inference.onnx_replay_graph import Graph, Value
    from edgejoule.inference.trt.context import Context
    from edgejoule.inference.trt.cuda import Cuda

_GRAPH_NS = 5_000_000  # of work in one CUDA graph, beside which launch and wait are little
_MOST_REPEATS = 2000
_MOST_COPIES = 16  # engines at a time: each takes a context's memory on the device and the host
_NOTES: tuple[str, ...] = (
    "layers are built from their nodes of the graph into engines of their own, with the settings "
    "of the whole; one that TensorRT builds otherwise than in the network is left out",
    "inputs from within the network are random normal values of the same type and shape, since "
    "an engine does not give out what is between its layers",
    "replay of TensorRT layers was developed without a GPU that runs TensorRT",
)


@dataclass(frozen=True)
class PlanParts:
    """What a session lends: the module, CUDA, log, allocator, device, context, stream."""

    trt: Any
    cuda: Cuda
    log: Any
    allocator: Any
    device: Any
    context: Context
    stream: int
    dynamic: bool  # an output's shape depends on values, so that there is no CUDA graph


class PlanReplayer:
    """Makes repeatables of a plan's session; see `Replayer`."""

    def __init__(
        self,
        parts: PlanParts,
        artefacts: Path,
        options: BuildOptions,
        silent: frozenset[int],
        inputs: Mapping[str, np.ndarray],
    ) -> None:
        """Find the graph behind the plan; nothing is built yet.

        Args:
            parts: Of the session, its first input set bound.
            artefacts: Folder of the plan.
            options: As it was built.
            silent: Layers that compute nothing.
            inputs: The first input set.

        Raises:
            MeasurementError: There is no graph behind the plan, or no way to build its layers.
        """
        self._parts = parts
        self._artefacts = artefacts
        self._options = options
        self._silent = silent
        self._inputs = inputs
        about = read_replay_file(artefacts)
        self._specs = [InputSpec(name, tuple(shape)) for name, shape in about["inputs"]]
        facts = read_engine_file(artefacts / ENGINE_FILE).facts
        self._layers = [layer_of(one) for one in (() if facts is None else facts.layers)]
        self._graph, self._values = _typed(Path(about["graph"]), self._specs)
        self._built: dict[int, tuple[bytes, dict[str, Any]]] = {}
        self._cache = parts.cuda.l2_bytes(parts.cuda.current())
        self._cold = _cold_bytes(self._layers, self._cache)

    def plan(self) -> ReplayPlan:
        """Say which layers have nodes of their own, and which of them are equal."""
        from edgejoule.inference.trt.replay_cut import cut, key_of_layer

        nothing = tuple(layer.index for layer in self._layers if layer.index in self._silent)
        shared: dict[str, int] = {}
        for layer in self._layers:
            for name in layer.nodes:
                shared[name] = shared.get(name, 0) + 1
        left_out: dict[int, str] = {}
        groups: dict[str, list[int]] = {}
        for layer in self._layers:
            if layer.index in self._silent:
                continue
            why = _why_not(layer, shared)
            if not why:
                try:
                    cut(self._graph, layer.nodes, self._values)
                except MeasurementError as error:
                    why = error.message
            if why:
                left_out[layer.index] = why
            else:
                key = f"{key_of_layer(layer, self._graph)} {self._cold[layer.index] > 0}"
                groups.setdefault(key, []).append(layer.index)
        notes = _NOTES
        if self._cache is None:
            notes += ("CUDA does not say how large the L2 cache is: nothing is rotated",)
        return ReplayPlan(
            groups=tuple(tuple(group) for group in groups.values()),
            nothing=nothing,
            left_out=left_out,
            notes=notes,
        )

    def layer(self, index: int) -> Repeatable:
        """Build one layer alone, once, and make it repeatable.

        Raises:
            MeasurementError: TensorRT does not build it, or builds something else.
        """
        if not 0 <= index < len(self._layers):
            raise MeasurementError(f"there is no layer {index}")
        layer = self._layers[index]
        cold = self._cold[index]
        free, _ = self._parts.cuda.memory()
        copies = copies_needed(self._cache, cold, free // 4, _MOST_COPIES)
        if not stays_cold(copies, cold, self._cache):
            copies = 1
        from edgejoule.inference.trt.replay_build import Unit, build_layer

        with contextlib.ExitStack() as stack:
            if index not in self._built:
                self._built[index] = build_layer(
                    self._parts, self._graph, self._values, layer, self._options, self._artefacts
                )
            plan, known = self._built[index]
            units = []
            for turn in range(copies):
                seed = self._options.seed + turn
                units.append(Unit(self._parts, plan, self._inputs, seed))
                stack.callback(units[-1].close)
            facts = {
                **known,
                "copies": copies,
                "cold_bytes": cold,
                "cache_bytes": self._cache,
                "stays_cold": stays_cold(copies, cold, self._cache),
            }
            stream = self._parts.stream
            enqueue = [partial(unit.context.enqueue, stream) for unit in units]
            return self._repeated(enqueue, facts, stack.pop_all().close)

    def whole(self) -> Repeatable:
        """Repeat the session's own context in a CUDA graph, as layers are."""
        parts = self._parts
        return self._repeated([partial(parts.context.enqueue, parts.stream)], {}, lambda: None)

    def duplicated(self, index: int, copies: int) -> Repeatable:
        """Raise `MeasurementError`: the builder merges, fuses or rearranges what is doubled."""
        raise MeasurementError(
            f"layer {index} cannot be executed {copies} times in place: TensorRT fuses and merges "
            "what is doubled, and chooses the rest of the engine anew"
        )

    def close(self) -> None:
        """Forget the engines; the session's own parts stay with it."""
        self._built.clear()

    def _repeated(
        self,
        enqueue: Sequence[Callable[[], None]],
        facts: Mapping[str, Any],
        close: Callable[[], None],
    ) -> Repeatable:
        """Make a loop of launches of a CUDA graph with many executions in turn."""
        cuda, stream = self._parts.cuda, self._parts.stream
        closers = contextlib.ExitStack()
        closers.callback(close)
        try:
            took_ns = []
            for _ in range(3):  # the first does what is put off until then
                start_ns = time.perf_counter_ns()
                for one in enqueue:
                    one()
                cuda.synchronise(stream)
                took_ns.append((time.perf_counter_ns() - start_ns) / len(enqueue))
            wanted = max(1, min(_MOST_REPEATS, round(_GRAPH_NS / max(1.0, min(took_ns)))))
            repeats = -(-wanted // len(enqueue)) * len(enqueue)
            start: Callable[[], None]
            if self._parts.dynamic:

                def start() -> None:
                    for number in range(repeats):
                        enqueue[number % len(enqueue)]()
            else:
                graph = self._captured(enqueue, repeats)
                closers.callback(_quietly, cuda.destroy_graph, graph)
                start = partial(cuda.launch, graph, stream)

            def execute() -> None:
                start()
                cuda.synchronise(stream)

            known = {**facts, "repeats_per_call": repeats, "cuda_graph": not self._parts.dynamic}
            return Loop(execute, repeats, known, closers.close)
        except BaseException:
            closers.close()
            raise

    def _captured(self, enqueue: Sequence[Callable[[], None]], repeats: int) -> int:
        cuda, stream = self._parts.cuda, self._parts.stream
        cuda.begin_capture(stream)
        try:
            for number in range(repeats):
                enqueue[number % len(enqueue)]()
        except EdgejouleError:
            cuda.abandon_capture(stream)
            raise
        return cuda.end_capture(stream)


def _quietly(free: Callable[[int], None], handle: int) -> None:
    with contextlib.suppress(CudaError):
        free(handle)


def _typed(path: Path, inputs: Sequence[InputSpec]) -> tuple[Graph, dict[str, Value]]:
    try:
        from edgejoule.inference.trt.replay_cut import load_typed

        return load_typed(path, inputs)
    except ImportError as error:
        raise MeasurementError(
            f"layers are cut out of the ONNX graph with the package onnx ({error})",
            "pip install onnx",
        ) from error


def _why_not(layer: Layer, shared: Mapping[str, int]) -> str:
    """Say why a layer cannot be built alone; empty if it may be."""
    if layer.operation in ("reformat", "nothing") or not layer.nodes:
        return "TensorRT put it in: no node of the graph is behind it that could be built alone"
    several = [name for name in layer.nodes if shared[name] > 1]
    if several:
        return f"TensorRT does its node {several[0]} in {shared[several[0]]} layers"
    return ""


def _cold_bytes(layers: Sequence[Layer], cache_bytes: int | None) -> list[int]:
    """Return per layer how much of what it reads comes from memory, weights included."""
    from edgejoule.inference.flops import bytes_of

    steps = []
    for layer in layers:
        reads = {t.name: bytes_of([(t.shape, t.dtype)]) or 0 for t in layer.inputs}
        writes = {t.name: bytes_of([(t.shape, t.dtype)]) or 0 for t in layer.outputs}
        weights = (layer.bytes_moved or 0) - sum(reads.values()) - sum(writes.values())
        if weights > 0:
            reads[f"weights of layer {layer.index}"] = weights
        steps.append((reads, writes))
    own = {name for reads, _ in steps for name in reads if name.startswith("weights of layer ")}
    places = shared_buffers(steps, own)
    placed = [
        tuple({places[name][0]: nbytes for name, nbytes in touched.items()} for touched in step)
        for step in steps
    ]
    distances = reuse_distances([(reads, writes) for reads, writes in placed])
    return [
        sum(
            nbytes
            for name, nbytes in reads.items()
            if is_cold(distance[places[name][0]], cache_bytes)
        )
        for (reads, _), distance in zip(steps, distances, strict=True)
    ]
