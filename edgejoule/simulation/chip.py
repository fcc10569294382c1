"""What a chip shows of a current: conversions on its own clock, averaging, steps, missed values.

    cycle |ch1 I|ch1 V|ch2 I|ch2 V|ch3 I|ch3 V|ch1 I| ...      6 x 1.1 ms
                ^ shown from here on, until the channel's next conversion ends

A channel's current is the mean over its own conversion (TI SBOS576: the inputs are converted one
after the other). Averaging moves the register by its difference over N at every conversion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.simulation.scenario import Sensor
    from edgejoule.simulation.signal import Steps

    Floats = npt.NDArray[np.float64]

_DRAWN_PPM = 200.0


@dataclass(frozen=True)
class Clock:
    """A chip's clock.

    Attributes:
        cycles: When each cycle begins, float64 (k,), ns.
        rate: True length of one of its nanoseconds.
        ppm: How much too long the refresh is.
    """

    cycles: Floats
    rate: float
    ppm: float


@dataclass(frozen=True)
class Shown:
    """A register over time.

    Attributes:
        from_ns: When each value appears, float64 (k,), increasing.
        counts: The values, whole steps, int64 (k,).
        start: Begin of each value's conversion, float64 (k,).
        end: Its end.
    """

    from_ns: Floats
    counts: npt.NDArray[np.int64]
    start: Floats
    end: Floats

    def at(self, times: Floats) -> npt.NDArray[np.int64]:
        """Return what is shown at each time."""
        place = np.searchsorted(self.from_ns, times, side="right") - 1
        return self.counts[np.clip(place, 0, len(self.counts) - 1)]


def draw_clock(sensor: Sensor, until_ns: float, random: np.random.Generator) -> Clock:
    """Draw a chip's rate, phase and wandering."""
    ppm = sensor.oscillator_ppm
    if ppm is None:
        ppm = float(random.uniform(-_DRAWN_PPM, _DRAWN_PPM))
    rate = 1 + ppm * 1e-6
    refresh = sensor.refresh_ns * rate
    count = int(until_ns / refresh) + 3
    walk = np.cumsum(sensor.walk_ns * random.standard_normal(count))
    cycles = (np.arange(count) - random.uniform(1, 2)) * refresh + walk
    return Clock(cycles, rate, ppm)


def convert(
    signal: Steps,
    clock: Clock,
    slot: float,
    sensor: Sensor,
    lsb: float,
    random: np.random.Generator,
    offset: float = 0.0,
    gain: float = 1.0,
) -> Shown:
    """Return what a register shows of offset + gain x signal.

    Args:
        signal: What the low-pass acts on.
        clock: The chip's.
        slot: How many conversions after the cycle's start its own begins.
        sensor: Window, averaging, low-pass, noise.
        lsb: Step of the register.
        random: For noise and missed conversions.
        offset: Of a quantity that follows the signal, in the register's unit.
        gain: Likewise.
    """
    window = sensor.window_ns * clock.rate
    start = clock.cycles + slot * window
    end = start + window
    tau, slow_tau = sensor.tau_us * 1e3, sensor.slow_tau_us * 1e3
    mean = signal.filtered_mean(start, end, tau)
    if sensor.slow_share:
        slow = signal.filtered_mean(start, end, slow_tau)
        mean = (1 - sensor.slow_share) * mean + sensor.slow_share * slow
    mean = offset + gain * mean + sensor.noise_lsb * lsb * random.standard_normal(len(mean))
    averaged = running(mean, sensor.samples)
    counts = np.rint(averaged / lsb).astype(np.int64)
    if sensor.missed:
        counts = _hold(counts, random.uniform(size=len(counts)) < sensor.missed)
    return Shown(end + sensor.delay_ns, counts, start, end)


def running(values: Floats, samples: int) -> Floats:
    """Return the chip's average: new = old + (x - old) / N, begun at the mean of all.

    A pass follows minutes of the same load, so the average has settled before it.
    """
    if samples <= 1:
        return values
    share, state = 1 / samples, float(values.mean())
    out = []
    for value in values.tolist():
        state += (value - state) * share
        out.append(state)
    return np.array(out)


def _hold(counts: npt.NDArray[np.int64], missed: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    missed[0] = False
    last = np.maximum.accumulate(np.where(missed, 0, np.arange(len(counts))))
    return counts[last]
