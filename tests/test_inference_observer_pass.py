"""The observer pass on a clock of its own: which blocks, how long, and what is waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.energy.observer import observer_effect, pairs_of
from edgejoule.errors import Interrupted
from edgejoule.inference import observer_pass as module
from edgejoule.inference.backend import LayerTimes
from edgejoule.inference.observer_pass import ObserverResult, block_length_s, observer_pass
from edgejoule.inference.passes import CleanResult
from edgejoule.phases import PhaseBoard, read_phases

MS = 1_000_000


class Clock:
    """Stands in for the module `time`: only inferences take any."""

    def __init__(self) -> None:
        self.now_ns = 5_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns * 1e-9


class Machine:
    """A board, a runner and a network of 10 ms; 1 % slower with the sampler, 5 % profiled."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder = folder
        self.clock = clock
        self.board = PhaseBoard(folder / "page.bin", folder / "phases.jsonl")
        self.inferences = 0
        self.stop_after = 10**9
        self.phase = ""
        mark = self.board.mark

        def marked(phase: str, at_ns: int | None = None) -> int:
            self.phase = phase
            return mark(phase, clock.now_ns if at_ns is None else at_ns)

        self.board.mark = marked  # type: ignore[method-assign]

    def stamp(self, index: int, infer: Callable[[int], None]) -> tuple[int, int]:
        assert index == self.inferences
        self.inferences += 1
        start_ns = self.clock.now_ns
        infer(index)
        return start_ns, self.clock.now_ns

    def check_now_and_then(self, now_ns: int) -> None:
        assert now_ns == self.clock.now_ns
        self.check()

    def check(self) -> None:
        if self.inferences >= self.stop_after:
            raise Interrupted("the measurement was stopped")

    def infer(self, which: int) -> None:
        del which
        self.clock.now_ns += 10 * MS if self.phase == "unsampled" else 101 * MS // 10


class Profiler:
    """Makes inferences 5 % slower; a start takes some time."""

    def __init__(self, machine: Machine, start_ms: int = 20, chunk: int = 1000) -> None:
        self.chunk_inferences = chunk
        self.starts: list[int] = []
        self.left = 0
        self._machine = machine
        self._start_ms = start_ms

    def start(self, inferences: int) -> None:
        assert inferences <= self.chunk_inferences
        self.starts.append(inferences)
        self.left = inferences
        self._machine.clock.now_ns += self._start_ms * MS

    def infer(self, which: int) -> None:
        del which
        assert self._machine.phase == "observed"
        self._machine.clock.now_ns += 106 * MS // 10

    def after(self) -> None:
        self.left -= 1

    def harvest(self, spans: Any) -> LayerTimes:
        assert self.left == 0
        assert self._machine.phase == "harvest"
        empty = np.empty(0, np.int64)
        return LayerTimes(empty, empty, empty, None, len(spans))

    def close(self) -> None:
        raise AssertionError("it goes on with the profiled pass")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    made = Machine(tmp_path, clock)
    yield made
    made.board.close()


def clean(seconds: float, latency_ms: float = 10.0) -> CleanResult:
    return CleanResult(100, seconds, latency_ms, latency_ms, 1.0, 5.0, "made up")


def observe(
    machine: Machine, profiler: Profiler | None, clean_s: float = 40.0, **options: Any
) -> ObserverResult:
    asked = {"clean": clean(clean_s), "most_s": 8.0, "sampled": True, "seed": 1, **options}
    return observer_pass(machine, machine.infer, profiler, **asked)  # type: ignore[arg-type]


def test_blocks_are_balanced_in_fours_and_show_both_effects(machine: Machine) -> None:
    profiler = Profiler(machine)
    result = observe(machine, profiler)
    assert result.why is None
    assert result.seconds <= 8.0
    for factor in ("sampler", "profiler"):
        own = [block for block in result.blocks if block.factor == factor]
        assert len(own) % 4 == 0
        assert len(own) >= 8
        for four in {block.four for block in own}:
            on = [getattr(block, factor) for block in own if block.four == four]
            assert on in ([True, False, False, True], [False, True, True, False])
    orders = {
        tuple(block.sampler for block in result.blocks if block.four == four)
        for four in {block.four for block in result.blocks if block.factor == "sampler"}
    }
    assert len(orders) == 2  # the next four the other way round
    found = observer_effect(result.to_json(), {}, lambda _: 0)
    assert found is not None
    assert found["sampler"]["latency_percent"] == pytest.approx(1.0)
    assert found["profiler"]["latency_percent"] == pytest.approx(100 * (10.6 / 10.1 - 1))
    assert len(pairs_of(result.to_json()["blocks"], "sampler")) >= 4


def test_inferences_count_once_the_switch_has_taken_effect(machine: Machine) -> None:
    result = observe(machine, None)
    spans = read_phases(machine.folder / "phases.jsonl")
    assert {span.phase for span in spans} == {"observed", "unsampled"}
    for block in result.blocks:
        (span,) = [
            one
            for one in spans
            if one.start_ns <= block.start_ns and (one.end_ns or 10**18) >= block.end_ns
        ]
        assert span.phase == ("observed" if block.sampler else "unsampled")
        assert block.start_ns - span.start_ns >= 100 * MS


def test_it_takes_no_more_than_a_quarter_of_the_clean_pass(machine: Machine) -> None:
    begin_ns = machine.clock.now_ns
    result = observe(machine, Profiler(machine), clean_s=8.0)
    assert len(result.blocks) >= 8
    assert (machine.clock.now_ns - begin_ns) * 1e-9 <= 2.3


def test_a_tiny_pass_pays_nothing(machine: Machine) -> None:
    profiler = Profiler(machine)
    result = observe(machine, profiler, clean_s=0.3)
    assert (result.blocks, profiler.starts, machine.inferences) == ((), [], 0)
    told: list[float] = []
    observe(machine, profiler, clean_s=0.3, say=told.append)
    assert told == []
    observe(machine, profiler, clean_s=12.0, say=told.append)
    assert told == [3.0]
    machine.inferences = 0
    assert "too short" in str(result.why)
    assert result.to_json()["blocks"] == []
    nothing = observe(machine, None, sampled=False)
    assert nothing.why == "there is nothing to switch"


def test_a_slow_start_is_made_twice_at_most(machine: Machine) -> None:
    profiler = Profiler(machine, start_ms=400)
    result = observe(machine, profiler)
    assert len(profiler.starts) == 2
    assert sum(block.profiler for block in result.blocks) == 2


def test_a_chunk_is_never_longer_than_the_profiler_can(machine: Machine) -> None:
    profiler = Profiler(machine, chunk=5)
    result = observe(machine, profiler)
    assert set(profiler.starts) == {5}
    assert {block.inferences for block in result.blocks if block.profiler} == {3}


def test_a_profiler_that_takes_one_inference_at_a_time(machine: Machine) -> None:
    result = observe(machine, Profiler(machine, chunk=1))
    assert {block.inferences for block in result.blocks if block.profiler} == {1}


def test_without_a_sampler_the_profiler_alone_is_switched(machine: Machine) -> None:
    result = observe(machine, Profiler(machine), sampled=False)
    assert {block.factor for block in result.blocks} == {"profiler"}
    assert all(block.sampler for block in result.blocks)


def test_a_stop_is_heeded(machine: Machine) -> None:
    machine.stop_after = 30
    with pytest.raises(Interrupted):
        observe(machine, None)
    assert machine.inferences == 30


@pytest.mark.parametrize(
    ("part_s", "latency_s", "least_fours"),
    [(4.0, 0.01, 3), (2.0, 0.001, 2), (0.2, 0.001, 1), (4.0, 0.3, 1), (40.0, 0.01, 20)],
)
def test_the_length_of_a_block(part_s: float, latency_s: float, least_fours: int) -> None:
    length_s = block_length_s(part_s, latency_s)
    assert 0.0 <= length_s <= max(0.25, 20 * latency_s)
    assert part_s / (4 * length_s + 0.3) >= least_fours * (0.999 if length_s else 0.0)
