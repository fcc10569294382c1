"""Layers cut out of a graph, on a real parser and builder: every kind of node of ResNet-18."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgejoule.inference.onnx_dtype import cast_graph
from edgejoule.inference.onnx_replay_graph import Graph, Value
from edgejoule.inference.trt.build import build_plan
from edgejoule.inference.trt.library import make_log
from edgejoule.inference.trt.replay_build import allow_layouts
from edgejoule.inference.trt.replay_cut import cut, load_typed
from edgejoule.inference.workload import InputSpec, ModelRequest
from tests.support_trt_builder import options

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.contracts
INPUT = InputSpec("input", (1, 3, 64, 64))


@pytest.fixture
def log(tensorrt_rtx: Any) -> Iterator[Any]:
    gc.collect()
    yield make_log(tensorrt_rtx)
    gc.collect()


@pytest.fixture(scope="module", params=["float32", "float16"])
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Graph, dict[str, Value]]:
    import model

    folder = tmp_path_factory.mktemp("resnet")
    loaded = model.load(ModelRequest("resnet18", "random", 0, INPUT.shape, "onnx", folder))
    assert loaded.onnx_path is not None
    path = loaded.onnx_path
    if request.param != "float32":
        path = folder / "cast.onnx"
        cast_graph(loaded.onnx_path, path, request.param)
    return (request.param, *load_typed(path, [INPUT]))


def layers_of(graph: Graph) -> dict[str, list[str]]:
    """One layer of every kind: each operator alone, and a convolution with what follows it."""
    readers: dict[str, list[Any]] = {}
    for node in graph.model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: dict[str, list[str]] = {}
    for node in graph.model.graph.node:
        after = readers.get(node.output[0], [])
        if node.op_type == "Conv" and len(after) == 1:
            found.setdefault(f"Conv + {after[0].op_type}", [node.name, after[0].name])
        found.setdefault(node.op_type, [node.name])
    return found


# TensorRT-RTX 1.5 ends in an internal error of Myelin where float16 may have any layout (HWC8).
@pytest.mark.parametrize(
    ("whole", "layout"),
    [("float32", "linear"), ("float32", "any"), ("float16", "linear")],
    indirect=["whole"],
)
def test_every_kind_of_layer_builds_alone(
    tensorrt_rtx: Any,
    log: Any,
    whole: tuple[str, Graph, dict[str, Value]],
    tmp_path: Path,
    layout: str,
) -> None:
    dtype, graph, values = whole
    layers = layers_of(graph)
    for kind in ("Conv + Relu", "Add", "MaxPool", "Gemm"):
        model = cut(graph, layers[kind], values)
        onnx.checker.check_model(model)
        path = tmp_path / "layer.onnx"
        onnx.save(model, str(path))
        specs = [
            InputSpec(value.name, tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim))
            for value in model.graph.input
        ]
        built = build_plan(
            tensorrt_rtx, None, path, options(dtype), log=log, inputs=specs, say=lambda _line: None,
            adjust=None if layout == "linear" else allow_layouts,
        )  # fmt: skip
        assert built.plan, kind
        assert dtype in built.facts["network_dtypes"], kind
