"""Whether the parent of a working directory still lives, and who may touch the directory.

Two signs, either is enough: a lock on the file `lock` that the kernel drops when its holder dies
(seen across containers that share the folder), and the parent's pid with its start time, for file
systems without locks. On Windows, where nothing is measured, a directory is never live.

Standard library only; `fcntl` is imported where it is used, since Windows has none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCK_NAME = "lock"


def parent_facts() -> dict[str, Any]:
    """Return what identifies this process: pid, its start in clock ticks, boot, pid namespace."""
    return {
        "pid": os.getpid(),
        "start_ticks": _start_ticks(os.getpid()),
        "boot_id": _boot_id(),
        "pid_namespace": _pid_namespace(),
    }


def hold_lock(path: Path) -> int | None:
    """Take the lock on `path` (created if needed) and return its descriptor, None if it is held.

    The descriptor is not inherited by children that are executed; closing it gives the lock back.
    Without `fcntl` there is nothing to hold: the descriptor alone is returned.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        import fcntl
    except ImportError:
        return fd
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        return fd  # a file system without locks: the pid decides alone
    return fd


@contextlib.contextmanager
def gate(partials: Path) -> Iterator[None]:
    """Hold the gate of a `.partial` folder: no directory is made or claimed by others meanwhile."""
    fd = os.open(partials / ".gate", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def parent_lives(facts: dict[str, Any] | None) -> bool:
    """Say whether the process that `parent_facts` described is still there.

    A process of another pid namespace cannot be seen from here; then only the lock can tell.
    """
    if not facts or facts.get("boot_id") != _boot_id():
        return False
    if facts.get("pid_namespace") != _pid_namespace():
        return False
    ticks = facts.get("start_ticks")
    return ticks is not None and _start_ticks(int(facts["pid"])) == ticks


def _start_ticks(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command's name may hold spaces and brackets; the fields behind its last bracket do not.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _pid_namespace() -> str | None:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None
