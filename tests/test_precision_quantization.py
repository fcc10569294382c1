"""Explicit quantisation: where the nodes go, with which scales, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.quantization import model_hash, quantise
from edgejoule.inference.quantization_graph import fold_batch_norms, load_whole, raise_opset
from tests.support_precision import data_of, network, relative_error, run_graph
from tests.support_quantised import (
    CHANNELS,
    INT8,
    constant,
    conv,
    data,
    fed_by,
    helper,
    normal,
    numpy_helper,
    onnx,
    quantised,
    residual,
    save,
    weight,
)


def test_inputs_and_weights_are_quantised_outputs_and_biases_are_not(tmp_path: Path) -> None:
    model, facts = quantised(residual(tmp_path))
    pair = "DequantizeLinear"
    assert fed_by(model, "a") == fed_by(model, "b") == fed_by(model, "fc") == [pair, pair, "-"]
    assert fed_by(model, "relu") == ["Conv"]
    assert fed_by(model, "pool") == ["Add"]
    # Of the addition the convolution's side stays, the other is quantised.
    assert fed_by(model, "add") == ["Conv", pair]
    assert (facts["pairs"], facts["weights"], facts["residuals"]) == (7, 3, 1)
    assert facts["op_types"] == {"Conv": 2, "Gemm": 1}
    assert facts["left"] == {}
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert "a/input0_QuantizeLinear" in names
    assert "a/weight_DequantizeLinear" in names
    assert "add/input1_QuantizeLinear" in names
    first = next(node for node in model.graph.node if node.name == "a")
    assert [(p.key, p.value) for p in first.metadata_props] == [("module", "first")]


def test_scales_are_symmetric_per_tensor_and_per_output_channel(tmp_path: Path) -> None:
    source = residual(tmp_path)
    model, facts = quantised(source, calibration=normal())
    before = onnx.load(str(source))
    for name, axis in (("a", 0), ("b", 0), ("fc", 0)):
        values = constant(before, f"{name}.weight")
        scale = constant(model, f"{name}/weight_scale")
        largest = np.abs(values).reshape(len(values), -1).max(axis=1)
        np.testing.assert_allclose(scale, largest / 127, rtol=1e-6)
        node = next(n for n in model.graph.node if n.name == f"{name}/weight_QuantizeLinear")
        assert {a.name: a.i for a in node.attribute} == {"axis": axis}
    magnitudes = np.concatenate([np.abs(one["x"]).ravel() for one in normal().sets])
    bound = constant(model, "a/input0_scale") * 127
    assert np.quantile(magnitudes, 0.998) < bound <= magnitudes.max() * 1.0001
    assert constant(model, "add/input1_scale") == constant(model, "a/input0_scale")
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constant(model, node.input[2])
            assert zero.dtype == np.int8
            assert not zero.any()
    assert facts["method"] == "percentile 99.99"
    assert facts["calibration"]["sha256"] == normal().sha256
    assert facts["always_zero"] == 0


@pytest.mark.parametrize(("dtype", "most"), [("int8", 0.02), ("fp8", 0.1)])
def test_the_quantised_graph_computes_nearly_the_same(
    dtype: str, most: float, tmp_path: Path
) -> None:
    source = residual(tmp_path)
    quantised(source, dtype)
    sets = normal(6).sets[4:]
    expected = run_graph(source, sets)
    error = relative_error(run_graph(tmp_path / f"residual-{dtype}.onnx", sets), expected)
    assert 0 < error < most


def test_a_weight_on_the_right_and_transposed_convolutions(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ConvTranspose", ["x", "up.weight"], ["u"], "up"),
        helper.make_node("MatMul", ["u", "w"], ["m"], "product"),
        helper.make_node("Transpose", ["m"], ["t"], "turn", perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["m", "t"], ["y"], "attention"),
    ]
    weights = [weight("up.weight", CHANNELS, 8, 1, 1), weight("w", 6, 20)]
    model, facts = quantised(save(tmp_path / "g.onnx", nodes, weights, [1, 8, 6, 6]))
    assert constant(model, "up/weight_scale").shape == (8,)
    assert constant(model, "product/weight_scale").shape == (20,)
    assert fed_by(model, "attention") == ["MatMul", "Transpose"]
    assert facts["left"] == {"MatMul without a constant weight on its right": 1}


def test_fp8_leaves_what_tensorrt_has_no_kernels_for(tmp_path: Path) -> None:
    nodes = [
        conv("narrow", "x", "n"),
        conv("grouped", "n", "g", group=4),
        conv("wide", "g", "w"),
        conv("wider", "w", "y"),
    ]
    weights = [
        weight("narrow.weight", 16, CHANNELS, 3, 3), weight("narrow.bias", 16),
        weight("grouped.weight", 64, 4, 3, 3), weight("grouped.bias", 64),
        weight("wide.weight", 32, 64, 3, 3), weight("wide.bias", 32),
        weight("wider.weight", 48, 32, 3, 3), weight("wider.bias", 48),
    ]  # fmt: skip
    model, facts = quantised(save(tmp_path / "g.onnx", nodes, weights, [1, 48, 6, 6]), "fp8")
    assert facts["op_types"] == {"Conv": 2}
    assert facts["left"] == {"Conv, 16 channels or fewer": 1, "Conv, grouped": 1}
    assert facts["opset_raised_from"] == 17
    assert fed_by(model, "narrow") == ["-", "-", "-"]
    assert constant(model, "wide/weight_scale").shape == ()
    largest = np.abs(constant(model, "wide.weight")).max()
    assert constant(model, "wide/weight_scale") == pytest.approx(largest / 448)
    zero = next(t for t in model.graph.initializer if t.name == "edgejoule_fp8_zero")
    assert zero.data_type == onnx.TensorProto.FLOAT8E4M3FN


def test_the_rest_may_be_float16(tmp_path: Path) -> None:
    source = residual(tmp_path)
    model, facts = quantised(source, rest="float16")
    assert facts["rest"] == "float16"
    assert facts["opset_raised_from"] == 17
    assert facts["cast"]["inputs"] == {"x": "float16"}
    assert facts["cast"]["casts"] == 0
    assert constant(model, "a/weight_scale").dtype == np.float16
    sets = normal(6).sets[4:]
    half = [{"x": one["x"].astype(np.float16)} for one in sets]
    error = relative_error(
        run_graph(tmp_path / "residual-int8.onnx", half), run_graph(source, sets)
    )
    assert 0 < error < 0.1  # 0.01 with onnxruntime 1.31, 0.05 with 1.18


def test_batch_norms_are_folded_into_the_weights(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["ca"], "a", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["ca", "g", "s", "m", "v"], ["na"], "na"),
        conv("b", "na", "cb"),
        helper.make_node("BatchNormalization", ["cb", "g", "s", "m", "v"], ["nb"], "nb"),
        helper.make_node("BatchNormalization", ["nb", "g", "s", "m", "v"], ["y"], "alone"),
    ]
    weights = [
        weight("a.weight", CHANNELS, CHANNELS, 3, 3), weight("b.weight", CHANNELS, CHANNELS, 3, 3),
        weight("b.bias", CHANNELS), weight("g", CHANNELS, scale=2), weight("s", CHANNELS),
        weight("m", CHANNELS),
        numpy_helper.from_array(np.linspace(0.1, 3, CHANNELS, dtype="f"), "v"),
    ]  # fmt: skip
    source = save(tmp_path / "g.onnx", nodes, weights, [1, CHANNELS, 6, 6])
    model = load_whole(source)
    assert fold_batch_norms(model) == 2
    assert [node.name for node in model.graph.node] == ["a", "b", "alone"]
    assert list(model.graph.node[0].input) == ["x", "a.weight", "a.weight_bias"]
    onnx.save(model, str(tmp_path / "folded.onnx"))
    sets = normal(2).sets
    folded, plain = run_graph(tmp_path / "folded.onnx", sets), run_graph(source, sets)
    np.testing.assert_allclose(folded, plain, rtol=1e-3, atol=1e-4)
    assert quantised(source)[1]["folded_batch_norms"] == 2


def test_weights_in_constant_nodes_and_copies_are_found(tmp_path: Path) -> None:
    """As the older exporter of torch writes them."""
    shared = weight("shared", CHANNELS, CHANNELS, 1, 1)
    nodes = [
        helper.make_node("Constant", [], ["half"], "half", value_float=0.5),
        helper.make_node("Constant", [], ["own"], "own", value=weight("own", CHANNELS)),
        helper.make_node("Identity", ["shared"], ["copy"], "copy"),
        helper.make_node("Identity", ["copy"], ["copy again"], "copy again"),
        helper.make_node("Conv", ["x", "shared", "own"], ["a"], "a"),
        helper.make_node("Conv", ["a", "copy again", "own"], ["b"], "b"),
        helper.make_node("Mul", ["b", "half"], ["y"], "mul"),
    ]
    source = save(tmp_path / "g.onnx", nodes, [shared], [1, CHANNELS, 6, 6])
    model, facts = quantised(source)
    assert facts["op_types"] == {"Conv": 2}
    assert fed_by(model, "a") == fed_by(model, "b") == ["DequantizeLinear", "DequantizeLinear", "-"]
    np.testing.assert_array_equal(constant(model, "half"), np.float32(0.5))
    sets = normal(2).sets
    target = tmp_path / "g-int8.onnx"
    assert 0 < relative_error(run_graph(target, sets), run_graph(source, sets)) < 0.02
    assert quantised(source, runtime="onnxruntime")[1]["op_types"]["Conv"] == 2


def test_an_older_opset_is_raised_and_names_stay(tmp_path: Path) -> None:
    source = residual(tmp_path, opset=11)
    model, facts = quantised(source)
    assert facts["opset_raised_from"] == 11
    assert max(entry.version for entry in model.opset_import) == 13
    names = {node.name for node in onnx.load(str(source)).graph.node}
    assert names <= {node.name for node in model.graph.node}
    first = next(node for node in model.graph.node if node.name == "a")
    assert [p.value for p in first.metadata_props] == ["first"]


def test_an_opset_that_cannot_be_raised_is_refused(tmp_path: Path) -> None:
    model = load_whole(residual(tmp_path))
    model.graph.node.append(helper.make_node("Frobnicate", ["y"], ["z"]))
    with pytest.raises(UsageError, match="of opset 17 cannot be raised to opset 19, which quanti"):
        raise_opset(model, 19)


def test_what_was_always_zero_is_counted(tmp_path: Path) -> None:
    _, facts = quantised(residual(tmp_path), calibration=normal(scale=0.0))
    assert facts["always_zero"] == 1  # the input; everything behind it has its biases


def test_there_is_something_to_quantise(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    source = save(tmp_path / "g.onnx", nodes, [], [1, CHANNELS, 6, 6])
    with pytest.raises(UsageError, match=r"nothing in this graph can run in int8 \(no weighted o"):
        quantised(source)
    with pytest.raises(UsageError, match="nothing in this graph can run in int8 on the CPU"):
        quantised(source, runtime="onnxruntime")
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"], "own")]
    source = save(tmp_path / "g.onnx", nodes, [], [1, CHANNELS, 6, 6])
    with pytest.raises(UsageError, match="1 x MatMul without a constant weight on its right"):
        quantised(source)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    sets = [{"x": np.full((1, CHANNELS, 6, 6), 3e38, np.float32)}]
    with pytest.raises(
        MeasurementError, match=r"tensor '.*' takes values that are no finite numbe"
    ):
        quantised(residual(tmp_path), calibration=data(sets))


def test_an_input_of_another_shape_is_refused(tmp_path: Path) -> None:
    sets = [{"x": np.zeros((1, 3, 6, 6), np.float32)}]
    with pytest.raises(UsageError, match="the model raises for a calibration input"):
        quantised(residual(tmp_path), calibration=data(sets))


def test_fp8_is_not_for_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="onnxruntime's CPU has no kernels for fp8; use --dtype i"):
        quantised(residual(tmp_path), "fp8", runtime="onnxruntime")


def test_onnxruntime_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"int8 is calibrated with onnxruntime.*pip install onnxr"):
        quantised(residual(tmp_path))


def test_a_network_keeps_its_modules(tmp_path: Path) -> None:
    model = network("lenet", tmp_path / "m")
    target = tmp_path / "q.onnx"
    assert model.onnx_path is not None
    quantise(model.onnx_path, target, "int8", INT8, data_of(model), model_hash(model.onnx_path))
    nodes = {node.name: node for node in onnx.load(str(target)).graph.node}
    for node in onnx.load(str(model.onnx_path)).graph.node:
        assert list(nodes[node.name].metadata_props) == list(node.metadata_props)
        assert nodes[node.name].op_type == node.op_type
