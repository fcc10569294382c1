"""Names of TensorRT layers: which nodes and modules they tell of, in every spelling."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.inference.trt.names import (
    NamedNode,
    myelin_original,
    parse_name,
    quantised_for,
    same_path,
)

CONVOLUTION = "[CONVOLUTION]-[aten_ops.convolution.default]-[{}convolution_1]"


def nodes(name: str, metadata: str = "") -> list[tuple[str, str | None, str | None]]:
    return [(n.node, n.type, n.path) for n in parse_name(name, metadata).nodes]


@pytest.mark.parametrize(
    ("scope", "path", "lossy"),
    [
        ("layer1.0.conv1/", "layer1.0.conv1", False),  # 2.5 on
        ("/", "", False),  # 2.5 on, the model itself
        ("L['self'].layer1[0].conv1/", "layer1.0.conv1", False),  # the stricter exporter
        ("/layer1/0/conv1/", "layer1.0.conv1", True),  # 2.4
        ("/features_0/0/", "features_0.0", True),  # 2.4, for features.0.0
        ("__/", "", False),  # 2.4, the model itself
        ("", None, False),  # 2.4, where it knows nothing
    ],
)
def test_both_forms_of_a_torch_path(scope: str, path: str | None, lossy: bool) -> None:
    found = parse_name(CONVOLUTION.format(scope))
    assert found.form == "torch"
    kind = "aten.convolution.default"
    assert found.nodes == (NamedNode("convolution_1", kind, path, lossy, ("CONVOLUTION",)),)


def test_a_fusion_keeps_its_order_and_one_node_stands_once() -> None:
    name = (
        "[MATRIX_MULTIPLY]-[aten_ops.addmm.default]-[classifier.1/addmm_1_mm] + "
        "classifier.1/addmm_1_constant_0 + unsqueeze_node_after_classifier.1/addmm_1_constant_0 + "
        "[ELEMENTWISE]-[aten_ops.addmm.default]-[classifier.1/addmm_1_add] + "
        "[RELU]-[aten_ops.relu.default]-[classifier.2/relu_5]"
    )
    assert nodes(name) == [
        ("addmm_1", "aten.addmm.default", "classifier.1"),
        ("relu_5", "aten.relu.default", "classifier.2"),
    ]


def test_pointwise_names_hold_one_node_behind_two_layers() -> None:
    name = (
        "PWN(/f_0/2/clamp_3_min_rhs + /f_0/2/clamp_3_min_rhs_broadcast, PWN(PWN("
        "/f_0/2/clamp_3_max_rhs, [ELEMENTWISE]-[aten_ops.clamp.default]-[/f_0/2/clamp_3_max]), "
        "[ELEMENTWISE]-[aten_ops.clamp.default]-[/f_0/2/clamp_3_min]))"
    )
    assert nodes(name) == [("clamp_3", "aten.clamp.default", "f_0.2")]


@pytest.mark.parametrize("forced", ["Forced ", ""])
def test_a_cast_is_the_node_behind_the_dash_not_the_tensor_before_it(forced: str) -> None:
    name = (
        f"{forced}Cast ITensor [RELU]-[aten_ops.relu.default]-[/a/relu_5]_output from "
        "DataType.HALF to DataType.FLOAT - "
        "[aten_ops.torch.ops.aten.clone.default]-[/classifier/3/clone_1]"
    )
    assert nodes(name) == [("clone_1", "aten.clone.default", "classifier.3")]


def test_what_tensorrt_adds_serves_what_it_names() -> None:
    served = CONVOLUTION.format("a.b/") + " + [RELU]-[aten_ops.relu.default]-[a.c/relu]"
    for prefix, role in (
        ("Reformatting CopyNode for Input Tensor 0 to ", "reformat"),
        ("Reformatting CopyNode for Output Tensor 12 to ", "reformat"),
        ("squeeze_after_", "helper"),
        ("copied_squeeze_after_", "helper"),
        ("reshape_before_", "helper"),
        ("unsqueeze_node_after_", "helper"),
        ("Reformatting CopyNode for Input Tensor 0 to copied_squeeze_after_", "reformat"),
    ):
        found = parse_name(prefix + served)
        assert (found.role, found.serves) == (role, served)
        assert [node.path for node in found.nodes] == ["a.b", "a.c"]


def test_onnx_metadata_comes_before_the_name() -> None:
    for join in ("\x1e", "\x1f", ""):
        metadata = join.join(
            f"[ONNX Layer: {n}]" for n in ("/layer1/layer1.0/conv1/Conv", "/a [b]/Relu", "plain")
        )
        assert nodes("/layer1/layer1.0/conv1/Conv + anything", metadata) == [
            ("/layer1/layer1.0/conv1/Conv", "Conv", "layer1.0.conv1"),
            ("/a [b]/Relu", "Relu", "a [b]"),
            ("plain", None, None),
        ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Conv_0 + Relu_1", [("Conv_0", "Conv", None), ("Relu_1", "Relu", None)]),
        ("node_Conv_295 || node_Conv_297",
         [("node_Conv_295", "Conv", None), ("node_Conv_297", "Conv", None)]),
        ("a||b", [("a", None, None), ("b", None, None)]),
        ("/Flatten", [("/Flatten", "Flatten", "")]),
        ("PWN(PWN(relu_1), add_1)", [("relu_1", None, None), ("add_1", None, None)]),
        ("features.0.0.weight + QuantizeLinear_7 + Conv_9 + PWN(Clip_13)",
         [("QuantizeLinear_7", "QuantizeLinear", None), ("Conv_9", "Conv", None),
          ("Clip_13", "Clip", None)]),
        ("fc.weight + QuantizeLinear_255 + Gemm_257 + fc.bias + (Unnamed Layer* 306) [Shuffle] + "
         "unsqueeze_node_after_fc.bias + (Unnamed Layer* 306) [Shuffle]_output",
         [("QuantizeLinear_255", "QuantizeLinear", None), ("Gemm_257", "Gemm", None)]),
    ],
)  # fmt: skip
def test_onnx_names_without_metadata(name: str, expected: list[tuple[str, str, str]]) -> None:
    assert nodes(name) == expected


def test_a_weight_in_a_name_tells_the_module() -> None:
    assert parse_name("layer1.0.conv1.weight + QuantizeLinear_20 + Conv_22").weights == (
        "layer1.0.conv1",
    )
    assert parse_name("fc.weight + Gemm_257 + fc.bias").weights == ("fc",)
    assert parse_name("Conv_22 + Relu_23").weights == ()


def test_foreign_nodes_tell_the_ends_of_a_region() -> None:
    found = parse_name("{ForeignNode[/a/MatMul.../b/Add_3]}")
    assert found.span
    assert [(n.node, n.path) for n in found.nodes] == [("/a/MatMul", "a"), ("/b/Add_3", "b")]
    torch = parse_name("{ForeignNode[" + CONVOLUTION.format("a/") + "..."
                       "[SHUFFLE]-[aten_ops.view.default]-[b/view]]}")  # fmt: skip
    assert torch.span
    assert [(n.node, n.path) for n in torch.nodes] == [("convolution_1", "a"), ("view", "b")]


def test_myelin_names_abbreviate_operations() -> None:
    assert parse_name("__myl_MaxMinCas_myl2_0").operations == ("Max", "Min", "Cas")
    assert parse_name("__myl_CastCastAddMaxCast_fused").operations[:3] == ("Cast", "Cast", "Add")
    assert parse_name("_gemm_mha_v2_myl0_4").operations == ("mha",)
    assert parse_name("dummy_shape_call__mye622_0_myl9_0").form == "myelin"
    told = parse_name("__myl_Res_myl9_1", "[ONNX Layer: /Flatten]")
    assert (told.form, told.operations, told.nodes[0].node) == ("onnx", ("Res",), "/Flatten")
    # The one who builds may give a layer's name as its metadata: it is read as a name is.
    given_ = parse_name("__myl_MaxMin_myl2_0", CONVOLUTION.format("act/"))
    assert (given_.form, given_.nodes[0].path) == ("torch", "act")
    assert myelin_original("/fc/Gemm_myl9_2") == "/fc/Gemm"


def test_pairs_that_quantise_belong_to_the_node_that_reads_them() -> None:
    name = "/layer1/layer1.0/conv1/Conv/weight_QuantizeLinear + /layer1/layer1.0/conv1/Conv"
    assert nodes(name) == [
        ("/layer1/layer1.0/conv1/Conv/weight_QuantizeLinear", "QuantizeLinear", "layer1.0.conv1"),
        ("/layer1/layer1.0/conv1/Conv", "Conv", "layer1.0.conv1"),
    ]
    assert nodes("/layer1/layer1.0/Add/input1_DequantizeLinear") == [
        ("/layer1/layer1.0/Add/input1_DequantizeLinear", "DequantizeLinear", "layer1.0")
    ]
    assert quantised_for("/layer1/layer1.0/Add/input1_DequantizeLinear") == "/layer1/layer1.0/Add"
    assert quantised_for("/layer1/layer1.0/Add") is None


def test_a_plugin_is_named_by_its_operator() -> None:
    assert nodes("[mylib::scale.default]-[head/scale_default]") == [
        ("scale_default", "mylib::scale.default", "head")
    ]


def test_paths_are_the_same_in_every_spelling() -> None:
    for spelling in ("features.0.conv_1", "features_0/conv_1", "/features/0/conv/1"):
        assert same_path(spelling) == "features_0_conv_1"


@given(st.text(alphabet="[]{}()_-+|/. aA0'\x1e*,", max_size=80), st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_name_is_read(name: str, metadata: str) -> None:
    found = parse_name(name, metadata)
    assert all(node.node is not None for node in found.nodes)
    assert name.endswith(found.serves)
