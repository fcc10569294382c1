"""From wall-clock stamps of the older layout to times that only rise, and to inferences.

A wall clock may be set while it is being read. Where it was set back, everything after is moved on
by as much, in the power log and in the inferences alike; where it was set forward cannot be told
from a pause, and nothing is done. Each is counted. All times are int64; numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgejoule.errors import MeasurementError

_MOST_STEPS = 100
# As `checks` has it: stamps are in whole microseconds, durations are rounded to float32.
_SLACK_NS = 1_000.0
_FLOAT32 = 1.2e-7


@dataclass(frozen=True)
class Step:
    """The clock was set back: from `before_us` to `after_us`, mended by `shift_us`."""

    before_us: int
    after_us: int
    shift_us: int


def unroll(times_us: np.ndarray, what: str) -> tuple[np.ndarray, list[Step]]:
    """Return times without their steps back, and these steps; equal times stay equal.

    Raises:
        MeasurementError: They run backwards so often that they are in no order of time.
    """
    changes = np.diff(times_us)
    back = np.flatnonzero(changes < 0) + 1
    if not len(back):
        return times_us, []
    if len(back) > _MOST_STEPS:
        raise MeasurementError(
            f"{what}: time runs backwards {len(back)} times; this is no recording in the order of "
            "time"
        )
    usual = int(np.median(changes[changes > 0])) if (changes > 0).any() else 1
    moved = times_us.copy()
    steps = []
    for at in back.tolist():
        before, after = int(moved[at - 1]), int(moved[at])
        shift = before + usual - after
        steps.append(Step(before, after, shift))
        moved[at:] += shift
    return moved, steps


def follow(times_us: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    """Move other times of the same clock on by steps that were seen elsewhere.

    What came before a step is at most `before_us`, what came after at least `after_us`. Between
    these the order tells; where that shows no step, it lies in the shorter pause, which it cut.
    """
    moved: np.ndarray = times_us.copy()
    start = 0
    for step in steps:
        rest = moved[start:]
        fell = (np.diff(rest) < 0) & (rest[:-1] <= step.before_us) & (rest[1:] >= step.after_us)
        if fell.any():
            split = int(np.flatnonzero(fell)[0]) + 1
        else:
            early = int(np.searchsorted(rest, step.after_us))
            late = int(np.searchsorted(rest, step.before_us, side="right"))
            split = early if _pause(rest, early) < _pause(rest, late) else late
        start += split
        moved[start:] += step.shift_us
    return moved


def _pause(times_us: np.ndarray, at: int) -> float:
    """Return the pause before a position; at either end, where none is known, the usual one."""
    if 0 < at < len(times_us):
        return float(times_us[at] - times_us[at - 1])
    return float(np.median(np.diff(times_us))) if len(times_us) > 1 else 0.0


def apart_ns(times_us: np.ndarray) -> tuple[np.ndarray, int]:
    """Return times in nanoseconds, each after the one before, and how many had to be moved.

    Equal stamps are a nanosecond apart: the stamp's own microsecond is kept.
    """
    times_ns = times_us * 1000
    equal = np.diff(times_us) == 0
    if not equal.any():
        return times_ns, 0
    start = np.concatenate([[True], ~equal])
    position = np.arange(len(times_us))
    since = position - np.maximum.accumulate(np.where(start, position, 0))
    if since.max() >= 1000:
        raise MeasurementError("the power log has a thousand lines with the same time")
    return times_ns + since, int(equal.sum())


@dataclass(frozen=True)
class Spans:
    """Inferences: `start_ns` and `end_ns`, int64 (n,); what was decided; what contradicts itself.

    Attributes:
        start_ns: Starts.
        end_ns: Ends.
        notes: What was decided, counted.
        wrong: Inferences whose layers take longer than there is room for.
    """

    start_ns: np.ndarray
    end_ns: np.ndarray
    notes: tuple[str, ...]
    wrong: int


def spans_of(
    end_ns: np.ndarray | None, layers_ns: np.ndarray, latency_ns: np.ndarray | None
) -> Spans:
    """Return the inferences.

    Args:
        end_ns: Their ends, rising; None: not known, they are laid back to back from 0.
        layers_ns: float64 (n,) sum over the layers of each.
        latency_ns: float64 (n,) how long each took, None where only the layers tell.
    """
    notes = []
    least = np.ceil(layers_ns).astype(np.int64)
    if latency_ns is None:
        length = least
    else:
        length = np.maximum(np.round(latency_ns).astype(np.int64), least)
        short = layers_ns > latency_ns + _SLACK_NS + _FLOAT32 * latency_ns
        if short.any():
            notes.append(
                f"{int(short.sum())} latencies are shorter than the sum of their layers: those "
                "inferences start by the sum"
            )
    if end_ns is None:
        ends = np.cumsum(length)
        return Spans(ends - length, ends, tuple(notes), 0)
    start_ns = end_ns - length
    earliest = np.concatenate([start_ns[:1], end_ns[:-1]])
    late = earliest - start_ns
    moved = late > 0
    start_ns = np.maximum(start_ns, earliest)
    beyond = late > _SLACK_NS  # less than that is the stamps' own resolution
    if beyond.any():
        notes.append(
            f"{int(beyond.sum())} inferences would start before the one before them had ended: "
            f"they start at its end, {int(late[moved].max()) / 1000:.6g} us later at most"
        )
    room = (end_ns - start_ns).astype(np.float64)
    wrong = layers_ns > room + _SLACK_NS + _FLOAT32 * room
    return Spans(start_ns, end_ns, tuple(notes), int(wrong.sum()))
