"""ONNX Runtime's session profile: read it, cut it into inferences, place them on our clock.

The file is a JSON list with one event per line, in the order in which events *ended*: the nodes of
an inference, then the `model_run` that contains them. Times are whole microseconds since the
session's start on the system's wall clock. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KERNEL_SUFFIX = "_kernel_time"
_US = 1000
# How far the wall clock's word may stray from what the caller's stamps allow and still be taken.
_CLOCK_SLACK_NS = 20_000


@dataclass(frozen=True)
class NodeTime:
    """One execution of one node: its key and its time in the profile's microseconds."""

    node_index: int
    name: str
    ts_us: int
    dur_us: int


@dataclass(frozen=True)
class ProfiledRun:
    """One `model_run` and the nodes executed in it, in order."""

    ts_us: int
    dur_us: int
    nodes: tuple[NodeTime, ...]


@dataclass(frozen=True)
class Placement:
    """Where each run starts on CLOCK_MONOTONIC.

    Attributes:
        starts_ns: One per run.
        method: `clock` (the wall clock's offset, checked against the caller's stamps), `fitted`
            (the one offset that puts every run within its span) or `centred` (each run in the
            middle of its span, because no one offset fits).
    """

    starts_ns: list[int]
    method: str


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a profile; a file that was cut short yields those before the cut."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            text = line.strip().rstrip(",")
            if text in ("", "[", "]"):
                continue
            try:
                event = json.loads(text)
            except ValueError:
                return
            if isinstance(event, dict):
                yield event


def node_of(event: dict[str, Any]) -> NodeTime | None:
    """Return the node execution that an event describes, or None if it is another event."""
    name = str(event.get("name", ""))
    args = event.get("args")
    if event.get("cat") != "Node" or not name.endswith(KERNEL_SUFFIX) or not isinstance(args, dict):
        return None  # older versions also write _fence_before and _fence_after
    try:
        index = int(args["node_index"])
        return NodeTime(index, name[: -len(KERNEL_SUFFIX)], int(event["ts"]), int(event["dur"]))
    except (KeyError, TypeError, ValueError):
        return None


def read_runs(path: Path) -> list[ProfiledRun]:
    """Return the inferences of a profile in order, each with the nodes that lie within it."""
    runs: list[ProfiledRun] = []
    pending: list[NodeTime] = []
    for event in read_events(path):
        node = node_of(event)
        if node is not None:
            pending.append(node)
        elif event.get("name") == "model_run" and event.get("cat") == "Session":
            ts, dur = int(event["ts"]), int(event["dur"])
            inside = tuple(
                node
                for node in pending
                if ts <= node.ts_us and node.ts_us + node.dur_us <= ts + dur + 1
            )
            runs.append(ProfiledRun(ts, dur, inside))
            pending = []
    return runs


def place_runs(
    runs: Sequence[ProfiledRun], spans: Sequence[tuple[int, int]], clock_ns: int | None
) -> Placement:
    """Place runs on CLOCK_MONOTONIC so that each lies within the caller's span.

    Every span bounds the unknown offset between the two clocks from both sides: run k cannot have
    started before its caller did nor ended after. All spans together leave an interval of a few
    microseconds, which the wall clock's own offset has to meet to be believed.

    Args:
        runs: Of the profile, in order, as many as there are spans.
        spans: The caller's start and end of each, CLOCK_MONOTONIC ns.
        clock_ns: CLOCK_MONOTONIC at the profile's zero by the wall clock; None if that clock was
            set meanwhile.
    """
    pairs = list(zip(runs, spans, strict=False))
    if not pairs:
        return Placement([], "clock")
    # A stamp in whole microseconds is up to 1 us early.
    low = max(start - (run.ts_us + 1) * _US for run, (start, _) in pairs)
    high = min(end - (run.ts_us + run.dur_us) * _US for run, (_, end) in pairs)
    if low > high:
        return Placement([_inside(run, span, None) for run, span in pairs], "centred")
    if clock_ns is not None and low - _CLOCK_SLACK_NS <= clock_ns <= high + _CLOCK_SLACK_NS:
        offset, method = min(max(clock_ns, low), high), "clock"
    else:
        offset, method = (low + high) // 2, "fitted"
    starts = [_inside(run, span, run.ts_us * _US + offset) for run, span in pairs]
    return Placement(starts, method)


def _inside(run: ProfiledRun, span: tuple[int, int], start_ns: int | None) -> int:
    """Return the run's start, moved as a whole so that it lies within the span."""
    first, last = span[0], span[1] - run.dur_us * _US
    if start_ns is None:
        return max(first, (first + last) // 2)
    return max(first, min(start_ns, last))
