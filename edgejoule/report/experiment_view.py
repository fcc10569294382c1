"""The live view of a run that is being measured: pure functions from a state to text.

    view_lines  the panel as lines of (text, style), none wider than asked
    run_view    the same as a rich renderable
    plain_line  one line, where there is no terminal

    resnet18  SIMULATED power  random weights   network 2 of 20   for 1 min
    6/13 clean pass  [########--------]  350 of 1000, 45.2/s, 12 s left
    latency 12.3 ms  ..::--==  last minute, up to 14.2 ms
    VDD_IN (total) 5.31 W ########   mean 5.2 W   VDD_SOC 1.1 W ##   mean 1.1 W
    temperature 45.2 C (cpu)   not throttled   memory 412 MiB, 3.1 GiB free
    left: about 4 min for this network, about 1 h 12 min for all

Nothing here reads a clock, a file or a sensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len

from edgejoule.report.live import RailView, bar, sparkline, watts
from edgejoule.report.progress import duration, per_second
from edgejoule.report.text import ABSENT, ms, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

SIMULATED = "SIMULATED power"

Piece = tuple[str, str]
Line = tuple[Piece, ...]

_SEPARATOR = "   "
_RAIL_LINES = 3
_RAIL_COLUMNS = 3
_RAIL_NAMES = (6, 20)
_RAIL_BARS = (4, 16)
_NOW_WIDTH = 8
_MEAN_WIDTH = 13  # `mean` and a power
_PHASE_BARS = (8, 24)
_LATENCY_LINES = (8, 60)
_ZONES = 3
_NARROW = 60


@dataclass(frozen=True)
class RunView:
    """Everything that the live view shows; None where it is not known.

    Attributes:
        model: What is measured.
        marks: What must stand wherever its figures do: simulated power, random weights.
        network: Which network of an experiment, from 1, and of how many.
        run: Which repeat, from 1, and of how many; None where there is one.
        phase: The phase, for people.
        phase_number: Which phase of the run, from 1, and of how many.
        spent_s: How long it lasts already.
        took_s: How long it took in an earlier run, where that is worth saying.
        done: Inferences done in it.
        total: Out of how many.
        rate_hz: Inferences a second.
        phase_left_s: What is left of the phase.
        latency_ms: Median of the last inferences.
        latencies_ms: That of each of the last seconds, the newest last.
        has_power: Whether there is a power trace.
        rails: The rails in the sensor's order; `mean_mw` is that of the phase.
        total_power: Their sum, None where it is not known; a sum of one rail bears its name.
        temperatures_c: The zones, the hottest first.
        throttled: What slows something down now, None where nothing tells.
        memory_mib: Resident memory of the measuring process.
        available_mib: Memory that is left on the machine.
        network_left_s: What is left of this network, its repeats included.
        whole_left_s: What is left of the experiment.
    """

    model: str
    marks: tuple[str, ...] = ()
    network: tuple[int, int] | None = None
    run: tuple[int, int] | None = None
    phase: str = ""
    phase_number: tuple[int, int] | None = None
    spent_s: float = 0.0
    took_s: float | None = None
    done: int = 0
    total: int | None = None
    rate_hz: float | None = None
    phase_left_s: float | None = None
    latency_ms: float | None = None
    latencies_ms: tuple[float | None, ...] = ()
    has_power: bool = False
    rails: tuple[RailView, ...] = ()
    total_power: RailView | None = None
    temperatures_c: tuple[tuple[str, float], ...] = ()
    throttled: tuple[str, ...] | None = None
    memory_mib: float | None = None
    available_mib: float | None = None
    network_left_s: float | None = None
    whole_left_s: float | None = None


def run_view(state: RunView, width: int, *, ascii_only: bool = False) -> RenderableType:
    """Return the panel for a terminal of `width` columns as a rich renderable.

    Args:
        state: What is shown.
        width: Columns.
        ascii_only: Use nothing beyond ASCII.
    """
    from rich.console import Group
    from rich.text import Text

    lines = view_lines(state, width, ascii_only=ascii_only)
    return Group(*(Text.assemble(*line, no_wrap=True) for line in lines))


def view_lines(state: RunView, width: int, *, ascii_only: bool = False) -> list[Line]:
    """Return the panel as lines of pieces, none wider than `width` cells.

    Args:
        state: What is shown.
        width: Columns.
        ascii_only: Use nothing beyond ASCII, not even for names.
    """
    lines = [
        *_title(state, width),
        _phase(state, width, ascii_only),
        *_latency(state, width, ascii_only),
        *_power(state, width, ascii_only),
        *_heat(state, width, ascii_only),
        _left(state, width),
    ]
    return [_cut(line, width, ascii_only) for line in lines if line]


def plain_line(state: RunView) -> str:
    """Return the state as one line of plain text."""
    of = f" ({_of(state.phase_number)})" if state.phase_number else ""
    parts = [f"{printable(state.model)}: {state.phase}{of}"]
    if state.network:
        parts.append(f"network {_of(state.network)}")
    if state.run:
        parts.append(f"run {_of(state.run)}")
    parts += _phase_facts(state)
    if state.latency_ms is not None:
        parts.append(f"latency {ms(state.latency_ms)} ms")
    shown = [state.total_power] if state.total_power is not None else list(state.rails)
    parts += [f"{printable(row.name)} {watts(row.now_mw)}" for row in shown]
    parts += [f"{zone} {value:.0f} C" for zone, value in _hottest(state, 1)]
    if state.throttled:
        parts.append("throttled: " + " ".join(map(printable, state.throttled)))
    if state.network_left_s is not None:
        parts.append(f"about {duration(state.network_left_s)} for this network")
    if state.whole_left_s is not None:
        parts.append(f"about {duration(state.whole_left_s)} for all")
    return ", ".join([*parts, *map(printable, state.marks)])


def _title(state: RunView, width: int) -> list[Line]:
    """Return the model with its marks, and where it stands in the experiment: a line, or two."""
    facts = []
    if state.network:
        facts.append(f"network {_of(state.network)}")
    if state.run:
        facts.append(f"run {_of(state.run)}")
    marks = [f" {printable(mark)} " for mark in state.marks]
    # What the figures are not is worth more than the whole of a name.
    room = max(8, width - sum(cell_len(text) + 2 for text in marks))
    line: list[Piece] = [(_shortened(state.model, room), "bold")]
    for mark in marks:
        line += [("  ", ""), (mark, "bold reverse yellow" if "SIMULATED" in mark else "reverse")]
    if not facts:
        return [tuple(line)]
    place = _SEPARATOR.join(facts)
    if sum(cell_len(text) for text, _ in line) + len(_SEPARATOR + place) <= width:
        return [(*line, (_SEPARATOR + place, ""))]
    return [tuple(line), ((place, ""),)]


def _phase(state: RunView, width: int, ascii_only: bool) -> Line:
    number = f"{state.phase_number[0]}/{state.phase_number[1]} " if state.phase_number else ""
    name = number + state.phase
    facts = _phase_facts(state)
    share = _share(state)
    least, most = _PHASE_BARS
    while True:
        text = ", ".join(facts)
        room = width - len(name) - len(text) - 4
        if room >= (least if share is not None else 0) or len(facts) < 2:
            break
        facts.pop(1 if len(facts) > 2 else -1)  # the rate first, then the rest from the end
    line: list[Piece] = [(name, "bold")]
    if share is not None and room >= least:
        drawn = bar(share, min(most, room), ascii_only=ascii_only)
        empty = "-" if ascii_only else "\u2500"
        filled = drawn.rstrip(" ")
        line += [("  ", ""), (filled, "cyan"), (empty * (len(drawn) - len(filled)), "dim")]
    return (*line, ("  " + text, ""))


def _phase_facts(state: RunView) -> list[str]:
    """Return what is said of a phase: count, rate, time."""
    facts = []
    if state.total:
        facts.append(f"{state.done} of {state.total}")
    elif state.done:
        facts.append(f"{state.done} done")
    if state.rate_hz is not None and state.done:
        facts.append(per_second(state.rate_hz))
    if state.took_s is not None:
        facts.append(f"for {duration(state.spent_s)}, took about {duration(state.took_s)} before")
    elif state.phase_left_s is not None and (state.phase_left_s > 0 or state.total):
        facts.append(f"{duration(state.phase_left_s)} left")
    else:
        facts.append(f"for {duration(state.spent_s)}")
    return facts


def _share(state: RunView) -> float | None:
    """Return how much of the phase is done, None where that is not known."""
    if state.total:
        return state.done / state.total
    if state.took_s is not None:
        return state.spent_s / state.took_s if state.took_s > 0 else 1.0
    if state.phase_left_s is None:
        return None
    whole = state.spent_s + state.phase_left_s
    return state.spent_s / whole if whole > 0 else 1.0


def _latency(state: RunView, width: int, ascii_only: bool) -> list[Line]:
    known = [value for value in state.latencies_ms if value is not None]
    if state.latency_ms is None and not known:
        return []
    now = ABSENT if state.latency_ms is None else f"{ms(state.latency_ms)} ms"
    text = f"latency {now:<{_NOW_WIDTH}}"
    top = max(known, default=0.0)
    note = f"  last minute, up to {ms(top)} ms" if known else ""
    least, most = _LATENCY_LINES
    room = width - len(text) - 2
    if room - len(note) < least:
        note = ""
    wide = min(most, room - len(note), len(state.latencies_ms))
    if wide < least or not known:
        return [((text.rstrip(), ""),)]
    course = sparkline(state.latencies_ms[-wide:], wide, top, ascii_only=ascii_only)
    return [((text, ""), ("  ", ""), (course, "green"), (note, "dim"))]


def _power(state: RunView, width: int, ascii_only: bool) -> list[Line]:
    """Return the total and the rails, several in a line where they fit, three lines at most."""
    if not state.has_power:
        return []
    rows = _rows(state)
    if not rows:
        return [(("power: waiting for readings", "dim"),)]
    least, most = _RAIL_NAMES
    narrowest = _NOW_WIDTH + _RAIL_BARS[0] + _MEAN_WIDTH + 3
    most = max(least, min(most, width - narrowest))
    names = min(most, max(cell_len(printable(row.name)) for row in rows))
    columns = max(1, min(_RAIL_COLUMNS, (width + 3) // (names + narrowest + 3)))
    columns = min(columns, -(-len(rows) // min(_RAIL_LINES, len(rows))))
    room = (width - 3 * (columns - 1)) // columns
    top = max([row.max_mw or 0.0 for row in rows], default=0.0)
    cells = [_rail(row, names, room, top, ascii_only, row is state.total_power) for row in rows]
    if len(cells) > _RAIL_LINES * columns:
        left = len(cells) - _RAIL_LINES * columns + 1
        cells = [*cells[: _RAIL_LINES * columns - 1], ((f"and {left} more rails", "dim"),)]
    lines = []
    for at in range(0, len(cells), columns):
        line: list[Piece] = []
        for number, cell in enumerate(cells[at : at + columns]):
            line += [*([(_SEPARATOR, "")] if number else []), *cell]
        lines.append(tuple(line))
    return lines


def _rows(state: RunView) -> list[RailView]:
    """Return the total and the rails, a rail that is the total once."""
    if state.total_power is None:
        return list(state.rails)
    same = state.total_power.name
    return [state.total_power, *(row for row in state.rails if f"{row.name} (total)" != same)]


def _rail(row: RailView, names: int, room: int, top: float, ascii_only: bool, bold: bool) -> Line:
    """Return one rail in `room` cells: name, power now, bar, mean of the phase."""
    name = _padded(_shortened(row.name, names), names)
    line: list[Piece] = [
        (f"{name} ", "bold" if bold else ""),
        (f"{watts(row.now_mw):>{_NOW_WIDTH}}", "bold"),
    ]
    left = room - names - 1 - _NOW_WIDTH
    with_mean = left >= _MEAN_WIDTH + 1
    wide = min(_RAIL_BARS[1], left - 1 - (_MEAN_WIDTH + 1 if with_mean else 0))
    if wide >= _RAIL_BARS[0]:
        share = None if row.now_mw is None or top <= 0 else row.now_mw / top
        line.append((" " + bar(share, wide, ascii_only=ascii_only), "cyan"))
    if with_mean:
        line.append((f" mean {watts(row.mean_mw):>{_NOW_WIDTH}}", ""))
    return tuple(line)


def _heat(state: RunView, width: int, ascii_only: bool) -> list[Line]:
    unit = "C" if ascii_only else "\u00b0C"
    pieces: list[Piece] = []
    zones = _hottest(state, 1 if width < _NARROW else _ZONES)
    if zones:
        text = ", ".join(f"{value:.1f} {unit} ({zone})" for zone, value in zones)
        pieces.append((text, ""))
    if state.throttled is not None:
        if state.throttled:
            what = ", ".join(printable(name, 24) for name in state.throttled)
            pieces.append((f"THROTTLED: {what}", "bold red"))
        else:
            pieces.append(("not throttled", ""))
    if state.memory_mib is not None:
        pieces.append((f"memory {_size(state.memory_mib)}", ""))
    if state.available_mib is not None:
        pieces.append((f"{_size(state.available_mib)} free", ""))
    line: list[Piece] = []
    left = width
    for piece in pieces:
        left -= cell_len(piece[0]) + (len(_SEPARATOR) if line else 0)
        if left < 0 and line:  # the first is cut, the others are left out whole
            break
        line += [*([(_SEPARATOR, "")] if line else []), piece]
    return [tuple(line)] if line else []


def _left(state: RunView, width: int) -> Line:
    if state.network_left_s is None and state.whole_left_s is None:
        return (("left: not known yet", "dim"),)
    parts = []
    if state.network_left_s is not None:
        which = " for this network" if state.network and width >= _NARROW else ""
        parts.append(f"about {duration(state.network_left_s)}{which}")
    if state.whole_left_s is not None:
        all_of = f"all {state.network[1]} networks" if state.network else "all"
        which = f" for {all_of}" if width >= _NARROW else " for all"
        parts.append(f"about {duration(state.whole_left_s)}{which}")
    return (("left: " + ", ".join(parts), ""),)


def _hottest(state: RunView, count: int) -> list[tuple[str, float]]:
    return [(printable(zone, 16), value) for zone, value in state.temperatures_c[:count]]


def _size(mib: float) -> str:
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"


def _of(pair: tuple[int, int]) -> str:
    return f"{pair[0]} of {pair[1]}"


def _shortened(name: str, cells: int) -> str:
    """Return a foreign name in at most so many cells; a character may be two cells wide."""
    text = printable(name)
    length = len(text)
    while cell_len(text) > cells and length > 1:
        length -= 1
        text = printable(name, length)
    return text


def _padded(text: str, cells: int) -> str:
    return text + " " * max(0, cells - cell_len(text))


def _cut(line: Sequence[Piece], width: int, ascii_only: bool) -> Line:
    """Return a line that is at most `width` cells wide, in ASCII if that is all there is."""
    found: list[Piece] = []
    left = max(0, width)
    for text, style in line:
        if ascii_only and not text.isascii():
            text = text.encode("ascii", "backslashreplace").decode()  # noqa: PLW2901
        if cell_len(text) > left:
            while cell_len(text) > left:
                text = text[:-1]  # noqa: PLW2901
            found.append((text, style))
            break
        left -= cell_len(text)
        found.append((text, style))
    return tuple(piece for piece in found if piece[0])
