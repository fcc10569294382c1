"""Repeats of one experiment: mean over processes and builds, scatter, and whether it is stable."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgejoule.energy.hierarchy import Hierarchy
from edgejoule.energy.repeats import Repeats, summarise_repeats
from edgejoule.report.tables import RunTables
from edgejoule.report.text import ABSENT, energy, markdown, markdown_table, ms, printable


def repeats_of(runs: Sequence[RunTables]) -> list[tuple[Repeats, bool]]:
    """Return every experiment with more than one run, and whether power is simulated in one.

    Runs whose `run.json` is in pieces are left out: their own sections say what is wrong.
    """
    usable = [run for run in runs if _usable(run)]
    simulated = {run.name for run in usable if run.simulated}
    found = summarise_repeats([{**run.run, "name": run.name} for run in usable])
    return [(one, bool(simulated & set(one.names))) for one in found if len(one.names) > 1]


def _usable(run: RunTables) -> bool:
    try:
        return bool(summarise_repeats([{**run.run, "name": run.name}]))
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        return False


def repeats_section(runs: Sequence[RunTables]) -> list[str]:
    """Return the lines of the section on repeats, none where there are none."""
    found = repeats_of(runs)
    if not found:
        return []
    header = ["experiment", "processes", "builds", "gross per inference", "dynamic per inference"]
    header += ["latency ms", "deviation %", "verdict"]
    rows = []
    for one, simulated in found:
        mark = " (simulated)" if simulated else ""
        shown = one.gross or one.latency_ms
        rows.append(
            [
                markdown(_name(one), 60),
                str(len(one.names)),
                ABSENT if shown is None else str(shown.builds),
                _energy(one.gross, mark),
                _energy(one.dynamic, mark),
                _latency(one.latency_ms),
                _deviation(shown),
                _verdict(shown),
            ]
        )
    table = markdown_table(header, rows, {1, 2, 3, 4, 5, 6})
    guide = (
        "Each row is one configuration measured in several fresh processes; intervals are 95 % "
        "over processes, or builds where several were made. The relative deviation is over "
        "processes, of the gross energy where there is one, else of the latency."
    )
    return ["## Repeats", "", guide, "", table, ""]


def repeats_text(runs: Sequence[RunTables]) -> str:
    """Return one line per experiment with repeats, for a terminal; empty without any."""
    lines = []
    for one, simulated in repeats_of(runs):
        word = "SIMULATED " if simulated else ""
        parts = []
        if one.gross is not None:
            half = one.gross.half_width
            parts.append(f"{word}{energy(one.gross.mean, half, '+-')} gross per inference")
        if one.latency_ms is not None:
            half = one.latency_ms.half_width
            width = "" if half is None else f" +- {half:.2g}"
            parts.append(f"{ms(one.latency_ms.mean)}{width} ms")
        shown = one.gross or one.latency_ms
        parts.append(f"deviation {_deviation(shown)} %, {_plain_verdict(shown)}")
        text = f"{_name(one)}, {len(one.names)} processes: {'; '.join(parts)}"
        lines.append(printable(text))
    return "\n".join(lines)


def _name(found: Repeats) -> str:
    """Return what the names of the runs have in common: `net` of `net-r1` and `net-r2`."""
    first, last = min(found.names), max(found.names)
    pairs = enumerate(zip(first, last, strict=False))
    length = next((at for at, (one, other) in pairs if one != other), min(len(first), len(last)))
    return re.sub(r"-[a-z]?$", "", first[:length]) or found.names[0]


def _energy(found: Hierarchy | None, mark: str) -> str:
    return ABSENT if found is None else f"{energy(found.mean, found.half_width)}{mark}"


def _latency(found: Hierarchy | None) -> str:
    if found is None:
        return ABSENT
    half = found.half_width
    return ms(found.mean) if half is None else f"{ms(found.mean)} ± {half:.2g}"


def _deviation(found: Hierarchy | None) -> str:
    return ABSENT if found is None or found.rsd is None else f"{100 * found.rsd:.2f}"


def _plain_verdict(found: Hierarchy | None) -> str:
    if found is None:
        return ABSENT
    why = f" ({found.why})" if found.why and found.verdict != "stable" else ""
    return f"{found.verdict}{why}"


def _verdict(found: Hierarchy | None) -> str:
    text = markdown(_plain_verdict(found))
    return f"**{text}**" if found is not None and found.verdict == "unstable" else text
