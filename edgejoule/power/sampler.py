"""The sampler process: every channel at the hardware's own rhythm, streamed to `power.bin`.

    deadline k        k+1       k+2                 k+3 (late: k+3 was due here ^, k+4 is skipped)
       |V I V I V I    |V I V I  |V I V I V I            ^   |V I V I V I
       every read with its own start and end stamp; a failed read is a row with its errno

There are two rates (`rhythm.py`). *Monitor*: one sweep of a chip's channels per refresh.
*Attribution*, on top of it and where it is asked for: the attributed rails' current, irregularly,
at most a quarter of the refresh apart.

Between sweeps it sleeps in `select` on its stdin, so that the parent's end wakes it at once. With
the timer slack at 1 us that wait ends within about 50 us of the deadline (100 us with the kernel's
default slack), at 7 ms from one sweep to the next; a split into a coarse wait and a fine one bought
nothing that is worth a second system call.

Config: `sensor`, `where` (`sysfs_root`, `gpu_uuid`), `output` (power.bin), `report` (sampler.json),
`period_ns` (null: each group's own), `wall_anchor`, `attribution` (null, or `rails` (null: those
of the total), `phases` (null: always), `page` (page.bin, to know the phase), `seed`, `longest_ns`
(null: a quarter of the refresh)), `pause_phases` (null, or the phases in which nothing is read),
`page` (for those). Says `ready`, at the end `done`. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError
from edgejoule.files import write_json
from edgejoule.power.phase_switch import Pause, Switch
from edgejoule.power.rhythm import Rhythm, attribution_rhythm, monitor_rhythms
from edgejoule.power.scheduling import take_place
from edgejoule.power.sensor import FileBacked, Group, Sensor, Where
from edgejoule.power.sensors import identify, open_sensor
from edgejoule.power.sweeper import Changes
from edgejoule.processes import Parent, child_main
from edgejoule.records import POWER, RecordWriter

VANISHED_NS = 2_000_000_000


def run_sweeps(
    rhythms: list[Rhythm],
    writer: RecordWriter,
    parent: Parent,
    switch: Switch | None = None,
    pause: Pause | None = None,
) -> None:
    """Sweep each rhythm at its deadlines until the parent says stop.

    The command `stop` may say `after_ns`: then it goes on until every rhythm has swept later than
    that, so that a recording's end lies within its trace however busy the machine is.

    Args:
        rhythms: The monitor rhythms, at least one, started.
        writer: Where rows go; flushed here.
        parent: Says when to stop.
        switch: The attribution rhythm and when it is on.
        pause: When nothing is read; the time counts neither as a gap nor as late.

    Raises:
        MeasurementError: No channel has given a value for 2 s.
        OSError: The file cannot take more.
    """
    clock = time.monotonic_ns
    active = list(rhythms)
    while True:
        due_ns = min([rhythm.deadline_ns for rhythm in active])
        if parent.poll((due_ns - clock()) * 1e-9):
            return
        if parent.commands and _ended(parent, rhythms):
            return
        now_ns = clock()
        swept = False
        for rhythm in active:
            if rhythm.deadline_ns <= now_ns:
                now_ns = rhythm.run(now_ns)
                swept = swept or rhythm.jitter is None
        if not swept:
            continue  # an attribution poll, or a command came: the rest can wait for a sweep
        writer.tick(now_ns)
        _check_alive(rhythms, now_ns)
        if switch is not None:
            was_on = switch.on
            switch.look(now_ns)
            if switch.on != was_on:
                active = [*rhythms, switch.rhythm] if switch.on else list(rhythms)
        # After a command it is never paused again: what a stop waits for is about to be read.
        if pause is not None and not parent.commands:
            _rest(pause, active, writer, parent)


def _rest(pause: Pause, active: list[Rhythm], writer: RecordWriter, parent: Parent) -> None:
    """Pause if the phase asks for it, and begin every grid anew behind it."""
    if not pause.due():
        return
    writer.flush()
    pause.wait(parent)
    if parent.stopping:
        return
    for rhythm in active:
        rhythm.tally.failing_since_ns = None
        rhythm.start(time.monotonic_ns())
        rhythm.run(rhythm.deadline_ns)  # so that a rhythm's last sweep is one that was made


def _ended(parent: Parent, rhythms: list[Rhythm]) -> bool:
    """Whether the parent said stop, and what it wanted to see first has been seen."""
    wishes = [c.get("after_ns", 0) for c in parent.commands if c.get("kind") == "stop"]
    return bool(wishes) and all(rhythm.previous_ns >= min(wishes) for rhythm in rhythms)


def _check_alive(rhythms: list[Rhythm], now_ns: int) -> None:
    """Raise if nothing at all has given a value for 2 s."""
    since = [rhythm.tally.failing_since_ns for rhythm in rhythms]
    failing = [start_ns for start_ns in since if start_ns is not None]
    if len(failing) == len(rhythms) and now_ns - max(failing) > VANISHED_NS:
        raise MeasurementError(
            f"no channel of the sensor has given a value for 2 s: {rhythms[0].tally.last_error}",
            "see that the sensor's driver is still bound (`dmesg`), then measure again",
        )


def probe(sensor: Sensor) -> list[int]:
    """Sweep each group twice without recording; return how long its second sweep took, ns.

    Raises:
        MeasurementError: No channel gives a value.
    """
    values, reason = 0, ""
    took_ns = []
    for group in sensor.groups():
        for _ in range(2):  # the first read of each file is slower than all others
            started_ns = time.monotonic_ns()
            for index in group.channels:
                try:
                    sensor.read(index)
                    values += 1
                except OSError as error:
                    channel = sensor.channels()[index]
                    reason = f"{channel.rail} {channel.source}: {error.strerror}"
            group_ns = time.monotonic_ns() - started_ns
        took_ns.append(group_ns)
    if not values:
        raise MeasurementError(
            f"no channel of sensor {sensor.name} gives a value ({reason})",
            "`measure_power.py rails` shows what can be read here",
        )
    return took_ns


def main(config: dict[str, Any], parent: Parent) -> None:
    """Run the sampler process."""
    output = Path(config["output"])
    where = Where(**config["where"])
    sensor = open_sensor(config["sensor"], where)
    with contextlib.closing(sensor):
        # What NVML does in a read (3 ms of a core) must not come before everything else.
        files = isinstance(sensor, FileBacked) and None not in sensor.descriptors()
        place = take_place(short_reads=files)
        took_ns = probe(sensor)
        board, total = identify(sensor, where)
        facts: dict[str, Any] = {
            "channels": [channel.to_json() for channel in sensor.channels()],
            "sensor": sensor.name,
            "simulated": sensor.simulated,
            "refresh_ns": shortest_refresh_ns(sensor.groups()),
            "groups": [asdict(group) for group in sensor.groups()],
            "board": board,
            "total": None if total is None else total.to_json(),
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
        changes = Changes(len(sensor.channels()))
        rhythms = monitor_rhythms(sensor, writer, changes, config.get("period_ns"), took_ns)
        switch, why_no_attribution = _attribution(config, sensor, writer, changes, facts["total"])
        pause = (
            Pause(config["pause_phases"], config["page"]) if config.get("pause_phases") else None
        )
        started_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
        try:
            try:
                for rhythm in rhythms:
                    rhythm.start(time.monotonic_ns())
                    rhythm.run(rhythm.deadline_ns)
                # Whatever happens from here on lies behind a first sample.
                parent.say(
                    "ready",
                    **facts,
                    period_ns=min(rhythm.period_ns for rhythm in rhythms),
                    cpu=place.cpu,
                    attribution=why_no_attribution or ("on" if switch else "not asked for"),
                )
                run_sweeps(rhythms, writer, parent, switch, pause)
            finally:
                # On a full disk this raises again, and what is on the disk already stays.
                writer.close()
        except OSError as error:
            raise _cannot_write(output, error) from error
        finally:
            ended_ns = time.monotonic_ns()
            if switch is not None:
                switch.end(ended_ns)
                switch.close()
            if pause is not None:
                pause.close()
            report = {
                **_counts(rhythms),
                **_attribution_counts(switch, why_no_attribution),
                **_pause_counts(pause),
                "place": place.to_json(),
                "sensor": sensor.name,
                "simulated": sensor.simulated,
                "refresh_ns": facts["refresh_ns"],
                "seconds": (ended_ns - started_ns) * 1e-9,
                "cpu_s": (time.process_time_ns() - cpu_ns) * 1e-9,
                "refreshes": {
                    f"{channel.rail} {channel.quantity}": changes.counts[channel.index]
                    for channel in sensor.channels()
                },
            }
            with contextlib.suppress(OSError):  # on a full disk the rows matter, this does not
                write_json(Path(config["report"]), report)
    parent.say("done", **report)


def shortest_refresh_ns(groups: tuple[Group, ...]) -> int | None:
    """Return the shortest refresh of any group, None where none is known."""
    return min((group.refresh_ns for group in groups if group.refresh_ns), default=None)


def _attribution(
    config: dict[str, Any],
    sensor: Sensor,
    writer: RecordWriter,
    changes: Changes,
    total: dict[str, Any] | None,
) -> tuple[Switch | None, str]:
    """Return the attribution rate's switch, or None and why it cannot be had (empty: not asked)."""
    asked = config.get("attribution")
    if asked is None:
        return None, ""
    rails = asked.get("rails") or (total["rails"] if total else [])
    if not rails:
        return None, "no rail was named, and the board's total is not known"
    rhythm, why = attribution_rhythm(
        sensor, writer, changes, rails, asked.get("seed") or 0, asked.get("longest_ns")
    )
    if rhythm is None:
        return None, why
    return Switch(rhythm, asked.get("phases"), asked.get("page")), ""


def _counts(rhythms: list[Rhythm]) -> dict[str, Any]:
    """Return what was counted: all groups together, and each by itself."""
    tallies = [rhythm.tally for rhythm in rhythms]
    errors: dict[str, int] = {}
    for tally in tallies:
        for name, count in tally.errors.items():
            errors[name] = errors.get(name, 0) + count
    sweeps = sum(tally.sweeps for tally in tallies)
    return {
        "period_ns": min(rhythm.period_ns for rhythm in rhythms),
        "sweeps": sweeps,
        "reads": sum(tally.reads for tally in tallies),
        "mean_sweep_ns": sum(t.sweep_ns for t in tallies) // sweeps if sweeps else None,
        "late_deadlines": sum(tally.late_deadlines for tally in tallies),
        "skipped_deadlines": sum(tally.skipped_deadlines for tally in tallies),
        "gaps": sum(tally.gaps for tally in tallies),
        "largest_gap_ns": max(tally.largest_gap_ns for tally in tallies),
        "max_lateness_ns": max(tally.max_lateness_ns for tally in tallies),
        "lateness_us_log2": [
            sum(bins) for bins in zip(*(t.lateness_us_log2 for t in tallies), strict=True)
        ],
        "errors": errors,
        "groups": {rhythm.name: _group_counts(rhythm) for rhythm in rhythms},
    }


def _group_counts(rhythm: Rhythm) -> dict[str, Any]:
    counted = asdict(rhythm.tally)
    for name in ("failing_since_ns", "last_error"):
        del counted[name]
    return {"period_ns": rhythm.period_ns, "refresh_ns": rhythm.refresh_ns, **counted}


def _attribution_counts(switch: Switch | None, why: str) -> dict[str, Any]:
    if switch is None:
        return {"attribution": {"why": why}} if why else {}
    seconds = switch.on_ns * 1e-9
    return {"attribution": {"seconds": seconds, **_group_counts(switch.rhythm)}}


def _pause_counts(pause: Pause | None) -> dict[str, Any]:
    if pause is None:
        return {}
    return {"pauses": pause.pauses, "paused_s": pause.paused_ns * 1e-9}


def _cannot_write(path: Path, error: OSError) -> MeasurementError:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    mend = "free some disk space" if full else "see the folder's permissions and its disk"
    return MeasurementError(f"cannot write {path}: {error.strerror}", mend)


if __name__ == "__main__":
    child_main(main, death_signal=signal.SIGTERM)
