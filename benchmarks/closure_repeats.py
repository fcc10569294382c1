"""Whether fresh processes of one network take the same energy, and if not, what differed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

DEVIATION = 0.01
FEWEST_PROCESSES = 5

Row = dict[str, Any]


def repeatability(rows: Sequence[Row]) -> Row:
    """Judge fresh processes of one network: relative standard deviation of J per inference.

    Where it is above the target, `reasons` says what went with it.
    """
    known = [row for row in rows if row["clean_gross_j"] is not None]
    values = [row["clean_gross_j"] for row in known]
    if len(values) < FEWEST_PROCESSES:
        return {"verdict": "not known", "processes": len(values), "deviation": None,
                "reasons": [f"fewer than {FEWEST_PROCESSES} processes"], "target": DEVIATION,
                "builds": len({row["rebuild"] for row in known}), "j": values}  # fmt: skip
    deviation = statistics.stdev(values) / statistics.fmean(values)
    stable = deviation <= DEVIATION
    return {
        "verdict": "repeatable" if stable else "unstable",
        "processes": len(values),
        "builds": len({row["rebuild"] for row in known}),
        "deviation": deviation,
        "target": DEVIATION,
        "reasons": [] if stable else _reasons(known),
        "j": values,
        "latency_ms": [row["latency_ms"] for row in known],
        "mean_w": [row["clean_mean_w"] for row in known],
        "idle_w": [row["idle_w"] for row in known],
    }


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Return what differed between processes as their energy did, the strongest first."""
    found: list[tuple[float, str]] = []
    for key, what in (
        ("latency_ms", "latency"),
        ("clean_mean_w", "mean power"),
        ("idle_w", "idle power with the network loaded"),
    ):
        values = [row[key] for row in rows if row[key] is not None]
        if len(values) == len(rows) and statistics.fmean(values):
            spread = statistics.stdev(values) / statistics.fmean(values)
            found.append((spread, f"{what} differs by {spread:.2%} (relative deviation)"))
    builds: dict[int, list[float]] = {}
    for row in rows:
        builds.setdefault(row["rebuild"], []).append(row["clean_gross_j"])
    if len(builds) > 1:
        means = [statistics.fmean(values) for values in builds.values()]
        between = (max(means) - min(means)) / statistics.fmean(means)
        found.append((between, f"the builds' means differ by {between:.2%}"))
    if any(row["shared_gpu"] for row in rows):
        found.append((1.0, "somebody else used the GPU"))
    return [text for _, text in sorted(found, reverse=True)]
