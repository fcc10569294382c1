"""A figure as plain values: what plotly draws on the page."""

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
        note: What is seen and what a reader must know, one or two sentences, plain text.
        marks: Drawn into the figure, so that a picture cut out of the page keeps them.
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
