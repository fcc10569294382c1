"""From a command line to runs: resolve what `auto` means, order the repeats, measure, close.

Everything a user can get wrong is found here, before the first process starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.config import (
    RunConfig,
    build_sha256,
    check_name,
    defaults_of,
    differences,
    identity_sha256,
    run_name,
)
from edgejoule.describing import described
from edgejoule.errors import EXIT_USAGE, EdgejouleError, UsageError
from edgejoule.experiment import Task, measure, request_of, set_up, supervised
from edgejoule.files import sha256_of
from edgejoule.phases import PhaseBoard
from edgejoule.power.sensor import Where
from edgejoule.supervision import StopFlag, stop_on_signals

if TYPE_CHECKING:
    import argparse

    from edgejoule.inference.workload import ModelFacts
    from edgejoule.power.gpus import Gpu
    from edgejoule.report.progress import Progress

_TENSORRT_ONLY = {
    "optimization_level": "--optimization-level",
    "min_block_size": "--min-block-size",
}


def describe_model(loader: str, spec: str) -> ModelFacts:
    """Ask the loader's package what it knows of a model, without a framework or the token.

    Raises:
        UsageError: Unknown model, missing file, or no such package.
    """
    return described(f"{loader.partition(':')[0]}:describe", [spec])[0]


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What a command line comes to, nothing `auto` any more.

    Attributes:
        config: The configuration.
        model: The model's name.
        machine: What `describe_machine` says.
        why: Why backend and sensor were chosen.
        where: Where the sensor is.
    """

    config: RunConfig
    model: str
    machine: dict[str, Any]
    why: dict[str, Any]
    where: Where


def resolve(args: argparse.Namespace) -> Resolved:
    """Resolve what `auto` means.

    Raises:
        UsageError: Something asked for is not here or does not fit.
    """
    from edgejoule.inference.backends import choose_backend, resolve_device, resolve_dtype
    from edgejoule.machine import describe_machine
    from edgejoule.power.sensors import board_channels, choose_sensor

    facts = describe_model(args.loader, args.model)
    backend, why_backend = choose_backend(args.backend, facts.forms)
    gpu = named_gpu(args.device)
    device = resolve_device(backend, args.device if gpu is None else gpu.device)
    dtype = resolve_dtype(backend, device, args.dtype)
    where = Where(args.sysfs_root, gpu_uuid(device, gpu))
    sensor = choose_sensor(args.sensor, where, device)
    # The board's own rails, whichever sensor was asked for: a board keeps its name.
    machine = describe_machine(args.sysfs_root, channels=board_channels(where))
    extra = {
        name: getattr(args, name) for name in _TENSORRT_ONLY if getattr(args, name) is not None
    }
    for name in extra:
        if "tensorrt" not in backend.name:
            raise UsageError(
                f"the backend {backend.name} knows no {_TENSORRT_ONLY[name]}", "leave it out"
            )
    config = RunConfig(
        model=args.model,
        backend=backend.name,
        dtype=dtype,
        device=device,
        input_shape=tuple(args.input_shape) if args.input_shape else facts.input_shape,
        input=args.input,
        input_sha256=hash_of_files(args.input),
        weights=args.weights,
        model_sha256=facts.sha256,
        seed=args.seed,
        warmup=args.warmup,
        runs=args.runs,
        clean_runs=args.clean_runs,
        clean_seconds=args.clean_seconds,
        precision_percent=args.precision,
        rate_hz=args.rate_hz,
        idle_duration_s=args.idle_duration,
        sensor=sensor.name,
        threads=args.threads,
        mode=machine.get("power_mode"),
        board=machine.get("board_id"),
        extra=extra,
    )
    why = {"backend": list(why_backend), "sensor": sensor.why}
    return Resolved(config, facts.name, machine, why, where)


def named_gpu(asked: str | None) -> Gpu | None:
    """Return the GPU that `--device` names by UUID or PCI address; None: it names it otherwise."""
    if asked is None or asked == "auto" or re.fullmatch(r"cpu|cuda(:\d+)?|\d+", asked):
        return None
    from edgejoule.power.gpu_choice import find_gpu

    return find_gpu(asked)


def gpu_uuid(device: str, gpu: Gpu | None) -> str | None:
    """Return what NVML calls the GPU that is measured, None for a CPU or a GPU that NVML has not.

    CUDA and NVML count differently, so that an ordinal is turned into a UUID by asking CUDA.
    """
    if not device.startswith("cuda"):
        return None
    if gpu is None:
        from edgejoule.power.gpu_choice import find_gpu

        try:
            gpu = find_gpu(device)
        except UsageError:
            return None  # the framework's own list counts; without a UUID NVML is not used
    return gpu.uuid


def hash_of_files(kind: str) -> str | None:
    """Return the SHA-256 over the names and bytes of `--input`'s files, None for generated input.

    A path that is not there is found out, and said, when the inputs are made.
    """
    path = Path(kind)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    found = False
    for file in files:
        if file.is_file():
            found = True
            digest.update(file.name.encode() + b"\0" + sha256_of(file).encode())
    return digest.hexdigest() if found else None


def plan_repeats(config: RunConfig, repeats: int, rebuilds: int) -> list[RunConfig]:
    """Return one configuration per run, in an order drawn from the seed.

    With N repeats and M rebuilds there are N x M runs, `-r1` to `-r<N*M>`; their order over
    builds is random, so that a drift of the board does not look like a difference of builds.
    """
    if repeats * rebuilds == 1:
        return [config]
    runs = [
        dataclasses.replace(config, repeat=build * repeats + repeat + 1, rebuild=build)
        for build in range(rebuilds)
        for repeat in range(repeats)
    ]
    random.Random(config.seed).shuffle(runs)  # noqa: S311 (an order, not a secret)
    return runs


def still_to_do(dataset: Path, name: str, config: RunConfig, *, overwrite: bool) -> bool:
    """Whether a run is missing; a finished one of another configuration is an error.

    Raises:
        UsageError: A run of this name exists and differs; names the knobs.
    """
    from edgejoule.dataset.run_directory import existing_run

    old = existing_run(dataset, name)
    if old is None or overwrite:
        return True
    if old.get("config_sha256") == identity_sha256(config) and old.get("status") == "complete":
        return False
    knobs = differences(old.get("config", {}), config.to_json())
    what = ", ".join(knobs) if knobs else f"its status is {old.get('status')!r}"
    raise UsageError(
        f"{dataset / name} exists with another configuration: {what}",
        "use --overwrite to replace it or --run-name for another name",
    )


def measure_all(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Do what `measure_inference_power.py` was asked to do; return its exit code."""
    from edgejoule.dataset.builds import shared_builds
    from edgejoule.dataset.run_directory import check_result_folder
    from edgejoule.report.progress import Progress

    resolved = resolve(args)
    config, why = resolved.config, resolved.why
    command = ("measure_inference_power.py", *arguments)
    build = args.artefacts or default_artefacts(config)
    with stop_on_signals() as stop, Progress(quiet=args.quiet) as progress:
        for text in (*why["backend"], f"sensor: {why['sensor']}"):
            progress.line(text)
        if args.setup_only:
            build_once(config, args.loader, build, progress, stop)
            print(build)
            return 0
        check_result_folder(args.result_dir)
        runs = plan_repeats(config, args.repeats, args.rebuilds)
        with contextlib.ExitStack() as stack:
            builds: dict[int, Path] = {0: build} if args.skip_setup else {}
            if len(runs) > 1 and not args.skip_setup:
                folder = stack.enter_context(shared_builds(args.result_dir))
                for number in range(args.rebuilds):
                    builds[number] = folder / f"build-{number}"
            for one in runs:
                name = name_of(args, resolved.model, one)
                if not still_to_do(args.result_dir, name, one, overwrite=args.overwrite):
                    progress.line(f"{args.result_dir / name} is complete: nothing to do")
                    _show(args, args.result_dir / name)
                    continue
                where = builds.get(one.rebuild)
                if where is not None and not args.skip_setup and not where.exists():
                    build_once(one, args.loader, where, progress, stop)
                task = Task(
                    config=one,
                    name=name,
                    dataset=args.result_dir,
                    loader=args.loader,
                    build=where,
                    overwrite=args.overwrite,
                    where=resolved.where,
                    command=command,
                    why=why,
                )
                wait_until_idle(args, resolved.where, progress, stop)
                _show(args, run_task(task, resolved.machine, progress, stop))
    return 0


def wait_until_idle(
    args: argparse.Namespace, where: Where, progress: Progress, stop: StopFlag
) -> None:
    """Wait until nobody uses the GPU, as `--wait-idle` asks.

    Raises:
        MeasurementError: Somebody still does after that time, or it cannot be told.
        UsageError: No GPU is measured that could be watched.
    """
    if args.wait_idle is None:
        return
    if where.gpu_uuid is None:
        raise UsageError("--wait-idle watches an NVIDIA GPU, and none is measured", "leave it out")
    from edgejoule.gpu_watch import open_gpu_watch
    from edgejoule.power.gpu_sharing import wait_idle

    def wait(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(0.25, left))
            stop.check()
            progress.update("waiting for an idle GPU", 0)

    with contextlib.closing(open_gpu_watch(where.gpu_uuid)) as gpu:
        waited = wait_idle(gpu.look, wait, args.wait_idle, time.monotonic)
    progress.line(f"the GPU is idle, after {waited.seconds:.0f} s")


def name_of(args: argparse.Namespace, model: str, config: RunConfig) -> str:
    """Return the run's name: the user's, or the model's with what differs from the defaults."""
    from edgejoule.dataset.run_directory import read_defaults

    if args.run_name:
        suffix = f"-r{config.repeat}" if config.repeat else ""
        return check_name(args.run_name + suffix)
    return run_name(model, config, read_defaults(args.result_dir) or defaults_of(config))


def default_artefacts(config: RunConfig) -> Path:
    """Return where `--setup-only` keeps a build: the user's cache, by what it was built from."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "edgejoule" / "artefacts" / build_sha256(config)[:16]


def build_once(
    config: RunConfig, loader: str, directory: Path, progress: Progress, stop: StopFlag
) -> dict[str, Any]:
    """Run the set-up alone into `directory`, which is made anew."""
    import shutil

    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    task = Task(config=config, name="build", dataset=directory, loader=loader)
    board = PhaseBoard(directory / "page.bin", directory / "phases.jsonl")
    try:
        board.mark("setup")
        with supervised(directory, task, progress, stop) as (supervisor, _):
            return set_up(task, directory, supervisor)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    finally:
        board.close()


def run_task(task: Task, machine: dict[str, Any], progress: Progress, stop: StopFlag) -> Path:
    """Measure one run and bring it into the dataset; return its directory.

    Raises:
        EdgejouleError: With what was measured kept in `.partial`, and named.
    """
    from edgejoule.closing import close_run
    from edgejoule.dataset.run_directory import create_partial

    started = time.time()
    partial = create_partial(task.dataset, task.name, request_of(task, machine))
    try:
        measured = measure(task, partial, progress, stop)
        progress.line("closing: converting, hashing, checking")
        return close_run(partial, task, measured, machine, started)
    except EdgejouleError as error:
        kept = _keep_or_drop(partial, error)
        mend = ". ".join(part for part in (error.mend, kept) if part)
        raise EdgejouleError(f"{task.name}: {error.message}", mend, error.exit_code) from error
    except OSError as error:
        kept = _keep_or_drop(partial, error)
        what = f"{task.name}: {error.strerror or error} ({error.filename or partial})"
        raise EdgejouleError(what, f"free some space or mend the disk. {kept}") from error


def _keep_or_drop(partial: Path, error: Exception) -> str:
    """Drop the directory of a user's mistake; say how to read what another failure left."""
    import shutil

    if (partial / "inferences.bin").exists() or (partial / "inferences.parquet").exists():
        return f"what was measured stays: data_version.py recover {partial.parent.parent}"
    if isinstance(error, EdgejouleError) and error.exit_code == EXIT_USAGE:
        shutil.rmtree(partial, ignore_errors=True)
        return ""
    return f"the log is {partial / 'run.log'}"


def _show(args: argparse.Namespace, run: Path) -> None:
    """Print what a finished run says: the summary as JSON, or tables."""
    if args.json:
        text = (run / "run.json").read_text(encoding="utf-8")
        print(json.dumps({"run": str(run), "summary": json.loads(text)["summary"]}, indent=2))
    elif not args.quiet:
        from edgejoule.report.tables import load_run
        from edgejoule.report.terminal import print_run

        print_run(load_run(run))
