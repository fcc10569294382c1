"""Boards by name, by part number and by the labels of their rails; the table is `board_table`.

`recognise` uses all there is to know a board by. What stands here is the short cut for old traces,
which have nothing but labels: `board_of` and `total_rails`.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgejoule.power.board_table import BOARDS as TABLE
from edgejoule.power.board_types import Board

_PART = re.compile(r"p[0-9]{4}(?:-[0-9]{4})?")
_VENDOR = frozenset({"nvidia", "jetson"})


@dataclass(frozen=True)
class BoardRails:
    """A family of boards that share their rails and their total.

    Attributes:
        boards: Names of the boards.
        rails: Labels that all must be there; a board may show more.
        total: The labels whose sum is the total; none lies inside another.
        scope: What the total covers.
        source: Where this is from.
        also: Other names that a label goes by.
        optional: Labels that may be there too.
    """

    boards: tuple[str, ...]
    rails: frozenset[str]
    total: tuple[str, ...]
    scope: str
    source: str
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    optional: frozenset[str] = frozenset()

    def known_among(self, rails: Iterable[str]) -> dict[str, str]:
        """Return this family's labels that are among `rails`, each with the name it has there."""
        there = {label_of(rail): rail for rail in reversed(list(rails))}
        found = {}
        for label in sorted(self.rails | self.optional):
            for name in (label, *self.also.get(label, ())):
                if name in there:
                    found[label] = there[name]
                    break
        return found


def label_of(rail: str) -> str:
    """Return a rail's label without what tells two of the same name apart (`VDD_IN@1-0041`)."""
    return rail.partition("@")[0]


def _families() -> tuple[BoardRails, ...]:
    families: dict[tuple[frozenset[str], tuple[str, ...]], BoardRails] = {}
    for board in TABLE:
        needed = frozenset(rail.label for rail in board.rails if not rail.optional)
        for rule in board.totals:
            key = (needed | set(rule.rails), rule.rails)
            known = families.get(key)
            sources = [] if known is None else known.source.split("; ")
            sources += [text for text in (*board.sources, rule.source) if text not in sources]
            families[key] = BoardRails(
                (board.name,) if known is None else (*known.boards, board.name),
                key[0],
                rule.rails,
                rule.contains,
                "; ".join(sources),
                {rail.label: rail.also for rail in board.rails if rail.also},
                frozenset(rail.label for rail in board.rails) - key[0],
            )
    return tuple(families.values())


BOARDS = _families()


def board_of(rails: Iterable[str]) -> BoardRails | None:
    """Return the family whose labels are all among `rails`, the one that explains most of them."""
    there = tuple(rails)
    found = [(board, board.known_among(there).keys()) for board in BOARDS]
    fitting = [(len(known), board) for board, known in found if board.rails <= known]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def total_rails(rails: Iterable[str]) -> tuple[str, ...] | None:
    """Return the rails whose sum is the board's total, or None on an unknown board."""
    there = tuple(rails)
    board = board_of(there)
    if board is None:
        return None
    names = board.known_among(there)
    return tuple(names[label] for label in board.total)


def names_of(boards: Iterable[Board]) -> str:
    """Return the boards as one name: `Jetson Orin Nano or Orin NX`."""
    names = [board.name for board in boards]
    short = names[:1] + [name.removeprefix("Jetson ") for name in names[1:]]
    return " or ".join(filter(None, (", ".join(short[:-1]), short[-1] if short else "")))


def boards_by_text(text: str, *, named: bool = False) -> tuple[Board, ...]:
    """Return the boards that a text names: a device tree's model, or what a user wrote.

    Args:
        text: `NVIDIA Jetson Orin NX Engineering Reference Developer Kit`, `orin-nx`.
        named: The text is meant as a board's name, so that `Jetson` need not stand there.
    """
    words = set(re.findall(r"[a-z0-9]+", text.lower()))
    squeezed = "".join(word for word in re.findall(r"[a-z0-9]+", text.lower()))
    if named:
        words |= _VENDOR
    best: list[Board] = []
    most = 0
    for board in TABLE:
        fitting = [set(wanted) for wanted in board.words if words.issuperset(wanted)]
        # `jetson` tells no board from another: `orin nano` must not also be a `jetson nano`.
        weight = max((len(wanted - _VENDOR) for wanted in fitting), default=0)
        if named and squeezed in (_squeezed(board.name), _squeezed(board.name, short=True)):
            weight = len(words) + 1
        if weight > most:
            best, most = [board], weight
        elif weight and weight == most:
            best.append(board)
    return tuple(best)


def boards_by_parts(compatible: Iterable[str]) -> tuple[Board, ...]:
    """Return the boards that a device tree's `compatible` names by its part numbers.

    A carrier that is a board of its own (IGX Orin, p3740) goes before the module on it.
    """
    parts = [part for text in compatible for part in _PART.findall(text)]
    found = [b for b in TABLE if any(p.startswith(own) for p in parts for own in b.parts)]
    igx = [board for board in found if board.name.startswith("IGX")]
    return tuple(igx or found)


def _squeezed(name: str, *, short: bool = False) -> str:
    name = name.removeprefix("Jetson ") if short else name
    return re.sub(r"[^a-z0-9]", "", name.lower())
