"""Everything that `report.py DATASET` leaves: the page, its plain forms, figures for papers.

    report.html    one file, for a browser
    report.md      the same in words and tables
    report.json    the same for programs
    summary.csv    a row per run, for a spreadsheet
    figures/       SVG and PNG, a folder per run and what compares runs beside them

Each file is written whole or not at all: under another name first, then renamed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from edgejoule.errors import UsageError
from edgejoule.report.target import run_around, write_whole

if TYPE_CHECKING:
    from edgejoule.report.write import Gathered

Say = Callable[[str], None]


def write_everything(
    dataset: Path,
    found: Gathered,
    output_dir: Path | None = None,
    *,
    figures: bool = True,
    progress: Say | None = None,
) -> list[Path]:
    """Write all files of a report and return them, `report.html` first and the folder last.

    Args:
        dataset: The dataset, or one run directory.
        found: Its runs, gathered with `series=True`.
        output_dir: Where the files go; None: into the dataset, or for one run the current folder
            (a file in a run directory that `run.json` does not list would make it wrong).
        figures: Whether figures for papers are drawn.
        progress: Told in a few words what is done now.

    Raises:
        UsageError: Something cannot be written, or the folder is a run's.
    """
    from edgejoule.report import machine_files, markdown
    from edgejoule.report.page.write import page_text
    from edgejoule.report.paper.folders import figures_folder

    say = progress or (lambda text: None)
    name = dataset.resolve().name
    alone = (dataset / "run.json").is_file()
    folder = output_dir or (Path() if alone else dataset)
    _not_in_a_run(folder)
    say("writing the page")
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    written = [folder / file for file in ("report.html", "report.md", "report.json", "summary.csv")]
    page, words, document, summary = written
    write_whole(page, page_text(name, found, made).encode())
    text = markdown.report(name, found.runs, found.damaged, found.unfinished, found.overviews)
    write_whole(words, text.encode())
    machine_files.write_report_json(document, name, found)
    machine_files.write_summary_csv(summary, found.overviews)
    if figures and found.runs:
        written += draw_figures(figures_folder(folder), found, say)
    return written


def draw_figures(folder: Path, found: Gathered, say: Say) -> list[Path]:
    """Draw the figures for papers and return their folder, if there is any.

    Always in processes of their own: the drawing library asks a program for the machine's fonts,
    and a child gets no secret of this process.

    Raises:
        UsageError: They cannot be written.
    """
    from edgejoule.report.paper.folders import folder_names
    from edgejoule.report.paper.workers import Job, draw_in_workers, worker_count
    from edgejoule.report.paper.write import DATASET_KEYS

    beside = [f"{key}.{kind}" for key in DATASET_KEYS for kind in ("svg", "png")]
    names = folder_names([run.name for run in found.runs], beside)
    jobs = [Job(folder, None, "", found.overviews)]
    jobs += [Job(folder, run, names[run.name]) for run in found.runs]
    try:
        drawn = draw_in_workers(
            jobs, worker_count(len(jobs)), lambda count: say(f"figures: {count} of {len(jobs)}")
        )
    except OSError as error:
        raise UsageError(
            f"cannot write {folder} ({error.strerror or error})", "give -o DIR, or --no-figures"
        ) from error
    return [folder] if drawn else []


def _not_in_a_run(folder: Path) -> None:
    """Refuse a folder within a run directory: what `run.json` does not list makes a run wrong."""
    around = run_around(folder)
    if around is not None:
        raise UsageError(
            f"{folder} is within the run directory {around}, in which a report has no place",
            "give -o DIR",
        )
