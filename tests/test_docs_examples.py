"""The Python of docs/Extending.md works with the real interfaces; the example experiment runs."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
import types
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

import model as models
from edgejoule.energy.integrate import energy_mj
from edgejoule.energy.trace import rail_powers_of_samples, read_samples
from edgejoule.errors import EdgejouleError
from edgejoule.inference import backends
from edgejoule.inference.backend import DTYPES, BuildOptions, LayerTimes
from edgejoule.inference.passes import check_chunk
from edgejoule.inference.workload import ModelRequest
from edgejoule.power import sensors
from edgejoule.power.board_table import BOARDS
from edgejoule.power.recognise import recognise
from edgejoule.power.sampler import probe
from edgejoule.power.sensor import Channel
from edgejoule.power.sweeper import Changes, Sweeper, Tally
from edgejoule.records import POWER, RecordWriter

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "Extending.md"
SCRIPT = ROOT / "examples" / "custom_experiment.sh"


@cache
def blocks() -> tuple[tuple[str, str, str], ...]:
    """Return heading, info string and text of each block of Python on the page."""
    found, heading = [], ""
    tokens = MarkdownIt("commonmark").parse(PAGE.read_text("utf-8"))
    for before, token in itertools.pairwise(tokens):
        if before.type == "heading_open":
            heading = token.content
        if token.type == "fence" and token.info.split()[:1] == ["python"]:
            found.append((heading, token.info, token.content))
    return tuple(found)


def run_blocks(heading: str) -> dict[str, Any]:
    """Run the blocks under a heading, one after the other; return what they define."""
    module = types.ModuleType(f"example_of_{heading.replace(' ', '_')}")
    texts = [text for title, _, text in blocks() if title == heading]
    assert texts, f"docs/Extending.md has no Python under {heading!r}"
    for text in texts:
        # In angle brackets: coverage looks for no file of that name.
        exec(compile(text, f"<{PAGE.name}: {heading}>", "exec"), module.__dict__)
    return module.__dict__


def test_the_page_has_an_example_of_each() -> None:
    headings = [heading for heading, _, _ in blocks()]
    assert set(headings) == {"A model", "A board", "A sensor", "A backend"}


# --- a model ---------------------


@pytest.fixture
def own_model(tmp_path: Path) -> str:
    (info, text), *others = [(info, text) for title, info, text in blocks() if title == "A model"]
    assert not others
    path = tmp_path / info.split("file=")[1]
    path.parent.mkdir(parents=True)
    path.write_text(text, "utf-8")
    return f"{path}:two_convolutions"


@pytest.mark.torch
def test_the_model_loads_and_runs(own_model: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    assert models.describe(own_model).name == "tiny_two_convolutions"
    loaded = models.load(ModelRequest(own_model, "pretrained", 0, None, "torch", tmp_path))
    assert (loaded.weights, [spec.shape for spec in loaded.inputs]) == ("user", [(1, 3, 64, 64)])
    assert loaded.module(torch.zeros(1, 3, 64, 64)).shape == (1, 10)


# --- a board ---------------------


def rails_of(board: Any) -> list[Channel]:
    """Return the channels that the kernel's driver would show."""
    units = (("voltage", "mV"), ("current", "mA"))
    rails = [(chip, rail) for chip in board.chips for rail in chip.rails if rail is not None]
    pairs = [(chip, rail, quantity) for chip, rail in rails for quantity in units]
    return [
        Channel(n, rail.label, what, unit, f"1-{chip.address}", f"{what}{n}", rail.shunt_uohm)
        for n, (chip, rail, (what, unit)) in enumerate(pairs)
    ]


def test_the_board_is_recognised_by_its_rails(monkeypatch: pytest.MonkeyPatch) -> None:
    board = run_blocks("A board")["BOARD"]
    before = recognise(rails_of(board))
    assert (before.name, before.total) == (None, None)
    monkeypatch.setattr("edgejoule.power.recognise.BOARDS", (*BOARDS, board))
    after = recognise(rails_of(board))
    assert after.name == "Acme Carrier One"
    assert after.total is not None
    assert after.total.rails == ("ACME_IN",)


# --- a sensor ---------------------


def test_the_sensor_is_chosen_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "power_mw"
    found = run_blocks("A sensor")
    made = found["MeterFileSensor"]
    monkeypatch.setitem(found, "MeterFileSensor", lambda: made(str(file)))
    monkeypatch.setitem(sensors.SENSORS, "meterfile", found["KIND"])

    with pytest.raises(EdgejouleError, match=r"sensor meterfile: no meter at .*; start the meter"):
        sensors.choose_sensor("meterfile")
    file.write_text("7250\n", "ascii")
    assert sensors.choose_sensor("meterfile").usable
    sensor = sensors.open_sensor("meterfile")
    assert len(probe(sensor)) == len(sensor.groups()) == 1
    assert [channel.index for channel in sensor.channels()] == list(sensor.groups()[0].channels)

    # The sampler's own rows, and from them joules.
    channels = [channel.to_json() for channel in sensor.channels()]
    header = {"channels": channels, "sensor": sensor.name, "refresh_ns": 100_000_000}
    tally = Tally()
    writer = RecordWriter(tmp_path / "power.bin", POWER, header)
    sweeper = Sweeper(sensor, (0,), writer, tally, Changes(1))
    for text in ("7250\n", "7250\n", "not a number", "7250\n"):
        file.write_text(text, "ascii")
        sweeper.sweep()
    writer.close()
    sensor.close()
    _, samples = read_samples(tmp_path / "power.bin")
    assert samples["raw"][samples["errno"] == 0].tolist() == [7250] * 3
    assert sum(tally.errors.values()) == 1
    rail = rail_powers_of_samples(channels, samples)["METER_IN"]
    energy = energy_mj(rail, int(rail.t_ns[0]), int(rail.t_ns[-1]))
    assert energy.energy_mj == pytest.approx(7250e-9 * (rail.t_ns[-1] - rail.t_ns[0]))


# --- a backend ---------------------


def test_the_backend_builds_runs_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    module = types.ModuleType("example_reference_backend")
    module.__dict__.update(run_blocks("A backend"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = (module.__name__, "ReferenceBackend", "onnx")
    monkeypatch.setitem(backends._REGISTRY, "reference", entry)

    backend, why = backends.choose_backend("reference", ("onnx",))
    assert "reference was asked for" in why[0]
    assert backends.resolve_dtype(backend, backends.resolve_device(backend, None), "auto") in DTYPES
    options = BuildOptions(dtype="float32")
    request = ModelRequest("lenet", "random", 0, None, backend.form, tmp_path)  # type: ignore[arg-type]
    loaded = models.load(request)
    artefacts = tmp_path / "artefacts"
    artefacts.mkdir()
    engine = backend.build(loaded, options, artefacts)
    assert [layer.index for layer in engine.layers] == list(range(len(engine.layers)))
    assert "convolution" in {layer.operation for layer in engine.layers}
    shutil.move(artefacts, tmp_path / "moved")  # as in another process: only files cross

    session = backend.open(tmp_path / "moved", options)
    values = np.random.default_rng(0).normal(size=loaded.inputs[0].shape).astype(np.float32)
    inputs = {loaded.inputs[0].name: values}
    session.bind([inputs])
    reference = ort.InferenceSession(str(loaded.onnx_path), providers=["CPUExecutionProvider"])
    for ours, theirs in zip(session.outputs(0), reference.run(None, inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)

    times, spans = profiled(session, inferences=3)
    assert check_chunk(times, 3, len(engine.layers)) == ""
    assert times.start_offset_ns is not None
    ends = times.start_offset_ns + times.duration_ns
    for number, (start_ns, end_ns) in enumerate(spans):
        inside = times.inference == number
        assert times.start_offset_ns[inside].min() >= 0
        assert ends[inside].max() <= end_ns - start_ns
        assert (np.diff(times.start_offset_ns[inside]) >= times.duration_ns[inside][:-1]).all()
    session.close()


def profiled(session: Any, inferences: int) -> tuple[LayerTimes, list[tuple[int, int]]]:
    """Run a chunk as the profiled pass does."""
    profiler = session.profiler()
    profiler.start(inferences)
    spans = []
    for _ in range(inferences):
        start_ns = time.monotonic_ns()
        profiler.infer(0)
        spans.append((start_ns, time.monotonic_ns()))
        profiler.after()
    times = profiler.harvest(spans)
    profiler.close()
    return times, spans


# --- an experiment ---------------------

STAND_IN = """#!/usr/bin/env bash
printf '%s|token=%s\\n' "$*" "${DAGSHUB_USER_TOKEN:-}" >>"${CALLS}"
for word in ${FAILS:-}; do
  [[ " $* " != *" ${word%=*} "* ]] || exit "${word#*=}"
done
"""


def experiment(folder: Path, **knobs: str) -> tuple[int, str, list[str]]:
    """Run the script with a stand-in for Python; return exit code, output and its calls."""
    stand_in = folder / "python"
    stand_in.write_text(STAND_IN, "utf-8")
    stand_in.chmod(0o755)
    calls = folder / "calls"
    calls.write_text("", "utf-8")
    plain = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    done = subprocess.run(
        [str(SCRIPT)],
        env={**plain, "EDGEJOULE_PYTHON": str(stand_in), "CALLS": str(calls), **knobs},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, calls.read_text("utf-8").splitlines()


def test_the_experiment_measures_everything_and_reports(tmp_path: Path) -> None:
    code, said, calls = experiment(tmp_path, BATCHES="1 8", DTYPES="float16", RESULT_DIR="my_data")
    assert code == 0, said
    assert [call.split()[0] for call in calls] == [
        "measure_idling_power.py",
        *["measure_inference_power.py"] * 4,
        "report.py",
    ]
    assert "--model resnet18 --input-shape 8 3 224 224 --dtype float16" in calls[2]
    assert all("my_data" in call for call in calls)
    assert "the runs stay in my_data" in said


def test_only_the_push_of_the_experiment_sees_the_token(tmp_path: Path) -> None:
    code, _, calls = experiment(tmp_path, DAGSHUB_USER_TOKEN="secret", BATCHES="1")
    assert code == 0
    assert [call.split()[0] for call in calls if call.endswith("|token=secret")] == [
        "data_version.py"
    ]


def test_the_experiment_goes_on_after_a_failure_and_ends_at_an_interruption(tmp_path: Path) -> None:
    code, said, calls = experiment(tmp_path, BATCHES="1", FAILS="resnet18=1")
    assert code == 1
    assert "failed:\n  resnet18, batch 1, auto (exit 1)" in said
    assert any("mobilenet_v2" in call for call in calls)
    assert calls[-1].startswith("report.py")
    code, said, calls = experiment(tmp_path, BATCHES="1", FAILS="resnet18=130")
    assert code == 130
    assert len(calls) == 2  # the baseline, and what was interrupted


def test_the_experiment_asks_for_calibration_before_it_starts(tmp_path: Path) -> None:
    code, said, calls = experiment(tmp_path, DTYPES="float16 int8")
    assert (code, calls) == (2, [])
    assert "need CALIBRATION" in said
    code, _, calls = experiment(tmp_path, DTYPES="int8", CALIBRATION="photos", BATCHES="1")
    assert code == 0
    assert "--calibration photos" in calls[1]
    assert "--sensor auto" in calls[1]


@pytest.mark.once("a whole experiment of processes, a minute; those run in the second pass")
def test_the_experiment_runs_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    dataset = tmp_path / "raw_data"
    knobs = {
        "NETWORKS": "lenet:1x32x32",
        "BATCHES": "1",
        "DTYPES": "float32",
        "RUNS": "20",
        "CLEAN_SECONDS": "0.2",
        "IDLE_DURATION": "0.5",
        "WEIGHTS": "random",
        "BACKEND": "onnxruntime",
        "SENSOR": "simulated",
        "RESULT_DIR": str(dataset),
    }
    # The figures for papers have tests of their own, and take as long as all the rest.
    quicker = tmp_path / "python"
    figures = '[[ "$1" != report.py ]] || set -- "$@" --no-figures'
    quicker.write_text(f'#!/usr/bin/env bash\n{figures}\nexec "{sys.executable}" "$@"\n', "utf-8")
    quicker.chmod(0o755)
    environment = {**os.environ, **knobs, "EDGEJOULE_PYTHON": str(quicker)}
    environment.pop("DAGSHUB_USER_TOKEN", None)

    def run() -> str:
        done = subprocess.run(
            [str(SCRIPT)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run()
    found = {path.parent.name: path.stat().st_mtime_ns for path in dataset.glob("[!.]*/run.json")}
    assert len(found) == 1
    assert (dataset / "idling_power.json").is_file()
    assert (dataset / "report.html").is_file()
    assert "lenet is complete: nothing to do" in run()
    again = {path.parent.name: path.stat().st_mtime_ns for path in dataset.glob("[!.]*/run.json")}
    assert again == found
