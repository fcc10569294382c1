"""Power over the course of an inference, without asking which layer is where. Numpy.

    profile   power of M short pieces of a mean inference, from the same windows, and with it the
              phase and length of the windows
    placed    layers of known durations laid over the profile in their order, so that it is as
              constant as can be within each and at one level in the gaps

The profile needs no placement of the gaps and finds the phase before there is one. Laying layers
over it is a shortest path (Bellman 1957) over how much gap lies before each: exact, and free of the
local minima that layers shorter than the error of a first guess make.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.energy.window_fit import Problem

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats
    from edgejoule.energy.window_design import Guess

_PIECE_NS = 10_000.0
_PIECES = (40, 400)
_ROUGH = 0.3  # of the values' spread: by how much neighbouring pieces differ, beforehand
_DRIFT = 4
_STEPS = 8
_CLOSE_NS = 500.0
_LEVELS = 25
_GAP_GRID = 600


@dataclass(frozen=True)
class Profile:
    """Power over a mean inference.

    Attributes:
        power_mw: float64 (pieces,).
        idle_mw: Between inferences.
        piece_ns: Length of a piece.
        guess: The phase and length of the windows behind it.
        squares: Sum of squared residuals, mW^2.
        rows: Values behind it.
    """

    power_mw: Floats
    idle_mw: float
    piece_ns: float
    guess: Guess
    squares: float
    rows: int


def profile(problem: Problem, guess: Guess, steps: int = _STEPS) -> Profile:
    """Return the profile and the phase that fit best, near a guess."""
    exposure = problem.exposure
    spent = exposure.end - exposure.start - exposure.held
    mean = float(spent.mean())
    pieces = int(np.clip(mean / _PIECE_NS, *_PIECES))
    best: Profile | None = None
    trial, size = guess, 1.0
    move = np.zeros(2)
    for _ in range(steps):
        rows, target = _rows(problem, trial, pieces, mean, None)
        spread = float(np.var(target))
        squares, power, _ = _solved(rows, target, pieces, mean, spread)
        if best is None or squares < best.squares:
            gained = best is None or best.squares - squares > 1e-3 * squares
            best = Profile(
                power[:pieces], float(power[-1]), mean / pieces, trial, squares, len(target)
            )
            if not gained:
                break
            rows, target = _rows(problem, trial, pieces, mean, best)
            move, size = _solved(rows, target, pieces, mean, spread)[2], 1.0
        else:
            size *= 0.4
        most = 0.3 * best.guess.window_ns
        shift = np.clip(size * move, -most, most)
        if np.all(np.abs(shift) < _CLOSE_NS):
            break
        trial = replace(
            best.guess,
            centre_ns=best.guess.centre_ns + float(shift[0]),
            window_ns=max(0.05 * problem.refresh_ns, best.guess.window_ns + float(shift[1])),
        )
    if best is None:  # pragma: no cover (there is a first step)
        raise AssertionError
    return best


def _rows(
    problem: Problem, guess: Guess, pieces: int, mean: float, known: Profile | None
) -> tuple[Any, Floats]:
    """Return sparse columns and the values.

    Columns: area of the profile up to each knot but the first (0), held, idle, drift, and where a
    profile is known the derivatives by centre and window.
    """
    from scipy.sparse import csr_array

    exposure, values = problem.exposure, problem.values
    use = np.isfinite(values.value_mw)
    if problem.kept is not None:
        use = use & problem.kept
    middle = values.shown_ns - guess.centre_ns + guess.tau_ns
    width = guess.window_ns
    count = pieces + 2
    index = np.arange(len(middle))
    entries: list[tuple[Any, Any]] = []  # column, value
    spent_all = exposure.end - exposure.start - exposure.held
    before = (_before(spent_all) / mean, _before(exposure.held))
    idle_before = _before(np.append(exposure.start[1:] - exposure.end[:-1], 0.0))
    ends = []
    for sign in (1.0 / width, -1.0 / width):
        at = middle + 0.5 * np.copysign(width, sign)
        row = exposure.running(at)
        passed = np.maximum(at - exposure.start[row], 0.0)
        waiting = np.minimum(passed, exposure.held[row])
        spent = spent_all[row]
        inside = np.clip(passed - waiting, 0.0, spent)
        place = inside / np.maximum(spent, 1.0) * pieces
        knot = np.minimum(place.astype(np.int64), pieces - 1)
        part, ratio = place - knot, sign * spent / mean
        entries += [
            (knot, ratio * part),
            (np.maximum(knot - 1, 0), np.where(knot > 0, ratio * (1.0 - part), 0.0)),
            (np.full(len(at), pieces - 1), sign * before[0][row]),
            (np.full(len(at), pieces), sign * (before[1][row] + waiting)),
            (np.full(len(at), pieces + 1), sign * (idle_before[row] + passed - waiting - inside)),
        ]
        if known is not None:
            running = (passed > waiting) & (inside < spent)
            ends.append(np.where(running, known.power_mw[knot], known.idle_mw))
    legendre = np.polynomial.legendre.legvander(values.phase, _DRIFT)[:, 1:]
    entries += [(np.full(len(middle), count + k), legendre[:, k]) for k in range(_DRIFT)]
    columns = np.concatenate([column for column, _ in entries])
    data = np.concatenate([value for _, value in entries])
    where = np.tile(index, len(entries))
    shape = (len(middle), count + _DRIFT)
    rows = csr_array((data, (where, columns)), shape=shape)
    if known is not None:
        late, early = ends
        level = np.concatenate([np.cumsum(known.power_mw) * known.piece_ns, [0.0, known.idle_mw]])
        seen = rows[:, :count] @ level
        slopes = np.column_stack([-(late - early) / width, (0.5 * (late + early) - seen) / width])
        rows = _beside(rows, slopes)
    if guess.samples > 1:
        rows = _averaged(rows, guess.samples, count, _DRIFT)
        use[: min(int(5 * guess.samples), len(use) // 2)] = False
    return rows[np.flatnonzero(use)], values.value_mw[use]


def _beside(rows: Any, more: Floats) -> Any:
    from scipy.sparse import csr_array, hstack

    return csr_array(hstack([rows, csr_array(more)]))


def _averaged(rows: Any, samples: float, count: int, drift: int) -> Floats:
    """Return the columns as the chip averages them; drift passes."""
    from scipy.signal import lfilter

    dense: Floats = rows.toarray()
    physical = [k for k in range(dense.shape[1]) if not count <= k < count + drift]
    share = 1.0 / samples
    begin = (1.0 - share) * dense[:, physical].mean(axis=0, keepdims=True)
    dense[:, physical] = lfilter([share], [1.0, share - 1.0], dense[:, physical], axis=0, zi=begin)[
        0
    ]
    return dense


def _before(lengths: Floats) -> Floats:
    result: Floats = np.cumsum(lengths) - lengths
    return result


def _solved(
    rows: Any, target: Floats, pieces: int, mean: float, variance: float
) -> tuple[float, Floats, Floats]:
    """Return squares without a step; powers of pieces, held and idle; the step if there is one."""
    piece = mean / pieces
    gram = _gram(rows, pieces, piece)
    moment, total = rows.T @ target, float(target @ target)
    moment[:pieces] = _suffix(moment[:pieces]) * piece
    step = np.diff(np.eye(pieces), axis=0)
    smooth = step.T @ step / (_ROUGH**2 * variance)

    def solve(noise: float, count: int) -> tuple[float, Floats]:
        inner = gram[:count, :count].copy()
        inner[:pieces, :pieces] += noise * smooth
        size = np.diagonal(inner).copy()
        inner[np.arange(count), np.arange(count)] += 1e-9 * np.maximum(size, 1e-9 * size.max())
        found = np.linalg.solve(inner, moment[:count])
        left = total - 2 * found @ moment[:count] + found @ gram[:count, :count] @ found
        return float(max(left, 0.0)), found

    plain = pieces + 2 + _DRIFT
    left, _ = solve(0.01 * variance, plain)
    noise = left / max(1, len(target) - plain)
    left, found = solve(noise, plain)
    if len(gram) == plain:
        return left, found[: pieces + 2], np.zeros(2)
    _, moved = solve(noise, len(gram))
    return left, found[: pieces + 2], moved[-2:]


def _gram(rows: Any, pieces: int, piece: float) -> Floats:
    """Return the gram of pieces: the area at a knot is the sum of the pieces before it."""
    gram = rows.T @ rows
    gram = gram if isinstance(gram, np.ndarray) else gram.toarray()
    gram[:pieces] = _suffix(gram[:pieces]) * piece
    gram[:, :pieces] = _suffix(gram[:, :pieces].T).T * piece
    result: Floats = gram
    return result


def _suffix(rows: Floats) -> Floats:
    result: Floats = np.cumsum(rows[::-1], axis=0)[::-1]
    return result


def placed(problem: Problem, seen: Profile) -> Floats:
    """Return the gap time before each layer that suits a profile best, float64 (layers,).

    Every layer is as constant as can be about its own level, gaps about a level that is theirs
    together; several of these are tried.
    """
    exposure = problem.exposure
    gap = exposure.mean_free
    duration = exposure.mean_layer
    begin = np.cumsum(duration) - duration
    grid = np.linspace(0.0, gap, int(np.clip(gap / 1000.0, 2, _GAP_GRID)))
    knots = seen.piece_ns * np.arange(len(seen.power_mw) + 1)
    area = np.concatenate([[0.0], np.cumsum(seen.power_mw)]) * seen.piece_ns
    square = np.concatenate([[0.0], np.cumsum(seen.power_mw**2)]) * seen.piece_ns

    def sums(at: Floats) -> tuple[Floats, Floats]:
        return np.interp(at, knots, area), np.interp(at, knots, square)

    costs, before, after = [], [], []
    for layer in range(exposure.layers):
        low = begin[layer] + grid
        low_sums, high_sums = sums(low), sums(low + duration[layer])
        first, second = high_sums[0] - low_sums[0], high_sums[1] - low_sums[1]
        costs.append(second - first**2 / max(float(duration[layer]), 1.0))
        before.append((low, *low_sums))
        after.append((low + duration[layer], *high_sums))
    whole = (knots[-1], area[-1], square[-1])
    best: tuple[float, Floats] | None = None
    for level in np.quantile(seen.power_mw, np.linspace(0.0, 1.0, _LEVELS)):

        def spent(at: tuple[Floats, Floats, Floats], level: float = float(level)) -> Floats:
            return at[2] - 2 * level * at[1] + level**2 * at[0]

        reached = spent(before[0]) + costs[0]
        trail = []
        for layer in range(1, exposure.layers):
            # A gap that begins at G and ends at G' costs the difference of one function.
            open_ = reached - spent(after[layer - 1])
            lowest = np.minimum.accumulate(open_)
            where = np.maximum.accumulate(np.where(open_ <= lowest, np.arange(len(grid)), 0))
            trail.append(where)
            reached = lowest + spent(before[layer]) + costs[layer]
        total = reached + (spent(whole) - spent(after[-1]))
        at = int(np.argmin(total))
        if best is None or float(total[at]) < best[0]:
            path = [at]
            for where in reversed(trail):
                path.append(int(where[path[-1]]))
            best = (float(total[at]), grid[np.array(path[::-1])])
    if best is None:  # pragma: no cover (there is always a level)
        raise AssertionError
    return best[1]


def misfit(problem: Problem, guess: Guess, left_mw: Floats, begin_ns: Floats) -> Floats:
    """Return what the residuals still know of each layer, mW ns per inference, float64 (layers,).

    The profile of what a fit left over is noise if the fit holds. If a layer lies elsewhere, or its
    power rises within it, the profile goes up and down across it: the range of its running sum over
    the layer, beyond what noise makes, is energy that may be the layer's or not.

    Args:
        problem: The data, or part of them.
        guess: What the fit found.
        left_mw: float64 (k,): what it left over, nan where nothing is known.
        begin_ns: float64 (layers,): when each layer begins in a mean inference, from the end of
            what is held.
    """
    exposure = problem.exposure
    mean = float((exposure.end - exposure.start - exposure.held).mean())
    pieces = int(np.clip(mean / _PIECE_NS, *_PIECES))
    values = replace(problem.values, value_mw=left_mw)
    rows, target = _rows(replace(problem, values=values), guess, pieces, mean, None)
    seen = problem.values.value_mw
    spread = float(np.nanvar(seen))
    _, power, _ = _solved(rows, target, pieces, mean, spread)
    gram = _gram(rows, pieces, mean / pieces)[: pieces + 2, : pieces + 2]
    noise = float(np.var(target))
    step = np.diff(np.eye(pieces), axis=0)
    gram[:pieces, :pieces] += step.T @ step * (noise / (_ROUGH**2 * spread))
    size = np.diagonal(gram).copy()
    gram[np.diag_indices_from(gram)] += 1e-9 * np.maximum(size, 1e-9 * size.max())
    covariance = np.linalg.inv(gram)[:pieces, :pieces] * noise
    piece = mean / pieces
    knots = piece * np.arange(pieces + 1)
    running = np.concatenate([[0.0], np.cumsum(power[:pieces])]) * piece
    result = np.zeros(exposure.layers)
    for layer, duration in enumerate(exposure.mean_layer):
        span = np.linspace(begin_ns[layer], begin_ns[layer] + duration, 9)
        along = np.interp(span, knots, running)
        inside = np.clip((span[-1] - knots[:-1]) / piece, 0.0, 1.0)
        inside -= np.clip((span[0] - knots[:-1]) / piece, 0.0, 1.0)
        inside *= piece
        chance = 2.5 * float(inside @ covariance @ inside) ** 0.5
        result[layer] = max(0.0, float(np.ptp(along)) - chance)
    return result
