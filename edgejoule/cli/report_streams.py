"""Output that no encoding can stop: what a locale has no sign for is written as an escape."""

from __future__ import annotations

import contextlib
import io
import sys


def forgive() -> None:
    r"""Let standard output take any text: `\xb1` where the encoding has no plus-minus sign.

    Names of models and runs are in any script, and figures have signs that ASCII lacks; a result
    that was found must not end in a traceback because of where it is printed to.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        with contextlib.suppress(OSError, ValueError):  # it is closed
            sys.stdout.reconfigure(errors="backslashreplace")
