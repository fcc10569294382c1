"""Which layer of A is which layer of B.

Where both engines list the same layers (index, name, operation) they pair one by one. Otherwise, as
after another fusion, by a name that is there once on either side, then by a module path that is
there once among those left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgejoule.report.compare.loading import MeasuredRun
from edgejoule.report.tables import LayerRow

Signature = tuple[tuple[int, str, str | None], ...]


@dataclass(frozen=True)
class LayerPairs:
    """Layers of two sides.

    Attributes:
        pairs: Of A and of B.
        alone: Those of either side without a partner.
        equal: Whether both engines list the same layers.
        how: How they were paired, in words.
    """

    pairs: tuple[tuple[LayerRow, LayerRow], ...]
    alone: tuple[tuple[LayerRow, ...], tuple[LayerRow, ...]]
    equal: bool
    how: str


def signature(run: MeasuredRun) -> Signature:
    """Return what two runs must agree in to have the same layers."""
    return tuple((row.index, row.name, row.operation or row.type) for row in run.layers)


def with_common_engine(runs: Sequence[MeasuredRun]) -> tuple[MeasuredRun, ...]:
    """Return the runs whose engine most of them have, the earlier one where as many have another.

    Runs without times of layers are left out.
    """
    timed = [run for run in runs if run.blocks is not None and run.layers]
    if not timed:
        return ()
    (common, _), *_ = Counter(signature(run) for run in timed).most_common()
    return tuple(run for run in timed if signature(run) == common)


def pair_layers(first: MeasuredRun, second: MeasuredRun) -> LayerPairs:
    """Pair the layers of two engines."""
    if signature(first) == signature(second):
        pairs = tuple(zip(first.layers, second.layers, strict=True))
        return LayerPairs(pairs, ((), ()), True, "by index, name and operation")
    left, right = list(first.layers), list(second.layers)
    found: list[tuple[LayerRow, LayerRow]] = []
    for key in (_name, _module):
        matched = _unique(left, right, key)
        found += matched
        used = {id(row) for pair in matched for row in pair}
        left = [row for row in left if id(row) not in used]
        right = [row for row in right if id(row) not in used]
    found.sort(key=lambda pair: pair[0].index)
    how = "by unique names and module paths: the engines differ"
    return LayerPairs(tuple(found), (tuple(left), tuple(right)), False, how)


def _name(row: LayerRow) -> str | None:
    return row.name


def _module(row: LayerRow) -> str | None:
    return row.module_path or None


def _unique(
    left: Sequence[LayerRow], right: Sequence[LayerRow], key: Callable[[LayerRow], str | None]
) -> list[tuple[LayerRow, LayerRow]]:
    sides = []
    for rows in (left, right):
        counts = Counter(key(row) for row in rows)
        sides.append({key(row): row for row in rows if key(row) and counts[key(row)] == 1})
    return [(row, sides[1][name]) for name, row in sides[0].items() if name in sides[1]]
