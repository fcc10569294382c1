"""One's own ONNX files: checked, hashed, their free sizes chosen; no torch is needed."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
onnx = pytest.importorskip("onnx")

import model  # noqa: E402
from edgejoule.errors import UsageError  # noqa: E402
from edgejoule.inference.workload import InputSpec, LoadedModel, ModelRequest  # noqa: E402
from tests.support_models import write_onnx  # noqa: E402

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def load(path: Path, **changes: Any) -> LoadedModel:
    asked = {"weights": "pretrained", "seed": 0, "input_shape": None, "form": "onnx"} | changes
    return model.load(ModelRequest(str(path), directory=path.parent, **asked))


def add(path: Path, *shapes: Any, kind: int = FLOAT) -> Path:
    """Write a graph that adds its inputs."""
    names = [f"in{index}" for index in range(len(shapes))]
    inputs = [
        onnx.helper.make_tensor_value_info(name, kind, shape)
        for name, shape in zip(names, shapes, strict=True)
    ]
    output = onnx.helper.make_tensor_value_info("out", kind, shapes[0])
    node = onnx.helper.make_node("Sum", names, ["out"], name="sum")
    graph = onnx.helper.make_graph([node], "add", inputs, [output])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "my graph.onnx"
    write_onnx(path)
    loaded, facts = load(path), model.describe(str(path))
    assert (loaded.name, loaded.weights, loaded.onnx_path) == ("my_graph", "user", path)
    assert loaded.inputs == (InputSpec("x", (1, 3, 16, 16)),)
    assert loaded.module_paths["/features/features.0/Conv"] == "features.0"
    assert loaded.module_paths["fc"] == "head"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.source["sha256"] == facts.sha256 == digest
    assert loaded.source["opsets"] == {"ai.onnx": 17}
    assert (facts.name, facts.input_shape, facts.forms) == ("my_graph", (1, 3, 16, 16), ("onnx",))


def test_a_torch_backend_cannot_take_it(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    write_onnx(path)
    with pytest.raises(UsageError, match="cannot take; use --backend tensorrt or onnxruntime"):
        load(path, form="torch")


def test_external_data_counts_into_the_hash(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    write_onnx(path)
    onnx.save(
        onnx.load(str(path)),
        str(path),
        save_as_external_data=True,
        location="graph.data",
        size_threshold=0,
    )
    before = load(path).source["sha256"]
    both = path.read_bytes() + (tmp_path / "graph.data").read_bytes()
    assert before == hashlib.sha256(both).hexdigest()
    data = bytearray((tmp_path / "graph.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "graph.data").write_bytes(bytes(data))
    assert model.describe(str(path)).sha256 != before
    (tmp_path / "graph.data").unlink()
    with pytest.raises(UsageError, match=r"cannot read .*graph.data"):
        load(path)


def test_free_sizes_are_chosen(tmp_path: Path) -> None:
    path = add(tmp_path / "free.onnx", ["batch", 3, None], ["batch", 3, 1])
    assert model.describe(str(path)).input_shape is None
    loaded = load(path, input_shape=(4, 3, 7))
    assert [item.shape for item in loaded.inputs] == [(4, 3, 7), (4, 3, 1)]
    with pytest.raises(UsageError, match=r"batchx3x\?, with a free size; give --input-shape"):
        load(path)
    for wrong in ((4, 2, 7), (4, 3), (4, 3, 7, 1)):
        with pytest.raises(UsageError, match=r"does not fit .* is batchx3x\?"):
            load(path, input_shape=wrong)


def test_a_free_batch_is_one_and_the_same_for_all_inputs(tmp_path: Path) -> None:
    path = add(tmp_path / "batch.onnx", ["n", 3], [None, 3], ["m", 3])
    assert [item.shape for item in load(path).inputs] == [(1, 3)] * 3
    shapes = [item.shape for item in load(path, input_shape=(6, 3)).inputs]
    assert shapes == [(6, 3)] * 3
    later = add(tmp_path / "later.onnx", [1, 3], [1, "m"])
    with pytest.raises(UsageError, match=r"input 'in1' is 1xm, .*fix that size in the file"):
        load(later)


def test_a_fixed_shape_is_refused_another(tmp_path: Path) -> None:
    path = add(tmp_path / "fixed.onnx", [1, 3])
    assert load(path, input_shape=(1, 3)).inputs == (InputSpec("in0", (1, 3)),)
    with pytest.raises(UsageError, match="an input of 2x3 does not fit"):
        load(path, input_shape=(2, 3))


def test_integers_and_several_inputs(tmp_path: Path) -> None:
    path = tmp_path / "ids.onnx"
    write_onnx(path, "ids")
    assert load(path).inputs == (InputSpec("ids", (1, 6), "int64"), InputSpec("x", (1, 6, 4)))


def test_a_weight_that_is_also_an_input_is_no_input(tmp_path: Path) -> None:
    path = add(tmp_path / "default.onnx", [2], [2])
    proto = onnx.load(str(path))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "in1"))
    onnx.save(proto, str(path))
    assert [item.name for item in load(path).inputs] == ["in0"]


def test_a_graph_without_inputs(tmp_path: Path) -> None:
    value = onnx.numpy_helper.from_array(np.ones(2, np.float32))
    node = onnx.helper.make_node("Constant", [], ["out"], name="constant", value=value)
    output = onnx.helper.make_tensor_value_info("out", FLOAT, [2])
    graph = onnx.helper.make_graph([node], "none", [], [output])
    path = tmp_path / "none.onnx"
    onnx.save(onnx.helper.make_model(graph), str(path))
    assert load(path).inputs == ()
    assert model.describe(str(path)).input_shape is None
    with pytest.raises(UsageError, match="has no input; leave --input-shape away"):
        load(path, input_shape=(1,))


@pytest.mark.parametrize("content", [b"", b"no graph at all, but text", b"\x08\x08", bytes(99)])
def test_a_file_that_is_no_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    for function in (lambda: model.describe(str(path)), lambda: load(path)):
        with pytest.raises(
            UsageError, match=r"cannot be read as ONNX|holds no ONNX graph"
        ) as found:
            function()
        assert "\n" not in str(found.value)
        assert found.value.exit_code == 2


def test_a_file_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    write_onnx(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match=r"cannot be read as ONNX|is not valid ONNX"):
        load(path)


def test_an_invalid_graph(tmp_path: Path) -> None:
    path = add(tmp_path / "invalid.onnx", [2])
    proto = onnx.load(str(path))
    proto.graph.node[0].input[0] = "nowhere"
    onnx.save(proto, str(path))
    with pytest.raises(UsageError, match="is not valid ONNX") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_inputs_that_are_no_numbers_or_have_no_shape(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'in0' is not a tensor of numbers"):
        load(add(tmp_path / "text.onnx", [2], kind=onnx.TensorProto.STRING))
    with pytest.raises(UsageError, match="'in0' has no shape"):
        load(add(tmp_path / "open.onnx", None))


def test_without_the_onnx_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = add(tmp_path / "graph.onnx", [2])
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r"needs the onnx package .*pip install onnx"):
        load(path)
    request = ModelRequest("lenet", "random", 0, None, "onnx", tmp_path)
    with pytest.raises(UsageError, match="needs the onnx package"):
        model.load(request)
