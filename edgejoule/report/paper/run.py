"""Figures of one run for papers: layers, power, operations, shares."""

from __future__ import annotations

from typing import Any

from edgejoule.report.figures import phases
from edgejoule.report.figures.layers import DYNAMIC, GROSS
from edgejoule.report.figures.over_time import rail_colours, rails_to_draw, reduce_rail
from edgejoule.report.figures.parts import (
    Bar,
    Share,
    best_rollup,
    energy_bars,
    method_words,
    operation_shares,
    shares,
    time_bars,
)
from edgejoule.report.figures.shares import TIME as TIME_COLOUR
from edgejoule.report.figures.shares import placed_labels
from edgejoule.report.figures.style import ENERGY, NEUTRAL, PALETTE, POWER, TIME, Unit, unit_for
from edgejoule.report.paper.canvas import FONT_PT, SMALL_PT, figure, grid, name, place
from edgejoule.report.tables import TOTAL, RunTables

MOST_LAYERS = 15
MOST_OPERATIONS = 10
MOST_POINTS = 300
COLUMNS = 360
_HATCH = "//////"
_ERROR = {"ecolor": "#404040", "elinewidth": 0.6, "capsize": 1.2, "capthick": 0.6}


def layers_figure(run: RunTables) -> Any:
    """Return time and energy of the layers that take the most, None without times.

    One row is one layer, or one group of layers whose energy is known only together; then its time
    is that of the group, so that both bars are of the same.
    """
    rollup = best_rollup(run)
    bars = time_bars(run, MOST_LAYERS)
    if rollup is not None:
        bars = energy_bars(run, rollup, MOST_LAYERS)
    if not bars:
        return None
    fig = figure(22 + 3.6 * len(bars))
    left = fig.add_subplot(1, 2 if rollup else 1, 1)
    unit = unit_for((bar.time_ms for bar in bars if bar.kind != "rest"), TIME)
    places = list(range(len(bars)))
    _bars(left, places, bars, [bar.time_ms for bar in bars], [b.time_half_ms for b in bars],
          unit.size, TIME_COLOUR, 0.7)  # fmt: skip
    _rest(left, bars, [bar.time_ms for bar in bars], unit)
    left.set_xlabel(f"time, {unit.name}")
    left.set_yticks(places, [name(_row(bar), 24) for bar in bars])
    axes = [left]
    legend = None
    if rollup is not None:
        right = fig.add_subplot(1, 2, 2)
        axes.append(right)
        amounts = [bar.amount for bar in bars]
        scale = unit_for((b.amount.gross_mj for b in bars if b.kind != "rest"), ENERGY)
        for offset, values, halves, colour in (
            (-0.19, [b.gross_mj for b in amounts], [b.gross_half_mj for b in amounts], GROSS),
            (0.19, [b.dynamic_mj for b in amounts], [b.dynamic_half_mj for b in amounts], DYNAMIC),
        ):
            _bars(
                right, [p + offset for p in places], bars, values, halves, scale.size, colour, 0.38
            )
        _rest(right, bars, [one.gross_mj for one in amounts], scale)
        right.set_xlabel(f"energy, {scale.name}")
        right.set_yticks([])
        legend = _layers_legend(bars, method_words(rollup))
    for one in axes:
        one.set_ylim(len(bars) - 0.4, -0.6)
        one.tick_params(axis="y", length=0, left=False)
        one.locator_params(axis="x", nbins=5 if len(axes) == 1 else 4)
        grid(one, "x")
    place(fig, axes, run.marks, legend=legend)
    return fig


def power_figure(run: RunTables) -> Any:
    """Return the power trace with the phases, None without one."""
    import numpy as np

    rails = rails_to_draw(run.series.power)
    if not rails:
        return None
    unit = unit_for((float(np.nanmax(one.high_w)) for _, one in rails), POWER)
    fig = figure(58)
    axes = fig.add_subplot()
    colours = rail_colours([one.rail for _, one in rails])
    handles, labels = [], []
    for shown, series in rails:
        one = reduce_rail(series, COLUMNS)
        colour = colours[one.rail]
        axes.fill_between(one.t_s, one.low_w / unit.size, one.high_w / unit.size, color=colour,
                          alpha=0.25, linewidth=0)  # fmt: skip
        line = axes.plot(one.t_s, one.mean_w / unit.size, color=colour,
                         linewidth=1.1 if one.rail == TOTAL else 0.8)  # fmt: skip
        handles += line
        labels.append(name(shown, 24))
    axes.set_ylim(bottom=0)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.1)
    _shade(axes, run)
    axes.set_xlabel("time, s")
    axes.set_ylabel(f"power, {unit.name}")
    axes.margins(x=0)
    grid(axes, "y")
    place(fig, [axes], run.marks, legend=(handles[::-1], labels[::-1], 3))
    return fig


def operations_figure(run: RunTables) -> Any:
    """Return energy by operation beside time, as shares; None without energy and operations."""
    rollup = best_rollup(run)
    rows = operation_shares(shares(run, rollup))[:MOST_OPERATIONS]
    if rollup is None or not rows:
        return None
    kinds = [("time", "time", TIME_COLOUR), ("gross", "gross energy", GROSS)]
    if any(one.dynamic is not None for one in rows):
        kinds.append(("dynamic", "dynamic energy", DYNAMIC))
    fig = figure(24 + 5.6 * len(rows))
    axes = fig.add_subplot()
    handles = []
    for index, (field, _, colour) in enumerate(kinds):
        offset = (index - (len(kinds) - 1) / 2) * 0.27
        known = [
            (row + offset, 100 * value, getattr(one, f"{field}_half"))
            for row, one in enumerate(rows)
            if (value := getattr(one, field)) is not None
        ]
        handles.append(
            axes.barh([y for y, _, _ in known], [v for _, v, _ in known], 0.26, color=colour)
        )
        _error_bars(axes, [(v, y, 100 * half) for y, v, half in known if half is not None])
    axes.set_yticks(range(len(rows)), [name(one.name, 26) for one in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0, left=False)
    axes.set_xlabel(f"share of an inference, %\n(energy: {method_words(rollup)})")
    grid(axes, "x")
    place(fig, [axes], run.marks, legend=(handles, [word for _, word, _ in kinds], 3))
    return fig


def shares_figure(run: RunTables) -> Any:
    """Return each layer's share of time against that of energy, None without energy."""
    rollup = best_rollup(run)
    if rollup is None:
        return None
    parts = [one for one in shares(run, rollup) if one.time is not None and one.gross is not None]
    if not parts:
        return None
    parts = sorted(parts, key=lambda one: -(one.gross or 0.0))[:MOST_POINTS]
    most = max(max(one.time or 0.0, one.gross or 0.0) for one in parts)
    fig = figure(66)
    axes = fig.add_subplot()
    axes.plot([0, 108 * most], [0, 108 * most], color=NEUTRAL, linewidth=0.8, linestyle="--")
    known = [one for one in parts if one.gross_half is not None]
    if known:  # of the others nothing is known: no bar, not one of no length
        axes.errorbar(
            [100 * (one.time or 0.0) for one in known],
            [100 * (one.gross or 0.0) for one in known],
            yerr=[100 * (one.gross_half or 0.0) for one in known],
            fmt="none", **{**_ERROR, "ecolor": NEUTRAL},
        )  # fmt: skip
    for hollow in (False, True):
        chosen = [one for one in parts if _doubtful(one) is hollow]
        axes.scatter(
            [100 * (one.time or 0.0) for one in chosen],
            [100 * (one.gross or 0.0) for one in chosen],
            s=12, facecolors="white" if hollow else GROSS, edgecolors=GROSS, linewidths=0.8,
            zorder=3,
        )  # fmt: skip
    for label in placed_labels(parts, most):
        one, up = label.share, label.up
        axes.annotate(
            name(one.name, 20),
            (100 * (one.time or 0.0), 100 * (one.gross or 0.0)),
            xytext=(-2 if up else 2, 2 if up else -2),
            textcoords="offset points",
            ha="right" if up else "left",
            va="bottom" if up else "top",
            fontsize=SMALL_PT,
        )
    axes.set_xlabel("share of time, %")
    axes.set_ylabel(f"share of gross energy, %\n({method_words(rollup)})", fontsize=FONT_PT)
    grid(axes)
    place(fig, [axes], run.marks)
    return fig


def _doubtful(one: Share) -> bool:
    return one.bar is not None and one.bar.doubtful


def _row(bar: Bar) -> str:
    if bar.kind == "group" and len(bar.layers) > 1:
        return f"{len(bar.layers)} together: {bar.name.partition(': ')[2]}"
    return "gap" if bar.kind == "gap" else bar.name


def _bars(
    axes: Any,
    places: list[Any],
    bars: list[Bar],
    values: list[float | None],
    halves: list[float | None],
    size: float,
    colour: str,
    width: float,
) -> None:
    """Draw bars of all but the rest, which would leave the others no room."""
    drawn = [
        (y, bar, value / size, None if half is None else half / size)
        for y, bar, value, half in zip(places, bars, values, halves, strict=True)
        if value is not None and bar.kind != "rest"
    ]
    for hatched in (False, True):
        for pale in (False, True):
            known = [
                (y, value)
                for y, bar, value, _ in drawn
                if bar.doubtful is hatched and (bar.kind == "gap") is pale
            ]
            if known:
                axes.barh(
                    [y for y, _ in known], [v for _, v in known], width, color=colour,
                    alpha=0.5 if pale else 1.0, hatch=_HATCH if hatched else None,
                    edgecolor="white" if hatched else "none", linewidth=0,
                )  # fmt: skip
    _error_bars(axes, [(value, y, half) for y, _, value, half in drawn if half is not None])


def _rest(axes: Any, bars: list[Bar], values: list[float | None], unit: Unit) -> None:
    """Write what all other layers take together."""
    for row, (bar, value) in enumerate(zip(bars, values, strict=True)):
        if bar.kind == "rest" and value is not None:
            text = f"{value / unit.size:.3g} {unit.name}"
            axes.text(0.02, row, text, transform=axes.get_yaxis_transform(), va="center",
                      fontsize=SMALL_PT)  # fmt: skip


def _error_bars(axes: Any, known: list[tuple[float, Any, float]]) -> None:
    if known:
        x, y, half = zip(*known, strict=True)
        axes.errorbar(x, y, xerr=half, fmt="none", **_ERROR)


def _layers_legend(bars: list[Bar], words: str) -> tuple[list[Any], list[str], int]:
    from matplotlib.patches import Patch

    handles = [Patch(color=GROSS), Patch(color=DYNAMIC)]
    labels = [f"gross ({words})", "above idle"]
    if any(bar.doubtful for bar in bars):
        handles.append(Patch(facecolor=PALETTE[0], hatch=_HATCH, edgecolor="white", linewidth=0))
        labels.append("known together only")
    return handles, labels, 2 if len(labels) > 2 else len(labels)


def _shade(axes: Any, run: RunTables) -> None:
    """Shade the phases and name those that are long enough, above the curves."""
    found = phases.bands(run.series.spans)
    if not found:
        return
    whole = found[-1].end_s - found[0].start_s
    top = axes.get_ylim()[1]
    for band in found:
        axes.axvspan(band.start_s, band.end_s, color=band.colour, alpha=0.13, linewidth=0)
        text = name(band.word, 24)
        # A letter of this size is about 0.013 of the column wide.
        if len(text) * 0.0165 * whole < band.seconds:
            axes.text(
                (band.start_s + band.end_s) / 2, 0.985 * top, text, ha="center", va="top",
                fontsize=SMALL_PT,
            )  # fmt: skip
