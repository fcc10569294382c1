"""Both child processes end to end: what they say and write, what stops them, what they refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.phases import PageReader, read_phases
from edgejoule.processes import PROJECT_ROOT, Child, start_child
from edgejoule.records import NULL_NS, PASSES, read_header

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

SETUP = "edgejoule.inference.setup_process"
MEASURE = "edgejoule.inference.measure_process"


def setup_config(directory: Path, **changes: Any) -> dict[str, Any]:
    return {
        "directory": str(directory),
        "loader": "tests.support_models:load",
        "model": "conv",
        "weights": "random",
        "seed": 3,
        "input_shape": None,
        "backend": "onnxruntime",
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
        "extra": {},
        "input": "normal",
        **changes,
    }


def measure_config(directory: Path, **changes: Any) -> dict[str, Any]:
    return {
        "directory": str(directory),
        "model": "conv",
        "backend": "onnxruntime",
        "options": {"dtype": "float32", "device": "cpu", "threads": 1, "seed": 3, "extra": {}},
        "warmup": 10,
        "warmup_max_s": 1.0,
        "runs": 25,
        "clean_runs": 30,
        "precision_percent": None,
        "rate_hz": None,
        "idle_duration_s": 0.05,
        "chunk_inferences": 7,
        "seed": 3,
        **changes,
    }


def start(module: str, config: dict[str, Any]) -> Child:
    return start_child(module, module, config, Path(config["directory"]) / "run.log")


def finish(module: str, config: dict[str, Any]) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """Run a child to its end; return its messages by kind and its exit status."""
    child = start(module, config)
    while child.process.poll() is None:
        child.poll_messages(0.1)
    status = child.stop()
    said: dict[str, list[dict[str, Any]]] = {}
    for message in child.received:
        said.setdefault(message["kind"], []).append(message)
    return said, status


def table(path: Path) -> np.ndarray:
    header, offset = read_header(path)
    return np.fromfile(path, np.dtype([tuple(f) for f in header["fields"]]), offset=offset)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as the set-up process leaves it."""
    directory = tmp_path_factory.mktemp("ready")
    said, status = finish(SETUP, setup_config(directory))
    assert status == 0, (directory / "run.log").read_text()
    assert [message["name"] for message in said["stage"]] == [
        "load", "inputs", "reference", "build", "check",
    ]  # fmt: skip
    (done,) = said["done"]
    assert done.pop("kind") == "done"
    assert json.loads((directory / "artefacts" / "setup.json").read_text()) == done
    return directory


@pytest.fixture
def directory(ready: Path, tmp_path: Path) -> Path:
    """A fresh directory with the same artefacts."""
    (tmp_path / "artefacts").symlink_to(ready / "artefacts")
    (tmp_path / "engine.json").write_bytes((ready / "engine.json").read_bytes())
    return tmp_path


def test_set_up_says_what_it_made(ready: Path) -> None:
    report = json.loads((ready / "artefacts" / "setup.json").read_text())
    assert (report["name"], report["weights"], report["source"]) == ("conv", "random", {"seed": 3})
    assert report["inputs"] == [{"name": "x", "shape": [1, 3, 16, 16], "dtype": "float32"}]
    assert report["input"]["distribution"] == "standard normal"
    assert report["normalisation"]["mean"] == [0.5, 0.4, 0.3]
    assert set(report["seconds"]) == {"load", "build"}
    assert report["peak_rss_mib"] > 5
    assert "onnxruntime" in report["versions"]
    engine = json.loads((ready / "engine.json").read_text())
    assert len(engine["layers"]) == report["layers"] == 8
    assert (ready / "artefacts" / "inputs.npz").exists()
    assert not (ready / "artefacts" / "source").exists()  # what the loader wrote


def check_run(directory: Path, said: dict[str, list[dict[str, Any]]], layers: int) -> None:
    """All that holds for a whole run of 30 clean, 20 rate and 25 profiled inferences."""
    (done,) = said["done"]
    report = json.loads((directory / "measure.json").read_text())
    assert {**report, "kind": "done"} == done
    assert [message["name"] for message in said["pass"]] == ["warmup", "clean", "rate", "profiled"]
    assert [message["inferences"] for message in said["pass"]] == [None, 30, 20, 25]
    spans = read_phases(directory / "phases.jsonl")
    assert [span.phase for span in spans] == [
        "load", "idle_loaded_before", "warmup", "clean", "rate", "harvest",
        *["profiled", "harvest"] * 4, "idle_loaded_after", "unload",
    ]  # fmt: skip
    rows = table(directory / "inferences.bin")
    assert (np.diff(rows["start_ns"]) > 0).all()
    assert (rows["end_ns"][:-1] <= rows["start_ns"][1:]).all()
    counts = {}
    for number, name in enumerate(PASSES):
        own = rows[rows["pass"] == number]
        counts[name] = len(own)
        assert list(own["index"]) == list(range(len(own)))
        inside = [s for s in spans if s.phase == name]
        for row in own[:: max(1, len(own) // 50)]:
            assert any(s.start_ns <= row["start_ns"] and row["end_ns"] <= s.end_ns for s in inside)
        assert (own["due_ns"] != NULL_NS).all() == (name == "rate") or not len(own)
    assert counts["clean"] == report["clean"]["inferences"] == 30
    assert counts["warmup"] == report["warmup"]["inferences"] >= 10
    assert counts["rate"] == report["rate"]["inferences"]
    assert report["rate"]["frames"] == counts["rate"] + report["rate"]["dropped"] == 20
    profiled = report["profiled"]
    assert (profiled["inferences"], profiled["recorded"], profiled["chunks"]) == (25, 25, 4)
    times = table(directory / "layers.bin")
    assert len(times) == profiled["rows"] == 25 * layers
    own = rows[rows["pass"] == PASSES.index("profiled")]
    lengths = (own["end_ns"] - own["start_ns"])[times["inference"]]
    assert (np.sort(times["inference"]) == np.repeat(np.arange(25), layers)).all()
    assert (times["start_offset_ns"] >= 0).all()
    assert (times["start_offset_ns"] + times["duration_ns"] <= lengths).all()
    assert report["outputs"]["finite"] is True
    assert len(report["outputs"]["sha256"]) == 64
    assert report["peak_rss_mib"] > 5
    reader = PageReader(directory / "page.bin")
    state = reader.read()
    reader.close()
    assert state is not None
    assert (state.phase, state.inference) == ("unload", -1)


def test_a_whole_run_on_onnxruntime(directory: Path) -> None:
    config = measure_config(directory, rate_hz=100, rate_s=0.2)
    said, status = finish(MEASURE, config)
    assert status == 0, (directory / "run.log").read_text()
    check_run(directory, said, layers=8)
    assert not list((directory / "artefacts").glob("profile-*"))


@pytest.mark.torch
def test_a_whole_run_on_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    said, status = finish(SETUP, setup_config(tmp_path, backend="torch"))
    assert status == 0, (tmp_path / "run.log").read_text()
    layers = said["done"][0]["layers"]
    config = measure_config(tmp_path, backend="torch", rate_hz=100, rate_s=0.2)
    said, status = finish(MEASURE, config)
    assert status == 0, (tmp_path / "run.log").read_text()
    check_run(tmp_path, said, layers)


def test_two_set_ups_with_one_seed_make_the_same(ready: Path, tmp_path: Path) -> None:
    said, status = finish(SETUP, setup_config(tmp_path))
    assert status == 0
    first = json.loads((ready / "artefacts" / "setup.json").read_text())
    assert said["done"][0]["input"] == first["input"]
    for name in ("engine.json", "artefacts/optimised.onnx"):
        assert (tmp_path / name).read_bytes() == (ready / name).read_bytes()


def test_a_pass_without_profile_or_end_of_clean(directory: Path) -> None:
    config = measure_config(
        directory, runs=0, clean_runs=None, clean_min_s=0.2, clean_max_runs=1, idle_duration_s=0
    )
    said, status = finish(MEASURE, config)
    assert status == 0
    (done,) = said["done"]
    assert (done["profiled"], done["rate"]) == (None, None)
    assert done["clean"]["seconds"] >= 0.2
    assert len(table(directory / "layers.bin")) == 0


def test_a_truncated_profile_is_exit_1_with_all_written(directory: Path) -> None:
    said, status = finish("tests.support_faults", measure_config(directory))
    assert status == 1
    (error,) = said["error"]
    assert error["exit_code"] == 1
    assert "the layer times are incomplete: inferences 0 to 6" in error["message"]
    assert "done" not in said
    report = json.loads((directory / "measure.json").read_text())
    assert report["profiled"]["inferences"] == 25
    assert 0 < report["profiled"]["recorded"] < 25
    assert len(report["profiled"]["problems"]) == 4
    assert (table(directory / "inferences.bin")["pass"] == PASSES.index("profiled")).sum() == 25
    assert len(table(directory / "layers.bin")) == report["profiled"]["recorded"] * 8
    assert [s.phase for s in read_phases(directory / "phases.jsonl")][-1] == "unload"


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"model": "loader_raises"}, 2, "loader_raises cannot be loaded .*divides by zero"),
        ({"model": "loader_exits"}, 2, "loader_exits cannot be loaded .*ends the program"),
        ({"model": "loader_fills_the_disk"}, 1, "no room left to write below"),
        ({"model": "loader_opens_nothing"}, 2, "cannot be loaded .*No such file"),
        ({"model": "loader_refuses"}, 2, "no model 'loader_refuses'"),
        ({"model": "loader_nonsense"}, 2, "its loader returned NoneType"),
        ({"model": "foreign"}, 2, "cannot load .*Frobnicate"),
        ({"model": "raises"}, 2, "model raises raises when it is run .*reshape"),
        ({"loader": "no_such_package:load"}, 2, "no model loader 'no_such_package:load'"),
        ({"backend": "cobol"}, 2, "no backend 'cobol'"),
        ({"input": "/no/such/folder"}, 2, "no such file or folder"),
        ({"input_shape": [1, 3, 9, 9]}, 2, r"\[1, 3, 16, 16\], asked is \[1, 3, 9, 9\]"),
        ({"extra": {"workspace": 3}}, 2, "no option 'workspace'"),
    ],
)
def test_set_up_refuses_in_one_line(
    tmp_path: Path, changes: dict[str, Any], status: int, said: str
) -> None:
    import re

    messages, returned = finish(SETUP, setup_config(tmp_path, **changes))
    assert returned == status, (tmp_path / "run.log").read_text()
    (error,) = messages["error"]
    assert error["exit_code"] == status
    assert re.search(said, error["message"]), error["message"]
    assert "\n" not in error["message"]
    assert "done" not in messages


@pytest.mark.torch
def test_a_torch_model_that_returns_nothing_is_named(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    config = setup_config(tmp_path, backend="torch", model="nothing", input_shape=[1, 16])
    messages, status = finish(SETUP, config)
    assert status == 1
    assert messages["error"][0]["message"] == "model nothing: the model returns nothing"


def wait_for_phase(directory: Path, phase: str, child: Child | None = None) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        log = directory / "phases.jsonl"
        if log.exists() and phase in log.read_text():
            return
        if child is not None and child.process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"{phase} was never reached")


@pytest.mark.once("the pipe's end and the kernel's signal come alike on any Python")
@pytest.mark.parametrize("phase", ["idle_loaded_before", "clean", "rate", "profiled"])
def test_a_parent_that_hangs_up_ends_it_in_any_phase(directory: Path, phase: str) -> None:
    config = measure_config(
        directory,
        idle_duration_s=600 if phase == "idle_loaded_before" else 0,
        clean_runs=10**9 if phase == "clean" else 3,
        rate_hz=1 if phase == "rate" else None,
        rate_s=600,
        runs=10**9,
        chunk_inferences=None,
    )
    child = start(MEASURE, config)
    wait_for_phase(directory, phase, child)
    assert child.stop(grace_s=30.0) == 130
    assert child.received[-1]["kind"] == "error"
    header_rows = table(directory / "inferences.bin")
    assert (header_rows["end_ns"] >= header_rows["start_ns"]).all()


@pytest.mark.skipif(sys.platform != "linux", reason="limits a file's size through prlimit")
def test_a_full_disk_is_one_line_and_keeps_what_was_written(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    for name in [name for name in os.environ if name.startswith("COVERAGE")]:
        monkeypatch.delenv(name)  # its own data file would be cut short as well
    config = measure_config(directory, clean_runs=10**9)
    child = start(MEASURE, config)
    resource.prlimit(child.process.pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
    while child.process.poll() is None:
        child.poll_messages(0.1)
    assert child.stop() == 1
    error = child.received[-1]
    assert error["kind"] == "error"
    assert "no room left to write below" in error["message"]
    assert "\n" not in error["message"]
    rows = table(directory / "inferences.bin")  # whole records, all of them right
    assert len(rows) > 1000
    assert list(rows["index"]) == list(range(len(rows)))


@pytest.mark.once("the pipe's end and the kernel's signal come alike on any Python")
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
@pytest.mark.parametrize("phase", ["load", "warmup", "clean"])
def test_a_killed_parent_leaves_no_measuring_process(directory: Path, phase: str) -> None:
    config = measure_config(directory, clean_runs=10**9)
    code = (
        "import json, sys, time; from pathlib import Path\n"
        "from edgejoule.processes import start_child\n"
        "config = json.loads(sys.argv[1])\n"
        f"child = start_child('m', {MEASURE!r}, config, Path(config['directory']) / 'run.log')\n"
        "print(child.process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(config)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_for_phase(directory, phase)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _alive(pid):
        time.sleep(0.02)
    assert not _alive(pid)
    if phase != "load":  # the file may not be there yet
        rows = table(directory / "inferences.bin")
        assert list(rows["index"][rows["pass"] == 0]) == list(range((rows["pass"] == 0).sum()))


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
