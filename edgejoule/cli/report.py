"""`report.py DATASET`: write `report.md` of a dataset."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from edgejoule.errors import run_command


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `report.py`."""
    parser = argparse.ArgumentParser(
        prog="report.py",
        description="Write report.md: an overview of a dataset and a section per run.",
    )
    parser.add_argument(
        "dataset", type=Path, metavar="DATASET", help="folder of runs, for example raw_data"
    )
    parser.add_argument(
        "-o",
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="where report.md goes (default: into DATASET)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)

    def command() -> None:
        from edgejoule.report.write import gather, write_report

        print(write_report(arguments.dataset, gather(arguments.dataset), arguments.output_dir))

    return run_command(command, debug=arguments.debug)
