"""What a finished run says on the terminal: the slowest layers and one line of totals.

Pure functions from `RunTables` to text.
"""

from __future__ import annotations

from edgejoule.report.tables import LayerEnergy, RunTables, number, part
from edgejoule.report.text import ABSENT, energy, ms, percent, power, printable, table


def layer_energy(item: LayerEnergy | None) -> str:
    """Return a layer's gross energy in mJ without the unit, or why there is no number."""
    if item is None or item.gross_mj is None:
        return ABSENT
    if item.resolved is False:
        return "not resolved"
    return f"{item.gross_mj:.4g}"


def energy_header(tables: RunTables) -> str | None:
    """Return the header of the column of layers' energies, None if no layer has one."""
    methods = sorted({row.energy.method for row in tables.layers if row.energy is not None})
    if not methods:
        return None
    explained = {"proportional": "proportional to time"}
    method = ", ".join(explained.get(name, name) for name in methods)
    return f"mJ ({method}{', simulated' if tables.simulated else ''})"


def layer_table(tables: RunTables, count: int = 10) -> str:
    """Return the table of the slowest layers of the profiled pass.

    Args:
        tables: The run.
        count: Most rows.
    """
    if not tables.layers:
        return "no layer times: " + ("; ".join(map(printable, tables.missing)) or "none recorded")
    header = ["#", "layer", "type", "module path", "median ms", "share %"]
    energies = energy_header(tables)
    if energies:
        header.append(energies)
    rows = []
    for rank, layer in enumerate(tables.slowest(count), 1):
        row = [
            str(rank),
            printable(layer.name, 40),
            printable(layer.type or ABSENT, 24),
            printable(layer.module, 32),
            ms(layer.median_ms),
            percent(layer.share),
        ]
        if energies:
            row.append(layer_energy(layer.energy))
        rows.append(row)
    title = f"Slowest {len(rows)} of {len(tables.layers)} layers (profiled pass)"
    return f"{title}\n{table(header, rows, {0, 4, 5, 6})}"


def energy_text(tables: RunTables) -> str:
    """Return energy per inference and mean power, or why there is none."""
    figures = part(tables.summary, "energy")
    clean = part(figures, "clean")
    gross = number(clean, "gross_mj")
    if gross is None and part(figures, "rails"):
        return "no energy in total: this board's total is not known (report.md has it per rail)"
    if gross is None:
        return f"no energy: {printable(figures.get('why') or 'not recorded')}"
    word = "SIMULATED " if tables.simulated else ""
    half = number(clean, "gross_statistical_mj")
    parts = [f"{word}{energy(gross, half, '+-')} gross"]
    dynamic = number(clean, "dynamic_mj")
    if dynamic is not None:
        half = number(clean, "dynamic_statistical_mj")
        parts.append(f"{word}{energy(dynamic, half, '+-')} dynamic")
    text = ", ".join(parts) + " per inference"
    mean = number(clean, "mean_mw")
    return text if mean is None else f"{text}, {word}{power(mean)} mean"


def latency_text(tables: RunTables) -> str:
    """Return the clean pass's latency and its ratio to the profiled one."""
    clean = part(tables.summary, "clean")
    if number(clean, "median_ms") is None:
        return "no clean latency"
    figures = [f"{ms(number(clean, f'{name}_ms'))} {name}" for name in ("median", "p90", "p99")]
    text = f"clean {', '.join(figures)} ms"
    ratio = number(tables.summary, "profiled_over_clean")
    return text if ratio is None else f"{text}; profiled/clean {ratio:.3f}"


def totals_line(tables: RunTables) -> str:
    """Return one line: latency, ratio, energy or why there is none, counts, and marks."""
    counts = []
    for name in ("clean", "profiled"):
        count = number(part(tables.summary, name), "inferences")
        if count is not None:
            counts.append(f"{count:.0f} {name}")
    parts = [latency_text(tables), energy_text(tables)]
    if counts:
        parts.append(" + ".join(counts) + " inferences")
    marks = "".join(f" [{mark}]" for mark in tables.marks)
    return f"{printable(tables.name)}: {'; '.join(parts)}{marks}"


def run_text(tables: RunTables, count: int = 10) -> str:
    """Return everything that is printed when a run is done."""
    lines = [layer_table(tables, count), totals_line(tables)]
    lines += [f"note: {printable(note)}" for note in tables.notes]
    lines += [f"missing: {printable(text)}" for text in tables.missing]
    return "\n".join(lines)


def print_run(tables: RunTables, count: int = 10) -> None:
    """Print what is said when a run is done to stdout."""
    print(run_text(tables, count))
