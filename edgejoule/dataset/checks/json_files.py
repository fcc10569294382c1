"""Whether the JSON files beside the tables make sense, with each other and with the tables."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from edgejoule.dataset.findings import Finding

_MEASURE = "measure.json"


def not_finite(path: Path) -> str | None:
    """Return what no JSON file of a run may hold: a number that is none, or no JSON at all."""
    try:
        document = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return f"is damaged ({str(error)[:120]})"
    pending: list[Any] = [document]
    while pending:
        one = pending.pop()
        if isinstance(one, float) and not math.isfinite(one):
            return "holds a number that is not finite"
        if isinstance(one, dict):
            pending.extend(one.values())
        elif isinstance(one, list):
            pending.extend(one)
    return None


def check_measured(path: Path, run: dict[str, Any], sound: set[str]) -> list[Finding]:
    """Hold what the measuring process counted (`measure.json`) against the tables' rows."""
    from edgejoule.files import read_json

    if _MEASURE not in sound or run["status"] != "complete":
        return []
    said = read_json(path / _MEASURE)
    profiled = said.get("profiled") or {}
    counts = run["summary"].get("inferences", {})
    wanted = [
        ("layers.parquet", "rows", profiled.get("rows"), _rows(run, "layers.parquet")),
        ("run.json", "profiled inferences", profiled.get("inferences"), counts.get("profiled")),
    ]
    for name in ("warmup", "clean", "rate"):
        told = (said.get(name) or {}).get("inferences")
        wanted.append(("run.json", f"{name} inferences", told, counts.get(name)))
    return [
        Finding(file, f"has {have} {what}, measure.json says {told}")
        for file, what, told, have in wanted
        if told is not None and have is not None and told != have
    ]


def _rows(run: dict[str, Any], name: str) -> int | None:
    facts = run["files"].get(name)
    return None if facts is None else facts["rows"]
