"""`report.py DATASET`: everything people look at; `report.py best|compare|trace`: one question.

The first word decides. A dataset that bears a verb's name is written as a path: `./best`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgejoule.errors import EXIT_DONE, EXIT_WRONG, run_command
from edgejoule.report.text import printable

VERBS = {
    "best": ("report_best", "which measured run meets given limits with the least energy"),
    "compare": ("report_compare", "two datasets or runs: better, worse, or no difference shown"),
    "trace": ("report_trace", "a run as a timeline for Perfetto"),
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `report.py DATASET`."""
    lines = "\n".join(f"    {verb:10s}{text}" for verb, (_, text) in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="report.py",
        usage="report.py DATASET [-o DIR] [--no-figures] [--quiet]\n       report.py VERB ...",
        description="Look at a dataset: report.html (one file that needs no network), report.md, "
        "report.json,\nsummary.csv, and figures as SVG and PNG.",
        epilog=f"one question:\n  VERB\n{lines}\n\n"
        "report.py VERB --help tells more. A dataset that bears such a name: ./best",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "dataset",
        type=Path,
        metavar="DATASET",
        help="folder of runs, for example raw_data; or one run directory",
    )
    parser.add_argument(
        "-o",
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="where the files go (default: DATASET; of a single run: the current folder)",
    )
    parser.add_argument(
        "--no-figures", action="store_true", help="leave out the figures for papers (figures/)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress; only what was written")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in VERBS:
        command = importlib.import_module(f"edgejoule.cli.{VERBS[words[0]][0]}")
        status: int = command.main(words[1:])
        return status
    arguments = build_parser().parse_args(words)

    def report() -> int:
        from edgejoule.report.everything import write_everything
        from edgejoule.report.write import gather

        progress = None if arguments.quiet else _say
        found = gather(arguments.dataset, series=True, progress=progress)
        written = write_everything(
            arguments.dataset,
            found,
            arguments.output_dir,
            figures=not arguments.no_figures,
            progress=progress,
        )
        for path in written:
            print(path)
        for name, why in found.damaged:
            _say(f"not readable: {printable(name)}: {printable(why.split(f'{name}: ', 1)[-1])}")
        return EXIT_WRONG if found.damaged and not found.runs else EXIT_DONE

    with _terminable():
        return run_command(report, debug=arguments.debug)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C: what is half written is removed, what was started ends."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # only a main thread gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(text: str) -> None:
    """Say on stderr what is done now: the paths on stdout stay alone."""
    print(text, file=sys.stderr, flush=True)
