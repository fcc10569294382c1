"""`measure_power.py tegrastats`: a log of tegrastats as a table, with the energy of each rail."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgejoule.cli.power_convert import check_output

if TYPE_CHECKING:
    from edgejoule.dataset.tegrastats_log import LogSummary

_SPAN_SHARE = 0.05  # stated interval and wall times may differ by this, and by 2 s


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb `tegrastats` to those of `measure_power.py`."""
    parser = verbs.add_parser(
        "tegrastats",
        help="turn a log of tegrastats into a table",
        description="Read a log that tegrastats wrote, on this machine or elsewhere; print mean "
        "power and energy of each rail, and write every figure as a table.",
        epilog="example: measure_power.py tegrastats --output log.parquet --interval 100 log.txt",
    )
    parser.add_argument("log", metavar="LOG", help="file with lines of tegrastats; - reads stdin")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="new file: .parquet (a row per figure) or .csv (a row per line)",
    )
    parser.add_argument(
        "--interval",
        type=float,
        metavar="MS",
        help="what tegrastats was started with; needed for energy where lines have no wall time",
    )
    parser.add_argument(
        "--board",
        metavar="NAME",
        help="whose rails make up the total (default: the board that has these rails)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the verb.

    Raises:
        UsageError: Wrong arguments, or a log that cannot be read.
        MeasurementError: No line of the log is one of tegrastats.
    """
    import shutil
    import sys
    import tempfile

    output: Path = arguments.output
    check_output(output)
    total_of = _total_of(arguments.board)
    if arguments.log != "-":
        _convert(Path(arguments.log), arguments.log, output, arguments, total_of)
        return 0
    with tempfile.TemporaryDirectory(prefix="edgejoule-") as folder:
        log = Path(folder, "stdin")  # it is read twice
        with log.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        _convert(log, "stdin", output, arguments, total_of)
    return 0


def _total_of(board: str | None) -> Callable[[Sequence[str]], Sequence[str] | None]:
    """Return what gives the rails of the total: of the named board, or of the one that fits."""
    from edgejoule.errors import UsageError
    from edgejoule.power.boards import BOARDS, boards_by_text, total_rails

    if board is None:
        return total_rails
    names = [one.name for one in boards_by_text(board, named=True)]
    families = {name: [one for one in BOARDS if name in one.boards] for name in names}
    if len({tuple(one.total for one in known) for known in families.values()}) != 1:
        known_names = dict.fromkeys(name for one in BOARDS for name in one.boards)
        what = "several boards with different totals" if names else "no board that is known here"
        raise UsageError(
            f"--board {board}: {what}", f"give one of {', '.join(names or known_names)}"
        )

    def of(rails: Sequence[str]) -> Sequence[str] | None:
        for family in families[names[0]]:  # the best total first
            there = family.known_among(rails)
            if all(label in there for label in family.total):
                return [there[label] for label in family.total]
        return None

    return of


def _convert(
    log: Path,
    name: str,
    output: Path,
    arguments: argparse.Namespace,
    total_of: Callable[[Sequence[str]], Sequence[str] | None],
) -> None:
    import tempfile

    from edgejoule.dataset.tegrastats_log import summarise_log
    from edgejoule.dataset.tegrastats_tables import write_csv, write_parquet
    from edgejoule.errors import UsageError
    from edgejoule.files import sync_file

    interval_ms = arguments.interval
    summary = summarise_log(log, interval_ms, total_of)
    try:
        # Beside the output, so that it appears whole or not at all.
        with tempfile.TemporaryDirectory(prefix=".edgejoule-", dir=output.parent) as folder:
            unfinished = Path(folder, output.name)
            if output.suffix == ".csv":
                rows = write_csv(log, unfinished, summary, interval_ms)
            else:
                facts = {
                    "source": "tegrastats",
                    "interval_ms": interval_ms,
                    "lines": summary.understood,
                    "broken_lines": summary.broken,
                    "board": arguments.board,
                }
                rows = write_parquet(log, unfinished, summary, interval_ms, facts)
            sync_file(unfinished)
            unfinished.replace(output)
    except OSError as error:
        raise UsageError(
            f"{output} cannot be written ({error.strerror})", "give another --output"
        ) from error
    print("\n".join(report(name, summary)))
    print(f"written: {output}, {rows} rows")


def report(name: str, summary: LogSummary) -> list[str]:
    """Return what a log holds, as lines for people.

    Args:
        name: What the log is called.
        summary: Of the log.
    """
    broken = summary.broken
    lines = [f"{name}: {summary.understood} lines of tegrastats, {broken} broken"]
    lines += [f"  line {number}: {why}" for number, why in summary.first_broken]
    if broken > len(summary.first_broken):
        lines.append(f"  and {broken - len(summary.first_broken)} more")
    if summary.cut_end:
        lines.append("the last line has no line end: it may be cut, and its last figure with it")
    if summary.first_time and summary.last_time:
        lines.append(
            f"wall times {summary.first_time} to {summary.last_time} (local, whole seconds)"
        )
    lines += [f"not understood in {count} lines: {text}" for text, count in summary.unknown]
    if summary.off_sensors:
        lines.append(f"temperature sensors that were off: {', '.join(summary.off_sensors)}")
    return lines + _rails(summary) + _clock(summary)


def _rails(summary: LogSummary) -> list[str]:
    rails = [rail for rail in summary.rails if rail.name.partition("#")[0] != "NC"]
    if not rails:
        return ["no rail in any line: on some boards tegrastats shows them to root only"]
    lines = [f"{'rail':<20} {'mean W':>8} {'energy J':>10} {'lines':>7}"]
    for rail in rails:
        energy = "-" if rail.energy_mj is None else f"{rail.energy_mj * 1e-3:.3f}"
        lines.append(f"{rail.name:<20} {rail.mean_mw * 1e-3:8.3f} {energy:>10} {rail.lines:>7}")
    lines += [f"total = {' + '.join(parts)}" for parts in summary.totals]
    if not summary.totals:
        lines.append("these rails are no board's that is known here, so there is no total")
    return lines


def _clock(summary: LogSummary) -> list[str]:
    if not summary.clock:
        mend = "give --interval MS as tegrastats was started"
        return [f"no energy: {summary.no_clock}; {mend}"]
    seconds = max((rail.seconds or 0.0 for rail in summary.rails), default=0.0)
    if summary.clock == "wall times":
        return [f"energy over {seconds:g} s by the wall times, each known to 1 s only"]
    lines = [f"energy over {seconds:g} s, if a line came every interval that was stated"]
    if summary.first_time and summary.last_time and summary.nominal_s is not None:
        wall_s = (summary.last_time - summary.first_time).total_seconds()
        if abs(wall_s - summary.nominal_s) > 2 + _SPAN_SHARE * wall_s:
            lines.append(
                f"but the wall times span {wall_s:g} s and not {summary.nominal_s:g} s: check "
                "--interval, or leave it out"
            )
    return lines
