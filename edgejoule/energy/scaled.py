"""Shares of the clean pass's energy: a second column, labelled `scaled` wherever it stands.

The profiled pass is where layers are seen, and its energies are theirs. The clean pass is what a
user pays. A layer's scaled energy is its share of the method's own sum (`closure`) times the clean
pass's energy; it assumes that profiling changes all layers by the same factor. Nothing else is
scaled, and never to make a sum fit: the energies beside it close, or do not, as they were found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgejoule.energy.rows import EnergyRow, unknown_layers

_PARTS = ("layer", "group", "gap", "closure")


def with_scaled(
    rows: Sequence[EnergyRow], clean_gross_mj: float | None, clean_dynamic_mj: float | None
) -> list[EnergyRow]:
    """Fill the scaled columns of the rows of one method on one rail.

    Args:
        rows: All its rows; the one of kind `closure` has the sum.
        clean_gross_mj: The clean pass's energy per inference, None: not known.
        clean_dynamic_mj: The same above its baseline.

    Returns:
        The rows in their order. Layers, groups and the gap get their shares, the sum gets the clean
        pass's energy; the inference as measured gets none, since it is no part of the sum. Where a
        sum is not above 0, or layers are missing in it, there are no shares: theirs would go to the
        others.
    """
    closure = next((row for row in rows if row.kind == "closure"), None)
    if closure is None or unknown_layers(rows):
        return list(rows)
    gross = _factor(clean_gross_mj, closure.gross_mj)
    dynamic = _factor(clean_dynamic_mj, closure.dynamic_mj)
    return [
        replace(
            row,
            scaled_gross_mj=_times(row.gross_mj, gross),
            scaled_dynamic_mj=_times(row.dynamic_mj, dynamic),
        )
        if row.kind in _PARTS
        else row
        for row in rows
    ]


def _factor(clean_mj: float | None, sum_mj: float | None) -> float | None:
    return None if clean_mj is None or sum_mj is None or sum_mj <= 0 else clean_mj / sum_mj


def _times(energy_mj: float | None, factor: float | None) -> float | None:
    return None if energy_mj is None or factor is None else energy_mj * factor
