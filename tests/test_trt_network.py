from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.errors import UsageError
from edgejoule.inference.trt.build import build_plan
from edgejoule.inference.trt.library import make_log
from edgejoule.inference.trt.network import check_types, parse_network
from edgejoule.inference.trt.precision import dtypes_of, dtypes_of_version, typing_of
from edgejoule.inference.workload import InputSpec
from tests.support_trt_builder import VERSIONS, X, flags_of, load_double, options, write_graph

onnx = pytest.importorskip("onnx")
NODE = onnx.helper.make_node


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return load_double(monkeypatch, request.param)


def refusal(trt: Any, graph: Path, *, inputs: Any = (X,), **extra: Any) -> str:
    """Return what a build of this graph is refused with."""
    with pytest.raises(UsageError) as refused:
        build(trt, graph, inputs=inputs, **extra)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def build(trt: Any, graph: Path, *, inputs: Any = (X,), **extra: Any) -> Any:
    log, asked = make_log(trt), options(extra=extra)
    return build_plan(trt, None, graph, asked, log=log, inputs=inputs, say=lambda _line: None)


def test_every_unsupported_operator_is_named_with_its_nodes(trt: Any, tmp_path: Path) -> None:
    nodes = [
        NODE("Frobnicate", ["x"], ["a"], name="first", domain="my.own"),
        NODE("Frobnicate", ["a"], ["b"], name="second", domain="my.own"),
        NODE("Unique", ["b"], ["y"], name="third"),
    ]
    text = refusal(trt, write_graph(tmp_path / "own.onnx", nodes=nodes))
    assert f"TensorRT {trt.__version__} cannot take {tmp_path / 'own.onnx'}: " in text
    assert "operator Frobnicate (first, second) is not supported" in text
    assert "operator Unique (third) is not supported" in text
    assert "use --backend onnxruntime" in text


def test_in_8_6_which_names_no_node_the_file_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    graph = write_graph(
        tmp_path / "own.onnx", nodes=[NODE("Zap", ["x"], ["y"], name="z", domain="my.own")]
    )
    trt = load_double(monkeypatch, "8.6.1")
    assert not hasattr(trt.ParserError, "node_name")
    assert "operator Zap (z) is not supported" in refusal(trt, graph)


def test_without_onnx_8_6_names_the_node_by_its_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    graph = write_graph(
        tmp_path / "own.onnx", nodes=[NODE("Zap", ["x"], ["y"], name="z", domain="my.own")]
    )
    trt = load_double(monkeypatch, "8.6.1")
    log, typing = make_log(trt), typing_of(trt, "float32", None)
    parser = trt.OnnxParser
    real = parser.parse_from_file

    def then_without_onnx(self: Any, model: str) -> bool:
        taken: bool = real(self, model)
        monkeypatch.setitem(sys.modules, "onnx", None)
        return taken

    monkeypatch.setattr(parser, "parse_from_file", then_without_onnx)
    with pytest.raises(UsageError, match=r"operator Zap \(node 0\) is not supported"):
        parse_network(trt, trt.Builder(log), graph, typing, log)


def test_a_node_without_its_input_is_named(trt: Any, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "g.onnx", nodes=[NODE("Relu", ["gone"], ["y"], name="relu")])
    text = refusal(trt, graph)
    assert "operator Relu (relu): Assertion failed" in text
    assert "Node input was not registered" in text
    assert "export the model again" in text


def test_many_nodes_are_counted(trt: Any, tmp_path: Path) -> None:
    names = ["x", *(f"t{n}" for n in range(6)), "y"]
    nodes = [
        NODE("Zap", [a], [b], name=f"zap{n}", domain="my.own")
        for n, (a, b) in enumerate(itertools.pairwise(names))
    ]
    text = refusal(trt, write_graph(tmp_path / "g.onnx", nodes=nodes))
    assert "operator Zap (zap0, zap1, zap2, zap3 and 3 more) is not supported" in text


def test_a_file_that_is_no_graph(trt: Any, tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"garbage" * 30)
    assert "as ONNX (Failed to parse the ONNX model.)" in refusal(trt, tmp_path / "g.onnx")
    assert "none.onnx: no such file" in refusal(trt, tmp_path / "none.onnx")


def test_weights_beside_the_file_are_found(trt: Any, tmp_path: Path) -> None:
    model = onnx.load(write_graph(tmp_path / "inside.onnx"))
    onnx.save(
        model, str(tmp_path / "g.onnx"), save_as_external_data=True, location="w", size_threshold=0
    )
    assert (tmp_path / "w").stat().st_size > 100
    assert build(trt, tmp_path / "g.onnx").plan


def test_inputs_that_do_not_fit_are_refused(trt: Any, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "g.onnx")
    text = refusal(trt, graph, inputs=[InputSpec("x", (2, 3, 8, 8))])
    assert "input 'x' of the graph is of shape [1, 3, 8, 8], asked is [2, 3, 8, 8]" in text
    assert "asked is [1, 3, 8]; give --input-shape with 4 numbers" in refusal(
        trt, graph, inputs=[InputSpec("x", (1, 3, 8))]
    )
    assert "takes the inputs ['x'], given are ['image']" in refusal(
        trt, graph, inputs=[InputSpec("image", (1, 3, 8, 8))]
    )


def test_a_dynamic_input_without_a_shape_is_refused(trt: Any, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "g.onnx", batch="n")
    text = refusal(trt, graph, inputs=[])
    assert "dynamic inputs need a shape each: give --input-shape" in text
    text = refusal(trt, graph, inputs=[InputSpec("x", (-1, 3, 8, 8))])
    assert (
        "[-1, 3, 8, 8], asked is [-1, 3, 8, 8]; give --input-shape with 4 numbers above 0" in text
    )


def test_a_dynamic_input_is_of_the_runs_shape(trt: Any, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "g.onnx", batch="n")
    four = [InputSpec("x", (4, 3, 8, 8))]
    shape = [4, 3, 8, 8]
    built = build(trt, graph, inputs=four)
    assert built.facts["profiles"] == [{"x": {"min": shape, "opt": shape, "max": shape}}]
    built = build(trt, graph, inputs=four, shape_min=[1, 3, 8, 8], shape_max=[8, 3, 8, 8])
    profile = {"x": {"min": [1, 3, 8, 8], "opt": shape, "max": [8, 3, 8, 8]}}
    assert built.facts["profiles"] == [profile]
    assert [tuple(map(int, s)) for s in flags_of(trt).BUILT[1]["profiles"][0]["x"]] == [
        (1, 3, 8, 8),
        (4, 3, 8, 8),
        (8, 3, 8, 8),
    ]
    assert not flags_of(trt).BUILT[1]["calibration_profile"]


def test_a_fixed_graph_has_no_profile(trt: Any, tmp_path: Path) -> None:
    assert build(trt, write_graph(tmp_path / "g.onnx")).facts["profiles"] == []


@pytest.mark.parametrize(
    ("batch", "extra", "message"),
    [
        (1, {"shape_min": [1, 3, 8, 8]}, "--shape-min: the graph has no dynamic input"),
        ("n", {"shape_max": [1, 3, 8]}, r"from \[4, 3, 8, 8\] to \[1, 3, 8\] do not hold"),
        ("n", {"shape_max": [2, 3, 8, 8]}, r"do not hold the run's \[4, 3, 8, 8\]"),
        ("n", {"shape_min": [1, 3, 4, 4]}, r"from \[1, 3, 4, 4\] to .* do not hold"),
        ("n", {"shape_min": {"z": [1]}}, "--shape-min: no dynamic input 'z'; it has x"),
    ],
)
def test_bounds_that_do_not_hold_the_runs_shape(
    trt: Any, tmp_path: Path, batch: Any, extra: dict[str, Any], message: str
) -> None:
    graph = write_graph(tmp_path / "g.onnx", batch=batch)
    text = refusal(
        trt, graph, inputs=[InputSpec("x", (4 if batch == "n" else 1, 3, 8, 8))], **extra
    )
    assert re.search(message, text)


def test_one_bound_does_not_serve_two_inputs(trt: Any, tmp_path: Path) -> None:
    model = onnx.load(write_graph(tmp_path / "one.onnx", batch="n"))
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, ["n", 4])
    )
    onnx.save(model, str(tmp_path / "two.onnx"))
    inputs = [InputSpec("x", (1, 3, 8, 8)), InputSpec("other", (1, 4))]
    text = refusal(trt, tmp_path / "two.onnx", inputs=inputs, shape_max=[2, 3, 8, 8])
    assert "the graph has 2 dynamic inputs (x, other)" in text
    built = build(trt, tmp_path / "two.onnx", inputs=inputs, shape_max={"x": [2, 3, 8, 8]})
    assert built.facts["profiles"][0]["x"]["max"] == [2, 3, 8, 8]
    assert built.facts["profiles"][0]["other"]["max"] == [1, 4]


def test_an_input_that_decides_shapes_is_refused(
    trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt.ITensor, "is_shape_tensor", property(lambda self: True))
    assert "decides the shapes of other tensors" in refusal(trt, write_graph(tmp_path / "g.onnx"))


def test_quantisation_that_left_nothing_quantised_is_refused(trt: Any, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "g.onnx")
    log = make_log(trt)
    network = parse_network(trt, trt.Builder(log), graph, typing_of(trt, "int8", None), log)
    check_types(network, "int8", "g.onnx", explicit=False)
    with pytest.raises(UsageError, match=r"g\.onnx: no tensor of the parsed graph is int8"):
        check_types(network, "int8", "g.onnx", explicit=True)


def test_what_a_quantize_layer_gives_is_quantised(trt: Any, tmp_path: Path) -> None:
    scale = [
        onnx.numpy_helper.from_array(np.array(value), name)
        for value, name in ((np.float32(0.5), "scale"), (np.int8(0), "zero"))
    ]
    nodes = [
        NODE("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="q"),
        NODE("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="dq"),
    ]
    model = onnx.load(write_graph(tmp_path / "g.onnx", nodes=nodes))
    model.graph.initializer.extend(scale)
    onnx.save(model, str(tmp_path / "g.onnx"))
    log, typing = make_log(trt), typing_of(trt, "int8", None)
    network = parse_network(trt, trt.Builder(log), tmp_path / "g.onnx", typing, log)
    # Weakly typed, as in 8.6, its tensor is said to be float before the build.
    said = network.definition.get_layer(0).get_output(0).dtype.name
    assert said == ("FLOAT" if trt.__version__ == "8.6.1" else "INT8")
    assert network.dtypes == {"float32": 1, "int8": 1}
    check_types(network, "int8", "g.onnx", explicit=True)
    with pytest.raises(UsageError, match="itself is quantised to int8, so it cannot run as fl"):
        check_types(network, "float32", "g.onnx", explicit=False)


def test_plugins_are_there_before_the_graph_is_parsed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nodes = [NODE("EfficientNMS_TRT", ["x"], ["y"], name="nms", domain="my.own")]
    graph = write_graph(tmp_path / "g.onnx", nodes=nodes)
    for version in VERSIONS:
        assert build(load_double(monkeypatch, version), graph).plan
    # A TensorRT that registers none parses all the same, without them.
    text = refusal(load_double(monkeypatch, "10.13.0", "init_libnvinfer_plugins"), graph)
    assert "operator EfficientNMS_TRT (nms) is not supported" in text


def test_in_8_6_the_network_is_made_with_an_explicit_batch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trt = load_double(monkeypatch, "8.6.1")
    graph = write_graph(tmp_path / "g.onnx")
    log = make_log(trt)
    parser = trt.OnnxParser(trt.Builder(log).create_network(0), log)
    assert not parser.parse_from_file(str(graph))  # the double insists as 8.6 does
    network = parse_network(trt, trt.Builder(log), graph, typing_of(trt, "float32", None), log)
    assert network.typing.kind == "weak"


@pytest.mark.parametrize(
    ("capability", "version", "dtypes"),
    [
        ((8, 7), "8.6.1", ("float16", "float32", "tf32", "int8")),
        ((8, 7), "10.3.0", ("float16", "float32", "tf32", "bfloat16", "int8")),
        ((11, 0), "10.13.0", ("float16", "float32", "tf32", "bfloat16", "int8", "fp8")),
        ((8, 9), "11.1.0", ("float16", "float32", "tf32", "bfloat16", "int8", "fp8")),
        ((7, 2), "10.3.0", ("float16", "float32", "int8")),
        ((6, 1), "8.6.1", ("float32", "int8")),
        ((5, 2), "8.6.1", ("float32",)),
    ],
)
def test_dtypes_follow_from_gpu_and_version(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    version: str,
    dtypes: tuple[str, ...],
) -> None:
    trt = load_double(monkeypatch, version)
    assert dtypes_of(capability, dtypes_of_version(trt)) == dtypes


def test_a_fall_back_decides_the_type_of_the_rest(trt: Any) -> None:
    plain, asked = typing_of(trt, "int8", None), typing_of(trt, "int8", "float16")
    assert (plain.rest, asked.rest) == ("float32", "float16")
    old = trt.__version__ == "8.6.1"
    assert plain.builder_flags == (("INT8",) if old else ())
    assert asked.builder_flags == (("INT8", "FP16") if old else ())
    assert not plain.tf32
