#!/usr/bin/env python3
"""What NVML's power sources of one GPU are worth: period, window, cost, and whether they agree.

    python benchmarks/nvml_watch.py [--device cuda:0|GPU-...] [--quick] [--json]

Four parts, each over all sources at once:

    cost        the time of one read
    switching   a load that goes on and off at random (30 to 500 ms each), with known edges: how
                often each value changes, and over which stretch before that it is a mean
    idle        the counter beside the integrals of instant and mean power, nothing of ours running
    loaded      the same under a steady load

For the window, values v that are seen to change at t are fitted by
v = idle + rise * (share of the time from t-d-w to t-d that was under load), with the delay d and
the window w that leave least unexplained.

The load copies memory within the GPU, by libcuda and ctypes in a process of its own: no torch. The
GPU must be free. Takes 2.5 minutes, with --quick under one.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edgejoule.errors import EdgejouleError, run_command  # noqa: E402
from edgejoule.power.cuda_devices import cuda_devices  # noqa: E402
from edgejoule.power.gpu_sharing import look  # noqa: E402
from edgejoule.power.gpus import choose_gpu, nvml_gpus  # noqa: E402
from edgejoule.power.nvml import NvmlSensor, open_or_explain  # noqa: E402
from edgejoule.power.nvml_library import Nvml  # noqa: E402
from edgejoule.power.nvml_types import (  # noqa: E402
    FIELD_POWER_AVERAGE,
    FIELD_POWER_INSTANT,
    FieldValue,
    NvmlError,
)

Changes = list[tuple[int, int]]  # when a value was first seen (ns), and the value
POLL_S = 0.001
SETTLE_S = 3.0
COPY_S = 0.0005
WINDOWS_MS = (1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 90, 100, 110, 125, 150, 200, 250, 300,
              400, 500, 650, 800, 900, 1000, 1100, 1250, 1500)  # fmt: skip
DELAYS_MS = (*range(0, 160, 10), *range(160, 420, 40))
MOST_POINTS = 800  # more cost time and tell little
FITS = 0.8  # below this share of explained variance nothing is said about the window


# --- the load, in a process of its own


class CudaError(RuntimeError):
    """A CUDA call that failed."""


def run_load(schedule: Sequence[tuple[float, float]]) -> None:
    """Copy memory for `on` seconds, rest for `off` seconds, and print when each stretch was."""
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *arguments: Any) -> None:
        code = getattr(cuda, name)(*arguments)
        if code:
            raise CudaError(f"{name}: CUDA error {code}")

    device, context = ctypes.c_int(), ctypes.c_void_p()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    room = min(1 << 30, free.value // 4)
    source, target = ctypes.c_uint64(), ctypes.c_uint64()
    for buffer in (source, target):
        call("cuMemAlloc_v2", ctypes.byref(buffer), ctypes.c_size_t(room))
    call("cuMemsetD32_v2", source, ctypes.c_uint(0x5A3C96F0), ctypes.c_size_t(room // 4))

    def copy(size: int, times: int) -> float:
        begin = time.monotonic()
        for _ in range(times):
            call("cuMemcpyDtoDAsync_v2", target, source, ctypes.c_size_t(size), None)
        call("cuCtxSynchronize")
        return time.monotonic() - begin

    copy(room, 3)
    seconds = min(copy(room, 4) / 4 for _ in range(3))
    size = max(1 << 20, min(room, int(room * COPY_S / seconds) & ~0xFFFFF))
    copy(size, 8)
    print(json.dumps({"ready": True, "copy_mib": size >> 20}), flush=True)
    sys.stdin.readline()
    stretches = []
    for on_s, off_s in schedule:
        begin_ns = time.monotonic_ns()
        end_ns = begin_ns + int(on_s * 1e9)
        while time.monotonic_ns() < end_ns:
            copy(size, 4)
        stretches.append((begin_ns, time.monotonic_ns()))
        time.sleep(off_s)
    print(json.dumps({"stretches": stretches}), flush=True)


class Load:
    """The load's process: started, warmed up, and waiting for `go`."""

    def __init__(self, uuid: str, schedule: Sequence[tuple[float, float]]) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--load"]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": uuid},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._send(json.dumps(schedule))
        self.said = self._answer()

    def go(self) -> None:
        """Begin now."""
        self._send("go")

    def stretches(self) -> list[tuple[int, int]]:
        """When it was on, ns; waits for its end."""
        found = [(begin, end) for begin, end in self._answer()["stretches"]]
        self._process.wait(30)
        return found

    def stop(self) -> None:
        """End it, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EdgejouleError("the load ended early", "see its message above")
        answer: dict[str, Any] = json.loads(line)
        return answer


# --- watching


def watch(reads: dict[str, Callable[[], int]], seconds: float) -> dict[str, Changes]:
    """Poll all sources every ms; return when each value was first seen, the first one included."""
    changes: dict[str, Changes] = {name: [] for name in reads}
    clock = time.monotonic_ns
    begin_ns = due_ns = clock()
    end_ns = begin_ns + int(seconds * 1e9)
    while (now_ns := clock()) < end_ns:
        for name, read in reads.items():
            try:
                value = read()
            except OSError:
                continue
            seen = changes[name]
            if not seen or seen[-1][1] != value:
                seen.append((clock(), value))
        due_ns = max(due_ns + int(POLL_S * 1e9), now_ns)
        time.sleep(max(0.0, (due_ns - clock()) * 1e-9))
    return changes


def period(changes: Changes) -> dict[str, float | int | None]:
    """Return how often a value changes, ms.

    `period_ms` counts an interval of several periods as so many (equal values in between); `ci_ms`
    is the half width of its 95 % interval, `p2_5_ms` and `p97_5_ms` the spread of single intervals.
    """
    times = [when for when, _ in changes[1:]]  # the first value is no change
    intervals = sorted((b - a) * 1e-6 for a, b in itertools.pairwise(times))
    if len(intervals) < 5:
        return {"changes": len(times), "period_ms": None, "ci_ms": None, "p2_5_ms": None,
                "p97_5_ms": None}  # fmt: skip
    median = statistics.median(intervals)
    parts = [x / max(1, round(x / median)) for x in intervals]
    counts = sum(max(1, round(x / median)) for x in intervals)
    spread = statistics.stdev(parts)

    def at(share: float) -> float:
        return intervals[min(len(intervals) - 1, int(share * len(intervals)))]

    return {
        "changes": len(times),
        "period_ms": round(sum(intervals) / counts, 3),
        "ci_ms": round(1.96 * spread / math.sqrt(len(parts)), 3),
        "p2_5_ms": round(at(0.025), 2),
        "p97_5_ms": round(at(0.975), 2),
    }


def as_power(changes: Changes) -> list[tuple[int, float]]:
    """Return a counter's ticks as mean power of the time since the tick before, mW."""
    ticks = changes[1:]
    return [
        (b_ns, (b - a) / ((b_ns - a_ns) * 1e-9))
        for (a_ns, a), (b_ns, b) in itertools.pairwise(ticks)
        if b_ns > a_ns
    ]


class OnTime:
    """How long the load was on until a time, from when it was on."""

    def __init__(self, stretches: Sequence[tuple[int, int]]) -> None:
        self._begins = [begin for begin, _ in stretches]
        self._ends = [end for _, end in stretches]
        self._before = [0]
        for begin, end in stretches:
            self._before.append(self._before[-1] + end - begin)

    def until(self, when_ns: float) -> float:
        """Return the time under load before `when_ns`, ns."""
        place = bisect_right(self._begins, when_ns)
        if not place:
            return 0.0
        last = min(when_ns, self._ends[place - 1]) - self._begins[place - 1]
        return self._before[place - 1] + last


def fit_window(
    points: Sequence[tuple[int, float]], stretches: Sequence[tuple[int, int]]
) -> dict[str, float | int | None]:
    """Return over which stretch before its change a value is a mean.

    Args:
        points: Time of change (ns) and value.
        stretches: When the load was on, ns.

    Returns:
        `window_ms` and `delay_ms` (None where the load explains less than `FITS` of the variance),
        the windows `window_low_ms` to `window_high_ms` that fit almost as well (1.5 times the
        least unexplained variance), `explained`, `n`.
    """
    first_ns = stretches[0][0] + 2_000_000_000  # the longest window lies behind the start
    used = [(when, value) for when, value in points if first_ns < when < stretches[-1][1]]
    nothing: dict[str, float | int | None] = {
        "window_ms": None, "window_low_ms": None, "window_high_ms": None, "delay_ms": None,
        "explained": None, "n": len(used),
    }  # fmt: skip
    if len(used) < 20:
        return nothing
    used = used[:: 1 + len(used) // MOST_POINTS]
    on = OnTime(stretches)
    values = [value for _, value in used]
    mean = statistics.fmean(values)
    total = sum((value - mean) ** 2 for value in values)
    if not total:
        return nothing

    def unexplained(window_ms: float, delay_ms: float) -> float:
        ends = [when - delay_ms * 1e6 for when, _ in used]
        shares = [(on.until(e) - on.until(e - window_ms * 1e6)) / (window_ms * 1e6) for e in ends]
        middle = statistics.fmean(shares)
        spread = sum((share - middle) ** 2 for share in shares)
        if not spread:
            return 1.0
        joint = sum(
            (share - middle) * (value - mean) for share, value in zip(shares, values, strict=True)
        )
        return 1.0 - joint * abs(joint) / (spread * total)  # more load, less power: no fit

    best = {
        window: min((unexplained(window, delay), delay) for delay in DELAYS_MS)
        for window in WINDOWS_MS
    }
    coarse = min(best, key=lambda window: best[window][0])
    # Finer, around the coarse best.
    near_coarse = (w for w in WINDOWS_MS if 0.4 * coarse <= w <= 1.6 * coarse)
    steps = sorted({*near_coarse, *(max(1.0, coarse * (1 + k / 40)) for k in range(-12, 13))})
    around = [best[coarse][1] + k * 2 for k in range(-6, 7) if best[coarse][1] + k * 2 >= 0]
    fine = {w: min((unexplained(w, d), d) for d in around) for w in steps}
    window = min(fine, key=lambda w: fine[w][0])
    least, delay = fine[window]
    if 1.0 - least < FITS:
        return {**nothing, "explained": round(1.0 - least, 4)}
    near = [w for w, (left, _) in {**best, **fine}.items() if left <= 1.5 * least + 1e-6]
    return {
        "window_ms": round(window, 1),
        "window_low_ms": round(min(near), 1),
        "window_high_ms": round(max(near), 1),
        "delay_ms": delay,
        "explained": round(1.0 - least, 4),
        "n": len(used),
    }


def integral_mj(changes: Changes, begin_ns: int, end_ns: int) -> float | None:
    """Integrate a power that holds until it changes, mJ; None if its beginning was not seen."""
    if not changes or changes[0][0] > begin_ns:
        return None
    total = 0.0
    for (when, value), (after, _) in zip(changes, [*changes[1:], (end_ns, 0)], strict=True):
        total += value * max(0, min(after, end_ns) - max(when, begin_ns)) * 1e-9
    return total


def agreement(changes: dict[str, Changes]) -> dict[str, Any]:
    """Compare the counter with the integrals of the powers, between its second and last tick."""
    ticks = changes.get("gpu_energy", [])[1:]
    powers = {name: seen for name, seen in changes.items() if name != "gpu_energy"}
    if len(ticks) < 3:
        means = {n: round(statistics.fmean(v for _, v in seen) / 1e3, 2)
                 for n, seen in powers.items() if seen}  # fmt: skip
        return {"seconds": None, "counter_w": None, "mean_w": means, "of_counter": {}}
    begin_ns, end_ns = ticks[0][0], ticks[-1][0]
    seconds = (end_ns - begin_ns) * 1e-9
    counter_mj = ticks[-1][1] - ticks[0][1]
    found = {name: integral_mj(seen, begin_ns, end_ns) for name, seen in powers.items()}
    return {
        "seconds": round(seconds, 3),
        "counter_w": round(counter_mj / seconds / 1e3, 2),
        "mean_w": {n: None if e is None else round(e / seconds / 1e3, 2) for n, e in found.items()},
        "of_counter": {
            n: None if e is None or not counter_mj else round(e / counter_mj, 4)
            for n, e in found.items()
        },
    }


def cost(read: Callable[[], Any], times: int) -> dict[str, float]:
    """Return what a read takes, us."""
    taken = []
    for _ in range(times):
        begin_ns = time.perf_counter_ns()
        with contextlib.suppress(OSError, NvmlError):
            read()
        taken.append((time.perf_counter_ns() - begin_ns) * 1e-3)
    taken.sort()
    return {"median_us": round(taken[times // 2], 1), "p99_us": round(taken[times * 99 // 100], 1)}


def both_fields(nvml: Nvml, uuid: str) -> Callable[[], int]:
    """Return what reads the instant and the mean power in one call."""
    device = nvml.by_uuid(uuid)
    function = nvml._function("nvmlDeviceGetFieldValues")
    fields = (FieldValue * 2)()
    fields[0].fieldId, fields[1].fieldId = FIELD_POWER_INSTANT, FIELD_POWER_AVERAGE

    def read() -> int:
        return int(function(device, 2, fields))

    return read


def measure(device: str, quick: bool) -> dict[str, Any]:
    """Run all parts."""
    nvml = open_or_explain()
    cuda = cuda_devices()
    gpu = choose_gpu(device, cuda.devices, nvml_gpus(nvml), cuda.why)
    if gpu.uuid is None:
        raise EdgejouleError(f"{gpu.device}: {gpu.why_no_uuid}", "see `nvidia-smi -L`")
    before = look(nvml, gpu.uuid)
    sensor = NvmlSensor(gpu.uuid)
    reads: dict[str, Callable[[], int]] = {
        channel.rail: lambda index=channel.index: sensor.read(index)  # type: ignore[misc]
        for channel in sensor.channels()
    }
    usage = nvml.power_reader(nvml.by_uuid(gpu.uuid))
    with contextlib.suppress(NvmlError):
        usage()
        reads["power_usage"] = _as_os_error(usage)
    times = 300 if quick else 3000
    costs: dict[str, dict[str, float]] = {name: cost(read, times) for name, read in reads.items()}
    costs["both power fields in one call"] = cost(both_fields(nvml, gpu.uuid), times)
    steady_s = 6.0 if quick else 30.0
    idle = watch(reads, steady_s)
    switching_s = 15.0 if quick else 60.0
    draws = random.Random(20240501)
    schedule: list[tuple[float, float]] = []
    while sum(on + off for on, off in schedule) < switching_s:
        schedule.append((draws.uniform(0.03, 0.5), draws.uniform(0.03, 0.5)))
    load = Load(gpu.uuid, schedule)
    try:
        load.go()
        switching = watch(reads, sum(on + off for on, off in schedule))
        stretches = load.stretches()
    finally:
        load.stop()
    load = Load(gpu.uuid, [(steady_s + SETTLE_S + 1.0, 0.0)])
    copy_mib = load.said["copy_mib"]
    try:
        load.go()
        time.sleep(SETTLE_S)
        loaded = watch(reads, steady_s)
        load.stretches()
    finally:
        load.stop()
    sources = {}
    for name in reads:
        seen = switching[name]
        points = as_power(seen) if name == "gpu_energy" else [(t, float(v)) for t, v in seen[1:]]
        sources[name] = {
            "cost": costs[name],
            "period_switching": period(seen),
            "period_idle": period(idle[name]),
            "window": fit_window(points, stretches),
        }
    configuration = sensor.configuration()
    sensor.close()
    nvml.close()
    return {
        "gpu": configuration,
        "shared_before": before.to_json(),
        "load": {"copy_mib": copy_mib, "stretches": len(stretches)},
        "sources": sources,
        "both_fields_in_one_call": costs["both power fields in one call"],
        "idle": agreement(idle),
        "loaded": agreement(loaded),
    }


def _as_os_error(read: Callable[[], int]) -> Callable[[], int]:
    def reading() -> int:
        try:
            return read()
        except NvmlError as error:
            raise error.as_os_error() from error

    return reading


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    gpu = result["gpu"]
    print(f"{gpu.get('name')}, driver {gpu.get('driver')}, {gpu.get('uuid')}")
    print(f"before: {result['shared_before']['why']}\n")
    print(f"{'source':12} {'read us':>8} {'p99':>7} {'period ms (switching)':>24} "
          f"{'(idle)':>9} {'window ms':>10} {'(from-to)':>13} {'delay':>6} {'fit':>7}")  # fmt: skip
    for name, row in result["sources"].items():
        busy, quiet, window = row["period_switching"], row["period_idle"], row["window"]
        known = busy["period_ms"] is not None
        text = f"{busy['period_ms']} +- {busy['ci_ms']}" if known else "-"
        told = window["window_ms"] is not None
        span = f"{window['window_low_ms']}-{window['window_high_ms']}" if told else "-"
        print(f"{name:12} {row['cost']['median_us']:>8} {row['cost']['p99_us']:>7} {text:>24} "
              f"{quiet['period_ms'] or '-':>9} {window['window_ms'] or '-':>10} {span:>13} "
              f"{'-' if window['delay_ms'] is None else window['delay_ms']:>6} "
              f"{'-' if window['explained'] is None else window['explained']:>7}")  # fmt: skip
    both = result["both_fields_in_one_call"]
    print(f"both power fields in one call: {both['median_us']} us (p99 {both['p99_us']})\n")
    for part in ("idle", "loaded"):
        row = result[part]
        print(f"{part}: counter {row['counter_w']} W over {row['seconds']} s")
        for name, watts in row["mean_w"].items():
            ratio = row["of_counter"].get(name)
            print(f"    {name:12} {watts} W" + ("" if ratio is None else f", {ratio} of it"))


def main() -> int:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", default="cuda:0", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="shorter parts, under a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        run_load([(on, off) for on, off in json.loads(sys.stdin.readline())])
        return 0

    def run() -> None:
        result = measure(arguments.device, arguments.quick)
        if arguments.json:
            print(json.dumps(result))
        else:
            show(result)

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main())
