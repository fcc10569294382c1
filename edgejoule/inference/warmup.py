"""When a model is warm: the median latencies of two consecutive windows agree.

A window lasts at least so many inferences and so long, since a model of 50 us would fill any
count of inferences before a GPU's clocks have moved. The search is bounded and its verdict is
recorded, whatever it is. Standard library only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class WarmupVerdict:
    """How the warm-up ended.

    Attributes:
        steady: Whether the last two windows agreed.
        inferences: How many inferences it took.
        seconds: How long it took.
        median_ms: Median latency of the last whole window, or of all if there was none.
        change_percent: From the last window but one to the last; None if there were not two.
        reason: One clause.
    """

    steady: bool
    inferences: int
    seconds: float
    median_ms: float
    change_percent: float | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class SteadyState:
    """Feed it latencies until `done`; then ask for the `verdict`.

    Args:
        least: Least number of inferences.
        tolerance: Largest relative change between the medians of two windows.
        most_s: When to give up, provided that `least` is reached and two windows are full.
        window_s: Least length of a window.
        window: Least number of inferences in a window; None is half of `least`, from 3 to 50.
    """

    def __init__(
        self,
        least: int,
        *,
        tolerance: float = 0.02,
        most_s: float = 20.0,
        window_s: float = 0.25,
        window: int | None = None,
    ) -> None:
        self._least = least
        self._tolerance = tolerance
        self._most_ns = most_s * 1e9
        self._window_ns = window_s * 1e9
        self._window = min(50, max(3, least // 2)) if window is None else window
        self._current: list[int] = []
        self._medians: list[float] = []
        self._all: list[int] = []
        self._first_ns: int | None = None
        self._window_from_ns = 0
        self._elapsed_ns = 0
        self.done = False
        self.steady = False

    @property
    def change(self) -> float | None:
        """Relative change between the medians of the last two windows."""
        if len(self._medians) < 2:
            return None
        before, after = self._medians[-2:]
        return abs(after - before) / before if before > 0 else 0.0

    def add(self, start_ns: int, end_ns: int) -> None:
        """Take the stamps of one inference."""
        if self._first_ns is None:
            self._first_ns = self._window_from_ns = start_ns
        latency = end_ns - start_ns
        self._all.append(latency)
        self._current.append(latency)
        self._elapsed_ns = end_ns - self._first_ns
        full = len(self._current) >= self._window
        if full and end_ns - self._window_from_ns >= self._window_ns:
            self._medians.append(median(self._current))
            self._current = []
            self._window_from_ns = end_ns
        change = self.change
        if len(self._all) < self._least or change is None:
            return
        self.steady = change <= self._tolerance
        self.done = self.steady or self._elapsed_ns >= self._most_ns

    def verdict(self) -> WarmupVerdict:
        """Say how it ended, also if it was ended from outside."""
        change = self.change
        per_cent = None if change is None else round(change * 100, 3)
        if self.steady:
            reason = f"the medians of two windows agree within {self._tolerance:.0%}"
        elif self.done:
            reason = f"gave up: the medians of the last two windows differ by {per_cent} %"
        else:
            reason = "ended before two windows were full"
        middle = self._medians[-1] if self._medians else median(self._all or [0])
        return WarmupVerdict(
            steady=self.steady,
            inferences=len(self._all),
            seconds=round(self._elapsed_ns / 1e9, 3),
            median_ms=middle / 1e6,
            change_percent=per_cent,
            reason=reason,
        )
