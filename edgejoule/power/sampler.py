"""The sampler process: one sweep over all channels per hardware refresh, streamed to `power.bin`.

    deadline k        k+1       k+2                 k+3 (late: k+3 was due here ^, k+4 is skipped)
       |V I V I V I    |V I V I  |V I V I V I            ^   |V I V I V I
       every read with its own start and end stamp; a failed read is a row with its errno

Between sweeps it sleeps in `select` on its stdin, so that the parent's end wakes it at once. With
the timer slack at 1 us that wait ends within about 50 us of the deadline (100 us with the kernel's
default slack), at 7 ms from one sweep to the next; a split into a coarse wait and a fine one bought
nothing that is worth a second system call.

Config: `sensor`, `sysfs_root`, `output` (power.bin), `report` (sampler.json), `period_ns` (null:
the sensor's refresh), `wall_anchor`. Says `ready`, at the end `done`. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError
from edgejoule.files import write_json
from edgejoule.power.sensor import Sensor
from edgejoule.power.sensors import open_sensor
from edgejoule.processes import Parent, child_main
from edgejoule.records import POWER, RecordWriter

DEFAULT_PERIOD_NS = 10_000_000  # where the sensor's refresh is not known
SHORTEST_PERIOD_NS = 1_000_000
VANISHED_NS = 2_000_000_000
_GAP_PERIODS = 3
_LATE_SHARE = 10  # a sweep that starts later than a tenth of the period is late
_PR_SET_TIMERSLACK = 29
_TIMER_SLACK_NS = 1000
_NICE = -10


@dataclass
class Tally:
    """What a sampler counts. Times in ns; `lateness_us_log2[k]`: sweeps late by < 2**k us."""

    sweeps: int = 0
    reads: int = 0
    late_deadlines: int = 0
    skipped_deadlines: int = 0
    gaps: int = 0
    largest_gap_ns: int = 0
    max_lateness_ns: int = 0
    sweep_ns: int = 0
    lateness_us_log2: list[int] = field(default_factory=lambda: [0] * 32)
    errors: dict[str, int] = field(default_factory=dict)


class Sweeper:
    """Reads every channel of a sensor once and writes one row each.

    Args:
        sensor: An open sensor.
        writer: Where rows go.
        tally: What is counted.
    """

    def __init__(self, sensor: Sensor, writer: RecordWriter, tally: Tally) -> None:
        self.refreshes = [0] * len(sensor.channels())
        self.failing_since_ns: int | None = None
        self.last_error = ""
        self._sensor = sensor
        self._writer = writer
        self._tally = tally
        self._last: list[int | None] = [None] * len(self.refreshes)

    def sweep(self) -> None:
        """Read all channels in order."""
        clock, read, write = time.monotonic_ns, self._sensor.read, self._writer.write
        last, any_value = self._last, False
        first_ns = clock()
        for index in range(len(last)):
            code = 0
            t0_ns = clock()
            try:
                raw = read(index)
            except OSError as error:
                raw, code = 0, error.errno or errno.EIO
            t1_ns = clock()
            write(t0_ns, t1_ns, raw, index, code)
            if code:
                name = errno.errorcode.get(code, str(code))
                self._tally.errors[name] = self._tally.errors.get(name, 0) + 1
                self.last_error = f"{os.strerror(code)} ({name})"
                continue
            any_value = True
            if raw != last[index]:
                # The first value is no refresh: nothing is known of when it came.
                self.refreshes[index] += last[index] is not None
                last[index] = raw
        now_ns = clock()
        if any_value:
            self.failing_since_ns = None
        elif self.failing_since_ns is None:
            self.failing_since_ns = first_ns
        self._tally.sweeps += 1
        self._tally.reads += len(last)
        self._tally.sweep_ns += now_ns - first_ns


def choose_period_ns(asked_ns: int | None, refresh_ns: int | None, sweep_ns: int) -> int:
    """Return the sweep period: as asked, else the refresh; never shorter than a sweep can be.

    Drivers up to Linux 5.10 wait for a conversion in every read, so that a sweep can take longer
    than a refresh; a deadline that nothing can meet would only be missed.
    """
    wanted = asked_ns or refresh_ns or DEFAULT_PERIOD_NS
    return max(wanted, SHORTEST_PERIOD_NS, -(-sweep_ns // 1_000_000) * 1_000_000)


def run_sweeps(
    sweeper: Sweeper, writer: RecordWriter, tally: Tally, period_ns: int, parent: Parent
) -> None:
    """Sweep at absolute deadlines until the parent says stop.

    Deadlines lie on one grid; one that passed while a sweep ran late is skipped and counted, never
    made up for by a burst.

    Raises:
        MeasurementError: No channel has given a value for 2 s.
        OSError: The file cannot take more.
    """
    clock = time.monotonic_ns
    deadline_ns = clock()
    previous_ns = deadline_ns
    while True:
        now_ns = clock()
        stop = parent.poll((deadline_ns - now_ns) * 1e-9)
        if stop or any(command.get("kind") == "stop" for command in parent.commands):
            return
        now_ns = clock()
        if now_ns < deadline_ns:
            continue  # a command came, not the deadline
        lateness_ns = now_ns - deadline_ns
        tally.lateness_us_log2[min(31, (lateness_ns // 1000).bit_length())] += 1
        tally.max_lateness_ns = max(tally.max_lateness_ns, lateness_ns)
        tally.late_deadlines += lateness_ns * _LATE_SHARE > period_ns
        gap_ns = now_ns - previous_ns
        tally.largest_gap_ns = max(tally.largest_gap_ns, gap_ns)
        tally.gaps += gap_ns > _GAP_PERIODS * period_ns
        previous_ns = now_ns
        sweeper.sweep()
        now_ns = clock()
        writer.tick(now_ns)
        since_ns = sweeper.failing_since_ns
        if since_ns is not None and now_ns - since_ns > VANISHED_NS:
            raise MeasurementError(
                f"no channel of the sensor has given a value for 2 s: {sweeper.last_error}",
                "see that the sensor's driver is still bound (`dmesg`), then measure again",
            )
        due = max(1, -(-(now_ns - deadline_ns) // period_ns))
        tally.skipped_deadlines += due - 1
        deadline_ns += due * period_ns


def probe(sensor: Sensor) -> int:
    """Sweep twice without recording; return how long the second sweep took, ns.

    Raises:
        MeasurementError: No channel gives a value.
    """
    values, reason, took_ns = 0, "", 0
    for _ in range(2):  # the first read of each file is slower than all others
        started_ns = time.monotonic_ns()
        for channel in sensor.channels():
            try:
                sensor.read(channel.index)
                values += 1
            except OSError as error:
                reason = f"{channel.rail} {channel.source}: {error.strerror}"
        took_ns = time.monotonic_ns() - started_ns
    if not values:
        raise MeasurementError(
            f"no channel of sensor {sensor.name} gives a value ({reason})",
            "`measure_power.py rails` shows what can be read here",
        )
    return took_ns


def main(config: dict[str, Any], parent: Parent) -> None:
    """Run the sampler process."""
    sharpen_timer()
    nice = raise_priority()
    output = Path(config["output"])
    sensor = open_sensor(config["sensor"], config["sysfs_root"])
    with contextlib.closing(sensor):
        sweep_ns = probe(sensor)
        period_ns = choose_period_ns(config.get("period_ns"), sensor.refresh_ns, sweep_ns)
        facts = {
            "channels": [channel.to_json() for channel in sensor.channels()],
            "sensor": sensor.name,
            "simulated": sensor.simulated,
            "refresh_ns": sensor.refresh_ns,
            "period_ns": period_ns,
        }
        header = {
            **facts,
            "configuration": sensor.configuration(),
            "wall_anchor": config.get("wall_anchor"),
        }
        try:
            writer = RecordWriter(output, POWER, header)
        except OSError as error:
            raise _cannot_write(output, error) from error
        tally = Tally()
        sweeper = Sweeper(sensor, writer, tally)
        started_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
        parent.say("ready", **facts)
        try:
            try:
                run_sweeps(sweeper, writer, tally, period_ns, parent)
            finally:
                # On a full disk this raises again, and what is on the disk already stays.
                writer.close()
        except OSError as error:
            raise _cannot_write(output, error) from error
        finally:
            report = {
                **_counts(tally, period_ns),
                "nice": nice,
                "sensor": sensor.name,
                "simulated": sensor.simulated,
                "refresh_ns": sensor.refresh_ns,
                "seconds": (time.monotonic_ns() - started_ns) * 1e-9,
                "cpu_s": (time.process_time_ns() - cpu_ns) * 1e-9,
                "refreshes": dict(
                    zip(
                        [f"{c.rail} {c.quantity}" for c in sensor.channels()],
                        sweeper.refreshes,
                        strict=True,
                    )
                ),
            }
            with contextlib.suppress(OSError):  # on a full disk the rows matter, this does not
                write_json(Path(config["report"]), report)
    parent.say("done", **report)


def _counts(tally: Tally, period_ns: int) -> dict[str, Any]:
    mean_ns = tally.sweep_ns // tally.sweeps if tally.sweeps else None
    return {
        "period_ns": period_ns,
        "sweeps": tally.sweeps,
        "reads": tally.reads,
        "mean_sweep_ns": mean_ns,
        "late_deadlines": tally.late_deadlines,
        "skipped_deadlines": tally.skipped_deadlines,
        "gaps": tally.gaps,
        "largest_gap_ns": tally.largest_gap_ns,
        "max_lateness_ns": tally.max_lateness_ns,
        "lateness_us_log2": tally.lateness_us_log2,
        "errors": tally.errors,
    }


def _cannot_write(path: Path, error: OSError) -> MeasurementError:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    mend = "free some disk space" if full else "see the folder's permissions and its disk"
    return MeasurementError(f"cannot write {path}: {error.strerror}", mend)


def raise_priority() -> int:
    """Be scheduled before the workload, where that is allowed (root); return the nice value.

    A sampler needs 1 % of a core; what it costs to be late is the trace.
    """
    if hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        return os.getpriority(os.PRIO_PROCESS, 0)
    return 0


def sharpen_timer() -> None:
    """Let this process's waits end as near to their time as the kernel can, where it lets us."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NS, 0, 0, 0)


if __name__ == "__main__":
    child_main(main, death_signal=signal.SIGTERM)
