"""Sums over the rails of one pass, each attributed with its own window. Numpy-free.

A layer that one rail knows only in a group is known in the sum if the sum of what each rail
estimates for it alone is: a small rail that cannot tell two layers apart does not hide them.
"""

from __future__ import annotations

from dataclasses import replace

from edgejoule.energy.regression_groups import LIMIT
from edgejoule.energy.rows import EnergyRow
from edgejoule.energy.statistics import combine
from edgejoule.energy.window_rows import (
    METHOD,
    TOGETHER,
    TOO_WIDE,
    WindowAttribution,
    unresolved,
)

Members = tuple[int, ...]


def add_rails(parts: list[WindowAttribution], name: str = "total") -> WindowAttribution:
    """Return the sum of several rails of one pass, each with its own window.

    A rail that does not resolve a layer does not hide it: its estimate and interval enter the sum,
    and the sum is resolved or not as any energy is. What the sum does not resolve stays together if
    a rail knows it only together.

    Args:
        parts: One per rail, of the same timeline.
        name: Of the sum.
    """
    rows: list[EnergyRow] = []
    apart = {members: whole for whole in _joined(parts) for members in _apart(parts, whole, name)}
    joined = sorted(apart)
    alone = {members[0] for members in joined if len(members) == 1}
    layers = sorted(layer for members in joined for layer in members)
    time_ms = {row.layer: row.time_ms for row in parts[0].rows if row.kind == "layer"}
    together = []
    for members in joined:
        terms = [term for part in parts for term in _terms(part, apart[members])]
        row = _of(parts, members, apart[members], name)
        fine = _resolved(row)
        whys = {term.why for term in terms if term.gross_mj is None and term.why}
        why = None if fine else "; ".join(sorted(whys)) or TOO_WIDE
        spent = sum(time_ms[layer] or 0.0 for layer in members)
        together.append(replace(row, resolved=fine, group=members[0], time_ms=spent, why=why))
    by_smallest = {row.group: row for row in together}
    of = {layer: members[0] for members in joined for layer in members}
    for layer in layers:
        row = by_smallest[of[layer]]
        if layer in alone and row.resolved:
            rows.append(replace(row, kind="layer", layer=layer, group=None))
        else:
            why = row.why or TOGETHER
            spent_ns = (time_ms[layer] or 0.0) * 1e6
            rows.append(unresolved(name, layer, row.n, spent_ns, of[layer], why))
    rows += [row for row in together if not (row.group in alone and row.resolved)]
    for kind in ("gap", "inference", "closure"):
        terms = [row for part in parts for row in part.rows if row.kind == kind]
        rows.append(replace(_sum(name, kind, terms, parts[0].rows[0].n), time_ms=terms[0].time_ms))
    rails = {part.rows[0].rail if part.rows else str(k): part.facts for k, part in enumerate(parts)}
    return WindowAttribution(rows, {"rails": rails})


def _apart(parts: list[WindowAttribution], whole: Members, name: str) -> list[Members]:
    """Return a set's layers that the sum resolves alone, and the rest of the set."""
    if len(whole) == 1 or not all(part.alone for part in parts):
        return [whole]
    alone: list[Members] = []
    for layer in whole:
        row = _sum(name, "layer", [part.alone[layer] for part in parts], parts[0].rows[0].n)
        if _resolved(row):
            alone.append((layer,))
    rest = tuple(layer for layer in whole if (layer,) not in alone)
    return [*alone, rest] if rest else alone


def _resolved(row: EnergyRow) -> bool:
    energy, half = row.gross_mj, row.gross_statistical_mj
    return energy is not None and half is not None and half <= LIMIT * energy


def _of(parts: list[WindowAttribution], members: Members, whole: Members, name: str) -> EnergyRow:
    """Return the sum of some layers over the rails, each layer or a rest of what is joined."""
    n = parts[0].rows[0].n
    terms = [term for part in parts for term in _terms(part, whole)]
    if members == whole:
        return _sum(name, "group", terms, n)
    own = _sum(name, "group", [part.alone[layer] for part in parts for layer in members], n)
    if len(members) == 1:
        return own
    # The rest is the whole less what stands alone: often known better than term by term.
    others = [part.alone[layer] for part in parts for layer in whole if layer not in members]
    less = _sum(name, "group", [*terms, *others], n)
    halves = (
        _smaller(own.gross_statistical_mj, less.gross_statistical_mj),
        _smaller(own.dynamic_statistical_mj, less.dynamic_statistical_mj),
    )
    return replace(own, gross_statistical_mj=halves[0], dynamic_statistical_mj=halves[1])


def _smaller(first: float | None, second: float | None) -> float | None:
    known = [one for one in (first, second) if one is not None]
    return min(known) if known else None


def _joined(parts: list[WindowAttribution]) -> list[Members]:
    """Return layers that some rail knows only together, each set increasing."""
    layers = [row.layer for row in parts[0].rows if row.layer is not None]
    of = {layer: layer for layer in layers}

    def root(layer: int) -> int:
        while of[layer] != layer:
            layer = of[layer]
        return layer

    for part in parts:
        for row in part.rows:
            if row.layer is not None and row.group is not None:
                low, high = sorted((root(row.layer), root(row.group)))
                of[high] = low
    sets: dict[int, list[int]] = {}
    for layer in sorted(layers):
        sets.setdefault(root(layer), []).append(layer)
    return [tuple(members) for members in sets.values()]


def _terms(part: WindowAttribution, members: Members) -> list[EnergyRow]:
    """Return a rail's rows that make up a set of layers."""
    single = [row for row in part.rows if row.layer in members and row.group is None]
    groups = [row for row in part.rows if row.kind == "group" and row.group in members]
    return single + groups


def _sum(name: str, kind: str, terms: list[EnergyRow], n: int) -> EnergyRow:
    gross = [row.gross_mj for row in terms]
    dynamic = [row.dynamic_mj for row in terms]
    known, above = None not in gross, None not in dynamic
    return EnergyRow(
        METHOD, name, kind, None,
        sum(value or 0.0 for value in gross) if known else None,
        combine(*(row.gross_statistical_mj for row in terms)) if known else None,
        sum(value or 0.0 for value in dynamic) if above else None,
        combine(*(row.dynamic_statistical_mj for row in terms)) if above else None,
        None, n, None,
    )  # fmt: skip
