"""Changes of layers or of a run's figures from A to B, with the variance they are held against.

Everything is done with logarithms, so that B against A is the negative of A against B. The sample
is the runs where either side has more than one, or the builds where either side has several: the
processes of one build share its kernels, and are one value of it. With one run on each side there
is only what blocks of time within each show, and, told apart over the layers, how far layers of
fresh processes go from each other (`separate`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.report.compare.moderate import moderate
from edgejoule.report.compare.separate import FEWEST, Separated, separate
from edgejoule.report.compare.student import t_value, tail

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

WITHIN_ONE_PROCESS = "within one process each: may not hold in a fresh process"


@dataclass(frozen=True)
class Sample:
    """Logarithms of one quantity on one side.

    Attributes:
        value: (runs, parts) of layers, or of one figure.
        variance: (runs, parts) of each within its process; NaN: not known.
        freedom: (runs, parts) degrees of freedom of it.
        build: (runs,) which build of the engine.
        shared: Per run (blocks,) what all parts have in common in time; empty where not known.
    """

    value: Floats
    variance: Floats
    freedom: Floats
    build: tuple[int, ...]
    shared: tuple[Floats, ...] = ()


@dataclass(frozen=True)
class Common:
    """What all layers have in common, as a change of a logarithm; p_value NaN: not known."""

    change: float
    variance: float
    freedom: float
    p_value: float
    process_variance: float


@dataclass(frozen=True)
class Changes:
    """What changed from A to B, one element per part; changes of logarithms.

    Attributes:
        total: B less A.
        own: What is judged: the total, less what the other layers have in common where that is
            told apart.
        variance: Of `own`; NaN: not known, and then nothing is shown.
        freedom: Student's.
        p_value: Of no change.
        scope: What the intervals hold for.
        common: What all have in common, None where it is not told apart.
    """

    total: Floats
    own: Floats
    variance: Floats
    freedom: Floats
    p_value: Floats
    scope: str
    common: Common | None = None


def scope_of(first: tuple[int, ...], second: tuple[int, ...]) -> str:
    """Say what a comparison of runs of these builds holds for."""
    if len(first) == 1 and len(second) == 1:
        return WITHIN_ONE_PROCESS
    if len(set(first)) > 1 or len(set(second)) > 1:
        return f"over builds ({len(set(first))} against {len(set(second))})"
    return f"over fresh processes ({len(first)} against {len(second)})"


def changes_of(first: Sample, second: Sample, *, apart: bool) -> Changes:
    """Judge what changed.

    Args:
        first: A.
        second: B.
        apart: Tell what the layers have in common from what each does on its own: for layers of
            one configuration. Below five layers it cannot be done: their totals are judged, and
            with one run on each side nothing is.
    """
    scope = scope_of(first.build, second.build)
    enough = first.value.shape[1] >= FEWEST
    first, second = _samples(first, second)
    runs = len(first.value), len(second.value)
    spare = runs[0] + runs[1] - 2
    total = second.value.mean(axis=0) - first.value.mean(axis=0)
    if apart and not enough and not spare:
        # Nothing tells what a fresh process alone would change.
        unknown = np.full(len(total), np.nan)
        return Changes(total, total, unknown, unknown, unknown, scope)
    apart = apart and enough
    offsets = _offsets(first, second) if apart and spare else None
    if spare:
        variance, free = _between(first, second, offsets)
        freedom = np.full(len(total), free)
    else:
        variance = first.variance[0] + second.variance[0]
        freedom = _satterthwaite(first, second)
    if not apart:
        p_value = tail(t_value(total, variance), freedom)
        return Changes(total, total, variance, freedom, p_value, scope)
    known = np.isfinite(variance)
    if int(known.sum()) < FEWEST:
        unknown = np.full(len(total), np.nan)
        return Changes(total, total, unknown, unknown, unknown, scope)
    # Runs' common offsets are taken out before layers are compared; they come back in `common`.
    shift = 0.0 if offsets is None else float(offsets[1].mean() - offsets[0].mean())
    found = separate((total - shift)[known], variance[known], freedom[known], scatter=not spare)
    common = _common(first, second, offsets, shift, found)
    return Changes(
        total,
        _spread(found.own, known),
        _spread(found.variance, known),
        _spread(found.freedom, known),
        _spread(found.p_value, known),
        scope,
        common,
    )


def _spread(values: Floats, known: npt.NDArray[np.bool_]) -> Floats:
    whole = np.full(len(known), np.nan)
    whole[known] = values
    return whole


def _samples(first: Sample, second: Sample) -> tuple[Sample, Sample]:
    """Return builds in place of runs where one side has several builds."""
    if max(len(set(first.build)), len(set(second.build))) < 2:
        return first, second
    return _by_build(first), _by_build(second)


def _by_build(sample: Sample) -> Sample:
    builds = sorted(set(sample.build))
    of_build = [np.array([one == build for one in sample.build]) for build in builds]

    def means(values: Floats) -> Floats:
        return np.array([values[chosen].mean(axis=0) for chosen in of_build])

    sizes = np.array([chosen.sum() for chosen in of_build])[:, None]
    return Sample(
        means(sample.value), means(sample.variance) / sizes, means(sample.freedom), tuple(builds)
    )


def _offsets(first: Sample, second: Sample) -> tuple[Floats, Floats]:
    """Return how far all layers of each run are from their mean over both sides together."""
    middle = (first.value.mean(axis=0) + second.value.mean(axis=0)) / 2.0

    def of(sample: Sample) -> Floats:
        rest = np.sort(sample.value - middle, axis=1)
        cut = rest.shape[1] // 4
        return np.asarray(rest[:, cut : rest.shape[1] - cut].mean(axis=1), np.float64)

    return of(first), of(second)


def _between(
    first: Sample, second: Sample, offsets: tuple[Floats, Floats] | None
) -> tuple[Floats, float]:
    """Return the variance of the difference of the means from the scatter between runs.

    It is never narrower than what blocks within the runs make it.
    """
    squares = np.zeros(first.value.shape[1])
    within = np.zeros(first.value.shape[1])
    for sample, offset in zip((first, second), offsets or (None, None), strict=True):
        value = sample.value if offset is None else sample.value - offset[:, None]
        squares += ((value - value.mean(axis=0)) ** 2).sum(axis=0)
        within += np.nan_to_num(sample.variance).mean(axis=0) / len(value)
    spare = len(first.value) + len(second.value) - 2
    if offsets is not None:
        squares *= first.value.shape[1] / (first.value.shape[1] - 1)
    level = (first.value.mean(axis=0) + second.value.mean(axis=0)) / 2.0
    moderated, freedom = moderate(squares / spare, spare, level)
    variance = moderated * (1.0 / len(first.value) + 1.0 / len(second.value))
    return np.maximum(variance, within), freedom


def _satterthwaite(first: Sample, second: Sample) -> Floats:
    one, other = first.variance[0], second.variance[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = one**2 / first.freedom[0] + other**2 / second.freedom[0]
        freedom: Floats = np.where(spread > 0.0, (one + other) ** 2 / spread, first.freedom[0])
    return freedom


def _common(
    first: Sample,
    second: Sample,
    offsets: tuple[Floats, Floats] | None,
    shift: float,
    found: Separated,
) -> Common:
    """Judge the common change by its scatter between runs, or in time within each."""
    from edgejoule.report.compare.usual import series_variance

    change = shift + found.common
    variance, freedom = np.nan, np.nan
    if offsets is not None:
        freedom = float(len(offsets[0]) + len(offsets[1]) - 2)
        squares = sum(float(((one - one.mean()) ** 2).sum()) for one in offsets)
        variance = squares / freedom * sum(1.0 / len(one) for one in offsets)
    elif first.shared and second.shared:
        parts = [series_variance(first.shared[0]), series_variance(second.shared[0])]
        known = [part for part in parts if part is not None]
        if len(known) == 2:
            variance = sum(part[0] for part in known)
            squares = sum(part[0] ** 2 / part[1] for part in known)
            freedom = variance**2 / squares if squares > 0.0 else known[0][1]
    variance += found.common_variance
    p_value = tail(t_value(np.array([change]), np.array([variance])), np.array([freedom]))
    return Common(change, variance, freedom, float(p_value[0]), found.process_variance)
