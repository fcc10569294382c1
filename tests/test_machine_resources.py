"""The resource sampler: what it writes is what the files said, and a gone file is a gap."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from edgejoule.records import RESOURCES, read_header
from edgejoule.resources import ResourceSampler
from tests.test_machine_facts import orin, put


def rows(path: Path) -> list[tuple[int, float, str]]:
    header, offset = read_header(path)
    names = [column["name"] for column in header["columns"]]
    scales = [column["scale"] for column in header["columns"]]
    data = path.read_bytes()[offset:]
    return [
        (t_ns, value * scales[column], names[column])
        for t_ns, value, column, _ in RESOURCES.struct.iter_unpack(data)
    ]


def test_values_and_gaps(tmp_path: Path) -> None:
    sys, proc = orin(tmp_path)
    put(proc, "loadavg", "0.50 0.10 0.05 1/200 99\n")
    put(proc, "meminfo", "MemAvailable: 2048 kB\nSwapTotal: 3072 kB\nSwapFree: 1024 kB\n")
    put(proc, "stat", "cpu  10 0 10 70 10 0 0 0 5 5\ncpu0 1 1 1 1\n")
    put(proc, "42/status", "VmRSS: 1024 kB\n")
    sampler = ResourceSampler(tmp_path / "resources.bin", sys, proc)
    sampler.watch("measuring", 42)
    put(proc, "stat", "cpu  40 0 10 130 20 0 0 0 5 5\n")
    row = sampler.sample(1_000)
    assert row == {
        "cpu_mhz_mean": pytest.approx(1510.4),
        "gpu_mhz_17000000.gpu": 612.0,
        "cpus_online": 12,
        "temperature_cpu-thermal_c": 53.968,
        "temperature_cpu-thermal_2_c": 50.0,
        "throttled_oc1": 0,
        "throttled_oc3": 7,
        "load_1min": 0.5,
        "memory_available_mib": 2.0,
        "swap_used_mib": 2.0,
        "rss_measuring_mib": 1.0,
        "cpu_busy_percent": 30.0,
    }
    for gone in (proc / "loadavg", proc / "stat", sys / "class/thermal/thermal_zone0/temp"):
        gone.unlink()
    put(sys, "class/thermal/thermal_zone10/temp", "30000\n")  # woke up: it has no column
    sampler.watch("measuring", None)
    later = sampler.sample(2_000)
    assert "load_1min" not in later
    sampler.close()
    written = rows(tmp_path / "resources.bin")
    first = {name: value for t_ns, value, name in written if t_ns == 1_000}
    assert first == pytest.approx(row)
    second = {name for t_ns, _, name in written if t_ns == 2_000}
    assert "temperature_cv0-thermal_c" not in second
    assert {"load_1min", "rss_measuring_mib", "cpu_busy_percent"}.isdisjoint(second)
    assert "swap_used_mib" in second


def test_unknown_process_is_a_mistake_of_ours(tmp_path: Path) -> None:
    sampler = ResourceSampler(tmp_path / "resources.bin", tmp_path, tmp_path, processes=())
    with pytest.raises(KeyError):
        sampler.watch("measuring", 1)
    assert sampler.sample(1) == {}
    sampler.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs procfs")
def test_on_this_machine(tmp_path: Path) -> None:
    sampler = ResourceSampler(tmp_path / "resources.bin")
    sampler.watch("sampler", os.getpid())
    row = sampler.sample(5)
    sampler.close()
    assert row["rss_sampler_mib"] > 1
    assert row["memory_available_mib"] > 1
    assert struct.calcsize("<qqii") == RESOURCES.struct.size
    assert {name for _, _, name in rows(tmp_path / "resources.bin")} == set(row)
