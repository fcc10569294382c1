"""Two sides compared: every figure and layer *better*, *worse* or *no difference shown*.

Families of Holm's correction: the figures of all runs together with what the layers have in common
(one family, since a check looks at all of them); the layers' times of a pair; their energies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.report.compare.drafts import Draft, draft_of, mean_of, missing
from edgejoule.report.compare.loading import QUANTITIES, Loaded
from edgejoule.report.compare.pairing import pair_up
from edgejoule.report.compare.result import (
    BETTER,
    COMMON,
    LEAST,
    NOT_SHOWN,
    WORSE,
    Comparison,
    Judged,
    JudgedLayer,
    PairResult,
)

if TYPE_CHECKING:
    from edgejoule.report.compare.judge import Changes, Sample


def compare(
    first: Loaded, second: Loaded, *, least: float = LEAST, force: bool = False
) -> Comparison:
    """Compare two sides.

    Raises:
        UsageError: Inputs or machines are not equal, and `force` is not set.
        MeasurementError: There is nothing to compare, or a single run is not complete.
    """
    for side in (first, second):
        if not side.runs:
            raise MeasurementError(f"{side.path} holds no run that can be read")
    pairing = pair_up(first, second)
    if not pairing.pairs:
        raise MeasurementError(
            f"no run of {first.path} has a partner in {second.path}",
            "they must share model and configuration; name two run directories to hold those "
            "against each other",
        )
    forbidden = [
        f"{pair.first.first.name} and {pair.second.first.name} differ in {what}"
        for pair in pairing.pairs
        for what in pair.unequal
    ]
    if forbidden and not force:
        more = f" (and {len(forbidden) - 1} more)" if len(forbidden) > 1 else ""
        raise UsageError(f"{forbidden[0]}{more}", "--force compares them all the same")
    cut = [
        run.tables.name
        for pair in pairing.pairs
        for run in (*pair.first.runs, *pair.second.runs)
        if run.tables.run.get("status", "complete") != "complete"
    ]
    if cut and not force:
        raise MeasurementError(f"{cut[0]} is not complete", "--force compares it all the same")
    forbidden += [f"{name} is not complete" for name in cut]
    drafts = [draft_of(pair) for pair in pairing.pairs]
    results = _judged_together(drafts, least)
    return Comparison(first, second, tuple(results), pairing.alone, least, tuple(forbidden))


def _judged_together(drafts: Sequence[Draft], least: float) -> list[PairResult]:
    """Correct the figures of all pairs together, and the layers of each pair."""
    import numpy as np

    from edgejoule.report.compare.student import holm

    p_values: list[float] = []
    for draft in drafts:
        p_values += [float(figure[4].p_value[0]) for figure in draft.figures]
        common = None if draft.times is None else draft.times[1].common
        p_values.append(math.nan if common is None else common.p_value)
    corrected = holm(np.array(p_values))
    place, results = 0, []
    for draft in drafts:
        figures = []
        for quantity, unit, one, other, changes in draft.figures:
            figures.append(
                _judged(
                    (quantity, one, other, unit),
                    _piece(changes, 0),
                    (float(corrected.level[place]), float(corrected.adjusted[place])),
                    least,
                )
            )
            place += 1
        common = None if draft.times is None else draft.times[1].common
        if common is not None:
            piece = (common.change, common.change, common.variance, common.freedom)
            held = float(corrected.level[place]), float(corrected.adjusted[place])
            figures.append(_judged((COMMON, None, None, ""), piece, held, least))
        place += 1
        results.append(_result(draft, (*figures, *draft.absent), least))
    return results


def _result(draft: Draft, figures: tuple[Judged, ...], least: float) -> PairResult:
    from edgejoule.report.compare.judge import scope_of

    pair = draft.pair
    order = [*QUANTITIES, COMMON]
    figures = tuple(sorted(figures, key=lambda one: order.index(one.quantity)))
    builds = [tuple(run.build for run in group.runs) for group in (pair.first, pair.second)]
    scope = scope_of(builds[0], builds[1])
    if draft.times is None:
        return PairResult(pair, figures, scope, notes=draft.notes)
    pairs, changes, one, other = draft.times
    times = _family("time", "ms", changes, one, other, least)
    energies = {}
    if draft.energies is not None:
        _, known, moved, left, right = draft.energies
        judged = _family("energy", "mJ", moved, left, right, least)
        energies = dict(zip(known, judged, strict=True))
    why = "not resolved in every run" if draft.energies is not None else "not known in every run"
    layers = tuple(
        JudgedLayer(*rows, times[place], energies.get(place, missing("energy", "mJ", why)))
        for place, rows in enumerate(pairs.pairs)
    )
    common = changes.common
    single = len(one.value) == 1 and len(other.value) == 1
    scatter = math.sqrt(common.process_variance) if common is not None and single else None
    method = None if draft.energies is None else draft.energies[0]
    return PairResult(
        pair, figures, scope, layers, pairs, common is not None, scatter, method, draft.notes
    )


def _family(
    quantity: str, unit: str, changes: Changes, first: Sample, second: Sample, least: float
) -> list[Judged]:
    from edgejoule.report.compare.student import holm

    corrected = holm(changes.p_value)
    return [
        _judged(
            (quantity, mean_of(first, place), mean_of(second, place), unit),
            _piece(changes, place),
            (float(corrected.level[place]), float(corrected.adjusted[place])),
            least,
        )
        for place in range(len(changes.total))
    ]


def _piece(changes: Changes, place: int) -> tuple[float, float, float, float]:
    return (
        float(changes.total[place]),
        float(changes.own[place]),
        float(changes.variance[place]),
        float(changes.freedom[place]),
    )


def _judged(
    what: tuple[str, float | None, float | None, str],
    piece: tuple[float, float, float, float],
    held: tuple[float, float],
    least: float,
) -> Judged:
    """Turn a change of a logarithm, its variance and its corrected level into a verdict."""
    import numpy as np

    from edgejoule.report.compare.student import quantile

    total, own, variance, freedom = piece
    level, adjusted = held
    if math.isnan(level) or math.isnan(variance):
        why = "its scatter is not known: too few values or layers; repeats tell it"
        return Judged(*what, math.expm1(total), math.expm1(own), why=why)
    half = float(quantile(np.array(level), np.array(freedom))) * math.sqrt(variance)
    low, high = own - half, own + half
    verdict = NOT_SHOWN
    if (low > 0.0 or high < 0.0) and abs(own) > math.log1p(least):
        verdict = WORSE if own > 0.0 else BETTER
    ends = (_share(low), _share(high))
    return Judged(*what, math.expm1(total), math.expm1(own), *ends, adjusted, verdict)


def _share(log: float) -> float:
    return math.expm1(min(log, 700.0))
