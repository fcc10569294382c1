"""Execution contexts on the double of TensorRT: shapes, launches, both ways of reporting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.trt.engine import open_engine
from edgejoule.inference.trt.library import make_log
from edgejoule.inference.trt.recorder import make_recorder
from tests.support_tensorrt import VERSIONS, load_double, plan_of


def opened(monkeypatch: pytest.MonkeyPatch, played: str = "10.13.0", **more: Any) -> Any:
    trt = load_double(monkeypatch, played, more.pop("without", ""))
    return open_engine(trt, plan_of(trt, **more), make_log(trt))


def buffers(context: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.arange(4, dtype=np.float32), np.zeros(4, dtype=np.float32)
    context.bind("x", x.ctypes.data)
    context.bind("y", y.ctypes.data)
    return x, y


@pytest.mark.parametrize("version", VERSIONS)
def test_an_inference_runs(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    context = opened(monkeypatch, version).context()
    _, y = buffers(context)
    context.check_shapes()
    context.enqueue(0)
    assert y.tolist() == [1.0, 3.0, 5.0, 7.0]
    assert context.nvtx_verbosity() == "NONE"


def test_another_profile_is_set_and_one_too_many_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(
        monkeypatch,
        inputs=[{"name": "x", "shape": [-1, 4], "dtype": "FLOAT"}],
        outputs=[{"name": "y", "shape": [-1, 4], "dtype": "FLOAT"}],
        profiles=[{"x": [[1, 4], [1, 4], [1, 4]]}, {"x": [[2, 4], [4, 4], [8, 4]]}],
    )
    context = engine.context(1)
    with pytest.raises(MeasurementError, match="these inputs have no shape yet: x"):
        context.check_shapes()
    context.set_input_shape("x", (4, 4))
    context.check_shapes()
    assert context.output_shape("y") == (4, 4)
    assert context.largest_output("y") == 64
    with pytest.raises(UsageError) as caught:
        context.set_input_shape("x", (1, 4))
    assert str(caught.value) == (
        "the engine's input x cannot be [1, 4]; optimisation profile 1 takes [2, 4] to [8, 4]"
    )
    with pytest.raises(UsageError, match="has no optimisation profile 2; it has 0 to 1"):
        engine.context(2)


def test_a_profile_that_is_not_taken_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = [{"x": [[1, 4], [1, 4], [1, 4]]}] * 2
    engine = opened(monkeypatch, profiles=profiles)

    def raises(_self: Any, _profile: int, _stream: int) -> bool:
        raise RuntimeError("Error in set optimization profile async.")

    monkeypatch.setattr(engine.trt.IExecutionContext, "set_optimization_profile_async", raises)
    with pytest.raises(MeasurementError, match=r"does not take optimisation profile 1 \(Error in"):
        engine.context(1)


def test_a_fixed_shape_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    context = opened(monkeypatch).context()
    for shape in ((1, 5), (1, 4, 1)):
        with pytest.raises(UsageError, match=r"input x cannot be \[1, .*; it takes \[1, 4\]"):
            context.set_input_shape("x", shape)


def test_shapes_that_cannot_be_worked_out_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    context = opened(monkeypatch).context()

    def raises(_self: Any) -> list[str]:
        raise RuntimeError("infer_shapes error code: -1")

    monkeypatch.setattr(type(context.raw), "infer_shapes", raises)
    with pytest.raises(MeasurementError, match=r"cannot work out the shapes .*error code: -1"):
        context.check_shapes()


def test_refusals_of_addresses_profiles_and_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(monkeypatch)
    context = engine.context()
    with pytest.raises(MeasurementError, match=r"does not take the address of z .*Error Code 3"):
        context.bind("z", 4096)
    with pytest.raises(MeasurementError, match=r"did not run the inference .*Error Code 3"):
        context.enqueue(0)
    with pytest.raises(MeasurementError, match="does not say how large output x can be"):
        context.largest_output("x")
    allocator = engine.trt.IOutputAllocator()
    with pytest.raises(MeasurementError, match="does not take an allocator for output x"):
        context.allocate_output("x", allocator)
    context.close()
    with pytest.raises(MeasurementError, match="the execution context was closed"):
        context.set_input_shape("x", (1, 4))


def test_a_context_without_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = load_double(monkeypatch)

    class Full(trt.IGpuAllocator):  # type: ignore[misc,name-defined]
        def allocate(self, size: int, alignment: int, flags: int) -> int:
            return 0

        allocate_async = allocate

    plan = plan_of(trt, activation_bytes=4096)
    engine = open_engine(trt, plan, make_log(trt), Full())
    with pytest.raises(MeasurementError) as caught:
        engine.context()
    assert "TensorRT makes no execution context (" in str(caught.value)
    assert "OutOfMemory (Requested size was 4096 bytes.)" in str(caught.value)
    with pytest.raises(MeasurementError, match="has not enough memory for the engine"):
        open_engine(trt, plan_of(trt, weights_bytes=64), make_log(trt), Full())


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_are_reported_when_asked_for(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    engine = opened(monkeypatch, version)
    context = engine.context()
    buffers(context)
    recorder = make_recorder(engine.trt, 10)
    context.attach(recorder)
    context.attach(recorder)  # once more changes nothing
    assert not context.emits_synchronously
    with pytest.raises(MeasurementError, match="TensorRT has no layer times to report"):
        context.report()  # before any inference
    recorder.begin()
    context.enqueue(0)
    assert recorder.count == 0
    context.report()
    assert recorder.times_ms == [0.25, 0.5]
    assert len(context.raw._patients) == 1


def test_a_version_that_cannot_wait_reports_at_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(monkeypatch, without="IExecutionContext.enqueue_emits_profile")
    context = engine.context()
    buffers(context)
    recorder = make_recorder(engine.trt, 10)
    context.attach(recorder)
    assert context.emits_synchronously
    recorder.begin()
    context.enqueue(0)
    assert recorder.times_ms == [0.25, 0.5]
    context.report()
    assert recorder.count == 2


def test_nvtx_marks_that_cannot_be_set_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    context = opened(monkeypatch, without="IExecutionContext.nvtx_verbosity").context()
    assert isinstance(context.nvtx_verbosity(), str)


def test_detaching_makes_a_new_context_with_all_that_was_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = opened(
        monkeypatch,
        inputs=[{"name": "x", "shape": [-1, 4], "dtype": "FLOAT"}],
        outputs=[{"name": "y", "shape": [-1, 4], "dtype": "FLOAT"}],
        profiles=[{"x": [[1, 4], [1, 4], [1, 4]]}, {"x": [[1, 4], [2, 4], [8, 4]]}],
    )
    context = engine.context(1)
    context.set_input_shape("x", (1, 4))
    _, y = buffers(context)
    before = context.raw
    context.detach()
    assert context.raw is before  # nothing was attached
    recorder = make_recorder(engine.trt, 10)
    context.attach(recorder)
    context.raw.profiler = None  # as the real one: logged, and nothing changes
    assert context.raw.profiler is recorder
    assert "(profiler) != nullptr" in engine.log.last_error()
    context.detach()
    assert context.raw is not before
    assert context.raw.profiler is None
    assert context.raw.active_optimization_profile == 1
    recorder.begin()
    context.enqueue(0)
    assert y.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert recorder.count == 0


def test_a_profiler_that_is_not_taken_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(monkeypatch)
    context = engine.context()
    deaf = property(lambda _self: None, lambda _self, _value: None)
    monkeypatch.setattr(type(context.raw), "profiler", deaf)
    with pytest.raises(MeasurementError, match="TensorRT does not take the profiler"):
        context.attach(make_recorder(engine.trt, 10))
