"""`report.py compare A B`: read, compare, print, and say by the exit code what was found."""

from __future__ import annotations

import json
import math
import shutil
import sys
from argparse import Namespace

from edgejoule.errors import EXIT_DONE, EXIT_REGRESSION, EXIT_WRONG, UsageError
from edgejoule.report.compare.comparing import compare
from edgejoule.report.compare.loading import Loaded, load_side
from edgejoule.report.compare.machine import as_object
from edgejoule.report.compare.result import Comparison
from edgejoule.report.compare.text import markdown_text, terminal_text
from edgejoule.report.compare.words import failures, group_text, percent, unwatched
from edgejoule.report.target import write_whole
from edgejoule.report.text import printable

FAIL_ON = ("latency", "energy")


def run(arguments: Namespace) -> int:
    """Compare what the arguments of `report.py compare` name; return the exit code.

    Raises:
        UsageError: Something was asked for that cannot be, or inputs or machines are not equal.
        MeasurementError: A run is broken, not complete or not there.
    """
    over, fail_on = arguments.fail_over, arguments.fail_on or FAIL_ON
    if over is None and arguments.fail_on is not None:
        raise UsageError("--fail-on says what --fail-over looks at", "give --fail-over, too")
    first = load_side(arguments.a)
    same = arguments.a.resolve() == arguments.b.resolve()
    second = Loaded(arguments.b, first.single, first.runs, first.broken) if same else None
    second = second or load_side(arguments.b)
    found = compare(first, second, least=arguments.least, force=arguments.force)
    failed = [] if over is None else failures(found, over, fail_on)
    lacking = [] if over is None else unwatched(found, fail_on)
    if arguments.markdown is not None:
        page = markdown_text(found).encode()
        mend = "name another file after --markdown"
        write_whole(arguments.markdown, page, mend, folders=False)
    if arguments.json:
        document = _finite(as_object(found, failed, over))
        print(json.dumps(document, indent=2, sort_keys=True, allow_nan=False))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        text = terminal_text(found, width=width, every=arguments.all)
        print(text, end="")
    return _exit_code(found, failed, lacking, over)


def _exit_code(found: Comparison, failed: list[str], lacking: list[str], over: float | None) -> int:
    """Return 5 for a regression, 1 for what is broken or, in a check, not compared, else 0."""
    if failed:
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        bound = percent(over).lstrip("+")
        print(printable(f"worse by more than {bound}: {failed[0]}{more}"), file=sys.stderr)
        return EXIT_REGRESSION
    broken = (*found.first.broken, *found.second.broken)
    if broken:
        print(printable(f"error: not compared: {broken[0]}"), file=sys.stderr)
        return EXIT_WRONG
    if over is not None and found.alone[0]:
        # A check must not pass because what it watches was not measured.
        text = f"error: B has no run to hold against {group_text(found.alone[0][0])} of A"
        print(printable(text), file=sys.stderr)
        return EXIT_WRONG
    if lacking:
        more = f", and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        print(printable(f"error: could not be compared: {lacking[0]}{more}"), file=sys.stderr)
        return EXIT_WRONG
    return EXIT_DONE


def _finite(value: object) -> object:
    """Return a document without numbers that JSON does not have: null in their place."""
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
