"""Small graphs to quantise, and what the tests ask of quantised ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.calibration_data import CalibrationData
from edgejoule.inference.inputs import InputSet, hash_inputs
from edgejoule.inference.quantization import model_hash, quantise

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402 (after the check that it is there)

FLOAT = 1  # TensorProto.FLOAT
INT8 = BuildOptions("int8", threads=1)
CHANNELS = 32


def weight(name: str, *shape: int, scale: float = 0.1) -> Any:
    random = np.random.default_rng(sum(map(ord, name)))
    return numpy_helper.from_array((random.standard_normal(shape) * scale).astype("f"), name)


def conv(name: str, source: str, target: str, **more: Any) -> Any:
    return helper.make_node(
        "Conv",
        [source, f"{name}.weight", f"{name}.bias"],
        [target],
        name,
        pads=[1, 1, 1, 1],
        **more,
    )


def save(
    path: Path,
    nodes: Sequence[Any],
    weights: Sequence[Any],
    output: Sequence[int | str],
    opset: int = 17,
    shape: Sequence[int] = (1, CHANNELS, 6, 6),
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, output)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    model.graph.node[0].metadata_props.add(key="module", value="first")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def residual(folder: Path, opset: int = 17) -> Path:
    """Two convolutions around which the input is added, then a product with a weight."""
    nodes = [
        conv("a", "x", "ca"),
        helper.make_node("Relu", ["ca"], ["ra"], "relu"),
        conv("b", "ra", "cb"),
        helper.make_node("Add", ["cb", "x"], ["s"], "add"),
        helper.make_node("GlobalAveragePool", ["s"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], "fc", transB=1),
    ]
    weights = [
        weight("a.weight", CHANNELS, CHANNELS, 3, 3), weight("a.bias", CHANNELS),
        weight("b.weight", CHANNELS, CHANNELS, 3, 3), weight("b.bias", CHANNELS),
        weight("fc.weight", 10, CHANNELS), weight("fc.bias", 10),
    ]  # fmt: skip
    return save(folder / "residual.onnx", nodes, weights, [1, 10], opset)


def normal(count: int = 4, shape: Sequence[int] = (1, CHANNELS, 6, 6), scale: float = 1.0) -> Any:
    random = np.random.default_rng(0)
    sets: list[InputSet] = [
        {"x": (random.standard_normal(shape) * scale).astype(np.float32)} for _ in range(count)
    ]
    return data(sets)


def data(sets: Sequence[InputSet]) -> CalibrationData:
    words = {"kind": "arrays", "distribution": "made here", "seed": None, "normalisation": None}
    return CalibrationData(tuple(sets), hash_inputs(sets), (("x.npy", "0" * 64),), words)


def quantised(
    source: Path, dtype: str = "int8", options: BuildOptions = INT8, **more: Any
) -> tuple[Any, dict[str, Any]]:
    target = source.with_name(f"{source.stem}-{dtype}.onnx")
    calibration = more.pop("calibration", None) or normal()
    facts = quantise(source, target, dtype, options, calibration, model_hash(source), **more)
    json.dumps(facts, allow_nan=False)
    model = onnx.load(str(target))
    if facts["runtime"] == "tensorrt":  # ONNX Runtime's quantiser leaves nodes out of order
        onnx.checker.check_model(model, full_check=True)
    return model, facts


def fed_by(model: Any, name: str) -> list[str]:
    """Return per input of a node the operator that makes it; `-` for inputs and weights."""
    makers = {out: node.op_type for node in model.graph.node for out in node.output}
    node = next(node for node in model.graph.node if node.name == name)
    return [makers.get(tensor, "-") for tensor in node.input]


def constant(model: Any, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))
