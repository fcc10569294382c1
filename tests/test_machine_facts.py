"""Machine facts from fake sysfs and procfs trees: an Orin, a plain x86 box, and nothing at all."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edgejoule import machine, machine_state
from edgejoule.machine import PowerMode, describe_machine, power_modes

NVPMODEL_CONF = """\
# < POWER_MODEL ID=9 NAME=COMMENTED >
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< PM_CONFIG DEFAULT=1 >
"""


def put(root: Path, name: str, content: str | bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def cpu(sys: Path, number: int, low: int, high: int, now: int, top: int = 2_201_600) -> None:
    folder = f"devices/system/cpu/cpu{number}/cpufreq"
    put(sys, f"{folder}/scaling_governor", "schedutil\n")
    put(sys, f"{folder}/scaling_min_freq", f"{low}\n")
    put(sys, f"{folder}/scaling_max_freq", f"{high}\n")
    put(sys, f"{folder}/scaling_cur_freq", f"{now}\n")
    put(sys, f"{folder}/cpuinfo_max_freq", f"{top}\n")


def orin(root: Path) -> tuple[Path, Path]:
    sys, proc = root / "sys", root / "proc"
    tree = "firmware/devicetree/base"
    put(sys, f"{tree}/model", b"NVIDIA Jetson Orin Nano Developer Kit\0")
    put(sys, f"{tree}/compatible", b"nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0")
    for number in range(12):
        cpu(sys, number, 1_510_400, 1_510_400, 1_510_400)
    put(sys, "devices/system/cpu/online", "0-11\n")
    put(sys, "devices/system/cpu/cpufreq/policy0/ignored", "")
    gpu = "class/devfreq/17000000.gpu"
    put(sys, f"{gpu}/min_freq", "306000000\n")
    put(sys, f"{gpu}/max_freq", "1020000000\n")
    put(sys, f"{gpu}/cur_freq", "612000000\n")
    put(sys, f"{gpu}/governor", "nvhost_podgov\n")
    put(sys, "class/devfreq/15340000.vic/cur_freq", "1\n")
    for number, (kind, value) in enumerate(
        [("cpu-thermal", "53968"), ("gpu-thermal", "-256000"), ("cpu-thermal", "50000")]
    ):
        put(sys, f"class/thermal/thermal_zone{number}/type", kind + "\n")
        put(sys, f"class/thermal/thermal_zone{number}/temp", value + "\n")
    put(sys, "class/thermal/thermal_zone10/type", "cv0-thermal\n")
    put(sys, "class/thermal/thermal_zone10/temp", "")
    put(sys, "class/hwmon/hwmon1/name", "soctherm_oc\n")
    put(sys, "class/hwmon/hwmon1/oc1_event_cnt", "0\n")
    put(sys, "class/hwmon/hwmon1/oc3_event_cnt", "7\n")
    put(sys, "class/hwmon/hwmon2/name", "pwmfan\n")
    put(sys, "class/hwmon/hwmon2/pwm1", "0\n")
    put(root, "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: x\n")
    put(root, "etc/os-release", 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n')
    put(root, "etc/nvpmodel.conf", NVPMODEL_CONF)
    put(root, "var/lib/nvpmodel/status", "pmode:0000 fmode:quiet")
    put(proc, "meminfo", "MemTotal: 7802000 kB\nMemAvailable: 5000000 kB\nHugePages_Total: 0\n")
    put(proc, "sys/kernel/osrelease", "5.15.148-tegra\n")
    put(proc, "cpuinfo", "processor : 0\nBogoMIPS : 62.50\n")
    return sys, proc


def test_orin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEJOULE_BOARD", raising=False)
    sys, proc = orin(tmp_path)
    found = describe_machine(sys, proc, tmp_path, project_root=tmp_path)
    assert found["board_id"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found["board_source"] == "device tree"
    assert found["compatible"] == ["nvidia,p3768-0000+p3767-0005", "nvidia,tegra234"]
    assert (found["l4t"], found["jetpack"]) == ("36.4.3", "6.2")
    assert found["power_mode"] == "15W"
    assert found["power_modes"] == ["15W", "25W", "MAXN_SUPER"]
    assert found["cpu"] == {
        "model": None,
        "count": 12,
        "online": "0-11",
        "governors": ["schedutil"],
        "min_mhz": 1510.4,
        "max_mhz": 1510.4,
        "hardware_max_mhz": 2201.6,
        "locked": True,
    }
    assert found["gpu"]["locked"] is False
    assert found["gpu"]["clocks"] == [
        {"name": "17000000.gpu", "min_mhz": 306, "max_mhz": 1020, "governor": "nvhost_podgov"}
    ]
    assert found["temperatures_c"] == {"cpu-thermal": 53.968, "cpu-thermal_2": 50.0}
    assert found["throttle_counts"] == {"oc1": 0, "oc3": 7}
    assert found["memory_mib"] == 7619.1
    assert found["kernel"] == "5.15.148-tegra"
    assert found["distribution"] == "Ubuntu 22.04.5 LTS"
    assert found["container"] is False
    assert found["hypervisor"] is None
    assert found["code"] is None


def test_plain_x86(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEJOULE_BOARD", raising=False)
    sys, proc = tmp_path / "sys", tmp_path / "proc"
    put(
        proc,
        "cpuinfo",
        "model name\t: Fast CPU 9\nflags\t\t: fpu sse hypervisor\n\nmodel name : x\n",
    )
    gpu = "driver/nvidia/gpus/0000:01:00.0/information"
    put(proc, gpu, "Model: \t\t NVIDIA GeForce 1\nGPU UUID: \t GPU-secret\n")
    version = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release\n"
    put(proc, "driver/nvidia/version", version)
    for number in range(2):
        throttle = f"devices/system/cpu/cpu{number}/thermal_throttle/core_throttle_count"
        put(sys, throttle, f"{number + 1}\n")
        cpu(sys, number, 800_000, 4_000_000, 3_000_000)
    put(tmp_path, ".dockerenv", "")
    found = describe_machine(sys, proc, tmp_path, project_root=tmp_path)
    assert (found["board_id"], found["board_source"]) == ("Fast CPU 9", "cpu")
    assert found["gpu"]["names"] == ["NVIDIA GeForce 1"]
    assert found["gpu"]["driver"] == "575.57.08"
    assert "secret" not in str(found)
    assert found["cpu"]["locked"] is False
    assert found["throttle_counts"] == {"cpu_core": 3}
    assert found["container"] is True
    assert found["hypervisor"] is True
    assert found["power_mode"] is None


def test_nothing_is_invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEJOULE_BOARD", raising=False)
    found = describe_machine(tmp_path / "sys", tmp_path / "proc", tmp_path, tmp_path)
    told = ("architecture", "python", "libraries", "board_source", "container", "container_base")
    for key in found.keys() - set(told):
        if key in ("cpu", "gpu"):
            assert set(found[key].values()) == {None}
        else:
            assert not found[key], key
    assert found["code"] is None


def test_board_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEJOULE_BOARD", "my rig")
    sys, proc = orin(tmp_path)
    found = describe_machine(sys, proc, tmp_path, tmp_path)
    assert (found["board_id"], found["board_source"]) == ("my rig", "EDGEJOULE_BOARD")


def test_host_name_is_not_recorded() -> None:
    name = socket.gethostname()
    assert name not in (str(value) for value in describe_machine().values())


def test_mode_without_a_table_is_a_number(tmp_path: Path) -> None:
    put(tmp_path, "var/lib/nvpmodel/status", "pmode:0003")
    assert power_modes(tmp_path) == (PowerMode("mode 3", 3), [])
    put(tmp_path, "var/lib/nvpmodel/status", "nonsense")
    assert power_modes(tmp_path) == (None, [])


def test_libraries_are_not_imported() -> None:
    code = (
        "import sys; from edgejoule.machine import describe_machine as d; v = d()['libraries'];"
        "print(v['numpy'], [n for n in ('numpy', 'torch', 'onnxruntime') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=machine.PROJECT_ROOT,
    )
    version, _, rest = done.stdout.strip().partition(" ")
    assert version[0].isdigit()
    assert rest == "[]"


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True)


def test_code_is_the_folders_own_commit(tmp_path: Path) -> None:
    put(tmp_path, "file", "one")
    git(tmp_path, "init", "-q")
    assert machine.code_version(tmp_path) is None  # no commit yet
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "first")
    clean = machine.code_version(tmp_path)
    assert clean is not None
    assert (len(clean["commit"]), clean["dirty"]) == (40, False)
    put(tmp_path, "file", "two")
    assert machine.code_version(tmp_path) == {**clean, "dirty": True}
    inner = tmp_path / "inner"
    inner.mkdir()
    assert machine.code_version(inner) is None  # the enclosing repository is not this code


def test_code_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.code_version(tmp_path) is None


def test_fans_and_desktop(tmp_path: Path) -> None:
    sys, proc = orin(tmp_path)
    assert machine_state.fans(sys) == [machine_state.Fan("pwmfan", 0, None)]
    put(proc, "1/comm", "systemd\n")
    put(proc, "77/comm", "gnome-shell\n")
    put(proc, "78/comm", "Xorg\n")
    assert machine_state.desktop_processes(proc) == ["Xorg", "gnome-shell"]


def test_resident_memory(tmp_path: Path) -> None:
    put(tmp_path, "12/status", "Name: x\nVmRSS:\t   2048 kB\n")
    put(tmp_path, "13/status", "Name: kernel thread\n")
    assert machine_state.resident_mib(12, tmp_path) == 2.0
    assert machine_state.resident_mib(13, tmp_path) is None
    assert machine_state.resident_mib(14, tmp_path) is None


def test_lock_is_unknown_where_limits_are_missing() -> None:
    clock = machine_state.Clock("cpu0", 1.0, None, 2.0, None)
    assert clock.locked is None
    assert machine_state.all_locked([]) is None
    assert machine_state.all_locked([clock]) is None
    held = machine_state.Clock("cpu1", 2.0, 2.0, 2.0, None)
    assert machine_state.all_locked([held]) is True
    assert machine_state.all_locked([held, clock]) is None
