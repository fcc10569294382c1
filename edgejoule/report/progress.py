"""How far a measurement is: a panel or a bar on a terminal, a plain line a minute elsewhere.

Nothing runs beside the measurement: no thread refreshes anything, it is redrawn by calls, at most
four times a second. Everything goes to stderr; what is printed to stdout goes there and nowhere
else.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from edgejoule.report.experiment_view import RunView
    from edgejoule.report.panel import Panel

REDRAW_S = 0.25
PANEL_S = 0.5
LINE_S = 60.0


def duration(seconds: float) -> str:
    """Return a length of time for people: `48 s`, `12 min`, `3 h 05 min`."""
    seconds = max(0.0, seconds)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def per_second(rate_hz: float) -> str:
    """Return a rate for people: `0.25/s`, `12.3/s`, `2350/s`."""
    return f"{rate_hz:.0f}/s" if rate_hz >= 1000 else f"{rate_hz:.3g}/s"


def describe(
    phase: str,
    done: int,
    total: int | None,
    rate_hz: float | None,
    remaining_s: float | None,
    note: str = "",
) -> str:
    """Return one state of progress as one plain line."""
    state = _state(done, total, rate_hz, remaining_s, note)
    return f"{phase}: {state}" if state else phase


def _state(
    done: int, total: int | None, rate_hz: float | None, remaining_s: float | None, note: str
) -> str:
    parts = []
    if total:
        parts.append(f"{done} of {total}")
    elif done:
        parts.append(str(done))
    if rate_hz is not None:
        parts.append(per_second(rate_hz))
    if remaining_s is not None:
        parts.append(f"{duration(remaining_s)} left")
    if note:
        parts.append(note)
    return ", ".join(parts)


class Progress:
    """Show phase, rate and time left; use it as a context manager.

    On a terminal a bar (`update`) or a panel (`show`), refreshed by calls only. Without one, or on
    one that cannot draw, a plain line a minute, the first at the first call. With `quiet` nothing.

    Args:
        quiet: Show nothing at all.
        stream: Where to write; None is stderr.
    """

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        self._terminal = False
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._panel: Panel | None = None
        self._last_s = float("-inf")
        self._phase: str | None = None

    def __enter__(self) -> Progress:
        """Begin; draws nothing yet."""
        if not self._quiet:
            from edgejoule.report.panel import is_terminal

            self._terminal = is_terminal(self._stream, os.environ)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take away whatever is drawn."""
        self.clear()
        self._terminal = False

    @property
    def look_s(self) -> float | None:
        """How often what is shown by `show` is worth looking at; None: nothing is shown."""
        if self._quiet:
            return None
        return 2 * PANEL_S if self._terminal else LINE_S / 6

    def clear(self) -> None:
        """Take bar and panel away, so that others can write; the next call draws anew."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._panel is not None:
            self._panel.clear()
            self._panel = None

    def show(self, phase: str, make: Callable[[], RunView]) -> None:
        """Show the state of a run; cheap, and safe to call as often as one likes.

        Args:
            phase: What runs now; a new one is drawn sooner.
            make: Gives the state; called only where it is shown.
        """
        if self._quiet:
            return
        since_s = time.monotonic() - self._last_s
        if not self._terminal:
            if since_s >= LINE_S:
                from edgejoule.report.experiment_view import plain_line

                self._last_s = time.monotonic()
                self._write(plain_line(make()))
            return
        if since_s < (REDRAW_S if phase != self._phase else PANEL_S):
            return
        from edgejoule.report.experiment_view import view_lines
        from edgejoule.report.panel import Panel, is_ascii_only

        if self._panel is None:
            self.clear()
            self._panel = Panel(self._stream, colour=not os.environ.get("NO_COLOR"))
        self._last_s, self._phase = time.monotonic(), phase
        # A line that fills the last column leaves some terminals in doubt where they are.
        width = max(1, self._panel.size()[0] - 1)
        lines = view_lines(make(), width, ascii_only=is_ascii_only(self._stream))
        self._panel.draw(lines)

    def update(
        self,
        phase: str,
        done: int = 0,
        total: int | None = None,
        rate_hz: float | None = None,
        remaining_s: float | None = None,
        note: str = "",
    ) -> None:
        """Say how far it is; cheap, and safe to call as often as one likes.

        Args:
            phase: What runs now.
            done: Inferences (or seconds) done in this phase.
            total: Out of how many; None or 0 is not known.
            rate_hz: Inferences per second.
            remaining_s: Time left of the whole run.
            note: Anything else, short.
        """
        if self._quiet:
            return
        now_s = time.monotonic()
        if not self._terminal:
            if now_s - self._last_s >= LINE_S:
                self._last_s = now_s
                self._write(describe(phase, done, total, rate_hz, remaining_s, note))
            return
        # A new phase is drawn at once, so that a short one is seen too.
        if now_s - self._last_s < REDRAW_S and phase == self._phase:
            return
        self._last_s, self._phase = now_s, phase
        state = _state(done, total, rate_hz, remaining_s, note)
        drawn = self._bar or self._start_bar()
        assert self._task is not None  # noqa: S101 (made together with the bar)
        drawn.update(
            self._task, phase=phase, state=state, completed=done, total=total or None, visible=True
        )
        drawn.refresh()

    def line(self, text: str) -> None:
        """Write one line of text, above whatever is drawn."""
        if self._quiet:
            return
        if self._panel is not None:
            self._panel.line(text)
        elif self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._write(text)

    def _start_bar(self) -> RichProgress:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.clear()
        columns = (
            TextColumn("{task.fields[phase]:<20}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}", markup=False),
        )
        console = Console(file=self._stream, highlight=False)
        # What is printed meanwhile goes above the bar, unless it goes into a file.
        self._bar = Bar(
            *columns,
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=None, phase="", state="", visible=False)
        return self._bar

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except OSError:  # nobody reads it any more: no reason to end what is measured
            self._quiet = True
