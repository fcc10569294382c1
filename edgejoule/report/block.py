"""A named piece of a run's report, in Markdown: `report.md` joins them, the page places each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A piece of a run's report.

    Attributes:
        key: What it is about, unique within a run: `latency`, `phases`, ...
        title: Its heading on the page; no foreign text.
        markdown: Its content; foreign text in it is escaped. Empty: there is nothing to say.
        lead: The line before it in `report.md`, where the page has the title instead.
        of_list: Neighbours of the same one are items of one list.
    """

    key: str
    title: str
    markdown: str
    lead: str = ""
    of_list: str = ""


def joined(blocks: Iterable[Block]) -> str:
    """Return the blocks as `report.md` has them, without those that are empty."""
    text, list_before = "", ""
    for block in blocks:
        if not block.markdown:
            continue
        if text:
            text += "\n" if block.of_list and block.of_list == list_before else "\n\n"
        text += f"{block.lead}\n\n{block.markdown}" if block.lead else block.markdown
        list_before = block.of_list
    return text


def items(lines: Iterable[str]) -> str:
    """Return a Markdown list; the lines are taken as they are, so escape foreign text first."""
    return "\n".join(f"- {line}" for line in lines)
