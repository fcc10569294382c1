"""Gather a dataset's runs and write its `report.md`, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.report import markdown, tables
from edgejoule.report.overview import Overview, overview_of


@dataclass(frozen=True)
class Gathered:
    """A dataset as a report needs it.

    Attributes:
        runs: What could be read, by name.
        damaged: Name and reason of what could not.
        unfinished: How many runs were cut off.
        overviews: One row per run, in the order of `runs`.
    """

    runs: tuple[tables.RunTables, ...]
    damaged: tuple[tuple[str, str], ...]
    unfinished: int
    overviews: tuple[Overview, ...] = ()


def gather(
    dataset: Path,
    *,
    series: bool = False,
    processes: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Gathered:
    """Read every run of a dataset, or the one run that the folder is.

    Args:
        dataset: The dataset's folder, or a run directory.
        series: Also read what is drawn over time.
        processes: How many read at the same time; None: as many as it is worth.
        progress: Gets a line now and then on what is done.

    Raises:
        UsageError: The folder is neither.
    """
    alone = (dataset / "run.json").is_file()
    paths = [dataset.resolve()] if alone else tables.list_runs(dataset)
    runs, damaged = [], []
    for number, path in enumerate(paths, 1):
        if progress is not None:
            progress(f"reading run {number} of {len(paths)}: {path.name}")
        try:
            runs.append(tables.load_run(path, series=series))
        except MeasurementError as error:
            damaged.append((path.name, error.message))
    partial = dataset / ".partial"
    unfinished = len(list(partial.glob("*/request.json"))) if partial.is_dir() else 0
    return Gathered(tuple(runs), tuple(damaged), unfinished, tuple(map(overview_of, runs)))


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
