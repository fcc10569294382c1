"""What a machine says about itself, apart from its rails: clues to which board it is.

In an unprivileged container /sys/firmware is masked (Docker does that), so the device tree is not
to be seen. /sys/devices/soc0 is: its `machine` is the device tree's model on NVIDIA's kernels,
its `soc_id` the chip's number in decimal (Linux drivers/soc/tegra/fuse/fuse-tegra.c and
include/soc/tegra/fuse.h).

Standard library only; nothing is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

BOARD_VARIABLE = "EDGEJOULE_BOARD"
SOC0 = "/sys/devices/soc0"
# Chip ids of include/soc/tegra/fuse.h (0x21, 0x18, 0x19, 0x23, 0x26), as soc_id writes them.
_SOC_IDS = {
    "33": "tegra210",
    "24": "tegra186",
    "25": "tegra194",
    "35": "tegra234",
    "38": "tegra264",
}
# What CUDA and NVML call the integrated GPUs.
_CUDA_NAMES = {
    "tegra x1": "tegra210",
    "tegra x2": "tegra186",
    "xavier": "tegra194",
    "orin": "tegra234",
    "thor": "tegra264",
}


@dataclass(frozen=True)
class Clues:
    """What is known of a machine; None or empty: not to be seen.

    Attributes:
        model: The device tree's model.
        compatible: The device tree's `compatible`, most specific first.
        machine: soc0's machine: on Jetson the device tree's model.
        family: soc0's family (`Tegra`, `tegra210`).
        soc_id: soc0's chip number (`35`).
        revision: soc0's chip revision.
        cuda_name: What CUDA calls its device (`Orin`).
        override: What the user says the board is.
    """

    model: str | None = None
    compatible: tuple[str, ...] = ()
    machine: str | None = None
    family: str | None = None
    soc_id: str | None = None
    revision: str | None = None
    cuda_name: str | None = None
    override: str | None = None


def read_clues(
    sysfs_root: Path | str = "/sys",
    proc_root: Path | str = "/proc",
    environment: Mapping[str, str] | None = None,
    cuda_name: str | None = None,
) -> Clues:
    """Read the clues.

    Args:
        sysfs_root: Where sysfs lies.
        proc_root: Where procfs lies.
        environment: Where EDGEJOULE_BOARD is looked up; None: this process's.
        cuda_name: Name of the CUDA device, if somebody asked; it is not asked here.
    """
    sysfs, proc = Path(sysfs_root), Path(proc_root)
    tree = (sysfs / "firmware/devicetree/base", proc / "device-tree")
    soc0 = sysfs / "devices/soc0"
    variables = os.environ if environment is None else environment
    compatible = _first(folder / "compatible" for folder in tree)
    return Clues(
        model=_first(folder / "model" for folder in tree),
        compatible=tuple(compatible.split("\n")) if compatible else (),
        machine=_text(soc0 / "machine"),
        family=_text(soc0 / "family"),
        soc_id=_text(soc0 / "soc_id"),
        revision=_text(soc0 / "revision"),
        cuda_name=cuda_name,
        override=variables.get(BOARD_VARIABLE, "").strip() or None,
    )


def soc_of(clues: Clues) -> tuple[str, str] | None:
    """Return the chip (`tegra234`) and what says so, None where nothing does."""
    family, number = (clues.family or "").lower(), (clues.soc_id or "").lower()
    for text, where in ((number, "soc_id"), (family, "family")):
        found = re.search(r"tegra[0-9]{3}", text)
        if found:
            return found[0], f"{SOC0}/{where}"
    if family.startswith("tegra") and number in _SOC_IDS:
        return _SOC_IDS[number], f"{SOC0}/soc_id"
    for text in clues.compatible:
        found = re.search(r"nvidia,(tegra[0-9]{3})", text)
        if found:
            return found[1], "the device tree"
    for name, soc in _CUDA_NAMES.items():
        if re.search(rf"\b{name}\b", (clues.cuda_name or "").lower()):
            return soc, f"the CUDA device {clues.cuda_name}"
    return None


def _first(paths: Iterable[Path]) -> str | None:
    for path in paths:
        text = _text(path)
        if text:
            return text
    return None


def _text(path: Path) -> str | None:
    """Return a small file's text, None if there is none; NUL ends a string of the device tree."""
    try:
        return path.read_bytes().replace(b"\0", b"\n").decode("utf-8", "replace").strip() or None
    except OSError:
        return None
