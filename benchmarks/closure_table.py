"""What runs of `benchmarks/closure.py` come to: figures of a run, and the tables over all of them.

Everything is read from the run directories; nothing is corrected. Energies are J per inference of
the whole batch.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

METHOD = "replay"
CLOSURE_MEDIAN, CLOSURE_WORST = 0.05, 0.10
REPEATS_WITHIN = 0.03
COUNTER_WITHIN = 0.02
SLOPE_MEDIAN = 0.10
SLOPE_LAYERS, SLOPE_NETWORKS = 10, 4

Row = dict[str, Any]


def counter_j(run: Path, name: str) -> Row | None:
    """Return J per inference of a pass by the driver's own counter, None without a counter.

    From the first tick within the pass to the last, divided by the inferences between them (one
    that a tick cuts counts by its part). Taken from the reads as they are, apart from all of
    edgejoule's arithmetic. The counter also sees the microseconds between two inferences, which
    `between` is the share of.
    """
    import pyarrow.parquet as pq

    metadata = pq.read_schema(run / "power.parquet").metadata or {}
    channels = json.loads(metadata[b"edgejoule"])["channels"]
    counters = [one for one in channels if one["quantity"] == "energy"]
    if not counters:
        return None
    scale = {"mJ": 1e-3, "uJ": 1e-6}[counters[0]["unit"]]
    power = pq.read_table(run / "power.parquet")
    chosen = (power["channel"].to_numpy() == counters[0]["index"]) & (
        power["errno"].is_null().to_numpy()
    )
    t_ns = (power["t0_ns"].to_numpy()[chosen] + power["t1_ns"].to_numpy()[chosen]) / 2
    raw = power["raw"].fill_null(0).to_numpy()[chosen]
    table = pq.read_table(run / "inferences.parquet")
    own = np.array(table["pass"].cast("string").to_pylist()) == name
    start, end = table["start_ns"].to_numpy()[own], table["end_ns"].to_numpy()[own]
    ticks = np.flatnonzero(np.diff(raw) > 0) + 1
    ticks = ticks[(t_ns[ticks] >= start[0]) & (t_ns[ticks] <= end[-1])]
    if len(ticks) < 2:
        return None
    first, last = ticks[0], ticks[-1]
    inside = np.minimum(end, t_ns[last]) - np.maximum(start, t_ns[first])
    parts = np.clip(inside / (end - start), 0.0, 1.0)
    seconds = (t_ns[last] - t_ns[first]) * 1e-9
    return {
        "j": float(raw[last] - raw[first]) * scale / float(parts.sum()),
        "seconds": float(seconds),
        "ticks": len(ticks),
        "between": 1.0 - float(np.clip(inside, 0, None).sum()) * 1e-9 / float(seconds),
    }


def figures(run: Path, calls: Sequence[Row] = ()) -> Row:
    """Return what one run says.

    Args:
        run: The run directory.
        calls: What `closure.py` noted of its calls; the commit is taken from there where the run
            itself does not know it.
    """
    said = json.loads((run / "run.json").read_text(encoding="utf-8"))
    config, summary = said["config"], said["summary"]
    energy = summary.get("energy") or {}
    rail = energy.get("rail") or next(iter(energy.get("rails") or {}), None)
    found = (energy.get("attribution") or {}).get(METHOD, {}).get(rail) or {}
    closure = found.get("closure") or {}
    clean = (energy.get("rails") or {}).get(rail, {}).get("clean") or {}
    rows = _whole(run, rail)
    counter = counter_j(run, "clean") if (run / "power.parquet").exists() else None
    own = [call for call in calls if call.get("run") == said["name"]]
    machine = said["machine"]
    code = machine.get("code") or {}
    set_up = (said["sensor"].get("configuration") or {}) if said["sensor"] else {}
    gross_j = _joules(clean.get("gross_mj"))
    return {
        "run": said["name"],
        "model": config["model"],
        "batch": (config.get("input_shape") or [1])[0],
        "repeat": _repeat_of(said["name"]),
        "date": said["started_at"],
        "status": said["status"],
        "dtype": config["dtype"],
        "backend": config["backend"],
        "simulated": said["simulated"],
        "shared_gpu": said.get("shared_gpu"),
        "gpu": set_up.get("name"),
        "gpu_uuid": set_up.get("uuid"),
        "driver": set_up.get("driver"),
        "commit": own[-1].get("commit") if own else code.get("commit"),
        "versions": {key: said["versions"].get(key) for key in ("edgejoule", "torch")},
        "latency_ms": (summary.get("clean") or {}).get("median_ms"),
        "clean_gross_j": gross_j,
        "clean_dynamic_j": _joules(clean.get("dynamic_mj")),
        "clean_mean_w": _joules(clean.get("mean_mw")),
        "counter": counter,
        "counter_ratio": None if not counter or not gross_j else gross_j / counter["j"],
        "whole_dynamic_j": _joules(rows.get("inference", {}).get("dynamic_mj")),
        "whole_half_j": _joules(rows.get("inference", {}).get("dynamic_statistical_mj")),
        "sum_dynamic_j": _joules(rows.get("closure", {}).get("dynamic_mj")),
        "closure": closure.get("dynamic"),
        "closure_interval": closure.get("interval_dynamic"),
        "closure_gross": closure.get("gross"),
        "closure_other": closure.get("other_rule"),
        "layers": found.get("layers"),
        "resolved_layers": found.get("resolved_layers"),
        "facts": found.get("facts"),
        "duplication": energy.get("duplication") or [],
        "idle_w": _idle_w(run, rail),
        "notes": summary.get("notes") or [],
        "rebuild": config.get("rebuild", 0),
    }


def _whole(run: Path, rail: str | None) -> dict[str, Row]:
    import pyarrow.parquet as pq

    if not (run / "energy.parquet").exists():
        return {}
    rows = pq.read_table(run / "energy.parquet").to_pylist()
    own = [row for row in rows if (row["method"], row["rail"]) == (METHOD, rail)]
    return {row["kind"]: row for row in own if row["kind"] in ("inference", "closure", "gap")}


def _idle_w(run: Path, rail: str | None) -> float | None:
    if not (run / "idle.json").exists():
        return None
    entries = json.loads((run / "idle.json").read_text(encoding="utf-8"))
    means = [
        entry["rails"][rail]["mean_mw"]
        for entry in entries
        if entry["kind"] == "loaded" and entry["rails"].get(rail, {}).get("mean_mw") is not None
    ]
    return statistics.fmean(means) * 1e-3 if means else None


def _joules(milli: float | None) -> float | None:
    return None if milli is None else milli * 1e-3


def _repeat_of(name: str) -> int:
    digits = name.rpartition("-r")[2]
    return int(digits) if digits.isdigit() else 0


def summarise(rows: Sequence[Row]) -> Row:
    """Return the figures over all runs, each beside its target."""
    closures = [abs(row["closure"] - 1) for row in rows if row["closure"] is not None]
    counters = [abs(row["counter_ratio"] - 1) for row in rows if row["counter_ratio"] is not None]
    repeats = repeat_spread(rows)
    slopes = [one for row in rows for one in slopes_of(row)]
    errors = [abs(one["ratio"] - 1) for one in slopes if one["ratio"] is not None]
    layers = {(one["model"], one["layer"]) for one in slopes}
    spread = [one for pair in repeats for one in (pair["whole"], pair["sum"]) if one is not None]
    checks = [
        _check("closure of replay (dynamic), median difference from 1", _median(closures),
               CLOSURE_MEDIAN, len(closures)),
        _check("the same, worst", max(closures, default=None), CLOSURE_WORST, len(closures)),
        _check("dynamic energy of repeats, largest difference", max(spread, default=None),
               REPEATS_WITHIN, len(spread)),
        _check("energy per inference against the driver's counter, largest difference",
               max(counters, default=None), COUNTER_WITHIN, len(counters)),
        _check("duplication: slope against attributed energy, median difference", _median(errors),
               SLOPE_MEDIAN, len(errors)),
    ]  # fmt: skip
    return {
        "checks": checks,
        "cases": sorted({(row["model"], row["batch"]) for row in rows}),
        "repeats": repeats,
        "duplicated_layers": len(layers),
        "duplicated_networks": len({model for model, _ in layers}),
        "duplication_enough": len(layers) >= SLOPE_LAYERS
        and len({model for model, _ in layers}) >= SLOPE_NETWORKS,
    }


def _check(what: str, value: float | None, target: float, n: int) -> Row:
    return {"what": what, "value": value, "target": target, "n": n,
            "met": None if value is None else value <= target}  # fmt: skip


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def repeat_spread(rows: Iterable[Row]) -> list[Row]:
    """Return, per case with several runs, how far they lie apart: range over mean."""
    cases: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        cases.setdefault((row["model"], row["batch"]), []).append(row)
    found = []
    for (model, batch), own in sorted(cases.items()):
        if len(own) < 2:
            continue
        found.append(
            {
                "model": model,
                "batch": batch,
                "runs": len(own),
                "gpus": len({row["gpu_uuid"] for row in own}),
                "days": len({row["date"][:10] for row in own}),
                "whole": _range([row["whole_dynamic_j"] for row in own]),
                "sum": _range([row["sum_dynamic_j"] for row in own]),
                "closure": _range([row["closure"] for row in own]),
                "clean": _range([row["clean_gross_j"] for row in own]),
            }
        )
    return found


def _range(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < 2 or not statistics.fmean(known):
        return None
    return (max(known) - min(known)) / abs(statistics.fmean(known))


def slopes_of(row: Row) -> list[Row]:
    """Return the duplication check's layers of a run: slope, attributed energy, their ratio."""
    found = []
    for one in row["duplication"]:
        slope, own = one.get("slope_mj"), one.get("attributed_mj")
        found.append(
            {
                "run": row["run"],
                "model": row["model"],
                "batch": row["batch"],
                "layer": one.get("layer"),
                "slope_mj": slope,
                "slope_half_mj": one.get("slope_half_mj"),
                "attributed_mj": own,
                "attributed_half_mj": one.get("attributed_half_mj"),
                "ratio": slope / own if slope is not None and own else None,
                "why": one.get("why"),
            }
        )
    return found


def markdown(rows: Sequence[Row], found: Row) -> str:
    """Return the tables as Markdown."""
    lines = [*_provenance(rows), ""]
    lines += ["| figure | found | target | n | met |", "|---|---|---|---|---|"]
    for check in found["checks"]:
        value = "-" if check["value"] is None else f"{check['value']:.2%}"
        met = {None: "-", True: "yes", False: "NO"}[check["met"]]
        target = f"at most {check['target']:.0%}"
        lines.append(f"| {check['what']} | {value} | {target} | {check['n']} | {met} |")
    lines += [
        "",
        "| network | batch | run | latency, ms | dynamic J, whole | closure (dynamic) | gross | "
        "other rule | layers resolved | clean J | by the counter | difference |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        counter = (row["counter"] or {}).get("j")
        ratio = row["counter_ratio"]
        cells = [
            row["model"], row["batch"], row["repeat"], _number(row["latency_ms"]),
            _number(row["whole_dynamic_j"]), _share(row["closure"], row["closure_interval"]),
            _share(row["closure_gross"]), _share(row["closure_other"]),
            f"{row['resolved_layers']} of {row['layers']}", _number(row["clean_gross_j"]),
            _number(counter), "-" if ratio is None else f"{ratio - 1:+.2%}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    lines += _repeat_lines(found["repeats"]) + _slope_lines(rows, found)
    return "\n".join(lines) + "\n"


def _provenance(rows: Sequence[Row]) -> list[str]:
    def all_of(key: str) -> str:
        return ", ".join(sorted({str(row[key]) for row in rows if row[key]})) or "not known"

    dates = sorted({row["date"][:10] for row in rows})
    gpus = len({row["gpu_uuid"] for row in rows if row["gpu_uuid"]})
    torch = sorted({str(row["versions"]["torch"]) for row in rows if row["versions"]["torch"]})
    simulated = " SIMULATED: nothing was measured." if any(row["simulated"] for row in rows) else ""
    return [
        f"{all_of('gpu')} ({gpus} of them), driver {all_of('driver')}, torch "
        f"{', '.join(torch) or '-'}, {all_of('dtype')}; {', '.join(dates)}; commit "
        f"{all_of('commit')}.{simulated} J per inference of the whole batch."
    ]


def _repeat_lines(repeats: Sequence[Row]) -> list[str]:
    if not repeats:
        return []
    lines = [
        "",
        "| network | batch | runs | GPUs | days | whole | sum of layers | closure | clean |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in repeats:
        shares = (_share(one[key]) for key in ("whole", "sum", "closure", "clean"))
        cells = [one["model"], one["batch"], one["runs"], one["gpus"], one["days"], *shares]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return lines


def _slope_lines(rows: Sequence[Row], found: Row) -> list[str]:
    slopes = [one for row in rows for one in slopes_of(row)]
    if not slopes:
        return []
    lines = [
        "",
        f"Duplication: {found['duplicated_layers']} layers of {found['duplicated_networks']} "
        f"networks (asked: {SLOPE_LAYERS} of {SLOPE_NETWORKS}).",
        "",
        "| run | layer | slope, mJ | attributed, mJ | ratio | |",
        "|---|---|---|---|---|---|",
    ]
    for one in slopes:
        outlier = one["ratio"] is not None and abs(one["ratio"] - 1) > SLOPE_MEDIAN
        note = one["why"] or ("outlier" if outlier else "")
        lines.append(
            f"| {one['run']} | {one['layer']} | {_with(one['slope_mj'], one['slope_half_mj'])} | "
            f"{_with(one['attributed_mj'], one['attributed_half_mj'])} | {_share(one['ratio'])} | "
            f"{note} |"
        )
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _with(value: float | None, half: float | None) -> str:
    return _number(value) + ("" if value is None or half is None else f" +- {half:.2g}")


def _share(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return "-"
    half = "" if not interval else f" +- {50 * (interval[1] - interval[0]):.1f}"
    return f"{100 * value:.1f}{half} %"
