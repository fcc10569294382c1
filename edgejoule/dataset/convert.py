"""Record files of a run to Parquet, in batches, so that memory stays bounded.

A record that a kill cut short is dropped and counted; the count stands in the Parquet file's
metadata as `cut_records`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.schema import open_writer, row_count, table_schema
from edgejoule.errors import MeasurementError
from edgejoule.files import disk_errors, sha256_of
from edgejoule.records import MAGIC, NULL_NS, PASSES, REPLAY_KINDS, read_header

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

BATCH_RECORDS = 1 << 19
RECORD_FILES = ("power", "inferences", "layers", "replay", "resources")
_POWER_FACTS = (
    "channels",
    "sensor",
    "simulated",
    "refresh_ns",
    "configuration",
    "wall_anchor",
)
# Traces of the first versions have none of these, and absent is not null: no total was looked for.
_POWER_FACTS_IF_THERE = ("groups", "board", "total")


@dataclass(frozen=True)
class FileFacts:
    """What `run.json` says of a file; `rows` is None for what is no table."""

    sha256: str
    bytes: int
    rows: int | None
    cut_records: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the entry for `run.json`."""
        return {"sha256": self.sha256, "bytes": self.bytes, "rows": self.rows}


def file_facts(path: Path, cut_records: int = 0) -> FileFacts:
    """Hash a file and count its rows if it is a table."""
    rows = row_count(path) if path.suffix == ".parquet" else None
    return FileFacts(sha256_of(path), path.stat().st_size, rows, cut_records)


def convert(partial: Path) -> dict[str, FileFacts]:
    """Turn the record files of a working directory into Parquet files beside them.

    Missing record files are skipped, and so are those too short to hold a header (their writer was
    killed as it started). An existing Parquet file is written anew from its records.

    Returns:
        Facts of each Parquet file by name.

    Raises:
        MeasurementError: A header is damaged, or the disk is full.
    """
    found = {name: convert_one(partial, name) for name in RECORD_FILES}
    return {f"{name}.parquet": facts for name, facts in found.items() if facts is not None}


def convert_one(partial: Path, name: str) -> FileFacts | None:
    """Turn one record file into Parquet; None if there is nothing to turn. Raises as `convert`."""
    source = partial / f"{name}.bin"
    if not source.is_file() or not _has_header(source):
        return None
    target = partial / f"{name}.parquet"
    with disk_errors(partial):
        if name == "resources":
            cut = _convert_resources(source, target)
        else:
            cut = _convert(name, source, target)
        return file_facts(target, cut)


def read_records(path: Path) -> tuple[dict[str, Any], Iterator[np.ndarray], int]:
    """Open a record file: its header, its whole records in batches, and 1 if the last is cut."""
    import numpy as np

    header, offset = read_header(path)
    dtype = np.dtype([(str(field), str(code)) for field, code in header["fields"]])
    count, rest = divmod(path.stat().st_size - offset, dtype.itemsize)

    def batches() -> Iterator[np.ndarray]:
        with path.open("rb") as file:
            file.seek(offset)
            for start in range(0, count, BATCH_RECORDS):
                yield np.fromfile(file, dtype, min(BATCH_RECORDS, count - start))

    return header, batches(), int(rest > 0)


def _has_header(path: Path) -> bool:
    try:
        read_header(path)
    except MeasurementError:
        with path.open("rb") as file:
            head = file.read(1 << 20)
        # Cut within its header: no record can follow. A whole but damaged header is an error.
        if head[: len(MAGIC)] != MAGIC[: len(head)]:
            raise
        if len(head) < 12 or len(head) < 12 + int.from_bytes(head[8:12], "little"):
            return False
        raise
    return True


def _convert(name: str, source: Path, target: Path) -> int:
    import pyarrow as pa

    header, batches, cut = read_records(source)
    schema = table_schema(name)
    metadata: dict[str, Any] = {"cut_records": cut}
    if name == "power":
        metadata.update({key: header.get(key) for key in _POWER_FACTS})
        metadata.update({key: header[key] for key in _POWER_FACTS_IF_THERE if key in header})
    makers = {"power": _power, "inferences": _inferences, "layers": _layers, "replay": _replay}
    columns_of = makers[name]
    rows = (pa.RecordBatch.from_arrays(columns_of(part), schema=schema) for part in batches)
    first = next(rows, None)
    with open_writer(target, name, schema, metadata, first) as writer:
        for batch in () if first is None else chain((first,), rows):
            writer.write_batch(batch)
    return cut


def _power(records: np.ndarray) -> list[pa.Array]:
    import numpy as np
    import pyarrow as pa

    failed = records["errno"] != 0
    return [
        pa.array(records["t0_ns"]),
        pa.array(records["t1_ns"]),
        pa.array(records["channel"].astype(np.int16)),
        pa.array(records["raw"], mask=failed),
        pa.array(records["errno"].astype(np.int16), mask=~failed),
    ]


def _inferences(records: np.ndarray) -> list[pa.Array]:
    import numpy as np
    import pyarrow as pa

    passes = pa.DictionaryArray.from_arrays(
        pa.array(records["pass"].astype(np.int32)), pa.array(list(PASSES))
    )
    return [
        passes,
        pa.array(records["index"]),
        pa.array(records["start_ns"]),
        pa.array(records["end_ns"]),
        pa.array(records["due_ns"], mask=records["due_ns"] == NULL_NS),
    ]


def _layers(records: np.ndarray) -> list[pa.Array]:
    import numpy as np
    import pyarrow as pa

    offset = records["start_offset_ns"]
    return [
        pa.array(records["inference"]),
        pa.array(records["layer"].astype(np.int16)),
        pa.array((records["duration_ns"] * 1e-6).astype(np.float32)),
        pa.array(offset, mask=offset == NULL_NS),
    ]


def _replay(records: np.ndarray) -> list[pa.Array]:
    import numpy as np
    import pyarrow as pa

    kinds = pa.DictionaryArray.from_arrays(
        pa.array(records["kind"].astype(np.int32)), pa.array(list(REPLAY_KINDS))
    )
    return [
        kinds,
        pa.array(records["layer"].astype(np.int16), mask=records["layer"] < 0),
        pa.array(records["copies"].astype(np.int16)),
        pa.array(records["round"].astype(np.int16)),
        pa.array(records["start_ns"]),
        pa.array(records["end_ns"]),
        pa.array(records["iterations"]),
    ]


def _convert_resources(source: Path, target: Path) -> int:
    """Turn (time, column, value) records into one row per time; about one a second, so small."""
    import numpy as np
    import pyarrow as pa

    header, batches, cut = read_records(source)
    names, scales = [], []
    for column in header.get("columns", ()):
        plain = isinstance(column, str)
        names.append(str(column) if plain else str(column["name"]))
        scales.append(1.0 if plain else float(column.get("scale", 1.0)))
    whole = list(batches)
    records = np.concatenate(whole) if whole else np.empty(0, [("t_ns", "<i8")])
    times, row = np.unique(records["t_ns"], return_inverse=True)
    values = np.full((len(names), len(times)), np.nan)
    if len(records):
        known = records["value"] != NULL_NS
        column = records["column"][known]
        values[column, row[known]] = records["value"][known] * np.array(scales)[column]
    schema = table_schema("resources", tuple(names))
    arrays = [pa.array(times), *(pa.array(line, from_pandas=True) for line in values)]
    with open_writer(target, "resources", schema, {"cut_records": cut}) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return cut
