"""`measure_power.py record`: a trace for a time, until stopped, or around a command."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.cli.power_convert import add_output, check_output, write_table
from edgejoule.cli.power_options import add_sensor_options, put_back_left_over, where_of
from edgejoule.errors import EXIT_INTERRUPTED, MeasurementError, UsageError

if TYPE_CHECKING:
    from edgejoule.energy.trace import RailPower
    from edgejoule.power.recording import Recording
    from edgejoule.supervision import StopFlag, Supervisor

_POLL_S = 0.1
_GRACE_S = 5.0
_ROLE_OF_ATTRIBUTION = "total"
_COVERED = 0.99


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb `record`."""
    parser = verbs.add_parser(
        "record",
        help="write a power trace: for a time, until stopped, or around a command",
        description="Record every rail and print the energy of each. Without --duration and\n"
        "without a command it goes on until Ctrl-C. Whatever ends it, what was read is written.",
        epilog="""examples:
  measure_power.py record --output trace.parquet -- python my_script.py
  measure_power.py record --output idle.csv --duration 60 --sensor nvml,rapl""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--duration",
        type=float,
        metavar="S",
        help="seconds to record; with a command the longest it may take, then it is ended",
    )
    add_output(parser)
    parser.add_argument(
        "command", nargs="*", metavar="CMD", help="command to run and to record, after --"
    )
    add_sensor_options(parser)
    rate = parser.add_argument_group("rate")
    rate.add_argument(
        "--period-ms",
        type=float,
        metavar="MS",
        help="time between two sweeps (default: the hardware's own refresh)",
    )
    rate.add_argument(
        "--attribution",
        nargs="?",
        const=_ROLE_OF_ATTRIBUTION,
        metavar="RAILS",
        help="also poll these rails' current irregularly, at most a quarter of the refresh apart, "
        "so that the sensor's phase can be found (default: the rails of the total)",
    )
    settings = parser.add_argument_group("the chip's settings, changed only if asked, put back")
    settings.add_argument(
        "--update-interval-ms", type=int, metavar="MS", help="INA3221: conversion cycle; needs root"
    )
    settings.add_argument(
        "--samples", type=int, metavar="N", help="INA3221: averaging in the chip; needs root"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace) -> int:
    """Record, write the trace, print its energy."""
    import contextlib
    import tempfile

    from edgejoule.files import disk_errors
    from edgejoule.power.sensors import choose_sensor

    _check(arguments)
    put_back_left_over(arguments.sysfs_root)
    where = where_of(arguments)
    choice = choose_sensor(arguments.sensor, where)
    if not choice.usable:
        raise MeasurementError(f"no power sensor can be read here: {choice.why}", choice.mend)
    output: Path = arguments.output
    # In the folder of the output, so that the finished file needs no copy, and that a folder which
    # cannot be written is found out before anything is measured.
    with disk_errors(output.parent):
        temporary = tempfile.TemporaryDirectory(prefix=".edgejoule-", dir=output.parent)
    with temporary, contextlib.ExitStack() as stack:
        _change_settings(arguments, stack)
        directory = Path(temporary.name)
        recording, status, signum = _record(choice.name, directory, arguments)
        with disk_errors(output.parent):
            write_table(directory / "power.bin", output)
        print(energy_table(directory / "power.bin", recording))
    print(f"written: {output}")
    if status:
        raise MeasurementError(f"the command ended with status {status}", "the trace is kept")
    until_stopped = arguments.duration is None and not arguments.command
    return EXIT_INTERRUPTED if signum and not until_stopped else 0


def _check(arguments: argparse.Namespace) -> None:
    check_output(arguments.output)
    for name in ("duration", "period_ms"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < float("inf"):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} {value:g}", "give a number above 0")


def _change_settings(arguments: argparse.Namespace, stack: Any) -> None:
    """Change the chip's settings as asked, until the stack unwinds; put back what was left over."""
    if arguments.update_interval_ms is None and arguments.samples is None:
        return
    from edgejoule.power.chip_settings import changed_chip_settings

    changes = stack.enter_context(
        changed_chip_settings(arguments.sysfs_root, arguments.update_interval_ms, arguments.samples)
    )
    for chip in changes:
        print(
            f"{chip.address}: update_interval {chip.before_update_interval_ms} -> "
            f"{chip.update_interval_ms} ms, samples {chip.before_samples} -> {chip.samples}"
            f"{chip.note and '; ' + chip.note}; put back at the end"
        )


def _record(
    sensor: str, directory: Path, arguments: argparse.Namespace
) -> tuple[Recording, int, int]:
    """Record; return the recording, the command's status, and the signal that ended it (or 0)."""
    from edgejoule.power.acquire import Attribution
    from edgejoule.power.recording import record
    from edgejoule.report.progress import Progress
    from edgejoule.supervision import StopFlag, stop_on_signals

    status = 0
    began_s = time.monotonic()
    attribution = None
    if arguments.attribution is not None:
        named = tuple(filter(None, arguments.attribution.split(",")))
        attribution = Attribution(None if named == (_ROLE_OF_ATTRIBUTION,) else named)
    period_ns = None if arguments.period_ms is None else int(arguments.period_ms * 1e6)

    with stop_on_signals() as stop, Progress(arguments.quiet) as progress:

        def during(supervisor: Supervisor) -> int | None:
            nonlocal status, began_s
            began_s = time.monotonic()
            if arguments.command:
                status, end_ns = _run_command(
                    arguments.command, arguments.duration, supervisor, stop
                )
                return end_ns
            if arguments.duration is None:
                progress.line("recording until Ctrl-C")
            _wait(supervisor, stop, arguments.duration)
            return None

        def tick(_now_ns: int) -> None:
            done_s = time.monotonic() - began_s
            longest_s = arguments.duration
            left_s = None if longest_s is None else max(0.0, longest_s - done_s)
            total = None if longest_s is None else round(longest_s)
            progress.update("record", round(done_s), total, remaining_s=left_s)

        # The signal ends the waiting, not the children: their last samples are wanted.
        recording = record(
            sensor,
            directory,
            where_of(arguments),
            StopFlag(),
            during,
            tick,
            period_ns=period_ns,
            attribution=attribution,
        )
        asked = recording.ready.get("attribution")
        if attribution is not None and asked != "on":
            progress.line(f"no attribution rate: {asked}")
    return recording, status, stop.signum


def _wait(supervisor: Supervisor, stop: StopFlag, seconds: float | None) -> None:
    """Let time pass until it is over or a signal comes."""
    deadline = time.monotonic() + (float("inf") if seconds is None else seconds)
    while not stop.signum and (left := deadline - time.monotonic()) > 0:
        supervisor.wait(min(_POLL_S, left))


def _run_command(
    command: Sequence[str], longest_s: float | None, supervisor: Supervisor, stop: StopFlag
) -> tuple[int, int]:
    """Run a command; return its status (0 if we ended it) and when it ended, ns."""
    import subprocess
    import threading

    from edgejoule.processes import child_environment, hide_environment

    hide_environment()
    # The user's own command, in the user's own environment, but for the secrets in it.
    environment = {name: os.environ[name] for name in child_environment() if name in os.environ}
    try:
        process = subprocess.Popen(list(command), env=environment)
    except OSError as error:
        raise UsageError(
            f"cannot run {command[0]}: {error.strerror}", "give a command that a shell would find"
        ) from error
    ended: list[int] = []

    def stamp() -> None:
        process.wait()
        ended.append(time.monotonic_ns())

    # A thread that sleeps in `waitpid` stamps the end exactly and costs nothing meanwhile.
    waiter = threading.Thread(target=stamp, daemon=True)
    waiter.start()
    deadline = time.monotonic() + (float("inf") if longest_s is None else longest_s)
    try:
        while not ended and not stop.signum and (left := deadline - time.monotonic()) > 0:
            supervisor.wait(min(_POLL_S, left))
        if ended:
            return process.returncode, ended[0]
        end_ns = time.monotonic_ns()
        process.terminate()
        waiter.join(_GRACE_S)
        if not stop.signum:
            print(f"the command was ended after {longest_s:g} s")
        return 0, end_ns
    finally:
        if not ended:
            process.kill()
            waiter.join(_GRACE_S)


def energy_table(power_bin: Path, recording: Recording) -> str:
    """Return the energy of each rail over the recorded time, for people."""
    from edgejoule.energy.integrate import energy_mj
    from edgejoule.energy.trace import rail_powers_of_samples, read_samples, total_power
    from edgejoule.power.totals import total_rails_of

    header, samples = read_samples(power_bin)
    rails: dict[str, RailPower] = rail_powers_of_samples(header["channels"], samples)
    total_of = total_rails_of(header, tuple(n for n, rail in rails.items() if len(rail.t_ns)))
    if total_of is not None:
        rails["total"] = total_power([rails[name] for name in total_of])
    seconds = (recording.end_ns - recording.start_ns) * 1e-9
    lines = [f"{'rail':<20} {'energy J':>10} {'mean W':>8}   over {seconds:.3f} s"]
    for name, series in rails.items():
        part = energy_mj(series, recording.start_ns, recording.end_ns)
        note = "" if part.coverage > _COVERED else f"   only {part.coverage:.1%} of the time"
        lines.append(f"{name:<20} {part.energy_mj * 1e-3:10.3f} {part.mean_mw * 1e-3:8.3f}{note}")
    if total_of is None:
        lines.append("no total: the board is not known, or a rail of its total gives no value")
    elif header.get("total"):
        lines.append(f"total = {' + '.join(total_of)}: {header['total']['contains']}")
    lines.append(_sampling_line(recording.report))
    if header["simulated"]:
        lines.append("SIMULATED: no power was measured")
    return "\n".join(lines)


def _sampling_line(report: Mapping[str, Any]) -> str:
    rate_hz = report["sweeps"] / max(1e-9, report["seconds"])
    share = 100 * report["cpu_s"] / max(1e-9, report["seconds"])
    errors = ", ".join(f"{count} {name}" for name, count in report["errors"].items()) or "none"
    polled = ""
    if "sweeps" in report.get("attribution", {}):
        polled = f", {report['attribution']['sweeps']} attribution polls"
    return (
        f"{report['sweeps']} sweeps, {rate_hz:.0f}/s{polled}, {report['gaps']} gaps, failed reads: "
        f"{errors}; the sampler took {share:.1f} % of a core"
    )
