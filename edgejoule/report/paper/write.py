"""Write the figures for papers: `<folder>/<run>/<key>.svg` and `.png`, and what compares runs.

`write_figures` may be called in a worker process: its arguments and what it returns can be sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgejoule.report.overview import Overview
from edgejoule.report.tables import RunTables

RUN_KEYS = ("layers", "power", "operations", "shares")
DATASET_KEYS = ("pareto", "pareto-dynamic")
Say = Callable[[str], None]


def write_figures(
    folder: Path,
    run: RunTables | None,
    overviews: Sequence[Overview],
    progress: Say | None = None,
    *,
    name: str | None = None,
) -> list[Path]:
    """Draw the figures of one run, or those that compare runs, and return what was written.

    A figure for which there is no data is not written.

    Args:
        folder: Where they go; those of a run into a folder of the run's name.
        run: The run, read with `series=True`; None: the figures that compare all.
        overviews: All runs; only what compares them needs it.
        progress: Told each figure's name before it is drawn.
        name: The run's folder, where that is not its name.

    Raises:
        OSError: They cannot be written.
    """
    from edgejoule.report.paper.canvas import remove, save, styled

    say = progress or (lambda text: None)
    target = folder if run is None else folder / (name or run.name)
    drawings = _dataset(overviews) if run is None else _run(run)
    written: list[Path] = []
    with styled():
        for key, draw in drawings:
            say(key)
            fig = draw()
            if fig is not None:
                written += save(fig, target, key)
            else:  # what an earlier report drew would pass for this one's
                remove(target, key)
    return written


def _run(run: RunTables) -> list[tuple[str, Callable[[], Any]]]:
    from edgejoule.report.paper import run as drawn

    return [
        ("layers", lambda: drawn.layers_figure(run)),
        ("power", lambda: drawn.power_figure(run)),
        ("operations", lambda: drawn.operations_figure(run)),
        ("shares", lambda: drawn.shares_figure(run)),
    ]


def _dataset(overviews: Sequence[Overview]) -> list[tuple[str, Callable[[], Any]]]:
    from edgejoule.report.paper import dataset as drawn

    return [
        ("pareto", lambda: drawn.pareto_figure(overviews)),
        ("pareto-dynamic", lambda: drawn.pareto_figure(overviews, dynamic=True)),
    ]
