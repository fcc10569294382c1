"""The duplication check: does a layer executed several times cost what was attributed to it? Numpy.

    J per inference
      |                        x     the network with one layer executed 1, 2, 4, 8 times in place
      |            x                 slope = energy of one more execution
      |     x
      |  x                           attributed energy of the layer / slope: 1 if all is well
      +--1--2-----4------------8---- copies

It is the one check that a method of attribution cannot pass by construction: the network runs as a
whole, and nothing of it is measured alone. Energy per inference above idle is measured as in the
replay pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.energy.replay_estimate import Estimate, Estimates, estimate_all
from edgejoule.energy.replay_segments import DUPLICATE, Segments
from edgejoule.energy.rows import EnergyRow

if TYPE_CHECKING:
    from edgejoule.energy.trace import RailPower

OUTLIER = 0.10
"""A slope farther than this share from the attributed energy is listed as an outlier."""

_SD_OF_HALF = 1.959964


def check_duplication(
    rail: str,
    series: RailPower,
    segments: Segments,
    rows: Sequence[EnergyRow],
    *,
    reach_ns: int,
    baseline_mw: float | None = None,
) -> list[dict[str, Any]]:
    """Compare what one more execution of a layer costs with what was attributed to it.

    Args:
        rail: Name of the rail.
        series: Its power.
        segments: Segments of the replay pass, those of `duplicate` and `idle` among them.
        rows: Rows of any method on this rail.
        reach_ns: How far a reading reaches back in time.
        baseline_mw: Idle power where the pass has none of its own.

    Returns:
        Per layer: `layer`, `copies`, `dynamic_mj` (J above idle per inference at each number of
        copies), `slope_mj`, `slope_half_mj`, `attributed_mj`, `attributed_half_mj`, `ratio` (slope
        over attributed), `ratio_interval`, `bias_percent`, `outlier`, `method`, `why`. Empty
        without a segment of such a network.
    """
    layers = sorted(set(segments.layer[segments.kind == DUPLICATE].tolist()))
    if not layers:
        return []
    found = estimate_all(series, segments, reach_ns, baseline_mw)
    attributed = {
        row.layer: row
        for row in rows
        if row.kind == "layer" and row.layer is not None and row.rail == rail
    }
    return [_of_layer(layer, found, attributed.get(layer)) for layer in layers]


def _of_layer(layer: int, found: Estimates | None, row: EnergyRow | None) -> dict[str, Any]:
    entry: dict[str, Any] = dict.fromkeys(
        (
            "slope_mj", "slope_half_mj", "attributed_mj", "attributed_half_mj", "ratio",
            "ratio_interval", "bias_percent", "outlier", "why",
        )
    )  # fmt: skip
    entry |= {"layer": layer, "copies": [], "dynamic_mj": [], "method": row.method if row else None}
    points = {}
    if found is not None:
        points = {
            copies: part
            for (kind, own, copies), part in sorted(found.of.items())
            if kind == DUPLICATE and own == layer
        }
    entry["copies"] = list(points)
    entry["dynamic_mj"] = [part.energy_mj for part in points.values()]
    if found is None or len(points) < 2:
        return {**entry, "why": "fewer than two numbers of copies were measured"}
    slope, half = slope_of(found, points)
    entry |= {"slope_mj": slope, "slope_half_mj": half if math.isfinite(half) else None}
    if row is None or row.dynamic_mj is None:
        why = (row.why if row else None) or "no energy is attributed to it"
        return {**entry, "why": why}
    own_mj, own_half = row.dynamic_mj, row.dynamic_statistical_mj
    entry |= {"attributed_mj": own_mj, "attributed_half_mj": own_half}
    if own_mj <= 0:
        return {**entry, "why": "the attributed energy is not above zero"}
    ratio = slope / own_mj
    entry |= {
        "ratio": ratio,
        "bias_percent": 100.0 * (own_mj / slope - 1.0) if slope > 0 else None,
        "outlier": abs(ratio - 1.0) > OUTLIER,
    }
    if math.isfinite(half) and own_half is not None:
        width = math.hypot(half, ratio * own_half) / own_mj
        entry["ratio_interval"] = [ratio - width, ratio + width]
    return entry


def slope_of(found: Estimates, points: dict[int, Estimate]) -> tuple[float, float]:
    """Return energy per additional execution and the half-width of its 95 % interval.

    Weighted least squares; where the points scatter about the line more than their intervals
    allow, the interval is widened accordingly.
    """
    copies = np.array(list(points), np.float64)
    parts = list(points.values())
    energy = np.array([part.energy_mj for part in parts])
    sd = np.array([part.own_half_mj for part in parts]) / _SD_OF_HALF
    if not np.all(np.isfinite(sd)) or not np.all(sd > 0):
        sd = np.ones(len(parts))
        known = False
    else:
        known = True
    weights = 1.0 / sd**2
    centred = copies - (weights @ copies) / weights.sum()
    pull = weights * centred / (weights @ centred**2)
    slope = float(pull @ energy)
    left = energy - (weights @ energy) / weights.sum() - slope * centred
    degrees = len(parts) - 2
    misfit = float(weights @ left**2) / degrees if degrees else 0.0
    own = float(np.linalg.norm(pull * sd)) * _SD_OF_HALF * math.sqrt(max(1.0, misfit))
    if not known:
        own = math.nan
    idle = found.idle_half(found.idle_vector(zip(pull.tolist(), parts, strict=True)))
    return slope, math.hypot(own, idle)
