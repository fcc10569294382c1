"""A figure as plain values: what plotly draws on the page.

The contract with the page:

- `data` and `layout` hold dicts, lists, texts, booleans and finite numbers only; what is not known
  is None. `json.dumps(..., allow_nan=False)` works on them.
- Foreign names (runs, layers, rails, models) are escaped and stand in `hovertext`, `text`, tick
  texts, labels, trace names and annotations, never in a template, and nothing else may be put
  there without `figures.names`.
- The layout has no colours of paper, grid, ticks and text, and no size: those are the page's. Its
  title is the marks (SIMULATED ...), where there are any, and nothing else. A template
  (`layout.template`) reaches the axes of all panels; `height_px` is the height wanted at desktop
  width, and no figure needs less on a phone.
- Figures of a dataset have `meta.runs` on each trace: `"points"` where point i stands for a run,
  with `customdata[i][0]` its index in the sequence of overviews (to click through and to filter);
  `"front"` on the line of the best ones, which holds for all runs together and says nothing about
  a choice of them (hide it while runs are filtered); `"key"` on what only explains symbols.
- A figure with empty `data` cannot be drawn: `note` says why, and so does the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One figure. Foreign names in it are escaped (`figures.names`): plotly reads some HTML.

    Attributes:
        key: What it shows, unique within its run: `power`, `layers-time`, ...; part of element ids
            and file names, so letters, digits and `-` only.
        title: For people, no foreign text.
        note: What is seen and what a reader must know, one or two sentences, plain text. It may
            hold names as they are (printable, not escaped).
        marks: Drawn into the figure, so that a picture cut out of the page keeps them. As they
            are: escape them where they are shown.
        data: Plotly's traces.
        layout: Plotly's layout, without colours of paper, grid and text: those are the page's, so
            that light and dark both work.
        height_px: Wanted height on a desktop.
    """

    key: str
    title: str
    note: str
    marks: tuple[str, ...]
    data: tuple[Mapping[str, Any], ...]
    layout: Mapping[str, Any]
    height_px: int = 420
