"""Deadlines on grids, the attribution rate, and the sampler's loop, on a clock that is told."""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.errors import MeasurementError
from edgejoule.phases import PhaseBoard
from edgejoule.power import rhythm as module
from edgejoule.power import sampler
from edgejoule.power.rhythm import (
    ATTRIBUTION,
    Rhythm,
    attribution_channels,
    attribution_rhythm,
    choose_period_ns,
    monitor_rhythms,
)
from edgejoule.power.sampler import Switch, probe, run_sweeps, shortest_refresh_ns
from edgejoule.power.sensor import Group
from edgejoule.power.sweeper import Changes, Tally
from tests.support_sampling import (
    MS,
    READ_NS,
    Clock,
    FakeSensor,
    new_writer,
    os_error,
    rail_channels,
    renamed,
    rows_of,
)

PERIOD_NS = 10 * MS
RAILS = ("VDD_IN", "VDD_SOC")
CHANNELS = rail_channels(*RAILS)


class Sweeps:
    """A sweeper that takes as long as it is told, and notes when it was called."""

    def __init__(self, clock: Clock, durations_ns: list[int] | None = None) -> None:
        self.began_ns: list[int] = []
        self._clock = clock
        self._durations = itertools.cycle(durations_ns or [READ_NS])

    def sweep(self) -> None:
        self.began_ns.append(self._clock())
        self._clock.tick(next(self._durations))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().rule(monkeypatch)


def made(clock: Clock, durations_ns: list[int] | None = None, **changes: Any) -> Rhythm:
    """Return a rhythm of 10 ms that began now."""
    sweeps: Any = Sweeps(clock, durations_ns)
    rhythm = Rhythm(
        "chip", sweeps, Tally(), **{"period_ns": PERIOD_NS, "refresh_ns": PERIOD_NS, **changes}
    )
    rhythm.start(clock())
    return rhythm


def run_at(rhythm: Rhythm, clock: Clock, late_ns: int) -> None:
    """Let a rhythm run so late; or at once, if its deadline is past that."""
    clock.now_ns = max(clock(), rhythm.deadline_ns + late_ns)
    assert rhythm.run(clock()) == clock()


# --- the grid ---


def test_sweeps_in_time_keep_the_grid(clock: Clock) -> None:
    rhythm = made(clock)
    start_ns = clock()
    for late_ns in (0, 50_000, 999_000, 0):
        run_at(rhythm, clock, late_ns)
    tally = rhythm.tally
    assert rhythm.deadline_ns == start_ns + 4 * PERIOD_NS
    assert (tally.late_deadlines, tally.skipped_deadlines, tally.gaps) == (0, 0, 0)
    assert tally.max_lateness_ns == 999_000
    assert tally.largest_gap_ns == PERIOD_NS + 999_000 - 50_000
    assert sum(tally.lateness_us_log2) == 4


@pytest.mark.parametrize(("late_ns", "late"), [(1_000_000, 0), (1_000_001, 1)])
def test_late_is_more_than_a_tenth_of_the_period(clock: Clock, late_ns: int, late: int) -> None:
    rhythm = made(clock)
    run_at(rhythm, clock, late_ns)
    assert rhythm.tally.late_deadlines == late


def test_missed_deadlines_are_skipped_and_no_burst_makes_up_for_them(clock: Clock) -> None:
    # The second sweep begins at its deadline and lasts until after the two behind it.
    rhythm = made(clock, [READ_NS, 25 * MS, READ_NS])
    start_ns = clock()
    for _ in range(3):
        run_at(rhythm, clock, 0)
    began_ns = rhythm.sweeper.began_ns  # type: ignore[attr-defined]
    assert [(ns - start_ns) / MS for ns in began_ns] == [0, 10, 40]
    assert rhythm.tally.skipped_deadlines == 2
    assert rhythm.deadline_ns == start_ns + 50 * MS


def test_a_stopped_machine_is_one_gap(clock: Clock) -> None:
    rhythm = made(clock)
    run_at(rhythm, clock, 0)
    run_at(rhythm, clock, 495 * MS)
    run_at(rhythm, clock, 0)
    tally = rhythm.tally
    assert (tally.gaps, tally.largest_gap_ns) == (1, 505 * MS)
    assert (tally.late_deadlines, tally.max_lateness_ns) == (1, 495 * MS)
    assert tally.skipped_deadlines == 49
    assert tally.gaps == 1


@pytest.mark.parametrize(("late_ns", "gaps"), [(20 * MS, 0), (20 * MS + 1, 1)])
def test_a_gap_is_more_than_three_periods(clock: Clock, late_ns: int, gaps: int) -> None:
    rhythm = made(clock)
    run_at(rhythm, clock, 0)
    run_at(rhythm, clock, late_ns)
    assert rhythm.tally.gaps == gaps


def test_starting_again_counts_no_gap(clock: Clock) -> None:
    rhythm = made(clock)
    run_at(rhythm, clock, 0)
    clock.tick(3_000 * MS)
    rhythm.start(clock())
    run_at(rhythm, clock, 0)
    assert (rhythm.tally.gaps, rhythm.tally.late_deadlines) == (0, 0)


times = st.integers(0, 45 * MS)


@given(st.lists(st.tuples(times, times), min_size=1, max_size=40))
def test_the_grid_holds_whatever_is_late(steps: list[tuple[int, int]]) -> None:
    """Never early, never twice for one deadline; what was swept and skipped is the whole grid."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock().rule(patch)
        rhythm = made(clock, [took_ns for _, took_ns in steps])
        start_ns = clock()
        deadlines = []
        for late_ns, _ in steps:
            deadlines.append(rhythm.deadline_ns)
            run_at(rhythm, clock, late_ns)
            assert rhythm.deadline_ns >= clock()  # nothing is due at once: no burst
    began_ns = rhythm.sweeper.began_ns  # type: ignore[attr-defined]
    assert all(begin >= due for begin, due in zip(began_ns, deadlines, strict=True))
    assert all((due - start_ns) % PERIOD_NS == 0 for due in deadlines)
    assert len(set(deadlines)) == len(deadlines)
    passed = (rhythm.deadline_ns - start_ns) // PERIOD_NS
    assert passed == len(steps) + rhythm.tally.skipped_deadlines
    lateness = [begin - due for begin, due in zip(began_ns, deadlines, strict=True)]
    assert rhythm.tally.max_lateness_ns == max(lateness)
    assert rhythm.tally.late_deadlines == sum(10 * ns > PERIOD_NS for ns in lateness)
    gaps = [b - a for a, b in itertools.pairwise([start_ns, *began_ns])]
    assert rhythm.tally.gaps == sum(gap > 3 * PERIOD_NS for gap in gaps)
    assert rhythm.tally.largest_gap_ns == max(gaps)


# --- the period ---


def test_the_period_is_as_asked_or_advised_or_the_refresh() -> None:
    group = Group("chip", (0,), refresh_ns=6_600_000, period_ns=6_500_000)
    assert choose_period_ns(None, group, 0) == 6_500_000
    assert choose_period_ns(20 * MS, group, 0) == 20 * MS
    assert choose_period_ns(None, Group("chip", (0,)), 0) == 10 * MS
    assert choose_period_ns(None, Group("chip", (0,), refresh_ns=1), 0) == 500_000
    # A sweep of a driver that waits: with an eighth to spare, whoever asks for less.
    assert choose_period_ns(1, group, 40 * MS) == 45 * MS


def test_each_group_has_its_rhythm(clock: Clock, tmp_path: Path) -> None:
    groups = (
        Group("1-0040", (0, 1), refresh_ns=6_600_000),
        Group("1-0041", (2,), refresh_ns=2_200_000, period_ns=2_000_000),
        Group("GPU", (3,)),
    )
    sensor = FakeSensor(CHANNELS, groups, clock)
    took_ns = [READ_NS, READ_NS, 80 * MS]
    rhythms = monitor_rhythms(sensor, new_writer(tmp_path), Changes(4), None, took_ns)
    found = [(rhythm.name, rhythm.period_ns, rhythm.refresh_ns) for rhythm in rhythms]
    assert found == [
        ("1-0040", 6_600_000, 6_600_000),
        ("1-0041", 2_000_000, 2_200_000),
        ("GPU", 90 * MS, None),
    ]
    for rhythm in rhythms:
        rhythm.sweeper.sweep()
    assert sensor.reads == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="zip"):
        monitor_rhythms(sensor, new_writer(tmp_path, "b"), Changes(4), None, took_ns[:2])
    assert shortest_refresh_ns(groups) == 2_200_000
    assert shortest_refresh_ns(groups[2:]) is None


# --- the attribution rate ---


def test_what_is_polled_of_a_rail() -> None:
    channels = [
        *rail_channels("both"),
        *rail_channels("meter", quantities=("voltage", "power")),
        *rail_channels("counter", quantities=("energy",)),
        *rail_channels("all", quantities=("energy", "power", "current")),
        *rail_channels("bare", quantities=("voltage",)),
    ]
    channels = [renamed([c], index=n)[0] for n, c in enumerate(channels)]
    assert attribution_channels(channels, ("both",)) == (1,)
    assert attribution_channels(channels, ("meter",)) == (3,)
    assert attribution_channels(channels, ("counter",)) == (4,)
    assert attribution_channels(channels, ("all",)) == (7,)
    assert attribution_channels(channels, ("bare", "unheard of")) == ()
    assert attribution_channels(channels, ("all", "both")) == (7, 1)


def asked(
    tmp_path: Path, groups: tuple[Group, ...], rails: tuple[str, ...], seed: int = 0
) -> tuple[Rhythm | None, str]:
    sensor = FakeSensor(CHANNELS, groups)
    writer = new_writer(tmp_path, f"{random.random()}.bin")
    return attribution_rhythm(sensor, writer, Changes(4), rails, seed)


def test_when_the_attribution_rate_cannot_be_had(tmp_path: Path) -> None:
    plain = Group("1-0040", (0, 1), refresh_ns=6_600_000)
    waits = Group("1-0041", (2, 3), refresh_ns=6_600_000, blocking=True)
    rhythm, why = asked(tmp_path, (plain, waits), ("VDD_IN",))
    assert rhythm is not None  # the chip that waits is not polled
    assert why == ""
    refused = {
        "waits for a conversion in every read": ((plain, waits), RAILS),
        "refresh is not known": ((plain, Group("1-0041", (2, 3))), RAILS),
        "no channel of VDD_CV, 5V can be polled": ((plain, waits), ("VDD_CV", "5V")),
        "no channel of any rail can be polled": ((plain, waits), ()),
    }
    for words, (groups, rails) in refused.items():
        rhythm, why = asked(tmp_path, groups, rails)
        assert rhythm is None
        assert words in why


def test_the_shortest_refresh_of_what_is_polled_counts(tmp_path: Path) -> None:
    groups = (
        Group("1-0040", (0, 1), refresh_ns=6_600_000),
        Group("1-0041", (2,), refresh_ns=100_000),
        Group("1-0042", (3,), refresh_ns=4_400_000),
    )
    rhythm, _ = asked(tmp_path, groups, RAILS)
    assert rhythm is not None
    assert (rhythm.name, rhythm.refresh_ns, rhythm.period_ns) == (ATTRIBUTION, 4_400_000, 1_100_000)


def polls_ns(clock: Clock, seed: int, count: int = 400) -> list[int]:
    """Return the times from one poll to the next, of a rhythm that is never late."""
    polled = made(clock, period_ns=1_650_000, jitter=random.Random(seed))
    for _ in range(count):
        run_at(polled, clock, 0)
    began_ns = polled.sweeper.began_ns  # type: ignore[attr-defined]
    return [b - a for a, b in itertools.pairwise(began_ns)]


def test_attribution_polls_are_irregular_and_within_a_quarter_of_the_refresh(clock: Clock) -> None:
    between_ns = polls_ns(clock, seed=7)
    refresh_ns = 6_600_000
    assert max(between_ns) <= refresh_ns // 4
    assert min(between_ns) >= int(0.12 * refresh_ns) - 1
    # Irregular: every tenth of what is allowed gets its share.
    low = 0.12 * refresh_ns
    tenth = (0.25 - 0.12) * refresh_ns / 10
    bins = [int((ns - low) / tenth) for ns in between_ns]
    assert all(sum(b == n for b in bins) > 15 for n in range(10))
    # Every part of the sensor's own period is fallen upon alike.
    hits = list(itertools.accumulate(between_ns))
    parts = [hit % refresh_ns * 8 // refresh_ns for hit in hits]
    assert all(parts.count(part) > 25 for part in range(8))
    assert polls_ns(clock, seed=7) == between_ns
    assert polls_ns(clock, seed=8) != between_ns


def test_a_late_poll_is_followed_by_no_burst(clock: Clock) -> None:
    polled = made(clock, period_ns=1_650_000, jitter=random.Random(1))
    run_at(polled, clock, 0)
    run_at(polled, clock, 40 * MS)
    assert polled.deadline_ns == clock()  # due at once, once
    run_at(polled, clock, 0)
    assert polled.deadline_ns > clock() + 500_000
    assert polled.tally.skipped_deadlines == 0
    assert polled.tally.late_deadlines == 1


# --- on and off by phase ---


def test_always_on(clock: Clock) -> None:
    switch = Switch(made(clock, jitter=random.Random(0)), None, None)
    assert not switch.on
    clock.tick(5 * MS)
    switch.look(clock())
    assert switch.on
    assert switch.rhythm.deadline_ns == clock()
    clock.tick(40 * MS)
    switch.look(clock())
    switch.end(clock())
    switch.end(clock() + 1)
    assert (switch.on, switch.on_ns) == (False, 40 * MS)
    switch.close()


def test_on_in_named_phases(clock: Clock, tmp_path: Path) -> None:
    page = tmp_path / "page.bin"
    switch = Switch(made(clock), ["clean", "profiled"], str(page))
    switch.look(clock())
    assert not switch.on  # there is no page yet
    page.write_bytes(b"EJ")
    switch.look(clock())
    assert not switch.on  # nor one of its size
    page.unlink()
    board = PhaseBoard(page, tmp_path / "phases.jsonl")
    seen = []
    for phase in ("idle_before", "warmup", "clean", "profiled", "harvest", "profiled", "end"):
        board.mark(phase)
        clock.tick(10 * MS)
        switch.look(clock())
        seen.append(switch.on)
    assert seen == [False, False, True, True, False, True, False]
    assert switch.on_ns == 20 * MS + 10 * MS
    board.close()
    switch.close()


def test_phases_without_a_page_are_never_on(clock: Clock) -> None:
    switch = Switch(made(clock), ["clean"], None)
    switch.look(clock())
    assert not switch.on
    switch.close()


# --- the loop ---


class FakeParent:
    """A parent whose `poll` lets the clock go on; it ends at a time, or by a command."""

    def __init__(self, clock: Clock, end_ns: int, late: Callable[[], int] = lambda: 0) -> None:
        self.commands: list[dict[str, Any]] = []
        self.waits: list[float] = []
        self._clock = clock
        self._end_ns = end_ns
        self._late = late
        self.at: dict[int, dict[str, Any]] = {}

    def poll(self, timeout_s: float) -> bool:
        self.waits.append(timeout_s)
        self._clock.tick(max(0, round(timeout_s * 1e9)) + self._late())
        for when_ns in [when for when in self.at if when <= self._clock()]:
            self.commands.append(self.at.pop(when_ns))
        return self._clock() >= self._end_ns


GROUPS = (
    Group("1-0040", (0, 1), refresh_ns=6_600_000),
    Group("1-0041", (2, 3), refresh_ns=2_200_000),
)


def loop(
    clock: Clock,
    folder: Path,
    seconds: float,
    *,
    sensor: FakeSensor | None = None,
    late: Callable[[], int] = lambda: 0,
    at: dict[int, dict[str, Any]] | None = None,
    attributed: tuple[list[str] | None, str | None] | None = None,
) -> tuple[list[Rhythm], Any, Switch | None]:
    """Run the sampler's loop on a made-up sensor; return rhythms, rows and the switch."""
    sensor = sensor or FakeSensor(CHANNELS, GROUPS, clock)
    writer, changes = new_writer(folder), Changes(4)
    rhythms = monitor_rhythms(sensor, writer, changes, None, [READ_NS, READ_NS])
    for rhythm in rhythms:
        rhythm.start(clock())
    switch = None
    if attributed is not None:
        polled, _ = attribution_rhythm(sensor, writer, changes, ("VDD_IN",), 3)
        assert polled is not None
        switch = Switch(polled, *attributed)
    parent: Any = FakeParent(clock, clock() + int(seconds * 1e9), late)
    parent.at = {clock() + when: command for when, command in (at or {}).items()}
    try:
        run_sweeps(rhythms, writer, parent, switch)
    finally:
        rows = rows_of(writer, folder / "power.bin")
    return rhythms, rows, switch


def test_two_rhythms_each_at_its_own(clock: Clock, tmp_path: Path) -> None:
    start_ns = clock()
    rhythms, rows, _ = loop(clock, tmp_path, 6.6)
    assert [rhythm.tally.sweeps for rhythm in rhythms] == [1000, 3000]
    for channel, period_ns in ((0, 6_600_000), (2, 2_200_000)):
        begins = rows["t0_ns"][rows["channel"] == channel] - start_ns
        # Those of the second wait where both are due.
        late = begins - [n * period_ns for n in range(len(begins))]
        assert (late.min(), late.max()) == (0, 0 if channel == 0 else 2 * READ_NS)
    assert rhythms[0].tally.skipped_deadlines == rhythms[1].tally.skipped_deadlines == 0


def test_a_busy_machine_never_makes_a_burst(clock: Clock, tmp_path: Path) -> None:
    draw, start_ns = random.Random(5), clock()
    rhythms, rows, _ = loop(clock, tmp_path, 3.0, late=lambda: int(draw.expovariate(1 / 4e6)))
    for rhythm, channel in zip(rhythms, (0, 2), strict=True):
        begins = rows["t0_ns"][rows["channel"] == channel]
        cells = (begins - start_ns) // rhythm.period_ns
        assert len(set(cells.tolist())) == len(cells)
        assert rhythm.tally.skipped_deadlines > 50
        assert rhythm.tally.sweeps == len(begins)


def test_a_command_ends_it_and_others_do_not(clock: Clock, tmp_path: Path) -> None:
    start_ns = clock()
    commands = {100 * MS: {"kind": "hello"}, 400 * MS: {"kind": "stop"}}
    loop(clock, tmp_path, 60, at=commands)
    assert 400 * MS <= clock() - start_ns < 410 * MS


def test_a_stop_can_wish_for_a_sweep_behind_a_time(clock: Clock, tmp_path: Path) -> None:
    start_ns = clock()
    behind_ns = start_ns + 500 * MS
    commands = {100 * MS: {"kind": "stop", "after_ns": behind_ns}}
    _, rows, _ = loop(clock, tmp_path, 60, at=commands)
    for channel, period_ns in ((0, 6_600_000), (2, 2_200_000)):
        begins = rows["t0_ns"][rows["channel"] == channel]
        assert behind_ns <= begins.max() < behind_ns + 6_600_000 + period_ns
    # Whoever wishes for less is heard as well.
    folder = tmp_path / "again"
    folder.mkdir()
    start_ns = clock()
    commands[200 * MS] = {"kind": "stop"}
    commands[100 * MS]["after_ns"] = start_ns + 50_000 * MS
    loop(clock, folder, 60, at=commands)
    assert clock() - start_ns < 210 * MS


def test_rows_reach_the_disk_while_it_runs(clock: Clock, tmp_path: Path) -> None:
    sizes: list[int] = []

    def late() -> int:
        sizes.append((tmp_path / "power.bin").stat().st_size)
        return 0

    loop(clock, tmp_path, 2.0, late=late)
    assert sizes[-1] > sizes[0]
    assert len(set(sizes)) >= 4  # every half second


def test_the_attribution_rate_comes_and_goes_with_the_phase(clock: Clock, tmp_path: Path) -> None:
    board = PhaseBoard(tmp_path / "page.bin", tmp_path / "phases.jsonl")
    board.mark("warmup")
    start_ns = clock()
    marks = [(100 * MS, "clean"), (300 * MS, "harvest")]

    def late() -> int:
        while marks and clock() - start_ns >= marks[0][0]:
            board.mark(marks.pop(0)[1])
        return 0

    attributed = (["clean"], str(tmp_path / "page.bin"))
    rhythms, rows, switch = loop(clock, tmp_path, 0.5, late=late, attributed=attributed)
    board.close()
    assert switch is not None
    current = rows["t0_ns"][rows["channel"] == 1] - start_ns
    voltage = rows["t0_ns"][rows["channel"] == 0] - start_ns
    assert len(voltage) == rhythms[0].tally.sweeps
    inside = [ns for ns in current.tolist() if 110 * MS < ns < 300 * MS]
    assert max(b - a for a, b in itertools.pairwise(inside)) <= 6_600_000 // 4 + 4 * READ_NS
    outside = [ns for ns in current.tolist() if ns < 95 * MS or ns > 310 * MS]
    assert min(b - a for a, b in itertools.pairwise(outside)) >= 6_500_000
    assert switch.on_ns == pytest.approx(200 * MS, abs=15 * MS)
    polls = switch.rhythm.tally
    assert len(current) == rhythms[0].tally.sweeps + polls.sweeps
    assert polls.gaps == 0


def test_nothing_for_two_seconds_is_the_end(clock: Clock, tmp_path: Path) -> None:
    sensor = FakeSensor(CHANNELS, GROUPS, clock)
    sensor.values = [os_error(errno.ENODEV) for _ in CHANNELS]
    start_ns = clock()
    with pytest.raises(MeasurementError, match=r"for 2 s: .*ENODEV") as caught:
        loop(clock, tmp_path, 60, sensor=sensor)
    assert 2_000 * MS < clock() - start_ns < 2_010 * MS
    assert "bound" in caught.value.mend


def test_one_chip_that_lives_is_enough(clock: Clock, tmp_path: Path) -> None:
    sensor = FakeSensor(CHANNELS, GROUPS, clock)
    sensor.values[:3] = [os_error(errno.ENODEV) for _ in range(3)]
    rhythms, rows, _ = loop(clock, tmp_path, 4.0, sensor=sensor)
    assert rhythms[0].tally.failing_since_ns is not None
    assert rhythms[1].tally.failing_since_ns is None
    assert set(rows["raw"][rows["channel"] == 3].tolist()) == {103}


# --- before it begins ---


def test_probe_takes_the_time_of_each_groups_second_sweep(clock: Clock) -> None:
    sensor = FakeSensor(CHANNELS, GROUPS, clock)
    sensor.values[0] = os_error(errno.ENODATA)
    assert probe(sensor) == [2 * READ_NS, 2 * READ_NS]
    assert sensor.reads == [0, 1, 0, 1, 2, 3, 2, 3]


def test_probe_refuses_a_sensor_without_a_value(clock: Clock) -> None:
    sensor = FakeSensor(CHANNELS, GROUPS, clock, name="mute")
    sensor.values = [os_error(errno.EACCES) for _ in CHANNELS]
    with pytest.raises(MeasurementError, match=r"sensor mute gives a value \(VDD_SOC current3: "):
        probe(sensor)


def test_what_is_asked_of_attribution(clock: Clock, tmp_path: Path) -> None:
    sensor = FakeSensor(CHANNELS, GROUPS, clock)

    def answer(asked: dict[str, Any] | None, total: dict[str, Any] | None) -> tuple[Any, str]:
        writer = new_writer(tmp_path, f"{random.random()}.bin")
        config = {"attribution": asked}
        return sampler._attribution(config, sensor, writer, Changes(4), total)

    assert answer(None, None) == (None, "")
    switch, why = answer({"rails": None}, None)
    assert (switch, why) == (None, "no rail was named, and the board's total is not known")
    switch, why = answer({"rails": None, "seed": None}, {"rails": ["VDD_SOC"]})
    assert why == ""
    switch.rhythm.sweeper.sweep()
    assert sensor.reads == [3]
    switch, why = answer({"rails": ["VDD_IN"]}, {"rails": ["VDD_SOC"]})
    switch.rhythm.sweeper.sweep()
    assert sensor.reads == [3, 1]
    switch, why = answer({"rails": ["VDD_XX"]}, {"rails": ["VDD_SOC"]})
    assert switch is None
    assert "VDD_XX" in why


def test_the_report_adds_up_all_groups(clock: Clock) -> None:
    one, two = made(clock), made(clock, period_ns=2 * MS)
    for rhythm, late_ns in ((one, 0), (two, 500_000), (two, 0)):
        run_at(rhythm, clock, late_ns)
        rhythm.tally.sweeps += 1
        rhythm.tally.sweep_ns += READ_NS
    one.tally.errors = {"ENODATA": 2}
    two.tally.errors = {"ENODATA": 1, "EIO": 5}
    two.name = "other"
    counts = sampler._counts([one, two])
    assert counts["period_ns"] == 2 * MS
    assert (counts["sweeps"], counts["mean_sweep_ns"]) == (3, READ_NS)
    assert counts["errors"] == {"ENODATA": 3, "EIO": 5}
    assert counts["late_deadlines"] == 1
    assert counts["max_lateness_ns"] == 500_000
    assert sum(counts["lateness_us_log2"]) == 3
    assert list(counts["groups"]) == ["chip", "other"]
    assert counts["groups"]["other"]["late_deadlines"] == 1
    assert "last_error" not in counts["groups"]["chip"]
    assert sampler._counts([made(clock)])["mean_sweep_ns"] is None
    assert sampler._attribution_counts(None, "") == {}
    assert sampler._attribution_counts(None, "because") == {"attribution": {"why": "because"}}


def test_constants_are_what_the_documents_say() -> None:
    assert module._LONGEST_SHARE == 0.25
    assert module.GAP_PERIODS == 3
    assert sampler.VANISHED_NS == 2_000_000_000
