"""The columns of a run's Parquet files, how they are encoded, and the JSON Schemas.

`docs/DatasetFormats.md` says what each column means. Encodings: time stamps rise steadily and are
kept as deltas; what repeats (channels, readings in steps of the sensor, durations in steps of a
profiler's clock) goes through a dictionary; durations in single nanoseconds hardly repeat and are
split into byte streams, where their exponents compress. Every reader of Parquet format 2 takes
them.

pyarrow is imported inside the functions, so that naming a file costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.config import SCHEMA_VERSION
from edgejoule.errors import MeasurementError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

METADATA_KEY = b"edgejoule"
ENERGY_KINDS = ("layer", "group", "gap", "inference", "closure")
_GROUPS_SINCE = 5
# Columns of `energy` that earlier versions lack.
_ENERGY_ADDED = (
    "group", "time_ms", "alone_ms", "dynamic_other_mj", "scaled_gross_mj", "scaled_dynamic_mj",
    "why",
)  # fmt: skip
TABLES = ("power", "inferences", "layers", "replay", "energy", "resources")
JSON_FILES = {
    "run.json": "run",
    "idle.json": "idle",
    "engine.json": "engine",
    "measure.json": "measure",
    "sampler.json": "sampler",
    "calibration.json": "calibration",
    "truth.json": "truth",
}
# The dataset's own files beside its runs.
DATASET_FILES = {"dataset.json": "dataset", "idling_power.json": "idling_power"}

_VERSIONED = ("run", "dataset", "idling_power")
_DELTA = "DELTA_BINARY_PACKED"
# Columns with an encoding of their own; the others go through a dictionary.
_ENCODINGS: dict[str, dict[str, str]] = {
    "power": {"t0_ns": _DELTA, "t1_ns": _DELTA},
    "inferences": {"index": _DELTA, "start_ns": _DELTA, "end_ns": _DELTA, "due_ns": _DELTA},
    "layers": {
        "inference": _DELTA,
        "layer": _DELTA,
        "duration_ms": "BYTE_STREAM_SPLIT",
        "start_offset_ns": _DELTA,
    },
    "replay": {"start_ns": _DELTA, "end_ns": _DELTA},
    "energy": {},
    "resources": {"t_ns": _DELTA},
}
# A dictionary is smaller than the encoding above where a value stands in this many rows or more:
# with 200 layers and a clock of 1 us it is 2.5 times smaller, with one of 1 ns 1.16 times larger.
_DICTIONARY_ROWS_PER_VALUE = 8


def power_schema() -> pa.Schema:
    """Return the columns of `power.parquet`."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("t0_ns", pa.int64(), nullable=False),
            pa.field("t1_ns", pa.int64(), nullable=False),
            pa.field("channel", pa.int16(), nullable=False),
            pa.field("raw", pa.int64()),
            pa.field("errno", pa.int16()),
        ]
    )


def inferences_schema() -> pa.Schema:
    """Return the columns of `inferences.parquet`."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("pass", _text(), nullable=False),
            pa.field("index", pa.int32(), nullable=False),
            pa.field("start_ns", pa.int64(), nullable=False),
            pa.field("end_ns", pa.int64(), nullable=False),
            pa.field("due_ns", pa.int64()),
        ]
    )


def layers_schema() -> pa.Schema:
    """Return the columns of `layers.parquet`."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("inference", pa.int32(), nullable=False),
            pa.field("layer", pa.int16(), nullable=False),
            pa.field("duration_ms", pa.float32(), nullable=False),
            pa.field("start_offset_ns", pa.int64()),
        ]
    )


def replay_schema() -> pa.Schema:
    """Return the columns of `replay.parquet`."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("kind", _text(), nullable=False),
            pa.field("layer", pa.int16()),
            pa.field("copies", pa.int16(), nullable=False),
            pa.field("round", pa.int16(), nullable=False),
            pa.field("start_ns", pa.int64(), nullable=False),
            pa.field("end_ns", pa.int64(), nullable=False),
            pa.field("iterations", pa.int64(), nullable=False),
        ]
    )


def energy_schema(version: int = SCHEMA_VERSION) -> pa.Schema:
    """Return the columns of `energy.parquet`; up to version 4 each row had its energy."""
    import pyarrow as pa

    text = _text()
    older = version < _GROUPS_SINCE
    schema = pa.schema(
        [
            pa.field("method", text, nullable=False),
            pa.field("rail", text, nullable=False),
            pa.field("kind", text, nullable=False),
            pa.field("layer", pa.int16()),
            pa.field("gross_mj", pa.float64(), nullable=not older),
            pa.field("gross_statistical_mj", pa.float64()),
            pa.field("dynamic_mj", pa.float64()),
            pa.field("dynamic_statistical_mj", pa.float64()),
            pa.field("systematic_mj", pa.float64()),
            pa.field("n", pa.int64(), nullable=False),
            pa.field("resolved", pa.bool_()),
            pa.field("group", pa.int16()),
            pa.field("time_ms", pa.float64()),
            pa.field("alone_ms", pa.float64()),
            pa.field("dynamic_other_mj", pa.float64()),
            pa.field("scaled_gross_mj", pa.float64()),
            pa.field("scaled_dynamic_mj", pa.float64()),
            pa.field("why", text),
        ]
    )
    if not older:
        return schema
    return pa.schema([field for field in schema if field.name not in _ENERGY_ADDED])


def _text() -> pa.DataType:
    """Return the type of repeated text; older readers know no narrower index than int32."""
    import pyarrow as pa

    return pa.dictionary(pa.int32(), pa.string())


def resources_schema(columns: tuple[str, ...]) -> pa.Schema:
    """Return the columns of `resources.parquet` for these figures."""
    import pyarrow as pa

    fields = [pa.field("t_ns", pa.int64(), nullable=False)]
    return pa.schema(fields + [pa.field(name, pa.float64()) for name in columns])


def table_schema(
    name: str, columns: tuple[str, ...] = (), version: int = SCHEMA_VERSION
) -> pa.Schema:
    """Return the schema of table `name` as `version` of the format has it.

    Args:
        name: One of `TABLES`.
        columns: The figures of `resources`.
        version: The format; it matters to `energy` alone.
    """
    if name == "energy":
        return energy_schema(version)
    if name == "resources":
        return resources_schema(columns)
    makers = {
        "power": power_schema,
        "inferences": inferences_schema,
        "layers": layers_schema,
        "replay": replay_schema,
    }
    return makers[name]()


@contextmanager
def open_writer(
    path: Path,
    name: str,
    schema: pa.Schema,
    metadata: Mapping[str, Any] | None = None,
    sample: pa.RecordBatch | pa.Table | None = None,
) -> Iterator[pq.ParquetWriter]:
    """Open `path` to write table `name` in batches.

    The file stands under its name only once it is whole: it is written as `<path>.tmp`, synced and
    renamed when the block ends without an error.

    Args:
        path: The Parquet file.
        name: One of `TABLES`.
        schema: Its columns.
        metadata: JSON-serialisable facts for the file's metadata, under the key `edgejoule`.
        sample: Its first rows, by which the encoding of durations is chosen.
    """
    import pyarrow.parquet as pq

    from edgejoule.files import sync_file

    if metadata is not None:
        text = json.dumps(dict(metadata), sort_keys=True).encode()
        schema = schema.with_metadata({**(schema.metadata or {}), METADATA_KEY: text})
    encodings = {key: value for key, value in _ENCODINGS[name].items() if key in schema.names}
    if "duration_ms" in encodings and sample is not None and _repeats(sample["duration_ms"]):
        del encodings["duration_ms"]
    unfinished = path.with_name(path.name + ".tmp")
    with pq.ParquetWriter(
        unfinished,
        schema,
        version="2.6",
        compression="zstd",
        compression_level=6,
        use_dictionary=[column for column in schema.names if column not in encodings],
        column_encoding=encodings or None,
    ) as writer:
        yield writer
    sync_file(unfinished)
    unfinished.replace(path)


def write_table(path: Path, name: str, columns: Mapping[str, Any], **metadata: Any) -> None:
    """Write a whole table from columns (lists or arrays), by name.

    Raises:
        MeasurementError: A column is missing, unknown, or does not fit its type.
    """
    import pyarrow as pa

    schema = table_schema(name, tuple(key for key in columns if key != "t_ns"))
    if set(columns) != set(schema.names):
        wrong = sorted(set(columns) ^ set(schema.names))
        raise MeasurementError(f"{path.name}: columns missing or unknown: {', '.join(wrong)}")
    try:
        arrays = [pa.array(columns[field.name], field.type) for field in schema]
        table = pa.Table.from_arrays(arrays, schema=schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise MeasurementError(f"{path.name}: {error}") from error
    holes = [field.name for field in schema if not field.nullable and table[field.name].null_count]
    if holes:
        raise MeasurementError(f"{path.name}: null in {', '.join(holes)}")
    with open_writer(path, name, schema, metadata or None, table) as writer:
        writer.write_table(table)


def _repeats(column: pa.Array | pa.ChunkedArray) -> bool:
    import pyarrow.compute as pc

    distinct: int = pc.count_distinct(column).as_py()
    return distinct * _DICTIONARY_ROWS_PER_VALUE <= len(column)


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the facts under the metadata key `edgejoule` of a Parquet file, {} without one."""
    import pyarrow.parquet as pq

    found = (pq.read_schema(path).metadata or {}).get(METADATA_KEY)
    facts = json.loads(found) if found else {}
    return facts if isinstance(facts, dict) else {}


def row_count(path: Path) -> int:
    """Return the number of rows of a Parquet file, from its footer."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of that name, as `JSON_FILES` and `DATASET_FILES` name them."""
    path = Path(__file__).parent / "schemas" / f"{name}.schema.json"
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def schema_problems(name: str, document: Any) -> list[str]:
    """Return in what a document differs from its JSON Schema, one line each; at most 20."""
    import jsonschema

    if name in _VERSIONED and isinstance(document, dict):
        version = document.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            return [f"schema_version {version} is newer than this edgejoule reads; update it"]
    validator = jsonschema.Draft202012Validator(json_schema(name))
    problems = []
    for error in validator.iter_errors(document):
        where = "/".join(str(part) for part in error.absolute_path) or "document"
        problems.append(f"{where}: {error.message[:200]}")
    return sorted(problems)[:20]
