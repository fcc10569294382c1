"""What reading rails costs: ours beside open-read-close. Standard library only.

The part of `benchmarks/sampler.py` that can also run on an emulated machine with the real driver:

    tests/real_driver/boot.sh orin-nano benchmarks/sampler_cost.py guest

prints the same figures as JSON. The ways of reading, all of the same files:

    ours              the sampler's: descriptors kept, text parsed where it changed, rows in blocks
    kept descriptors  os.pread on kept descriptors, int(), a row in a list
    raw               os.open, os.read, os.close, int(), a row in a list
    open-read-close   `with open(path) as f: value = int(f.read())`, a row in a list
    text log          the same with each value kept as a line of text with the wall time, as the
                      older collectors of layer power do

CPU time is that of the reading thread (CLOCK_THREAD_CPUTIME_ID), what the kernel does in its
system calls included.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edgejoule.power.acquire import Attribution, start_sampler  # noqa: E402
from edgejoule.power.ina_layouts import find_chips  # noqa: E402
from edgejoule.power.sensor import Where  # noqa: E402
from edgejoule.power.sensors import open_sensor  # noqa: E402
from edgejoule.power.sweeper import Changes, Sweeper, Tally  # noqa: E402
from edgejoule.processes import child_environment  # noqa: E402
from edgejoule.records import POWER, RecordWriter  # noqa: E402

PERIOD_NS = 6_600_000  # three channels of 2 x 1.1 ms
OURS, KEPT, RAW, PLAIN, TEXT = "ours", "kept descriptors", "raw", "open-read-close", "text log"
WAYS = (OURS, KEPT, RAW, PLAIN, TEXT)
SAMPLER, ATTRIBUTION = "ours", "ours, both rates"
PACED, UNPACED = "open-read-close, time.sleep", "open-read-close, no pause"
Figures = dict[str, Any]
Row = tuple[int, int]
# A list of rows that nobody empties costs memory and, above that, the garbage collector's time.
_ROWS_AT_MOST = 60_000


@dataclass(frozen=True)
class Way:
    """One way of reading all files once: `sweep`; `clear` drops what it kept."""

    sweep: Callable[[], None]
    clear: Callable[[], None]


def value_files(sysfs_root: str) -> list[str]:
    """Return the paths of the files that the sampler reads, in its order."""
    folders = {chip.address: chip.directory for chip in find_chips(sysfs_root)}
    with contextlib.closing(open_sensor("ina3221", Where(sysfs_root))) as sensor:
        return [str(folders[channel.chip] / channel.source) for channel in sensor.channels()]


@contextlib.contextmanager
def ways_of_reading(sysfs_root: str, folder: Path) -> Iterator[dict[str, Way]]:
    """Open each way of reading the INA3221 below a sysfs root; rows of ours go to `folder`."""
    paths = value_files(sysfs_root)
    with contextlib.ExitStack() as stack:
        sensor = stack.enter_context(contextlib.closing(open_sensor("ina3221", Where(sysfs_root))))
        path = folder / f"power-{time.monotonic_ns()}.bin"
        writer = stack.enter_context(contextlib.closing(RecordWriter(path, POWER, {})))
        sweeper = Sweeper(sensor, range(len(paths)), writer, Tally(), Changes(len(paths)))
        descriptors = []
        for path_text in paths:
            descriptors.append(os.open(path_text, os.O_RDONLY))
            stack.callback(os.close, descriptors[-1])
        rows: list[Row] = []

        def ours() -> None:
            sweeper.sweep()
            writer.tick(time.monotonic_ns())

        def kept() -> None:
            for descriptor in descriptors:
                value = int(os.pread(descriptor, 32, 0))
                rows.append((time.monotonic_ns(), value))

        def raw() -> None:
            for path in paths:
                descriptor = os.open(path, os.O_RDONLY)
                value = int(os.read(descriptor, 32))
                os.close(descriptor)
                rows.append((time.monotonic_ns(), value))

        def plain() -> None:
            plain_sweep(paths, rows)

        lines: list[str] = []

        def text_log() -> None:
            for path in paths:
                with open(path) as file:  # noqa: PTH123 (the plain way is what this is)
                    value = file.read().strip()
                lines.append(f"{datetime.datetime.now()} {path} {value}\n")

        def clear() -> None:
            rows.clear()
            lines.clear()

        each = dict(zip(WAYS, (ours, kept, raw, plain, text_log), strict=True))
        yield {name: Way(sweep, clear) for name, sweep in each.items()}


def plain_sweep(paths: Sequence[str], rows: list[Row]) -> None:
    """Read all files as one would at first."""
    for path in paths:
        with open(path) as file:  # noqa: PTH123 (the plain way is what this is)
            value = int(file.read())
        rows.append((time.monotonic_ns(), value))


def back_to_back(ways: dict[str, Way], rounds: int, sweeps: int) -> Figures:
    """Return CPU time per sweep of each way: many in a row, the ways in turn, in random order."""
    draw = random.Random(1)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(rounds + 1):
        for name in draw.sample(list(ways), len(ways)):
            sweep = ways[name].sweep
            began_ns = time.thread_time_ns()
            for _ in range(sweeps):
                sweep()
            if round_number:  # the first one warms up
                spent[name].append((time.thread_time_ns() - began_ns) / sweeps)
            ways[name].clear()
    return _costs(spent)


def one_per_period(ways: dict[str, Way], sweeps: int, period_ns: int = PERIOD_NS) -> Figures:
    """Return CPU time per sweep where one is made per period, as in use: caches are cold then."""
    draw = random.Random(2)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    clock = time.thread_time_ns
    looks = []
    for _ in range(200):
        began_ns = clock()
        looks.append(clock() - began_ns)
    look_ns = statistics.median(looks)
    due_ns = time.monotonic_ns()
    for round_number in range(sweeps + 1):
        for name in draw.sample(list(ways), len(ways)):
            due_ns = max(due_ns + period_ns, time.monotonic_ns())
            time.sleep(max(0, due_ns - time.monotonic_ns()) * 1e-9)
            sweep = ways[name].sweep
            began_ns = clock()
            sweep()
            took_ns = clock() - began_ns - look_ns
            if round_number:
                spent[name].append(took_ns)
    return _costs(spent)


def _costs(spent: dict[str, list[float]]) -> Figures:
    """Return medians, and the median of each way's ratio to ours within a round."""
    return {
        name: {
            "sweep_us": statistics.median(times) * 1e-3,
            "ratio_to_ours": statistics.median(
                [own / ours for own, ours in zip(times, spent[OURS], strict=True)]
            ),
            "n": len(times),
        }
        for name, times in spent.items()
    }


# --- whole processes ---


def sampler_share(sysfs_root: str, folder: Path, seconds: float, *, both: bool = False) -> Figures:
    """Run the sampler for a while; return CPU time over time, by its own report."""
    child, _ = start_sampler(
        "ina3221", folder, Where(sysfs_root), attribution=Attribution() if both else None
    )
    try:
        time.sleep(seconds)
    finally:
        child.stop()
    report = json.loads((folder / "sampler.json").read_text(encoding="utf-8"))
    sweeps = report["sweeps"] + report.get("attribution", {}).get("sweeps", 0)
    return _share(report["cpu_s"], report["seconds"], sweeps)


def polling_share(paths: Sequence[str], seconds: float, period_ns: int | None) -> Figures:
    """Run a process that polls by open-read-close for a while; return CPU time over time."""
    with polling(paths, seconds, period_ns) as process:
        said, _ = process.communicate(timeout=seconds * 20 + 60)
    found = json.loads(said)
    return _share(found["cpu_s"], found["seconds"], found["sweeps"])


@contextlib.contextmanager
def polling(
    paths: Sequence[str], seconds: float, period_ns: int | None, stamps: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start a process that polls; it says what it used when it ends."""
    command = [sys.executable, __file__, "poll", f"--seconds={seconds}"]
    command += [f"--period-ns={period_ns}"] if period_ns else []
    command += [f"--stamps={stamps}"] if stamps else []
    environment = child_environment()
    process = subprocess.Popen(
        [*command, *paths], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def poll(paths: Sequence[str], seconds: float, period_ns: int | None, stamps: str | None) -> int:
    """Poll as commonly written: read, keep, sleep for a period, or for none."""
    rows: list[Row] = []
    begins = array("q")
    period_s = (period_ns or 0) * 1e-9
    began_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
    end_ns, sweeps = began_ns + int(seconds * 1e9), 0
    while (now_ns := time.monotonic_ns()) < end_ns:
        if stamps:
            begins.append(now_ns)
        plain_sweep(paths, rows)
        sweeps += 1
        if len(rows) > _ROWS_AT_MOST:
            rows.clear()
        if period_s:
            time.sleep(period_s)
    cpu_s = (time.process_time_ns() - cpu_ns) * 1e-9
    if stamps:
        Path(stamps).write_bytes(begins.tobytes())
    took_s = (time.monotonic_ns() - began_ns) * 1e-9
    print(json.dumps({"cpu_s": cpu_s, "seconds": took_s, "sweeps": sweeps}))
    return 0


def process_shares(sysfs_root: str, folder: Path, rounds: int, seconds: float) -> Figures:
    """Return each process's share of a core and its sweeps per second, medians of some rounds."""
    paths = value_files(sysfs_root)
    draw = random.Random(3)
    found: dict[str, list[Figures]] = {
        name: [] for name in (SAMPLER, ATTRIBUTION, PACED, UNPACED)
    }  # fmt: skip
    for round_number in range(rounds):
        for name in draw.sample(list(found), len(found)):
            own = folder / f"{round_number}-{len(found[name])}-{list(found).index(name)}"
            own.mkdir()
            if name in {SAMPLER, ATTRIBUTION}:
                both = name == ATTRIBUTION
                found[name].append(sampler_share(sysfs_root, own, seconds, both=both))
            else:
                period_ns = PERIOD_NS if name == PACED else None
                found[name].append(polling_share(paths, seconds, period_ns))
    return {
        name: {key: statistics.median([one[key] for one in several]) for key in several[0]}
        for name, several in found.items()
    }


def _share(cpu_s: float, seconds: float, sweeps: int) -> Figures:
    return {"core_percent": 100 * cpu_s / seconds, "sweeps_per_s": sweeps / seconds}


# --- on the emulated machine ---


def guest(sweeps: int) -> int:
    """Measure on the real driver; print JSON."""
    from tests.real_driver.guest import chip, signals

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for channel in (1, 2, 3):
            chip.set_channel(0x40, channel, 625, 100)
        with ways_of_reading("/sys", folder) as ways:
            constant = back_to_back(ways, rounds=5, sweeps=sweeps)
            seconds = sweeps * len(ways) * PERIOD_NS * 1e-9
            table = signals.wandering(0x40, seconds + 1.0)
            chip.play(0x40, table.to_bytes(time.monotonic_ns() + 100_000_000))
            moving = one_per_period(ways, sweeps)
        table = signals.wandering(0x41, 20.0)
        chip.play(0x40, table.to_bytes(time.monotonic_ns()))
        shares = process_shares("/sys", folder, rounds=1, seconds=3.0)
        chip.play(0x40, b"")
    figures = {"constant": constant, "moving, one per period": moving}
    print(json.dumps({"sweeps": figures, "processes": shares}))
    return 0


def main() -> int:
    """Poll, or measure in the guest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("poll", help="poll files by open-read-close (a child of sampler.py)")
    verb.add_argument("paths", nargs="+", metavar="FILE")
    verb.add_argument("--seconds", type=float, required=True)
    verb.add_argument("--period-ns", type=int, help="sleep so long after each sweep (default: not)")
    verb.add_argument("--stamps", help="where to write when each sweep began, int64 ns")
    verb = verbs.add_parser("guest", help="measure below /sys; run it through boot.sh")
    verb.add_argument("--sweeps", type=int, default=300)
    arguments = parser.parse_args()
    if arguments.verb == "guest":
        return guest(arguments.sweeps)
    return poll(arguments.paths, arguments.seconds, arguments.period_ns, arguments.stamps)


if __name__ == "__main__":
    sys.exit(main())
