"""From a command line to runs: order the repeats, build, measure, close.

`resolving` has found before what a user can get wrong.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
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
from edgejoule.errors import EXIT_USAGE, EdgejouleError, UsageError
from edgejoule.experiment import Task, measure, request_of, save_engine, set_up, supervised
from edgejoule.phases import PhaseBoard
from edgejoule.power.sensor import Where
from edgejoule.resolving import resolve
from edgejoule.supervision import StopFlag, stop_on_signals

if TYPE_CHECKING:
    import argparse

    from edgejoule.report.progress import Progress


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
        energy = () if config.sensor == "none" else (f"energy of layers: {why['energy']}",)
        for text in (*why["backend"], f"sensor: {why['sensor']}", *energy):
            progress.line(text)
        if args.setup_only:
            build_once(config, args, build, timing_cache(args.result_dir), progress, stop)
            if args.save_engine is not None:
                save_engine(build, args.save_engine)
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
            for number, one in enumerate(runs, 1):
                name = name_of(args, resolved.model, one)
                if not still_to_do(args.result_dir, name, one, overwrite=args.overwrite):
                    if args.save_engine is not None and not args.save_engine.exists():
                        raise UsageError(
                            f"{args.result_dir / name} is complete: no engine was built to keep",
                            "use --overwrite, or --setup-only with --save-engine",
                        )
                    progress.line(f"{args.result_dir / name} is complete: nothing to do")
                    _show(args, args.result_dir / name)
                    continue
                where = builds.get(one.rebuild)
                if where is not None and not args.skip_setup and not where.exists():
                    cache = timing_cache(args.result_dir)
                    build_once(one, args, where, cache, progress, stop)
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
                    calibration_cache=args.calibration_cache,
                    cache=timing_cache(args.result_dir),
                    save_engine=args.save_engine,
                    run=number,
                    runs=len(runs),
                    runs_after=sum(_is_due(args, resolved.model, later) for later in runs[number:]),
                )
                wait_until_idle(args, resolved.where, progress, stop)
                _show(args, run_task(task, resolved.machine, progress, stop))
        if len(runs) > 1:
            _show_repeats(args, [name_of(args, resolved.model, one) for one in runs])
    return 0


def _is_due(args: argparse.Namespace, model: str, config: RunConfig) -> bool:
    """Whether a run is still to be measured, without a look at what is there."""
    run = args.result_dir / name_of(args, model, config) / "run.json"
    return args.overwrite or not run.exists()


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


def timing_cache(folder: Path) -> Path:
    """Return where the builds below a folder keep what TensorRT measured of its kernels.

    One for all builds of a dataset, so that they choose alike; git, DVC and `recover` leave it.
    """
    from edgejoule.dataset.run_directory import PARTIAL

    return (folder / PARTIAL / ".timing").absolute()


def build_once(
    config: RunConfig,
    args: argparse.Namespace,
    directory: Path,
    cache: Path,
    progress: Progress,
    stop: StopFlag,
) -> dict[str, Any]:
    """Run the set-up alone into `directory`, which is made anew."""
    import shutil

    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    task = Task(
        config=config,
        name="build",
        dataset=directory,
        loader=args.loader,
        calibration_cache=args.calibration_cache,
        cache=cache,
    )
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


def _show_repeats(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Print what the repeats say together: mean, interval over processes and builds, verdict."""
    if args.json or args.quiet:
        return
    from edgejoule.report.repeats import repeats_text
    from edgejoule.report.tables import load_run

    print(repeats_text([load_run(args.result_dir / name) for name in sorted(names)]))


def _show(args: argparse.Namespace, run: Path) -> None:
    """Print what a finished run says: the summary as JSON, or tables."""
    if args.json:
        text = (run / "run.json").read_text(encoding="utf-8")
        print(json.dumps({"run": str(run), "summary": json.loads(text)["summary"]}, indent=2))
    elif not args.quiet:
        from edgejoule.report.tables import load_run
        from edgejoule.report.terminal import print_run

        print_run(load_run(run))
