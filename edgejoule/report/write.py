"""Gather a dataset's runs, as every output of a report needs them."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgejoule.errors import MeasurementError
from edgejoule.report import tables
from edgejoule.report.overview import Overview, overview_of
from edgejoule.report.text import printable

_MOST_THREADS = 4  # each holds a run's tables: a hundred MB or so


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
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Gathered:
    """Read every run of a dataset, or the one run that the folder is.

    Several runs are read at the same time by threads: decoding, sorting and summing let go of
    Python's lock, and threads, other than processes, start at once and work in any caller.

    Args:
        dataset: The dataset's folder, or a run directory.
        series: Also read what is drawn over time; peaks of power and temperature need it.
        threads: How many runs are read at the same time; None: one per CPU, four at most.
        progress: Gets a line for each run.

    Returns:
        The runs in the order of their names, however many threads there are.

    Raises:
        UsageError: The folder is neither.
    """
    alone = (dataset / "run.json").is_file()
    paths = [dataset.resolve()] if alone else tables.list_runs(dataset)
    workers = min(len(paths), threads or min(_MOST_THREADS, os.cpu_count() or 1))
    runs, damaged = [], []
    with contextlib.ExitStack() as stack:
        if workers > 1:
            pool = stack.enter_context(_pool(workers))
            results = [pool.submit(_read, path, series).result for path in paths]
        else:
            results = [functools.partial(_read, path, series) for path in paths]
        for number, (path, result) in enumerate(zip(paths, results, strict=True), 1):
            if progress is not None:
                progress(f"reading run {number} of {len(paths)}: {printable(path.name)}")
            found = result()
            if isinstance(found, str):
                damaged.append((path.name, found))
            else:
                runs.append(found)
    partial = dataset / ".partial"
    unfinished = len(list(partial.glob("*/request.json"))) if partial.is_dir() else 0
    rows, overviews = zip(*runs, strict=True) if runs else ((), ())
    return Gathered(tuple(rows), tuple(damaged), unfinished, tuple(overviews))


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that begins nothing more once its user was interrupted."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read-run")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _read(path: Path, series: bool) -> tuple[tables.RunTables, Overview] | str:
    """Return a run and its row, or why it cannot be read."""
    try:
        run = tables.load_run(path, series=series)
    except MeasurementError as error:
        return error.message
    return run, overview_of(run)
