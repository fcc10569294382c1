"""Figures over a run's time: power of the rails, clocks, temperatures, loads, memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgejoule.report.figures import phases
from edgejoule.report.figures.figure import Figure
from edgejoule.report.figures.names import plain
from edgejoule.report.figures.style import (
    FREQUENCY,
    MEMORY,
    PALETTE,
    POWER,
    Unit,
    axis,
    curve,
    faded,
    five,
    frame,
    unit_for,
)
from edgejoule.report.series import ConditionSeries, RailSeries
from edgejoule.report.series_conditions import thinned
from edgejoule.report.tables import TOTAL, RunTables

if TYPE_CHECKING:
    import numpy as np

POWER_COLUMNS = 1000  # of all rails together: each costs the page some 40 bytes
CONDITION_POINTS = 2400  # of all columns together
MOST_POINTS = 240  # of one
_FEWEST = 100
_DASHES = ("solid", "dot", "dash")
# What is drawn together, in the order from the top.
_CLIMATE = ("clock", "temperature", "throttling", "fan")
_TABLES = {"Hz": FREQUENCY, "MiB": MEMORY}
_BASES = {name: base for base, table in _TABLES.items() for name, _ in table}
_SIZES = {name: size for table in _TABLES.values() for name, size in table}
_WORDS = {
    "clock": "clock",
    "temperature": "temperature",
    "throttling": "throttling",
    "fan": "fan",
    "load": "load",
    "memory": "memory",
    "other": "other",
    "memory left": "free",
}


def power_figure(run: RunTables) -> Figure | None:
    """Return the power trace: each rail's mean with the band of its readings, phases behind."""
    rails = rails_to_draw(run.series.power)
    if not rails:
        return None
    most = max(_FEWEST, POWER_COLUMNS // len(rails))
    reduced = [(name, reduce_rail(one, most)) for name, one in rails]
    unit = unit_for((float(v) for _, one in reduced for v in _finite(one.high_w)), POWER)
    data: list[dict[str, Any]] = []
    colours = rail_colours([one.rail for _, one in reduced])
    for name, one in reduced:
        data += _rail(one, name, colours[one.rail], unit)
    words = "mean with the band from the least to the greatest reading"
    note = f"Power of each rail over the run: {words} of each stretch; phases are shaded. "
    note += "A click on a rail's name shows or hides it."
    failed = sum(one.failed for one in run.series.power)
    if failed:
        note += f" {failed} reads failed."
    height = 420
    layout = _time_layout(run, height, [(f"power, {unit.name}", {"rangemode": "tozero"})])
    strips = _strip(run)
    return Figure("power", "Power over time", note, run.marks, (*data, *strips), layout, height)


def rail_colours(rails: Sequence[str]) -> dict[str, str]:
    """Return a colour for each rail: the total has the first."""
    others = [rail for rail in rails if rail != TOTAL]
    free = PALETTE[1:]
    found = {rail: free[place % len(free)] for place, rail in enumerate(others)}
    return {**found, TOTAL: PALETTE[0]}


def reduce_rail(series: RailSeries, most: int) -> RailSeries:
    """Return a series of at most `most` columns; gaps (NaN) stay gaps, peaks stay peaks."""
    import numpy as np

    size = len(series.t_s)
    step = math.ceil(size / most)
    if step < 2:
        return series
    known = np.isfinite(series.mean_w)
    # A stretch that was read and one that was not (a gap) share no column.
    edges = np.flatnonzero(np.diff(known.astype(np.int8))) + 1
    stretches = zip((0, *edges.tolist()), (*edges.tolist(), size), strict=True)
    starts = np.concatenate(
        [np.arange(start, end, step if known[start] else end - start) for start, end in stretches]
    )
    lengths = np.diff(np.append(starts, size))
    mean = np.add.reduceat(series.mean_w, starts) / lengths
    t_s = np.add.reduceat(series.t_s, starts) / lengths
    low, high = np.fmin.reduceat(series.low_w, starts), np.fmax.reduceat(series.high_w, starts)
    return RailSeries(
        series.rail, t_s, mean, low, high, series.readings, series.failed, series.peak_w
    )


def rails_to_draw(power: Sequence[RailSeries]) -> list[tuple[str, RailSeries]]:
    """Return the rails that hold anything with their names, not escaped; the total last, on top.

    The one rail that the total consists of is left out and stands in the total's name: drawn below
    it, nobody would see it.
    """
    import numpy as np

    rails = [one for one in power if _any(one.mean_w)]
    total = next((one for one in rails if one.rail == TOTAL), None)
    if total is None:
        return [(one.rail, one) for one in rails]
    same = [
        one
        for one in rails
        if one is not total
        and len(one.t_s) == len(total.t_s)
        and np.allclose(one.mean_w, total.mean_w, rtol=1e-9, equal_nan=True)
    ][:1]
    others = [(one.rail, one) for one in rails if not any(one is other for other in (total, *same))]
    return [*others, (" = ".join([TOTAL, *(one.rail for one in same)]), total)]


def _rail(one: RailSeries, shown: str, colour: str, unit: Unit) -> list[dict[str, Any]]:
    name, size = plain(shown, 30), unit.size
    is_total = one.rail == TOTAL
    shared = {"type": "scatter", "mode": "lines", "legendgroup": f"rail {name}"}
    x, y = band_outline(one.t_s, one.low_w / size, one.high_w / size)
    rank = 1 if is_total else 1000
    return [
        {
            **shared,
            "name": f"{name}, least to greatest",
            "showlegend": False,
            "x": x,
            "y": y,
            "fill": "toself",
            "fillcolor": faded(colour, 0.22),
            "line": {"width": 0, "color": colour},
            "hoverinfo": "skip",
        },
        {
            **shared,
            "name": name,
            "legendrank": rank,
            "x": times(one.t_s),
            "y": curve(one.mean_w / size),
            "line": {"width": 2 if is_total else 1.4, "color": colour},
            "connectgaps": False,
            "hovertemplate": f"%{{y:.4g}} {unit.name}<extra>%{{fullData.name}}</extra>",
        },
    ]


def band_outline(t_s: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[list[Any], list[Any]]:
    """Return the outline of a band, one closed piece per stretch without a gap."""
    import numpy as np

    known = np.isfinite(low) & np.isfinite(high)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], known, [False])).astype(np.int8)))
    x: list[Any] = []
    y: list[Any] = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if x:
            x.append(None)
            y.append(None)
        piece = times(t_s[start:end])
        x += [*piece, *piece[::-1]]
        y += [*curve(low[start:end]), *curve(high[start:end][::-1])]
    return x, y


def times(t_s: np.ndarray) -> list[Any]:
    """Return times in s, to half a pixel of a wide figure, short in JSON."""
    span = float(t_s[-1] - t_s[0]) if len(t_s) else 0.0
    digits = max(0, min(6, 3 - math.floor(math.log10(span)))) if span > 0 else 3
    return [_short(round(float(t), digits)) for t in t_s]


def _short(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def condition_figures(run: RunTables) -> list[Figure]:
    """Return clocks and temperatures, and loads and memory, each kind in a panel of its own."""
    known = [one for one in run.series.conditions if _any(one.values)]
    found = []
    for key, title, words, chosen in (
        (
            "climate",
            "Clocks and temperatures",
            "Clocks, temperatures and throttling over the run",
            [one for one in known if one.kind in _CLIMATE],
        ),
        (
            "loads",
            "Loads and memory",
            "Loads and memory over the run",
            [one for one in known if one.kind not in _CLIMATE],
        ),
    ):
        if chosen:
            found.append(_conditions(run, key, title, words, chosen))
    return found


def _conditions(
    run: RunTables, key: str, title: str, words: str, chosen: Sequence[ConditionSeries]
) -> Figure:
    panels: dict[tuple[str, str], list[ConditionSeries]] = {}
    order = (*_CLIMATE, "load", "memory", "other")
    for one in sorted(chosen, key=lambda one: order.index(one.kind) if one.kind in order else 99):
        panels.setdefault(_panel(one), []).append(one)
    most = min(MOST_POINTS, max(_FEWEST // 2, CONDITION_POINTS // len(chosen)))
    data: list[dict[str, Any]] = []
    axes: list[tuple[str, dict[str, Any]]] = []
    place = 0
    for panel, ((kind, unit), members) in enumerate(panels.items()):
        shown, size = unit, 1.0
        if unit in _TABLES:
            values = (float(v) * _SIZES[m.unit] for m in members for v in _finite(m.values))
            scale = unit_for(values, _TABLES[unit])
            shown, size = scale.name, scale.size
        label = plain(", ".join(filter(None, [_WORDS.get(kind, kind), shown])), 24)
        axes.append((label, {} if kind == "temperature" else {"rangemode": "tozero"}))
        for whole in members:
            one = thinned(whole, most)
            scaled = one.values * (_SIZES.get(one.unit, 1.0) / size)
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines" if len(one.t_s) > 1 else "markers",
                    "name": plain(one.name, 30),
                    "yaxis": _y(panel),
                    "x": times(one.t_s),
                    "y": curve(scaled),
                    "line": {
                        "width": 1.5,
                        "color": PALETTE[place % len(PALETTE)],
                        "dash": _DASHES[place // len(PALETTE) % len(_DASHES)],
                    },
                    "hovertemplate": "%{y:.4g}<extra>%{fullData.name}</extra>",
                }
            )
            place += 1
    height = 130 + 110 * len(panels) + 8 * len(data)
    note = f"{words}, one panel per unit; phases are shaded. A click on a name shows or hides it."
    layout = _time_layout(run, height, axes)
    return Figure(key, title, note, run.marks, (*data, *_strip(run)), layout, height)


def _panel(one: ConditionSeries) -> tuple[str, str]:
    """Return what is drawn in one panel: the kind, and the unit that all of it can have."""
    kind = one.kind
    if kind == "memory" and "available" in one.name:
        kind = "memory left"  # many times what a process takes
    return kind, _BASES.get(one.unit, one.unit)


def _y(panel: int) -> str:
    return "y" if panel == 0 else f"y{panel + 1}"


def _strip(run: RunTables) -> list[dict[str, Any]]:
    found = phases.bands(run.series.spans)
    return [phases.strip(found, "y99")] if found else []


def _time_layout(
    run: RunTables, height: int, axes: Sequence[tuple[str, dict[str, Any]]]
) -> dict[str, Any]:
    """Return the layout of panels one above the other, with the phases behind and above them."""
    found = phases.bands(run.series.spans)
    top = phases.strip_start(height - 110) if found else 1.0
    layout: dict[str, Any] = {}
    each = top / len(axes)
    for panel, (title, more) in enumerate(axes):
        high = top - panel * each - (0.012 if found and panel == 0 else 0.02 if panel else 0)
        low = top - (panel + 1) * each + (0.02 if panel + 1 < len(axes) else 0)
        name = "yaxis" if panel == 0 else f"yaxis{panel + 1}"
        domain = [five(max(0.0, low)), five(high)]
        layout[name] = axis(title, domain=domain, nticks=5 if len(axes) > 1 else 8, **more)
    if found:
        layout["yaxis99"] = phases.strip_axis(top)
        layout["shapes"] = phases.shades(found)
        layout["uniformtext"] = phases.UNIFORM_TEXT
    anchor = _y(len(axes) - 1)
    layout["xaxis"] = axis("time since the run began, s", anchor=anchor, showspikes=False)
    layout["xaxis"]["range"] = _range(run)
    if layout["xaxis"]["range"] is None:
        del layout["xaxis"]["range"]
    layout["spikedistance"] = 0
    made = frame(run.marks, legend=True, **layout)
    made["hovermode"] = "x unified"
    made["hoverlabel"] = {"align": "left", "font": {"size": 11}}
    return made


def _range(run: RunTables) -> list[float | int | None] | None:
    """Return first and last second of what is drawn, None where there is no time."""
    ends = [(span.start_s, span.end_s) for span in run.series.spans]
    ends += [(float(one.t_s[0]), float(one.t_s[-1])) for one in run.series.power if len(one.t_s)]
    ends += [
        (float(one.t_s[0]), float(one.t_s[-1])) for one in run.series.conditions if len(one.t_s)
    ]
    if not ends:
        return None
    low, high = min(start for start, _ in ends), max(end for _, end in ends)
    return [five(low), five(high)] if high > low else None


def _any(values: np.ndarray) -> bool:
    import numpy as np

    return bool(np.isfinite(values).any())


def _finite(values: np.ndarray) -> np.ndarray:
    import numpy as np

    found: np.ndarray = values[np.isfinite(values)]
    return found
