"""When the sampler reads what: the rule of `edgejoule.power.rhythm` on a clock of our own.

One process, several rhythms: one sweep of all its files per refresh for each chip, and between them
the irregular polls of the attributed channels, which a sweep delays. `Rhythm` looks at the real
clock, so the rule is written anew here; a test drives both with the same numbers and compares.
"""

from __future__ import annotations

import random as standard_random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

SHORTEST_SHARE, LONGEST_SHARE = 0.12, 0.25  # of the refresh, between two attribution polls
SHORTEST_PERIOD_NS = 500_000
_WAKE_NS = 20_000


@dataclass
class Beat:
    """Something that is swept again and again.

    Attributes:
        channels: What it reads, in order.
        period_ns: Between two deadlines; of an irregular one the longest.
        jitter: Draws an irregular one's next period; None: regular.
        deadline_ns: When it is due.
        on_ns: From when on it is wanted; None: always. Looked at after a regular sweep, as the
            sampler looks at the phase.
        off_ns: Until when.
    """

    channels: Sequence[int]
    period_ns: int
    jitter: standard_random.Random | None = None
    deadline_ns: int = 0
    on_ns: int | None = None
    off_ns: int = 0

    def wanted(self, now_ns: int) -> bool:
        """Whether it is on."""
        return self.on_ns is None or self.on_ns <= now_ns < self.off_ns

    def next_deadline(self, now_ns: int) -> None:
        """Set the next deadline, the sweep having ended now."""
        if self.jitter is None:
            self.deadline_ns += max(1, -(-(now_ns - self.deadline_ns) // self.period_ns)) * (
                self.period_ns
            )
        else:
            share = self.jitter.uniform(SHORTEST_SHARE / LONGEST_SHARE, 1.0)
            self.deadline_ns = max(now_ns, self.deadline_ns + int(share * self.period_ns))


@dataclass(frozen=True)
class Polls:
    """Every read in order: begin, end (ns from the pass's origin), channel, rhythm.

    Attributes:
        t0: int64 (m,).
        t1: int64 (m,).
        channel: int64 (m,).
        attribution: bool (m,): whether it was an attribution poll.
    """

    t0: npt.NDArray[np.int64]
    t1: npt.NDArray[np.int64]
    channel: npt.NDArray[np.int64]
    attribution: npt.NDArray[np.bool_]


@dataclass
class _Log:
    t0: list[int] = field(default_factory=list)
    t1: list[int] = field(default_factory=list)
    channel: list[int] = field(default_factory=list)
    attribution: list[bool] = field(default_factory=list)


def monitor_beat(channels: Sequence[int], refresh_ns: float, read_ns: float) -> Beat:
    """Return a chip's monitor rhythm: once per refresh, never more often than a sweep can be."""
    sweep_ns = int(len(channels) * read_ns)
    return Beat(channels, max(int(refresh_ns), SHORTEST_PERIOD_NS, sweep_ns + sweep_ns // 8))


def attribution_beat(channels: Sequence[int], refresh_ns: float, seed: int) -> Beat:
    """Return the rhythm of the attributed channels."""
    jitter = standard_random.Random(seed)  # noqa: S311 (no secret)
    return Beat(channels, int(refresh_ns * LONGEST_SHARE), jitter)


def run_polls(
    beats: Sequence[Beat],
    end_ns: int,
    read_ns: Callable[[], int],
    wake_ns: Callable[[], int],
) -> Polls:
    """Sweep from 0 on until the end.

    Args:
        beats: The monitor rhythms first, as in the sampler.
        end_ns: When to stop.
        read_ns: Draws how long a read takes.
        wake_ns: Draws how late the sampler wakes up.
    """
    log = _Log()
    now = 0
    active = [beat for beat in beats if beat.wanted(now)]
    while now < end_ns:
        due = min(beat.deadline_ns for beat in active)
        if due > now:
            now = due + wake_ns()
        swept = False
        for beat in active:
            if beat.deadline_ns > now:
                continue
            for channel in beat.channels:
                log.t0.append(now)
                now += read_ns()
                log.t1.append(now)
                log.channel.append(channel)
                log.attribution.append(beat.jitter is not None)
            beat.next_deadline(now)
            swept = swept or beat.jitter is None
        if swept:
            for beat in beats:
                if beat not in active and beat.wanted(now):
                    beat.deadline_ns = now
            active = [beat for beat in beats if beat.wanted(now)]
    columns = (log.t0, log.t1, log.channel, log.attribution)
    return Polls(*(np.array(column) for column in columns))


def drawn(values: npt.NDArray[np.int64]) -> Callable[[], int]:
    """Return a function that gives the values one after the other, and again from the start."""
    stock = values.tolist()
    at = -1

    def draw() -> int:
        nonlocal at
        at = at + 1 if at + 1 < len(stock) else 0
        return int(stock[at])

    return draw


def read_times(mean_ns: float, jitter: float, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return a stock of read durations."""
    scale = np.maximum(1 + jitter * random.standard_normal(1 << 14), 0.3)
    return np.rint(mean_ns * scale).astype(np.int64)


def wake_times(mean_ns: float, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return a stock of how late the sampler wakes up."""
    return np.rint(_WAKE_NS + random.exponential(mean_ns, 1 << 14)).astype(np.int64)
