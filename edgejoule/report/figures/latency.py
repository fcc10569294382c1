"""Latency: how it is distributed in each pass, and how it drifts over the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgejoule.report.figures import phases
from edgejoule.report.figures.figure import Figure
from edgejoule.report.figures.names import plain
from edgejoule.report.figures.over_time import band_outline, times
from edgejoule.report.figures.style import (
    NEUTRAL,
    PALETTE,
    TIME,
    Unit,
    axis,
    curve,
    faded,
    five,
    fives,
    frame,
    unit_for,
)
from edgejoule.report.series import PassLatency
from edgejoule.report.tables import RunTables, number, part

if TYPE_CHECKING:
    import numpy as np

_COLOURS = {
    "warmup": PALETTE[1],
    "clean": PALETTE[0],
    "rate": PALETTE[7],
    "profiled": PALETTE[2],
}
_IN_HISTOGRAM = ("clean", "rate", "profiled")
_LINES = (("p50", "median_ms", "solid"), ("p90", "p90_ms", "dash"), ("p99", "p99_ms", "dot"))


def latency_figures(run: RunTables) -> list[Figure]:
    """Return the histogram and the drift, as far as there are inferences."""
    return [one for one in (_histogram(run), _drift(run)) if one is not None]


def _name(one: PassLatency) -> str:
    return plain({"warmup": "warm-up"}.get(one.name, one.name), 20)


def _colour(one: PassLatency) -> str:
    return _COLOURS.get(one.name, NEUTRAL)


def density(one: PassLatency) -> np.ndarray:
    """Return the share of a pass's inferences per ms of latency, in each bin, 1/ms."""
    import numpy as np

    widths = np.diff(one.edges_ms)
    return np.asarray(one.counts / max(1, one.count) / np.where(widths > 0, widths, np.nan))


def _histogram(run: RunTables) -> Figure | None:
    shown = [
        one
        for one in run.series.latency
        if one.name in _IN_HISTOGRAM and one.count and len(one.counts)
    ]
    if not shown:
        return None
    unit = unit_for((float(one.edges_ms[-1]) for one in shown), TIME)
    data: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    highest = max(float(density(one).max()) for one in shown)
    top = five(100 * highest * unit.size) or 1
    for one in shown:
        data.append(_outline(one, unit))
        for place, (word, key, dash) in enumerate(_LINES):
            value = number(part(run.summary, one.name), key)
            if value is None or value > float(one.edges_ms[-1]):
                continue
            text = f"{_name(one)}: {word} {value / unit.size:.4g} {unit.name}"
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "legendgroup": _name(one),
                    "showlegend": False,
                    "name": text,
                    "x": [unit.of(value)] * 2,
                    "y": [0, five(float(top) * 1.12)],
                    "line": {"color": _colour(one), "width": 1.4, "dash": dash},
                    "hoverinfo": "text",
                    "hovertext": [text] * 2,
                }
            )
            if one is shown[0]:
                annotations.append(
                    {
                        "text": word,
                        "x": unit.of(value),
                        "y": five(float(top) * (1.12 - 0.085 * place)),
                        "xanchor": "left",
                        "yanchor": "top",
                        "xshift": 1,
                        "showarrow": False,
                        "font": {"size": 11, "color": _colour(one)},
                    }
                )
    note = "How the latency of an inference is distributed"
    lines = "; lines: p50 (whole), p90 (dashed), p99 (dotted)" if len(data) > len(shown) else ""
    note += f"{lines}."
    beyond = [f"{one.beyond} of {one.count} ({one.name})" for one in shown if one.beyond]
    if beyond:
        note += f" Slower than the last bin: {', '.join(beyond)}."
    layout = frame(
        run.marks,
        legend=True,
        xaxis=axis(f"latency of an inference, {unit.name}", nticks=8),
        yaxis=axis(f"inferences, % per {unit.name}", rangemode="tozero", nticks=6),
        annotations=annotations,
    )
    return Figure("latency", "Latency", note, run.marks, tuple(data), layout, 380)


def _outline(one: PassLatency, unit: Unit) -> dict[str, Any]:
    """Return the histogram as a stepped area: at each edge the height of the bin after it."""
    heights = 100 * density(one) * unit.size
    last = heights[-1:]
    counts = [f"{int(count)} inferences" for count in one.counts]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"{_name(one)} ({one.count} inferences)",
        "legendgroup": _name(one),
        "x": fives([one.edges_ms[0] / unit.size, *(one.edges_ms / unit.size)]),
        "y": fives([0.0, *heights, 0.0 * last[0]]),
        "line": {"shape": "hv", "color": _colour(one), "width": 1.5},
        "fill": "tozeroy",
        "fillcolor": faded(_colour(one), 0.25),
        "hoverinfo": "text+name",
        "hovertext": ["", *counts, ""],
    }


def _drift(run: RunTables) -> Figure | None:
    shown = [one for one in run.series.latency if len(one.t_s)]
    if not shown:
        return None
    unit = unit_for((float(value) for one in shown for value in one.p90_ms), TIME)
    data: list[dict[str, Any]] = []
    for one in shown:
        x, y = band_outline(one.t_s, one.p10_ms / unit.size, one.p90_ms / unit.size)
        shared = {"type": "scatter", "mode": "lines", "legendgroup": _name(one)}
        data += [
            {
                **shared,
                "name": f"{_name(one)}, p10 to p90",
                "showlegend": False,
                "x": x,
                "y": y,
                "fill": "toself",
                "fillcolor": faded(_colour(one), 0.25),
                "line": {"width": 0, "color": _colour(one)},
                "hoverinfo": "skip",
            },
            {
                **shared,
                "name": _name(one),
                "mode": "lines" if len(one.t_s) > 1 else "markers",
                "x": times(one.t_s),
                "y": curve(one.median_ms / unit.size),
                "line": {"width": 1.6, "color": _colour(one)},
                "marker": {"color": _colour(one)},
                "hovertemplate": f"%{{y:.4g}} {unit.name} at %{{x:.4g}} s"
                "<extra>%{fullData.name}</extra>",
            },
        ]
    found = phases.bands(run.series.spans)
    layout = frame(
        run.marks,
        legend=True,
        xaxis=axis("time since the run began, s", nticks=8),
        yaxis=axis(f"latency, {unit.name}", rangemode="tozero", nticks=7),
        shapes=phases.shades(
            [
                band
                for band in found
                if any(band.start_s <= one.t_s[0] <= band.end_s for one in shown)
            ]
        ),
    )
    note = "Median latency of each stretch of a pass, with the band from p10 to p90."
    return Figure("drift", "Latency over time", note, run.marks, tuple(data), layout, 340)
