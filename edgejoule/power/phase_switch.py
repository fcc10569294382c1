"""What the sampler does by the run's phase: the attribution rate on and off, and a rest.

Standard library only.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgejoule.phases import PageReader

if TYPE_CHECKING:
    from edgejoule.power.rhythm import Rhythm
    from edgejoule.processes import Parent

_LOOK_S = 0.05  # how often a resting sampler looks at the phase


class PhaseLook:
    """The run's phase, from its shared page, which may come after the sampler.

    Args:
        page: `page.bin`, None: there is none.
    """

    def __init__(self, page: str | None) -> None:
        self._path = page
        self._page: PageReader | None = None

    def phase(self) -> str | None:
        """Return the phase, None while it is not known."""
        if self._page is None and self._path is not None:
            with contextlib.suppress(OSError, ValueError):  # not there, or not yet of its size
                self._page = PageReader(Path(self._path))
        state = None if self._page is None else self._page.read()
        return None if state is None else state.phase

    def close(self) -> None:
        """Close the page."""
        if self._page is not None:
            self._page.close()


class Switch:
    """Turns the attribution rate on and off with the run's phases.

    Args:
        rhythm: The attribution rhythm.
        phases: The phases in which it is on, None for always.
        page: `page.bin`, where the phase is looked up; it may come after the sampler.
    """

    def __init__(self, rhythm: Rhythm, phases: list[str] | None, page: str | None) -> None:
        self.rhythm = rhythm
        self.on_ns = 0
        self._phases = None if phases is None else frozenset(phases)
        self._look = PhaseLook(page)
        self._since_ns: int | None = None

    @property
    def on(self) -> bool:
        """Whether it is on."""
        return self._since_ns is not None

    def look(self, now_ns: int) -> None:
        """Look at the phase and turn the rhythm on or off."""
        wanted = self._phases is None or self._look.phase() in self._phases
        if wanted and self._since_ns is None:
            self._since_ns = now_ns
            self.rhythm.start(now_ns)
        elif not wanted:
            self.end(now_ns)

    def end(self, now_ns: int) -> None:
        """Turn it off; the time that it was on adds up."""
        if self._since_ns is not None:
            self.on_ns += now_ns - self._since_ns
            self._since_ns = None

    def close(self) -> None:
        """Close the page."""
        self._look.close()


class Pause:
    """Lets the sampler rest in some phases, so that what sampling itself costs can be measured.

    Args:
        phases: The phases in which nothing is read.
        page: `page.bin`, where the phase is looked up.
    """

    def __init__(self, phases: list[str], page: str | None) -> None:
        self.pauses = 0
        self.paused_ns = 0
        self._phases = frozenset(phases)
        self._look = PhaseLook(page)

    def due(self) -> bool:
        """Whether the phase is one of these."""
        return self._look.phase() in self._phases

    def wait(self, parent: Parent) -> None:
        """Rest while the phase is one of these.

        A command from the parent ends it too: what a stop wants to see first has to be read.
        """
        start_ns, commands = time.monotonic_ns(), len(parent.commands)
        while not parent.poll(_LOOK_S) and len(parent.commands) == commands and self.due():
            pass
        self.pauses += 1
        self.paused_ns += time.monotonic_ns() - start_ns

    def close(self) -> None:
        """Close the page."""
        self._look.close()
