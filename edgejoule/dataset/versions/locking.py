"""One push or pull at a time in a folder; two folders may push to one remote at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from edgejoule.dataset.alive import hold_lock
from edgejoule.errors import MeasurementError
from edgejoule.files import disk_errors


@contextlib.contextmanager
def one_at_a_time(dataset: Path) -> Iterator[None]:
    """Hold the dataset's versions for this process until the block ends.

    Raises:
        MeasurementError: Another push or pull has them.
    """
    folder = dataset / ".git" / "edgejoule"
    if not folder.parent.is_dir():  # a worktree: DVC's own lock alone
        yield
        return
    with disk_errors(dataset):
        folder.mkdir(exist_ok=True)
        fd = hold_lock(folder / "lock")
    if fd is None:
        raise MeasurementError(
            f"another push or pull is at work in {dataset}", "wait for it, then run this again"
        )
    try:
        yield
    finally:
        os.close(fd)
