"""Before hours of measuring: what stands in the way of a good result, and what mends it.

Ten seconds at most. Each check is a function from what the machine says to a `Check`; only the
backend (a process of its own) and the dataset's server (timeouts) can take long.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgejoule.dataset.versions.dagshub import token_from_environment
from edgejoule.dataset.versions.token_pipe import token_pipe
from edgejoule.energy_methods import Methods
from edgejoule.errors import EXIT_USAGE
from edgejoule.knobs import Knobs
from edgejoule.machine import describe_machine, in_container, power_modes
from edgejoule.machine_state import desktop_processes, memory_mib
from edgejoule.plan import Network
from edgejoule.power.sensor import Where
from edgejoule.power.sensors import board_channels
from edgejoule.preflight_checks import (
    Backend,
    Check,
    check_backend,
    check_board,
    check_clocks,
    check_desktop,
    check_energy,
    check_fan,
    check_folder,
    check_memory,
    check_no_push,
    check_power_mode,
    check_sensor,
    check_server,
    check_weights,
    is_jetson,
)
from edgejoule.processes import PROJECT_ROOT, child_environment
from edgejoule.report.text import printable

LIMIT_S = 9.0


@dataclass(frozen=True)
class Preflight:
    """All checks, and what they found out for the plan."""

    checks: tuple[Check, ...]
    backend: Backend
    sensor: str
    machine: Mapping[str, Any]
    methods: Methods | None = None

    @property
    def gpu(self) -> bool:
        """Whether this machine would measure on a GPU, as far as can be seen."""
        if self.backend.gpu is not None:
            return self.backend.gpu
        seen = self.machine.get("gpu") or {}
        return bool(seen.get("names") or seen.get("clocks"))


def run_preflight(
    knobs: Knobs,
    networks: Sequence[Network],
    *,
    sysfs_root: str = "/sys",
    proc_root: str = "/proc",
    root: str = "/",
    limit_s: float = LIMIT_S,
) -> Preflight:
    """Look at everything.

    Args:
        knobs: What is wanted.
        networks: What will be measured.
        sysfs_root: Where sysfs is mounted.
        proc_root: Where procfs is mounted.
        root: What /etc and /var are looked up below.
        limit_s: Longest that backend and server are waited for.
    """
    deadline = time.monotonic() + limit_s
    with contextlib.ExitStack() as stack:
        forms = ",".join(networks[0].forms if networks else ("torch", "onnx"))
        trial = stack.enter_context(probe("backend", knobs.backend, knobs.dtype, forms))
        server = None
        if knobs.push in ("each", "end"):
            server = stack.enter_context(probe("server", knobs.owner or "", knobs.repository))
        where = Where(sysfs_root)
        machine = describe_machine(sysfs_root, proc_root, root, channels=board_channels(where))
        sensor, sensor_check = check_sensor(knobs.sensor, where, jetson=is_jetson(machine))
        container = in_container(root)
        before = [
            check_board(machine),
            check_power_mode(machine, *power_modes(root), container=container),
            check_clocks(machine),
            check_fan(machine, sysfs_root),
            check_desktop(desktop_processes(proc_root), container=container),
            sensor_check,
        ]
        after = [
            check_memory(memory_mib(proc_root).get("available")),
            check_folder(knobs.result_dir),
            check_weights(knobs, networks),
        ]
        backend, check = check_backend(said_by(trial, deadline), knobs, networks)
        methods = None
        if sensor_check.verdict != "blocks" and check.verdict != "blocks":
            methods, of_layers = check_energy(knobs, sensor, backend)
            after.insert(0, of_layers)
        after.append(
            check_no_push(knobs)
            if server is None
            else check_server(said_by(server, deadline), knobs)
        )
    return Preflight((*before, check, *after), backend, sensor, machine, methods)


def preflight_text(checks: Sequence[Check]) -> str:
    """Return the checks as they are printed, each mend on a line of its own."""
    lines = ["Preflight"]
    for check in checks:
        lines.append(f"  {check.verdict:<8} {check.name:<11} {printable(check.detail)}")
        if check.mend:
            lines.append(f"  {'':<8} {'':<11} -> {printable(check.mend)}")
    return "\n".join(lines)


@contextlib.contextmanager
def probe(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of `edgejoule.preflight_probe`; it ends with the context."""
    # The one that asks the server, and runs nobody else's code, gets the token.
    token = token_from_environment() if arguments[0] == "server" else None
    with token_pipe(token) as (variables, descriptors):
        process = subprocess.Popen(
            [sys.executable, "-m", "edgejoule.preflight_probe", *arguments],
            cwd=PROJECT_ROOT,
            env=child_environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=descriptors,
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said_by(process: subprocess.Popen[str], deadline: float) -> dict[str, Any] | None:
    """Return what a probe said, None if it took too long; `error` if it broke."""
    try:
        out, err = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    try:
        said: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = err.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        return {"error": f"cannot be tried: {last[0]}", "mend": "", "exit_code": EXIT_USAGE}
    return said
