"""What a power sensor makes of a power: the forward model of one channel. Numpy.

    power p(t) --> board's low-pass --> mean over a window --> averaging in the chip --> shown after
                   tau_ns               window_ns of every     `samples`                 delay_ns,
                                        refresh_ns                                       in steps
    time ->
      |<---- refresh_ns ---->|
      [window]               [window]               [window]
              |<-delay_ns->|                |<-delay_ns->|
                           ^ shown: phase_ns + n refresh_ns     a read gives the last one shown

The same four stages describe

- the INA3221 of Jetson boards: 3 channels, each with a bus and a shunt conversion of 1.1 ms, one
  after the other, so a channel's current is a mean over 1.1 ms of every 6.6 ms (TI data sheet
  SBOS576, operating modes; Linux `Documentation/hwmon/ina3221.rst`: update_interval = channels x
  samples x (bus + shunt conversion time)); averaging is new = old + (x - old) / samples per
  conversion (TI data sheet, as quoted in NVIDIA's DRIVE documentation);
- NVML on some data centre GPUs: a mean over 25 ms of every 100 ms (Yang, Adamek, Armour,
  "Part-time Power Measurements", arXiv 2312.02741);
- NVML's average power: a mean over 1 s, renewed several times a second (window > refresh).

Powers here are in any unit (mW, mA): the model is linear, the answer is in the unit of the input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Times = npt.NDArray[np.int64]

_MJ_PER_MW_NS = 1e-9
_SETTLED = 1e-9  # what is left of the past when a simulation begins
_FORGOTTEN = 1e-18


@dataclass(frozen=True)
class SensorParameters:
    """One channel of a sensor.

    Attributes:
        refresh_ns: Period at which a new value is shown.
        window_ns: How long the power is averaged for one value; below the refresh a sensor that
            looks part of the time, above it a running mean.
        phase_ns: A moment at which a new value is shown, CLOCK_MONOTONIC; others follow and precede
            it by whole refreshes.
        delay_ns: From the end of the window until its value is shown.
        samples: Averaging in the chip, N of new = old + (x - old) / N per refresh; 1: none.
        tau_ns: Time constant of the board's first-order low-pass before the converter (capacitors
            at the shunt, the supply's own); 0: none.
        lsb: Step of the shown value, in the power's unit; 0: none.
        noise: Standard deviation of one conversion before averaging, in the power's unit.
        drift_per_s: Relative change of the refresh per second (an oscillator that warms up), after
            `phase_ns`.
        walk_ns: Standard deviation of the random walk of the sensor's clock, per refresh.

    Raises:
        UsageError: A length or count that cannot be.
    """

    refresh_ns: float
    window_ns: float
    phase_ns: float = 0.0
    delay_ns: float = 0.0
    samples: float = 1.0
    tau_ns: float = 0.0
    lsb: float = 0.0
    noise: float = 0.0
    drift_per_s: float = 0.0
    walk_ns: float = 0.0

    def __post_init__(self) -> None:
        if not (self.refresh_ns > 0 and self.window_ns > 0 and self.samples >= 1):
            raise UsageError(
                "a sensor model with a refresh or window of 0, or samples below 1",
                "give refresh_ns and window_ns above 0 and samples from 1",
            )
        if min(self.delay_ns, self.tau_ns, self.lsb, self.noise, self.walk_ns) < 0:
            raise UsageError("a sensor model with a delay, low-pass, step or noise below 0")


def ina3221(
    samples: int = 1, *, channels: int = 3, conversion_ns: float = 1_100_000.0, lsb: float = 8.0
) -> SensorParameters:
    """Return the current of one INA3221 channel as the chip is set by default (steps of 8 mA)."""
    return SensorParameters(2 * channels * conversion_ns, conversion_ns, samples=samples, lsb=lsb)


def nvml_part_time() -> SensorParameters:
    """Return a GPU's power that is a mean over 25 ms of every 100 ms, in mW."""
    return SensorParameters(100e6, 25e6, lsb=1.0)


def nvml_mean() -> SensorParameters:
    """Return a GPU's power that is a mean over the last second, renewed every 100 ms, in mW."""
    return SensorParameters(100e6, 1e9, lsb=1.0)


@dataclass(frozen=True)
class Waveform:
    """A power that is constant between its edges.

    Attributes:
        edges_ns: int64 (n,), increasing, CLOCK_MONOTONIC.
        power: float64 (n + 1,): before the first edge, between two, after the last.

    Raises:
        UsageError: The lengths do not fit, or the edges step back.
    """

    edges_ns: Times
    power: Floats

    def __post_init__(self) -> None:
        if self.edges_ns.ndim != 1 or self.power.shape != (len(self.edges_ns) + 1,):
            raise UsageError("a waveform needs one power more than it has edges")
        if np.any(np.diff(self.edges_ns) < 0):
            raise UsageError("a waveform's edges step back in time")

    @classmethod
    def constant(cls, power: float) -> Waveform:
        """Return a power that never changes."""
        return cls(np.empty(0, np.int64), np.array([float(power)]))

    @classmethod
    def square(
        cls,
        start_ns: int,
        end_ns: int,
        period_ns: float,
        low: float,
        high: float,
        duty: float = 0.5,
    ) -> Waveform:
        """Return a square wave that is high for the first `duty` of each period; else low."""
        rises = np.arange(0, end_ns - start_ns, period_ns)
        pairs = np.stack([rises, rises + duty * period_ns], axis=1).ravel()
        edges = start_ns + np.rint(pairs).astype(np.int64)
        power = np.full(len(edges) + 1, float(low))
        power[1::2] = high
        return cls(edges, power)

    def energy_mj(self, start_ns: int, end_ns: int) -> float:
        """Return the exact energy between two times, mJ if power is in mW."""
        filtered = Filtered(self, 0.0)
        both = filtered.integral(np.array([start_ns, end_ns], np.int64))
        return float(both[1] - both[0]) * _MJ_PER_MW_NS


class Filtered:
    """A waveform behind a first-order low-pass, exactly: its value and its integral at any time.

    With tau y' = p - y, what is left of the steps decays as lag(t) = sum of step x exp(-age / tau),
    y = p - lag, and the integral of y over any span is that of p less tau times the change of y.
    So no time grid is needed, whatever tau is.

    Args:
        waveform: The power.
        tau_ns: The time constant, 0: no low-pass.
    """

    def __init__(self, waveform: Waveform, tau_ns: float) -> None:
        edges, power = waveform.edges_ns, waveform.power
        self._origin_ns = int(edges[0]) if len(edges) else 0
        self._edges = edges
        self._power = power
        self._tau_ns = tau_ns
        since = (edges - self._origin_ns).astype(np.float64)
        lengths = np.diff(since)
        self._since = since
        self._area = np.concatenate([[0.0], np.cumsum(power[1:-1] * lengths)])
        self._lag = np.zeros(len(edges))
        if tau_ns > 0 and len(edges):
            decay = np.concatenate([[0.0], np.exp(-lengths / tau_ns)])
            self._lag = recurrence(decay, np.diff(power))

    def value(self, at_ns: Times | Floats) -> Floats:
        """Return y at times, float64 of their shape."""
        return self._look(at_ns)[0]

    def integral(self, at_ns: Times | Floats) -> Floats:
        """Return the integral of y up to times, in unit x ns, from an origin of its own."""
        value, area = self._look(at_ns)
        return area - self._tau_ns * value

    def _look(self, at_ns: Times | Floats) -> tuple[Floats, Floats]:
        # From the first edge on: 64-bit floats hold ns exactly for 100 days then.
        at = np.asarray(at_ns - self._origin_ns, np.float64)
        if not len(self._edges):
            power = np.full(at.shape, self._power[0])
            return power, power * at
        right = np.searchsorted(self._since, at, side="right")
        left = np.maximum(right - 1, 0)
        age = at - self._since[left]
        power = self._power[right]
        area = self._area[left] + power * age
        if self._tau_ns <= 0:
            return power, area
        past = np.where(right > 0, self._lag[left], 0.0)
        value: Floats = power - past * np.exp(-np.maximum(age, 0.0) / self._tau_ns)
        return value, area

    def mean(self, start_ns: Floats, end_ns: Floats) -> Floats:
        """Return the mean of y over windows of more than no length."""
        result: Floats = (self.integral(end_ns) - self.integral(start_ns)) / (end_ns - start_ns)
        return result


@dataclass(frozen=True)
class Conversions:
    """The values that a channel shows, in order of time.

    Attributes:
        shown_ns: float64 (n,): when each appears, CLOCK_MONOTONIC.
        start_ns: float64 (n,): begin of the window it is the mean of (before chip averaging).
        end_ns: float64 (n,): end of that window.
        value: float64 (n,): what is shown, in the power's unit.
    """

    shown_ns: Floats
    start_ns: Floats
    end_ns: Floats
    value: Floats

    def read(self, at_ns: Times | Floats) -> Floats:
        """Return what a read at each time gives: the last value shown before it.

        Raises:
            UsageError: A read before the first value.
        """
        last = np.searchsorted(self.shown_ns, at_ns, side="right") - 1
        if np.any(last < 0):
            raise UsageError("a read before the first conversion")
        return self.value[last]


def convert(
    parameters: SensorParameters,
    waveform: Waveform,
    start_ns: float,
    end_ns: float,
    rng: np.random.Generator | None = None,
) -> Conversions:
    """Return every value shown from the last one before `start_ns` up to `end_ns`.

    Args:
        parameters: The channel.
        waveform: The true power.
        start_ns: From when values are wanted.
        end_ns: Until when.
        rng: For noise and the clock's random walk; None: neither, whatever the parameters say.

    Raises:
        UsageError: The end is before the start.
    """
    if end_ns < start_ns:
        raise UsageError("conversions are asked for that end before they start")
    shown = shown_times(parameters, start_ns, end_ns, rng)
    ends = shown - parameters.delay_ns
    starts = ends - parameters.window_ns
    mean = Filtered(waveform, parameters.tau_ns).mean(starts, ends)
    if rng is not None and parameters.noise:
        mean = mean + rng.normal(0.0, parameters.noise, mean.shape)
    value = chip_average(mean, parameters.samples)
    if parameters.lsb:
        value = np.rint(value / parameters.lsb) * parameters.lsb
    # The run-in, in which the chip's average forgets how it began, is nobody's.
    first = max(0, int(np.searchsorted(shown, start_ns, side="right")) - 1)
    wanted = slice(first, max(first + 1, int(np.searchsorted(shown, end_ns, side="right"))))
    return Conversions(shown[wanted], starts[wanted], ends[wanted], value[wanted])


def simulate(
    parameters: SensorParameters,
    waveform: Waveform,
    read_times_ns: npt.ArrayLike,
    rng: np.random.Generator | None = None,
) -> Floats:
    """Return what reads of the channel give.

    Args:
        parameters: The channel.
        waveform: The true power.
        read_times_ns: (n,) times of the reads, in any order, CLOCK_MONOTONIC.
        rng: For noise and the clock's random walk; None: neither.

    Returns:
        float64 (n,): multiples of the step, in the power's unit.
    """
    at = np.asarray(read_times_ns)
    if at.size == 0:
        return np.empty(at.shape)
    return convert(parameters, waveform, float(at.min()), float(at.max()), rng).read(at)


def shown_times(
    parameters: SensorParameters,
    start_ns: float,
    end_ns: float,
    rng: np.random.Generator | None = None,
) -> Floats:
    """Return when values are shown from a run-in before `start_ns` until `end_ns`, float64 (n,)."""
    forget = (
        math.log(_SETTLED) / math.log1p(-1.0 / parameters.samples) if parameters.samples > 1 else 0
    )
    first = (
        math.floor((start_ns - parameters.phase_ns) / parameters.refresh_ns) - math.ceil(forget) - 2
    )
    count = math.ceil((end_ns - parameters.phase_ns) / parameters.refresh_ns) + 2 - first
    elapsed = (first + np.arange(count)) * parameters.refresh_ns
    shown = parameters.phase_ns + elapsed + 0.5 * parameters.drift_per_s * 1e-9 * elapsed**2
    if rng is not None and parameters.walk_ns:
        # The walk is none at the first read's time, so that the phase keeps its meaning there.
        walk = np.cumsum(rng.normal(0.0, parameters.walk_ns, count))
        shown = shown + walk - walk[min(count - 1, math.ceil(forget) + 2)]
    return shown


def chip_average(values: Floats, samples: float) -> Floats:
    """Average as the chip does, new = old + (x - old) / samples, from a settled beginning."""
    if samples <= 1 or not len(values):
        return values
    share = 1.0 / samples
    fed = share * (values - values[0])
    averaged: Floats = values[0] + recurrence(np.full(len(values), 1.0 - share), fed)
    return averaged


def recurrence(decay: Floats, fed: Floats) -> Floats:
    """Return s with s[k] = decay[k] s[k-1] + fed[k], s before the first being 0.

    By doubling (Hillis and Steele's scan, 1986), so that it needs log2(n) steps of numpy and no
    loop over elements; it ends as soon as nothing of the past is left. `decay` is within 0..1.
    """
    carried, reach = np.array(decay, np.float64), 1
    result = np.array(fed, np.float64)
    while reach < len(result) and float(np.max(carried[reach:])) > _FORGOTTEN:
        result[reach:] = result[reach:] + carried[reach:] * result[:-reach]
        carried[reach:] = carried[reach:] * carried[:-reach]
        reach *= 2
    return result
