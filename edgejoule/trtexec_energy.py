"""trtexec seen from outside: its run, and the energy of an inference of its timed part."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import disk_error
from edgejoule.processes import child_environment, die_with_parent
from edgejoule.supervision import StopFlag
from edgejoule.trtexec import failure_in, timed_span

_POLL_S = 0.1
_DRAIN_S = 5.0

# The timed part's ends are known to some milliseconds only: power is taken from inside.
_INSIDE = 0.03


@dataclass(frozen=True)
class TimedPart:
    """What a trtexec said of its timed part: when it said so, inferences, seconds."""

    told_ns: int
    inferences: int
    seconds: float


@dataclass(frozen=True)
class Clean:
    """The clean pass as seen from outside: CLOCK_MONOTONIC ns.

    Attributes:
        idle_start_ns: When idle began.
        idle_end_ns: When it ended and trtexec was started.
        ended_ns: When trtexec said that the timed part was over.
        inferences: How many it then named.
        seconds: Over how long.
    """

    idle_start_ns: int
    idle_end_ns: int
    ended_ns: int
    inferences: int
    seconds: float

    @property
    def window_ns(self) -> tuple[int, int]:
        """The inside of the timed part."""
        length = self.seconds * 1e9
        return (
            self.ended_ns - round((1 - _INSIDE) * length), self.ended_ns - round(_INSIDE * length)
        )  # fmt: skip


def run_program(
    program: Path,
    words: Sequence[str],
    log: Path,
    stop: StopFlag,
    *,
    gpu_uuid: str | None = None,
    wait: Callable[[float], None] | None = None,
) -> list[TimedPart]:
    """Run trtexec into a log and return the timed parts that it named.

    Args:
        program: trtexec.
        words: Its arguments.
        log: Takes what it says, line by line.
        stop: Looked at all the time.
        gpu_uuid: The only GPU that it shall see; None: those that are visible here.
        wait: Lets time pass, and raises if that is no longer any use.

    Raises:
        UsageError: It cannot be started, or the log cannot be written.
        MeasurementError: It failed, with its own words; or the disk is full.
        Interrupted: The user wants to end; it is ended too.
    """
    environment = {name: os.environ[name] for name in child_environment() if name in os.environ}
    if gpu_uuid is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu_uuid
    process = _start([str(program), *words], environment)
    lines: list[str] = []
    parts: list[TimedPart] = []
    failed: list[OSError] = []
    reader = threading.Thread(
        target=_follow, args=(process.stdout, log, lines, parts, failed), daemon=True
    )
    reader.start()
    pause = wait or reader.join
    try:
        while reader.is_alive():
            stop.check()
            pause(_POLL_S)
        status = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(_DRAIN_S)
    # Ctrl-C in a terminal reaches the program as well: that it then ended badly is no failure.
    stop.check()
    if failed:
        raise disk_error(log.parent, failed[0]) from failed[0]
    # Some versions end `--help` with a failure's status.
    if status and "--help" not in words:
        how = f" ({signal.Signals(-status).name})" if status < 0 else ""
        raise MeasurementError(f"trtexec failed{how}: {failure_in(lines)}", f"look at {log}")
    return parts


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    parent = os.getpid()

    def prepare() -> None:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    try:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=dict(environment),
            preexec_fn=prepare  # noqa: PLW1509 (the reader of an earlier program has ended)
            if sys.platform == "linux"
            else None,
        )
    except OSError as error:
        raise UsageError(
            f"cannot run {command[0]}: {error.strerror}", "give --trtexec PATH"
        ) from error


def _follow(
    said: IO[str],
    log: Path,
    lines: list[str],
    parts: list[TimedPart],
    failed: list[OSError],
) -> None:
    """Read a program's lines to their end, whether or not the log takes them (a thread's work)."""
    with contextlib.ExitStack() as stack:
        file = None
        try:
            file = stack.enter_context(_log(log))
        except OSError as error:
            failed.append(error)
        for line in said:
            now_ns = time.monotonic_ns()
            lines.append(line)
            if (span := timed_span(line)) is not None:
                parts.append(TimedPart(now_ns, *span))
            if file is not None and not failed:
                try:
                    file.write(line)
                except OSError as error:
                    failed.append(error)


@contextlib.contextmanager
def _log(path: Path) -> Iterator[IO[str]]:
    file = path.open("w", encoding="utf-8", buffering=1)
    try:
        yield file
    finally:
        # What could not be written was told when it was written.
        with contextlib.suppress(OSError):
            file.close()


def clean_energy(power_bin: Path, clean: Clean) -> dict[str, Any]:
    """Return energy per inference of the total, or of each rail where no total is known.

    The interval is of the mean power, from block means; idle is without the engine loaded, which
    is what can be had around a program of its own.
    """
    from edgejoule.energy.integrate import energy_mj
    from edgejoule.energy.statistics import combine, mean_of
    from edgejoule.energy.trace import rail_powers_of_samples, read_samples, total_power
    from edgejoule.power.totals import total_rails_of

    header, samples = read_samples(power_bin)
    rails = rail_powers_of_samples(header["channels"], samples)
    total_of = total_rails_of(header, tuple(n for n, rail in rails.items() if len(rail.t_ns)))
    if total_of is not None:
        rails["total"] = total_power([rails[name] for name in total_of])
    start_ns, end_ns = clean.window_ns
    period_s = clean.seconds / clean.inferences
    figures: dict[str, Any] = {}
    for name, series in rails.items():
        loaded = energy_mj(series, start_ns, end_ns)
        idle = energy_mj(series, clean.idle_start_ns, clean.idle_end_ns)
        inside = (series.t_ns >= start_ns) & (series.t_ns <= end_ns)
        before = (series.t_ns >= clean.idle_start_ns) & (series.t_ns <= clean.idle_end_ns)
        half = mean_of(series.power_mw[inside]).half_width
        idle_half = mean_of(series.power_mw[before]).half_width
        figures[name] = {
            "mean_mw": loaded.mean_mw,
            "idle_mw": idle.mean_mw,
            "gross_mj": loaded.mean_mw * period_s,
            "gross_statistical_mj": None if half is None else half * period_s,
            "dynamic_mj": (loaded.mean_mw - idle.mean_mw) * period_s,
            "dynamic_statistical_mj": _times(combine(half, idle_half), period_s),
            "coverage": loaded.coverage,
        }
    found: dict[str, Any] = {
        "rail": "total" if total_of else None,
        "total_of": total_of,
        "rails": figures,
        "sensor": header["sensor"],
        "simulated": header["simulated"],
        "idle": "before trtexec was started: the engine is not loaded",
    }
    return {**found, **figures["total"]} if total_of else found


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
