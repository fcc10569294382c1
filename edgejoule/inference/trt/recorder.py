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

import re
from collections.abc import Sequence
from itertools import chain, repeat
from operator import length_hint
from typing import Any, Protocol

from edgejoule.inference.backend import LayerTimes

# What the inspector adds to a name where there are several optimisation profiles.
_PROFILE = re.compile(r" \[profile \d+\]$")


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


def order_problem(expected: Sequence[str], reported: Sequence[str]) -> str:
    """Say how the names of an inference differ from the engine's, or nothing."""
    for index, (wanted, name) in enumerate(zip(expected, reported, strict=False)):
        if _PROFILE.sub("", wanted) != _PROFILE.sub("", name):
            return f"its layer {index} is {wanted!r}, but TensorRT reported {name!r} there"
    if len(expected) != len(reported):
        return f"it has {len(expected)} layers, but TensorRT reported {len(reported)}"
    return ""


def places(expected: Sequence[str], reported: Sequence[str]) -> list[int] | None:
    """Return which of an engine's layers the reported names are, each the next of its name.

    None if a name is none of the layers that are left.
    """
    found: list[int] = []
    names = [_PROFILE.sub("", name) for name in expected]
    for name in reported:
        try:
            found.append(names.index(_PROFILE.sub("", name), found[-1] + 1 if found else 0))
        except ValueError:
            return None
    return found


def layer_times(recorder: Recorder, layers: int, places: Sequence[int] | None = None) -> LayerTimes:
    """Return what was recorded since `begin` as rows: all layers of every whole inference.

    An inference with another number of layer times than are expected gives no rows, since there is
    no telling which are whose; it is missing from the number of inferences.

    Args:
        recorder: What was attached.
        layers: How many the engine has.
        places: Those that are reported; the others take no time. None: all are.
    """
    import numpy as np

    timed = np.arange(layers) if places is None else np.array(places, dtype=np.int64)
    counts = np.array(recorder.counts(), dtype=np.int64)
    ends = np.cumsum(counts)
    whole = np.flatnonzero((counts == len(timed)) & (ends <= recorder.capacity))
    times_ns = np.rint(np.array(recorder.times_ms, dtype=np.float64) * 1e6).astype(np.int64)
    rows = (ends[whole] - len(timed))[:, None] + np.arange(len(timed))[None, :]
    durations_ns = np.zeros((len(whole), layers), dtype=np.int64)
    durations_ns[:, timed] = times_ns[rows]
    return LayerTimes(
        inference=np.repeat(whole.astype(np.int32), layers),
        layer=np.tile(np.arange(layers, dtype=np.int16), len(whole)),
        duration_ns=durations_ns.reshape(-1),
        start_offset_ns=None,
        inferences=len(whole),
    )
