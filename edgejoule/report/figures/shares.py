"""Shares of time beside shares of energy: by operation as bars, by layer as points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgejoule.report.figures.figure import Figure
from edgejoule.report.figures.names import plain, wrapped
from edgejoule.report.figures.parts import (
    PROPORTIONAL,
    Share,
    best_rollup,
    method_words,
    most_distant,
    operation_shares,
    shares,
    without_figure,
)
from edgejoule.report.figures.style import NEUTRAL, PALETTE, axis, counted, errors, five, frame
from edgejoule.report.tables import RunTables
from edgejoule.report.text import percent

MOST_OPERATIONS = 18
MOST_POINTS = 300
LABELLED = 5
TIME, GROSS, DYNAMIC = PALETTE[4], PALETTE[0], PALETTE[1]
_LABEL = 20
_LABEL_WIDE = 0.45  # of the plot's width on a phone


def operation_figure(run: RunTables) -> Figure | None:
    """Return time and energy by operation, as shares of an inference with their intervals."""
    rollup = best_rollup(run)
    parts = shares(run, rollup)
    rows = operation_shares(parts)
    if not rows:
        return None
    hidden = rows[MOST_OPERATIONS:]
    rows = rows[:MOST_OPERATIONS]
    title, said = "By operation", ["Shares of an inference by what its layers do"]
    traces = [("time", "time", TIME)]
    if rollup is not None:
        words = method_words(rollup)
        title = f"By operation (energy: {words})"
        traces += [("gross", "gross energy", GROSS), ("dynamic", "dynamic energy", DYNAMIC)]
        said[0] += f": time beside energy ({words})"
        if rollup.method == PROPORTIONAL:
            said.append("which follows time, so that the gross shares are the same")
    if not any(one.bar is not None and one.bar.kind == "gap" for one in parts):
        said.append("of the time in layers")
    data = [_bars(rows, *trace) for trace in traces]
    data = [trace for trace in data if any(value is not None for value in trace["x"])]
    note = "; ".join(said) + ". Ends: 95 % intervals within this process, summed up."
    if hidden:
        note += f" {len(hidden)} smaller operations are not shown."
    each = 13 * len(data) + 7
    layout = frame(
        run.marks,
        legend=True,
        barmode="overlay",
        xaxis=axis("share of an inference, %", rangemode="tozero", nticks=6),
        yaxis={
            **axis(""),
            "title": None,
            "tickmode": "array",
            "tickvals": list(range(len(rows))),
            "ticktext": [plain(one.name, 26) for one in rows],
            "range": [len(rows) - 0.45, -0.55],
            "fixedrange": True,
            "showgrid": False,
        },
    )
    height = 130 + each * max(3, len(rows))
    return Figure("operations", title, note, run.marks, tuple(data), layout, height)


def share_figure(run: RunTables) -> Figure | None:
    """Return each layer's share of time against its share of energy, with the diagonal."""
    rollup = best_rollup(run)
    if rollup is None:
        return None
    parts = [one for one in shares(run, rollup) if one.time is not None and one.gross is not None]
    if not parts:
        return None
    words = method_words(rollup)
    hidden = max(0, len(parts) - MOST_POINTS)
    parts = sorted(parts, key=lambda one: -(one.gross or 0.0))[:MOST_POINTS]
    most = max(max(one.time or 0.0, one.gross or 0.0) for one in parts)
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "the mean power",
            "x": [0, five(108 * most)],
            "y": [0, five(108 * most)],
            "line": {"color": NEUTRAL, "width": 1.2, "dash": "dash"},
            "hoverinfo": "skip",
        },
        _points(parts, "gross", "gross", GROSS),
        _points(parts, "dynamic", "dynamic (above idle)", DYNAMIC),
    ]
    data = [trace for trace in data if any(value is not None for value in trace["y"])]
    note = (
        f"Share of time against share of energy ({words}): above the line a layer draws more "
        "power than the mean of the inference, below it less; the farthest are named. Dynamic "
        "energy: a click on its name."
    )
    if rollup.method == PROPORTIONAL:
        note += " Split by time, gross energy lies on the line by construction."
    if any(one.bar is not None and one.bar.doubtful for one in parts):
        note += " Hollow: several layers known together only, or not told from the others."
    absent = without_figure(rollup)
    if absent:
        note += f" Not in it: {counted(absent, 'layer')} without a figure."
    if hidden:
        note += f" {hidden} smaller ones are not shown."
    layout = frame(
        run.marks,
        legend=True,
        xaxis=axis("share of time, %", nticks=7, range=[five(-5 * most), five(110 * most)]),
        yaxis=axis("share of energy, %", nticks=7),
        annotations=_labels(parts, most),
    )
    return Figure(
        "shares", f"Time against energy ({words})", note, run.marks, tuple(data), layout, 460
    )


@dataclass(frozen=True)
class Label:
    """A name in the figure.

    Attributes:
        share: Of what.
        up: It stands up and left of its point, else down and right: both off the diagonal, along
            which points crowd.
    """

    share: Share
    up: bool


def placed_labels(parts: Sequence[Share], most: float) -> list[Label]:
    """Return the farthest layers that have room for a name, also on a phone.

    Args:
        parts: Shares with time and energy.
        most: The greatest share, the length of an axis.
    """
    spots = [((one.time or 0.0) / most, (one.gross or 0.0) / most) for one in parts]
    taken: list[tuple[float, float]] = []
    placed: list[Label] = []
    for one in most_distant(parts, 4 * LABELLED):
        x, y = (one.time or 0.0) / most, (one.gross or 0.0) / most
        for up in (True, False):
            if not (x >= _LABEL_WIDE - 0.05 if up else x <= 1.1 - _LABEL_WIDE):
                continue
            middle = (x - _LABEL_WIDE / 2, y + 0.05) if up else (x + _LABEL_WIDE / 2, y - 0.05)
            if any(_meet(middle, other, _LABEL_WIDE) for other in taken):
                continue
            if any(_meet(middle, spot, _LABEL_WIDE / 2) for spot in spots if spot != (x, y)):
                continue
            placed.append(Label(one, up))
            taken.append(middle)
            break
        if len(placed) == LABELLED:
            break
    return placed


def _meet(one: tuple[float, float], other: tuple[float, float], wide: float) -> bool:
    return abs(one[0] - other[0]) < wide and abs(one[1] - other[1]) < 0.06


def _labels(parts: Sequence[Share], most: float) -> list[dict[str, Any]]:
    return [
        {
            "x": five(100 * (label.share.time or 0.0)),
            "y": five(100 * (label.share.gross or 0.0)),
            "text": plain(label.share.name, _LABEL),
            "font": {"size": 11},
            "showarrow": False,
            "xanchor": "right" if label.up else "left",
            "yanchor": "bottom" if label.up else "top",
            "yshift": 3 if label.up else -3,
        }
        for label in placed_labels(parts, most)
    ]


def _bars(rows: Sequence[Share], field: str, name: str, colour: str) -> dict[str, Any]:
    count = {"time": 0, "gross": 1, "dynamic": 2}[field]
    values = [getattr(one, field) for one in rows]
    halves = [getattr(one, f"{field}_half") for one in rows]
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": [_percent(value) for value in values],
        "y": list(range(len(rows))),
        "width": 0.25,
        "offset": -0.39 + 0.26 * count,
        "marker": {"color": colour},
        "hoverinfo": "text",
        "hovertext": [
            f"{wrapped(one.name)}<br>{name} {percent(value)}"
            + ("" if half is None else f" ± {100 * half:.2g}")
            + " %"
            for one, value, half in zip(rows, values, halves, strict=True)
        ],
        **errors([_percent(half) for half in halves]),
    }


def _points(parts: Sequence[Share], field: str, name: str, colour: str) -> dict[str, Any]:
    values = [getattr(one, field) for one in parts]
    hollow = [one.bar is not None and one.bar.doubtful for one in parts]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [_percent(one.time) for one in parts],
        "y": [_percent(value) for value in values],
        "marker": {
            "color": colour,
            "size": 8,
            "symbol": ["circle-open" if open_ else "circle" for open_ in hollow],
            "line": {"width": 1.3, "color": colour},
        },
        "hoverinfo": "text",
        "hovertext": [_hover(one) for one in parts],
        **errors([_percent(getattr(one, f"{field}_half")) for one in parts], "y"),
    }
    if field == "dynamic":
        trace["visible"] = "legendonly"
    return trace


def _hover(one: Share) -> str:
    """Return what both points of a layer say, so that the page holds it once."""
    lines = [wrapped(one.name), f"{percent(one.time)} % of the time"]
    for word, value, mean in (
        ("gross", one.gross, "mean power"),
        ("dynamic", one.dynamic, "mean above idle"),
    ):
        if value is not None:
            lines.append(f"{word} energy {percent(value)} %")
            if one.time:
                lines[-1] += f": {value / one.time:.3g} times the {mean}"
    if one.bar is not None and one.bar.doubtful:
        lines.append("known together only, or not told from the others")
    return "<br>".join(lines)


def _percent(share: float | None) -> float | int | None:
    return None if share is None else five(100 * share)
