"""What the figures of layers show, as plain values: shared by the page and the figures for papers.

    pieces of the best method (layers, groups, gap) --> bars of energy, shares, points
    layers' times                                   --> bars of time, shares of time

Nothing here is escaped or rounded; names are as the runtime gave them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgejoule.energy.rollup import UNKNOWN, Rollup
from edgejoule.energy.rollup_amounts import Amount, Piece, total
from edgejoule.report.attribution import WORDS
from edgejoule.report.energies import best_of
from edgejoule.report.tables import LayerRow, RunTables

GAP = "gap (in no layer)"
PROPORTIONAL = "proportional"
Kind = Literal["layer", "group", "rest", "gap"]


@dataclass(frozen=True)
class Bar:
    """A layer, a group of layers, all the others together, or the gap.

    Attributes:
        name: As shown, not shortened.
        kind: Which of the four.
        operation: What it does; several joined by ` + `.
        time_ms: Mean time per inference, None if not known.
        time_half_ms: Half-width of its interval.
        amount: Its energy, unknown where it has none.
        resolved: False: a method that tells layers apart cannot tell this from the others.
        layers: Their indices.
    """

    name: str
    kind: Kind
    operation: str
    time_ms: float | None
    time_half_ms: float | None
    amount: Amount
    resolved: bool | None = None
    layers: tuple[int, ...] = ()

    @property
    def doubtful(self) -> bool:
        """Whether it must be drawn apart from what is known of a layer by itself."""
        return self.kind == "group" or self.resolved is False


@dataclass(frozen=True)
class Share:
    """Shares of one inference, 0 to 1, with half-widths; None where not known.

    Attributes:
        name: Of what.
        time: Of its time.
        time_half: Half-width of that.
        gross: Of its gross energy.
        gross_half: Half-width of that.
        dynamic: Of its energy above the baseline.
        dynamic_half: Half-width of that.
        bar: The piece itself where it is one.
    """

    name: str
    time: float | None = None
    time_half: float | None = None
    gross: float | None = None
    gross_half: float | None = None
    dynamic: float | None = None
    dynamic_half: float | None = None
    bar: Bar | None = None

    @property
    def power(self) -> float | None:
        """Gross power over the inference's mean; None where not known."""
        return self.gross / self.time if self.gross is not None and self.time else None


def best_rollup(run: RunTables) -> Rollup | None:
    """Return the energies of the best method, None where no layer and no gap has any."""
    best = best_of(run.rollups)
    known = best is not None and any(one.amount.gross_mj is not None for one in best.pieces)
    return best if known else None


def method_words(rollup: Rollup) -> str:
    """Return the method in words of our own: never what a file says."""
    return WORDS.get(rollup.method, "a method unknown to this version")


def operation_of(row: LayerRow | None) -> str:
    """Return what a layer does, in the words that all backends share."""
    return (row.operation if row is not None else None) or UNKNOWN


def joined(operations: Iterable[str]) -> str:
    """Return several operations as one name, each once, in one order."""
    return " + ".join(sorted(set(operations))) or UNKNOWN


def time_bars(run: RunTables, count: int) -> list[Bar]:
    """Return the layers of the greatest mean time, the slowest first, and the rest as one bar."""
    order = sorted(run.layers, key=lambda layer: (-layer.mean_ms, layer.index))
    bars = [_of_layer(layer) for layer in order]
    return [*bars[:count], *rest_of(bars[count:])]


def energy_bars(run: RunTables, rollup: Rollup, count: int) -> list[Bar]:
    """Return what takes the most energy, the rest as one bar, and the gap; only what has a number.

    Layers that are known together only are one bar.
    """
    bars = [bar for bar in piece_bars(run, rollup) if bar.amount.gross_mj is not None]
    layers = [bar for bar in bars if bar.kind != "gap"]
    layers.sort(key=lambda bar: -(bar.amount.gross_mj or 0.0))
    return [*layers[:count], *rest_of(layers[count:]), *(b for b in bars if b.kind == "gap")]


def piece_bars(run: RunTables, rollup: Rollup) -> list[Bar]:
    """Return all pieces of a method in the order of execution, also those without a number."""
    rows = {layer.index: layer for layer in run.layers}
    return [_of_piece(piece, rows) for piece in rollup.pieces]


def rest_of(bars: Sequence[Bar]) -> list[Bar]:
    """Return some bars as one, named so; none for none, itself for one."""
    if len(bars) < 2:
        return list(bars)
    layers = tuple(index for bar in bars for index in bar.layers)
    amounts = [bar.amount for bar in bars if bar.amount.gross_mj is not None]
    amount = Amount()
    if amounts:
        amount = Amount(
            total(one.gross_mj for one in amounts),
            total(one.gross_half_mj for one in amounts),
            total(one.dynamic_mj for one in amounts),
            total(one.dynamic_half_mj for one in amounts),
            time_ms=total(one.time_ms for one in amounts),
            layers=sum(one.layers for one in amounts),
        )
    return [
        Bar(
            f"{len(layers)} other layers",
            "rest",
            joined(bar.operation for bar in bars),
            total(bar.time_ms for bar in bars),
            total(bar.time_half_ms for bar in bars),
            amount,
            None,
            layers,
        )
    ]


def shares(run: RunTables, rollup: Rollup | None) -> list[Share]:
    """Return the shares of all pieces with a known time or energy, the gap last.

    Time is of the profiled inference, or of all layers where that is not known; energy is of the
    method's sum. Without a method: of each layer's time.
    """
    per_ms, gap = _per_ms(run)
    bars = [_of_layer(layer) for layer in run.layers]
    gross = dynamic = None
    if rollup is not None:
        bars = piece_bars(run, rollup)
        gross, dynamic = rollup.closure.gross_mj, rollup.closure.dynamic_mj
    elif gap is not None:
        bars.append(Bar(GAP, "gap", "gap", None, None, Amount()))
    found = []
    for bar in bars:
        time = _times(bar.time_ms, per_ms) if bar.kind != "gap" else gap
        half = _times(bar.time_half_ms, per_ms) if bar.kind != "gap" else None
        found.append(
            Share(
                bar.name,
                time,
                half,
                _over(bar.amount.gross_mj, gross),
                _over(bar.amount.gross_half_mj, gross),
                _over(bar.amount.dynamic_mj, dynamic),
                _over(bar.amount.dynamic_half_mj, dynamic),
                bar,
            )
        )
    return [one for one in found if one.time is not None or one.gross is not None]


def operation_shares(parts: Sequence[Share]) -> list[Share]:
    """Return shares by operation, the greatest energy (or time) first, the gap last.

    A half-width of a sum is the sum of the half-widths, which no correlation exceeds.
    """
    by_name: dict[str, list[Share]] = {}
    for one in parts:
        word = GAP if one.bar is None or one.bar.kind == "gap" else one.bar.operation
        by_name.setdefault(word, []).append(one)
    found = []
    for name, members in by_name.items():
        sums: dict[str, Any] = {
            field: _known_sum(getattr(one, field) for one in members)
            for field in ("time", "gross", "dynamic")
        }
        halves: dict[str, Any] = {
            f"{field}_half": total(
                getattr(one, f"{field}_half") for one in members if getattr(one, field) is not None
            )
            for field in ("time", "gross", "dynamic")
            if sums[field] is not None
        }
        found.append(Share(name, **sums, **halves))
    found.sort(key=lambda one: (one.name == GAP, -(one.gross or 0.0), -(one.time or 0.0)))
    return found


def most_distant(parts: Sequence[Share], count: int) -> list[Share]:
    """Return the pieces whose shares of energy and time differ most, the farthest first."""
    both = [one for one in parts if one.time is not None and one.gross is not None]

    def distance(one: Share) -> float:
        return abs((one.gross or 0.0) - (one.time or 0.0))

    told = [one for one in both if distance(one) > max(1e-4, one.gross_half or 0.0)]
    return sorted(told, key=lambda one: -distance(one))[:count]


def without_figure(rollup: Rollup) -> int:
    """Return how many layers have no number, neither alone nor in a group."""
    return sum(piece.amount.unknown for piece in rollup.pieces)


def _of_layer(layer: LayerRow) -> Bar:
    return Bar(
        layer.name,
        "layer",
        operation_of(layer),
        layer.mean_ms,
        layer.half_ms,
        Amount(),
        None,
        (layer.index,),
    )


def _of_piece(piece: Piece, rows: dict[int, LayerRow]) -> Bar:
    if piece.kind == "gap":
        return Bar(GAP, "gap", "gap", piece.amount.time_ms, None, piece.amount, None)
    members = [rows.get(index) for index in piece.layers]
    names = [
        row.name if row is not None else f"layer {index}"
        for index, row in zip(piece.layers, members, strict=True)
    ]
    times = [None if row is None else row.mean_ms for row in members]
    halves = [None if row is None else row.half_ms for row in members]
    alone = len(names) == 1
    return Bar(
        names[0] if alone else f"{len(names)} layers together: {', '.join(names)}",
        "layer" if alone and piece.kind == "layer" else "group",
        joined(operation_of(row) for row in members),
        total(times),
        total(halves),
        piece.amount,
        piece.resolved,
        piece.layers,
    )


def _per_ms(run: RunTables) -> tuple[float | None, float | None]:
    """Return the share that a millisecond is, and the gap's share (None where not known)."""
    in_layers = sum(layer.mean_ms for layer in run.layers)
    if in_layers <= 0:
        return None, None
    known = [layer.share for layer in run.layers if layer.share is not None]
    if len(known) < len(run.layers) or sum(known) <= 0:
        return 1.0 / in_layers, None
    return sum(known) / in_layers, max(0.0, 1.0 - sum(known))


def _times(value: float | None, factor: float | None) -> float | None:
    return None if value is None or factor is None else value * factor


def _over(value: float | None, whole: float | None) -> float | None:
    return None if value is None or whole is None or whole <= 0 else value / whole


def _known_sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
