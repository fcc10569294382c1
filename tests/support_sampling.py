"""Sensors, a clock and a parent that do as they are told, for tests of the sampler's parts."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgejoule.energy.trace import read_samples
from edgejoule.power import rhythm, sampler, sweeper
from edgejoule.power.sensor import Channel, Group
from edgejoule.records import POWER, RecordWriter

MS = 1_000_000
READ_NS = 40_000


class Clock:
    """CLOCK_MONOTONIC that moves only when told."""

    def __init__(self, now_ns: int = 10**15) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns

    def tick(self, by_ns: int) -> None:
        self.now_ns += by_ns

    def rule(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        """Be the clock of the sampler's modules."""
        for module in (sweeper, rhythm, sampler):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic_ns=self))
        return self


def rail_channels(*rails: str, quantities: Sequence[str] = ("voltage", "current")) -> list[Channel]:
    """Return channels of rails on one chip."""
    units = {"voltage": "mV", "current": "mA", "power": "mW", "energy": "mJ"}
    pairs = [(rail, quantity) for rail in rails for quantity in quantities]
    return [
        Channel(n, rail, quantity, units[quantity], "1-0040", f"{quantity}{n}")
        for n, (rail, quantity) in enumerate(pairs)
    ]


class FakeSensor:
    """A sensor whose values are set by the test; an exception in their place is raised.

    Args:
        channels: Its channels.
        groups: Its groups; None: one of all, refreshed every 6.6 ms.
        clock: Moves by `READ_NS` in each read.
        name: Its name.
    """

    simulated = False

    def __init__(
        self,
        channels: Sequence[Channel],
        groups: Sequence[Group] | None = None,
        clock: Clock | None = None,
        name: str = "fake",
    ) -> None:
        self.name = name
        self.values: list[int | Exception] = [100 + n for n in range(len(channels))]
        self.reads: list[int] = []
        self.closed = 0
        self._channels = tuple(channels)
        every = Group("1-0040", tuple(range(len(channels))), 6_600_000)
        self._groups = tuple(groups) if groups is not None else (every,)
        self._clock = clock

    def channels(self) -> tuple[Channel, ...]:
        return self._channels

    def groups(self) -> tuple[Group, ...]:
        return self._groups

    def read(self, index: int) -> int:
        self.reads.append(index)
        if self._clock is not None:
            self._clock.tick(READ_NS)
        value = self.values[index]
        if isinstance(value, Exception):
            raise value
        return value

    def configuration(self) -> dict[str, Any]:
        return {"of": self.name}

    def close(self) -> None:
        self.closed += 1


class FileSensor(FakeSensor):
    """The same over regular files, with descriptors; reads by `pread` go through `Preads`."""

    def __init__(self, folder: Path, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fds = [self._open(folder / f"{n}") for n in range(len(self._channels))]
        self.before_read: Callable[[int], None] = lambda _index: None

    def _open(self, path: Path) -> int:
        path.write_text("0\n", encoding="ascii")
        return os.open(path, os.O_RDWR)

    def put(self, index: int, text: str) -> None:
        """Put a text into a channel's file."""
        os.ftruncate(self.fds[index], 0)
        os.pwrite(self.fds[index], text.encode("ascii"), 0)

    def descriptors(self) -> tuple[int | None, ...]:
        return tuple(self.fds)

    def read(self, index: int) -> int:
        self.reads.append(index)
        self.before_read(index)
        text = os.pread(self.fds[index], 32, 0)
        try:
            return int(text)
        except ValueError as error:
            raise OSError(errno.EBADMSG, "no number") from error

    def close(self) -> None:
        super().close()
        for descriptor in self.fds:
            os.close(descriptor)


class Preads:
    """`os.pread` that takes time and fails where told: descriptor -> errno."""

    def __init__(self, clock: Clock) -> None:
        self.failing: dict[int, int] = {}
        self.calls: list[int] = []
        self._clock = clock
        self._real = os.pread

    def __call__(self, descriptor: int, length: int, offset: int) -> bytes:
        self.calls.append(descriptor)
        self._clock.tick(READ_NS)
        if descriptor in self.failing:
            code = self.failing[descriptor]
            raise OSError(code, os.strerror(code))
        return self._real(descriptor, length, offset)


def os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def new_writer(folder: Path, name: str = "power.bin") -> RecordWriter:
    return RecordWriter(folder / name, POWER, {})


def rows_of(writer: RecordWriter, path: Path) -> npt.NDArray[Any]:
    """Close a writer and return its records."""
    writer.close()
    samples = read_samples(path)[1]
    assert len(samples) == writer.count
    return samples


def same_rows(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    return bool(np.array_equal(one, other))


def renamed(channels: Sequence[Channel], **changes: Any) -> list[Channel]:
    return [dataclasses.replace(channel, **changes) for channel in channels]
