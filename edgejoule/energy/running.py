"""Power and energy of a trace that is still growing: fed in pieces, in bounded memory. Numpy.

What comes out is what `trace` and `integrate` make of the whole trace, up to the last point that no
later read can change: a current waits for the next voltage, a counter for its next tick.
"""

from __future__ import annotations

import errno
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.energy.trace import (
    VOLTAGE_REACH_NS,
    rail_names,
    rail_powers_of_samples,
)

if TYPE_CHECKING:
    import numpy.typing as npt

HISTORY_S = 60
_SECOND = 1_000_000_000
_NOW_NS = 500_000_000
_RATE_NS = 10 * _SECOND
_GAP_PERIODS = 3
_FEWEST_STEPS = 5


@dataclass
class RunningRail:
    """One rail so far.

    Attributes:
        energy_mj: Energy since the first point.
        min_mw: Least reading.
        max_mw: Largest reading.
        now_mw: Mean of the last half second, or the last reading of a slower sensor.
        first_ns: Time of the first point, None without one.
        last_ns: Time of the last.
        seconds: Second of the clock -> sum and number of readings, the last minute.
        last_mw: The last reading.
        recent: Times and readings of the last half second.
        summed_mean_mw: Of a sum: the sum of its parts' means.
    """

    energy_mj: float = 0.0
    min_mw: float | None = None
    max_mw: float | None = None
    now_mw: float | None = None
    first_ns: int | None = None
    last_ns: int | None = None
    seconds: dict[int, tuple[float, int]] = field(default_factory=dict)
    last_mw: float = 0.0
    recent: list[tuple[int, float]] = field(default_factory=list)
    summed_mean_mw: float | None = None

    @property
    def mean_mw(self) -> float | None:
        """Mean since the first point, None below two points; of a sum that of its parts."""
        if self.summed_mean_mw is not None:
            return self.summed_mean_mw
        if self.first_ns is None or self.last_ns is None or self.last_ns <= self.first_ns:
            return None
        return self.energy_mj / ((self.last_ns - self.first_ns) * 1e-9)

    def take(self, t_ns: npt.NDArray[np.int64], power_mw: npt.NDArray[np.float64]) -> None:
        """Add points that follow the last one."""
        if not len(t_ns):
            return
        if self.last_ns is None:
            self.first_ns = int(t_ns[0])
            times, powers = t_ns, power_mw
        else:
            times = np.concatenate([[self.last_ns], t_ns])
            powers = np.concatenate([[self.last_mw], power_mw])
        areas = 0.5 * (powers[1:] + powers[:-1]) * np.diff(times)
        self.energy_mj += float(areas.sum()) * 1e-9
        self.last_ns, self.last_mw = int(t_ns[-1]), float(power_mw[-1])
        low, high = float(power_mw.min()), float(power_mw.max())
        self.min_mw = low if self.min_mw is None else min(low, self.min_mw)
        self.max_mw = high if self.max_mw is None else max(high, self.max_mw)
        self.recent += zip(t_ns.tolist(), power_mw.tolist(), strict=True)
        self.recent = [pair for pair in self.recent if pair[0] > self.last_ns - _NOW_NS]
        self.now_mw = sum(power for _, power in self.recent) / len(self.recent)
        second = t_ns // _SECOND
        for one in np.unique(second).tolist():
            chosen = power_mw[second == one]
            total, count = self.seconds.get(one, (0.0, 0))
            self.seconds[one] = (total + float(chosen.sum()), count + len(chosen))
        newest = self.last_ns // _SECOND
        self.seconds = {k: v for k, v in self.seconds.items() if k > newest - HISTORY_S}

    def history_mw(self, newest_s: int) -> tuple[float | None, ...]:
        """Return the mean of each second of the last minute before and with `newest_s`."""
        found = []
        for second in range(newest_s - HISTORY_S + 1, newest_s + 1):
            total, count = self.seconds.get(second, (0.0, 0))
            found.append(total / count if count else None)
        return tuple(found)


@dataclass
class Counts:
    """What a channel's reads were, the last ten seconds: (time, reads, new values) per piece."""

    pieces: deque[tuple[int, int, int]] = field(default_factory=deque)
    last_raw: int | None = None


class RunningTrace:
    """Follows a trace from its header on.

    Args:
        header: Of `power.bin`: `channels`, `groups` where there are any.
        total_of: Rails whose sum is the total, None where there is none.
    """

    def __init__(self, header: Mapping[str, Any], total_of: Sequence[str] | None = None) -> None:
        self.channels: list[Mapping[str, Any]] = list(header["channels"])
        self.names = rail_names(self.channels)
        self.rails: dict[str, RunningRail] = {}
        self.total_of = tuple(total_of or ())
        self.errors: dict[str, int] = {}
        self.reads = 0
        self.gaps = 0
        self.largest_gap_ns = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self._total_min_mw = math.inf
        self._total_max_mw = -math.inf
        self._summed_s = 0
        self._kept: npt.NDArray[Any] | None = None
        self._counts = {channel["index"]: Counts() for channel in self.channels}
        groups = header.get("groups") or [{"channels": list(self._counts)}]
        self._leads = [group["channels"][0] for group in groups if group["channels"]]
        self._lead_ns: dict[int, int] = {}
        self._usual_ns: dict[int, int] = {}

    def feed(self, samples: npt.NDArray[Any]) -> None:
        """Take the next whole records, in the order of the file."""
        if not len(samples):
            return
        self.reads += len(samples)
        if self.first_ns is None:
            self.first_ns = int(samples["t0_ns"][0])
        self.last_ns = int(samples["t1_ns"].max())
        self._count(samples)
        buffer = samples if self._kept is None else np.concatenate([self._kept, samples])
        found = rail_powers_of_samples(self.channels, buffer)
        for name, series in found.items():
            rail = self.rails.setdefault(name, RunningRail())
            before = rail.last_ns
            fresh = series.t_ns <= self._final_ns(name, buffer)
            if before is not None:
                fresh &= series.t_ns > before
            rail.take(series.t_ns[fresh], series.power_mw[fresh])
        self._sum_seconds()
        self._kept = buffer[self._needed(buffer)]

    def newest_s(self) -> int:
        """Return the last second of the clock of which anything is known."""
        return 0 if self.last_ns is None else self.last_ns // _SECOND

    def total(self) -> RunningRail | None:
        """Return the sum of the total's rails, None where there is no total or one has no value.

        Of a sum of several rails the least and the largest are of its means over whole seconds.
        """
        parts = [self.rails.get(name, RunningRail()) for name in self.total_of]
        if not parts or any(part.now_mw is None for part in parts):
            return None
        if len(parts) == 1:
            return parts[0]
        means = [part.mean_mw for part in parts]
        seconds = {one: (self._sum_of(one), 1) for one in self._common_seconds()}
        known = self._total_max_mw > -math.inf
        return RunningRail(
            energy_mj=sum(part.energy_mj for part in parts),
            min_mw=self._total_min_mw if known else None,
            max_mw=self._total_max_mw if known else None,
            now_mw=sum(part.now_mw or 0.0 for part in parts),
            first_ns=parts[0].first_ns,
            last_ns=parts[0].last_ns,
            seconds=seconds,
            summed_mean_mw=None if None in means else sum(mean or 0.0 for mean in means),
        )

    def rates_hz(self) -> dict[int, tuple[float, float]]:
        """Return per channel the reads and the new values per second, of the last ten seconds."""
        found = {}
        for channel, counts in self._counts.items():
            # The first piece only says since when.
            reads = sum(piece[1] for piece in list(counts.pieces)[1:])
            changes = sum(piece[2] for piece in list(counts.pieces)[1:])
            span_ns = counts.pieces[-1][0] - counts.pieces[0][0] if counts.pieces else 0
            if span_ns > 0:
                found[channel] = (reads / (span_ns * 1e-9), changes / (span_ns * 1e-9))
        return found

    def _final_ns(self, name: str, buffer: npt.NDArray[Any]) -> int:
        """Return up to when the points of a rail are what they will be in the whole trace."""
        end_ns = int(buffer["t1_ns"][-1])
        voltages = [
            channel["index"]
            for channel, rail in zip(self.channels, self.names, strict=True)
            if rail == name and channel["quantity"] == "voltage"
        ]
        if not voltages:
            return end_ns
        good = buffer[(buffer["channel"] == voltages[0]) & (buffer["errno"] == 0)]
        latest_ns = int(good["t0_ns"][-1]) if len(good) else 0
        return max(latest_ns, end_ns - VOLTAGE_REACH_NS)

    def _common_seconds(self) -> list[int]:
        """Return the seconds of which every rail of the total has readings, in order."""
        found = [set(self.rails[name].seconds) for name in self.total_of if name in self.rails]
        whole = len(found) == len(self.total_of) > 0
        return sorted(set.intersection(*found)) if whole else []

    def _sum_of(self, second: int) -> float:
        pairs = (self.rails[name].seconds[second] for name in self.total_of)
        return sum(total / count for total, count in pairs)

    def _sum_seconds(self) -> None:
        """Note the least and the largest sum of the rails' means over whole seconds."""
        ended = [self.rails[name].last_ns or 0 for name in self.total_of if name in self.rails]
        if not ended:
            return
        for second in self._common_seconds():
            if self._summed_s < second < min(ended) // _SECOND:
                self._summed_s = second
                self._total_min_mw = min(self._total_min_mw, self._sum_of(second))
                self._total_max_mw = max(self._total_max_mw, self._sum_of(second))

    def _needed(self, buffer: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which records later ones still need."""
        keep: npt.NDArray[np.bool_] = buffer["t0_ns"] > buffer["t0_ns"][-1] - 2 * VOLTAGE_REACH_NS
        for channel in self.channels:
            if channel["quantity"] != "energy":
                continue
            own = np.flatnonzero(buffer["channel"] == channel["index"])
            keep[own] = False
            good = own[buffer["errno"][own] == 0]
            ticks = np.flatnonzero(np.diff(buffer["raw"][good]) != 0) + 1
            # The tick that the next stretch begins with, the read before it, and the last read.
            wanted = [good[-1:]] + ([good[ticks[-1] - 1 : ticks[-1] + 1]] if len(ticks) else [])
            keep[np.concatenate(wanted)] = True
        return keep

    def _count(self, samples: npt.NDArray[Any]) -> None:
        failed = samples["errno"][samples["errno"] != 0]
        for code, count in zip(*np.unique(failed, return_counts=True), strict=True):
            name = errno.errorcode.get(int(code), str(code))
            self.errors[name] = self.errors.get(name, 0) + int(count)
        for channel, counts in self._counts.items():
            own = samples[samples["channel"] == channel]
            if not len(own):
                continue
            raw = own["raw"][own["errno"] == 0]
            changes = int(np.count_nonzero(np.diff(raw)))
            if len(raw):
                changes += counts.last_raw is not None and int(raw[0]) != counts.last_raw
                counts.last_raw = int(raw[-1])
            now_ns = int(own["t0_ns"][-1])
            counts.pieces.append((now_ns, len(own), int(changes)))
            while counts.pieces[0][0] < now_ns - _RATE_NS:
                counts.pieces.popleft()
        for channel in self._leads:
            self._count_gaps(channel, samples["t0_ns"][samples["channel"] == channel])

    def _count_gaps(self, channel: int, times: npt.NDArray[np.int64]) -> None:
        """Count the distances between a group's sweeps that are above three usual ones."""
        if channel in self._lead_ns:
            times = np.concatenate([[self._lead_ns[channel]], times])
        if not len(times):
            return
        self._lead_ns[channel] = int(times[-1])
        steps = np.diff(times)
        if channel not in self._usual_ns and len(steps) >= _FEWEST_STEPS:
            self._usual_ns[channel] = int(np.median(steps))
        if channel in self._usual_ns and len(steps):
            self.gaps += int(np.count_nonzero(steps > _GAP_PERIODS * self._usual_ns[channel]))
            self.largest_gap_ns = max(self.largest_gap_ns, int(steps.max()))
