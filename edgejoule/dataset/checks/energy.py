"""Whether the energies of a run make sense: each row once, finite, in a group or not, adding up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgejoule.dataset.checks.common import GROUPS_SINCE, close
from edgejoule.dataset.findings import Finding
from edgejoule.dataset.schema import ENERGY_KINDS
from edgejoule.energy.rows import METHODS

_MJ = ("gross_mj", "dynamic_mj")
_WIDTHS = ("gross_statistical_mj", "dynamic_statistical_mj", "systematic_mj")
_FURTHER = ("dynamic_other_mj", "scaled_gross_mj", "scaled_dynamic_mj")
_TIMES = ("time_ms", "alone_ms")
_PROPORTIONAL, _REPLAY = "proportional", "replay"
_ONCE = ("gap", "inference", "closure")

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
    problems: list[str] = []
    parts: dict[tuple[str, str], list[Row]] = {}
    for number, row in enumerate(table):
        parts.setdefault((row["method"], row["rail"]), []).append(row)
        for problem in _row_problems(row):
            return [Finding(name, f"{problem} (row {number})")]
    problems += _missing(parts, run)
    for (method, rail), rows in parts.items():
        where = f"{method} on {rail}"
        by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ENERGY_KINDS}
        counts = [len(by_kind[kind]) for kind in _ONCE]
        indices = sorted(row["layer"] for row in by_kind["layer"])
        if counts != [1, 1, 1] or (layers and indices != list(range(layers))):
            problems.append(f"{where}: a row is missing or there twice")
            continue
        wrong = list(_group_problems(by_kind))
        problems += [f"{where}: {problem}" for problem in wrong or _sum_problems(method, by_kind)]
        if run["status"] == "complete" and (counted := _count_problem(method, rows, run)):
            problems.append(f"{where}: {counted}")
    return [Finding(name, problem) for problem in problems]


def _row_problems(row: Row) -> Iterator[str]:
    kind = row["kind"]
    if kind not in ENERGY_KINDS:
        yield f"has an unknown kind {kind!r}"
    if row["method"] not in METHODS:
        yield f"has an unknown method {row['method']!r}"
    if (kind == "layer") != (row["layer"] is not None):
        yield f"a row of kind {kind} has layer {row['layer']}"
    # What is left of an inference may be just below nothing: layers' times are rounded.
    positive = _WIDTHS if kind == "gap" else (*_WIDTHS, *_TIMES)
    for key in (*_MJ, *_WIDTHS, *_FURTHER, *_TIMES):
        value = row.get(key)
        if value is not None and not math.isfinite(value):
            yield f"{key} is {value}"
        if value is not None and key in positive and value < 0:
            yield f"{key} is negative"
    if row["n"] < 0:
        yield "n is negative"
    yield from _nothing_problems(row)


def _nothing_problems(row: Row) -> Iterator[str]:
    """Say what is wrong with a row's `group`, or with one that has no energy."""
    kind, group = row["kind"], row.get("group")
    if kind == "group" and group is None:
        yield "a row of kind group names none"
    if kind in _ONCE and group is not None:
        yield f"a row of kind {kind} is in group {group}"
    if row["gross_mj"] is not None:
        if kind == "layer" and row["resolved"] is False:
            yield "has a number, and is not resolved"
        return
    if row["resolved"]:
        yield "is resolved, and has no number"
    known = [key for key in (*_MJ, *_WIDTHS, *_FURTHER) if row.get(key) is not None]
    if known:
        yield f"has no gross_mj, but {known[0]}"
    if kind in ("layer", "group") and not row.get("why"):
        yield "has no energy and does not say why"


def _missing(parts: dict[tuple[str, str], list[Row]], run: dict[str, Any]) -> Iterator[str]:
    """Say which rows of whole methods or rails are not there."""
    methods: dict[str, set[str]] = {}
    for method, rail in parts:
        methods.setdefault(method, set()).add(rail)
    rails = set().union(*methods.values()) if methods else set()
    # The split by time needs nothing but a trace; other methods may not know a rail.
    for rail in sorted(rails - methods.get(_PROPORTIONAL, rails)):
        yield f"{_PROPORTIONAL} has no rows of rail {rail}, other methods have"
    said = run["summary"].get("energy") or {}
    if run["schema_version"] < GROUPS_SINCE or run["status"] != "complete":
        return
    told = said.get("methods")
    if told is not None and sorted(told) != sorted(methods):
        yield f"has rows by {', '.join(sorted(methods))}, the summary says {', '.join(told)}"
    for method, of_rails in (said.get("attribution") or {}).items():
        for rail in sorted(set(of_rails) ^ methods.get(method, set())):
            yield f"{method} on {rail} is in the table or in the summary, and not in both"


def _group_problems(by_kind: dict[str, list[Row]]) -> Iterator[str]:
    """Check that each layer without a number is in one group, and no other is counted twice."""
    groups = [row["group"] for row in by_kind["group"]]
    members: dict[int, list[Row]] = {}
    for row in by_kind["layer"]:
        if row.get("group") is not None:
            members.setdefault(row["group"], []).append(row)
    for group, rows in members.items():
        if min(row["layer"] for row in rows) != group:
            yield f"group {group} is not the smallest of its layers"
    for group in groups:
        if groups.count(group) > 1:
            yield f"group {group} is there twice"
        if group not in members:
            yield f"group {group} has no layer"
        elif any(row["gross_mj"] is not None for row in members[group]):
            yield f"group {group} counts layers that have a number of their own"
    lost = [
        row["layer"]
        for row in by_kind["layer"]
        if row["resolved"] is False and row.get("group") not in groups
    ]
    if lost:
        more = f" ({len(lost)} such)" if len(lost) > 1 else ""
        yield f"layer {lost[0]} is not resolved and in no group{more}"


def _sum_problems(method: str, by_kind: dict[str, list[Row]]) -> Iterator[str]:
    parts = by_kind["layer"] + by_kind["group"] + by_kind["gap"]
    inference, closure = by_kind["inference"][0], by_kind["closure"][0]
    known = [row for row in (*parts, closure) if row["gross_mj"] is not None]
    sizes = [abs(row["gross_mj"]) for row in (*known, inference) if row["gross_mj"] is not None]
    whole = max(sizes, default=0.0)
    for key in _MJ:
        if closure[key] is None:
            if any(row[key] is not None for row in known):
                yield f"{key} is null in some rows only"
            continue
        values = [row[key] for row in known]
        if None in values:
            yield f"{key} is null in some rows only"
            continue
        added, said = math.fsum(values[:-1]), values[-1]
        what = "layers and gap" if not by_kind["group"] else "layers, groups and gap"
        if not close(added, said, scale=whole):
            of = "" if key == "gross_mj" else f"{key} of "
            yield f"{of}{what} add up to {added:.6g} mJ, closure {said:.6g} mJ"
        # A split by time closes by construction; what others miss stands in the summary.
        elif (
            method == _PROPORTIONAL
            and inference[key] is not None
            and not close(said, inference[key], scale=whole)
        ):
            share = f"{100 * said / inference[key]:.2f} %" if inference[key] else "no part"
            of = "" if key == "gross_mj" else f" ({key})"
            yield f"layers and gap make up {share} of the inference{of}"
    above = inference["dynamic_mj"] is None or inference["dynamic_mj"] >= 0
    if method == _PROPORTIONAL and above and inference["gross_mj"] is not None:
        limit = max(0.0, inference["gross_mj"])
        for row in by_kind["layer"]:
            value = row["gross_mj"]
            if value is None or not close(min(max(value, 0.0), limit), value, scale=limit):
                taken = "nothing" if value is None else f"{value:.6g} mJ"
                yield f"layer {row['layer']} takes {taken} of {limit:.6g} mJ"


def _count_problem(method: str, rows: list[Row], run: dict[str, Any]) -> str | None:
    """Return what is wrong with `n`: inferences, all of them where time is all that is split."""
    if method == _REPLAY:
        return None  # executions alone; computed again from the segments
    asked = run["config"]["runs"]
    wrong = [row["n"] for row in rows if row["n"] > asked]
    if method == _PROPORTIONAL:
        wrong = [row["n"] for row in rows if row["n"] != asked]
    return f"n is {wrong[0]}, not config.runs" if wrong else None
