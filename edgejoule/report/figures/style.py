"""What all figures share: colours, units, rounded numbers, marks, the layout's frame."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgejoule.report.figures.names import escaped
from edgejoule.report.text import printable

# Found by search: every two of them, and each and the grey, are at least 0.1 apart in OKLab, to
# people with normal, red-, green- and blue-blind sight; between the luminances that stand out from
# white and from near-black. `tests/test_report_figures.py` computes it again.
PALETTE = (
    "#4456db",
    "#f58e00",
    "#1fc17d",
    "#974095",
    "#c2720d",
    "#c580c5",
    "#58663f",
    "#767aff",
)
NEUTRAL = "#808080"
# Of the marks (SIMULATED ...): red enough on white and on near-black.
WARNING = "#e0455a"
SIGNIFICANT = 5
_MARK_LINE = 42  # characters: fits a phone

TIME = (("ns", 1e-6), ("µs", 1e-3), ("ms", 1.0), ("s", 1e3))
ENERGY = (("nJ", 1e-6), ("µJ", 1e-3), ("mJ", 1.0), ("J", 1e3))
POWER = (("mW", 1e-3), ("W", 1.0), ("kW", 1e3))
RATE = (("MFLOP/s", 1e-3), ("GFLOP/s", 1.0), ("TFLOP/s", 1e3))
MEMORY = (("MiB", 1.0), ("GiB", 1024.0))
FREQUENCY = (("Hz", 1.0), ("kHz", 1e3), ("MHz", 1e6), ("GHz", 1e9))


@dataclass(frozen=True)
class Unit:
    """The unit of an axis.

    Attributes:
        name: As it is written.
        size: In the base unit of its table (ms, mJ, W, GFLOP/s, Hz).
    """

    name: str
    size: float

    def of(self, value: float | None) -> float | None:
        """Return a value of the base unit in this one, rounded; None where not known."""
        return None if value is None else five(value / self.size)


def unit_for(values: Iterable[float | None], table: Sequence[tuple[str, float]]) -> Unit:
    """Return the one unit in which the greatest magnitude lies between 1 and 1000."""
    known = [abs(value) for value in values if value is not None and math.isfinite(value)]
    most = max(known, default=0.0)
    fitting = [Unit(name, size) for name, size in table if most >= size]
    if fitting:
        return fitting[-1]
    # Nothing, or less than the smallest unit.
    base = next(Unit(name, size) for name, size in table if size == 1.0)
    return Unit(*table[0]) if most else base


def five(value: float | None) -> float | int | None:
    """Return a number with five significant digits as plain Python, None unless it is finite."""
    return _digits(value, SIGNIFICANT)


def _digits(value: float | None, digits: int) -> float | int | None:
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    if not math.isfinite(rounded):  # the greatest numbers round to what is none
        return value
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def fives(values: Iterable[float | None]) -> list[float | int | None]:
    """Return `five` of each."""
    return [five(None if value is None else float(value)) for value in values]


def curve(values: Iterable[float]) -> list[float | int | None]:
    """Return a curve's values with four digits, as many as a label shows and a screen has."""
    return [_digits(float(value), 4) for value in values]


def faded(colour: str, alpha: float) -> str:
    """Return a colour of the palette, translucent."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def colours_of(words: Iterable[str]) -> dict[str, str]:
    """Return a colour for each word, the grey for those beyond the palette and for `unknown`."""
    found: dict[str, str] = {}
    free = iter(PALETTE)
    for word in words:
        if word not in found:
            found[word] = NEUTRAL if word == "unknown" else next(free, NEUTRAL)
    return found


def mark_lines(marks: Sequence[str], width: int = _MARK_LINE) -> list[str]:
    """Return the marks on as many lines as a phone needs, not escaped."""
    lines: list[str] = []
    for mark in marks:
        text = printable(mark, width - 2)
        if lines and len(lines[-1]) + 3 + len(text) <= width:
            lines[-1] += f" · {text}"
        else:
            lines.append(text)
    return lines


def frame(marks: Sequence[str] = (), *, legend: bool = False, **layout: Any) -> dict[str, Any]:
    """Return a layout with margins, the marks above the plot and the legend below it.

    Args:
        marks: Drawn above the plot at its left.
        legend: Whether there is one.
        layout: Anything else.
    """
    lines = mark_lines(marks)
    found: dict[str, Any] = {
        "margin": {"l": 8, "r": 14, "t": 14 + (4 + 16 * len(lines) if lines else 0), "b": 8},
        "showlegend": legend,
        "legend": {
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "xref": "container",
            "x": 0.01,
            "xanchor": "left",
            "font": {"size": 11},
            "maxheight": 0.42,
        },
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "font": {"size": 12}},
        **layout,
    }
    if lines:
        # As the title, since only that is placed by the picture's edge and not by the axes'.
        found["title"] = {
            "text": "<br>".join(f"<b>{escaped(line)}</b>" for line in lines),
            "font": {"size": 12, "color": WARNING},
            "xref": "container",
            "x": 0,
            "xanchor": "left",
            "yref": "container",
            "y": 1,
            "yanchor": "top",
            # Plotly sets the middle of several lines where the first one should be.
            "pad": {"l": 8, "t": 8 + 8 * (len(lines) - 1)},
        }
    return found


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with its title (escaped text) and room for its labels."""
    return {
        "title": {"text": title, "font": {"size": 12}, "standoff": 8},
        "tickfont": {"size": 11},
        "automargin": True,
        "zeroline": False,
        "exponentformat": "none",
        **more,
    }


def log_axis(title: str, values: Iterable[float | None], **more: Any) -> dict[str, Any]:
    """Return a logarithmic axis around positive values, labelled so that it stays readable."""
    known = [value for value in values if value is not None and value > 0]
    low, high = math.log10(min(known)), math.log10(max(known))
    pad = max(0.08, 0.06 * (high - low))
    ticks = log_ticks(low - pad, high + pad)
    found: dict[str, Any] = {
        "type": "log",
        "range": [five(low - pad), five(high + pad)],
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" if 1e-4 < tick < 1e6 else f"{tick:.0e}" for tick in ticks],
    }
    return axis(title, **{**found, **more})


def log_ticks(low: float, high: float) -> list[float | int]:
    """Return what is labelled between two powers of ten: 1, 2, 5, or powers where that is much."""
    steps = (1, 2, 5) if high - low < 2.2 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    if len(powers) > 9:
        powers = range(powers[0], powers[-1] + 1, math.ceil(len(powers) / 8))
    found = [step * 10.0**power for power in powers for step in steps]
    return [five(one) or 0 for one in found if low <= math.log10(one) <= high]


def errors(halves: Sequence[float | int | None], direction: str = "x") -> dict[str, Any]:
    """Return error bars of half-widths; none is drawn where there is None."""
    if all(half is None for half in halves):
        return {}
    return {
        f"error_{direction}": {
            "type": "data",
            # Of null plotly makes a bar of no length, as if it were certain; of a word none.
            "array": ["unknown" if half is None else _digits(half, 3) for half in halves],
            "color": NEUTRAL,
            "thickness": 1.2,
            "width": 3,
        }
    }


def counted(count: int, one: str, several: str | None = None) -> str:
    """Return a count with its noun: `1 layer`, `3 layers`."""
    return f"{count} {one if count == 1 else several or one + 's'}"
