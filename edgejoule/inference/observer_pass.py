"""What measuring costs: blocks of inferences with sampler and profiler, and without, interleaved.

    sampler    on  | off  off  | on      on | off  off | on         phase observed / unsampled
    profiler   off | on   on   | off     on | off  off | on         phase observed
               `--- ABBA ----'           `--- BAAB, by chance ---'

Each four blocks begin with one or the other by the seed, so that a drift that is even over the four
falls out. In phase `unsampled` the sampler rests by itself (`power.phase_switch.Pause`). After each
switch some inferences are run that do not count, until the switch has taken effect. No inference of
this pass belongs to another, and none is in `inferences.bin`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from edgejoule.inference.backend import Profiler
    from edgejoule.inference.passes import CleanResult, Runner

OBSERVER_S = 8.0
"""Most time for it where nothing else is asked for."""

Factor: TypeAlias = Literal["sampler", "profiler"]

_CLEAN_SHARE = 0.25
_SHORTEST_S = 0.4  # below this the waits behind the switches are all there is time for
_SETTLE_S = 0.1
_BLOCK_S, _BLOCK_INFERENCES = 0.25, 20
_LEAST_BLOCK_S, _LEAST_BLOCK_INFERENCES = 0.1, 4
_WANTED_FOURS = 4
_SWITCHES = 3  # of four blocks: to the first, to the middle ones, to the last
_SLOW_START_S = 0.25
_FEWEST_SETTLING = 2


@dataclass(frozen=True)
class Block:
    """Some inferences under one setting.

    Attributes:
        factor: What is switched in its four blocks.
        four: Which four blocks it belongs to, counted over the pass.
        sampler: Whether the sampler read.
        profiler: Whether the profiler ran.
        start_ns: Start of the first inference that counts.
        end_ns: End of the last.
        inferences: How many count.
        mean_ns: Their mean latency.
        median_ns: Their median latency.
    """

    factor: Factor
    four: int
    sampler: bool
    profiler: bool
    start_ns: int
    end_ns: int
    inferences: int
    mean_ns: float
    median_ns: float


@dataclass(frozen=True)
class ObserverResult:
    """The observer pass: its blocks in order, how long it took, and why blocks are missing."""

    blocks: tuple[Block, ...]
    seconds: float
    block_s: float
    why: str | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "blocks": [asdict(block) for block in self.blocks]}


def observer_pass(
    runner: Runner,
    infer: Callable[[int], None],
    profiler: Profiler | None,
    *,
    clean: CleanResult,
    most_s: float,
    sampled: bool,
    seed: int,
    say: Callable[[float], None] = lambda seconds: None,
) -> ObserverResult:
    """Measure what sampler and profiler do to the latency.

    Args:
        runner: Runs inferences and marks the phases.
        infer: The session's.
        profiler: The session's, None: no profiled pass follows, it is not of interest.
        clean: The clean pass; at most a quarter of its time is spent here.
        most_s: Longest time.
        sampled: Whether there is a sampler.
        seed: Of the order of blocks.
        say: Told how long it will take, if anything is measured.
    """
    begin_s = time.monotonic()
    limit_s = min(most_s, _CLEAN_SHARE * clean.seconds)
    factors: list[Factor] = []
    if sampled:
        factors.append("sampler")
    if profiler is not None:
        factors.append("profiler")
    if limit_s < _SHORTEST_S or not factors:
        what = f"a quarter of the clean pass ({limit_s:.2g} s) is too short to switch anything"
        return ObserverResult((), 0.0, 0.0, what if factors else "there is nothing to switch")
    bench = _Bench(runner, infer, profiler, clean.median_ms / 1e3)
    say(limit_s)
    part_s = limit_s / len(factors)
    bench.block_s = block_length_s(part_s, bench.latency_s)
    order = random.Random(seed)  # noqa: S311 (no secret)
    spent = dict.fromkeys(factors, 0.0)
    # By chance, and the next four of a factor the other way round.
    turns = {factor: order.random() < 0.5 for factor in factors}
    while factors:
        factor = min(factors, key=lambda one: spent[one])
        started = time.monotonic()
        bench.four_blocks(factor, off_first=turns[factor])
        turns[factor] = not turns[factor]
        took_s = time.monotonic() - started
        spent[factor] += took_s
        slow = factor == "profiler" and bench.slowest_start_s > _SLOW_START_S
        if slow or spent[factor] + took_s > part_s:
            factors.remove(factor)
    return ObserverResult(tuple(bench.blocks), time.monotonic() - begin_s, bench.block_s, None)


def block_length_s(part_s: float, latency_s: float) -> float:
    """Return how long a block should be, so that a factor has some fours of blocks.

    More pairs of shorter blocks say more than few long ones, as long as a block holds a few
    inferences and is not short against the wait behind a switch.

    Args:
        part_s: Time there is for the factor.
        latency_s: Of an inference.
    """
    wanted_s = max(_BLOCK_S, _BLOCK_INFERENCES * latency_s)
    fours = max(_WANTED_FOURS, int(part_s / (4 * wanted_s + _SWITCHES * _SETTLE_S)))
    least_s = max(_LEAST_BLOCK_S, _LEAST_BLOCK_INFERENCES * latency_s)
    while True:
        found_s = (part_s / fours - _SWITCHES * _SETTLE_S) / 4
        if found_s >= least_s or fours == 1:
            return min(max(found_s, 0.0), wanted_s)
        fours -= 1


class _Bench:
    """Runs blocks and keeps them."""

    def __init__(
        self,
        runner: Runner,
        infer: Callable[[int], None],
        profiler: Profiler | None,
        latency_s: float,
    ) -> None:
        self.latency_s = max(latency_s, 1e-6)
        self.block_s = 0.0
        self.slowest_start_s = 0.0
        self.blocks: list[Block] = []
        self._runner = runner
        self._infer = infer
        self._profiler = profiler
        self._index = 0
        self._fours = 0
        self._state: tuple[bool, bool] | None = None

    def four_blocks(self, factor: Factor, *, off_first: bool) -> None:
        """Run off, on, on, off, or the other way round."""
        for on in (not off_first, off_first, off_first, not off_first):
            if factor == "sampler":
                self._plain(factor, sampler=on)
            elif on:
                self._profiled()
            else:
                self._plain(factor, sampler=True)
        self._fours += 1

    def _plain(self, factor: Factor, *, sampler: bool) -> None:
        """Run a block without the profiler."""
        if self._state != (sampler, False):
            self._runner.board.mark("observed" if sampler else "unsampled")
            self._settle(self._infer)
        self._state = (sampler, False)
        spans: list[tuple[int, int]] = []
        end_ns = time.monotonic_ns() + round(self.block_s * 1e9)
        while not spans or spans[-1][1] < end_ns:
            spans.append(self._one(self._infer))
        self._keep(factor, spans, sampler=sampler, profiler=False)

    def _profiled(self) -> None:
        """Run a block with the profiler; a chunk's length must be known before."""
        profiler = self._profiler
        if profiler is None:
            return
        count = max(1, round(self.block_s / self.latency_s))
        count = min(count + _FEWEST_SETTLING, profiler.chunk_inferences)
        self._runner.board.mark("harvest")
        started = time.monotonic()
        profiler.start(count)
        self.slowest_start_s = max(self.slowest_start_s, time.monotonic() - started)
        self._runner.board.mark("observed")
        spans = []
        for _ in range(count):
            spans.append(self._one(profiler.infer))
            profiler.after()
        self._runner.board.mark("harvest")
        profiler.harvest(spans)
        self._state = (True, True)
        kept = spans[min(_FEWEST_SETTLING, count - 1) :]
        self._keep("profiler", kept, sampler=True, profiler=True)
        self._runner.check()

    def _settle(self, infer: Callable[[int], None]) -> None:
        """Run inferences that do not count until the switch has taken effect."""
        end_ns = time.monotonic_ns() + round(_SETTLE_S * 1e9)
        done = 0
        while done < _FEWEST_SETTLING or time.monotonic_ns() < end_ns:
            self._one(infer)
            done += 1

    def _one(self, infer: Callable[[int], None]) -> tuple[int, int]:
        span = self._runner.stamp(self._index, infer)
        self._index += 1
        self._runner.check_now_and_then(span[1])
        return span

    def _keep(
        self, factor: Factor, spans: list[tuple[int, int]], *, sampler: bool, profiler: bool
    ) -> None:
        latencies = [end - start for start, end in spans]
        self.blocks.append(
            Block(
                factor, self._fours, sampler, profiler, spans[0][0], spans[-1][1], len(spans),
                fmean(latencies), median(latencies),
            )
        )  # fmt: skip
