"""A load worker: keeps one core busy in pulses, for the exciter. Standard library only.

Config: `plan` (times of rise and fall from the start, ns), `edges` (where its stamps go), `step`
(its share of the load). Says `ready`, waits for the command `start` with `start_ns`, plays the
plan, says `done`.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

from edgejoule.power.exciter import play, write_edges
from edgejoule.power.scheduling import sharpen_timer
from edgejoule.processes import Parent, child_main

_TURNS = 50  # of arithmetic between two looks at the clock: about 3 us


def main(config: dict[str, Any], parent: Parent) -> None:
    """Run the worker."""
    sharpen_timer()
    parent.say("ready")
    start_ns = None
    while start_ns is None:
        if parent.poll(1.0):
            return
        started = [c["start_ns"] for c in parent.commands if c.get("kind") == "start"]
        start_ns = started[0] if started else None

    def busy(until_ns: int) -> tuple[int, int, int, int]:
        return busy_loop(until_ns, parent)

    edges = play(config["plan"], int(start_ns), busy, parent, float(config["step"]))
    if not parent.stopping:
        write_edges(Path(config["edges"]), edges)
        parent.say("done")


def busy_loop(until_ns: int, parent: Parent) -> tuple[int, int, int, int]:
    """Compute until a time (or the wish to stop); return the stamps around rise and fall."""
    clock = time.monotonic_ns
    begin_ns = now_ns = clock()
    value, previous_ns = 1.0, begin_ns
    while now_ns < until_ns and not parent.stopping:
        for _ in range(_TURNS):
            value = value * 1.0000001 + 1e-9
        previous_ns, now_ns = now_ns, clock()
    return begin_ns, begin_ns, previous_ns, now_ns


if __name__ == "__main__":
    child_main(main, death_signal=signal.SIGTERM)
