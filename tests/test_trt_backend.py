from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.errors import UsageError
from edgejoule.inference.backend import BuildOptions, EngineDescription
from edgejoule.inference.calibration_data import load_calibration
from edgejoule.inference.inputs import make_inputs
from edgejoule.inference.probe import probe
from edgejoule.inference.quantization import quantise
from edgejoule.inference.trt import ENGINE_FILE, tensorrt_backend
from edgejoule.inference.trt.engine_file import read_engine_file
from edgejoule.inference.trt.tensorrt_backend import TensorRtBackend
from edgejoule.inference.workload import InputSpec, LoadedModel
from tests.support_cudart import FakeCuda
from tests.support_trt_builder import VERSIONS, X, flags_of, load_double, options, write_graph

LAYERS = ["/conv1/Conv", "/relu/Relu", "/conv2/Conv", "/pool/GlobalAveragePool"]


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    (tmp_path / "artefacts").mkdir()
    probe.cache_clear()
    return FakeCuda(tmp_path, monkeypatch)


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> Any:
    return load_double(monkeypatch, request.param)


def model_of(tmp_path: Path, spec: InputSpec = X, **graph: Any) -> LoadedModel:
    path = write_graph(tmp_path / "model.onnx", **graph)
    return LoadedModel("small", "onnx", None, path, (spec,), "user", {"sha256": "ab" * 32})


def build(tmp_path: Path, asked: BuildOptions, **model: Any) -> EngineDescription:
    return TensorRtBackend().build(model_of(tmp_path, **model), asked, tmp_path / "artefacts")


def children(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> None:
    """Let child processes find the doubles too."""
    for name, value in cuda.environment.items():
        monkeypatch.setenv(name, value)


def test_a_build_leaves_everything_and_describes_its_layers(
    trt: Any, cuda: FakeCuda, tmp_path: Path
) -> None:
    engine = build(tmp_path, options())
    assert [layer.name for layer in engine.layers] == LAYERS
    assert [layer.module_path for layer in engine.layers] == ["conv1", "relu", "conv2", "pool"]
    assert engine.layers[0].operation == "convolution"
    assert engine.backend == "tensorrt"
    assert engine.versions["tensorrt"] == trt.__version__
    assert not engine.start_offsets
    assert not engine.overlap
    assert engine.keep == ("inspector.json",)
    artefacts = tmp_path / "artefacts"
    assert sorted(file.name for file in artefacts.iterdir()) == [
        ENGINE_FILE,
        "inspector.json",
        "plan.engine",
        "plan.json",
        "replay.json",
    ]
    about = json.loads((artefacts / "plan.json").read_text())
    assert about["layers"] == LAYERS
    assert (about["inputs"], about["profile"], about["layer_count"]) == (["x"], 0, 4)
    assert len(json.loads((artefacts / "inspector.json").read_text())["Layers"]) == 4
    assert cuda.alive() == {}


def test_settings_say_what_was_applied(trt: Any, tmp_path: Path) -> None:
    said = build(tmp_path, options(extra={"optimization_level": 2})).settings
    assert said["typing"] == ("weak" if trt.__version__ == "8.6.1" else "strong")
    assert said["optimization_level"] == 2
    assert said["layers_described"] == "in full"
    assert said["profiling_verbosity"] == "DETAILED"
    assert (said["max_aux_streams"], said["aux_streams"]) == (0, 0)
    assert said["bindings"]["x"] == {"dtype": "float32", "shape": [1, 3, 8, 8]}
    assert said["memory_limit"]["kind"] == "none"
    assert said["timing_cache"]["file"] is None
    assert said["build_attempts"][0]["result"] == "built"
    assert said["gpu"] == "Orin"
    assert said["compute_capability"] == "8.7"


def test_the_engine_file_says_what_built_it_and_is_taken_back(trt: Any, tmp_path: Path) -> None:
    built = build(tmp_path, options())
    file = tmp_path / "artefacts" / ENGINE_FILE
    facts = read_engine_file(file).facts
    assert facts is not None
    assert (facts.name, facts.tensorrt, facts.dtype) == ("small", trt.__version__, "float32")
    assert facts.model_sha256 == "ab" * 32
    assert facts.inputs == (("x", (1, 3, 8, 8), "float32"),)
    other = tmp_path / "other"
    other.mkdir()
    adopted = TensorRtBackend().adopt(file, options(), other)
    assert adopted.name == "small"
    assert adopted.inputs == (X,)
    assert [layer.name for layer in adopted.engine.layers] == LAYERS
    assert adopted.engine.settings["engine_header"] == "edgejoule"
    assert adopted.engine.settings["built"]["dtype"] == "float32"
    assert adopted.source["built"]["model_sha256"] == "ab" * 32
    for name in ("plan.engine", "plan.json", "inspector.json", ENGINE_FILE):
        assert (other / name).read_bytes() == (tmp_path / "artefacts" / name).read_bytes()
    assert built.keep == adopted.engine.keep


def test_what_was_built_runs_and_every_layer_is_timed(trt: Any, tmp_path: Path) -> None:
    asked = options()
    engine = build(tmp_path, asked)
    session = TensorRtBackend().open(tmp_path / "artefacts", asked)
    session.bind(make_inputs("normal", [X], None, 0, sets=2)[0])
    assert session.outputs(0)[0].size
    profiler = session.profiler()
    profiler.start(3)
    for which in (0, 1, 0):
        profiler.infer(which)
    times = profiler.harvest([(0, 10**9)] * 3)
    assert times.inferences == 3
    assert list(times.layer) == list(range(len(engine.layers))) * 3
    profiler.close()
    session.close()


def test_a_dynamic_graph_is_described_in_the_shapes_it_is_measured_in(
    trt: Any, tmp_path: Path
) -> None:
    spec = InputSpec("x", (4, 3, 8, 8))
    extra = {"shape_min": [1, 3, 8, 8], "shape_max": [8, 3, 8, 8]}
    engine = build(tmp_path, options(extra=extra), spec=spec, batch="n")
    assert engine.layers[0].inputs[0].shape == (4, 3, 8, 8)
    assert engine.settings["profiles"][0]["x"]["max"] == [8, 3, 8, 8]
    file = tmp_path / "artefacts" / ENGINE_FILE
    (tmp_path / "other").mkdir()
    taken = TensorRtBackend().adopt(file, options(), tmp_path / "other")
    assert taken.inputs[0].shape == (4, 3, 8, 8)
    taken = TensorRtBackend().adopt(file, options(), tmp_path / "other", (2, 3, 8, 8))
    assert taken.inputs[0].shape == (2, 3, 8, 8)
    with pytest.raises(UsageError) as refused:
        TensorRtBackend().adopt(file, options(), tmp_path / "other", (16, 3, 8, 8))
    assert "input 'x' takes shapes from [1, 3, 8, 8] to [8, 3, 8, 8]" in str(refused.value)
    assert "--input-shape says [16, 3, 8, 8]" in str(refused.value)


def test_an_engine_of_another_shape_is_refused(trt: Any, tmp_path: Path) -> None:
    build(tmp_path, options())
    with pytest.raises(UsageError, match=r"takes \[1, 3, 8, 8\], --input-shape says \[2, 3, 8, 8"):
        TensorRtBackend().adopt(
            tmp_path / "artefacts" / ENGINE_FILE, options(), tmp_path, (2, 3, 8, 8)
        )


def test_an_engine_of_another_version_or_gpu_is_refused(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_double(monkeypatch, "10.3.0")
    build(tmp_path, options())
    file = tmp_path / "artefacts" / ENGINE_FILE
    load_double(monkeypatch, "10.13.0")
    with pytest.raises(UsageError, match=r"by TensorRT 10\.3\.0, this is 10\.13\.0"):
        TensorRtBackend().adopt(file, options(), tmp_path)
    load_double(monkeypatch, "10.3.0")
    cuda.say({"0.name": "NVIDIA Thor", "0.capability": "11 0"})
    with pytest.raises(UsageError, match=r"for Orin \(compute capability 8\.7\), this is NVIDIA"):
        TensorRtBackend().adopt(file, options(), tmp_path)


@pytest.mark.parametrize(
    ("verbosity", "names", "said"),
    [
        ("LAYER_NAMES_ONLY", ["conv", "pool"], "by name alone"),
        ("NONE", ["0", "1"], "by number alone"),
    ],
)
def test_a_foreign_plan_is_described_as_far_as_it_goes(
    trt: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verbosity: str,
    names: list[str],
    said: str,
) -> None:
    # As plans begin; the double's own tag is text.
    monkeypatch.setattr(sys.modules["tensorrt._plan"], "MAGIC", b"ftrt\x01\x00\x00\x00")
    plan = trt.make_plan(
        layers=[{"name": "conv", "ms": 0.1}, {"name": "pool", "ms": 0.2}],
        inputs=[{"name": "x", "shape": [1, 3, 8, 8], "dtype": "HALF"}],
        outputs=[{"name": "y", "shape": [1, 3], "dtype": "HALF"}],
        verbosity=verbosity,
        aux_streams=2,
    )
    file = tmp_path / "my net.engine"
    file.write_bytes(plan)
    adopted = TensorRtBackend().adopt(file, options("float16"), tmp_path / "artefacts")
    assert adopted.name == "my-net"
    assert [layer.name for layer in adopted.engine.layers] == names
    assert adopted.engine.settings["layers_described"].startswith(said)
    assert adopted.engine.overlap
    assert "2 more streams: they may overlap" in adopted.engine.settings["aux_streams_warning"]
    assert adopted.inputs[0].dtype == "float32"  # cast when it is bound
    assert adopted.engine.settings["bindings"]["x"]["dtype"] == "float16"
    assert "does not say what built it" in adopted.engine.settings["notes"][0]


def test_options_of_a_build_do_not_go_with_an_engine(trt: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--optimization-level: an engine from a file is not"):
        TensorRtBackend().adopt(
            tmp_path / "x.engine", options(extra={"optimization_level": 3}), tmp_path
        )


def test_the_memory_limit_holds_the_build(trt: Any, cuda: FakeCuda, tmp_path: Path) -> None:
    flags_of(trt).BEHAVIOUR.allocates = 8 * 2**20
    said = build(tmp_path, options(memory_limit_gib=16 / 1024)).settings
    assert said["memory_limit"]["kind"] == "hard"
    assert said["memory_limit"]["allocator_peak_bytes"] == 8 * 2**20
    assert said["memory_limit"]["refusals"] == 0
    assert cuda.alive() == {}


def test_what_the_memory_limit_refuses_is_said(trt: Any, tmp_path: Path) -> None:
    flags_of(trt).BEHAVIOUR.allocates = 8 * 2**20
    with pytest.raises(Exception, match="ran out of memory") as failed:
        build(tmp_path, options(memory_limit_gib=4 / 1024))
    assert "--memory-limit-gib" in str(failed.value)
    assert "refuses 8.0 MiB" in str(failed.value)


def test_a_build_that_the_kernel_ended_begins_smaller(trt: Any, tmp_path: Path) -> None:
    asked = BuildOptions("float32", "cuda:0", memory_limit_gib=0.25, killed=2)
    tried = build(tmp_path, asked).settings["build_attempts"]
    assert [one["result"] for one in tried] == ["killed", "killed", "built"]
    assert [one["workspace_mib"] for one in tried] == [128, 64, 64]
    assert tried[2]["optimization_level"] == 2


def test_int8_without_calibration_is_refused(trt: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int8 and fp8 need --calibration FOLDER"):
        build(tmp_path, options("int8"))


def test_int8_is_explicit_where_the_graph_can_be_given_qdq(trt: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    engine = build(tmp_path, options("int8", calibration="normal"))
    said = engine.settings
    old = trt.__version__ == "8.6.1"
    assert said["builder_flags"] == (["INT8"] if old else [])
    assert said["network_dtypes"]["int8"] > 0
    assert said["not_quantised"] == "float32"
    assert said["quantisation"]["calibration"]["kind"] == "normal"
    kept = [path.name for path in (tmp_path / "artefacts").glob("prepared*")]
    assert kept == ["prepared.onnx"]  # what layers can be built from alone


def test_a_graph_that_is_quantised_already_is_taken_as_it_is(trt: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    data = load_calibration("normal", [X], None, 0, 1)
    plain, target = write_graph(tmp_path / "plain.onnx"), tmp_path / "q.onnx"
    quantise(plain, target, "int8", options("int8"), data, "ab")
    model = LoadedModel("small", "onnx", None, target, (X,), "user", {})
    said = TensorRtBackend().build(model, options("int8"), tmp_path / "artefacts").settings
    assert said["quantisation"] == "as the graph came; no calibration was needed"
    asked = options("int8", calibration="zeros")
    said = TensorRtBackend().build(model, asked, tmp_path / "artefacts").settings
    assert said["quantisation"].endswith("the calibration data were not used")
    with pytest.raises(UsageError, match="itself is quantised to int8, so it cannot run as float"):
        TensorRtBackend().build(model, options(), tmp_path / "artefacts")
    if trt.__version__ != "8.6.1":
        asked = options("int8", extra={"allow_fallback": "float16"})
        with pytest.raises(UsageError, match="--allow-fallback: the graph is quantised already"):
            TensorRtBackend().build(model, asked, tmp_path / "artefacts")


def test_below_10_without_onnxruntime_tensorrt_calibrates(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_double(monkeypatch, "8.6.1")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    asked = options(
        "int8", calibration="normal", calibration_cache=str(tmp_path / "c.json"),
        extra={"allow_fallback": "float16"},
    )  # fmt: skip
    said = build(tmp_path, asked).settings
    assert said["builder_flags"] == ["FP16", "INT8"]
    assert said["quantisation"].startswith("implicit: no onnxruntime here")
    assert said["calibrator"]["cache"] == "written"
    assert said["calibrator"]["data"]["kind"] == "normal"
    assert cuda.alive() == {}


def test_from_10_on_int8_needs_onnxruntime(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_double(monkeypatch, "10.3.0")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match="puts Q/DQ into the graph, which needs onnxruntime; pip"):
        build(tmp_path, options("int8", calibration="normal"))


def test_float16_is_a_cast_of_the_graph(trt: Any, tmp_path: Path) -> None:
    engine = build(tmp_path, options("float16"))
    old = trt.__version__ == "8.6.1"
    assert engine.settings["typing"] == ("weak" if old else "strong")
    assert engine.settings["builder_flags"] == (["FP16"] if old else [])
    assert ("cast" in engine.settings) is not old
    assert engine.layers[0].outputs[0].dtype == "float16"
    assert [layer.module_path for layer in engine.layers] == ["conv1", "relu", "conv2", "pool"]
    session = TensorRtBackend().open(tmp_path / "artefacts", options("float16"))
    session.bind(make_inputs("normal", [X], None, 0, sets=1)[0])
    assert session.outputs(0)[0].dtype == np.float32
    session.close()


def test_without_onnx_float32_builds_and_float16_says_what_it_needs(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_double(monkeypatch, "10.3.0")
    model = model_of(tmp_path)
    real = tensorrt_backend.importlib.util.find_spec

    def without(name: str, *more: Any) -> Any:
        return None if name == "onnx" else real(name, *more)

    monkeypatch.setattr(tensorrt_backend.importlib.util, "find_spec", without)
    with pytest.raises(UsageError, match=r"float16 is a cast of the graph, which needs onnx; pip"):
        TensorRtBackend().build(model, options("float16"), tmp_path / "artefacts")
    engine = TensorRtBackend().build(model, options(), tmp_path / "artefacts")
    assert "no package onnx" in engine.settings["origin"]
    assert [layer.module_path for layer in engine.layers] == ["conv1", "relu", "conv2", "pool"]


def test_a_device_that_is_not_there(trt: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no GPU 3 here; CUDA has 0 to 0"):
        build(tmp_path, BuildOptions("float32", "cuda:3"))


def test_availability_is_found_out_in_a_process_of_its_own(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_double(monkeypatch, "10.3.0")
    children(monkeypatch, cuda)
    backend = TensorRtBackend()
    found = backend.availability()
    assert (found.usable, found.why) == (True, "TensorRT 10.3.0 on Orin")
    assert backend.devices() == ("cuda:0",)
    assert backend.dtypes("cuda:0") == ("float16", "float32", "tf32", "bfloat16", "int8")
    assert backend.dtypes("cuda:1") == backend.dtypes("cpu") == ()


def test_a_runtime_without_a_builder_is_not_enough(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_double(monkeypatch, "10.3.0", without="Builder")
    children(monkeypatch, cuda)
    found = TensorRtBackend().availability()
    assert not found.usable
    assert "this tensorrt has no Builder: a runtime alone" in found.why


def test_without_a_gpu_the_mend_is_the_gpus(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_double(monkeypatch, "10.3.0")
    children(monkeypatch, cuda)
    cuda.say({"count": "0"})
    found = TensorRtBackend().availability()
    assert not found.usable
    assert "GPU" in found.why
    assert "pip install" not in found.mend
    assert TensorRtBackend().devices() == ()


@pytest.mark.parametrize(
    ("jetson", "mend"),
    [(True, "apt install python3-libnvinfer"), (False, "pip install tensorrt-cu12 or tensorrt")],
)
def test_without_tensorrt_the_mend_is_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jetson: bool, mend: str
) -> None:
    probe.cache_clear()
    (tmp_path / "release").write_text("# R36")
    release = tmp_path / ("release" if jetson else "none")
    monkeypatch.setattr(tensorrt_backend, "TEGRA_RELEASE", release)
    found = TensorRtBackend().availability()
    assert not found.usable
    assert "not installed" in found.why
    assert found.mend.startswith(mend)
    assert ("--system-site-packages" in found.mend) is jetson
    assert TensorRtBackend().dtypes("cuda:0") == ()
