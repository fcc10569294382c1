"""Where an output goes: whole or not at all, and never into a run directory."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgejoule.errors import UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def whole_file(
    target: Path, mend: str = "give -o DIR", *, folders: bool = True
) -> Iterator[BinaryIO]:
    """Open a file that stands under its name only once it is whole.

    It is written hidden beside it, synced and renamed; the process's number in that name keeps two
    commands at the same moment apart.

    Args:
        target: The file.
        mend: What to do where it cannot be written.
        folders: Whether the folders above it are made.

    Raises:
        UsageError: It cannot be written; what was there before is still there.
    """
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if folders:
            target.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    except OSError as error:
        full = error.errno in _FULL
        why = "the disk is full" if full else error.strerror
        mend = f"free some space, or {mend}" if full else mend
        raise UsageError(f"cannot write {target} ({why})", mend) from error
    finally:  # also where Ctrl-C came between; renamed, it is there no more
        with contextlib.suppress(OSError):
            unfinished.unlink()


def write_whole(
    target: Path, content: bytes, mend: str = "give -o DIR", *, folders: bool = True
) -> None:
    """Write a file by `whole_file`."""
    with whole_file(target, mend, folders=folders) as file:
        file.write(content)


def run_around(folder: Path) -> Path | None:
    """Return the run directory that a folder is or lies in, None if it lies in none.

    A file there that `run.json` does not list makes the run wrong.
    """
    whole = folder.resolve()
    return next((one for one in (whole, *whole.parents) if (one / "run.json").exists()), None)
