"""A power trace of its own, without an experiment: for the idle baseline and for one's own command.

Standard library only.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgejoule.phases import PhaseBoard
from edgejoule.power.acquire import Attribution, start_sampler, start_simulator
from edgejoule.power.sensor import Where
from edgejoule.power.sensors import SIMULATED
from edgejoule.supervision import StopFlag, Supervisor

_SWEEPS_AFTER = 2  # behind the end, so that the readings of the last moment are in


@dataclass(frozen=True)
class Recording:
    """A finished trace: its files lie in the directory it was made in.

    Attributes:
        start_ns: When what was recorded began; samples begin a little before.
        end_ns: When it ended; samples go on a little longer, so that both edges are known.
        ready: The sampler's message `ready` (`acquire.start_sampler`).
        report: The sampler's message `done`: what it counted.
    """

    start_ns: int
    end_ns: int
    ready: dict[str, Any]
    report: dict[str, Any]


def record(
    sensor: str,
    directory: Path,
    where: Where,
    stop: StopFlag,
    during: Callable[[Supervisor], int | None],
    on_tick: Callable[[int], None] = lambda _now_ns: None,
    *,
    period_ns: int | None = None,
    attribution: Attribution | None = None,
) -> Recording:
    """Record every channel of a sensor while `during` runs.

    Args:
        sensor: A chosen sensor, not `none`.
        directory: An empty folder for `power.bin` and the rest.
        where: Where to look for the sensor; the simulated board has its own sysfs.
        stop: Raised flag ends everything.
        during: What is recorded; it lets time pass through the supervisor it is given, and returns
            when it ended (ns) if it knows better than its return.
        on_tick: Called about four times a second.
        period_ns: Sweep period, None for the sensor's own.
        attribution: The attribution rate, None for the monitor rate alone.

    Raises:
        EdgejouleError: A child failed, or the user wants to end; no child is left.
    """
    supervisor = Supervisor(stop, on_tick)
    paths = directory / "page.bin", directory / "phases.jsonl"
    with contextlib.closing(PhaseBoard(*paths)) as board:
        try:
            board.mark("idle_before")
            if sensor == SIMULATED:
                supervisor.add(start_simulator(directory))
            sampler, ready = start_sampler(
                sensor, directory, where, period_ns=period_ns, attribution=attribution
            )
            supervisor.add(sampler)
            start_ns = board.mark("idle_before")
            end_ns = during(supervisor) or time.monotonic_ns()
            supervisor.finish(sampler, _SWEEPS_AFTER * ready["period_ns"])
            board.mark("end")
            for child in list(supervisor.children):
                supervisor.end(child)
        finally:
            supervisor.stop_all()
    report = next((message for message in sampler.received if message["kind"] == "done"), {})
    return Recording(start_ns, end_ns, ready, report)
