"""Whole runs of the backend `tensorrt` through the command, on the test doubles.

The doubles stand for TensorRT and CUDA, so that what is tested is the way from the command line to
a finished run, not a figure in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support_cudart import FakeCuda

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, str(ROOT / "measure_inference_power.py")]
SHORT = ("--runs", "6", "--clean-runs", "5", "--warmup", "3", "--idle-duration", "0.2")


class Board:
    """A folder in which commands run on the doubles."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.data = folder / "data"
        (folder / "cuda").mkdir()
        self.fake = FakeCuda(folder / "cuda", monkeypatch, {"0.total": str(8 * 2**30)})

    def run(
        self, *words: str, version: str = "10.3.0", status: int = 0
    ) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(ROOT / "tests" / "doubles"), str(ROOT)])
        environment = {
            **os.environ, **self.fake.environment, "PYTHONPATH": path,
            "EDGEJOULE_TENSORRT_DOUBLE": version, "EDGEJOULE_TENSORRT_DOUBLE_SLOW": "1",
        }  # fmt: skip
        done = subprocess.run(
            [*COMMAND, *words, *SHORT, "--sensor", "none", "--result-dir", str(self.data)],
            env=environment, cwd=self.folder, capture_output=True, text=True, timeout=240,
            check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done

    def read(self, run: str, name: str) -> Any:
        return json.loads((self.data / run / name).read_text(encoding="utf-8"))


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    pytest.importorskip("onnx")
    return Board(tmp_path, monkeypatch)


def verify(data: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "data_version.py"), "verify", str(data)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("version", ["8.6.1", "11.1.0"])
def test_a_model_becomes_a_run(board: Board, version: str) -> None:
    board.run("--model", "lenet", "--weights", "random", "--backend", "tensorrt", version=version)
    run = board.read("lenet", "run.json")
    engine = board.read("lenet", "engine.json")
    assert (run["config"]["backend"], run["config"]["dtype"]) == ("tensorrt", "float16")
    assert run["versions"]["tensorrt"] == version
    assert run["summary"]["profiled"]["inferences"] == 6
    assert engine["start_offsets"] is False
    assert engine["overlap"] is False
    assert [layer["index"] for layer in engine["layers"]] == list(range(len(engine["layers"])))
    assert any(layer["module_path"] for layer in engine["layers"])
    assert "inspector.json" in run["files"]
    json.loads((board.data / "lenet" / "inspector.json").read_text(encoding="utf-8"))
    # The double computes nothing like the network, and the comparison must say so.
    assert run["accuracy"]["mean_relative_error"] > 0.05
    assert run["accuracy"]["note"] in run["summary"]["notes"]
    assert verify(board.data).count("1 right, 0 incomplete, 0 wrong") == 1
    (cache,) = (board.data / ".partial" / ".timing").glob("timing-*")
    assert cache.stat().st_size > 0


def test_an_engine_is_kept_and_measured_again(board: Board) -> None:
    kept = board.folder / "kept.ejplan"
    words = ("--model", "lenet", "--weights", "random", "--backend", "tensorrt")
    board.run(*words, "--save-engine", str(kept))
    board.run("--engine", str(kept))
    run = board.read("kept", "run.json")
    assert run["config"]["dtype"] == "float16"
    assert run["config"]["engine"] == run["config"]["model"] == str(kept)
    assert run["weights"] == "user"
    assert run["source"]["built"]["name"] == "lenet"
    assert run["accuracy"]["how"] == "an engine file has no float32 model beside it"
    first, second = (board.read(name, "engine.json")["layers"] for name in ("lenet", "kept"))
    assert first == second  # modules and FLOPs too, though the graph is no longer at hand
    assert "layers" not in run["source"]["built"]
    assert verify(board.data).count("2 right, 0 incomplete, 0 wrong") == 1
    done = board.run("--engine", str(kept), "--run-name", "third", version="11.1.0", status=2)
    assert "10.3.0" in done.stderr
    assert "11.1.0" in done.stderr
    assert not (board.data / "third").exists()
    assert not list((board.data / ".partial").glob("third*"))


def test_int8_a_memory_limit_and_cuda_graphs(board: Board) -> None:
    pytest.importorskip("onnxruntime")
    words = ("--model", "lenet", "--weights", "random", "--backend", "tensorrt")
    board.run(
        *words, "--dtype", "int8", "--calibration", "normal", "--cuda-graphs",
        "--memory-limit-gib", "2", "--calibration-cache", "ranges.json", "--run-name", "small",
    )  # fmt: skip
    run = board.read("small", "run.json")
    assert run["config"]["calibration"] == "normal"
    assert run["summary"]["settings"]["cuda_graphs"]
    limit = run["summary"]["memory"]["limit"]
    assert limit["limit_mib"] == pytest.approx(2048)
    assert limit["kind"] == "hard"
    assert limit["violations"] == 0
    assert (board.folder / "ranges.json").is_file()
    assert verify(board.data).count("1 right, 0 incomplete, 0 wrong") == 1
    # Another network's ranges are refused, and nothing is left of the try.
    done = board.run(
        "--model", "mobilenet_v2", "--weights", "random", "--backend", "tensorrt", "--dtype",
        "int8", "--calibration", "normal", "--calibration-cache", "ranges.json", status=2,
    )  # fmt: skip
    assert "ranges.json" in done.stderr
    assert "model" in done.stderr
    assert not (board.data / "mobilenet_v2").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--backend", "tensorrt", "--min-block-size", "3"), "knows no --min-block-size"),
        (("--backend", "tensorrt", "--dtype", "fp8", "--calibration", "normal"), "fp8"),
        (("--backend", "onnxruntime", "--cuda-graphs"), "knows no --cuda-graphs"),
        (("--backend", "onnxruntime", "--optimization-level", "3"),
         "knows no --optimization-level"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_starts(
    board: Board, words: tuple[str, ...], said: str
) -> None:
    done = board.run("--model", "lenet", "--weights", "random", *words, status=2)
    assert said in done.stderr
    assert not board.data.exists()
