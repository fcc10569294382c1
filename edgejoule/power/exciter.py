"""The exciter process: pulses of load at known times, to see what a power sensor makes of them.

    plan      ____|~~~~~~~~|______|~~~|__        `exciter_schedule.plan_edges`
    stamps       b a      b a    b a  b a        before and after each edge, CLOCK_MONOTONIC

Three loads, same plan, same log (`edges.jsonl`, one line per edge: `before_ns`, `after_ns`,
`step`; the load at any time is the sum of the steps so far, 0 to 1):

- `gpu`: sums of long vectors through torch, each below 0.1 ms, a few of them queued; an edge lies
  between the stamps around the first launch, or between the last two looks at whether the last
  sum has ended.
- `cpu`: busy loops, one process per core asked for, each of which stamps its own edges.
- `announced`: nothing is loaded. The plan is written ahead for the simulated board, whose chip is
  computed from it (`simulated_chip`), and the shared page shows an inference per pulse.

Config: `load` (`gpu`, `cpu`, `announced`), `duration_ns`, `refresh_ns`, `seed`, `edges` (the log),
`lead_ns` (idle before the first and after the last edge), `workers` (cpu: how many), `device` (
gpu: `cuda:0`), `page`, `phase_log`, `log`. Says `ready` (`load`, `detail`), at the end `done` (
`start_ns`, `end_ns`, `pulses`, `missed`). Standard library only, but for torch in `exciter_gpu`.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError
from edgejoule.phases import PhaseBoard
from edgejoule.power.exciter_schedule import plan_edges
from edgejoule.power.scheduling import sharpen_timer
from edgejoule.processes import Child, Parent, child_main, start_child

_SETTLE_NS = 300_000_000  # from a plan that is written to its first edge
_WORKERS_READY_S = 30.0


@dataclass(frozen=True)
class Edge:
    """One edge of the load.

    Attributes:
        before_ns: It came after this, CLOCK_MONOTONIC.
        after_ns: And before this.
        step: By how much the load rose (or fell, below 0); all of it is 1.
    """

    before_ns: int
    after_ns: int
    step: float

    def line(self) -> str:
        """Return its line of the log."""
        return json.dumps(
            {"before_ns": self.before_ns, "after_ns": self.after_ns, "step": self.step}
        )


def main(config: dict[str, Any], parent: Parent) -> None:
    """Run the exciter."""
    sharpen_timer()
    plan = plan_edges(int(config["duration_ns"]), int(config["refresh_ns"]), int(config["seed"]))
    loads = {"gpu": _gpu, "cpu": _cpu, "announced": _announced}
    edges = loads[config["load"]](config, plan, parent)
    planned = len(plan) // 2
    pulses = len(edges) // (2 * int(config.get("workers") or 1) if config["load"] == "cpu" else 2)
    if parent.stopping:
        return
    parent.say(
        "done",
        start_ns=min((edge.before_ns for edge in edges), default=0),
        end_ns=max((edge.after_ns for edge in edges), default=0),
        pulses=pulses,
        missed=max(0, planned - pulses),
    )


def write_edges(path: Path, edges: Iterable[Edge]) -> None:
    """Write the log, in order of time."""
    ordered = sorted(edges, key=lambda edge: edge.before_ns)
    with path.open("w", encoding="ascii") as file:
        file.writelines(f"{edge.line()}\n" for edge in ordered)


def wait_until(at_ns: int, parent: Parent) -> bool:
    """Sleep until a time; return whether to go on (the parent may want to stop)."""
    while (left_ns := at_ns - time.monotonic_ns()) > 0:
        if parent.poll(left_ns * 1e-9):
            return False
    return not parent.stopping


def play(
    plan: Sequence[int],
    start_ns: int,
    busy: Callable[[int], tuple[int, int, int, int]],
    parent: Parent,
    step: float = 1.0,
) -> list[Edge]:
    """Play a plan: sleep until each rise, then be busy until the fall.

    Args:
        plan: Rises and falls in turn, from the start.
        start_ns: When the plan begins.
        busy: Loads until the time it is given; returns the stamps around rise and fall.
        parent: Whose wish to stop is heeded between pulses.
        step: How much of the whole load this is.

    Returns:
        The edges as they were; a pulse that was over before this process woke is left out.
    """
    found = []
    for rise, fall in zip(plan[::2], plan[1::2], strict=True):
        if not wait_until(start_ns + rise, parent):
            break
        if time.monotonic_ns() >= start_ns + fall:
            continue
        rise_before, rise_after, fall_before, fall_after = busy(start_ns + fall)
        found += [Edge(rise_before, rise_after, step), Edge(fall_before, fall_after, -step)]
    return found


def _announced(config: dict[str, Any], plan: list[int], parent: Parent) -> list[Edge]:
    """Write the plan ahead, then show a pulse as an inference in the page."""
    board = PhaseBoard(Path(config["page"]), Path(config["phase_log"]))
    lead_ns = max(_SETTLE_NS, int(config["lead_ns"]))
    with contextlib.closing(board):
        parent.say("ready", load="announced", detail="announced to the simulated board")
        start_ns = time.monotonic_ns() + lead_ns
        times = [start_ns + at for at in plan]
        edges = [Edge(at, at, -1.0 if k % 2 else 1.0) for k, at in enumerate(times)]
        write_edges(Path(config["edges"]), edges)
        for k, at_ns in enumerate(times):
            if not wait_until(at_ns, parent):
                return edges
            if k % 2:
                board.end_inference()
            else:
                board.begin_inference(k // 2, at_ns)
        wait_until(times[-1] + lead_ns, parent)
    return edges


def _gpu(config: dict[str, Any], plan: list[int], parent: Parent) -> list[Edge]:
    from edgejoule.power.exciter_gpu import GpuLoad

    load = GpuLoad(config.get("device") or "cuda:0")
    parent.say("ready", load="gpu", detail=load.detail)
    lead_ns = int(config["lead_ns"])
    start_ns = time.monotonic_ns() + lead_ns
    edges = play(plan, start_ns, lambda until_ns: load.busy(until_ns, parent), parent)
    wait_until(time.monotonic_ns() + lead_ns, parent)
    write_edges(Path(config["edges"]), edges)
    return edges


def _cpu(config: dict[str, Any], plan: list[int], parent: Parent) -> list[Edge]:
    """Let the workers play the plan, each with its own stamps, and add them up."""
    workers = int(config["workers"])
    lead_ns = int(config["lead_ns"])
    path, log = Path(config["edges"]), Path(config["log"])
    files = [path.with_suffix(f".{k}") for k in range(workers)]
    children: list[Child] = []
    try:
        for file in files:
            given = {"plan": plan, "edges": str(file), "step": 1.0 / workers}
            children.append(
                start_child("load worker", "edgejoule.power.exciter_worker", given, log)
            )
        for child in children:
            if child.wait_for("ready", _WORKERS_READY_S) is None:
                raise MeasurementError("a load worker was not ready in time", f"see {log}")
        parent.say("ready", load="cpu", detail=f"busy loops on {workers} cores")
        start_ns = time.monotonic_ns() + lead_ns
        for child in children:
            child.send(kind="start", start_ns=start_ns)
        if not wait_until(start_ns + plan[-1] + lead_ns, parent):
            return []
        for child in children:
            if child.wait_for("done", _WORKERS_READY_S) is None:
                raise MeasurementError("a load worker ended before its time", f"see {log}")
    finally:
        for child in children:
            child.stop(grace_s=1.0)
    edges = [edge for file in files for edge in read_edges(file)]
    for file in files:
        file.unlink()
    write_edges(path, edges)
    return edges


def read_edges(path: Path) -> list[Edge]:
    """Read a log back.

    Raises:
        MeasurementError: It cannot be read, or a line is damaged.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        rows = [json.loads(line) for line in lines]
        return [Edge(int(r["before_ns"]), int(r["after_ns"]), float(r["step"])) for r in rows]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise MeasurementError(
            f"the log of the load's edges {path} cannot be used ({error})", "calibrate again"
        ) from error


if __name__ == "__main__":
    child_main(main, death_signal=signal.SIGTERM)
