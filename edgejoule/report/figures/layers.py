"""Layers as bars: by time, and by energy. The slowest are named, the rest is one bar."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from edgejoule.energy.rollup import Rollup
from edgejoule.report.figures.figure import Figure
from edgejoule.report.figures.names import plain, wrapped
from edgejoule.report.figures.parts import (
    PROPORTIONAL,
    Bar,
    best_rollup,
    energy_bars,
    method_words,
    time_bars,
    without_figure,
)
from edgejoule.report.figures.style import (
    ENERGY,
    NEUTRAL,
    PALETTE,
    TIME,
    axis,
    colours_of,
    counted,
    errors,
    five,
    frame,
    unit_for,
)
from edgejoule.report.tables import RunTables
from edgejoule.report.text import energy, ms, percent, power

MOST = 25
GROSS, DYNAMIC = PALETTE[0], PALETTE[1]
HATCH = "/"
_ROW_PX = 19


def time_figure(run: RunTables) -> Figure | None:
    """Return the layers that take the most time, coloured by what they do."""
    bars = time_bars(run, MOST)
    if not bars:
        return None
    unit = unit_for((bar.time_ms for bar in bars), TIME)
    operations = list(dict.fromkeys(bar.operation for bar in bars if bar.kind != "rest"))
    colours = colours_of(operations)
    data = []
    for operation in operations:
        of_it = [
            (place, bar)
            for place, bar in enumerate(bars)
            if bar.kind != "rest" and bar.operation == operation
        ]
        data.append(_time_trace(run, of_it, operation, colours[operation], unit.name, unit.size))
    rest = [(place, bar) for place, bar in enumerate(bars) if bar.kind == "rest"]
    if rest:
        trace = _time_trace(run, rest, "all others", NEUTRAL, unit.name, unit.size)
        data.append({**trace, "opacity": 0.55})
    note = "Mean time of each layer per profiled inference, the slowest first"
    if any(bar.time_half_ms is not None for bar in bars):
        note += "; bars at the ends: 95 % interval of the mean within this process"
    layout = _layout(run, bars, f"time per inference, {unit.name}")
    return Figure(
        "layers-time", "Layers by time", f"{note}.", run.marks, tuple(data), layout, height(bars)
    )


def energy_figure(run: RunTables) -> Figure | None:
    """Return what takes the most energy: gross and dynamic, groups hatched, by the best method."""
    rollup = best_rollup(run)
    if rollup is None:
        return None
    bars = energy_bars(run, rollup, MOST)
    unit = unit_for((bar.amount.gross_mj for bar in bars), ENERGY)
    hover = [_energy_hover(bar, rollup) for bar in bars]
    data = [
        _energy_trace(bars, hover, unit.size, kind="gross"),
        _energy_trace(bars, hover, unit.size, kind="dynamic"),
    ]
    data = [trace for trace in data if any(value is not None for value in trace["x"])]
    words = method_words(rollup)
    layout = _layout(run, bars, f"energy per inference, {unit.name}", hatch=True)
    # Short lines: labels leave the plot, under which they are centred, little room on a phone.
    below = [*textwrap.wrap(f"({words},", 20), f"rail {plain(rollup.rail, 18)})"]
    layout["xaxis"]["title"]["text"] += "".join(f"<br>{line}" for line in below)
    return Figure(
        "layers-energy",
        f"Layers by energy ({words})",
        _energy_note(bars, rollup),
        run.marks,
        tuple(data),
        layout,
        height(bars) + 30,
    )


def height(bars: Sequence[Bar]) -> int:
    """Return the height for so many bars."""
    return 130 + _ROW_PX * max(4, len(bars))


def _time_trace(
    run: RunTables,
    placed: Sequence[tuple[int, Bar]],
    name: str,
    colour: str,
    unit: str,
    size: float,
) -> dict[str, Any]:
    rows = {layer.index: layer for layer in run.layers}
    hover = []
    for _, bar in placed:
        half = "" if bar.time_half_ms is None else f" ± {bar.time_half_ms / size:.2g}"
        lines = [wrapped(bar.name), f"{(bar.time_ms or 0.0) / size:.4g}{half} {unit}"]
        row = rows.get(bar.layers[0]) if bar.kind == "layer" else None
        if row is not None:
            if row.share is not None:
                lines[-1] += f", {percent(row.share)} % of an inference"
            lines += [f"median {ms(row.median_ms)} ms", f"module {wrapped(row.module)}"]
            lines.append(f"{plain(bar.operation, 40)} ({plain(row.type or 'unknown type', 40)})")
        hover.append("<br>".join(lines))
    return {
        "type": "bar",
        "orientation": "h",
        "name": plain(name, 24),
        "x": [_scaled(bar.time_ms, size) for _, bar in placed],
        "y": [place for place, _ in placed],
        "width": 0.76,
        "marker": {"color": colour},
        "hoverinfo": "text",
        "hovertext": hover,
        **errors([_scaled(bar.time_half_ms, size) for _, bar in placed]),
    }


def _energy_trace(
    bars: Sequence[Bar], hover: Sequence[str], size: float, *, kind: str
) -> dict[str, Any]:
    gross = kind == "gross"
    colour = GROSS if gross else DYNAMIC
    values = [bar.amount.gross_mj if gross else bar.amount.dynamic_mj for bar in bars]
    halves = [bar.amount.gross_half_mj if gross else bar.amount.dynamic_half_mj for bar in bars]
    return {
        "type": "bar",
        "orientation": "h",
        "name": "gross" if gross else "dynamic (above idle)",
        "x": [_scaled(value, size) for value in values],
        "y": list(range(len(bars))),
        "width": 0.36,
        "offset": -0.38 if gross else 0.02,
        "marker": {
            "color": colour,
            "opacity": [0.5 if bar.kind in {"rest", "gap"} else 1 for bar in bars],
            "pattern": {
                "shape": [HATCH if bar.doubtful else "" for bar in bars],
                "fillmode": "overlay",
                "size": 5,
                "solidity": 0.3,
                "fgcolor": "#ffffff",
            },
        },
        "hoverinfo": "text",
        "hovertext": list(hover),
        **errors([_scaled(half, size) for half in halves]),
    }


def _energy_hover(bar: Bar, rollup: Rollup) -> str:
    amount = bar.amount
    lines = [wrapped(bar.name)]
    lines.append(f"gross {energy(amount.gross_mj, amount.gross_half_mj)}")
    whole = rollup.closure.gross_mj
    if whole and amount.gross_mj is not None:
        lines[-1] += f", {percent(amount.gross_mj / whole)} % of all"
    if amount.dynamic_mj is not None:
        lines.append(f"dynamic {energy(amount.dynamic_mj, amount.dynamic_half_mj)}")
    if amount.power_gross_mw is not None:
        lines.append(f"{ms(amount.time_ms)} ms at {power(amount.power_gross_mw)}")
    if bar.kind == "group":
        lines.append("known together only: one number for all")
    elif bar.resolved is False:
        lines.append("not resolved: not told from the others")
    return "<br>".join(lines)


def _energy_note(bars: Sequence[Bar], rollup: Rollup) -> str:
    said = ["Energy per inference of the profiled pass, the most first; dynamic is above idle."]
    if any(
        b.amount.gross_half_mj is not None or b.amount.dynamic_half_mj is not None for b in bars
    ):
        said.append("Bars at the ends are 95 % intervals within this process.")
    if rollup.method == PROPORTIONAL:
        said.append("Split in proportion to time, which tells no layer's power from another's.")
    if any(bar.doubtful for bar in bars):
        said.append(
            "Hatched: layers that are known together only, or that are not told from the others."
        )
    absent = without_figure(rollup)
    if absent:
        said.append(f"Without a figure and a bar: {counted(absent, 'layer')} not resolved.")
    return " ".join(said)


def _layout(run: RunTables, bars: Sequence[Bar], title: str, *, hatch: bool = False) -> Any:
    labels = []
    for bar in bars:
        name = bar.name
        if hatch and bar.kind == "group" and len(bar.layers) > 1:
            name = f"{len(bar.layers)} together: {name.partition(': ')[2]}"
        labels.append(plain(name))
    return frame(
        run.marks,
        legend=True,
        barmode="overlay",
        bargap=0.2,
        xaxis=axis(title, nticks=6, rangemode="tozero"),
        yaxis={
            **axis(""),
            "title": None,
            "tickmode": "array",
            "tickvals": list(range(len(bars))),
            "ticktext": labels,
            "range": [len(bars) - 0.4, -0.6],
            "fixedrange": True,
            "showgrid": False,
        },
    )


def _scaled(value: float | None, size: float) -> float | int | None:
    return None if value is None else five(value / size)
