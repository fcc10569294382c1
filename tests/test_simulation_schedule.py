"""The simulator's polls are the sampler's: the same rule, irregular, delayed by sweeps alone."""

import random

import numpy as np
import pytest

from edgejoule.power import rhythm as rhythm_module
from edgejoule.power.rhythm import Rhythm
from edgejoule.power.sweeper import Tally
from edgejoule.simulation.schedule import Beat, attribution_beat, monitor_beat, run_polls

READ_NS = 550_000
REFRESH_NS = 6_600_000


class Clock:
    """A clock that only reads move."""

    def __init__(self) -> None:
        self.now = 0

    def monotonic_ns(self) -> int:
        return self.now


class Reader:
    """Stands in for a sweeper: every file takes its time and is noted."""

    def __init__(self, channels: list[int], clock: Clock, log: list[tuple[int, int]]) -> None:
        self._channels, self._clock, self._log = channels, clock, log

    def sweep(self) -> None:
        for channel in self._channels:
            self._log.append((self._clock.now, channel))
            self._clock.now += READ_NS


def by_the_sampler(monkeypatch: pytest.MonkeyPatch, groups: list[list[int]], end_ns: int):
    """Drive the project's own `Rhythm` as `run_sweeps` does, on a clock of ours."""
    clock, log = Clock(), []
    monkeypatch.setattr(rhythm_module, "time", clock)
    rhythms = []
    for at, channels in enumerate(groups):
        attribution = at == len(groups) - 1
        rhythms.append(
            Rhythm(
                str(at),
                Reader(channels, clock, log),  # type: ignore[arg-type]
                Tally(),
                int(REFRESH_NS * 0.25) if attribution else REFRESH_NS,
                REFRESH_NS,
                jitter=random.Random(7) if attribution else None,
            )
        )
    while clock.now < end_ns:
        due = min(one.deadline_ns for one in rhythms)
        if due > clock.now:
            clock.now = due + 30_000
        now = clock.now
        for one in rhythms:
            if one.deadline_ns <= now:
                now = one.run(now)
    return log


@pytest.mark.parametrize("groups", [[[0, 1, 2, 3, 4, 5], [1]], [[0, 1, 2, 3], [4, 5], [1, 3, 5]]])
def test_polls_are_those_of_the_samplers_own_rhythm(monkeypatch, groups) -> None:
    end_ns = 3_000_000_000
    expected = by_the_sampler(monkeypatch, groups, end_ns)
    beats = [monitor_beat(group, REFRESH_NS, READ_NS) for group in groups[:-1]]
    beats.append(attribution_beat(groups[-1], REFRESH_NS, 7))
    found = run_polls(beats, end_ns, lambda: READ_NS, lambda: 30_000)
    assert list(zip(found.t0.tolist(), found.channel.tolist(), strict=True)) == expected


def test_polls_are_irregular_and_a_quarter_of_the_refresh_apart_but_for_sweeps() -> None:
    beats = [monitor_beat([0, 1, 2, 3, 4, 5], REFRESH_NS, READ_NS)]
    beats.append(attribution_beat([1], REFRESH_NS, 1))
    found = run_polls(beats, 20_000_000_000, lambda: READ_NS, lambda: 30_000)
    own = found.t0[found.channel == 1]
    apart = np.diff(own)
    others = found.t0[found.channel != 1]
    free = apart[np.searchsorted(others, own[:-1]) == np.searchsorted(others, own[1:])]
    assert free.max() <= REFRESH_NS * 0.25 + 2 * 30_000
    assert free.std() > 0.02 * REFRESH_NS
    assert apart.max() <= 6 * READ_NS + READ_NS + 60_000
    # A sensor whose clock is exactly the sampler's would hide half its period behind the sweeps;
    # one that is 200 ppm off shows every part of it within these 20 s.
    phase = own % (REFRESH_NS * 1.0002) / (REFRESH_NS * 1.0002)
    assert np.histogram(phase, bins=12, range=(0, 1))[0].min() > 0
    assert np.histogram(own % REFRESH_NS, bins=12, range=(0, REFRESH_NS))[0].min() == 0


def test_a_sweep_is_never_due_more_often_than_it_can_be() -> None:
    slow = monitor_beat(range(20), REFRESH_NS, READ_NS)
    assert slow.period_ns > 20 * READ_NS
    assert monitor_beat([0], 1_000.0, 100.0).period_ns == 500_000


def test_deadlines_that_have_passed_are_left_out() -> None:
    beat = Beat([0], 1000)
    beat.next_deadline(3500)
    assert beat.deadline_ns == 4000
