"""A plan in the measuring process: double of TensorRT over a stand-in for the CUDA runtime."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.trt.session import PlanSession, open_plan_session
from tests.support_cudart import MIB, FakeCuda
from tests.support_tensorrt import VERSIONS, load_double, plan_of

SETS = [
    {"x": np.array([[0.0, 1.0, 2.0, 3.0]], dtype=np.float32)},
    {"x": np.array([[4.0, 5.0, 6.0, 7.0]], dtype=np.float32)},
]
Open = Callable[..., PlanSession]


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(tmp_path, monkeypatch)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> Open:
    """Return a way to open a session: the version played, BuildOptions' fields, make_plan's."""

    def open_one(
        played: str = "10.13.0",
        *,
        extra: dict[str, Any] | None = None,
        limit: float | None = None,
        device: str = "cuda:0",
        without: str = "",
        names: list[str] | None = None,
        profile: int = 0,
        silent: tuple[int, ...] = (),
        times_ms: tuple[float, ...] = (0.25, 0.5),
        **plan: Any,
    ) -> PlanSession:
        trt = load_double(monkeypatch, played, without)
        options = BuildOptions("float32", device=device, extra=extra or {}, memory_limit_gib=limit)
        names = names or [f"layer{index}" for index in range(len(times_ms))]
        about = {"inputs": ["x"], "layers": names, "profile": profile, "layer_count": len(names)}
        about["silent"] = list(silent)
        (tmp_path / "plan.engine").write_bytes(plan_of(trt, *times_ms, **plan))
        (tmp_path / "plan.json").write_text(json.dumps(about))
        return open_plan_session(tmp_path, options)

    return open_one


def closed(session: PlanSession, cuda: FakeCuda) -> None:
    """Close and see that all was given back, without the garbage collector's help."""
    gc.disable()
    session.close()
    gc.enable()
    assert cuda.alive() == {}


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("played", VERSIONS)
def test_inputs_lie_ready_and_outputs_are_theirs(
    opened: Open, cuda: FakeCuda, played: str, graphs: bool
) -> None:
    session = opened(played, extra={"cuda_graphs": graphs}, activation_bytes=4096)
    session.bind(SETS)
    assert session.outputs(0)[0].tolist() == [[1.0, 3.0, 5.0, 7.0]]
    assert session.outputs(1)[0].tolist() == [[9.0, 11.0, 13.0, 15.0]]
    session.infer(0)
    assert session.outputs(0)[0].dtype == np.float32
    assert cuda.count("graphs") == (2 if graphs else 0)
    assert cuda.count("launches") == (4 if graphs else 0)
    closed(session, cuda)


def test_an_inference_copies_and_allocates_nothing(
    opened: Open, cuda: FakeCuda, tmp_path: Path
) -> None:
    session = opened()
    session.bind(SETS)
    log = tmp_path / "calls"
    cuda.say({"log": str(log)})
    for which in (0, 1, 1, 0):
        session.infer(which)
    assert set(log.read_text().split()) == {"fake_enqueue", "cudaStreamSynchronize"}
    assert log.read_text().split().count("cudaStreamSynchronize") == 4
    closed(session, cuda)


def test_what_is_in_force_is_said(opened: Open, cuda: FakeCuda) -> None:
    session = opened(activation_bytes=2 * MIB, verbosity="LAYER_NAMES_ONLY")
    session.bind(SETS)
    settings = session.settings()
    expected = {
        "tensorrt": "10.13.0",
        "gpu": "Orin",
        "compute_capability": "8.7",
        "cuda_runtime": "12.6",
        "cuda_driver": "12.6",
        "optimisation_profile": 0,
        "cuda_graphs": False,
        "aux_streams": 0,
        "profiler_emission": "no profiled pass yet",
        "verbosity": "LAYER_NAMES_ONLY",
        "nvtx_verbosity": "NONE",
        "activation_mib": 2.0,
        "io_mib": 0.0,
    }
    assert {key: settings[key] for key in expected} == expected
    assert "aux_streams_warning" not in settings
    assert "memory_limit" not in settings
    closed(session, cuda)


def test_streams_of_its_own_are_warned_about(opened: Open, cuda: FakeCuda) -> None:
    session = opened(aux_streams=2, extra={"cuda_graphs": True})
    session.bind(SETS)
    settings = session.settings()
    assert settings["aux_streams"] == 2
    assert settings["aux_streams_warning"] == "layers may overlap, their sum is not the latency"
    assert settings["cuda_graphs"] is True
    closed(session, cuda)


def test_warnings_of_tensorrt_are_kept(opened: Open, cuda: FakeCuda) -> None:
    session = opened()
    trt = session.trt
    session._log.log(trt.ILogger.WARNING, "across different models of devices")
    assert session.settings()["tensorrt_warnings"] == ["across different models of devices"]
    closed(session, cuda)


# Inputs and outputs


def one_input(dtype: str, **more: Any) -> dict[str, Any]:
    return {
        "inputs": [{"name": "x", "shape": [1, 4], "dtype": dtype, **more}],
        "outputs": [{"name": "y", "shape": [1, 4], "dtype": dtype, "scale": 2.0}],
    }


@pytest.mark.parametrize(
    ("dtype", "given", "expected", "kind"),
    [
        ("HALF", [1.0, 0.1, -2.0, 4.0], [2.0, 0.19995117, -4.0, 8.0], "float32"),
        ("BF16", [1.0, 0.1, -2.0, 4.0], [2.0, 0.20019531, -4.0, 8.0], "float32"),
        ("INT32", [1, 2, 3, 4], [2, 4, 6, 8], "float64"),
        ("INT64", [1, 2, 3, 4], [2, 4, 6, 8], "float64"),
    ],
)
def test_inputs_are_cast_to_what_the_engine_takes(
    opened: Open, cuda: FakeCuda, dtype: str, given: list[float], expected: list[float], kind: str
) -> None:
    session = opened(**one_input(dtype))
    session.bind([{"x": np.array([given], dtype=np.float32 if "." in str(given) else np.int64)}])
    output = session.outputs(0)[0]
    assert output.dtype == kind
    np.testing.assert_allclose(output[0], expected, rtol=1e-6)
    closed(session, cuda)


def test_floats_for_integers_are_refused(opened: Open, cuda: FakeCuda) -> None:
    session = opened(**one_input("INT8"))
    with pytest.raises(UsageError, match="input x takes int8, its values are float32; build the"):
        session.bind(SETS)
    closed(session, cuda)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (one_input("FP8"), "the engine's input x is of type float8_e4m3fn, which is not supported"),
        (one_input("FLOAT", layout="CHW32"), "the engine's input x is laid out as CHW32; build"),
        (
            {"outputs": [{"name": "y", "shape": [1, 4], "dtype": "FLOAT", "layout": "HWC8"}]},
            "the engine's output y is laid out as HWC8",
        ),
        (
            {"inputs": [{"name": "image", "shape": [1, 4], "dtype": "FLOAT"}]},
            "the engine's input image is given no values; the model's inputs are x",
        ),
        (
            {"inputs": [{"name": "x", "shape": [1, 5], "dtype": "FLOAT"}]},
            "the engine's input x cannot be [1, 4]; it takes [1, 5]",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    opened: Open, cuda: FakeCuda, plan: dict[str, Any], message: str
) -> None:
    session = opened(**plan)
    with pytest.raises(UsageError) as caught:
        session.bind(SETS)
    assert message in str(caught.value)
    closed(session, cuda)


def test_input_sets_of_several_shapes_are_refused(opened: Open, cuda: FakeCuda) -> None:
    session = opened()
    sets = [SETS[0], {"x": np.zeros((2, 4), dtype=np.float32)}]
    with pytest.raises(UsageError, match="the input sets differ in the shape of x"):
        session.bind(sets)
    closed(session, cuda)


DYNAMIC: dict[str, Any] = {
    "inputs": [{"name": "x", "shape": [-1, 4], "dtype": "FLOAT"}],
    "outputs": [{"name": "y", "shape": [-1, 4], "dtype": "FLOAT"}],
    "profiles": [{"x": [[1, 4], [1, 4], [2, 4]]}, {"x": [[2, 4], [4, 4], [8, 4]]}],
}


def test_dynamic_shapes_take_that_of_the_values(opened: Open, cuda: FakeCuda) -> None:
    session = opened(profile=1, **DYNAMIC)
    session.bind([{"x": np.ones((4, 4), dtype=np.float32)}])
    assert session.outputs(0)[0].shape == (4, 4)
    assert session.settings()["optimisation_profile"] == 1
    # Bound anew with another shape.
    session.bind([{"x": np.ones((8, 4), dtype=np.float32)}])
    assert session.outputs(0)[0].shape == (8, 4)
    with pytest.raises(UsageError, match=r"cannot be \[1, 4\]; optimisation profile 1 takes \[2, "):
        session.bind(SETS)
    closed(session, cuda)


SHAPED: dict[str, Any] = {
    "inputs": [
        {"name": "x", "shape": [1, 4], "dtype": "FLOAT"},
        {"name": "n", "shape": [1], "dtype": "INT64", "shape_tensor": True, "location": "HOST"},
    ],
    "profiles": [{"n": [[1], [2], [4]]}],
}


def test_shape_tensors_lie_on_the_host_and_are_one_for_all(opened: Open, cuda: FakeCuda) -> None:
    session = opened(**SHAPED)
    sets = [{**one, "n": np.array([2])} for one in SETS]
    session.bind(sets)
    assert session.outputs(1)[0].tolist() == [[9.0, 11.0, 13.0, 15.0]]
    sets[1]["n"] = np.array([3])
    with pytest.raises(UsageError, match="the input sets differ in the values of n, on which"):
        session.bind(sets)
    closed(session, cuda)


def test_outputs_on_the_host_are_read_there(opened: Open, cuda: FakeCuda) -> None:
    size = {"name": "n", "shape": [2], "dtype": "INT64", "location": "HOST", "offset": 5.0}
    session = opened(outputs=[size])
    session.bind(SETS)
    output = session.outputs(1)[0]
    assert (output.dtype, output.tolist()) == (np.float64, [9.0, 10.0])
    closed(session, cuda)


POSITIVE: dict[str, Any] = {
    "outputs": [{"name": "y", "shape": [-1], "dtype": "FLOAT", "positive": True}]
}


def test_an_output_may_have_any_size(opened: Open, cuda: FakeCuda) -> None:
    session = opened(**POSITIVE)
    sets = [{"x": np.array([[-1.0, 2.0, 3.0, -4.0]], dtype=np.float32)}, *SETS]
    session.bind(sets)
    assert session.outputs(0)[0].tolist() == [2.0, 3.0]
    assert session.outputs(2)[0].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert session.settings()["dynamic_outputs"] == ["y"]
    closed(session, cuda)


def test_an_output_larger_than_its_bound_is_an_error(
    opened: Open, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(**POSITIVE)
    context = session.trt.IExecutionContext
    monkeypatch.setattr(context, "get_max_output_size", lambda _self, _name: 4)
    session.bind(SETS)
    with pytest.raises(MeasurementError, match="output y took 16 bytes, more than the 4 that"):
        session.outputs(1)
    closed(session, cuda)


def test_an_engine_without_outputs_returns_nothing(opened: Open, cuda: FakeCuda) -> None:
    session = opened(outputs=[])
    session.bind(SETS)
    with pytest.raises(MeasurementError, match="the engine returns nothing"):
        session.outputs(0)
    closed(session, cuda)


# CUDA graphs


def test_a_graph_that_cannot_be_captured_names_the_mend(opened: Open, cuda: FakeCuda) -> None:
    session = opened(extra={"cuda_graphs": True}, no_capture=True)
    with pytest.raises(UsageError) as caught:
        session.bind(SETS)
    text = str(caught.value)
    assert text.startswith("no CUDA graph can be made of this engine (TensorRT did not run")
    assert text.endswith("measure without --cuda-graphs")
    closed(session, cuda)


def test_a_graph_that_cannot_be_made_names_the_mend(opened: Open, cuda: FakeCuda) -> None:
    session = opened(extra={"cuda_graphs": True})
    cuda.say({"cudaGraphInstantiateWithFlags!": "1"})
    with pytest.raises(UsageError, match=r"no CUDA graph .*cudaErrorInvalidValue.*--cuda-graphs"):
        session.bind(SETS)
    cuda.say({}, "cudaGraphInstantiateWithFlags!")
    closed(session, cuda)


def test_no_graph_of_outputs_of_any_size(opened: Open, cuda: FakeCuda) -> None:
    session = opened(extra={"cuda_graphs": True}, **POSITIVE)
    with pytest.raises(UsageError, match="the shape of its output y depends on values; measure"):
        session.bind(SETS)
    closed(session, cuda)


# What goes wrong


def test_a_refused_plan_leaves_nothing_behind(opened: Open, cuda: FakeCuda) -> None:
    with pytest.raises(UsageError, match=r"for a GPU of compute capability 9\.0, this one"):
        opened(capability="9.0", weights_bytes=64)
    gc.collect()
    assert cuda.alive() == {}


def test_a_context_without_memory_leaves_nothing_behind(opened: Open, cuda: FakeCuda) -> None:
    with pytest.raises(MeasurementError, match="TensorRT makes no execution context"):
        opened(weights_bytes=64, activation_bytes=65 * MIB)
    gc.collect()
    assert cuda.alive() == {}


def test_no_inputs_no_inference(opened: Open, cuda: FakeCuda) -> None:
    session = opened()
    with pytest.raises(MeasurementError, match="the session was given no inputs"):
        session.infer(0)
    closed(session, cuda)


def test_too_many_layers_are_refused(opened: Open) -> None:
    with pytest.raises(UsageError, match="the engine has 32768 layers, more than 32767"):
        opened(names=["layer"] * 2**15)


# The limit of memory


def test_the_limit_counts_engine_context_inputs_and_outputs(opened: Open, cuda: FakeCuda) -> None:
    session = opened(limit=1 / 1024, weights_bytes=4096, activation_bytes=8192)
    session.bind(SETS)
    limit = session.settings()["memory_limit"]
    assert limit["kind"] == "hard"
    assert limit["limit_bytes"] == MIB
    assert limit["allocator_live_bytes"] == 4096 + 8192 + 3 * 16
    assert limit["refusals"] == 0
    assert cuda.count("live_bytes") == limit["allocator_live_bytes"]
    closed(session, cuda)


@pytest.mark.parametrize("plan", [{"weights_bytes": 2 * MIB}, {"activation_bytes": 2 * MIB}])
@pytest.mark.parametrize("played", VERSIONS)
def test_beyond_the_limit_the_error_names_it(
    opened: Open, cuda: FakeCuda, played: str, plan: dict[str, Any]
) -> None:
    with pytest.raises(MeasurementError) as caught:
        opened(played, limit=1 / 1024, **plan)
    assert "--memory-limit-gib" in str(caught.value)
    assert "refuses 2.0 MiB" in str(caught.value)
    gc.collect()
    assert cuda.alive() == {}


def test_inputs_beyond_the_limit_are_refused(opened: Open, cuda: FakeCuda) -> None:
    session = opened(limit=1 / 1024, **DYNAMIC | {"profiles": []})
    with pytest.raises(MeasurementError, match=r"--memory-limit-gib .* refuses 2\.0 MiB"):
        session.bind([{"x": np.zeros((2 * MIB // 16, 4), dtype=np.float32)}])
    closed(session, cuda)
