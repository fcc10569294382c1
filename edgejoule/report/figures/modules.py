"""Joules by module path: a flame graph (plotly's icicle) of the tree that `energy.rollup` makes.

    inference | model | layer1 | layer1.0 | conv1      each box as high as its energy
              |       | layer2 | ...
              | gap

Plotly wants parts that add up to their whole, and no negative ones. Measured ones may be negative
by noise. So each box is drawn from what stands in it alone, never less than nothing, and holds the
true figure in its label: `branchvalues` is `remainder`, under which plotly adds up by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgejoule.energy.rollup import Node, Rollup
from edgejoule.energy.rollup_amounts import Amount
from edgejoule.report.figures.figure import Figure
from edgejoule.report.figures.names import plain, wrapped
from edgejoule.report.figures.parts import GAP, best_rollup, method_words
from edgejoule.report.figures.style import ENERGY, NEUTRAL, PALETTE, counted, five, frame, unit_for
from edgejoule.report.tables import RunTables
from edgejoule.report.text import energy, ms, percent, power

MOST = 160  # boxes
_WORDS = {"inference": "inference", "unmapped": "in no known module", "gap": GAP}


@dataclass
class Box:
    """A box of the flame graph.

    Attributes:
        node: What it shows.
        parent: Index of the box it is in, None for the outermost.
        inner: What stands here alone, mJ, at least 0.
        children: Boxes in it.
        total: All in it, mJ, after nothing negative.
        below_zero: Whether its own energy came out below zero.
        hidden: Boxes in it that are too small to be drawn.
    """

    node: Node
    parent: int | None
    inner: float
    children: list[int] = field(default_factory=list)
    total: float = 0.0
    below_zero: bool = False
    hidden: int = 0


def module_figure(run: RunTables) -> Figure | None:
    """Return the flame graph; with nothing in it and the reason in the note if it cannot be."""
    rollup = best_rollup(run)
    if rollup is None:
        return None
    words = method_words(rollup)
    title = f"Joules by module ({words})"
    found = boxes(rollup.modules)
    why = _why_not(found, rollup)
    if why:
        layout = frame(
            run.marks,
            annotations=[
                {
                    "text": why,
                    "showarrow": False,
                    "xref": "paper",
                    "yref": "paper",
                    "x": 0.5,
                    "y": 0.5,
                }
            ],
            xaxis={"visible": False},
            yaxis={"visible": False},
        )
        return Figure("modules", title, f"Not drawn: {why}.", run.marks, (), layout, 120)
    shown = _largest(found)
    height = min(900, 280 + 9 * len(shown))
    data = _trace(found, shown, rollup, height)
    note = (
        "Gross energy per inference by module: each box is as high as what it and the modules in "
        "it take; a click opens it."
    )
    note += _remarks(found, shown, rollup)
    return Figure("modules", title, note, run.marks, (data,), _layout(run), height)


def boxes(nodes: Sequence[Node]) -> list[Box]:
    """Return the tree's boxes in its order, parents before children, with sums that hold."""
    found: list[Box] = []
    path: list[int] = []  # the boxes around the next one
    for place, node in enumerate(nodes):
        del path[node.depth :]
        own = node.own.gross_mj or 0.0
        box = Box(node, path[-1] if path else None, max(0.0, own), below_zero=own < 0)
        if box.parent is not None:
            found[box.parent].children.append(place)
        found.append(box)
        # The model is the inference less the gap: it gets no box around its modules.
        model = node.kind == "module" and not node.path and node.depth == 1
        path.append(path[-1] if model and path else place)
    for box in reversed(found):
        box.total += box.inner
        if box.parent is not None:
            found[box.parent].total += box.total
    return _chained(found)


def _chained(found: list[Box]) -> list[Box]:
    """Return the boxes without those that hold nothing but one other: `conv` around `conv.0`."""
    dropped = {
        place
        for place, box in enumerate(found)
        if box.node.kind == "module"
        and box.node.depth > 1
        and not box.below_zero
        and not box.inner
        and len(box.children) == 1
    }
    kept = [place for place in range(len(found)) if place not in dropped]
    places = {place: new for new, place in enumerate(kept)}

    def outer(place: int | None) -> int | None:
        while place in dropped:
            place = found[place].parent
        return None if place is None else places[place]

    boxes = [found[place] for place in kept]
    for box in boxes:
        box.parent = outer(box.parent)
        box.children = []
    for place, box in enumerate(boxes):
        if box.parent is not None:
            boxes[box.parent].children.append(place)
    return boxes


def _why_not(found: Sequence[Box], rollup: Rollup) -> str:
    if not found or found[0].total <= 0:
        return "no energy above zero is known"
    if not any(box.node.kind == "module" and box.node.depth > 1 for box in found):
        return "no layer says which module of the model it belongs to"
    if rollup.closure.gross_mj is None:
        return "the energy of the whole is not known"
    return ""


def _largest(found: Sequence[Box]) -> set[int]:
    """Return the boxes to draw; with a box the ones around it, which are at least as large."""
    order = sorted(range(len(found)), key=lambda place: (-found[place].total, place))
    shown = set(order[:MOST])
    shown = {place for place in shown if found[place].total > 0}
    for place, box in enumerate(found):
        if place not in shown and box.parent is not None and box.total > 0:
            around = box.parent
            while around not in shown:
                around = found[around].parent or 0
            found[around].hidden += 1
    return shown


def _trace(found: Sequence[Box], shown: set[int], rollup: Rollup, height: int) -> dict[str, object]:
    unit = unit_for((found[0].total,), ENERGY)
    ids, parents, labels, values, hover, colours = [], [], [], [], [], []
    branch: dict[int, str] = {}
    fork = _fork(found)
    for place, box in enumerate(found):
        if place not in shown:
            continue
        branch[place] = _colour(found, place, branch, fork)
        inside = [child for child in box.children if child in shown]
        left = max(0.0, box.total - sum(found[child].total for child in inside))
        ids.append(str(place))
        parents.append("" if box.parent is None else str(box.parent))
        labels.append(_label(box, found))
        hover.append(_hover(box, rollup))
        colours.append(branch[place])
        own_box = bool(inside) and left > 0 and _seen(left, found)
        values.append(unit.of(0.0 if inside and own_box else left))
        if own_box:  # otherwise its energy would be a hole without a name
            ids.append(f"{place} itself")
            parents.append(str(place))
            labels.append("(itself)" if not box.hidden else "(itself and small ones)")
            hover.append(_own_hover(box, left))
            colours.append(branch[place])
            values.append(unit.of(left))
    return {
        "type": "icicle",
        "ids": ids,
        "parents": parents,
        "labels": labels,
        "values": values,
        "branchvalues": "remainder",
        "sort": False,
        "tiling": {"orientation": "h", "pad": 1},
        "pathbar": {"visible": True, "thickness": 18, "textfont": {"size": 11}},
        "marker": {"colors": colours, "line": {"width": 0}},
        "textinfo": "label",
        "textfont": {"size": 11},
        "hoverinfo": "text",
        "hovertext": hover,
        # Above it stands the path to what was opened.
        "domain": {"x": [0, 1], "y": [0, five(1 - 22 / (height - 50))]},
    }


def _seen(energy_mj: float, found: Sequence[Box]) -> bool:
    return energy_mj > 1e-3 * found[0].total


def _fork(found: Sequence[Box]) -> int:
    """Return the box whose children differ in colour: where most energy parts for the first time.

    In a model that is one `features` with everything in it, that is `features`.
    """
    place = 0
    while True:
        large = [c for c in found[place].children if found[c].total > 0.75 * found[place].total]
        if not large or not found[large[0]].children:
            return place
        place = large[0]


def _colour(found: Sequence[Box], place: int, branch: dict[int, str], fork: int) -> str:
    """Return the colour of the branch, the grey for what stands beside the fork's."""
    box = found[place]
    if box.node.kind != "module" or box.parent is None or not box.node.path:
        return NEUTRAL
    if box.parent == fork:
        return PALETTE[found[fork].children.index(place) % len(PALETTE)]
    return branch[box.parent]


def _label(box: Box, found: Sequence[Box]) -> str:
    """Return the path from the box around it on."""
    node = box.node
    if node.kind != "module":
        return _WORDS[node.kind]
    if not node.path:
        return "the model itself"
    around = "" if box.parent is None else found[box.parent].node.path
    rest = node.path[len(around) + 1 :] if around else node.path
    return plain(rest, 24) or "(no name)"


def _hover(box: Box, rollup: Rollup) -> str:
    node = box.node
    if node.kind == "module" and not node.path:
        return _own_hover(box, box.total)
    name = _WORDS.get(node.kind) or wrapped(node.path or "the model")
    lines = [f"<b>{name}</b>", *_amount(node.total, rollup)]
    if box.hidden:
        lines.append(f"{box.hidden} smaller modules in it are not drawn")
    if node.outside:
        lines.append(f"{node.outside} layers in it are known only with others, farther out")
    if node.total.unresolved_mj:
        lines.append(f"{energy(node.total.unresolved_mj)} of it not resolved")
    if box.below_zero:
        lines.append("its own energy came out below zero (noise)")
    return "<br>".join(lines)


def _own_hover(box: Box, left_mj: float) -> str:
    node = box.node
    name = _WORDS.get(node.kind) or wrapped(node.path or "the model")
    what = "layers of its own, or of several modules in it"
    if node.kind == "inference":
        what = "layers in a known module together with others in none"
    return "<br>".join([f"<b>{name}</b>", what, energy(left_mj)])


def _amount(amount: Amount, rollup: Rollup) -> list[str]:
    lines = [f"gross {energy(amount.gross_mj, amount.gross_half_mj)}"]
    whole = rollup.closure.gross_mj
    if amount.gross_mj is not None and whole:
        lines[0] += f", {percent(amount.gross_mj / whole)} % of all"
    if amount.dynamic_mj is not None:
        lines.append(f"dynamic {energy(amount.dynamic_mj, amount.dynamic_half_mj)}")
    if amount.power_gross_mw is not None:
        lines.append(f"{ms(amount.time_ms)} ms at {power(amount.power_gross_mw)}")
    layers = amount.layers + amount.unknown
    lines.append(f"{layers} layer{'' if layers == 1 else 's'}")
    if amount.unknown:
        lines[-1] += f", {amount.unknown} without a figure"
    return lines


def _remarks(found: Sequence[Box], shown: set[int], rollup: Rollup) -> str:
    said = ""
    negative = sum(box.below_zero for box in found)
    if negative:
        said += f" Below zero by noise and so without a height of its own: {negative}."
    flat = sum(place not in shown and box.total > 0 for place, box in enumerate(found))
    if flat:
        said += f" The {flat} smallest are in the boxes around them."
    unknown = rollup.closure.unknown
    if unknown:
        said += f" Not in it: {counted(unknown, 'layer')} without a figure."
    return said


def _layout(run: RunTables) -> dict[str, object]:
    layout = frame(run.marks, uniformtext={"minsize": 9, "mode": "hide"})
    # An icicle keeps no room of its own.
    layout["margin"] = {**layout["margin"], "l": 4, "r": 4, "b": 6}
    return layout
