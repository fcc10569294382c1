"""The passes: warm-up, clean, profiled.

    begin_inference | start_ns [ inference ] end_ns | end_inference, record, flush, stop? | next

Nothing but the inference lies between its two stamps. What lies between two inferences takes some
microseconds; how long it took is recorded as `between_us`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.energy.statistics import mean_of
from edgejoule.errors import Interrupted, MeasurementError
from edgejoule.inference.backend import LayerTimes, Profiler
from edgejoule.inference.warmup import SteadyState, WarmupVerdict
from edgejoule.records import NULL_NS, PASSES

if TYPE_CHECKING:
    from edgejoule.phases import PhaseBoard
    from edgejoule.processes import Parent
    from edgejoule.records import RecordWriter

_POLL_NS = 100_000_000  # how often the parent is asked whether to stop
_JUDGE_NS = 1_000_000_000  # how often the precision reached is worked out
_DITHER_SHARE, _DITHER_MOST_MS = 0.25, 3.0


class Runner:
    """Runs single inferences: publishes, stamps, records, flushes, and heeds the parent.

    Args:
        board: Where the running inference is published.
        writer: Of `inferences.bin`.
        parent: Asked at least every 0.2 s between inferences whether to stop.
        sets: How many input sets are used in rotation.
    """

    def __init__(self, board: PhaseBoard, writer: RecordWriter, parent: Parent, sets: int) -> None:
        self.board = board
        self._writer = writer
        self._parent = parent
        self._sets = sets
        self._next_poll_ns = 0

    def run(
        self, name: str, index: int, infer: Callable[[int], None], due_ns: int = NULL_NS
    ) -> tuple[int, int]:
        """Run inference `index` of a pass and return its stamps.

        Raises:
            Interrupted: The parent is gone or asked to stop.
        """
        start_ns, end_ns = self.stamp(index, infer)
        self._writer.write(start_ns, end_ns, due_ns, index, PASSES.index(name))
        self._writer.tick(end_ns)
        self.check_now_and_then(end_ns)
        return start_ns, end_ns

    def stamp(self, index: int, infer: Callable[[int], None]) -> tuple[int, int]:
        """Run an inference that belongs to no pass; return its stamps and record nothing."""
        which = index % self._sets
        now = time.monotonic_ns
        self.board.begin_inference(index, now())
        start_ns = now()
        infer(which)
        end_ns = now()
        self.board.end_inference()
        return start_ns, end_ns

    def check_now_and_then(self, now_ns: int) -> None:
        """Check if the last time is 0.1 s ago; raise `Interrupted` as `check` does."""
        if now_ns >= self._next_poll_ns:
            self._next_poll_ns = now_ns + _POLL_NS
            self.check()

    def check(self) -> None:
        """Raise `Interrupted` if the parent is gone or asked to stop."""
        if self._parent.poll(0.0):
            raise Interrupted("the measurement was stopped")

    def sleep_until(self, until_ns: int) -> None:
        """Sleep until a time of CLOCK_MONOTONIC; raise `Interrupted` as `check` does."""
        while (left_ns := until_ns - time.monotonic_ns()) > 0:
            if self._parent.poll(left_ns / 1e9):
                raise Interrupted("the measurement was stopped")


def warm_up(runner: Runner, infer: Callable[[int], None], steady: SteadyState) -> WarmupVerdict:
    """Run inferences until the latency is steady or the search is given up."""
    index = 0
    while not steady.done:
        steady.add(*runner.run("warmup", index, infer))
        index += 1
    return steady.verdict()


@dataclass(frozen=True)
class CleanResult:
    """The clean pass.

    Attributes:
        inferences: How many.
        seconds: From the first start to the last end.
        mean_ms: Mean latency.
        median_ms: Median latency.
        half_width_percent: Of the mean's 95 % interval (block means), in per cent of the mean;
            None with fewer than two inferences. Within this process.
        between_us: Median time between the end of one inference and the start of the next.
        reason: Why it ended.
    """

    inferences: int
    seconds: float
    mean_ms: float
    median_ms: float
    half_width_percent: float | None
    between_us: float | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def clean_pass(
    runner: Runner,
    infer: Callable[[int], None],
    *,
    runs: int | None,
    min_s: float = 30.0,
    max_runs: int = 2000,
    max_s: float = 300.0,
    precision_percent: float | None = None,
) -> CleanResult:
    """Run inferences without a profiler.

    Args:
        runner: Runs and records them.
        infer: The session's.
        runs: How many; None is: `min_s`, and beyond that only while the mean is less precise than
            asked, with `max_runs` and `max_s` not yet reached.
        min_s: Least length, without `runs`.
        max_runs: After `min_s`, most inferences.
        max_s: After `min_s`, longest time.
        precision_percent: Wanted half-width of the mean's 95 % interval; None asks for none.
    """
    latencies: list[int] = []
    gaps: list[int] = []
    first_ns = last_end_ns = judged_ns = 0
    reason = ""
    while not reason:
        start_ns, end_ns = runner.run("clean", len(latencies), infer)
        latencies.append(end_ns - start_ns)
        if len(latencies) == 1:
            first_ns = judged_ns = start_ns
        else:
            gaps.append(start_ns - last_end_ns)
        last_end_ns = end_ns
        elapsed_s = (end_ns - first_ns) / 1e9
        if runs is not None:
            reason = "the number asked for" if len(latencies) >= runs else ""
        elif elapsed_s >= min_s:
            if precision_percent is None:
                reason = f"{min_s:g} s are reached"
            elif len(latencies) >= max_runs:
                reason = f"{min_s:g} s and {max_runs} inferences are reached"
            elif elapsed_s >= max_s:
                reason = f"{max_s:g} s are reached"
            elif end_ns - judged_ns >= _JUDGE_NS or end_ns - start_ns >= _JUDGE_NS:
                judged_ns = end_ns
                reached = half_width_percent(latencies)
                if reached is not None and reached <= precision_percent:
                    reason = f"the mean is known within {precision_percent:g} %"
    width = half_width_percent(latencies)
    return CleanResult(
        inferences=len(latencies),
        seconds=round((last_end_ns - first_ns) / 1e9, 3),
        mean_ms=fmean(latencies) / 1e6,
        median_ms=median(latencies) / 1e6,
        half_width_percent=None if width is None else round(width, 4),
        between_us=median(gaps) / 1e3 if gaps else None,
        reason=reason,
    )


def half_width_percent(values: list[int]) -> float | None:
    """Half-width of the mean's 95 % interval in per cent of the mean, from 20 block means.

    Neighbouring latencies are alike, so the spread of single values over the root of their number
    would promise too much; means of consecutive blocks are nearly independent.
    """
    mean = mean_of(np.asarray(values))
    if mean.half_width is None or mean.value <= 0:
        return None
    return 100.0 * mean.half_width / mean.value


@dataclass(frozen=True)
class ProfiledResult:
    """The profiled pass.

    Attributes:
        inferences: How many were run.
        recorded: How many the runtime's profiler reported.
        chunks: In how many chunks.
        rows: Layer times written.
        seconds: Time within chunks, without preparing and reading them.
        median_ms: Median latency under the profiler.
        held_us: Of each inference, `LayerTimes.held_ns`; empty where the profiler adds no time.
        problems: What does not add up, one line each; empty is well.
        dither: How long it was waited between inferences, None: it was not.
        layer_ms: Mean time of every layer; not part of what is told.
    """

    inferences: int
    recorded: int
    chunks: int
    rows: int
    seconds: float
    median_ms: float
    held_us: tuple[int, ...]
    problems: tuple[str, ...]
    dither: dict[str, float] | None = None
    layer_ms: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        plain = asdict(self)
        del plain["layer_ms"]
        return plain


class Dither:
    """Random waits between inferences, so that they do not run in step with a sensor.

    A layer that always falls on the same part of the sensor's window cannot be told from its
    neighbours, however many inferences there are. The waits lie outside the stamps.

    Args:
        runner: Waits, and heeds the parent meanwhile.
        median_ms: Median latency; a wait is at most a quarter of it, and at most 3 ms.
        seed: Of the waits.
    """

    def __init__(self, runner: Runner, median_ms: float, seed: int) -> None:
        self.most_ms = min(_DITHER_SHARE * median_ms, _DITHER_MOST_MS)
        self._runner = runner
        self._random = random.Random(seed)  # noqa: S311 (no secret)
        self._waited_ns = 0

    def wait(self) -> None:
        """Wait for a time that is drawn anew."""
        start_ns = time.monotonic_ns()
        self._runner.sleep_until(start_ns + round(self._random.uniform(0, self.most_ms) * 1e6))
        self._waited_ns += time.monotonic_ns() - start_ns

    def to_json(self) -> dict[str, float]:
        """Return plain values."""
        return {"most_ms": self.most_ms, "seconds": self._waited_ns * 1e-9}


def profiled_pass(
    runner: Runner,
    profiler: Profiler,
    writer: RecordWriter,
    *,
    runs: int,
    layers: int,
    chunk_limit: int | None = None,
    dither: Dither | None = None,
) -> ProfiledResult:
    """Run inferences under the profiler, chunk by chunk, and write the time of every layer.

    Preparing and reading a chunk is its own phase (`harvest`), so that its energy is nobody's.

    Args:
        runner: Runs and records the inferences, and marks the phases.
        profiler: The session's.
        writer: Of `layers.bin`.
        runs: How many inferences.
        layers: How many layers the engine has.
        chunk_limit: Most inferences of a chunk if that is less than the profiler's own bound.
        dither: Waits between the inferences of a chunk, None for as little as can be.
    """
    chunk = max(1, min(profiler.chunk_inferences, chunk_limit or profiler.chunk_inferences))
    done = recorded = rows = chunks = busy_ns = 0
    held_us: list[int] = []
    latencies: list[int] = []
    problems: list[str] = []
    layer_ns = np.zeros(layers)
    runner.board.mark("harvest")
    while done < runs:
        count = min(chunk, runs - done)
        profiler.start(count)
        runner.board.mark("profiled")
        spans = []
        for k in range(count):
            spans.append(runner.run("profiled", done + k, profiler.infer))
            profiler.after()
            if dither is not None:
                dither.wait()
        runner.board.mark("harvest")
        latencies += [end - start for start, end in spans]
        busy_ns += spans[-1][1] - spans[0][0]
        times = profiler.harvest(spans)
        problem = check_chunk(times, count, layers)
        if problem:
            problems.append(f"inferences {done} to {done + count - 1}: {problem}")
        rows += _write_layers(writer, times, done, count)
        layer_ns += np.bincount(times.layer, times.duration_ns, minlength=layers)[:layers]
        writer.flush()
        recorded += times.inferences
        if times.held_ns is not None:
            held_us += (times.held_ns // 1000).tolist()
        done += count
        chunks += 1
        runner.check()
    return ProfiledResult(
        inferences=done,
        recorded=recorded,
        chunks=chunks,
        rows=rows,
        seconds=round(busy_ns / 1e9, 3),
        median_ms=median(latencies) / 1e6,
        held_us=tuple(held_us),
        problems=tuple(problems),
        dither=None if dither is None else dither.to_json(),
        layer_ms=tuple((layer_ns * 1e-6 / max(1, recorded)).tolist()),
    )


def check_chunk(times: LayerTimes, inferences: int, layers: int) -> str:
    """Say what is wrong with a chunk: every layer of every inference must be there once."""
    if times.inferences != inferences:
        return f"the profiler recorded {times.inferences} of {inferences} inferences"
    key = times.inference.astype(np.int64) * layers + times.layer
    expected = inferences * layers
    if len(key) != expected or len(np.unique(key)) != expected:
        return f"the profiler recorded {len(key)} layer times, {expected} were expected"
    return ""


def _write_layers(writer: RecordWriter, times: LayerTimes, first: int, count: int) -> int:
    """Write a chunk's rows, inferences counted from `first`; return how many."""
    written = 0
    starts = times.start_offset_ns
    offsets = [NULL_NS] * len(times.layer) if starts is None else starts.tolist()
    for offset, duration, inference, layer in zip(
        offsets,
        times.duration_ns.tolist(),
        times.inference.tolist(),
        times.layer.tolist(),
        strict=True,
    ):
        if inference < count:
            writer.write(offset, duration, first + inference, layer)
            written += 1
    return written


def require_whole(result: ProfiledResult) -> None:
    """Raise `MeasurementError` if the profiler lost something; call it after all is written."""
    if result.problems:
        more = f" (and {len(result.problems) - 1} more chunks)" if len(result.problems) > 1 else ""
        raise MeasurementError(
            f"the layer times are incomplete: {result.problems[0]}{more}",
            "measure again; if it stays so, report the backend's version",
        )
