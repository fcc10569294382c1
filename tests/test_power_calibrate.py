"""`measure_power.py calibrate`: on the simulated board from end to end, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.cli import calibration_run
from edgejoule.cli.measure_power import main
from edgejoule.energy.calibration_file import read_calibration
from edgejoule.energy.calibration_load import load_of
from edgejoule.energy.sensor_model import Filtered
from edgejoule.power.exciter import read_edges
from edgejoule.power.sensor import Where
from edgejoule.power.simulated_board import RAILS
from tests.support_power import orin_nx

BUSY_S = 4.0


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibrate the simulated board once; the folder has `calibration.json` and `kept/`."""
    folder = tmp_path_factory.mktemp("calibrate")
    words = ["calibrate", "--sensor", "simulated", "--duration", str(BUSY_S), "--quiet"]
    words += ["--output", str(folder / "calibration.json"), "--keep-trace", str(folder / "kept")]
    assert main(words) == 0
    return folder


@pytest.mark.alone  # beside others the load that is drawn is not the one that is announced
def test_the_simulated_board_is_calibrated_end_to_end(kept: Path) -> None:
    found = read_calibration(kept / "calibration.json")
    assert (found.sensor, found.simulated) == ("simulated", True)
    assert [rail.rail for rail in found.rails] == [rail.label for rail in RAILS]
    truth = found.made["truth"]
    assert truth == json.loads((kept / "kept/0/truth.json").read_text())["chip"]
    assert truth["delay_ns"] == 1_100_000
    assert found.made["load"] == "announced"
    assert found.made["takes"][0]["missed"] == 0
    assert found.versions["edgejoule"]
    # How exact the rest is depends on how busy this machine is: `test_power_simulator.py` compares
    # each figure without it.
    first = found.rails[0]
    assert first["refresh_ns"].value == pytest.approx(truth["refresh_ns"], rel=0.05)
    assert first["lsb"].value == 8.0
    assert not list(kept.glob(".edgejoule-*"))


@pytest.mark.alone  # beside others the load that is drawn is not the one that is announced
def test_a_kept_trace_is_fitted_again_against_a_meter(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # What a meter at VDD_IN would log: the announced load, on a clock that began elsewhere.
    load = load_of(read_edges(kept / "kept/0/edges.jsonl"))
    start, end = int(load.edges_ns[0]) - 5 * 10**8, int(load.edges_ns[-1]) + 5 * 10**8
    edges = np.arange(start, end, 2_000_000)
    share = Filtered(load, 0.0).mean(edges[:-1].astype(float), edges[1:].astype(float))
    watts = (RAILS[0].idle_mw + share * RAILS[0].inference_mw) * 1e-3 / 0.98
    rows = [f"{(t - start) * 1e-9:.6f},{p:.4f}" for t, p in zip(edges[1:], watts, strict=True)]
    meter = tmp_path / "meter.csv"
    meter.write_text("time_s,power_w\n" + "\n".join(rows))
    output = tmp_path / "again.json"
    words = ["calibrate", "--from-trace", str(kept / "kept"), "--rail", "VDD_IN", "--quiet"]
    words += ["--output", str(output), "--against", str(meter)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "VDD_SOC" not in said
    assert "against the meter: gain" in said
    assert "SIMULATED" in said
    assert "truly has" in said
    (part,) = json.loads(output.read_text())["against"]["comparisons"]
    assert part["gain"] == pytest.approx(0.98, abs=0.05)
    # Again, as JSON, over the file that is there.
    assert main([*words, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rails"][0]["rail"] == "VDD_IN"


@pytest.mark.alone  # beside others the load that is drawn is not the one that is announced
def test_a_meter_of_something_else_is_said(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    rows = [f"{k / 100},{p}" for k, p in enumerate(rng.normal(5, 1, 500))]
    meter = tmp_path / "meter.csv"
    meter.write_text("time_s,power_w\n" + "\n".join(rows))
    words = ["calibrate", "--from-trace", str(kept / "kept"), "--rail", "VDD_IN", "--quiet"]
    assert main([*words, "--output", str(tmp_path / "x.json"), "--against", str(meter)]) == 1
    assert "do not show the same load" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--output", "{old}"], 2, "is there already"),
        (["--output", "{new}/deeper/x.json"], 2, "there is no folder"),
        (["--output", "{new}/x.json", "--duration", "0"], 2, "--duration 0"),
        (["--output", "{new}/x.json", "--keep-trace", "{new}"], 2, "is there already"),
        (["--output", "{new}/x.json", "--from-trace", "{new}"], 2, "holds no kept trace"),
        (["--output", "{new}/x.json", "--from-trace", "a", "--keep-trace", "b"], 2, "leave"),
        (["--output", "{new}/x.json", "--sensor", "simulated", "--rail", "NO"], 2, "no such rail"),
        (["--output", "{new}/x.json", "--sensor", "simulated", "--duration", "1"], 2, "too short"),
        (["--output", "{new}/x.json", "--sensor", "none"], 1, "no power sensor"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, says: str
) -> None:
    old = tmp_path / "old.json"
    old.write_text("{}")
    filled = [word.format(old=old, new=tmp_path) for word in words]
    assert main(["calibrate", "--quiet", *filled]) == status
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_damaged_kept_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept" / "0").mkdir(parents=True)
    (tmp_path / "kept" / "0" / "take.json").write_text("[]")
    words = ["--from-trace", str(tmp_path / "kept"), "--output", str(tmp_path / "x.json")]
    assert main(["calibrate", *words]) == 1
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.alone  # beside others the load that is drawn is not the one that is announced
def test_a_rail_that_was_not_recorded(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--from-trace", str(kept / "kept"), "--output", str(tmp_path / "x.json")]
    assert main(["calibrate", "--quiet", *words, "--rail", "VDD_CPU"]) == 2
    assert "none of the rails" in capsys.readouterr().err


CHANNELS: list[dict[str, Any]] = [
    {"index": 0, "rail": "A", "quantity": "voltage"},
    {"index": 1, "rail": "A", "quantity": "current"},
    {"index": 2, "rail": "B", "quantity": "power"},
    {"index": 3, "rail": "C", "quantity": "energy"},
]


def test_rails_on_a_slow_bus_are_taken_one_by_one() -> None:
    assert calibration_run._plans("ina3221", CHANNELS, None) == [["A"], ["B"]]
    assert calibration_run._plans("nvml", CHANNELS, None) == [["A", "B"]]
    assert calibration_run._plans("nvml", CHANNELS, ["B"]) == [["B"]]
    with pytest.raises(Exception, match="no current and no power"):
        calibration_run._plans("rapl", CHANNELS[3:], None)


def test_the_supply_that_is_measured_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for torch, gpu, on_board in ((True, True, "gpu"), (True, False, "cpu"), (False, True, "cpu")):
        monkeypatch.setattr(
            "edgejoule.power.exciter_gpu.gpu_load_possible", lambda torch=torch: torch
        )
        monkeypatch.setattr("edgejoule.inference.backends.gpu_present", lambda gpu=gpu: gpu)
        assert calibration_run._load("auto", "ina3221") == on_board
        assert calibration_run._load("auto", "nvml,rapl") == "gpu"
        assert calibration_run._load("auto", "battery") == "cpu"
        assert calibration_run._load("cpu", "nvml") == "cpu"
    assert calibration_run._cuda_device(None) == "cuda:0"
    assert calibration_run._cores() >= 1


def test_a_sensor_is_looked_at_before_it_is_loaded(tmp_path: Path) -> None:
    orin_nx(tmp_path)
    channels, refresh_ns, _ = calibration_run._look("ina3221", Where(str(tmp_path)))
    assert calibration_run._plans("ina3221", channels, None) == [
        ["VDD_IN"],
        ["VDD_CPU_GPU_CV"],
        ["VDD_SOC"],
    ]
    assert refresh_ns is not None
    assert 6_000_000 < refresh_ns <= 7_000_000
