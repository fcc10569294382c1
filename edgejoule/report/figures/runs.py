"""Runs beside each other: energies per image, who beats whom, colours and symbols, marks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from edgejoule.report.figures.pareto import front
from edgejoule.report.figures.style import PALETTE
from edgejoule.report.overview import Overview

Value = Callable[[Overview], "float | None"]
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "star", "triangle-down")
_WIDE = 8.0  # beyond this ratio of greatest to least an axis is logarithmic


def gross_per_image(one: Overview) -> float | None:
    """Return mJ per image, idle included."""
    if one.gross_mj_per_image is not None:
        return one.gross_mj_per_image
    return _per(one.gross_mj, one.batch)


def gross_half_per_image(one: Overview) -> float | None:
    """Return its half-width."""
    return _per(one.gross_half_mj, one.batch)


def dynamic_per_image(one: Overview) -> float | None:
    """Return mJ per image above idle."""
    return _per(one.dynamic_mj, one.batch)


def dynamic_half_per_image(one: Overview) -> float | None:
    """Return its half-width."""
    return _per(one.dynamic_half_mj, one.batch)


def fronts(overviews: Sequence[Overview], value: Value) -> tuple[list[int], list[int]]:
    """Return the front of the measured runs and that of the simulated ones, as indices.

    Broken runs are in neither, and what is simulated never stands against what was measured.
    """

    def of(simulated: bool) -> list[int]:
        points = [
            (one.p50_ms, value(one))
            if one.simulated is simulated and one.verdict != "broken"
            else (None, None)
            for one in overviews
        ]
        return front(points)

    return of(simulated=False), of(simulated=True)


def network_colours(overviews: Iterable[Overview]) -> dict[str, str]:
    """Return a colour for each network; beyond the palette they begin again."""
    names = dict.fromkeys(one.model for one in overviews)
    return {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(names)}


def precision_symbols(overviews: Iterable[Overview]) -> dict[str | None, str]:
    """Return plotly's symbol for each precision."""
    names = sorted({one.dtype for one in overviews}, key=lambda name: (name is None, name or ""))
    return {name: SYMBOLS[place % len(SYMBOLS)] for place, name in enumerate(names)}


def dataset_marks(overviews: Sequence[Overview]) -> tuple[str, ...]:
    """Return the marks of all runs, with how many have each where it is not all."""
    counts: dict[str, int] = {}
    for one in overviews:
        for mark in one.marks:
            counts[mark] = counts.get(mark, 0) + 1
    total = len(overviews)
    return tuple(
        mark if count == total else f"{mark} ({count} of {total} runs)"
        for mark, count in counts.items()
    )


def spread(values: Sequence[float]) -> bool:
    """Return whether an axis of these is logarithmic: all above zero, and far apart."""
    return min(values) > 0 and max(values) / min(values) > _WIDE


def _per(value: float | None, batch: int) -> float | None:
    return None if value is None or batch < 1 else value / batch
