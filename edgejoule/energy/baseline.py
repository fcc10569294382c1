"""Idle power: mean, dispersion, how well the mean is known, and whether it drifts. Numpy only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgejoule.energy.integrate import energies_mj, energy_mj
from edgejoule.energy.statistics import BLOCKS, half_width_of

if TYPE_CHECKING:
    from edgejoule.energy.trace import RailPower

METHOD = "batch means of equal stretches of time, Student's t"
_POINTS_PER_BLOCK = 5


@dataclass(frozen=True)
class Baseline:
    """Idle power of one rail over one window; None where it is not known.

    Attributes:
        mean_mw: Mean over time.
        sd_mw: Standard deviation of the single points.
        half_width_mw: Half-width of the mean's 95 % interval. Neighbours in time are alike, so the
            window is cut into up to 20 equal stretches and the interval comes from the scatter of
            their means; more samples per second do not shrink it.
        interval_mw: The interval, lower and upper end.
        n: Points in the window.
        blocks: Stretches behind the interval.
        duration_s: Length of the window.
        drift_mw: Mean of its second half minus mean of its first.
        coverage: Share of the window that the trace covers.
        method: How the interval was made.
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

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as they stand in `idle.json`."""
        return asdict(self)


def baseline(series: RailPower, start_ns: int, end_ns: int) -> Baseline:
    """Summarise a rail's power over an idle window.

    Raises:
        MeasurementError: The window does not end after it starts.
    """
    whole = energy_mj(series, start_ns, end_ns)
    seconds = (end_ns - start_ns) * 1e-9
    if math.isnan(whole.energy_mj):
        return Baseline(None, None, None, None, whole.n, 0, seconds, None, whole.coverage)
    inside = series.power_mw[(series.t_ns >= start_ns) & (series.t_ns <= end_ns)]
    first_ns, last_ns = max(start_ns, int(series.t_ns[0])), min(end_ns, int(series.t_ns[-1]))
    blocks = max(1, min(BLOCKS, whole.n // _POINTS_PER_BLOCK))
    half_width = half_width_of(_means_mw(series, first_ns, last_ns, blocks))
    interval = None
    if half_width is not None:
        interval = (whole.mean_mw - half_width, whole.mean_mw + half_width)
    drift = None
    if last_ns - first_ns >= 2:
        drift = float(np.diff(_means_mw(series, first_ns, last_ns, 2))[0])
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
    )


def baseline_entry(
    kind: Literal["cold", "sampler", "loaded"],
    when: Literal["before", "after"],
    rails: Mapping[str, RailPower],
    start_ns: int,
    end_ns: int,
) -> dict[str, Any]:
    """Return one entry of `idle.json`: the baseline of every rail over one idle window."""
    return {
        "kind": kind,
        "when": when,
        "start_ns": start_ns,
        "end_ns": end_ns,
        "rails": {
            name: baseline(series, start_ns, end_ns).to_json() for name, series in rails.items()
        },
    }


def _means_mw(series: RailPower, start_ns: int, end_ns: int, count: int) -> np.ndarray:
    """Return the mean power of `count` equal stretches of a covered window."""
    edges = start_ns + np.arange(count + 1) * (end_ns - start_ns) // count
    means: np.ndarray = energies_mj(series, edges[:-1], edges[1:]) / (np.diff(edges) * 1e-9)
    return means
