"""`report.py compare A B`: two datasets or runs held against each other."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from edgejoule.errors import run_command

FAIL_ON = ("latency", "energy", "power", "layers")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `report.py compare`."""
    parser = argparse.ArgumentParser(
        prog="report.py compare",
        description="Hold two datasets or two run directories against each other: latency, energy "
        "and power of runs, time and energy of layers, each better, worse or no difference shown.",
        epilog="exit code: 0 done, 1 a run is broken or missing, 2 refused (inputs or machines "
        "differ) or wrong usage, 5 worse than --fail-over allows. docs/Comparing.md says how a "
        "difference is judged.",
    )
    parser.add_argument("a", type=Path, metavar="A", help="dataset or run directory: what was")
    parser.add_argument("b", type=Path, metavar="B", help="dataset or run directory: what is")
    parser.add_argument(
        "--least",
        type=percentage,
        default=0.01,
        metavar="P%",
        help="show no difference up to this size (default: 1%%)",
    )
    parser.add_argument(
        "--fail-over",
        type=percentage,
        metavar="P%",
        help="exit with 5 if anything is shown worse by more than this, and with 1 if a run of A "
        "has no partner in B or what --fail-on names could not be compared",
    )
    parser.add_argument(
        "--fail-on",
        type=_kinds,
        metavar="LIST",
        help="what --fail-over looks at, of latency,energy,power,layers (default: latency,energy)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="compare unequal inputs or machines, simulated with measured power, and incomplete "
        "runs; what differs stands at the top",
    )
    parser.add_argument("--all", action="store_true", help="list every layer")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the text")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write it as Markdown, too, with every layer"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def percentage(text: str) -> float:
    """Return `5%` or `5` as 0.05.

    Raises:
        argparse.ArgumentTypeError: It is no percentage from 0 to 1000.
    """
    matched = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%?\s*", text, re.ASCII)
    value = float(matched[1]) if matched else -1.0
    if not 0.0 <= value <= 1000.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage from 0 to 1000, such as 5%")
    return value / 100.0


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [kind for kind in kinds if kind not in FAIL_ON]
    if unknown or not kinds:
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(FAIL_ON)}")
    return kinds


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)

    def command() -> int:
        from edgejoule.report.compare.command import run

        return run(arguments)

    return run_command(command, debug=arguments.debug)
