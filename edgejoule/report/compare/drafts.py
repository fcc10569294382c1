"""Figures and layers of a pair of groups as samples, and what changed between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgejoule.report.compare.layers import LayerPairs, pair_layers, with_common_engine
from edgejoule.report.compare.loading import QUANTITIES, Figure, MeasuredRun
from edgejoule.report.compare.pairing import Group, Pair
from edgejoule.report.compare.result import Judged

if TYPE_CHECKING:
    from edgejoule.report.compare.judge import Changes, Sample


@dataclass(frozen=True)
class Draft:
    """A pair before the figures of all pairs are corrected together.

    Attributes:
        pair: The groups.
        figures: Quantity, unit, mean of A and of B, and the change.
        absent: Figures that cannot be compared, and why.
        times: Of the layers: how they pair, the changes, and both sides.
        energies: Method, the places among the pairs of those it knows, the changes, both sides.
        notes: What a reader must know.
    """

    pair: Pair
    figures: tuple[tuple[str, str, float, float, Changes], ...]
    absent: tuple[Judged, ...]
    times: tuple[LayerPairs, Changes, Sample, Sample] | None
    energies: tuple[str, list[int], Changes, Sample, Sample] | None
    notes: tuple[str, ...]


def draft_of(pair: Pair) -> Draft:
    """Judge what differs between the groups of a pair."""
    from edgejoule.report.compare.judge import changes_of

    notes = _notes(pair)
    figures, absent = [], []
    rails = {run.rail for run in (*pair.first.runs, *pair.second.runs) if run.rail is not None}
    for quantity, (called, unit) in QUANTITIES.items():
        if quantity != "latency" and len(rails) > 1:
            absent.append(missing(quantity, unit, f"rails differ: {', '.join(sorted(rails))}"))
            continue
        groups = (pair.first, pair.second)
        untold = [
            name
            for name, group in zip("AB", groups, strict=True)
            if any(quantity in run.untold for run in group.runs)
        ]
        sides = [_figures(group, quantity) for group in groups]
        if untold and all(sides):
            # Those that are told are the larger ones: their mean alone would be too large.
            where = " and ".join(untold)
            absent.append(missing(quantity, unit, f"{where}: not told from zero in every run"))
            continue
        if not all(sides):
            where = " and ".join(name for name, side in zip("AB", sides, strict=True) if not side)
            absent.append(missing(quantity, unit, f"{where} has no figure told from zero"))
            continue
        for name, group, side in zip("AB", groups, sides, strict=True):
            if len(side) < len(group.runs):
                count = len(group.runs) - len(side)
                notes.append(f"{name}: {count} of its runs have no {called}")
        one, other = (_sample([(run, {0: figure}) for run, figure in side], [0]) for side in sides)
        changes = changes_of(one, other, apart=False)
        figures.append((quantity, unit, mean_of(one, 0), mean_of(other, 0), changes))
    sides_of_layers = [with_common_engine(group.runs) for group in (pair.first, pair.second)]
    times = energies = None
    if all(sides_of_layers):
        for name, group, timed in zip(
            "AB", (pair.first, pair.second), sides_of_layers, strict=True
        ):
            if len(timed) < len(group.runs):
                count = len(group.runs) - len(timed)
                notes.append(f"{name}: {count} of its runs have other layers, or no times of any")
        timed_first, timed_second = sides_of_layers
        times = _times(timed_first, timed_second, pair.same)
        if times is not None:
            energies = _energies(timed_first, timed_second, times[0], pair.same, notes)
    else:
        where = " and ".join(
            name for name, side in zip("AB", sides_of_layers, strict=True) if not side
        )
        notes.append(f"layers are not compared: {where} has no times of layers")
    return Draft(pair, tuple(figures), tuple(absent), times, energies, tuple(notes))


def _notes(pair: Pair) -> list[str]:
    runs = [("A", run) for run in pair.first.runs] + [("B", run) for run in pair.second.runs]
    return [f"{side}, {run.tables.name}: {text}" for side, run in runs for text in run.missing]


def _figures(group: Group, quantity: str) -> list[tuple[MeasuredRun, Figure]]:
    return [(run, run.figures[quantity]) for run in group.runs if quantity in run.figures]


def _times(
    first: Sequence[MeasuredRun], second: Sequence[MeasuredRun], same: bool
) -> tuple[LayerPairs, Changes, Sample, Sample] | None:
    from edgejoule.report.compare.judge import changes_of
    from edgejoule.report.compare.separate import FEWEST

    pairs = pair_layers(first[0], second[0])
    if not pairs.pairs:
        return None
    apart = same and len(pairs.pairs) >= FEWEST
    sides = [
        _block_sample(runs, [pair[place].index for pair in pairs.pairs], apart)
        for place, runs in enumerate((first, second))
    ]
    return pairs, changes_of(sides[0], sides[1], apart=apart), sides[0], sides[1]


def _block_sample(runs: Sequence[MeasuredRun], indices: list[int], apart: bool) -> Sample:
    import numpy as np

    from edgejoule.report.compare.judge import Sample
    from edgejoule.report.compare.usual import centre_of

    centres = []
    for run in runs:
        if run.blocks is None:  # `with_common_engine` leaves these out
            continue
        place = np.searchsorted(run.blocks.layers, indices)
        centres.append(centre_of(run.blocks.log_ms[:, place], common=apart))
    return Sample(
        np.array([one.value for one in centres]),
        np.array([one.variance for one in centres]),
        np.array([np.full(len(indices), one.freedom) for one in centres]),
        tuple(run.build for run in runs),
        tuple(one.common for one in centres),
    )


def _energies(
    first: Sequence[MeasuredRun],
    second: Sequence[MeasuredRun],
    pairs: LayerPairs,
    same: bool,
    notes: list[str],
) -> tuple[str, list[int], Changes, Sample, Sample] | None:
    """Compare energies by the best method that every run of both sides has."""
    from edgejoule.report.compare.judge import changes_of

    everyone = (*first, *second)
    if not all(run.energies for run in everyone):
        notes.append("energies of layers are not compared: not every run has them")
        return None
    if len({run.rail for run in everyone}) > 1:
        notes.append("energies of layers are not compared: they are of different rails")
        return None
    methods = [name for name in first[0].energies if all(name in run.energies for run in everyone)]
    for method in methods:
        known = [
            place
            for place, (one, other) in enumerate(pairs.pairs)
            if all(one.index in run.energies[method] for run in first)
            and all(other.index in run.energies[method] for run in second)
        ]
        if not known:
            continue
        sides = [
            _sample(
                [(run, run.energies[method]) for run in runs],
                [pairs.pairs[place][side].index for place in known],
            )
            for side, runs in enumerate((first, second))
        ]
        return method, known, changes_of(sides[0], sides[1], apart=same), sides[0], sides[1]
    notes.append("energies of layers are not compared: no method tells the same layer in all runs")
    return None


def _sample(rows: Sequence[tuple[MeasuredRun, object]], keys: Sequence[int]) -> Sample:
    import numpy as np

    from edgejoule.report.compare.judge import Sample

    figures = [[figures[key] for key in keys] for _, figures in rows]  # type: ignore[index]
    return Sample(
        np.array([[one.log for one in some] for some in figures]),
        np.array([[one.variance for one in some] for some in figures]),
        np.array([[one.freedom for one in some] for some in figures]),
        tuple(run.build for run, _ in rows),
    )


def mean_of(sample: Sample, place: int) -> float:
    """Return the geometric mean of one part over the runs of a sample."""
    return math.exp(float(sample.value[:, place].mean()))


def missing(quantity: str, unit: str, why: str) -> Judged:
    """Return what stands where nothing can be compared."""
    return Judged(quantity, None, None, unit, why=why)
