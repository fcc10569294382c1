"""An ONNX file as the layers that a backend would execute, without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgejoule.errors import UsageError
from edgejoule.prediction.describe import describe

onnx = pytest.importorskip("onnx")


def model(backend: str = "tensorrt", dtype: str = "float32") -> dict[str, Any]:
    """As much of a model as describing asks for."""
    configuration = {"backend": backend, "dtype": dtype, "device": "cpu", "settings": None}
    return {"configuration": configuration, "versions": ["0"], "networks": []}


def write(path: Path, batch: int | str = 1) -> Path:
    """A convolution with normalisation and Relu, a pooling, and a dense layer."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(np.full(shape, 0.1, np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["a", "s", "b", "m", "v"], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "g"], ["y"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [
            weight("w", 4, 3, 3, 3), *(weight(name, 4) for name in "sbmv"), weight("g", 4, 5),
        ],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, str(path))
    return path


def test_what_every_runtime_fuses_is_fused_and_said(tmp_path: Path) -> None:
    found = describe(write(tmp_path / "net.onnx"), model())
    assert [row["operation"] for row in found.rows] == ["convolution", "pooling", "shape", "dense"]
    convolution = found.rows[0]
    assert convolution["output_shape"] == [1, 4, 8, 8]
    assert convolution["flops"] == 2 * 4 * 64 * 27
    assert (convolution["kernel_0"], convolution["padding_0"]) == (3, 2)
    assert "really executes is said by its engine.json" in " ".join(found.notes)


def test_torch_fuses_nothing(tmp_path: Path) -> None:
    found = describe(write(tmp_path / "net.onnx"), model("torch"))
    assert len(found.rows) == 6
    assert "which torch executes apart" in " ".join(found.notes)


def test_half_precision_moves_half_the_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx")
    whole, half = describe(path, model()), describe(path, model(dtype="float16"))
    for one, other in zip(whole.rows, half.rows, strict=True):
        if one["operation"] != "shape":  # its shape operand is of whole numbers
            assert other["bytes_moved"] * 2 == one["bytes_moved"]
    assert half.rows[0]["layer_dtype"] == "float16"


def test_an_open_batch_is_one_or_what_is_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", "batch")
    assert describe(path, model()).rows[0]["batch_size"] == 1
    eight = describe(path, model(), batch=8)
    assert eight.rows[0]["output_shape"] == [8, 4, 8, 8]
    assert describe(path, model(), input_shape=[2, 3, 8, 8]).rows[0]["batch_size"] == 2
    with pytest.raises(UsageError, match="fixed at 1"):
        describe(write(tmp_path / "one.onnx"), model(), batch=8)
    with pytest.raises(UsageError, match="has 4 dimensions"):
        describe(path, model(), input_shape=[2, 3])


def test_onnxruntime_says_itself_what_it_would_execute(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    found = describe(write(tmp_path / "net.onnx"), model("onnxruntime"))
    types = [row["layer_type"] for row in found.rows]
    assert types[0] == "FusedConv"  # only the runtime's optimiser has that operator
    assert found.rows[0]["output_shape"] == [1, 4, 8, 8]
    assert f"onnxruntime {runtime.__version__} optimised the graph" in found.notes[0]
    same = describe(
        tmp_path / "net.onnx", {**model("onnxruntime"), "versions": [runtime.__version__]}
    )
    assert same.notes == []


def test_what_is_no_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(UsageError):
        describe(tmp_path / "x.onnx", model())
