"""`summary.csv` and `report.json`: the report for spreadsheets and programs.

`summary.csv` (RFC 4180, UTF-8): a row per run, a column per field of `Overview`; what a run does
not have is an empty field. `report.json`: `schemas/report.schema.json` says what stands in it.

Names in a dataset are foreign text. A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@`
as a formula, so that such a text gets an apostrophe before it; numbers are left as they are. JSON
needs nothing of the kind and has every text as it is.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule import __version__
from edgejoule.files import canonical_json
from edgejoule.report.attribution import Closure, method_figures
from edgejoule.report.energies import best_of
from edgejoule.report.overview import Overview
from edgejoule.report.tables import LayerRow, RunTables, number, part, texts
from edgejoule.report.target import write_whole
from edgejoule.report.text import printable
from edgejoule.report.verdict import baselines_of

if TYPE_CHECKING:
    from edgejoule.energy.rollup import Rollup
    from edgejoule.energy.rollup_amounts import Amount, Piece
    from edgejoule.report.write import Gathered

FORMAT = 1
# The wide forms of the four begin a formula in some spreadsheets, too.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_LISTED = " | "  # sentences have commas and semicolons of their own
_DEEPEST = 40  # nothing of ours is nested deeper than a fifth of that


def write_summary_csv(target: Path, overviews: Sequence[Overview]) -> None:
    """Write one row per run, whole or not at all.

    Args:
        target: The file.
        overviews: The rows.

    Raises:
        UsageError: It cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([field.name for field in dataclasses.fields(Overview)])
    for row in overviews:
        writer.writerow([_cell(getattr(row, field.name)) for field in dataclasses.fields(Overview)])
    write_whole(target, text.getvalue().encode("utf-8"))


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    text = printable(_LISTED.join(map(str, value)) if isinstance(value, tuple) else value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def write_report_json(target: Path, name: str, found: Gathered) -> None:
    """Write everything that the report says in numbers, whole or not at all.

    Args:
        target: The file.
        name: What the dataset is called.
        found: Its runs.

    Raises:
        UsageError: It cannot be written.
    """
    write_whole(target, canonical_json(report_document(name, found)))


def report_document(name: str, found: Gathered) -> dict[str, Any]:
    """Return `report.json` as plain values: no NaN, numbers as numbers, null for not known."""
    rows = zip(found.runs, found.overviews, strict=True)
    return {
        "format": FORMAT,
        "edgejoule": __version__,
        "dataset": name,
        "runs": [_plain(_run(run, overview)) for run, overview in rows],
        "damaged": [{"run": run, "why": why} for run, why in found.damaged],
        "unfinished": found.unfinished,
    }


def _plain(value: Any, depth: int = 0) -> Any:
    """Return JSON values: run.json is foreign, and Python reads NaN and endless numbers from it."""
    if depth > _DEEPEST:
        return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one, depth + 1) for one in value]
    return value


def _run(run: RunTables, overview: Overview) -> dict[str, Any]:
    best = best_of(run.rollups)
    pieces = {} if best is None else {index: one for one in best.pieces for index in one.layers}
    return {
        "name": run.name,
        "overview": dataclasses.asdict(overview),
        "marks": run.marks,
        "missing": [*run.missing, *run.series.missing],
        "notes": texts(run.summary.get("notes")),
        "layers": [_layer(layer, pieces.get(layer.index)) for layer in run.layers],
        "methods": [
            {
                "method": one.method,
                "rail": one.rail,
                "layers": one.layers,
                "resolved_layers": one.resolved_layers,
                "resolved_share": one.resolved_share,
                "missing_layers": one.missing,
                "time_share": one.time_share,
                "closure_gross": _closure(one.gross),
                "closure_dynamic": _closure(one.dynamic),
                "closure_held_out": _closure(one.held_out),
                "closure_other_rule": _closure(one.other_rule),
            }
            for one in method_figures(run)
        ],
        "parts": None if best is None else _parts(best),
        "baselines": [_baseline(item) for item in baselines_of(run)],
        "provenance": _provenance(run),
    }


def _layer(layer: LayerRow, piece: Piece | None) -> dict[str, Any]:
    energy, under = layer.energy, layer.roofline
    return {
        "index": layer.index,
        "name": layer.name,
        "type": layer.type,
        "operation": layer.operation,
        "module_path": layer.module_path,
        "executions": layer.executions,
        "mean_ms": layer.mean_ms,
        "half_ms": layer.half_ms,
        "median_ms": layer.median_ms,
        "time_share": layer.share,
        "energy": None
        if energy is None
        else {
            **dataclasses.asdict(energy),
            "group": None if piece is None or len(piece.layers) < 2 else piece.layers,
            "why": None if piece is None else piece.why,
        },
        "roofline": {
            "gflops_per_s": under.gflops_per_s,
            "gbytes_per_s": under.gbytes_per_s,
            "flop_per_byte": under.intensity,
            "gflop_per_joule": under.gflop_per_joule,
            "bound": under.bound,
            "share": under.share,
        },
    }


def _closure(found: Closure) -> dict[str, Any] | None:
    return None if found.value is None else dataclasses.asdict(found)


def _parts(rollup: Rollup) -> dict[str, Any]:
    return {
        "method": rollup.method,
        "rail": rollup.rail,
        "interval": rollup.interval,
        "inference": _amount(rollup.inference),
        "closure": _amount(rollup.closure),
        "modules": [
            {
                "kind": node.kind,
                "path": node.path,
                "depth": node.depth,
                "own": _amount(node.own),
                "total": _amount(node.total),
            }
            for node in rollup.modules
        ],
        "operations": [
            {"name": one.name, "amount": _amount(one.amount)} for one in rollup.operations
        ],
    }


def _amount(amount: Amount) -> dict[str, Any]:
    return dataclasses.asdict(amount)


def _baseline(item: Mapping[str, Any]) -> dict[str, Any]:
    rails = part(item, "rails")
    return {
        "kind": str(item.get("kind")),
        "when": str(item.get("when")),
        "rails": {
            rail: {
                key: number(part(rails, rail), key)
                for key in ("mean_mw", "half_width_mw", "sd_mw", "duration_s", "n")
            }
            for rail in rails
        },
        "verdicts": [
            f"{one.get('kind')}: {one.get('why')}"
            for one in item["verdicts"]
            if isinstance(one, Mapping)
        ],
    }


def _provenance(run: RunTables) -> dict[str, Any]:
    """Return where the figures come from, as `run.json` has it."""
    plain = run.run
    files = part(plain, "files")
    return {
        "schema_version": plain.get("schema_version"),
        "started_at": plain.get("started_at"),
        "machine": part(plain, "machine"),
        "board_id": plain.get("board_id"),
        "power_mode": plain.get("power_mode"),
        "sensor": {key: part(plain, "sensor").get(key) for key in ("name", "simulated", "total")},
        "weights": plain.get("weights"),
        "source": part(plain, "source"),
        "input": part(plain, "input"),
        "versions": part(plain, "versions"),
        "config": run.config,
        "config_sha256": plain.get("config_sha256"),
        "run_sha256": plain.get("run_sha256"),
        "files": {file: part(files, file).get("sha256") for file in files},
        "command": texts(plain.get("command")) or None,
    }
