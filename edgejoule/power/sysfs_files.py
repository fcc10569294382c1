"""Reading numbers and words of sysfs files.

Standard library only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path


def number_of(descriptor: int) -> int:
    """Return the number that an open sysfs file holds now.

    Raises:
        OSError: As the file gave it; EBADMSG if it holds no number.
    """
    text = os.pread(descriptor, 32, 0)
    try:
        return int(text)
    except ValueError as error:
        raise OSError(errno.EBADMSG, f"no number: {text!r}") from error


def text_of(path: Path) -> str | None:
    """Return a file's text, None if it cannot be read or is empty."""
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def integer_of(path: Path) -> int | None:
    """Return a file's number, None if it has none."""
    text = text_of(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def names_in(folder: Path) -> list[str]:
    """Return what a directory lists, sorted, dangling links as well; nothing if it is not there."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []


def reading_of(read: Callable[[], int], unit: str) -> str:
    """Return what a read gives now, for people: `5 uW`, or why it fails."""
    try:
        return f"{read()} {unit}"
    except OSError as error:
        return reason_of(error)


def reason_of(error: OSError) -> str:
    """Return an error for people: `Permission denied (EACCES)`."""
    return f"{error.strerror} ({errno.errorcode.get(error.errno or 0, '?')})"
