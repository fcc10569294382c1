"""The page of one run: its parts in order, each with figures, texts and small tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgejoule.report.block import Block
from edgejoule.report.figures.figure import Figure
from edgejoule.report.overview import Overview
from edgejoule.report.page.facts import configuration, files, head_facts, provenance
from edgejoule.report.page.layer_table import layer_table, without_energy
from edgejoule.report.page.prose import html
from edgejoule.report.page.sensor_table import calibration_facts, sensor_facts
from edgejoule.report.sections import blocks, command_of, imported
from edgejoule.report.tables import RunTables

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Text:
    """A block of the report as HTML.

    Attributes:
        title: Its heading, empty where the part's own says it.
        html: Its content.
        folded: Whether it is shown only on demand: the page says the same elsewhere.
    """

    title: str
    html: Markup
    folded: bool = False


@dataclass(frozen=True)
class Table:
    """A table of names and values.

    Attributes:
        title: Its heading, empty for none.
        rows: Name and value.
        note: Said before it, empty for nothing.
        short: Whether the values are short, so that several stand side by side.
    """

    title: str
    rows: Sequence[tuple[str, str]]
    note: str = ""
    short: bool = False


@dataclass(frozen=True)
class Part:
    """A part of a run's page.

    Attributes:
        key: Its place in the address.
        title: Its heading.
        figures: Number among the run's figures, and the figure.
        texts: Blocks of the report.
        tables: Names and values.
        layers: Whether the table of layers stands here.
        empty: What to say where there is nothing.
    """

    key: str
    title: str
    figures: tuple[tuple[int, Figure], ...] = ()
    texts: tuple[Text, ...] = ()
    tables: tuple[Table, ...] = ()
    layers: bool = False
    empty: str = ""

    @property
    def bare(self) -> bool:
        """Whether it has nothing to show."""
        return not (self.figures or self.texts or self.tables or self.layers)

    @property
    def said(self) -> str:
        """What to say of what is not there, empty where everything is."""
        return self.empty if self.bare or (self.key == "layers" and not self.layers) else ""


@dataclass(frozen=True)
class RunPage:
    """A run's page.

    Attributes:
        run: The run.
        overview: Its figures, None where nobody made them.
        facts: The figures at its head: name, value, remark.
        notes: What the measurement remarked.
        missing: What is not there.
        parts: In order.
        command: What measures it again, None where nothing is known.
        embedded: What the page's script needs of it: `figures` and `layers`.
        resolved: A line on how many layers have an energy of their own.
    """

    run: RunTables
    overview: Overview | None
    facts: Sequence[tuple[str, str, str]]
    notes: Sequence[str]
    missing: Sequence[str]
    parts: Sequence[Part]
    command: str | None
    embedded: Mapping[str, Any] = field(default_factory=dict)
    resolved: str = ""


# Key, title, figures, blocks, what to say where there is nothing.
_PARTS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...], str], ...] = (
    (
        "power",
        "Power and energy",
        ("power",),
        ("energy", "phases", "baselines"),
        "No power was recorded.",
    ),
    (
        "latency",
        "Latency",
        ("latency", "drift"),
        ("latency", "rate", "warmup"),
        "No latency was recorded.",
    ),
    (
        "layers",
        "Layers",
        ("layers-time", "layers-energy", "shares", "roofline"),
        ("unresolved", "slowest", "energy-layers"),
        "No times of layers were recorded.",
    ),
    (
        "modules",
        "Modules and operations",
        ("modules", "operations"),
        ("modules", "operations"),
        "No energies of layers, so none of modules and operations.",
    ),
    (
        "checks",
        "How far to trust it",
        (),
        ("methods", "checks", "duplication", "outputs"),
        "No checks were made.",
    ),
    (
        "conditions",
        "Clocks, temperatures, loads",
        ("climate", "loads"),
        ("memory",),
        "No clocks, temperatures or loads were recorded.",
    ),
    ("sensor", "The sensor", ("lateness",), ("sampler",), "No power sensor was read."),
    ("provenance", "Where it comes from", (), ("provenance", "repeat"), ""),
)
# What the page shows in another form: the table of layers, the sensor's, provenance.
_ELSEWHERE = ("sampler", "provenance", "repeat")
_FOLDED = ("slowest", "energy-layers")


def run_page(run: RunTables, overview: Overview | None, figures: Sequence[Figure]) -> RunPage:
    """Return the page of a run."""
    missing = dict.fromkeys([*run.missing, *run.series.missing])
    reasons = () if overview is None else overview.reasons
    return RunPage(
        run,
        overview,
        head_facts(run, overview),
        [note for note in (*run.notes, *imported(run)) if note not in reasons],
        [text for text in missing if not {text, f"missing: {text}"} & set(reasons)],
        _parts(run, figures),
        command_of(run),
        {"figures": drawn(figures), "layers": layer_table(run)},
        without_energy(run),
    )


def drawn(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """Return what the page's script needs of each figure."""
    return [
        {"key": one.key, "marks": one.marks, "data": one.data, "layout": one.layout}
        for one in figures
    ]


def _parts(run: RunTables, figures: Sequence[Figure]) -> list[Part]:
    said = {block.key: block for block in blocks(run)}
    if not run.layers:
        said.pop("slowest", None)  # the part itself says it
    numbered = {figure.key: (number, figure) for number, figure in enumerate(figures)}
    parts = []
    for key, title, shown, keys, empty in _PARTS:
        parts.append(
            Part(
                key,
                title,
                tuple(numbered.pop(name) for name in shown if name in numbered),
                tuple(
                    _text(said[name], title)
                    for name in keys
                    if name in said and name not in _ELSEWHERE
                ),
                tuple(_tables(key, run)),
                key == "layers" and bool(run.layers),
                empty,
            )
        )
    placed = {name for _, _, _, keys, _ in _PARTS for name in keys}
    rest = tuple(_text(block, "") for name, block in said.items() if name not in placed)
    if rest or numbered:
        parts.insert(-1, Part("other", "More", tuple(numbered.values()), rest))
    return parts


def _text(block: Block, part: str) -> Text:
    own = "" if block.title == part or block.of_list else block.title
    title = block.title if block.key == "unresolved" else own
    return Text(title, html(block.markdown), block.key in _FOLDED)


def _tables(key: str, run: RunTables) -> list[Table]:
    if key == "sensor":
        facts = sensor_facts(run)
        return [Table("", [*facts, *calibration_facts(run)])] if facts else []
    if key == "provenance":
        found = [
            Table("Machine and software", provenance(run)),
            Table("Configuration", configuration(run), short=True),
            Table("Files", files(run), "SHA-256, size and rows, as run.json states them."),
        ]
        return [table for table in found if table.rows]
    return []
