"""What a finished run says on the terminal: the slowest layers and one line of totals.

Pure functions from `RunTables` to text.
"""

from __future__ import annotations

import shutil
import sys
import textwrap

from edgejoule.report.attribution import (
    WORDS,
    board_line,
    duplication,
    duplication_line,
    inference_line,
    method_figures,
    method_line,
    observer_lines,
    systematic_line,
    unresolved_lines,
)
from edgejoule.report.energies import LayerEnergy
from edgejoule.report.energy_sections import (
    PROPORTIONAL,
    best_rollup,
    piece_name,
    roof_share,
    share_of,
)
from edgejoule.report.tables import RunTables, number, part
from edgejoule.report.text import ABSENT, energy, fitted_table, ms, percent, power, printable


def layer_energy(item: LayerEnergy | None) -> str:
    """Return a layer's gross energy in mJ without the unit, or why there is no number."""
    if item is None:
        return ABSENT
    if item.resolved is False:
        return "not resolved"
    return ABSENT if item.gross_mj is None else f"{item.gross_mj:.4g}"


def energy_header(tables: RunTables) -> str | None:
    """Return the header of the column of layers' energies, None if no layer has one."""
    methods = sorted({row.energy.method for row in tables.layers if row.energy is not None})
    if not methods:
        return None
    method = ", ".join(WORDS.get(name, name) for name in methods)
    return f"mJ ({method}{', simulated' if tables.simulated else ''})"


def layer_table(tables: RunTables, count: int = 10, width: int | None = None) -> str:
    """Return the table of the slowest layers of the profiled pass.

    Args:
        tables: The run.
        count: Most rows.
        width: Of the terminal, None: as wide as it gets.
    """
    if not tables.layers:
        return "no layer times: " + ("; ".join(map(printable, tables.missing)) or "none recorded")
    header = ["#", "layer", "type", "module path", "median ms", "share %"]
    energies = energy_header(tables)
    if energies:
        header.append(energies)
    rows = []
    room = 40 if width is None else max(12, min(40, width - 60))
    for rank, layer in enumerate(tables.slowest(count), 1):
        row = [
            str(rank),
            printable(layer.name, room),
            printable(layer.type or ABSENT, 24),
            printable(layer.module, 32),
            ms(layer.median_ms),
            percent(layer.share),
        ]
        if energies:
            row.append(layer_energy(layer.energy))
        rows.append(row)
    title = f"Slowest {len(rows)} of {len(tables.layers)} layers (profiled pass)"
    return f"{title}\n{fitted_table(header, rows, {0, 4, 5, 6}, width, [2, 3])}"


def energy_table(tables: RunTables, count: int = 10, width: int | None = None) -> str | None:
    """Return the table of the layers that take most energy, None where no method tells them apart.

    Args:
        tables: The run.
        count: Most rows.
        width: Of the terminal, None: as wide as it gets.
    """
    rollup = best_rollup(tables)
    if rollup is None or rollup.method == PROPORTIONAL:
        return None
    known = {layer.index: layer for layer in tables.layers}
    pieces = [one for one in rollup.pieces if one.kind != "gap" and one.amount.gross_mj is not None]
    pieces.sort(key=lambda one: -(one.amount.gross_mj or 0.0))
    word = "SIMULATED " if tables.simulated else ""
    header = ["#", "layer", f"{word}gross", f"{word}dynamic", "share %", f"{word}mean power"]
    header += [f"{word}GFLOP/J", "roof %"]
    rows = []
    room = 40 if width is None else max(12, min(40, width - 62))
    for rank, piece in enumerate(pieces[:count], 1):
        amount = piece.amount
        row = known.get(piece.layers[0]) if len(piece.layers) == 1 else None
        gflop_per_joule = None if row is None else row.roofline.gflop_per_joule
        name = printable(piece_name(piece, known, room), room)
        rows.append(
            [
                str(rank),
                f"{name} (not resolved)" if piece.resolved is False else name,
                energy(amount.gross_mj, amount.gross_half_mj, "+-"),
                energy(amount.dynamic_mj, amount.dynamic_half_mj, "+-"),
                percent(share_of(amount, rollup.closure)),
                power(amount.power_gross_mw),
                ABSENT if gflop_per_joule is None else f"{gflop_per_joule:.3g}",
                ABSENT if row is None else roof_share(row),
            ]
        )
    title = f"Most energy by {WORDS.get(rollup.method, rollup.method)} on {printable(rollup.rail)}"
    return f"{title}\n{fitted_table(header, rows, {0, 2, 3, 4, 5, 6, 7}, width, [7, 6, 5, 4])}"


def energy_lines(tables: RunTables) -> list[str]:
    """Return how the energy was split and what the checks say, a line each."""
    word = "SIMULATED " if tables.simulated else ""
    own = {(one.method, one.rail) for one in tables.rollups}
    lines: list[str | None] = [
        method_line(one, f" {word}".rstrip())
        for one in method_figures(tables)
        # The other rails are in report.md; the proportional split adds up by construction.
        if (one.method, one.rail) in own and one.method != PROPORTIONAL
    ]
    lines += [*unresolved_lines(tables, word), board_line(tables)]
    checked = duplication(tables)
    if checked:
        lines.append(f"{word}{duplication_line(checked)}")
    lines += [systematic_line(tables, "+-", word), inference_line(tables, word)]
    lines += observer_lines(tables)
    return [line for line in lines if line]


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


def run_text(tables: RunTables, count: int = 10, width: int | None = None) -> str:
    """Return everything that is printed when a run is done, tables at most `width` wide."""
    lines = [layer_table(tables, count, width)]
    energies = energy_table(tables, count, width)
    lines += [energies] if energies else []
    tabular = len(lines)
    lines += energy_lines(tables)
    lines.append(totals_line(tables))
    lines += [f"note: {printable(note)}" for note in tables.notes]
    lines += [f"missing: {printable(text)}" for text in tables.missing]
    return "\n".join(lines[:tabular] + [_wrapped(line, width) for line in lines[tabular:]])


def _wrapped(line: str, width: int | None) -> str:
    if width is None:
        return line
    return textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False)


def print_run(tables: RunTables, count: int = 10) -> None:
    """Print what is said when a run is done to stdout; a terminal's width is kept to."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(run_text(tables, count, width))
