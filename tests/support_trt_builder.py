"""The double of TensorRT in a version of one's choice, and small graphs for its builder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.workload import InputSpec

DOUBLES = Path(__file__).with_name("doubles")
VERSIONS = ("8.6.1", "10.3.0", "10.13.0", "11.1.0")
X = InputSpec("x", (1, 3, 8, 8))


def load_double(monkeypatch: pytest.MonkeyPatch, version: str, without: str = "") -> Any:
    """Return the module `tensorrt` as a version of it, with a builder that is asked for nothing.

    Child processes of the test find the same.
    """
    monkeypatch.setenv("EDGEJOULE_TENSORRT_DOUBLE", version)
    monkeypatch.setenv("EDGEJOULE_TENSORRT_DOUBLE_WITHOUT", without)
    monkeypatch.setenv("PYTHONPATH", str(DOUBLES))
    monkeypatch.syspath_prepend(str(DOUBLES))
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt"]:
        monkeypatch.delitem(sys.modules, name)
    trt = importlib.import_module("tensorrt")
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt"]:
        # So that they go with the test: registered as absent before, present now.
        module = sys.modules.pop(name)
        monkeypatch.setitem(sys.modules, name, module)
    return trt


def flags_of(trt: Any) -> Any:
    """Return the double's module with `BEHAVIOUR` and `BUILT`."""
    return sys.modules[f"{trt.__name__}._flags"]


def options(dtype: str = "float32", **more: Any) -> BuildOptions:
    return BuildOptions(dtype=dtype, device="cuda:0", **more)


def write_graph(path: Path, *, batch: int | str = 1, nodes: Any = None, dtype: Any = None) -> Path:
    """Write a graph: convolution, activation, convolution, pooling; or other nodes in its place."""
    onnx = pytest.importorskip("onnx")
    import numpy as np

    helper, types = onnx.helper, onnx.TensorProto
    kind = types.FLOAT if dtype is None else dtype
    numpy_type = onnx.helper.tensor_dtype_to_np_dtype(kind)
    random = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(random.normal(size=size).astype(numpy_type), name)
        for name, size in (("conv1.weight", (4, 3, 3, 3)), ("conv2.weight", (4, 4, 3, 3)))
    ]
    if nodes is None:
        nodes = [
            helper.make_node(
                "Conv", ["x", "conv1.weight"], ["a"], name="/conv1/Conv", pads=[1] * 4
            ),
            helper.make_node("Relu", ["a"], ["b"], name="/relu/Relu"),
            helper.make_node(
                "Conv", ["b", "conv2.weight"], ["c"], name="/conv2/Conv", pads=[1] * 4
            ),
            helper.make_node("GlobalAveragePool", ["c"], ["y"], name="/pool/GlobalAveragePool"),
        ]
    value = helper.make_tensor_value_info("x", kind, [batch, 3, 8, 8])
    output = helper.make_tensor_value_info("y", kind, None)
    graph = helper.make_graph(nodes, "graph", [value], [output], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.own", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    onnx.save(model, str(path))
    return path
