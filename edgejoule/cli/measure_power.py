"""`measure_power.py`: process two alone. Each verb is a module of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from edgejoule.cli import (
    power_calibrate,
    power_convert,
    power_rails,
    power_record,
    power_simulate,
    power_tegrastats,
    power_trtexec,
    power_watch,
)
from edgejoule.errors import run_command

_VERBS = {
    "rails": power_rails,
    "watch": power_watch,
    "record": power_record,
    "calibrate": power_calibrate,
    "convert": power_convert,
    "tegrastats": power_tegrastats,
    "trtexec": power_trtexec,
    "simulate": power_simulate,
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `measure_power.py`."""
    parser = argparse.ArgumentParser(
        prog="measure_power.py",
        description="Read the power rails of this machine: look, watch, record, calibrate.",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in _VERBS.values():
        verb.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Python's versions differ in what argparse makes of `--` behind a verb.
    cut = words.index("--") if "--" in words else len(words)
    arguments = build_parser().parse_args(words[:cut])
    if cut < len(words):
        if not hasattr(arguments, "command"):
            build_parser().error(f"{arguments.verb} runs no command: leave out what is behind --")
        arguments.command += words[cut + 1 :]
    return run_command(lambda: _VERBS[arguments.verb].run(arguments), debug=arguments.debug)
