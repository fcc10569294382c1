"""An external meter beside the board's own sensor: align by the pulses, then compare. Numpy.

    meter   t' = time by its own clock           ours   t = CLOCK_MONOTONIC
      |~~|__|~|___|~~~~|                             |~~|__|~|___|~~~~|
      t = offset + (1 + drift) t'                    found from the pulses both have seen
      ours = gain x meter + shift                    over means of the same spans of time

The meter may log at its own rate, on its own clock, begin earlier and end later. Offset first by
cross-correlation of the two on one grid, then offset and drift by least squares, then gain and
shift by least squares on means over spans, with intervals from blocks.
"""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.energy.calibration_clock import clustered
from edgejoule.energy.statistics import t95
from edgejoule.errors import MeasurementError, UsageError

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats
    from edgejoule.energy.trace import RailPower

# Column names, lower case: what they are called -> ns or W per unit.
_TIMES = {
    "time_s": 1e9, "timestamp": 1e9, "time": 1e9, "t": 1e9, "t_s": 1e9, "seconds": 1e9,
    "timestamp_s": 1e9, "time_ms": 1e6, "t_ms": 1e6, "timestamp_ms": 1e6, "time_us": 1e3,
    "t_us": 1e3, "timestamp_us": 1e3, "time_ns": 1.0, "t_ns": 1.0, "timestamp_ns": 1.0,
}  # fmt: skip
_POWERS = {
    "power_w": 1.0, "w": 1.0, "power": 1.0, "watts": 1.0, "watt": 1.0, "p_w": 1.0,
    "power_mw": 1e-3, "mw": 1e-3, "p_mw": 1e-3, "milliwatts": 1e-3,
    "power_uw": 1e-6, "uw": 1e-6,
}  # fmt: skip
_FEWEST = 50
_WEAKEST = 0.7  # correlation from which two traces are of the same load
_MOST_DRIFT = 1e-3
_PIECES = 24
_SPANS = 200
_ROUNDS = 12
# Of two samples of the slower trace: spans that do not beat with its samples.
_FINE = 0.187


@dataclass(frozen=True)
class MeterTrace:
    """What a meter logged: float64 (n,) ns by its own clock, increasing, and W."""

    t_ns: Floats
    power_w: Floats


@dataclass(frozen=True)
class Comparison:
    """Our reading of a rail against the meter's: ours = gain x meter + shift.

    Each `_half` is the half-width of a 95 % interval.

    Attributes:
        rail: Ours.
        correlation: Of the two, aligned.
        clock_offset_ns: Ours at the meter's first sample, less the meter's own time then.
        clock_drift: By how much the meter's second is shorter than ours, relative.
        gain: Slope.
        gain_half: Its interval.
        shift_w: Offset, W.
        shift_half_w: Its interval.
        residual_w: Standard deviation of what is left, over spans of `span_s`.
        span_s: Length of the spans that were compared.
        spans: How many.
        clock_half_ns: Of the offset, where the clocks agree in the middle of the recording.
        drift_half: Of the drift.
    """

    rail: str
    correlation: float
    clock_offset_ns: float
    clock_half_ns: float
    clock_drift: float
    drift_half: float
    gain: float
    gain_half: float
    shift_w: float
    shift_half_w: float
    residual_w: float
    span_s: float
    spans: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def read_meter(path: Path) -> MeterTrace:
    """Read a meter's CSV: a header, a column of time and one of power; others are left alone.

    Times may be seconds (`time_s`, `timestamp`, `time`, `t`), `_ms`, `_us` or `_ns`; power W
    (`power_w`, `power`, `w`), mW or uW by its name. Comma, semicolon or tab.

    Raises:
        UsageError: No such columns, or too few rows.
        MeasurementError: It cannot be read; a value is no number; time steps back.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MeasurementError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise MeasurementError(f"{path} is no text ({error})") from error
    first, _, _ = text.partition("\n")
    delimiter = max(",;\t", key=first.count)
    try:
        rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
    except csv.Error as error:
        raise MeasurementError(f"{path} is damaged ({error})") from error
    names = [name.strip().lower().replace(" ", "_") for name in rows[0]] if rows else []
    time_at, to_ns = _column(path, names, _TIMES, "time")
    power_at, to_w = _column(path, names, _POWERS, "power")
    times, powers = [], []
    for number, row in enumerate(rows[1:], 2):
        try:
            times.append(float(row[time_at]) * to_ns)
            powers.append(float(row[power_at]) * to_w)
        except (ValueError, IndexError) as error:
            raise MeasurementError(
                f"{path}, row {number}: no time or no power ({error})"
            ) from error
    t_ns, power_w = np.array(times), np.array(powers)
    if len(t_ns) < _FEWEST:
        raise UsageError(f"{path} has {len(t_ns)} rows", f"give at least {_FEWEST}")
    if not (np.all(np.isfinite(t_ns)) and np.all(np.isfinite(power_w))):
        raise MeasurementError(f"{path}: a time or power is not finite")
    if np.any(np.diff(t_ns) < 0):
        raise MeasurementError(f"{path}: its times step back", "sort the rows by time")
    kept = np.append(np.diff(t_ns) > 0, True)  # of rows with one time the last one counts
    return MeterTrace(t_ns[kept], power_w[kept])


def _column(path: Path, names: list[str], known: dict[str, float], what: str) -> tuple[int, float]:
    for name, scale in known.items():
        if name in names:
            return names.index(name), scale
    raise UsageError(
        f"{path}: no column of {what} in its header ({', '.join(names)[:80]})",
        f"name it one of {', '.join(list(known)[:6])}",
    )


def compare(ours: RailPower, meter: MeterTrace) -> Comparison:
    """Compare a rail of ours with a meter that saw the same pulses.

    Args:
        ours: The rail's power.
        meter: The meter's trace.

    Raises:
        MeasurementError: Too little of either; or they do not show the same load.
    """
    if len(ours.t_ns) < _FEWEST or len(meter.t_ns) < _FEWEST:
        raise MeasurementError(f"rail {ours.rail}: too few samples to compare with a meter")
    origin = float(ours.t_ns[0])
    mine = _Series(ours.t_ns - ours.t_ns[0], ours.power_mw * 1e-3)
    theirs = _Series(meter.t_ns - meter.t_ns[0], meter.power_w)
    step = 2.0 * max(float(np.median(np.diff(mine.t))), float(np.median(np.diff(theirs.t))))
    offset, correlation = _coarse(mine, theirs, step)
    if correlation < _WEAKEST:
        raise MeasurementError(
            f"rail {ours.rail} and the meter do not show the same load (correlation "
            f"{correlation:.2f})",
            "see that the meter logged during the calibration and measures this rail's supply",
        )
    fitted = _fine(mine, theirs, offset, step)
    a, b = _common(mine, theirs, fitted.offset, fitted.drift)
    spans = int(min(_SPANS, (b - a) / (4 * step)))
    if spans < 2 * _PIECES // 3:
        raise MeasurementError(f"rail {ours.rail} and the meter overlap too shortly")
    edges = np.linspace(a, b, spans + 1)
    there = (edges - fitted.offset) / (1 + fitted.drift)
    y, x = mine.means(edges), theirs.means(there)
    design = np.column_stack([np.ones(spans), x])
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    left = y - design @ solution
    covariance = clustered(design, left, min(20, spans))
    t = t95(min(20, spans) - 2)
    return Comparison(
        rail=ours.rail,
        correlation=float(np.corrcoef(x, y)[0, 1]),
        clock_offset_ns=origin + fitted.offset - float(meter.t_ns[0]),
        clock_half_ns=fitted.offset_half,
        clock_drift=fitted.drift,
        drift_half=fitted.drift_half,
        gain=float(solution[1]),
        gain_half=t * math.sqrt(float(covariance[1, 1])),
        shift_w=float(solution[0]),
        shift_half_w=t * math.sqrt(float(covariance[0, 0])),
        residual_w=float(np.std(left, ddof=2)),
        span_s=float(edges[1] - edges[0]) * 1e-9,
        spans=spans,
    )


class _Series:
    """Power over time, constant up to the next sample; its exact integral."""

    def __init__(self, t: Floats, power: Floats) -> None:
        self.t = np.asarray(t, np.float64)
        self.power = power
        # A sample is what was measured until it: meters and sensors show the past.
        self.area = np.concatenate([[0.0], np.cumsum(power[1:] * np.diff(self.t))])

    def means(self, edges: Floats) -> Floats:
        """Return the mean between neighbouring edges."""
        result: Floats = np.diff(np.interp(edges, self.t, self.area)) / np.diff(edges)
        return result


def _coarse(mine: _Series, theirs: _Series, step: float) -> tuple[float, float]:
    """Return the offset at which both correlate best on one grid, and how well there."""
    a, b = (_grid(series, step) for series in (mine, theirs))
    size = 1 << math.ceil(math.log2(len(a) + len(b)))
    product = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    lag = int(np.argmax(product))
    lag -= size if lag > size // 2 else 0
    start, end = max(0, lag), min(len(a), len(b) + lag)
    if end - start < _FEWEST // 2:
        return lag * step, 0.0
    x, y = a[start:end], b[start - lag : end - lag]
    if not (np.std(x) > 0 and np.std(y) > 0):
        return lag * step, 0.0
    return lag * step, float(np.corrcoef(x, y)[0, 1])


def _grid(series: _Series, step: float) -> Floats:
    edges = np.arange(0.0, series.t[-1], step)
    means = series.means(edges)
    result: Floats = means - np.mean(means)
    return result


def _common(mine: _Series, theirs: _Series, offset: float, drift: float) -> tuple[float, float]:
    return max(0.0, offset), min(float(mine.t[-1]), offset + (1 + drift) * float(theirs.t[-1]))


@dataclass(frozen=True)
class _Clock:
    offset: float
    offset_half: float
    drift: float
    drift_half: float


def _fine(mine: _Series, theirs: _Series, offset: float, step: float) -> _Clock:
    """Refine offset and drift by least squares.

    A small shift changes the meter's means by shift x slope: linear, so a few rounds close in.
    """
    drift = 0.0
    offset_half = drift_half = math.inf
    for _ in range(_ROUNDS):
        a, b = _common(mine, theirs, offset, drift)
        count = max(2 * _PIECES, int((b - a) / (_FINE * step)))
        edges = np.linspace(a, b, count + 1)
        there = (edges - offset) / (1 + drift)
        small = _FINE * step
        x = theirs.means(there)
        # Per step, so that all columns are of about one size.
        slope = (theirs.means(there + small) - theirs.means(there - small)) * (step / (2 * small))
        y = mine.means(edges)
        when = 0.5 * (edges[1:] + edges[:-1])
        middle, span = 0.5 * (a + b), 0.5 * (b - a)
        late = (when - middle) / span
        # y(t) = shift + gain x(t'), t' moved by -(d0 + d1 late): both unknown, both linear.
        design = np.column_stack([np.ones(count), x, slope, slope * late])
        solution = np.linalg.lstsq(design, y, rcond=None)[0]
        gain = float(solution[1])
        if abs(gain) < 1e-9:
            break
        moved, bent = (-float(solution[k]) * step / gain for k in (2, 3))
        # No more than a step at once: beyond it the slope says nothing.
        moved, bent = (float(np.clip(v, -step, step)) for v in (moved, bent))
        error = clustered(design, y - design @ solution, _PIECES)
        t = t95(_PIECES - 4)
        scale = t * step / abs(gain)
        offset_half = scale * math.sqrt(max(0.0, float(error[2, 2])))
        drift_half = scale * math.sqrt(max(0.0, float(error[3, 3]))) / span
        change = bent / span
        drift = float(np.clip(drift + change, -_MOST_DRIFT, _MOST_DRIFT))
        offset += moved - change * (middle - offset)
    return _Clock(offset, offset_half, drift, drift_half)
