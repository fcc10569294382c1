"""Logs of tegrastats: read line by line and summed up, in bounded memory.

Time is never invented. From JetPack 5 on a line has a wall time of 1 s resolution; older ones have
none, and then only the interval that the user states gives one, called `t_s_nominal`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.power.tegrastats import Sample, TegrastatsError, parse_line

LONGEST_LINE = 1 << 20  # bytes; a real line has about 1000
KINDS = ("memory", "cpu", "engine", "temperature", "rail", "unknown")
_SHOWN = 10
_UNIT_ENDINGS = {"MiB": "_mib", "percent": "_percent", "MHz": "_mhz", "degC": "_c", "mW": "_mw"}


@dataclass(frozen=True)
class LogLine:
    """One line of a log that is not blank.

    Attributes:
        number: Its number in the file, from 1.
        sample: What it says; None if it is broken.
        error: Why it is broken, else empty.
        t_s_nominal: The stated interval times the lines since the first that was understood
            (broken ones count: each took its interval); None if none was stated, and before.
        ended: Whether it has a line end; the last one of a log may be cut.
    """

    number: int
    sample: Sample | None
    error: str = ""
    t_s_nominal: float | None = None
    ended: bool = True


class Column(NamedTuple):
    """What a figure is: a column of the CSV, and four columns of each Parquet row."""

    kind: str
    name: str
    quantity: str
    unit: str

    @property
    def header(self) -> str:
        """The name of the CSV's column, unit at its end: `rail.VDD_IN.power_mw`."""
        return f"{self.kind}.{self.name}.{self.quantity}{_UNIT_ENDINGS.get(self.unit, '')}"


@dataclass(frozen=True)
class RailSummary:
    """A rail over a log.

    Attributes:
        name: The rail, or `total`.
        lines: In how many lines it stands.
        mean_mw: Mean of its power over these.
        energy_mj: Its energy from its first to its last line; None without times,
            and where the rail has one time only.
        seconds: Between these two lines; None as above.
    """

    name: str
    lines: int
    mean_mw: float
    energy_mj: float | None
    seconds: float | None


@dataclass(frozen=True)
class LogSummary:
    """A whole log.

    Attributes:
        read: Number of the last line that is not blank.
        understood: Lines of tegrastats.
        broken: How many other lines that are not blank.
        first_broken: The first of them as (number, why).
        cut_end: Whether the last line has no line end, so that it may be cut.
        columns: All figures that any line has, by kind, then as they come.
        rails: Each rail, in the order of appearance; last `total` where it is known.
        totals: The rails that were added up to `total`; more than one sum where rails come and go.
        first_time: Wall time of the first line, if it has one.
        last_time: That of the last one.
        clock: What the energies rest on: `wall times`, `interval` or empty.
        no_clock: Why there are no energies, else empty.
        nominal_s: From the first to the last line by the stated interval, if one was stated.
        unknown: Text that was not understood, with the number of lines; the first few.
        off_sensors: Temperature sensors that were off in some line.
    """

    read: int
    understood: int
    broken: int
    first_broken: tuple[tuple[int, str], ...]
    cut_end: bool
    columns: tuple[Column, ...]
    rails: tuple[RailSummary, ...]
    totals: tuple[tuple[str, ...], ...]
    first_time: datetime | None
    last_time: datetime | None
    clock: str
    no_clock: str
    nominal_s: float | None
    unknown: tuple[tuple[str, int], ...]
    off_sensors: tuple[str, ...]


def read_log(path: Path, interval_ms: float | None = None) -> Iterator[LogLine]:
    """Read a log line by line; blank lines are left out, broken ones say why.

    Args:
        path: The log.
        interval_ms: What `tegrastats --interval` was, if it is known.

    Raises:
        UsageError: The log cannot be read, or the interval is no time.
    """
    if interval_ms is not None and not 0 < interval_ms < float("inf"):
        raise UsageError(f"an interval of {interval_ms:g} ms", "give milliseconds above 0")
    first: int | None = None  # the tick of the first line that was understood
    tick = 0
    for number, text, ended in _texts(path):
        if text is not None and not text.strip():
            continue
        tick += 1
        sample, error = None, f"longer than {LONGEST_LINE} bytes"
        if text is not None:
            try:
                sample, error = parse_line(text), ""
            except TegrastatsError as caught:
                error = caught.message
        if sample is not None and first is None:
            first = tick
        t_s = None
        if interval_ms is not None and first is not None:
            t_s = (tick - first) * interval_ms * 1e-3
        yield LogLine(number, sample, error, t_s, ended)


def figures(sample: Sample) -> Iterator[tuple[Column, float | None]]:
    """Return all that a sample says, in its order; a thing that is off has `off` = 1."""
    for memory in sample.memories:
        for quantity, value, unit in (
            ("used", memory.used_mib, "MiB"),
            ("total", memory.total_mib, "MiB"),
            ("largest_blocks", memory.largest_blocks, ""),
            ("largest_block", memory.largest_block_mib, "MiB"),
            ("cached", memory.cached_mib, "MiB"),
        ):
            if value is not None:
                yield Column("memory", memory.name, quantity, unit), value
    for cpu in sample.cpus:
        clocks = None if cpu.clock_mhz is None else (cpu.clock_mhz,)
        yield from _busy("cpu", str(cpu.number), cpu.load_percent, clocks, cpu.off)
    for engine in sample.engines:
        yield from _busy("engine", engine.name, engine.load_percent, engine.clock_mhz, engine.off)
    for temperature in sample.temperatures:
        yield Column("temperature", temperature.name, "now", "degC"), temperature.celsius
        if temperature.max_celsius is not None:
            yield Column("temperature", temperature.name, "max", "degC"), temperature.max_celsius
    for name in sample.off_temperatures:
        yield Column("temperature", name, "off", ""), 1
    for rail in sample.rails:
        yield Column("rail", rail.name, "power", "mW"), rail.power_mw
        if rail.mean_mw is not None:
            yield Column("rail", rail.name, "mean", "mW"), rail.mean_mw
        if rail.max_mw is not None:
            yield Column("rail", rail.name, "max", "mW"), rail.max_mw
    for text in sample.unknown:
        yield Column("unknown", text, "text", ""), None


def _busy(
    kind: str, name: str, load: int | None, clocks: Sequence[int] | None, off: bool
) -> Iterator[tuple[Column, float | None]]:
    if load is not None:
        yield Column(kind, name, "load", "percent"), load
    clocks = clocks or ()
    for number, clock in enumerate(clocks):
        quantity = "clock" if len(clocks) == 1 else f"clock_{number}"
        yield Column(kind, name, quantity, "MHz"), clock
    if off:
        yield Column(kind, name, "off", ""), 1


class _Integral:
    """Sum and integral of a power; lines with the same time stamp count as their mean."""

    def __init__(self) -> None:
        self.lines = 0
        self.sum_mw = 0.0
        self.energy_mj = 0.0
        self.first_s: float | None = None
        self.last_s: float | None = None
        self._before: tuple[float, float] | None = None
        self._stamp_sum_mw = 0.0
        self._stamp_lines = 0

    def add(self, t_s: float | None, power_mw: float) -> None:
        self.lines += 1
        self.sum_mw += power_mw
        if t_s is None:
            return
        if t_s != self.last_s:
            self.close()
            self.first_s = t_s if self.first_s is None else self.first_s
            self.last_s = t_s
        self._stamp_sum_mw += power_mw
        self._stamp_lines += 1

    def close(self) -> None:
        """Take the finished stamp into the integral (trapezoids)."""
        if self.last_s is None or not self._stamp_lines:
            return
        mean_mw = self._stamp_sum_mw / self._stamp_lines
        if self._before is not None:
            before_s, before_mw = self._before
            self.energy_mj += (self.last_s - before_s) * (mean_mw + before_mw) / 2
        self._before = (self.last_s, mean_mw)
        self._stamp_sum_mw, self._stamp_lines = 0.0, 0

    def summary(self, name: str, *, timed: bool) -> RailSummary:
        self.close()
        mean_mw = self.sum_mw / self.lines
        if not timed or self.first_s is None or self.last_s is None or self.first_s == self.last_s:
            return RailSummary(name, self.lines, mean_mw, None, None)
        seconds = self.last_s - self.first_s
        return RailSummary(name, self.lines, mean_mw, self.energy_mj, seconds)


class _Adder:
    """What is added up from line to line."""

    def __init__(
        self, timed: bool, total_of: Callable[[Sequence[str]], Sequence[str] | None]
    ) -> None:
        self.understood = 0
        self.columns: dict[Column, None] = {}
        self.off: dict[str, None] = {}
        self.unknown: dict[str, int] = {}
        self.first: datetime | None = None
        self.last: datetime | None = None
        self.no_clock = ""
        self.nominal_s: float | None = None
        self._timed = timed
        self._total_of = total_of
        self._parts: dict[tuple[str, ...], Sequence[str] | None] = {}
        self._rails: dict[str, _Integral] = {}
        self._total = _Integral()
        self.totals: dict[tuple[str, ...], None] = {}

    def add(self, number: int, sample: Sample, t_s_nominal: float | None) -> None:
        wall = sample.local_time
        if not self._timed and not self.no_clock:
            self.no_clock = _clock_fault(number, wall, self.last)
        if not self.understood:
            self.first = wall
        self.last, self.nominal_s = wall, t_s_nominal
        self.understood += 1
        self.columns.update(dict.fromkeys(column for column, _ in figures(sample)))
        self.off.update(dict.fromkeys(sample.off_temperatures))
        for text in sample.unknown:
            if text in self.unknown or len(self.unknown) < _SHOWN:
                self.unknown[text] = self.unknown.get(text, 0) + 1
        t_s = t_s_nominal
        if t_s is None and wall is not None and self.first is not None:
            t_s = (wall - self.first).total_seconds()
        self._add_rails({rail.name: rail.power_mw for rail in sample.rails}, t_s)

    def _add_rails(self, powers: dict[str, int], t_s: float | None) -> None:
        for name, power_mw in powers.items():
            self._rails.setdefault(name, _Integral()).add(t_s, power_mw)
        names = tuple(powers)
        if names not in self._parts:
            self._parts[names] = self._total_of(names)
        parts = self._parts[names]
        if parts:
            self.totals[tuple(parts)] = None
            self._total.add(t_s, sum(powers[name] for name in parts))

    def rails(self) -> tuple[RailSummary, ...]:
        if not self._timed and not self.no_clock and self.first == self.last:
            self.no_clock = "all lines have the same wall time"
        timed = not self.no_clock
        rails = [part.summary(name, timed=timed) for name, part in self._rails.items()]
        if self._total.lines:
            rails.append(self._total.summary("total", timed=timed))
        return tuple(rails)


def summarise_log(
    path: Path,
    interval_ms: float | None = None,
    total_of: Callable[[Sequence[str]], Sequence[str] | None] = lambda _: None,
) -> LogSummary:
    """Read a whole log and add up its rails.

    Args:
        path: The log.
        interval_ms: What `tegrastats --interval` was, if it is known.
        total_of: Which of a line's rails make up the total; None: not known.

    Raises:
        UsageError: The log cannot be read.
        MeasurementError: No line of it is one of tegrastats.
    """
    adder = _Adder(interval_ms is not None, total_of)
    first_broken: list[tuple[int, str]] = []
    broken = 0
    line = LogLine(0, None)
    for line in read_log(path, interval_ms):
        if line.sample is not None:
            adder.add(line.number, line.sample, line.t_s_nominal)
            continue
        broken += 1
        if len(first_broken) < _SHOWN:
            first_broken.append((line.number, line.error))
    if not adder.understood:
        why = f"line {first_broken[0][0]}: {first_broken[0][1]}" if first_broken else "it is empty"
        raise MeasurementError(
            f"no line of {path} is one of tegrastats ({why})",
            "give what `tegrastats` or `tegrastats --logfile FILE` wrote",
        )
    rails = adder.rails()
    clock = "interval" if interval_ms is not None else "" if adder.no_clock else "wall times"
    return LogSummary(
        line.number,
        adder.understood,
        broken,
        tuple(first_broken),
        not line.ended,
        _in_order(adder.columns),
        rails,
        tuple(adder.totals),
        adder.first,
        adder.last,
        clock,
        adder.no_clock,
        adder.nominal_s,
        tuple(adder.unknown.items()),
        tuple(adder.off),
    )


def _in_order(columns: Iterable[Column]) -> tuple[Column, ...]:
    """Sort by kind; what belongs to one thing stays together, things in the order of appearance."""
    things: dict[tuple[str, str], int] = {}
    for column in columns:
        things.setdefault((column.kind, column.name), len(things))
    order = {kind: place for place, kind in enumerate(KINDS)}
    return tuple(sorted(columns, key=lambda c: (order[c.kind], things[c.kind, c.name])))


def _clock_fault(number: int, wall: datetime | None, last: datetime | None) -> str:
    if wall is None:
        return f"line {number} has no wall time"
    if last is not None and wall < last:
        return f"the wall time goes back at line {number}"
    return ""


def _texts(path: Path) -> Iterator[tuple[int, str | None, bool]]:
    """Return each line as (number, text, whether it ends); no text if it is too long."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"the log {path} cannot be read ({error.strerror})") from error
    with file:
        number = 0
        while data := file.readline(LONGEST_LINE):
            number += 1
            whole = len(data) < LONGEST_LINE or data.endswith(b"\n")
            if not whole:
                data = _skip_line(file)
            text = data.decode("utf-8", "replace").removeprefix("\ufeff") if whole else None
            yield number, text, data.endswith(b"\n")


def _skip_line(file: BinaryIO) -> bytes:
    """Read on to the line's end; return the last piece."""
    while data := file.readline(LONGEST_LINE):
        if data.endswith(b"\n"):
            break
    return data
