"""ONNX graphs made ready for quantisation: read whole, hashed, normalised, typed, written.

A batch normalisation behind a convolution is folded into its weights, because quantised weights
have to be those that the runtime multiplies with. This is done here and not by a runtime's
optimiser, which renames nodes and drops their metadata: names are what layers are led back to
modules by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import UsageError
from edgejoule.inference.common import short
from edgejoule.inference.onnx_graph import load_graph

if TYPE_CHECKING:
    import numpy as np

EXTERNAL_ABOVE_BYTES = 1_500_000_000  # protobuf ends at 2 GB
_FLOAT = 1  # TensorProto.FLOAT
_OPSET_PER_CHANNEL = 13  # first whose QuantizeLinear has an axis
_IR_VERSION_NEWEST = 10  # what a raised opset is declared with: ONNX Runtime 1.18 reads it


def load_whole(path: Path) -> Any:
    """Read a graph with the shapes of its tensors and all its weights.

    Shapes are inferred before weights beside the file are read, since protobuf ends at 2 GB.

    Raises:
        UsageError: It is no ONNX graph, or its weights cannot be read.
    """
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    model = load_graph(path)
    if model.functions:
        import onnx.inliner

        model = onnx.inliner.inline_local_functions(model)
    if model.ByteSize() < EXTERNAL_ABOVE_BYTES:
        try:
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception as error:  # onnx has several types for it, none public
            raise UsageError(
                f"{path}: the types of its tensors cannot be inferred ({short(error)})",
                "check the graph with onnx.checker, or export it again",
            ) from error
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # onnx has no type of its own for it
        raise UsageError(f"{path}: its weights cannot be read ({short(error)})") from error
    return model


def save_whole(model: Any, target: Path) -> None:
    """Write a graph, its weights beside it where they are too large for one file."""
    import onnx

    external = model.ByteSize() > EXTERNAL_ABOVE_BYTES
    target.with_name(f"{target.name}.data").unlink(missing_ok=True)  # onnx would append to it
    onnx.save(model, str(target), save_as_external_data=external, location=f"{target.name}.data")


def model_hash(path: Path) -> str:
    """Return the SHA-256 of what a graph computes: nodes, weights, inputs, outputs.

    Notes that exporters leave (metadata, producer, doc strings) are not in it, so that the same
    network exported twice is the same model.

    Raises:
        UsageError: The file is unreadable.
    """
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    model = load_graph(path)
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # onnx has no type of its own for it
        raise UsageError(f"{path}: its weights cannot be read ({short(error)})") from error
    digest = hashlib.sha256()
    for opset in sorted((entry.domain, entry.version) for entry in model.opset_import):
        digest.update(repr(opset).encode())
    for value in (*model.graph.input, *model.graph.output):
        digest.update(value.name.encode() + value.type.SerializeToString(deterministic=True))
    for tensor in sorted(model.graph.initializer, key=lambda one: str(one.name)):
        array = onnx.numpy_helper.to_array(tensor)
        digest.update(f"{tensor.name}:{tensor.data_type}:{array.shape};".encode())
        digest.update(array.tobytes())
    for node in (*model.graph.node, *(n for f in model.functions for n in f.node)):
        digest.update(repr((node.domain, node.op_type, *node.input, "->", *node.output)).encode())
        for attribute in sorted(node.attribute, key=lambda one: str(one.name)):
            digest.update(attribute.SerializeToString(deterministic=True))
    return digest.hexdigest()


def opset_of(model: Any) -> int:
    """Return the version of the standard operators that a graph uses."""
    versions = [int(e.version) for e in model.opset_import if e.domain in ("", "ai.onnx")]
    return max(versions, default=1)


def raise_opset(model: Any, least: int) -> Any:
    """Return the graph in at least this opset.

    Raises:
        UsageError: It cannot be converted.
    """
    import onnx
    from onnx import version_converter

    least = max(least, _OPSET_PER_CHANNEL)
    if opset_of(model) >= least:
        return model
    try:
        converted = version_converter.convert_version(model, least)
        converted = onnx.shape_inference.infer_shapes(converted, data_prop=True)
    except Exception as error:  # the converter's errors share no base class
        raise UsageError(
            f"the graph of opset {opset_of(model)} cannot be raised to opset {least}, "
            f"which quantisation needs ({short(error)})",
            f"export the model with opset {least} or newer",
        ) from error
    converted.ir_version = max(min(converted.ir_version, _IR_VERSION_NEWEST), model.ir_version)
    _restore_notes(model, converted)
    return converted


def _restore_notes(before: Any, after: Any) -> None:
    """Give nodes back the name and metadata that the converter drops, by their outputs."""
    kept = {tuple(node.output): node for node in before.graph.node}
    for node in after.graph.node:
        old = kept.get(tuple(node.output))
        if old is None:
            continue
        node.name = old.name
        del node.metadata_props[:]
        node.metadata_props.extend(old.metadata_props)


def hoist_constants(model: Any) -> None:
    """Turn `Constant` nodes of the main graph into initialisers, and drop copies of initialisers.

    The older exporter writes constants as nodes and shared weights through `Identity`; a weight is
    looked for among the initialisers.
    """
    outputs = {value.name for value in model.graph.output}
    inner = {name for node in model.graph.node for name in _outer_names(node)}
    names = {tensor.name for tensor in model.graph.initializer}
    renamed: dict[str, str] = {}
    for node in list(model.graph.node):
        if node.domain not in ("", "ai.onnx") or not node.output or node.output[0] in outputs:
            continue
        if node.op_type == "Constant" and (tensor := _constant_tensor(node)) is not None:
            tensor.name = node.output[0]
            model.graph.initializer.append(tensor)
            names.add(tensor.name)
        elif node.op_type == "Identity" and node.input[0] in names and node.output[0] not in inner:
            renamed[node.output[0]] = renamed.get(node.input[0], node.input[0])
            names.add(node.output[0])
        else:
            continue
        model.graph.node.remove(node)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]


def _constant_tensor(node: Any) -> Any:
    """Return the value of a `Constant` as a tensor of its own, None for text and sparse values."""
    from onnx import TensorProto, helper

    for attribute in node.attribute:
        if attribute.name == "value":
            tensor = TensorProto()
            tensor.CopyFrom(attribute.t)
            return tensor
        kind = TensorProto.FLOAT if attribute.name.startswith("value_float") else TensorProto.INT64
        if attribute.name in ("value_float", "value_int"):
            value = helper.get_attribute_value(attribute)
            return helper.make_tensor("", kind, [], [value])
        if attribute.name in ("value_floats", "value_ints"):
            values = list(helper.get_attribute_value(attribute))
            return helper.make_tensor("", kind, [len(values)], values)
    return None


def constants_of(model: Any) -> dict[str, Any]:
    """Return the constant tensors of the main graph by name, after `hoist_constants`."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def consumers_of(model: Any) -> dict[str, list[Any]]:
    """Return the nodes of the main graph that read each tensor, subgraphs counted by their node."""
    found: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in {*node.input, *_outer_names(node)}:
            if name:
                found.setdefault(name, []).append(node)
    return found


def _outer_names(node: Any) -> Iterator[str]:
    for attribute in node.attribute:
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from _outer_names(inner)
            for output in graph.output:
                yield output.name


def float_activations(model: Any) -> list[str]:
    """Return the float32 tensors that are no constants, in the order in which they come about."""
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    }
    constants = constants_of(model)
    names = [value.name for value in model.graph.input]
    names += [name for node in model.graph.node for name in node.output if name]
    return [name for name in names if types.get(name) == _FLOAT and name not in constants]


def fold_batch_norms(model: Any) -> int:
    """Fold each batch normalisation into the convolution before it; return how many were."""
    consumers = consumers_of(model)
    producers = {output: node for node in model.graph.node for output in node.output if output}
    outputs = {value.name for value in model.graph.output}
    constants = constants_of(model)
    folded: list[Any] = []
    for norm in list(model.graph.node):
        conv = producers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if (
            conv is None
            or conv.op_type != "Conv"
            or len([name for name in norm.output if name]) != 1
            or len(consumers[norm.input[0]]) != 1
            or norm.input[0] in outputs
            or any(name not in constants for name in (*conv.input[1:], *norm.input[1:]) if name)
        ):
            continue
        _fold(model, conv, norm, constants, consumers)
        folded.append(norm)
    for norm in folded:
        model.graph.node.remove(norm)
    return len(folded)


def _fold(
    model: Any,
    conv: Any,
    norm: Any,
    constants: dict[str, Any],
    consumers: Mapping[str, list[Any]],
) -> None:
    import numpy as np
    from onnx import numpy_helper

    weight, gain, shift, mean, variance = (
        _values(constants[name]).astype(np.float64) for name in (conv.input[1], *norm.input[1:5])
    )
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    factor = gain / np.sqrt(variance + epsilon)
    has_bias = len(conv.input) > 2 and conv.input[2]
    bias = _values(constants[conv.input[2]]).astype(np.float64) if has_bias else 0.0
    folded = {
        conv.input[1]: weight * factor.reshape(-1, *[1] * (weight.ndim - 1)),
        (conv.input[2] if has_bias else f"{conv.input[1]}_bias"): shift + (bias - mean) * factor,
    }
    names: list[str] = []
    for name, values in folded.items():
        # A name that others read keeps its values; the weight's leads to its module.
        taken = name in constants and len(consumers.get(name, ())) > 1
        own = f"{name}_of_{conv.name or conv.output[0]}" if taken else name
        tensor = numpy_helper.from_array(values.astype(np.float32), own)
        _replace_initialiser(model, tensor)
        constants[own] = tensor
        names.append(own)
    inputs = [conv.input[0], *names]
    del conv.input[:]
    conv.input.extend(inputs)
    conv.output[0] = norm.output[0]


def _replace_initialiser(model: Any, tensor: Any) -> None:
    for old in model.graph.initializer:
        if old.name == tensor.name:
            old.CopyFrom(tensor)
            return
    model.graph.initializer.append(tensor)


def _values(tensor: Any) -> np.ndarray:
    from onnx import numpy_helper

    values: np.ndarray = numpy_helper.to_array(tensor)
    return values
