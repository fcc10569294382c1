"""`report.py best DATASET`: which measured run meets limits with the least energy per frame."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

from edgejoule.errors import EXIT_DONE, EXIT_WRONG, UsageError, run_command

_DESCRIPTION = """\
Say which measured run (model, precision, power mode) meets the limits with the least energy per
frame, how long a battery lasts with it, and why each other run does not. Nothing is extrapolated: a
run counts at a rate only if it was measured at that rate. docs/Choosing.md has the rules.
"""
_EPILOG = """\
examples:
  report.py best raw_data --latency-ms 33 --power-w 10
  report.py best raw_data --latency-ms 33 --rate-hz 30 --battery-wh 50
  report.py best raw_data --rate-hz 30 --back-to-back --models resnet18,resnet50 --json

exit codes: 0 a run meets the limits; 1 none does; 2 usage
"""


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return value


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not (0 <= value <= 100):
        raise argparse.ArgumentTypeError(f"{text} is no percentage from 0 to 100")
    return value / 100


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `report.py best`."""
    parser = argparse.ArgumentParser(
        prog="report.py best",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="for example raw_data")
    limits = parser.add_argument_group("limits")
    for option, metavar, text in (
        ("--latency-ms", "MS", "latency at most, at --percentile: of the rate pass with --rate-hz, "
         "else of the clean pass"),
        ("--power-w", "W", "average power at most: of the rate pass with --rate-hz, else of the "
         "clean pass"),
        ("--peak-power-w", "W", "greatest single reading at most"),
        ("--rate-hz", "HZ", "frames a second to keep up with; only a run that was measured at "
         "this rate (within 1%%) can win"),
        ("--memory-mib", "MIB", "greatest memory at most"),
        ("--max-error", "X", "mean relative error of the outputs against float32 at most"),
    ):  # fmt: skip
        limits.add_argument(option, type=_positive, metavar=metavar, help=text)
    limits.add_argument(
        "--percentile",
        choices=("p50", "p90", "p99"),
        default="p99",
        help="of the latency (default: %(default)s)",
    )
    limits.add_argument(
        "--missed",
        type=_share,
        default=0.001,
        metavar="PERCENT",
        help="frames that may be late or dropped at --rate-hz (default: 0.1)",
    )
    parser.add_argument(
        "--back-to-back",
        action="store_true",
        help="with --rate-hz, admit runs that were not measured at it, by what they take at full "
        "speed; labelled so",
    )
    parser.add_argument(
        "--energy",
        choices=("gross", "dynamic"),
        default="gross",
        help="gross counts idle power too, as a battery pays it (default: %(default)s)",
    )
    parser.add_argument(
        "--battery-wh", type=_positive, metavar="WH", help="tell how long this battery lasts"
    )
    parser.add_argument(
        "--models", metavar="LIST", help="only these models or runs, for example resnet18,resnet50"
    )
    parser.add_argument(
        "--include-simulated", action="store_true", help="runs of simulated power may win; marked"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: _best(arguments), debug=arguments.debug)


def _best(arguments: argparse.Namespace) -> int:
    from edgejoule.report.choice import choose
    from edgejoule.report.choice_candidates import candidate_of
    from edgejoule.report.choice_case import Limits
    from edgejoule.report.choice_text import choice_json, choice_text
    from edgejoule.report.text import printable
    from edgejoule.report.write import gather

    if arguments.back_to_back and arguments.rate_hz is None:
        raise UsageError("--back-to-back is about a rate", "give --rate-hz, or leave it out")
    models = tuple(one.strip() for one in (arguments.models or "").split(",") if one.strip())
    if arguments.models is not None and not models:
        raise UsageError("--models names no model", "for example --models resnet18,resnet50")
    limits = Limits(
        latency_ms=arguments.latency_ms,
        percentile=arguments.percentile,
        power_w=arguments.power_w,
        peak_power_w=arguments.peak_power_w,
        rate_hz=arguments.rate_hz,
        missed=arguments.missed,
        memory_mib=arguments.memory_mib,
        max_error=arguments.max_error,
        battery_wh=arguments.battery_wh,
        energy=arguments.energy,
        back_to_back=arguments.back_to_back,
        include_simulated=arguments.include_simulated,
        models=models,
    )
    # Only the peaks need the traces as they are drawn.
    found = gather(arguments.dataset, series=limits.peak_power_w is not None)
    known = {one.model for one in found.overviews} | {one.run for one in found.overviews}
    absent = [name for name in models if name not in known]
    if absent:
        raise UsageError(
            f"no run of {arguments.dataset} is of {absent[0]}", f"it has {', '.join(sorted(known))}"
        )
    choice = choose(
        [
            candidate_of(run, overview)
            for run, overview in zip(found.runs, found.overviews, strict=True)
        ],
        limits,
    )
    damaged = [f"{printable(name)}: {printable(why)}" for name, why in found.damaged]
    if arguments.json:
        print(json.dumps({**choice_json(choice), "damaged": damaged}, indent=2, allow_nan=False))
    else:
        print(choice_text(choice))
        if damaged:
            print("\n".join(["", "these cannot be read:", *(f"  {one}" for one in damaged)]))
    return EXIT_WRONG if choice.best is None else EXIT_DONE
