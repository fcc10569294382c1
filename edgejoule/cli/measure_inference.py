"""measure_inference_power.py: one model, both processes, one run directory (or one per repeat)."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgejoule.cli.energy_options import add_energy_options
from edgejoule.cli.power_options import SENSOR_HELP, put_back_left_over
from edgejoule.errors import UsageError, run_command

if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTION = """\
Measure one model: build it, let a second process sample the power rails, run it without a
profiler (latency, energy) and with one (time of every layer), and leave one verified run
directory in the dataset.
"""

EPILOG = """\
examples:
  measure_inference_power.py --model resnet18 --weights random --runs 200
  measure_inference_power.py --model my_net.py:make --dtype float32 --input-shape 1 3 320 320
  measure_inference_power.py --model detector.onnx --backend onnxruntime --rate-hz 30
  measure_inference_power.py --model resnet18 --weights random --sensor simulated --runs 100
  measure_inference_power.py --model resnet50 --device cuda --cuda-graphs --energy replay \\
    --replay-budget 120 --check-attribution 4

A model given as file.py:function or .pt2 is code, and loading it runs it.
Exit codes: 0 done, 1 measurement wrong or incomplete, 2 usage, 130 interrupted.
"""


def _count(text: str) -> int:
    """Parse a positive whole number."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _count_or_zero(text: str) -> int:
    """Parse a whole number that may be zero."""
    return 0 if text == "0" else _count(text)


def _positive(text: str) -> float:
    """Parse a positive finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not math.isfinite(value) or value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is no finite number above 0")
    return value


def _from_zero(text: str) -> float:
    """Parse a finite number from 0, also `0.0`."""
    return 0.0 if "0" in text and not text.strip("0.") else _positive(text)


def _percent(text: str) -> float:
    """Parse `1` or `1%`."""
    return _positive(text.rstrip("%"))


def _duration(text: str) -> float:
    """Parse `90s`, `10m` or `1h` to seconds."""
    from edgejoule.power.gpu_sharing import parse_duration

    try:
        return parse_duration(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(
        prog="measure_inference_power.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_what(parser.add_argument_group("what is measured"))
    _add_how(parser.add_argument_group("how it is measured"))
    _add_build(parser.add_argument_group("how it is built and run"))
    _add_power(parser.add_argument_group("power"))
    energy = parser.add_argument_group("energy of layers")
    add_energy_options(energy, _count, _positive, _from_zero)
    _add_where(parser.add_argument_group("where it goes"))
    talk = parser.add_argument_group("output")
    talk.add_argument("--quiet", action="store_true", help="no progress, no table")
    talk.add_argument("--json", action="store_true", help="print the summary as JSON")
    talk.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _add_what(what: argparse._ArgumentGroup) -> None:
    which = what.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--model",
        metavar="MODEL",
        help="name of a network, file.py:function, x.onnx or x.pt2 (a torch.export program)",
    )
    which.add_argument(
        "--engine",
        type=Path,
        metavar="FILE",
        help="a finished TensorRT engine: one that this project left, a plain plan (trtexec), or "
        "one of Ultralytics; needs neither torch nor onnx",
    )
    what.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="auto, torch-tensorrt, tensorrt, onnxruntime or torch (default: auto, the first of "
        "these that works here; it says what it passed over and why)",
    )
    what.add_argument(
        "--dtype",
        default="auto",
        metavar="TYPE",
        help="auto, float32, tf32, float16, bfloat16, int8 or fp8 (default: auto, float16 on a "
        "GPU, else float32); how far the outputs are from float32 is recorded",
    )
    what.add_argument(
        "--calibration",
        metavar="KIND",
        help="what int8 and fp8 are calibrated with: a folder of images or .npy files of the kind "
        "that the network will see, a .npy file, or normal, uniform, zeros (generated, and said "
        "so); give --input of the same kind",
    )
    what.add_argument(
        "--calibration-cache",
        type=Path,
        metavar="FILE",
        help="keep the calibrated ranges in this file; one that is there is used if model, data "
        "and versions are the same, and refused if not",
    )
    what.add_argument(
        "--allow-fallback",
        choices=("float16",),
        help="what is not quantised runs in float16 (default: in float32)",
    )
    what.add_argument(
        "--weights",
        default="pretrained",
        choices=("pretrained", "random"),
        help="published weights, or seeded random ones (default: %(default)s)",
    )
    what.add_argument(
        "--input-shape",
        nargs="+",
        type=_count,
        metavar="N",
        help="shape of the first input, batch first (default: the model's own)",
    )
    what.add_argument(
        "--input",
        default="normal",
        metavar="KIND",
        help="normal, uniform, zeros, a folder of images or .npy files, or file.npy "
        "(default: %(default)s, seeded; values change power)",
    )
    what.add_argument(
        "--device",
        help="cpu, cuda, cuda:INDEX as CUDA counts (CUDA_VISIBLE_DEVICES holds), a GPU's UUID or "
        "PCI address (default: the backend's best)",
    )
    what.add_argument(
        "--threads",
        type=_count_or_zero,
        default=0,
        metavar="N",
        help="CPU threads, 0 for the backend's own choice (default: %(default)s)",
    )
    what.add_argument(
        "--seed", type=int, default=0, help="seeds weights, inputs and orders (default: 0)"
    )


def _add_how(how: argparse._ArgumentGroup) -> None:
    how.add_argument(
        "--warmup",
        type=_count_or_zero,
        default=50,
        metavar="N",
        help="least number of warm-up inferences; it goes on until latency is steady "
        "(default: %(default)s)",
    )
    how.add_argument(
        "--runs",
        type=_count,
        default=1000,
        metavar="N",
        help="profiled inferences, each with every layer's time (default: %(default)s)",
    )
    how.add_argument(
        "--clean-runs",
        type=_count,
        metavar="M",
        help="inferences without a profiler (default: as many as --clean-seconds and --precision "
        "need)",
    )
    how.add_argument(
        "--clean-seconds",
        type=_positive,
        default=30.0,
        metavar="S",
        help="least length of the clean pass without --clean-runs (default: %(default)s)",
    )
    how.add_argument(
        "--precision",
        type=_percent,
        metavar="P%",
        help="wanted half-width of the clean latency's 95%% interval: the clean pass goes on for "
        "it, up to 2000 inferences or 300 s (default: none wanted)",
    )
    how.add_argument(
        "--rate-hz",
        type=_positive,
        metavar="R",
        help="also a pass with inferences at fixed times, as a camera gives them",
    )
    how.add_argument(
        "--repeats",
        type=_count,
        default=1,
        metavar="N",
        help="measure N times in fresh processes, one run directory each (default: %(default)s)",
    )
    how.add_argument(
        "--rebuilds",
        type=_count,
        default=1,
        metavar="M",
        help="build the engine M times and repeat on each, in random order (default: %(default)s)",
    )
    how.add_argument(
        "--idle-duration",
        type=_positive,
        default=5.0,
        metavar="S",
        help="seconds of each of the run's four idle baselines (default: %(default)s)",
    )


def _add_build(build: argparse._ArgumentGroup) -> None:
    build.add_argument(
        "--optimization-level",
        type=int,
        choices=range(6),
        metavar="0-5",
        help="how long TensorRT searches for fast kernels (default: TensorRT's own)",
    )
    build.add_argument(
        "--min-block-size",
        type=_count,
        metavar="N",
        help="backend torch-tensorrt: parts with fewer operators stay in PyTorch (default: "
        "Torch-TensorRT's own, 5)",
    )
    build.add_argument(
        "--require-full-compilation",
        action="store_true",
        help="backend torch-tensorrt: fail where a part would stay in PyTorch",
    )
    build.add_argument(
        "--shape-min",
        nargs="+",
        type=_count,
        metavar="N",
        help="build for inputs from this shape on (backend tensorrt); measured is --input-shape",
    )
    build.add_argument(
        "--shape-max", nargs="+", type=_count, metavar="N", help="and up to this shape"
    )
    build.add_argument(
        "--cuda-graphs",
        action="store_true",
        help="replay a CUDA graph in the clean pass, which spares the launches; layers are always "
        "timed without",
    )
    build.add_argument(
        "--memory-limit-gib",
        type=_positive,
        metavar="G",
        help="what the measured process may take of the device's memory; whether it was enforced "
        "or only watched stands in the result",
    )


def _add_power(power: argparse._ArgumentGroup) -> None:
    power.add_argument(
        "--sensor",
        default="auto",
        metavar="NAME",
        help=f"{SENSOR_HELP}; auto takes what sees the measured device",
    )
    power.add_argument(
        "--power-mode",
        metavar="NAME",
        help="Jetson: set this mode of nvpmodel by name (MAXN, 15W, ...) for the time of the "
        "measurement and put the old one back; needs root, outside a container (default: as it is)",
    )
    power.add_argument(
        "--wait-idle",
        type=_duration,
        metavar="T",
        help="wait up to 90s, 10m, 1h until nobody else uses the GPU (default: measure at once; a "
        "run during which somebody did is marked as shared)",
    )
    power.add_argument(
        "--sysfs-root", default="/sys", metavar="DIR", help="where sysfs lies (default: /sys)"
    )


def _add_where(where: argparse._ArgumentGroup) -> None:
    where.add_argument(
        "--result-dir",
        type=Path,
        default=Path("raw_data"),
        metavar="DIR",
        help="the dataset's folder (default: %(default)s)",
    )
    where.add_argument(
        "--run-name",
        metavar="NAME",
        help="name of the run (default: the model's, with what differs)",
    )
    where.add_argument(
        "--overwrite", action="store_true", help="replace a finished run of the same name"
    )
    parts = where.add_mutually_exclusive_group()
    parts.add_argument(
        "--setup-only", action="store_true", help="build, keep the engine for --skip-setup, stop"
    )
    parts.add_argument(
        "--skip-setup", action="store_true", help="measure the engine that --setup-only left"
    )
    where.add_argument(
        "--artefacts",
        type=Path,
        metavar="DIR",
        help="where --setup-only keeps and --skip-setup finds it (default: the user's cache)",
    )
    where.add_argument(
        "--save-engine",
        type=Path,
        metavar="FILE",
        help="backend tensorrt: keep the engine with what built it, for --engine",
    )
    where.add_argument(
        "--loader",
        default="model:load",
        metavar="PACKAGE:FUNCTION",
        help="what turns a name into a model (default: %(default)s)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(arguments)

    def command() -> int:
        from edgejoule.invocation import measure_all
        from edgejoule.power.power_mode_setting import changed_power_mode
        from edgejoule.processes import hide_environment

        if sys.platform == "win32":
            raise UsageError("measuring needs Linux or macOS", "on Windows read and report runs")
        hide_environment()
        put_back_left_over(args.sysfs_root)
        if args.power_mode is None:
            return measure_all(args, arguments)
        with changed_power_mode(args.power_mode) as changed:
            print(
                f"power mode {changed.mode.name}, before it was {changed.before.name}",
                file=sys.stderr,
            )
            return measure_all(args, arguments)

    return run_command(command, debug=args.debug)
