"""`report.md` of a dataset: an overview, then a section per run.

Pure functions from `RunTables` to Markdown. Wherever a power or an energy stands that was not
measured, the word *simulated* stands with it; wherever a layer's energy stands, its method does.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgejoule.report.overview import Overview
from edgejoule.report.repeats import repeats_section
from edgejoule.report.sections import section
from edgejoule.report.tables import RunTables, number, part
from edgejoule.report.text import ABSENT, energy, markdown, markdown_table, ms, percent, power


def report(
    title: str,
    runs: Sequence[RunTables],
    damaged: Sequence[tuple[str, str]] = (),
    unfinished: int = 0,
    overviews: Sequence[Overview] = (),
) -> str:
    """Return the whole report.

    Args:
        title: What the dataset is called.
        runs: The runs, in the order in which they are shown.
        damaged: Name and reason of each directory that could not be read.
        unfinished: Runs that were cut off and wait for `data_version.py recover`.
        overviews: The runs' rows, for what is known of them beside latency and energy.
    """
    lines = [f"# edgejoule: {markdown(title)}", ""]
    lines += [f"{len(runs)} run{'' if len(runs) == 1 else 's'}.", ""]
    simulated = sum(run.simulated for run in runs)
    if simulated:
        which = "All" if simulated == len(runs) else f"{simulated} of {len(runs)}"
        lines += [f"**{which}: power and energy are simulated, not measured.**", ""]
    if runs:
        lines += [overview(runs), ""]
        lines += judgement(overviews)
        lines += [*reading_guide(runs), ""]
    lines += repeats_section(runs)
    if damaged:
        lines += ["## Not readable", ""]
        lines += [f"- {markdown(name)}: {markdown(why)}" for name, why in damaged]
        lines.append("")
    if unfinished:
        lines += [f"{unfinished} cut off: `data_version.py recover` makes them readable.", ""]
    for run in runs:
        lines += [section(run), ""]
    return "\n".join(lines).rstrip() + "\n"


def overview(runs: Sequence[RunTables]) -> str:
    """Return one row per run."""
    header = ["run", "backend", "dtype", "clean median ms", "p99 ms", "profiled/clean"]
    header += ["gross per inference", "dynamic per inference", "mean power", "marks"]
    rows = []
    for run in runs:
        clean = part(run.summary, "clean")
        joules = part(run.summary, "energy", "clean")
        ratio = number(run.summary, "profiled_over_clean")
        rows.append(
            [
                f"[{markdown(run.name)}](#{anchor(run.name)})",
                markdown(run.config.get("backend", ABSENT)),
                markdown(run.config.get("dtype", ABSENT)),
                ms(number(clean, "median_ms")),
                ms(number(clean, "p99_ms")),
                ABSENT if ratio is None else f"{ratio:.3f}",
                _marked(run, energy(number(joules, "gross_mj"))),
                _marked(run, energy(number(joules, "dynamic_mj"))),
                _marked(run, power(number(joules, "mean_mw"))),
                markdown(", ".join(run.marks) or ABSENT),
            ]
        )
    return markdown_table(header, rows, {3, 4, 5, 6, 7, 8})


def judgement(overviews: Sequence[Overview]) -> list[str]:
    """Return a row per run of what its figures can be trusted by, and each verdict's reasons."""
    if not overviews:
        return []
    header = ["run", "throughput 1/s", "peak power", "memory MiB", "limit MiB", "hottest \u00b0C"]
    header += ["closure %", "duplication slope %", "verdict"]
    rows = []
    for one in overviews:
        word = " (simulated)" if one.simulated else ""
        made = [
            ABSENT if one.peak_w is None else power(one.peak_w * 1e3),
            percent(one.closure_gross),
            percent(one.duplication_slope),
        ]
        peak, closure, slope = (text if text == ABSENT else f"{text}{word}" for text in made)
        memory, limit = (
            ABSENT if value is None else f"{value:.0f}"
            for value in (one.memory_mib, one.memory_limit_mib)
        )
        hottest = ABSENT if one.temperature_c is None else f"{one.temperature_c:.1f}"
        name = f"[{markdown(one.run)}](#{anchor(one.run)})"
        rows.append([name, ms(one.throughput_hz), peak, memory, limit, hottest, closure, slope,
                     one.verdict])  # fmt: skip
    lines = [markdown_table(header, rows, set(range(1, 8))), ""]
    said = [
        f"- {markdown(one.run)}: **{one.verdict}**: {markdown('; '.join(one.reasons))}"
        for one in overviews
        if one.reasons
    ]
    return [*lines, *said, ""] if said else lines


def reading_guide(runs: Sequence[RunTables]) -> list[str]:
    """Return what a reader must know of the figures, a paragraph each."""
    lines = [
        "Latency and energy per inference come from the clean pass, the times of layers from the "
        "profiled pass; profiled/clean is the ratio of their medians. Intervals are 95 % and hold "
        "within one process."
    ]
    methods = {
        layer.energy.method for run in runs for layer in run.layers if layer.energy is not None
    }
    if methods - {"proportional"}:
        lines.append(
            "Energies of layers are of the profiled pass, each by the method named with it. A "
            "layer that a method cannot tell from everything else has no figure (*not resolved*); "
            "the energy of such layers stands with their group, so that nothing is dropped. The "
            "half-width of a sum of layers is the sum of theirs, since they depend on each other."
        )
    elif methods:
        lines.append(
            "The only figures of energy for layers here are *proportional to time*: they assume "
            "that each layer draws the same power, so they add nothing to the times."
        )
    return lines


def anchor(name: str) -> str:
    """Return the link target that Markdown viewers make from the heading of a run."""
    return "".join(char for char in name.lower() if char.isalnum() or char in "-_")


def _marked(run: RunTables, text: str) -> str:
    return f"{text} (simulated)" if run.simulated and text != ABSENT else text
