"""A program in a pseudo-terminal, and a small terminal that shows what a person would see."""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_TOKEN = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|(.)", re.DOTALL)


class Screen:
    """Knows what rich and our panel use: lines, cursor up, erase; and wraps like a terminal."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.history: list[str] = []
        self.hidden = 0
        self._grid = [[" "] * columns for _ in range(rows)]
        self._x = self._y = 0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def feed(self, data: bytes) -> None:
        for match in _TOKEN.finditer(self._decode(data)):
            argument, kind, char = match.groups()
            if char is not None:
                self._put(char)
            elif kind == "A":
                self._y = max(0, self._y - int(argument or 1))
            elif kind in "KJ":
                self._erase(kind, argument)
            elif argument == "?25":
                self.hidden += {"l": 1, "h": -1}[kind]
            else:
                assert kind == "m", (argument, kind)

    def text(self) -> str:
        return "\n".join("".join(row).rstrip() for row in self._grid).rstrip()

    def all(self) -> str:
        """Return what was scrolled away and what is there."""
        return "\n".join([*self.history, self.text()])

    def widen(self, columns: int) -> None:
        """Make it wider; what was wrapped stays so."""
        for row in self._grid:
            row.extend([" "] * (columns - self.columns))
        self.columns = columns

    def _put(self, char: str) -> None:
        if char == "\r":
            self._x = 0
        elif char == "\n":
            self._down()
        elif char >= " ":
            if self._x >= self.columns:
                self._x = 0
                self._down()
            self._grid[self._y][self._x] = char
            self._x += 1

    def _down(self) -> None:
        self._y += 1
        if self._y == self.rows:
            self._y -= 1
            self.history.append("".join(self._grid.pop(0)).rstrip())
            self._grid.append([" "] * self.columns)

    def _erase(self, kind: str, argument: str) -> None:
        start = 0 if argument == "2" else self._x
        self._grid[self._y][start:] = [" "] * (self.columns - start)
        if kind == "J":
            for row in range(self._y + 1, self.rows):
                self._grid[row] = [" "] * self.columns


@dataclass
class Session:
    """A program that runs in a pseudo-terminal, and what it wrote so far."""

    process: subprocess.Popen[bytes]
    terminal: int
    screen: Screen
    data: bytes = b""
    frames: list[str] = field(default_factory=list)

    def type(self, text: bytes) -> None:
        os.write(self.terminal, text)

    def resize(self, columns: int, rows: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, size)
        self.screen.widen(columns)

    def saw(self, text: str) -> bool:
        return any(text in frame for frame in self.frames)


def in_terminal(
    command: Sequence[str],
    columns: int,
    rows: int,
    environment: dict[str, str],
    on_frame: Callable[[Session], None],
    timeout_s: float = 240.0,
) -> Session:
    """Run a command in a terminal of its own to its end; `on_frame` after each thing it writes."""
    terminal, inner = os.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        list(command), stdin=inner, stdout=inner, stderr=inner, env=environment,
        preexec_fn=own_terminal,  # noqa: PLW1509 (tests have no thread)
    )  # fmt: skip
    os.close(inner)
    session = Session(process, terminal, Screen(columns, rows))
    deadline = time.monotonic() + timeout_s
    try:
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(terminal, 65536)
            except OSError:  # its other end is closed
                break
            session.data += data
            session.screen.feed(data)
            session.frames.append(session.screen.text())
            on_frame(session)
        process.wait(30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(terminal)
    return session
