"""Opening a power monitor's files, also those that only root may read.

One version of NVIDIA's 5.10 kernel lets root alone read all files of the INA3221 (0400). The
container's entrypoint starts as root, opens them, and hands the open descriptors on.

Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path

RAIL_FDS_VARIABLE = "EDGEJOULE_RAIL_FDS"
NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM})
_LENGTH = 4096  # a sysfs file is at most a page


def inherited_descriptors() -> dict[str, int]:
    """Return rail files that came already open: real path -> descriptor.

    The container's entrypoint names them in the environment variable EDGEJOULE_RAIL_FDS as JSON,
    path to descriptor. A number that is not (or no longer) that very file in this process is left
    out.
    """
    text = os.environ.get(RAIL_FDS_VARIABLE, "")
    try:
        named = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    found = {}
    for path, descriptor in named.items() if isinstance(named, dict) else ():
        with contextlib.suppress(OSError, TypeError, ValueError, OverflowError):
            if type(descriptor) is int and _is_file(descriptor, Path(path)):
                found[os.path.realpath(path)] = descriptor
    return found


class RailFiles:
    """Opens and reads files; what is not allowed comes from the inherited descriptors.

    Args:
        inherited: Real path -> open descriptor; None: `inherited_descriptors()`.
    """

    def __init__(self, inherited: Mapping[str, int] | None = None) -> None:
        self._inherited = inherited_descriptors() if inherited is None else dict(inherited)

    def open(self, path: Path) -> int:
        """Return a descriptor of one's own.

        Raises:
            OSError: It cannot be opened, and none came open that is this very file.
        """
        try:
            return os.open(path, os.O_RDONLY)
        except OSError as error:
            descriptor = self._inherited.get(os.path.realpath(path))
            # A driver that was bound anew has new files under the old names.
            if (
                error.errno not in NOT_ALLOWED
                or descriptor is None
                or not _is_file(descriptor, path)
            ):
                raise
            return os.dup(descriptor)

    def text(self, path: Path) -> str | None:
        """Return a file's text, None if it cannot be read or is empty."""
        try:
            descriptor = self.open(path)
        except OSError:
            return None
        try:
            return os.pread(descriptor, _LENGTH, 0).decode("ascii").strip() or None
        except (OSError, ValueError):
            return None
        finally:
            os.close(descriptor)

    def integer(self, path: Path) -> int | None:
        """Return a file's number, None if it has none."""
        text = self.text(path)
        try:
            return None if text is None else int(text)
        except ValueError:
            return None


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether an open descriptor is the file that is at `path` now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
