"""Progress on a pseudo-terminal and without one; time is a number that the test turns."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest

from edgejoule.report import progress
from edgejoule.report.progress import Progress, describe, duration


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


@contextmanager
def terminal() -> Iterator[tuple[TextIO, int]]:
    pty = pytest.importorskip("pty")
    reading, writing = pty.openpty()
    os.set_blocking(reading, False)
    with os.fdopen(writing, "w") as stream:
        yield stream, reading
    os.close(reading)


def drain(fd: int) -> str:
    data = b""
    while True:
        try:
            data += os.read(fd, 65536)
        except BlockingIOError:
            return data.decode()


def test_one_line_a_minute(clock: Clock) -> None:
    out = io.StringIO()
    with Progress(stream=out) as shown:
        shown.update("warmup", 3, None, 10.0)
        assert out.getvalue() == "warmup: 3, 10/s\n"  # the first one at once
        for _ in range(118):
            clock.now += 0.5
            shown.update("clean", 5, 100, 12.345, 4000.0, "x")
        assert out.getvalue().count("\n") == 1
        clock.now += 1.5
        shown.update("clean", 5, 100, 12.345, 4000.0, "x")
        shown.update("profiled", 6, 100)
    assert out.getvalue().splitlines()[1:] == ["clean: 5 of 100, 12.3/s, 67 min left, x"]


def test_lines_are_written_and_quiet_is_quiet(clock: Clock) -> None:
    out = io.StringIO()
    with Progress(stream=out) as shown:
        shown.line("hello")
    with Progress(quiet=True, stream=out) as shown:
        shown.update("clean", 1, 2)
        shown.line("no")
    assert out.getvalue() == "hello\n"


def test_default_stream_is_stderr(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as shown:
        shown.update("setup")
    assert capsys.readouterr() == ("", "setup\n")


def test_bar_is_drawn_by_calls_only(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with terminal() as (stream, fd):
        threads = threading.active_count()
        with Progress(stream=stream) as shown:
            assert threading.active_count() == threads
            drain(fd)
            shown.update("clean", 40, 100, 20.0, 3.0, "[bold]")
            drawn = drain(fd)
            assert "clean" in drawn
            assert "40 of 100, 20/s, 3 s left, [bold]" in drawn
            shown.update("clean", 41, 100, 20.0, 3.0)
            assert drain(fd) == ""  # at most four times a second
            shown.update("profiled", 1, 100)
            assert "profiled" in drain(fd)  # a new phase is drawn at once
            clock.now += 0.3
            shown.update("profiled", 2, 100)
            assert "2 of 100" in drain(fd)
            shown.line("a line [red]")
            assert "a line [red]" in drain(fd)
        assert threading.active_count() == threads


def test_error_inside_leaves_the_terminal_usable(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with terminal() as (stream, fd):
        with contextlib.suppress(ValueError), Progress(stream=stream) as shown:
            shown.update("clean", 1, 2)
            raise ValueError("x")
        assert "\x1b[?25h" in drain(fd)  # the cursor is back


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.4, "0 s"), (99.4, "99 s"), (99.6, "2 min"), (3600, "60 min"),
     (5990, "1 h 40 min"), (7500, "2 h 05 min")],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_describe_leaves_out_what_is_not_known() -> None:
    assert describe("load", 0, 0, None, None) == "load"
    assert describe("load", 0, None, None, None, "reading") == "load: reading"
    assert describe("load", 0, 10, None, 0.0) == "load: 0 of 10, 0 s left"
