"""The live view of a run as text: widths, ASCII, foreign names, and the panel that draws it."""

from __future__ import annotations

import io
import os
import re
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from edgejoule.report import progress as progress_module
from edgejoule.report.experiment_view import RunView, plain_line, run_view, view_lines
from edgejoule.report.live import RailView
from edgejoule.report.panel import Panel, is_ascii_only, is_terminal, styled
from edgejoule.report.progress import Progress

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\nerror: net\u202e\u200b\x9b31m \u753b\u50cf"
RAILS = (
    RailView("VDD_IN", 5312.0, 5200.0, max_mw=8000.0),
    RailView("VDD_CPU_GPU_CV", 1300.0, 1250.0, max_mw=3000.0),
    RailView("VDD_SOC", 1100.0, None, max_mw=1500.0),
)
FULL = RunView(
    model="resnet18",
    marks=("SIMULATED power", "random weights"),
    network=(2, 20),
    run=(1, 3),
    phase="clean pass",
    phase_number=(6, 13),
    spent_s=20.0,
    done=350,
    total=1000,
    rate_hz=45.23,
    phase_left_s=14.4,
    latency_ms=12.34,
    latencies_ms=(None,) * 50 + (12.0, 14.2) * 5,
    has_power=True,
    rails=RAILS,
    total_power=replace(RAILS[0], name="VDD_IN (total)"),
    temperatures_c=(("cpu-thermal", 45.21), ("gpu-thermal", 44.0)),
    throttled=(),
    memory_mib=412.0,
    available_mib=3200.0,
    network_left_s=240.0,
    whole_left_s=4320.0,
)
BUILDING = RunView(model="resnet18", phase="set-up", phase_number=(1, 13), spent_s=130.0)


def text_of(state: RunView, width: int, *, ascii_only: bool = False) -> str:
    lines = view_lines(state, width, ascii_only=ascii_only)
    return "\n".join("".join(piece for piece, _ in line) for line in lines)


def test_everything_is_there_at_100_columns() -> None:
    text = text_of(FULL, 100)
    for part in (
        "resnet18", "SIMULATED power", "random weights", "network 2 of 20", "run 1 of 3",
        "6/13 clean pass", "350 of 1000, 45.2/s, 14 s left", "latency 12.3", "up to 14.2 ms",
        "VDD_IN (total)", "5.31 W", "mean   5.20 W", "VDD_SOC", "45.2 \u00b0C (cpu-thermal)",
        "not throttled", "memory 412 MiB", "3.1 GiB free",
        "about 4 min for this network, about 72 min for all 20 networks",
    ):  # fmt: skip
        assert part in text, part
    assert len(text.splitlines()) == 8
    assert text.count("VDD_IN") == 1  # a rail that is the total stands there once


def test_simulated_power_is_reversed() -> None:
    styles = {piece.strip(): style for line in view_lines(FULL, 100) for piece, style in line}
    assert "reverse" in styles["SIMULATED power"]
    assert "\x1b[1;7;33m" in styled(view_lines(FULL, 100)[0], colour=True)
    assert "\x1b[1;7m" in styled(view_lines(FULL, 100)[0], colour=False)


@pytest.mark.parametrize("width", [40, 50, 59, 60, 80, 200])
def test_what_matters_is_there_at_every_width(width: int) -> None:
    text = text_of(FULL, width)
    for part in (
        "resnet18", "SIMULATED power", "network 2 of 20", "6/13 clean pass", "350 of 1000",
        "latency 12.34 ms", "5.31 W", "45.2", "left: about 4 min", "about 72 min",
    ):  # fmt: skip
        assert part in text, part
    assert len(text.splitlines()) <= 9


@given(
    width=st.integers(1, 220),
    ascii_only=st.booleans(),
    name=st.text(max_size=60),
    rails=st.lists(st.tuples(st.text(max_size=30), st.none() | st.floats(-1e7, 1e7)), max_size=12),
    done=st.integers(0, 10**9),
    total=st.none() | st.integers(0, 10**9),
    seconds=st.none() | st.floats(0, 1e7),
    count=st.integers(1, 10**6),
)
@settings(max_examples=150, deadline=None)
def test_no_line_is_wider_than_the_width(
    width, ascii_only, name, rails, done, total, seconds, count
) -> None:
    state = replace(
        FULL, model=name, marks=(name, "SIMULATED power"), network=(1, count), done=done,
        total=total, phase_left_s=seconds, took_s=seconds, network_left_s=seconds,
        rails=tuple(RailView(rail, now, now, max_mw=now) for rail, now in rails),
        total_power=None, throttled=(name,), temperatures_c=((name, 45.0),),
    )  # fmt: skip
    lines = view_lines(state, width, ascii_only=ascii_only)
    assert 0 < len(lines) <= 9
    for line in lines:
        text = "".join(piece for piece, _ in line)
        assert cell_len(text) <= width
        assert text.isprintable()
        assert not ascii_only or text.isascii()
    assert plain_line(state).isprintable()


def test_hostile_names_send_nothing_to_the_terminal() -> None:
    rails = (RailView(HOSTILE, 1.0, 1.0, max_mw=1.0),)
    state = replace(
        FULL, model=HOSTILE, rails=rails, throttled=(HOSTILE,), temperatures_c=((HOSTILE, 1.0),),
        marks=(HOSTILE,), total_power=None,
    )  # fmt: skip
    for width in (40, 100):
        for line in view_lines(state, width):
            drawn = styled(line, colour=True)
            assert re.sub(r"\x1b\[[0-9;]*m", "", drawn).isprintable()
    assert "\x1b" not in plain_line(state)
    assert "net" in plain_line(state)  # shown, as far as it can be


def test_more_rails_than_fit_are_counted() -> None:
    rails = tuple(RailView(f"RAIL_{n}", 100.0 * n, None, max_mw=900.0) for n in range(9))
    text = text_of(replace(FULL, rails=rails, total_power=RailView("total", 4500.0)), 60)
    assert "and 8 more rails" in text
    wide = text_of(replace(FULL, rails=rails, total_power=RailView("total", 4500.0)), 130)
    assert "and 2 more rails" in wide


def test_what_is_not_known_is_not_made_up() -> None:
    assert text_of(BUILDING, 80) == "resnet18\n1/13 set-up  for 2 min\nleft: not known yet"
    assert "nan" not in text_of(replace(FULL, rails=(RailView("x"),), total_power=None), 80)
    waiting = text_of(replace(BUILDING, has_power=True), 80)
    assert "power: waiting for readings" in waiting
    unknown = replace(FULL, throttled=None, memory_mib=None, available_mib=None)
    assert "throttled" not in text_of(unknown, 100)
    alone = replace(FULL, network=None, whole_left_s=None)
    assert text_of(alone, 100).endswith("left: about 4 min")


def test_a_set_up_is_compared_with_the_one_before() -> None:
    text = text_of(replace(BUILDING, took_s=520.0), 80)
    assert "for 2 min, took about 9 min before" in text
    assert "\u2588" in text
    assert "0 s left" not in text_of(replace(BUILDING, phase_left_s=0.0), 80)  # overdue: since when


def test_throttling_stands_out() -> None:
    lines = view_lines(replace(FULL, throttled=("gpu-throttle-alert",)), 100)
    found = [style for line in lines for piece, style in line if "THROTTLED: gpu" in piece]
    assert found == ["bold red"]


def test_plain_line() -> None:
    assert plain_line(FULL) == (
        "resnet18: clean pass (6 of 13), network 2 of 20, run 1 of 3, 350 of 1000, 45.2/s, "
        "14 s left, latency 12.34 ms, VDD_IN (total) 5.31 W, cpu-thermal 45 C, about 4 min for "
        "this network, about 72 min for all, SIMULATED power, random weights"
    )


def test_run_view_is_what_rich_draws() -> None:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=60, force_terminal=False).print(run_view(FULL, 60))
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        line.rstrip() for line in text_of(FULL, 60).splitlines()
    ]


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """Says that it is a terminal of UTF-8."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def take(self) -> str:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress_module, "time", found)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return found


def test_never_drawn_more_than_four_times_a_second(clock: Clock) -> None:
    out, drawn = Terminal(), []
    with Progress(stream=out) as shown:
        for step in range(1000):
            clock.now += 0.01
            # A phase that changes with every call is drawn sooner, and still not more often.
            shown.show(str(step % 2), lambda: drawn.append(clock.now) or FULL)
            assert (out.take() != "") == (drawn[-1] == clock.now)
        fast = len(drawn)
        for _ in range(1000):
            clock.now += 0.01
            shown.show("same", lambda: drawn.append(clock.now) or FULL)
    assert 35 < fast <= 40
    assert 18 <= len(drawn) - fast <= 21
    assert min(b - a for a, b in pairwise(drawn)) >= 0.25 - 1e-9


def test_lines_stand_above_the_panel_and_nothing_stays(clock: Clock) -> None:
    out = Terminal()
    with Progress(stream=out) as shown:
        shown.show("clean", lambda: FULL)
        first = out.take()
        height = len(view_lines(FULL, 79))
        assert first.count("\n") == height
        shown.line("a note")
        again = out.take()
        assert again.startswith(f"\r\x1b[{height}A\x1b[Ja note\n")
        assert again.endswith(first)  # the panel is drawn again below it
    assert out.take() == f"\r\x1b[{height}A\x1b[J"
    assert "\x1b[?25l" not in first + again  # the cursor is never hidden: nothing to give back


def test_others_can_write_after_clear(clock: Clock) -> None:
    out = Terminal()
    with Progress(stream=out) as shown:
        shown.show("clean", lambda: FULL)
        shown.clear()
        out.take()
        shown.line("alone")
        assert out.take() == "alone\n"
        clock.now += 1
        shown.show("clean", lambda: FULL)
        assert not out.take().startswith("\r")  # a new panel goes up over nobody's lines
    with Progress(quiet=True, stream=out) as shown:
        out.take()
        shown.show("clean", lambda: FULL)
        assert shown.look_s is None
        assert out.take() == ""


def test_bar_and_panel_take_turns(clock: Clock) -> None:
    out = Terminal()
    with Progress(stream=out) as shown:
        shown.update("waiting for an idle GPU")
        assert "waiting" in out.take()
        clock.now += 1
        shown.show("setup", lambda: BUILDING)
        text = out.take()
        assert "\x1b[?25h" in text.partition("resnet18")[0]  # the bar gave the cursor back
        clock.now += 1
        shown.update("waiting again")
        assert out.take().startswith("\r\x1b[3A\x1b[J")


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_draw_gets_plain_lines(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    monkeypatch.setenv("TERM", term)
    out = Terminal()
    with Progress(stream=out) as shown:
        for _ in range(130):
            clock.now += 1
            shown.show("clean", lambda: FULL)
            shown.update("other")
    assert out.getvalue() == (plain_line(FULL) + "\n") * 3
    assert not is_terminal(io.StringIO(), {})


def test_no_colour_where_none_is_wanted(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    with Progress(stream=out) as shown:
        shown.show("clean", lambda: FULL)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", out.getvalue())
    assert "\x1b[1;7m SIMULATED power " in out.getvalue()


def test_other_encodings_get_ascii(clock: Clock) -> None:
    class Latin(Terminal):
        encoding = "iso-8859-1"

    out = Latin()
    with Progress(stream=out) as shown:
        shown.show("clean", lambda: replace(FULL, model="net \u753b"))
    assert out.getvalue().isascii()
    assert "net \\u753b" in out.getvalue()
    assert is_ascii_only(out)
    assert not is_ascii_only(Terminal())


def test_a_terminal_that_is_gone_costs_nothing(clock: Clock) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    with Progress(stream=Gone()) as shown:
        shown.show("clean", lambda: FULL)
        shown.line("nobody reads it")
    with Progress(stream=type("Pipe", (Gone,), {"isatty": lambda self: False})()) as shown:
        shown.show("clean", lambda: FULL)
        shown.line("nobody reads it")


class Sized(Panel):
    columns, rows = 80, 24

    def size(self) -> tuple[int, int]:
        return self.columns, self.rows


def test_a_narrower_terminal_has_wrapped_the_lines() -> None:
    out = Terminal()
    panel = Sized(out)
    panel.draw([(("x" * 79, ""),), (("short", ""),)])
    out.take()
    panel.columns = 30
    panel.draw([(("y", ""),)])
    assert out.take().startswith("\r\x1b[4A\x1b[J")  # 3 rows and 1


def test_a_low_terminal_shows_the_first_lines() -> None:
    out = Terminal()
    panel = Sized(out)
    panel.rows = 4
    panel.draw(view_lines(FULL, 79))
    assert out.take().count("\n") == 3
    panel.rows = 2
    panel.clear()
    assert out.take() == "\r\x1b[1A\x1b[J"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_stopped_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import pty
    import termios

    reading, writing = pty.openpty()
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        panel = Panel(stream)
        panel.draw([(("one", ""),)])
        assert b"one" in os.read(reading, 999)
        termios.tcflow(writing, termios.TCOOFF)  # Ctrl-S
        for _ in range(5000):  # more than any buffer holds
            panel.draw([(("two", ""),)])
        for number in range(9):
            panel.line(f"line {number} waits")
        termios.tcflow(writing, termios.TCOON)
        panel.draw([(("three", ""),)])
        seen = os.read(reading, 99999)
        assert seen.index(b"line 8 waits") < seen.index(b"three")
        assert seen.count(b" waits") == 9
    os.close(reading)


def test_json_on_stdout_goes_there_while_a_bar_is_drawn(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """It once went to the terminal, and the file stayed empty."""
    out = Terminal()
    with Progress(stream=out) as shown:
        shown.update("reading", 1, 2)
        print("the result")
    assert capsys.readouterr().out == "the result\n"
    assert "the result" not in out.getvalue()
