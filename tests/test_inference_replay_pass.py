"""The replay pass on things that take no time: order, budget, failures, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgejoule.energy.replay_segments import IDLE, LAYER, WHOLE, Segments, segments_of
from edgejoule.energy.trace import RailPower
from edgejoule.errors import Interrupted, MeasurementError
from edgejoule.inference import duplication_pass, replay_bench, replay_pass
from edgejoule.inference.replay_bench import ReplayBench
from edgejoule.inference.replaying import ReplayPlan
from edgejoule.phases import PageReader, PhaseBoard, read_phases
from edgejoule.records import REPLAY, RecordWriter, read_header

LAYER_MS = (4.0, 3.0, 2.0, 4.0, 1.0, 0.0)
PLAN = ReplayPlan(
    groups=((0, 3), (1,), (2,)),
    nothing=(5,),
    left_out={4: "its output is its input"},
    duplicable=(2, 0, 1),
    notes=("one of a kind",),
)


class Clock:
    """Time that passes only where something takes time; stands in for the module `time`."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns * 1e-9


class Runner:
    """As a pass's runner, on that clock; the page and the log of phases are real."""

    def __init__(self, board: PhaseBoard, clock: Clock) -> None:
        self.board = board
        self.clock = clock
        self.stopped = False

    def check_now_and_then(self, now_ns: int) -> None:
        assert now_ns <= self.clock.now_ns
        if self.stopped:
            raise Interrupted("the measurement was stopped")

    def sleep_until(self, until_ns: int) -> None:
        self.check_now_and_then(0)
        self.clock.now_ns = max(self.clock.now_ns, until_ns)


class Bench:
    """A folder, a clock and a runner."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.board = PhaseBoard(folder / "page.bin", folder / "phases.jsonl")
        self.runner = Runner(self.board, self.clock)

    def thing(self, launch: Callable[[], int] = lambda: 4) -> Thing:
        return Thing(self.clock, launch)


class Thing:
    """Repeats for 4 ms; says that it did so four times."""

    def __init__(self, clock: Clock, launch: Callable[[], int]) -> None:
        self.closed = 0
        self._clock = clock
        self._launch = launch

    def launch(self) -> int:
        self._clock.now_ns += 4_000_000
        return self._launch()

    def facts(self) -> dict[str, Any]:
        return {"copies": 3}

    def close(self) -> None:
        self.closed += 1


class Player:
    """A replayer whose layers may fail."""

    def __init__(
        self,
        bench: Bench,
        fails: Mapping[int, Exception] | None = None,
        plan: ReplayPlan = PLAN,
    ) -> None:
        self.bench = bench
        self.fails = dict(fails or {})
        self.opened: list[tuple[Any, ...]] = []
        self.things: list[Thing] = []
        self.closed = False
        self._plan = plan

    def plan(self) -> ReplayPlan:
        return self._plan

    def layer(self, index: int) -> Thing:
        return self._open("layer", index)

    def whole(self) -> Thing:
        return self._open("whole", -1)

    def duplicated(self, index: int, copies: int) -> Thing:
        return self._open("duplicated", index, copies)

    def close(self) -> None:
        self.closed = True

    def _open(self, *what: Any) -> Thing:
        assert all(thing.closed for thing in self.things), "two are open at a time"
        self.opened.append(what)
        if what[1] in self.fails:
            raise self.fails[what[1]]
        self.bench.clock.now_ns += 10_000_000
        self.things.append(self.bench.thing())
        return self.things[-1]


class Trace:
    """Shows 8 W while something is repeated and 5 W else, of the segments it is given."""

    reach_ns = 0

    def __init__(self, noise: float = 0.0) -> None:
        self.bench: ReplayBench | None = None
        self.noise = noise
        self.random = np.random.default_rng(0)

    def begin(self, since_ns: int) -> None:
        self.since_ns = since_ns

    def end_ns(self) -> int:
        return 10**18

    def power(self) -> RailPower:
        assert self.bench is not None
        segments = self.bench.segments()
        t_ns = np.arange(segments.start_ns[0] - 1_000_000, segments.end_ns[-1] + 2_000_000, 500_000)
        power = np.full(len(t_ns), 5000.0)
        for start, end, kind in zip(segments.start_ns, segments.end_ns, segments.kind, strict=True):
            inside = (t_ns >= start - 600_000) & (t_ns <= end + 600_000)
            if kind != IDLE:
                power[inside] = 8000.0 * (1 + self.noise * self.random.standard_normal())
        return RailPower("total", t_ns, power)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path)
    for module in (replay_bench, replay_pass, duplication_pass):
        monkeypatch.setattr(module, "time", made.clock)
        monkeypatch.setattr(module, "gc", SimpleNamespace(collect=int), raising=False)
    yield made
    made.board.close()


def replay(
    bench: Bench,
    player: Player,
    budget_s: float = 30.0,
    segment_s: float = 0.2,
    trace: Trace | None = None,
) -> tuple[replay_pass.ReplayResult, Segments, ReplayBench]:
    trace = trace or Trace()
    with_writer = RecordWriter(bench.folder / "replay.bin", REPLAY, {})
    own = ReplayBench(bench.runner, with_writer, trace, segment_s)  # type: ignore[arg-type]
    trace.bench = own
    result = replay_pass.replay_pass(own, player, budget_s=budget_s, layer_ms=LAYER_MS, seed=3)
    with_writer.flush()
    header, offset = read_header(bench.folder / "replay.bin")
    dtype = np.dtype([tuple(field) for field in header["fields"]])
    return result, segments_of(np.fromfile(bench.folder / "replay.bin", dtype, offset=offset)), own


def test_each_layer_is_repeated_twice_at_least_and_ends_when_it_is_known(bench: Bench) -> None:
    player = Player(bench)
    result, segments, _ = replay(bench, player)
    assert result.reason == "every layer is known well enough"
    assert result.rounds >= 2
    assert result.narrow == 3
    layers = segments.chosen(segments.kind == LAYER)
    assert set(layers.layer.tolist()) == {0, 1, 2}  # of equal ones the first
    for layer in (0, 1, 2):
        assert np.count_nonzero(layers.layer == layer) >= 2
    assert (segments.iterations[segments.kind != IDLE] > 0).all()
    assert (segments.iterations[segments.kind != IDLE] % 4 == 0).all()
    assert (segments.layer[segments.kind == WHOLE] == -1).all()
    # Idle and the whole at the begin, and at the end of every round.
    assert segments.kind[0] == segments.kind[-1] == IDLE
    assert np.count_nonzero(segments.kind == WHOLE) >= 1 + result.rounds
    assert all(thing.closed == 1 for thing in player.things)
    said = result.to_json()
    assert said["groups"] == [[0, 3], [1], [2]]
    assert said["left_out"] == {"4": "its output is its input"}
    assert said["facts"]["0"]["copies"] == 3
    assert said["why"] is None


def test_the_order_is_drawn_anew_in_each_round_and_by_the_seed(bench: Bench) -> None:
    plan = ReplayPlan(groups=tuple((layer,) for layer in range(6)))
    player = Player(bench, plan=plan)
    replay(bench, player, trace=Trace(noise=0.3), budget_s=9.0)
    layers = [what[1] for what in player.opened if what[0] == "layer"]
    assert sorted(layers[:6]) == list(range(6))
    assert layers[:6] != layers[6:12]


def test_a_layer_that_fails_costs_nothing_else(bench: Bench) -> None:
    player = Player(
        bench, {1: MeasurementError("no memory for its copies"), 2: RuntimeError("CUDA\n bad")}
    )
    result, segments, _ = replay(bench, player)
    assert result.left_out[1] == "no memory for its copies"
    assert result.left_out[2] == "RuntimeError: CUDA bad"
    assert set(segments.layer[segments.kind == LAYER].tolist()) == {0}
    assert [what for what in player.opened if what[1] == 1] == [("layer", 1)]
    assert result.narrow == 1


def test_a_short_budget_leaves_out_what_takes_least_time(bench: Bench) -> None:
    result, segments, _ = replay(bench, Player(bench), budget_s=1.5, segment_s=0.4)
    repeated = set(segments.layer[segments.kind == LAYER].tolist())
    assert repeated != {0, 1, 2}
    assert 2 in result.left_out
    assert "least time" in result.left_out[2] or "was spent" in result.left_out[2]
    assert result.segment_s == pytest.approx(0.14)
    assert result.reason == "the budget is spent"


def test_the_whole_that_cannot_be_repeated_ends_the_pass(bench: Bench) -> None:
    with pytest.raises(MeasurementError, match="a graph that cannot"):
        replay(bench, Player(bench, {-1: MeasurementError("a graph that cannot be captured")}))


def test_a_parent_that_hangs_up_ends_it_and_what_was_opened_is_closed(bench: Bench) -> None:
    player = Player(bench)

    def launch() -> int:
        bench.runner.stopped = True
        return 1

    stopping = bench.thing(launch)
    player.layer = lambda index: stopping  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        replay(bench, player, segment_s=3.0)
    assert stopping.closed == 1
    assert all(thing.closed for thing in player.things)


def test_what_is_repeated_is_published_for_the_simulated_board(bench: Bench) -> None:
    seen = []
    page = PageReader(bench.folder / "page.bin")

    def launch() -> int:
        state = page.read()
        assert state is not None
        seen.append((state.phase, state.inference))
        return 1

    bench.board.mark("replay")
    player = Player(bench, plan=ReplayPlan(groups=()))
    player.whole = lambda: bench.thing(launch)  # type: ignore[method-assign]
    replay(bench, player)
    page.close()
    assert {phase for phase, _ in seen} == {"replay"}
    assert [index for _, index in seen] == list(range(len(seen)))


class Session:
    """A session that may have a replay pass."""

    def __init__(self, player: Player) -> None:
        self.player = player

    def replayer(self) -> Player:
        return self.player


def run(bench: Bench, session: Any, layer_ms: tuple[float, ...] = LAYER_MS, **config: Any) -> Any:
    said: list[tuple[str, int | None, float]] = []
    found = replay_pass.run_replay(
        {"replay_budget_s": 5.0, "replay_segment_s": 0.2, **config},
        bench.folder,
        session,
        bench.runner,  # type: ignore[arg-type]
        layer_ms,
        lambda *what: said.append(what),
    )
    return found, said


def test_why_there_is_no_replay_pass(bench: Bench) -> None:
    assert run(bench, object(), replay_budget_s=None) == (None, [])
    found, said = run(bench, object())
    assert found == {"why": "this backend has no replay pass"}
    assert said == []
    found, _ = run(bench, Session(Player(bench)), layer_ms=())
    assert "profiled pass" in found["why"]
    player = Player(bench)
    found, said = run(bench, Session(player))
    assert found == {"why": "no power is recorded"}
    assert not (bench.folder / "replay.bin").exists()


def test_a_run_of_it_is_told_and_its_failure_ends_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = Trace()

    def of_run(*what: Any) -> ReplayBench:
        trace.bench = ReplayBench(*what)
        return trace.bench

    monkeypatch.setattr(replay_pass, "LiveTrace", lambda path: trace)
    monkeypatch.setattr(replay_pass, "ReplayBench", of_run)
    player = Player(bench)
    found, said = run(bench, Session(player), check_attribution=1)
    assert said == [("replay", None, 10.0)]
    assert found["why"] is None
    assert found["duplication"]["layers"] == [2]  # all need alike: the first that is preferred
    assert found["duplication"]["rounds"] == duplication_pass.ROUNDS
    records = (bench.folder / "replay.bin").stat().st_size - read_header(
        bench.folder / "replay.bin"
    )[1]
    assert found["segments"] == records // REPLAY.struct.size
    assert player.closed
    assert [s.phase for s in read_phases(bench.folder / "phases.jsonl")] == ["replay"]
    (bench.folder / "replay.bin").unlink()
    found, _ = run(bench, Session(Player(bench, {-1: RuntimeError("out of memory")})))
    assert found == {"why": "RuntimeError: out of memory"}


def test_which_layers_are_executed_several_times() -> None:
    energies = {0: 5.0, 1: 9.0, 2: 0.0}
    assert duplication_pass.candidates(PLAN, energies) == [1, 0]
    equal = ReplayPlan(groups=((0, 3), (1,)), duplicable=(3, 0, 1, 9))
    assert duplication_pass.candidates(equal, energies) == [1, 3]


def duplicate(bench: Bench, player: Player, **options: Any) -> duplication_pass.DuplicationResult:
    trace = Trace()
    writer = RecordWriter(bench.folder / "replay.bin", REPLAY, {})
    own = ReplayBench(bench.runner, writer, trace, 0.2)  # type: ignore[arg-type]
    asked = {"layers": 2, "most_s": 30.0, "seed": 0, "number": 2, **options}
    return duplication_pass.duplication_pass(own, player, [7, 8, 9], **asked)


def test_a_layer_that_cannot_be_duplicated_gives_its_place_to_the_next(bench: Bench) -> None:
    player = Player(bench, {8: MeasurementError("the rest came out different")})
    found = duplicate(bench, player)
    assert found.layers == (7, 9)
    assert "the rest came out different" in found.failed[8]
    for layer in (7, 9):
        copies = [what[2] for what in player.opened if what[1] == layer]
        assert sorted(copies) == sorted([1, 2, 4, 8] * duplication_pass.ROUNDS)
    assert found.rounds == duplication_pass.ROUNDS


def test_the_check_keeps_to_its_time_but_measures_one_layer(bench: Bench) -> None:
    player = Player(bench)
    found = duplicate(bench, player, most_s=0.0)
    assert found.layers == (7,)
    assert found.rounds == 1
    assert {what[2] for what in player.opened if what[1] == 7} == {1, 2, 4, 8}
    assert "hold no more layers" in found.failed[8]
