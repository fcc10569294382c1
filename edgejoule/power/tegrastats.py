"""One line of NVIDIA's `tegrastats` as values: JetPack 3 to 7.2.

    04-24-2023 00:01:24 RAM 1282/62795MB (lfb 15152x4MB) CPU [0%@729,off] EMC_FREQ 0%@2133
    |                   |                                |                |
    wall time (JP5+)    used/total MiB, free blocks      load@MHz or off  load@MHz
    GR3D_FREQ 4%@[305,305] NVDEC off APE 174 GPU@-256C tj@42.5C VDD_IN 4915mW/4820mW NC 0mW/0mW
    |                      |         |       |         |        |
    one MHz per cluster    off       MHz     off       deg C    mW now/average since it started

Fields come and go from release to release, between `sudo` and without, and while it runs. What is
not printed is None or absent; what is not understood is kept as text, never guessed. A line that
was cut within its last number cannot be told from a whole one.

The grammar is from lines that users published: jetson-tx1-dev, tegrastats_parser, jetson_stats,
gtop, beszel, tegra-exporter and others; NVIDIA's developer guide names the fields.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from edgejoule.errors import MeasurementError

OFF_C = -256.0  # what a sensor says whose domain is switched off
WALL_FORMAT = "%m-%d-%Y %H:%M:%S"

# Every repetition is bounded or stands before a character that it cannot match, so that no text
# makes them try combinations; every number is short enough for an int of 64 bits.
_END = r"(?=\s|\Z)"
_WALL = re.compile(r"(\d\d-\d\d-\d{4} \d\d:\d\d:\d\d)" + _END, re.ASCII)
_MEMORY = re.compile(
    r"([A-Z][A-Z0-9_]{0,31}) (\d{1,12})/(\d{1,12})([kKMG])B(?: ?\(([^()]{0,200})\))?" + _END,
    re.ASCII,
)
_BLOCKS = re.compile(r"lfb (\d{1,9})x(\d{1,9})([kKMG])B", re.ASCII)
_BLOCK = re.compile(r"lfb (\d{1,9})([kKMG])B", re.ASCII)
_CACHED = re.compile(r"cached (\d{1,12})([kKMG])B", re.ASCII)
_CPUS = re.compile(r"(?:CPU|cpu) \[([^\[\]]*)\](?:@(\d{1,7}))?" + _END, re.ASCII)
_CPU = re.compile(r"(off)|(\d{1,3})%(?:@(\d{1,7}))?", re.ASCII)
_DEGREES = r"(-?\d{1,6}(?:\.\d{1,9})?)C"
_TEMPERATURE = re.compile(rf"([A-Za-z][\w.-]{{0,63}})@{_DEGREES}(?:/{_DEGREES})?" + _END, re.ASCII)
_MTS = re.compile(r"MTS fg (\d{1,3})% bg (\d{1,3})%" + _END, re.ASCII)
_MHZ = r"(\d{1,7}|\[\d{1,7}(?:,\d{1,7}){0,63}\])"
_ENGINE = re.compile(
    rf"([A-Z][A-Z0-9_]{{0,63}}) (?:(off)|(\d{{1,3}})%(?:@{_MHZ})?|@{_MHZ}|(\d{{1,7}}))" + _END,
    re.ASCII,
)
# A bare number is a clock only behind a name that is known to be printed like that: a cut
# `VDD_IN 491` is none.
_BARE_CLOCK = re.compile(
    r"(?:EMC|GR3D|APE|VIC|MSENC|NVENC|NVDEC|NVJPG|NVDLA|OFA|PVA|SE)\d?(?:_FREQ)?|\w+_FREQ", re.ASCII
)
_MW = r"(-?\d{1,9})mW"
_PLAIN = r"(-?\d{1,9})"
_RAIL = re.compile(
    rf"([A-Za-z0-9_][\w.+:-]{{0,63}}) (?:{_MW}(?:/{_MW}(?:/{_MW})?)?|{_PLAIN}/{_PLAIN})" + _END,
    re.ASCII,
)
_MEMORIES = frozenset({"RAM", "SWAP", "IRAM"})
_WORD = re.compile(r"\S+")
_MIB = {"k": 1 / 1024, "K": 1 / 1024, "M": 1.0, "G": 1024.0}


class TegrastatsError(MeasurementError):
    """A text that is no line of tegrastats."""


@dataclass(frozen=True)
class Memory:
    """A memory in MiB; kB and GB as printed are converted, MB are taken as MiB.

    Attributes:
        name: `RAM`, `SWAP` or `IRAM`.
        used_mib: In use.
        total_mib: There is.
        largest_blocks: How many free blocks there are of the largest size; None: not printed.
        largest_block_mib: That size.
        cached_mib: Of SWAP, what is in memory as well.
    """

    name: str
    used_mib: float
    total_mib: float
    largest_blocks: int | None = None
    largest_block_mib: float | None = None
    cached_mib: float | None = None


@dataclass(frozen=True)
class Cpu:
    """A CPU core; load and clock are None where it is off, and where they are not printed."""

    number: int
    load_percent: int | None
    clock_mhz: int | None
    off: bool = False


@dataclass(frozen=True)
class Engine:
    """An engine with a clock: memory controller (EMC), GPU (GR3D), codecs, audio.

    Attributes:
        name: As printed (`GR3D_FREQ`, `NVDEC`, `MTS fg`).
        load_percent: None where no load is printed, which is not 0 (`GR3D_FREQ @[0,0,0]`).
        clock_mhz: One clock per cluster; None where none is printed.
        off: Printed as `off`.
    """

    name: str
    load_percent: int | None = None
    clock_mhz: tuple[int, ...] | None = None
    off: bool = False


@dataclass(frozen=True)
class Temperature:
    """A temperature in degrees Celsius, with the highest so far where it is printed (JP7.2)."""

    name: str
    celsius: float
    max_celsius: float | None = None


@dataclass(frozen=True)
class Rail:
    """Power of a rail in mW: now, and mean and maximum since tegrastats was started."""

    name: str
    power_mw: int
    mean_mw: int | None = None
    max_mw: int | None = None


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_T = TypeVar("_T", bound=_Named)


@dataclass(frozen=True)
class Sample:
    """What one line says, in the order of printing.

    A name that stands twice in a line (`NC` on AGX Orin) gets `#2` the second time.

    Attributes:
        wall_time: Local time as printed, `MM-DD-YYYY HH:MM:SS`; None before JetPack 5.
        memories: RAM, SWAP, IRAM.
        cpus: The cores by number; empty where none are printed.
        engines: EMC, GPU, codecs and others.
        temperatures: Those that have a value.
        off_temperatures: Sensors that printed -256 C, which is no temperature.
        rails: Empty where they are hidden (JetPack 5 on AGX Orin without root).
        unknown: Text that was not understood.
    """

    wall_time: str | None = None
    memories: tuple[Memory, ...] = ()
    cpus: tuple[Cpu, ...] = ()
    engines: tuple[Engine, ...] = ()
    temperatures: tuple[Temperature, ...] = ()
    off_temperatures: tuple[str, ...] = ()
    rails: tuple[Rail, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def local_time(self) -> datetime | None:
        """The wall time; it has no zone and a resolution of 1 s."""
        return None if self.wall_time is None else datetime.strptime(self.wall_time, WALL_FORMAT)

    def memory(self, name: str) -> Memory | None:
        """Return a memory by name."""
        return _find(self.memories, name)

    def engine(self, name: str) -> Engine | None:
        """Return an engine by name."""
        return _find(self.engines, name)

    def temperature(self, name: str) -> Temperature | None:
        """Return a temperature by name."""
        return _find(self.temperatures, name)

    def rail(self, name: str) -> Rail | None:
        """Return a rail by name."""
        return _find(self.rails, name)


def parse_line(text: str) -> Sample:
    """Read one line of tegrastats.

    Args:
        text: The line, with or without its line end.

    Raises:
        TegrastatsError: It is none: neither memory nor CPUs are in it, nor two of engines,
            temperatures and rails; or it holds two lines that ran into each other.
    """
    line = _Line(text.replace("\0", " ").strip())
    line.read()
    kinds = sum(map(bool, (line.engines, line.temperatures or line.off, line.rails)))
    if not (line.memories or line.cpus) and kinds < 2:
        shown = " ".join(text.split())[:60]
        raise TegrastatsError(f"no line of tegrastats: {shown!r}")
    if any(memory.name == "RAM#2" for memory in line.memories) or line.cpu_lists > 1:
        raise TegrastatsError("two lines of tegrastats ran into each other")
    return Sample(
        line.wall_time,
        tuple(line.memories),
        tuple(line.cpus),
        tuple(line.engines),
        tuple(line.temperatures),
        tuple(line.off),
        tuple(line.rails),
        tuple(line.unknown),
    )


class _Line:
    """A line being read from left to right."""

    def __init__(self, text: str) -> None:
        self.wall_time: str | None = None
        self.memories: list[Memory] = []
        self.cpus: list[Cpu] = []
        self.cpu_lists = 0
        self.engines: list[Engine] = []
        self.temperatures: list[Temperature] = []
        self.off: list[str] = []
        self.rails: list[Rail] = []
        self.unknown: list[str] = []
        self._text = text
        self._counts: dict[tuple[str, str], int] = {}

    def read(self) -> None:
        """Take field by field; a word that begins none is unknown."""
        position = self._wall()
        fields = (
            (_MEMORY, self._memory),
            (_CPUS, self._cpus),
            (_TEMPERATURE, self._temperature),
            (_ENGINE, self._engine),
            (_MTS, self._mts),
            (_RAIL, self._rail),
        )
        unknown_from: int | None = None  # words that begin no field belong together
        while word := _WORD.search(self._text, position):
            for pattern, take in fields:
                match = pattern.match(self._text, word.start())
                if match and take(match):
                    if unknown_from is not None:
                        self.unknown.append(self._text[unknown_from:position])
                        unknown_from = None
                    position = match.end()
                    break
            else:
                unknown_from = word.start() if unknown_from is None else unknown_from
                position = word.end()
        if unknown_from is not None:
            self.unknown.append(self._text[unknown_from:position])

    def _wall(self) -> int:
        match = _WALL.match(self._text)
        if not match:
            return 0
        try:
            datetime.strptime(match[1], WALL_FORMAT)
        except ValueError:
            return 0  # no such day: unknown text
        self.wall_time = match[1]
        return match.end()

    def _memory(self, match: re.Match[str]) -> bool:
        name, used, total, unit, extra = match.groups()
        blocks = block_mib = cached_mib = None
        if extra is not None:
            if found := _BLOCKS.fullmatch(extra):
                blocks, block_mib = int(found[1]), int(found[2]) * _MIB[found[3]]
            elif found := _BLOCK.fullmatch(extra):
                block_mib = int(found[1]) * _MIB[found[2]]
            elif found := _CACHED.fullmatch(extra):
                cached_mib = int(found[1]) * _MIB[found[2]]
            else:
                self.unknown.append(f"{name} ({extra})")
        self.memories.append(
            Memory(
                self._distinct("memory", name),
                int(used) * _MIB[unit],
                int(total) * _MIB[unit],
                blocks,
                block_mib,
                cached_mib,
            )
        )
        return True

    def _cpus(self, match: re.Match[str]) -> bool:
        entries = [_CPU.fullmatch(entry.strip()) for entry in match[1].split(",")]
        shared = match[2]
        cpus = []
        for number, entry in enumerate(entries):
            if entry is None:
                return False
            off, load, clock = entry.groups()
            if off:
                cpus.append(Cpu(number, None, None, off=True))
            else:  # JetPack 3 prints one clock behind the list, for all that are on
                mhz = clock or shared
                cpus.append(Cpu(number, int(load), None if mhz is None else int(mhz)))
        self.cpu_lists += 1
        self.cpus = cpus
        return True

    def _temperature(self, match: re.Match[str]) -> bool:
        name, now, highest = match[1], float(match[2]), match[3]
        if now <= OFF_C:
            self.off.append(self._distinct("temperature", name))
            return True
        top = None if highest is None or float(highest) <= OFF_C else float(highest)
        self.temperatures.append(Temperature(self._distinct("temperature", name), now, top))
        return True

    def _engine(self, match: re.Match[str]) -> bool:
        name, off, load, clock, clock_alone, bare = match.groups()
        if name in _MEMORIES or (bare is not None and not _BARE_CLOCK.fullmatch(name)):
            return False
        mhz = clock or clock_alone or bare
        clocks = None if mhz is None else tuple(int(one) for one in mhz.strip("[]").split(","))
        percent = None if load is None else int(load)
        name = self._distinct("engine", name)
        self.engines.append(Engine(name, percent, clocks, off=off is not None))
        return True

    def _mts(self, match: re.Match[str]) -> bool:
        for name, load in zip(("MTS fg", "MTS bg"), match.groups(), strict=True):
            self.engines.append(Engine(self._distinct("engine", name), int(load)))
        return True

    def _rail(self, match: re.Match[str]) -> bool:
        name, now, mean, highest, plain_now, plain_mean = match.groups()
        if name in _MEMORIES:
            return False  # a memory that was cut before its unit
        if now is None:  # JetPack 4 prints no unit; its rails are in capitals
            if name != name.upper():
                return False
            now, mean = plain_now, plain_mean
        mean_mw = None if mean is None else int(mean)
        max_mw = None if highest is None else int(highest)
        self.rails.append(Rail(self._distinct("rail", name), int(now), mean_mw, max_mw))
        return True

    def _distinct(self, kind: str, name: str) -> str:
        count = self._counts[kind, name] = self._counts.get((kind, name), 0) + 1
        return name if count == 1 else f"{name}#{count}"


def _find(things: Iterable[_T], name: str) -> _T | None:
    return next((thing for thing in things if thing.name == name), None)
