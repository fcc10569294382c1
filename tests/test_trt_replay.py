"""Layers of a TensorRT engine alone: which can be, how they are built, launched and given back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.errors import MeasurementError
from edgejoule.inference import replay_loop
from edgejoule.inference.backend import Layer, Tensor
from edgejoule.inference.inputs import make_inputs
from edgejoule.inference.replaying import Replayable, Replayer
from edgejoule.inference.trt import ENGINE_FILE, replay
from edgejoule.inference.trt.replay_build import difference
from edgejoule.inference.trt.replay_cut import cut, load_typed
from edgejoule.inference.trt.tensorrt_backend import TensorRtBackend
from edgejoule.inference.workload import InputSpec, LoadedModel
from tests.support_cudart import FakeCuda
from tests.support_trt_builder import VERSIONS, X, flags_of, load_double, options, write_graph

onnx = pytest.importorskip("onnx")


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    (tmp_path / "artefacts").mkdir()
    monkeypatch.setattr(replay, "_GRAPH_NS", 1)  # one execution of each engine per graph
    monkeypatch.setattr(replay_loop, "LAUNCH_NS", 1)
    return FakeCuda(tmp_path, monkeypatch)


def twins() -> list[Any]:
    """Return two equal convolutions, an addition that reads both, and a pooling."""
    make = onnx.helper.make_node
    return [
        make("Conv", ["x", "conv1.weight"], ["a"], name="first", pads=[1] * 4),
        make("Conv", ["a", "conv2.weight"], ["b"], name="second", pads=[1] * 4),
        make("Conv", ["b", "conv2.weight"], ["c"], name="third", pads=[1] * 4),
        make("Add", ["b", "c"], ["d"], name="sum"),
        make("GlobalAveragePool", ["d"], ["y"], name="pool"),
    ]


def opened(tmp_path: Path, **graph: Any) -> Any:
    path = write_graph(tmp_path / "model.onnx", **graph)
    model = LoadedModel("small", "onnx", None, path, (X,), "user", {"sha256": "ab" * 32})
    TensorRtBackend().build(model, options(), tmp_path / "artefacts")
    session = TensorRtBackend().open(tmp_path / "artefacts", options())
    session.bind(make_inputs("normal", [X], None, 0, sets=2)[0])
    return session


@pytest.mark.parametrize("version", VERSIONS)
def test_each_layer_is_built_and_launched_alone(
    version: str, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = load_double(monkeypatch, version)
    session = opened(tmp_path)
    anything: object = session
    assert isinstance(anything, Replayable)
    replayer: Replayer = session.replayer()
    plan = replayer.plan()
    assert plan.groups == ((0,), (1,), (2,), (3,))
    assert not plan.left_out
    assert any("without a GPU" in note for note in plan.notes)
    built = len(flags_of(trt).BUILT)
    for group in plan.groups:
        before = cuda.alive()
        one = replayer.layer(group[0])
        launches = cuda.count("launches")
        assert one.launch() == one.facts()["executions_per_launch"] > 0
        assert cuda.count("launches") > launches
        assert one.facts()["cuda_graph"]
        one.close()
        assert cuda.alive() == before
        with pytest.raises(MeasurementError):
            one.launch()
    assert len(flags_of(trt).BUILT) == built + 4
    assert flags_of(trt).BUILT[-1]["flags"] == flags_of(trt).BUILT[built - 1]["flags"]
    replayer.layer(0).close()
    assert len(flags_of(trt).BUILT) == built + 4  # built once
    whole = replayer.whole()
    assert whole.launch() > 0
    whole.close()
    replayer.close()
    assert session.outputs(1)[0].size  # the session goes on
    session.close()
    assert cuda.alive() == {}
    assert not list((tmp_path / "artefacts").glob("replay-layer*"))


def test_equal_layers_are_one_group_and_doubling_is_refused(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_double(monkeypatch, "10.13.0")
    # The double counts tactics up; a builder gives equal layers the same one.
    monkeypatch.setattr(
        "edgejoule.inference.trt.replay.layer_of",
        lambda said: Layer(**{**vars(replay_layer(said)), "tactic": None}),
    )
    session = opened(tmp_path, nodes=twins())
    replayer = session.replayer()
    plan = replayer.plan()
    assert plan.groups == ((0,), (1, 2), (3,), (4,))
    assert plan.duplicable == ()
    with pytest.raises(MeasurementError, match="fuses and merges"):
        replayer.duplicated(1, 2)
    session.close()


def replay_layer(said: Any) -> Layer:
    from edgejoule.inference.trt.adopting import layer_of

    return layer_of(said)


def test_an_engine_from_a_file_has_no_graph_to_build_from(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_double(monkeypatch, "10.13.0")
    opened(tmp_path).close()
    other = tmp_path / "other"
    other.mkdir()
    TensorRtBackend().adopt(tmp_path / "artefacts" / ENGINE_FILE, options(), other)
    session: Any = TensorRtBackend().open(other, options())
    session.bind(make_inputs("normal", [X], None, 0, sets=1)[0])
    with pytest.raises(MeasurementError, match="without the ONNX graph"):
        session.replayer()
    session.close()


def test_copies_take_turns_where_the_network_exceeds_the_cache(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_double(monkeypatch, "10.13.0")
    monkeypatch.setattr("edgejoule.inference.trt.cuda.Cuda.l2_bytes", lambda _self, _index: 1000)
    session = opened(tmp_path)
    replayer = session.replayer()
    one = replayer.layer(2)  # reads 4 x 8 x 8 floats: 1024 bytes
    facts = one.facts()
    assert facts["copies"] > 1
    assert facts["stays_cold"]
    assert facts["copies"] * facts["cold_bytes"] > 1000
    assert one.launch() % facts["copies"] == 0
    one.close()
    session.close()
    assert cuda.alive() == {}


def test_what_tensorrt_builds_otherwise_is_refused() -> None:
    x, y = Tensor("x", (1, 4), "float16"), Tensor("y", (1, 4), "float16")
    layer = Layer(3, "conv", "CaskConvolution", (x,), (y,))
    same = Layer(0, "conv", "CaskConvolution", (Tensor("in", (1, 4), "float16"),), (y,))
    reformat = Layer(1, "reformat", "Reformat", (x,), (y,))
    assert difference(layer, [same]) == ""
    assert "2 layers (Reformat, CaskConvolution)" in difference(layer, [reformat, same])
    assert "type Reformat" in difference(layer, [reformat])
    other = Layer(0, "conv", "CaskConvolution", (Tensor("in", (1, 4), "float32"),), (y,))
    assert "inputs [('float32', (1, 4))]" in difference(layer, [other])


def test_what_is_cut_out_computes_what_the_whole_does(tmp_path: Path) -> None:
    """The weight's preparation goes along; the reference runs both."""
    from onnx.reference import ReferenceEvaluator

    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["x", "conv1.weight"], ["a"], name="first", pads=[1] * 4),
        make("Cast", ["conv2.weight"], ["half"], name="to_half", to=onnx.TensorProto.FLOAT16),
        make("Cast", ["half"], ["w"], name="back", to=onnx.TensorProto.FLOAT),
        make("Conv", ["a", "w"], ["b"], name="second", pads=[1] * 4),
        make("Relu", ["b"], ["c"], name="relu"),
        make("Add", ["c", "a"], ["y"], name="sum"),
    ]
    path = write_graph(tmp_path / "model.onnx", nodes=nodes, batch="n")
    graph, values = load_typed(path, [InputSpec("x", (2, 3, 8, 8))])
    model = cut(graph, ["second", "relu"], values)
    onnx.checker.check_model(model)
    assert [node.name for node in model.graph.node] == ["to_half", "back", "second", "relu"]
    assert [value.name for value in model.graph.input] == ["a"]
    assert [value.name for value in model.graph.output] == ["c"]
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    whole = onnx.load(str(path))
    whole.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, 1, None) for name in ("a", "c")
    )
    _, a, c = ReferenceEvaluator(whole).run(None, {"x": x})
    (found,) = ReferenceEvaluator(model).run(None, {"a": a})
    np.testing.assert_array_equal(found, c)
    with pytest.raises(MeasurementError, match="gone"):
        cut(graph, ["gone"], values)
    with pytest.raises(MeasurementError, match="constants alone"):
        cut(graph, ["back"], values)
