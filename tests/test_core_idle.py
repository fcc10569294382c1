"""A run's baselines: what the machine did meanwhile, their drift, and what users are told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgejoule.closing import adopt_calibration
from edgejoule.dataset.schema import write_table
from edgejoule.dataset.verify import _check_calibration
from edgejoule.energy.baseline import baseline_entry
from edgejoule.energy.trace import RailPower
from edgejoule.idle import Meanwhile, drift_of, idle_notes, read_meanwhile

SECOND = 1_000_000_000


def rail(name: str, mean_mw: float, seed: int) -> RailPower:
    times = np.arange(0, 10 * SECOND, 10_000_000)
    noise = np.random.default_rng(seed).normal(0, 20, len(times))
    return RailPower(name, times, mean_mw + noise)


def entries(before_mw: float, after_mw: float) -> list[dict[str, object]]:
    return [
        baseline_entry("loaded", when, {"total": rail("total", mean, seed)}, 0, 9 * SECOND)
        for seed, (when, mean) in enumerate((("before", before_mw), ("after", after_mw)))
    ]  # type: ignore[arg-type]


def test_the_drift_between_before_and_after() -> None:
    drift = drift_of(entries(5000, 5200))["loaded"]["total"]
    assert drift["change_mw"] == pytest.approx(200, abs=10)
    assert drift["significant"] is True
    low, high = drift["interval_mw"]
    assert low < drift["change_mw"] < high
    assert json.loads(json.dumps(drift))


def test_only_a_drift_of_note_is_told() -> None:
    large, small = entries(5000, 5200), entries(5000, 5020)
    (note,) = idle_notes(large, drift_of(large))
    assert note.startswith("between the loaded baselines before and after: total changed by +")
    assert drift_of(small)["loaded"]["total"]["significant"] is True
    assert idle_notes(small, drift_of(small)) == []  # below 1 %


def test_a_baseline_alone_has_no_drift() -> None:
    assert drift_of(entries(5000, 5000)[:1]) == {}


def test_what_was_not_idle_is_told_with_the_mend() -> None:
    busy = Meanwhile([(SECOND, {"cpu_busy_percent": 90.0})], cpus=4).during(0, 2 * SECOND)
    entry = baseline_entry("cold", "before", {"total": rail("total", 5000, 3)}, 0, SECOND, busy)
    (note,) = idle_notes([entry], {})
    assert note.startswith("baseline cold before is not idle: the CPUs were busy 90.0 %")
    assert "close other programs" in note
    later = {**entry, "kind": "loaded", "when": "after"}
    (note,) = idle_notes([entry, later, {**later, "kind": "sampler"}], {})
    assert "; so are loaded after, sampler after; close other" in note


def test_only_looks_within_the_window_count() -> None:
    rows = [(n * SECOND, {"cpu_busy_percent": float(n)}) for n in range(6)]
    found = Meanwhile(rows, shared=True).during(2 * SECOND, 4 * SECOND)
    assert found is not None
    assert found.cpu_busy_percent is not None
    assert (found.samples, found.cpu_busy_percent.mean, found.shared) == (3, 3.0, True)
    assert Meanwhile(rows).during(7 * SECOND, 8 * SECOND) is None


@pytest.mark.parametrize(
    ("cpu", "gpu", "locked"),
    [(True, None, True), (True, False, False), (None, None, None), (True, True, True)],
)
def test_resources_are_read_with_their_holes(
    tmp_path: Path, cpu: bool | None, gpu: bool | None, locked: bool | None
) -> None:
    path = tmp_path / "resources.parquet"
    machine = {"cpu": {"count": 6, "locked": cpu}, "gpu": {"locked": gpu}}
    assert read_meanwhile(path, machine, None) is None
    write_table(path, "resources", {"t_ns": [1, 2], "load_1min": [0.5, None]})
    found = read_meanwhile(path, machine, False)
    assert found is not None
    assert found.rows == [(1, {"load_1min": 0.5}), (2, {})]
    assert (found.cpus, found.clocks_locked, found.shared) == (6, locked, False)


def sensor(name: str = "simulated", *, simulated: bool = True) -> dict[str, object]:
    rails = ("VDD_IN", "VDD_SOC")
    return {"name": name, "simulated": simulated, "channels": [{"rail": rail} for rail in rails]}


def calibration(folder: Path, rails: tuple[str, ...] = ("VDD_IN",)) -> Path:
    from edgejoule.energy.calibration import PARAMETERS, Parameter, RailCalibration
    from edgejoule.energy.calibration_file import Calibration, write_calibration

    parameters = tuple(Parameter(name, "ns", None, None, None, "not asked") for name in PARAMETERS)
    fitted = tuple(
        RailCalibration(name, "current", "mA", parameters, (), None, {}) for name in rails
    )
    path = folder / "calibration.json"
    write_calibration(path, Calibration("simulated", True, fitted, {}, {}, {}, {}, 0))
    return path


def test_a_run_takes_the_datasets_calibration_along(tmp_path: Path) -> None:
    dataset, run = tmp_path / "data", tmp_path / "run"
    dataset.mkdir()
    run.mkdir()
    assert adopt_calibration(dataset, run, sensor()) == []
    assert list(run.iterdir()) == []
    source = calibration(dataset)
    assert adopt_calibration(dataset, run, sensor()) == []
    assert (run / "calibration.json").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("of", "rails"),
    [(sensor("ina3221"), ("VDD_IN",)), (sensor(simulated=False), ("VDD_IN",)), (sensor(), ("CV",))],
)
def test_a_calibration_of_another_sensor_is_left_out(
    tmp_path: Path, of: dict[str, object], rails: tuple[str, ...]
) -> None:
    dataset, run = tmp_path / "data", tmp_path / "run"
    dataset.mkdir()
    run.mkdir()
    calibration(dataset, rails)
    (note,) = adopt_calibration(dataset, run, of)
    assert "left out" in note
    assert list(run.iterdir()) == []


def test_a_damaged_calibration_costs_no_run(tmp_path: Path) -> None:
    dataset, run = tmp_path / "data", tmp_path / "run"
    dataset.mkdir()
    run.mkdir()
    (dataset / "calibration.json").write_text("{}")
    (note,) = adopt_calibration(dataset, run, sensor())
    assert "calibration.json" in note
    assert "calibrate again" in note or "give a file" in note
    assert list(run.iterdir()) == []


def test_verify_looks_at_a_runs_calibration(tmp_path: Path) -> None:
    path = calibration(tmp_path)
    assert _check_calibration(path, {"sensor": {"name": "simulated"}, "simulated": True}) == []
    for name, simulated in (("ina3221", True), ("simulated", False)):
        run = {"sensor": {"name": name}, "simulated": simulated}
        (finding,) = _check_calibration(path, run)
        assert "is of sensor simulated" in finding.problem
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    (finding,) = _check_calibration(path, {"sensor": {"name": "simulated"}, "simulated": True})
    assert "version" in finding.problem
