"""Options that the verbs of `measure_power.py` share. Only argparse at import."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING

from edgejoule.errors import UsageError

if TYPE_CHECKING:
    from edgejoule.power.sensor import Where

SENSOR_HELP = (
    "auto, none, ina3221, nvml, rapl, tegrastats, battery or simulated; several with commas: "
    "nvml,rapl (default: auto, which never takes simulated)"
)


def add_sensor_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--sensor`, `--device` and `--sysfs-root`."""
    parser.add_argument("--sensor", default="auto", metavar="NAMES", help=SENSOR_HELP)
    parser.add_argument(
        "--device",
        metavar="GPU",
        help="which NVIDIA GPU: index as CUDA counts (CUDA_VISIBLE_DEVICES holds), UUID or PCI "
        "address (default: the first)",
    )
    parser.add_argument(
        "--sysfs-root", default="/sys", metavar="DIR", help="where sysfs lies (default: /sys)"
    )


def put_back_left_over(sysfs_root: str) -> None:
    """Put back settings that a killed command left changed, and say so; most often none are."""
    from edgejoule.power.chip_settings import restore_left_over
    from edgejoule.power.power_mode_setting import restore_left_over_mode

    for line in (*restore_left_over(sysfs_root), *restore_left_over_mode()):
        print(line, file=sys.stderr)


def where_of(arguments: argparse.Namespace) -> Where:
    """Return where to look for sensors, the GPU by its UUID.

    Without `--device` the GPU is the one that CUDA would take, so that CUDA_VISIBLE_DEVICES means
    the same GPU here and in the program that is measured.

    Raises:
        UsageError: `--device` names no GPU that is here.
    """
    from edgejoule.inference.backends import gpu_present
    from edgejoule.power.gpu_choice import find_gpu
    from edgejoule.power.sensor import Where

    if arguments.device is not None:
        gpu = find_gpu(arguments.device)
        if gpu.uuid is None and gpu.ordinal is not None:
            raise UsageError(
                f"--device {arguments.device}: its power cannot be read ({gpu.why_no_uuid})",
                "leave --device out, or choose another --sensor",
            )
        return Where(arguments.sysfs_root, gpu.uuid)
    if not gpu_present() or not {"auto", "nvml"} & set(arguments.sensor.split(",")):
        return Where(arguments.sysfs_root)
    with contextlib.suppress(UsageError):  # CUDA shows none: whether NVML does, the sensor says
        return Where(arguments.sysfs_root, find_gpu("cuda:0").uuid)
    return Where(arguments.sysfs_root)
