"""A few lines that stay at the bottom of a terminal and are drawn over: no thread, one write each.

The cursor is never hidden and the lines never wrap, so that a program that is killed leaves a
usable terminal. Where the terminal has become narrower its lines have been wrapped by it: then the
panel takes the rows that they take now. A terminal that takes no more (Ctrl-S, a full pipe) costs
pictures while it is drawn on, and lines wait; who takes the panel away waits for the terminal. One
that is gone costs nothing.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from rich.cells import cell_len

if TYPE_CHECKING:
    from edgejoule.report.experiment_view import Line

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_ATTRIBUTES = {"bold": "1", "dim": "2", "reverse": "7"}
_ERASE_LINE, _ERASE_BELOW = "\x1b[K", "\x1b[J"
_SIZE = (80, 24)


def is_terminal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether lines can be drawn over: a terminal that knows escape sequences."""
    try:
        return stream.isatty() and environment.get("TERM", "") not in {"dumb", "unknown"}
    except ValueError:  # it is closed
        return False


def is_ascii_only(stream: TextIO) -> bool:
    """Whether a stream takes ASCII alone, as far as bars and signs are concerned."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    return not encoding.lower().replace("-", "").replace("_", "").startswith("utf")


def styled(line: Line, *, colour: bool) -> str:
    """Return a line with its styles as escape sequences.

    Args:
        line: Pieces of text, each with words of style: `bold`, `dim`, `reverse`, a colour.
        colour: Whether colours are wanted (NO_COLOR says they are not).
    """
    text = ""
    for piece, style in line:
        known = _ATTRIBUTES | (_COLOURS if colour else {})
        codes = [known[word] for word in style.split() if word in known]
        text += f"\x1b[{';'.join(codes)}m{piece}\x1b[0m" if codes else piece
    return text


class Panel:
    """Lines at the bottom of a terminal.

    Args:
        stream: The terminal.
        colour: Whether colours are wanted.
    """

    def __init__(self, stream: TextIO, *, colour: bool = True) -> None:
        self._stream = stream
        self._colour = colour
        self._drawn: list[Line] = []
        self._waiting: list[str] = []
        self._gone = False

    def size(self) -> tuple[int, int]:
        """Return how many columns and rows the terminal has now."""
        try:
            columns, rows = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return _SIZE
        return columns or _SIZE[0], rows or _SIZE[1]

    def draw(self, lines: Sequence[Line]) -> None:
        """Draw lines in place of those that are there; more than fit are left out."""
        if self._takes_no_more():
            return
        shown = list(lines)[: max(1, self.size()[1] - 1)]
        self._write(self._start() + self._those_waiting() + self._frame(shown))
        self._drawn = shown

    def line(self, text: str) -> None:
        """Write a line that stays, above the panel; it waits while the terminal is stopped."""
        self._waiting.append(text)
        if not self._takes_no_more():
            self._write(self._start() + self._those_waiting() + self._frame(self._drawn))

    def clear(self) -> None:
        """Take the panel away, and write the lines that waited."""
        if self._drawn or self._waiting:
            self._write(self._start() + self._those_waiting())
            self._drawn = []

    def _those_waiting(self) -> str:
        text = "".join(f"{line}\n" for line in self._waiting)
        self._waiting = []
        return text

    def _start(self) -> str:
        """Return what goes to the panel's first column and erases it."""
        if not self._drawn:
            return ""
        columns, screen = self.size()
        widths = [sum(cell_len(text) for text, _ in line) for line in self._drawn]
        rows = sum(max(1, -(-width // columns)) for width in widths)
        return f"\r\x1b[{min(rows, screen - 1)}A{_ERASE_BELOW}"

    def _frame(self, lines: Sequence[Line]) -> str:
        return "".join(f"{styled(line, colour=self._colour)}{_ERASE_LINE}\n" for line in lines)

    def _takes_no_more(self) -> bool:
        if self._gone:
            return True
        if sys.platform == "win32":
            return False
        try:
            return not select.select([], [self._stream], [], 0)[1]
        except (OSError, ValueError, TypeError):
            return False

    def _write(self, text: str) -> None:
        if self._gone:
            return
        try:
            encoding = self._stream.encoding or "utf-8"
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):
            self._gone = True
