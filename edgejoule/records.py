"""Append-only files of fixed-width little-endian records with a self-describing header.

While a run is measured its rows go into such files (`power.bin`, `inferences.bin`, `layers.bin`):
a process that is killed loses at most the record it was writing and what it had not flushed,
whereas a killed Parquet writer loses everything. Standard library only; `edgejoule.dataset` turns
them into Parquet.

Layout: 8 bytes magic, uint32 length of the header, the header as UTF-8 JSON padded with spaces so
that the first record is 8-byte aligned, then the records. The header names every field with its
numpy type string, so that `numpy.dtype(header["fields"])` reads the records.
"""

from __future__ import annotations

import json
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError

MAGIC = b"EJREC001"
NULL_NS = -(2**63)  # "not known" in an int64 field of nanoseconds

_STRUCT_CODES = {"<i8": "q", "<i4": "i", "<i2": "h", "<u4": "I", "<u2": "H"}


@dataclass(frozen=True)
class RecordKind:
    """What one kind of record file holds: its name and its fields in order (numpy type strings)."""

    name: str
    fields: tuple[tuple[str, str], ...]

    @property
    def struct(self) -> struct.Struct:
        """The `struct.Struct` that packs one record."""
        return struct.Struct("<" + "".join(_STRUCT_CODES[code] for _, code in self.fields))


POWER = RecordKind(
    "power",
    (
        ("t0_ns", "<i8"),  # CLOCK_MONOTONIC just before the file was read
        ("t1_ns", "<i8"),  # and just after
        ("raw", "<i8"),  # the number as read, in the channel's unit; 0 where errno is set
        ("channel", "<i4"),  # index into the header's "channels"
        ("errno", "<i4"),  # 0, or why the read failed (61 ENODATA, 110 ETIMEDOUT, ...)
    ),
)
INFERENCES = RecordKind(
    "inferences",
    (
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("due_ns", "<i8"),  # when it was due (rate pass), NULL_NS elsewhere
        ("index", "<i4"),  # from 0 within its pass
        ("pass", "<i4"),  # index into PASSES
    ),
)
LAYERS = RecordKind(
    "layers",
    (
        ("start_offset_ns", "<i8"),  # from the inference's start_ns; NULL_NS if not known
        ("duration_ns", "<i8"),
        ("inference", "<i4"),  # index within the profiled pass
        ("layer", "<i4"),  # index into engine.json's layers
    ),
)
RESOURCES = RecordKind(
    "resources",
    (("t_ns", "<i8"), ("value", "<i8"), ("column", "<i4"), ("reserved", "<i4")),
)
REPLAY = RecordKind(
    "replay",
    (
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("iterations", "<i8"),  # executions that began and ended between the two
        ("layer", "<i4"),  # index into engine.json's layers, -1 for `whole` and `idle`
        ("copies", "<i4"),  # how often the layer is executed in the network (`duplicate`), else 1
        ("round", "<i4"),  # rounds go over all that is repeated, one after the other
        ("kind", "<i4"),  # index into REPLAY_KINDS
    ),
)
KINDS = {kind.name: kind for kind in (POWER, INFERENCES, LAYERS, RESOURCES, REPLAY)}

PASSES = ("warmup", "clean", "rate", "profiled")
REPLAY_KINDS = ("layer", "whole", "idle", "duplicate")


class RecordWriter:
    """Append records of one kind to a new file; flush at least once a second.

    Args:
        path: The file to create; an existing one is refused.
        kind: What a record is.
        header: More facts for the header, JSON-serialisable (e.g. the channels).
        flush_s: Longest time a written record stays in this process's memory, provided that
            `write` or `tick` is called at least that often.
    """

    def __init__(
        self, path: Path, kind: RecordKind, header: dict[str, Any], flush_s: float = 0.5
    ) -> None:
        self.count = 0
        self._pack = kind.struct.pack
        self._flush_ns = int(flush_s * 1e9)
        self._buffer = bytearray()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        full = {**header, "kind": kind.name, "fields": [list(field) for field in kind.fields]}
        text = json.dumps(full, sort_keys=True).encode()
        text += b" " * (-(len(MAGIC) + 4 + len(text)) % 8)
        self._write_all(MAGIC + struct.pack("<I", len(text)) + text)
        self._last_flush_ns = time.monotonic_ns()

    def write(self, *values: int) -> None:
        """Append one record."""
        self._buffer += self._pack(*values)
        self.count += 1

    def write_packed(self, packed: bytes, records: int) -> None:
        """Append whole records that already are in the file's form."""
        self._buffer += packed
        self.count += records

    def tick(self, now_ns: int) -> None:
        """Flush if the last flush is longer ago than `flush_s`; call it outside timed spans."""
        if now_ns - self._last_flush_ns >= self._flush_ns:
            self.flush()
            self._last_flush_ns = now_ns

    def flush(self) -> None:
        """Hand all records to the kernel: from here on a killed process loses none of them."""
        while self._buffer:
            # What is written leaves the buffer at once: after a full disk took half of it, a later
            # flush must go on from there, or all records behind would be out of step.
            del self._buffer[: os.write(self._fd, self._buffer)]

    def close(self) -> None:
        """Flush, sync to the disk and close."""
        if self._fd >= 0:
            self.flush()
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a record file and the offset of its first record.

    Raises:
        MeasurementError: The file is no record file, or its header is cut short.
    """
    with path.open("rb") as file:
        head = file.read(len(MAGIC) + 4)
        if len(head) < len(MAGIC) + 4 or not head.startswith(MAGIC):
            raise MeasurementError(f"{path} is not a record file of edgejoule")
        (length,) = struct.unpack("<I", head[len(MAGIC) :])
        text = file.read(length)
    if len(text) < length:
        raise MeasurementError(f"{path}: the header is cut short")
    try:
        header = json.loads(text)
    except ValueError as error:
        raise MeasurementError(f"{path}: the header is damaged ({error})") from error
    if not isinstance(header, dict) or header.get("kind") not in KINDS:
        raise MeasurementError(f"{path}: the header names no kind of record")
    return header, len(head) + length
