"""Phases behind figures over time: shaded bands, named in a strip above.

    |idle|  |idle, loaded|     clean     |   profiled   |idle|      strip: named where it fits
    |....|::|............|===============|++++++++++++++|....|      shades behind the curves

A phase that is interrupted by short ones again and again (`profiled` by `harvest`) is one band.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgejoule.report.figures.names import plain
from edgejoule.report.figures.style import NEUTRAL, PALETTE, faded, five
from edgejoule.report.series import PhaseSpan

STRIP_PX = 20
MOST = 80
_SHORT = 0.02  # of the whole: such an interruption does not cut a phase in two
_NAMED = 0.2  # of a band: a part that is in its name
_WORDS = {
    "setup": "set-up",
    "idle_before": "idle",
    "idle_loaded_before": "idle, loaded",
    "warmup": "warm-up",
    "idle_loaded_after": "idle, loaded",
    "idle_after": "idle",
    "unsampled": "sampler off",
}
_COLOURS = {
    "idle_before": NEUTRAL,
    "idle_loaded_before": NEUTRAL,
    "idle_loaded_after": NEUTRAL,
    "idle_after": NEUTRAL,
    "warmup": PALETTE[1],
    "clean": PALETTE[0],
    "rate": PALETTE[7],
    "profiled": PALETTE[2],
    "harvest": PALETTE[6],
    "replay": PALETTE[3],
    "observed": PALETTE[5],
    "unsampled": PALETTE[5],
}
_OTHER = PALETTE[4]


@dataclass(frozen=True)
class Band:
    """A phase as it is shown.

    Attributes:
        phase: The phase that it begins with.
        start_s: Begin.
        end_s: End.
        parts: Phase -> seconds of it within, in the order of time.
        stretches: How many stretches were joined.
    """

    phase: str
    start_s: float
    end_s: float
    parts: Mapping[str, float] = field(default_factory=dict)
    stretches: int = 1

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end_s - self.start_s

    @property
    def name(self) -> str:
        """What it is called, not escaped."""
        named = [
            phase
            for phase, seconds in self.parts.items()
            if phase == self.phase or seconds >= _NAMED * self.seconds
        ]
        return " / ".join(dict.fromkeys(_WORDS.get(one, one) for one in named))

    @property
    def word(self) -> str:
        """What it is called where there is little room, not escaped."""
        return _WORDS.get(self.phase, self.phase)

    @property
    def colour(self) -> str:
        """Its colour."""
        return _COLOURS.get(self.phase, _OTHER)


def bands(spans: Sequence[PhaseSpan]) -> list[Band]:
    """Return the phases to show, short interruptions taken into what they interrupt."""
    lasting = [span for span in spans if span.end_s > span.start_s]
    if not lasting:
        return []
    whole = max(span.end_s for span in lasting) - min(span.start_s for span in lasting)
    found: list[Band] = []
    for span in lasting:
        seconds = span.end_s - span.start_s
        band = Band(span.phase, span.start_s, span.end_s, {span.phase: seconds})
        if len(found) > 1 and found[-2].phase == span.phase and found[-1].seconds < _SHORT * whole:
            between = found.pop()
            band = _joined(_joined(found.pop(), between), band)
        elif found and span.phase in found[-1].parts and seconds < _SHORT * whole:
            band = _joined(found.pop(), band)
        found.append(band)
    if len(found) > MOST:
        longest = sorted(found, key=lambda band: -band.seconds)[:MOST]
        found = sorted(longest, key=lambda band: band.start_s)
    return found


def _joined(one: Band, other: Band) -> Band:
    parts = dict(one.parts)
    for phase, seconds in other.parts.items():
        parts[phase] = parts.get(phase, 0.0) + seconds
    return Band(one.phase, one.start_s, other.end_s, parts, one.stretches + other.stretches)


def shades(found: Sequence[Band]) -> list[dict[str, Any]]:
    """Return shapes that shade the bands over the whole height, behind everything."""
    return [
        {
            "type": "rect",
            "xref": "x",
            "yref": "paper",
            "x0": five(band.start_s),
            "x1": five(band.end_s),
            "y0": 0,
            "y1": 1,
            "fillcolor": faded(band.colour, 0.13),
            "line": {"width": 0},
            "layer": "below",
        }
        for band in found
    ]


def strip(found: Sequence[Band], axis: str) -> dict[str, Any]:
    """Return the trace that names the bands; its text is hidden where it does not fit.

    Args:
        found: The bands.
        axis: Its own vertical axis (`y2`), see `strip_axis`.
    """
    return {
        "type": "bar",
        "orientation": "h",
        "name": "phases",
        "showlegend": False,
        "yaxis": axis,
        "base": [five(band.start_s) for band in found],
        "x": [five(band.seconds) for band in found],
        "y": [0] * len(found),
        "width": 1,
        "marker": {"color": [band.colour for band in found], "line": {"width": 0}},
        "text": [plain(band.word) for band in found],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "cliponaxis": False,
        "hoverinfo": "text",
        "hovertext": [_hover(band) for band in found],
    }


def strip_axis(start: float) -> dict[str, Any]:
    """Return the vertical axis of the strip, which takes the plot's height from `start` on."""
    return {
        "domain": [start, 1],
        "range": [-0.5, 0.5],
        "visible": False,
        "fixedrange": True,
    }


def strip_start(height_px: int) -> float:
    """Return where the strip begins, as a part of a plot of about this height."""
    return five(1 - STRIP_PX / max(120, height_px)) or 0.9


UNIFORM_TEXT = {"minsize": 9, "mode": "hide"}


def _hover(band: Band) -> str:
    lines = [
        f"<b>{plain(band.name, 60)}</b>",
        f"{band.start_s:.4g} to {band.end_s:.4g} s ({band.seconds:.3g} s)",
    ]
    if band.stretches > 1:
        inside = [
            f"{plain(_WORDS.get(phase, phase))} {seconds:.3g} s"
            for phase, seconds in list(band.parts.items())[:6]
        ]
        lines += [f"{band.stretches} stretches:", *inside]
    return "<br>".join(lines)
