"""What a profiled pass of engines and parts counts as held, and when it measures its own pace."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejoule.errors import MeasurementError  # noqa: E402
from edgejoule.inference.backend import Layer, LayerTimes, Tensor  # noqa: E402
from edgejoule.inference.trt.engine import open_engine  # noqa: E402
from edgejoule.inference.trt.library import make_log  # noqa: E402
from edgejoule.inference.trt.torch_describe import wide_note  # noqa: E402
from edgejoule.inference.trt.torch_layer_times import PartsProfiler  # noqa: E402
from edgejoule.inference.trt.torch_session import PartsSession  # noqa: E402
from edgejoule.inference.trt.torch_slots import EngineRunner  # noqa: E402
from edgejoule.records import NULL_NS  # noqa: E402
from tests.support_host_gpu import HostGpu  # noqa: E402
from tests.support_tensorrt import load_double, plan_of  # noqa: E402
from tests.test_torch_gpu_profiler import Gpu, make, on_its_clock, profile  # noqa: E402

pytestmark = pytest.mark.torch


class Steps:
    """Times by events of an engine, a part in PyTorch and another engine, as given."""

    chunk_inferences = 10

    def __init__(self, lengths: list[list[int]], held: list[int] | None) -> None:
        self.calls: list[str] = []
        self._lengths = np.array(lengths, dtype=np.int64)
        self._held = None if held is None else np.array(held, dtype=np.int64)

    def start(self, inferences: int) -> None:
        self.calls.append(f"start {inferences}")

    def infer(self, which: int) -> None:
        self.calls.append(f"infer {which}")

    def recalibrate(self) -> None:
        self.calls.append("recalibrate")

    def harvest(self, spans: Any) -> LayerTimes:
        count, width = self._lengths.shape
        return LayerTimes(
            np.repeat(np.arange(count, dtype=np.int32), width),
            np.tile(np.arange(width, dtype=np.int16), count),
            self._lengths.reshape(-1),
            np.zeros(count * width, dtype=np.int64),
            count,
            self._held,
        )


class Recorders:
    """TensorRT's own times, as given: engine 0 has two layers, engine 1 one."""

    layers = (("a", "b"), ("c",))

    def __init__(self, calls: list[str], times: tuple[Any, ...], whole: int = 10) -> None:
        self.attached = False
        self._calls, self._times, self._whole = calls, times, whole

    def attach(self, inferences: int, run: Any) -> None:
        self._calls.append("attach")
        self.attached = True
        run()

    def begin(self) -> None:
        self._calls.append("begin")

    def whole(self, inferences: int) -> int:
        return min(self._whole, inferences)

    def durations_ns(self, index: int, inferences: int) -> Any:
        return np.array(self._times[index], dtype=np.int64)[:inferences]


def profiler(steps: Steps, times: tuple[Any, ...] = (), whole: int = 10) -> PartsProfiler:
    recorders: Any = Recorders(steps.calls, times, whole)
    given: Any = steps
    return PartsProfiler(given, [0, None, 1], recorders, "as given")


LENGTHS = [[100, 40, 60], [100, 40, 60], [100, 40, 60]]
OWN = ([[50, 60], [30, 40], [150, 150]], [[65], [50], [60]])


def test_time_that_engines_report_for_themselves_is_not_held_as_well() -> None:
    # Engine 0 reports 10, -30 and 200 more than its events, engine 1 5, -10 and 0.
    times = profiler(Steps(LENGTHS, [90, 90, 90]), OWN).harvest([(0, 300)] * 3)
    assert times.duration_ns.reshape(3, 4).tolist() == [
        [50, 60, 40, 65], [30, 40, 40, 50], [150, 150, 40, 60],
    ]  # fmt: skip
    assert times.held_ns is not None
    assert times.held_ns.tolist() == [75, 90, 0]
    assert times.start_offset_ns is not None
    assert times.start_offset_ns.tolist() == [NULL_NS, NULL_NS, 0, NULL_NS] * 3
    fewer = profiler(Steps(LENGTHS, [90, 90, 90]), OWN, whole=2).harvest([(0, 300)] * 3)
    assert fewer.held_ns is not None
    assert (fewer.inferences, fewer.held_ns.tolist()) == (2, [75, 90])
    assert profiler(Steps(LENGTHS, None), OWN).harvest([(0, 300)] * 3).held_ns is None


def test_the_pace_is_measured_again_once_recorders_are_attached() -> None:
    steps = Steps(LENGTHS, None)
    timed = profiler(steps)
    timed.start(3)
    assert steps.calls == ["start 3", "attach", "infer 0", "recalibrate", "start 3", "begin"]
    steps.calls.clear()
    timed.start(2)
    assert steps.calls == ["start 2", "begin"]


@pytest.mark.parametrize("again", [True, False])
def test_a_pace_measured_again_holds_from_the_first_inference(
    monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    gpu = on_its_clock(Gpu(), monkeypatch)
    steps = make(gpu)
    profile(gpu, steps, 2)
    cost, before = steps._cost, steps.facts()["profiler_delay_ns"]
    gpu.host_ns *= 3
    if again:
        steps.recalibrate()
    steps.start(2)
    assert (steps._cost is not cost) == again
    assert steps.facts()["profiler_event_cost"] is not None
    start = gpu.now_ns
    steps.infer(0)
    steps.harvest([(start, gpu.now_ns)])
    assert steps.facts()["profiler_late_inferences"] == 0
    assert steps.facts()["profiler_delay_ns"] > 2 * before


def layers(*dtypes: str | None) -> list[Layer]:
    return [
        Layer(index, f"l{index}", outputs=(Tensor("t", (1,), dtype),))
        for index, dtype in enumerate(dtypes)
    ]


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_an_engine_that_computes_wider_than_the_run_is_noted(half: str) -> None:
    bindings = [{"dtype": "int64"}, {"dtype": half}]
    wide, narrow = "float32", half
    note = wide_note(bindings, layers(wide, wide, narrow, None))
    assert note.startswith("2 of 3 layers that tell their dtype write float32")
    assert f"the engine's tensors are {half}" in note
    assert wide_note(bindings, layers(wide, narrow)) == ""
    assert wide_note(bindings, layers(None, None)) == ""
    assert wide_note(bindings, [Layer(0, "no outputs told")]) == ""
    assert wide_note([{"dtype": "float32"}], layers(wide, wide)) == ""


def test_the_note_stands_with_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Of layers that the double's inspector tells: two of three write float32."""
    from edgejoule.inference.trt.origin import Origin
    from edgejoule.inference.trt.torch_describe import describe_parts
    from edgejoule.inference.trt.torch_parts import EnginePart, Parts

    graph = torch.fx.Graph()
    slot = graph.call_module("engine_0", (graph.placeholder("x"),))
    graph.output((slot,))
    module = torch.fx.GraphModule({"engine_0": torch.nn.Identity()}, graph)
    trt = load_double(monkeypatch)
    tensors = [{"name": "x", "shape": [1, 4], "dtype": "HALF"}]
    results = [{"name": "y", "shape": [1, 4], "dtype": "HALF", "scale": 1.0}]
    for inner, noted in (("inner", True), ("y", False)):  # `inner` is float32 to the double
        plan = plan_of(
            trt,
            inputs=tensors,
            outputs=results,
            layers=[
                {"name": f"l{index}", "type": "kgen", "ms": 0.1, "outputs": [name]}
                for index, name in enumerate([inner, inner, "y"])
            ],
        )
        part = EnginePart(0, "acc", "class", plan, ("x",), ("y",))
        found = describe_parts(
            Parts(module, (part,)), lambda _part: Origin({}), trt, make_log(trt), None, tmp_path
        )
        assert ("note" in found.engines[0]) == noted
    assert found.engines[0]["layers"] == 3


def runner(monkeypatch: pytest.MonkeyPatch) -> EngineRunner:
    trt = load_double(monkeypatch)
    engine = open_engine(trt, plan_of(trt), make_log(trt))
    return EngineRunner(engine, ("x",), ("y",), HostGpu(), single=True)


def test_what_lies_elsewhere_is_moved_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    run = runner(monkeypatch)
    moved: list[Any] = []

    def as_tensor(value: Any, *, device: str) -> Any:
        moved.append((value, device))
        return torch.as_tensor(value, device=device)

    run._as_tensor = as_tensor
    assert run([[1.0, 2.0, 3.0, 4.0]]).tolist() == [[3.0, 5.0, 7.0, 9.0]]
    assert moved == [([[1.0, 2.0, 3.0, 4.0]], "cpu")]
    assert run.copies == 1
    run(torch.ones(1, 4))
    assert (run.copies, len(moved)) == (1, 1)
    run._on_host = False  # as on a GPU: a tensor of the CPU's is elsewhere
    assert run(torch.zeros(1, 4)).tolist() == [[1.0] * 4]
    assert run.copies == 2
    with pytest.raises(MeasurementError, match=r"input x of an engine is torch\.int64"):
        run(3)
    run.close()


def test_a_plain_number_for_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = load_double(monkeypatch)
    inputs = [{"name": "x", "shape": [], "dtype": "FLOAT"}]
    outputs = [{"name": "y", "shape": [], "dtype": "FLOAT", "scale": 2.0}]
    engine = open_engine(trt, plan_of(trt, inputs=inputs, outputs=outputs), make_log(trt))
    run = EngineRunner(engine, ("x",), ("y",), HostGpu(), single=True)
    assert run(1.5).item() == 3.0
    assert run.copies == 1
    run.close()


def test_complex_outputs_are_left_out() -> None:
    session = PartsSession.__new__(PartsSession)
    session._gpu = HostGpu()
    session._graphs = [
        types.SimpleNamespace(
            replay=lambda: None,
            pool=None,
            outputs=(torch.ones(2, dtype=torch.cfloat), torch.ones(2)),
        )
    ]
    (real,) = session.outputs(0)
    assert real.tolist() == [1.0, 1.0]
    session._graphs[0].outputs = (torch.ones(2, dtype=torch.cfloat),)
    with pytest.raises(MeasurementError, match="the model returns nothing but complex numbers"):
        session.outputs(0)
