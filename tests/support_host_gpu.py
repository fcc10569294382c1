"""The host in the place of a GPU, for what goes through `torch_slots.Gpu`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


class HostEvent:
    """An event that a GPU as fast as the host would have stamped."""

    def __init__(self) -> None:
        self.ns = 0

    def elapsed_time(self, other: HostEvent) -> float:
        return (other.ns - self.ns) / 1e6


class HostEvents:
    """Events of the host's clock."""

    def new(self) -> HostEvent:
        return HostEvent()

    def record(self, event: HostEvent) -> None:
        event.ns = time.monotonic_ns()

    def delay(self, nanoseconds: float) -> None:
        del nanoseconds

    def cycles_per_ns(self) -> float:
        return 1.0

    def kernel(self) -> None:
        pass

    def synchronise(self) -> None:
        pass


@dataclass(frozen=True)
class HostReplay:
    run: Callable[[], Any]
    outputs: Any
    pool: Any = None

    def replay(self) -> None:
        self.run()


class HostGpu:
    """The host in the place of a GPU: one stream, on which work is done as it is launched."""

    device = "cpu"

    def __init__(self) -> None:
        self.waits = 0
        self.captured = 0

    def stream(self) -> int:
        return 7

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        yield

    def events(self) -> HostEvents:
        return HostEvents()

    def synchronise(self) -> None:
        self.waits += 1

    def capture(self, run: Callable[[], Any], pool: Any = None) -> HostReplay:
        del pool
        self.captured += 1
        return HostReplay(run, run())

    def kernels(self, program: Any, inputs: Any) -> tuple[tuple[int, ...] | None, str]:
        return None, "not counted on the host"
