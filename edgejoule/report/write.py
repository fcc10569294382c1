"""Gather a dataset's runs and write its `report.md`, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.report import markdown, tables


@dataclass(frozen=True)
class Gathered:
    """A dataset as a report needs it.

    Attributes:
        runs: What could be read, by name.
        damaged: Name and reason of what could not.
        unfinished: How many runs were cut off.
    """

    runs: tuple[tables.RunTables, ...]
    damaged: tuple[tuple[str, str], ...]
    unfinished: int


def gather(dataset: Path) -> Gathered:
    """Read every run of a dataset.

    Raises:
        UsageError: The folder is no dataset.
    """
    runs, damaged = [], []
    for path in tables.list_runs(dataset):
        try:
            runs.append(tables.load_run(path))
        except MeasurementError as error:
            damaged.append((path.name, error.message))
    partial = dataset / ".partial"
    unfinished = len(list(partial.glob("*/request.json"))) if partial.is_dir() else 0
    return Gathered(tuple(runs), tuple(damaged), unfinished)


def write_report(dataset: Path, found: Gathered, output_dir: Path | None = None) -> Path:
    """Write `report.md` into the output directory (default: the dataset's) and return its path.

    Raises:
        UsageError: It cannot be written.
    """
    text = markdown.report(dataset.resolve().name, found.runs, found.damaged, found.unfinished)
    target = (output_dir or dataset) / "report.md"
    temporary = target.with_name(".report.md.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        raise UsageError(f"cannot write {target} ({error.strerror})", "give -o DIR") from error
    return target
