"""Figures and foreign names as text: units, significant digits, and nothing that could harm.

Layer and model names come from users' files: a terminal must not obey an escape sequence in one,
a Markdown page must not become something else.
"""

from __future__ import annotations

import re

ABSENT = "-"
_LEAST_MS = 1e-6  # clocks count nanoseconds
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~&$])")


def printable(text: object, width: int | None = None) -> str:
    """Return text on one line without control characters, shortened in the middle to `width`."""
    line = "".join(
        char if char.isprintable() else " " if char in "\t\n\r" else f"\\x{ord(char):02x}"
        for char in str(text)
    )
    if width is not None and len(line) > width:
        tail = (width - 1) // 2
        line = f"{line[: width - 1 - tail]}~{line[len(line) - tail :]}"
    return line


def markdown(text: object, width: int | None = None) -> str:
    """Return text that Markdown shows as it is, also within a table."""
    return _MARKDOWN.sub(r"\\\1", printable(text, width))


def ms(value: float | None) -> str:
    """Return milliseconds with four significant digits, without the unit; under 1 ns is 0."""
    if value is None:
        return ABSENT
    return (
        "0" if abs(value) < _LEAST_MS else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    )


def energy(value_mj: float | None, half_mj: float | None = None, sign: str = "±") -> str:
    """Return an energy with its unit and half-width: `812 mJ`, `1.84 ± 0.02 J`."""
    return ABSENT if value_mj is None else _scaled(value_mj, half_mj, sign, "mJ", "J")


def power(value_mw: float | None, half_mw: float | None = None, sign: str = "±") -> str:
    """Return a power with its unit and half-width: `812 mW`, `5.31 ± 0.04 W`."""
    return ABSENT if value_mw is None else _scaled(value_mw, half_mw, sign, "mW", "W")


def edp(value_uj_s: float | None) -> str:
    """Return an energy-delay product with its unit: `6.6 uJ s`, `1.84 mJ s`, `12.1 J s`."""
    if value_uj_s is None:
        return ABSENT
    for scale, unit in ((1e6, "J s"), (1e3, "mJ s")):
        if abs(value_uj_s) >= scale:
            return f"{value_uj_s / scale:.4g} {unit}"
    return f"{value_uj_s:.4g} uJ s"


def percent(share: float | None) -> str:
    """Return a share (0 to 1) in percent, without the sign."""
    return ABSENT if share is None else f"{100 * share:.1f}"


def bar(share: float | None, width: int = 20) -> str:
    """Return a bar of blocks as long as the share."""
    return "" if share is None else "█" * max(0, min(width, round(share * width)))


def table(header: list[str], rows: list[list[str]], right: set[int]) -> str:
    """Return an aligned plain-text table; columns whose number is in `right` are right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        return "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    return "\n".join(map(line, [header, ["-" * width for width in widths], *rows]))


def fitted_table(
    header: list[str], rows: list[list[str]], right: set[int], width: int | None, spare: list[int]
) -> str:
    """Return `table`, without columns that can be spared as far as it is wider than `width`.

    Args:
        header: Names of the columns.
        rows: Their cells.
        right: Columns that are right-aligned.
        width: Of the terminal; None: nothing is left out.
        spare: Columns that can be left out, the first one first.
    """
    left_out: set[int] = set()
    for column in [*spare, None]:
        kept = [index for index in range(len(header)) if index not in left_out]
        text = table(
            [header[index] for index in kept],
            [[row[index] for index in kept] for row in rows],
            {place for place, index in enumerate(kept) if index in right},
        )
        if width is None or column is None or max(map(len, text.splitlines())) <= width:
            break
        left_out.add(column)
    return text


def markdown_table(header: list[str], rows: list[list[str]], right: set[int]) -> str:
    """Return a Markdown table; the cells are taken as they are, so escape foreign text first."""
    rule = ["---:" if column in right else "---" for column in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


def _scaled(value: float, half: float | None, sign: str, small: str, large: str) -> str:
    unit = small
    if abs(value) >= 1000:
        value, unit = value / 1000, large
        half = None if half is None else half / 1000
    return f"{value:.4g} {unit}" if half is None else f"{value:.4g} {sign} {half:.2g} {unit}"
