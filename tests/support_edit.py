"""What a careful liar does to a run's files before sealing it anew (`support_dataset.reseal`)."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from edgejoule.config import SCHEMA_VERSION
from edgejoule.dataset.schema import open_writer, read_metadata, table_schema
from edgejoule.files import canonical_json


def edit_table(run, name, change, version=SCHEMA_VERSION):
    """Rewrite a table of a run after `change(columns) -> columns`, its metadata kept."""
    path = run / f"{name}.parquet"
    metadata = read_metadata(path)
    table = pq.read_table(path)
    columns = change({key: table[key].to_pylist() for key in table.column_names})
    figures = tuple(key for key in columns if key != "t_ns")
    schema = table_schema(name, figures, version)
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    with open_writer(path, name, schema, metadata) as writer:
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def drop(row):
    return lambda columns: {key: [*v[:row], *v[row + 1 :]] for key, v in columns.items()}


def put(column, row, value):
    def change(columns):
        columns[column][row] = value
        return columns

    return change


def swap(first, second):
    def change(columns):
        for values in columns.values():
            values[first], values[second] = values[second], values[first]
        return columns

    return change


def edit_json(path, change):
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_bytes(canonical_json(document))


def double(row):
    return lambda columns: {key: [*v[: row + 1], *v[row:]] for key, v in columns.items()}


def exchange(column, first, second):
    def change(columns):
        values = columns[column]
        values[first], values[second] = values[second], values[first]
        return columns

    return change
