"""Idle power: mean, dispersion, how well the mean is known, and whether it drifts. Numpy only.

Three kinds of baseline, each before and after what it is the baseline of:

- `cold`: nothing runs but the sampler, before an experiment;
- `sampler`: the processes of a run are there, no engine is loaded;
- `loaded`: the engine is loaded as well; dynamic energy is what lies above this one.

Idle power is not noise around a constant: it goes with temperature, clocks and whatever the
operating system does. So the interval respects that neighbours in time are alike, and `judge` says
when the window was not idle or when its power drifted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgejoule.energy.conditions import Conditions, judge
from edgejoule.energy.integrate import energies_mj, energy_mj, typical_ns
from edgejoule.energy.statistics import (
    BLOCKS,
    FEWEST_BLOCKS,
    TIMES_PER_BLOCK,
    autocorrelation_time,
    blocks_for,
    combine,
    half_width_of,
    line_through,
)

if TYPE_CHECKING:
    from edgejoule.energy.trace import RailPower

METHOD = "batch means of equal stretches of time, Student's t"
_POINTS_PER_BLOCK = 5
_FEWEST_SCATTERED = 50
_CELLS = 4096  # of a window that is looked at for likeness in time, at most
_FEWEST_CELLS = 16
_SPIKE_SDS = 5.0
_SD_OF_MAD = 1.4826  # of a normal distribution
_USUAL_JUMP = 0.75  # quantile of the changes from one reading to the next
_LEAST_SD_SHARE = 0.005  # of the median: a rail that is steadier than that has no spikes of note


@dataclass(frozen=True)
class Baseline:
    """Idle power of one rail over one window; None where it is not known.

    Attributes:
        mean_mw: Mean over time.
        sd_mw: Standard deviation of the single points.
        half_width_mw: Half-width of the mean's 95 % interval. Neighbours in time are alike, so the
            window is cut into up to 20 equal stretches, each at least four autocorrelation times
            long, and the interval comes from the scatter of their means; more samples per second
            do not shrink it.
        interval_mw: The interval, lower and upper end.
        n: Points in the window.
        blocks: Stretches behind the interval.
        duration_s: Length of the window.
        drift_mw: Mean of its second half minus mean of its first.
        coverage: Share of the window that the trace covers.
        method: How the interval was made.
        autocorrelation_s: Integrated autocorrelation time: so much time tells as much of the mean
            as one independent reading.
        effective_n: How many of those the window has.
        interval_note: Why the interval may be too narrow, None if nothing speaks for it.
        trend_mw: Change over the window by a straight line.
        trend_half_width_mw: Half-width of its 95 % interval.
        spike_share: Share of the points more than five robust standard deviations (of the median
            deviation; at least half a percent of the power, and half a usual jump) above the
            median.
        gaps: Gaps of the trace in the window (`integrate.gaps_ns`).
        gap_share: Their share of it.
    """

    mean_mw: float | None
    sd_mw: float | None
    half_width_mw: float | None
    interval_mw: tuple[float, float] | None
    n: int
    blocks: int
    duration_s: float
    drift_mw: float | None
    coverage: float
    method: str = METHOD
    autocorrelation_s: float | None = None
    effective_n: float | None = None
    interval_note: str | None = None
    trend_mw: float | None = None
    trend_half_width_mw: float | None = None
    spike_share: float | None = None
    gaps: int = 0
    gap_share: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as they stand in `idle.json`."""
        return asdict(self)


def baseline(
    series: RailPower, start_ns: int, end_ns: int, refresh_ns: int | None = None
) -> Baseline:
    """Summarise a rail's power over an idle window.

    Args:
        series: The rail's power.
        start_ns: Begin of the window.
        end_ns: Its end.
        refresh_ns: The sensor's refresh, where it is known (`integrate.energy_mj`).

    Raises:
        MeasurementError: The window does not end after it starts.
    """
    whole = energy_mj(series, start_ns, end_ns, refresh_ns)
    seconds = (end_ns - start_ns) * 1e-9
    if math.isnan(whole.energy_mj):
        nothing = Baseline(None, None, None, None, whole.n, 0, seconds, None, whole.coverage)
        return replace(nothing, gaps=whole.gaps, gap_share=whole.gap_share)
    inside = series.power_mw[(series.t_ns >= start_ns) & (series.t_ns <= end_ns)]
    first_ns, last_ns = max(start_ns, int(series.t_ns[0])), min(end_ns, int(series.t_ns[-1]))
    covered_s = (last_ns - first_ns) * 1e-9
    cells = _cells(series, first_ns, last_ns)
    steps = None if cells is None else autocorrelation_time(cells)
    effective = None if cells is None or steps is None else len(cells) / steps
    blocks = max(1, min(BLOCKS, whole.n // _POINTS_PER_BLOCK))
    if effective is not None:
        blocks = blocks_for(effective, blocks)
    half_width = half_width_of(_means_mw(series, first_ns, last_ns, blocks))
    interval = None
    if half_width is not None:
        interval = (whole.mean_mw - half_width, whole.mean_mw + half_width)
    drift = None
    if last_ns - first_ns >= 2:
        drift = float(np.diff(_means_mw(series, first_ns, last_ns, 2))[0])
    line = None if cells is None else line_through(cells)
    return Baseline(
        mean_mw=whole.mean_mw,
        sd_mw=float(np.std(inside, ddof=1)) if len(inside) > 1 else None,
        half_width_mw=half_width,
        interval_mw=interval,
        n=whole.n,
        blocks=blocks,
        duration_s=seconds,
        drift_mw=drift,
        coverage=whole.coverage,
        autocorrelation_s=None if effective is None else covered_s / effective,
        effective_n=effective,
        interval_note=_interval_note(effective, covered_s),
        trend_mw=None if line is None else line.change,
        trend_half_width_mw=None if line is None else line.half_width,
        spike_share=_spike_share(inside) if len(inside) else None,
        gaps=whole.gaps,
        gap_share=whole.gap_share,
    )


def baseline_entry(
    kind: Literal["cold", "sampler", "loaded"],
    when: Literal["before", "after"],
    rails: Mapping[str, RailPower],
    start_ns: int,
    end_ns: int,
    conditions: Conditions | None = None,
    refresh_ns: int | None = None,
) -> dict[str, Any]:
    """Return one entry of `idle.json`: every rail's baseline over one idle window, and verdicts.

    Args:
        kind: What was there while the board idled; see above.
        when: Before or after what it is the baseline of.
        rails: The power of each rail, of the `total` as well where it is known.
        start_ns: Begin of the window.
        end_ns: Its end.
        conditions: What the machine did meanwhile; None: not looked at.
        refresh_ns: The sensor's refresh, where it is known.
    """
    found = {name: baseline(series, start_ns, end_ns, refresh_ns) for name, series in rails.items()}
    return {
        "kind": kind,
        "when": when,
        "start_ns": start_ns,
        "end_ns": end_ns,
        "rails": {name: one.to_json() for name, one in found.items()},
        "conditions": None if conditions is None else conditions.to_json(),
        "verdicts": [verdict.to_json() for verdict in judge(found, conditions)],
    }


def baseline_from_json(entry: Mapping[str, Any]) -> Baseline:
    """Return a rail's baseline as it stands in `idle.json`; keys of other versions are ignored."""
    values = {key: entry[key] for key in (one.name for one in fields(Baseline)) if key in entry}
    interval = values.get("interval_mw")
    return Baseline(**{**values, "interval_mw": None if interval is None else tuple(interval)})


@dataclass(frozen=True)
class Drift:
    """How idle power changed from before to after; None where it is not known.

    Attributes:
        change_mw: After minus before.
        interval_mw: Its 95 % interval.
        significant: Whether the interval leaves out 0.
        sentence: The same in words.
    """

    change_mw: float | None
    interval_mw: tuple[float, float] | None
    significant: bool | None
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def compare(before: Baseline, after: Baseline, rail: str = "idle power") -> Drift:
    """Compare a baseline after a run with the one before.

    A change says that the board is another one than before (warmer, other clocks), and by how much
    the choice of baseline moves dynamic energy.

    Args:
        before: The baseline before.
        after: The baseline after, of the same kind and rail.
        rail: What it is, for the sentence.
    """
    if before.mean_mw is None or after.mean_mw is None:
        which = "before" if before.mean_mw is None else "after"
        return Drift(None, None, None, f"{rail}: no baseline {which}, so no comparison")
    change = after.mean_mw - before.mean_mw
    half = combine(before.half_width_mw, after.half_width_mw)
    share = f" ({change / before.mean_mw:+.1%})" if before.mean_mw else ""
    if half is None:
        text = f"{rail} changed by {change:+.0f} mW{share}; too few readings to say within what"
        return Drift(change, None, None, text)
    significant = abs(change) > half
    amount = f"{change:+.0f} +- {half:.0f} mW{share}"
    text = f"{rail} changed by {amount}" if significant else f"{rail} is as before: {amount}"
    return Drift(change, (change - half, change + half), significant, text)


def _means_mw(series: RailPower, start_ns: int, end_ns: int, count: int) -> np.ndarray:
    """Return the mean power of `count` equal stretches of a covered window."""
    edges = start_ns + np.arange(count + 1) * (end_ns - start_ns) // count
    means: np.ndarray = energies_mj(series, edges[:-1], edges[1:]) / (np.diff(edges) * 1e-9)
    return means


def _cells(series: RailPower, start_ns: int, end_ns: int) -> np.ndarray | None:
    """Return the power on an even grid no finer than the readings, None if they are too few."""
    usual_ns = typical_ns(series) or 1
    count = min(_CELLS, (end_ns - start_ns) // usual_ns)
    return None if count < _FEWEST_CELLS else _means_mw(series, start_ns, end_ns, int(count))


def _interval_note(effective: float | None, seconds: float) -> str | None:
    if effective is None:
        return "too few readings to see whether neighbours are alike"
    if effective >= FEWEST_BLOCKS * TIMES_PER_BLOCK:
        return None
    return (
        f"power stays alike for {seconds / effective:.2g} s and the window has only "
        f"{effective:.0f} such times: the interval may be too narrow"
    )


def _spike_share(power_mw: np.ndarray) -> float:
    """Return the share of points far above the median."""
    median = float(np.median(power_mw))
    sd = _SD_OF_MAD * float(np.median(np.abs(power_mw - median)))
    # In a converter's coarse steps the median deviation may be 0: a usual jump is no spike either.
    jumps = np.abs(np.diff(power_mw))
    jumps = jumps[jumps > 0]
    jump = float(np.quantile(jumps, _USUAL_JUMP)) if len(jumps) else 0.0
    sd = max(sd, _LEAST_SD_SHARE * abs(median), 0.5 * jump)
    return float(np.mean(power_mw > median + _SPIKE_SDS * sd))


def scatter_mw(series: RailPower, spans_ns: Sequence[tuple[int, int]]) -> float | None:
    """Return how far readings scatter about a straight line in stretches of idle time, mW.

    Args:
        series: The rail's power.
        spans_ns: Begin and end of each stretch.

    Returns:
        The standard deviation, None where no stretch holds 50 readings.
    """
    variances = []
    for start_ns, end_ns in spans_ns:
        powers = series.power_mw[(series.t_ns >= start_ns) & (series.t_ns <= end_ns)]
        if len(powers) >= _FEWEST_SCATTERED:
            at = np.arange(len(powers))
            # A board that cools down is not noise.
            variances.append(float(np.var(powers - np.polyval(np.polyfit(at, powers, 1), at))))
    return float(np.sqrt(np.mean(variances))) if variances else None
