"""`data_version.py tables`: the dataset as tables for whoever models power and runtime."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgejoule.cli.data_options import Verbs, add_verb, dataset_argument
from edgejoule.errors import EXIT_DONE


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add this verb."""
    tables = add_verb(
        verbs,
        "tables",
        "write tables for modelling power and runtime",
        "Write layers (a row per layer and run), runs (a row per run), energy (every method and\n"
        "rail) and parts (sums by module and operation) as Parquet and CSV, with what every\n"
        "column means in tables.json. Every file that is read is hashed first; a damaged run is\n"
        "refused. Incomplete and failed runs are left out and named. The folder is written whole\n"
        "or not at all. docs/Modelling.md has the columns.",
        _tables,
    )
    dataset_argument(tables)
    tables.add_argument(
        "-o", "--output", type=Path, metavar="DIR",
        help="where to; tables of an earlier call there are replaced (default: DATASET-tables)",
    )  # fmt: skip
    tables.add_argument(
        "--run", action="append", default=[], metavar="RUN", dest="runs",
        help="only this run; may be given several times",
    )  # fmt: skip
    tables.add_argument(
        "--format", default="parquet,csv", metavar="LIST", dest="formats",
        help="parquet, csv or both (default: %(default)s)",
    )  # fmt: skip
    tables.add_argument(
        "--method",
        metavar="METHOD",
        help="how energy is split over layers (default: the best of replay, window, proportional)",
    )
    tables.add_argument(
        "--rail",
        metavar="RAIL",
        help="whose energy (default: total, else the only one, else the one of the device)",
    )
    tables.add_argument(
        "--classic",
        action="store_true",
        help="also write convolutional, pooling and dense, as the older pipeline trained on",
    )
    tables.add_argument(
        "--allow-incomplete", action="store_true", help="take incomplete and failed runs, too"
    )


def _tables(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.tables.files import DICTIONARY, parse_formats, write_tables
    from edgejoule.report.progress import Progress

    with Progress() as progress:
        done = write_tables(
            arguments.dataset,
            arguments.output,
            runs=arguments.runs,
            formats=parse_formats(arguments.formats),
            method=arguments.method,
            rail=arguments.rail,
            classic=arguments.classic,
            incomplete=arguments.allow_incomplete,
            say=lambda line: progress.line(f"note: {line}"),
            progress=progress.update,
        )
    rows = ", ".join(f"{name} {count}" for name, count in done.rows.items())
    print(f"{done.folder}: {len(done.runs)} runs; rows: {rows}")
    print(f"what each column means: {done.folder / DICTIONARY}")
    return EXIT_DONE
