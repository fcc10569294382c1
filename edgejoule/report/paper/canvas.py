"""Drawing for papers: one column wide, text as text, the same bytes each time.

Matplotlib's objects without pyplot, so that nothing is kept from one figure to the next and a
worker process needs no screen. Names are foreign: nothing in them is read as mathematics.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgejoule.report.figures.style import NEUTRAL, WARNING, mark_lines
from edgejoule.report.text import printable

WIDTH_IN = 85 / 25.4  # a column of most journals
DPI = 300
FONT_PT = 7.0
SMALL_PT = 6.0
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": FONT_PT,
    "axes.labelsize": FONT_PT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": SMALL_PT,
    "ytick.labelsize": SMALL_PT,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": SMALL_PT,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.borderpad": 0.2,
    "legend.columnspacing": 1.0,
    "hatch.linewidth": 0.5,
    "lines.linewidth": 1.0,
    "text.parse_math": False,  # a name may hold dollars
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "edgejoule",
}


@contextmanager
def styled() -> Iterator[None]:
    """Set matplotlib's settings for the figures drawn and saved within."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # Signs that the font does not have are drawn as boxes in the PNG; the SVG has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def figure(height_mm: float) -> Any:
    """Return an empty figure of one column's width."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH_IN, height_mm / 25.4), dpi=DPI)


def name(text: object, width: int) -> str:
    """Return a foreign name on one line, shortened in the middle."""
    return printable(text, width)


def place(fig: Any, axes: Sequence[Any], marks: Sequence[str], *, legend: Any = None) -> None:
    """Set the axes side by side, with room for labels, the marks above and a legend below.

    One measurement of the texts instead of a layout engine's several: it takes half of the time.

    Args:
        fig: The figure.
        axes: From left to right; only the first has labels at its left.
        marks: Drawn above.
        legend: (handles, labels, columns) of a legend below, None for none.
    """
    width, height = fig.get_size_inches()
    lines = mark_lines(marks, 56)
    top = 1 - (0.05 + 0.12 * len(lines)) / height
    if lines:
        fig.text(
            0.02,
            1 - 0.03 / height,
            "\n".join(lines),
            color=WARNING,
            fontsize=SMALL_PT,
            fontweight="bold",
            va="top",
        )
    below = 0.04
    if legend is not None:
        handles, labels, columns = legend
        rows = -(-len(labels) // columns)
        below += 0.115 * rows + 0.03
        fig.legend(
            handles, labels, ncols=columns, loc="lower left", bbox_to_anchor=(0.02, 0.005),
            labelspacing=0.25, handletextpad=0.5, borderaxespad=0.0,
        )  # fmt: skip
    gap = 0.1
    each = 0.5 / len(axes)
    for index, one in enumerate(axes):
        one.set_position([0.4 + index * each, 0.3, each * 0.9, max(0.1, top - 0.3)])
    renderer = _renderer(fig)
    left = _beyond(axes[0].yaxis, axes[0], renderer, "x0") / fig.dpi
    bottom = max(_beyond(one.xaxis, one, renderer, "y0") for one in axes) / fig.dpi
    titles = [_title_offsets(one, renderer) for one in axes]
    start = (left + 0.06) / width
    usable = 1 - start - 0.1 / width
    each = (usable - gap * (len(axes) - 1) / width) / len(axes)
    floor = (bottom + below) / height
    for index, one in enumerate(axes):
        x = start + index * (each + gap / width)
        tall = max(0.1, top - floor)
        one.set_position([x, floor, each, tall])
        # Where it knows that, an axis does not lay out all its labels once more each time.
        beside, under = titles[index]
        one.yaxis.set_label_coords(-beside / (each * width * fig.dpi), 0.5)
        one.xaxis.set_label_coords(0.5, -under / (tall * height * fig.dpi))


def save(fig: Any, folder: Path, key: str) -> list[Path]:
    """Write a figure as SVG and PNG, each whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, write in (("svg", _write_svg), ("png", _write_png)):
        target = folder / f"{key}.{kind}"
        temporary = folder / f".{key}.{kind}.{os.getpid()}.tmp"
        try:
            write(fig, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        written.append(target)
    return written


def _write_png(fig: Any, target: Path) -> None:
    """Write a figure as PNG without a transparency that nothing in it has: half of the time."""
    from PIL import Image

    canvas = fig.canvas  # that of `place`, which has measured these texts already
    canvas.draw()
    picture = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba())
    picture.convert("RGB").save(target, format="png", dpi=(DPI, DPI), compress_level=3)


def _write_svg(fig: Any, target: Path) -> None:
    fig.savefig(target, format="svg", metadata={"Date": None, "Creator": None})


def remove(folder: Path, key: str) -> None:
    """Remove a figure that was drawn before, where there is one.

    Raises:
        OSError: It cannot be removed.
    """
    for kind in ("svg", "png"):
        (folder / f"{key}.{kind}").unlink(missing_ok=True)


def plain_ticks(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers, few of them."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    from edgejoule.report.figures.style import log_ticks

    low, high = axis.get_view_interval()
    import math

    ticks = log_ticks(math.log10(low), math.log10(high))
    axis.set_major_locator(FixedLocator([float(tick) for tick in ticks]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def grid(axes: Any, axis: str = "both") -> None:
    """Draw thin lines behind everything."""
    axes.grid(visible=True, axis=axis, color=NEUTRAL, alpha=0.25, linewidth=0.4)
    axes.set_axisbelow(True)


def _renderer(fig: Any) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return FigureCanvasAgg(fig).get_renderer()


def _beyond(axis: Any, axes: Any, renderer: Any, side: str) -> float:
    """Return how far an axis' labels reach beyond the axes at one side, dots."""
    inner, outer = axes.get_window_extent(renderer), axis.get_tightbbox(renderer)
    return 0.0 if outer is None else max(0.0, getattr(inner, side) - getattr(outer, side))


def _title_offsets(axes: Any, renderer: Any) -> tuple[float, float]:
    """Return how far left of and below the axes their titles stand, dots; measured before."""
    box = axes.get_window_extent(renderer)
    return (
        box.x0 - axes.yaxis.label.get_position()[0],
        box.y0 - axes.xaxis.label.get_position()[1],
    )
