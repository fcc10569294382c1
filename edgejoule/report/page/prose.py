"""Markdown of the report as HTML, so that page and `report.md` say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup


def html(text: str) -> Markup:
    """Return Markdown as HTML: no raw HTML, no links that were not written, tables that scroll."""
    from markupsafe import Markup

    return Markup(_renderer().render(text))  # noqa: S704 - markdown-it escapes, html is off


_made: list[Any] = []


def _renderer() -> Any:
    """Return the renderer, made once: making it takes longer than a block."""
    if not _made:
        from markdown_it import MarkdownIt

        parser = MarkdownIt("commonmark", {"html": False}).enable("table")
        parser.disable(["image", "autolink", "html_block", "html_inline", "reference"])
        parser.add_render_rule("table_open", _table_open)
        parser.add_render_rule("table_close", _table_close)
        for name in ("th_open", "td_open"):
            parser.add_render_rule(name, _cell_open)
        _made.append(parser)
    return _made[0]


def _table_open(_renderer: Any, _tokens: Any, _index: int, _options: Any, _environment: Any) -> str:
    return '<div class="scroll" role="region" aria-label="Table" tabindex="0">\n<table>\n'


def _table_close(
    _renderer: Any, _tokens: Any, _index: int, _options: Any, _environment: Any
) -> str:
    return "</table>\n</div>\n"


def _cell_open(_renderer: Any, tokens: Any, index: int, _options: Any, _environment: Any) -> str:
    """Say by a class what Markdown's colon says, since a style attribute is not allowed to act."""
    token = tokens[index]
    right = "right" in str(token.attrs.get("style", ""))
    scope = ' scope="col"' if token.tag == "th" else ""
    return f"<{token.tag}{scope}{' class=number' if right else ''}>"
