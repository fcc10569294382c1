"""What the backends tensorrt and torch-tensorrt have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgejoule.errors import UsageError
from edgejoule.inference.trt.precision import dtypes_of

TEGRA_RELEASE = Path("/etc/nv_tegra_release")  # written by L4T, on every Jetson


def device_index(device: str, backend: str = "tensorrt") -> int:
    """Return the index in `cuda:<index>`.

    Raises:
        UsageError: It is no CUDA device.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index or "0").isdigit():
        raise UsageError(f"backend {backend} does not run on {device!r}", "use --device 0")
    return int(index or 0)


def check_level(level: Any) -> None:
    """Refuse an optimisation level that is none; None is TensorRT's own.

    Raises:
        UsageError: It is not one of 0 to 5.
    """
    if level is not None and (type(level) is not int or not 0 <= level <= 5):
        # TensorRT takes any number above 5 for 5 without a word.
        raise UsageError(
            f"optimisation level {level!r} does not exist", "--optimization-level takes 0 to 5"
        )


def probed_devices(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the CUDA devices that a backend's probe found."""
    return tuple(f"cuda:{index}" for index in range(len(facts.get("devices", ()))))


def probed_dtypes(facts: Mapping[str, Any], device: str) -> tuple[str, ...]:
    """Return what a probed GPU's compute capability and TensorRT have, float16 first.

    Args:
        facts: Of the probe: `devices`, each with its `capability`, and TensorRT's `dtypes`.
        device: `cuda:<index>`; nothing for one that the probe did not find.
    """
    if device not in probed_devices(facts):
        return ()
    major, minor = facts["devices"][device_index(device)]["capability"]
    return dtypes_of((major, minor), tuple(facts["dtypes"]))
