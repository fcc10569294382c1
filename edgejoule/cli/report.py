"""`report.py DATASET`: write `report.md` of a dataset."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgejoule.errors import UsageError, run_command


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


def write_report(dataset: Path, output_dir: Path | None = None) -> Path:
    """Write `report.md` of a dataset, whole or not at all, and return its path.

    Raises:
        UsageError: The folder is no dataset, or the report cannot be written.
    """
    from edgejoule.errors import MeasurementError
    from edgejoule.report import markdown, tables

    runs, damaged = [], []
    for path in tables.list_runs(dataset):
        try:
            runs.append(tables.load_run(path))
        except MeasurementError as error:
            damaged.append((path.name, error.message))
    partial = dataset / ".partial"
    unfinished = sum(path.is_dir() for path in partial.iterdir()) if partial.is_dir() else 0
    text = markdown.report(dataset.resolve().name, runs, damaged, unfinished)
    target = (output_dir or dataset) / "report.md"
    temporary = target.with_name(".report.md.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        raise UsageError(f"cannot write {target} ({error.strerror})", "give -o DIR") from error
    return target


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)

    def command() -> None:
        print(write_report(arguments.dataset, arguments.output_dir))

    return run_command(command, debug=arguments.debug)
