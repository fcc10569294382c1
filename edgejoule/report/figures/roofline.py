"""Layers under the measured ceilings of arithmetic and memory, as large as their energy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edgejoule.energy.roofline import Roof, roof_of
from edgejoule.report.figures.figure import Figure
from edgejoule.report.figures.names import plain, wrapped
from edgejoule.report.figures.parts import operation_of
from edgejoule.report.figures.style import (
    NEUTRAL,
    RATE,
    Unit,
    colours_of,
    counted,
    five,
    fives,
    frame,
    log_axis,
    unit_for,
)
from edgejoule.report.tables import LayerRow, RunTables
from edgejoule.report.text import energy, ms

MOST_POINTS = 300
_LEAST_PX, _MOST_PX = 6.0, 26.0


def roofline_figure(run: RunTables) -> Figure | None:
    """Return the roofline, None where no layer has both its operations and its bytes."""
    known = [layer for layer in run.layers if _placed(layer)]
    if not known:
        return None
    known.sort(key=lambda layer: -layer.mean_ms)
    hidden = len(known[MOST_POINTS:])
    known = known[:MOST_POINTS]
    roof = roof_of(run.summary.get("roofline"))
    rates = [layer.roofline.gflops_per_s for layer in known]
    places = [layer.roofline.intensity for layer in known]
    unit = unit_for([*rates, roof.gflops_per_s], RATE)
    ridge = roof.ridge
    ends = [place for place in (*places, ridge) if place]
    low, high = min(ends) / 2, max(ends) * 2
    data = _ceilings(roof, low, high, unit)
    sizes = _sizes(known)
    operations = list(dict.fromkeys(operation_of(layer) for layer in known))
    colours = colours_of(operations)
    for operation in operations:
        of_it = [k for k, layer in enumerate(known) if operation_of(layer) == operation]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plain(operation, 24),
                "x": fives(places[k] for k in of_it),
                "y": [unit.of(rates[k]) for k in of_it],
                "marker": {
                    "color": colours[operation],
                    "opacity": 0.8,
                    "size": [sizes[k][0] for k in of_it],
                    "symbol": [sizes[k][1] for k in of_it],
                    "line": {"width": 1, "color": colours[operation]},
                },
                "hoverinfo": "text",
                "hovertext": [_hover(known[k]) for k in of_it],
            }
        )
    ys = [value for trace in data for value in trace["y"]]
    layout = frame(
        run.marks,
        legend=True,
        xaxis=log_axis("operations per byte, FLOP/B", (low, high)),
        yaxis=log_axis(f"operations per second, {unit.name}", ys),
    )
    layout["legend"]["itemsizing"] = "constant"
    note = _note(run, known, roof, hidden)
    return Figure("roofline", "Roofline", note, run.marks, tuple(data), layout, 460)


def _placed(layer: LayerRow) -> bool:
    under = layer.roofline
    return bool(under.intensity and under.gflops_per_s and under.intensity > 0)


def _ceilings(roof: Roof, low: float, high: float, unit: Unit) -> list[dict[str, Any]]:
    line: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "hoverinfo": "text",
        "line": {"color": NEUTRAL, "width": 2},
    }
    found = []
    ridge = roof.ridge
    if roof.gbytes_per_s is not None:
        end = high if ridge is None else min(high, max(low, ridge))
        text = f"memory: {roof.gbytes_per_s:.4g} GB/s measured"
        found.append(
            {
                **line,
                "name": "measured memory",
                "x": fives([low, end]),
                "y": [unit.of(roof.gbytes_per_s * x) for x in (low, end)],
                "hovertext": [text] * 2,
                "line": {**line["line"], "dash": "dash"},
            }
        )
    if roof.gflops_per_s is not None:
        start = low if ridge is None else max(low, min(high, ridge))
        words = f"arithmetic: {roof.gflops_per_s:.4g} GFLOP/s measured in "
        text = words + plain(roof.dtype or "an unknown dtype", 20)
        found.append(
            {
                **line,
                "name": "measured arithmetic",
                "x": fives([start, high]),
                "y": [unit.of(roof.gflops_per_s)] * 2,
                "hovertext": [text] * 2,
            }
        )
    return found


def _sizes(layers: Sequence[LayerRow]) -> list[tuple[float | int | None, str]]:
    """Return size (px, area as energy) and symbol of each; hollow where it has no energy."""
    energies = [None if one.energy is None else one.energy.gross_mj for one in layers]
    most = max((value for value in energies if value is not None), default=0.0)
    found: list[tuple[float | int | None, str]] = []
    for value in energies:
        if value is None or most <= 0:
            found.append((9, "circle-open" if most > 0 else "circle"))
        else:
            found.append(
                (five(max(_LEAST_PX, _MOST_PX * math.sqrt(max(0.0, value) / most))), "circle")
            )
    return found


def _hover(layer: LayerRow) -> str:
    under = layer.roofline
    lines = [
        wrapped(layer.name),
        f"{under.gflops_per_s:.4g} GFLOP/s at {under.intensity:.3g} FLOP/B",
        f"{ms(layer.mean_ms)} ms",
    ]
    if layer.energy is not None and layer.energy.gross_mj is not None:
        own = layer.energy
        lines[-1] += f", {energy(own.gross_mj, own.gross_half_mj)}"
        if under.gflop_per_joule is not None:
            lines.append(f"{under.gflop_per_joule:.3g} GFLOP/J")
    elif layer.energy is not None:
        lines.append("energy not resolved")
    if under.share is not None:
        bound = f", bound by {under.bound}" if under.bound in ("memory", "compute") else ""
        lines.append(f"{100 * under.share:.3g} % of the roof{bound}")
    if under.note:
        lines.append(wrapped(under.note))
    return "<br>".join(lines)


def _note(run: RunTables, known: Sequence[LayerRow], roof: Roof, hidden: int) -> str:
    said = []
    if roof.gflops_per_s is None and roof.gbytes_per_s is None:
        said.append("The machine's ceilings were not measured, so there is no roof.")
    else:
        dtype = f" in {roof.dtype}" if roof.dtype else ""
        said.append(f"Layers under the ceilings as measured on this machine{dtype}.")
    if any(layer.energy is not None and layer.energy.gross_mj is not None for layer in known):
        said.append("A point's area is its gross energy.")
        if any(layer.energy is None or layer.energy.gross_mj is None for layer in known):
            said.append("Hollow: no energy of its own.")
    if any(layer.roofline.note for layer in known):
        said.append("Points above the roof: their data come from a cache, or they do less.")
    absent = len(run.layers) - len(known) - hidden
    if absent:
        said.append(f"Not in it: {counted(absent, 'layer')} of unknown operations or bytes.")
    if hidden:
        said.append(f"The {hidden} fastest are not shown.")
    return " ".join(said)
