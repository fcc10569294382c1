"""Kinds and windows of layers: tables, defaults, and what PyTorch and ONNX Runtime fill in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.inference import layer_kinds
from edgejoule.inference.backend import BuildOptions, Layer, LayerKind
from edgejoule.inference.layer_kinds import Window, aten_window, combine, onnx_window, with_weights
from edgejoule.inference.onnxruntime_backend import OnnxRuntimeBackend
from edgejoule.inference.workload import InputSpec, LoadedModel

KINDS = set(get_args(LayerKind))


def test_every_table_holds_only_kinds_that_layers_may_have() -> None:
    for table in (layer_kinds.ATEN, layer_kinds.ONNX, layer_kinds.TENSORRT):
        assert set(table.values()) <= KINDS
    assert set(layer_kinds.WEIGHT) == KINDS


def test_what_no_table_has_is_unknown() -> None:
    assert layer_kinds.kind_of_aten("aten.some_new_thing.default") is None
    assert layer_kinds.kind_of_onnx("NonMaxSuppression") is None
    assert layer_kinds.kind_of_tensorrt("PluginV2") is None
    assert layer_kinds.kind_of_tensorrt(None) is None
    assert layer_kinds.kind_of_aten("aten.relu_.default") == "activation"
    assert layer_kinds.kind_of_type("Conv") == "convolution"


def test_kinds_of_what_is_fused() -> None:
    assert combine(["elementwise", "convolution", "activation"]) == "convolution"
    assert combine(["dense", "dense", None]) == "dense"
    assert combine(["dense", "convolution"]) == "fused"
    assert combine(["elementwise", "activation"]) == "fused"
    assert combine(["shape", "elementwise"]) == "elementwise"
    assert combine(["activation", None]) is None  # the unknown one may be the main one
    assert combine([]) is None
    assert with_weights("matrix_product", True) == "dense"
    assert with_weights("dense", False) == "matrix_product"
    assert with_weights("dense", None) == "dense"
    assert with_weights("pooling", True) == "pooling"


def test_aten_windows_have_the_schemas_defaults() -> None:
    weight = (8, 3, 3, 5)
    assert aten_window("aten.conv2d.default", {}, weight) == Window(
        (3, 5), (1, 1), (0, 0), (1, 1), 1
    )
    given_ = {"stride": [2], "padding": [1, 2], "dilation": 2, "groups": 3}
    assert aten_window("aten.convolution.default", given_, weight) == Window(
        (3, 5), (2, 2), (1, 2), (2, 2), 3
    )
    pool = {"kernel_size": [3]}
    assert aten_window("aten.max_pool2d.default", pool, None) == Window(
        (3, 3), (3, 3), (0, 0), (1, 1)
    )
    assert aten_window("aten.adaptive_avg_pool2d.default", {"output_size": [1, 1]}, None) == (
        Window()
    )
    assert aten_window("aten.relu.default", {}, None) == Window()


@pytest.mark.torch
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=30, deadline=None)
def test_torchs_same_is_resolved_as_torch_pads(kernel: Any, dilation: Any) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    weight = torch.randn(1, 1, *kernel)
    arguments = {"padding": "same", "dilation": list(dilation)}
    padding = aten_window("aten.conv2d.padding", arguments, tuple(weight.shape)).padding
    assert padding is not None
    both = padding * 2 if len(padding) == 2 else padding
    x = torch.randn(1, 1, 13, 12)
    asked = functional.conv2d(x, weight, padding="same", dilation=dilation)
    padded = functional.pad(x, (both[1], both[3], both[0], both[2]))
    assert torch.allclose(asked, functional.conv2d(padded, weight, dilation=dilation), atol=1e-5)


@given(
    auto=st.sampled_from(["SAME_UPPER", "SAME_LOWER"]),
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=30, deadline=None)
def test_auto_pad_is_resolved_as_onnx_computes_it(
    auto: str, size: Any, kernel: Any, stride: Any
) -> None:
    """The runtime computes with auto_pad what it computes with the pads found here."""
    ort = pytest.importorskip("onnxruntime")
    helper = pytest.importorskip("onnx").helper
    attributes = {"kernel_shape": list(kernel), "strides": list(stride), "auto_pad": auto}
    padding = onnx_window("Conv", attributes, (1, 1, *size), (1, 1, *kernel), None).padding
    assert padding is not None
    explicit = {"kernel_shape": list(kernel), "strides": list(stride),
                "pads": list(padding * 2 if len(padding) == 2 else padding)}  # fmt: skip
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((1, 1, *size)).astype(np.float32),
            "w": rng.standard_normal((1, 1, *kernel)).astype(np.float32)}  # fmt: skip
    made = []
    for given_ in (attributes, explicit):
        graph = helper.make_graph(
            [helper.make_node("Conv", ["x", "w"], ["y"], **given_)],
            "g",
            [helper.make_tensor_value_info(n, 1, list(v.shape)) for n, v in feed.items()],
            [helper.make_tensor_value_info("y", 1, None)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        session = ort.InferenceSession(model.SerializeToString())
        made.append(session.run(None, feed)[0])
    np.testing.assert_allclose(made[0], made[1], atol=1e-5)


def test_onnx_windows() -> None:
    attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    assert onnx_window("MaxPool", attributes, (1, 8, 8, 8), None, None) == Window(
        (3, 3), (2, 2), (1, 1), (1, 1)
    )
    uneven = {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1]}
    assert onnx_window("Conv", uneven, None, None, None).padding == (0, 0, 1, 1)
    assert onnx_window("Conv", {"auto_pad": "SAME_UPPER"}, None, (8, 3, 3, 3), None) == Window(
        (3, 3), (1, 1), None, (1, 1), 1
    )
    assert onnx_window("Conv", {"auto_pad": "VALID"}, None, (8, 3, 3, 3), None).padding == (0, 0)
    assert onnx_window("GlobalAveragePool", {}, (1, 8, 7, 5), None, None) == Window((7, 5))
    assert onnx_window("Relu", {}, (1, 8, 7, 5), None, None) == Window()
    back = {"auto_pad": "SAME_UPPER", "strides": [2, 2]}
    window = onnx_window("ConvTranspose", back, (1, 8, 4, 4), (8, 4, 3, 3), (1, 4, 8, 8))
    assert window.padding == (0, 0, 1, 1)  # 2 * 3 + 3 - 8 = 1 per axis, at the end
    asked = {"output_shape": [8, 8], "strides": [2, 2]}
    window = onnx_window("ConvTranspose", asked, (1, 8, 4, 4), (8, 4, 3, 3), (1, 4, 8, 8))
    assert window.padding is None


def onnx_layers(folder: Path, path: Path, shape: tuple[int, ...]) -> tuple[Layer, ...]:
    artefacts = folder / "artefacts"
    artefacts.mkdir()
    model = LoadedModel("m", "onnx", None, path, (InputSpec("x", shape),), "user", {})
    return OnnxRuntimeBackend().build(model, BuildOptions("float32", threads=1), artefacts).layers


def save(folder: Path, nodes: list[Any], weights: dict[str, np.ndarray], shape: list[int]) -> Path:
    import onnx
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def test_onnx_runtimes_layers_are_filled(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    helper = pytest.importorskip("onnx").helper
    rng = np.random.default_rng(0)

    def values(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", group=2,
                         auto_pad="SAME_LOWER", strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("MaxPool", ["r"], ["p"], name="pool", kernel_shape=[2, 2],
                         strides=[2, 2]),
        helper.make_node("Reshape", ["p", "to"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "v"], ["d"], name="product"),
        helper.make_node("Transpose", ["d"], ["t"], name="turn"),
        helper.make_node("MatMul", ["d", "t"], ["y"], name="square"),
    ]  # fmt: skip
    weights = {
        "w": values(8, 2, 3, 3), "b": values(8), "to": np.array([2, 16], np.int64),
        "v": values(16, 5),
    }  # fmt: skip
    layers = onnx_layers(tmp_path, save(tmp_path, nodes, weights, [1, 4, 8, 8]), (1, 4, 8, 8))
    by_name = {layer.name: layer for layer in layers}
    first = by_name["conv"]
    assert first.operation == "convolution"
    assert (first.kernel, first.stride, first.dilation, first.groups) == (
        (3, 3), (2, 2), (1, 1), 2,
    )  # fmt: skip
    assert first.padding == (1, 1, 0, 0)  # 3 * 2 + 3 - 8 = 1 per axis, at the begin
    assert first.weights == 8 * 2 * 9 + 8
    assert first.fused == ("Conv", "Relu")
    assert first.tactic is None
    assert by_name["pool"].operation == "pooling"
    assert (by_name["pool"].kernel, by_name["pool"].weights) == ((2, 2), 0)
    assert (by_name["flat"].operation, by_name["flat"].weights) == ("shape", 0)
    assert (by_name["product"].operation, by_name["product"].weights) == ("dense", 80)
    last = layers[-1]
    assert (last.operation, last.weights) == ("matrix_product", 0)
    json.dumps([layer.fused for layer in layers])


def test_quantised_convolutions_are_counted(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    helper = pytest.importorskip("onnx").helper
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantise"),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "s", "z", "b"], ["qc"],
                         name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("DequantizeLinear", ["qc", "s", "z"], ["y"], name="back"),
    ]  # fmt: skip
    weights = {
        "s": np.array(0.1, np.float32), "z": np.array(0, np.int8),
        "w": np.ones((8, 3, 3, 3), np.int8), "ws": np.full(8, 0.1, np.float32),
        "wz": np.zeros(8, np.int8), "b": np.zeros(8, np.int32),
    }  # fmt: skip
    layers = onnx_layers(tmp_path, save(tmp_path, nodes, weights, [1, 3, 8, 8]), (1, 3, 8, 8))
    by_name = {layer.name: layer for layer in layers}
    assert by_name["quantise"].operation == "quantise"
    conv = by_name["conv"]
    assert (conv.type, conv.operation, conv.kernel) == ("QLinearConv", "convolution", (3, 3))
    assert conv.flops == 2 * 8 * 64 * 27
    assert conv.weights == 216 + 8


@pytest.mark.torch
def test_torchs_layers_are_filled() -> None:
    torch = pytest.importorskip("torch")
    from edgejoule.inference.torch_graph import describe_layers

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
            self.up = torch.nn.ConvTranspose2d(8, 4, 2, stride=2, bias=False)
            self.same = torch.nn.Conv2d(4, 4, 2, padding="same")
            self.pool = torch.nn.MaxPool2d(2)
            self.head = torch.nn.Linear(4 * 4, 5)

        def forward(self, x: Any) -> Any:
            y = self.pool(self.same(self.up(self.conv(x))).relu())
            y = self.head(y.flatten(2))
            y = torch.nn.functional.scaled_dot_product_attention(y, y, y)
            return y @ y.transpose(1, 2)

    program = torch.export.export(Net().eval(), (torch.zeros(1, 4, 8, 8),))
    layers = describe_layers(program.module())
    by_path = {layer.module_path: layer for layer in layers if layer.module_path}
    conv = by_path["conv"]
    assert (conv.operation, conv.weights) == ("convolution", 8 * 2 * 9 + 8)
    assert (conv.kernel, conv.stride, conv.padding, conv.dilation, conv.groups) == (
        (3, 3), (2, 2), (1, 1), (1, 1), 2,
    )  # fmt: skip
    assert (conv.modules, conv.fused) == (("conv",), (conv.type,))
    assert (by_path["up"].operation, by_path["up"].kernel) == ("deconvolution", (2, 2))
    assert by_path["up"].weights == 8 * 4 * 4
    assert by_path["same"].padding == (0, 0, 1, 1)
    assert (by_path["pool"].operation, by_path["pool"].stride) == ("pooling", (2, 2))
    assert (by_path["head"].operation, by_path["head"].weights) == ("dense", 85)
    kinds = [layer.operation for layer in layers]
    assert "attention" in kinds
    assert kinds[-1] == "matrix_product"
    assert all(layer.operation for layer in layers)
