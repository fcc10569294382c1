"""Int8 on ONNX Runtime's CPU: built, described, profiled; a wrong calibration shows."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgejoule.errors import UsageError
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.quantization import model_hash, quantise
from tests.support_models import load
from tests.support_precision import (
    BACKEND,
    accuracy,
    build_int8,
    data_of,
    held_out,
    network,
    picture_shape,
    write_pictures,
)

pytest.importorskip("onnxruntime")
pytest.importorskip("PIL")


@pytest.mark.parametrize(
    ("name", "right_error", "wrong_error"), [("lenet", 0.1, 0.5), ("mobilenet_v2", 0.15, 0.4)]
)
def test_a_wrong_calibration_shows_in_the_accuracy(
    name: str, right_error: float, wrong_error: float, tmp_path: Path
) -> None:
    """With random weights, which is said beside the figures."""
    model = network(name, tmp_path / "model")
    shape = picture_shape(model)
    sets = held_out(model, tmp_path / "held out")
    right = write_pictures(tmp_path / "right", 16, shape, seed=1)
    dark = write_pictures(tmp_path / "dark", 4, shape, seed=1, brightness=0.05)
    zeros = tmp_path / "zeros.npy"
    np.save(zeros, np.zeros((2, *shape), np.float32))
    found = {
        kind: accuracy(model, tmp_path / "engines" / kind.name, str(kind), sets).to_json()
        for kind in (right, dark, zeros)
    }
    good = found[right]
    assert good["weights"] == "random"
    assert good["sets"] == 8
    assert 0 < good["mean_relative_error"] < right_error
    assert good["sqnr_db"] > 25
    for kind in (dark, zeros):
        bad = found[kind]
        assert bad["mean_relative_error"] > wrong_error
        assert bad["mean_relative_error"] > 4 * good["mean_relative_error"]
        assert bad["sqnr_db"] < 10
        assert bad["note"]
    if name == "mobilenet_v2":  # LeNet with random weights answers the same to every image
        assert found[zeros]["top1_agreement"] < good["top1_agreement"]


def test_the_engine_says_how_it_was_quantised(tmp_path: Path) -> None:
    model = network("lenet", tmp_path / "model")
    folder = write_pictures(tmp_path / "photos", 8, picture_shape(model), seed=1)
    cache = tmp_path / "ranges.json"
    engine, _ = build_int8(model, tmp_path / "a", str(folder), calibration_cache=str(cache))
    json.dumps(engine.to_json(), allow_nan=False)
    facts = engine.settings["quantisation"]
    assert (facts["dtype"], facts["runtime"]) == ("int8", "onnxruntime")
    assert facts["op_types"]["Conv"] == 2
    assert facts["pairs"] > 5
    assert facts["calibration"]["files"][0][0] == "000.png"
    assert facts["calibration"]["sets"] == 8
    assert facts["ranges"] == "computed, kept in ranges.json"
    assert facts["why"]
    again, _ = build_int8(model, tmp_path / "b", str(folder), calibration_cache=str(cache))
    assert again.settings["quantisation"]["ranges"] == "read from ranges.json"
    assert again.layers == engine.layers
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "onnxruntime.json", "optimised.onnx",
    ]  # fmt: skip


def test_integer_layers_lead_back_to_modules(tmp_path: Path) -> None:
    model = network("lenet", tmp_path / "model")
    layers = build_int8(model, tmp_path / "a", "normal")[0].layers
    integer = {layer.module_path: layer for layer in layers if layer.type.startswith("Q")}
    assert {"conv1", "conv2", "fc1", "fc2", "fc3"} <= set(integer)
    float32 = BACKEND.build(model, BuildOptions("float32"), tmp_path / "model")
    before = {layer.module_path: layer for layer in float32.layers}
    for path in ("conv1", "conv2", "fc1", "fc2", "fc3"):
        layer = next(one for one in layers if one.module_path == path and one.flops)
        assert layer.type in ("QLinearConv", "QGemm")
        assert layer.flops == before[path].flops
        assert layer.bytes_moved < before[path].bytes_moved
        assert layer.outputs[0].dtype == "uint8" or layer.outputs[0].dtype == "int8"
        assert layer.nodes[0] in {node for one in float32.layers for node in one.nodes}
    # A conversion belongs to what made the tensor, that of the input to what takes it.
    assert layers[0].type == "QuantizeLinear"
    assert [layers[0].module_path, layers[2].module_path] == ["conv1", "conv1"]
    assert all(layer.module_path is not None for layer in layers)


def test_integer_layers_are_timed(tmp_path: Path) -> None:
    model = network("lenet", tmp_path / "model")
    engine, options = build_int8(model, tmp_path / "a", "normal")
    session = BACKEND.open(tmp_path / "a", options)
    session.bind(held_out(model, tmp_path / "sets", 2))
    profiler = session.profiler()
    profiler.start(3)
    spans = []
    for index in range(3):
        start = time.monotonic_ns()
        profiler.infer(index % 2)
        spans.append((start, time.monotonic_ns()))
    times = profiler.harvest(spans)
    profiler.close()
    session.close()
    assert times.inferences == 3
    assert times.layer.tolist() == list(range(len(engine.layers))) * 3
    assert (times.duration_ns >= 0).all()


def test_a_graph_made_by_hand_is_quantised_too(tmp_path: Path) -> None:
    from edgejoule.inference.workload import ModelRequest

    (tmp_path / "model").mkdir()
    model = load(ModelRequest("conv", "random", 0, None, "onnx", tmp_path / "model"))
    engine, options = build_int8(model, tmp_path / "a", "normal")
    types = [layer.type for layer in engine.layers]
    assert types.count("QLinearConv") == 2
    assert "QLinearAdd" in types
    session = BACKEND.open(tmp_path / "a", options)
    session.bind([{"x": np.zeros(model.inputs[0].shape, np.float32)}])
    assert session.outputs(0)[0].shape == (1, 10)
    session.close()


def test_a_graph_that_is_quantised_already_is_taken_as_it_is(tmp_path: Path) -> None:
    model = network("lenet", tmp_path / "model")
    assert model.onnx_path is not None
    target = tmp_path / "model" / "quantised.onnx"
    sha256 = model_hash(model.onnx_path)
    options = BuildOptions("int8", threads=1)
    more = {"runtime": "onnxruntime"}
    quantise(model.onnx_path, target, "int8", options, data_of(model), sha256, **more)
    ready = replace(model, onnx_path=target)
    for calibration, words in ((None, "no calibration was needed"), ("normal", "were not used")):
        engine, _ = build_int8(ready, tmp_path / str(calibration), calibration)
        assert engine.settings["quantisation"].startswith("as the graph came; ")
        assert engine.settings["quantisation"].endswith(words)
        assert any(layer.type.startswith("QLinear") for layer in engine.layers)
    # Nodes placed for TensorRT (outputs and biases in float) give this runtime nothing to fuse.
    quantise(model.onnx_path, target, "int8", options, data_of(model), sha256)
    with pytest.raises(UsageError, match=r"no layer of lenet runs in int8"):
        build_int8(ready, tmp_path / "c", None)


def test_int8_needs_calibration_data(tmp_path: Path) -> None:
    model = network("lenet", tmp_path / "model")
    with pytest.raises(UsageError, match="int8 and fp8 need --calibration FOLDER with images"):
        build_int8(model, tmp_path / "a", None)


def test_an_engine_that_computes_in_float32_is_no_int8(tmp_path: Path) -> None:
    model = network("lenet", tmp_path / "model")
    with pytest.raises(UsageError, match=r"no layer of lenet runs in int8: .* leave graph_optimi"):
        build_int8(model, tmp_path / "a", "normal", extra={"graph_optimization": "disable"})
