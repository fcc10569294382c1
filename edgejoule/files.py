"""Files that survive a crash: hashing, syncing, atomic writing, canonical JSON.

Standard library only.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError

_BLOCK_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(document: Any) -> bytes:
    """Return a document as the bytes in which this project writes JSON files."""
    return (json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def config_sha256(config: Any) -> str:
    """Return the identity of a plain configuration, equal to `config.identity_sha256` of it.

    Taken from the plain values, so that the knobs of another version do not disturb it.
    """
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file whole or not at all: to `<path>.tmp`, synced, renamed."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_bytes(canonical_json(document))
    sync_file(unfinished)
    unfinished.replace(path)
    sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        MeasurementError: It cannot be read or is damaged.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise MeasurementError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise MeasurementError(f"{path} is damaged ({error})") from error


def sync_file(path: Path) -> None:
    """Make a file's bytes reach the disk."""
    # Windows refuses to sync a descriptor that cannot write.
    fd = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Make a folder's entries (creations, renames) reach the disk; nothing to do on Windows."""
    if sys.platform != "win32":
        sync_file(path)


def files_below(folder: Path) -> list[str]:
    """Return the files below a folder as sorted relative paths with forward slashes."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises into one line that names the folder."""
    try:
        yield
    except OSError as error:
        raise disk_error(folder, error) from error


def disk_error(folder: Path, error: OSError) -> EdgejouleError:
    """Return the project's error for an `OSError` met while writing below `folder`."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return MeasurementError(
            f"the disk of {folder} is full", "free some space, or give another --result-dir"
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return UsageError(
            f"{folder} cannot be written ({error.strerror})",
            "give a --result-dir that belongs to you",
        )
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return UsageError(f"{folder} is in the way ({error.strerror})", "give another --result-dir")
    return MeasurementError(f"{folder}: {error}")
