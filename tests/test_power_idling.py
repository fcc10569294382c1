"""`measure_idling_power.py`: conditions, verdicts and totals in what it prints and stores."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgejoule.cli import measure_idling_power as idling
from edgejoule.dataset.schema import schema_problems
from edgejoule.energy.conditions import Conditions, Course
from edgejoule.power.sensor import Where
from edgejoule.records import POWER, RecordWriter

MS = 1_000_000
SECOND = 1000 * MS
TOTAL = {
    "rails": ["VDD_IN"],
    "contains": "the module",
    "excludes": "the carrier board",
    "source": "a test",
}


def record(directory: Path, power_mw: np.ndarray, **header: Any) -> None:
    """Write a `power.bin` with one power rail, read every 7 ms."""
    channel = {"index": 0, "rail": "VDD_IN", "quantity": "power", "unit": "mW", "chip": "x"}
    facts = {"channels": [channel], "sensor": "ina3221", "simulated": False, "refresh_ns": 7 * MS}
    facts |= {"configuration": {}, "wall_anchor": None, "total": TOTAL}
    writer = RecordWriter(directory / "power.bin", POWER, {**facts, **header})
    for k, value in enumerate(np.rint(power_mw).astype(int).tolist()):
        writer.write(k * 7 * MS, k * 7 * MS + 1000, value, 0, 0)
    writer.close()


def noisy(n: int = 4001, drift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(1).normal(5000, 20, n) + np.linspace(0, drift, n)


CALM = Conditions(
    samples=28,
    cpus=6,
    cpu_busy_percent=Course(1.0, 1.0, 1.2, 0.5, 3.0),
    temperatures_c={"tj": Course(44.0, 44.5, 44.2, 44.0, 44.5), "cpu": Course(40, 40, 40, 40, 40)},
    clocks_locked=True,
)


def result(directory: Path, power: np.ndarray, conditions: Conditions | None = CALM, **header: Any):
    record(directory, power, **header)
    report = {"kind": "done", "sweeps": 3}
    return idling.result_of(directory, 0, 28 * SECOND - 1000, report, conditions)


def test_an_idle_board_is_called_idle_and_what_is_not_known_is_said(tmp_path: Path) -> None:
    found = result(tmp_path, noisy())
    assert schema_problems("idle", json.loads(json.dumps([found]))) == []  # as it is written
    assert json.dumps(found, allow_nan=False)
    assert found["verdicts"] == []
    assert found["avg_idle_power"] == pytest.approx(5_000_000, rel=1e-3)
    assert (found["total_of"], found["total"]["contains"]) == (["VDD_IN"], "the module")
    assert found["conditions"]["cpu_busy_percent"]["mean"] == 1.2
    assert found["sampler"] == {"sweeps": 3}
    text = idling.describe(found)
    assert "total = VDD_IN: the module; without the carrier board" in text
    assert "meanwhile: CPUs 1.2 % busy (at most 3 %), tj 44.0 to 44.5 deg C, clocks locked" in text
    assert "not known: GPU load" in text
    assert text.splitlines()[-1] == "idle and steady, as far as could be seen"


def test_a_busy_board_and_a_drifting_one_are_told_with_the_mend(tmp_path: Path) -> None:
    busy = Conditions(cpu_busy_percent=Course(30, 50, 40.0, 30, 50), throttled={"oc1": 3})
    found = result(tmp_path, noisy(drift=300.0), busy)
    assert [verdict["kind"] for verdict in found["verdicts"]] == ["not_idle", "drifting"]
    text = idling.describe(found)
    assert "NOT IDLE: the CPUs were busy 40.0 % of the time (limit 5 %); close other" in text
    assert "DRIFTING: total rises by" in text
    assert "throttled (oc1), not known: GPU load, temperature" in text
    assert "idle and steady" not in text


def test_a_board_without_a_total_or_with_half_of_one(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
    unknown = result(tmp_path / "a", noisy(), total=None)
    assert (unknown["avg_idle_power"], unknown["total_of"]) == (None, None)
    assert "unknown board: no total, so avg_idle_power is null" in idling.describe(unknown)
    half = result(tmp_path / "b", noisy(), total={**TOTAL, "rails": ["VDD_IN", "GONE"]})
    assert half["avg_idle_power"] is None
    assert "a rail of it gave no value" in idling.describe(half)
    short = result(tmp_path / "c", noisy(20), None, simulated=True)
    text = idling.describe(short)
    assert "meanwhile: nobody looked" in text
    assert "measure longer" in text
    assert text.splitlines()[-1] == "SIMULATED: no power was measured"
    # A trace of an older version has no `total`: the rails' labels say what it is.
    record(tmp_path / "d", noisy())
    older = idling.result_of(tmp_path / "d", 0, SECOND, {}, None)
    older["total"] = None
    assert "total = VDD_IN" in idling.describe(older)


class Gpu:
    """What `edgejoule.gpu_watch.GpuWatch` is to the command."""

    def __init__(self, count: int | None, shared: bool | None) -> None:
        self.before: Any = None
        self.after: Any = None
        self.closed = False
        self._count, self._shared = count, shared

    def look(self) -> Any:
        return SimpleNamespace(foreign_pids_count=self._count)

    def read(self) -> dict[str, float]:
        return {"gpu_load_percent": 3.0, "gpu_temperature_c": 31.0}

    def shared(self) -> bool | None:
        return self._shared

    def close(self) -> None:
        self.closed = True


def machine(root: Path) -> tuple[str, str]:
    """Make a thermal zone, a locked clock and a CPU that is a quarter busy since its start."""
    zone = root / "sys/class/thermal/thermal_zone0"
    clock = root / "sys/devices/system/cpu/cpu0/cpufreq"
    for folder in (zone, clock, root / "proc"):
        folder.mkdir(parents=True)
    (zone / "type").write_text("tj\n")
    (zone / "temp").write_text("45500\n")
    for name in ("scaling_cur_freq", "scaling_min_freq", "scaling_max_freq"):
        (clock / name).write_text("1500000\n")
    (root / "proc/stat").write_text("cpu  100 0 0 300 0 0 0 0 0 0\n")
    return str(root / "sys"), str(root / "proc")


def test_the_machine_is_looked_at_once_a_second(tmp_path: Path) -> None:
    sysfs, proc = machine(tmp_path)
    gpu: Any = Gpu(2, True)
    gpu.before = gpu.look()
    look = idling.IdleLook(tmp_path, sysfs, proc, gpu)
    now_ns = look._last_ns
    (tmp_path / "proc/stat").write_text("cpu  110 0 0 330 0 0 0 0 0 0\n")
    for k in range(1, 10):  # four times a second
        look.tick(now_ns + k * SECOND // 4)
    found = look.end()
    assert found.samples == 2
    assert found.cpu_busy_percent is not None
    assert found.cpu_busy_percent.start == pytest.approx(25.0)
    assert set(found.temperatures_c) == {"tj", "gpu"}
    assert found.gpu_utilisation_percent is not None
    assert (found.clocks_locked, found.gpu_processes, found.shared) == (True, 2, True)


def test_a_short_window_is_looked_at_once_and_a_simulated_board_has_no_cpus(
    tmp_path: Path,
) -> None:
    sysfs, _ = machine(tmp_path)
    found = idling.IdleLook(tmp_path, sysfs, None).end()
    assert found.samples == 1
    assert (found.cpus, found.cpu_busy_percent, found.load_1min) == (None, None, None)
    assert (found.gpu_processes, found.shared) == (None, None)


def test_the_gpu_is_watched_where_its_power_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def open_gpu_watch(uuid: str) -> Any:
        assert uuid == "GPU-1"
        opened.append(Gpu(None, None))
        return opened[-1]

    monkeypatch.setattr("edgejoule.gpu_watch.open_gpu_watch", open_gpu_watch)
    with idling._gpu_of("nvml,rapl", Where("/sys", "GPU-1")) as watch:
        assert watch is opened[0]
        assert watch.before is not None
    assert opened[0].closed
    for sensor, where in (("rapl", Where("/sys", "GPU-1")), ("nvml", Where())):
        with idling._gpu_of(sensor, where) as watch:
            assert watch is None


def test_the_command_on_the_simulated_board(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--sensor", "simulated", "--idle-duration", "1.5", "--result-dir"]
    assert idling.main([*words, str(tmp_path / "a")]) == 0
    assert "tj-thermal" in capsys.readouterr().out
    found = json.loads((tmp_path / "a" / idling.RESULT_FILE).read_text())
    assert found["conditions"]["samples"] == 1
    assert found["rails"]["total"]["gaps"] >= 0
    assert idling.main([*words, str(tmp_path / "b"), "--quiet"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1].startswith("written: ")
    assert len(out) >= 2
