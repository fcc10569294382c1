"""`measure_power.py watch`: the rails live, through the real sampler.

The sampler writes its trace to a temporary folder as in a measurement, so that rate, gaps and CPU
time are the real ones; here its end is read a few times a second. What has been read is given back
to the file system (a hole in the file), so that a view of hours takes no more room than one of
minutes. No phases are marked; the simulated board idles.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.cli.power_options import add_sensor_options, where_of
from edgejoule.errors import EXIT_DONE, EXIT_INTERRUPTED, MeasurementError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

    from edgejoule.energy.running import RunningRail, RunningTrace
    from edgejoule.power.sensor import Where
    from edgejoule.report.live import LiveState, RailView
    from edgejoule.supervision import StopFlag

    Show = Callable[[LiveState], None]

_ONCE_S = 2.0
_SHORTEST_S = 0.1
_STEP_S = 0.1
_TERMINAL_S, _LINES_S = 0.5, 1.0
_RELEASE_BYTES = 1 << 20
# Where a file system cannot release what was read, this is some hours of a board's rails.
_MOST_BYTES = 256 << 20
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # fallocate(2)


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb `watch`."""
    parser = verbs.add_parser(
        "watch",
        help="the rails live: power, the last minute, energy, rate, gaps",
        description="""Show the rails live until Ctrl-C: power now, the last minute, mean, least,
        largest, energy since the start, and how well the sampler keeps up. Where the output is no
        terminal, one line at a time.""",
        epilog="example: measure_power.py watch --duration 60 --json > watch.jsonl",
    )
    add_sensor_options(parser)
    parser.add_argument(
        "--interval",
        type=float,
        metavar="S",
        help="seconds between two pictures (default: 0.5 on a terminal, 1 otherwise)",
    )
    parser.add_argument("--duration", type=float, metavar="S", help="end after so many seconds")
    parser.add_argument(
        "--once", action="store_true", help="show one table after 2 s (or --duration) and end"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per interval")


def run(arguments: argparse.Namespace) -> int:
    """Show the rails; 0 when the time is over or Ctrl-C ended a view without one, else 130."""
    import tempfile

    from edgejoule.power.sensors import choose_sensor
    from edgejoule.supervision import stop_on_signals

    for name in ("interval", "duration"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name} {value:g}", "give seconds above 0")
    where = where_of(arguments)
    choice = choose_sensor(arguments.sensor, where)
    if not choice.usable:
        raise MeasurementError(f"no power sensor can be read here: {choice.why}", choice.mend)
    longest_s = arguments.duration
    if arguments.once and longest_s is None:
        longest_s = _ONCE_S
    from rich.console import Console

    console = Console(highlight=False)
    with stop_on_signals() as stop, tempfile.TemporaryDirectory(prefix="edgejoule-") as temporary:
        with _shown(arguments, console) as (show, interval_s):
            last = _follow(choice.name, where, Path(temporary), stop, show, interval_s, longest_s)
        live = not arguments.json and (arguments.once or console.is_terminal)
        if live and last is not None:
            _print_table(last, console)
    return EXIT_INTERRUPTED if stop.signum and longest_s is not None else EXIT_DONE


@contextlib.contextmanager
def _shown(arguments: argparse.Namespace, console: Console) -> Iterator[tuple[Show, float]]:
    """Give what shows a state, and how often."""
    from edgejoule.report.live import live_view, plain_line, to_json

    if arguments.once:
        yield (lambda _state: None), float("inf")
    elif arguments.json:

        def line(state: LiveState) -> None:
            print(json.dumps(to_json(state), sort_keys=True), flush=True)

        yield line, max(_SHORTEST_S, arguments.interval or _LINES_S)
    elif not console.is_terminal or console.is_dumb_terminal:
        yield (
            lambda state: print(plain_line(state), flush=True),
            max(_SHORTEST_S, arguments.interval or _LINES_S),
        )
    else:
        from rich.live import Live

        with Live(console=console, screen=True, auto_refresh=False) as live:

            def draw(state: LiveState) -> None:
                view = live_view(state, console.width, ascii_only=_ascii_only(console))
                live.update(view, refresh=True)

            yield draw, max(_SHORTEST_S, arguments.interval or _TERMINAL_S)


def _print_table(state: LiveState, console: Console) -> None:
    from edgejoule.report.live import live_view

    console.print(live_view(state, console.width, ascii_only=_ascii_only(console)))


def _ascii_only(console: Console) -> bool:
    return not console.encoding.lower().replace("-", "").startswith("utf")


def _follow(
    sensor: str,
    where: Where,
    directory: Path,
    stop: StopFlag,
    show: Show,
    interval_s: float,
    longest_s: float | None,
) -> LiveState | None:
    """Run the sampler and show what it reads until the time is over or a signal comes.

    Returns:
        The last state, None if nothing was read.
    """
    from edgejoule.energy.running import RunningTrace
    from edgejoule.power.acquire import POWER_FILE, start_sampler, start_simulator
    from edgejoule.power.sensors import SIMULATED
    from edgejoule.power.totals import total_rails_of
    from edgejoule.supervision import StopFlag, Supervisor

    # The signal ends the waiting here, not the children: they are stopped in order.
    supervisor = Supervisor(StopFlag(), lambda _now_ns: None)
    with contextlib.ExitStack() as stack:
        stack.callback(supervisor.stop_all)
        if sensor == SIMULATED:
            supervisor.add(start_simulator(directory))
        sampler, _ready = start_sampler(sensor, directory, where)
        supervisor.add(sampler)
        tail = PowerTail(directory / POWER_FILE)
        stack.callback(tail.close)
        names = tuple(dict.fromkeys(channel["rail"] for channel in tail.header["channels"]))
        trace = RunningTrace(tail.header, total_rails_of(tail.header, names))
        load = CpuLoad(sampler.process.pid)
        began_s = time.monotonic()
        due_s = began_s + interval_s
        while not stop.signum:
            now_s = time.monotonic()
            left_s = float("inf") if longest_s is None else began_s + longest_s - now_s
            if left_s <= 0:
                break
            supervisor.wait(min(_STEP_S, left_s))
            trace.feed(tail.read())
            now_s = time.monotonic()
            if now_s >= due_s and trace.last_ns is not None:
                load.look(now_s)
                show(state_of(trace, tail.header, load.percent))
                due_s += interval_s * max(1, int((now_s - due_s) / interval_s) + 1)
        load.look(time.monotonic())
        supervisor.end(sampler)  # it hands over what it has not yet written
        trace.feed(tail.read())
        if trace.last_ns is None:
            return None
        last = state_of(trace, tail.header, load.percent)
        show(last)
        return last


class PowerTail:
    """The growing end of a `power.bin`.

    Args:
        path: The file; its header is there.
        release: Gives back a stretch of an open file, and says whether it could.

    Raises:
        MeasurementError: It is no record file.
    """

    def __init__(self, path: Path, release: Callable[[int, int, int], bool] | None = None) -> None:
        import numpy as np

        from edgejoule.records import read_header

        self.header, self._at = read_header(path)
        self._dtype = np.dtype([tuple(field) for field in self.header["fields"]])
        self._released = self._at
        self._release = release_stretch if release is None else release
        self._fd = os.open(path, os.O_RDWR)

    def read(self) -> npt.NDArray[np.void]:
        """Return the whole records that came since the last call.

        Raises:
            MeasurementError: The file has grown large and what was read cannot be released.
        """
        import numpy as np

        size = self._dtype.itemsize
        count = (os.fstat(self._fd).st_size - self._at) // size
        data = os.pread(self._fd, count * size, self._at)
        count = len(data) // size
        self._at += count * size
        self._give_back()
        return np.frombuffer(data[: count * size], self._dtype)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _give_back(self) -> None:
        if self._at - self._released < _RELEASE_BYTES:
            return
        if self._release(self._fd, self._released, self._at - self._released):
            self._released = self._at
        elif self._at - self._released > _MOST_BYTES:
            raise MeasurementError(
                f"the temporary trace has reached {_MOST_BYTES >> 20} MiB, and its file system "
                "cannot release what was read",
                "start anew, or set TMPDIR to a folder on ext4, xfs, btrfs or tmpfs",
            )


def release_stretch(descriptor: int, offset: int, length: int) -> bool:
    """Give the room of a stretch of an open file back, its length unchanged (fallocate, Linux).

    Returns:
        Whether the file system could.
    """
    if sys.platform != "linux":
        return False
    try:
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
    except (OSError, AttributeError):  # a C library without it
        return False
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return int(fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, offset, length)) == 0


class CpuLoad:
    """The share of one core that a process takes, from look to look.

    Args:
        pid: The process.
        proc_root: Where procfs lies.
    """

    def __init__(self, pid: int, proc_root: str = "/proc") -> None:
        self.percent: float | None = None
        self._stat = Path(proc_root, str(pid), "stat")
        self._last = (time.monotonic(), self._cpu_s())

    def look(self, now_s: float) -> None:
        """Take the share since the last look, if that is long enough ago to mean anything."""
        last_s, last_cpu_s = self._last
        cpu_s = self._cpu_s()
        if cpu_s is None or last_cpu_s is None:
            self.percent, self._last = None, (now_s, cpu_s)
        elif now_s - last_s >= 1.0:
            self.percent = 100 * (cpu_s - last_cpu_s) / (now_s - last_s)
            self._last = (now_s, cpu_s)

    def _cpu_s(self) -> float | None:
        """Return user and system time (fields 14 and 15 of proc/<pid>/stat), None if unknown."""
        try:
            fields = self._stat.read_text(encoding="ascii", errors="replace")
            words = fields.rpartition(")")[2].split()
            return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return None


def state_of(
    trace: RunningTrace, header: Mapping[str, Any], sampler_percent: float | None = None
) -> LiveState:
    """Return what the live view shows of a trace so far.

    Args:
        trace: What has been read.
        header: Of the trace: `sensor`, `simulated`, `refresh_ns`, `total`.
        sampler_percent: The sampler's share of one core.
    """
    from edgejoule.report.live import LiveState

    rates = trace.rates_hz()
    rails = []
    for name, rail in trace.rails.items():
        own = [
            channel for channel, of in zip(trace.channels, trace.names, strict=True) if of == name
        ]
        fresh = [rates[channel["index"]][1] for channel in own if channel["index"] in rates]
        note = next((channel["averaging"] for channel in own if channel.get("averaging")), "")
        rails.append(_view(name, rail, trace.newest_s(), max(fresh, default=None), note))
    total = trace.total()
    recorded = header.get("total") or {}
    refresh_ns = header.get("refresh_ns")
    first_ns, last_ns = trace.first_ns or 0, trace.last_ns or 0
    return LiveState(
        sensor=header["sensor"],
        simulated=header["simulated"],
        seconds=(last_ns - first_ns) * 1e-9,
        rails=tuple(rails),
        total=None if total is None else _view("total", total, trace.newest_s(), None, ""),
        total_of=trace.total_of,
        contains=recorded.get("contains", ""),
        excludes=recorded.get("excludes", ""),
        polls_hz=max((reads for reads, _ in rates.values()), default=None),
        new_values_hz=max((new for _, new in rates.values()), default=None),
        refresh_ms=None if refresh_ns is None else refresh_ns * 1e-6,
        errors=dict(trace.errors),
        gaps=trace.gaps,
        largest_gap_ms=trace.largest_gap_ns * 1e-6 if trace.largest_gap_ns else None,
        sampler_percent=sampler_percent,
    )


def _view(
    name: str, rail: RunningRail, newest_s: int, new_values_hz: float | None, note: str
) -> RailView:
    from edgejoule.report.live import RailView

    return RailView(
        name=name,
        now_mw=rail.now_mw,
        mean_mw=rail.mean_mw,
        min_mw=rail.min_mw,
        max_mw=rail.max_mw,
        energy_mj=None if rail.first_ns is None else rail.energy_mj,
        history_mw=rail.history_mw(newest_s),
        new_values_hz=new_values_hz,
        note=note,
    )
