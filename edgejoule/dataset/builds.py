"""A folder for engines that several runs of one command share, gone when the command is.

It lies beside the runs, so that they can take what is in it by hard links. A command that is killed
leaves its folder; the next one, or `recover`, sweeps it away. A lock tells which are in use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgejoule.dataset.alive import LOCK_NAME, gate, hold_lock
from edgejoule.dataset.run_directory import PARTIAL
from edgejoule.files import disk_errors

_PREFIX = ".builds-"


@contextlib.contextmanager
def shared_builds(dataset: Path) -> Iterator[Path]:
    """Make a folder for builds below `<dataset>/.partial`; it is removed when the block ends.

    Raises:
        UsageError: The dataset's folder cannot be written.
    """
    partials = dataset / PARTIAL
    with disk_errors(dataset):
        partials.mkdir(parents=True, exist_ok=True)
        sweep_builds(partials)
        with gate(partials):
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=partials))
            lock = hold_lock(folder / LOCK_NAME)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def sweep_builds(partials: Path) -> None:
    """Remove the folders of commands that are gone."""
    with gate(partials):
        for folder in partials.glob(f"{_PREFIX}*"):
            lock = hold_lock(folder / LOCK_NAME)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
