"""ONNX Runtime's nodes alone: which are equal, that they are what ran, that nothing else runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.errors import MeasurementError
from edgejoule.inference import onnx_replay, onnx_replay_graph, onnx_session, replay_loop
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.inputs import make_inputs
from edgejoule.inference.onnx_graph import external_files
from edgejoule.inference.onnx_replay import OnnxReplayer
from edgejoule.inference.onnxruntime_backend import OnnxRuntimeBackend
from edgejoule.inference.replaying import Replayable
from edgejoule.inference.workload import InputSpec, LoadedModel, ModelRequest
from tests.support_models import load

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

X = InputSpec("x", (1, 4, 6, 6))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call per launch, twelve nodes per call, whatever a node takes here."""
    monkeypatch.setattr(replay_loop, "LAUNCH_NS", 1)
    monkeypatch.setattr(onnx_replay, "_RUN_US", 10**9)
    monkeypatch.setattr(onnx_replay, "_LONGEST_CALL_US", 10**9)
    monkeypatch.setattr(onnx_replay, "_MOST_REPEATS", 12)


def graph(folder: Path, nodes: list[Any], *, shapes: tuple[str, ...] = ("y",)) -> LoadedModel:
    """Write a graph with weights w1, w2 (4, 4, 3, 3), bounds and an axis."""
    random = np.random.default_rng(0)
    weights = {
        name: random.standard_normal((4, 4, 3, 3)).astype(np.float32) for name in ("w1", "w2")
    }
    weights |= {"low": np.float32(-1), "high": np.float32(1), "higher": np.float32(2)}
    weights["axis"] = np.array([1], np.int64)
    made = onnx.helper.make_graph(
        nodes,
        "graph",
        [onnx.helper.make_tensor_value_info("x", 1, X.shape)],
        [onnx.helper.make_tensor_value_info(name, 1, None) for name in shapes],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(folder / "model.onnx"))
    return LoadedModel("model", "onnx", None, folder / "model.onnx", (X,), "random", {})


def opened(folder: Path, model: LoadedModel, **extra: Any) -> Any:
    artefacts = folder / "artefacts"
    artefacts.mkdir()
    options = BuildOptions("float32", threads=1, extra={"graph_optimization": "disable", **extra})
    OnnxRuntimeBackend().build(model, options, artefacts)
    session = OnnxRuntimeBackend().open(artefacts, options)
    session.bind(make_inputs("normal", model.inputs, None, 0, sets=2)[0])
    return session


def conv(x: str, w: str, y: str) -> Any:
    return onnx.helper.make_node("Conv", [x, w], [y], name=f"conv_{y}", pads=[1] * 4)


def clip(x: str, high: str, y: str) -> Any:
    return onnx.helper.make_node("Clip", [x, "low", high], [y], name=f"clip_{y}")


CHAIN = (("x", "w1", "a"), ("a", "w2", "b"))


def chain() -> list[Any]:
    """Two equal convolutions, a clip, another bound, an equal clip, a sum."""
    last = onnx.helper.make_node("Add", ["e", "a"], ["y"], name="sum")
    return [
        *(conv(*one) for one in CHAIN),
        clip("b", "high", "c"), clip("c", "higher", "d"), clip("d", "high", "e"), last,
    ]  # fmt: skip


def test_equal_is_what_does_the_same_whatever_its_weights_hold(tmp_path: Path) -> None:
    session = opened(tmp_path, graph(tmp_path, chain()))
    assert isinstance(session, Replayable)
    plan = session.replayer().plan()
    # The bounds of a clip say what it does; the values of a weight do not.
    assert plan.groups == ((0, 1), (2, 4), (3,), (5,))
    assert sorted(plan.duplicable) == [0, 1, 2, 3, 4, 5]
    assert not plan.left_out
    assert not plan.nothing


def test_a_node_alone_computes_what_it_does_in_the_network(tmp_path: Path) -> None:
    session = opened(tmp_path, graph(tmp_path, chain()))
    replayer: OnnxReplayer = session.replayer()
    seen: list[tuple[list[str], list[Any]]] = []
    checked = replayer._checked

    def spy(model: Any, feed: Any, names: Any) -> Any:
        session, returned = checked(model, feed, names)
        seen.append((list(names), returned))
        return session, returned

    replayer._checked = spy  # type: ignore[method-assign]
    whole = onnx.load(str(tmp_path / "model.onnx"))
    tensors = ["a", "b", "c", "d", "e"]
    whole.graph.output.extend(onnx.helper.make_tensor_value_info(one, 1, None) for one in tensors)
    from onnx.reference import ReferenceEvaluator

    expected = ReferenceEvaluator(whole).run([*tensors, "y"], dict(session._sets[0]))
    for index, value in enumerate(expected):
        before = {name: array.copy() for name, array in replayer._fed(index).items()}
        one = replayer.layer(index)
        names, returned = seen[-1]
        assert len(names) == one.facts()["repeats_per_call"] == 12
        assert one.launch() == len(names)
        for found in returned:
            np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5)
        # What leaves the network leaves this graph, every time; of others one is enough.
        assert len(returned) == (len(names) if index == 5 else 1)
        for name, array in replayer._fed(index).items():  # nothing is computed in place of it
            np.testing.assert_array_equal(array, before[name])
        one.close()
        with pytest.raises(MeasurementError, match="closed"):
            one.launch()
    replayer.close()


@pytest.mark.parametrize("level", ["disable", "all"])
def test_a_doubled_node_runs_in_place_and_changes_nothing(tmp_path: Path, level: str) -> None:
    session = opened(tmp_path, graph(tmp_path, chain()), graph_optimization=level)
    replayer = session.replayer()
    nodes = replayer.duplicated(0, 1).facts()["nodes_per_inference"]
    for index in replayer.plan().duplicable:
        again = replayer.duplicated(index, 4)  # order and outputs are checked by itself
        assert again.facts()["nodes_per_inference"] == nodes + 3
        assert again.launch() >= 1
        again.close()
    whole = replayer.whole()
    assert whole.launch() == whole.facts()["executions_per_launch"]
    session.close()


def test_a_doubled_network_that_returns_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(tmp_path, graph(tmp_path, chain()))
    replayer = session.replayer()
    real = onnx_replay_graph.duplicated

    def wrong(*given: Any) -> Any:
        model = real(*given)
        bound = next(one for one in model.graph.initializer if one.name == "high")
        bound.CopyFrom(onnx.numpy_helper.from_array(np.asarray(np.float32(0.5)), "high"))
        return model

    monkeypatch.setattr(onnx_replay, "duplicated", wrong)
    with pytest.raises(MeasurementError, match=r"layer 0 .*came out different"):
        replayer.duplicated(0, 2)
    monkeypatch.setattr(
        onnx_replay, "duplicated", lambda *given: real(given[0], given[1], 1, given[3])
    )
    with pytest.raises(MeasurementError, match="executed 6 nodes in place of 7"):
        replayer.duplicated(0, 2)


def test_what_comes_from_memory_is_in_as_many_copies_as_leave_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_replay, "_SHARE", 0.0)
    session = opened(tmp_path, graph(tmp_path, chain()))
    replayer = session.replayer()
    replayer._cache = 2000  # one weight takes 576 bytes, one tensor as well
    made: list[Any] = []
    real = onnx_replay_graph.alone

    def keep(*given: Any) -> Any:
        made.append(real(*given))
        return made[-1]

    monkeypatch.setattr(onnx_replay, "alone", keep)
    one = replayer.layer(1)
    facts = one.facts()
    assert facts["cold"] == ["w2"]  # the input was written just before
    assert facts["copies"] == 6  # 1.5 x 2000 / 576
    assert facts["stays_cold"]
    assert facts["repeats_per_call"] % 6 == 0
    weights = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made[-1].graph.initializer
    }
    assert sorted(weights) == ["w2", *(f"w2:copy{turn}" for turn in range(1, 6))]
    # The runtime would keep equal ones once.
    for turn in range(1, 6):
        np.testing.assert_array_equal(
            weights[f"w2:copy{turn}"].ravel(), np.roll(weights["w2"].ravel(), -turn)
        )
    assert [node.input[1] for node in made[-1].graph.node[:7]] == [
        "w2", *(f"w2:copy{turn}" for turn in range(1, 6)), "w2",
    ]  # fmt: skip
    one.close()
    first = replayer.layer(0).facts()
    assert first["cold"] == ["x", "w1"]
    assert first["copies"] == 3
    assert not replayer.layer(2).facts()["cold"]  # bounds are no data


def test_copies_that_would_tell_nothing_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_replay, "_SHARE", 1.0)
    session = opened(tmp_path, graph(tmp_path, chain()))
    replayer = session.replayer()
    replayer._cache = 2000
    facts = replayer.layer(1).facts()
    assert facts["copies"] == 1
    assert not facts["stays_cold"]
    assert "% of its time" in facts["left_warm"]


def test_control_flow_is_one_node_and_what_is_no_tensor_is_left_out(tmp_path: Path) -> None:
    branch = load(ModelRequest("branch", "random", 0, None, "onnx", tmp_path))
    session = opened(tmp_path, branch)
    replayer = session.replayer()
    types = [node.op_type for node in replayer._graph.model.graph.node]
    assert not replayer.plan().left_out
    one = replayer.layer(types.index("If"))  # its branches read a tensor from around it
    assert one.launch() > 1
    one.close()
    session.close()
    make = onnx.helper.make_node
    other = tmp_path / "other"
    other.mkdir()
    nodes = [
        make("SplitToSequence", ["x"], ["s"], name="split", axis=1),
        make("ConcatFromSequence", ["s"], ["c"], name="join", axis=1),
        make("Relu", ["c"], ["y"], name="relu"),
    ]
    session = opened(other, graph(other, nodes))
    plan = session.replayer().plan()
    assert plan.groups == ((2,),)
    assert "its output is no tensor of numbers" in plan.left_out[0]
    assert "its input s is no tensor" in plan.left_out[1]
    with pytest.raises(MeasurementError, match="layer 0 cannot be repeated alone: its output"):
        session.replayer().layer(0)


@pytest.mark.parametrize("moved", ["by the build", "by the replay pass"])
def test_weights_beside_the_graph_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: str
) -> None:
    """Graphs above 2 GB have theirs in a file; of large ones they are moved into one."""
    if moved == "by the build":
        monkeypatch.setattr(onnx_session, "_EXTERNAL_ABOVE_BYTES", 0)
    else:
        monkeypatch.setattr(onnx_replay_graph, "_MOVED_ABOVE_BYTES", 0)
        monkeypatch.setattr(onnx_replay_graph, "_MOVED_TENSOR_BYTES", 0)
    model = load(ModelRequest("conv", "random", 0, None, "onnx", tmp_path))
    session = opened(tmp_path, model)
    artefacts = tmp_path / "artefacts"
    assert (artefacts / "optimised.onnx.data").exists() == (moved == "by the build")
    replayer = session.replayer()
    assert external_files(replayer._graph.model)
    for group in replayer.plan().groups:
        replayer.layer(group[0]).close()
    replayer.duplicated(replayer.plan().duplicable[0], 2).close()
    replayer.close()
    assert not list(artefacts.glob("replay*"))
    assert not list(artefacts.glob("profile-*"))
    session.infer(0)
    session.close()


def test_a_conversion_that_the_runtime_doubles_is_seen(tmp_path: Path) -> None:
    """It gives every reader of a DequantizeLinear one of its own: the rest would not be equal."""
    make = onnx.helper.make_node
    scale = make("Constant", [], ["scale"], name="scale", value_float=0.1)
    nodes = [
        scale,
        make("QuantizeLinear", ["x", "scale"], ["q"], name="quantise"),
        make("DequantizeLinear", ["q", "scale"], ["d"], name="dequantise"),
        make("Tanh", ["d"], ["y"], name="tanh"),
    ]
    session = opened(tmp_path, graph(tmp_path, nodes))
    replayer = session.replayer()
    (tanh,) = [index for index, (_, name) in enumerate(replayer._nodes) if name == "tanh"]
    replayer.layer(tanh).close()
    with pytest.raises(MeasurementError, match="dequantise"):
        replayer.duplicated(tanh, 3)
