#!/usr/bin/env python3
"""Do the layers of a network, each measured alone, make up its energy? On a real GPU, by replay.

    python benchmarks/closure.py --only resnet50 --batch 64 --repeat 1 [--result-dir closure]
    python benchmarks/closure.py --gpus 0,1 --setups 8 --quick --seconds 560
                                                                      every case, two at a time
    python benchmarks/closure.py --table [--json]                     what the runs found say
    python benchmarks/closure.py --repeatability resnet50             fresh processes, two builds

Each case (network, batch, repeat) is one call of `measure_inference_power.py` as a user would make
it, and leaves one run directory in `<result-dir>/data`; a finished one is not measured again, so
that a call that was cut short is repeated as it is. No case is started that would not end within
`--seconds`, and none lasts longer than `--case-seconds`. `--setups J` builds all networks first, J
at a time, so that a GPU is then held for measuring alone. On several GPUs each case sees one of
them as `cuda:0` (CUDA_VISIBLE_DEVICES), so that repeats on any of them are of one experiment.
`--pack FILE` puts the runs into one archive, to carry them to another machine; `--unpack FILE` adds
those of another.

Needs an NVIDIA GPU, torch and torchvision; `--backend`, `--device`, `--dtype` and `--sensor` make
it run elsewhere. Exit status 1 if a case failed or (--table) a target is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from closure_files import calls_of, is_done, pack, unpack  # noqa: E402
from closure_run import (  # noqa: E402
    BATCHES,
    LAYER_SECONDS,
    NETWORKS,
    Bench,
    measure_cases,
    measure_repeatability,
)
from closure_table import figures, markdown, summarise  # noqa: E402

from edgejoule.errors import UsageError, run_command  # noqa: E402

QUICK = {
    "layer_seconds": 1.15, "warmup": 20, "runs": 50, "clean_seconds": 6.0, "idle_duration": 1.5,
    "check": ["resnet50:64:1", "vgg16:64:1", "convnext_tiny:64:1", "mobilenet_v2:64:1"],
}  # fmt: skip


def show_table(args: argparse.Namespace) -> int:
    """Print the tables of all complete runs."""
    folder = Path(args.result_dir)
    runs = [run for run in sorted((folder / "data").glob("*-b*-r*")) if is_done(run)]
    if not runs:
        raise UsageError(f"{folder / 'data'} holds no complete run", "measure some first")
    calls = calls_of(folder)
    rows = sorted(
        (figures(run, calls) for run in runs),
        key=lambda row: (row["model"], row["batch"], row["repeat"]),
    )
    found = summarise(rows)
    print(json.dumps({**found, "rows": rows}) if args.json else markdown(rows, found), end="\n")
    return 0 if all(check["met"] is not False for check in found["checks"]) else 1


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", action="append", metavar="NET", help="default: " + ", ".join(NETWORKS))
    add("--batch", type=int, action="append", help="default: 1 and 64")
    add("--repeat", type=int, action="append", metavar="K", help="default: 1")
    add("--gpus", metavar="I,J", help="a case on each of these GPUs at a time")
    add("--device", default="cuda:0", help="without --gpus (default: %(default)s)")
    add("--result-dir", default="closure", help="default: %(default)s")
    add("--seconds", type=float, default=470.0, help="of a call (default: %(default)s)")
    add("--case-seconds", type=float, default=460.0, help="of a case (default: %(default)s)")
    add("--backend", default="torch", help="default: %(default)s")
    add("--dtype", default="float16", help="default: %(default)s")
    add("--sensor", default="nvml", help="default: %(default)s")
    add("--energy", default="replay", help="default: %(default)s")
    add("--replay-budget", type=float, metavar="S", help="default: by the number of its layers")
    add(
        "--layer-seconds",
        type=float,
        default=LAYER_SECONDS,
        metavar="S",
        help="of the replay pass, per distinct layer (default: %(default)s)",
    )
    add("--check-attribution", type=int, default=3, metavar="N", help="0: none (default: 3)")
    add("--check", action="append", metavar="NET[:BATCH[:REPEAT]]", help="check these cases alone")
    add("--quick", action="store_true", help="short passes: about a minute per case on an H200")
    add("--setups", type=int, default=0, metavar="J", help="build everything first, J at a time")
    add("--observer-seconds", type=float, default=0.0, metavar="S", help="default: %(default)s")
    add("--warmup", type=int, default=30, help="default: %(default)s")
    add("--runs", type=int, default=100, help="profiled inferences (default: %(default)s)")
    add("--clean-seconds", type=float, default=12.0, help="default: %(default)s")
    add("--clean-runs", type=int, help="instead of --clean-seconds")
    add("--idle-duration", type=float, default=4.0, help="default: %(default)s")
    add("--commit", help="what is measured, where it is no git checkout")
    add("--table", action="store_true", help="print the tables of the runs that are there")
    add("--json", action="store_true", help="print one JSON object instead")
    add("--repeatability", metavar="NET", help="fresh processes over several builds")
    add("--processes", type=int, default=5, help="of --repeatability (default: %(default)s)")
    add("--builds", type=int, default=2, help="of --repeatability (default: %(default)s)")
    add("--pack", type=Path, metavar="FILE", help="at the end, put everything into FILE (.tar.gz)")
    add("--unpack", type=Path, action="append", metavar="FILE", help="first, add what FILE holds")
    args = parser.parse_args(words)
    args.batch, args.repeat = args.batch or list(BATCHES), args.repeat or [1]
    if args.quick:
        given = {word.split("=")[0] for word in sys.argv[1:] if words is None} | set(words or ())
        for name, value in QUICK.items():
            if f"--{name.replace('_', '-')}" not in given:
                setattr(args, name, value)
    return args


def main(words: Sequence[str] | None = None) -> int:
    """Do what was asked for; return the exit status."""
    args = parse(words)
    status = 0

    def run() -> None:
        nonlocal status
        folder = Path(args.result_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for archive in args.unpack or ():
            unpack(archive, folder)
        bench = Bench(args)
        try:
            if args.repeatability:
                status = measure_repeatability(bench)
            elif not args.table:
                status = measure_cases(bench)
            if args.table:
                status = max(status, show_table(args))
        finally:
            if args.pack:
                pack(folder, args.pack)

    return run_command(run) or status


if __name__ == "__main__":
    sys.exit(main())
