"""The measuring process: a fresh interpreter that loads the engine and runs the passes.

    python -m edgejoule.inference.measure_process    (started by `processes.start_child`)

    load | idle_loaded_before | warmup | clean | rate | observed, unsampled, observed, ... |
    harvest, profiled, harvest, ... | replay | idle_loaded_after | unload

Config: `directory`, `model` (for messages), `backend`, `options` (fields of `BuildOptions`),
`warmup`, `warmup_max_s` (20), `runs`, `clean_runs` (None: as long as it takes), `clean_min_s`
(30), `clean_max_s` (300), `clean_max_runs` (2000), `precision_percent` (None), `rate_hz` (None),
`rate_s` (10), `idle_duration_s`, `chunk_inferences` (None: the profiler's bound), `keep_off_cpu`
(None: all CPUs), `dither` (False: inferences of the profiled pass follow each other at once),
`observer_s` (0: what measuring costs is not measured), `replay_budget_s` (None: no replay pass),
`replay_segment_s` (1), `check_attribution` (None: no duplication check), `seed` (0).
Messages: `pass` {name, inferences or None, estimate_s} before each pass; `done` with what
`measure.json` holds. Every inference goes to `inferences.bin`, every layer to `layers.bin`.
"""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import EdgejouleError, MeasurementError
from edgejoule.inference import passes
from edgejoule.inference.backend import BuildOptions, Profiler, Session
from edgejoule.inference.backends import get_backend
from edgejoule.inference.common import (
    DISK_FULL,
    disk_full_error,
    model_error,
    peak_rss_mib,
    write_json,
)
from edgejoule.inference.inputs import load_inputs
from edgejoule.inference.memory_limit import limit_host
from edgejoule.inference.observer_pass import observer_pass
from edgejoule.inference.rate_pass import rate_pass
from edgejoule.inference.replay_pass import run_replay
from edgejoule.inference.roofline import measure_roofline, not_measured
from edgejoule.inference.warmup import SteadyState
from edgejoule.phases import PhaseBoard
from edgejoule.power.scheduling import keep_off
from edgejoule.processes import Parent, child_main
from edgejoule.records import INFERENCES, LAYERS, PASSES, RecordWriter

if TYPE_CHECKING:
    import numpy as np

_ROOFLINE_FROM_S = 10.0


def measure(config: dict[str, Any], parent: Parent) -> None:
    """Run all phases of process one and report.

    Raises:
        MeasurementError: The profiler lost inferences or layers (after all is written), the
            model raises, or no memory or disk is left.
        Interrupted: The parent is gone or asked to stop.
    """
    directory = Path(config["directory"])
    cpu = config.get("keep_off_cpu")
    # Before the backend is loaded: threads inherit it.
    kept_off = cpu is not None and keep_off(cpu)
    model = str(config.get("model") or "")
    board = PhaseBoard(directory / "page.bin", directory / "phases.jsonl")
    board.mark("load")
    inferences = RecordWriter(
        directory / "inferences.bin",
        INFERENCES,
        {"passes": list(PASSES), "clock": "CLOCK_MONOTONIC"},
    )
    layers = RecordWriter(directory / "layers.bin", LAYERS, {"clock": "CLOCK_MONOTONIC"})
    try:
        report = {"kept_off_cpu": cpu if kept_off else None}
        _measure(config, directory, board, inferences, layers, parent, report)
    except EdgejouleError:
        raise
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full_error(error, directory) from error
        raise
    except Exception as error:
        raise model_error(model, "failed while measured", error, MeasurementError) from error
    finally:
        gc.enable()
        board.close()
        _close_all((inferences, layers))


def _measure(
    config: dict[str, Any],
    directory: Path,
    board: PhaseBoard,
    inferences: RecordWriter,
    layers: RecordWriter,
    parent: Parent,
    report: dict[str, Any],
) -> None:
    started_ns = time.monotonic_ns()
    engine = json.loads((directory / "engine.json").read_text(encoding="utf-8"))
    options = BuildOptions(**config["options"])
    session = get_backend(config["backend"]).open(directory / "artefacts", options)
    sets = load_inputs(directory / "artefacts" / "inputs.npz")
    session.bind(sets)
    outputs = describe_outputs(session.outputs(0))
    runner = passes.Runner(board, inferences, parent, len(sets))
    report |= {
        "load_s": round((time.monotonic_ns() - started_ns) / 1e9, 3),
        "outputs": outputs,
        "input_sets": len(sets),
        "garbage_collector": "frozen and off during the passes",
    }
    idle_ns = round(float(config.get("idle_duration_s") or 0.0) * 1e9)

    runner.sleep_until(board.mark("idle_loaded_before") + idle_ns)
    # A collection in mid-pass would be a latency of Python, not of the model.
    gc.collect()
    gc.freeze()
    gc.disable()
    count = len(engine["layers"])
    profiled = _run_passes(config, directory, session, runner, layers, parent, report, count)
    profiler = report.pop("_profiler")
    # Before anything that takes memory of its own: they are of the network.
    report["settings"] = session.settings()
    if options.memory_limit_gib is not None:  # a backend without a say of its own is watched only
        report["settings"].setdefault("memory_limit", limit_host(options).to_json())
    report["peak_rss_mib"] = peak_rss_mib()
    times = () if profiled is None else profiled.layer_ms
    say = _announcer(parent)
    report["replay"] = run_replay(config, directory, session, runner, times, say)
    report["roofline"] = _roofline(config, options, runner, report)
    gc.enable()
    gc.collect()
    runner.sleep_until(board.mark("idle_loaded_after") + idle_ns)

    board.mark("unload")
    if profiler is not None:
        profiler.close()
    session.close()
    inferences.close()
    layers.close()
    write_json(directory / "measure.json", report)
    if profiled is not None:
        passes.require_whole(profiled)
    parent.say("done", **report)


def _run_passes(
    config: dict[str, Any],
    directory: Path,
    session: Session,
    runner: passes.Runner,
    layers: RecordWriter,
    parent: Parent,
    report: dict[str, Any],
    layer_count: int,
) -> passes.ProfiledResult | None:
    """Run warm-up, clean, rate and profiled pass as asked; their results go into `report`."""
    say = _announcer(parent)
    warmup, runs = int(config["warmup"]), int(config["runs"])
    seed = int(config.get("seed") or 0)
    clean_runs = config.get("clean_runs")
    rate_hz = config.get("rate_hz")

    say("warmup", None, 0.0)
    runner.board.mark("warmup")
    steady = SteadyState(warmup, most_s=float(config.get("warmup_max_s", 20.0)))
    verdict = passes.warm_up(runner, session.infer, steady)
    report["warmup"] = verdict.to_json()
    latency_s = verdict.median_ms / 1e3

    min_s = float(config.get("clean_min_s", 30.0))
    say("clean", clean_runs, min_s if clean_runs is None else clean_runs * latency_s)
    runner.board.mark("clean")
    clean = passes.clean_pass(
        runner,
        session.infer,
        runs=clean_runs,
        min_s=min_s,
        max_runs=int(config.get("clean_max_runs", 2000)),
        max_s=float(config.get("clean_max_s", 300.0)),
        precision_percent=config.get("precision_percent"),
    )
    report["clean"] = clean.to_json()

    report["rate"] = None
    if rate_hz:
        rate_s = float(config.get("rate_s", 10.0))
        say("rate", max(1, round(float(rate_hz) * rate_s)), rate_s)
        runner.board.mark("rate")
        rate = rate_pass(runner, session.infer, rate_hz=float(rate_hz), seconds=rate_s)
        report["rate"] = rate.to_json()

    report["profiled"] = None
    report["_profiler"] = None
    profiler = None
    if runs > 0:
        profiler = session.profiler()
        # Kept open: the engine has to stay loaded while the idle power after it is measured.
        report["_profiler"] = profiler
    report["observer"] = _observe(config, directory, session, profiler, runner, clean, say)
    if profiler is None:
        return None
    say("profiled", runs, runs * clean.mean_ms / 1e3)
    profiled = passes.profiled_pass(
        runner,
        profiler,
        layers,
        runs=runs,
        layers=layer_count,
        chunk_limit=config.get("chunk_inferences"),
        dither=passes.Dither(runner, clean.median_ms, seed) if config.get("dither") else None,
    )
    report["profiled"] = profiled.to_json()
    return profiled


def _observe(
    config: dict[str, Any],
    directory: Path,
    session: Session,
    profiler: Profiler | None,
    runner: passes.Runner,
    clean: passes.CleanResult,
    say: Callable[[str, int | None, float], None],
) -> dict[str, Any] | None:
    """Run the observer pass if one is asked for; return what goes into the report."""
    most_s = float(config.get("observer_s") or 0.0)
    if most_s <= 0:
        return None
    return observer_pass(
        runner,
        session.infer,
        profiler,
        clean=clean,
        most_s=most_s,
        sampled=(directory / "power.bin").exists(),
        seed=int(config.get("seed") or 0),
        say=lambda seconds: say("observed", None, seconds),
    ).to_json()


def _roofline(
    config: dict[str, Any], options: BuildOptions, runner: passes.Runner, report: dict[str, Any]
) -> dict[str, Any]:
    """Measure what the device can do at most, where the passes were long enough to care."""
    passed_s = sum((report[name] or {}).get("seconds", 0.0) for name in ("clean", "profiled"))
    if passed_s < _ROOFLINE_FROM_S:
        why = f"the passes took {passed_s:.2g} s, no longer than measuring the roofline would"
        return not_measured(why, options.dtype)
    runner.board.mark("harvest")
    return measure_roofline(config["backend"], options.device, options.dtype, options.threads)


def _announcer(parent: Parent) -> Callable[[str, int | None, float], None]:
    def say(name: str, inferences: int | None, estimate_s: float) -> None:
        parent.say("pass", name=name, inferences=inferences, estimate_s=round(estimate_s, 1))

    return say


def describe_outputs(outputs: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return shapes, whether all values are finite, and the SHA-256 of the values."""
    import numpy as np

    digest = hashlib.sha256()
    for array in outputs:
        digest.update(f"{array.dtype.str}:{array.shape};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return {
        "finite": all(bool(np.isfinite(array).all()) for array in outputs),
        "sha256": digest.hexdigest(),
        "shapes": [list(array.shape) for array in outputs],
    }


def _close_all(writers: Sequence[RecordWriter]) -> None:
    """Close every file, also when a full disk refuses the last rows of one."""
    refused: OSError | None = None
    for writer in writers:
        try:
            writer.close()
        except OSError as error:
            refused = error
    if refused is not None and refused.errno not in DISK_FULL:
        raise refused


if __name__ == "__main__":
    child_main(measure)
