"""When to sweep what: deadlines on absolute grids, one per rhythm of the hardware.

    chip 1-0040  |V I V I V I          |V I V I V I          |   one sweep per refresh (monitor)
    chip 1-0041      |V I   |V I   |V I   |V I   |V I   |V I |
    attribution  I I   I  I   I I  I    I I   I  I  I   I   I    one current, irregular, <= 1/4

A deadline that passed while something else was read is skipped and counted, never made up for by a
burst. The attribution rate is irregular, so that the polls fall on every part of the sensor's own
period and its phase can be found from when values change.

Standard library only.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from edgejoule.power.sensor import Channel, Group, Sensor
from edgejoule.power.sweeper import Changes, Sweeper, Tally
from edgejoule.records import RecordWriter

DEFAULT_PERIOD_NS = 10_000_000  # where the sensor's refresh is not known
SHORTEST_PERIOD_NS = 500_000
GAP_PERIODS = 3
ATTRIBUTION = "attribution"
_LATE_SHARE = 10  # a sweep that starts later than a tenth of the period is late
# Shares of the refresh between two attribution polls: never above a quarter.
_SHORTEST_SHARE, _LONGEST_SHARE = 0.12, 0.25


@dataclass
class Rhythm:
    """Something that is swept again and again.

    Attributes:
        name: The group's name, or `attribution`.
        sweeper: Reads its channels.
        tally: What is counted.
        period_ns: Time between two deadlines; for the attribution rate the longest.
        refresh_ns: The hardware's refresh, if known.
        jitter: Draws the next period of an irregular rhythm; None: it is regular.
        deadline_ns: When it is due next.
        previous_ns: When its last sweep began.
    """

    name: str
    sweeper: Sweeper
    tally: Tally
    period_ns: int
    refresh_ns: int | None
    jitter: random.Random | None = None
    deadline_ns: int = 0
    previous_ns: int = 0

    def start(self, now_ns: int) -> None:
        """Begin a grid now; the time before counts as no gap."""
        self.deadline_ns = self.previous_ns = now_ns

    def run(self, now_ns: int) -> int:
        """Sweep, count how late it was, and set the next deadline; return the time after it."""
        tally, period_ns = self.tally, self.period_ns
        lateness_ns = now_ns - self.deadline_ns
        tally.late_by(lateness_ns)
        tally.late_deadlines += lateness_ns * _LATE_SHARE > period_ns
        gap_ns = now_ns - self.previous_ns
        tally.largest_gap_ns = max(tally.largest_gap_ns, gap_ns)
        tally.gaps += gap_ns > GAP_PERIODS * period_ns
        self.previous_ns = now_ns
        self.sweeper.sweep()
        now_ns = time.monotonic_ns()
        if self.jitter is None:
            due = max(1, -(-(now_ns - self.deadline_ns) // period_ns))
            tally.skipped_deadlines += due - 1
            self.deadline_ns += due * period_ns
        else:
            share = self.jitter.uniform(_SHORTEST_SHARE / _LONGEST_SHARE, 1.0)
            self.deadline_ns = max(now_ns, self.deadline_ns + int(share * period_ns))
        return now_ns


def choose_period_ns(asked_ns: int | None, group: Group, sweep_ns: int) -> int:
    """Return a group's sweep period: as asked, else what the sensor advises, else its refresh.

    Never shorter than a sweep can be: drivers up to Linux 5.10 wait for a conversion in every
    read, so that a sweep can take longer than a refresh, and a deadline that nothing can meet would
    only be missed.
    """
    wanted = asked_ns or group.period_ns or group.refresh_ns or DEFAULT_PERIOD_NS
    return max(wanted, SHORTEST_PERIOD_NS, sweep_ns + sweep_ns // 8)


def monitor_rhythms(
    sensor: Sensor,
    writer: RecordWriter,
    changes: Changes,
    asked_ns: int | None,
    sweep_ns: Sequence[int],
) -> list[Rhythm]:
    """Return one rhythm per group of the sensor.

    Args:
        sensor: An open sensor.
        writer: Where rows go.
        changes: Where changed values are noted.
        asked_ns: A period for all groups, or None.
        sweep_ns: How long a sweep of each group takes.
    """
    found = []
    for group, took_ns in zip(sensor.groups(), sweep_ns, strict=True):
        tally = Tally()
        sweeper = Sweeper(sensor, group.channels, writer, tally, changes)
        period_ns = choose_period_ns(asked_ns, group, took_ns)
        found.append(Rhythm(group.name, sweeper, tally, period_ns, group.refresh_ns))
    return found


def attribution_channels(channels: Sequence[Channel], rails: Sequence[str]) -> tuple[int, ...]:
    """Return what is polled at the attribution rate: each rail's current, else power or energy."""
    found = []
    for rail in rails:
        own = {channel.quantity: channel.index for channel in channels if channel.rail == rail}
        index = own.get("current", own.get("power", own.get("energy")))
        if index is not None:
            found.append(index)
    return tuple(found)


def attribution_rhythm(
    sensor: Sensor,
    writer: RecordWriter,
    changes: Changes,
    rails: Sequence[str],
    seed: int,
    longest_ns: int | None = None,
) -> tuple[Rhythm | None, str]:
    """Return the rhythm that polls the attributed rails, or None and why it cannot be had.

    Args:
        sensor: An open sensor.
        writer: Where rows go.
        changes: Where changed values are noted.
        rails: The attributed rails; their currents are polled together.
        seed: Seeds the irregularity.
        longest_ns: The longest time between two polls, where a quarter of the refresh is too long.
    """
    polled = attribution_channels(sensor.channels(), rails)
    if not polled:
        return None, f"no channel of {', '.join(rails) or 'any rail'} can be polled"
    groups = [group for group in sensor.groups() if set(group.channels) & set(polled)]
    if any(group.blocking for group in groups):
        return None, "this driver waits for a conversion in every read: it cannot be polled faster"
    refreshes = [group.refresh_ns for group in groups if group.refresh_ns]
    if len(refreshes) < len(groups):
        return None, "the sensor's refresh is not known"
    refresh_ns = min(refreshes)
    period_ns = min(int(refresh_ns * _LONGEST_SHARE), longest_ns or refresh_ns)
    tally = Tally()
    rhythm = Rhythm(
        ATTRIBUTION,
        Sweeper(sensor, polled, writer, tally, changes),
        tally,
        period_ns,
        refresh_ns,
        jitter=random.Random(seed),  # noqa: S311 (no secret)
    )
    return rhythm, ""
