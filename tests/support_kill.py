"""Kill one process of a run at a random moment of a given phase, and look at what is left.

Used by the test (a reduced set of seeds) and by `benchmarks/kills.py` (all of them).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from edgejoule.cli import data_version
from edgejoule.phases import read_phases
from edgejoule.records import POWER, read_header

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    "set-up": "edgejoule.inference.setup_process",
    "measuring": "edgejoule.inference.measure_process",
    "sampler": "edgejoule.power.sampler",
    "simulator": "edgejoule.power.simulator",
}
# Which process can be killed in which phase; `closing` is after the last mark, rename included.
MOMENTS = tuple(
    (victim, phase)
    for phase, victims in {
        "setup": ("parent", "set-up"),
        "idle_before": ("parent", "sampler", "simulator"),
        "load": ("parent", "sampler", "simulator", "measuring"),
        "idle_loaded_before": ("parent", "sampler", "simulator", "measuring"),
        "warmup": ("parent", "sampler", "simulator", "measuring"),
        "clean": ("parent", "sampler", "simulator", "measuring"),
        "profiled": ("parent", "sampler", "simulator", "measuring"),
        "idle_loaded_after": ("parent", "sampler", "simulator", "measuring"),
        "idle_after": ("parent", "sampler", "simulator"),
        "closing": ("parent",),
    }.items()
    for victim in victims
)
SAMPLE_LOSS_NS = 1_000_000_000


@dataclass(frozen=True)
class Outcome:
    """What a kill left; `faults` is empty if all is as it must be."""

    victim: str
    phase: str
    delay_s: float
    killed: bool
    lost_ms: float | None
    finished: bool
    faults: tuple[str, ...]


def command(dataset: Path) -> list[str]:
    """Return a run of a few seconds through every phase."""
    return [
        sys.executable, str(ROOT / "measure_inference_power.py"), "--model", "lenet",
        "--weights", "random", "--backend", "onnxruntime", "--sensor", "simulated",
        "--runs", "10000", "--clean-runs", "20000", "--warmup", "5000", "--idle-duration", "0.4",
        "--result-dir", str(dataset), "--quiet",
    ]  # fmt: skip


def descendants(pid: int) -> dict[int, str]:
    """Return pid -> command line of all living descendants of a process."""
    parents: dict[int, list[int]] = {}
    lines: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            lines[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        state, parent = stat[stat.rindex(")") + 2 :].split()[:2]
        if state != "Z":
            parents.setdefault(int(parent), []).append(int(entry.name))
    found: dict[int, str] = {}
    queue = [pid]
    while queue:
        for child in parents.get(queue.pop(), []):
            found[child] = lines[child]
            queue.append(child)
    return found


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


def _phase_of(partial: Path | None) -> str:
    if partial is None:
        return ""
    try:
        marks = (partial / "phases.jsonl").read_text().splitlines()
        last = json.loads(marks[-1])["phase"] if marks else ""
    except (OSError, ValueError, IndexError):
        return ""
    return "closing" if last == "end" else str(last)


def _partial(dataset: Path) -> Path | None:
    found = sorted((dataset / ".partial").glob("lenet-*")) if dataset.exists() else []
    return found[0] if found else None


def kill_once(seed: int, folder: Path) -> Outcome:
    """Start a run, kill the process that the seed says in its phase, examine what is left."""
    victim, phase = MOMENTS[seed % len(MOMENTS)]
    # Closing a run this small takes some 0.5 s; the kill must come before it is over.
    delay_s = random.Random(seed).uniform(0.0, 0.2 if phase == "closing" else 0.5)
    dataset = folder / "data"
    with (folder / "output").open("wb") as output:
        parent = subprocess.Popen(command(dataset), stdout=output, stderr=output, cwd=folder)
    seen: dict[int, str] = {}
    killed_ns = None
    reached_ns = None
    deadline = time.monotonic() + 120
    while parent.poll() is None and time.monotonic() < deadline:
        seen.update(descendants(parent.pid))
        if reached_ns is None and _phase_of(_partial(dataset)) == phase:
            reached_ns = time.monotonic_ns()
        if reached_ns is not None and time.monotonic_ns() >= reached_ns + delay_s * 1e9:
            pid = parent.pid
            if victim != "parent":
                module = MODULES[victim]
                pid = next((p for p, line in seen.items() if module in line and alive(p)), 0)
            if pid:
                killed_ns = time.monotonic_ns()
                os.kill(pid, signal.SIGKILL)
                break
        time.sleep(0.002 if reached_ns else 0.01)
    try:
        status = parent.wait(30)
    except subprocess.TimeoutExpired:
        parent.kill()
        return Outcome(victim, phase, delay_s, killed_ns is not None, None, False, ("hangs",))
    return examine(dataset, Outcome(victim, phase, delay_s, killed_ns is not None, None, False, ()),
                   killed_ns, status, seen)  # fmt: skip


def examine(
    dataset: Path, outcome: Outcome, killed_ns: int | None, status: int, seen: dict[int, str]
) -> Outcome:
    """Check processes, samples, what `recover` makes of it and what looks finished."""
    faults: list[str] = []
    if killed_ns is None:
        faults.append(f"not killed: the run ended before with status {status}")
    patience = time.monotonic() + 8
    while any(map(alive, seen)) and time.monotonic() < patience:
        time.sleep(0.05)
    faults += [f"process left: {line}" for pid, line in seen.items() if alive(pid)]
    finished = (dataset / "lenet" / "run.json").exists()
    partial = _partial(dataset)
    lost_ms = None
    if partial is not None and killed_ns is not None:
        lost_ms = _lost_ms(partial, killed_ns)
        if lost_ms is not None and lost_ms > SAMPLE_LOSS_NS / 1e6:
            faults.append(f"{lost_ms:.0f} ms of samples lost")
    if killed_ns is not None and not finished and status == 0:
        faults.append("the command says that all is well")
    if finished and _tool(dataset, "verify") != 0:
        faults.append("a finished-looking run does not verify")
    if partial is not None:
        faults += _recover(dataset)
    return Outcome(
        outcome.victim, outcome.phase, outcome.delay_s, outcome.killed, lost_ms, finished,
        tuple(faults),
    )  # fmt: skip


def _lost_ms(partial: Path, killed_ns: int) -> float | None:
    """Return how long before the kill the last sample on disk was read; None: none was due."""
    path = partial / "power.bin"
    if not path.exists():
        return None
    spans = read_phases(partial / "phases.jsonl")
    if not spans or spans[-1].end_ns is not None:
        return None  # the sampler had ended by itself
    try:
        header, offset = read_header(path)
    except Exception:  # noqa: BLE001 (killed while the header was written: no sample yet)
        return None
    count = (path.stat().st_size - offset) // POWER.struct.size
    if not count:
        return None
    assert header["kind"] == "power"
    with path.open("rb") as file:
        file.seek(offset + (count - 1) * POWER.struct.size)
        last = POWER.struct.unpack(file.read(POWER.struct.size))
    return max(0.0, (killed_ns - last[1]) / 1e6)


def _recover(dataset: Path) -> list[str]:
    """Recover and check that what was written can be read and is not taken for finished."""
    faults = []
    before = _partial(dataset)
    had_power = before is not None and (before / "power.bin").exists()
    if _tool(dataset, "recover") != 0:
        faults.append("recover failed")
    if _partial(dataset) is not None:
        faults.append("recover left the partial directory")
    recovered = [p for p in dataset.glob("lenet*") if p.is_dir()]
    for run in recovered:
        status = json.loads((run / "run.json").read_text())["status"]
        if "incomplete" in run.name and status != "incomplete":
            faults.append(f"{run.name} says {status}")
        if "incomplete" not in run.name and status != "complete":
            faults.append(f"{run.name} looks finished and says {status}")
        if had_power and "incomplete" in run.name and not (run / "power.parquet").exists():
            faults.append("the power samples were not recovered")
    if recovered and _tool(dataset, "verify", "--allow-incomplete") != 0:
        faults.append("what recover made does not verify")
    return faults


def _tool(dataset: Path, verb: str, *flags: str) -> int:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return data_version.main([verb, str(dataset), *flags])
