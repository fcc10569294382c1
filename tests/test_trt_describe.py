"""Layers of a TensorRT engine: synthetic ones of each version, known by construction."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from edgejoule.errors import MeasurementError
from edgejoule.inference.backend import Layer
from edgejoule.inference.trt.describe import check_order, describe_engine
from edgejoule.inference.trt.origin import Origin, OriginNode, onnx_origin_of, torch_origin_of
from tests.support_inspector import (
    SMALL_FLOPS,
    SMALL_NAMES,
    SMALL_PATHS,
    SMALL_WEIGHTS,
    convolution,
    layer_name,
    small_engine,
    small_onnx,
    small_torch_graph,
    tensor,
)
from tests.test_trt_inspector import _VALUES

MODULES = ["features.0", "features.0", "pool", "block.conv", "act", "head", "head", "head"]
LINEAR = "Row major linear FP16 format"


def one(record: dict[str, Any], origin: Origin | None = None) -> Layer:
    """The only layer of an engine."""
    return describe_engine(json.dumps({"Layers": [record]}), origin=origin)[0]


def made(kind: str, inputs: list[list[int]], outputs: list[list[int]], **record: Any) -> Layer:
    """A layer with these shapes, all float16."""
    named = {
        "Name": record.pop("Name", "layer"),
        "LayerType": kind,
        "Inputs": [tensor(f"i{i}", d, "10", LINEAR) for i, d in enumerate(inputs)],
        "Outputs": [tensor(f"o{i}", d, "10", LINEAR) for i, d in enumerate(outputs)],
    }
    return one(named | record)


def origin_for(naming: str) -> Origin:
    if naming == "onnx":
        pytest.importorskip("onnx")
        return onnx_origin_of(small_onnx(), {})
    return torch_origin_of(small_torch_graph(), paths=SMALL_PATHS)


@pytest.mark.parametrize("version", ["8", "10", "11"])
@pytest.mark.parametrize("naming", ["torch", "torch2.4", "onnx"])
def test_every_layer_is_traced_to_its_module(version: str, naming: str) -> None:
    layers = describe_engine(small_engine(version, naming), origin=origin_for(naming))
    assert [layer.module_path for layer in layers] == MODULES
    assert [layer.name for layer in layers] == SMALL_NAMES[naming]
    assert [layer.index for layer in layers] == list(range(8))
    assert layers[3].modules == ("block.conv", "block", "block.relu")
    assert [layer.operation for layer in layers] == [
        "reformat", "convolution", "pooling", "convolution", "elementwise", "nothing", "dense",
        "nothing",
    ]  # fmt: skip
    assert all(not layers[i].nodes for i in (0, 5, 7))  # TensorRT's own
    assert [layer.flops for layer in layers[:4]] == list(SMALL_FLOPS[:4])
    assert [layer.weights for layer in layers] == list(SMALL_WEIGHTS)
    assert {t.dtype for layer in layers for t in (*layer.inputs, *layer.outputs)} == {"float16"}


@pytest.mark.parametrize("naming", ["torch", "onnx"])
def test_without_the_graph_names_tell_all_but_what_myelin_compiled(naming: str) -> None:
    layers = describe_engine(small_engine("10", naming))
    told = [*MODULES]
    told[4] = None  # type: ignore[call-overload]
    assert [layer.module_path for layer in layers] == told
    assert layers[4].fused == ("Max", "Min", "Cas")
    assert (layers[4].operation, layers[4].flops, layers[4].nodes) == ("fused", None, ())
    assert [layer.flops for layer in layers] == list(SMALL_FLOPS)


def test_a_lossy_path_counts_only_where_one_module_can_be_meant() -> None:
    text = small_engine("10", "torch2.4")
    assert describe_engine(text)[3].module_path == "block_conv"  # as spelt: nothing else is known
    paths = Origin({}, frozenset(SMALL_PATHS))
    assert describe_engine(text, origin=paths)[3].module_path == "block.conv"
    twice = Origin({}, frozenset({*SMALL_PATHS, "block_conv.0", "block.conv_0"}))
    assert describe_engine(text, origin=twice)[3].module_path == "block.conv"
    both = Origin({}, frozenset({"block.conv", "block.conv_", "features.0"}))
    assert describe_engine(text, origin=both)[3].module_path is None
    assert describe_engine(text, origin=both)[1].module_path == "features.0"


def test_fields_of_a_convolution() -> None:
    layer = describe_engine(small_engine("10"))[3]
    assert (layer.kernel, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
    assert (layer.dilation, layer.groups) == ((1, 1), 1)
    assert layer.tactic == "sm80_xmma_fprop_synthetic"
    assert layer.fused == ("aten.convolution.default", "aten.add.Tensor", "aten.relu.default")
    assert layer.attributes["Activation"] == "NONE"
    assert not {"Name", "LayerType", "Inputs", "Outputs"} & set(layer.attributes)
    assert layer.bytes_moved == 2 * (128 + 128 + 576 + 8)  # its input is there twice, moved once
    assert describe_engine(small_engine("10"))[2].tactic == "0x0000000000000002"
    json.dumps(layer.attributes)


def test_the_main_operation_comes_first_and_names_the_module() -> None:
    name = "[SHUFFLE]-[aten_ops.view.default]-[a/view] + [X]-[aten_ops.addmm.default]-[b/addmm]"
    layer = one({"Name": name, "LayerType": "MatrixMultiply"})
    assert layer.fused == ("aten.addmm.default", "aten.view.default")
    assert layer.nodes == ("view", "addmm")
    assert (layer.module_path, layer.modules) == ("b", ("a", "b"))


def test_uneven_padding_is_all_begins_then_all_ends() -> None:
    fields = convolution(8, 8 * 3 * 9, 3, 0) | {"PrePadding": [0, 1], "PostPadding": [1, 1]}
    layer = made("CaskConvolution", [[1, 3, 8, 8]], [[1, 8, 7, 8]], **fields)
    assert layer.padding == (0, 1, 1, 1)


def test_a_convolution_fused_with_a_pooling_counts_what_is_convolved() -> None:
    fields = {
        "ConvKernel": [7, 7], "ConvStride": [2, 2], "ConvPrePadding": [3, 3],
        "ConvPostPadding": [3, 3], "ConvDilation": [1, 1], "ConvOutMaps": 64, "ConvGroups": 1,
        "Weights": {"Type": "Half", "Count": 9408}, "PoolingWindowSize": [3, 3],
    }  # fmt: skip
    layer = made("ConvActPool", [[1, 3, 224, 224]], [[1, 64, 56, 56]], **fields)
    assert layer.flops == 2 * 64 * 112 * 112 * 147
    assert (layer.kernel, layer.stride, layer.groups) == ((7, 7), (2, 2), 1)


def test_transposed_and_grouped_convolutions() -> None:
    fields = convolution(4, 8 * 4 * 4, 2, 0) | {"Stride": [2, 2]}
    layer = made("CaskDeconvolutionV2", [[1, 8, 5, 5]], [[1, 4, 10, 10]], **fields)
    assert (layer.operation, layer.flops) == ("deconvolution", 2 * 8 * 25 * 4 * 4)
    depthwise = convolution(32, 288, 3, 1) | {"Groups": 32}
    layer = made("CudaDepthwiseConvolution", [[1, 32, 7, 7]], [[1, 32, 7, 7]], **depthwise)
    assert (layer.flops, layer.groups) == (2 * 32 * 49 * 9, 32)


def test_a_record_that_contradicts_itself_counts_nothing() -> None:
    wrong = convolution(8, 217, 3, 1)
    assert made("CaskConvolution", [[1, 3, 8, 8]], [[1, 8, 8, 8]], **wrong).flops is None
    without_batch = convolution(8, 216, 3, 1)
    assert made("CaskConvolution", [[3, 8, 8]], [[8, 8, 8]], **without_batch).flops is None
    open_ = convolution(8, 216, 3, 1)
    layer = made("CaskConvolution", [[-1, 3, 8, 8]], [[-1, 8, 8, 8]], **open_)
    assert (layer.flops, layer.bytes_moved, layer.inputs[0].shape) == (None, None, None)
    assert layer.kernel == (3, 3)


@pytest.mark.parametrize(
    ("a", "b", "out", "expected"),
    [
        ([1, 9216], [9216, 4096], [1, 4096], 2 * 9216 * 4096),
        ([1, 9216], [4096, 9216], [1, 4096], 2 * 9216 * 4096),
        ([2, 12, 50, 64], [2, 12, 64, 50], [2, 12, 50, 50], 2 * 24 * 50 * 50 * 64),
        ([2, 50, 64], [64, 192], [2, 50, 192], 2 * 100 * 192 * 64),
        ([2, 50, 64], [64, 192], [100, 192], 2 * 100 * 192 * 64),
        ([4, 5], [6, 7], [4, 7], None),
    ],
)
def test_matrix_products(a: list[int], b: list[int], out: list[int], expected: int | None) -> None:
    assert made("gemm", [a, b, [1]], [out]).flops == expected


def test_pointwise_layers_count_their_own_operations() -> None:
    clip = ["auto const var0 = pwgen::iMax(arg0, literal1);",
            "auto const var1 = pwgen::iMin(var0, literal0);"]  # fmt: skip
    assert made("PointWiseV2", [[2, 8]], [[2, 8]], Operations=clip).flops == 32
    other = [*clip, "auto const var2 = pwgen::iSigmoid(var1);"]
    assert made("PointWiseV2", [[2, 8]], [[2, 8]], Operations=other).flops is None
    added = made("ElementWise", [[2, 8], [2, 8]], [[2, 8]], Name="/block/Add")
    assert (added.flops, added.operation, added.module_path) == (16, "elementwise", "block")


def test_what_moves_counts_no_operations_and_what_does_nothing_no_bytes() -> None:
    assert made("Shuffle", [[2, 8]], [[16]]).flops == 0
    assert made("Shuffle", [[2, 8]], [[16]]).bytes_moved == 64
    assert made("NoOp", [[2, 8]], [[16]]).bytes_moved == 0
    quantised = made("Reformat", [[2, 8]], [[2, 8]], Origin="QDQ", Name="QuantizeLinear_2")
    assert (quantised.operation, quantised.flops) == ("quantise", None)
    assert made("SoftMax", [[2, 8]], [[2, 8]]).flops is None


def test_layers_of_no_known_kind_stay_unknown() -> None:
    for kind in ("signal", "wait", "shape_call", "SomethingNew", None):
        layer = one({"Name": "x", "LayerType": kind, "Inputs": [], "Outputs": []})
        assert (layer.operation, layer.module_path, layer.flops) == (None, None, None)
        assert layer.bytes_moved is None


def test_attention_kernels_and_regions() -> None:
    assert one({"Name": "_gemm_mha_v2_myl0_4", "LayerType": "kgen"}).operation == "attention"
    region = one({"Name": "{ForeignNode[/a/MatMul.../b/Add_3]}", "LayerType": "Myelin"})
    assert (region.operation, region.module_path) == ("fused", None)
    assert region.modules == ("a", "b")


def test_myelin_finds_its_node_by_its_name_where_only_one_can_be_meant() -> None:
    nodes = {n: OriginNode(n, "Gemm", "fc.1", (), True) for n in ("/fc/fc.1/Gemm",)}
    layer = one({"Name": "/fc/fc_1/Gemm_myl9_2", "LayerType": "gemm"}, Origin(nodes))
    assert (layer.module_path, layer.operation) == ("fc.1", "dense")
    nodes["/fc/fc_1/Gemm"] = OriginNode("/fc/fc_1/Gemm", "Gemm", "fc_1")
    layer = one({"Name": "/fc/fc_1/Gemm_myl9_2", "LayerType": "gemm"}, Origin(nodes))
    assert layer.module_path is None


def test_a_quantised_graph_is_traced_to_what_reads_the_pairs() -> None:
    helper = pytest.importorskip("onnx").helper
    conv = "/block/conv/Conv"
    nodes = [
        helper.make_node(kind, inputs, [out], name=name)
        for kind, inputs, out, name in (
            ("QuantizeLinear", ["x", "s"], "q", f"{conv}/input0_QuantizeLinear"),
            ("DequantizeLinear", ["q", "s"], "d", f"{conv}/input0_DequantizeLinear"),
            ("QuantizeLinear", ["w", "s"], "wq", f"{conv}/weight_QuantizeLinear"),
            ("DequantizeLinear", ["wq", "s"], "wd", f"{conv}/weight_DequantizeLinear"),
            ("MatMul", ["d", "wd"], "y", conv),
        )
    ]
    weights = [helper.make_tensor(n, 1, [1], [1.0]) for n in ("w", "s")]
    out = helper.make_tensor_value_info("y", 1, [1])
    model = helper.make_model(helper.make_graph(nodes, "g", [], [out], weights))
    origin = onnx_origin_of(model, {conv: "block.conv"})
    text = chain(
        (f"{conv}/input0_QuantizeLinear", "Reformat", ["x"], ["q"]),
        (f"w + {conv}/weight_QuantizeLinear + {conv}", "CaskGemmConvolution", ["q"], ["y"]),
    )
    layers = describe_engine(text, origin=origin)
    assert [layer.module_path for layer in layers] == ["block.conv", "block.conv"]
    assert layers[1].operation == "dense"  # its weight is prepared by the pair before it
    assert layers[1].fused[0] == "MatMul"


def chain(*rows: tuple[str, str, list[str], list[str]]) -> str:
    return json.dumps({"Layers": [
        {"Name": name, "LayerType": kind, "Inputs": [{"Name": n} for n in inputs],
         "Outputs": [{"Name": n} for n in outputs]}
        for name, kind, inputs, outputs in rows
    ]})  # fmt: skip


def triple(node: str) -> str:
    return f"[X]-[aten_ops.{node.partition('_')[0]}.default]-[{node}]"


def test_neighbours_tell_a_layer_only_where_there_is_one_way() -> None:
    def graph(**nodes: tuple[str, str, tuple[str, ...]]) -> Origin:
        return Origin({n: OriginNode(n, f"aten.{t}", p, r) for n, (t, p, r) in nodes.items()})

    text = chain(
        (triple("convolution"), "CaskConvolution", ["x"], ["a"]),
        ("__myl_Foo_myl0_0", "kgen", ["a"], ["b"]),
        (triple("convolution_1"), "CaskConvolution", ["b"], ["y"]),
    )
    first = ("convolution.default", "c0", ())
    plain = graph(
        convolution=first,
        silu=("silu.default", "act", ("convolution",)),
        convolution_1=("convolution.default", "c1", ("silu",)),
    )
    layer = describe_engine(text, origin=plain)[1]
    assert (layer.module_path, layer.nodes) == ("act", ("silu",))
    assert layer.operation == "activation"
    of_two_modules = graph(
        convolution=first,
        silu=("silu.default", "act", ("convolution",)),
        softmax=("softmax.int", "gate", ("silu",)),
        convolution_1=("convolution.default", "c1", ("softmax",)),
    )
    assert describe_engine(text, origin=of_two_modules)[1].module_path is None
    two_ways = graph(
        convolution=first,
        silu=("silu.default", "act", ("convolution",)),
        sigmoid=("sigmoid.default", "gate", ("convolution",)),
        convolution_1=("convolution.default", "c1", ("silu", "sigmoid")),
    )
    assert describe_engine(text, origin=two_ways)[1].module_path is None
    nothing_between = graph(
        convolution=first, convolution_1=("convolution.default", "c1", ("convolution",))
    )
    assert describe_engine(text, origin=nothing_between)[1].module_path is None


def test_neighbours_that_are_unknown_themselves_tell_nothing() -> None:
    text = chain(
        (triple("convolution"), "CaskConvolution", ["x"], ["a"]),
        ("__myl_Foo_myl0_0", "kgen", ["a"], ["b"]),
        ("__myl_Bar_myl0_1", "kgen", ["b"], ["c"]),
        (triple("convolution_1"), "CaskConvolution", ["c"], ["y"]),
    )
    origin = Origin({
        "convolution": OriginNode("convolution", "aten.convolution.default", "c0"),
        "silu": OriginNode("silu", "aten.silu.default", "act", ("convolution",)),
        "convolution_1": OriginNode("convolution_1", "aten.convolution.default", "c1", ("silu",)),
    })  # fmt: skip
    assert describe_engine(text, origin=origin)[2].module_path is None


def test_names_alone_still_tell_modules() -> None:
    layers = describe_engine(small_engine("10", verbosity="names"), first_index=40)
    assert [layer.index for layer in layers] == list(range(40, 48))
    assert layers[3].module_path == "block.conv"
    assert (layers[3].operation, layers[3].flops, layers[3].type) == ("convolution", None, None)
    assert describe_engine(small_engine("10", verbosity="none")) == ()


def test_the_layers_of_one_profile() -> None:
    text = small_engine("10", profiles=2)
    first, second = describe_engine(text), describe_engine(text, profile=1)
    assert [layer.module_path for layer in first] == [layer.module_path for layer in second]
    assert second[1].name == layer_name("torch", "first") + " [profile 1]"
    assert len(first) == len(second) == 8
    assert describe_engine(text, profile=2) == ()


def test_the_order_of_callbacks_is_compared_by_position() -> None:
    layers = describe_engine(small_engine("10"))
    names = SMALL_NAMES["torch"]
    assert check_order(layers, names) is None
    swapped = [names[1], names[0], *names[2:]]
    said = check_order(layers, swapped)
    assert said is not None
    assert said.startswith("callback 0 of an inference is '[CONVOLUTION]")
    assert "where the inspector has 'Reformatting" in said
    assert "the first that is missing is 'squeeze_after_" in str(check_order(layers, names[:-1]))
    assert "that it does not have is 'more'" in str(check_order(layers, [*names, "more"]))


def test_a_damaged_text_is_refused() -> None:
    with pytest.raises(MeasurementError, match="text is no JSON"):
        describe_engine("{")


@given(_VALUES)
@settings(max_examples=150, deadline=None)
def test_any_record_is_described(value: Any) -> None:
    entries = value if isinstance(value, list) else [value]
    named = [entry for entry in entries if isinstance(entry, dict | str)]
    for layer in describe_engine(json.dumps({"Layers": named})):
        assert layer.flops is None or layer.flops >= 0
        assert layer.bytes_moved is None or layer.bytes_moved >= 0
