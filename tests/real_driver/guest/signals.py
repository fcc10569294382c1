"""Signals for the chips to measure, as tables of conversions. Standard library only."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.real_driver.guest.chip import CYCLE_NS, Table, in_turn

# The chip has a clock of its own: its cycles are not what its settings say, to the last digit.
OSCILLATOR = 1.0037


def wandering(address: int, seconds: float) -> Table:
    """Return three channels that wander slowly, each in its own way, with noise of a step or two.

    Currents move by 80 % around their mean within seconds, voltages by 1 %.
    """
    noise = random.Random(address)
    period_ns = round(CYCLE_NS * OSCILLATOR)
    rows = []
    for cycle in range(math.ceil(seconds * 1e9 / period_ns)):
        t_s = cycle * period_ns * 1e-9
        row = []
        for channel in range(3):
            turn = 2 * math.pi * t_s / (4.6 - 0.9 * channel) + channel + address
            current = (300 - 60 * channel) * (1 + 0.8 * math.sin(turn))
            voltage = 625 + 6 * math.cos(0.7 * turn)
            row += [round(current + noise.gauss(0, 1.0)), round(voltage + noise.gauss(0, 0.4))]
        rows.append(row)
    return Table(period_ns, in_turn(period_ns), rows)


@dataclass(frozen=True)
class Converter:
    """What one channel makes of a current: the known truth of a calibration.

    Attributes:
        period_ns: From one value to the next.
        window_ns: How long the current is averaged for one value.
        delay_ns: From the end of that window until the value is shown.
        samples: The chip's averaging, new = old + (x - old) / samples.
        tau_ns: Time constant of the board's low-pass before the chip.
        low: Steps of the register between the pulses.
        high: Steps during a pulse.
        noise: Standard deviation of a conversion, in steps.
    """

    period_ns: int
    window_ns: int
    delay_ns: int
    samples: int
    tau_ns: int
    low: int
    high: int
    noise: float


def pulses(
    converters: Sequence[Converter], edges_ns: Sequence[int], seconds: float, seed: int
) -> Table:
    """Return what a chip shows of pulses: its first channels' currents follow, the rest stays.

    The load steps up at the first edge, down at the second, and so on. Behind the low-pass, with
    x the load and y what is left of it, tau y' = x - y; so the mean of y over a window is that of
    x less tau times the change of y over the window's length. Both are followed from edge to edge.

    Args:
        converters: What each channel makes of it; they have one period.
        edges_ns: Increasing times from the table's start.
        seconds: Length of the table.
        seed: Seeds the noise.
    """
    noise = random.Random(f"conversions {seed}")
    period_ns = converters[0].period_ns
    complete_ns = in_turn(period_ns)
    rows = [[0, 625] * 3 for _ in range(math.ceil(seconds * 1e9 / period_ns))]
    for column, converter in enumerate(converters):
        load = _Load(edges_ns, converter.tau_ns)
        average = float(converter.low)
        for cycle, row in enumerate(rows):
            end_ns = cycle * period_ns + complete_ns[2 * column] - converter.delay_ns
            share = load.mean(end_ns - converter.window_ns, end_ns)
            value = converter.low + (converter.high - converter.low) * share
            value += noise.gauss(0.0, converter.noise)
            average += (value - average) / converter.samples
            row[2 * column] = round(average)
    return Table(period_ns, complete_ns, rows)


class _Load:
    """A load between 0 and 1 behind a low-pass, walked forward in time."""

    def __init__(self, edges_ns: Sequence[int], tau_ns: int) -> None:
        self._edges = list(edges_ns)
        self._tau_ns = tau_ns
        self._next = 0
        self._at_ns = min(0, *edges_ns) - 1_000_000_000
        self._x = 0
        self._y = 0.0

    def mean(self, start_ns: int, end_ns: int) -> float:
        """Return the mean of y over a window; windows come in order and do not overlap."""
        self._walk(start_ns)
        before = self._y
        area = self._walk(end_ns)
        return (area - self._tau_ns * (self._y - before)) / (end_ns - start_ns)

    def _walk(self, until_ns: int) -> float:
        """Go on to a time; return the integral of x on the way."""
        area = 0.0
        while True:
            ahead = self._next < len(self._edges) and self._edges[self._next] <= until_ns
            stop_ns = self._edges[self._next] if ahead else until_ns
            length_ns = stop_ns - self._at_ns
            area += self._x * length_ns
            left = math.exp(-length_ns / self._tau_ns) if self._tau_ns else 0.0
            self._y = self._x + (self._y - self._x) * left
            self._at_ns = stop_ns
            if not ahead:
                return area
            self._x = 1 - self._x
            self._next += 1
