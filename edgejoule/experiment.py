"""Where the two processes meet: one run, from the set-up to the directory in the dataset.

Time runs from left to right; each bar is a process:

    parent      |================================================================| closing
    set-up      |-- load, build --|
    simulator                     |------------------------------------------|      (simulated only)
    sampler                       |------------------------------------------|
    measuring                           | load idle warm-up clean profiled idle|
    phase       setup             idle   load .. idle_loaded_after, unload     cooldown idle
                                  before                                                after

Whatever fails or is killed, no child outlives the parent, and what was written stays in
`<dataset>/.partial/` for `data_version.py recover`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.config import RunConfig, identity_sha256
from edgejoule.cooldown import CoolDown, cool_down
from edgejoule.errors import EdgejouleError, MeasurementError
from edgejoule.files import disk_errors
from edgejoule.inference.trt import ENGINE_FILE
from edgejoule.live_run import About, LiveRun
from edgejoule.measure_settings import attribution_rate, measure_settings
from edgejoule.phases import BASELINE_PHASES, PhaseBoard
from edgejoule.power.sensor import Where
from edgejoule.processes import Child, start_child
from edgejoule.report.outlook import Asked, Whole, past_run
from edgejoule.supervision import KilledForMemoryError, StopFlag, Supervisor
from edgejoule.watch import Watch

if TYPE_CHECKING:
    from edgejoule.gpu_watch import GpuWatch
    from edgejoule.report.progress import Progress

_COOL_DOWN_SHARE = 4.0
_COOL_DOWN_LONGEST_S = 120.0
_SAMPLED_LATER_NS = 20_000_000
_BUILD_FILES = ("engine.json",)


@dataclass(frozen=True)
class Task:
    """What is measured and where it goes; what changes the measurement stands in `config`.

    Attributes:
        config: The run's configuration.
        name: The run's name.
        dataset: The dataset's folder.
        loader: Name of the model loader, `package:function`.
        build: A folder with a finished set-up to use instead of a new one, or None.
        overwrite: Whether a finished run of this name may be replaced.
        where: Where the sensor is, and the GPU's UUID if one is measured; its sysfs is ignored
            for the simulated board.
        command: The exact command to repeat the run.
        board_id: As `machine` says.
        why: Why backend and sensor were chosen.
        calibration_cache: File of calibrated ranges, checked if it is there, else written.
        cache: Folder of the experiment's timing cache, so that all its builds choose alike.
        save_engine: Where the built engine is kept; of several builds the first.
        run: Which repeat this is, from 1.
        runs: Of how many.
        runs_after: How many of those after it are still to be measured.
    """

    config: RunConfig
    name: str
    dataset: Path
    loader: str
    build: Path | None = None
    overwrite: bool = False
    where: Where = Where()  # noqa: RUF009 (frozen)
    command: tuple[str, ...] = ()
    why: dict[str, Any] = field(default_factory=dict)
    calibration_cache: Path | None = None
    cache: Path | None = None
    save_engine: Path | None = None
    run: int = 1
    runs: int = 1
    runs_after: int = 0


@dataclass(frozen=True)
class Measured:
    """What the processes left behind, for the closing."""

    setup: dict[str, Any]
    measure: dict[str, Any]
    sampler: dict[str, Any] | None
    cooldown: CoolDown
    wall_anchor: dict[str, int]
    shared_gpu: bool | None = None
    sharing: dict[str, Any] | None = None


def smaller_setting(config: RunConfig) -> str:
    """Return what to try next when memory ran out."""
    if config.input_shape and config.input_shape[0] > 1:
        half = (config.input_shape[0] // 2, *config.input_shape[1:])
        return f"try half the batch: --input-shape {' '.join(map(str, half))}"
    if config.dtype == "float32" and config.backend == "torch":
        return "try --dtype bfloat16, which needs half the memory"
    if config.threads != 1:
        return "try --threads 1, close other programs, or measure a smaller network"
    return "close other programs or measure a smaller network"


_SMALLER_TRIES = 2


def set_up(task: Task, directory: Path, supervisor: Supervisor) -> dict[str, Any]:
    """Run the set-up process, leaving artefacts and `engine.json` in `directory`.

    A builder's appetite is a setting: where the kernel kills a build of TensorRT for want of
    memory, it is tried again smaller, and `killed` of the answer says how often that was.
    """
    tries = _SMALLER_TRIES if "tensorrt" in task.config.backend and not task.config.engine else 0
    killed = 0
    while True:
        child = supervisor.add(_start_set_up(task, directory, killed))
        try:
            return {**supervisor.run_to_end(child), "killed": killed}
        except KilledForMemoryError:
            if killed == tries:
                raise
        supervisor.forget(child)
        shutil.rmtree(directory / "artefacts", ignore_errors=True)
        killed += 1


def _start_set_up(task: Task, directory: Path, killed: int) -> Child:
    config = task.config
    return start_child(
        "set-up process",
        "edgejoule.inference.setup_process",
        {
            "directory": str(directory),
            "loader": task.loader,
            "model": config.model,
            "weights": config.weights,
            "seed": config.seed,
            "input_shape": None if config.input_shape is None else list(config.input_shape),
            "backend": config.backend,
            "dtype": config.dtype,
            "device": config.device,
            "threads": config.threads,
            "extra": config.extra,
            "input": config.input,
            "engine": config.engine,
            "memory_limit_gib": config.memory_limit_gib,
            "calibration": config.calibration,
            "calibration_cache": _text(task.calibration_cache),
            "cache": _text(task.cache),
            "killed": killed,
        },
        directory / "run.log",
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def adopt_build(build: Path, directory: Path) -> dict[str, Any]:
    """Bring a finished set-up into a run's directory, by hard links where the disk allows them.

    Raises:
        EdgejouleError: There is no finished set-up in `build`.
    """
    import json

    setup = build / "artefacts" / "setup.json"
    if not setup.is_file():
        raise EdgejouleError(f"no finished set-up in {build}", "run with --setup-only first", 2)

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    shutil.copytree(build / "artefacts", directory / "artefacts", copy_function=link)
    found: dict[str, Any] = json.loads(setup.read_text(encoding="utf-8"))
    for name in (*_BUILD_FILES, *found.get("keep", ())):
        link(str(build / name), str(directory / name))
    return found


def save_engine(directory: Path, target: Path) -> None:
    """Keep the engine that a set-up left in `directory`, unless it was kept already.

    Raises:
        MeasurementError: It left none, or the file cannot be written.
    """
    source = directory / "artefacts" / ENGINE_FILE
    if target.exists():
        return
    if not source.is_file():
        raise MeasurementError(f"the set-up left no engine to keep as {target}")
    unfinished = target.with_name(target.name + ".tmp")
    with disk_errors(target.parent):
        shutil.copyfile(source, unfinished)
        unfinished.replace(target)


def about(task: Task) -> About:
    """Return what the live view needs to know of a run."""
    config = task.config.to_json()
    return About(
        model=task.config.model,
        asked=Asked(config, has_setup=task.build is None, runs_after=task.runs_after),
        past=past_run(task.dataset, config),
        run=(task.run, task.runs) if task.runs > 1 else None,
        whole=Whole.from_environment(os.environ),
    )


@contextlib.contextmanager
def supervised(
    directory: Path, task: Task, progress: Progress, stop: StopFlag
) -> Iterator[tuple[Supervisor, Watch]]:
    """A supervisor whose children all end with the context, and the parent's eyes on the run."""
    live = LiveRun(directory, progress, about(task), time.monotonic_ns())
    watch = Watch(directory, progress, live)
    supervisor = Supervisor(stop, watch.tick, smaller_setting(task.config))
    try:
        yield supervisor, watch
    finally:
        supervisor.stop_all()
        watch.close()


def measure(task: Task, directory: Path, progress: Progress, stop: StopFlag) -> Measured:
    """Measure one run into its working directory.

    Args:
        task: What to measure.
        directory: The run's `.partial` directory, with `request.json` in it.
        progress: What the user sees meanwhile.
        stop: Raised flag ends everything.

    Raises:
        EdgejouleError: A child failed, died or was killed, or the user wants to end. Nothing
            already written is lost and no child is left.
    """
    config = task.config
    anchor = {"monotonic_ns": time.monotonic_ns(), "wall_ns": time.time_ns()}
    with (
        contextlib.closing(PhaseBoard(directory / "page.bin", directory / "phases.jsonl")) as board,
        supervised(directory, task, progress, stop) as (supervisor, watch),
    ):
        board.mark("setup")
        for phase in BASELINE_PHASES:
            watch.expect(phase, config.idle_duration_s)
        if task.build is None:
            setup = set_up(task, directory, supervisor)
        else:
            setup = adopt_build(task.build, directory)
        watch.see_weights(str(setup.get("weights")))
        if task.save_engine is not None:
            save_engine(directory, task.save_engine)
        gpu = _see_gpu(task, watch)
        sampler, ready = _start_power(task, directory, supervisor, watch, anchor)
        board.mark("idle_before")
        supervisor.wait(config.idle_duration_s)
        before = watch.level()
        child = start_child(
            "measuring process",
            "edgejoule.inference.measure_process",
            measure_settings(config, directory, ready),
            directory / "run.log",
        )
        watch.follow("measuring", child.process.pid)
        measured = supervisor.run_to_end(supervisor.add(child), watch.on_message)
        watch.forget("measuring")
        board.mark("cooldown")
        longest_s = min(_COOL_DOWN_LONGEST_S, _COOL_DOWN_SHARE * config.idle_duration_s)
        cooldown = cool_down(before, watch.level, supervisor.wait, longest_s)
        board.mark("idle_after")
        supervisor.wait(config.idle_duration_s)
        board.mark("end")
        if gpu is not None:
            gpu.after = gpu.look()
        if sampler is not None:
            supervisor.finish(sampler, _SAMPLED_LATER_NS)
            for simulator in list(supervisor.children):
                supervisor.end(simulator)
    report = next((m for m in sampler.received if m["kind"] == "done"), None) if sampler else None
    shared = None if gpu is None else gpu.shared()
    sharing = None if gpu is None else gpu.to_json()
    return Measured(setup, measured, report, cooldown, anchor, shared, sharing)


def _see_gpu(task: Task, watch: Watch) -> GpuWatch | None:
    """Look at the GPU that is measured, before any process of ours is on it; None: there is none.

    A GPU whose driver has no NVML (Jetson) is watched through sysfs as the rest of the board.
    """
    if task.where.gpu_uuid is None or not task.config.device.startswith("cuda"):
        return None
    from edgejoule.gpu_watch import open_gpu_watch

    try:
        gpu = open_gpu_watch(task.where.gpu_uuid)
    except EdgejouleError:
        return None
    gpu.before = gpu.look()
    watch.see_gpu(gpu)
    return gpu


def _start_power(
    task: Task,
    directory: Path,
    supervisor: Supervisor,
    watch: Watch,
    anchor: dict[str, int],
) -> tuple[Any, dict[str, Any] | None]:
    """Start simulator and sampler as the configuration asks.

    Returns:
        The sampler and what it said when it was ready; None and None without a sensor.
    """
    from edgejoule.power.acquire import start_sampler, start_simulator

    if task.config.sensor == "none":
        watch.board_is_there(task.where.sysfs_root, has_power=False)
        return None, None
    sysfs_root = task.where.sysfs_root
    if task.config.sensor == "simulated":
        supervisor.add(start_simulator(directory, seed=task.config.seed))
        sysfs_root = str(directory / "sysfs")
    sampler, ready = start_sampler(
        task.config.sensor,
        directory,
        task.where,
        anchor,
        attribution=attribution_rate(task.config),
        pause_phases=("unsampled",),
    )
    supervisor.add(sampler)
    watch.follow("sampler", sampler.process.pid)
    watch.board_is_there(sysfs_root, has_power=True)
    return sampler, ready


def request_of(task: Task, machine: dict[str, Any]) -> dict[str, Any]:
    """Return what `request.json` holds: all that closing or recovering the run needs to know."""
    return {
        "name": task.name,
        "config": task.config.to_json(),
        "config_sha256": identity_sha256(task.config),
        "machine": machine,
        "command": list(task.command),
        "why": task.why,
        "overwrite": task.overwrite,
    }
