"""At which period values change: the search that comes before a clock is fitted. Numpy.

Moments that agree in phase at a period agree at its half and third as well, and where polls are
dense (70 per refresh on a GPU) they agree there nearly as well: which of them has the highest peak
is then chance. So the peak gives the period but for a whole factor. The factor is the greatest
with which all but a small share of the changes still lie at one phase; a change here or there that
does not (a stray) decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats

COHERENT = 0.6  # mean length of the phases' sum at the right frequency, at least
# Changes that are searched in phase with one another: fewer where a clock wanders (a GPU's driver
# renews its values in a loop of software, that of a chip is an oscillator).
_PER_BLOCK = (300, 60, 20)
_AT_ONCE = 1000  # stretches of changes
_TRACKED = 20  # changes over which the phase is followed when they are counted
_POLLS_PER_REFRESH = 2.2
_LONGEST = 1.3  # median gaps between changes: a refresh is no longer
# A longer period may explain this share of the changes less than the best of all periods does.
_STRAY = 0.05
# A change is explained if it lies this near, in periods: for jitter, and at most for all. Halves,
# thirds and quarters of the period stay outside.
_NEAR, _FARTHEST = 0.12, 0.22


@dataclass(frozen=True)
class Rhythm:
    """The period at which a value changes.

    Attributes:
        frequency: Its inverse, 1/ns.
        coherence: How well the changes agree in phase, 0..1.
    """

    frequency: float
    coherence: float


def find_rhythm(middle: Floats, width: Floats, spacing: float) -> Rhythm | None:
    """Find the longest period that explains all but a small share of the changes.

    Args:
        middle: float64 (n,), increasing, ns: the moments of changes.
        width: float64 (n,), ns: each is known to within this.
        spacing: Between reads, ns.

    Returns:
        The rhythm, whatever its coherence; None where there are too few different times.
    """
    found = None
    for per_block in _PER_BLOCK:
        found = _search(middle, width, spacing, per_block)
        if found is None or found.coherence >= COHERENT:
            break
    return found


def _search(middle: Floats, width: Floats, spacing: float, per_block: int) -> Rhythm | None:
    """Return the frequency at which changes agree best within blocks, and how well."""
    gaps = np.diff(middle)
    gaps = gaps[gaps > 0.5 * spacing]
    # By the median: a stray makes two short gaps, and a few of them would hide the true period.
    typical = float(np.median(gaps)) if len(gaps) else 0.0
    if spacing <= 0:
        return None
    highest = 1.0 / (_POLLS_PER_REFRESH * spacing)
    lowest = 1.0 / (_LONGEST * max(typical, 2 * spacing))
    blocks = max(1, len(middle) // per_block)
    parts = np.array_split(middle, blocks)
    length = max(float(part[-1] - part[0]) for part in parts)
    if length <= 0:
        return None
    # Moments into a fine histogram, so that one FFT gives all frequencies.
    step = 0.2 / highest
    size = 1 << int(np.ceil(np.log2(4 * length / step + 1)))
    power = np.zeros(size // 2 + 1)
    for part in parts:
        counts = np.bincount(((part - part[0]) / step).astype(np.int64), minlength=size)[:size]
        power += np.abs(np.fft.rfft(counts)) ** 2 / len(part) ** 2
    frequencies = np.arange(len(power)) / (size * step)
    inside = (frequencies >= lowest) & (frequencies <= highest)
    if not np.any(inside):
        return None
    peak = _sharpen(parts, float(frequencies[inside][np.argmax(power[inside])]), length)
    best = _longest_period(parts, peak, lowest, middle, width, length)
    return Rhythm(best, float(np.sqrt(_agreement(parts, best))))


def _longest_period(
    parts: list[Floats], peak: float, lowest: float, middle: Floats, width: Floats, length: float
) -> float:
    """Return the lowest of the peak and its whole fractions that explains about all changes."""
    candidates = [
        _sharpen(parts, peak / factor, length) for factor in range(1, int(peak / lowest) + 1)
    ] or [peak]
    shares = [_explained(middle, width, frequency) for frequency in candidates]
    enough = max(shares) - _STRAY
    return min(f for f, share in zip(candidates, shares, strict=True) if share >= enough)


def _explained(middle: Floats, width: Floats, frequency: float) -> float:
    """Return the share of changes that lie at one phase, followed over stretches of time."""
    turns = middle * frequency
    near = np.minimum(_FARTHEST, _NEAR + 0.5 * width * frequency)
    explained, first = 0, 0
    while first < len(turns):
        # Many stretches at once; what is left at the end is a shorter one.
        left = len(turns) - first
        length = min(_TRACKED, left)
        end = first + length * min(_AT_ONCE, left // length)
        shape = (-1, length)
        explained += _at_one_phase(turns[first:end].reshape(shape), near[first:end].reshape(shape))
        first = end
    return explained / len(turns)


def _at_one_phase(turns: Floats, allowed: Floats) -> int:
    """Return how many of the changes of each stretch lie at its phase, in all; (stretches, n)."""
    # Around the change that most others lie near: a mean would be drawn by strays.
    apart = turns[:, :, None] - turns[:, None, :]
    apart -= np.rint(apart)
    together = np.abs(apart) <= allowed[:, :, None]
    middle = np.argmax(np.sum(together, axis=1), axis=1)
    around = turns - turns[np.arange(len(turns)), middle][:, None]
    around -= np.rint(around)
    inside = np.abs(around) <= allowed
    # The median of those inside, which come first in order.
    ordered = np.sort(np.where(inside, around, np.inf), axis=1)
    count, row = np.sum(inside, axis=1), np.arange(len(turns))
    around -= 0.5 * (ordered[row, (count - 1) // 2] + ordered[row, count // 2])[:, None]
    return int(np.sum(np.abs(around - np.rint(around)) <= allowed))


def _sharpen(parts: list[Floats], frequency: float, length: float) -> float:
    best = frequency
    for span in (1 / (8 * length), 1 / (80 * length)):
        around = best + span * np.linspace(-2, 2, 41)
        best = float(around[np.argmax(_agreements(parts, around))])
    return best


def _agreement(parts: list[Floats], frequency: float) -> float:
    return float(_agreements(parts, np.array([frequency]))[0])


def _agreements(parts: list[Floats], frequencies: Floats) -> Floats:
    """Return how well changes agree in phase within parts, at equally spaced frequencies."""
    sizes = np.array([len(part) for part in parts])
    starts = np.cumsum(sizes) - sizes
    since = np.concatenate([part - part[0] for part in parts])
    turning = np.exp(2j * np.pi * frequencies[0] * since)
    # From one frequency to the next every phase goes on by its own constant: no new exponentials.
    step = np.exp(2j * np.pi * (frequencies[-1] - frequencies[0]) / max(1, len(frequencies) - 1)
                  * since)  # fmt: skip
    result = np.empty(len(frequencies))
    for index in range(len(frequencies)):
        means = np.add.reduceat(turning, starts) / sizes
        result[index] = np.mean(means.real**2 + means.imag**2)
        turning *= step
    return result


def count_refreshes(middle: Floats, frequency: float) -> Floats:
    """Number the changes by refreshes: from one to the next, so that a drifting clock is followed.

    The phase is tracked over about twenty changes, in which no clock drifts far.

    Args:
        middle: float64 (n,), increasing, ns.
        frequency: 1/ns.
    """
    number = np.empty(len(middle))
    period = 1.0 / frequency
    edges = list(range(0, len(middle), _TRACKED))
    # Circular mean of the first part sets the phase; each part then corrects it.
    phase = middle[0] + _offset(middle[:_TRACKED] - middle[0], period)
    base = 0.0
    for start in edges:
        part = middle[start : start + _TRACKED]
        ahead = np.rint((part[0] - phase) / period)
        base += ahead
        phase += ahead * period
        phase += _offset(part - phase, period)
        number[start : start + _TRACKED] = base + np.rint((part - phase) / period)
    return number


def _offset(distance: Floats, period: float) -> float:
    """Return the mean of distances modulo a period, within half a period of 0."""
    turn = np.mean(np.exp(2j * np.pi * distance / period))
    return float(np.angle(turn)) * period / (2 * np.pi)
