"""Engines on the double of TensorRT: four versions, every refusal of a plan."""

from __future__ import annotations

import json
import types
from typing import Any

import pytest

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.trt.engine import Binding, ShapeRange, open_engine, refusal
from edgejoule.inference.trt.inspector import read_inspector
from edgejoule.inference.trt.library import make_log
from tests.support_tensorrt import VERSIONS, load_double, plan_of

NAMES = types.SimpleNamespace


def opened(monkeypatch: pytest.MonkeyPatch, played: str = "10.13.0", **more: Any) -> Any:
    trt = load_double(monkeypatch, played, more.pop("without", ""))
    return open_engine(trt, plan_of(trt, **more), make_log(trt))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_says_what_it_is(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    inputs = [
        {"name": "x", "shape": [-1, 4], "dtype": "HALF"},
        {"name": "size", "shape": [2], "dtype": "INT32", "shape_tensor": True, "location": "HOST"},
    ]
    outputs = [{"name": "y", "shape": [-1, 4], "dtype": "FP8", "layout": "CHW32"}]
    engine = opened(
        monkeypatch,
        version,
        inputs=inputs,
        outputs=outputs,
        activation_bytes=4096,
        aux_streams=2,
        verbosity="LAYER_NAMES_ONLY",
        profiles=[{"x": [[1, 4], [2, 4], [8, 4]], "size": [[1, 1], [2, 2], [4, 4]]}],
    )
    assert engine.bindings == (
        Binding("x", True, "float16", (-1, 4)),
        Binding("size", True, "int32", (2,), on_host=True, is_shape=True),
        Binding("y", False, "float8_e4m3fn", (-1, 4), layout="CHW32"),
    )
    assert engine.inputs == engine.bindings[:2]
    assert engine.outputs == engine.bindings[2:]
    assert (engine.aux_streams, engine.layers, engine.memory_bytes) == (2, 2, 4096)
    assert engine.verbosity == "LAYER_NAMES_ONLY"
    ranges = {"x": ShapeRange((1, 4), (2, 4), (8, 4))}
    if version != "8.6.1":  # which does not tell values of shape tensors by name
        ranges["size"] = ShapeRange((1, 1), (2, 2), (4, 4))
    assert engine.optimisation_profiles() == (ranges,)


def test_an_unknown_tensor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="the engine has no tensor 'z'; it has x, y"):
        opened(monkeypatch).binding("z")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_inspector_is_passed_on_unchanged(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    engine = opened(monkeypatch, version)
    context = engine.context()
    text = engine.inspector_json(context)
    inspector = engine.raw.create_engine_inspector()
    inspector.execution_context = context.raw
    assert text == inspector.get_engine_information(engine.trt.LayerInformationFormat.JSON)
    found = json.loads(text)
    assert [layer["Name"] for layer in found["Layers"]] == ["layer0", "layer1"]
    assert ("I/O Tensors" if version.startswith("11") else "Bindings") in found
    assert engine.inspector_json() == text


def test_the_inspector_sees_the_shapes_of_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(
        monkeypatch,
        layers=[{"name": "a", "type": "NoOp", "ms": 0.0, "inputs": ["x"]}],
        inputs=[{"name": "x", "shape": [-1, 4], "dtype": "FLOAT"}],
        profiles=[{"x": [[1, 4], [2, 4], [8, 4]]}],
    )
    context = engine.context()
    context.set_input_shape("x", (2, 4))
    layers = json.loads(engine.inspector_json(context))["Layers"]
    assert layers[0]["Inputs"][0]["Dimensions"] == [2, 4]


def test_an_inspector_that_says_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(monkeypatch)
    inspector = engine.trt.EngineInspector
    monkeypatch.setattr(inspector, "get_engine_information", lambda _self, _format: None)
    with pytest.raises(MeasurementError, match="TensorRT's inspector says nothing of the engine"):
        engine.inspector_json()


def test_of_an_engine_without_verbosity_it_may_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(monkeypatch, verbosity="NONE")
    inspector = engine.trt.EngineInspector
    monkeypatch.setattr(inspector, "get_engine_information", lambda _self, _format: None)
    assert engine.inspector_json() == ""
    assert read_inspector(engine.inspector_json()).layers == ()


def test_names_that_are_no_text_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(monkeypatch)

    def undecodable(_self: Any, _format: Any) -> str:
        return b"\xff".decode()

    monkeypatch.setattr(engine.trt.EngineInspector, "get_engine_information", undecodable)
    with pytest.raises(MeasurementError, match="layer names are not UTF-8"):
        engine.inspector_json()


@pytest.mark.parametrize(
    ("version", "more", "message"),
    [
        (
            "8.6.1",
            {"version": "8.5.2"},
            "TensorRT 8.6.1 does not take the plan: it was built by another version of TensorRT "
            "(its format is 237, here it is 236); build it again on this machine, or install the "
            "version that built it",
        ),
        (
            "10.13.0",
            {"version": "10.3.0"},
            "TensorRT 10.13.0 does not take the plan: it was built by TensorRT 10.3.0; build it "
            "again on this machine, or install the version that built it",
        ),
        (
            "10.13.0",
            {"platform": "windows"},
            "TensorRT 10.13.0 does not take the plan: it was built on another platform (operating "
            "system, processor or kind of GPU); build it again on this machine",
        ),
        (
            "11.1.0",
            {"capability": "9.0"},
            "TensorRT 11.1.0 does not take the plan: it was built for a GPU of compute capability "
            "9.0, this one has 8.7; build it again on this machine",
        ),
    ],
)
def test_foreign_plans_are_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, version: str, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        opened(monkeypatch, version, **more)
    assert str(caught.value) == message


def test_what_is_no_plan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = load_double(monkeypatch)
    with pytest.raises(UsageError, match="it is no plan, or one of a version of TensorRT far from"):
        open_engine(trt, b"\x08\x07onnx", make_log(trt))


@pytest.mark.parametrize(
    ("logged", "kind", "message"),
    [
        (
            "Error Code 6: API Usage Error (The engine plan file is not compatible with this "
            "version of TensorRT, expecting library version 10.7.0.23 got ..)",
            UsageError,
            "it was built by another version of TensorRT; build it again",
        ),
        (
            "[stdArchiveReader.cpp::StdArchiveReader::35] Error Code 1: Serialization (Version tag "
            "does not match)",
            UsageError,
            "it was built by another version",
        ),
        (
            "IPluginRegistry::getCreator: Error Code 4: Internal Error (Cannot find plugin: "
            "ImplicitGemm, version: 1, namespace:.)",
            UsageError,
            "it needs a plugin that is not here (ImplicitGemm); only TensorRT's own",
        ),
        (
            "Plan contains host executable code, which is not allowed",
            UsageError,
            "it carries a runtime of its own (version-compatible)",
        ),
        (
            "Error Code 2: OutOfMemory (Requested size was 1073741824 bytes.)",
            MeasurementError,
            "has not enough memory for the engine",
        ),
        ("Error Code 4: something new", MeasurementError, "cannot load the plan (Error Code 4"),
        ("", MeasurementError, "TensorRT 10.0 cannot load the plan (without a word)"),
    ],
)
def test_other_refusals_keep_what_was_logged(
    logged: str, kind: type[Exception], message: str
) -> None:
    error = refusal(NAMES(__version__="10.0"), logged)
    assert isinstance(error, kind)
    assert type(error) is kind
    assert message in str(error)


def test_a_refusal_is_heard_after_many_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = load_double(monkeypatch)
    log = make_log(trt)
    for number in range(300):
        log.log(trt.ILogger.ERROR, f"earlier {number}")
    with pytest.raises(UsageError, match="it was built on another platform"):
        open_engine(trt, plan_of(trt, platform="windows"), log)


def test_a_runtime_that_raises_is_refused_like_one_that_logs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trt = load_double(monkeypatch)

    def raises(_self: Any, _plan: bytes) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(trt.Runtime, "deserialize_cuda_engine", raises)
    with pytest.raises(MeasurementError, match=r"cannot load the plan \(broken\)"):
        open_engine(trt, b"", make_log(trt))


def test_a_runtime_that_cannot_be_made_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = load_double(monkeypatch)
    log = make_log(trt)

    def no_driver(log: Any) -> None:
        log.log(trt.ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt, "Runtime", no_driver)
    with pytest.raises(MeasurementError) as caught:
        open_engine(trt, b"", log)
    assert str(caught.value) == (
        "TensorRT 10.13.0 creates no runtime (CUDA initialization failure with error: 35); check "
        "that the NVIDIA driver works (nvidia-smi) and serves this version of TensorRT"
    )


def test_a_closed_engine_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(monkeypatch)
    engine.close()
    with pytest.raises(MeasurementError, match="the engine was closed"):
        engine.context()
