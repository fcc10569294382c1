"""`run_experiment.sh`: preflight, plan, then the default experiment over all networks."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgejoule.cli.leave import leave
from edgejoule.errors import EXIT_DONE, UsageError, run_command

if TYPE_CHECKING:
    from edgejoule.campaign import Scripts
    from edgejoule.knobs import Knobs

EPILOG = """\
knobs (environment variables):
  MODELS              networks, separated by commas (default: all twenty)
  RUNS                profiled inferences per network (default: 30000)
  CLEAN_RUNS          clean inferences (default: those of CLEAN_SECONDS)
  CLEAN_SECONDS       length of the clean pass without CLEAN_RUNS (default: 30)
  WARMUP              least warm-up inferences (default: 50)
  DTYPE               auto, float32, tf32, float16, bfloat16, int8, fp8 (default: auto)
  CALIBRATION         folder of images for int8 and fp8
  INPUT               normal, uniform, zeros or a folder of images (default: normal)
  BATCH               batch size (default: 1)
  IDLE_DURATION       seconds of the idle baseline before all (default: 120)
  RESULT_DIR          the dataset's folder (default: raw_data)
  BACKEND             auto or a backend's name (default: auto)
  SENSOR              auto, none, ina3221, nvml, rapl, simulated, ...; nvml,rapl (default: auto)
  WAIT_IDLE           wait up to 10m, 1h for an idle GPU before each network (default: do not)
  WEIGHTS             pretrained, random (default: pretrained)
  OPTIMIZATION_LEVEL  TensorRT builder's level
  MIN_BLOCK_SIZE      least operators of a TensorRT block (torch-tensorrt)
  CUDA_GRAPHS         1: replay a CUDA graph in the clean pass
  MEMORY_LIMIT_GIB    what a measured process may take of the device's memory
  ENERGY              how energy is split over layers: auto, or of replay, window, proportional,
                      interval one or more (default: auto, by what the sensor allows)
  REPLAY_BUDGET       longest replay pass of a network in seconds (default: 60)
  CHECK_ATTRIBUTION   how many layers are checked by executing them several times (default: none)
  REPEATS             runs per network (default: 1)
  PUSH                each, end, later, off (default: each with a token, else off)
  DAGSHUB_USER_TOKEN  token of DagsHub
  DAGSHUB_OWNER       owner of the repository (default: the token's user)
  DAGSHUB_REPO_NAME   repository (default: edgejoule-raw-data)
  COMMIT_MESSAGE      message of the dataset's commits
  CREATE_REPO         1: create the repository if it is not there
  YES                 1: do not ask
  EDGEJOULE_BOARD     name of the board, if it does not say it itself

Exit codes: 0 done, 1 a network failed (after all were tried), 2 usage, 3 token rejected,
4 server unreachable, 130 interrupted. Running again continues with what is missing.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `run_experiment.sh`."""
    parser = argparse.ArgumentParser(
        prog="run_experiment.sh",
        description="Measure time and energy of the default networks, one run directory each.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--check", action="store_true", help="look at this machine, ten seconds at most, and stop"
    )
    mode.add_argument(
        "--dry-run", action="store_true", help="print also the plan with time and size, and stop"
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="three networks, random weights, a simulated board: about two minutes anywhere",
    )
    parser.add_argument(
        "--networks",
        default="model:EXPERIMENT",
        metavar="PACKAGE:NAME",
        help="the list of networks that MODELS chooses from (default: %(default)s)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: experiment(arguments), debug=arguments.debug)


def experiment(
    arguments: argparse.Namespace,
    scripts: Scripts | None = None,
) -> int:
    """Do what was asked.

    Args:
        arguments: As `build_parser` gives them.
        scripts: The commands of the campaign; None: the project's own.

    Raises:
        EdgejouleError: A knob is wrong, something blocks, or the user wants to end.
    """
    if sys.platform == "win32":
        raise UsageError("measuring needs Linux or macOS", "on Windows read and report runs")
    from edgejoule.campaign import Campaign, Scripts, run_campaign
    from edgejoule.knobs import DEFAULT_RUNS, read_knobs
    from edgejoule.plan import (
        choose_networks,
        estimate,
        experiment_networks,
        history,
        matrix_gflops,
        plan_text,
    )
    from edgejoule.preflight import preflight_text, run_preflight
    from edgejoule.preflight_checks import check_disk
    from edgejoule.processes import hide_environment
    from edgejoule.supervision import stop_on_signals

    hide_environment()
    knobs = read_knobs(os.environ, demo=arguments.demo)
    package = arguments.networks.partition(":")[0]
    listed = experiment_networks(arguments.networks)
    default = experiment_networks(f"{package}:DEMO") if arguments.demo else listed
    networks = choose_networks(knobs, knobs.models or default, f"{package}:describe")
    found = run_preflight(knobs, networks)
    known = history(knobs.result_dir, found.backend.form and found.backend.name)
    needs_speed = any(n.gflops and n.spec not in known and not n.there for n in networks)
    speed = matrix_gflops() if needs_speed and not found.gpu else None
    guess = estimate(
        knobs, networks, known, gpu=found.gpu, gflops_per_s=speed, methods=found.methods
    )
    downloads = sum(network.download_mib for network in networks)
    disk = check_disk(knobs.result_dir, guess.final_mib + guess.peak_mib + downloads)
    checks = (*found.checks, disk)
    print(preflight_text(checks), flush=True)
    blocking = [one for one in checks if one.verdict == "blocks"]
    if not arguments.check:
        device = found.backend.device or ("GPU" if found.gpu else "CPU")
        print(plan_text(knobs, networks, guess, found.backend.name, device), flush=True)
    if blocking:
        first = blocking[0]
        raise UsageError(f"{first.name}: {first.detail}", first.mend, first.exit_code)
    if arguments.check or arguments.dry_run:
        return EXIT_DONE
    full = set(listed) <= {n.spec for n in networks} and knobs.runs >= DEFAULT_RUNS
    if full and not found.gpu:
        ask(knobs)
    with stop_on_signals() as stop:
        campaign = Campaign(
            knobs,
            networks,
            stop,
            found.sensor,
            scripts or Scripts(),
            expected_s=guess.networks,
        )
        return run_campaign(campaign, verify=arguments.demo)


def ask(knobs: Knobs) -> None:
    """Let the user confirm the full experiment on a machine without a GPU.

    Raises:
        UsageError: They do not, or nobody can be asked.
    """
    if knobs.yes:
        return
    how = "YES=1 does it anyway, --demo tries it in minutes, MODELS= and RUNS= make it smaller"
    if not sys.stdin.isatty():
        raise UsageError("the full experiment without a GPU takes very long", how)
    answer = input("No GPU: the full experiment takes very long here. Go on? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise UsageError("stopped before anything was measured", how)


if __name__ == "__main__":
    leave(main())
