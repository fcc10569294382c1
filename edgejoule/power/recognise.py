"""Which board this is, and so which rails make up its total and which lie inside which.

Order of trust: what the user says (EDGEJOULE_BOARD), the device tree (part numbers, then the model
text), soc0's machine, then the *signature*: chip addresses, labels and shunts, among the boards of
the SoC that soc0, the device tree or CUDA name. tegrastats has labels only; then all must fit.

A board is never guessed: boards that cannot be told apart are all named, and have a total only if
it is the same for each. A total of which one rail cannot be read is no total.

Standard library only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgejoule.errors import UsageError
from edgejoule.power.board_table import BOARDS
from edgejoule.power.board_types import Board, BoardChip, Rail
from edgejoule.power.boards import boards_by_parts, boards_by_text, label_of, names_of
from edgejoule.power.clues import BOARD_VARIABLE, SOC0, Clues, read_clues, soc_of
from edgejoule.power.sensor import Channel, Total

__all__ = ["Clues", "Recognition", "read_clues", "recognise"]

HOW_TO_ADD = "docs/Boards.md says how to add a board"
TEGRASTATS = "tegrastats"
SIMULATED = "simulated"
_ADDRESS = re.compile(r"^[0-9]+-([0-9a-f]{4})$")
_NO_ADDRESS = re.compile(r"^(?:hwmon[0-9]+|iio:device[0-9]+)$")
_UNLABELLED = re.compile(r"^.*_ch[0-9]+$")
_BOARD_SENSORS = frozenset({"ina3221", "ina238", TEGRASTATS, SIMULATED})


@dataclass(frozen=True)
class Recognition:
    """What is known of the board that some channels belong to.

    Attributes:
        names: The boards that it can be; empty: unknown.
        how: What it was known by, or why not.
        certain: One board, and its rails are as the table says.
        total: What makes up its total, None if it is unknown or cannot be read.
        parents: Rail -> the rail that feeds it, among the rails that are read.
        expected_missing: Rails that this board has and that are not read.
        notes: What users should know.
    """

    names: tuple[str, ...]
    how: str
    certain: bool = False
    total: Total | None = None
    parents: Mapping[str, str] = field(default_factory=dict)
    expected_missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str | None:
        """The board, `A or B` where two cannot be told apart, None if unknown."""
        known = [board for board in BOARDS if board.name in self.names]
        own = [name for name in self.names if all(board.name != name for board in known)]
        return names_of(known) if known else " or ".join(own) or None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            **asdict(self),
            "name": self.name,
            "names": list(self.names),
            "total": None if self.total is None else self.total.to_json(),
            "parents": dict(self.parents),
            "expected_missing": list(self.expected_missing),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class _Seen:
    """A rail of a board's monitor that can be read, as power or as voltage and current."""

    rail: str
    label: str | None
    chip: str
    shunt_uohm: int | None

    @property
    def address(self) -> str | None:
        found = _ADDRESS.match(self.chip)
        return found[1] if found else None


@dataclass(frozen=True)
class _Rails:
    """All that is known of the rails: read, and left out with the reason (by label)."""

    seen: tuple[_Seen, ...]
    left_out: Mapping[str, str]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(rail.label for rail in self.seen if rail.label))


@dataclass(frozen=True)
class _Match:
    """A board's rails found among those seen: table label -> rail; shunts that differ."""

    board: Board
    found: Mapping[str, _Seen]
    shunts: tuple[str, ...] = ()

    def complete(self, left_out: Mapping[str, str]) -> bool:
        return not [label for label in _needed(self.board) if label not in {*self.found, *left_out}]


def recognise(
    channels: Sequence[Channel] | Sequence[Mapping[str, Any]],
    clues: Clues | None = None,
    left_out: Iterable[Mapping[str, Any]] = (),
) -> Recognition:
    """Recognise the board that channels belong to.

    Args:
        channels: All channels of the sensors, or the same as plain dictionaries (`rail`, `chip`;
            `quantity`, `shunt_uohm`, `sensor` as far as known). Those of other sensors (NVML, RAPL)
            are passed over. Of the simulated board only the rails count: the machine that it runs
            on is another.
        clues: What else the machine says, None: nothing; `read_clues` reads them.
        left_out: What the sensor could not read (`Sensor.configuration()["left_out"]`: `rail`,
            `why`), so that a rail that is missing has its reason.

    Raises:
        UsageError: EDGEJOULE_BOARD names a board whose rails are not these, or is a misspelt name.
    """
    plain = [c.to_json() if isinstance(c, Channel) else c for c in channels]
    rails = _rails(plain, left_out)
    clues = clues or Clues()
    if any(str(channel.get("sensor")) == SIMULATED for channel in plain):
        clues = Clues()
    if clues.override:
        return _overridden(clues.override, rails)
    boards, how = _told(clues)
    if boards:
        return _concluded([_match(board, rails) for board in boards], how, rails, told=True)
    return _by_signature(rails, clues)


def _overridden(text: str, rails: _Rails) -> Recognition:
    boards = boards_by_text(text, named=True)
    known = ", ".join(board.name for board in BOARDS)
    if len(boards) != 1:
        squeezed = re.sub(r"[^a-z0-9]|nvidia|jetson", "", text.lower())
        names = [re.sub(r"[^a-z0-9]|jetson", "", board.name.lower()) for board in BOARDS]
        if difflib.get_close_matches(squeezed, names, n=1, cutoff=0.75):
            raise UsageError(
                f"{BOARD_VARIABLE}={text}: no board of that name", f"known are {known}"
            )
        how = f"{BOARD_VARIABLE} says so; the table has no such board, so there is no total"
        return Recognition((text,), f"{how} (known are {known})")
    match = _match(boards[0], rails)
    missing = _unexplained(match, rails)
    if rails.labels and missing:
        raise UsageError(
            f"{BOARD_VARIABLE}={text}: {boards[0].name} has {', '.join(missing)}, "
            f"but what is read here is {', '.join(rails.labels)}",
            f"name the board that it is, or leave {BOARD_VARIABLE} away",
        )
    return _concluded([match], f"{BOARD_VARIABLE} says so", rails, told=True)


def _unexplained(match: _Match, rails: _Rails) -> list[str]:
    """Return the rails of a board that are neither read nor left out for a reason."""
    known = {*match.found, *rails.left_out}
    needed = [rail.label for rail in match.board.rails if not rail.optional]
    return [label for label in needed if label not in known]


def _told(clues: Clues) -> tuple[tuple[Board, ...], str]:
    """Return the boards that device tree or soc0 name, and how that is known."""
    by_parts = boards_by_parts(clues.compatible)
    if by_parts:
        return by_parts, f"the device tree's compatible says {clues.compatible[0]}"
    for text, where in (
        (clues.model, "the device tree's model"),
        (clues.machine, f"{SOC0}/machine"),
    ):
        by_text = boards_by_text(text or "")
        if by_text:
            return by_text, f"{where} says {text}"
    return (), ""


def _by_signature(rails: _Rails, clues: Clues) -> Recognition:
    if not rails.labels:
        return Recognition((), "neither device tree nor soc0 name a known board, and no rail does")
    matches = [_match(board, rails) for board in BOARDS]
    fitting = [match for match in matches if match.found and not match.shunts]
    fitting = [match for match in fitting if _all_fit(match, rails)]
    soc = soc_of(clues)
    allowed = [match for match in fitting if soc is None or match.board.soc == soc[0]]
    whole = [match for match in allowed if match.complete(rails.left_out)]
    if whole:
        most = max(len(match.found) for match in whole)
        chosen = [match for match in whole if len(match.found) == most]
    else:
        # A rail is missing and nobody says why: only if the boards that fit differ in nothing but
        # rails that some have in addition.
        most = max((len(match.found) for match in allowed), default=0)
        chosen = [match for match in allowed if len(match.found) == most]
        sets = [_needed(match.board) for match in chosen]
        if not all(min(sets, key=len) <= needed for needed in sets):
            chosen = []
    what = _signature(rails)
    if not chosen:
        elsewhere = f" and SoC {soc[0]} ({soc[1]})" if soc and fitting else ""
        return Recognition(
            (), f"no board of the table has {what}{elsewhere}: no total; {HOW_TO_ADD}"
        )
    narrowed = f", SoC {soc[0]} by {soc[1]}" if soc else ""
    return _concluded(chosen, f"{what}{narrowed}", rails, told=False)


def _signature(rails: _Rails) -> str:
    chips = dict.fromkeys(rail.chip for rail in rails.seen if rail.label)
    return f"the rails {', '.join(rails.labels)} ({', '.join(chips)})"


def _concluded(matches: Sequence[_Match], how: str, rails: _Rails, *, told: bool) -> Recognition:
    names = tuple(match.board.name for match in matches)
    first = min(matches, key=lambda match: len(_needed(match.board)))
    notes = [note for match in matches for note in match.board.notes]
    if told and rails.labels and not any(match.found for match in matches):
        notes.append(
            f"no total: {_signature(rails)[4:]} are not those of {names_of([first.board])}"
        )
        return Recognition(names, how, notes=tuple(dict.fromkeys(notes)))
    notes += [
        f"{match.found[rail.label].rail}: {rail.note}"
        for match in matches
        for rail in match.board.rails
        if rail.note and rail.label in match.found
    ]
    notes += [text for match in matches for text in match.shunts]
    extra = [rail.rail for rail in rails.seen if rail not in first.found.values()]
    if extra and first.found:
        notes.append(f"not in the table, shown as they are: {', '.join(extra)}")
    totals = [_total(match, rails) for match in matches]
    total = totals[0][0]
    if len({None if t is None else (t.rails, t.contains) for t, _ in totals}) > 1:
        total = None
        notes.append(f"no total: it is not the same on {names_of(m.board for m in matches)}")
    else:
        notes += [note for _, note in totals if note]
    if len(matches) > 1:
        same = "their rails and total are the same" if total else "there is no total"
        notes.append(f"{names_of(m.board for m in matches)} cannot be told apart here; {same}")
    something = bool(rails.seen or rails.left_out)
    missing = [
        rail.label
        for rail in first.board.rails
        if rail.label not in first.found and (not rail.optional or rail.label in rails.left_out)
    ]
    return Recognition(
        names,
        how,
        certain=len(matches) == 1
        and not first.shunts
        and (told or not extra)
        and (first.complete(rails.left_out) or not something),
        total=total,
        parents=_parents(first),
        expected_missing=tuple(missing) if something else (),
        notes=tuple(dict.fromkeys(notes)),
    )


def _total(match: _Match, rails: _Rails) -> tuple[Total | None, str]:
    """Return a board's total, and what is to be said of it or why there is none."""
    needed = _needed(match.board)
    for rule in match.board.totals:
        missing = [label for label in rule.rails if label not in match.found]
        if not missing:
            actual = tuple(match.found[label].rail for label in rule.rails)
            return Total(actual, rule.contains, rule.excludes, rule.source), rule.note
        if any(label in needed or label in rails.left_out for label in missing):
            if not (rails.seen or rails.left_out):
                return None, ""
            reasons = [
                f"{label} ({rails.left_out.get(label, 'not among the rails')})" for label in missing
            ]
            return None, f"no total: {', '.join(reasons)} cannot be read"
    return None, ""


def _parents(match: _Match) -> dict[str, str]:
    return {
        match.found[rail.label].rail: match.found[rail.parent].rail
        for rail in match.board.rails
        if rail.parent is not None and rail.parent in match.found and rail.label in match.found
    }


def _needed(board: Board) -> frozenset[str]:
    return frozenset(rail.label for rail in board.rails if not rail.optional)


def _rails(channels: Sequence[Mapping[str, Any]], left_out: Iterable[Mapping[str, Any]]) -> _Rails:
    reasons = {label_of(str(item.get("rail"))): str(item.get("why")) for item in left_out}
    first: dict[str, Mapping[str, Any]] = {}
    quantities: dict[str, set[str]] = {}
    own = [channel for channel in channels if _of_a_board(channel)]
    # The chips themselves say more than tegrastats, which reads the same chips.
    chips = [channel for channel in own if str(channel.get("chip")) != TEGRASTATS]
    for channel in chips or own:
        rail = str(channel["rail"])
        shunt = channel.get("shunt_uohm")
        if rail not in first or (shunt and not first[rail].get("shunt_uohm")):
            first[rail] = channel
        if channel.get("quantity"):
            quantities.setdefault(rail, set()).add(str(channel["quantity"]))
    seen = []
    for rail, channel in first.items():
        kinds = quantities.get(rail, set())
        label = None if _UNLABELLED.match(rail) else label_of(rail)
        if kinds and not kinds & {"power", "energy"} and not kinds >= {"voltage", "current"}:
            if label:
                reasons.setdefault(label, f"only its {' and '.join(sorted(kinds))}")
            continue
        seen.append(_Seen(rail, label, str(channel.get("chip")), channel.get("shunt_uohm")))
    read = {rail.label for rail in seen}
    return _Rails(tuple(seen), {k: why for k, why in reasons.items() if k not in read})


def _of_a_board(channel: Mapping[str, Any]) -> bool:
    if channel.get("sensor"):
        return channel["sensor"] in _BOARD_SENSORS
    chip = str(channel.get("chip"))
    return bool(chip == TEGRASTATS or _ADDRESS.match(chip) or _NO_ADDRESS.match(chip))


def _match(board: Board, rails: _Rails) -> _Match:
    found: dict[str, _Seen] = {}
    shunts = []
    for rail in rails.seen:
        row = _row(board, rail)
        if row is None or row.label in found:
            continue
        found[row.label] = rail
        if row.shunt_uohm and rail.shunt_uohm and row.shunt_uohm != rail.shunt_uohm:
            shunts.append(
                f"{rail.rail}: its shunt is set to {rail.shunt_uohm} micro-ohms here, on "
                f"{names_of([board])} it is {row.shunt_uohm}: one of the two makes power wrong"
            )
    return _Match(board, found, tuple(shunts))


def _row(board: Board, rail: _Seen) -> Rail | None:
    """Return the table's row of a rail that was seen, None if the board has no such rail there."""
    for chip in board.chips:
        if _same_address(chip, rail):
            for row in chip.rails:
                if row is not None and rail.label in (row.label, *row.also):
                    return row
    return None


def _same_address(chip: BoardChip, rail: _Seen) -> bool:
    return chip.address is None or rail.address is None or chip.address == rail.address


def _all_fit(match: _Match, rails: _Rails) -> bool:
    """Say whether no label contradicts the board; a chip with none of its labels is another's."""
    known = {rail.label for rail in match.found.values()}
    for chip in {rail.chip for rail in match.found.values()}:
        labels = {rail.label for rail in rails.seen if rail.chip == chip and rail.label}
        if not labels <= known:
            return False
    return True
