"""`report.py trace RUN`: a run as a timeline for Perfetto."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgejoule.errors import UsageError, run_command

if TYPE_CHECKING:
    from edgejoule.report.trace.write import Written

_DESCRIPTION = """\
Write a run as a timeline for Perfetto: phases, inferences with their layers at their times, every
rail, clock, temperature and load, all on one clock. docs/Timeline.md says what is in it.
"""
_EPILOG = """\
examples:
  report.py trace raw_data/resnet18                  writes resnet18.perfetto-trace here
  report.py trace raw_data/resnet18 --inferences 100:200 --around --pass profiled
  report.py trace raw_data/resnet18 --inferences all -o /tmp/all.perfetto-trace

Open it at https://ui.perfetto.dev; it is read in your browser and sent nowhere.
exit codes: 0 done; 1 the run cannot be read; 2 usage
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `report.py trace`."""
    parser = argparse.ArgumentParser(
        prog="report.py trace",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="a run directory, for example raw_data/resnet18"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the trace (default: RUN's name with .perfetto-trace, in the current folder)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    parser.add_argument(
        "--inferences",
        metavar="A:B",
        help="inferences A to B - 1 of each pass; N: the first N; all: every one, however large "
        "the file becomes (default: the first of each pass that a browser can hold)",
    )
    parser.add_argument(
        "--pass",
        dest="passes",
        metavar="LIST",
        help="only these passes, for example clean,profiled (default: all)",
    )
    parser.add_argument(
        "--around",
        action="store_true",
        help="counters only while the inferences shown ran (default: over the whole run)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress; only what was written")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: _trace(arguments), debug=arguments.debug)


def _trace(arguments: argparse.Namespace) -> None:
    from edgejoule.report.progress import Progress
    from edgejoule.report.text import printable
    from edgejoule.report.trace.selection import Selection, parse_inferences
    from edgejoule.report.trace.write import SUFFIX, write_trace

    run: Path = arguments.run
    _check_run(run)
    selection = Selection()
    if arguments.inferences is not None:
        first, last, every = parse_inferences(arguments.inferences)
        selection = Selection(None, first, last, every)
    if arguments.passes is not None:
        names = tuple(name.strip() for name in arguments.passes.split(",") if name.strip())
        if not names:
            raise UsageError("--pass names no pass", "for example --pass clean,profiled")
        selection = Selection(names, selection.first, selection.last, selection.every)
    target = arguments.output or Path(run.resolve().name + SUFFIX)
    with Progress(arguments.quiet) as progress:
        written = write_trace(
            run,
            target,
            selection,
            around=arguments.around,
            overwrite=arguments.overwrite,
            progress=progress.update,
        )
    print(printable(written.path))
    if not arguments.quiet:
        print(told(written), file=sys.stderr)


def _check_run(run: Path) -> None:
    if not run.is_dir():
        raise UsageError(
            f"{run} is no folder", "name a run directory, for example raw_data/resnet18"
        )
    if not (run / "run.json").exists():
        inside = sorted(one.parent.name for one in run.glob("[!.]*/run.json"))
        if inside:
            raise UsageError(f"{run} is a dataset", f"name one of its runs: {run / inside[0]}")


def told(written: Written) -> str:
    """Return in words what was written, what was left out and what is missing."""
    from edgejoule.report.text import printable

    layers = f"{written.layers} executions of layers"
    if written.modelled:
        layers += f" ({written.modelled} at MODELLED starts)"
    parts = [f"{written.inferences} inferences", layers]
    if written.segments:
        parts.append(f"{written.segments} segments of the replay pass")
    parts.append(f"{sum(written.values.values())} values of {len(written.values)} counters")
    lines = [f"{', '.join(parts)}; {written.bytes / 1e6:.1f} MB"]
    lines += [f"not shown: {one}" for one in written.left_out]
    lines += [f"missing: {printable(one)}" for one in written.missing]
    lines.append("open it at https://ui.perfetto.dev (read in your browser, sent nowhere)")
    return "\n".join(lines)
