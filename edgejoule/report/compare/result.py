"""What a comparison comes to."""

from __future__ import annotations

from dataclasses import dataclass

from edgejoule.report.compare.layers import LayerPairs
from edgejoule.report.compare.loading import Loaded
from edgejoule.report.compare.pairing import Group, Pair
from edgejoule.report.tables import LayerRow

BETTER, WORSE, NOT_SHOWN, NOT_COMPARED = "better", "worse", "no difference shown", "not compared"
LEAST = 0.01
COMMON = "common"


@dataclass(frozen=True)
class Judged:
    """One quantity of a run or layer, held against the other's. Less is better.

    Attributes:
        quantity: `latency`, `gross`, `dynamic`, `power`, `common`, `time`, `energy`.
        first: Of A, geometric mean over its runs; None: not known.
        second: Of B.
        unit: Of both.
        total: B over A, less 1; None: not compared.
        own: What is judged: the total, less what all layers have in common where told apart.
        low: Lower end of its interval, corrected for many comparisons.
        high: Upper end.
        p_adjusted: After Holm's correction; at most 0.05 where the interval excludes 0.
        verdict: `better`, `worse`, `no difference shown` or `not compared`.
        why: Why it is not compared.
    """

    quantity: str
    first: float | None
    second: float | None
    unit: str
    total: float | None = None
    own: float | None = None
    low: float | None = None
    high: float | None = None
    p_adjusted: float | None = None
    verdict: str = NOT_COMPARED
    why: str | None = None


@dataclass(frozen=True)
class JudgedLayer:
    """A layer of A and its partner in B."""

    first: LayerRow
    second: LayerRow
    time: Judged
    energy: Judged

    @property
    def judged(self) -> tuple[Judged, Judged]:
        """Time and energy."""
        return self.time, self.energy


@dataclass(frozen=True)
class PairResult:
    """What a pair of groups comes to.

    Attributes:
        pair: The groups.
        figures: Of the runs, the common change of the layers last.
        scope: What their intervals hold for.
        layers: Paired layers in the engine's order.
        layer_pairs: How they were paired, and which have no partner.
        apart: Whether the layers' common change was told apart from their own.
        process_scatter: Relative deviation of a layer's change beyond what its blocks tell, as the
            layers show it; None: not estimated.
        method: How the layers' energies were found, None: not compared.
        notes: What a reader must know.
    """

    pair: Pair
    figures: tuple[Judged, ...]
    scope: str
    layers: tuple[JudgedLayer, ...] = ()
    layer_pairs: LayerPairs | None = None
    apart: bool = False
    process_scatter: float | None = None
    method: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared.

    Attributes:
        first: Side A.
        second: Side B.
        results: One per pair.
        alone: Groups without a partner, of either side.
        least: Smallest relative difference that is shown.
        forced: What would have forbidden it, one sentence each.
    """

    first: Loaded
    second: Loaded
    results: tuple[PairResult, ...]
    alone: tuple[tuple[Group, ...], tuple[Group, ...]]
    least: float
    forced: tuple[str, ...] = ()
