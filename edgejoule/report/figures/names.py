"""Foreign names for plotly, which reads some HTML in every text it draws.

A name may stand in a text, never in a template: `%{x}` in a hovertemplate would be obeyed.
"""

from __future__ import annotations

import html

from edgejoule.report.text import printable

LABEL = 28  # characters of a layer's name beside an axis
_LINE = 44  # characters of a line in a hover label: it must fit a phone


def plain(name: object, width: int | None = LABEL) -> str:
    """Return a name as plotly shows it unchanged: printable, shortened in the middle, escaped."""
    return escaped(printable(name, width))


def escaped(text: str) -> str:
    """Return printable text with what plotly would read as HTML escaped.

    Quotes stay: plotly puts text into text nodes alone, and does not know their entities' names.
    `%{` it would fill in from `meta`, in names of traces too: there what follows would vanish.
    """
    return html.escape(text, quote=False).replace("%{", "&#37;{")


def wrapped(name: object, width: int = _LINE, most: int = 176) -> str:
    """Return a name of up to `most` characters on lines of up to `width`, escaped.

    Lines end behind a space, comma, dot or bar near their end where there is one.
    """
    text = printable(name, most)
    lines = []
    while len(text) > width:
        cut = max(text.rfind(char, width // 2, width) for char in " ,.|/+")
        cut = width if cut < 0 else cut + 1
        lines.append(text[:cut])
        text = text[cut:]
    return "<br>".join(escaped(line) for line in [*lines, text])
