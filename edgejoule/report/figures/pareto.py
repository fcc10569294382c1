"""Which runs no other run beats in both latency and energy. Standard library alone."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float | None, float | None]]) -> list[int]:
    """Return the indices of the points that no other dominates, in the order of the first value.

    A point dominates another if it is as small in both values and smaller in one. Equal points do
    not dominate each other: all of them stand in the front. A point with an unknown value is in
    no front.

    Args:
        points: Two values each, of which less is better.
    """
    known = [
        (first, second, index)
        for index, (first, second) in enumerate(points)
        if first is not None and second is not None
    ]
    known.sort()
    found: list[int] = []
    least: float | None = None
    last: tuple[float, float] | None = None
    for first, second, index in known:
        if least is None or second < least or (first, second) == last:
            found.append(index)
            least, last = second, (first, second)
    return found
