"""The tables as files: a folder of Parquet and CSV with a data dictionary, whole or not at all.

    <folder>/tables.json           which dataset, which files, what every column means
             layers, runs, energy, parts  .parquet and .csv
             classic/              convolutional, pooling, dense over all runs
             classic/<run>/        the same of one run

The same runs give the same bytes. pyarrow is imported inside the functions.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule import __version__
from edgejoule.dataset.tables.classic import (
    CLASSIC_COLUMNS,
    CLASSIC_TABLE_VERSION,
    classic_schema,
    classic_tables,
    cold_idle_mw,
)
from edgejoule.dataset.tables.layer_columns import LAYER_TABLE_VERSION
from edgejoule.dataset.tables.layer_table import listed, table_of_runs
from edgejoule.dataset.tables.meanings import columns_of
from edgejoule.dataset.tables.part_table import part_table
from edgejoule.dataset.tables.run_columns import (
    ENERGY_TABLE_VERSION,
    PART_TABLE_VERSION,
    RUN_TABLE_VERSION,
)
from edgejoule.dataset.tables.run_table import energy_table, run_table
from edgejoule.dataset.tables.source import Progress, Say, SourceRun, choose_runs, dataset_facts
from edgejoule.errors import EdgejouleError, UsageError
from edgejoule.files import disk_error, files_below, sha256_of, sync_file, sync_folder, write_json

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("parquet", "csv")
DICTIONARY = "tables.json"
CLASSIC = "classic"
_VERSIONS = {
    "layers": LAYER_TABLE_VERSION,
    "runs": RUN_TABLE_VERSION,
    "energy": ENERGY_TABLE_VERSION,
    "parts": PART_TABLE_VERSION,
    **dict.fromkeys(CLASSIC_COLUMNS, CLASSIC_TABLE_VERSION),
}


@dataclass(frozen=True)
class Written:
    """What `write_tables` wrote.

    Attributes:
        folder: Where.
        rows: Name of each table (`layers`, `classic/dense`) -> rows; those of single runs are left
            out.
        runs: The runs in them.
    """

    folder: Path
    rows: Mapping[str, int]
    runs: tuple[str, ...]


def default_folder(dataset: Path) -> Path:
    """Return where the tables of a dataset go: beside it, under its name with `-tables`."""
    resolved = dataset.resolve()
    return dataset.parent / f"{dataset.name or resolved.name}-tables"


def write_tables(
    dataset: Path,
    folder: Path | None = None,
    *,
    runs: Sequence[str] = (),
    formats: Sequence[str] = FORMATS,
    method: str | None = None,
    rail: str | None = None,
    classic: bool = False,
    incomplete: bool = False,
    say: Say = lambda line: None,
    progress: Progress = lambda what, done, total: None,
) -> Written:
    """Make all tables of a dataset and write them into a folder, which is replaced whole.

    Args:
        dataset: The dataset's folder.
        folder: Where to; None: beside the dataset.
        runs: Only these runs; none given: all complete ones.
        formats: Of `FORMATS`.
        method: Method of attribution in `layers`; None: per run the best there is.
        rail: Rail in `layers` and `runs`; None: per run the total, or what stands for it.
        classic: Write the three tables of the older pipeline, too.
        incomplete: Take incomplete and failed runs, too.
        say: Gets a line for whatever is left out, and why.
        progress: Is told what is read, and how many runs of how many.

    Raises:
        UsageError: No such dataset, run, method or rail, or the folder holds other things.
        MeasurementError: A file of a chosen run is damaged, or the disk is full.
    """
    folder = default_folder(dataset) if folder is None else folder
    if folder.resolve() == dataset.resolve() or dataset.resolve() in folder.resolve().parents:
        raise UsageError(
            f"{folder} lies inside the dataset", f"give another -o, as {default_folder(dataset)}"
        )
    check_folder(folder)
    chosen, left_out = choose_runs(dataset, runs, incomplete=incomplete)
    for name, why in left_out.items():
        say(f"{name} is left out: {why}")
    facts = dataset_facts(dataset, chosen)
    layers = table_of_runs(chosen, facts, method=method, rail=rail, say=say, progress=progress)
    tables = {
        "layers": layers,
        "runs": run_table(chosen, facts, rail=rail),
        "energy": energy_table(chosen, facts),
        "parts": part_table(chosen, layers, facts, say),
    }
    if classic:
        tables |= _classic(layers, chosen, say)
    about = {
        "edgejoule_version": __version__,
        "dataset": facts,
        "left_out": left_out,
        "asked": {"method": method, "rail": rail, "runs": list(runs)},
    }
    write_folder(folder, tables, formats, about)
    rows = {name: table.num_rows for name, table in tables.items() if name.count("/") < 2}
    return Written(folder, rows, tuple(one.name for one in chosen))


def _classic(layers: pa.Table, runs: Sequence[SourceRun], say: Say) -> dict[str, pa.Table]:
    import pyarrow as pa

    of_runs, left_out = classic_tables(layers, _cold(layers, runs, say))
    for kind, count in left_out.items():
        if count:
            say(f"{count} {kind} layers are not in the classic tables: not of four dimensions")
    tables = {
        f"{CLASSIC}/{kind}": pa.concat_tables(
            [classic_schema(kind).empty_table(), *(kinds[kind] for kinds in of_runs.values())]
        )
        for kind in CLASSIC_COLUMNS
    }
    for run, kinds in of_runs.items():
        tables |= {f"{CLASSIC}/{run}/{kind}": table for kind, table in kinds.items()}
    return tables


def _cold(layers: pa.Table, runs: Sequence[SourceRun], say: Say) -> dict[str, float | None]:
    """Return the cold baseline of each run that has energy and no loaded baseline."""
    names = ("run", "energy_rail", "energy_dynamic_mj")
    columns = [layers[name].to_pylist() for name in names]
    rails = {run: rail for run, rail, _ in zip(*columns, strict=True) if rail is not None}
    loaded = {run for run, _, dynamic_mj in zip(*columns, strict=True) if dynamic_mj is not None}
    cold = {
        one.name: cold_idle_mw(one, rails[one.name])
        for one in runs
        if one.name in rails and one.name not in loaded
    }
    for above, who in (
        (
            "above the cold baseline",
            [name for name, mean_mw in cold.items() if mean_mw is not None],
        ),
        ("unknown", [name for name, mean_mw in cold.items() if mean_mw is None]),
    ):
        if who:
            say(f"no loaded baseline: power in the classic tables is {above} for {listed(who)}")
    return cold


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but tables written here.

    Raises:
        UsageError: It is no folder, or has a file that its own data dictionary does not list.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", "give another -o")
    known = {DICTIONARY}
    try:
        document = json.loads((folder / DICTIONARY).read_text(encoding="utf-8"))
        known |= set(document["files"])
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    foreign = [name for name in files_below(folder) if name not in known]
    if foreign:
        raise UsageError(
            f"{folder} holds {foreign[0]}, which is no table of this command",
            "give a new or empty folder as -o",
        )


def write_folder(
    folder: Path,
    tables: Mapping[str, pa.Table],
    formats: Sequence[str],
    about: Mapping[str, Any],
) -> None:
    """Write tables and their data dictionary, and put them in place of what the folder held.

    Args:
        folder: The folder.
        tables: Path below it, without ending -> table.
        formats: Of `FORMATS`.
        about: What stands at the head of the data dictionary.

    Raises:
        MeasurementError: The disk is full; the folder is then as it was.
        UsageError: It cannot be written.
    """
    with _replaced(folder) as fresh:
        files = {}
        for name, table in tables.items():
            for form in formats:
                path = fresh / f"{name}.{form}"
                path.parent.mkdir(parents=True, exist_ok=True)
                _WRITERS[form](table, path)
                sync_file(path)
                files[f"{name}.{form}"] = {
                    "table": name.rpartition("/")[2],
                    "rows": table.num_rows,
                    "bytes": path.stat().st_size,
                    "sha256": sha256_of(path),
                }
        kinds = sorted({facts["table"] for facts in files.values()}, key=list(_VERSIONS).index)
        dictionary = {
            **about,
            "files": files,
            "tables": {
                kind: {
                    "table_version": _VERSIONS[kind],
                    "columns": [column.to_json() for column in columns_of(kind)],
                }
                for kind in kinds
            },
        }
        write_json(fresh / DICTIONARY, dictionary)


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Give a new folder beside `folder`; at the end it takes its place, after an error it goes."""
    folder, token = folder.resolve(), secrets.token_hex(4)
    fresh = folder.with_name(f".{folder.name}.{token}.tmp")
    aside = folder.with_name(f".{folder.name}.{token}.old")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        for below in {path.parent for path in fresh.rglob("*")}:
            sync_folder(below)
        try:
            if folder.exists():
                folder.rename(aside)
            fresh.rename(folder)
        except BaseException:
            if aside.exists() and not folder.exists():
                aside.rename(folder)
            raise
        sync_folder(folder.parent)
    except OSError as error:
        raise _disk_error(folder, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def _disk_error(folder: Path, error: OSError) -> EdgejouleError:
    found = disk_error(folder, error)
    mend = found.mend.replace("--result-dir", "-o")
    return type(found)(found.message, mend)


def _write_parquet(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="zstd", version="2.6")


def _write_csv(table: pa.Table, path: Path) -> None:
    """Write CSV: null is an empty field, a list is JSON text, text stands in quotes.

    By hand, since Arrow's own writer puts null bytes into a table of which one chunk is empty
    (seen with pyarrow 25), and each version of it may format numbers differently.
    """
    columns = [[_field(value) for value in column.to_pylist()] for column in table.columns]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(",".join(table.column_names) + "\n")
        file.writelines(",".join(row) + "\n" for row in zip(*columns, strict=True))


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        value = json.dumps(value)
    if isinstance(value, str):
        doubled = value.replace('"', '""')
        return f'"{doubled}"'
    # `true` and `false`, and the shortest digits that give the same number back.
    return str(value).lower() if isinstance(value, bool) else repr(value)


_WRITERS = {"parquet": _write_parquet, "csv": _write_csv}


def parse_formats(text: str) -> tuple[str, ...]:
    """Return the formats named in a list separated by commas.

    Raises:
        UsageError: One is not known, or none is named.
    """
    named = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    wrong = [name for name in named if name not in FORMATS]
    if wrong or not named:
        raise UsageError(f"no format {(wrong or [text])[0]!r}", f"use {', '.join(FORMATS)}")
    return named
