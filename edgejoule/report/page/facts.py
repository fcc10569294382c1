"""Names and values on a run's page: what stands at its head, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping

from edgejoule.report.overview import Overview
from edgejoule.report.sections import facts as sources
from edgejoule.report.tables import RunTables, number, part
from edgejoule.report.text import energy, ms, percent, power, printable

NOT_THERE = "not recorded"


def head_facts(run: RunTables, one: Overview | None) -> list[tuple[str, str, str]]:
    """Return name, value and remark of the figures that stand at the head of a run's page."""
    if one is None:
        return []
    mark = "simulated" if run.simulated else ""
    return [
        ("latency, median", _with(one.p50_ms, ms, " ms"), _tail(one)),
        ("throughput", _with(one.throughput_hz, ms, " /s"), "images of the clean pass"),
        (
            "energy per inference",
            NOT_THERE if one.gross_mj is None else energy(one.gross_mj, one.gross_half_mj),
            _of("gross", mark, one.gross_mj),
        ),
        (
            "above idle",
            NOT_THERE if one.dynamic_mj is None else energy(one.dynamic_mj, one.dynamic_half_mj),
            _of("dynamic", mark, one.dynamic_mj),
        ),
        (
            "average power",
            NOT_THERE if one.mean_w is None else power(one.mean_w * 1000),
            _peak(one, mark),
        ),
        ("memory", _with(one.memory_mib, "{:.0f}".format, " MiB"), _limit(one)),
        ("hottest", _with(one.temperature_c, "{:.1f}".format, " °C"), ""),
        ("closure", _with(one.closure_gross, percent, " %"), _closure(one, mark)),
        (
            "duplication slope",
            _with(one.duplication_slope, percent, " %"),
            _count(one.duplication_layers, "layer"),
        ),
    ]


def _with(value: float | None, text: object, unit: str) -> str:
    return NOT_THERE if value is None or not callable(text) else f"{text(value)}{unit}"


def _count(number: int | None, word: str) -> str:
    return "" if not number else f"{number} {word}{'' if number == 1 else 's'}"


def _tail(one: Overview) -> str:
    known = [
        f"{name} {ms(value)}" for name, value in (("p90", one.p90_ms), ("p99", one.p99_ms)) if value
    ]
    return ", ".join(known)


def _of(kind: str, mark: str, value: float | None) -> str:
    return "" if value is None else ", ".join(filter(None, [kind, mark]))


def _peak(one: Overview, mark: str) -> str:
    peak = "" if one.peak_w is None else f"peak {power(one.peak_w * 1000)}"
    return ", ".join(filter(None, [peak, mark if peak or one.mean_w is not None else ""]))


def _limit(one: Overview) -> str:
    if one.memory_mib is None:
        return ""
    return "no limit" if one.memory_limit_mib is None else f"limit {one.memory_limit_mib:.0f} MiB"


def _closure(one: Overview, mark: str) -> str:
    if one.closure_gross is None:
        return ""
    dynamic = "" if one.closure_dynamic is None else f"dynamic {percent(one.closure_dynamic)} %"
    return ", ".join(filter(None, ["gross", dynamic, mark]))


def provenance(run: RunTables) -> list[tuple[str, str]]:
    """Return where and with what a run was measured, hashes of what went in and came out."""
    found = [(name, printable(value)) for name, value in sources(run)]
    more = (
        ("run", run.run.get("run_sha256")),
        ("input", part(run.run, "input").get("sha256")),
        ("graph", part(run.run, "source").get("graph_sha256")),
        ("outputs", part(run.summary, "outputs").get("sha256")),
        ("format", run.run.get("schema_version")),
    )
    return found + [(name, printable(value)) for name, value in more if value]


def configuration(run: RunTables) -> list[tuple[str, str]]:
    """Return every knob of the configuration that is set."""
    return [
        (printable(name), _value(value))
        for name, value in sorted(run.config.items())
        if value not in (None, {}, [])
    ]


def _value(value: object) -> str:
    if isinstance(value, (str, int, float)):
        return printable(value)
    return printable(json.dumps(value, sort_keys=True, default=str))


def files(run: RunTables) -> list[tuple[str, str]]:
    """Return each file of the run with its hash, size and rows."""
    found = []
    for name, entry in sorted(part(run.run, "files").items()):
        if not isinstance(entry, Mapping):
            continue
        said = [str(entry.get("sha256") or "no hash")]
        for key, unit in (("bytes", "bytes"), ("rows", "rows")):
            count = number(entry, key)
            said.append("" if count is None else f"{count:.0f} {unit}")
        found.append((printable(name), printable(", ".join(filter(None, said)))))
    return found
