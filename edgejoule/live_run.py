"""What the parent knows of a run while it is measured, gathered for the live view.

    page of shared memory -> phase, inference     (watch.py)
    inferences.bin        -> latency              its end, at most so many records a look
    power.bin             -> power of each rail   the sampler's own file: no sensor is read for it
    resources             -> temperatures ...     the row that the parent wrote anyway
    outlook               -> time left

Files are looked at once a second on a terminal, every ten seconds where a line a minute is enough,
and not at all with --quiet. Whatever goes wrong here ends the view, never the measurement.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from edgejoule.errors import EdgejouleError, Interrupted
from edgejoule.records import INFERENCES, PASSES
from edgejoule.report.live import RailView
from edgejoule.report.outlook import (
    CLOSING,
    PHASE_TITLES,
    Announced,
    Asked,
    Past,
    Whole,
    expected_phases,
    network_left_s,
    part_of,
    phase_left_s,
    run_left_s,
    whole_left_s,
)
from edgejoule.report.text import printable
from edgejoule.tails import RecordTail

if TYPE_CHECKING:
    from edgejoule.energy.running import RunningRail, RunningTrace
    from edgejoule.report.experiment_view import RunView
    from edgejoule.report.progress import Progress

_SECOND = 1_000_000_000
_HISTORY_S = 60
_MOST_LATENCIES = 256
# A look; what is behind comes with the next. Ten seconds of 26 000 reads a second: a view that
# looks as seldom as that must not fall behind for good.
_MOST_SAMPLES = 1 << 18
_STALE_NS = 5 * _SECOND
# All that code can raise that is no wish to end: a view is never worth a measurement.
_ANYTHING = (
    *(EdgejouleError, OSError, ValueError, LookupError, ArithmeticError),
    *(TypeError, AttributeError, RuntimeError, MemoryError, ImportError, struct.error),
)
_SHORT_S = 10.0  # a set-up that took less is not compared with


@dataclass(frozen=True)
class About:
    """What is known of a run before it begins.

    Attributes:
        model: What is measured.
        asked: What says how long it takes.
        past: An earlier run of the model.
        run: Which repeat, from 1, and of how many; None where there is one.
        whole: What a campaign told.
    """

    model: str
    asked: Asked = field(default_factory=Asked)
    past: Past | None = None
    run: tuple[int, int] | None = None
    whole: Whole | None = None


@dataclass(frozen=True)
class PhaseNow:
    """Where a run is: the phase as the page has it, since when, and its inferences."""

    phase: str
    since_ns: int
    done: int = 0
    total: int | None = None
    rate_hz: float | None = None


class Latencies:
    """Latency now and of the last minute, from the end of `inferences.bin`.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.now_ms: float | None = None
        self.pass_name = ""
        self._tail = RecordTail(path)
        self._seconds: dict[int, tuple[int, int]] = {}  # sum and number
        self._last_ns = 0

    def look(self) -> None:
        """Take the newest of the inferences that ended since the last look."""
        data = self._tail.read(_MOST_LATENCIES, last=True)
        rows = list(INFERENCES.struct.iter_unpack(data))
        if not rows:
            return
        # Those of the newest pass: the profiler makes them slower.
        which = rows[-1][4]
        ours = [row for row in rows if row[4] == which]
        name = PASSES[which] if 0 <= which < len(PASSES) else ""
        if name != self.pass_name:
            self.pass_name = name
            self._seconds.clear()
        self._last_ns = ours[-1][1]
        self.now_ms = median(row[1] - row[0] for row in ours) * 1e-6
        for start_ns, end_ns, *_ in ours:
            # A slow inference belongs to every second in which it ran.
            for second in range(max(start_ns, end_ns - _HISTORY_S * _SECOND) // _SECOND,
                                end_ns // _SECOND + 1):  # fmt: skip
                total, count = self._seconds.get(second, (0, 0))
                self._seconds[second] = (total + end_ns - start_ns, count + 1)
        newest = self._last_ns // _SECOND
        self._seconds = {k: v for k, v in self._seconds.items() if k > newest - _HISTORY_S}

    def fresh(self, now_ns: int) -> float | None:
        """Return the latency now, None where the last inference is long ago."""
        slow_ns = 0 if self.now_ms is None else 3 * round(self.now_ms * 1e6)
        return self.now_ms if now_ns - self._last_ns <= max(_STALE_NS, slow_ns) else None

    def history_ms(self, now_ns: int) -> tuple[float | None, ...]:
        """Return the mean of each of the last seconds; one without an inference has None."""
        newest = now_ns // _SECOND
        found: list[float | None] = []
        for second in range(newest - _HISTORY_S + 1, newest + 1):
            total, count = self._seconds.get(second, (0, 0))
            found.append(total / count * 1e-6 if count else None)
        return tuple(found)

    def close(self) -> None:
        """Close the file."""
        self._tail.close()


class Power:
    """Power now and its mean over the phase, from the end of `power.bin`.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.simulated = False
        self._tail = RecordTail(path)
        self._trace: RunningTrace | None = None
        self._phase_ns = 0
        self._at_start: dict[str, tuple[float, int]] = {}

    @property
    def is_there(self) -> bool:
        """Whether there is a trace."""
        return self._trace is not None

    def look(self, phase_start_ns: int) -> None:
        """Take the records that came since the last look.

        Args:
            phase_start_ns: When the phase that holds began: means are counted from there.
        """
        import numpy as np

        data = self._tail.read(_MOST_SAMPLES)
        if self._tail.header is None:
            return
        if self._trace is None:
            self._trace = _trace_of(self._tail.header)
            self.simulated = bool(self._tail.header.get("simulated"))
        header = self._tail.header
        samples = np.frombuffer(data, np.dtype([tuple(one) for one in header["fields"]]))
        if phase_start_ns != self._phase_ns:
            self._phase_ns = phase_start_ns
            before = int(np.searchsorted(samples["t1_ns"], phase_start_ns))
            self._trace.feed(samples[:before])
            samples = samples[before:]
            self._at_start = {
                name: (rail.energy_mj, rail.last_ns)
                for name, rail in self._trace.rails.items()
                if rail.last_ns is not None
            }
        self._trace.feed(samples)

    def rails(self) -> tuple[RailView, ...]:
        """Return power now and mean over the phase of each rail, in the sensor's order."""
        if self._trace is None:
            return ()
        return tuple(
            RailView(name, rail.now_mw, self._mean_mw(name, rail), max_mw=rail.max_mw)
            for name, rail in self._trace.rails.items()
        )

    def total(self) -> RailView | None:
        """Return the total, None where there is none; of one rail it bears the rail's name."""
        total = None if self._trace is None else self._trace.total()
        if self._trace is None or total is None:
            return None
        parts = self._trace.total_of
        means = [self._mean_mw(name, self._trace.rails[name]) for name in parts]
        known = [mean for mean in means if mean is not None]
        mean_mw = sum(known) if len(known) == len(parts) else None
        name = f"{parts[0]} (total)" if len(parts) == 1 else "total"
        return RailView(name, total.now_mw, mean_mw, max_mw=total.max_mw)

    def close(self) -> None:
        """Close the file."""
        self._tail.close()

    def _mean_mw(self, name: str, rail: RunningRail) -> float | None:
        if rail.first_ns is None or rail.last_ns is None:
            return None
        energy_mj, since_ns = self._at_start.get(name, (0.0, rail.first_ns))
        span_s = (rail.last_ns - since_ns) * 1e-9
        return (rail.energy_mj - energy_mj) / span_s if span_s > 0 else None


class LiveRun:
    """Shows one run while it lasts.

    Args:
        directory: The run's working directory.
        progress: Where it is shown.
        about: What is known of it.
        start_ns: CLOCK_MONOTONIC of its start.
    """

    def __init__(self, directory: Path, progress: Progress, about: About, start_ns: int) -> None:
        self._progress = progress
        self._about = about
        self._start_ns = start_ns
        self._latencies = Latencies(directory / "inferences.bin")
        self._power = Power(directory / "power.bin")
        self._announced: dict[str, Announced] = {}
        self._row: Mapping[str, float] = {}
        self._throttle_counts: dict[str, float] = {}
        self._phase, self._since_ns = "", 0
        self._next_look_ns = 0
        self._seen_ms: float | None = None
        self._broken = False
        self._marks: list[str] = []

    def mark(self, text: str) -> None:
        """Say what must stand wherever this run's figures do, once it is known."""
        if text not in self._marks:
            self._marks.append(text)

    def announce(self, name: str, inferences: int | None, seconds: float) -> None:
        """Take the measuring process's word on how long a pass will be."""
        self._announced[name] = Announced(inferences, seconds)

    def resources(self, row: Mapping[str, float]) -> None:
        """Take the row that was just written to the resources."""
        self._row = row
        for name, value in row.items():
            if name.startswith("throttled_"):
                self._throttle_counts.setdefault(name, value)

    def tick(self, now: PhaseNow, now_ns: int) -> None:
        """Show where the run is; call it as often as one likes.

        Args:
            now: What the page says.
            now_ns: CLOCK_MONOTONIC.
        """
        look_s = self._progress.look_s
        if look_s is None or self._broken:
            return
        phase = part_of(now.phase, self._phase)
        if phase != self._phase:
            self._phase, self._since_ns = phase, now.since_ns
        try:
            if now_ns >= self._next_look_ns:
                self._next_look_ns = now_ns + round(look_s * _SECOND)
                self._latencies.look()
                self._power.look(self._since_ns)
            self._progress.show(phase, lambda: self._view(now, now_ns))
        except Interrupted:
            raise
        except _ANYTHING as error:
            self._broken = True
            self._progress.clear()
            why = printable(str(error) or type(error).__name__)
            self._progress.line(f"the live view ended, the measurement goes on: {why}")

    def close(self) -> None:
        """Take the view away and close the files."""
        self._progress.clear()
        self._latencies.close()
        self._power.close()

    def _view(self, now: PhaseNow, now_ns: int) -> RunView:
        """Return the state for the view."""
        from edgejoule.report.experiment_view import SIMULATED, RunView

        about, phase = self._about, self._phase
        latency_ms = self._latencies.fresh(now_ns)
        if self._latencies.pass_name in ("warmup", "clean") and latency_ms is not None:
            self._seen_ms = latency_ms
        expected = expected_phases(about.asked, about.past, self._seen_ms, self._announced)
        names = [name for name in expected if name != CLOSING]
        spent_s = max(0.0, (now_ns - self._since_ns) * 1e-9)
        expected_s = expected.get(phase)
        left_s = phase_left_s(spent_s, expected_s, now.done, now.total, now.rate_hz)
        building = phase == "setup"
        run_s = run_left_s(expected, CLOSING if phase == "end" else phase, left_s)
        network_s = network_left_s(about.asked, expected, run_s)
        if network_s is None and about.whole is not None and about.whole.network_s is not None:
            network_s = max(0.0, about.whole.network_s - (now_ns - self._start_ns) * 1e-9)
        simulated = (SIMULATED,) if self._power.simulated else ()
        view = RunView(
            model=about.model,
            marks=(*simulated, *self._marks),
            network=None if about.whole is None else (about.whole.position, about.whole.count),
            run=about.run,
            phase=PHASE_TITLES.get(phase, phase),
            phase_number=(names.index(phase) + 1, len(names)) if phase in names else None,
            spent_s=spent_s,
            took_s=expected_s if building and (expected_s or 0.0) >= _SHORT_S else None,
            done=now.done if phase in PASSES else 0,
            total=now.total,
            rate_hz=now.rate_hz if phase in PASSES else None,
            phase_left_s=None if building else left_s,
            latency_ms=latency_ms,
            latencies_ms=self._latencies.history_ms(now_ns) if latency_ms is not None else (),
            has_power=self._power.is_there,
            rails=self._power.rails(),
            total_power=self._power.total(),
            network_left_s=network_s,
            whole_left_s=whole_left_s(about.whole, network_s),
        )
        return replace(view, **heat_of(self._row, self._throttle_counts))


def heat_of(row: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, Any]:
    """Return temperatures, throttling and memory as fields of `RunView`.

    Args:
        row: A row of the resources.
        counts: Counters of throttling as they were at the start.
    """
    zones = [
        (name.removeprefix("temperature_").removesuffix("_c").removesuffix("_temperature"), value)
        for name, value in row.items()
        if name.endswith("_c") and "temperature" in name
    ]
    slowed = {
        name.removeprefix("throttling_"): value > 0
        for name, value in row.items()
        if name.startswith("throttling_")
    }
    slowed |= {name.removeprefix("throttled_"): row[name] > counts[name]
               for name in counts if name in row}  # fmt: skip
    if "gpu_throttled" in row:
        slowed["gpu"] = row["gpu_throttled"] > 0
    return {
        "temperatures_c": tuple(sorted(zones, key=lambda zone: -zone[1])),
        "throttled": tuple(name for name, is_slow in slowed.items() if is_slow) if slowed else None,
        "memory_mib": row.get("rss_measuring_mib"),
        "available_mib": row.get("memory_available_mib"),
    }


def _trace_of(header: dict[str, Any]) -> RunningTrace:
    from edgejoule.energy.running import RunningTrace
    from edgejoule.power.totals import total_rails_of

    names = tuple(dict.fromkeys(channel["rail"] for channel in header["channels"]))
    return RunningTrace(header, total_rails_of(header, names))
