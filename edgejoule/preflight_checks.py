"""The checks of the preflight: functions from what the machine says to a `Check`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgejoule.energy_methods import REPLAYED, Methods, resolve_methods
from edgejoule.errors import EXIT_SERVER, EXIT_TOKEN, EXIT_USAGE, EdgejouleError
from edgejoule.knobs import Knobs
from edgejoule.machine import PowerMode
from edgejoule.machine_state import fans, temperatures_c
from edgejoule.plan import Network, size
from edgejoule.power.sensor import Where

WARM_C = 50.0
LOW_MEMORY_MIB = 2048
LEAST_MEMORY_MIB = 512

Verdict = Literal["ok", "warning", "blocks"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        verdict: `ok`, `warning` (the result will be worse, or less), `blocks` (it cannot start).
        detail: What was found.
        mend: The command or setting that mends it, empty if nothing is to be mended.
        exit_code: The exit code if it blocks.
    """

    name: str
    verdict: Verdict
    detail: str
    mend: str = ""
    exit_code: int = EXIT_USAGE


@dataclass(frozen=True)
class Backend:
    """What the probe said; all empty where it said nothing in time."""

    name: str = "auto"
    form: str | None = None
    device: str = ""

    @property
    def gpu(self) -> bool | None:
        """Whether it runs on a GPU, None if the probe was too slow to say."""
        return self.device.startswith("cuda") if self.device else None


def is_jetson(machine: Mapping[str, Any]) -> bool:
    """Say whether this is a Tegra board."""
    return bool(machine.get("l4t")) or any(
        "nvidia,tegra" in name for name in machine.get("compatible") or ()
    )


def check_board(machine: Mapping[str, Any]) -> Check:
    """Name the board."""
    board = machine.get("board_id")
    if not board:
        return Check("board", "warning", "this machine does not say what it is", "EDGEJOULE_BOARD=")
    facts = [str(board)]
    facts += [f"L4T {machine['l4t']}"] if machine.get("l4t") else []
    facts += ["virtual machine"] if machine.get("hypervisor") else []
    return Check("board", "ok", ", ".join(facts))


def fastest(modes: Sequence[PowerMode]) -> PowerMode | None:
    """Return the mode with the most power: MAXN_SUPER, MAXN, else the one of the most watts.

    By name: the same number means different modes on different boards.
    """

    def rank(mode: PowerMode) -> tuple[int, float]:
        watts = re.search(r"(\d+)W", mode.name)
        named = {"MAXN_SUPER": 2, "MAXN": 1}.get(mode.name, 0)
        return named, float(watts[1]) if watts else 0.0

    return max(modes, key=rank, default=None)


def check_power_mode(
    machine: Mapping[str, Any], mode: PowerMode | None, modes: Sequence[PowerMode], container: bool
) -> Check:
    """Compare the power mode with the fastest one that the board offers."""
    name = "power mode"
    if not is_jetson(machine) and mode is None:
        return Check(name, "ok", "this machine has none")
    best = fastest(modes)
    mend = f"sudo nvpmodel -m {best.number if best else 0}"
    if mode is None and machine.get("power_mode"):
        # What follows from CPUs and clocks has a name but no number to set it with.
        return Check(name, "ok", f"{machine['power_mode']} (inferred)")
    if mode is None and container:
        mounts = (
            "-v /etc/nvpmodel.conf:/etc/nvpmodel.conf:ro -v /var/lib/nvpmodel:/var/lib/nvpmodel:ro"
        )
        maybe = " or ".join(machine.get("power_mode_candidates") or ())
        seen = f"may be {maybe}; " if maybe else ""
        detail = f"{seen}cannot be seen in this container"
        return Check(name, "warning", detail, f"docker run {mounts}")
    if mode is None:
        return Check(name, "warning", "not known", f"{mend}; nvpmodel -q shows it")
    if mode == best or (best is None and mode.number == 0):
        return Check(name, "ok", mode.name)
    detail = f"{mode.name}; the board offers {best.name}" if best else mode.name
    return Check(name, "warning", detail, mend)


def check_clocks(machine: Mapping[str, Any]) -> Check:
    """Look whether CPU and GPU clocks are held where they are."""
    cpu, gpu = machine.get("cpu") or {}, machine.get("gpu") or {}
    if is_jetson(machine):
        locks = {"CPU": cpu.get("locked"), "GPU": gpu.get("locked")}
        free = [name for name, locked in locks.items() if locked is False]
        if free:
            return Check("clocks", "warning", f"{' and '.join(free)} vary", "sudo jetson_clocks")
        unknown = [name for name, locked in locks.items() if locked is None]
        if unknown:
            detail = f"{' and '.join(unknown)} cannot be seen"
            return Check("clocks", "warning", detail, "sudo jetson_clocks")
        return Check("clocks", "ok", "locked")
    governors = cpu.get("governors") or []
    if not governors:
        return Check("clocks", "ok", "this machine does not tell them")
    if governors == ["performance"] or cpu.get("locked"):
        return Check("clocks", "ok", "locked" if cpu.get("locked") else "governor performance")
    mend = "sudo cpupower frequency-set -g performance"
    return Check("clocks", "warning", f"the CPU's vary (governor {', '.join(governors)})", mend)


def check_fan(machine: Mapping[str, Any], sysfs_root: str) -> Check:
    """Look whether the fan stands still although the board is warm."""
    found = fans(sysfs_root)
    hottest = max(temperatures_c(sysfs_root).values(), default=None)
    warm = "" if hottest is None else f", hottest zone {hottest:.0f} C"
    if not found:
        return Check("fan", "ok", f"none seen{warm}")
    still = all(not fan.pwm and not fan.rpm for fan in found)
    if still and hottest is not None and hottest > WARM_C:
        mend = "sudo jetson_clocks --fan" if is_jetson(machine) else "start the fan"
        return Check("fan", "warning", f"stands still{warm}", mend)
    return Check("fan", "ok", f"{'stands still' if still else 'turns'}{warm}")


def check_desktop(processes: Sequence[str], container: bool) -> Check:
    """Look for a desktop session, which takes power, memory and GPU time."""
    if processes:
        mend = "sudo systemctl isolate multi-user.target"
        return Check("desktop", "warning", f"{', '.join(processes)} runs", mend)
    return Check("desktop", "ok", "cannot be seen in a container" if container else "none runs")


def check_sensor(wanted: str, where: Where, *, jetson: bool = False) -> tuple[str, Check]:
    """Read a value from the sensor; return its name (`none` if there is none) and the verdict.

    Args:
        wanted: As `--sensor`.
        where: Where to look.
        jetson: Whether this is a Jetson, where the board's own rails should be there.
    """
    from edgejoule.power.sensors import choose_sensor

    name = "sensor"
    try:
        choice = choose_sensor(wanted, where)
    except EdgejouleError as error:
        return wanted, Check(name, "blocks", error.message, error.mend, error.exit_code)
    if choice.usable or wanted == "none":
        return choice.name, Check(name, "ok", f"{choice.name}: {choice.why}", choice.mend)
    reasons = dict(choice.tried)
    why = reasons["ina3221"] if jetson else f"looked for {', '.join(reasons)}"
    mend = "measure_power.py rails says what is missing; SENSOR=simulated tries things out"
    return choice.name, Check(name, "warning", f"none, so no energy ({why})", mend)


def check_energy(knobs: Knobs, sensor: str, backend: Backend) -> tuple[Methods | None, Check]:
    """Return what ENERGY comes to with this sensor and backend, and the verdict.

    A backend that has not said its name in time refuses nothing here; the first run will.
    """
    name = backend.name if backend.name != "auto" else REPLAYED[0]
    asked = knobs.replay_budget_s, knobs.check_attribution
    try:
        methods = resolve_methods(knobs.energy, sensor, name, *asked)
    except EdgejouleError as error:
        return None, Check("energy", "blocks", error.message, error.mend, error.exit_code)
    return methods, Check("energy", "ok", f"of layers by {methods}" if sensor != "none" else "none")


def check_backend(
    said: Mapping[str, Any] | None, knobs: Knobs, networks: Sequence[Network]
) -> tuple[Backend, Check]:
    """Judge what the trial of the backend said."""
    name = "backend"
    unknown = Backend(knobs.backend)
    if said is None:
        detail = f"{knobs.backend}: still being tried; the first run will tell"
        return unknown, Check(name, "warning", detail)
    if "error" in said:
        return unknown, Check(name, "blocks", said["error"], said["mend"], said["exit_code"])
    backend = Backend(said["backend"], said["form"], said["device"])
    unfit = [network.spec for network in networks if backend.form not in network.forms]
    if unfit:
        detail = f"{backend.name} wants {backend.form}, in which these cannot be had here: "
        mend = "MODELS=" + ",".join(n.spec for n in networks if n.spec not in unfit)
        return backend, Check(name, "blocks", detail + ", ".join(unfit), mend)
    asked = {
        "optimization_level": ("OPTIMIZATION_LEVEL", knobs.optimization_level),
        "min_block_size": ("MIN_BLOCK_SIZE", knobs.min_block_size),
        "cuda_graphs": ("CUDA_GRAPHS", knobs.cuda_graphs or None),
    }
    known = said["options"]
    given = [name for key, (name, value) in asked.items() if value is not None and key not in known]
    if given:
        detail = f"{backend.name} knows no {' and no '.join(given)}"
        return backend, Check(name, "blocks", detail, "leave it out")
    why = f" ({'; '.join(said['why'])})" if said["why"] else ""
    return backend, Check(name, "ok", f"{backend.name} on {backend.device}, {said['dtype']}{why}")


def check_memory(available_mib: float | None) -> Check:
    """Compare free memory with what a large network takes to build (an estimate)."""
    if available_mib is None:
        return Check("memory", "ok", "this machine does not tell")
    detail = f"{size(available_mib)} available"
    if available_mib < LEAST_MEMORY_MIB:
        return Check("memory", "blocks", detail, "close other programs")
    if available_mib < LOW_MEMORY_MIB:
        detail += "; large networks take 2 GiB or more to build"
        return Check("memory", "warning", detail, "close other programs, or MODELS=smaller ones")
    return Check("memory", "ok", detail)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def check_folder(folder: Path) -> Check:
    """Look whether the dataset's folder is one and can be written, without writing."""
    there = _existing(folder)
    if not there.is_dir():
        return Check("folder", "blocks", f"{there} is no folder", "RESULT_DIR=another")
    if not os.access(there, os.W_OK | os.X_OK):
        return Check("folder", "blocks", f"{there} cannot be written", "RESULT_DIR=another")
    return Check("folder", "ok", f"{folder}{'' if folder.exists() else ' (will be made)'}")


def check_disk(folder: Path, needed_mib: float) -> Check:
    """Compare the free disk space with the plan's estimate."""
    free_mib = shutil.disk_usage(_existing(folder)).free / 2**20
    detail = f"{size(free_mib)} free, about {size(needed_mib)} needed"
    if free_mib < needed_mib:
        return Check("disk", "blocks", detail, "free some space, or RESULT_DIR=another, or RUNS=")
    if free_mib < 2 * needed_mib:
        return Check("disk", "warning", detail, "free some space")
    return Check("disk", "ok", detail)


def check_weights(knobs: Knobs, networks: Sequence[Network]) -> Check:
    """Say how much must be downloaded."""
    missing = [network for network in networks if network.download_mib > 0]
    if knobs.weights == "random":
        return Check("weights", "ok", "random, nothing to download")
    if not missing:
        return Check("weights", "ok", "all here")
    total = size(sum(network.download_mib for network in missing))
    detail = f"{total} to download for {len(missing)} networks"
    return Check("weights", "ok", detail, "needs the network; WEIGHTS=random does not")


def check_no_push(knobs: Knobs) -> Check:
    """Say why nothing is pushed."""
    if knobs.push == "later":
        return Check("push", "ok", "later: data_version.py push")
    return Check("push", "ok", "off" if knobs.token else "no token, so runs stay on this machine")


def check_server(said: Mapping[str, Any] | None, knobs: Knobs) -> Check:
    """Judge what the server said of token and repository.

    A rejected token blocks: nobody wants to learn that after hours. A server that cannot be
    reached does not: the runs stay here and can be pushed later.
    """
    name = "push"
    if said is None:
        return Check(name, "warning", "the server does not answer in time; runs stay here first")
    if "error" in said:
        if said["exit_code"] == EXIT_SERVER:
            return Check(name, "warning", f"{said['error']}; runs stay here first", said["mend"])
        mend = f"{said['mend']}, or PUSH=off" if said["mend"] else "PUSH=off"
        return Check(name, "blocks", said["error"], mend, said["exit_code"])
    return _check_repository(said, knobs)


def _check_repository(said: Mapping[str, Any], knobs: Knobs) -> Check:
    name, label = "push", said["label"]
    if said["writable"]:
        return Check(name, "ok", f"{label} takes what {said['user']} pushes")
    if said["exists"]:
        detail = f"{said['user']} may read {label}, not write to it"
        return Check(name, "blocks", detail, "ask its owner, or PUSH=off", EXIT_TOKEN)
    if not knobs.create_repository:
        mend = "CREATE_REPO=1 creates it, or PUSH=off"
        return Check(name, "blocks", f"{label} does not exist", mend)
    if said["user"] != said["owner"]:
        detail = f"{label} does not exist, and only {said['owner']} can create it"
        return Check(name, "blocks", detail, "DAGSHUB_OWNER=another, or PUSH=off")
    return Check(name, "ok", f"{label} will be created")
