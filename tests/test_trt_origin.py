"""The graph behind an engine: what of it is read, what conversion damages, what names mend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgejoule.inference.trt.describe import describe_engine
from edgejoule.inference.trt.names import NamedNode
from edgejoule.inference.trt.origin import Origin, OriginNode, onnx_origin_of, torch_origin_of
from tests.support_inspector import (
    SMALL_NAMES,
    SMALL_PATHS,
    small_engine,
    small_onnx,
    small_torch_graph,
)

MODULES = ["features.0", "features.0", "pool", "block.conv", "act", "head", "head", "head"]


def damaged_graph() -> object:
    """The small graph as conversion leaves it: without the innermost module of every node."""
    graph = small_torch_graph()
    for node in graph.graph.nodes:
        for key, (path, kind) in list(node.meta["nn_module_stack"].items()):
            parent = path.rpartition(".")[0]
            node.meta["nn_module_stack"] = {} if path == "" else {key: (parent, kind)}
    return graph


def test_an_fx_graph_is_read() -> None:
    origin = torch_origin_of(small_torch_graph(), paths=SMALL_PATHS)
    assert list(origin.nodes)[:2] == ["convolution", "relu"]
    assert origin.nodes["addmm"] == OriginNode(
        "addmm", "aten.addmm.default", "head", ("reshape_default",), weighted=True
    )
    assert origin.nodes["add"].reads == ("convolution_1", "max_pool2d_default")
    assert not origin.nodes["add"].weighted
    assert origin.nodes["reshape_default"].path == ""
    assert origin.outputs == {"addmm"}


def test_an_onnx_graph_is_read_from_a_file_too(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    onnx.save(small_onnx(), tmp_path / "small.onnx")
    origin = onnx_origin_of(tmp_path / "small.onnx", {"/pool/MaxPool": "given"})
    assert origin.nodes["/pool/MaxPool"].path == "given"
    assert origin.nodes["/block/Add"].reads == ("/block/conv/Conv", "/pool/MaxPool")
    assert origin.nodes["/head/Gemm"].weighted
    assert origin.outputs == {"/head/Gemm"}


def test_a_name_may_continue_a_nodes_name_but_not_lose_its_count() -> None:
    nodes = {n: OriginNode(n, "aten.add.Tensor") for n in ("add", "sdpa_7", "linear_1")}
    origin = Origin(nodes)
    for text, node in (
        ("add", "add"),
        ("add_rhs", "add"),
        ("add_7", None),  # not `add`: another one, which is not there
        ("add_7_rhs", None),
        ("sdpa_7_div_1_sqrt_q_dim_lhs", "sdpa_7"),
        ("linear_1_weight", "linear_1"),
        ("linear_weight", None),
        ("", None),
    ):
        found = origin.find(text)
        assert (found.name if found else None) == node, text


@pytest.mark.parametrize("naming", ["torch", "torch2.4"])
def test_names_mend_what_conversion_took_from_the_graph(naming: str) -> None:
    origin = torch_origin_of(damaged_graph(), paths=SMALL_PATHS)
    assert origin.nodes["convolution"].path == "features"  # the parent
    layers = describe_engine(small_engine("10", naming), origin=origin)
    told = [layer.module_path for layer in layers]
    assert told == [path if path != "act" else None for path in MODULES]


def test_the_networks_names_mend_all_of_it() -> None:
    names = [*SMALL_NAMES["torch"], "[ELEMENTWISE]-[aten_ops.clamp.default]-[act/clamp_max]"]
    origin = torch_origin_of(damaged_graph(), paths=SMALL_PATHS, names=names)
    assert origin.nodes["clamp"].path == "act"
    layers = describe_engine(small_engine("10"), origin=origin)
    assert [layer.module_path for layer in layers] == MODULES


def test_an_undamaged_graph_stays_as_it_is() -> None:
    origin = torch_origin_of(small_torch_graph(), paths=SMALL_PATHS)
    assert origin.corrected([NamedNode("relu", path="features.1")]) is origin
    assert origin.corrected([NamedNode("relu", path="features_1", lossy=True)]) is origin
    assert origin.corrected([NamedNode("unknown", path="x")]) is origin


def one_layer(name: str, kind: str, *more: str) -> str:
    layers = [{"Name": name, "LayerType": kind}, *({"Name": n} for n in more)]
    return json.dumps({"Layers": layers})


def test_what_a_converter_adds_without_a_type_serves_its_node() -> None:
    origin = torch_origin_of(small_torch_graph(), paths=SMALL_PATHS)
    for name in ("head/addmm_bias", "act/clamp_max_rhs + act/clamp_min_rhs"):
        layer = describe_engine(one_layer(name, "Constant"), origin=origin)[0]
        assert layer.module_path == name.partition("/")[0]
        assert (layer.operation, layer.nodes) == ("reformat", ())
    unknown = describe_engine(one_layer("head/other_bias", "Constant"), origin=origin)[0]
    assert (unknown.module_path, unknown.operation) == (None, "shape")


def test_a_node_in_several_layers_is_in_each_only_a_part() -> None:
    product = "[MATRIX_MULTIPLY]-[aten_ops.addmm.default]-[head/addmm_mm]"
    addition = "[ELEMENTWISE]-[aten_ops.addmm.default]-[head/addmm_add]"
    apart = describe_engine(one_layer(product, "MatrixMultiply", addition))
    assert [layer.operation for layer in apart] == ["dense", "elementwise"]
    assert [layer.module_path for layer in apart] == ["head", "head"]
    whole = describe_engine(one_layer(f"{product} + {addition}", "MatrixMultiply"))[0]
    assert (whole.operation, whole.nodes) == ("dense", ("addmm",))
