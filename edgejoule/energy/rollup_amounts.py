"""Amounts of energy and how they are added: what `rollup` sums up. Numpy.

The half-width of a sum is the sum of the half-widths unless a covariance is given, see `rollup`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgejoule.energy.rows import EnergyRow

if TYPE_CHECKING:
    import numpy.typing as npt

SUMMED = "sum of the half-widths"
FROM_COVARIANCE = "from the covariance"
_COUNTS = ("layers", "unknown")
_LEAST_MS = 1e-6  # clocks count nanoseconds: in less than one, energy has no power
_Z95 = 1.959964  # of the normal distribution, two-sided 95 %


@dataclass(frozen=True)
class Amount:
    """An energy with its time; mJ and ms per inference, half-widths of 95 % intervals.

    Attributes:
        gross_mj: Energy, idle included; None: not known.
        gross_half_mj: Half-width of its interval; None: not estimated.
        dynamic_mj: Energy above the loaded baseline.
        dynamic_half_mj: Its half-width.
        systematic_mj: Bound on what repeating does not average out, of the gross energy.
        time_ms: Time of the layers (and gap) that are in it.
        scaled_gross_mj: Its share times the energy of the clean pass.
        scaled_dynamic_mj: The same above the baseline.
        unresolved_mj: Of the gross energy, what the method does not tell from everything else.
        layers: How many layers are in it.
        unknown: How many layers belong to it and have no number at all, alone or in a group.
    """

    gross_mj: float | None = None
    gross_half_mj: float | None = None
    dynamic_mj: float | None = None
    dynamic_half_mj: float | None = None
    systematic_mj: float | None = None
    time_ms: float | None = None
    scaled_gross_mj: float | None = None
    scaled_dynamic_mj: float | None = None
    unresolved_mj: float = 0.0
    layers: int = 0
    unknown: int = 0

    @property
    def power_gross_mw(self) -> float | None:
        """Mean power in its time, mW; None without energy or time."""
        return _over(self.gross_mj, self.time_ms)

    @property
    def power_dynamic_mw(self) -> float | None:
        """Mean power above the baseline, mW."""
        return _over(self.dynamic_mj, self.time_ms)

    @property
    def edp_uj_s(self) -> float | None:
        """Energy-delay product: gross energy times time, uJ s (which is mJ ms)."""
        if self.gross_mj is None or self.time_ms is None:
            return None
        return self.gross_mj * self.time_ms

    def per(self, count: int) -> Amount:
        """Return the amount of one of `count` equal parts (an image of a batch), its time too."""
        parts: dict[str, Any] = {
            name: None if value is None else value / count
            for name, value in vars(self).items()
            if name not in _COUNTS
        }
        return Amount(**parts, layers=self.layers, unknown=self.unknown)


@dataclass(frozen=True)
class Piece:
    """What a method has one number for: a layer, a group of layers, or the gap.

    Attributes:
        kind: Which of the three.
        layers: Indices of the layers in it, none for the gap.
        amount: Its energy.
        resolved: Whether the method tells it from everything else; None: it does not ask.
        why: What a reader must know; None: nothing.
    """

    kind: Literal["layer", "group", "gap"]
    layers: tuple[int, ...]
    amount: Amount
    resolved: bool | None = None
    why: str | None = None


@dataclass(frozen=True)
class Covariance:
    """What a method knows of how its estimates depend on each other.

    Attributes:
        keys: (kind, layer or smallest layer of the group, None for the gap) of each estimate.
        gross_mj2: (k, k) covariance of the gross energies.
        dynamic_mj2: (k, k) of the dynamic ones, None where not known.
    """

    keys: tuple[tuple[str, int | None], ...]
    gross_mj2: npt.NDArray[np.float64]
    dynamic_mj2: npt.NDArray[np.float64] | None = None


def energy_rows(plain: Iterable[Mapping[str, Any]]) -> list[EnergyRow]:
    """Return rows of an `energy.parquet` of any format; columns that it lacks are None."""
    names = [one.name for one in dataclasses.fields(EnergyRow)]
    make: Any = EnergyRow
    return [make(**{name: row.get(name) for name in names}) for row in plain]


def pieces_of(
    rows: Sequence[EnergyRow],
    layer_ms: Sequence[float | None] | None,
    inference_ms: float | None,
) -> list[Piece]:
    """Return what has a number, in the order of execution; the gap last."""
    known = dict(enumerate(layer_ms or ()))
    times = {
        row.layer: known.get(row.layer) if row.time_ms is None else row.time_ms
        for row in rows
        if row.kind == "layer" and row.layer is not None
    }
    grouped: dict[int, list[int]] = {}
    for row in rows:
        if row.kind == "layer" and row.layer is not None and row.gross_mj is None:
            grouped.setdefault(row.layer if row.group is None else row.group, []).append(row.layer)
    in_layers_ms = total(times.values())
    found = []
    for row in rows:
        if row.kind == "layer" and row.layer is not None and row.gross_mj is not None:
            found.append(piece_of("layer", (row.layer,), row, times[row.layer]))
        elif row.kind == "group" and row.group is not None:
            members = tuple(grouped.pop(row.group, [row.group]))
            found.append(piece_of("group", members, row, total(times.get(i) for i in members)))
        elif row.kind == "gap":
            gap_ms = row.time_ms
            if gap_ms is None and inference_ms is not None and in_layers_ms is not None:
                gap_ms = inference_ms - in_layers_ms
            found.append(piece_of("gap", (), row, gap_ms))
    # Layers without any number are there all the same, with their time.
    found += [
        Piece("group", tuple(members), Amount(unknown=len(members)), False)
        for members in grouped.values()
    ]
    return sorted(found, key=lambda piece: (piece.kind == "gap", piece.layers))


def piece_of(
    kind: Literal["layer", "group", "gap"],
    members: tuple[int, ...],
    row: EnergyRow,
    time_ms: float | None,
) -> Piece:
    """Return what a row says as a piece."""
    if row.gross_mj is None:
        return Piece(kind, members, Amount(unknown=len(members)), row.resolved, row.why)
    unresolved = row.gross_mj if row.resolved is False else 0.0
    amount = Amount(
        row.gross_mj,
        row.gross_statistical_mj,
        row.dynamic_mj,
        row.dynamic_statistical_mj,
        row.systematic_mj,
        time_ms,
        row.scaled_gross_mj,
        row.scaled_dynamic_mj,
        unresolved,
        len(members),
    )
    return Piece(kind, members, amount, row.resolved, row.why)


@dataclass(frozen=True)
class Summing:
    """How amounts are added: with a covariance or without."""

    covariance: Covariance | None
    places: dict[tuple[str, int | None], int] = field(init=False)

    def __post_init__(self) -> None:
        keys = () if self.covariance is None else self.covariance.keys
        object.__setattr__(self, "places", {key: place for place, key in enumerate(keys)})

    def amount(self, pieces: Sequence[Piece]) -> Amount:
        """Return the sum of pieces; a field that one of them does not know is not known.

        Pieces without an energy are counted and otherwise left out, their time as well.
        """
        known = [piece for piece in pieces if piece.amount.gross_mj is not None]
        unknown = sum(piece.amount.unknown for piece in pieces)
        if pieces and not known:
            return Amount(unknown=unknown)
        sums: dict[str, Any] = {
            one.name: total(getattr(piece.amount, one.name) for piece in known)
            for one in dataclasses.fields(Amount)
            if one.name not in _COUNTS
        }
        if self.covariance is not None and known:
            for name, matrix in (
                ("gross_half_mj", self.covariance.gross_mj2),
                ("dynamic_half_mj", self.covariance.dynamic_mj2),
            ):
                sums[name] = self._half(known, matrix) if matrix is not None else sums[name]
        return Amount(**sums, layers=sum(piece.amount.layers for piece in known), unknown=unknown)

    def _half(self, pieces: Sequence[Piece], matrix: npt.NDArray[np.float64]) -> float | None:
        keys = [(piece.kind, min(piece.layers, default=None)) for piece in pieces]
        if any(key not in self.places for key in keys):
            return None
        chosen = np.array([self.places[key] for key in keys])
        return _Z95 * float(np.sqrt(max(0.0, matrix[np.ix_(chosen, chosen)].sum())))


def total(values: Iterable[float | None]) -> float | None:
    """Return the sum, None if a term is not known."""
    given = list(values)
    known = [value for value in given if value is not None]
    return math.fsum(known) if len(known) == len(given) else None


def _over(energy_mj: float | None, time_ms: float | None) -> float | None:
    if energy_mj is None or time_ms is None or time_ms < _LEAST_MS:
        return None
    return energy_mj / time_ms * 1e3


def ratio(one: float | None, other: float | None) -> float | None:
    """Return one over the other, None where either is not known or the other is zero."""
    return None if one is None or not other else one / other
