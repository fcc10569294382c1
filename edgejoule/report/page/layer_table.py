"""All layers of a run as plain columns and rows: the page makes a table of them when it is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgejoule.energy.rollup import Rollup
from edgejoule.energy.rollup_amounts import Amount, Piece
from edgejoule.report.attribution import TELL_APART, WORDS
from edgejoule.report.energy_sections import best_rollup, mark_of
from edgejoule.report.page.values import plain
from edgejoule.report.tables import LayerRow, RunTables
from edgejoule.report.text import energy, percent, printable

_DIGITS = 4  # as many as the table shows; of a half-width two


@dataclass(frozen=True)
class _Seen:
    """A layer with what is known of its energy."""

    row: LayerRow
    piece: Piece | None
    rollup: Rollup | None
    power_mw: float | None

    @property
    def amount(self) -> Amount:
        """Its own energy, nothing where it has none of its own."""
        if self.piece is None or self.piece.kind != "layer":
            return Amount()
        return self.piece.amount


def layer_table(run: RunTables) -> dict[str, Any]:
    """Return `columns` and `rows` of the table of layers, in the engine's order.

    A column has `title`, `help` and `kind`: `text`, `number` or `share` (0 to 1). A cell is a text,
    a number, a pair of number and half-width, or None. Columns that hold nothing are left out.
    """
    rollup = best_rollup(run)
    pieces = _pieces(rollup)
    seen = [_seen(row, pieces.get(row.index), rollup) for row in run.layers]
    columns, cells = [], []
    for title, kind, meaning, of in _columns(run, rollup):
        values = [of(one) for one in seen]
        if any(value is not None for value in values):
            columns.append({"title": title, "kind": kind, "help": meaning})
            cells.append(values)
    rows = plain([list(row) for row in zip(*cells, strict=True)], _DIGITS)
    return {"columns": columns, "rows": rows}


def _pieces(rollup: Rollup | None) -> Mapping[int, Piece]:
    if rollup is None:
        return {}
    return {layer: piece for piece in rollup.pieces for layer in piece.layers}


def _seen(row: LayerRow, piece: Piece | None, rollup: Rollup | None) -> _Seen:
    own = piece is not None and piece.kind == "layer"
    return _Seen(row, piece, rollup, piece.amount.power_gross_mw if own and piece else None)


def _columns(
    run: RunTables, rollup: Rollup | None
) -> list[tuple[str, str, str, Callable[[_Seen], Any]]]:
    mark = mark_of(run)
    method = "" if rollup is None else WORDS.get(rollup.method, rollup.method)
    by = f"by {method} on {printable(rollup.rail)}" if rollup is not None else ""
    return [
        ("#", "number", "Place in the engine", lambda one: one.row.index),
        ("layer", "text", "The runtime's name", lambda one: printable(one.row.name) or "(no name)"),
        ("operation", "text", "In the words that all runtimes share", _operation),
        ("module", "text", "In the user's model", lambda one: printable(one.row.module)),
        (
            "mean ms",
            "number",
            "Mean time in the profiled pass, with its 95 % interval within this process",
            lambda one: _pair(one.row.mean_ms, one.row.half_ms),
        ),
        ("median ms", "number", "Median time", lambda one: one.row.median_ms),
        ("of the time", "share", "Share of the profiled inferences", lambda one: one.row.share),
        (
            f"gross mJ{mark}",
            "number",
            f"Energy per profiled inference, idle included, {by}",
            lambda one: _pair(one.amount.gross_mj, one.amount.gross_half_mj),
        ),
        (
            f"dynamic mJ{mark}",
            "number",
            f"Energy above idle, {by}",
            lambda one: _pair(one.amount.dynamic_mj, one.amount.dynamic_half_mj),
        ),
        (f"of the energy{mark}", "share", "Share of the sum of everything, gross", _share),
        (
            f"mean W{mark}",
            "number",
            "Energy over time",
            lambda one: None if one.power_mw is None else one.power_mw / 1000,
        ),
        (
            "GFLOP/s",
            "number",
            "Operations counted from the shapes, over time",
            lambda one: one.row.roofline.gflops_per_s,
        ),
        (
            f"GFLOP/J{mark}",
            "number",
            "Operations over gross energy",
            lambda one: one.row.roofline.gflop_per_joule,
        ),
        ("bound", "text", "What limits it", lambda one: one.row.roofline.bound),
        (
            "of the roof",
            "share",
            "Least time under the measured roofline over measured time",
            lambda one: one.row.roofline.share,
        ),
        ("energy known", "text", f"Whether energy {by} is the layer's own", _resolved),
    ]


def _pair(value: float | None, half: float | None) -> Any:
    return value if value is None or half is None else [value, float(f"{half:.2g}")]


def _operation(one: _Seen) -> str | None:
    words = [one.row.operation, one.row.type]
    known = list(dict.fromkeys(printable(word) for word in words if word))
    if not known:
        return None
    return known[0] if len(known) == 1 else f"{known[0]} ({known[1]})"


def _share(one: _Seen) -> float | None:
    whole = None if one.rollup is None else one.rollup.closure.gross_mj
    own = one.amount.gross_mj
    return None if own is None or not whole else own / whole


def _resolved(one: _Seen) -> str | None:
    """Say whether a layer's energy is its own, or with which layers it stands and why."""
    if one.rollup is None or one.rollup.method not in TELL_APART:
        return None
    if one.piece is None:
        return "nothing is known"
    why = f": {printable(one.piece.why)}" if one.piece.why else ""
    if len(one.piece.layers) > 1:
        others = [index for index in one.piece.layers if index != one.row.index]
        named = ", ".join(map(str, others[:6]))
        named += f" and {len(others) - 6} more" if len(others) > 6 else ""
        together = energy(one.piece.amount.gross_mj, one.piece.amount.gross_half_mj)
        known = "" if one.piece.amount.gross_mj is None else f", together {together}"
        return f"only with {named}{known}{why}"
    return f"no{why}" if one.piece.resolved is False else "yes"


def without_energy(run: RunTables) -> str:
    """Return one line on how many layers have an energy of their own, empty without any method."""
    rollup = best_rollup(run)
    if rollup is None or rollup.method not in TELL_APART:
        return ""
    share = rollup.closure.gross_mj and rollup.closure.unresolved_mj / rollup.closure.gross_mj
    rest = f"; {percent(share)} % of the energy is not resolved" if share else ""
    word = WORDS[rollup.method]
    return f"{rollup.resolved_layers} of {rollup.layers} layers resolved by {word}{rest}."
