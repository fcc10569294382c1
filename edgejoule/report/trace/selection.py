"""Which inferences a trace shows: all, those asked for, or as many as a browser can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgejoule.errors import UsageError

# A browser gives a page some 2 GB, and Perfetto needs two to four times a file's size. A slice with
# its attributes is some 150 bytes of file: this many are 60 MB (`docs/Timeline.md`).
MOST_SLICES = 400_000
LAYERED = "profiled"


@dataclass(frozen=True)
class Selection:
    """What was asked for.

    Attributes:
        passes: Names of passes, None: all.
        first: First inference of each pass.
        last: The one after the last, None: no limit was named.
        every: Whether all were asked for, however many.
    """

    passes: tuple[str, ...] | None = None
    first: int = 0
    last: int | None = None
    every: bool = False


@dataclass(frozen=True)
class Chosen:
    """What a trace shows.

    Attributes:
        spans: Pass -> first inference and the one after the last, of those that are shown.
        left_out: Sentences about what is not.
    """

    spans: Mapping[str, tuple[int, int]]
    left_out: tuple[str, ...] = ()


def parse_inferences(text: str) -> tuple[int, int | None, bool]:
    """Return first, end (None: open) and whether all are meant, of `A:B`, `A:`, `:B`, `N`, `all`.

    Raises:
        UsageError: It is none of these.
    """
    wrong = UsageError(
        f"--inferences {text} is no range", "give A:B (A to B - 1 of each pass), N, or all"
    )
    if text == "all":
        return 0, None, True
    begin, colon, end = text.partition(":")
    if not colon:
        begin, end = "", begin
    if not all(one == "" or (one.isascii() and one.isdigit()) for one in (begin, end)):
        raise wrong
    first, last = int(begin or 0), int(end) if end else None
    if (not colon and last is None) or (last is not None and last <= first):
        raise wrong
    return first, last, last is None


def choose_inferences(
    counts: Mapping[str, int], layers: int, asked: Selection, most: int = MOST_SLICES
) -> Chosen:
    """Return the inferences to show.

    Without a named range the first of each pass, the same number of each, as far as their slices
    are no more than `most` together.

    Args:
        counts: Pass -> inferences in the file.
        layers: Layers of a profiled inference.
        asked: What was asked for.
        most: Slices that a file may have unless it was asked for more.

    Raises:
        UsageError: A pass that there is not, or a range in which nothing is.
    """
    unknown = [name for name in asked.passes or () if name not in counts]
    if unknown:
        offered = ", ".join(counts) or "none"
        raise UsageError(f"there is no pass {unknown[0]}", f"passes of this run: {offered}")
    wanted = {n: k for n, k in counts.items() if asked.passes is None or n in asked.passes}
    left = [f"{name} pass: not asked for" for name in counts if name not in wanted]
    last = asked.last
    if last is None and not asked.every:
        last = _affordable(wanted, layers, most)
    spans = {}
    for name, count in wanted.items():
        end = count if last is None else min(count, last)
        if asked.first < end:
            spans[name] = (asked.first, end)
            if end - asked.first < count:
                left.append(
                    f"{name} pass: inferences {asked.first} to {end - 1} of {count} are shown"
                )
        else:
            left.append(f"{name} pass: none of its {count} inferences is in the range")
    if wanted and not spans:
        raise UsageError(
            f"no pass has an inference {asked.first}",
            "this run has " + ", ".join(f"{n} of {name}" for name, n in wanted.items()),
        )
    return Chosen(spans, tuple(left))


def _affordable(counts: Mapping[str, int], layers: int, most: int) -> int:
    """Return how many of each pass may be shown, at least one."""
    low, high = 1, max(counts.values(), default=1)
    while low < high:
        middle = (low + high + 1) // 2
        slices = sum(
            min(count, middle) * (1 + (layers if name == LAYERED else 0))
            for name, count in counts.items()
        )
        low, high = (middle, high) if slices <= most else (low, middle - 1)
    return low
