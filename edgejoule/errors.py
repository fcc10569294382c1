"""The project's one error type, with an exit code and the mend, and the place that catches it.

A user's mistake is one line that names what, where and the mend. `run_command` turns it into that
line on stderr and the exit code; everything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable

EXIT_DONE = 0
EXIT_WRONG = 1  # the measurement or the data is wrong or incomplete
EXIT_USAGE = 2
EXIT_TOKEN = 3
EXIT_SERVER = 4
EXIT_REGRESSION = 5
EXIT_INTERRUPTED = 130


class EdgejouleError(Exception):
    """Something a user can mend.

    Args:
        message: What happened and where, one line, no full stop needed.
        mend: What to do about it; printed after the message.
        exit_code: The process's exit status.
    """

    exit_code = EXIT_WRONG

    def __init__(self, message: str, mend: str = "", exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend
        if exit_code is not None:
            self.exit_code = exit_code

    def __str__(self) -> str:
        """Return the one line that a user sees."""
        line = " ".join(self.message.split())
        mend = " ".join(self.mend.split())
        return f"{line}; {mend}" if mend else line


class MeasurementError(EdgejouleError):
    """The measurement or the data is wrong or incomplete (exit 1)."""


class UsageError(EdgejouleError):
    """A wrong argument or configuration (exit 2)."""

    exit_code = EXIT_USAGE


class TokenError(EdgejouleError):
    """The server refused the token (exit 3)."""

    exit_code = EXIT_TOKEN


class ServerError(EdgejouleError):
    """The server could not be reached (exit 4)."""

    exit_code = EXIT_SERVER


class Interrupted(EdgejouleError):  # noqa: N818 (it is no error, it is a wish)
    """Ctrl-C or SIGTERM (exit 130)."""

    exit_code = EXIT_INTERRUPTED


def run_command(command: Callable[[], int | None], *, debug: bool = False) -> int:
    """Run `command`, turn a project error into one line on stderr, and return the exit code.

    With `debug` the traceback is shown as well. Ctrl-C outside a measurement is exit 130.
    """
    forgive_encoding()
    try:
        return command() or EXIT_DONE
    except EdgejouleError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if debug:
            raise
        print("error: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not an error of ours.
        sys.stderr.close()
        return EXIT_DONE


def forgive_encoding() -> None:
    r"""Let standard output take any text: `\xb1` where the encoding has no plus-minus sign.

    Names of models and runs are in any script, and figures have signs that ASCII lacks; a result
    that was found must not end in a traceback because of where it is printed to.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        with contextlib.suppress(OSError, ValueError):  # it is closed
            sys.stdout.reconfigure(errors="backslashreplace")
