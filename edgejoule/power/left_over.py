"""What is needed to put back a setting that was changed, kept where a kill cannot take it.

A changed setting is written down before it is changed, in `$XDG_STATE_HOME/edgejoule` (by default
`~/.local/state/edgejoule`), and struck out once the old value is back. Who changes it holds a lock
meanwhile, which the kernel drops with the process: a file without a holder is left over from a
process that was killed.

Standard library only; `fcntl` is imported where it is used.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import read_json, write_json

_MEND = "set XDG_STATE_HOME to a folder that you can write"


def state_folder() -> Path:
    """Return where this program keeps its state.

    Raises:
        UsageError: Neither XDG_STATE_HOME nor a home directory is known.
    """
    named = os.environ.get("XDG_STATE_HOME", "")
    if Path(named).is_absolute():  # the XDG specification: a relative path is to be ignored
        return Path(named) / "edgejoule"
    try:
        return Path.home() / ".local" / "state" / "edgejoule"
    except RuntimeError as error:
        raise UsageError("no home directory to note a changed setting in", _MEND) from error


def boot_id() -> str | None:
    """Return what names this start of the machine, None where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def tell(line: str) -> None:
    """Say something to the user beside the command's output."""
    print(line, file=sys.stderr)


@dataclass(frozen=True)
class StateFile:
    """The note of one kind of setting.

    Attributes:
        path: The JSON file; the lock is `<path>.lock`.
        what: What is noted, for messages (`settings of the power monitors`).
    """

    path: Path
    what: str

    def read(self) -> dict[str, Any] | None:
        """Return the note, None without one.

        Raises:
            MeasurementError: It cannot be read or is damaged.
        """
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise MeasurementError(f"{self.path}: {error.strerror}") from error
        found = read_json(self.path)
        if not isinstance(found, dict):
            raise MeasurementError(
                f"{self.path} is damaged", f"see the {self.what}, then remove it"
            )
        return found

    def write(self, note: dict[str, Any]) -> None:
        """Write the note, whole or not at all, before anything is changed.

        Raises:
            UsageError: It cannot be written.
        """
        try:
            write_json(self.path, note)
        except OSError as error:
            raise self._unwritable(error) from error

    def remove(self) -> None:
        """Strike out the note: all is as it was."""
        self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the lock if nobody else does; give whether it is held.

        Raises:
            UsageError: The folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_name(self.path.name + ".lock")
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            yield _lock(descriptor)
        finally:
            os.close(descriptor)

    def busy(self) -> UsageError:
        """Return the error for a lock that somebody else holds."""
        return UsageError(
            f"another edgejoule has changed the {self.what}", "wait until it has ended"
        )

    def _unwritable(self, error: OSError) -> UsageError:
        return UsageError(
            f"{self.path.parent} cannot be written ({error.strerror}), so that the {self.what} "
            "could not be put back after a kill",
            _MEND,
        )


def _lock(descriptor: int) -> bool:
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True  # a file system without locks
    return True
