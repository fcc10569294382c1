"""Launches of torch's replay on a GPU that is put in: what is captured, queued, waited for."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from edgejoule.errors import MeasurementError, UsageError  # noqa: E402
from edgejoule.inference import torch_replay_launch as launch  # noqa: E402
from edgejoule.inference.torch_cuda_graph import CapturedGraph  # noqa: E402
from edgejoule.inference.torch_graph import flatten_program  # noqa: E402
from edgejoule.inference.torch_replay import TorchReplayer  # noqa: E402

pytestmark = pytest.mark.torch


class Gpu:
    """Takes `each_ms` per execution, starts what it is given in order, keeps a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, each_ms: float, fails: Any = None) -> None:
        self.each_ms, self.fails = each_ms, fails
        self.launch_ms = 0.0
        self.now_ms = 0.0  # when all that was given is through
        self.seen_ms = 0.0  # up to when the host has waited
        self.captured: list[int] = []
        self.sides: list[Any] = []
        self.executed = 0
        self.emptied = 0
        monkeypatch.setattr(launch, "capture", self.capture)
        monkeypatch.setattr(launch, "nodes_recorded", self.nodes_recorded)
        monkeypatch.setattr(launch, "synchronise", self.wait)
        monkeypatch.setattr(launch, "cycles_per_ns", self.clock)
        self.clocked_behind: list[float] = []
        monkeypatch.setattr(torch.cuda, "Event", lambda **_: Event(self))
        monkeypatch.setattr(torch.cuda, "empty_cache", self.empty)
        self.nodes: int | None = None

    def run(self, first: int, count: int) -> list[int]:
        assert first == 0
        self.executed += count
        self.now_ms += count * self.each_ms + self.launch_ms
        if self.nodes is not None:
            self.nodes += 3 * count
        return [count]

    def capture(self, call: Any, side: Any = None, warm: Any = None) -> CapturedGraph:
        self.sides.append(side)
        if self.fails is not None:
            raise self.fails
        warm()
        held, self.nodes = self.now_ms, 5
        before = self.executed
        outputs = call()
        count = self.executed - before
        self.now_ms, self.executed, self.nodes = held, before, None
        self.captured.append(count)

        class Graph:
            def replay(_) -> None:  # noqa: N805
                self.run(0, count)

        return CapturedGraph(Graph(), outputs)

    def nodes_recorded(self) -> int | None:
        return self.nodes

    def clock(self) -> float:
        self.clocked_behind.append(self.now_ms)
        return 1.98

    def wait(self) -> None:
        self.seen_ms = self.now_ms

    def empty(self) -> None:
        self.emptied += 1


class Event:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.at_ms = 0.0

    def record(self) -> None:
        self.at_ms = self.gpu.now_ms

    def synchronize(self) -> None:
        self.gpu.seen_ms = max(self.gpu.seen_ms, self.at_ms)

    def elapsed_time(self, other: Event) -> float:
        return other.at_ms - self.at_ms


@pytest.mark.parametrize(
    ("each_ms", "cycle", "count"),
    [(0.002, 1, 4000), (0.002, 96, 4032), (0.5, 4, 16), (5.0, 4, 4), (100.0, 1, 1)],
)
def test_a_launch_is_some_milliseconds_of_whole_cycles(
    monkeypatch: pytest.MonkeyPatch, each_ms: float, cycle: int, count: int
) -> None:
    gpu = Gpu(monkeypatch, each_ms)
    gpu.launch_ms = 0.01  # of the host; a graph's first kernel takes as long
    it = launch.GpuLaunches(gpu.run, cycle, {"layer": 3}, lambda: None)
    facts = it.facts()
    assert facts["executions_per_launch"] == gpu.captured[-1]
    assert facts["executions_per_launch"] == pytest.approx(count, rel=0.35)
    assert facts["executions_per_launch"] % cycle == 0
    assert len(gpu.captured) <= 3
    assert facts["kernels_per_execution"] == 3
    assert facts["how"] == "CUDA graph"
    assert facts["layer"] == 3
    assert it.outputs == [gpu.captured[-1]]


def test_one_launch_is_queued_ahead_and_only_finished_ones_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch, 1.0)
    it = launch.GpuLaunches(gpu.run, 8, {}, lambda: None)
    before, start = gpu.executed, gpu.now_ms
    done = 0
    for number in range(1, 6):
        done += it.launch()
        assert gpu.executed - before == done + 8  # one more is with the GPU
        assert gpu.seen_ms - start == pytest.approx(8.0 * number)
    through = gpu.now_ms
    assert it.facts()["clock_mhz"] == 1980
    assert gpu.clocked_behind == [through + 8.0]  # of a GPU at work
    given: list[bool] = []
    it._give_back = lambda: given.append(gpu.seen_ms == gpu.now_ms)
    it.close()
    assert given == [True]  # and not while the GPU still reads the copies
    assert gpu.emptied
    assert it.outputs is None
    with pytest.raises(MeasurementError, match="closed"):
        it.launch()


def test_what_cannot_be_captured_is_called_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch, 1.0, UsageError("the model cannot be captured as a CUDA graph (sync)"))
    it = launch.GpuLaunches(gpu.run, 2, {}, lambda: None)
    assert it.facts()["how"].startswith("loop of the host: the model cannot be captured")
    assert it.facts()["kernels_per_execution"] is None
    assert it.launch() == 8
    assert it.outputs == [8]


def test_want_of_memory_is_not_taken_for_a_failed_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch, 1.0, MeasurementError("not enough memory"))
    with pytest.raises(MeasurementError, match="not enough memory"):
        launch.GpuLaunches(gpu.run, 2, {}, lambda: None)


def test_the_cpus_turns_go_on_where_the_last_launch_ended() -> None:
    calls: list[tuple[int, int]] = []

    def run(first: int, count: int) -> None:
        calls.append((first, count))

    it = launch.CpuLaunches(run, {}, lambda: None)
    count = it.facts()["executions_per_launch"]
    assert 1 <= count <= 20_000
    calls.clear()
    it.launch()
    it.launch()
    assert calls == [(0, count), (count, count)]


class Layers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x: Any) -> Any:
        return torch.relu_(self.conv(x))


def on_gpu(monkeypatch: pytest.MonkeyPatch, sets: int = 2) -> TorchReplayer:
    """The CPU's program with all that belongs to a GPU put in."""
    torch.manual_seed(0)
    inputs = [(torch.rand(1, 3, 8, 8),) for _ in range(sets)]
    exported = torch.export.export(Layers().eval(), inputs[0], strict=False)
    program = flatten_program(exported.module())
    replayer = TorchReplayer(program, inputs, "cpu", [2, 1], [None, None])
    replayer._gpu = True
    monkeypatch.setattr("edgejoule.inference.torch_replay.timed_ns", lambda *_: 1e6)
    monkeypatch.setattr("edgejoule.inference.torch_replay.synchronise", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda *_: "side")
    monkeypatch.setattr(launch.GpuLaunches, "_each_ns", lambda _: 1e6)
    return replayer


def test_a_captured_network_is_compared_with_the_executed_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch, 1.0)
    replayer = on_gpu(monkeypatch)
    with torch.inference_mode():
        assert replayer.plan().groups == ((0,), (1,))
        whole = replayer.whole()
        whole.close()
        one = replayer.layer(1)
        assert one.facts()["kernels_in_network"] == 1
        one.close()
        again = replayer.duplicated(1, 3)
        assert again.facts()["copies"] == 3
        again.close()
        honest = gpu.capture

        def wrong(call: Any, **more: Any) -> CapturedGraph:
            graph = honest(call, **more)
            graph.outputs = [tensor + 1 for tensor in graph.outputs]
            return graph

        assert set(gpu.sides) == {"side"}  # one stream for all of them

        monkeypatch.setattr(launch, "capture", wrong)
        with pytest.raises(MeasurementError, match="returns other values than executed"):
            replayer.whole()
        with pytest.raises(MeasurementError, match="returns other values than executed"):
            replayer.layer(0)
