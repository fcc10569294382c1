"""Engines of one layer: build one, see that TensorRT makes the same layer of it, give it memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import EdgejouleError, MeasurementError
from edgejoule.inference.backend import BuildOptions, Layer
from edgejoule.inference.flops import DTYPE_BYTES
from edgejoule.inference.trt.adopting import SILENT
from edgejoule.inference.trt.buffers import cast_to, to_bfloat16
from edgejoule.inference.trt.build import build_plan
from edgejoule.inference.trt.cuda_types import CudaError
from edgejoule.inference.trt.describe import describe_engine
from edgejoule.inference.trt.engine import Binding, open_engine
from edgejoule.inference.trt.replay_cut import cut
from edgejoule.inference.workload import InputSpec

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.inference.onnx_replay_graph import Graph, Value
    from edgejoule.inference.trt.replay import PlanParts

_LAYER_FILE = "replay-layer.onnx"
_OF_THE_WHOLE = ("shape_min", "shape_max", "cuda_graphs")  # options that a layer alone has not
_FLOATS = ("float32", "float16", "bfloat16")
_LAYOUTS = ("linear", "any")
_FORMATS = {  # beside LINEAR, with how many channels make a vector
    "FLOAT": {"CHW32": 32, "HWC": 1},
    "HALF": {"CHW2": 2, "HWC8": 8, "HWC16": 16},
    "BF16": {"HWC8": 8},
    "INT8": {"CHW4": 4, "CHW32": 32},
}


def build_layer(
    parts: PlanParts,
    graph: Graph,
    values: Mapping[str, Value],
    layer: Layer,
    options: BuildOptions,
    artefacts: Path,
) -> tuple[bytes, dict[str, Any]]:
    """Build a layer's nodes into an engine, at first with linear inputs and outputs.

    Where TensorRT then puts conversions of layout around the layer, it is built again with inputs
    and outputs of whatever layout suits it (`ITensor.allowed_formats`).

    Args:
        parts: Of the session.
        graph: The graph behind the whole.
        values: Types and shapes of its tensors.
        layer: The layer.
        options: As the whole was built.
        artefacts: Folder for the graph of the layer, deleted afterwards.

    Returns:
        The plan and what is worth knowing: layout, tactic, whether that is the whole's.

    Raises:
        MeasurementError: TensorRT does not build it, or makes something else of it.
    """
    import onnx

    model = cut(graph, layer.nodes, values)
    specs = [
        InputSpec(value.name, tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim))
        for value in model.graph.input
    ]
    extra = {key: value for key, value in options.extra.items() if key not in _OF_THE_WHOLE}
    alone = replace(options, extra=extra, killed=0)
    path = artefacts / _LAYER_FILE
    onnx.save(model, str(path))
    why = ""
    try:
        for layout in _LAYOUTS:
            try:
                built = build_plan(
                    parts.trt,
                    parts.cuda,
                    path,
                    alone,
                    log=parts.log,
                    inputs=specs,
                    allocator=parts.allocator,
                    label=f"layer {layer.index} ({layer.name}) alone",
                    say=_unsaid,
                    adjust=None if layout == "linear" else allow_layouts,
                )
            except EdgejouleError as error:
                raise MeasurementError(error.message) from error
            found = _inspect(parts, built.plan)
            why = difference(layer, found)
            if not why:
                tactic = found[0].tactic
                same = None if tactic is None or layer.tactic is None else tactic == layer.tactic
                return built.plan, {"layout": layout, "tactic": tactic, "same_tactic": same}
            if len(found) == 1:
                break  # no conversions around it: layouts would not mend it
    finally:
        path.unlink(missing_ok=True)
    raise MeasurementError(f"built alone, TensorRT makes something else of it: {why}")


def difference(layer: Layer, found: Sequence[Layer]) -> str:
    """Say how the layers of an engine of one layer differ from it; empty if they do not."""
    if len(found) != 1:
        kinds = ", ".join(str(one.type) for one in found)
        return f"{len(found)} layers ({kinds})"
    other = found[0]
    if other.type != layer.type:
        return f"a layer of type {other.type}, in the network it is {layer.type}"
    for what, own, others in (
        ("input", layer.inputs, other.inputs),
        ("output", layer.outputs, other.outputs),
    ):
        wanted = sorted((str(t.dtype), t.shape or ()) for t in own)
        has = sorted((str(t.dtype), t.shape or ()) for t in others)
        if wanted != has:
            return f"{what}s {has}, in the network they are {wanted}"
    return ""


def _unsaid(line: str) -> None:
    """Builds of layers are many and short: the replay pass has a progress of its own."""
    del line


def allow_layouts(trt: Any, definition: Any) -> None:
    """Let TensorRT choose the layout of inputs and outputs (`ITensor.allowed_formats`).

    Of the layouts that every version from 8.6 on has for a type and for three dimensions or more
    (`TensorFormat` in the bindings' own words), those that need no padding: a single one that does
    not fit refuses the build. TensorRT-RTX 1.5 fails at HWC8 of float16 with an internal error.
    """
    tensors = [definition.get_input(index) for index in range(definition.num_inputs)]
    tensors += [definition.get_output(index) for index in range(definition.num_outputs)]
    for tensor in tensors:
        formats = _FORMATS.get(str(tensor.dtype.name), {})
        mask = 1 << int(trt.TensorFormat.LINEAR)
        for name, channels in formats.items():
            if len(tensor.shape) > 2 and int(tensor.shape[1]) % channels == 0:
                mask |= 1 << int(getattr(trt.TensorFormat, name))
        tensor.allowed_formats = mask


def _inspect(parts: PlanParts, plan: bytes) -> list[Layer]:
    """Return the layers of a plan that do work."""
    engine = open_engine(parts.trt, plan, parts.log, parts.allocator)
    try:
        return [one for one in describe_engine(engine.inspector_json()) if one.type not in SILENT]
    finally:
        engine.close()


class Unit:
    """An engine of one layer with memory of its own, ready to be launched."""

    def __init__(
        self, parts: PlanParts, plan: bytes, inputs: Mapping[str, np.ndarray], seed: int
    ) -> None:
        """Open the plan, fill its inputs, bind everything.

        Args:
            parts: Of the session.
            plan: Of `build_layer`.
            inputs: What the network is fed; a layer that reads that gets it.
            seed: Of the other inputs' values.

        Raises:
            MeasurementError: There is no memory, or TensorRT refuses.
        """
        self._memory = parts.cuda if parts.allocator is None else parts.allocator.budget
        self._owned: list[int] = []
        self._engine = open_engine(parts.trt, plan, parts.log, parts.allocator)
        try:
            self.context = self._engine.context(0, parts.stream)
            staged = []
            for number, binding in enumerate(self._engine.bindings):
                if binding.on_host or min(binding.shape, default=1) < 0:
                    raise MeasurementError(f"shapes depend on the values of {binding.name}")
                nbytes = max(1, prod(binding.shape) * DTYPE_BYTES.get(binding.dtype, 4))
                address = self._memory.allocate(nbytes)
                self._owned.append(address)
                if binding.is_input:
                    self.context.set_input_shape(binding.name, binding.shape)
                    array = _values(binding, nbytes, inputs, seed * 1000 + number)
                    staged.append(array)
                    parts.cuda.copy_to_device(address, array, parts.stream)
                self.context.bind(binding.name, address)
            self.context.check_shapes()
            parts.cuda.synchronise(parts.stream)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give everything back, also if the device is in error."""
        context = getattr(self, "context", None)
        if context is not None:
            context.close()
        for address in self._owned:
            try:
                self._memory.free(address)
            except CudaError:
                continue
        self._owned = []
        self._engine.close()


def _values(
    binding: Binding, nbytes: int, inputs: Mapping[str, np.ndarray], seed: int
) -> np.ndarray:
    """Return the bytes of an input: what the network is fed, or random normal values.

    Integers are zero, since they may be indices; 8-bit ones are spread as normal values are.
    """
    import numpy as np

    if binding.name in inputs and binding.layout == "LINEAR":
        return cast_to(inputs[binding.name], binding)
    random = np.random.default_rng(seed)
    if binding.dtype in _FLOATS:
        count = -(-nbytes // DTYPE_BYTES[binding.dtype])
        values = random.standard_normal(count, dtype=np.float32)
        if binding.dtype == "bfloat16":
            return to_bfloat16(values)
        return np.asarray(values, dtype=binding.dtype)
    if binding.dtype == "int8":
        return np.clip(np.rint(random.standard_normal(nbytes) * 32), -127, 127).astype(np.int8)
    if binding.dtype == "float8_e4m3fn":  # from 2**-3 to 1.9, both signs
        signs = random.choice([0, 0x80], nbytes)
        return np.asarray(random.integers(0x20, 0x40, nbytes) | signs, dtype=np.uint8)
    return np.zeros(nbytes, dtype=np.uint8)
