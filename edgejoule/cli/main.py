"""The installed command `edgejoule`: the scripts' verbs under one name."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from edgejoule import __version__
from edgejoule.cli.leave import leave

VERBS = {
    "experiment": ("run_experiment", "the default experiment over all networks"),
    "measure": ("measure_inference", "one model: time and energy of every layer"),
    "idle": ("measure_idling_power", "the idle baseline alone"),
    "power": ("measure_power", "process two alone: the rails, a recording"),
    "data": ("data_version", "the dataset: push, pull, status, verify, tables, import"),
    "predict": ("predict_power", "runtime and power of networks that nobody measured"),
    "report": ("report", "what a dataset says, as a page"),
}


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser; everything behind the verb belongs to the verb."""
    lines = "\n".join(f"  {verb:12s}{text}" for verb, (_, text) in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="edgejoule",
        description="Where do the joules of a neural network go?",
        epilog=f"verbs (edgejoule VERB --help tells more):\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgejoule {__version__}")
    parser.add_argument("verb", choices=tuple(VERBS), metavar="VERB")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the arguments to the verb's own command."""
    args = build_parser().parse_args(sys.argv[1:] if argv is None else argv)
    # Networks by name come from the `model/` folder of a checkout, if one is worked in.
    if "" not in sys.path:
        sys.path.insert(0, "")
    command = importlib.import_module(f"edgejoule.cli.{VERBS[args.verb][0]}")
    status: int = command.main(args.arguments)
    return status


def run() -> None:
    """Run as the installed command: `main`, and the end that every script has."""
    leave(main())
