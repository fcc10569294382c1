"""The GPU's profiler of exported programs, on a GPU of which everything is known.

`Gpu` is a stand-in for a CUDA stream: commands take up the time that they say, one after the other,
none before the host has given it, and events read the GPU's own clock. So the times that the
profiler finds can be compared with the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgejoule.inference import torch_event_cost, torch_gpu_profiler
from edgejoule.inference.probe import Probe
from edgejoule.inference.torch_event_cost import KernelTime, measure_cost, trace_kernel
from edgejoule.inference.torch_gpu_profiler import GpuProfiler, _segments
from edgejoule.inference.torch_graph import Program, Step

KERNEL_NS = 1_100.0
EVENT_NS = 640.0  # of one event
REACH_NS = 2_300.0  # added by the first kernel after an event
BETWEEN_NS = 1_000.0  # from a kernel to the next
TRACED = KernelTime(KERNEL_NS, "traced")


class Event:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.at_ns = gpu, 0.0

    def elapsed_time(self, other: Event) -> float:
        return (other.at_ns - self.at_ns) * self.gpu.skew / 1e6


class Gpu:
    def __init__(self, *, host_ns: int = 5_000, slower: float = 1.0, skew: float = 1.0) -> None:
        self.now_ns = 1_000_000  # the host's clock: each command costs it something
        self.free_ns = 0.0
        self.host_ns, self.slower, self.skew = host_ns, slower, skew
        self.first = True
        self.made = self.waits = 0
        self.delays: list[float] = []

    def clock(self) -> int:
        return self.now_ns

    def _give(self, takes_ns: float) -> float:
        self.now_ns += self.host_ns
        self.free_ns = max(self.free_ns, self.now_ns) + takes_ns
        return self.free_ns

    def new(self) -> Event:
        self.made += 1
        return Event(self)

    def record(self, event: Event) -> None:
        event.at_ns = self._give(EVENT_NS)
        self.first = True

    def delay(self, nanoseconds: float) -> None:
        self.delays.append(nanoseconds)
        self._give(nanoseconds * self.slower)

    def launch(self, takes_ns: float) -> None:
        self._give((REACH_NS if self.first else BETWEEN_NS) + takes_ns)
        self.first = False

    def kernel(self) -> None:
        self.launch(KERNEL_NS)

    def cycles_per_ns(self) -> float:
        return 1.0

    def synchronise(self) -> None:
        self.waits += 1
        self.now_ns = round(max(self.now_ns, self.free_ns))


def program_of(gpu: Gpu, nodes: list[list[float]]) -> Program:
    """A program whose nodes launch kernels of these times."""

    def function(kernels: list[float]) -> Callable[..., Any]:
        def run() -> int:
            for takes_ns in kernels:
                gpu.launch(takes_ns)
            return 1

        return run

    steps = tuple(
        Step(f"n{i}", function(kernels), (), (), None, {}, i, (), ())
        for i, kernels in enumerate(nodes)
    )
    return Program(steps, (None,) * len(nodes), ())


NODES = [[20_000.0], [1_200.0, 1_300.0, 2_000.0], [], [1_150.0], [6_000.0, 1_000.0]] * 30
TRUTH = np.array([sum(kernels) for kernels in NODES])
COUNTS = [len(kernels) for kernels in NODES]


def profile(
    gpu: Gpu, profiler: GpuProfiler, runs: int
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    profiler.start(runs)
    spans = []
    for _ in range(runs):
        start = gpu.now_ns
        profiler.infer(0)
        spans.append((start, gpu.now_ns))
        profiler.after()
    times = profiler.harvest(spans)
    assert times.inferences == runs
    shape = (runs, len(NODES))
    assert times.start_offset_ns is not None
    return times.duration_ns.reshape(shape), times.start_offset_ns.reshape(shape), spans


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return on_its_clock(Gpu(), monkeypatch)


def on_its_clock(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    monkeypatch.setattr(torch_gpu_profiler.time, "monotonic_ns", gpu.clock)
    return gpu


def make(gpu: Gpu, kernel: KernelTime = TRACED, counts: Any = COUNTS) -> GpuProfiler:
    return GpuProfiler(program_of(gpu, NODES), [()], gpu, kernel, counts)


def test_the_times_found_are_the_kernels_own(gpu: Gpu) -> None:
    profiler = make(gpu)
    for runs in (3, 5, 2):
        durations, offsets, spans = profile(gpu, profiler, runs)
        assert np.abs(durations - TRUTH).max() <= 1
        ends = offsets + durations
        assert (offsets >= 0).all()
        assert (ends[:, :-1] <= offsets[:, 1:]).all()
        assert (ends <= np.array([end - start for start, end in spans])[:, None]).all()
    facts = profiler.facts()
    assert facts["profiler_late_inferences"] == 0
    assert facts["profiler_inferences"] == 10
    cost = facts["profiler_event_cost"]
    assert cost["empty_ns"] == pytest.approx(EVENT_NS, abs=1)
    assert cost["first_ns"] == pytest.approx(EVENT_NS + REACH_NS, abs=1)
    assert cost["further_ns"] == pytest.approx(BETWEEN_NS, abs=1)
    assert cost["how"] == "traced"
    profiler.close()


def test_what_the_profiler_adds_to_an_inference_is_told(gpu: Gpu) -> None:
    """The delay and the events: all that the device did before the last node's end, but nodes."""
    profiler = make(gpu)
    profiler.start(3)
    spans = []
    for _ in range(3):
        start = gpu.now_ns
        profiler.infer(0)
        spans.append((start, gpu.now_ns))
        profiler.after()
    times = profiler.harvest(spans)
    assert times.held_ns is not None
    lengths = np.array([end - start for start, end in spans])
    rest = lengths - times.held_ns - times.duration_ns.reshape(3, -1).sum(axis=1)
    assert (times.held_ns > 0.5 * lengths).all()  # this host is far slower than this device
    assert (rest >= 0).all()
    ways = BETWEEN_NS * sum(max(0, len(kernels) - 1) for kernels in NODES)  # there in any case
    assert ways - 1 <= rest.min()
    assert rest.max() <= ways + 5_000 + EVENT_NS + 1  # and the host waits for the end


def test_events_are_made_once_and_there_is_one_wait_per_inference(gpu: Gpu) -> None:
    profiler = make(gpu)
    profiler.start(4)
    made, waits = gpu.made, gpu.waits
    for _ in range(4):
        profiler.infer(0)
        profiler.after()
    profiler.harvest([(0, 10**12)] * 4)
    assert gpu.waits == waits + 4
    profiler.start(4)
    assert gpu.made == made


def test_without_a_delay_the_hosts_launches_would_be_in_the_times(gpu: Gpu) -> None:
    """The stand-in is no easier than the real thing."""
    program = program_of(gpu, NODES)
    pairs = []
    for step in program.steps:
        first, second = gpu.new(), gpu.new()
        gpu.record(first)
        step.function()
        gpu.record(second)
        pairs.append(first.elapsed_time(second) * 1e6)
    assert sum(pairs) > 1.8 * TRUTH.sum()


def test_the_delay_is_no_longer_than_it_needs_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is slower than its host needs none to speak of."""
    slow = on_its_clock(Gpu(host_ns=50), monkeypatch)
    profiler = make(slow)
    durations, _, _ = profile(slow, profiler, 3)
    assert np.abs(durations - TRUTH).max() <= 1
    assert profiler.facts()["profiler_delay_ns"] <= 100_000
    fast = on_its_clock(Gpu(host_ns=5_000), monkeypatch)
    profiler = make(fast)
    profile(fast, profiler, 3)
    host_ns = 5_000 * sum(2 + count for count in COUNTS)
    assert host_ns - TRUTH.sum() < profiler.facts()["profiler_delay_ns"] < 2 * host_ns


def test_a_clock_that_runs_faster_than_calibrated_is_made_up_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = on_its_clock(Gpu(slower=0.6), monkeypatch)  # the delay ends early
    profiler = make(short)
    durations, _, _ = profile(short, profiler, 3)
    assert profiler.facts()["profiler_late_inferences"] == 0
    assert np.abs(durations - TRUTH).max() <= 1


def test_a_host_that_becomes_slower_is_late_once_and_then_waited_for(gpu: Gpu) -> None:
    profiler = make(gpu)
    profiler.start(12)
    before = profiler.facts()["profiler_delay_ns"]
    spans, durations = [], []
    for index in range(12):
        if index == 2:
            gpu.host_ns *= 3  # something else has the CPU
        start = gpu.now_ns
        profiler.infer(0)
        spans.append((start, gpu.now_ns))
        profiler.after()
    durations = profiler.harvest(spans).duration_ns.reshape(12, len(NODES))
    facts = profiler.facts()
    assert facts["profiler_late_indexes"] == [2]
    assert facts["profiler_late_inferences"] == 1
    assert facts["profiler_delay_ns"] > 2 * before
    exact = np.abs(durations - TRUTH).max(axis=1) <= 1
    assert exact.tolist() == [index != 2 for index in range(12)]
    gpu.host_ns //= 3
    profile(gpu, profiler, 12)
    assert profiler.facts()["profiler_delay_ns"] < 2 * before  # and no longer than that


def test_a_kernel_traced_at_another_clock_is_scaled(gpu: Gpu) -> None:
    slower = KernelTime(KERNEL_NS / 2, "traced", cycles_per_ns=2.0)
    cost = measure_cost(gpu, slower, 3 * gpu.host_ns)
    assert cost.first_ns == pytest.approx(EVENT_NS + REACH_NS, abs=1)


def test_without_tracing_the_way_between_kernels_is_part_of_a_layer_and_that_is_said(
    gpu: Gpu,
) -> None:
    profiler = make(gpu, KernelTime(None, "not allowed"))
    durations, _, _ = profile(gpu, profiler, 2)
    # One such way per kernel: to the next, wherever it belongs.
    expected = TRUTH + BETWEEN_NS * np.array(COUNTS)
    assert np.abs(durations - expected).max() <= 1
    cost = profiler.facts()["profiler_event_cost"]
    assert cost["further_ns"] == 0.0
    assert cost["how"].startswith("events alone (not allowed): what the GPU takes from one kernel")


def test_where_kernels_are_not_counted_a_node_has_one(gpu: Gpu) -> None:
    profiler = make(gpu, counts=None)
    durations, _, _ = profile(gpu, profiler, 2)
    ones = np.array(COUNTS) == 1
    assert np.abs(durations[:, ones] - TRUTH[ones]).max() <= 1
    threes = np.array(COUNTS) == 3
    assert durations[:, threes] == pytest.approx(TRUTH[threes].mean() + 2 * BETWEEN_NS, abs=1)
    assert profiler.facts()["profiler_times_below_zero"] == 2 * COUNTS.count(0)  # not theirs
    assert (durations >= 0).all()


def test_a_gpu_whose_clock_differs_keeps_layers_within_the_inference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skewed = on_its_clock(Gpu(skew=1.001), monkeypatch)
    durations, offsets, spans = profile(skewed, make(skewed), 3)
    ends = offsets + durations
    assert (ends <= np.array([end - start for start, end in spans])[:, None]).all()


def test_long_programs_are_held_back_in_pieces() -> None:
    assert _segments(0, None) == []
    assert _segments(150, None) == [0]
    assert _segments(500, None) == [0, 200, 400]
    assert _segments(4, [300, 300, 1, 1]) == [0, 1]
    assert _segments(2, [5_000, 1]) == [0, 1]


def test_pieces_give_the_same_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_gpu_profiler, "_COMMANDS_PER_SEGMENT", 120)
    gpu = on_its_clock(Gpu(), monkeypatch)
    profiler = make(gpu)
    durations, offsets, _ = profile(gpu, profiler, 3)
    assert len(profiler._segments) > 3
    assert np.abs(durations - TRUTH).max() <= 1
    assert profiler.facts()["profiler_late_inferences"] == 0
    assert (np.diff(offsets, axis=1) > 0).all()


def test_a_program_of_no_steps(gpu: Gpu) -> None:
    profiler = GpuProfiler(Program((), (), ()), [()], gpu, TRACED, ())
    profiler.start(2)
    profiler.infer(0)
    profiler.infer(0)
    times = profiler.harvest([(0, 10**9), (10**9, 2 * 10**9)])
    assert (times.inferences, len(times.layer)) == (2, 0)
    assert profiler.facts()["profiler_event_cost"] is None


def test_the_cost_is_measured_where_the_stream_is_full(gpu: Gpu) -> None:
    cost = measure_cost(gpu, TRACED, 3 * gpu.host_ns)
    assert len(gpu.delays) == 4 * 5
    assert cost.of([0, 1, 3], 3) == pytest.approx(
        [EVENT_NS, EVENT_NS + REACH_NS, EVENT_NS + REACH_NS + 2 * BETWEEN_NS], abs=1
    )
    assert cost.of(None, 2) == pytest.approx([EVENT_NS + REACH_NS] * 2, abs=1)


@pytest.mark.parametrize(
    ("found", "ns", "how"),
    [
        (Probe(facts={"cycles_per_ns": 1.9, "ns": [1_100.0] * 299 + [9_000.0]}), 1_100.0, "CUPTI"),
        (
            Probe(facts={"cycles_per_ns": 1.9, "ns": []}),
            None,
            "the driver's tracing saw 0 of 300 kernels",
        ),
        (Probe(error="CUPTI_ERROR_INSUFFICIENT_PRIVILEGES"), None, "failed: CUPTI_ERROR_INSUF"),
    ],
)
def test_what_tracing_says(
    monkeypatch: pytest.MonkeyPatch, found: Probe, ns: float | None, how: str
) -> None:
    asked = []
    monkeypatch.setattr(torch_event_cost, "probe", lambda code: (asked.append(code), found)[1])
    kernel = trace_kernel("cuda:1")
    assert kernel.ns == ns
    assert how in kernel.how
    assert 'set_device("cuda:1")' in asked[0]
    compile(asked[0], "traced", "exec")
