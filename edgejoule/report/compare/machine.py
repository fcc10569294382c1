"""A comparison as one JSON object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from edgejoule.report.compare.pairing import Group
from edgejoule.report.compare.result import Comparison, Judged, PairResult
from edgejoule.report.compare.words import VERDICTS, all_figures, version_changes
from edgejoule.report.tables import LayerRow

SCHEMA = "edgejoule.comparison"
SCHEMA_VERSION = 1


def as_object(
    comparison: Comparison, failed: Sequence[str] = (), over: float | None = None
) -> dict[str, Any]:
    """Return the comparison as plain values; `docs/Comparing.md` describes the keys.

    Args:
        comparison: What was compared.
        failed: What is worse beyond the bound.
        over: The bound, relative.
    """
    layers = [layer for result in comparison.results for layer in result.layers]
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "a": _side(comparison, 0),
        "b": _side(comparison, 1),
        "least": comparison.least,
        "forced": list(comparison.forced),
        "pairs": [_pair(result) for result in comparison.results],
        "totals": {
            "figures": _counted(all_figures(comparison)),
            "layer_times": _counted([one.time for one in layers]),
            "layer_energies": _counted([one.energy for one in layers]),
        },
        "fail_over": over,
        "failed": list(failed),
    }


def _side(comparison: Comparison, side: int) -> dict[str, Any]:
    loaded = (comparison.first, comparison.second)[side]
    return {
        "path": str(loaded.path),
        "single": loaded.single,
        "broken": list(loaded.broken),
        "alone": [_group(group) for group in comparison.alone[side]],
    }


def _group(group: Group) -> dict[str, Any]:
    run = group.first.run
    return {
        "config": dict(group.config),
        "runs": [
            {
                "name": one.tables.name,
                "started_at": one.tables.run.get("started_at"),
                "marks": list(one.tables.marks),
            }
            for one in group.runs
        ],
        "board_id": run.get("board_id"),
        "power_mode": run.get("power_mode"),
        "machine": run.get("machine"),
        "versions": run.get("versions"),
    }


def _pair(result: PairResult) -> dict[str, Any]:
    pairs = result.layer_pairs
    return {
        "a": _group(result.pair.first),
        "b": _group(result.pair.second),
        "knobs": list(result.pair.knobs),
        "versions": version_changes(result),
        "unequal": list(result.pair.unequal),
        "scope": result.scope,
        "figures": [_judged(one) for one in result.figures],
        "layers_paired": None if pairs is None else pairs.how,
        "common_told_apart": result.apart,
        "process_scatter": result.process_scatter,
        "energy_method": result.method,
        "layers": [
            {
                "a": _layer(one.first),
                "b": _layer(one.second),
                "time": _judged(one.time),
                "energy": _judged(one.energy),
            }
            for one in result.layers
        ],
        "alone": {
            name: [] if pairs is None else [_layer(row) for row in pairs.alone[side]]
            for side, name in enumerate("ab")
        },
        "notes": list(result.notes),
    }


def _judged(one: Judged) -> dict[str, Any]:
    return {
        "quantity": one.quantity,
        "a": one.first,
        "b": one.second,
        "unit": one.unit or None,
        "change": one.total,
        "own_change": one.own,
        "low": one.low,
        "high": one.high,
        "p_adjusted": one.p_adjusted,
        "verdict": one.verdict,
        "why": one.why,
    }


def _layer(row: LayerRow) -> dict[str, Any]:
    return {
        "index": row.index,
        "name": row.name,
        "operation": row.operation or row.type,
        "module_path": row.module_path,
        "mean_ms": row.mean_ms,
    }


def _counted(judged: Sequence[Judged]) -> dict[str, int]:
    found = Counter(one.verdict for one in judged)
    return {word.replace(" ", "_"): found[word] for word in VERDICTS}
