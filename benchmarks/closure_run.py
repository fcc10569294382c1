"""How `benchmarks/closure.py` measures: one case per GPU at a time, within the time that it has."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from closure_files import is_done
from closure_repeats import repeatability
from closure_table import figures

from edgejoule.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
# With their distinct layers, the long ones first: what is left at the end of a call is short.
NETWORKS = {
    "mobilenet_v2": 68, "resnet152": 54, "resnet50": 54, "resnext50_32x4d": 49,
    "convnext_tiny": 36, "resnet18": 28, "vgg16": 24, "alexnet": 17,
}  # fmt: skip
BATCHES = (1, 64)
LAYER_SECONDS, MORE_SECONDS = 2.5, 4.0  # of the replay pass: per distinct layer, and besides
UNKNOWN_LAYERS = 60
BUILD_S = 25.0
REST_OF_A_CASE_S = 20.0  # starting a process, warming up, the profiled pass, converting
DUPLICATE_S = 2.0  # making and repeating a network with one layer executed several times
GRACE_S = 20.0


@dataclass(frozen=True)
class Case:
    """One run to make."""

    model: str
    batch: int
    repeat: int

    @property
    def name(self) -> str:
        """The run's name."""
        return f"{self.model}-b{self.batch}-r{self.repeat}"


@dataclass
class Bench:
    """What a call works on."""

    arguments: argparse.Namespace
    started: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)
    slower: float = 1.0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    stop: bool = False
    built: set[Path] = field(default_factory=set)

    @property
    def data(self) -> Path:
        """The dataset."""
        return Path(self.arguments.result_dir) / "data"

    def left_s(self) -> float:
        """How much of `--seconds` is left."""
        return float(self.arguments.seconds) - (time.monotonic() - self.started)

    def budget_s(self, case: Case) -> float:
        """How long the replay pass of a case may take."""
        args = self.arguments
        layers = NETWORKS.get(case.model, UNKNOWN_LAYERS)
        return float(args.replay_budget or args.layer_seconds * layers + MORE_SECONDS)

    def checked(self, case: Case) -> int:
        """How many layers of a case the duplication check takes."""
        asked = [one.split(":") for one in self.arguments.check or ()]
        own = [case.model, str(case.batch), str(case.repeat)]
        chosen = not asked or any(own[: len(one)] == one for one in asked)
        return int(self.arguments.check_attribution) if chosen else 0

    def expected_s(self, case: Case) -> float:
        """How long a case will take, by what is asked of it and by how it went so far."""
        args = self.arguments
        # Four baselines, and as long for the cool-down at most.
        found = args.clean_seconds + 8 * args.idle_duration + REST_OF_A_CASE_S
        if "replay" in args.energy:
            budget_s = self.budget_s(case)
            found += budget_s + min(budget_s, 3 * 4 * DUPLICATE_S * self.checked(case))
        if build_of(self, case) not in self.built:
            found += BUILD_S
        return min(float(args.case_seconds), found * self.slower)

    def say(self, text: str) -> None:
        """Tell people."""
        with self.lock:
            print(f"{time.monotonic() - self.started:6.0f} s  {text}", file=sys.stderr, flush=True)


def command_of(args: argparse.Namespace, model: str, batch: int) -> list[str]:
    """Return the command that measures a network, without where it goes."""
    from model import describe

    shape = describe(model).input_shape
    if shape is None:
        raise UsageError(f"the input shape of {model} is not known", "give one of the zoo")
    sizes = [batch, *shape[1:]]
    command = [
        sys.executable, str(ROOT / "measure_inference_power.py"), "--model", model,
        "--backend", args.backend, "--device", args.device, "--dtype", args.dtype,
        "--weights", "random", "--sensor", args.sensor, "--input-shape", *map(str, sizes),
        "--warmup", str(args.warmup), "--runs", str(args.runs),
        "--clean-seconds", f"{args.clean_seconds:g}", "--idle-duration", f"{args.idle_duration:g}",
        "--observer-seconds", f"{args.observer_seconds:g}", "--quiet",
    ]  # fmt: skip
    if args.clean_runs is not None:
        command += ["--clean-runs", str(args.clean_runs)]
    if args.backend == "torch" and args.device.startswith("cuda"):
        command.append("--cuda-graphs")
    return command


def replay_options(bench: Bench, case: Case) -> list[str]:
    """Return the flags of the replay pass and its checks."""
    options = ["--energy", bench.arguments.energy]
    if "replay" in bench.arguments.energy.split(","):
        options += ["--replay-budget", f"{bench.budget_s(case):g}"]
        if layers := bench.checked(case):
            options += ["--check-attribution", str(layers)]
    return options


def build_of(bench: Bench, case: Case) -> Path:
    """Return where `--setups` keeps what a case's network was built to, for all its repeats."""
    return Path(bench.arguments.result_dir, "builds", f"{case.model}-b{case.batch}").absolute()


def call(
    bench: Bench, command: Sequence[str], name: str, limit_s: float, gpu: str | None = None
) -> int:
    """Run a command with a limit on its time; its output goes to `logs/<name>.log`."""
    logs = Path(bench.arguments.result_dir) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    with (logs / f"{name}.log").open("a", encoding="utf-8") as log:
        log.write(" ".join(command) + "\n")
        log.flush()
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = child.wait(1.0)
                    break
                late = time.monotonic() - began > limit_s
                if bench.stop or late:
                    # As Ctrl-C does: what was measured so far can be recovered.
                    child.send_signal(signal.SIGINT)
                    status = child.wait(GRACE_S)
                    bench.say(f"{name}: stopped" + (f" after {limit_s:.0f} s" if late else ""))
                    break
        except subprocess.TimeoutExpired:
            child.kill()
            status = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    return status


def last_line(bench: Bench, name: str) -> str:
    """Return the last line of a call's output."""
    path = Path(bench.arguments.result_dir) / "logs" / f"{name}.log"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def commit_of(asked: str | None) -> str | None:
    """Return the commit that is measured: as it was given, else as git says."""
    from edgejoule.machine import code_version

    code = code_version(ROOT) or {}
    return asked or code.get("commit")


def measure(bench: Bench, case: Case, gpu: str | None) -> None:
    """Measure one case; what came of it is noted in `calls.jsonl`."""
    args, began = bench.arguments, time.monotonic()
    command = [
        *command_of(args, case.model, case.batch), *replay_options(bench, case),
        "--result-dir", str(bench.data), "--run-name", case.name,
    ]  # fmt: skip
    if build_of(bench, case) in bench.built:
        command += ["--skip-setup", "--artefacts", str(build_of(bench, case))]
    where = args.device if gpu is None else f"GPU {gpu}"
    expected_s = bench.expected_s(case)
    bench.say(f"{case.name} on {where}")
    limit_s = min(float(args.case_seconds), bench.left_s())
    status = call(bench, command, case.name, limit_s, gpu)
    seconds = time.monotonic() - began
    done = is_done(bench.data / case.name)
    with bench.lock:
        note(bench, {"run": case.name, "device": where, "status": status, "seconds": seconds})
        if done:
            bench.slower = max(bench.slower, bench.slower * seconds / expected_s)
        else:
            bench.failed.append(case.name)
    if not done:
        bench.say(f"{case.name} FAILED ({status}): {last_line(bench, case.name)}")
        return
    row = figures(bench.data / case.name)
    shown = {key: row[key] for key in ("whole_dynamic_j", "closure", "counter_ratio")}
    values = ", ".join(f"{key} {value}" for key, value in shown.items())
    bench.say(f"{case.name} done in {seconds:.0f} s: {values}")


def note(bench: Bench, content: dict[str, Any]) -> None:
    """Append a line to `calls.jsonl`."""
    args = bench.arguments
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    line = {**content, "commit": commit_of(args.commit), "ended_at": now}
    with (Path(args.result_dir) / "calls.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def set_up(bench: Bench, cases: Sequence[Case], gpus: Sequence[str | None]) -> None:
    """Build the networks of some cases, several at a time, spread over the GPUs."""
    args = bench.arguments
    wanted: queue.Queue[tuple[Case, str | None]] = queue.Queue()
    for number, path in enumerate(dict.fromkeys(build_of(bench, case) for case in cases)):
        case = next(one for one in cases if build_of(bench, one) == path)
        wanted.put((case, gpus[number % len(gpus)]))

    def builder() -> None:
        while not bench.stop:
            try:
                case, gpu = wanted.get_nowait()
            except queue.Empty:
                return
            path = build_of(bench, case)
            command = [
                *command_of(args, case.model, case.batch), "--setup-only", "--artefacts", str(path)
            ]  # fmt: skip
            name = f"setup-{case.model}-b{case.batch}"
            status = call(bench, command, name, bench.left_s(), gpu)
            with bench.lock:
                if not status:
                    bench.built.add(path)
            if status:
                bench.say(f"{name} FAILED ({status}): {last_line(bench, name)}")

    run_threads(bench, [threading.Thread(target=builder) for _ in range(args.setups)])
    bench.say(f"{len(bench.built)} networks are built")


def run_threads(bench: Bench, threads: Sequence[threading.Thread]) -> None:
    """Run threads to their end; Ctrl-C stops what they run."""
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        bench.stop = True
        for thread in threads:
            thread.join()
        raise


def work(bench: Bench, cases: queue.Queue[Case], gpu: str | None) -> None:
    """Measure cases on one device until there is none left or the time is used up."""
    while not bench.stop:
        with bench.lock:
            try:
                case = cases.get_nowait()
            except queue.Empty:
                return
            if bench.left_s() < bench.expected_s(case):
                bench.skipped.append(case.name)
                continue
        try:
            measure(bench, case, gpu)
        except (OSError, ValueError, KeyError, UsageError) as error:
            bench.failed.append(case.name)
            bench.say(f"{case.name} FAILED: {error}")


def measure_cases(bench: Bench) -> int:
    """Measure what is asked for and not there yet, one case per device at a time."""
    args = bench.arguments
    cases = [
        Case(model, batch, repeat)
        for repeat in args.repeat
        for model in args.only or NETWORKS
        for batch in sorted(args.batch, reverse=True)
    ]
    there = [case for case in cases if is_done(bench.data / case.name)]
    for case in there:
        bench.say(f"{case.name} is there")
    todo: queue.Queue[Case] = queue.Queue()
    for case in cases:
        if case not in there:
            todo.put(case)
    gpus: list[str | None] = list(args.gpus.split(",")) if args.gpus else [None]
    bench.data.mkdir(parents=True, exist_ok=True)
    if args.setups and not todo.empty():
        set_up(bench, list(todo.queue), gpus)
    run_threads(bench, [threading.Thread(target=work, args=(bench, todo, gpu)) for gpu in gpus])
    if bench.skipped:
        bench.say(f"not started for lack of time: {', '.join(bench.skipped)}; call again")
    return 1 if bench.failed else 0


def measure_repeatability(bench: Bench) -> int:
    """Measure one network in fresh processes over two builds and judge how they agree."""
    args = bench.arguments
    model, batch = args.repeatability, args.batch[0]
    data = Path(args.result_dir) / f"repeat-{model}-b{batch}"
    each = -(-args.processes // args.builds)
    command = [
        *command_of(args, model, batch),
        "--energy", "proportional", "--repeats", str(each), "--rebuilds", str(args.builds),
        "--result-dir", str(data), "--run-name", f"{model}-b{batch}",
    ]  # fmt: skip
    name = f"repeat-{model}-b{batch}"
    bench.say(f"{each * args.builds} processes over {args.builds} builds")
    gpu = args.gpus.split(",")[0] if args.gpus else None
    status = call(bench, command, name, bench.left_s(), gpu)
    note(bench, {"run": name, "device": args.device, "status": status})
    rows = [figures(run) for run in sorted(data.glob("*-r*")) if is_done(run)]
    if status:
        bench.say(f"FAILED ({status}): {last_line(bench, name)}")
    found = {**repeatability(rows), "model": model, "batch": batch}
    if args.json:
        print(json.dumps(found))
    else:
        deviation = found["deviation"]
        print(
            f"{model}, batch {batch}: {found['processes']} processes over {found['builds']} builds,"
            f" J per inference {', '.join(f'{value:.5g}' for value in found['j'])}; relative "
            f"deviation {'-' if deviation is None else f'{deviation:.2%}'} (target "
            f"{found['target']:.0%}): {found['verdict']}"
        )
        for reason in found["reasons"]:
            print(f"    {reason}")
    return 1 if status or found["deviation"] is None else 0
