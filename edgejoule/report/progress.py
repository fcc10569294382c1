"""How far a measurement is: a bar on a terminal, a plain line a minute elsewhere.

Nothing runs beside the measurement: no thread refreshes the bar, it is redrawn by `update` at most
four times a second. Everything goes to stderr.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

REDRAW_S = 0.25
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
        parts.append(f"{rate_hz:.3g}/s")
    if remaining_s is not None:
        parts.append(f"{duration(remaining_s)} left")
    if note:
        parts.append(note)
    return ", ".join(parts)


class Progress:
    """Show phase, rate and time left; use it as a context manager.

    On a terminal a bar, refreshed by calls only. Without one a plain line a minute, the first at
    the first `update`. With `quiet` nothing.

    Args:
        quiet: Show nothing at all.
        stream: Where to write; None is stderr.
    """

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._last_s = float("-inf")
        self._phase: str | None = None

    def __enter__(self) -> Progress:
        """Begin; draws nothing yet."""
        if not self._quiet and self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.fields[phase]:<20}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[state]}", markup=False),
            )
            console = Console(file=self._stream, highlight=False)
            self._bar = Bar(*columns, console=console, auto_refresh=False, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=None, phase="", state="", visible=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

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
        if self._bar is None:
            if now_s - self._last_s >= LINE_S:
                self._last_s = now_s
                self._write(describe(phase, done, total, rate_hz, remaining_s, note))
            return
        # A new phase is drawn at once, so that a short one is seen too.
        if now_s - self._last_s < REDRAW_S and phase == self._phase:
            return
        self._last_s, self._phase = now_s, phase
        state = _state(done, total, rate_hz, remaining_s, note)
        assert self._task is not None  # noqa: S101 (made together with the bar)
        self._bar.update(
            self._task, phase=phase, state=state, completed=done, total=total or None, visible=True
        )
        self._bar.refresh()

    def line(self, text: str) -> None:
        """Write one line of text, above the bar if there is one."""
        if self._quiet:
            return
        if self._bar is None:
            self._write(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _write(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()
