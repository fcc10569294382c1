"""What changes while a machine measures: GPU load, memory clock, throttling, CPUs online."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule import machine_state
from tests.test_machine_facts import put


# Where kernels of L4T 32 to 36 have shown it.
@pytest.mark.parametrize(
    "place",
    [
        "devices/gpu.0/load",
        "devices/platform/gpu.0/load",
        "devices/17000000.gv11b/load",
        "devices/57000000.gpu/load",
        "devices/platform/17000000.ga10b/load",
        "devices/platform/bus@0/17000000.gpu/load",
        "class/devfreq/17000000.gpu/device/load",
        "class/devfreq/17000000.gp10b/device/load",
    ],
)
def test_gpu_load(tmp_path: Path, place: str) -> None:
    put(tmp_path, "devices/platform/15340000.gvic/load", "900\n")  # not the GPU
    put(tmp_path, "class/devfreq/15340000.vic/device/load", "900\n")
    assert machine_state.gpu_load_percent(tmp_path) is None
    put(tmp_path, place, "765\n")
    assert machine_state.gpu_load_percent(tmp_path) == 76.5


def test_a_gpu_that_says_no_load_is_not_idle(tmp_path: Path) -> None:
    put(tmp_path, "class/devfreq/gpu-gpc-0/cur_freq", "1575000000\n")  # Jetson Thor
    assert machine_state.gpu_load_percent(tmp_path) is None
    for nonsense in ("", "x", "-1", "1001"):
        put(tmp_path, "devices/gpu.0/load", nonsense)
        assert machine_state.gpu_load_percent(tmp_path) is None
    put(tmp_path, "devices/gpu.0/load", "0")
    assert machine_state.gpu_load_percent(tmp_path) == 0.0


def test_memory_clock(tmp_path: Path) -> None:
    assert machine_state.emc_clock_mhz(tmp_path) is None
    assert machine_state.emc_cap_mhz(tmp_path) is None
    put(tmp_path, "kernel/nvpmodel_emc_cap/emc_iso_cap", "0\n")  # no cap
    assert machine_state.emc_cap_mhz(tmp_path) is None
    put(tmp_path, "kernel/nvpmodel_clk_cap/emc", "3199000000\n")
    put(tmp_path, "kernel/debug/bpmp/debug/clk/emc/rate", "2133000000\n")
    assert machine_state.emc_cap_mhz(tmp_path) == 3199.0
    assert machine_state.emc_clock_mhz(tmp_path) == 2133.0


def cooling(root: Path, number: int, kind: str, state: str) -> None:
    put(root, f"class/thermal/cooling_device{number}/type", f"{kind}\n")
    put(root, f"class/thermal/cooling_device{number}/cur_state", f"{state}\n")


def test_throttling_of_a_jetson(tmp_path: Path) -> None:
    assert machine_state.throttling_now(tmp_path) is None
    cooling(tmp_path, 0, "cpufreq-cpu0", "0")
    cooling(tmp_path, 7, "pwm-fan", "3")
    cooling(tmp_path, 8, "cpu-throttle-alert", "0")
    cooling(tmp_path, 9, "gpu-throttle-alert", "0")
    cooling(tmp_path, 12, "devfreq-gpu-gpc-0", "18")  # so on a cool Jetson Thor
    cooling(tmp_path, 13, "hot-surface-alert", "")
    assert machine_state.throttling_now(tmp_path) == []
    cooling(tmp_path, 9, "gpu-throttle-alert", "1")
    assert machine_state.throttling_now(tmp_path) == ["gpu-throttle-alert"]
    assert machine_state.cooling_states(tmp_path) == {
        "cpufreq-cpu0": 0,
        "cpu-throttle-alert": 0,
        "gpu-throttle-alert": 1,
    }


def test_throttling_of_an_x86(tmp_path: Path) -> None:
    for number, state in enumerate(("0", "3", "0")):
        cooling(tmp_path, number, "Processor", state)
        folder = f"devices/system/cpu/cpu{number}/thermal_throttle"
        put(tmp_path, f"{folder}/core_throttle_total_time_ms", f"{10 * number}\n")
    assert machine_state.cooling_states(tmp_path) == {"Processor": 3}
    assert machine_state.throttle_times_ms(tmp_path) == {"core": 20}
    assert machine_state.throttle_times_ms(tmp_path / "no") == {}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0-3\n", (0, 1, 2, 3)),
        ("0,2-3,7", (0, 2, 3, 7)),
        ("0", (0,)),
        ("", None),
        ("all", None),
        ("0-", None),
        ("3-1", ()),
    ],
)
def test_cpus_online(tmp_path: Path, text: str, numbers: tuple[int, ...] | None) -> None:
    put(tmp_path, "devices/system/cpu/online", text)
    assert machine_state.cpus_online(tmp_path) == numbers
    assert machine_state.cpus_online(tmp_path / "no") is None


@given(st.text(alphabet="0123456789,- x", max_size=12))
def test_any_mask(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = tmp_path_factory.mktemp("mask")
    put(root, "devices/system/cpu/online", text)
    found = machine_state.cpus_online(root)
    assert found is None or list(found) == sorted(set(found))
