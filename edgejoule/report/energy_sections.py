"""Where the energy goes, in `report.md`: methods, layers, modules, operations, checks.

Pure functions from `RunTables` to Markdown. Every figure of energy or power stands under a header
or in a line that says where it is simulated.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgejoule.energy.rollup import Node, Rollup
from edgejoule.energy.rollup_amounts import SUMMED, Amount, Piece
from edgejoule.energy.roofline import roof_of
from edgejoule.report.attribution import (
    TELL_APART,
    WORDS,
    MethodFigures,
    board_line,
    duplication,
    duplication_line,
    inference_line,
    method_figures,
    observer_lines,
    systematic_line,
    unresolved_lines,
)
from edgejoule.report.block import Block, items
from edgejoule.report.energies import best_of
from edgejoule.report.tables import LayerRow, RunTables
from edgejoule.report.text import (
    ABSENT,
    edp,
    energy,
    markdown,
    markdown_table,
    ms,
    percent,
    power,
)

PROPORTIONAL = "proportional"
MOST_LAYERS = 10
MOST_MODULES = 30
# A module that takes less is left to the tables.
LEAST_SHARE = 0.005


def energy_blocks(run: RunTables) -> list[Block]:
    """Return every block about energies of layers that the run has figures for."""
    rollup = best_rollup(run)
    word = "simulated " if run.simulated else ""
    found = [
        _methods(run),
        _list("unresolved", "Not resolved, and why", unresolved_lines(run, word)),
        _list("checks", "What else was found", _lines(run, word)),
        _duplication(run),
    ]
    if rollup is not None:
        if rollup.method != PROPORTIONAL:  # the slowest layers say the same of that one
            found.append(_layers(run, rollup))
        found += [_modules(run, rollup), _operations(run, rollup)]
    return [block for block in found if block is not None]


def _list(key: str, title: str, lines: Sequence[str | None]) -> Block:
    said = [markdown(line[0].upper() + line[1:]) for line in lines if line]
    return Block(key, title, items(said), of_list="energy")


def best_rollup(run: RunTables) -> Rollup | None:
    """Return the energies of the best method, None where there are none."""
    return best_of(run.rollups)


def mark_of(run: RunTables) -> str:
    """Return what stands behind every figure of simulated energy."""
    return " (simulated)" if run.simulated else ""


def piece_name(piece: Piece, layers: dict[int, LayerRow], width: int = 60) -> str:
    """Return a layer's name, or the names of a group's layers that fit `width`; not escaped."""
    if piece.kind == "gap":
        return "(gap: in no layer)"
    names = [layers[one].name if one in layers else f"layer {one}" for one in piece.layers]
    if len(names) == 1:
        return names[0]
    for shown in range(len(names), 0, -1):
        more = f" and {len(names) - shown} more" if shown < len(names) else ""
        text = f"{len(names)} layers together: {', '.join(names[:shown])}{more}"
        if len(text) <= width:
            return text
    return f"{len(names)} layers together"


def share_of(amount: Amount, whole: Amount) -> float | None:
    """Return an amount's share of the sum of everything, of the gross energy."""
    if amount.gross_mj is None or not whole.gross_mj:
        return None
    return amount.gross_mj / whole.gross_mj


def _methods(run: RunTables) -> Block | None:
    found = method_figures(run)
    if not found:
        return None
    mark = mark_of(run)
    header = ["method", "rail", "layers resolved", "share of the energy", "groups"]
    header += [f"closure gross %{mark}", f"closure dynamic %{mark}", f"not fitted %{mark}"]
    header += [f"other rule %{mark}", "layers' time in the sum"]
    rows = [
        [
            markdown(WORDS.get(one.method, one.method)),
            markdown(one.rail),
            one.resolved,
            ABSENT if one.resolved_share is None else f"{percent(one.resolved_share)} %",
            str(len(one.groups)) if one.groups else ABSENT,
            *(str(part) for part in (one.gross, one.dynamic, one.held_out, one.other_rule)),
            _covered(one),
        ]
        for one in found
    ]
    text = (
        "Energy of layers, each method by itself. Closure is the sum of layers, groups and gap "
        "over the inference as measured; *not fitted*: on blocks of time that were not fitted; "
        "*other rule*: power above idle alone times the time in the network. Where layers are "
        "missing in the sum it is no closure: it says how much the others are of the inference:"
    )
    table = markdown_table(header, rows, {2, 3, 4, 5, 6, 7, 8})
    return Block("methods", "Energy of layers, each method by itself", f"{text}\n\n{table}")


def _covered(found: MethodFigures) -> str:
    """Return how much of the layers' time is in a method's sum, and how many layers are not."""
    if not found.missing:
        return ABSENT if found.time_share is None else f"{percent(found.time_share)} %"
    of = "" if found.time_share is None else f"{percent(found.time_share)} %, "
    return f"{of}{found.missing} missing"


def _lines(run: RunTables, word: str) -> list[str | None]:
    lines = [board_line(run), inference_line(run, word), systematic_line(run, "±", word)]
    return [*lines, *observer_lines(run), _roof_line(run)]


def _roof_line(run: RunTables) -> str:
    said = run.summary.get("roofline")
    if said is None:
        return ""
    roof = roof_of(said)
    peaks = []
    if roof.gflops_per_s is not None:
        peaks.append(f"{roof.gflops_per_s:.4g} GFLOP/s in {roof.dtype or 'an unknown dtype'}")
    if roof.gbytes_per_s is not None:
        peaks.append(f"{roof.gbytes_per_s:.4g} GB/s")
    if not peaks:
        return f"measured roofline: none, {roof.how}"
    ridge = "" if roof.ridge is None else f"; they meet at {roof.ridge:.3g} FLOP per byte"
    return f"measured roofline: {', '.join(peaks)}{ridge} ({roof.how})"


def _duplication(run: RunTables) -> Block | None:
    found = duplication(run)
    if not found:
        return None
    mark = mark_of(run)
    header = ["layer", "copies", f"one more execution{mark}", f"attributed{mark}"]
    header += [f"ratio %{mark}", "remark"]
    rows = [
        [
            markdown(one.name, 60),
            markdown(one.copies),
            energy(one.slope_mj, one.slope_half_mj),
            energy(one.attributed_mj),
            str(one.ratio),
            markdown("; ".join(filter(None, ["outlier" if one.outlier else "", one.why])), 80),
        ]
        for one in found
    ]
    line = duplication_line(found)
    text = f"{markdown(line[0].upper() + line[1:])}. Energies above idle:"
    table = markdown_table(header, rows, {2, 3, 4})
    return Block("duplication", "Duplication check", f"{text}\n\n{table}")


def _layers(run: RunTables, rollup: Rollup) -> Block:
    known = {layer.index: layer for layer in run.layers}
    pieces = [one for one in rollup.pieces if one.amount.gross_mj is not None]
    pieces = [one for one in pieces if one.kind != "gap"]
    pieces.sort(key=lambda one: -(one.amount.gross_mj or 0.0))
    mark = mark_of(run)
    header = ["#", "layer", "module path", f"gross{mark}", f"dynamic{mark}", "share %"]
    header += [f"mean power{mark}", f"energy-delay{mark}", "GFLOP/s", f"GFLOP/J{mark}"]
    header += ["bound", "of the roof %"]
    rows = []
    for rank, piece in enumerate(pieces[:MOST_LAYERS], 1):
        amount = piece.amount
        row = known.get(piece.layers[0]) if len(piece.layers) == 1 else None
        name = piece_name(piece, known)
        unresolved = " (not resolved)" if piece.resolved is False else ""
        rows.append(
            [
                str(rank),
                f"{markdown(name, 60)}{unresolved}",
                markdown(row.module if row is not None else ABSENT, 40),
                energy(amount.gross_mj, amount.gross_half_mj),
                energy(amount.dynamic_mj, amount.dynamic_half_mj),
                percent(share_of(amount, rollup.closure)),
                power(amount.power_gross_mw),
                edp(amount.edp_uj_s),
                *_roofline(row),
            ]
        )
    word = WORDS.get(rollup.method, rollup.method)
    title = f"Most energy, {len(rows)} of {rollup.layers} layers, by {word} on "
    title += f"{markdown(rollup.rail)}, per inference of the profiled pass:"
    table = markdown_table(header, rows, {0, 3, 4, 5, 6, 7, 8, 9, 11})
    text = "\n\n".join([title, table, *_remarks(run, rollup)])
    return Block("energy-layers", "Layers that take most energy", text)


def _roofline(row: LayerRow | None) -> list[str]:
    if row is None:
        return [ABSENT] * 4
    under = row.roofline
    return [
        _short(under.gflops_per_s),
        _short(under.gflop_per_joule),
        under.bound or ABSENT,
        roof_share(row),
    ]


def roof_share(row: LayerRow) -> str:
    """Return how near a layer comes to the roof, in percent, marked where it is above."""
    share = percent(row.roofline.share)
    return f"{share} (above)" if row.roofline.note else share


def _short(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3g}"


def _remarks(run: RunTables, rollup: Rollup) -> list[str]:
    """Say what stands in no row: layers without a figure, and layers above the roof."""
    known = {layer.index: layer for layer in run.layers}
    said = []
    without = [one for one in rollup.pieces if one.amount.unknown]
    if without and rollup.method not in TELL_APART:
        count = sum(one.amount.unknown for one in without)
        reasons = sorted({one.why for one in without if one.why})
        why = f": {markdown('; '.join(reasons), 200)}" if reasons else ""
        said.append(f"{count} layer{'' if count == 1 else 's'} without any energy{why}.")
    above: dict[str, list[str]] = {}
    for layer in known.values():
        if layer.roofline.note:
            above.setdefault(layer.roofline.note, []).append(layer.name)
    for note, names in above.items():
        some = ", ".join(markdown(name, 60) for name in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        said.append(f"{note[0].upper()}{note[1:]} ({some}{more}).")
    return said


def _amount_cells(amount: Amount, whole: Amount) -> list[str]:
    return [
        str(amount.layers + amount.unknown),
        ms(amount.time_ms),
        energy(amount.gross_mj, amount.gross_half_mj),
        energy(amount.dynamic_mj, amount.dynamic_half_mj),
        percent(share_of(amount, whole)),
        power(amount.power_gross_mw),
        edp(amount.edp_uj_s),
    ]


def _amount_header(mark: str) -> list[str]:
    header = ["layers", "ms", f"gross{mark}", f"dynamic{mark}", "share %"]
    return [*header, f"mean power{mark}", f"energy-delay{mark}"]


def _modules(run: RunTables, rollup: Rollup) -> Block | None:
    shown = shown_modules(rollup)
    if len([one for one in shown if one.kind == "module"]) < 2:
        return None
    rows = []
    for node in shown:
        remarks = []
        if node.outside:
            remarks.append(f"{node.outside} layers known only with others, farther up")
        if node.total.unresolved_mj:
            remarks.append(f"{energy(node.total.unresolved_mj)} of it not resolved")
        if node.total.unknown:
            remarks.append(f"{node.total.unknown} layers without a figure")
        cells = _amount_cells(node.total, rollup.closure)
        rows.append([markdown(node_name(node), 60), *cells, "; ".join(remarks)])
    header = ["module", *_amount_header(mark_of(run)), "remark"]
    hidden = len(rollup.modules) - len(shown)
    more = f" ({hidden} smaller or deeper ones are in `data_version.py tables`)" if hidden else ""
    text = (
        f"Energy of modules with all below them, {_by(rollup)}{more}; the half-width of a module "
    )
    text += f"is {'the ' if rollup.interval == SUMMED else ''}{rollup.interval}, that of "
    text += "everything is the method's own:"
    table = markdown_table(header, rows, {1, 2, 3, 4, 5, 6, 7})
    return Block("modules", "Energy of modules", f"{text}\n\n{table}")


def shown_modules(rollup: Rollup) -> list[Node]:
    """Return the part of the tree that fits a page: as deep as there is room, nothing tiny."""
    counts = [
        node
        for node in rollup.modules
        if node.kind != "module"
        or node.depth == 1
        or (share_of(node.total, rollup.closure) or 0.0) >= LEAST_SHARE
        or node.total.unknown
    ]
    depth = max((node.depth for node in counts), default=0)
    while depth > 1 and sum(node.depth <= depth for node in counts) > MOST_MODULES:
        depth -= 1
    fitting = [node for node in counts if node.depth <= depth]
    beside = [node for node in fitting if node.kind in ("unmapped", "gap")]
    tree = [node for node in fitting if node.kind not in ("unmapped", "gap")]
    return [*tree[: MOST_MODULES - len(beside)], *beside]


def node_name(node: Node) -> str:
    """Return a module's path, or what stands beside the modules in words."""
    words = {"inference": "(everything)", "unmapped": "(unmapped)", "gap": "(gap: in no layer)"}
    return words.get(node.kind) or node.path or "(the model)"


def _operations(run: RunTables, rollup: Rollup) -> Block:
    rows = [
        [markdown(one.name, 60), *_amount_cells(one.amount, rollup.closure)]
        for one in rollup.operations
    ]
    table = markdown_table(["operation", *_amount_header(mark_of(run))], rows, set(range(1, 8)))
    text = f"Energy of operations, {_by(rollup)}:"
    return Block("operations", "Energy of operations", f"{text}\n\n{table}")


def _by(rollup: Rollup) -> str:
    if rollup.method == PROPORTIONAL:
        return "in proportion to time, which tells no layer's power from another's"
    return f"by {WORDS.get(rollup.method, rollup.method)}"
