"""Start the sampler and the simulated board, and wait until they are ready.

Both work in one directory, with the file names of a run: `power.bin`, `sampler.json`; for the
simulated board `page.bin` and `phases.jsonl` (where it looks) and `sysfs/`, `truth.json`.

Standard library only.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgejoule.errors import EdgejouleError, MeasurementError
from edgejoule.power.ina3221 import inherited_descriptors
from edgejoule.power.sensor import Where
from edgejoule.power.sensors import SIMULATED
from edgejoule.processes import Child, start_child

POWER_FILE = "power.bin"
REPORT_FILE = "sampler.json"
SYSFS_DIRECTORY = "sysfs"
TRUTH_FILE = "truth.json"
LOG_FILE = "run.log"
# A Python start on a busy small board takes seconds, a slow driver's first sweep one more.
_READY_S = 30.0


@dataclass(frozen=True)
class Attribution:
    """The attribution rate: which rails, and when.

    Attributes:
        rails: The rails whose current is polled; None: those of the board's total.
        phases: The phases in which it is on, None for always.
        seed: Seeds the irregularity of the polls.
        longest_ns: Poll at least this often, None: a quarter of the refresh will do.
    """

    rails: tuple[str, ...] | None = None
    phases: tuple[str, ...] | None = None
    seed: int = 0
    longest_ns: int | None = None

    def to_json(self, directory: Path) -> dict[str, Any]:
        """Return what the sampler is told; it looks up the phase in the page of `directory`."""
        page = str(directory / "page.bin") if self.phases is not None else None
        return {**asdict(self), "page": page}


def wall_anchor() -> dict[str, int]:
    """Return the same moment on both clocks: `monotonic_ns` and `wall_ns`."""
    return {"monotonic_ns": time.monotonic_ns(), "wall_ns": time.time_ns()}


def start_simulator(directory: Path, seed: int = 0, timeout_s: float = _READY_S) -> Child:
    """Start the simulated board in `directory` and wait until its files are there.

    Args:
        directory: Where its files lie; it follows `page.bin` and `phases.jsonl` there.
        seed: Seeds its drift and noise.
        timeout_s: How long to wait.

    Raises:
        EdgejouleError: It reported an error, died, or was not ready in time; it is stopped.
    """
    config = {
        "tree": str(directory / SYSFS_DIRECTORY),
        "page": str(directory / "page.bin"),
        "phase_log": str(directory / "phases.jsonl"),
        "truth": str(directory / TRUTH_FILE),
        "seed": seed,
    }
    log = directory / LOG_FILE
    child = start_child("simulated board", "edgejoule.power.simulator", config, log)
    _await_ready(child, log, timeout_s)
    return child


def start_sampler(
    sensor: str,
    directory: Path,
    where: Where = Where(),  # noqa: B008 (frozen)
    anchor: dict[str, int] | None = None,
    *,
    period_ns: int | None = None,
    attribution: Attribution | None = None,
    pause_phases: tuple[str, ...] = (),
    timeout_s: float = _READY_S,
) -> tuple[Child, dict[str, Any]]:
    """Start the sampler on a chosen sensor and wait for its first sweep.

    Args:
        sensor: The sensor's name, as `choose_sensor` gave it; not `none`.
        directory: Where `power.bin` and `sampler.json` go.
        where: Where to look; for the simulated board its sysfs is the one in `directory`.
        anchor: The run's `wall_anchor`; None takes one now.
        period_ns: Sweep period, None for the sensor's own.
        attribution: The attribution rate, None for the monitor rate alone.
        pause_phases: Phases in which nothing is read, so that what sampling costs can be measured.
        timeout_s: How long to wait.

    Returns:
        The sampler and its message `ready`: `channels`, `sensor`, `simulated`, `refresh_ns`,
        `groups`, `board`, `total`, `period_ns`, `cpu` (that it is pinned to), `attribution`.

    Raises:
        EdgejouleError: It reported an error, died, or was not ready in time; it is stopped.
    """
    if sensor == SIMULATED:
        where = Where(str(directory / SYSFS_DIRECTORY))
    config = {
        "sensor": sensor,
        "where": asdict(where),
        "output": str(directory / POWER_FILE),
        "report": str(directory / REPORT_FILE),
        "period_ns": period_ns,
        "wall_anchor": anchor or wall_anchor(),
        "attribution": None if attribution is None else attribution.to_json(directory),
        "pause_phases": list(pause_phases),
        "page": str(directory / "page.bin"),
    }
    log = directory / LOG_FILE
    # Rail files that only root may read came open with us: they go on to this child and no other.
    rails = inherited_descriptors().values()
    child = start_child("sampler", "edgejoule.power.sampler", config, log, pass_fds=rails)
    return child, _await_ready(child, log, timeout_s)


def _await_ready(child: Child, log: Path, timeout_s: float) -> dict[str, Any]:
    try:
        ready = child.wait_for("ready", timeout_s)
    except BaseException:
        child.kill()
        raise
    if ready is not None:
        return ready
    late = child.process.poll() is None
    child.kill()
    for message in child.received:
        if message["kind"] == "error":
            raise EdgejouleError(message["message"], message["mend"], message["exit_code"])
        if message["kind"] == "crash":
            raise MeasurementError(
                f"the {child.name} failed: {message['message']}", f"the traceback is in {log}"
            )
    why = f"was not ready within {timeout_s:g} s" if late else "died before it was ready"
    raise MeasurementError(f"the {child.name} {why}{_last_line(log)}", f"see {log}")


def _last_line(log: Path) -> str:
    """Return `: <last line of the log>`, or nothing."""
    with log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    text = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {text[:300]}" if text else ""
