"""`data_version.py verify`, `recover`: is it whole, and what killed runs left."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgejoule.cli.data_options import Verbs, add_verb, dataset_argument
from edgejoule.errors import EXIT_DONE, EXIT_WRONG

if TYPE_CHECKING:
    from edgejoule.dataset.findings import DatasetReport, Finding


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add these verbs."""
    verify = add_verb(
        verbs,
        "verify",
        "check every file of a dataset or of one run",
        "Check hashes, row counts, schemas, time that only rises, layers within their inferences,\n"
        "and totals against their parts. Exits 0 only if every run is complete and right.",
        _verify,
    )
    verify.add_argument(
        "dataset", nargs="?", type=Path, default=Path("raw_data"), metavar="DATASET",
        help="a dataset or one run directory (default: %(default)s)",
    )  # fmt: skip
    verify.add_argument(
        "--allow-incomplete",
        action="store_true",
        help="exit 0 although runs are incomplete, if what they hold is right",
    )
    verify.add_argument("--json", action="store_true", help="print one JSON object")

    recover = add_verb(
        verbs,
        "recover",
        "make readable what killed runs left",
        "Turn what killed runs left under .partial into <run>--incomplete-<id> directories. A run\n"
        "that lacked only its last rename is finished; one that is being measured is left alone.",
        _recover,
    )
    dataset_argument(recover)


def _verify(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.verify import verify

    report = verify(arguments.dataset)
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        _print_report(report)
    return EXIT_DONE if report.ok(allow_incomplete=arguments.allow_incomplete) else EXIT_WRONG


def _print_report(report: DatasetReport) -> None:
    for finding in report.findings:
        print(_line("", finding))
    for run in report.runs:
        for finding in run.findings:
            print(_line(f"{run.path.name}/", finding))
    wrong = sum(run.wrong for run in report.runs)
    incomplete = sum(run.incomplete and not run.wrong for run in report.runs)
    right = len(report.runs) - wrong - incomplete
    print(f"{report.path}: {right} right, {incomplete} incomplete, {wrong} wrong")


def _line(prefix: str, finding: Finding) -> str:
    return f"{finding.severity}: {prefix}{finding.file}: {finding.problem}"


def _recover(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.recover import recover

    found = recover(arguments.dataset)
    for item in found:
        where = f" -> {item.path.name}" if item.path and item.action != "live" else ""
        print(f"{item.action}: {item.partial}{where} ({item.detail})")
    if not found:
        print(f"{arguments.dataset}: nothing to recover")
    return EXIT_WRONG if any(item.action == "stuck" for item in found) else EXIT_DONE
