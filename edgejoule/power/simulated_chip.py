"""A modelled sensor chip for the simulated board: windows, averaging, delay and low-pass.

The simulated board's default shows the very power that is drawn. With a file `chip.json` beside its
page it shows instead what a chip of these figures would, so that a calibration can be compared with
them (`docs/SimulatedBoard.md`). The load is then no inference seen through the page, but the edges
that `edges.jsonl` announces ahead of their time: each value is computed from them, exactly, over
the window that belongs to the moment at which it is due. If this process is scheduled late the
value is shown late, and nothing else changes.

Standard library only.
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_right
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgejoule.errors import UsageError
from edgejoule.files import read_json

CHIP_FILE = "chip.json"
EDGES_FILE = "edges.jsonl"


@dataclass(frozen=True)
class ChipParameters:
    """The chip; as `edgejoule.energy.sensor_model.SensorParameters`, per channel.

    Attributes:
        refresh_ns: Period at which a channel shows a new value.
        window_ns: How long the power is averaged for it.
        delay_ns: From the window's end until it is shown.
        samples: N of new = old + (x - old) / N; 1: no averaging.
        tau_ns: Time constant of the low-pass before the chip, 0: none.
    """

    refresh_ns: int = 6_600_000
    window_ns: int = 1_100_000
    delay_ns: int = 0
    samples: int = 1
    tau_ns: int = 0

    def to_json(self) -> dict[str, int]:
        """Return plain values."""
        return asdict(self)


def read_chip(path: Path) -> ChipParameters | None:
    """Return the chip that a file describes, None if there is no such file.

    Raises:
        UsageError: An unknown key, or a value that no chip has.
        MeasurementError: The file cannot be read.
    """
    if not path.exists():
        return None
    document = read_json(path)
    known = {field.name for field in fields(ChipParameters)}
    if not isinstance(document, dict) or not set(document) <= known:
        raise UsageError(f"{path} describes no chip", f"known are {', '.join(sorted(known))}")
    if not all(type(value) is int and value >= 0 for value in document.values()):
        raise UsageError(f"{path}: a chip's figures are whole numbers from 0", "mend the file")
    chip = ChipParameters(**document)
    if chip.refresh_ns < 1_000_000 or chip.window_ns < 1 or chip.samples < 1:
        raise UsageError(
            f"{path}: no such chip can be simulated",
            "give refresh_ns from 1000000, window_ns and samples from 1",
        )
    return chip


class LoadSignal:
    """A load between 0 and 1 behind a low-pass, from its edges; exact at any time.

    Args:
        tau_ns: Time constant, 0: no low-pass.
    """

    def __init__(self, tau_ns: float) -> None:
        self._tau_ns = tau_ns
        # Per edge: its time, the load from then on, what the low-pass lags behind it just then,
        # and the integral of the load up to it.
        self._times: list[int] = []
        self._levels: list[float] = []
        self._lags: list[float] = []
        self._areas: list[float] = []

    def step(self, at_ns: int, step: float) -> None:
        """Add an edge; one that steps back in time counts from the last one."""
        level = lag = area = 0.0
        if self._times:
            at_ns = max(at_ns, self._times[-1])
            age_ns = at_ns - self._times[-1]
            level, lag = self._levels[-1], self._decayed(self._lags[-1], age_ns)
            area = self._areas[-1] + level * age_ns
        self._times.append(at_ns)
        self._levels.append(level + step)
        self._lags.append(lag + step)
        self._areas.append(area)

    def mean(self, start_ns: float, end_ns: float, *, filtered: bool = True) -> float:
        """Return the mean over a span, behind the low-pass or (`filtered` off) before it."""
        area = self._area(end_ns) - self._area(start_ns)
        if filtered and self._tau_ns:
            # tau y' = p - y: the integral of y is that of p less tau times the change of y.
            area -= self._tau_ns * (self._value(end_ns) - self._value(start_ns))
        return area / (end_ns - start_ns)

    def _decayed(self, lag: float, age_ns: float) -> float:
        return lag * math.exp(-age_ns / self._tau_ns) if self._tau_ns else 0.0

    def _area(self, at_ns: float) -> float:
        last = bisect_right(self._times, at_ns) - 1
        if last < 0:
            return 0.0
        return self._areas[last] + self._levels[last] * (at_ns - self._times[last])

    def _value(self, at_ns: float) -> float:
        last = bisect_right(self._times, at_ns) - 1
        if last < 0:
            return 0.0
        return self._levels[last] - self._decayed(self._lags[last], at_ns - self._times[last])


class AnnouncedEdges:
    """Follows a file of edges that is written ahead of their time.

    Args:
        path: `edges.jsonl`; it may come later than this process.
        signal: Where the edges go.
    """

    def __init__(self, path: Path, signal: LoadSignal) -> None:
        self._path = path
        self._signal = signal
        self._fd: int | None = None
        self._rest = b""
        self.count = 0

    def look(self) -> None:
        """Take the lines that came since the last look; a damaged one is left out."""
        if self._fd is None:
            try:
                self._fd = os.open(self._path, os.O_RDONLY)
            except OSError:
                return
        while data := os.read(self._fd, 1 << 20):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                edge = edge_of(line)
                if edge is not None:
                    self._signal.step(*edge)
                    self.count += 1

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def edge_of(line: bytes) -> tuple[int, float] | None:
    """Return time and step of a line of `edges.jsonl`, None if it is damaged.

    The edge lies in the middle between its two stamps.
    """
    try:
        edge: dict[str, Any] = json.loads(line)
        before_ns, after_ns = int(edge["before_ns"]), int(edge["after_ns"])
        step = float(edge["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return (before_ns + (after_ns - before_ns) // 2, step) if math.isfinite(step) else None
