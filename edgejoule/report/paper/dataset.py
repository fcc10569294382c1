"""Figures that compare runs, for papers: latency against energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgejoule.report.figures.runs import (
    Value,
    dataset_marks,
    dynamic_half_per_image,
    dynamic_per_image,
    fronts,
    gross_half_per_image,
    gross_per_image,
    network_colours,
    precision_symbols,
    spread,
)
from edgejoule.report.figures.style import ENERGY, NEUTRAL, TIME, Unit, unit_for
from edgejoule.report.overview import Overview
from edgejoule.report.paper.canvas import figure, grid, name, place, plain_ticks

_MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "pentagon": "p",
    "star": "*",
    "triangle-down": "v",
}
_COLUMNS = 3
_MOST_NETWORKS = 12  # in the legend


def pareto_figure(overviews: Sequence[Overview], *, dynamic: bool = False) -> Any:
    """Return latency against energy per image with the best runs joined, None without any.

    Args:
        overviews: Of all runs.
        dynamic: Energy above idle instead of gross energy.
    """
    value = dynamic_per_image if dynamic else gross_per_image
    half = dynamic_half_per_image if dynamic else gross_half_per_image
    runs = [one for one in overviews if one.p50_ms is not None and value(one) is not None]
    if not runs:
        return None
    x_unit = unit_for((one.p50_ms for one in runs), TIME)
    y_unit = unit_for((value(one) for one in runs), ENERGY)
    fig = figure(74)
    axes = fig.add_subplot()
    points = [
        ((one.p50_ms or 0.0) / x_unit.size, (value(one) or 0.0) / y_unit.size) for one in runs
    ]
    for which, log, grown in (
        (0, axes.set_xscale, axes.set_xlim),
        (1, axes.set_yscale, axes.set_ylim),
    ):
        values = [point[which] for point in points]
        if spread(values):
            log("log")
            grown(min(values) / 1.35, max(values) * 1.25)
        else:
            grown(min(0.0, 1.1 * min(values)), 1.1 * max(values) or 1.0)
    handles, labels = _fronts(axes, runs, value, points)
    _points(axes, runs, half, points, y_unit)
    words, texts = _key(runs)
    handles += words
    labels += texts
    for axis, scale in ((axes.xaxis, axes.get_xscale()), (axes.yaxis, axes.get_yscale())):
        if scale == "log":
            plain_ticks(axis)
    axes.set_xlabel(f"latency of an inference (p50), {x_unit.name}")
    kind = "dynamic" if dynamic else "gross"
    axes.set_ylabel(f"energy per image, {kind}, {y_unit.name}")
    grid(axes)
    place(fig, [axes], dataset_marks(runs), legend=(handles, labels, _COLUMNS))
    return fig


def _fronts(
    axes: Any, runs: Sequence[Overview], value: Value, points: Sequence[tuple[float, float]]
) -> tuple[list[Any], list[str]]:
    right, top = max(x for x, _ in points), max(y for _, y in points)
    handles: list[Any] = []
    labels: list[str] = []
    measured, simulated = fronts(runs, value)
    for chosen, style, word in (
        (measured, "-", "the best"),
        (simulated, ":", "the best SIMULATED"),
    ):
        if chosen:
            best = [points[k] for k in chosen]
            line = [(best[0][0], top), *best, (right, best[-1][1])]
            handles += axes.step(
                [x for x, _ in line], [y for _, y in line], where="post", color=NEUTRAL,
                linewidth=0.8, linestyle=style,
            )  # fmt: skip
            labels.append(word)
    return handles, labels


def _points(
    axes: Any,
    runs: Sequence[Overview],
    half: Value,
    points: Sequence[tuple[float, float]],
    y_unit: Unit,
) -> None:
    colours, symbols = network_colours(runs), precision_symbols(runs)
    for one, (x, y) in zip(runs, points, strict=True):
        colour = colours[one.model]
        error = half(one)
        if error is not None:
            axes.errorbar([x], [y], yerr=[error / y_unit.size], fmt="none", ecolor=NEUTRAL,
                          elinewidth=0.6, capsize=1.2)  # fmt: skip
        broken = one.verdict == "broken"
        axes.plot(
            [x], [y], linestyle="none", color=colour, markersize=4.2, markeredgewidth=0.9,
            marker="x" if broken else _MARKERS[symbols[one.dtype]],
            markerfacecolor="white" if one.simulated else colour, zorder=3,
        )  # fmt: skip


def _key(runs: Sequence[Overview]) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    def mark(marker: str, colour: str, face: str) -> Any:
        return Line2D([], [], linestyle="none", marker=marker, color=colour, markersize=4.2,
                      markerfacecolor=face, markeredgewidth=0.9)  # fmt: skip

    handles, labels = [], []
    networks = list(network_colours(runs).items())
    for model, colour in networks[:_MOST_NETWORKS]:
        handles.append(mark("o", colour, colour))
        labels.append(name(model, 16))
    if len(networks) > _MOST_NETWORKS:
        handles.append(Line2D([], [], linestyle="none"))
        labels.append(f"and {len(networks) - _MOST_NETWORKS} more")
    for dtype, symbol in precision_symbols(runs).items():
        handles.append(mark(_MARKERS[symbol], NEUTRAL, NEUTRAL))
        labels.append(name(dtype or "unknown", 16))
    if any(one.simulated for one in runs):
        handles.append(mark("o", NEUTRAL, "white"))
        labels.append("SIMULATED")
    if any(one.verdict == "broken" for one in runs):
        handles.append(mark("x", NEUTRAL, NEUTRAL))
        labels.append("broken run")
    return handles, labels
