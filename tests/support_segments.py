"""A replay pass that was never run: segments with known powers, and what a rail shows of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edgejoule.energy.replay_segments import IDLE, Segments, segments_of
from edgejoule.energy.trace import RailPower, rail_powers_of_samples

REFRESH_NS = 6_600_000
REACH_NS = 2 * REFRESH_NS
COUNTER_REACH_NS = 200_000_000


@dataclass
class MadeUp:
    """Segments one after the other, 0.3 s apart, and the power drawn meanwhile.

    Args:
        seed: Of all noise.
        idle_mw: Idle power at the begin.
        drift: Its rise per second, as a share.
        scatter: Standard deviation of a segment's power, as a share.
        time_scatter: Of its time per execution.
    """

    seed: int = 0
    idle_mw: float = 5000.0
    drift: float = 0.0
    scatter: float = 0.0
    time_scatter: float = 0.0
    segment_s: float = 0.5
    now_s: float = 1.0
    rows: list[tuple[int, ...]] = field(default_factory=list)
    steps: list[tuple[float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def idle(self, number: int = 0) -> None:
        self._add((IDLE, -1, 1), number, 0.0, 0.0)

    def repeat(
        self, thing: tuple[int, int, int], above_mw: float, alone_ms: float, number: int = 0
    ) -> None:
        self._add(thing, number, above_mw, alone_ms)

    def _add(
        self, thing: tuple[int, int, int], number: int, above_mw: float, alone_ms: float
    ) -> None:
        level = self.idle_mw * (1 + self.drift * self.now_s)
        busy = level + above_mw
        if above_mw:
            busy *= 1 + self.scatter * self.random.standard_normal()
            alone_ms *= 1 + self.time_scatter * self.random.standard_normal()
        # The warm-up draws the same; it is not part of the segment.
        begin_s, start_s = self.now_s, self.now_s + 0.15
        iterations = max(1, round(self.segment_s * 1e3 / alone_ms)) if alone_ms else 0
        length_s = iterations * alone_ms * 1e-3 if iterations else self.segment_s
        self.now_s = start_s + length_s
        self.steps.append((begin_s, self.now_s, busy))
        kind, layer, copies = thing
        self.rows.append(
            (round(start_s * 1e9), round(self.now_s * 1e9), iterations, layer, copies, number, kind)
        )
        self.now_s += 0.05

    def segments(self) -> Segments:
        names = ("start_ns", "end_ns", "iterations", "layer", "copies", "round", "kind")
        return segments_of(dict(zip(names, zip(*self.rows, strict=True), strict=True)))

    def power_mw(self, t_s: np.ndarray) -> np.ndarray:
        """Return the power drawn at some times."""
        power = self.idle_mw * (1 + self.drift * t_s)
        for begin_s, end_s, level in self.steps:
            power[(t_s >= begin_s) & (t_s < end_s)] = level
        return power

    def readings(self, noise: float = 0.0) -> RailPower:
        """Return what a sensor shows that renews the mean of the refresh before."""
        edges = np.arange(0.0, self.now_s + 1.0, REFRESH_NS * 1e-9)
        fine = (edges[:-1, None] + np.linspace(0, 1, 8, endpoint=False) * REFRESH_NS * 1e-9).ravel()
        power = self.power_mw(fine).reshape(-1, 8).mean(axis=1)
        power = power * (1 + noise * self.random.standard_normal(len(power)))
        return RailPower("VDD_IN", (edges[1:] * 1e9).astype(np.int64), power)

    def counter(self, tick_ms: float = 100.05, read_ms: float = 50.3) -> RailPower:
        """Return what an energy counter shows that ticks steadily and is read twice as often."""
        return counter_of(self.power_mw, self.now_s + 1.0, tick_ms, read_ms, self.random)


def counter_of(
    power_mw: Callable[[np.ndarray], np.ndarray],
    seconds: float,
    tick_ms: float,
    read_ms: float,
    random: np.random.Generator,
    jitter_ms: float = 0.0,
    rests: tuple[tuple[float, float], ...] = (),
    slow: tuple[tuple[float, float], ...] = (),
) -> RailPower:
    """Return the power of an energy counter in mJ.

    Args:
        power_mw: Power at some times, s.
        seconds: Length of the trace.
        tick_ms: Between ticks.
        read_ms: Between reads.
        random: Of phase and jitter.
        jitter_ms: Standard deviation of the ticks' times.
        rests: Spans (s) in which nothing is read.
        slow: From when on (s) a single read took how long (s); it shows what held at its end.
    """
    grid_s = np.arange(0.0, seconds, 1e-3)
    used_mj = np.concatenate([[0.0], np.cumsum(power_mw(grid_s)) * 1e-3])[:-1]
    count = int(seconds * 1e3 / tick_ms)
    ticks_s = (np.arange(count) + random.uniform()) * tick_ms * 1e-3
    ticks_s += random.normal(0, jitter_ms * 1e-3, count) if jitter_ms else 0.0
    shown = np.floor(np.interp(ticks_s, grid_s, used_mj)).astype(np.int64)
    reads_s = np.arange(0.2, seconds, read_ms * 1e-3)
    for begin_s, end_s in rests:
        reads_s = reads_s[(reads_s < begin_s) | (reads_s >= end_s)]
    ends_s = reads_s.copy()
    for begin_s, took_s in slow:
        at = int(np.searchsorted(reads_s, begin_s))
        ends_s[at] += took_s
        keep = (np.arange(len(reads_s)) <= at) | (reads_s >= ends_s[at])
        reads_s, ends_s = reads_s[keep], ends_s[keep]
    t0_ns = (reads_s * 1e9).astype(np.int64)
    raw = shown[np.searchsorted(ticks_s, ends_s, side="right") - 1]
    channel = {"index": 0, "rail": "gpu_energy", "quantity": "energy", "unit": "mJ", "chip": ""}
    columns = {
        "t0_ns": t0_ns,
        "t1_ns": (ends_s * 1e9).astype(np.int64),
        "raw": raw,
        "channel": np.zeros(len(raw), np.int64),
        "errno": np.zeros(len(raw), np.int64),
    }
    return rail_powers_of_samples([channel], columns)["gpu_energy"]
