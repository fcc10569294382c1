"""Which board, power mode, clocks and software a run was measured on: its provenance.

Read-only: sysfs, procfs and a few files below /etc and /var; the only program started is `git`.
What is missing is None, never invented. The host's name, its addresses and its users are not
recorded: a dataset is meant to be shared. Standard library only.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgejoule.machine_state import (
    all_locked,
    cpu_clocks,
    cpu_numbers,
    gpu_clocks,
    memory_mib,
    read_int,
    read_text,
    temperatures_c,
    throttle_counts,
)
from edgejoule.power.clues import BOARD_VARIABLE, Clues, read_clues, soc_of
from edgejoule.power.recognise import Recognition, recognise
from edgejoule.power.sensor import Channel
from edgejoule.power_mode import PowerMode, find_power_mode, power_modes
from edgejoule.processes import PROJECT_ROOT, child_environment

__all__ = ["PowerMode", "describe_machine", "power_modes", "temperatures_c", "throttle_counts"]

LIBRARIES = (
    *("torch", "torchvision", "torch-tensorrt", "tensorrt", "onnx", "onnxscript"),
    *("onnxruntime", "onnxruntime-gpu", "numpy", "pyarrow", "edgejoule"),
)
# L4T release -> JetPack, from NVIDIA's release pages; a release not listed here stays unnamed.
_JETPACK = {
    "32.6.1": "4.6", "32.7.1": "4.6.1", "32.7.2": "4.6.2", "32.7.3": "4.6.3",
    "35.1": "5.0.2", "35.2.1": "5.1", "35.3.1": "5.1.1", "35.4.1": "5.1.2", "35.5": "5.1.3",
    "36.2": "6.0-DP", "36.3": "6.0", "36.4": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1",
    "36.4.7": "6.2.1", "36.5": "6.2.2", "38.2": "7.0", "38.4": "7.1", "39.2": "7.2",
}  # fmt: skip


def describe_machine(
    sysfs_root: Path | str = "/sys",
    proc_root: Path | str = "/proc",
    root: Path | str = "/",
    project_root: Path = PROJECT_ROOT,
    channels: Sequence[Channel] | Sequence[Mapping[str, Any]] = (),
    cuda_name: str | None = None,
) -> dict[str, Any]:
    """Describe this machine as plain JSON values.

    Args:
        sysfs_root: Where sysfs is mounted.
        proc_root: Where procfs is mounted.
        root: What /etc, /var and the marks of containers are looked up below.
        project_root: The folder whose git commit is recorded.
        channels: The channels of the sensors, by which a board is recognised where it does not
            say what it is; none of the simulated board.
        cuda_name: What CUDA calls its device, if somebody asked.

    Returns:
        `board_id`, `board_source` (`EDGEJOULE_BOARD`, `device tree`, `soc0`, `signature`, `cpu`),
        `board` (`names`, `how`, `certain`), `soc`, `compatible`, `l4t`, `jetpack`, `power_mode`,
        `power_mode_source`, `power_mode_inferred`, `power_mode_candidates`, `power_mode_why`,
        `power_modes`, `cpu`, `gpu`, `memory_mib`, `temperatures_c`, `throttle_counts`,
        `kernel`, `architecture`, `distribution`, `container`, `hypervisor`, `python`,
        `libraries`, `code`.

    Raises:
        UsageError: EDGEJOULE_BOARD is a misspelt name, or names a board with other rails.
    """
    sysfs, proc, root = Path(sysfs_root), Path(proc_root), Path(root)
    cpu = _cpu(sysfs, proc)
    clues = read_clues(sysfs, proc, cuda_name=cuda_name)
    known = recognise(channels, clues)
    board_id, source = _board_id(clues, known, cpu["model"])
    l4t = _l4t(root)
    mode = find_power_mode(root, sysfs, known.names)
    _, offered = power_modes(root)
    return {
        "board_id": board_id,
        "board_source": source,
        "board": {"names": list(known.names), "how": known.how, "certain": known.certain}
        if known.names or channels
        else None,
        "soc": _soc(clues),
        "compatible": list(clues.compatible) or None,
        "l4t": l4t,
        "jetpack": _JETPACK.get(l4t.removesuffix(".0") if l4t else ""),
        "power_mode": mode.name,
        "power_mode_source": mode.source,
        "power_mode_inferred": mode.inferred,
        "power_mode_candidates": list(mode.candidates) or None,
        "power_mode_why": mode.why if known.names or offered or mode.name else None,
        "power_modes": [one.name for one in offered] or None,
        "cpu": cpu,
        "gpu": _gpu(sysfs, proc),
        "memory_mib": memory_mib(proc).get("total"),
        "temperatures_c": temperatures_c(sysfs),
        "throttle_counts": throttle_counts(sysfs),
        "kernel": read_text(proc / "sys/kernel/osrelease"),
        "architecture": platform.machine() or None,
        "distribution": _distribution(root),
        "container": in_container(root),
        "container_base": os.environ.get("NVIDIA_PYTORCH_VERSION"),
        "hypervisor": _hypervisor(sysfs, proc),
        "python": platform.python_version(),
        "libraries": library_versions(),
        "code": code_version(project_root),
    }


def _board_id(clues: Clues, known: Recognition, cpu: str | None) -> tuple[str | None, str]:
    """Return what this board is called, the same in every run, and where that is from.

    soc0's machine is the device tree's model on NVIDIA's kernels, so that a board has one name
    inside and outside a container.
    """
    if clues.override:
        return clues.override, BOARD_VARIABLE
    if clues.model:
        return clues.model, "device tree"
    if clues.machine:
        return clues.machine, "soc0"
    if known.name:
        return known.name, "signature"
    return cpu, "cpu"


def _soc(clues: Clues) -> dict[str, str | None] | None:
    """Return what soc0 says, and the chip that follows from it or from the other clues."""
    found = soc_of(clues)
    soc = {
        "chip": found[0] if found else None,
        "machine": clues.machine,
        "family": clues.family,
        "soc_id": clues.soc_id,
        "revision": clues.revision,
    }
    return soc if any(soc.values()) else None


def library_versions() -> dict[str, str | None]:
    """Return the versions of the libraries that matter, without importing one; None: not there."""
    versions: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def code_version(project_root: Path) -> dict[str, Any] | None:
    """Return `commit` and `dirty` of the project's folder, None where it is no git checkout."""
    # Only the folder's own repository counts: an enclosing one says nothing about this code.
    if not (project_root / ".git").exists():
        return None

    def git(*arguments: str) -> str | None:
        # safe.directory: in a container the mounted folder belongs to somebody else.
        command = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false"]
        try:
            done = subprocess.run(
                [*command, "-C", str(project_root), *arguments],
                env=child_environment({"GIT_OPTIONAL_LOCKS": "0"}),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=5,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def in_container(root: Path | str = "/") -> bool:
    """Say whether this looks like the inside of a container."""
    root = Path(root)
    marks = (root / ".dockerenv", root / "run/.containerenv")
    return any(mark.exists() for mark in marks)


def _l4t(root: Path) -> str | None:
    text = read_text(root / "etc/nv_tegra_release") or ""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{match[1]}.{match[2]}" if match else None


def _distribution(root: Path) -> str | None:
    for line in (read_text(root / "etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip("\"'")
    return None


def _hypervisor(sysfs: Path, proc: Path) -> bool | None:
    """Say whether this is a virtual machine, as far as an x86 CPU tells; None: it does not."""
    if (sysfs / "hypervisor/type").exists():
        return True
    flags = re.search(r"^flags\s*:(.*)$", read_text(proc / "cpuinfo") or "", re.M)
    return None if not flags else "hypervisor" in flags[1].split()


def _cpu(sysfs: Path, proc: Path) -> dict[str, Any]:
    text = read_text(proc / "cpuinfo") or ""
    names = re.findall(r"^model name\s*:\s*(.+)$", text, re.M)
    numbers = cpu_numbers(sysfs)
    clocks = cpu_clocks(sysfs)
    lows = [clock.min_mhz for clock in clocks if clock.min_mhz is not None]
    highs = [clock.max_mhz for clock in clocks if clock.max_mhz is not None]
    limits = [
        read_int(sysfs / f"devices/system/cpu/cpu{number}/cpufreq/cpuinfo_max_freq")
        for number in numbers
    ]
    known = [limit / 1e3 for limit in limits if limit is not None]
    return {
        "model": names[0].strip() if names else None,
        "count": len(numbers) or None,
        "online": read_text(sysfs / "devices/system/cpu/online"),
        "governors": sorted({clock.governor for clock in clocks if clock.governor}) or None,
        "min_mhz": min(lows) if lows else None,
        "max_mhz": max(highs) if highs else None,
        "hardware_max_mhz": max(known) if known else None,
        "locked": all_locked(clocks),
    }


def _gpu(sysfs: Path, proc: Path) -> dict[str, Any]:
    texts = [
        read_text(path) or "" for path in sorted(proc.glob("driver/nvidia/gpus/*/information"))
    ]
    models = [re.search(r"^Model:\s*(.+)$", text, re.M) for text in texts]
    version = read_text(proc / "driver/nvidia/version") or ""
    driver = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", version)
    clocks = gpu_clocks(sysfs)
    return {
        "names": [match[1].strip() for match in models if match] or None,
        "driver": driver[1] if driver else None,
        "clocks": [
            {"name": c.name, "min_mhz": c.min_mhz, "max_mhz": c.max_mhz, "governor": c.governor}
            for c in clocks
        ]
        or None,
        "locked": all_locked(clocks),
    }
