"""The growing ends of a run's record files, read by the parent while others write them.

A file may not be there yet, its header half written, its last record too: what is not whole waits
for the next look. Nothing is locked and nothing is read twice. Standard library only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError
from edgejoule.records import KINDS, read_header


class RecordTail:
    """The end of one record file.

    Args:
        path: The file; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.header: dict[str, Any] | None = None
        self._path = path
        self._fd = -1
        self._at = 0
        self._size = 1

    def read(self, most: int | None = None, *, last: bool = False) -> bytes:
        """Return the whole records that came since the last call, oldest first.

        Args:
            most: At most so many; the others come with the next call.
            last: Of more than `most` the newest, and the others never.

        Raises:
            OSError: The file cannot be read.
        """
        if not self._is_open():
            return b""
        there = (os.fstat(self._fd).st_size - self._at) // self._size
        count = max(0, there if most is None else min(there, most))
        if last:
            self._at += max(0, there - count) * self._size
        data = os.pread(self._fd, count * self._size, self._at)
        data = data[: len(data) - len(data) % self._size]
        self._at += len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _is_open(self) -> bool:
        if self._fd >= 0:
            return True
        try:
            header, offset = read_header(self._path)
        except (FileNotFoundError, MeasurementError):
            return False
        self._fd = os.open(self._path, os.O_RDONLY)
        self.header, self._at = header, offset
        self._size = KINDS[header["kind"]].struct.size
        return True
