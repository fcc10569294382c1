"""The columns of the window regression for one guess of what is not linear. Numpy, scipy.

    shown_k = average_N( mean over [c_k - w/2, c_k + w/2] of lowpass_tau(power) ) + drift + noise
    c_k     = s_k - centre + tau

with the power of every layer, of the gaps and of idle linear, and `centre`, w, tau^2 and where gaps
lie not. For the latter there are derivative columns at the guess, so that one solution gives powers
and a better guess (Gauss and Newton), and so that intervals know what is not known of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.regression import NormalBlocks
from edgejoule.energy.window_exposure import (
    BETWEEN,
    END,
    GAPS,
    START,
    Exposure,
    Looked,
    Placement,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.energy.sensor_model import Floats

DRIFT = 4  # Legendre polynomials in which the power of everything may drift
SCALE = 2  # and those by which it may be multiplied
TIMING = 12  # and those in which the sensor's clock may err
_CHUNK = 2048
_NEAR_TAU_NS = 3_000.0  # how far off the derivative by a low-pass is taken, at least
_LEAD = 5.0  # averaging lengths after which a chip's average has forgotten its beginning


@dataclass(frozen=True)
class Guess:
    """What is not linear.

    Attributes:
        centre_ns: Age of the middle of a window when its value is shown, the low-pass included.
        window_ns: Length of the window.
        spread_ns2: Square of the low-pass's time constant.
        samples: Averaging in the chip.
        placement: (3,): gap before the first layer, per launch, per ns of duration.
        own_ns: (layers,): what each layer's begin differs from that.
        scaled: Whether gaps grow with each inference's own.
        timing_ns: (TIMING,): error of the clock.
    """

    centre_ns: float
    window_ns: float
    spread_ns2: float
    samples: float
    placement: Floats
    own_ns: Floats
    scaled: bool
    timing_ns: Floats

    @property
    def tau_ns(self) -> float:
        """Time constant of the low-pass."""
        return float(max(self.spread_ns2, 0.0) ** 0.5)


@dataclass(frozen=True)
class Values:
    """What a channel showed.

    Attributes:
        shown_ns: float64 (k,): when, none left out.
        value_mw: float64 (k,): what, nan where nobody knows.
        block: int64 (k,): to which block of time each belongs.
        phase: float64 (k,): -1..1 over the pass.
    """

    shown_ns: Floats
    value_mw: Floats
    block: npt.NDArray[np.int64]
    phase: Floats


class Columns:
    """Which columns there are and where."""

    def __init__(self, layers: int, fitted: frozenset[str], *, drift: bool = True) -> None:
        self.layers = layers
        self.powers = layers + GAPS
        names: list[str] = [name for name in ("centre", "window", "spread") if name in fitted]
        if "placement" in fitted:
            names += ["start", "launch", "share"]
        self.own = len(names) if "own" in fitted else -1
        if "own" in fitted:
            names += [f"own{layer}" for layer in range(layers)]
        self.timing = len(names) if "timing" in fitted else -1
        if "timing" in fitted:
            names += [f"timing{k}" for k in range(1, TIMING + 1)]
        self.names = names
        self.drift = DRIFT + SCALE if drift else 0
        self.count = self.powers + len(names) + self.drift

    @property
    def free(self) -> npt.NDArray[np.bool_]:
        """Which may be negative."""
        return np.arange(self.count) >= self.powers

    def nonlinear(self) -> slice:
        """Where the derivative columns are."""
        return slice(self.powers, self.powers + len(self.names))


def before_ns(exposure: Exposure, guess: Guess) -> Floats:
    """Return the gap time before each layer, never less than before the one ahead of it."""
    layers = exposure.layers
    start, launch, share = guess.placement
    before = start + launch * np.arange(layers) + share * durations(exposure) + guess.own_ns
    result: Floats = np.maximum.accumulate(np.clip(before, 0.0, exposure.mean_free))
    return result


def durations(exposure: Exposure) -> Floats:
    """Return the mean time in layers before each, float64 (layers,)."""
    result: Floats = np.cumsum(exposure.mean_layer) - exposure.mean_layer
    return result


def place(exposure: Exposure, guess: Guess) -> Placement:
    """Return the placement of a guess."""
    return Placement(before_ns(exposure, guess), guess.scaled)


def rows_of(
    exposure: Exposure,
    values: Values,
    guess: Guess,
    columns: Columns,
    powers: Floats | None,
    *,
    likeness: float = 0.0,
    kept: npt.NDArray[np.bool_] | None = None,
) -> Floats:
    """Return the rows of `assemble`."""
    return assemble(
        exposure, values, guess, columns, powers, likeness=likeness, kept=kept, together=True
    )[1]


def assemble(
    exposure: Exposure,
    values: Values,
    guess: Guess,
    columns: Columns,
    powers: Floats | None = None,
    *,
    likeness: float = 0.0,
    kept: npt.NDArray[np.bool_] | None = None,
    together: bool = False,
) -> tuple[NormalBlocks, Floats]:
    """Return normal equations per block, and the rows themselves.

    Args:
        exposure: The timeline.
        values: The channel.
        guess: What is not linear.
        columns: Which columns.
        powers: float64 (layers + 5,), for the derivatives; None: they are left 0.
        likeness: Correlation of neighbouring residuals that is taken out.
        kept: bool (k,): rows that count; None: all.
        together: One block for all, where only the sum is wanted.

    Returns:
        The normal equations; float64 (rows, columns + 1), rows that do not count being 0.
    """
    placement = place(exposure, guess)
    rows = np.empty((len(values.shown_ns), columns.count + 1))
    for first in range(0, len(rows), _CHUNK):
        part = slice(first, min(first + _CHUNK, len(rows)))
        _fill(exposure, values, guess, columns, powers, placement, part, rows[part])
    averaged(rows[:, : columns.powers + len(columns.names)], guess.samples)
    valid = usable(values, guess, kept, likeness)
    if columns.drift:
        shown = None if powers is None else rows[:, : columns.powers] @ powers
        rows[:, columns.count - columns.drift : columns.count] = _drift(values, shown)
    rows[:, -1] = values.value_mw
    whitened(rows, likeness, valid)
    block = np.zeros_like(values.block) if together else values.block
    return _summed(rows, valid, block), rows


def shown_by(
    exposure: Exposure, values: Values, guess: Guess, powers: Floats
) -> tuple[Floats, Floats]:
    """Return what powers make a channel show, float64 (k,), and the drift, float64 (k, drift)."""
    placement, columns = place(exposure, guess), Columns(exposure.layers, frozenset(), drift=False)
    shown = np.empty((len(values.shown_ns), 1))
    share = np.empty((_CHUNK, columns.powers))
    for first in range(0, len(shown), _CHUNK):
        part = slice(first, min(first + _CHUNK, len(shown)))
        rows = share[: part.stop - first]
        _fill(exposure, values, guess, columns, None, placement, part, rows)
        shown[part, 0] = rows @ powers
    averaged(shown, guess.samples)
    return shown[:, 0], _drift(values, shown[:, 0])


def _drift(values: Values, shown: Floats | None) -> Floats:
    """Return the columns of drift; None: what they multiply is not known, those are 0."""
    legendre = np.polynomial.legendre.legvander(values.phase, DRIFT)[:, 1:]
    by = np.zeros(len(legendre)) if shown is None else shown
    return np.hstack([legendre, by[:, None] * legendre[:, :SCALE]])


def averaged(rows: Floats, samples: float) -> None:
    """Average columns as the chip does, in place."""
    if samples > 1:
        from scipy.signal import lfilter

        share = 1.0 / samples
        begin = (1.0 - share) * rows.mean(axis=0, keepdims=True)
        rows[:] = lfilter([share], [1.0, share - 1.0], rows, axis=0, zi=begin)[0]


def usable(
    values: Values, guess: Guess, kept: npt.NDArray[np.bool_] | None, likeness: float
) -> npt.NDArray[np.bool_]:
    """Return which values count, bool (k,)."""
    valid = np.isfinite(values.value_mw)
    if guess.samples > 1:
        valid[: int(_LEAD * guess.samples)] = False
    if kept is not None:
        valid &= kept
    if likeness:
        valid[1:] &= np.isfinite(values.value_mw[:-1])
        valid[0] = False
    return valid


def whitened(rows: Floats, likeness: float, valid: npt.NDArray[np.bool_]) -> None:
    """Take out what neighbours have in common, in place; rows that do not count become 0."""
    if likeness:
        rows[1:] -= likeness * rows[:-1].copy()
    rows[~valid] = 0.0


def _summed(
    rows: Floats, valid: npt.NDArray[np.bool_], block: npt.NDArray[np.int64]
) -> NormalBlocks:
    number = int(block[-1]) + 1
    width = rows.shape[1]
    grams, sums = np.zeros((number, width, width)), np.zeros((number, width))
    counts = np.zeros(number, np.int64)
    edges = np.searchsorted(block, np.arange(number + 1))
    for index in range(number):
        part = slice(int(edges[index]), int(edges[index + 1]))
        grams[index] = rows[part].T @ rows[part]
        sums[index] = rows[part].sum(axis=0)
        counts[index] = np.sum(valid[part])
    return NormalBlocks(
        grams[:, :-1, :-1], grams[:, :-1, -1], grams[:, -1, -1], counts, sums[:, :-1], sums[:, -1]
    )


def _fill(
    exposure: Exposure,
    values: Values,
    guess: Guess,
    columns: Columns,
    powers: Floats | None,
    placement: Placement,
    part: slice,
    rows: Floats,
) -> None:
    waves = None
    shown = values.shown_ns[part]
    if np.any(guess.timing_ns) or columns.timing >= 0:
        waves = np.polynomial.legendre.legvander(values.phase[part], TIMING)[:, 1:]
        shown = shown + waves @ guess.timing_ns
    middle, width, layers = shown - guess.centre_ns, guess.window_ns, columns.layers
    ends = spans(exposure, middle, width, guess.tau_ns, placement, rows[:, : columns.powers])
    names = rows[:, columns.nonlinear()]
    if powers is None:
        names[:] = 0.0
        return
    if not columns.names:
        return
    seen = rows[:, : columns.powers] @ powers
    at_late, at_early = (end.slope(powers) for end in ends)
    slope = (at_late - at_early) / width
    for k, name in enumerate(columns.names):
        if name == "centre":
            names[:, k] = -slope
        elif name == "window":
            names[:, k] = (0.5 * (at_late + at_early) - seen) / width
        elif name == "spread":
            more = max(1.1 * guess.tau_ns, guess.tau_ns + _NEAR_TAU_NS) ** 2
            other = np.empty((len(seen), columns.powers))
            spans(exposure, middle, width, more**0.5, placement, other)
            names[:, k] = (other @ powers - seen) / (more - guess.tau_ns**2)
    if columns.own >= 0 or "start" in columns.names:
        moved = _moved(*ends, powers, layers)
        moved /= width
        if "start" in columns.names:
            at = columns.names.index("start")
            by = np.vstack([np.ones(layers), np.arange(layers), durations(exposure)])
            names[:, at : at + 3] = moved @ by.T
        if columns.own >= 0:
            names[:, columns.own : columns.own + layers] = moved
    if columns.timing >= 0 and waves is not None:
        names[:, columns.timing : columns.timing + TIMING] = slope[:, None] * waves


def spans(
    exposure: Exposure,
    middle: Floats,
    window_ns: float,
    tau_ns: float,
    placement: Placement,
    share: Floats,
) -> tuple[Looked, Looked]:
    """Write the share of windows about their middles that each column took, (k, layers + 5).

    Returns:
        What is known of their ends and their begins.
    """
    ends = exposure.spans(middle + tau_ns, window_ns, tau_ns, placement, share)
    share /= window_ns
    return ends


def _moved(late: Looked, early: Looked, powers: Floats, layers: int) -> Floats:
    """Return what moving each layer later changes, mW, per ns over windows, float64 (k, layers)."""
    count, between = len(late.row), powers[layers + BETWEEN]
    above = between - powers[:layers]
    where: list[npt.NDArray[np.int64]] = []
    what: list[Floats] = []
    for end, sign in ((late, 1.0), (early, -1.0)):
        shares = end.shares
        where.append(shares.at * layers + shares.layer)
        what.append(sign * above[shares.layer] * shares.share * shares.ratio)
    moved = np.bincount(np.concatenate(where), np.concatenate(what), count * layers)
    result: Floats = moved.astype(np.float64, copy=False).reshape(count, layers)
    result[:, 0] += (powers[layers + START] - between) * (late.first - early.first)
    result[:, -1] -= (powers[layers + END] - between) * (late.last - early.last)
    return result
