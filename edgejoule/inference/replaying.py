"""The seam of the replay pass: each distinct layer of a session, alone and again and again.

A session that can do it has a method `replayer`. What it returns lives in the measuring process
beside the session and repeats one thing at a time: a layer on the inputs that it really got, the
whole network in the same manner, or the network with one layer executed several times in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class ReplayPlan:
    """What a session can replay.

    Attributes:
        groups: The layers that are equal (operation, shapes, types, attributes), by index; the
            first of each stands for it. A layer that executes nothing on the device (a view) is in
            none and is named in `nothing`.
        nothing: Layers that execute nothing: their dynamic energy is 0 by design.
        left_out: Layer -> why it cannot be repeated alone.
        duplicable: Layers whose output has the shape and type of their input, so that the network
            can be rebuilt with them executed several times in place, in order of preference.
        notes: What a reader must know (in-place operations replaced, copies rotated, ...).
    """

    groups: tuple[tuple[int, ...], ...]
    nothing: tuple[int, ...] = ()
    left_out: Mapping[int, str] = field(default_factory=dict)
    duplicable: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


class Repeatable(Protocol):
    """Something that can be executed again and again."""

    def launch(self) -> int:
        """Execute it some times (5 to 50 ms of work), wait for the end, return how many times."""

    def facts(self) -> dict[str, Any]:
        """What is worth knowing: executions per launch, copies in rotation, bytes of each."""

    def close(self) -> None:
        """Give everything back."""


class Replayer(Protocol):
    """Makes repeatables of one session; at most one is open at a time."""

    def plan(self) -> ReplayPlan:
        """Say what can be repeated."""

    def layer(self, index: int) -> Repeatable:
        """Make one layer repeatable alone; may be slow.

        Raises:
            MeasurementError: It cannot, with the reason.
        """

    def whole(self) -> Repeatable:
        """Make the whole network repeatable in the same manner as its layers."""

    def duplicated(self, index: int, copies: int) -> Repeatable:
        """Make the network repeatable with one layer executed `copies` times in place.

        `copies` = 1 is the network as it is, built the same way. The rest of the network is checked
        to be what it was.

        Raises:
            MeasurementError: It cannot, or the rest came out different; with the reason.
        """

    def close(self) -> None:
        """Give everything back."""


@runtime_checkable
class Replayable(Protocol):
    """A session that has a replay pass."""

    def replayer(self) -> Replayer:
        """Return its replayer; the session must stay open."""
