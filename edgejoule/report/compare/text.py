"""A comparison as text for a terminal or as Markdown; pure functions from results to lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgejoule.report.compare.result import Comparison, Judged, JudgedLayer, PairResult
from edgejoule.report.compare.words import (
    CALLED,
    all_figures,
    amount,
    counts,
    group_text,
    interval,
    machine_text,
    percent,
    ranked,
    shown,
    version_changes,
    what_text,
)
from edgejoule.report.tables import LayerRow
from edgejoule.report.text import (
    ABSENT,
    fitted_table,
    markdown,
    markdown_table,
    ms,
    printable,
)

FEW_LAYERS = 10
_NAME = 36
GUIDE = (
    "A difference is shown if its interval, corrected for how many were looked at, excludes zero "
    "and it is larger than {least}. Less is better. docs/Comparing.md says how it is judged."
)


@dataclass(frozen=True)
class _Style:
    """How a page writes: headings, lists, tables, and foreign text."""

    heading: Callable[[int, str], str]
    item: Callable[[str], str]
    table: Callable[[list[str], list[list[str]], set[int], list[int]], str]
    foreign: Callable[[object, int | None], str]


def terminal_text(comparison: Comparison, *, width: int | None = None, every: bool = False) -> str:
    """Return the whole comparison for a terminal.

    Args:
        comparison: What to say.
        width: Columns; None: nothing is left out.
        every: List every layer, not only the largest shown changes.
    """
    style = _Style(
        lambda level, text: text if level > 1 else text.upper(),
        lambda text: f"  {text}",
        lambda header, rows, right, spare: fitted_table(header, rows, right, width, spare),
        printable,
    )
    return "\n".join(_lines(comparison, style, every)) + "\n"


def markdown_text(comparison: Comparison) -> str:
    """Return the whole comparison as Markdown, every layer in it."""
    style = _Style(
        lambda level, text: f"{'#' * level} {text}",
        lambda text: f"- {text}",
        lambda header, rows, right, spare: markdown_table(header, rows, right),
        markdown,
    )
    return "\n".join(_lines(comparison, style, True)) + "\n"


def _lines(comparison: Comparison, style: _Style, every: bool) -> list[str]:
    foreign = style.foreign
    lines = [style.heading(1, "Comparison"), ""]
    if comparison.forced:
        lines += [style.heading(2, "FORCED: these are not equal"), ""]
        lines += [style.item(foreign(text, None)) for text in comparison.forced] + [""]
    for name, side in (("A", comparison.first), ("B", comparison.second)):
        kind = "run" if side.single else "dataset"
        lines.append(style.item(f"{name}: {kind} {foreign(side.path, None)}"))
        lines += [style.item(f"{name}: BROKEN: {foreign(text, None)}") for text in side.broken]
    for name, groups in zip("AB", comparison.alone, strict=True):
        for group in groups:
            text = f"{foreign(group_text(group), None)} ({foreign(what_text(group), None)})"
            lines.append(style.item(f"only in {name}: {text}"))
    for result in comparison.results:
        lines += ["", *_pair(result, style, every)]
    lines += ["", style.heading(2, "Totals"), ""]
    lines.append(style.item(f"figures of runs: {counts(all_figures(comparison))}"))
    layers = [layer for result in comparison.results for layer in result.layers]
    if layers:
        lines.append(style.item(f"times of layers: {counts([one.time for one in layers])}"))
        lines.append(style.item(f"energies of layers: {counts([one.energy for one in layers])}"))
    return [*lines, "", GUIDE.format(least=percent(comparison.least).lstrip("+"))]


def _pair(result: PairResult, style: _Style, every: bool) -> list[str]:
    foreign = style.foreign
    first, second = result.pair.first, result.pair.second
    lines = [style.heading(2, foreign(what_text(second), None)), ""]
    for name, group in (("A", first), ("B", second)):
        facts = f"{group_text(group)}; {machine_text(group)}"
        lines.append(style.item(f"{name}: {foreign(facts, None)}"))
    differing = (*result.pair.knobs, *version_changes(result))
    lines += [style.item(f"differs: {foreign(knob, None)}") for knob in differing]
    lines.append(style.item(f"intervals hold {result.scope}"))
    lines += [style.item(foreign(note, None)) for note in result.notes]
    rows = [
        [
            CALLED[one.quantity],
            amount(one.first, one.unit),
            amount(one.second, one.unit),
            percent(one.total),
            interval(one),
            _verdict(one, style),
        ]
        for one in result.figures
    ]
    header = ["per inference", "A", "B", "change", "corrected interval", "verdict"]
    lines += ["", style.table(header, rows, {1, 2, 3, 4}, [4, 1, 2]), ""]
    return lines + _layers(result, style, every)


def _verdict(one: Judged, style: _Style) -> str:
    return one.verdict if one.why is None else f"{one.verdict}: {style.foreign(one.why, None)}"


def _layers(result: PairResult, style: _Style, every: bool) -> list[str]:
    pairs = result.layer_pairs
    if pairs is None:
        return []
    lines = [style.item(f"layers paired {pairs.how}: {len(pairs.pairs)}")]
    if result.apart:
        lines.append(
            style.item("changes of layers are beside what all have in common (the last line above)")
        )
    if result.process_scatter is not None:
        lines.append(
            style.item(
                "layers of these two processes differ on their own by "
                f"{100 * result.process_scatter:.2g} % beyond what blocks of time show"
            )
        )
    lines.append(style.item(f"times: {counts([one.time for one in result.layers])}"))
    if result.method is None:
        lines.append(style.item("energies: not compared"))
    else:
        told = counts([one.energy for one in result.layers])
        lines.append(style.item(f"energies ({style.foreign(result.method, None)}): {told}"))
    for name, rows in zip("AB", pairs.alone, strict=True):
        if rows:
            lines.append(style.item(_alone(name, rows, style)))
    order = ranked(result)
    chosen = order if every else [one for one in order if shown(one)][:FEW_LAYERS]
    if chosen:
        rows_ = [_row(one, style) for one in chosen]
        header = ["", "layer", "A", "B", "time", "time verdict", "energy", "energy verdict"]
        lines += ["", style.table(header, rows_, {0, 2, 3, 4, 6}, [2, 3, 0])]
    left = sum(map(shown, order)) - len(chosen)
    if not every and left > 0:
        lines.append(style.item(f"and {left} more that are shown: --all lists every layer"))
    return lines


def _row(layer: JudgedLayer, style: _Style) -> list[str]:
    time, energy = layer.judged
    return [
        str(layer.second.index),
        style.foreign(layer.second.name, _NAME),
        amount(time.first, time.unit),
        amount(time.second, time.unit),
        percent(time.own),
        time.verdict,
        percent(energy.own),
        energy.verdict,
    ]


def _alone(name: str, rows: Sequence[LayerRow], style: _Style) -> str:
    known = [row.energy.gross_mj for row in rows if row.energy and row.energy.gross_mj is not None]
    energies = amount(sum(known), "mJ") if len(known) == len(rows) else ABSENT
    names = ", ".join(style.foreign(row.name, _NAME) for row in rows[:5])
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    time = ms(sum(row.mean_ms for row in rows))
    return f"only in {name}: {len(rows)} layers, {time} ms, {energies} together: {names}{more}"
