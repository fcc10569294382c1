"""Whether the energies of a run make sense: each row once, finite, and adding up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from edgejoule.dataset.checks.common import close
from edgejoule.dataset.findings import NOTE, Finding
from edgejoule.dataset.schema import ENERGY_KINDS

_MJ = ("gross_mj", "dynamic_mj")
_WIDTHS = ("gross_statistical_mj", "dynamic_statistical_mj", "systematic_mj")
_PROPORTIONAL = "proportional"

Row = dict[str, Any]


def read_energy(path: Path) -> list[Row]:
    """Return the rows of `energy.parquet`; some hundreds per method."""
    import pyarrow.parquet as pq

    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def check_energy(name: str, table: list[Row], run: dict[str, Any], layers: int) -> list[Finding]:
    """Check the rows of `energy.parquet` among themselves.

    Args:
        name: The file's name.
        table: Its rows.
        run: `run.json`.
        layers: How many layers the engine has; 0: not known.
    """
    findings = []
    groups: dict[tuple[str, str], list[Row]] = {}
    for number, row in enumerate(table):
        groups.setdefault((row["method"], row["rail"]), []).append(row)
        if problem := _row_problem(row):
            return [Finding(name, f"{problem} (row {number})")]
    methods: dict[str, set[str]] = {}
    for method, rail in groups:
        methods.setdefault(method, set()).add(rail)
    rails = set().union(*methods.values()) if methods else set()
    for method, found in methods.items():
        findings += [
            Finding(name, f"{method} has no rows of rail {rail}, other methods have")
            for rail in sorted(rails - found)
        ]
    for (method, rail), rows in groups.items():
        where = f"{method} on {rail}"
        by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ENERGY_KINDS}
        counts = [len(by_kind[kind]) for kind in ("gap", "inference", "closure")]
        indices = sorted(row["layer"] for row in by_kind["layer"])
        if counts != [1, 1, 1] or (layers and indices != list(range(layers))):
            findings.append(Finding(name, f"{where}: a row is missing or there twice"))
            continue
        findings += _sum_findings(name, method, where, by_kind)
        wrong = {row["n"] for row in rows} - {run["config"]["runs"]}
        if wrong and run["status"] == "complete":
            findings.append(Finding(name, f"{where}: n is {wrong.pop()}, not config.runs"))
    return findings


def _row_problem(row: Row) -> str | None:
    if row["kind"] not in ENERGY_KINDS:
        return f"has an unknown kind {row['kind']!r}"
    if (row["kind"] == "layer") != (row["layer"] is not None):
        return f"a row of kind {row['kind']} has layer {row['layer']}"
    for key in (*_MJ, *_WIDTHS):
        if row[key] is not None and not math.isfinite(row[key]):
            return f"{key} is {row[key]}"
        if key in _WIDTHS and row[key] is not None and row[key] < 0:
            return f"{key} is negative"
    return None


def _sum_findings(
    name: str, method: str, where: str, by_kind: dict[str, list[Row]]
) -> list[Finding]:
    parts = by_kind["layer"] + by_kind["gap"]
    inference, closure = by_kind["inference"][0], by_kind["closure"][0]
    whole = inference["gross_mj"]
    findings = []
    for key in _MJ:
        values = [row[key] for row in (*parts, closure)]
        if None in values:
            if any(value is not None for value in values):
                findings.append(Finding(name, f"{where}: {key} is null in some rows only"))
            continue
        added, said = sum(values[:-1]), values[-1]
        if not close(added, said, scale=whole):
            what = "layers and gap" if key == "gross_mj" else f"{key} of layers and gap"
            problem = f"{where}: {what} add up to {added:.6g} mJ, closure {said:.6g} mJ"
            findings.append(Finding(name, problem))
        elif inference[key] is not None and not close(said, inference[key], scale=whole):
            share = f"{100 * said / inference[key]:.2f} %" if inference[key] else "no part"
            what = "" if key == "gross_mj" else f" ({key})"
            problem = f"{where}: layers and gap make up {share} of the inference{what}"
            # A split by time closes by construction; other methods may not, and say so.
            kind = {} if method == _PROPORTIONAL else {"severity": NOTE}
            findings.append(Finding(name, problem, **kind))
    above = inference["dynamic_mj"] is None or inference["dynamic_mj"] >= 0
    if method == _PROPORTIONAL and above:
        for row in by_kind["layer"]:
            value = min(max(row["gross_mj"], 0.0), max(0.0, whole))
            if not close(value, row["gross_mj"], scale=whole):
                problem = f"layer {row['layer']} takes {row['gross_mj']:.6g} mJ of {whole:.6g} mJ"
                findings.append(Finding(name, f"{where}: {problem}"))
    return findings
