"""The rows of `energy.parquet`: what every method of attribution answers with.

One method and one rail give one row per layer, one for the gap, one for the whole inference as it
was measured, one for the sum (`closure`), and one per group of layers that the method cannot tell
apart. A layer in such a group has no number of its own: the group's row has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

METHODS = ("replay", "window", "proportional", "interval")
"""The best first: what tells layers apart stands before what does not."""


@dataclass(frozen=True)
class EnergyRow:
    """One row of `energy.parquet`: mJ per inference, half-widths of 95 % intervals.

    Attributes:
        method: One of `METHODS`.
        rail: Name of the rail, `total` for the board's total.
        kind: `layer`, `group` (layers that are known together only), `gap`, `inference` (the whole,
            as measured) or `closure` (the sum of layers, groups and gap).
        layer: Index of the layer, None for the other kinds.
        gross_mj: Energy, idle included; None for a layer that is not resolved.
        gross_statistical_mj: Half-width of its interval, None: not estimated.
        dynamic_mj: Energy above the loaded baseline; None without a baseline or if not resolved.
        dynamic_statistical_mj: Its half-width, the baseline's own included.
        systematic_mj: Bound on what repeating does not average out (gain, offset, shunt, step,
            choice of baseline), of the gross energy; None: not known.
        n: Inferences behind it; for `replay` executions alone.
        resolved: Whether the method tells it from everything else; None: it does not ask.
        group: Smallest index of the layers it was measured together with, itself included: for
            `window` of those it cannot be told apart from, for `replay` of its equals, of which
            one was measured. None: on its own.
        time_ms: Mean time per inference in the profiled pass.
        alone_ms: Time of one execution alone (`replay`).
        dynamic_other_mj: By the other rule, power above idle alone times `time_ms` (`replay`).
        scaled_gross_mj: Its share of the method's sum times the clean pass's energy.
        scaled_dynamic_mj: The same above the baseline.
        why: Why it is not resolved, or what a reader must know; None: nothing.
    """

    method: str
    rail: str
    kind: str
    layer: int | None
    gross_mj: float | None
    gross_statistical_mj: float | None
    dynamic_mj: float | None
    dynamic_statistical_mj: float | None
    systematic_mj: float | None
    n: int
    resolved: bool | None
    group: int | None = None
    time_ms: float | None = None
    alone_ms: float | None = None
    dynamic_other_mj: float | None = None
    scaled_gross_mj: float | None = None
    scaled_dynamic_mj: float | None = None
    why: str | None = None


def unknown_layers(rows: Sequence[EnergyRow]) -> list[EnergyRow]:
    """Return the rows of layers of which nothing is known, neither alone nor in their group.

    Args:
        rows: All rows of one method on one rail.
    """
    known = {row.group for row in rows if row.kind == "group" and row.gross_mj is not None}
    return [
        row
        for row in rows
        if row.kind == "layer" and row.gross_mj is None and row.group not in known
    ]
