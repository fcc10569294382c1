"""`measure_power.py trtexec`: time and energy of a model where only `trtexec` runs (JetPack 4, 5).

    build | idle | clean: no profiler, power recorded | profiled: layers' means | result

The energy of an inference is the mean power inside the timed part of the clean pass times its
length over its inferences. The layers come from an invocation of their own.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.cli.power_options import add_sensor_options, put_back_left_over, where_of
from edgejoule.errors import EdgejouleError, MeasurementError, UsageError

if TYPE_CHECKING:
    from edgejoule.power.sensor import Where
    from edgejoule.supervision import StopFlag, Supervisor
    from edgejoule.trtexec_energy import Clean, TimedPart

    Run = Callable[..., list[TimedPart]]

_IDLE_S = 5.0
_PROFILED_S = 3.0
_SHOWN = 10


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb `trtexec`."""
    parser = verbs.add_parser(
        "trtexec",
        help="time and energy of a model where only TensorRT's own trtexec runs (JetPack 4, 5)",
        description="""Build with trtexec, measure inferences without a profiler while power is
recorded, then the layers in an invocation of its own. trtexec gives means and medians of layers
only, so no layer gets an interval; where TensorRT's Python binding works,
measure_inference_power.py gives each layer of each inference instead.

trtexec keeps the next inference queued while one runs, so its period is throughput and its power
that of a GPU that never waits; measure_inference_power.py waits for each inference.
With --device, trtexec sees that GPU only (CUDA_VISIBLE_DEVICES), the one whose power is read.
TensorRT 7 attaches its profiler to every pass and is refused.""",
        epilog="""examples:
  measure_power.py trtexec --onnx resnet18.onnx --dtype float16 --output resnet18-trtexec
  measure_power.py trtexec --engine resnet18.plan --duration 60 --output out""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--onnx", type=Path, metavar="FILE", help="model to build an engine from")
    which.add_argument("--engine", type=Path, metavar="FILE", help="finished plan, or .ejplan")
    parser.add_argument(
        "--dtype",
        default="float16",
        metavar="TYPE",
        help="float32, tf32, float16, bfloat16 (default: %(default)s)",
    )
    parser.add_argument(
        "--duration",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds of the clean pass (default: %(default)s)",
    )
    parser.add_argument(
        "--copies",
        action="store_true",
        help="count the copies of inputs and outputs as well (default: not, where this trtexec "
        "can leave them out)",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="new folder for all that is left"
    )
    parser.add_argument("--trtexec", type=Path, metavar="PATH", help="the program (default: found)")
    add_sensor_options(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace) -> int:
    """Build, record, profile, write, print."""
    output: Path = arguments.output
    try:
        result = _all(arguments, output)
    except EdgejouleError as error:
        _say_what_is_kept(error, output)
        raise
    print(result_text(result))
    print(f"written: {output}")
    return 0


def _say_what_is_kept(error: EdgejouleError, output: Path) -> None:
    """Make an error's mend fit this command, and name the power that was recorded so far."""
    power_bin = output / "power" / "power.bin"
    error.mend = error.mend.replace("--result-dir", "--output")
    if power_bin.is_file() and power_bin.stat().st_size:
        kept = f"measure_power.py convert {power_bin} --output trace.parquet"
        error.mend = "; ".join(
            filter(None, (error.mend, f"power that was recorded is kept: {kept}"))
        )


def _all(arguments: argparse.Namespace, output: Path) -> dict[str, Any]:
    from edgejoule.files import disk_errors, write_json
    from edgejoule.power.sensors import choose_sensor
    from edgejoule.report.progress import Progress
    from edgejoule.supervision import stop_on_signals
    from edgejoule.trtexec import check_profiler, find_trtexec, known_options
    from edgejoule.trtexec_energy import run_program

    _check(arguments)
    program = find_trtexec(arguments.trtexec)
    plan = None if arguments.engine is None else _plan_to_write(arguments.engine)
    put_back_left_over(arguments.sysfs_root)
    where = where_of(arguments)
    choice = choose_sensor(arguments.sensor, where)
    with disk_errors(output.parent):
        output.mkdir()
    with stop_on_signals() as stop, Progress(arguments.quiet) as progress:
        gpu_uuid = None if arguments.device is None else where.gpu_uuid
        start = functools.partial(run_program, program, stop=stop, gpu_uuid=gpu_uuid)
        start(["--help"], output / "help.log")
        known = known_options((output / "help.log").read_text(encoding="utf-8", errors="replace"))
        if "exportProfile" not in known:
            raise UsageError(f"{program} does not name --exportProfile", "is it trtexec?")
        check_profiler(program, known)
        engine, workspace = arguments.engine, None
        if engine is None:
            progress.line(f"building with {program}: {output / 'build.log'} grows")
            engine, workspace = _build(start, arguments, known)
        elif plan is not None:
            engine = output / "model.plan"
            with disk_errors(output):
                engine.write_bytes(plan)
            plan = None
        progress.line(f"sensor: {choice.why}")
        measured = _measure(start, engine, arguments, known, choice.name, where, progress, stop)
    result = {"program": str(program), "workspace_mib": workspace, **measured}
    with disk_errors(output):
        write_json(output / "trtexec.json", result)
    return result


def _plan_to_write(engine: Path) -> bytes | None:
    """Return the plan behind a header that trtexec does not know; None: the file is a plain plan.

    Raises:
        UsageError: It is no engine, and what it is.
    """
    from edgejoule.inference.trt.engine_file import read_engine_file

    file = read_engine_file(engine)
    return None if file.header == "none" else file.plan


def _check(arguments: argparse.Namespace) -> None:
    for flag in ("onnx", "engine"):
        file = getattr(arguments, flag)
        if file is not None and not file.is_file():
            raise UsageError(f"--{flag} {file}: there is no such file")
    if not 1 <= arguments.duration < float("inf"):
        raise UsageError(f"--duration {arguments.duration:g}", "give 1 second or more")
    if arguments.output.exists():
        raise UsageError(f"{arguments.output} is there already", "give another --output")
    if not arguments.output.parent.is_dir():
        raise UsageError(f"there is no folder {arguments.output.parent}", "make it first")


def _build(
    start: Run, arguments: argparse.Namespace, known: frozenset[str]
) -> tuple[Path, int | None]:
    """Return the engine that was built, and the workspace in MiB that was given."""
    from edgejoule.trtexec import build_words, workspace_mib

    output: Path = arguments.output
    engine = output / "model.plan"
    workspace = workspace_mib(known)
    words = build_words(
        arguments.onnx, engine, arguments.dtype, known, output / "layers.json", workspace
    )
    start(words, output / "build.log")
    if not engine.is_file():
        raise MeasurementError("trtexec built no engine", f"look at {output / 'build.log'}")
    return engine, workspace


def _measure(
    start: Run,
    engine: Path,
    arguments: argparse.Namespace,
    known: frozenset[str],
    sensor: str,
    where: Where,
    progress: Any,
    stop: StopFlag,
) -> dict[str, Any]:
    """Run both passes and return what `trtexec.json` holds."""
    from edgejoule.cli.power_convert import write_table
    from edgejoule.files import disk_errors, sha256_of
    from edgejoule.trtexec import (
        LIMITS,
        clean_words,
        profiled_words,
        read_profile,
        read_times,
        version_in,
    )
    from edgejoule.trtexec_energy import clean_energy

    output: Path = arguments.output
    words = clean_words(
        engine, arguments.duration, output / "times.json", known, copies=arguments.copies
    )
    progress.line(f"clean pass: {arguments.duration:g} s")
    clean = _clean_pass(start, words, output, sensor, where, stop)
    progress.line("profiled pass")
    words = profiled_words(engine, _PROFILED_S, output / "profile.json", known)
    start(words, output / "profiled.log")
    # Nothing below runs a program: numpy and pyarrow, with threads of theirs, are loaded here.
    energy: dict[str, Any] = {"why": "no power sensor was read"}
    if sensor != "none":
        power_bin = output / "power" / "power.bin"
        energy = clean_energy(power_bin, clean)
        with disk_errors(output):
            write_table(power_bin, output / "power.parquet")
        _remove(power_bin.parent)
    latency = read_times(output / "times.json")
    count, layers = read_profile(output / "profile.json")
    log = (output / "clean.log").read_text(encoding="utf-8", errors="replace").splitlines()
    period_ms = 1e3 * clean.seconds / clean.inferences
    return {
        "tensorrt": version_in(log),
        "engine_sha256": sha256_of(engine),
        "dtype": arguments.dtype if arguments.onnx else None,
        "copies": arguments.copies or "noDataTransfers" not in known,
        "limits": LIMITS,
        "latency": latency.to_json(),
        "period_ms": period_ms,
        "energy": energy,
        "profiled_inferences": count,
        "layers": [
            {
                "index": index, "name": layer.name, "mean_ms": layer.mean_ms,
                "median_ms": layer.median_ms, "share": layer.share,
                "gross_mj": _part(energy, "gross_mj", layer.share),
                "dynamic_mj": _part(energy, "dynamic_mj", layer.share),
            }
            for index, layer in enumerate(layers)
        ],
    }  # fmt: skip


def _part(energy: dict[str, Any], key: str, share: float) -> float | None:
    value = energy.get(key)
    return None if value is None else value * share


def _clean_pass(
    start: Run, words: list[str], output: Path, sensor: str, where: Where, stop: StopFlag
) -> Clean:
    """Run the clean pass with power beside it, into `power/power.bin`."""
    from edgejoule.files import disk_errors
    from edgejoule.power.recording import record
    from edgejoule.supervision import Supervisor
    from edgejoule.trtexec_energy import Clean

    log = output / "clean.log"
    found: list[Clean] = []

    def during(supervisor: Supervisor) -> int:
        begin_ns = time.monotonic_ns()
        supervisor.wait(_IDLE_S)
        started_ns = time.monotonic_ns()
        parts = start(words, log, wait=supervisor.wait)
        if not parts:
            raise MeasurementError("trtexec named no timed part", f"look at {log}")
        last = parts[-1]
        found.append(Clean(begin_ns, started_ns, last.told_ns, last.inferences, last.seconds))
        return time.monotonic_ns()

    if sensor == "none":
        during(Supervisor(stop, lambda _now_ns: None))
    else:
        folder = output / "power"
        with disk_errors(output):
            folder.mkdir()
        # A signal ends it within a quarter of a second; the sampler closes its file behind it.
        record(sensor, folder, where, stop, during)
    return found[0]


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def result_text(result: dict[str, Any]) -> str:
    """Return what is printed at the end."""
    latency, energy = result["latency"], result["energy"]
    lines = [
        f"TensorRT {result['tensorrt'] or '(version not said)'}: median "
        f"{latency['median_ms']:.4g} ms, p99 {latency['p99_ms']:.4g} ms, one inference every "
        f"{result['period_ms']:.4g} ms"
    ]
    if energy.get("gross_mj") is not None:
        half = energy["gross_statistical_mj"]
        spread = "" if half is None else f" +- {half:.2g}"
        lines.append(
            f"{energy['gross_mj']:.4g}{spread} mJ gross, {energy['dynamic_mj']:.4g} mJ above idle "
            f"per inference, {energy['mean_mw'] * 1e-3:.4g} W mean"
        )
    else:
        lines.append(f"no energy in total: {energy.get('why') or 'the board is not known'}")
    slowest = sorted(result["layers"], key=lambda layer: -layer["mean_ms"])[:_SHOWN]
    lines.append(f"slowest {len(slowest)} of {len(result['layers'])} layers; {result['limits']}")
    for layer in slowest:
        middle = "" if layer["median_ms"] is None else f"  median {layer['median_ms']:.4g} ms"
        lines.append(
            f"  {100 * layer['share']:5.1f} %  mean {layer['mean_ms']:.4g} ms{middle}  "
            f"{layer['name'][:60]}"
        )
    if energy.get("simulated"):
        lines.append("SIMULATED: no power was measured")
    return "\n".join(lines)
