"""Runs against each other: latency against energy with the best ones, throughput against power.

mJ |  x                     colour: network    symbol: precision    hollow: simulated
   |  |     x               x broken, in no front
   |  `-----.    x
   |        `--------       the front: nothing is both faster and takes less
   +---------------- ms
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgejoule.report.figures.figure import Figure
from edgejoule.report.figures.names import plain, wrapped
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
from edgejoule.report.figures.style import (
    ENERGY,
    NEUTRAL,
    POWER,
    TIME,
    Unit,
    axis,
    counted,
    errors,
    five,
    frame,
    log_axis,
    unit_for,
)
from edgejoule.report.overview import Overview
from edgejoule.report.text import energy, ms, power

_BROKEN = "x-thin"
_LABELLED = 12
_NAME = 16


def dataset_figures(overviews: Sequence[Overview]) -> tuple[Figure, ...]:
    """Return the figures that compare runs; `customdata[i][0]` is a run's index in `overviews`."""
    found = [
        _pareto(overviews, "pareto", "gross", gross_per_image, gross_half_per_image),
        _pareto(overviews, "pareto-dynamic", "dynamic", dynamic_per_image, dynamic_half_per_image),
        _throughput(overviews),
    ]
    return tuple(one for one in found if one is not None)


def _pareto(
    overviews: Sequence[Overview], key: str, word: str, value: Value, half: Value
) -> Figure | None:
    chosen = [
        place
        for place, one in enumerate(overviews)
        if one.p50_ms is not None and value(one) is not None
    ]
    if not chosen:
        return None
    x_unit = unit_for((overviews[k].p50_ms for k in chosen), TIME)
    y_unit = unit_for((value(overviews[k]) for k in chosen), ENERGY)
    measured, simulated = fronts(overviews, value)
    spots = {
        k: (_known(x_unit.of(overviews[k].p50_ms)), _known(y_unit.of(value(overviews[k]))))
        for k in chosen
    }
    lines = [
        _front([spots[k] for k in places], list(spots.values()), name, dash)
        for places, name, dash in (
            (measured, "the best", "solid"),
            (simulated, "the best SIMULATED", "dot"),
        )
        if places
    ]
    points = _points(overviews, chosen, lambda one: one.p50_ms, value, half, x_unit, y_unit)
    names = f"energy per image, {word}, {y_unit.name}"
    layout = _frame(
        overviews,
        chosen,
        points,
        f"latency of an inference (p50), {x_unit.name}",
        names,
    )
    layout["annotations"] = _names(overviews, [*measured, *simulated], spots, layout)
    note = (
        f"Latency against {word} energy per image of the clean pass. The line joins the runs that "
        "no other beats in both; colours are networks, symbols precisions."
    )
    note += _cautions(overviews, chosen)
    title = f"Latency against energy ({word})"
    data = (*lines, *points, *_key(overviews, chosen))
    return Figure(
        key, title, note, dataset_marks([overviews[k] for k in chosen]), data, layout, 520
    )


def _throughput(overviews: Sequence[Overview]) -> Figure | None:
    chosen = [
        place
        for place, one in enumerate(overviews)
        if one.throughput_hz is not None and one.mean_w is not None
    ]
    if not chosen:
        return None
    x_unit, y_unit = (
        Unit("images per s", 1.0),
        unit_for((overviews[k].mean_w for k in chosen), POWER),
    )
    points = _points(
        overviews,
        chosen,
        lambda one: one.throughput_hz,
        lambda one: one.mean_w,
        lambda one: None,
        x_unit,
        y_unit,
    )
    names = f"mean power, {y_unit.name}"
    layout = _frame(overviews, chosen, points, "throughput, images per s", names)
    note = "Throughput against mean power of the clean pass; further down and right is better."
    note += _cautions(overviews, chosen)
    marks = dataset_marks([overviews[k] for k in chosen])
    data = (*points, *_key(overviews, chosen))
    return Figure("throughput-power", "Throughput against power", note, marks, data, layout, 460)


def _points(
    overviews: Sequence[Overview],
    chosen: Sequence[int],
    x: Value,
    y: Value,
    half: Value,
    x_unit: Unit,
    y_unit: Unit,
) -> list[dict[str, Any]]:
    """Return one trace per network."""
    colours = network_colours(overviews)
    symbols = precision_symbols(overviews[k] for k in chosen)
    found = []
    for model, colour in colours.items():
        places = [k for k in chosen if overviews[k].model == model]
        # The legend takes the first one's symbol.
        places.sort(key=lambda k: (overviews[k].verdict == "broken", overviews[k].simulated, k))
        if not places:
            continue
        runs = [overviews[k] for k in places]
        found.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plain(model, _NAME),
                "meta": {"runs": "points"},
                "x": [x_unit.of(x(one)) for one in runs],
                "y": [y_unit.of(y(one)) for one in runs],
                "customdata": [[place] for place in places],
                "marker": {
                    "color": colour,
                    "size": 11,
                    "symbol": [_symbol(one, symbols) for one in runs],
                    "line": {"width": 1.6, "color": colour},
                },
                "hoverinfo": "text",
                "hovertext": [_hover(one) for one in runs],
                **errors([y_unit.of(half(one)) for one in runs], "y"),
            }
        )
    return found


def _symbol(one: Overview, symbols: dict[str | None, str]) -> str:
    if one.verdict == "broken":
        return _BROKEN
    return f"{symbols[one.dtype]}-open" if one.simulated else symbols[one.dtype]


def _front(
    best: Sequence[tuple[float, float]],
    every: Sequence[tuple[float, float]],
    name: str,
    dash: str,
) -> dict[str, Any]:
    """Return the step line through the best, out to what all runs reach."""
    right, top = max(x for x, _ in every), max(y for _, y in every)
    line = [(best[0][0], max(top, best[0][1])), *best, (max(right, best[-1][0]), best[-1][1])]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "meta": {"runs": "front"},
        "x": [x for x, _ in line],
        "y": [y for _, y in line],
        "line": {"shape": "hv", "color": NEUTRAL, "width": 1.6, "dash": dash},
        "hoverinfo": "skip",
    }


def _known(value: float | None) -> float:
    return 0.0 if value is None else value


def _key(overviews: Sequence[Overview], chosen: Sequence[int]) -> list[dict[str, Any]]:
    """Return traces without points, which explain the symbols in the legend."""
    runs = [overviews[k] for k in chosen]
    words = [
        (symbol, plain(dtype or "unknown precision", 20))
        for dtype, symbol in precision_symbols(runs).items()
    ]
    if any(one.simulated for one in runs):
        words.append(("circle-open", "hollow: SIMULATED"))
    if any(one.verdict == "broken" for one in runs):
        words.append((_BROKEN, "broken run"))
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": word,
            "meta": {"runs": "key"},
            "x": [None],
            "y": [None],
            "marker": {
                "symbol": symbol,
                "color": NEUTRAL,
                "size": 10,
                "line": {"width": 1.6, "color": NEUTRAL},
            },
            "hoverinfo": "skip",
        }
        for symbol, word in words
    ]


def _frame(
    overviews: Sequence[Overview],
    chosen: Sequence[int],
    points: Sequence[dict[str, Any]],
    x_title: str,
    y_title: str,
) -> dict[str, Any]:
    def made(title: str, name: str) -> dict[str, Any]:
        values = [float(value) for trace in points for value in trace[name]]
        if not spread(values):
            return axis(title, rangemode="tozero")
        found = log_axis(title, values)
        found["range"][0] = five(found["range"][0] - 0.06 * (found["range"][1] - found["range"][0]))
        return found

    marks = dataset_marks([overviews[k] for k in chosen])
    made_up = frame(marks, legend=True, xaxis=made(x_title, "x"), yaxis=made(y_title, "y"))
    made_up["legend"] |= {"entrywidth": 98, "font": {"size": 10}}  # two columns on a phone
    return made_up


def _names(
    overviews: Sequence[Overview],
    places: Sequence[int],
    spots: Mapping[int, tuple[float, float]],
    layout: dict[str, Any],
) -> list[dict[str, Any]]:
    """Return the names of the networks on the fronts, as far as they do not meet.

    They stand below their points: what is beaten lies above.
    """
    log_x, log_y = (layout[name].get("type") == "log" for name in ("xaxis", "yaxis"))
    scaled = _unit_square([spots[k] for k in places], layout)
    placed: list[tuple[float, float]] = []
    found = []
    for place, (u, v) in zip(places, scaled, strict=True):
        if len(placed) == _LABELLED or any(
            abs(u - a) < 0.4 and abs(v - b) < 0.07 for a, b in placed
        ):
            continue
        placed.append((u, v))
        x, y = spots[place]
        found.append(
            {
                "x": five(math.log10(x)) if log_x else x,
                "y": five(math.log10(y)) if log_y else y,
                "text": plain(overviews[place].model, _NAME),
                "font": {"size": 11},
                "showarrow": False,
                "xanchor": "right" if u > 0.4 else "left",
                "yanchor": "top",
                "yshift": -6,
            }
        )
    return found


def _unit_square(
    spots: Sequence[tuple[float, float]], layout: dict[str, Any]
) -> list[tuple[float, float]]:
    columns = []
    for k, name in enumerate(("xaxis", "yaxis")):
        values = [spot[k] for spot in spots]
        if layout[name].get("type") == "log":
            low, high = layout[name]["range"]
            columns.append([(math.log10(value) - low) / (high - low) for value in values])
        else:
            most = max(values, default=1.0) or 1.0
            columns.append([value / most for value in values])
    return list(zip(*columns, strict=True))


def _cautions(overviews: Sequence[Overview], chosen: Sequence[int]) -> str:
    runs = [overviews[k] for k in chosen]
    said = ""
    if any(one.simulated for one in runs):
        said += " Hollow: SIMULATED power, with a line of its own (dotted)."
    if any(one.verdict == "broken" for one in runs):
        said += " Broken runs are crosses and on no line."
    rails = {(one.device or "", one.rail or "") for one in runs}
    if len({rail for _, rail in rails}) > 1:
        said += " The energies are of different rails, so do not stand for the same hardware."
    elif len(rails) > 1:
        said += " The runs are of different devices."
    if len({one.batch for one in runs}) > 1:
        said += " Latency is of an inference, whatever its batch."
    absent = len(overviews) - len(runs)
    if absent:
        said += f" Not in it for want of a figure: {counted(absent, 'run')}."
    return said


def _hover(one: Overview) -> str:
    lines = [f"<b>{wrapped(one.run)}</b>"]
    kind = [one.backend, one.dtype, f"batch {one.batch}"]
    lines.append(plain(", ".join(word for word in kind if word), 44))
    where = ", ".join(word for word in (one.mode, one.board or one.device) if word)
    if where:
        lines.append(plain(where, 44))
    lines.append(f"p50 {ms(one.p50_ms)} ms")
    if one.p99_ms is not None:
        lines[-1] += f", p99 {ms(one.p99_ms)} ms"
    gross = gross_per_image(one)
    if gross is not None:
        lines.append(f"{energy(gross, gross_half_per_image(one))} per image")
    if dynamic_per_image(one) is not None:
        lines.append(f"{energy(dynamic_per_image(one), dynamic_half_per_image(one))} above idle")
    if one.mean_w is not None:
        lines.append(f"mean {power(1e3 * one.mean_w)}")
        if one.rail:
            lines[-1] += f" on {plain(one.rail, 24)}"
    lines += [f"<b>{plain(mark, 40)}</b>" for mark in one.marks]
    if one.verdict != "sound":
        lines.append(f"{plain(one.verdict, 20)}: {wrapped('; '.join(one.reasons), most=120)}")
    return "<br>".join(lines)
