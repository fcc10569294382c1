"""Logs of tegrastats as tables: Parquet, one row per figure, or CSV, one row per line.

A log is read twice: once to learn which columns it has at all, since fields come and go, and to add
up (`tegrastats_log`); once to write. `docs/Tegrastats.md` describes the tables.

pyarrow is imported inside the function that writes Parquet.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.tegrastats_log import Column, LogLine, LogSummary, figures, read_log
from edgejoule.power.tegrastats import Sample

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_LINES = 4096
_COLUMNS = ("line", "wall_time", "t_s_nominal", "kind", "name", "quantity", "unit", "value")


def write_csv(path: Path, target: Path, summary: LogSummary, interval_ms: float | None) -> int:
    """Write one row per line and one column per figure of the log; return the number of rows.

    Raises:
        OSError: The target cannot be written.
    """
    places = {column: place for place, column in enumerate(_wide(summary))}
    head = ["line", "wall_time", *(["t_s_nominal"] if interval_ms else [])]
    rows = 0
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*head, *(column.header for column in places)])
        for line, sample in _understood(path, summary, interval_ms):
            cells: list[str] = [""] * len(places)
            for column, value in figures(sample):
                if value is not None and column in places:
                    cells[places[column]] = f"{value:.12g}"
            wall = sample.local_time
            start = [str(line.number), "" if wall is None else wall.isoformat()]
            if line.t_s_nominal is not None:
                start.append(f"{line.t_s_nominal:.12g}")
            writer.writerow([*start, *cells])
            rows += 1
    return rows


def write_parquet(
    path: Path,
    target: Path,
    summary: LogSummary,
    interval_ms: float | None,
    facts: dict[str, Any] | None = None,
) -> int:
    """Write one row per figure (long, tidy); return the number of rows.

    Args:
        path: The log.
        target: The new file.
        summary: Of the log.
        interval_ms: As it was summed up with.
        facts: Stand as JSON in the file's metadata, under the key `edgejoule`.

    Raises:
        OSError: The target cannot be written.
    """
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    from edgejoule.dataset.schema import METADATA_KEY

    metadata = {METADATA_KEY: json.dumps(facts or {}, sort_keys=True).encode()}
    schema = _schema(interval_ms is not None).with_metadata(metadata)
    lines = _understood(path, summary, interval_ms)
    rows = 0
    with pq.ParquetWriter(target, schema, version="2.6", compression="zstd") as writer:
        while batch := list(islice(lines, _BATCH_LINES)):
            cells = [
                (line.number, sample.local_time, line.t_s_nominal, *column, value)
                for line, sample in batch
                for column, value in figures(sample)
            ]
            across = dict(zip(_COLUMNS, zip(*cells, strict=True), strict=True))
            arrays = [pa.array(across[field.name], field.type) for field in schema]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            rows += len(cells)
    return rows


def _schema(nominal: bool) -> pa.Schema:
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    types = {"line": pa.int64(), "wall_time": pa.timestamp("ms"), "value": pa.float64()}
    types["t_s_nominal"] = pa.float64()
    nullable = {"wall_time", "value", "t_s_nominal"}
    return pa.schema(
        [
            pa.field(name, types.get(name, text), nullable=name in nullable)
            for name in _COLUMNS
            if nominal or name != "t_s_nominal"
        ]
    )


def _wide(summary: LogSummary) -> list[Column]:
    """The figures that get a column; text that was not understood would make any number of them."""
    return [column for column in summary.columns if column.kind != "unknown"]


def _understood(
    path: Path, summary: LogSummary, interval_ms: float | None
) -> Iterator[tuple[LogLine, Sample]]:
    """The lines of tegrastats, up to where the summary ended: a log may still grow."""
    for line in read_log(path, interval_ms):
        if line.number > summary.read:
            return
        if line.sample is not None:
            yield line, line.sample
