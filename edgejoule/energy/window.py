"""Energy per layer from a sensor that is slower than the layers: the window regression. Numpy.

A value that the sensor shows is the mean power over a window. Where that lies and how much of it
each layer took is known; over thousands of windows the powers of the layers follow.

    reads --> clock --> values, when shown --> phase, gap placement, powers --> rows
              window_clock                     window_estimate                  window_rows

What the data cannot tell is a group of layers known together, or *not resolved*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.calibration_clock import NoClock, fit_clock
from edgejoule.energy.statistics import block_starts
from edgejoule.energy.supply import with_supply
from edgejoule.energy.window_clock import follow, shown_values
from edgejoule.energy.window_design import Values
from edgejoule.energy.window_estimate import estimate
from edgejoule.energy.window_exposure import Exposure
from edgejoule.energy.window_fit import Problem
from edgejoule.energy.window_rows import (
    METHOD,
    Baseline,
    WindowAttribution,
    nothing,
    rows_from,
)
from edgejoule.energy.window_sums import add_rails
from edgejoule.energy.window_threads import one_thread

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats, SensorParameters
    from edgejoule.energy.timeline import ChannelReads, Timeline

__all__ = ["METHOD", "WindowAttribution", "add_rails", "attribute_window"]

_BLOCKS = 40
_PER_UNKNOWN = 2.0  # values per unknown power, at least
_AS_SAID = 0.02  # by how much a refresh may differ from what its driver says
_AWAY_NS, _FEWEST_IDLE = 30_000_000, 50  # from the pass; reads that tell the noise
_REACH = 3.0  # refreshes that a window and its delay reach back at most, when nothing is known


def attribute_window(
    rail: str,
    timeline: Timeline,
    reads: ChannelReads,
    *,
    baseline_mw: float | None,
    baseline_half_width_mw: float | None,
    model: SensorParameters | None = None,
    noise_mw: float | None = None,
    seed: int = 0,
) -> WindowAttribution:
    """Attribute the energy of one rail to layers.

    Nothing needs to be known of the sensor's phase, window, averaging or low-pass; what a
    calibration found is used if given, the phase is found from the data in any case.

    Args:
        rail: Its name.
        timeline: Inferences and layers of the pass.
        reads: Reads of the rail's channel over the pass.
        baseline_mw: Idle power with the engine loaded, or None.
        baseline_half_width_mw: Half-width of its 95 % interval.
        model: What a calibration found of the sensor, or None.
        noise_mw: Standard deviation of the readings while the board idles; None: it is taken from
            the reads before and after the pass.
        seed: Of the resampling: equal data give equal intervals.

    Returns:
        Rows and facts. Where nothing can be said, rows without energies and the reason.
    """
    with one_thread():
        baseline = Baseline(baseline_mw, baseline_half_width_mw)
        return _attributed(rail, timeline, reads, baseline, model, noise_mw, seed)


def _attributed(
    rail: str,
    timeline: Timeline,
    reads: ChannelReads,
    baseline: Baseline,
    model: SensorParameters | None,
    noise_mw: float | None,
    seed: int,
) -> WindowAttribution:
    why = _refused(timeline, reads)
    if why:
        return nothing(rail, timeline, why)
    reads, supply = with_supply(reads, int(timeline.start_ns[0]), int(timeline.end_ns[-1]))
    clock = fit_clock(reads.t0_ns, reads.t1_ns, reads.raw)
    if isinstance(clock, NoClock):
        return nothing(rail, timeline, f"the sensor's rhythm is not known: {clock.why}")
    local = follow(clock, reads.t0_ns, reads.t1_ns, reads.raw)
    shown, value = shown_values(local, reads.t0_ns, reads.t1_ns, reads.power_mw, reads.raw)
    exposure = Exposure(timeline, clock.origin_ns)
    reach = _REACH * clock.refresh_ns
    if model is not None:
        reach = model.window_ns + model.delay_ns + model.tau_ns + clock.refresh_ns
    inside = (shown - reach > exposure.start[0]) & (shown < exposure.end[-1])
    shown, value = shown[inside], value[inside]
    why = _too_little(value, timeline.layers + 5)
    if why:
        return nothing(rail, timeline, why)
    count = len(value)
    block = np.searchsorted(block_starts(count, _BLOCKS), np.arange(count), side="right") - 1
    values = Values(shown, value, block, np.linspace(-1.0, 1.0, count))
    samples, window_ns = _told(reads, clock.refresh_ns)
    problem = Problem(
        exposure,
        values,
        clock.refresh_ns,
        samples=samples,
        window_ns=window_ns,
        step_mw=reads.lsb_mw,
        noise_mw=_noise_mw(timeline, reads) if noise_mw is None else noise_mw,
    )
    found = estimate(problem, model)
    answer = rows_from(rail, found, supply, baseline, seed)
    facts = {
        "refresh_ns": local.line[1],
        "refresh_half_ns": clock.refresh_half_ns,
        "clock_error_ns": local.error_ns,
        "clock_blur_ns": local.blur_ns,
        "clock_walk_ns": local.walk_ns,
        "supply_per_mw": None if supply is None else supply.per_mw,
        "supply_half": None if supply is None else supply.half_width,
        "reads": len(reads.t0_ns),
        "inferences": len(timeline.start_ns),
        **answer.facts,
    }
    return WindowAttribution(answer.rows, facts, answer.alone)


def _refused(timeline: Timeline, reads: ChannelReads) -> str:
    """Return why there is nothing to look at, empty if there is."""
    if timeline.layers == 0 or len(timeline.start_ns) < 2:
        return "there are no layers, or fewer than two inferences"
    if np.any(timeline.start_ns[1:] < timeline.end_ns[:-1]):
        return "inferences overlap, so a window belongs to several at once"
    return "" if len(reads.t0_ns) > 1 else f"{len(reads.t0_ns)} reads of the channel"


def _noise_mw(timeline: Timeline, reads: ChannelReads) -> float | None:
    """Return how far readings scatter before and after the pass, None where there are too few.

    Whatever else runs there makes it larger, and what is held against it milder.
    """
    before = reads.t1_ns < timeline.start_ns[0] - _AWAY_NS
    after = reads.t0_ns > timeline.end_ns[-1] + _AWAY_NS
    powers = [reads.power_mw[part] for part in (before, after) if part.sum() >= _FEWEST_IDLE]
    if not powers:
        return None
    return float(np.sqrt(np.mean([np.var(part) for part in powers])))


def _told(reads: ChannelReads, refresh_ns: float) -> tuple[float | None, float | None]:
    """Return averaging and window as the driver says, the window on the clock that was seen.

    A chip's conversions and refreshes come from one oscillator (TI SBOS576). A refresh other than
    the driver's is not how the chip is set: nothing that follows from it is taken over.
    """
    if reads.refresh_ns is None or abs(refresh_ns / reads.refresh_ns - 1) > _AS_SAID:
        return None, None
    samples = None if reads.samples is None else float(reads.samples)
    window_ns = reads.window_ns
    return samples, None if window_ns is None else window_ns * refresh_ns / reads.refresh_ns


def _too_little(value: Floats, unknown: int) -> str:
    """Return why values cannot tell so many powers, empty if they may."""
    known = int(np.isfinite(value).sum())
    if known < _PER_UNKNOWN * unknown:
        return f"{known} values of the sensor fell into the pass, for {unknown} powers"
    return "" if np.nanstd(value) > 0 else "the sensor showed one value all the time"
