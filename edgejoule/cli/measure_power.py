"""`measure_power.py`: process two alone. `rails` shows what is here, `record` writes a trace."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import MeasurementError, UsageError, run_command

if TYPE_CHECKING:
    from edgejoule.energy.trace import RailPower
    from edgejoule.power.recording import Recording
    from edgejoule.power.sensor import Sensor
    from edgejoule.supervision import Supervisor

_FORMATS = (".parquet", ".csv")
_POLL_S = 0.1
_GRACE_S = 5.0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `measure_power.py`."""
    parser = argparse.ArgumentParser(
        prog="measure_power.py", description="Read the power rails of this board."
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    rails = verbs.add_parser(
        "rails",
        help="what can be read here, and what was looked for",
        description="Show sensor, rails, one reading of each, the board's total and its source.",
    )
    record = verbs.add_parser(
        "record",
        help="write a power trace, of idle time or of a command",
        description="Record every rail and print the energy of each.",
        epilog="example: measure_power.py record --output trace.parquet -- python my_script.py",
    )
    record.add_argument(
        "--duration",
        type=float,
        metavar="S",
        help="seconds to record; with a command the longest it may take, then it is ended",
    )
    record.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="new file for the trace, .parquet or .csv",
    )
    record.add_argument(
        "command", nargs="*", metavar="CMD", help="command to run and to record, after --"
    )
    for verb in (rails, record):
        verb.add_argument(
            "--sensor",
            default="auto",
            metavar="NAME",
            help="auto, ina3221 or simulated (default: auto, which never takes simulated)",
        )
        verb.add_argument(
            "--sysfs-root", default="/sys", metavar="DIR", help="where sysfs lies (default: /sys)"
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Python's versions differ in what argparse makes of `--` behind a verb.
    cut = words.index("--") if "--" in words else len(words)
    arguments = build_parser().parse_args(words[:cut])
    if arguments.verb == "record":
        arguments.command += words[cut + 1 :]
    verbs = {"rails": _rails, "record": _record}
    return run_command(lambda: verbs[arguments.verb](arguments), debug=arguments.debug)


def _rails(arguments: argparse.Namespace) -> None:
    import tempfile

    from edgejoule.power.acquire import SYSFS_DIRECTORY, start_simulator
    from edgejoule.power.sensors import SIMULATED, choose_sensor, open_sensor

    choice = choose_sensor(arguments.sensor, arguments.sysfs_root)
    if not choice.usable:
        print("no power sensor can be read here")
        for name, why in choice.tried:
            print(f"  looked for {name}: {why}")
        if choice.mend:
            print(f"  {choice.mend}")
        return
    print(f"sensor: {choice.name} ({choice.why})")
    if choice.name != SIMULATED:
        sensor = open_sensor(choice.name, arguments.sysfs_root)
        print(_rails_table(sensor))
        sensor.close()
        return
    with tempfile.TemporaryDirectory(prefix="edgejoule-") as temporary:
        child = start_simulator(Path(temporary))
        try:
            sensor = open_sensor(SIMULATED, str(Path(temporary, SYSFS_DIRECTORY)))
            print(_rails_table(sensor))
            sensor.close()
        finally:
            child.stop()


def _rails_table(sensor: Sensor) -> str:
    from edgejoule.power.boards import board_of

    lines = [f"{'rail':<20} {'chip':<8} {'quantity':<9} {'value':>8} {'unit':<5} {'step':>5}  file"]
    for channel in sensor.channels():
        try:
            value = str(sensor.read(channel.index))
        except OSError as error:
            value = error.strerror or str(error)
        step = "-" if channel.lsb is None else f"{channel.lsb:g}"
        lines.append(
            f"{channel.rail:<20} {channel.chip:<8} {channel.quantity:<9} {value:>8} "
            f"{channel.unit:<5} {step:>5}  {channel.source}"
        )
    lines += [
        f"left out: {item['rail']} {item['source']} on {item['chip']}: {item['why']}"
        for item in sensor.configuration().get("left_out", ())
    ]
    board = board_of({channel.rail for channel in sensor.channels()})
    if board is None:
        lines.append("board: not known by its rails, so there is no total")
    else:
        total = " + ".join(board.total)
        lines.append(f"board: {' or '.join(board.boards)}; total = {total} ({board.scope})")
        lines.append(f"       by {board.source}")
    refresh = sensor.refresh_ns
    lines.append("refresh: " + ("not known" if refresh is None else f"{refresh * 1e-6:g} ms"))
    if sensor.simulated:
        lines.append("SIMULATED: these are no measured values")
    return "\n".join(lines)


def _record(arguments: argparse.Namespace) -> None:
    import tempfile

    from edgejoule.power.sensors import choose_sensor

    _check_record(arguments)
    choice = choose_sensor(arguments.sensor, arguments.sysfs_root)
    if not choice.usable:
        raise MeasurementError(f"no power sensor can be read here: {choice.why}", choice.mend)
    output: Path = arguments.output
    from edgejoule.files import disk_errors

    # In the folder of the output, so that the finished file needs no copy, and that a folder which
    # cannot be written is found out before anything is measured.
    with disk_errors(output.parent):
        temporary = tempfile.TemporaryDirectory(prefix=".edgejoule-", dir=output.parent)
    with temporary:
        directory = Path(temporary.name)
        recording, status = _run(choice.name, directory, arguments)
        with disk_errors(output.parent):
            if output.suffix == ".parquet":
                from edgejoule.dataset.convert import convert_one

                convert_one(directory, "power")
                (directory / "power.parquet").replace(output)
            else:
                _write_csv(directory / "power.bin", directory / "power.csv")
                (directory / "power.csv").replace(output)
        print(_energy_table(directory / "power.bin", recording))
    print(f"written: {output}")
    if status:
        raise MeasurementError(f"the command ended with status {status}", "the trace is kept")


def _check_record(arguments: argparse.Namespace) -> None:
    output: Path = arguments.output
    if output.suffix not in _FORMATS:
        raise UsageError(f"--output {output}: no such format", "name it .parquet or .csv")
    if output.exists():
        raise UsageError(f"{output} is there already", "give another --output, or remove it")
    if not output.parent.is_dir():
        raise UsageError(f"there is no folder {output.parent}", "make it, or give another --output")
    if arguments.duration is None and not arguments.command:
        raise UsageError("nothing says how long to record", "give --duration S, or -- CMD")
    if arguments.duration is not None and not 0 < arguments.duration < float("inf"):
        raise UsageError(f"--duration {arguments.duration:g}", "give seconds above 0")


def _run(sensor: str, directory: Path, arguments: argparse.Namespace) -> tuple[Recording, int]:
    """Record; return the recording and the status of the command (0 without one)."""
    from edgejoule.power.recording import record
    from edgejoule.supervision import stop_on_signals

    status = 0

    def during(supervisor: Supervisor) -> int | None:
        nonlocal status
        if not arguments.command:
            supervisor.wait(arguments.duration)
            return None
        status, end_ns = _run_command(arguments.command, arguments.duration, supervisor)
        return end_ns

    with stop_on_signals() as stop:
        recording = record(sensor, directory, arguments.sysfs_root, stop, during)
    return recording, status


def _run_command(
    command: Sequence[str], longest_s: float | None, supervisor: Supervisor
) -> tuple[int, int]:
    """Run a command; return its status (0 if its time was over) and when it ended, ns."""
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
        while not ended and (left := deadline - time.monotonic()) > 0:
            supervisor.wait(min(_POLL_S, left))
        if ended:
            return process.returncode, ended[0]
        end_ns = time.monotonic_ns()
        process.terminate()
        waiter.join(_GRACE_S)
        print(f"the command was ended after {longest_s:g} s")
        return 0, end_ns
    finally:
        if not ended:
            process.kill()
            waiter.join(_GRACE_S)


def _energy_table(power_bin: Path, recording: Recording) -> str:
    from edgejoule.energy.integrate import energy_mj
    from edgejoule.energy.trace import rail_powers_of_samples, read_samples, total_power
    from edgejoule.power.boards import total_rails

    header, samples = read_samples(power_bin)
    rails: dict[str, RailPower] = rail_powers_of_samples(header["channels"], samples)
    total_of = total_rails(tuple(rails))
    if total_of is not None:
        rails["total"] = total_power([rails[name] for name in total_of])
    seconds = (recording.end_ns - recording.start_ns) * 1e-9
    lines = [f"{'rail':<20} {'energy J':>10} {'mean W':>8}   over {seconds:.3f} s"]
    for name, series in rails.items():
        part = energy_mj(series, recording.start_ns, recording.end_ns)
        lines.append(f"{name:<20} {part.energy_mj * 1e-3:10.3f} {part.mean_mw * 1e-3:8.3f}")
    if total_of is None:
        lines.append("unknown board: no total")
    lines.append(_sampling_line(recording.report))
    if header["simulated"]:
        lines.append("SIMULATED: no power was measured")
    return "\n".join(lines)


def _sampling_line(report: Mapping[str, Any]) -> str:
    rate_hz = report["sweeps"] / max(1e-9, report["seconds"])
    share = 100 * report["cpu_s"] / max(1e-9, report["seconds"])
    errors = ", ".join(f"{count} {name}" for name, count in report["errors"].items()) or "none"
    return (
        f"{report['sweeps']} sweeps, {rate_hz:.0f}/s, {report['gaps']} gaps, failed reads: "
        f"{errors}; the sampler took {share:.1f} % of a core"
    )


def _write_csv(power_bin: Path, target: Path) -> None:
    """Write the reads as text: one row per read, the value empty where it failed."""
    import csv

    from edgejoule.energy.trace import read_samples

    header, samples = read_samples(power_bin)
    names = {c["index"]: (c["rail"], c["quantity"], c["unit"]) for c in header["channels"]}
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("t0_ns", "t1_ns", "rail", "quantity", "unit", "raw", "errno", "simulated"))
        simulated = int(header["simulated"])
        for t0_ns, t1_ns, raw, channel, code in samples.tolist():
            value, error = ("", code) if code else (raw, "")
            writer.writerow((t0_ns, t1_ns, *names[channel], value, error, simulated))
