"""Energy per layer summed up: by module (a tree), by operation, per inference, per image. Numpy.

    inference                          = closure: every number stands somewhere, once
    |-- (the model) ""                 total of all mapped layers
    |   |-- layer1                     prefixes of `layer1.0.conv1`
    |   |   `-- layer1.0
    |   |       `-- layer1.0.conv1     own: its layers; total: with everything below
    |-- unmapped                       layers that belong to no known module
    `-- gap                            time in no layer

Layers that a method cannot tell apart have one number together. It belongs to a module if all of
them do, and otherwise to the smallest module around them all, so that nothing is split by guess
and nothing is dropped: own energies add up to the closure, and so do the operations.

The intervals of such sums: estimates of one fit, or against one baseline, depend on each other in
a way that their half-widths do not tell. The half-width of a sum is therefore the sum of the
half-widths, which no correlation exceeds (the standard deviation of a sum is at most the sum of the
standard deviations), unless the method gives the covariance. Systematic bounds add up in any case:
one gain is wrong for all layers alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgejoule.energy.rollup_amounts import (
    FROM_COVARIANCE,
    SUMMED,
    Amount,
    Covariance,
    Piece,
    Summing,
    piece_of,
    pieces_of,
    ratio,
)
from edgejoule.energy.rows import EnergyRow
from edgejoule.errors import MeasurementError

UNKNOWN = "unknown"
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Node:
    """A module, or what stands beside the modules.

    Attributes:
        kind: `inference` (the whole), `module`, `unmapped` or `gap`.
        path: The module's path, empty for the model itself and for what is no module.
        depth: 0 for the whole, 1 for the model, one more for each step below.
        own: What stands here and not in a module below.
        total: With everything below.
        outside: Layers below whose energy is known only together with layers elsewhere, so that it
            stands farther up.
    """

    kind: Literal["inference", "module", "unmapped", "gap"]
    path: str
    depth: int
    own: Amount
    total: Amount
    outside: int = 0


@dataclass(frozen=True)
class Operation:
    """All layers of one operation.

    Attributes:
        name: The operation, several joined by ` + ` where a group has layers of each, `unknown`,
            or `gap`.
        amount: Their energy.
    """

    name: str
    amount: Amount


@dataclass(frozen=True)
class Rollup:
    """Everything of one method on one rail.

    Attributes:
        method: The method.
        rail: The rail.
        pieces: Every number that there is, in the order of execution, the gap last.
        modules: The tree, parents before children, children in the order of execution.
        operations: The largest gross energy first.
        inference: The whole as it was measured; unknown where there is no such row.
        closure: The sum of all pieces.
        batch: Images of an inference.
        interval: How half-widths of sums came about.
        resolved_layers: Layers with a number of their own.
        layers: All layers.
    """

    method: str
    rail: str
    pieces: tuple[Piece, ...]
    modules: tuple[Node, ...]
    operations: tuple[Operation, ...]
    inference: Amount
    closure: Amount
    batch: int
    interval: str
    resolved_layers: int
    layers: int

    @property
    def image(self) -> Amount:
        """The whole as it was measured, per image of the batch."""
        return self.inference.per(self.batch)

    @property
    def closure_gross(self) -> float | None:
        """Sum over measured, gross; None where either is not known."""
        return ratio(self.closure.gross_mj, self.inference.gross_mj)

    @property
    def closure_dynamic(self) -> float | None:
        """Sum over measured, above the baseline."""
        return ratio(self.closure.dynamic_mj, self.inference.dynamic_mj)

    @property
    def resolved_share(self) -> float | None:
        """Of the gross energy in layers, the part that single layers are known to take."""
        known = [piece for piece in self.pieces if piece.kind != "gap"]
        whole = sum(piece.amount.gross_mj or 0.0 for piece in known)
        own = [one for one in known if one.kind == "layer" and one.resolved is not False]
        return ratio(sum(piece.amount.gross_mj or 0.0 for piece in own), whole)


def roll_up(
    rows: Sequence[EnergyRow],
    layers: Sequence[Mapping[str, Any]],
    *,
    batch: int = 1,
    layer_ms: Sequence[float | None] | None = None,
    inference_ms: float | None = None,
    covariance: Covariance | None = None,
) -> Rollup:
    """Sum up the rows of one method on one rail.

    Args:
        rows: Of one method and one rail.
        layers: `layers` of `engine.json`, by index.
        batch: Images of an inference.
        layer_ms: Mean time of each layer, where the rows do not say (formats below 5).
        inference_ms: Mean time of an inference, for the same.
        covariance: Of the estimates, where the method gives it.

    Raises:
        MeasurementError: There are no rows, they are of several methods or rails, or their own
            sum (`closure`) is not what they add up to.
    """
    if len({(row.method, row.rail) for row in rows}) != 1:
        raise MeasurementError("energies are summed up for one method on one rail at a time")
    pieces = pieces_of(rows, layer_ms, inference_ms)
    summed = Summing(covariance)
    inference = _whole(rows, "inference", inference_ms)
    closure = _closure(rows, summed.amount(pieces))
    modules = _tree(pieces, layers, summed, closure)
    single = [row for row in rows if row.kind == "layer"]
    return Rollup(
        rows[0].method,
        rows[0].rail,
        tuple(pieces),
        tuple(modules),
        tuple(_operations(pieces, layers, summed)),
        inference,
        closure,
        batch,
        SUMMED if covariance is None else FROM_COVARIANCE,
        sum(row.gross_mj is not None and row.resolved is not False for row in single),
        len(single),
    )


def _closure(rows: Sequence[EnergyRow], summed: Amount) -> Amount:
    """Return the sum of everything; its interval is the method's own where it gives one.

    Raises:
        MeasurementError: The method's sum is another.
    """
    row = next((row for row in rows if row.kind == "closure"), None)
    if row is None:
        return summed
    for told, found in ((row.gross_mj, summed.gross_mj), (row.dynamic_mj, summed.dynamic_mj)):
        if told is not None and found is not None:
            # Dynamic energies may cancel: rounding goes by the gross ones.
            scale = max(abs(told), abs(found), abs(row.gross_mj or 0.0))
            if abs(told - found) > _ROUNDING * scale:
                raise MeasurementError(
                    f"{row.method} on {row.rail}: its rows add up to {found:.9g} mJ, its closure "
                    f"says {told:.9g} mJ"
                )
    gross_half, dynamic_half = row.gross_statistical_mj, row.dynamic_statistical_mj
    return dataclasses.replace(
        summed,
        gross_half_mj=summed.gross_half_mj if gross_half is None else gross_half,
        dynamic_half_mj=summed.dynamic_half_mj if dynamic_half is None else dynamic_half,
    )


def _whole(rows: Sequence[EnergyRow], kind: str, time_ms: float | None) -> Amount:
    row = next((row for row in rows if row.kind == kind), None)
    if row is None:
        return Amount(time_ms=time_ms)
    layers = sum(one.kind == "layer" for one in rows)
    known_ms = time_ms if row.time_ms is None else row.time_ms
    return dataclasses.replace(piece_of("gap", (), row, known_ms).amount, layers=layers)


_Path = tuple[str, ...]


def _path_of(layers: Sequence[Mapping[str, Any]], index: int) -> _Path | None:
    """Return the steps to a layer's module, () for the model itself, None if it is unmapped."""
    path = layers[index].get("module_path") if index < len(layers) else None
    if path is None:
        return None
    return tuple(str(path).split(".")) if path else ()


def _tree(
    pieces: Sequence[Piece],
    layers: Sequence[Mapping[str, Any]],
    summed: Summing,
    closure: Amount,
) -> list[Node]:
    """Return the tree of modules with what stands beside them."""
    whole: list[Piece] = []  # groups with members in the model and beside it
    unmapped: list[Piece] = []
    own: dict[_Path, list[Piece]] = {}
    order: dict[_Path, int] = {}
    outside: dict[_Path, int] = {}
    for piece in pieces:
        if piece.kind == "gap":
            continue
        paths = [_path_of(layers, index) for index in piece.layers]
        mapped = [path for path in paths if path is not None]
        for index, path in zip(piece.layers, paths, strict=True):
            for prefix in _prefixes(path):
                order[prefix] = min(index, order.get(prefix, index))
        if not mapped:
            unmapped.append(piece)
            continue
        at = _common(mapped) if len(mapped) == len(paths) else None
        (whole if at is None else own.setdefault(at, [])).append(piece)
        for path in mapped:
            for prefix in _prefixes(path)[0 if at is None else len(at) + 1 :]:
                outside[prefix] = outside.get(prefix, 0) + 1
    nodes = [Node("inference", "", 0, summed.amount(whole), closure)]
    below: dict[_Path, list[Piece]] = {}
    for at, found in own.items():
        for prefix in _prefixes(at):
            below.setdefault(prefix, []).extend(found)
    for path in _ordered(order):
        amounts = summed.amount(own.get(path, [])), summed.amount(below.get(path, []))
        nodes.append(Node("module", ".".join(path), len(path) + 1, *amounts, outside.get(path, 0)))
    if unmapped:
        amount = summed.amount(unmapped)
        nodes.append(Node("unmapped", "", 1, amount, amount))
    gap = [piece for piece in pieces if piece.kind == "gap"]
    if gap:
        amount = summed.amount(gap)
        nodes.append(Node("gap", "", 1, amount, amount))
    return nodes


def _prefixes(path: _Path | None) -> list[_Path]:
    """Return the model, then every module on the way to one, itself included."""
    return [] if path is None else [path[:length] for length in range(len(path) + 1)]


def _common(paths: Sequence[_Path]) -> _Path:
    """Return the smallest module around all."""
    first, last = min(paths), max(paths)
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    return first[:length]


def _ordered(order: Mapping[_Path, int]) -> list[_Path]:
    """Return the modules, parents first, brothers by the first layer that runs in them."""

    def key(path: _Path) -> list[tuple[int, str]]:
        return [(order[path[:end]], path[end - 1]) for end in range(1, len(path) + 1)]

    return sorted(order, key=key)


def _operations(
    pieces: Sequence[Piece], layers: Sequence[Mapping[str, Any]], summed: Summing
) -> list[Operation]:
    def name(piece: Piece) -> str:
        if piece.kind == "gap":
            return "gap"
        words = [
            str((layers[index] if index < len(layers) else {}).get("operation") or UNKNOWN)
            for index in piece.layers
        ]
        return " + ".join(dict.fromkeys(words))

    found: dict[str, list[Piece]] = {}
    for piece in pieces:
        found.setdefault(name(piece), []).append(piece)
    summed_up = [Operation(word, summed.amount(of_it)) for word, of_it in found.items()]
    return sorted(summed_up, key=lambda one: -(one.amount.gross_mj or 0.0))
