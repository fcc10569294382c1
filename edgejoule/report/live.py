"""The live view of `measure_power.py watch`: pure functions from a state to text.

    live_view   a rich renderable for a terminal of any width, with or without colours
    plain_line  one line, where there is no terminal
    to_json     one object, for programs

Widths: rail and power always; energy, bar, mean, the last minute, largest, least and new values per
second as far as they fit. A bar is a share of the largest reading of any rail so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edgejoule.report.progress import duration
from edgejoule.report.text import ABSENT, printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

SIMULATED = "SIMULATED: no power is measured"
_BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_EIGHTHS = "\u258f\u258e\u258d\u258c\u258b\u258a\u2589\u2588"
_ASCII_BLOCKS = ".:-=+*%#"
_NAME_WIDTHS = (6, 24)
_NARROW = 60
_WIDE = 80
_MW_PER_W = 1000.0
_LARGE = 100.0


@dataclass(frozen=True)
class RailView:
    """A rail on the screen; None where nothing is known.

    Attributes:
        name: The rail, or `total`.
        now_mw: Power now.
        mean_mw: Mean since the start.
        min_mw: Least reading since the start.
        max_mw: Largest reading.
        energy_mj: Energy since the start.
        history_mw: Mean of each of the last seconds, the newest last.
        new_values_hz: How often the sensor shows a new value.
        note: What a reading is, where it is no snapshot.
    """

    name: str
    now_mw: float | None = None
    mean_mw: float | None = None
    min_mw: float | None = None
    max_mw: float | None = None
    energy_mj: float | None = None
    history_mw: tuple[float | None, ...] = ()
    new_values_hz: float | None = None
    note: str = ""


@dataclass(frozen=True)
class LiveState:
    """Everything that the live view shows.

    Attributes:
        sensor: Name of the sensor.
        simulated: Whether its values are made up.
        seconds: Since the first reading.
        rails: The rails, in the sensor's order.
        total: Their sum, None where the board is not known or a rail gives nothing.
        total_of: The rails that make it up.
        contains: What the total covers.
        excludes: What it does not.
        polls_hz: How often the fastest channel is read.
        new_values_hz: How often the liveliest channel shows a new value.
        refresh_ms: The hardware's own period, if known.
        errors: Failed reads by errno's name.
        gaps: Times that the sampler came later than three of its periods.
        largest_gap_ms: The longest time between two sweeps.
        sampler_percent: The sampler's share of one core now, None where it cannot be known.
        note: Anything else.
    """

    sensor: str
    simulated: bool = False
    seconds: float = 0.0
    rails: tuple[RailView, ...] = ()
    total: RailView | None = None
    total_of: tuple[str, ...] = ()
    contains: str = ""
    excludes: str = ""
    polls_hz: float | None = None
    new_values_hz: float | None = None
    refresh_ms: float | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    gaps: int = 0
    largest_gap_ms: float | None = None
    sampler_percent: float | None = None
    note: str = ""


def live_view(state: LiveState, width: int, *, ascii_only: bool = False) -> RenderableType:
    """Return the screen for a terminal of `width` columns.

    Args:
        state: What is shown.
        width: Columns.
        ascii_only: Draw bars and the last minute without block characters.
    """
    from rich.console import Group
    from rich.text import Text

    lines: list[Text] = []
    if state.simulated:
        lines.append(Text(SIMULATED, style="bold reverse yellow"))
    lines.append(Text(f"{printable(state.sensor)}, {_since(state.seconds)}", style="bold"))
    rows = [*state.rails, *([state.total] if state.total is not None else [])]
    if rows:
        lines += _table(rows, state, width, ascii_only)
    lines += [Text(text, style=style) for text, style in _footer(state)]
    return Group(*lines)


def plain_line(state: LiveState) -> str:
    """Return the state as one line of plain text."""
    parts = [_since(state.seconds)]
    rows = [*([state.total] if state.total is not None else []), *state.rails]
    parts += [f"{printable(row.name)} {watts(row.now_mw)}" for row in rows]
    if state.total is not None:
        parts.append(f"total since the start {joules(state.total.energy_mj)}")
    parts += [_rate_text(state), _gap_text(state), f"failed reads {_error_text(state)}"]
    if state.simulated:
        parts.append("SIMULATED")
    return ", ".join(parts)


def to_json(state: LiveState) -> dict[str, Any]:
    """Return the state as plain values; the last minute is left out."""
    plain = asdict(state)
    for row in [*plain["rails"], *([plain["total"]] if plain["total"] else [])]:
        del row["history_mw"]
    return plain


def watts(value_mw: float | None) -> str:
    """Return a power in at most eight columns: `812 mW`, `5.31 W`, `412 W`."""
    if value_mw is None:
        return ABSENT
    if abs(value_mw) < _MW_PER_W:
        return f"{value_mw:.0f} mW"
    return _three_digits(value_mw / _MW_PER_W, "W")


def joules(value_mj: float | None) -> str:
    """Return an energy in at most nine columns: `812 mJ`, `5.31 J`, `412 J`, `1.21 kJ`."""
    if value_mj is None:
        return ABSENT
    for scale, unit in ((1.0, "mJ"), (1e3, "J"), (1e6, "kJ")):
        if abs(value_mj) < scale * 1e3:
            return _three_digits(value_mj / scale, unit) if scale > 1 else f"{value_mj:.0f} mJ"
    return _three_digits(value_mj / 1e9, "MJ")


def bar(share: float | None, width: int, *, ascii_only: bool = False) -> str:
    """Return a bar of at most `width` columns, to an eighth of one, padded with spaces."""
    if share is None or width <= 0:
        return " " * max(0, width)
    share = min(1.0, max(0.0, share))
    if ascii_only:
        return ("#" * round(share * width)).ljust(width)
    eighths = round(share * width * 8)
    text = _EIGHTHS[-1] * (eighths // 8)
    if eighths % 8:
        text += _EIGHTHS[eighths % 8 - 1]
    return text.ljust(width)


def sparkline(
    values: Sequence[float | None], width: int, top: float, *, ascii_only: bool = False
) -> str:
    """Return the course of values from 0 to `top` in `width` columns, the newest at the right.

    More values than columns are averaged; where there is none, a space.
    """
    levels = _ASCII_BLOCKS if ascii_only else _BLOCKS
    text = ""
    for column in range(width):
        start = len(values) * column // width
        end = max(start + 1, len(values) * (column + 1) // width)
        if len(values) < width:  # one column each, at the right
            start = column - (width - len(values))
            end = start + 1
        known = [value for value in values[max(0, start) : max(0, end)] if value is not None]
        if not known or top <= 0:
            text += " "
            continue
        share = min(1.0, max(0.0, sum(known) / len(known) / top))
        text += levels[min(len(levels) - 1, int(share * len(levels)))]
    return text


# Title, width, and what stands in it; in the order in which they are left out, the last first.
_COLUMNS: tuple[tuple[str, int, Callable[[RailView], str]], ...] = (
    ("energy", 8, lambda row: joules(row.energy_mj)),
    ("mean", 8, lambda row: watts(row.mean_mw)),
    ("max", 8, lambda row: watts(row.max_mw)),
    ("min", 8, lambda row: watts(row.min_mw)),
    ("new/s", 5, lambda row: ABSENT if row.new_values_hz is None else f"{row.new_values_hz:.0f}"),
)
_NOW_WIDTH = 8
_BAR_WIDTHS = (6, 20)
_LINE_WIDTHS = (10, 60)
_SCALE_WIDTH = 10


def _table(rows: Sequence[RailView], state: LiveState, width: int, ascii_only: bool) -> list[Text]:
    """Return the header and one line per rail, none wider than `width`."""
    from rich.text import Text

    space = 1 if width < _WIDE else 2
    longest = max(len(printable(row.name)) for row in rows)
    least, most = _NAME_WIDTHS
    name_width = max(least, min(longest, most if width >= _NARROW else width - 28))
    left = width - name_width - space - _NOW_WIDTH
    taken = []
    for at, (title, wide, _) in enumerate(_COLUMNS):
        # Energy first, then the bar, the mean, the last minute, then the rest.
        reserve = (0, _BAR_WIDTHS[0], *(_BAR_WIDTHS[0] + _LINE_WIDTHS[0] + space,) * 3)[at]
        if left - wide - space >= reserve + (space if reserve else 0):
            taken.append(title)
            left -= wide + space
    bar_width = line_width = 0
    if left >= _BAR_WIDTHS[0] + space:
        bar_width = left - space
        if left >= _BAR_WIDTHS[0] + _LINE_WIDTHS[0] + 2 * space:
            bar_width = max(_BAR_WIDTHS[0], min(_BAR_WIDTHS[1], (left - 2 * space) // 3))
            line_width = min(_LINE_WIDTHS[1], left - bar_width - 2 * space)
        bar_width = min(_BAR_WIDTHS[1], bar_width)
    gap = " " * space
    columns = [(title, wide, show) for title, wide, show in _COLUMNS if title in taken]
    header = f"{'rail':<{name_width}}{gap}{'now':>{_NOW_WIDTH}}"
    top = max([row.max_mw or 0.0 for row in rows], default=0.0)
    scale = f"of {watts(top)}" if top > 0 and bar_width >= _SCALE_WIDTH else ""
    header += f"{gap}{scale:<{bar_width}}" if bar_width else ""
    header += f"{gap}{'last minute':<{line_width}}"[: line_width + space] if line_width else ""
    header += "".join(f"{gap}{title:>{wide}}" for title, wide, _ in columns)
    lines = [Text(header.rstrip(), style="dim")]
    for row in rows:
        style = "bold" if row is state.total else ""
        line = Text(f"{printable(row.name, name_width):<{name_width}}{gap}", style=style)
        line.append(f"{watts(row.now_mw):>{_NOW_WIDTH}}", style="bold")
        if bar_width:
            share = None if row.now_mw is None or top <= 0 else row.now_mw / top
            line.append(gap + bar(share, bar_width, ascii_only=ascii_only), style="cyan")
        if line_width:
            course = sparkline(row.history_mw, line_width, row.max_mw or 0.0, ascii_only=ascii_only)
            line.append(gap + course, style="green")
        line.append("".join(f"{gap}{show(row):>{wide}}" for _, wide, show in columns))
        lines.append(line)
    return lines


def _footer(state: LiveState) -> list[tuple[str, str]]:
    """Return the lines below the table with their styles."""
    lines = []
    if state.total is not None:
        of = " + ".join(map(printable, state.total_of))
        lines.append((f"total = {of}" + (f": {state.contains}" if state.contains else ""), ""))
        if state.excludes:
            lines.append((f"without {state.excludes}", "dim"))
    elif state.rails:
        lines.append(("no total: the board is not known, or a rail of it gives nothing", "dim"))
    notes = {row.note: row.name for row in reversed(state.rails) if row.note}
    lines += [(f"{printable(name)}: {printable(note)}", "dim") for note, name in notes.items()]
    lines.append((_rate_text(state), ""))
    lines.append((_gap_text(state), "yellow" if state.gaps else ""))
    lines.append((f"failed reads: {_error_text(state)}", "bold red" if state.errors else ""))
    if state.sampler_percent is not None:
        lines.append((f"the sampler takes {state.sampler_percent:.1f} % of a core", ""))
    if state.note:
        lines.append((state.note, "dim"))
    return lines


def _rate_text(state: LiveState) -> str:
    if state.polls_hz is None or state.new_values_hz is None:
        return "waiting for readings"
    text = f"read {state.polls_hz:.0f}/s, new values {state.new_values_hz:.0f}/s"
    return text if state.refresh_ms is None else f"{text}, refresh {state.refresh_ms:.3g} ms"


def _gap_text(state: LiveState) -> str:
    longest = (
        "" if state.largest_gap_ms is None else f" (longest step {state.largest_gap_ms:.0f} ms)"
    )
    return f"gaps: {state.gaps}{longest}"


def _error_text(state: LiveState) -> str:
    return ", ".join(f"{count} {printable(name)}" for name, count in state.errors.items()) or "none"


def _since(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < _LARGE else duration(seconds)


def _three_digits(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= _LARGE else 1 if abs(value) >= _LARGE / 10 else 2
    return f"{value:.{digits}f} {unit}"
