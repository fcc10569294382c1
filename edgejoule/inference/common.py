"""What both processes of process one share: JSON files, memory, errors of a user's model."""

from __future__ import annotations

import errno
import math
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from edgejoule import files
from edgejoule.errors import EdgejouleError, MeasurementError, UsageError

# EFBIG: a file-size limit (`ulimit -f`) stops a run just as a full disk does.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def plain(value: Any) -> Any:
    """Return `value` as what strict JSON can hold: mappings, lists, numbers, text, None.

    Infinite and undefined numbers become text (`"inf"`), since JSON has no word for them.
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all, of whatever a runtime or a model says of itself."""
    files.write_json(path, plain(content))


def disk_full_error(error: OSError, directory: Path) -> MeasurementError:
    """Return the one line for a write that failed because there is no room left."""
    return MeasurementError(
        f"no room left to write below {directory} ({error.strerror})",
        "free some disk space or choose another --result-dir; what was written is kept",
    )


def peak_rss_mib() -> float:
    """Return the largest resident memory of this process so far, in MiB.

    From /proc where there is one: `getrusage` would also count the parent's memory, which a
    forked child starts with before it becomes another program.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 1024), 1)


def short(error: BaseException, limit: int = 300) -> str:
    """Return an exception's text as one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def model_error(
    model: str, doing: str, error: BaseException, kind: type[EdgejouleError] = UsageError
) -> EdgejouleError:
    """Return the one line for an exception out of a user's model; the traceback goes to the log.

    Args:
        model: Which model, as the user named it.
        doing: What failed, as a verb: `raises when it is run`.
        error: What it raised.
        kind: The error to return; want of memory is a `MeasurementError` in any case.
    """
    if isinstance(error, EdgejouleError):
        return error
    traceback.print_exception(type(error), error, error.__traceback__)
    text = f"{type(error).__name__}: {short(error)}"
    # torch has a type of its own on a GPU and a plain RuntimeError on a CPU.
    if isinstance(error, MemoryError) or re.search(
        r"OutOfMemory|out of memory|can't allocate memory|bad_alloc|[Cc]annot allocate memory"
        r"|Failed to allocate memory|could not create a primitive",
        text,
    ):
        return MeasurementError(
            f"model {model}: not enough memory ({text})",
            "try a smaller batch or --input-shape, or a larger --memory-limit-gib if one was given",
        )
    return kind(f"model {model} {doing} ({text})", "the traceback stands in run.log")
