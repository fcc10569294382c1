"""Casts of graphs: what is cast, what stays, what is lost, on real and on random graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgejoule.errors import UsageError
from edgejoule.inference.onnx_dtype import cast_graph
from edgejoule.inference.onnx_dtype_rules import to_bfloat16
from tests.support_precision import held_out, network, relative_error, run_graph
from tests.support_quantised import helper, numpy_helper, onnx

ml_dtypes = pytest.importorskip("ml_dtypes")
# Older reference implementations have a bfloat16 of their own.
pytest.importorskip("onnx", minversion="1.19")

FLOAT, INT64, FLOAT16, BFLOAT16 = 1, 7, 10, 16
BITS = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
CODES = {"float16": FLOAT16, "bfloat16": BFLOAT16}


def value(name: str, shape: Sequence[int] | None = (2, 3, 4, 4), kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def tensor(name: str, values: Any, dtype: str = "f") -> Any:
    return numpy_helper.from_array(np.asarray(values, dtype=dtype), name)


def cast(
    folder: Path,
    nodes: Sequence[Any],
    weights: Sequence[Any] = (),
    *,
    dtype: str = "float16",
    inputs: Sequence[Any] | None = None,
    outputs: Sequence[Any] | None = None,
    opset: int = 18,
) -> tuple[Any, dict[str, Any]]:
    """Write a graph, cast it, check it, and return it with the facts."""
    graph = helper.make_graph(
        list(nodes), "g", inputs or [value("x")], outputs or [value("y", None)], list(weights)
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 10
    onnx.save(model, str(folder / "float32.onnx"))
    facts = cast_graph(folder / "float32.onnx", folder / "cast.onnx", dtype)
    made = onnx.load(str(folder / "cast.onnx"))
    onnx.checker.check_model(made, full_check=dtype == "float16")
    return made, facts


def types(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


def evaluate(path: Path, feeds: dict[str, Any]) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    return list(ReferenceEvaluator(str(path)).run(None, feeds))


@pytest.mark.parametrize("name", ["lenet", "mobilenet_v2"])
def test_networks_compute_nearly_the_same_in_float16(name: str, tmp_path: Path) -> None:
    model = network(name, tmp_path / "model")
    assert model.onnx_path is not None
    facts = cast_graph(model.onnx_path, tmp_path / "cast.onnx", "float16")
    assert set(facts["inputs"].values()) == set(facts["outputs"].values()) == {"float16"}
    assert (facts["casts"], facts["clipped"], facts["kept_float32"]) == (0, 0, {})
    made = onnx.load(str(tmp_path / "cast.onnx"))
    onnx.checker.check_model(made, full_check=True)
    before = onnx.load(str(model.onnx_path))
    assert types(made) == types(before)
    for new, old in zip(made.graph.node, before.graph.node, strict=True):
        assert (new.name, new.input, new.output) == (old.name, old.input, old.output)
        assert list(new.metadata_props) == list(old.metadata_props)
    sets = held_out(model, tmp_path / "sets", 4)
    half = [{key: array.astype(np.float16) for key, array in one.items()} for one in sets]
    expected = run_graph(model.onnx_path, sets)
    error = relative_error(run_graph(tmp_path / "cast.onnx", half, "ENABLE_BASIC"), expected)
    assert 0 < error < 0.003


def test_a_network_computes_nearly_the_same_in_bfloat16(tmp_path: Path) -> None:
    model = network("lenet", tmp_path / "model")
    assert model.onnx_path is not None
    facts = cast_graph(model.onnx_path, tmp_path / "cast.onnx", "bfloat16")
    assert facts["inputs"] == {"input": "bfloat16"}
    assert facts["beyond_schema"] == ["AveragePool", "Conv"]  # in ONNX from opset 22 on
    one = held_out(model, tmp_path / "sets", 1)[0]
    found = evaluate(
        tmp_path / "cast.onnx", {k: v.astype(BITS["bfloat16"]) for k, v in one.items()}
    )
    expected = run_graph(model.onnx_path, [one])
    assert 0 < relative_error([found[0].astype(np.float64)], expected) < 0.03


def test_scales_of_a_resize_stay_float32_as_they_were(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("Resize", ["r", "", "scales"], ["y"], "resize", mode="nearest"),
    ]
    scales = tensor("scales", [1, 1, 1.1, 1.1])
    made, facts = cast(tmp_path, nodes, [scales])
    assert types(made) == ["Relu", "Resize"]
    kept = next(t for t in made.graph.initializer)
    assert numpy_helper.to_array(kept).tolist() == numpy_helper.to_array(scales).tolist()
    assert made.graph.node[1].input[2] == kept.name
    assert len(made.graph.initializer) == 1
    assert facts["outputs"] == {"y": "float16"}


def test_an_operator_that_takes_no_half_stays_between_casts(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["limit"], "limit", keepdims=0),
        helper.make_node("Range", ["zero", "limit", "one"], ["count"], "range"),
        helper.make_node("Mul", ["count", "two"], ["y"], "mul"),
    ]
    weights = [tensor("zero", 0.0), tensor("one", 1.0), tensor("two", 2.0)]
    made, facts = cast(tmp_path, nodes, weights)
    assert types(made) == ["ReduceMax", "Cast", "Range", "Cast", "Mul"]
    assert facts["kept_float32"] == {"Range": 1}
    assert facts["casts"] == 2
    x = np.full((2, 3, 4, 4), 3.5)
    found = evaluate(tmp_path / "cast.onnx", {"x": x.astype(np.float16)})[0]
    assert found.dtype == np.float16
    assert found.tolist() == [0, 2, 4, 6]


def test_operators_without_bfloat16_in_tensorrt_stay(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mish", ["x"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    assert types(cast(tmp_path, nodes)[0]) == ["Mish", "Relu"]
    made, facts = cast(tmp_path, nodes, dtype="bfloat16")
    assert types(made) == ["Cast", "Mish", "Cast", "Relu"]
    assert facts["kept_float32"] == {"Mish": 1}


def test_casts_and_constants_follow(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Cast", ["s"], ["sf"], to=FLOAT),
        helper.make_node("Constant", [], ["c"], value=tensor("c", [1e6, 1.0, 0.5, -1e6])),
        helper.make_node("Constant", [], ["d"], value_float=2.0),
        helper.make_node("Constant", [], ["e"], value_floats=[1.0, 2.0, 3.0, 4.0]),
        helper.make_node("ConstantOfShape", ["s"], ["zeros"]),
        helper.make_node("ConstantOfShape", ["s"], ["i"], value=tensor("v", [3], "int64")),
        helper.make_node("Cast", ["i"], ["if"], to=FLOAT),
        helper.make_node("RandomUniform", [], ["u"], shape=[4]),
        helper.make_node("EyeLike", ["n"], ["eye"], dtype=FLOAT),
        helper.make_node("MatMul", ["eye", "e"], ["me"]),
        helper.make_node("Sum", ["x", "sf", "c", "d", "me", "zeros", "if", "u"], ["y"]),
    ]
    weights = [tensor("n", np.zeros((4, 4)), "int64")]
    made, facts = cast(tmp_path, nodes, weights)
    assert types(made) == [node.op_type for node in nodes]
    assert (facts["clipped"], facts["casts"]) == (2, 0)
    assert facts["outputs"] == {"y": "float16"}
    found = evaluate(tmp_path / "cast.onnx", {"x": np.zeros((2, 3, 4, 4), np.float16)})[0]
    assert found.dtype == np.float16
    assert np.isfinite(found[..., 1:3]).all()


def test_both_branches_and_loops_are_cast(tmp_path: Path) -> None:
    inner = "r"  # of the graph around

    def branch(name: str, node: Any) -> Any:
        return helper.make_graph([node], name, [], [value(node.output[0])])

    then = branch("then", helper.make_node("Add", [inner, "bias"], ["t"]))
    other = branch("else", helper.make_node("Mish", [inner], ["e"]))
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["keep"], ["keep_out"]),
            helper.make_node("Mul", ["state", "bias"], ["state_out"]),
        ],
        "body",
        [value("i", [], INT64), value("keep", [], 9), value("state")],
        [value("keep_out", [], 9), value("state_out")],
    )
    nodes = [
        helper.make_node("Relu", ["x"], [inner]),
        helper.make_node("If", ["yes"], ["chosen"], then_branch=then, else_branch=other),
        helper.make_node("Loop", ["three", "yes", "chosen"], ["y"], body=body),
    ]
    weights = [tensor("yes", True, "bool"), tensor("three", 3, "int64"), tensor("bias", 2.0)]
    x = np.full((2, 3, 4, 4), 1.5)
    for dtype, target in BITS.items():
        made, facts = cast(tmp_path, nodes, weights, dtype=dtype, outputs=[value("y")])
        assert facts["outputs"] == {"y": dtype}
        found = evaluate(tmp_path / "cast.onnx", {"x": x.astype(target)})[0]
        assert found.dtype == target
        assert (found.astype(np.float32) == (1.5 + 2) * 8).all()
        attributes = {a.name: a.g for node in made.graph.node for a in node.attribute if a.g.node}
        mish = [node.op_type for node in attributes["else_branch"].node]
        # Whatever a branch computes in, both return the same type.
        assert mish == (["Mish"] if dtype == "float16" else ["Cast", "Mish", "Cast"])
        declared = {o.type.tensor_type.elem_type for g in attributes.values() for o in g.output}
        assert declared <= {CODES[dtype], 9}


def test_what_is_lost_is_counted(tmp_path: Path) -> None:
    weights = [tensor("w", [1e-9, -1e-9, 0, 1e5, -np.inf, np.inf, np.nan, 1])]
    node = [helper.make_node("Add", ["x", "w"], ["y"])]
    made, facts = cast(tmp_path, node, weights, inputs=[value("x", [8])])
    assert (facts["constants"], facts["clipped"], facts["flushed"]) == (1, 1, 2)
    found = numpy_helper.to_array(made.graph.initializer[0]).tolist()
    assert found[:6] == [0, 0, 0, 65504, -np.inf, np.inf]
    assert np.isnan(found[6])
    made, facts = cast(tmp_path, node, weights, inputs=[value("x", [8])], dtype="bfloat16")
    assert (facts["clipped"], facts["flushed"]) == (0, 0)
    found = numpy_helper.to_array(made.graph.initializer[0]).astype(np.float32).tolist()
    assert found[4:6] == [-np.inf, np.inf]
    assert np.isnan(found[6])
    assert found[0] == pytest.approx(1e-9, rel=0.01)


def test_a_scale_never_becomes_zero(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    weights = [tensor("scale", 1e-9), tensor("zero", 0, "int8")]
    made, _ = cast(tmp_path, nodes, weights, opset=19)
    scale = next(t for t in made.graph.initializer if t.name == "scale")
    assert numpy_helper.to_array(scale) == np.float16(2.0**-24)
    made, facts = cast(tmp_path, nodes, weights, opset=13)  # takes float32 alone
    assert types(made) == ["Cast", "QuantizeLinear", "DequantizeLinear"]
    assert facts["outputs"] == {"y": "float32"}


def test_an_operator_that_onnx_does_not_know_stays_float32(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Plugin", ["r", "w"], ["p"], "plugin", domain="own"),
        helper.make_node("Relu", ["p"], ["y"]),
    ]
    weights = [tensor("w", [0.1])]
    with pytest.raises(UsageError) as caught:
        cast(tmp_path, nodes, weights)
    assert "the type of tensor 'p' of Plugin 'plugin' is not known" in str(caught.value)
    assert "note it in the graph's value_info" in str(caught.value)
    graph = helper.make_graph(
        nodes, "g", [value("x")], [value("y", None)], weights, value_info=[value("p")]
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "a.onnx")
    facts = cast_graph(tmp_path / "a.onnx", tmp_path / "b.onnx", "float16")
    made = onnx.load(tmp_path / "b.onnx")
    assert types(made) == ["Relu", "Cast", "Plugin", "Cast", "Relu"]
    assert facts["kept_float32"] == {"Plugin": 1}
    kept = next(t for t in made.graph.initializer if t.name == made.graph.node[2].input[1])
    assert numpy_helper.to_array(kept).tolist() == [np.float32(0.1)]


def test_sequences_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"], "pair"),
        helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0),
    ]
    with pytest.raises(UsageError, match="SequenceConstruct 'pair' works on sequences, which are"):
        cast(tmp_path, nodes)


def test_weights_beside_the_graph_come_along(tmp_path: Path) -> None:
    weight = tensor("w", np.random.default_rng(0).standard_normal((4, 300)))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x")],
        [value("y", None)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    source = tmp_path / "big.onnx"
    onnx.save(model, source, save_as_external_data=True, location="w.bin", size_threshold=0)
    cast_graph(source, tmp_path / "half.onnx", "float16")
    (tmp_path / "w.bin").unlink()
    made = onnx.load(tmp_path / "half.onnx")
    expected = numpy_helper.to_array(weight).astype(np.float16)
    np.testing.assert_array_equal(numpy_helper.to_array(made.graph.initializer[0]), expected)
    with pytest.raises(UsageError, match="its weights cannot be read"):
        cast_graph(source, tmp_path / "half.onnx", "float16")


@given(arrays.arrays(np.float32, 7, elements=st.floats(width=32)))
def test_bfloat16_is_rounded_as_others_do(values: np.ndarray) -> None:
    found = to_bfloat16(values).view(BITS["bfloat16"])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(BITS["bfloat16"])
    np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))


UNARY = ("Relu", "Tanh", "Sigmoid", "Abs", "Neg", "Softplus", "Identity", "Floor", "Mish")
BINARY = ("Add", "Sub", "Mul", "Max", "Min", "Where", "Cast", "Shape", "Clip", "Compare")


@settings(max_examples=40)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(UNARY + BINARY), st.integers(0, 9), st.integers(0, 9)),
        min_size=1,
        max_size=8,
    ),
    dtype=st.sampled_from(sorted(BITS)),
)
def test_random_graphs_compute_nearly_the_same(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]], dtype: str
) -> None:
    """Each step takes tensors that there are, floats always; the last one is returned."""
    folder = tmp_path_factory.mktemp("random")
    tensors, nodes = ["x", "c"], []
    for index, (step, one, two) in enumerate(steps):
        a, b = tensors[one % len(tensors)], tensors[two % len(tensors)]
        out = f"t{index}"
        made = {
            "Where": [
                ("Greater", [a, b], [f"g{index}"], {}),
                ("Where", [f"g{index}", a, b], [out], {}),
            ],
            "Compare": [
                ("Less", [a, b], [f"l{index}"], {}),
                ("Cast", [f"l{index}"], [out], {"to": 1}),
            ],
            "Cast": [
                ("Cast", [a], [f"i{index}"], {"to": INT64}),
                ("Cast", [f"i{index}"], [out], {"to": 1}),
            ],
            "Shape": [("Shape", [a], [f"s{index}"], {}), ("Expand", [b, f"s{index}"], [out], {})],
            "Clip": [("Clip", [a, "low", "high"], [out], {})],
        }.get(step, [(step, [a] if step in UNARY else [a, b], [out], {})])
        nodes += [helper.make_node(op, ins, outs, **more) for op, ins, outs, more in made]
        tensors.append(out)
    weights = [tensor("c", np.full((2, 3), 0.5)), tensor("low", -1.0), tensor("high", 1.0)]
    made, facts = cast(
        folder, nodes, weights, dtype=dtype, inputs=[value("x", [2, 3])],
        outputs=[value(tensors[-1], [2, 3])],
    )  # fmt: skip
    # Eighths, so that rounding does not decide which way a comparison goes.
    x = (np.arange(6).reshape(2, 3) - 2) / 8
    expected = evaluate(folder / "float32.onnx", {"x": x.astype(np.float32)})[0]
    found = evaluate(folder / "cast.onnx", {"x": x.astype(BITS[dtype])})[0]
    assert str(found.dtype) == facts["outputs"][tensors[-1]]
    assert Counter(types(made)) - Counter({"Cast": 99}) == Counter(
        node.op_type for node in nodes if node.op_type != "Cast"
    )
    if not any(step in ("Where", "Compare", "Cast", "Floor") for step, _, _ in steps):
        close = np.abs(found.astype(np.float64) - expected) <= 0.05 * (1 + np.abs(expected))
        assert close.all()
