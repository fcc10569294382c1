"""ONNX Runtime: what is built, described, run, profiled, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference import onnx_graph, onnx_origin, onnx_session, onnxruntime_backend
from edgejoule.inference.backend import BuildOptions, EngineDescription
from edgejoule.inference.inputs import make_inputs
from edgejoule.inference.onnx_profile import NodeTime, ProfiledRun, place_runs, read_runs
from edgejoule.inference.onnxruntime_backend import OnnxRuntimeBackend
from edgejoule.inference.workload import InputSpec, LoadedModel, ModelRequest
from edgejoule.records import NULL_NS
from tests.support_models import load, write_onnx

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

BACKEND = OnnxRuntimeBackend()


def loaded(folder: Path, spec: str, shape: tuple[int, ...] | None = None) -> LoadedModel:
    return load(ModelRequest(spec, "random", 0, shape, "onnx", folder))


def build(
    folder: Path, spec: str = "conv", shape: tuple[int, ...] | None = None, **extra: Any
) -> tuple[EngineDescription, Path, BuildOptions]:
    artefacts = folder / "artefacts"
    artefacts.mkdir()
    options = BuildOptions("float32", threads=1, extra=extra)
    return BACKEND.build(loaded(folder, spec, shape), options, artefacts), artefacts, options


def run_reference(path: Path, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What an implementation that shares no code with the runtime makes of the model."""
    from onnx.reference import ReferenceEvaluator

    return list(ReferenceEvaluator(str(path)).run(None, feed))


def test_the_layers_are_what_is_executed_in_order(tmp_path: Path) -> None:
    engine, _, _ = build(tmp_path)
    assert [layer.type for layer in engine.layers] == [
        "FusedConv", "MaxPool", "Conv", "Add", "Sigmoid", "GlobalAveragePool", "Flatten", "Gemm",
    ]  # fmt: skip
    assert [layer.index for layer in engine.layers] == list(range(8))
    assert [layer.module_path for layer in engine.layers[:4]] == ["features.0", None, "block", None]
    assert engine.layers[7].module_path == "head"
    first = engine.layers[0]
    assert first.nodes == ("/features/features.0/Conv", "relu")  # both behind the fused one
    assert [(t.name, t.shape, t.dtype) for t in first.inputs] == [("x", (1, 3, 16, 16), "float32")]
    assert first.outputs[0].shape == (1, 8, 16, 16)
    assert first.attributes["kernel_shape"] == [3, 3]
    assert first.attributes["activation"] == "Relu"
    assert engine.start_offsets
    assert engine.settings["graph_optimization"] == "extended"
    json.dumps(engine.to_json(), allow_nan=False)


def test_operations_and_bytes_follow_from_the_shapes(tmp_path: Path) -> None:
    layers = build(tmp_path)[0].layers
    assert layers[0].flops == 2 * (8 * 16 * 16) * (3 * 3 * 3)
    assert layers[0].bytes_moved == 4 * (3 * 256 + 8 * 256 + 8 * 27 + 8)
    assert layers[1].flops == (8 * 8 * 8) * 4
    assert layers[2].flops == 2 * (8 * 8 * 8) * (8 * 3 * 3)
    assert layers[3].flops == 8 * 8 * 8
    assert layers[4].flops is None  # a sigmoid has no fixed count
    assert layers[4].bytes_moved == 2 * 4 * 8 * 8 * 8
    assert layers[5].flops == 8 * 8 * 8
    assert layers[6].flops == 0
    assert layers[7].flops == 2 * 10 * 8


@pytest.mark.parametrize("level", ["disable", "basic", "extended", "all"])
def test_every_level_computes_the_same_and_keeps_the_convolutions_modules(
    tmp_path: Path, level: str
) -> None:
    engine, artefacts, options = build(tmp_path, graph_optimization=level)
    modules = [layer.module_path for layer in engine.layers if "Conv" in str(layer.type)]
    assert modules == ["features.0", "block"]
    session = BACKEND.open(artefacts, options)
    sets, _ = make_inputs("normal", (InputSpec("x", (1, 3, 16, 16)),), None, 0)
    session.bind(sets)
    for which in (0, 3):
        session.infer(which)
        (output,) = session.outputs(which)
        (expected,) = run_reference(tmp_path / "conv.onnx", sets[which])
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    session.close()


def profile(
    artefacts: Path, options: BuildOptions, specs: tuple[InputSpec, ...], runs: int
) -> tuple[Any, list[tuple[int, int]], Any]:
    import time

    session = BACKEND.open(artefacts, options)
    sets, _ = make_inputs("normal", specs, None, 0)
    session.bind(sets)
    profiler = session.profiler()
    profiler.start(runs)
    spans = []
    for index in range(runs):
        start = time.monotonic_ns()
        profiler.infer(index % 4)
        spans.append((start, time.monotonic_ns()))
    times = profiler.harvest(spans)
    profiler.close()
    return times, spans, session


def test_layer_times_lie_within_their_inferences_and_do_not_overlap(tmp_path: Path) -> None:
    engine, artefacts, options = build(tmp_path)
    times, spans, session = profile(artefacts, options, (InputSpec("x", (1, 3, 16, 16)),), 25)
    assert times.inferences == 25  # the warm-up of the chunk's own session is not counted
    assert len(times.layer) == 25 * len(engine.layers)
    offsets = times.start_offset_ns.reshape(25, -1)
    ends = offsets + times.duration_ns.reshape(25, -1)
    lengths = np.array([end - start for start, end in spans])
    assert (times.layer.reshape(25, -1) == np.arange(len(engine.layers))).all()
    assert (offsets >= 0).all()
    assert (ends <= lengths[:, None]).all()
    assert (ends[:, :-1] <= offsets[:, 1:]).all()
    assert (times.duration_ns % 1000 == 0).all()  # as the runtime gives them
    assert sum(session.settings()["profiler_clock"].values()) == 1
    assert not list(artefacts.glob("profile-*"))
    session.infer(0)  # usable again after its memory was given to the profiler
    assert session.outputs(1)
    session.close()


def test_control_flow_is_one_layer(tmp_path: Path) -> None:
    engine, artefacts, options = build(tmp_path, "branch")
    assert "If" in [layer.type for layer in engine.layers]
    assert {"neg", "exp"}.isdisjoint(layer.name for layer in engine.layers)
    times, _, _ = profile(artefacts, options, (InputSpec("x", (1, 3, 16, 16)),), 5)
    assert (times.inferences, len(times.layer)) == (5, 5 * len(engine.layers))


def test_integer_inputs_and_several_of_them(tmp_path: Path) -> None:
    _, artefacts, options = build(tmp_path, "ids")
    specs = (InputSpec("ids", (1, 6), "int64", high=11), InputSpec("x", (1, 6, 4)))
    session = BACKEND.open(artefacts, options)
    sets, _ = make_inputs("normal", specs, None, 0)
    session.bind(sets)
    (expected,) = run_reference(tmp_path / "ids.onnx", sets[2])
    np.testing.assert_allclose(session.outputs(2)[0], expected, rtol=1e-6)


def test_open_dimensions_take_the_asked_shape(tmp_path: Path) -> None:
    engine, artefacts, _ = build(tmp_path, "open", (5, 3, 16, 16))
    assert engine.layers[-1].outputs[0].shape == (5, 10)
    assert not list(artefacts.glob("fixed*"))


def test_a_truncated_profile_is_counted_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, artefacts, options = build(tmp_path)

    def cut(path: Path) -> list[ProfiledRun]:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 2 // 3])
        return read_runs(path)

    monkeypatch.setattr(onnxruntime_backend, "read_runs", cut)
    times, _, _ = profile(artefacts, options, (InputSpec("x", (1, 3, 16, 16)),), 20)
    assert 0 < times.inferences < 20
    assert len(times.layer) == times.inferences * len(engine.layers)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda path: path.write_bytes(b"no onnx at all"), r"model\.onnx is not a readable ONNX"),
        (lambda path: path.write_bytes(b""), r"model\.onnx holds no ONNX graph"),
        (lambda path: None, r"model\.onnx: no such file"),
        (lambda path: write_onnx(path, "foreign"), r"cannot load .*model\.onnx .*Frobnicate"),
        (lambda path: write_onnx(path, "raises"), r"model conv raises when it is run"),
        (lambda path: write_onnx(path, "ids"), r"takes the inputs \['ids', 'x'\]"),
    ],
)
def test_a_bad_file_is_named_with_its_reason(
    tmp_path: Path, prepare: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "model.onnx"
    prepare(path)
    spec = (InputSpec("x", (1, 3, 16, 16)),)
    model = LoadedModel("conv", "onnx", None, path, spec, "user", {})
    with pytest.raises(UsageError, match=said) as caught:
        BACKEND.build(model, BuildOptions("float32"), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("profile-*"))


def test_nodes_the_optimiser_puts_in_belong_to_what_they_lead_to(tmp_path: Path) -> None:
    """A matrix product of three dimensions becomes Reshape, Gemm, Reshape."""
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    array = onnx.numpy_helper.from_array
    weights = [array(np.ones((4, 5), np.float32), "w"), array(np.ones(5, np.float32), "b")]
    nodes = [
        make("Relu", ["x"], ["r"], name="act"),
        make("MatMul", ["r", "w"], ["m"], name="product"),
        make("Add", ["m", "b"], ["y"], name="bias"),
    ]
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", 1, [2, 3, 4])], [value("y", 1, [2, 3, 5])], weights
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    made.ir_version = 8
    onnx.save(made, str(tmp_path / "m.onnx"))
    paths = {"act": "act", "product": "fc", "bias": "fc"}
    spec = (InputSpec("x", (2, 3, 4)),)
    model = LoadedModel("m", "onnx", None, tmp_path / "m.onnx", spec, "user", {}, None, paths)
    layers = BACKEND.build(model, BuildOptions("float32"), tmp_path).layers
    assert [layer.module_path for layer in layers] == ["act", *["fc"] * (len(layers) - 1)]
    (product,) = [layer for layer in layers if layer.type in ("Gemm", "MatMul")]
    assert product.flops == 2 * 6 * 5 * 4


def test_a_shape_that_does_not_fit_names_both(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\[1, 3, 16, 16\], asked is \[1, 3, 20, 20\]"):
        build(tmp_path, "conv", (1, 3, 20, 20))


def test_a_dimension_cannot_be_two_things() -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["a", "b"], ["c"])],
        "g",
        [value("a", 1, ["N", None]), value("b", 1, ["N", None])],
        [value("c", 1, ["N", None])],
    )
    model = onnx.helper.make_model(graph)
    specs = [InputSpec("a", (2, 3)), InputSpec("b", (4, 3))]
    with pytest.raises(UsageError, match="'N' cannot be both 2 and 4"):
        onnx_graph.fix_shapes(model, specs, Path("m.onnx"))


def test_missing_weights_and_unknown_options(tmp_path: Path) -> None:
    write_onnx(tmp_path / "m.onnx")
    model = onnx.load(str(tmp_path / "m.onnx"))
    onnx.save(
        model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="w", size_threshold=0
    )
    (tmp_path / "w").unlink()
    spec = (InputSpec("x", (1, 3, 16, 16)),)
    broken = LoadedModel("m", "onnx", None, tmp_path / "m.onnx", spec, "user", {})
    with pytest.raises(UsageError, match="weights cannot be read"):
        BACKEND.build(broken, BuildOptions("float32"), tmp_path)
    with pytest.raises(UsageError, match="no option 'min_block_size'"):
        BACKEND.open(tmp_path, BuildOptions("float32", extra={"min_block_size": 3}))
    with pytest.raises(UsageError, match="graph_optimization 'most' is not known"):
        BACKEND.open(tmp_path, BuildOptions("float32", extra={"graph_optimization": "most"}))
    with pytest.raises(UsageError, match="without an ONNX graph"):
        BACKEND.build(
            LoadedModel("m", "torch", 1, None, spec, "user", {}), BuildOptions("float32"), tmp_path
        )


def test_weights_beside_the_graph_are_taken_along(tmp_path: Path) -> None:
    write_onnx(tmp_path / "m.onnx")
    model = onnx.load(str(tmp_path / "m.onnx"))
    folder = tmp_path / "external"
    folder.mkdir()
    onnx.save(
        model, str(folder / "m.onnx"), save_as_external_data=True, location="w", size_threshold=0
    )
    artefacts = tmp_path / "artefacts"
    artefacts.mkdir()
    spec = (InputSpec("x", (1, 3, 16, 16)),)
    BACKEND.build(
        LoadedModel("m", "onnx", None, folder / "m.onnx", spec, "user", {}),
        BuildOptions("float32"),
        artefacts,
    )
    (folder / "w").unlink()
    session = BACKEND.open(artefacts, BuildOptions("float32"))
    sets, _ = make_inputs("normal", spec, None, 0)
    session.bind(sets)
    (expected,) = run_reference(tmp_path / "m.onnx", sets[0])
    np.testing.assert_allclose(session.outputs(0)[0], expected, rtol=1e-4, atol=1e-5)


def test_outputs_of_any_structure_are_flattened() -> None:
    returned = [[np.ones(2, np.float32), {"a": np.ones(3, np.int64)}], None, np.array(["text"])]
    found = onnx_session.flatten(returned)
    assert [(array.shape, array.dtype.kind) for array in found] == [((2,), "f"), ((3,), "f")]
    with pytest.raises(MeasurementError, match="returns nothing"):
        onnx_session.flatten([None])


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/features/features.0/Relu", "features.0"),
        ("/fc/Gemm", "fc"),
        ("/Flatten", ""),
        ("node_relu", None),
    ],
)
def test_older_exporters_put_the_module_into_the_name(name: str, path: str | None) -> None:
    assert onnx_origin.exported_path(onnx.helper.make_node("Relu", ["a"], ["b"], name=name)) == path


def test_the_newer_exporter_keeps_it_in_the_metadata() -> None:
    node = onnx.helper.make_node("Relu", ["a"], ["b"], name="node_relu")
    prop = node.metadata_props.add()
    prop.key, prop.value = "pkg.torch.onnx.name_scopes", "['', 'layer1', 'layer1.0.relu', 'relu_3']"
    assert onnx_origin.exported_path(node) == "layer1.0.relu"


# -- the profile, on events made up ---------------------------------------------------------------


def runs_at(starts_us: list[int], length_us: int = 50) -> list[ProfiledRun]:
    return [
        ProfiledRun(start, length_us, (NodeTime(0, "n", start + 5, length_us - 10),))
        for start in starts_us
    ]


def spans_of(runs: list[ProfiledRun], offset_ns: int, before: int, after: int) -> list:
    return [
        (run.ts_us * 1000 + offset_ns - before, (run.ts_us + run.dur_us) * 1000 + offset_ns + after)
        for run in runs
    ]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(60, 10_000), min_size=1, max_size=30),
    st.integers(-(10**15), 10**15),
    st.integers(1000, 30_000),
    st.integers(1000, 30_000),
    st.sampled_from(["right", "wrong", "none"]),
)
def test_placed_runs_lie_within_their_spans(
    steps: list[int], offset_ns: int, before: int, after: int, clock: str
) -> None:
    runs = runs_at(list(np.cumsum(steps)))
    spans = spans_of(runs, offset_ns, before, after)
    said = {"right": offset_ns, "wrong": offset_ns + 3_600 * 10**9, "none": None}[clock]
    placement = place_runs(runs, spans, said)
    assert placement.method == ("clock" if clock == "right" else "fitted")
    for start, run, span in zip(placement.starts_ns, runs, spans, strict=True):
        assert span[0] <= start
        assert start + run.dur_us * 1000 <= span[1]
        if clock == "right":
            assert abs(start - run.ts_us * 1000 - offset_ns) <= 1000
        else:  # never further off than the stamps leave open
            assert abs(start - run.ts_us * 1000 - offset_ns) <= before + after


def test_runs_that_no_offset_fits_are_centred() -> None:
    runs = runs_at([0, 1000])
    spans = [(0, 60_000), (5_000_000, 5_060_000)]
    placement = place_runs(runs, spans, 0)
    assert placement.method == "centred"
    assert placement.starts_ns == [5_000, 5_005_000]
    too_short = place_runs(runs, [(0, 10_000), (5_000_000, 5_010_000)], None)
    assert too_short.starts_ns == [0, 5_000_000]
    assert place_runs([], [], None).starts_ns == []


def test_foreign_and_broken_events_are_passed_over(tmp_path: Path) -> None:
    def event(name: str, cat: str, ts: int, dur: int, **args: Any) -> str:
        return json.dumps({"name": name, "cat": cat, "ts": ts, "dur": dur, "args": args})

    lines = [
        "[",
        event("session_initialization", "Session", 0, 5) + ",",
        event("early_kernel_time", "Node", 1, 2, node_index="0") + ",",  # before the run begins
        event("a_fence_before", "Node", 10, 0, node_index="0") + ",",
        event("a_kernel_time", "Node", 10, 4, node_index="0") + ",",
        event("b_kernel_time", "Node", 15, 4) + ",",  # an index is missing
        event("c_kernel_time", "Node", 15, 4, node_index="1") + ",",
        event("model_run", "Session", 9, 12) + ",",
        event("a_kernel_time", "Node", 30, 4, node_index="0") + ",",
        '"text",',
        '{"name": "model_run", "cat": "Ses',
    ]
    path = tmp_path / "profile.json"
    path.write_text("\n".join(lines))
    (run,) = read_runs(path)
    assert [(node.node_index, node.name) for node in run.nodes] == [(0, "a"), (1, "c")]


def test_a_layer_outside_its_span_has_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the clocks do not meet, an unknown start is better than an impossible one."""
    _, artefacts, options = build(tmp_path)
    monkeypatch.setattr(
        onnxruntime_backend,
        "read_runs",
        lambda path: [
            ProfiledRun(run.ts_us, run.dur_us + 10**7, run.nodes) for run in read_runs(path)
        ],
    )
    times, spans, _ = profile(artefacts, options, (InputSpec("x", (1, 3, 16, 16)),), 3)
    known = times.start_offset_ns != NULL_NS
    ends = times.start_offset_ns + times.duration_ns
    lengths = np.array([end - start for start, end in spans])[times.inference]
    assert (ends[known] <= lengths[known]).all()


def test_a_graph_exported_by_torch_keeps_its_modules(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from tests.support_models import torch_module

    path = tmp_path / "conv.onnx"
    module = torch_module("conv")
    torch.onnx.export(  # writes the weights into a file beside the graph
        module, (torch.zeros(1, 3, 16, 16),), str(path), input_names=["x"], dynamo=True
    )
    artefacts = tmp_path / "artefacts"
    artefacts.mkdir()
    spec = (InputSpec("x", (1, 3, 16, 16)),)
    model = LoadedModel("conv", "onnx", None, path, spec, "random", {})
    engine = BACKEND.build(model, BuildOptions("float32"), artefacts)
    by_type = {layer.type: layer.module_path for layer in engine.layers[::-1]}
    assert by_type["FusedConv"] == "features.0"
    assert by_type["Gemm"] == "head"
    session = BACKEND.open(artefacts, BuildOptions("float32"))
    sets, _ = make_inputs("normal", spec, None, 0)
    session.bind(sets)
    with torch.no_grad():
        expected = module(torch.from_numpy(sets[1]["x"]))["logits"].numpy()
    np.testing.assert_allclose(session.outputs(1)[0], expected, rtol=1e-3, atol=1e-5)


def test_it_is_available_here() -> None:
    available = BACKEND.availability()
    assert available.usable
    assert "onnxruntime" in available.why
    assert BACKEND.dtypes("cpu") == ("float32", "int8")
    assert BACKEND.dtypes("cuda:0") == ()
    assert BACKEND.devices() == ("cpu",)
