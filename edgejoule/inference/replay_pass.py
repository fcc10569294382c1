"""The replay pass: each distinct layer alone, again and again, until its energy is known.

    round 1   idle whole | layer 7 | layer 2 | ... every ~10 s: idle whole | ... | whole idle, judge
    round 2   the layers whose interval is still too wide, in another order
    ...       until all are narrow, or the budget is spent

Every segment goes to `replay.bin`; what it means is worked out in `edgejoule.energy.replay`, here
only to see what is known well enough. `whole` (the network repeated in the same manner) and `idle`
stand between the layers, so that drift shows. A layer that fails is told and left out.
"""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from edgejoule.energy.replay import WHOLE_THING, narrow
from edgejoule.energy.replay_live import LiveTrace
from edgejoule.energy.replay_segments import LAYER
from edgejoule.inference.duplication_pass import candidates, duplication_pass
from edgejoule.inference.replay_bench import FAILURES, SEGMENT_S, ReplayBench, said
from edgejoule.inference.replaying import Replayable
from edgejoule.records import REPLAY, REPLAY_KINDS, RecordWriter

if TYPE_CHECKING:
    from edgejoule.energy.replay_estimate import Estimates, Thing
    from edgejoule.inference.backend import Session
    from edgejoule.inference.passes import Runner
    from edgejoule.inference.replaying import Repeatable, Replayer, ReplayPlan

_SHORTEST_SHARE = 0.35  # of the asked length of a segment, where the budget is short
_RECENT = 10  # openings by which the next one's length is judged
_ANCHOR_EVERY_S = 10.0  # whole and idle are looked at again
_BEFORE_NS = 10_000_000_000  # of the trace: a counter shows the rhythm of its ticks there


@dataclass(frozen=True)
class ReplayResult:
    """What the replay pass did.

    Attributes:
        plan: What the session can replay.
        left_out: Layer -> why it was not repeated, those of the plan among them.
        facts: First layer of each group -> what its repeatable said of itself.
        whole: What the repeatable of the whole network said of itself.
        rounds: Rounds begun.
        seconds: How long the pass took.
        segment_s: Length of a segment.
        energy_mj: First layer of each group -> its dynamic energy as judged on the way.
        narrow: How many groups are known well enough, as judged on the way.
        reason: Why it ended.
    """

    plan: ReplayPlan
    left_out: Mapping[int, str]
    facts: Mapping[int, Mapping[str, Any]]
    whole: Mapping[str, Any]
    rounds: int
    seconds: float
    segment_s: float
    energy_mj: Mapping[int, float]
    narrow: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "why": None,
            "groups": [list(group) for group in self.plan.groups],
            "nothing": list(self.plan.nothing),
            "left_out": {str(layer): why for layer, why in sorted(self.left_out.items())},
            "notes": list(self.plan.notes),
            "facts": {str(layer): dict(facts) for layer, facts in sorted(self.facts.items())},
            "whole": dict(self.whole),
            "rounds": self.rounds,
            "seconds": round(self.seconds, 3),
            "segment_s": round(self.segment_s, 3),
            "narrow": self.narrow,
            "reason": self.reason,
        }


class _Pass:
    """One replay pass as it goes on: what is still to do, what it takes, what failed."""

    def __init__(
        self,
        bench: ReplayBench,
        replayer: Replayer,
        budget_s: float,
        layer_ms: Sequence[float],
        seed: int,
    ) -> None:
        self.bench = bench
        self.replayer = replayer
        self.plan = replayer.plan()
        self.begin_s = self.anchored_s = time.monotonic()
        self.budget_s = budget_s
        self.random = random.Random(seed)  # noqa: S311 (no secret)
        self.left_out: dict[int, str] = dict(self.plan.left_out)
        self.facts: dict[int, Mapping[str, Any]] = {}
        self.whole: Mapping[str, Any] = {}
        self.groups = {group[0]: group for group in self.plan.groups if group}
        self.time_ms = {
            first: sum(layer_ms[layer] for layer in group) for first, group in self.groups.items()
        }
        self.seconds = bench.segment_s
        self.open_s: list[float] = []
        self.round = 0

    @property
    def left_s(self) -> float:
        """What is left of the budget, less what the last look at whole and idle takes."""
        spent = time.monotonic() - self.begin_s
        return self.budget_s - spent - self.anchor_s

    @property
    def item_s(self) -> float:
        """What one segment takes, opening and warming up included."""
        opening = fmean(self.open_s[-_RECENT:]) if self.open_s else 0.0
        return opening + self.bench.warm_s + self.seconds

    @property
    def anchor_s(self) -> float:
        """What a look at whole and idle takes."""
        return self.item_s + self.bench.idle_s

    def fits(self) -> int:
        """Return how many segments the rest of the budget holds, looks in between included."""
        share = 1 + self.anchor_s / _ANCHOR_EVERY_S
        return max(0, int(self.left_s / (self.item_s * share)))

    def anchor(self, *, idle_last: bool) -> None:
        """Look at the whole and at idle."""
        if not idle_last:
            self.bench.idle(self.round)
        try:
            facts = self.open_and_repeat(self.replayer.whole, WHOLE_THING)
            self.whole = {**facts, **self.whole}
        except FAILURES as error:
            if not self.whole:
                raise  # nothing to hold the layers against
            # What was repeated before counts: the whole was looked at then.
            self.whole = {**self.whole, "failed": said(error)}
        if idle_last:
            self.bench.idle(self.round)
        self.anchored_s = time.monotonic()

    def open_and_repeat(self, make: Callable[[], Repeatable], thing: Thing) -> dict[str, Any]:
        """Repeat one thing for a segment; return what is worth knowing of it."""
        gc.collect()  # what a layer that failed left behind may hold a device's memory
        started = time.monotonic()
        one = make()
        try:
            opened_s = time.monotonic() - started
            self.open_s.append(opened_s)
            self.bench.repeat(one, thing, self.round, self.seconds)
            return {**one.facts(), "open_s": round(opened_s, 3)}
        finally:
            one.close()
            gc.collect()  # it is off meanwhile, and what was built may hold a device's memory

    def shorten(self, count: int) -> None:
        """Make segments so short that the budget holds each group once; at the least a third."""
        shortest = _SHORTEST_SHARE * self.bench.segment_s
        while self.fits() < count and self.seconds > shortest:
            self.seconds = max(shortest, 0.9 * self.seconds)

    def ordered(self, wanted: list[int]) -> list[int]:
        """Return in which order some groups are repeated.

        By lot, so that drift is no layer's own; where time is short what takes most in the network
        comes first, and what is left at the end takes the least.
        """
        self.random.shuffle(wanted)
        if self.round == 0 and self.fits() < len(wanted):
            self.shorten(len(wanted))
        if self.fits() < len(wanted):
            wanted.sort(key=lambda first: -self.time_ms[first])
        return wanted

    def run_round(self, wanted: list[int]) -> None:
        """Repeat each of some groups for a segment, until the budget is spent."""
        wanted = self.ordered(wanted)
        while wanted and self.left_s >= self.item_s:
            if time.monotonic() - self.anchored_s >= _ANCHOR_EVERY_S:
                self.anchor(idle_last=False)
            first = wanted.pop(0)
            try:
                make = partial(self.replayer.layer, first)
                found = self.open_and_repeat(make, (LAYER, first, 1))
            except FAILURES as error:
                self.give_up(first, error)
            else:
                self.facts.setdefault(first, found)
            if self.round == 0 and wanted and self.fits() < len(wanted):
                # Judged by what it really takes, now that some are done.
                self.shorten(len(wanted))

    def all_known(self) -> str:
        """Say that nothing is left to do, and of which layers that is said."""
        failed = sum(first in self.left_out for first in self.groups)
        if failed == len(self.groups):
            return "no layer could be repeated"
        if failed:
            return f"every layer is known well enough but {failed} that cannot be repeated"
        return "every layer is known well enough"

    def judge(self) -> Estimates | None:
        """Estimate what was repeated so far; a trace that cannot be read now is read at the end."""
        try:
            return self.bench.judge()
        except FAILURES as error:
            self.whole = {**self.whole, "not_judged": said(error)}
            return None

    def give_up(self, first: int, error: BaseException) -> None:
        """Note that a group cannot be repeated."""
        self.left_out |= dict.fromkeys(self.groups[first], said(error))

    def wide(self, judged: Estimates | None, least: int = 2) -> dict[int, float]:
        """Return the groups that are not known well enough, with their interval's half-width."""
        found = {}
        whole = None if judged is None else judged.of.get(WHOLE_THING)
        for first, members in self.groups.items():
            if first in self.left_out:
                continue
            part = None if judged is None else judged.of.get((LAYER, first, 1))
            if part is None:
                found[first] = float("inf")
            elif part.segments < least or not narrow(
                part, len(members), None if whole is None else whole.energy_mj
            ):
                found[first] = len(members) * part.half_mj
        return found


def replay_pass(
    bench: ReplayBench,
    replayer: Replayer,
    *,
    budget_s: float,
    layer_ms: Sequence[float],
    seed: int,
) -> ReplayResult:
    """Repeat every distinct layer until it is known well enough or the budget is spent.

    Args:
        bench: Where it is done.
        replayer: Of the session.
        budget_s: How long the pass may take.
        layer_ms: Mean time of every layer in the profiled pass: what takes least is left out first.
        seed: Of the order.

    Raises:
        MeasurementError: The whole network cannot be repeated.
        Interrupted: The parent is gone or asked to stop.
    """
    bench.trace.begin(time.monotonic_ns() - _BEFORE_NS)
    state = _Pass(bench, replayer, budget_s, layer_ms, seed)
    state.anchor(idle_last=False)
    wanted = list(state.groups)
    reason = "the budget is spent" if state.groups else "there is no layer to repeat"
    judged = None
    while wanted:
        state.run_round(wanted)
        state.anchor(idle_last=True)
        state.round += 1
        judged = state.judge()
        # What was not repeated at all is the least known, and so comes first.
        wide = state.wide(judged)
        wanted = sorted(wide, key=lambda first: -wide[first])
        if not wanted:
            reason = state.all_known()
        elif state.fits() < 1:
            reason, wanted = "the budget is spent", []
        else:
            wanted = wanted[: state.fits()]
    left = state.wide(judged, least=1)
    for first in left:
        if first not in state.facts:
            why = (
                f"the replay budget of {budget_s:g} s was spent before it was repeated: of "
                f"{len(state.groups)} distinct layers it is among those with the least time"
            )
            state.left_out |= dict.fromkeys(state.groups[first], why)
    known = [first for first in state.groups if first not in state.left_out and first not in left]
    return ReplayResult(
        plan=state.plan,
        left_out=state.left_out,
        facts=state.facts,
        whole=state.whole,
        rounds=state.round,
        seconds=time.monotonic() - state.begin_s,
        segment_s=state.seconds,
        energy_mj={
            layer: part.energy_mj
            for (kind, layer, _), part in ({} if judged is None else judged.of).items()
            if kind == LAYER
        },
        narrow=len(known),
        reason=reason,
    )


def run_replay(
    config: Mapping[str, Any],
    directory: Path,
    session: Session,
    runner: Runner,
    layer_ms: Sequence[float],
    say: Callable[[str, int | None, float], None],
) -> dict[str, Any] | None:
    """Run the replay pass of a measuring process as its configuration asks.

    Args:
        config: `replay_budget_s` (None: none is asked for), `replay_segment_s`, `seed`,
            `check_attribution` (None, or how many layers are executed several times in place).
        directory: The run's working directory.
        session: What is measured.
        runner: Publishes, and heeds the parent.
        layer_ms: Mean time of every layer in the profiled pass, empty without one.
        say: Tells the parent of a pass.

    Returns:
        What goes into `measure.json` (`why` says why there is no replay pass), None: not asked for.

    Raises:
        Interrupted: The parent is gone or asked to stop.
    """
    budget_s = config.get("replay_budget_s")
    if budget_s is None:
        return None
    if not isinstance(session, Replayable):
        return {"why": "this backend has no replay pass"}
    if not layer_ms:
        return {"why": "without a profiled pass the layers' times in the network are not known"}
    replayer = None
    check = int(config.get("check_attribution") or 0)
    say("replay", None, float(budget_s) * (2 if check else 1))
    runner.board.mark("replay")
    try:
        trace = LiveTrace(directory / "power.bin")
        replayer = session.replayer()
        with contextlib.closing(
            RecordWriter(
                directory / "replay.bin",
                REPLAY,
                {"kinds": list(REPLAY_KINDS), "clock": "CLOCK_MONOTONIC"},
            )
        ) as writer:
            segment_s = float(config.get("replay_segment_s") or SEGMENT_S)
            bench = ReplayBench(runner, writer, trace, segment_s)
            seed = int(config.get("seed") or 0)
            result = replay_pass(
                bench, replayer, budget_s=float(budget_s), layer_ms=layer_ms, seed=seed
            )
            report = result.to_json() | {"duplication": None}
            if check:
                checked = duplication_pass(
                    bench,
                    replayer,
                    candidates(result.plan, result.energy_mj),
                    layers=check,
                    most_s=float(budget_s),
                    seed=seed,
                    number=result.rounds,
                )
                report["duplication"] = checked.to_json()
            return report | {"segments": len(bench.rows)}
    except FAILURES as error:
        return {"why": said(error)}
    finally:
        if replayer is not None:
            try:
                replayer.close()
            except FAILURES as error:  # a device that failed gives nothing back; the run goes on
                said(error)
