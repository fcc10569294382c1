"""Which pulses show what a sensor does: a plan of edges, the same for the same seed.

One frame, again and again until the time is over (R: the sensor's refresh; high, low, high, ...):

    12 halves of 1.118 R    a square wave of 2.236 R, and
     6 halves of 3.695 R    one of 7.389 R: not commensurate with the refresh, so that the edges
                            fall on every part of it
    40 pulses of 0.6..2.5 R pseudo-random: no other period hides a delay of whole refreshes
     2 pulses of 20..60 R   long ones: the levels, and averaging in the chip

Standard library only.
"""

from __future__ import annotations

import math
import random

from edgejoule.errors import UsageError

_SQUARES = ((12, 1.118033989), (6, 3.694528049))  # halves, length in refreshes: sqrt(5), e^2
_RANDOM = (40, 0.6, 2.5)
_LONG = (2, 20.0, 60.0)
SHORTEST_PULSE_NS = 1_000_000  # below it neither a sleeping process nor a GPU's queue is exact
FRAME_REFRESHES = (
    sum(count * length for count, length in _SQUARES)
    + _RANDOM[0] * (_RANDOM[1] + _RANDOM[2]) / 2
    + _LONG[0] * (_LONG[1] + _LONG[2]) / 2
)


def plan_edges(duration_ns: int, refresh_ns: int, seed: int) -> list[int]:
    """Return the times of the edges from the start, ns: rise, fall, rise, ..., fall.

    Args:
        duration_ns: How long the pulses may take.
        refresh_ns: The sensor's refresh as far as it is known; sets the lengths.
        seed: For the pseudo-random part.

    Returns:
        An even number of increasing times, the first 0, none beyond the duration.

    Raises:
        UsageError: The duration is too short for one frame.
    """
    refresh = max(float(refresh_ns), SHORTEST_PULSE_NS / _RANDOM[1])
    shortest_s = math.ceil(FRAME_REFRESHES * refresh * 1.2e-9)
    if duration_ns < shortest_s * 1e9:
        raise UsageError(
            f"{duration_ns * 1e-9:g} s of pulses are too short for a refresh of "
            f"{refresh * 1e-6:g} ms",
            f"give at least {shortest_s} s",
        )
    draw = random.Random(f"calibration pulses {seed}")  # noqa: S311 (no secret)
    edges = [0]
    at = 0.0
    while True:
        for length in _frame(draw):
            at += length * refresh
            if at > duration_ns:
                return edges[: len(edges) // 2 * 2]
            edges.append(round(at))


def _frame(draw: random.Random) -> list[float]:
    lengths = [length for count, length in _SQUARES for _ in range(count)]
    for count, shortest, longest in (_RANDOM, _LONG):
        lengths += [draw.uniform(shortest, longest) for _ in range(count)]
    return lengths
