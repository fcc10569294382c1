"""One network with every backend and dtype, by the command that a user types; whole runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgejoule.processes import PROJECT_ROOT
from tests.jetson.conftest import Notes

pytestmark = [pytest.mark.jetson, pytest.mark.timeout(1800)]

# Not more than a minute each beside the build; a figure for a paper takes more.
SHORT = ("--runs", "200", "--clean-seconds", "10", "--warmup", "20", "--idle-duration", "3")
MODEL = "resnet18"
ENGINE = "resnet18.ejplan"
CASES = [
    *(("torch-tensorrt", dtype) for dtype in ("float32", "float16")),
    *(("tensorrt", dtype) for dtype in ("float32", "float16", "int8")),
    *(("onnxruntime", dtype) for dtype in ("float32", "int8")),
    *(("torch", dtype) for dtype in ("float32", "float16")),
]


def measure(dataset: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `measure_inference_power.py`."""
    script = str(PROJECT_ROOT / "measure_inference_power.py")
    return subprocess.run(
        [sys.executable, script, *arguments, *SHORT, "--result-dir", str(dataset), "--quiet"],
        cwd=dataset.parent,
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return (lines or done.stderr.splitlines() or ["no word"])[-1]


def figures(run: dict[str, Any], layers: list[dict[str, Any]]) -> str:
    """Return a run's figures in one line."""
    summary, accuracy = run["summary"], run.get("accuracy") or {}
    clean, profiled = summary["clean"], summary["profiled"]
    parts = [
        f"{clean['median_ms']:.4g} ms clean",
        f"profiled over clean {summary['profiled_over_clean']:.3f}",
        f"{len(layers)} layers are {100 * profiled['layers_share']:.1f} % of the inference",
    ]
    energy = summary.get("energy") or {}
    of = energy.get("clean")
    if of:
        parts.append(
            f"{of['gross_mj'] / 1000:.4g} J gross, {of['dynamic_mj'] / 1000:.4g} J dynamic "
            f"per inference ({'+'.join(energy['total_of'] or [energy['rail']])}, "
            f"{of['mean_mw'] / 1000:.3g} W)"
        )
    else:
        parts.append("no energy")
    peaks = [
        f"{key.removesuffix('_mib')} {value:.0f}"
        for key, value in summary["memory"].items()
        if key.endswith("_mib") and isinstance(value, (int, float))
    ]
    parts.append(f"MiB: {', '.join(peaks)}")
    if accuracy.get("max_relative_error") is not None:
        parts.append(f"off by {accuracy['max_relative_error']:.2g} of float32")
    unmapped = sum(layer.get("module_path") is None for layer in layers)
    parts.append(f"{unmapped} layers without a module")
    sampler = summary.get("sampler") or {}
    if sampler.get("refresh_ns"):
        parts.append(f"{sampler['late_deadlines']} late of {sampler['reads']} reads")
    return "; ".join(parts)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "raw_data"


def read_run(dataset: Path, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    run = json.loads((dataset / name / "run.json").read_text(encoding="utf-8"))
    engine = json.loads((dataset / name / "engine.json").read_text(encoding="utf-8"))
    return run, engine["layers"]


@pytest.mark.parametrize(("backend", "dtype"), CASES, ids=[f"{b}-{d}" for b, d in CASES])
def test_a_run(notes: Notes, dataset: Path, backend: str, dtype: str) -> None:
    arguments = ["--model", MODEL, "--weights", "random", "--backend", backend, "--dtype", dtype]
    name = f"{backend}-{dtype}"
    arguments += ["--run-name", name]
    if dtype == "int8":
        arguments += ["--calibration", "normal"]
    if name == "tensorrt-float16":
        arguments += ["--save-engine", str(dataset.parent / ENGINE)]
    done = measure(dataset, *arguments)
    if done.returncode == 2:
        notes.note("runs", name, last_line(done))
        pytest.skip(last_line(done))
    assert done.returncode == 0, last_line(done)
    run, layers = read_run(dataset, name)
    notes.note("runs", name, figures(run, layers))
    assert run["status"] == "complete"
    assert layers


def test_an_engine_file(notes: Notes, dataset: Path) -> None:
    """The plan of the float16 run again, from its file, in other processes."""
    file = dataset.parent / ENGINE
    if not file.is_file():
        pytest.skip("no engine file: the run with tensorrt and float16 left none")
    done = measure(dataset, "--engine", str(file), "--run-name", "engine-file")
    assert done.returncode == 0, last_line(done)
    run, layers = read_run(dataset, "engine-file")
    notes.note("runs", "engine file", figures(run, layers))


def test_cuda_graphs(notes: Notes, dataset: Path) -> None:
    """The clean pass from a CUDA graph; layers are timed without."""
    for backend in ("torch-tensorrt", "tensorrt"):
        arguments = ("--model", MODEL, "--weights", "random", "--backend", backend)
        name = f"{backend}-graph"
        done = measure(
            dataset, *arguments, "--dtype", "float16", "--cuda-graphs", "--run-name", name
        )
        told = figures(*read_run(dataset, name)) if not done.returncode else last_line(done)
        notes.note("runs", f"{name} (float16)", told)
        assert done.returncode in {0, 2}, told
