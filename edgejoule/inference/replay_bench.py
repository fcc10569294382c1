"""Repeating one thing for a segment: warm up, execute again and again, write the segment down."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgejoule.energy.replay_estimate import Estimates, Thing, estimate_all
from edgejoule.energy.replay_segments import (
    IDLE,
    IDLE_SETTLE_SHARE,
    WARM_NS,
    Segments,
    segments_of,
)
from edgejoule.errors import EdgejouleError, MeasurementError

if TYPE_CHECKING:
    from edgejoule.energy.replay_live import LiveTrace
    from edgejoule.inference.passes import Runner
    from edgejoule.inference.replaying import Repeatable
    from edgejoule.records import RecordWriter

SEGMENT_S = 1.0
FAILURES = (
    MeasurementError, RuntimeError, MemoryError, ValueError, TypeError, LookupError, AttributeError,
    ArithmeticError,
)  # fmt: skip
"""What one thing may fail with while the others go on, a runtime's own failures included: what
was measured before must not be lost for it. Not a full disk, and not the wish to end."""
_WARM_SHARE, _MOST_WARM_S = 0.3, 0.3
_WAIT_FOR_TRACE_S = 3.0
_POLL_S = 0.05


@dataclass
class ReplayBench:
    """Where repeating is done: what it runs on, where it is written, how long a segment is.

    Args:
        runner: Publishes what runs and heeds the parent.
        writer: Of `replay.bin`.
        trace: The run's own power.
        segment_s: Length of a segment.
    """

    runner: Runner
    writer: RecordWriter
    trace: LiveTrace
    segment_s: float = SEGMENT_S
    rows: list[tuple[int, ...]] = field(default_factory=list)
    launches: int = 0

    @property
    def warm_s(self) -> float:
        """For how long a thing is repeated before its segment begins."""
        return min(_MOST_WARM_S, max(WARM_NS * 1e-9, _WARM_SHARE * self.segment_s))

    @property
    def idle_s(self) -> float:
        """Length of an idle segment: its first part is not used."""
        return self.segment_s / (1 - IDLE_SETTLE_SHARE)

    def repeat(self, one: Repeatable, thing: Thing, number: int, seconds: float) -> None:
        """Warm up, then execute for a segment and record it."""
        self._launch_until(one, time.monotonic_ns() + round(self.warm_s * 1e9))
        start_ns = time.monotonic_ns()
        end_ns, iterations = self._launch_until(one, start_ns + round(seconds * 1e9))
        self._write(thing, number, start_ns, end_ns, iterations)

    def idle(self, number: int) -> None:
        """Sleep with the engine loaded and record it."""
        start_ns = time.monotonic_ns()
        self.runner.sleep_until(start_ns + round(self.idle_s * 1e9))
        self._write((IDLE, -1, 1), number, start_ns, time.monotonic_ns(), 0)

    def segments(self) -> Segments:
        """Return what was recorded so far."""
        names = ("start_ns", "end_ns", "iterations", "layer", "copies", "round", "kind")
        columns = zip(*self.rows, strict=True)
        return segments_of(dict(zip(names, columns, strict=True)))

    def judge(self) -> Estimates | None:
        """Wait until the trace covers what was repeated, and estimate; None: nothing is known."""
        segments = self.segments()
        # Of the idle segment at the end what is written out by now will do.
        end_ns = int(segments.end_ns[segments.kind != IDLE].max(initial=0))
        give_up_ns = time.monotonic_ns() + round(_WAIT_FOR_TRACE_S * 1e9)
        while self.trace.end_ns() < end_ns and time.monotonic_ns() < give_up_ns:
            self.runner.sleep_until(time.monotonic_ns() + round(_POLL_S * 1e9))
        return estimate_all(self.trace.power(), segments, self.trace.reach_ns, None)

    def _launch_until(self, one: Repeatable, until_ns: int) -> tuple[int, int]:
        """Launch until a time is reached, at least once; return when it ended and executions."""
        iterations = 0
        while True:
            self.runner.board.begin_inference(self.launches, time.monotonic_ns())
            iterations += one.launch()
            self.runner.board.end_inference()
            self.launches += 1
            now_ns = time.monotonic_ns()
            if now_ns >= until_ns:
                return now_ns, iterations
            self.runner.check_now_and_then(now_ns)

    def _write(self, thing: Thing, number: int, start_ns: int, end_ns: int, n: int) -> None:
        kind, layer, copies = thing
        row = (start_ns, end_ns, n, layer, copies, number, kind)
        self.rows.append(row)
        self.writer.write(*row)
        self.writer.flush()


def said(error: BaseException) -> str:
    """Return an error in one line; where it came from goes to the log."""
    if isinstance(error, EdgejouleError):
        return error.message
    traceback.print_exception(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
