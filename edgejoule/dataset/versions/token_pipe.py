"""The token, handed to one of the project's own commands through a pipe.

An experiment starts `data_version.py push` as a process of its own. A variable would show the token
to whoever may read that process's environment; a pipe is empty once the command has read it.
Standard library only; where descriptors are not inherited (Windows) nothing is measured, so nothing
is handed over either.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

# Its value is the number of the descriptor, so the name tells nothing secret.
PIPE_VARIABLE = "EDGEJOULE_TOKEN_PIPE"
_LONGEST = 4096


@contextlib.contextmanager
def token_pipe(token: str | None) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """Put a token into a pipe; give what the child's environment and descriptors need for it.

    Args:
        token: The token; None gives nothing to hand over.
    """
    if not token:
        yield {}, ()
        return
    reading, writing = os.pipe()
    try:
        try:
            os.write(writing, token.encode()[:_LONGEST])
        finally:
            os.close(writing)
        yield {PIPE_VARIABLE: str(reading)}, (reading,)
    finally:
        os.close(reading)


@functools.cache
def token_from_pipe() -> str | None:
    """Return the token that this process was handed, None if none was; the pipe is read once."""
    number = os.environ.get(PIPE_VARIABLE, "")
    if not number.isdecimal():
        return None
    try:
        with os.fdopen(int(number), "rb") as pipe:
            return pipe.read(_LONGEST).decode().strip() or None
    except (OSError, ValueError):
        return None  # closed on the way: then there is no token, and that is said
