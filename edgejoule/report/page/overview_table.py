"""The page's table of runs: which columns, and what stands in each cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgejoule.report.overview import Overview
from edgejoule.report.text import ABSENT, ms, percent, printable

# A word in the header, or with each figure where only some of the runs are simulated.
SIMULATED = "simulated"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What it says.
        sort: What it is sorted by: a number, a text, or None, which comes last.
        below: What belongs to the figure and stands below it, empty for nothing.
        mark: What must stand with the figure, empty for nothing.
    """

    text: str = ABSENT
    sort: float | str | None = None
    below: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: Its name in the page.
        title: Its heading.
        unit: The unit, in the heading.
        mark: What must stand with all its figures, empty for nothing.
        help: What it means, one sentence.
        numeric: Whether it holds numbers.
        narrow: Whether a phone shows it at once.
        filtered: Whether there is a drop-down for it.
    """

    key: str
    title: str
    help: str
    unit: str = ""
    mark: str = ""
    numeric: bool = False
    narrow: bool = False
    filtered: bool = False


@dataclass(frozen=True)
class Row:
    """One run: its overview, its place among the pages of runs (None: it has none), its cells."""

    overview: Overview
    index: int | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class OverviewTable:
    """The table.

    Attributes:
        columns: What is shown; the run's name and its verdict stand before.
        rows: The runs.
        common: Heading and value of each text column in which all runs agree, left out above.
        filters: Heading, key and values of each drop-down.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    common: tuple[tuple[str, str], ...]
    filters: tuple[tuple[str, str, tuple[str, ...]], ...]


_Of = Callable[[Overview], Cell]
# Key, title, unit, meaning, whether a phone shows it, whether it comes from power, cell.
_Figure = tuple[str, str, str, str, bool, bool, _Of]

# Heading and meaning, whether there is a drop-down for it, its value.
_BEFORE: tuple[tuple[Column, Callable[[Overview], object]], ...] = (
    (Column("model", "network", "As asked for", filtered=True), lambda o: o.model),
    (Column("dtype", "precision", "Type of the numbers", filtered=True), lambda o: o.dtype),
    (Column("backend", "runtime", "What ran it", filtered=True), lambda o: o.backend),
    (Column("mode", "mode", "The board's power mode", filtered=True), lambda o: o.mode),
    (Column("board", "board", "Board or machine", filtered=True), lambda o: o.board),
    (Column("batch", "batch", "Images of an inference"), lambda o: o.batch),
)
_BEHIND: tuple[tuple[Column, Callable[[Overview], object]], ...] = (
    (Column("device", "device", "GPU or CPU it ran on"), lambda o: o.device),
)


def overview_table(overviews: Sequence[Overview], names: Sequence[str]) -> OverviewTable:
    """Return the table.

    Args:
        overviews: One per run, in the order in which they are shown first.
        names: The runs that have a page, in its order.
    """
    places = {name: index for index, name in reversed(list(enumerate(names)))}
    shown: list[tuple[Column, list[Cell]]] = []
    common, filters = [], []
    for group in (_BEFORE, _BEHIND):
        for column, of in group:
            cells = [_text(of(one)) for one in overviews]
            texts = sorted({cell.text for cell in cells})
            if texts == [ABSENT]:
                continue
            if len(texts) == 1 and len(cells) > 1:
                common.append((column.title, texts[0]))
                continue
            shown.append((column, cells))
            if column.filtered and len(texts) > 1:
                filters.append((column.title, column.key, tuple(texts)))
        if group is _BEFORE:
            shown += _figures(overviews)
    known = {one.verdict for one in overviews}
    verdicts = tuple(word for word in ("sound", "look", "broken") if word in known)
    if len(verdicts) > 1:
        filters.append(("verdict", "verdict", verdicts))
    rows = tuple(
        Row(one, places.get(one.run), tuple(cells[number] for _, cells in shown))
        for number, one in enumerate(overviews)
    )
    return OverviewTable(tuple(column for column, _ in shown), rows, tuple(common), tuple(filters))


def _text(value: object) -> Cell:
    if value is None or value == "":
        return Cell()
    text = printable(value)
    return Cell(text, float(value) if isinstance(value, int) else text.casefold())


def _figures(overviews: Sequence[Overview]) -> list[tuple[Column, list[Cell]]]:
    """Return the columns of figures, all of them: what no run has is said to be absent."""
    whole = bool(overviews) and all(one.simulated for one in overviews)
    joules, scale = _joules(overviews)
    found = []
    for key, title, unit, meaning, narrow, of_power, cell in (*_TIMES, *_powers(joules, scale)):
        mark = SIMULATED if of_power and whole else ""
        column = Column(key, title, meaning, unit, mark, True, narrow)
        shown = _marked(cell, each=not whole) if of_power else cell
        found.append((column, [shown(one) for one in overviews]))
    return found


def _powers(joules: str, scale: float) -> tuple[_Figure, ...]:
    """Return the columns that come from power, and what else stands among them."""
    return (
        (
            "gross",
            "gross",
            joules,
            "Energy per inference of the clean pass, idle included; 95 % within this process",
            True,
            True,
            lambda o: _energy(o.gross_mj, o.gross_half_mj, scale),
        ),
        (
            "dynamic",
            "dynamic",
            joules,
            "Energy per inference above idle with the engine loaded",
            True,
            True,
            lambda o: _energy(o.dynamic_mj, o.dynamic_half_mj, scale),
        ),
        *_REST,
    )


def _marked(cell: _Of, *, each: bool) -> _Of:
    """Return what gives the cell with the word behind its figure, where the run is simulated."""

    def marked(one: Overview) -> Cell:
        made = cell(one)
        told = each and one.simulated and made.sort is not None
        return replace(made, mark=SIMULATED) if told else made

    return marked


def _joules(overviews: Sequence[Overview]) -> tuple[str, float]:
    """Return one unit for all energies: a column of several cannot be read down."""
    known = [abs(one.gross_mj) for one in overviews if one.gross_mj]
    return ("J", 1e-3) if known and min(known) >= 1000 else ("mJ", 1.0)


def _ms(name: str) -> Callable[[Overview], Cell]:
    return lambda one: _number(getattr(one, name), ms)


def _number(value: float | None, text: Callable[[float], str]) -> Cell:
    return Cell() if value is None else Cell(text(value), float(value))


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def _energy(value_mj: float | None, half_mj: float | None, scale: float) -> Cell:
    if value_mj is None:
        return Cell()
    half = "" if half_mj is None else f"± {half_mj * scale:.2g}"
    return Cell(_short(value_mj * scale), value_mj, half)


def _memory(one: Overview) -> Cell:
    if one.memory_mib is None:
        return Cell()
    limit = "" if one.memory_limit_mib is None else f"of {one.memory_limit_mib:.0f}"
    return Cell(f"{one.memory_mib:.0f}", one.memory_mib, limit)


def _duplication(one: Overview) -> Cell:
    if one.duplication_slope is None:
        return Cell()
    count = one.duplication_layers
    layers = "" if count is None else f"{count} layer{'' if count == 1 else 's'}"
    return Cell(percent(one.duplication_slope), one.duplication_slope, layers)


_TIMES: tuple[_Figure, ...] = (
    ("p50", "p50", "ms", "Median latency of the clean pass", True, False, _ms("p50_ms")),
    ("p90", "p90", "ms", "Ninetieth percentile", False, False, _ms("p90_ms")),
    ("p99", "p99", "ms", "Ninety-ninth percentile", True, False, _ms("p99_ms")),
    (
        "throughput",
        "rate",
        "1/s",
        "Images per second of the clean pass",
        False,
        False,
        lambda o: _number(o.throughput_hz, ms),
    ),
)
_REST: tuple[_Figure, ...] = (
    (
        "mean",
        "mean",
        "W",
        "Average power of the clean pass",
        True,
        True,
        lambda o: _number(o.mean_w, _short),
    ),
    (
        "peak",
        "peak",
        "W",
        "Greatest single reading of clean and profiled pass",
        False,
        True,
        lambda o: _number(o.peak_w, _short),
    ),
    ("memory", "memory", "MiB", "Most memory, of its limit", True, False, _memory),
    (
        "temperature",
        "hottest",
        "°C",
        "Greatest temperature during the run",
        True,
        False,
        lambda o: _number(o.temperature_c, lambda value: f"{value:.1f}"),
    ),
    (
        "closure",
        "closure",
        "%",
        "Energy of layers and gap over that of the inference measured apart; below it how "
        "energies of layers were found",
        True,
        True,
        lambda o: replace(_number(o.closure_gross, percent), below=printable(o.method or "")),
    ),
    (
        "duplication",
        "dupl. slope",
        "%",
        "Duplication slope: what one more execution of a layer costs, over what was attributed "
        "to it; median",
        True,
        True,
        _duplication,
    ),
)
