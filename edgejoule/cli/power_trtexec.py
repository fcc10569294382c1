"""`measure_power.py trtexec`: time and energy of a model where only `trtexec` runs (JetPack 4, 5).

    build | idle | clean: no profiler, power recorded | profiled: layers' means | result

The energy of an inference is the mean power inside the timed part of the clean pass times its
length over its inferences. The layers come from an invocation of their own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.cli.power_options import add_sensor_options, put_back_left_over, where_of
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.trtexec_energy import Clean, clean_energy

if TYPE_CHECKING:
    from edgejoule.supervision import StopFlag, Supervisor

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
measure_inference_power.py gives each layer of each inference instead.""",
        epilog="""examples:
  measure_power.py trtexec --onnx resnet18.onnx --dtype float16 --output resnet18-trtexec
  measure_power.py trtexec --engine resnet18.plan --duration 60 --output out""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--onnx", type=Path, metavar="FILE", help="model to build an engine from")
    which.add_argument("--engine", type=Path, metavar="FILE", help="finished plan of trtexec")
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
    from edgejoule.files import disk_errors, write_json
    from edgejoule.power.sensors import choose_sensor
    from edgejoule.report.progress import Progress
    from edgejoule.supervision import stop_on_signals
    from edgejoule.trtexec import find_trtexec, known_options

    _check(arguments)
    program = find_trtexec(arguments.trtexec)
    put_back_left_over(arguments.sysfs_root)
    choice = choose_sensor(arguments.sensor, where_of(arguments))
    output: Path = arguments.output
    with disk_errors(output.parent):
        output.mkdir()
    with stop_on_signals() as stop, Progress(arguments.quiet) as progress:
        _run(program, ["--help"], output / "help.log", stop)
        known = known_options((output / "help.log").read_text(encoding="utf-8", errors="replace"))
        if "exportProfile" not in known:
            raise UsageError(f"{program} does not name --exportProfile", "is it trtexec?")
        engine = arguments.engine or _build(program, arguments, known, progress, stop)
        progress.line(f"sensor: {choice.why}")
        result = _measure(program, engine, arguments, known, choice.name, progress, stop)
    with disk_errors(output):
        write_json(output / "trtexec.json", result)
    print(result_text(result))
    print(f"written: {output}")
    return 0


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
    program: Path, arguments: argparse.Namespace, known: frozenset[str], progress: Any, stop: Any
) -> Path:
    from edgejoule.trtexec import build_words

    output: Path = arguments.output
    engine = output / "model.plan"
    words = build_words(arguments.onnx, engine, arguments.dtype, known, output / "layers.json")
    progress.line(f"building with {program}: {output / 'build.log'} grows")
    _run(program, words, output / "build.log", stop)
    if not engine.is_file():
        raise MeasurementError("trtexec built no engine", f"look at {output / 'build.log'}")
    return engine


def _measure(
    program: Path,
    engine: Path,
    arguments: argparse.Namespace,
    known: frozenset[str],
    sensor: str,
    progress: Any,
    stop: StopFlag,
) -> dict[str, Any]:
    """Run both passes and return what `trtexec.json` holds."""
    from edgejoule.cli.power_convert import write_table
    from edgejoule.files import sha256_of
    from edgejoule.trtexec import (
        LIMITS,
        clean_words,
        profiled_words,
        read_profile,
        read_times,
        version_in,
    )

    output: Path = arguments.output
    words = clean_words(
        engine, arguments.duration, output / "times.json", known, copies=arguments.copies
    )
    progress.line(f"clean pass: {arguments.duration:g} s")
    clean, energy = _clean_pass(program, words, arguments, sensor, stop)
    power_bin = output / "power" / "power.bin"
    if power_bin.exists():
        write_table(power_bin, output / "power.parquet")
        _remove(power_bin.parent)
    latency = read_times(output / "times.json")
    progress.line("profiled pass")
    _run(
        program,
        profiled_words(engine, _PROFILED_S, output / "profile.json"),
        output / "profiled.log",
        stop,
    )
    count, layers = read_profile(output / "profile.json")
    log = (output / "clean.log").read_text(encoding="utf-8", errors="replace").splitlines()
    period_ms = 1e3 * clean.seconds / clean.inferences
    return {
        "program": str(program),
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
    program: Path, words: list[str], arguments: argparse.Namespace, sensor: str, stop: StopFlag
) -> tuple[Clean, dict[str, Any]]:
    """Run the clean pass with power beside it; return it and its energy per inference."""
    from edgejoule.power.recording import record
    from edgejoule.supervision import StopFlag, Supervisor

    log = arguments.output / "clean.log"
    found: list[Clean] = []

    def during(supervisor: Supervisor) -> int:
        begin_ns = time.monotonic_ns()
        supervisor.wait(_IDLE_S)
        started_ns = time.monotonic_ns()
        spans = _run(program, words, log, stop, supervisor)
        if not spans:
            raise MeasurementError(
                "trtexec named no timed part", f"look at {log}; is this version older than 7?"
            )
        ended_ns, inferences, seconds = spans[-1]
        found.append(Clean(begin_ns, started_ns, ended_ns, inferences, seconds))
        return time.monotonic_ns()

    if sensor == "none":
        supervisor = Supervisor(StopFlag(), lambda _now_ns: None)
        during(supervisor)
        return found[0], {"why": "no power sensor was read"}
    folder = arguments.output / "power"
    folder.mkdir()
    record(sensor, folder, where_of(arguments), StopFlag(), during)
    return found[0], clean_energy(folder / "power.bin", found[0])


def _run(
    program: Path,
    words: Sequence[str],
    log: Path,
    stop: StopFlag,
    supervisor: Supervisor | None = None,
) -> list[tuple[int, int, float]]:
    """Run trtexec into a log; return when it named a timed part (ns), its inferences, seconds.

    Raises:
        MeasurementError: It failed; with its own words.
        Interrupted: The user wants to end.
    """
    import os
    import subprocess
    import threading

    from edgejoule.processes import child_environment
    from edgejoule.trtexec import failure_in, timed_span

    environment = {name: os.environ[name] for name in child_environment() if name in os.environ}
    try:
        process = subprocess.Popen(
            [str(program), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        )
    except OSError as error:
        raise UsageError(
            f"cannot run {program}: {error.strerror}", "give --trtexec PATH"
        ) from error
    spans: list[tuple[int, int, float]] = []
    lines: list[str] = []

    def follow() -> None:
        with log.open("w", encoding="utf-8") as file:
            for line in process.stdout or ():
                now_ns = time.monotonic_ns()
                lines.append(line)
                file.write(line)
                if (span := timed_span(line)) is not None:
                    spans.append((now_ns, *span))

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        while reader.is_alive():
            stop.check()
            if supervisor is None:
                reader.join(0.1)
            else:
                supervisor.wait(0.1)
        status = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(5.0)
    # Some versions end `--help` with a failure's status.
    if status and "--help" not in words:
        raise MeasurementError(f"trtexec failed: {failure_in(lines)}", f"look at {log}")
    return spans


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
