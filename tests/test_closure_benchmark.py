"""The closure benchmark: what it works out of runs, which cases it starts, and that it runs."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks import closure  # makes its neighbours importable
from edgejoule.dataset.schema import write_table
from edgejoule.processes import PROJECT_ROOT
from tests.support_attribution import PLAN, build_attributed
from tests.support_dataset import MS, build_run

import closure_files  # isort: skip
import closure_repeats  # isort: skip
import closure_run  # isort: skip
import closure_table  # isort: skip

WATT = 400.0
TICK_NS = 100 * MS


def write_counter(folder, inference_ns, pause_ns, *, ticks=60):
    """A run whose counter ticks every 100 ms, read twice a tick, and its clean inferences."""
    t0, raw = [], []
    for number in range(2 * ticks):
        at_ns = number * TICK_NS // 2 + 7 * MS
        t0.append(at_ns)
        raw.append(int(at_ns // TICK_NS * TICK_NS * 1e-9 * WATT * 1e3))
    channel = {"index": 0, "rail": "gpu_energy", "quantity": "energy", "unit": "mJ",
               "chip": "GPU-0", "source": "x"}  # fmt: skip
    rows = len(t0)
    write_table(
        folder / "power.parquet", "power",
        {"t0_ns": t0, "t1_ns": t0, "channel": [0] * rows, "raw": raw, "errno": [None] * rows},
        channels=[channel],
    )  # fmt: skip
    starts = range(TICK_NS, TICK_NS * (ticks - 2), inference_ns + pause_ns)
    count = len(starts)
    write_table(
        folder / "inferences.parquet", "inferences",
        {"pass": ["clean"] * count, "index": range(count), "start_ns": starts,
         "end_ns": [start + inference_ns for start in starts], "due_ns": [None] * count},
    )  # fmt: skip


@pytest.mark.parametrize("pause_ns", [0, 30_000])
def test_the_counter_gives_the_energy_of_an_inference(tmp_path, pause_ns):
    write_counter(tmp_path, 3 * MS, pause_ns)
    found = closure_table.counter_j(tmp_path, "clean")
    whole_ns = 3 * MS + pause_ns
    assert found["j"] == pytest.approx(WATT * whole_ns * 1e-9, rel=1e-3)
    assert found["between"] == pytest.approx(pause_ns / whole_ns, abs=2e-4)
    assert found["ticks"] > 50


def test_without_a_counter_there_is_no_energy_by_it(tmp_path):
    assert closure_table.counter_j(build_run(tmp_path), "clean") is None


def test_the_figures_of_a_run_are_those_of_its_replay_pass(tmp_path):
    run = build_attributed(tmp_path)
    row = closure_table.figures(run, [{"run": PLAN.model, "commit": "abc"}])
    said = json.loads((run / "run.json").read_text(encoding="utf-8"))["summary"]["energy"]
    replay = said["attribution"]["replay"]["VDD_A"]
    assert row["commit"] == "abc"
    assert row["closure"] == replay["closure"]["dynamic"]
    assert row["sum_dynamic_j"] / row["whole_dynamic_j"] == pytest.approx(row["closure"])
    assert row["clean_gross_j"] == pytest.approx(5e-3)
    assert (row["layers"], row["resolved_layers"]) == (3, 3)
    (slope,) = closure_table.slopes_of(row)
    assert slope["layer"] == 1
    assert slope["ratio"] == pytest.approx(slope["slope_mj"] / slope["attributed_mj"])
    text = closure_table.markdown([row], closure_table.summarise([row]))
    assert f"{100 * row['closure']:.1f}" in text
    assert "1 layers of 1 networks (asked: 10 of 4)" in text


def row_of(**changes):
    return {
        "run": "a-b1-r1", "model": "a", "batch": 1, "repeat": 1, "date": "2026-01-01", "rebuild": 0,
        "closure": 1.0, "closure_interval": None, "closure_gross": 1.0, "closure_other": 0.5,
        "counter_ratio": 1.0, "counter": None, "whole_dynamic_j": 1.0, "sum_dynamic_j": 1.0,
        "clean_gross_j": 1.0, "clean_mean_w": 1.0, "idle_w": 1.0, "latency_ms": 1.0,
        "gpu_uuid": "x", "duplication": [], "shared_gpu": False, **changes,
    }  # fmt: skip


def test_each_figure_stands_beside_its_target():
    slopes = [{"layer": k, "slope_mj": 1.0 + 0.08 * k, "attributed_mj": 1.0} for k in range(3)]
    rows = [
        row_of(closure=0.97, counter_ratio=1.015),
        row_of(closure=0.97, repeat=2, whole_dynamic_j=1.02, sum_dynamic_j=1.05, gpu_uuid="y"),
        row_of(closure=1.12, model="b", duplication=slopes),
    ]
    found = closure_table.summarise(rows)
    values = [(round(one["value"], 4), one["met"]) for one in found["checks"]]
    assert values == [(0.03, True), (0.12, False), (0.0488, False), (0.015, True), (0.08, True)]
    (pair,) = found["repeats"]
    assert (pair["runs"], pair["gpus"], pair["days"]) == (2, 2, 1)
    assert not found["duplication_enough"]
    nothing = closure_table.summarise([row_of(closure=None, counter_ratio=None)])
    assert [one["met"] for one in nothing["checks"]] == [None] * 5


def test_processes_agree_or_it_is_said_what_differs():
    alike = [row_of(clean_gross_j=1 + 0.002 * k) for k in range(5)]
    assert closure_repeats.repeatability(alike)["verdict"] == "repeatable"
    assert closure_repeats.repeatability(alike[:4])["verdict"] == "not known"
    apart = [
        row_of(clean_gross_j=1 + 0.1 * (k % 2), latency_ms=1 + 0.1 * (k % 2), rebuild=k % 2)
        for k in range(6)
    ]
    found = closure_repeats.repeatability(apart)
    assert (found["verdict"], found["builds"]) == ("unstable", 2)
    assert found["reasons"][0].startswith("the builds' means differ by 9.5")
    assert found["reasons"][1].startswith("latency differs by 5.")


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Calls of the measuring command are noted and leave a synthetic run."""
    found, lock = [], threading.Lock()

    def call(bench, command, name, limit_s, gpu=None):
        with lock:
            found.append((name, gpu, list(command)))
            if not name.startswith("setup-"):
                build_run(Path(bench.arguments.result_dir) / "data", name=name)
        return 0

    monkeypatch.setattr(closure_run, "call", call)
    monkeypatch.setattr(closure_run, "last_line", lambda bench, name: "")
    return found


def test_cases_are_built_once_measured_once_and_take_turns_on_the_gpus(calls, tmp_path):
    words = ["--only", "lenet", "--repeat", "1", "--repeat", "2", "--gpus", "0,1", "--setups", "2",
             "--quick", "--result-dir", str(tmp_path), "--commit", "abc"]  # fmt: skip
    assert closure.main(words) == 0
    assert sorted(name for name, _, _ in calls[:2]) == ["setup-lenet-b1", "setup-lenet-b64"]
    measured = {name: (gpu, command) for name, gpu, command in calls[2:]}
    assert set(measured) == {f"lenet-b{batch}-r{k}" for batch in (1, 64) for k in (1, 2)}
    assert {gpu for gpu, _ in measured.values()} <= {"0", "1"}
    _, command = measured["lenet-b64-r1"]
    for part in (["--input-shape", "64"], ["--idle-duration", "1.5"], ["--device", "cuda:0"]):
        assert command[command.index(part[0]) + 1] == part[1]
    assert "--skip-setup" in command
    assert "--check-attribution" not in command  # --quick checks some networks alone
    noted = closure_files.calls_of(tmp_path)
    assert {line["commit"] for line in noted} == {"abc"}
    assert len(noted) == 4
    assert closure.main(words) == 0
    assert len(calls) == 6  # nothing is built or measured again


def test_no_case_is_started_that_would_not_end(calls, tmp_path, capsys):
    words = ["--only", "lenet", "--batch", "1", "--result-dir", str(tmp_path), "--seconds", "30"]
    assert closure.main(words) == 0
    assert calls == []
    assert "not started for lack of time: lenet-b1-r1" in capsys.readouterr().err


def test_runs_travel_in_one_archive(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    build_run(here / "data", name="lenet-b1-r1")
    (here / "builds").mkdir()
    (here / "calls.jsonl").write_text('{"run": "lenet-b1-r1"}\n', encoding="utf-8")
    closure_files.pack(here, tmp_path / "runs.tar.gz")
    closure_files.unpack(tmp_path / "runs.tar.gz", there)
    assert closure_files.is_done(there / "data" / "lenet-b1-r1")
    assert not (there / "builds").exists()
    build_run(tmp_path / "more" / "data", name="lenet-b1-r2")
    closure_files.pack(tmp_path / "more", tmp_path / "runs.tar.gz")
    closure_files.unpack(tmp_path / "runs.tar.gz", there)
    assert sorted(path.name for path in (there / "data").glob("*-r*")) == [
        "lenet-b1-r1", "lenet-b1-r2",
    ]  # fmt: skip
    assert len(closure_files.calls_of(there)) == 1


@pytest.mark.once("a whole run of the measuring command")
def test_a_case_is_measured_as_a_user_would(tmp_path):
    command = [
        sys.executable, str(PROJECT_ROOT / "benchmarks" / "closure.py"), "--result-dir",
        str(tmp_path),
    ]  # fmt: skip
    options = [
        "--only", "lenet", "--batch", "1", "--device", "cpu", "--backend", "onnxruntime", "--dtype",
        "float32", "--sensor", "simulated", "--clean-runs", "20", "--runs", "20", "--warmup", "2",
        "--idle-duration", "0.2", "--energy", "proportional",
    ]  # fmt: skip
    pytest.importorskip("onnxruntime")
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert closure_files.is_done(tmp_path / "data" / "lenet-b1-r1")
    table = subprocess.run([*command, "--table"], capture_output=True, text=True, check=False)
    assert "SIMULATED: nothing was measured." in table.stdout
    assert "| lenet | 1 | 1 |" in table.stdout
