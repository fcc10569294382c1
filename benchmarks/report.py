#!/usr/bin/env python3
"""Time, memory and size of a report: `report.py` as a whole process, beside the plain way.

    python benchmarks/report.py [--quick] [--json] [--rounds 1] [--runs 20] [--keep DIR]

Twenty synthetic runs of 30 000 inferences x 60 layers, each with ten minutes of power (three rails,
voltage and current, 150 sweeps a second), a look at the resources a second, baselines and energies
of two methods (`report_runs.py`). Then, in turns, each in a process of its own:

    report          report.py DATASET -o DIR
    no figures      the same with --no-figures: without SVG and PNG for papers
    reading         the runs gathered with all that is drawn over time, nothing written
    plain           pandas: every table of a run whole, group-by for the layers' times, resampling
                    for the power; figures only, nothing drawn or written

Memory is the sum of the resident memory of the process and everything it started, looked at every
50 ms: pages that they share count several times. CPU time is of all of them together. Asked, on two
cores: `report` under 30 s and 2 GB, the page under 10 MB.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.report_runs import build_runs  # noqa: E402

MOST_S, MOST_BYTES_RAM, MOST_BYTES_PAGE = 30.0, 2e9, 10e6  # what was asked for
REPORT, NO_FIGURES, READING, PLAIN = "report", "no figures", "reading", "plain"
WAYS = (REPORT, NO_FIGURES, READING, PLAIN)
RUNS, INFERENCES, LAYERS, SECONDS = 20, 30_000, 60, 600.0
LOOK_S = 0.05
_READING = """
import sys
from pathlib import Path
from edgejoule.report.write import gather
found = gather(Path(sys.argv[1]), series=True)
assert len(found.runs) == int(sys.argv[2]) and not found.damaged, found.damaged
"""
_PLAIN = """
import json, sys
from pathlib import Path
import pandas as pd
for run in sorted(path.parent for path in Path(sys.argv[1]).glob("*/run.json")):
    about = json.loads((run / "run.json").read_text())
    layers = pd.read_parquet(run / "layers.parquet")
    times = layers.groupby("layer")["duration_ms"].agg(["count", "mean", "median", "std"])
    inferences = pd.read_parquet(run / "inferences.parquet")
    inferences["ms"] = (inferences["end_ns"] - inferences["start_ns"]) * 1e-6
    latency = inferences.groupby("pass", observed=True)["ms"].describe([0.5, 0.9, 0.99])
    power = pd.read_parquet(run / "power.parquet")
    channels = {one["index"]: one for one in about["sensor"]["channels"]}
    power["rail"] = power["channel"].map({k: one["rail"] for k, one in channels.items()})
    power["quantity"] = power["channel"].map({k: one["quantity"] for k, one in channels.items()})
    power["t"] = pd.to_datetime(power["t0_ns"])
    for rail, own in power.groupby("rail"):
        volts = own[own["quantity"] == "voltage"][["t", "raw"]]
        amps = own[own["quantity"] == "current"][["t", "raw"]]
        pairs = pd.merge_asof(amps, volts, on="t", direction="nearest", suffixes=("_ma", "_mv"))
        pairs["w"] = pairs["raw_ma"] * pairs["raw_mv"] * 1e-6
        drawn = pairs.resample("500ms", on="t")["w"].agg(["min", "mean", "max"])
    resources = pd.read_parquet(run / "resources.parquet").describe()
"""


def command_of(way: str, dataset: Path, out: Path, runs: int) -> list[str]:
    """Return the command of one way."""
    python = sys.executable
    if way == READING:
        return [python, "-c", _READING, str(dataset), str(runs)]
    if way == PLAIN:
        return [python, "-c", _PLAIN, str(dataset)]
    more = ["--no-figures"] if way == NO_FIGURES else []
    return [python, str(ROOT / "report.py"), str(dataset), "-o", str(out), "--quiet", *more]


def run_measured(command: list[str]) -> dict[str, float]:
    """Run a command to its end; return wall and CPU seconds and the greatest memory of its tree."""
    before = os.times()
    began = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        most = 0
        while process.poll() is None:
            most = max(most, tree_bytes(process.pid))
            time.sleep(LOOK_S)
        wall = time.perf_counter() - began
        if process.returncode:
            said.seek(0)
            text = said.read().decode(errors="replace")[-2000:]
            raise SystemExit(f"{' '.join(command[:3])} ended with {process.returncode}:\n{text}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user
    return {"wall_s": wall, "cpu_s": cpu - before.children_system, "peak_bytes": float(most)}


def tree_bytes(pid: int) -> int:
    """Return the resident memory of a process and all below it, from /proc."""
    children: dict[int, list[int]] = {}
    pages: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name, in parentheses, may hold anything.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(folder.name))
            pages[int(folder.name)] = int(fields[21])
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        total += pages.get(one, 0)
        waiting += children.get(one, [])
    return total * os.sysconf("SC_PAGE_SIZE")


def measure(
    dataset: Path, folder: Path, runs: int, ways: tuple[str, ...], rounds: int
) -> dict[str, Any]:
    """Run every way in turns and return the medians, and the size of the page."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    sizes: dict[str, int] = {}
    for number in range(rounds):
        for way in (*ways[number % len(ways) :], *ways[: number % len(ways)]):
            out = folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            found[way].append(run_measured(command_of(way, dataset, out, runs)))
            if way == REPORT:
                sizes = {path.name: size_of(path) for path in sorted(out.iterdir())}
    return {
        "ways": {
            way: {key: statistics.median(one[key] for one in several) for key in several[0]}
            for way, several in found.items()
        },
        "bytes": sizes,
    }


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files)


def report(found: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = [
        f"{found['runs']} runs of {found['inferences']} inferences x {found['layers']} layers and "
        f"{found['seconds']:g} s of power, {found['dataset_bytes'] / 1e6:.0f} MB; "
        f"{found['rounds']} round(s); {found['machine']}, load {found['load_1min']}, Python "
        f"{found['python']}, {found['date']}",
        f"{'':<12} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}",
    ]
    lines += [
        f"{way:<12} {one['wall_s']:>8.1f} {one['cpu_s']:>8.1f} {one['peak_bytes'] / 1e6:>8.0f}"
        for way, one in found["ways"].items()
    ]
    lines += [f"{name:<30} {size / 1e6:>8.2f} MB" for name, size in found["bytes"].items()]
    lines.append("asked: report under 30 s and 2000 MB, report.html under 10 MB")
    return "\n".join(lines)


def good(found: dict[str, Any]) -> bool:
    """Say whether the report is within what was asked for."""
    one = found["ways"][REPORT]
    return (
        one["wall_s"] < MOST_S
        and one["peak_bytes"] < MOST_BYTES_RAM
        and found["bytes"].get("report.html", 0) < MOST_BYTES_PAGE
    )


def main() -> int:
    """Run the benchmark; exit 1 if the whole report takes more than was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--quick", action="store_true", help="4 runs of 3000, within a minute")
    parser.add_argument("--rounds", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--runs", type=int, help=f"default: {RUNS}")
    parser.add_argument("--only", choices=WAYS, action="append", help="only this way; repeatable")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="leave the runs there; take them if they are"
    )
    arguments = parser.parse_args()
    runs = arguments.runs or (4 if arguments.quick else RUNS)
    inferences, seconds = (3_000, 60.0) if arguments.quick else (INFERENCES, SECONDS)
    ways = tuple(way for way in WAYS if not arguments.only or way in arguments.only)
    with tempfile.TemporaryDirectory(prefix="edgejoule-") as folder:
        dataset = arguments.keep or Path(folder) / "dataset"
        if len(list(dataset.glob("*/run.json"))) != runs:
            build_runs(dataset, runs, inferences, LAYERS, seconds)
        found = {
            "runs": runs,
            "inferences": inferences,
            "layers": LAYERS,
            "seconds": seconds,
            "rounds": arguments.rounds,
            "dataset_bytes": size_of(dataset),
            **measure(dataset, Path(folder), runs, ways, arguments.rounds),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}",
            "load_1min": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            "date": datetime.date.today().isoformat(),
        }
    print(json.dumps(found) if arguments.json else report(found))
    # What was asked for is of the whole.
    return 0 if arguments.quick or REPORT not in ways else int(not good(found))


if __name__ == "__main__":
    sys.exit(main())
