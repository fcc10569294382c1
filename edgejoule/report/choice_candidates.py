"""Candidates out of a dataset's runs: what the choice needs beyond a run's overview.

The interval of an average power is that of a pass cut into 20 blocks of equal length, whose powers
are nearly independent (`energy/statistics.py`). It holds within the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgejoule.report.choice_case import Candidate, Tolerance
from edgejoule.report.overview import Overview
from edgejoule.report.series_load import guarded, phases_of
from edgejoule.report.tables import TOTAL, RunTables, number, part

if TYPE_CHECKING:
    from edgejoule.energy.trace import RailPower

_BLOCKS = 20
_PERCENTILES = (("p50", "median_ms"), ("p90", "p90_ms"), ("p99", "p99_ms"))
_PASSES = ("clean", "rate")


def candidate_of(run: RunTables, overview: Overview, *, intervals: bool = True) -> Candidate:
    """Return a run as a candidate.

    Args:
        run: The run.
        overview: Its row.
        intervals: Whether to read the trace for the intervals of average power.
    """
    rate = part(run.summary, "rate")
    frames, dropped = number(rate, "frames"), number(rate, "dropped")
    taken = number(rate, "inferences")
    halves: Mapping[str, float | None] = {}
    if intervals and overview.rail is not None and (run.path / "power.parquet").exists():
        found = guarded(lambda: _half_widths(run, str(overview.rail)), "power.parquet", [])
        halves = found or {}
    excludes = part(run.run, "sensor", "total").get("excludes")
    return Candidate(
        overview,
        None if frames is None else int(frames),
        int(dropped or 0),
        halves.get("clean"),
        halves.get("rate"),
        _tolerance(part(run.summary, "energy", "accuracy", overview.rail or "")),
        excludes if isinstance(excludes, str) and overview.rail == TOTAL else None,
        {name: value for name, key in _PERCENTILES if (value := number(rate, key)) is not None},
        None if taken is None else int(taken),
    )


def _tolerance(accuracy: Mapping[str, Any]) -> Tolerance | None:
    gain, offset, step = (number(accuracy, key) for key in ("gain_rel", "offset_mw", "step_mw"))
    if gain is None or offset is None or step is None:
        return None
    return Tolerance(gain, (offset + step) * 1e-3)


def _half_widths(run: RunTables, rail: str) -> dict[str, float | None]:
    """Return the half-width of each pass's average power on a rail, W."""
    from edgejoule.dataset.schema import read_metadata
    from edgejoule.energy.trace import rail_powers, total_power
    from edgejoule.power.totals import total_rails_of

    path = run.path / "power.parquet"
    rails = {name: one for name, one in rail_powers(path).items() if len(one.t_ns)}
    series = rails.get(rail)
    if rail == TOTAL:
        parts = total_rails_of(read_metadata(path), tuple(rails))
        series = total_power([rails[name] for name in parts], TOTAL) if parts else None
    if series is None:
        return {}
    spans = {name: (start, end) for name, start, end in phases_of(run.run) if end is not None}
    return {name: _half_w(series, *spans[name]) for name in _PASSES if name in spans}


def _half_w(series: RailPower, start_ns: int, end_ns: int) -> float | None:
    import numpy as np

    from edgejoule.energy.integrate import energies_mj
    from edgejoule.energy.statistics import half_width_of

    edges = start_ns + (end_ns - start_ns) * np.arange(_BLOCKS + 1) // _BLOCKS
    lengths_ns = np.diff(edges)
    if not (lengths_ns > 0).all():
        return None
    powers_w = energies_mj(series, edges[:-1], edges[1:]) / lengths_ns * 1e6
    known = powers_w[np.isfinite(powers_w)]
    # Blocks that the trace does not cover tell nothing; with half of them gone the rest is no pass.
    return half_width_of(known) if len(known) > _BLOCKS // 2 else None
