"""The `IProfiler`: layer times into a preallocated array, and nothing else.

    begin(named=True)  | inference |  names() -> what the engine calls its layers, in order
    begin(n)           | inference |  mark() | inference |  mark() ... times_ms, counts()

TensorRT calls `report_layer_time(name, ms)` once per layer per inference, in the order of the
layers. An exception in it is swallowed and printed by the bindings, so nothing rests on one:
whatever is lost or too much shows in the counts. Names are listened to in a few inferences only;
layers are told apart by position, since names repeat.

How the callback is made is what was the fastest of a dozen ways on CPython 3.10 to 3.13: a closure
that is an attribute of the class without `self`, and ready-made positions from an iterator.
pybind11 looks the override up at every call, so one callback can take another's place; it refuses
built-in functions (`list.append`) as overrides. The array is a list in which every place holds a
float of its own: storing one frees the one before it, so that no memory is taken while it fills.
`benchmarks/profiler_overhead.py` has the figures.
"""

from __future__ import annotations

from itertools import chain, repeat
from operator import length_hint
from typing import Any, Protocol


class Recorder(Protocol):
    """What `make_recorder` returns, besides being a `trt.IProfiler`."""

    capacity: int

    @property
    def count(self) -> int:
        """How many layer times were reported since `begin`, also those that found no room."""

    @property
    def overflow(self) -> int:
        """How many of them found no room."""

    @property
    def times_ms(self) -> list[float]:
        """The times since `begin`, in ms, in the order in which they came."""

    def begin(self, *, named: bool = False) -> None:
        """Start over; `named` listens to names too, which is slower and not bounded."""

    def mark(self) -> None:
        """Note that an inference has ended."""

    def counts(self) -> list[int]:
        """How many layer times each inference reported, one per mark."""

    def names(self) -> list[str]:
        """The names reported since `begin(named=True)`."""


def make_recorder(trt: Any, capacity: int) -> Any:
    """Return a profiler with room for so many layer times.

    Args:
        trt: The module `tensorrt`.
        capacity: Layer times between two `begin`: layers times inferences of a chunk.

    Returns:
        A `trt.IProfiler` that is a `Recorder`.
    """
    times = [float(position) for position in range(capacity + 1)]
    # What finds no room goes to one more place at the end, as often again as there is room: the
    # count goes on, and nothing is raised where nobody would hear it.
    order = list(chain(range(capacity), repeat(capacity, capacity + 1)))
    free = iter(order)
    heard: list[str] = []
    ends: list[int] = []

    def report(layer_name: str, ms: float) -> None:
        times[next(free)] = ms

    def report_named(layer_name: str, ms: float) -> None:
        heard.append(layer_name)
        times[next(free)] = ms

    def reported() -> int:
        return len(order) - length_hint(free)

    def restart() -> None:
        nonlocal free
        free = iter(order)
        heard.clear()
        ends.clear()

    class _Recorder(trt.IProfiler):  # type: ignore[misc]  # the base is known at run time only
        report_layer_time = staticmethod(report)

        def __init__(self) -> None:
            # pybind11 refuses the object if the base's own initialiser is not called.
            trt.IProfiler.__init__(self)
            self.capacity = capacity

        @property
        def count(self) -> int:
            return reported()

        @property
        def overflow(self) -> int:
            return max(0, reported() - capacity)

        @property
        def times_ms(self) -> list[float]:
            return times[: min(reported(), capacity)]

        def begin(self, *, named: bool = False) -> None:
            restart()
            type(self).report_layer_time = staticmethod(report_named if named else report)

        def mark(self) -> None:
            ends.append(reported())

        def counts(self) -> list[int]:
            return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]

        def names(self) -> list[str]:
            return list(heard)

    return _Recorder()
