"""The older rule, only to compare with: the mean of the readings within a layer times its time.

    reading         x      x      x      x      x      x        each a mean over the sensor's window
    layers      |..[ 0 ][ 1 ][   2   ]|..[ 0 ][ 1 ][   2   ]|   counted where its time lies

A reading is taken for the power of the layer that runs at its time. It is a mean over the sensor's
window, which is much longer than most layers, and old by up to a refresh: every layer gets about
the network's mean power, however long one measures. It stands beside the other methods so that one
sees what they change, and takes part in no decision.

Intervals are closed at both ends, a reading counts for the first layer that it lies in. Starts are
those of the backend; where it gives durations only, layers follow one another without gaps from the
inference's start (after the time that the profiler holds it back). Numpy only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.integrate import energies_mj
from edgejoule.energy.proportional import per_inference
from edgejoule.energy.rows import EnergyRow
from edgejoule.energy.statistics import block_means, combine, half_width_of, mean_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.energy.timeline import Timeline
    from edgejoule.energy.trace import RailPower

METHOD = "interval"
WHY = "the older rule, to compare: a reading is a mean over more than the layer"
WHY_NOTHING = "the older rule: no reading lies within it"


def attribute_interval(
    rail: str,
    series: RailPower,
    timeline: Timeline,
    baseline_mw: float | None,
    baseline_half_width_mw: float | None,
) -> list[EnergyRow]:
    """Give every layer the mean of the readings within its intervals times its mean time.

    Args:
        rail: The rail.
        series: Its power over time; points are the readings.
        timeline: The inferences.
        baseline_mw: Idle power with the engine loaded, or None.
        baseline_half_width_mw: Half-width of its 95 % interval.

    Returns:
        One row per layer, one for the gap, one for the whole, one for the sum. `resolved` is None:
        the rule does not ask. `n` is how many inferences had a reading within the layer.
    """
    where, inference = place_readings(series.t_ns, timeline)
    times = np.column_stack([timeline.layer_ns, timeline.gap_ns])
    layers = timeline.layers
    rows = []
    for part in range(layers + 1):
        chosen = where == part
        gap = part == layers
        rows.append(
            _row(
                rail,
                None if gap else part,
                series.power_mw[chosen],
                inference[chosen],
                times[:, part],
                baseline_mw,
                baseline_half_width_mw,
            )
        )
    rows.append(_whole(rail, series, timeline, baseline_mw, baseline_half_width_mw))
    gross = [row.gross_mj for row in rows[:-1] if row.gross_mj is not None]
    dynamic = [row.dynamic_mj for row in rows[:-1] if row.dynamic_mj is not None]
    rows.append(
        EnergyRow(
            METHOD, rail, "closure", None, sum(gross), None, sum(dynamic) if dynamic else None,
            None, None, len(timeline.start_ns), None, time_ms=rows[-1].time_ms, why=WHY,
        )
    )  # fmt: skip
    return rows


def _whole(
    rail: str,
    series: RailPower,
    timeline: Timeline,
    baseline_mw: float | None,
    baseline_half_width_mw: float | None,
) -> EnergyRow:
    """Return the row of the inference as it was measured."""
    duration_ns = timeline.end_ns - timeline.start_ns
    energies = energies_mj(series, timeline.start_ns, timeline.end_ns)
    known = np.isfinite(energies)
    time_ms = float(np.mean(duration_ns)) * 1e-6 if len(duration_ns) else None
    if not np.any(known):
        return EnergyRow(METHOD, rail, "inference", None, None, None, None, None, None, 0, None,
                         time_ms=time_ms)  # fmt: skip
    whole = per_inference(energies[known], duration_ns[known], baseline_mw, baseline_half_width_mw)
    return EnergyRow(
        METHOD, rail, "inference", None, whole.gross_mj, whole.gross_half_width_mj,
        whole.dynamic_mj, whole.dynamic_half_width_mj, None, whole.n, None, time_ms=time_ms,
    )  # fmt: skip


def place_readings(
    at_ns: npt.NDArray[np.int64], timeline: Timeline
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Say in which layer of which inference each reading lies.

    Args:
        at_ns: (m,) times, increasing.
        timeline: The inferences.

    Returns:
        int64 (m,) layer, the number of layers for the gap, -1 for none; int64 (m,) inference, -1
        for none.
    """
    n, layers = timeline.layer_ns.shape
    where, of = np.full(len(at_ns), -1), np.full(len(at_ns), -1)
    if n == 0:
        return where, of
    inference = np.searchsorted(timeline.start_ns, at_ns, side="right") - 1
    at = np.maximum(inference, 0)
    inside = (inference >= 0) & (at_ns <= timeline.end_ns[at])
    of[inside] = inference[inside]
    where[inside] = layers
    if layers:
        begins = begins_ns(timeline)
        readings = np.flatnonzero(inside)
        # Ends of one inference after the other make one increasing array: the first end that is not
        # before a reading is that of the layer it may lie in.
        ends = np.maximum.accumulate(begins + timeline.layer_ns, axis=1)
        longest = float(max(ends.max(), (timeline.end_ns - timeline.start_ns).max())) + 1.0
        lifted = (ends + longest * np.arange(n)[:, None]).ravel()
        since = (at_ns - timeline.start_ns[at])[readings].astype(np.float64)
        row = of[readings]
        layer = np.searchsorted(lifted, since + longest * row, side="left") - row * layers
        found = (layer >= 0) & (layer < layers)
        found[found] &= since[found] >= begins[row[found], layer[found]]
        where[readings[found]] = layer[found]
    return where, of


def begins_ns(timeline: Timeline) -> npt.NDArray[np.float64]:
    """Return when each layer begins from its inference's start, float64 (n, layers)."""
    if timeline.offset_ns is not None:
        return timeline.offset_ns.astype(np.float64)
    begins = np.zeros(timeline.layer_ns.shape)
    begins[:, 1:] = np.cumsum(timeline.layer_ns, axis=1)[:, :-1]
    if timeline.held_ns is not None:
        begins += timeline.held_ns[:, None]
    return begins


def _row(
    rail: str,
    layer: int | None,
    power_mw: npt.NDArray[np.float64],
    inference: npt.NDArray[np.int64],
    time_ns: npt.NDArray[np.float64],
    baseline_mw: float | None,
    baseline_half_width_mw: float | None,
) -> EnergyRow:
    kind = "gap" if layer is None else "layer"
    seconds = float(np.mean(time_ns)) * 1e-9 if len(time_ns) else 0.0
    if not len(power_mw):
        return EnergyRow(
            METHOD, rail, kind, layer, None, None, None, None, None, 0, None,
            time_ms=seconds * 1e3, why=WHY_NOTHING,
        )  # fmt: skip
    power = mean_of(power_mw)
    of_time = half_width_of(block_means(time_ns, 20) * 1e-9)
    half = _product_half(power.half_width, seconds, of_time, power.value)
    dynamic = dynamic_half = None
    if baseline_mw is not None:
        above = power.value - baseline_mw
        dynamic = above * seconds
        dynamic_half = _product_half(
            combine(power.half_width, baseline_half_width_mw), seconds, of_time, above
        )
    return EnergyRow(
        METHOD, rail, kind, layer, power.value * seconds, half, dynamic, dynamic_half, None,
        len(np.unique(inference)), None, time_ms=seconds * 1e3, why=WHY,
    )  # fmt: skip


def _product_half(
    power_half: float | None, seconds: float, seconds_half: float | None, power: float
) -> float | None:
    """Return the half-width of a power times a time."""
    return combine(
        None if power_half is None else power_half * seconds,
        None if seconds_half is None else seconds_half * abs(power),
    )
