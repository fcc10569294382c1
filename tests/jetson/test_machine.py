"""The board, its software, its rails, and what every backend says of itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgejoule.inference.backends import backend_names, get_backend
from edgejoule.machine import describe_machine
from edgejoule.power.sensor import Where
from edgejoule.power.sensors import board_channels
from edgejoule.processes import PROJECT_ROOT
from tests.jetson.conftest import Notes

pytestmark = pytest.mark.jetson


def test_board(notes: Notes) -> None:
    machine = describe_machine(channels=board_channels(Where()))
    notes.note("machine", "board", f"{machine['board_id']} (from {machine['board_source']})")
    notes.note("machine", "L4T, JetPack", f"{machine['l4t']}, {machine['jetpack']}")
    mode = f"{machine['power_mode']} ({machine['power_mode_source']})"
    notes.note("machine", "power mode", f"{mode} of {machine['power_modes']}")
    cpu, gpu = machine["cpu"], machine["gpu"]
    notes.note("machine", "CPU", f"{cpu['model']}, online {cpu['online']} of {cpu['count']}")
    locked = f"CPU {cpu['locked']}, GPU {gpu['locked']}"
    notes.note("machine", "clocks locked", locked)
    notes.note("machine", "memory", f"{machine['memory_mib']:.0f} MiB")
    notes.note("machine", "throttled", machine["throttle_counts"] or "never")
    notes.note("machine", "container", machine["container_base"] or machine["container"])
    system = f"{machine['distribution']}, Linux {machine['kernel']}, {machine['architecture']}"
    notes.note("software", "system", system)
    notes.note("software", "Python", machine["python"])
    known = {name: version for name, version in machine["libraries"].items() if version}
    notes.note("software", "libraries", ", ".join(f"{n} {v}" for n, v in known.items()))
    assert machine["board_id"], "the machine does not say what it is"


def test_cuda(notes: Notes) -> None:
    from edgejoule.errors import UsageError
    from edgejoule.inference.trt.cuda import load_cuda

    try:
        cuda = load_cuda()
    except UsageError as error:
        notes.note("software", "CUDA runtime", str(error))
        pytest.skip(str(error))
    notes.note("software", "CUDA", f"runtime {cuda.runtime_version}, driver {cuda.driver_version}")
    device = cuda.device(0)
    cuda.use(0)
    free, total = cuda.memory()
    notes.note(
        "machine",
        "GPU",
        f"{device.name}, sm_{device.compute_capability[0]}{device.compute_capability[1]}, "
        f"{'shares the memory' if device.integrated else 'own memory'}, "
        f"{free / 2**20:.0f} of {total / 2**20:.0f} MiB free",
    )
    assert device.total_bytes == total


@pytest.mark.parametrize("name", backend_names())
def test_backend(notes: Notes, name: str) -> None:
    """A backend may be unusable; saying so must work."""
    backend = get_backend(name)
    available = backend.availability()
    text = available.why
    if available.usable:
        devices = backend.devices()
        dtypes = {device: ", ".join(backend.dtypes(device)) for device in devices}
        text += "".join(f"; {device}: {found}" for device, found in dtypes.items())
        assert devices
    notes.note("backends", name, text)
    assert text


def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT_ROOT / "measure_power.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_rails(notes: Notes) -> None:
    done = tool("rails", "--json")
    found = json.loads(done.stdout)
    absent = {name: said["why_not"] for name, said in found.items() if "why_not" in said}
    notes.note("power", "not here", "; ".join(f"{n}: {why}" for n, why in absent.items()))
    for sensor, said in found.items():
        if sensor in absent:
            continue
        rails = [
            f"{one['rail']} {one['value']} {one['unit']} ({one['source']})"
            for one in said["channels"]
        ]
        notes.note("power", sensor, ", ".join(rails))
        notes.note("power", f"{sensor}, refresh", [g["refresh_ns"] for g in said["groups"]])
        notes.note("power", f"{sensor}, board and total", [said.get("board"), said.get("total")])
    if done.returncode:
        pytest.skip("no sensor can be read here")


def test_sampler(notes: Notes, tmp_path: Path) -> None:
    """Five seconds of every rail: the rate that is kept up, and what it costs."""
    trace = tmp_path / "trace.parquet"
    done = tool("record", "--duration", "5", "--quiet", "--output", str(trace))
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    for line in lines:
        if line.startswith("total") or "sweeps" in line:
            name = "idle total" if line.startswith("total") else "sampler"
            notes.note("power", name, line)
    if any("no power sensor can be read" in line for line in lines):
        pytest.skip("no power sensor can be read here")
    assert done.returncode == 0, lines[-1:]
    assert trace.is_file()
