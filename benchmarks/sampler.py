"""The sampler beside polling with open-read-close: CPU time, deadlines, effect on a workload.

Four parts; what is compared runs in turn, in random order, so that whatever else the machine does
meets all of it alike:

  sweeps      CPU time of reading six files once: back to back, and one sweep per 6.6 ms
  processes   CPU time of a whole process over time, at one sweep per 6.6 ms
  deadlines   how late sweeps begin, machine as it is and with every core busy; with the priority
              that the sampler takes, with an ordinary one, with a real-time one (where allowed)
  effect      a CPU-bound workload with the sampler running over the same with it stopped

The files are regular ones in memory, of the simulated board, whose process rewrites them every
6.6 ms (constant: one like it that nobody rewrites). On a board a read also takes the transfer on
the I2C bus. With --real-driver the first two parts run as well on the unmodified Linux driver on an
emulated machine (tests/real_driver), where CPU time is counted in instructions.

Goals: a sweep at most a tenth of open-read-close; at one sweep per 6.6 ms at most 5 % of a core;
99 % of the sweeps at most a tenth of the period late; a CPU-bound workload at most 0.5 % slower.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.sampler_cost import (  # noqa: E402
    ATTRIBUTION,
    OURS,
    PACED,
    PERIOD_NS,
    PLAIN,
    SAMPLER,
    Figures,
    back_to_back,
    one_per_period,
    polling,
    process_shares,
    value_files,
    ways_of_reading,
)
from edgejoule.energy.trace import read_samples  # noqa: E402
from edgejoule.power.acquire import (  # noqa: E402
    SYSFS_DIRECTORY,
    Attribution,
    start_sampler,
    start_simulator,
)
from edgejoule.power.sensor import Where  # noqa: E402
from edgejoule.power.simulator import Tree  # noqa: E402
from edgejoule.processes import Child  # noqa: E402

PARTS = ("sweeps", "processes", "deadlines", "effect")
TARGET_EFFECT = 0.005
OWN, ORDINARY, REAL_TIME = "its own", "ordinary", "real time"
BOOT = ROOT / "tests" / "real_driver" / "boot.sh"
_RESAMPLES = 2000
_SETTLE_S = 0.008


def in_memory() -> str | None:
    """Return a folder in memory, None where there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def constant_tree(folder: Path) -> str:
    """Make a board whose values nobody changes; return its sysfs root."""
    root = folder / "constant"
    tree = Tree(root)
    for rail in range(3):
        tree.show(rail, 5000 + 8 * rail, 800 + 8 * rail)
    tree.close()
    return str(root)


# --- sweeps and processes ---


def measure_sweeps(folder: Path, moving: str | None, constant: str, quick: bool) -> Figures:
    """Return the CPU time of a sweep, by way of reading, in three conditions."""
    rounds, sweeps, single = (11, 300, 60) if quick else (51, 500, 600)
    found: Figures = {}
    with ways_of_reading(constant, folder) as ways:
        found["constant, back to back"] = back_to_back(ways, rounds, sweeps)
    if moving is not None:
        with ways_of_reading(moving, folder) as ways:
            found["rewritten, back to back"] = back_to_back(ways, rounds, sweeps)
            found["rewritten, one per period"] = one_per_period(ways, single)
    else:
        with ways_of_reading(constant, folder) as ways:
            found["one per period"] = one_per_period(ways, single)
    return found


def real_driver() -> Figures:
    """Return sweeps and processes on the emulated machine, or why not."""
    if not BOOT.is_file():
        return {"skipped": f"there is no {BOOT.name} of tests/real_driver here"}
    command = [str(BOOT), "orin-nano", "benchmarks/sampler_cost.py", "guest"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        with contextlib.suppress(ValueError, IndexError):
            found: Figures = json.loads(done.stdout.splitlines()[-1])
            return found
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return {"skipped": said[-1] if said else f"boot.sh ended with status {done.returncode}"}


# --- deadlines ---


@contextlib.contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Keep some cores busy with loops in Python."""
    command = [sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure_deadlines(folder: Path, sysfs_root: str, quick: bool) -> list[Figures]:
    """Return how late sweeps begin: ours and time.sleep, at the same time, by load and priority."""
    seconds = 10.0 if quick else 60.0
    cores = len(os.sched_getaffinity(0))
    found = []
    for load, count in (("as it is", 0), ("every core busy", cores)):
        for priority in (OWN,) if quick else (OWN, ORDINARY, REAL_TIME):
            own = folder / f"deadlines-{count}-{priority}"
            own.mkdir()
            with busy_cores(count):
                time.sleep(0.5 if count else 0)
                found += _lateness(own, sysfs_root, seconds, load, priority)
    return found


def set_priority(pid: int, priority: str) -> str:
    """Give a process another priority, if that is allowed; return what it then has."""
    with contextlib.suppress(OSError):
        if priority == ORDINARY:
            os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, pid, 0)
        elif priority == REAL_TIME:
            os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))
    policies = {os.SCHED_FIFO: "SCHED_FIFO", os.SCHED_RR: "SCHED_RR"}
    policy = policies.get(os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK)
    return policy or f"nice {os.getpriority(os.PRIO_PROCESS, pid)}"


def _lateness(
    folder: Path, sysfs_root: str, seconds: float, load: str, priority: str
) -> list[Figures]:
    stamps = folder / "stamps"
    child, ready = start_sampler("ina3221", folder, Where(sysfs_root))
    try:
        priority = set_priority(child.process.pid, priority)
        with polling(value_files(sysfs_root), seconds, PERIOD_NS, stamps) as process:
            _stay_off(process.pid, ready["cpu"])
            time.sleep(seconds)
            process.communicate(timeout=60)
    finally:
        child.stop()
    report = json.loads((folder / "sampler.json").read_text(encoding="utf-8"))
    _, samples = read_samples(folder / "power.bin")
    rows = samples.reshape(-1, len(ready["channels"]))  # no attribution here: sweep by sweep
    begins, ends = rows["t0_ns"][:, 0], rows["t1_ns"][:, -1]
    period_ns = report["period_ns"]
    late_ns = lateness_of(begins, ends, period_ns, report["lateness_us_log2"])
    ours = {
        **_spread(late_ns, period_ns),
        "late": report["late_deadlines"],
        "gaps": report["gaps"],
        "skipped": report["skipped_deadlines"],
        "mean_period_ms": float(np.mean(np.diff(begins))) * 1e-6,
    }
    theirs_ns = np.diff(np.frombuffer(stamps.read_bytes(), np.int64))
    behind_ns = np.maximum(0, theirs_ns - PERIOD_NS)
    theirs = {
        **_spread(behind_ns, PERIOD_NS),
        "late": int(np.count_nonzero(behind_ns > PERIOD_NS / 10)),
        "gaps": int(np.count_nonzero(theirs_ns > 3 * PERIOD_NS)),
        "skipped": 0,
        "mean_period_ms": float(np.mean(theirs_ns)) * 1e-6,
    }
    return [
        {"load": load, "priority": priority, "who": OURS, "seconds": report["seconds"], **ours},
        {"load": load, "priority": "nice 0", "who": PACED, "seconds": seconds, **theirs},
    ]


def _stay_off(pid: int, cpu: int | None) -> None:
    """Keep the other poller from the sampler's core: they are measured at the same time."""
    if cpu is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, os.sched_getaffinity(0) - {cpu})


def lateness_of(
    begins_ns: np.ndarray, ends_ns: np.ndarray, period_ns: int, counted: Sequence[int]
) -> np.ndarray:
    """Return how late each sweep began, from when it began and ended, as `Rhythm.run` has it.

    The grid's place is not in the trace. It is where the latenesses fall into the bins in which
    the sampler counted them (`lateness_us_log2`), as nearly as can be.
    """
    first_late_ns = 0
    for _ in range(2):  # the second time with the grid in its place
        late_ns = np.zeros(len(begins_ns), np.int64)
        deadline_ns = int(begins_ns[0]) - first_late_ns
        for n, (begin_ns, end_ns) in enumerate(zip(begins_ns, ends_ns, strict=True)):
            late_ns[n] = begin_ns - deadline_ns
            deadline_ns += max(1, -(-(int(end_ns) - deadline_ns) // period_ns)) * period_ns
        shifts_ns = range(-int(late_ns.min()), -int(late_ns.min()) + 300_000, 1000)
        shift_ns = min(shifts_ns, key=lambda shift: _misplaced(late_ns + shift, counted))
        first_late_ns += shift_ns
    return late_ns + shift_ns


def _misplaced(late_ns: np.ndarray, counted: Sequence[int]) -> int:
    """Return by how many bins sweeps lie beside where they were counted, all together."""
    bins = np.ceil(np.log2(np.maximum(late_ns // 1000, 0) + 1)).astype(np.int64)
    own = np.bincount(bins, minlength=len(counted))
    return int(np.abs(np.cumsum(own - np.array(counted))).sum())


def _spread(late_ns: np.ndarray, period_ns: int) -> Figures:
    p50, p99, p999 = (float(p) * 1e-3 for p in np.percentile(late_ns, (50, 99, 99.9)))
    return {
        "n": len(late_ns),
        "p50_us": p50,
        "p99_us": p99,
        "p99_9_us": p999,
        "max_us": float(np.max(late_ns)) * 1e-3,
        "late_percent": 100 * float(np.mean(late_ns > period_ns / 10)),
    }


# --- effect ---


def work(loops: int) -> int:
    """Do a fixed amount of single-threaded work in pure Python."""
    value = 1
    for _ in range(loops):
        value = (value * 1103515245 + 12345) & 0x7FFFFFFF
    return value


def loops_for(seconds: float) -> int:
    """Return how many loops of `work` take about so long."""
    best = math.inf
    for _ in range(5):
        began = time.perf_counter()
        work(50_000)
        best = min(best, time.perf_counter() - began)
    return max(1000, int(50_000 * seconds / best))


def measure_effect(folder: Path, sysfs_root: str, quick: bool) -> list[Figures]:
    """Return how much longer a piece of work takes while the sampler runs, with an interval.

    Blocks of three pieces in random order: no sampler, monitor rate, both rates. A sampler that is
    not meant is stopped (SIGSTOP). Pieces are pinned to the sampler's core in every other block,
    and free to be anywhere in the rest.
    """
    blocks, piece_s = (100, 0.015) if quick else (400, 0.06)
    draw = random.Random(4)
    loops = loops_for(piece_s)
    children: dict[str, Child] = {}
    everywhere = os.sched_getaffinity(0)
    try:
        for name, attribution in ((SAMPLER, None), (ATTRIBUTION, Attribution())):
            own = folder / f"effect-{len(children)}"
            own.mkdir()
            where = Where(sysfs_root)
            children[name], ready = start_sampler("ina3221", own, where, attribution=attribution)
            children[name].process.send_signal(signal.SIGSTOP)
        cpu = ready["cpu"]
        places = ("anywhere", "on the sampler's core") if cpu is not None else ("anywhere",)
        ratios: dict[tuple[str, str], list[float]] = {}
        for block in range(blocks * len(places)):
            place = places[block % len(places)]
            os.sched_setaffinity(0, everywhere if place == places[0] else {cpu})
            took = _block(children, draw, loops)
            for name in children:
                ratios.setdefault((name, place), []).append(math.log(took[name] / took[""]))
    finally:
        os.sched_setaffinity(0, everywhere)
        for child in children.values():
            child.process.send_signal(signal.SIGCONT)
            child.stop()
    return [
        {"sampler": name, "work": place, "piece_ms": piece_s * 1e3, **_effect(logs)}
        for (name, place), logs in ratios.items()
    ]


def _block(children: dict[str, Child], draw: random.Random, loops: int) -> dict[str, float]:
    """Time a piece of work without a sampler and with each, in random order."""
    took = {}
    for name in draw.sample(["", *children], len(children) + 1):
        for other, child in children.items():
            child.process.send_signal(signal.SIGCONT if other == name else signal.SIGSTOP)
        time.sleep(_SETTLE_S)
        work(loops // 20)
        began_ns = time.perf_counter_ns()
        work(loops)
        took[name] = float(time.perf_counter_ns() - began_ns)
    return took


def _effect(logs: Sequence[float]) -> Figures:
    found: Figures = {"pairs": len(logs)}
    for name, statistic in (("median", np.median), ("mean", np.mean)):
        values = np.array(logs)
        rng = np.random.default_rng(5)
        drawn = statistic(rng.choice(values, (_RESAMPLES, len(values))), axis=1)
        low, high = np.expm1(np.percentile(drawn, (2.5, 97.5)))
        found[name] = {
            "percent": 100 * math.expm1(float(statistic(values))),
            "low_percent": 100 * float(low),
            "high_percent": 100 * float(high),
            "at_most_half_a_percent": verdict(float(low), float(high)),
        }
    return found


def verdict(low: float, high: float) -> str:
    """Say whether an effect is at most 0.5 %, given its interval."""
    if high <= TARGET_EFFECT:
        return "yes"
    if low > TARGET_EFFECT:
        return "no"
    return f"not resolved (width {100 * (high - low):.2f} %)"


# --- output ---


def print_sweeps(found: Figures, title: str) -> None:
    """Print CPU times of a sweep."""
    print(f"\nCPU time of a sweep of six files, {title}")
    print(f"  {'':28s} {'us':>8s} {'of ours':>8s}")
    for condition, ways in found.items():
        print(f"  {condition}")
        for name, row in ways.items():
            print(f"    {name:26s} {row['sweep_us']:8.1f} {row['ratio_to_ours']:7.1f}x")
    for condition, ways in found.items():
        ratio = ways[PLAIN]["ratio_to_ours"]
        reached = "yes" if ratio >= 10 else "no"
        print(f"  at most a tenth of open-read-close, {condition}: {reached} ({ratio:.1f} times)")


def print_processes(found: Figures, title: str) -> None:
    """Print shares of a core."""
    print(f"\nCPU time of a whole process, {title}")
    print(f"  {'':28s} {'% of a core':>12s} {'sweeps/s':>9s}")
    for name, row in found.items():
        print(f"  {name:28s} {row['core_percent']:12.2f} {row['sweeps_per_s']:9.1f}")
    share = found[SAMPLER]["core_percent"]
    print(f"  at most 5 % of a core at one sweep per 6.6 ms: {'yes' if share <= 5 else 'no'}")


def print_deadlines(rows: list[Figures]) -> None:
    """Print how late sweeps begin."""
    print("\nHow late a sweep begins, us; late: more than a tenth of the period")
    print("  (time.sleep knows no deadlines: how much longer than a period since its last sweep)")
    names = ("p50_us", "p99_us", "p99_9_us", "max_us")
    heads = f"{'p50':>7s} {'p99':>7s} {'p99.9':>7s} {'max':>8s} {'late %':>7s}"
    print(f"  {'':28s} {'priority':>10s} {'s':>4s} {heads} {'gaps':>5s} {'skipped':>7s} "
          f"{'period ms':>9s}")  # fmt: skip
    for load in dict.fromkeys(row["load"] for row in rows):
        print(f"  {load}")
        for row in (row for row in rows if row["load"] == load):
            widths = (7, 7, 7, 8)
            times = " ".join(f"{row[n]:{w}.0f}" for n, w in zip(names, widths, strict=True))
            print(f"    {row['who']:26s} {row['priority']:>10s} {row['seconds']:4.0f} {times} "
                  f"{row['late_percent']:7.2f} {row['gaps']:5d} {row['skipped']:7d} "
                  f"{row['mean_period_ms']:9.3f}")  # fmt: skip


def print_effect(rows: list[Figures]) -> None:
    """Print how much slower the workload is."""
    print("\nHow much longer a CPU-bound piece of work takes with the sampler running")
    print(f"  {'':18s} {'work runs':22s} {'pairs':>5s} {'':6s} {'%':>7s}  95 % interval    "
          "at most 0.5 %")  # fmt: skip
    for row in rows:
        for name in ("median", "mean"):
            one = row[name]
            interval = f"{one['low_percent']:6.2f} to {one['high_percent']:5.2f}"
            print(f"  {row['sampler']:18s} {row['work']:22s} {row['pairs']:5d} {name:6s} "
                  f"{one['percent']:7.2f}  {interval:16s} {one['at_most_half_a_percent']}"
                  )  # fmt: skip


def measure(arguments: argparse.Namespace) -> Figures:
    """Run the parts that were asked for, print each as it comes; return all figures."""

    def show(printer: Callable[..., None], *values: Any) -> None:
        if not arguments.json:
            printer(*values)
            sys.stdout.flush()

    parts, quick = arguments.only or PARTS, arguments.quick
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}"
    load = os.getloadavg()[0]
    found: Figures = {
        "machine": machine,
        "python": platform.python_version(),
        "load_average": load,
        "root": os.geteuid() == 0,
        "period_ns": PERIOD_NS,
    }
    who = "root" if found["root"] else "ordinary user"
    show(print, f"{machine}, Python {found['python']}, load average {load:.1f}, {who}")
    real = arguments.sysfs_root
    with tempfile.TemporaryDirectory(prefix="edgejoule-", dir=in_memory()) as temporary:
        folder = Path(temporary)
        constant = real or constant_tree(folder)
        if {"sweeps", "processes"} & set(parts):
            with rewritten(folder, real) as moving:
                if "sweeps" in parts:
                    found["sweeps"] = measure_sweeps(folder, moving, constant, quick)
                    show(print_sweeps, found["sweeps"], real or "files in memory")
                if "processes" in parts:
                    rounds, seconds = (1, 2.0) if quick else (5, 5.0)
                    shares = process_shares(moving or constant, folder, rounds, seconds)
                    found["processes"] = shares
                    show(print_processes, shares, real or "files in memory")
        if "deadlines" in parts:
            found["deadlines"] = measure_deadlines(folder, constant, quick)
            show(print_deadlines, found["deadlines"])
        if "effect" in parts:
            found["effect"] = measure_effect(folder, constant, quick)
            show(print_effect, found["effect"])
    if arguments.real_driver:
        found["real_driver"] = real_driver()
        show(print_real_driver, found["real_driver"])
    return found


@contextlib.contextmanager
def rewritten(folder: Path, real: str | None) -> Iterator[str | None]:
    """Run the simulated board, for files that another process rewrites; give its sysfs root."""
    if real is not None:
        yield None  # a board's files change of themselves
        return
    board = folder / "board"
    board.mkdir()
    simulator = start_simulator(board)
    try:
        yield str(board / SYSFS_DIRECTORY)
    finally:
        simulator.stop()


def print_real_driver(found: Figures) -> None:
    """Print what the emulated machine gave."""
    if "skipped" in found:
        print(f"\nreal driver: left out: {found['skipped']}")
        return
    print_sweeps(found["sweeps"], "real driver, emulated machine (counts instructions)")
    print_processes(found["processes"], "real driver, emulated machine (counts instructions)")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  python benchmarks/sampler.py --quick                all parts, within a minute
  python benchmarks/sampler.py --only effect          the effect on a workload, a few minutes
  sudo python benchmarks/sampler.py                   with the priority that root may raise
  python benchmarks/sampler.py --sysfs-root /sys      on a board: its own INA3221""",
    )
    parser.add_argument("--quick", action="store_true", help="within a minute, wider intervals")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument(
        "--only", action="append", choices=PARTS, help="this part; may be given several times"
    )
    parser.add_argument(
        "--real-driver",
        action="store_true",
        help="sweeps and processes on the unmodified Linux driver too, in an emulator (a minute; "
        "left out with a line where the emulator is not installed)",
    )
    parser.add_argument(
        "--sysfs-root", metavar="DIR", help="read the INA3221 below DIR instead of made-up files"
    )
    return parser


def main() -> int:
    """Measure, print."""
    arguments = build_parser().parse_args()
    if not sys.platform.startswith("linux"):
        print("needs Linux: it pins, stops and prioritises processes", file=sys.stderr)
        return 2
    found = measure(arguments)
    if arguments.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
