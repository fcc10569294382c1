"""Non-negative least squares from sums over blocks of time, with an interval that blocks give.

    design (n, p), target (n,)  -- normal_blocks -->  per block of time: X'X, X'y, y'y
                                                       |-- fit       coefficients, intervals
                                                       |-- held_out  error where not fitted
    Fit -- regression_groups.resolve --> what can be told apart, and what only together

All that a fit, a resampled fit or a held-out error needs of n rows is in those sums, so each of
them costs p^3 and not n p^2 once the sums are there.

The least squares are solved on the normal equations with columns scaled to length 1. A column that
must not be negative is in or out of the solution; columns change sides all at once as long as that
makes fewer of them wrong, else one at a time (block principal pivoting: Portugal, Judice, Vicente
1994; Kim and Park, SIAM J. Sci. Comput. 33, 2011). It starts from any set, so that a resampled fit
begins where the whole one ended.

Half-widths are Student's t with one degree of freedom per block less one, times the largest of
three standard errors, because each is too small somewhere:

- of the bootstrap, blocks drawn with replacement: sees likeness within a block and what the bound
  at 0 does, but is small for a column that the bound holds;
- of the unbounded solution from each block's score (cluster-robust, Liang and Zeger 1986): does not
  see the bound;
- of the unbounded solution under white noise: blind to likeness, but steady where blocks are short.

Numpy alone, scipy in one place that hardly any fit comes to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.statistics import block_starts, t95
from edgejoule.errors import MeasurementError

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Bools = npt.NDArray[np.bool_]

BLOCKS = 40
DRAWS = 200
FOLDS = 5
# Columns that differ by less than 1e-5 of their length cannot be told apart by any measurement.
_NULL = 1e-10
# Keeps equal columns from dividing by 0: they share evenly. Far below what a fit can see.
_RIDGE = 1e-12
# A sum of coefficients counts as free of an undetermined direction up to this share of it.
_FREE_OF = 3e-3
_PATIENCE = 3
_TOLERANCE = 1e-10
_CHUNK_BYTES = 32 << 20


@dataclass(frozen=True)
class NormalBlocks:
    """Sums over blocks of consecutive rows of a design X (n, p) and a target y (n,).

    Attributes:
        gram: float64 (blocks, p, p): X'X of each.
        moment: float64 (blocks, p): X'y.
        square: float64 (blocks,): y'y.
        rows: int64 (blocks,): how many rows.
        column_sum: float64 (blocks, p): sum of X over the rows.
        target_sum: float64 (blocks,): sum of y.

    Raises:
        MeasurementError: The shapes do not fit.
    """

    gram: Floats
    moment: Floats
    square: Floats
    rows: npt.NDArray[np.int64]
    column_sum: Floats
    target_sum: Floats

    def __post_init__(self) -> None:
        blocks, p = self.moment.shape
        shapes = (
            self.gram.shape == (blocks, p, p),
            self.square.shape == self.rows.shape == self.target_sum.shape == (blocks,),
            self.column_sum.shape == (blocks, p),
        )
        if not all(shapes):
            raise MeasurementError("the sums of a regression differ in their number of columns")

    @property
    def columns(self) -> int:
        """Number of columns, p."""
        return int(self.moment.shape[1])

    def squared_error(self, coefficients: Floats) -> Floats:
        """Return the sum of squared residuals of each block, float64 (blocks,)."""
        fitted = np.einsum("bij,i,j->b", self.gram, coefficients, coefficients, optimize=True)
        error = self.square - 2.0 * (self.moment @ coefficients) + fitted
        result: Floats = np.maximum(error, 0.0)
        return result


def normal_blocks(
    design: Floats,
    target: Floats,
    blocks: int = BLOCKS,
    weights: Floats | None = None,
    starts: npt.NDArray[np.int64] | None = None,
) -> NormalBlocks:
    """Sum a design and a target over blocks of consecutive rows.

    Args:
        design: (n, p), rows in the order of time.
        target: (n,).
        blocks: How many blocks of equal length.
        weights: (n,) weight of each row in the squares (not in the plain sums); None: 1.
        starts: First row of each block instead of equal lengths, increasing from 0.

    Raises:
        MeasurementError: Lengths that differ, or no row at all.
    """
    n = len(target)
    if design.ndim != 2 or len(design) != n or n == 0:
        raise MeasurementError(f"a design of {design.shape} for {n} values to explain")
    first = block_starts(n, blocks) if starts is None else starts
    bounds = np.append(first, n)
    p, count = design.shape[1], len(first)
    gram, moment = np.empty((count, p, p)), np.empty((count, p))
    square, column_sum, target_sum = np.empty(count), np.empty((count, p)), np.empty(count)
    for block in range(count):
        rows = slice(bounds[block], bounds[block + 1])
        x, y = design[rows], target[rows]
        weighted = x if weights is None else x * weights[rows, None]
        gram[block], moment[block] = weighted.T @ x, weighted.T @ y
        square[block] = y @ y if weights is None else (weights[rows] * y) @ y
        column_sum[block], target_sum[block] = x.sum(axis=0), y.sum()
    return NormalBlocks(gram, moment, square, np.diff(bounds), column_sum, target_sum)


@dataclass(frozen=True)
class Fit:
    """Coefficients and what is known of their errors.

    Attributes:
        coefficients: float64 (p,).
        draws: float64 (draws, p): those of resampled blocks.
        clustered: float64 (p, p): covariance of the unbounded solution, from the blocks' scores.
        white: float64 (p, p): the same under white noise.
        undetermined: float64 (p, k): directions along which the data say nothing, in units of
            scaled coefficients (`scale`), each of length 1.
        scale: float64 (p,): length of each column; a scaled coefficient is one times this.
        within: bool (p,): coefficients that the bound at 0 does not hold.
        blocks: How many blocks are behind it.
        rows: How many rows.
        residual: Standard deviation of what is left, in the target's unit.
        solves: Linear systems solved for all of it: what it cost.
    """

    coefficients: Floats
    draws: Floats
    clustered: Floats
    white: Floats
    undetermined: Floats
    scale: Floats
    within: Bools
    blocks: int
    rows: int
    residual: float
    solves: int

    @property
    def half_widths(self) -> Floats:
        """Half-width of each coefficient's 95 % interval, float64 (p,); inf: undetermined."""
        return self.half_widths_of(np.eye(len(self.coefficients)))

    def half_width_of(self, combination: Floats) -> float:
        """Return the half-width of a weighted sum of coefficients, weights (p,)."""
        return float(self.half_widths_of(combination[None, :])[0])

    def half_widths_of(self, combinations: Floats) -> Floats:
        """Return the half-widths of weighted sums of coefficients.

        Args:
            combinations: (m, p) weights.

        Returns:
            float64 (m,): of 95 % intervals; inf where the data do not determine the sum, or fewer
            than two blocks.
        """
        if self.blocks < 2:
            return np.full(len(combinations), math.inf)
        variance = np.maximum(
            _quadratic(combinations, self.clustered), _quadratic(combinations, self.white)
        )
        if len(self.draws) > 1:
            of_draws = np.var(self.draws @ combinations.T, axis=0, ddof=1)
            # Drawn blocks vary about their mean by one part in the blocks too little.
            variance = np.maximum(variance, of_draws * self.blocks / (self.blocks - 1))
        half = t95(self.blocks - 1) * np.sqrt(variance)
        scaled = combinations / self.scale
        length = np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-300)
        unknown = np.any(np.abs(scaled @ self.undetermined) > _FREE_OF * length, axis=1)
        result: Floats = np.where(unknown, math.inf, half)
        return result

    def covariance(self) -> Floats:
        """Return the covariance under white noise with undetermined directions made very wide.

        It shows which estimates take from one another. Correlations of 40 blocks are too unsure for
        that; these follow from the design.
        """
        wide = self.undetermined / self.scale[:, None]
        reach = 1e6 * (self.residual**2 + float(np.max((self.coefficients * self.scale) ** 2)))
        result: Floats = self.white + reach * (wide @ wide.T)
        return result


def fit(
    blocks: NormalBlocks,
    non_negative: Bools | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    prior: Floats | None = None,
) -> Fit:
    """Fit coefficients, those of `non_negative` columns not below 0, and resample the blocks.

    Args:
        blocks: The sums.
        non_negative: (p,) which columns; None: all.
        draws: How often blocks are drawn with replacement; 0: not at all.
        seed: Of the draws: equal data give equal intervals.
        prior: (p, p) precision of what is known beforehand, coefficients near 0, in units of one
            over the residual's variance: it is added to X'X. Each draw has a beforehand of its own,
            so that what shrinks an estimate does not narrow its interval.

    Raises:
        MeasurementError: The target or a column is not finite.
    """
    p, count = blocks.columns, len(blocks.rows)
    bounded = np.ones(p, bool) if non_negative is None else non_negative
    gram, moment = blocks.gram.sum(axis=0), blocks.moment.sum(axis=0)
    scale = _lengths(gram)
    both = np.outer(scale, scale)
    before = np.zeros((p, p)) if prior is None else prior / both
    scaled, aim = gram / both + before, moment / scale
    x, within, solves = solve(scaled, aim, bounded)

    values, vectors = np.linalg.eigh(scaled)
    inverse = (vectors / np.maximum(values, _NULL)) @ vectors.T
    known = values > _NULL
    rows = int(blocks.rows.sum())
    spare = max(rows - int(known.sum()), 1)
    coefficients = x / scale
    error = float(blocks.squared_error(coefficients).sum())
    # White noise of a solution at its best, bound or not: what a bound adds is no noise.
    white = inverse * (error / spare)
    free = inverse @ aim
    by_scale = blocks.gram / both
    scores = blocks.moment / scale - by_scale @ free
    scores -= scores.mean(axis=0)  # 0 without a prior
    root = inverse @ scores.T
    clustered = root @ root.T * (rows / spare * count / max(count - 1, 1))

    drawn = np.empty((0, p))
    if draws and count > 1:
        rng = np.random.default_rng(seed)
        counts = _drawn_counts(count, draws, rng)
        told = np.zeros((draws, p))
        if prior is not None:
            known_by, along = np.linalg.eigh(before)
            unit = rng.normal(0.0, math.sqrt(error / spare), (draws, p))
            told = (unit * np.sqrt(np.maximum(known_by, 0.0))) @ along.T
        moments = counts @ (blocks.moment / scale) + told
        drawn, cost = _resampled(by_scale, before, moments, counts, bounded, within)
        solves += cost
    return Fit(
        coefficients, drawn / scale, clustered / both, white / both, vectors[:, ~known], scale,
        within, count, rows, math.sqrt(error / spare), solves,
    )  # fmt: skip


def solve(
    gram: Floats, moment: Floats, non_negative: Bools, start: Bools | None = None
) -> tuple[Floats, Bools, int]:
    """Minimise x'Gx - 2 m'x with x of `non_negative` columns not below 0.

    Args:
        gram: (p, p), diagonal near 1 (columns scaled).
        moment: (p,).
        non_negative: (p,).
        start: (p,) columns taken to be in at first; None: all.

    Returns:
        x (p,), which columns are in (p,), and how many linear systems were solved.

    Raises:
        MeasurementError: Something is not finite.
    """
    p = len(moment)
    if not (np.all(np.isfinite(gram)) and np.all(np.isfinite(moment))):
        raise MeasurementError("a regression over values that are not finite")
    regular = gram + _RIDGE * np.eye(p)
    within = np.ones(p, bool) if start is None else start | ~non_negative
    tolerance = _TOLERANCE * max(float(np.max(np.abs(moment), initial=0.0)), 1e-300)
    fewest, patience = p + 1, _PATIENCE
    for solves in range(1, 10 * p + 20):
        x = np.zeros(p)
        inside = np.flatnonzero(within)
        x[inside] = np.linalg.solve(regular[np.ix_(inside, inside)], moment[inside])
        wrong = _wrong(regular, moment, x, within, non_negative, tolerance)
        count = int(np.count_nonzero(wrong))
        if count == 0:
            return x, within, solves
        if count < fewest:
            fewest, patience = count, _PATIENCE
        else:
            patience -= 1
        if patience < 0:
            wrong[: int(np.flatnonzero(wrong)[-1])] = False  # the last alone: it cannot go round
        within = within ^ wrong
    x = _by_scipy(regular, moment, non_negative)
    return x, (x > 0) | ~non_negative, 10 * p + 20


def _wrong(
    gram: Floats, moment: Floats, x: Floats, within: Bools, bounded: Bools, tolerance: float
) -> Bools:
    """Return columns that are in with a negative value, or out though the error would fall."""
    falls = moment - gram @ x > tolerance
    result: Bools = np.where(within, bounded & (x < -tolerance), falls)
    return result


def _by_scipy(gram: Floats, moment: Floats, non_negative: Bools) -> Floats:
    """Solve by Lawson and Hanson's method; a free column is the difference of two."""
    from scipy.optimize import nnls

    upper = np.linalg.cholesky(gram).T
    aim = np.linalg.solve(upper.T, moment)
    free = ~non_negative
    found = nnls(np.hstack([upper, -upper[:, free]]), aim)[0]
    x: Floats = found[: len(moment)].copy()
    x[free] -= found[len(moment) :]
    return x


def _lengths(gram: Floats) -> Floats:
    """Return the length of each column, 1 for a column of nothing."""
    length = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    return np.where(length > 0, length, 1.0)


def _drawn_counts(blocks: int, draws: int, rng: np.random.Generator) -> Floats:
    """Return how often each block is in each draw, (draws, blocks)."""
    drawn = rng.integers(0, blocks, (draws, blocks))
    flat = np.bincount(
        (drawn + blocks * np.arange(draws)[:, None]).ravel(), minlength=draws * blocks
    )
    return flat.reshape(draws, blocks).astype(np.float64)


def _resampled(
    gram: Floats, before: Floats, moment: Floats, counts: Floats, bounded: Bools, within: Bools
) -> tuple[Floats, int]:
    """Return the solutions for weighted blocks, (draws, p), and the systems solved for them.

    All start from the same set of columns and are solved at once; the few that it does not suit go
    on alone.
    """
    draws, p = len(counts), gram.shape[1]
    inside = np.flatnonzero(within)
    found, solves = np.zeros((draws, p)), 0
    chunk = max(1, _CHUNK_BYTES // (8 * p * p))
    for first in range(0, draws, chunk):
        some = counts[first : first + chunk]
        grams = np.tensordot(some, gram, 1) + before + _RIDGE * np.eye(p)
        moments = moment[first : first + chunk]
        x = np.zeros((len(some), p))
        square = grams[:, inside[:, None], inside[None, :]]
        x[:, inside] = np.linalg.solve(square, moments[:, inside, None])[:, :, 0]
        solves += len(some)
        for draw in range(len(some)):
            tolerance = _TOLERANCE * float(np.max(np.abs(moments[draw])))
            if np.any(_wrong(grams[draw], moments[draw], x[draw], within, bounded, tolerance)):
                x[draw], _, more = solve(grams[draw], moments[draw], bounded, within)
                solves += more
        found[first : first + chunk] = x
    return found, solves


def _quadratic(combinations: Floats, covariance: Floats) -> Floats:
    """Return the variance of weighted sums, (m,)."""
    squares = np.sum((combinations @ covariance) * combinations, axis=1)
    result: Floats = np.maximum(squares, 0.0)
    return result
