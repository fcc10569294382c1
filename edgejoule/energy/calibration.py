"""Calibrate a rail: from polled values under a known load to the figures of its sensor. Numpy.

First the rhythm from when values change (`calibration_clock`), then the answer to the load's edges
(`calibration_response`, `calibration_fit`). What the data cannot tell is *not resolved*: such a
figure has an interval, a reason and, where several make one answer together, a group, but no
value. The set that fits best taken together is in `RailCalibration.model`, for whoever needs the
response and not its parts. `docs/Calibration.md` has the formulae and the limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.calibration_clock import ClockFit, NoClock, fit_clock
from edgejoule.energy.calibration_fit import ResponseFit, fit_response
from edgejoule.energy.calibration_interval import Interval
from edgejoule.energy.calibration_response import Answer
from edgejoule.energy.calibration_step import find_step, rounding
from edgejoule.energy.sensor_model import SensorParameters, Waveform
from edgejoule.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.energy.sensor_model import Floats

# name -> unit; "" is a pure number, "value" the unit of the channel.
PARAMETERS = {
    "refresh_ns": "ns",
    "drift_per_s": "1/s",
    "phase_ns": "ns",
    "window_ns": "ns",
    "samples": "",
    "delay_ns": "ns",
    "tau_ns": "ns",
    "centre_ns": "ns",
    "low": "value",
    "high": "value",
    "lsb": "value",
}
_RESPONSE = ("window_ns", "samples", "delay_ns", "tau_ns", "centre_ns")
_RESOLVED = 0.25  # half-width over value: beyond it a figure is no figure
_OF_WINDOW = 0.1  # for delay and low-pass, which may be 0: half-width over window
_TOGETHER = 0.8  # correlation from which unresolved parts are one group
_TAKEN, _AROUND = 0.7, 0.25  # where in its refresh a value is read: this share, give or take
_LATE = 0.2  # share of a refresh after which a value came late
_FEWEST_VALUES = 100
_FEWEST_EDGES = 20
# Beyond both the model is refuted: the misfit over the swing (a GPU's rise, which is no low-pass,
# costs 3 %), and the residual over the noise.
_MISFIT, _OVER_NOISE = 0.05, 1.5
_FOLLOWS = 6.0  # swing over its half-width, below which a rail does not follow the load


@dataclass(frozen=True)
class Parameter:
    """One figure of a sensor.

    Attributes:
        name: One of `PARAMETERS`.
        unit: Its unit, empty for a number.
        value: The estimate; None where it is not resolved.
        low: Lower end of the 95 % interval; None: not bounded, or nothing is known.
        high: Upper end, likewise.
        why: Why it is not resolved; empty where it is.
    """

    name: str
    unit: str
    value: float | None
    low: float | None
    high: float | None
    why: str = ""

    @property
    def resolved(self) -> bool:
        """Whether there is a figure."""
        return self.value is not None


@dataclass(frozen=True)
class Group:
    """Figures that this data cannot tell apart.

    Attributes:
        members: Their names.
        known: The figure that is known of them together, the name of a parameter.
        why: One sentence.
    """

    members: tuple[str, ...]
    known: str
    why: str


@dataclass(frozen=True)
class RailCalibration:
    """What is known of one channel.

    Attributes:
        rail: Its rail.
        quantity: `current` or `power`.
        unit: Unit of `low`, `high` and `lsb`.
        parameters: All of `PARAMETERS`, in that order.
        groups: What cannot be told apart.
        model: The set that fits best taken together; None if the response is not known.
        facts: Counts and residuals: `reads`, `changes`, `values`, `edges`, `outliers`,
            `reads_per_refresh`, `coherence`, `read_ns`, `jitter_ns`, `wander_ns`, `strays` (changes
            at no refresh), `residual`, `noise` (of steady stretches; absent: there were too few),
            `misfit` (what noise does not explain of the residual, over the swing).
    """

    rail: str
    quantity: str
    unit: str
    parameters: tuple[Parameter, ...]
    groups: tuple[Group, ...]
    model: SensorParameters | None
    facts: dict[str, float]

    def __getitem__(self, name: str) -> Parameter:
        """Return a parameter by name."""
        return next(p for p in self.parameters if p.name == name)


def fit_rail(
    t0_ns: npt.ArrayLike,
    t1_ns: npt.ArrayLike,
    values: npt.ArrayLike,
    load: Waveform,
    *,
    rail: str = "",
    quantity: str = "current",
    unit: str = "mA",
) -> RailCalibration:
    """Fit one channel's sensor from reads under a known load.

    Args:
        t0_ns: int64 (n,), CLOCK_MONOTONIC before each read, in any order.
        t1_ns: int64 (n,), after each read.
        values: (n,), as read, in `unit`.
        load: The load; only its shape counts, its levels are fitted.
        rail: For the result.
        quantity: For the result.
        unit: For the result.

    Raises:
        UsageError: The lengths differ, or the load is no load (too few edges, no two levels).
    """
    start, end, raw = (np.asarray(a) for a in (t0_ns, t1_ns, values))
    if start.ndim != 1 or not start.shape == end.shape == raw.shape:
        raise UsageError("reads need as many starts as ends and values")
    unit_load = _normalised(load)
    order = np.argsort(start, kind="stable")
    start, end, raw = start[order], end[order], raw[order].astype(np.float64)
    clock = fit_clock(start, end, raw) if len(start) else NoClock("there are no reads")
    known = {"lsb": _step(raw, unit)}
    facts: dict[str, float] = {"reads": len(start), "edges": len(load.edges_ns)}
    groups: tuple[Group, ...] = ()
    model = None
    if isinstance(clock, NoClock):
        why = f"the refresh is not known: {clock.why}"
    else:
        known.update(_clock_parameters(clock))
        facts.update(_clock_facts(clock))
        step = known["lsb"].value or 0.0
        why, fit = _respond(clock, start, end, raw, unit_load, step)
        if fit is not None:
            facts |= _fit_facts(fit)
            bad = _misfit(fit, unit)
            if bad:
                name, why = "window_ns", "the model does not fit (see window)"
                known[name] = Parameter(name, PARAMETERS[name], None, None, None, bad)
            else:
                known.update(_response_parameters(fit, clock, unit, step))
                groups = _groups(known, fit)
                model = _model(clock, fit, step)
    parameters = tuple(
        known.get(name, Parameter(name, unit if of == "value" else of, None, None, None, why))
        for name, of in PARAMETERS.items()
    )
    return RailCalibration(rail, quantity, unit, parameters, groups, model, facts)


def _normalised(load: Waveform) -> Waveform:
    """Return the load between 0 and 1."""
    low, high = float(np.min(load.power)), float(np.max(load.power))
    if len(load.edges_ns) < _FEWEST_EDGES or not high > low:
        raise UsageError(
            f"a load of {len(load.edges_ns)} edges shows nothing of a sensor",
            f"give pulses of two levels with at least {_FEWEST_EDGES} edges",
        )
    return Waveform(load.edges_ns, (load.power - low) / (high - low))


def values_by_refresh(
    clock: ClockFit, t0_ns: np.ndarray, t1_ns: np.ndarray, values: Floats
) -> tuple[Floats, Floats]:
    """Return every value that the sensor showed: when, and what (nan where nobody knows).

    Of the reads within a refresh one in its third quarter or so is taken: near the ends it might
    belong to the neighbour, and what comes late has come by then. A refresh in which the value
    changed long after it was due is left out.

    Returns:
        float64 (m,) ns from the clock's origin, and float64 (m,), no refresh left out in between.
    """
    middle = (t0_ns - clock.origin_ns).astype(np.float64) + 0.5 * (t1_ns - t0_ns)
    at = clock.number(middle)
    number = np.floor(at)
    away = np.abs(at - number - _TAKEN)
    safe = np.flatnonzero(away < _AROUND)
    if not len(safe):
        return np.empty(0), np.empty(0)
    safe = safe[np.lexsort((away[safe], number[safe]))]
    present, first = np.unique(number[safe], return_index=True)
    everyone = np.arange(present[0], present[-1] + 1)
    result = np.full(len(everyone), math.nan)
    result[(present - present[0]).astype(np.int64)] = values[safe[first]]
    # The last read of the old value: well within a refresh it says that the new one came late.
    old = at[np.flatnonzero(np.diff(values))]
    late = np.floor(old[(old % 1.0 > _LATE) & (old % 1.0 < _TAKEN)]) - present[0]
    late = late[(late >= 0) & (late < len(result))].astype(np.int64)
    result[late] = math.nan
    return clock.shown(everyone), result


def _respond(
    clock: ClockFit,
    t0_ns: np.ndarray,
    t1_ns: np.ndarray,
    values: Floats,
    load: Waveform,
    step: float,
) -> tuple[str, ResponseFit | None]:
    """Return the response, or why there is none."""
    shown, seen = values_by_refresh(clock, t0_ns, t1_ns, values)
    count = int(np.sum(np.isfinite(seen)))
    if count < _FEWEST_VALUES:
        return f"{count} values were shown, at least {_FEWEST_VALUES} are needed", None
    since = Waveform(load.edges_ns - clock.origin_ns, load.power)
    inside = (since.edges_ns > shown[0]) & (since.edges_ns < shown[-1])
    if np.sum(inside) < _FEWEST_EDGES:
        return f"only {np.sum(inside)} of the load's edges fell into the reads", None
    fit = fit_response(Answer(shown, seen, since, clock.refresh_ns), step)
    if not fit.swing > _FOLLOWS * math.hypot(fit.high[1], fit.low[1]):
        return "the rail does not follow the load", None
    return "", fit


def _clock_parameters(clock: ClockFit) -> dict[str, Parameter]:
    at_ns = clock.origin_ns + clock.phase_ns
    why = "" if clock.phase_half_ns < 0.25 * clock.refresh_ns else "wider than a quarter refresh"
    rows = (
        _around("refresh_ns", clock.refresh_ns, clock.refresh_half_ns),
        _around("drift_per_s", clock.drift_per_s, clock.drift_half),
        _around("phase_ns", at_ns, clock.phase_half_ns, why),
    )
    return {row.name: row for row in rows}


def _around(name: str, value: float, half: float, why: str = "") -> Parameter:
    shown = None if why else value
    return Parameter(name, PARAMETERS[name], shown, value - half, value + half, why)


def _clock_facts(clock: ClockFit) -> dict[str, float]:
    return {
        "changes": clock.changes,
        "strays": clock.strays,
        "reads_per_refresh": clock.reads_per_refresh,
        "coherence": clock.coherence,
        "read_ns": clock.read_ns,
        "jitter_ns": clock.jitter_ns,
        "wander_ns": clock.wander_ns,
    }


def _fit_facts(fit: ResponseFit) -> dict[str, float]:
    found = {"values": float(fit.values), "outliers": float(fit.outliers)}
    found |= {"residual": fit.residual, "misfit": fit.misfit}
    return found if fit.noise is None else {**found, "noise": fit.noise}


def _misfit(fit: ResponseFit, unit: str) -> str:
    """Return how the model is refuted, empty if it may be right: then intervals are widened."""
    explained = fit.noise is not None and fit.residual < _OVER_NOISE * fit.noise
    if explained or fit.misfit < _MISFIT:
        return ""
    noise = "no steady stretch tells the noise"
    if fit.noise is not None:
        noise = f"{fit.noise:.3g} {unit} where the load is steady"
    return (
        f"the model does not fit: a residual of {fit.residual:.3g} {unit} "
        f"({fit.residual / fit.swing:.0%} of the swing), {noise}"
    )


def _response_parameters(
    fit: ResponseFit, clock: ClockFit, unit: str, step: float
) -> dict[str, Parameter]:
    best = fit.best
    found = {}
    for name in _RESPONSE:
        value = float(getattr(best, name))
        interval = fit.intervals[name]
        if name in {"delay_ns", "centre_ns"}:
            # Ages count from when a value was shown, and that is not known better than this.
            interval = _widened(value, interval, clock.age_half_ns)
        why = _unresolved(name, value, interval, best.window_ns)
        found[name] = Parameter(
            name, PARAMETERS[name], None if why else value, interval.low, interval.high, why
        )
    rounded = rounding(step, fit.residual)
    for name, (value, half) in (("low", fit.low), ("high", fit.high)):
        half = math.hypot(half, rounded)  # noqa: PLW2901
        found[name] = Parameter(name, unit, value, value - half, value + half)
    return found


def _widened(value: float, interval: Interval, half: float) -> Interval:
    low, high = interval.low, interval.high
    return Interval(
        None if low is None else value - math.hypot(value - low, half),
        None if high is None else value + math.hypot(high - value, half),
    )


def _unresolved(name: str, value: float, interval: Interval, window_ns: float) -> str:
    """Return why a part of the response is not resolved, empty if it is."""
    if interval.low is None or interval.high is None:
        return "nothing in the data bounds it"
    half = 0.5 * (interval.high - interval.low)
    allowed = _RESOLVED * abs(value)
    if name in {"delay_ns", "tau_ns", "centre_ns"}:
        allowed = max(allowed, _OF_WINDOW * window_ns)
    return "" if half <= allowed else "its interval is too wide for a figure"


def _groups(known: dict[str, Parameter], fit: ResponseFit) -> tuple[Group, ...]:
    """Join what is not resolved and makes one answer together."""
    if not known["centre_ns"].resolved:
        return ()
    loose = {name for name in _RESPONSE[:-1] if not known[name].resolved}
    joined: list[set[str]] = []
    for (a, b), together in fit.correlations.items():
        # Two parts of one sum that is known stand against each other by that alone.
        of_sum = {a, b} <= loose - {"samples"}
        if not of_sum and (abs(together) < _TOGETHER or not {a, b} & loose):
            continue
        touching = [group for group in joined if group & {a, b}]
        merged = {a, b}.union(*touching)
        joined = [group for group in joined if group not in touching] + [merged]
    return tuple(
        Group(
            tuple(name for name in _RESPONSE if name in members),
            "centre_ns",
            "one moves against the other without a change that this data shows; known is "
            "delay + window / 2 + low-pass",
        )
        for members in joined
    )


def _model(clock: ClockFit, fit: ResponseFit, step: float) -> SensorParameters:
    best = fit.best
    return SensorParameters(
        refresh_ns=clock.refresh_ns,
        window_ns=best.window_ns,
        phase_ns=clock.origin_ns + clock.phase_ns,
        delay_ns=max(0.0, best.delay_ns),
        samples=best.samples,
        tau_ns=best.tau_ns,
        lsb=step,
        drift_per_s=clock.drift_per_s,
    )


def _step(values: Floats, unit: str) -> Parameter:
    found = find_step(values)
    if isinstance(found, str):
        return Parameter("lsb", unit, None, None, None, found)
    step, half = found
    return Parameter("lsb", unit, step, step - half, step + half)
