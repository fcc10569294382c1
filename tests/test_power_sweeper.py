"""Sweeps: rows as read, by descriptors or through the sensor; failures; what is counted."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.power.sweeper import Changes, Sweeper, Tally
from tests.support_sampling import (
    READ_NS,
    Clock,
    FakeSensor,
    FileSensor,
    Preads,
    new_writer,
    os_error,
    rail_channels,
    rows_of,
)

CHANNELS = rail_channels("VDD_IN", "VDD_SOC")
ALL = (0, 1, 2, 3)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().rule(monkeypatch)


@pytest.fixture
def preads(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Preads:
    preads = Preads(clock)
    monkeypatch.setattr(os, "pread", preads)
    return preads


@pytest.fixture
def files(tmp_path: Path, clock: Clock) -> Iterator[FileSensor]:
    folder = tmp_path / "files"
    folder.mkdir()
    sensor = FileSensor(folder, CHANNELS, clock=clock)
    yield sensor
    sensor.close()


class Bench:
    """A sweeper with its books, on a file of its own."""

    def __init__(
        self,
        sensor: FakeSensor,
        folder: Path,
        channels: tuple[int, ...] = ALL,
        name: str = "power.bin",
        changes: Changes | None = None,
    ) -> None:
        self.tally = Tally()
        self.changes = changes or Changes(len(sensor.channels()))
        self.writer = new_writer(folder, name)
        self.path = folder / name
        self.sweeper = Sweeper(sensor, channels, self.writer, self.tally, self.changes)

    def sweep(self, times: int = 1) -> None:
        for _ in range(times):
            self.sweeper.sweep()

    def rows(self) -> list[tuple[int, ...]]:
        """Return the records: t0_ns, t1_ns, raw, channel, errno."""
        return [tuple(row) for row in rows_of(self.writer, self.path).tolist()]


class WithoutDescriptors:
    """A sensor's reads alone."""

    def __init__(self, sensor: FileSensor) -> None:
        self.channels, self.read, self.groups = sensor.channels, sensor.read, sensor.groups


# -2^63 is how a record says that there is no value (docs/DatasetFormats.md).
numbers = st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(-5, 5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=6))
def test_both_ways_of_reading_write_the_same(
    tmp_path_factory: pytest.TempPathFactory, sweeps: list[tuple[int, ...]]
) -> None:
    """Sampled by descriptors and through the sensor: equal rows, stamps and counts."""
    found = []
    for way in ("descriptors", "sensor"):
        folder = tmp_path_factory.mktemp(way)
        with pytest.MonkeyPatch.context() as patch:
            clock = Clock().rule(patch)
            patch.setattr(os, "pread", Preads(clock))
            patch.setattr(os, "fsync", lambda _fd: None)  # it only takes time here
            (folder / "files").mkdir()
            sensor = FileSensor(folder / "files", CHANNELS)
            bench = Bench(sensor if way == "descriptors" else WithoutDescriptors(sensor), folder)
            for values in sweeps:
                for index, value in enumerate(values):
                    sensor.put(index, f"{value}\n")
                bench.sweep()
                clock.tick(1_000_000)
            assert bool(sensor.reads) == (way == "sensor")
            sensor.close()
            found.append((bench.rows(), bench.changes.counts, bench.tally))
    (rows, counts, tally), through_sensor = found
    assert (rows, counts, tally) == through_sensor
    assert [row[2] for row in rows] == [value for values in sweeps for value in values]
    for index in ALL:
        values = [one[index] for one in sweeps]
        assert counts[index] == sum(a != b for a, b in itertools.pairwise(values))


def test_stamps_channels_and_time_spent(files: FileSensor, preads: Preads, tmp_path: Path) -> None:
    files.put(2, "-80\n")
    bench = Bench(files, tmp_path, (2, 0))
    start_ns = Clock().now_ns
    bench.sweep()
    assert bench.rows() == [
        (start_ns, start_ns + READ_NS, -80, 2, 0),
        (start_ns + READ_NS, start_ns + 2 * READ_NS, 0, 0, 0),
    ]
    assert preads.calls == [files.fds[2], files.fds[0]]
    assert (bench.tally.sweeps, bench.tally.reads, bench.tally.sweep_ns) == (1, 2, 2 * READ_NS)


def test_a_failed_read_is_a_row_and_costs_no_other(
    files: FileSensor, preads: Preads, tmp_path: Path
) -> None:
    bench = Bench(files, tmp_path)
    for index in ALL:
        files.put(index, f"{10 + index}\n")
    bench.sweep()
    preads.failing[files.fds[1]] = errno.ETIMEDOUT
    bench.sweep(2)
    preads.failing[files.fds[1]] = errno.ENODATA
    bench.sweep()
    preads.failing.clear()
    assert bench.tally.failing_since_ns is None
    assert bench.tally.last_error == f"{os.strerror(errno.ENODATA)} (ENODATA)"
    files.reads.clear()
    bench.sweep(2)
    assert files.reads == []  # by descriptors again
    rows = bench.rows()
    assert [row[3] for row in rows] == [0, 1, 2, 3] * 6
    assert [(row[2], row[4]) for row in rows if row[3] == 1] == [
        (11, 0),
        (0, errno.ETIMEDOUT),
        (0, errno.ETIMEDOUT),
        (0, errno.ENODATA),
        (11, 0),
        (11, 0),
    ]
    assert {(row[2], row[4]) for row in rows if row[3] != 1} == {(10, 0), (12, 0), (13, 0)}
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(rows))
    assert bench.tally.errors == {"ETIMEDOUT": 2, "ENODATA": 1}
    assert bench.tally.reads == 24
    assert bench.changes.counts == [0, 0, 0, 0]  # a failure is no change of the value


def test_a_driver_bound_anew_has_other_descriptors(
    files: FileSensor, preads: Preads, tmp_path: Path
) -> None:
    bench = Bench(files, tmp_path)
    bench.sweep()
    old = list(files.fds)
    preads.failing = dict.fromkeys(old, errno.ENODEV)
    bench.sweep(3)
    assert bench.tally.errors == {"ENODEV": 12}

    def back(_index: int) -> None:
        folder = tmp_path / "bound anew"
        if not folder.exists():
            folder.mkdir()
            files.fds = [files._open(folder / str(n)) for n in ALL]
            for index in ALL:
                files.put(index, f"{700 + index}\n")

    files.before_read = back
    bench.sweep()
    files.reads.clear()
    preads.calls.clear()
    bench.sweep()
    assert preads.calls == files.fds
    assert set(preads.calls).isdisjoint(old)
    assert files.reads == []
    for descriptor in old:
        os.close(descriptor)
    rows = bench.rows()
    assert [row[4] for row in rows[::4]] == [0, errno.ENODEV, errno.ENODEV, errno.ENODEV, 0, 0]
    assert [row[2] for row in rows[-8:]] == [700, 701, 702, 703] * 2
    assert bench.changes.counts == [1, 1, 1, 1]


def test_since_when_nothing_gives_a_value(clock: Clock, tmp_path: Path) -> None:
    sensor = FakeSensor(CHANNELS, clock=clock)
    bench = Bench(sensor, tmp_path)
    bench.sweep()
    assert bench.tally.failing_since_ns is None
    failing_ns = clock()
    sensor.values = [os_error(errno.ENODEV) for _ in ALL]
    bench.sweep()
    clock.tick(7_000_000)
    bench.sweep()
    assert bench.tally.failing_since_ns == failing_ns
    sensor.values[3] = 4
    bench.sweep()
    assert bench.tally.failing_since_ns is None
    assert bench.tally.errors == {"ENODEV": 4 + 4 + 3}
    assert bench.tally.last_error.endswith("(ENODEV)")


def test_what_failed_for_a_while_is_well_again(
    files: FileSensor, preads: Preads, tmp_path: Path
) -> None:
    bench = Bench(files, tmp_path)
    bench.sweep()
    preads.failing = dict.fromkeys(files.fds, errno.ETIMEDOUT)
    bench.sweep(2)
    assert bench.tally.failing_since_ns is not None
    preads.failing.clear()
    files.reads.clear()
    bench.sweep()
    assert bench.tally.failing_since_ns is None
    assert files.reads == []
    assert [row[4] for row in bench.rows()[::4]] == [0, errno.ETIMEDOUT, errno.ETIMEDOUT, 0]


def test_a_failure_without_a_number_is_eio(clock: Clock, tmp_path: Path) -> None:
    sensor = FakeSensor(CHANNELS, clock=clock)
    sensor.values[0] = OSError("the library says no")
    sensor.values[1] = OSError(9999, "unheard of")
    bench = Bench(sensor, tmp_path)
    bench.sweep()
    assert [row[4] for row in bench.rows()] == [errno.EIO, 9999, 0, 0]
    assert bench.tally.errors == {"EIO": 1, "9999": 1}


def test_a_file_without_a_number(files: FileSensor, preads: Preads, tmp_path: Path) -> None:
    bench = Bench(files, tmp_path)
    bench.sweep()
    for text in ("", "\n", "on\n"):
        files.put(2, text)
        bench.sweep()
    assert [row[4] for row in bench.rows() if row[3] == 2] == [0, *[errno.EBADMSG] * 3]
    assert preads.calls
    assert bench.tally.errors == {"EBADMSG": 3}


def test_a_sensor_without_descriptors_is_read_through_itself(clock: Clock, tmp_path: Path) -> None:
    sensor = FakeSensor(CHANNELS, clock=clock)
    bench = Bench(sensor, tmp_path, (3, 1))
    bench.sweep(2)
    assert sensor.reads == [3, 1, 3, 1]
    assert [(row[2], row[3]) for row in bench.rows()] == [(103, 3), (101, 1)] * 2


def test_one_channel_without_a_descriptor(
    files: FileSensor, preads: Preads, tmp_path: Path
) -> None:
    real = files.descriptors()
    files.descriptors = lambda: (*real[:3], None)  # type: ignore[method-assign]
    partly = Bench(files, tmp_path, (2, 3), "partly.bin")
    wholly = Bench(files, tmp_path, (0, 2), "wholly.bin")
    partly.sweep()
    assert files.reads == [2, 3]
    wholly.sweep()
    assert files.reads == [2, 3]
    assert [row[3] for row in partly.rows() + wholly.rows()] == [2, 3, 0, 2]


def test_a_value_that_no_record_holds_is_a_failed_read(
    files: FileSensor, preads: Preads, tmp_path: Path
) -> None:
    files.put(0, f"{2**63}\n")
    bench = Bench(files, tmp_path, (0, 1))
    bench.sweep()
    files.put(0, f"{-(2**62)}\n")
    bench.sweep()
    rows = bench.rows()
    assert [row[4] for row in rows] == [errno.EBADMSG, 0, 0, 0]
    assert rows[2][2] == -(2**62)


def test_a_change_is_counted_once_whichever_rhythm_sees_it(
    files: FileSensor, preads: Preads, tmp_path: Path
) -> None:
    changes = Changes(4)
    monitor = Bench(files, tmp_path, ALL, "monitor.bin", changes)
    polls = Bench(files, tmp_path, (1,), "polls.bin", changes)
    monitor.sweep()
    polls.sweep()
    for value in ("8", "8", "16", "8"):  # back to an old value is a change, too
        files.put(1, f"{value}\n")
        polls.sweep(3)
        monitor.sweep()
        polls.sweep()
    assert changes.counts == [0, 3, 0, 0]
    assert monitor.tally.sweeps == 5
    assert polls.tally.sweeps == 17


def test_the_first_value_is_no_change() -> None:
    changes = Changes(2)
    for value in (0, 0, 5, 5, 0):
        changes.note(0, value)
    changes.note(1, 7)
    assert changes.counts == [2, 0]


@pytest.mark.parametrize(
    ("late_ns", "element"),
    [(0, 0), (999, 0), (1000, 1), (1999, 1), (2000, 2), (660_000, 10), (10**9, 20), (10**18, 31)],
)
def test_bins_of_lateness(late_ns: int, element: int) -> None:
    tally = Tally()
    tally.late_by(late_ns)
    assert [n for n, count in enumerate(tally.lateness_us_log2) if count] == [element]
    assert tally.max_lateness_ns == late_ns


@given(st.lists(st.integers(0, 2**40), min_size=1))
def test_each_bin_counts_what_is_less_than_its_bound(latenesses: list[int]) -> None:
    tally = Tally()
    for late_ns in latenesses:
        tally.late_by(late_ns)
    assert tally.max_lateness_ns == max(latenesses)
    counted = 0
    for element, count in enumerate(tally.lateness_us_log2[:-1]):
        counted += count
        assert counted == sum(late_ns < 2**element * 1000 for late_ns in latenesses)
