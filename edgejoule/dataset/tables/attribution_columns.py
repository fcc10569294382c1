"""What a run's summary says of its attribution, as columns of the table of runs.

Every key may be absent: older formats have none of them. Standard library only.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from edgejoule.dataset.tables.run_columns import CLOSURES
from edgejoule.dataset.tables.source import finite, part
from edgejoule.energy.rows import METHODS

# It gives every layer the network's mean: taken only if it is asked for.
NEVER_BEST = "interval"


def attribution_columns(summary: Any, rail: str | None) -> dict[str, Any]:
    """Return closure, how much is resolved, duplication, observer effect, and the roofline.

    Args:
        summary: `summary` of `run.json`.
        rail: The rail that stands for the run, None for none.
    """
    methods = part(summary, "energy", "attribution") or {}
    on_rail = {method: part(rails, rail) for method, rails in methods.items()} if rail else {}
    best = best_method([method for method, found in on_rail.items() if found])
    found = on_rail.get(best) if best else None
    layers = part(found, "resolved_layers")
    return {
        "layer_energy_method": best,
        "resolved_layers": layers if isinstance(layers, int) else None,
        "resolved_share": finite(part(found, "resolved_share")),
        **{
            f"closure_{method}_{kind}": finite(part(on_rail, method, "closure", kind))
            for method in CLOSURES
            for kind in ("gross", "dynamic")
        },
        "closure_window_held_out": held_out(part(on_rail, "window", "closure", "held_out")),
        "closure_replay_other_rule": finite(part(on_rail, "replay", "closure", "other_rule")),
        "closure_replay_time_share": finite(part(on_rail, "replay", "closure", "time_share")),
        **_duplication(part(summary, "energy", "duplication")),
        **_observer(part(summary, "energy", "observer")),
        "roofline_gflops_per_s": finite(part(summary, "roofline", "peak_gflops")),
        "roofline_gbytes_per_s": finite(part(summary, "roofline", "peak_gbs")),
    }


def best_method(offered: Sequence[str]) -> str | None:
    """Return the best of some methods, never the one that tells no layers apart."""
    return next((name for name in METHODS if name in offered and name != NEVER_BEST), None)


def held_out(said: Any) -> float | None:
    """Return the gross closure on blocks of time that were not fitted."""
    return finite(part(said, "gross") if isinstance(said, Mapping) else said)


def duplicated(said: Any) -> list[Mapping[str, Any]]:
    """Return the layers of a duplication check, none where there was no check."""
    found = said.get("layers") if isinstance(said, Mapping) else said
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _duplication(said: Any) -> dict[str, Any]:
    checked = duplicated(said)
    ratios = [value for one in checked if (value := finite(one.get("ratio"))) is not None]
    return {
        "duplication_layers": len(checked) or None,
        "duplication_ratio_median": statistics.median(ratios) if ratios else None,
        "duplication_ratio_min": min(ratios, default=None),
        "duplication_ratio_max": max(ratios, default=None),
    }


def _observer(said: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for who in ("sampler", "profiler"):
        resolved = part(said, who, "resolved")
        found[f"observer_{who}_percent"] = finite(part(said, who, "latency_percent"))
        found[f"observer_{who}_resolved"] = resolved if isinstance(resolved, bool) else None
    return found
