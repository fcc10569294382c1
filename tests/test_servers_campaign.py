"""The default experiment with a token: measured, pushed, pulled elsewhere and found whole."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dvc")
pytest.importorskip("onnxruntime")

from edgejoule.inference.workload import ModelRequest
from model import load
from tests.servers import standin

pytestmark = [
    pytest.mark.real_servers,
    pytest.mark.skipif(standin.lacking() is not None, reason=str(standin.lacking())),
]
ROOT = Path(__file__).resolve().parent.parent
KNOBS = {
    "RUNS": "20", "CLEAN_RUNS": "20", "WARMUP": "2", "IDLE_DURATION": "0.3", "SENSOR": "none",
    "BACKEND": "onnxruntime", "RESULT_DIR": "data", "CREATE_REPO": "1",
}  # fmt: skip


@pytest.fixture
def network(tmp_path):
    """A network of the user's own, with weights: neither simulated nor random, so it may go."""
    request = ModelRequest("lenet", "random", 3, None, "onnx", tmp_path)
    path = load(request).onnx_path
    return shutil.copy(path, tmp_path / "mine.onnx")


@pytest.fixture
def experiment(server, watch, tmp_path):
    """Runs the default experiment in the test's folder."""

    def run(**knobs):
        words = [sys.executable, "-m", "edgejoule.cli.run_experiment"]
        return run_given(watch, words, tmp_path, {"PYTHONPATH": str(ROOT), **KNOBS, **knobs})

    return run


def run_given(watch, words, folder, environment):
    """Run a command that has the token in its environment; none of its children may."""
    process = watch.popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def test_a_finished_network_is_on_the_server(server, experiment, commands, network, tmp_path):
    done = experiment(MODELS=str(network))
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Not pushed" not in said
    url = f"{server.url}/rosa/edgejoule-raw-data"
    copy = tmp_path / "elsewhere"
    pulled = commands.call("pull", url, "--dataset", copy)
    assert pulled.code == 0, pulled
    assert (copy / "mine" / "run.json").exists()
    assert commands.call("verify", copy).code == 0
    assert standin.TOKEN not in said
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or standin.TOKEN.encode() not in path.read_bytes(), path
    again = experiment(MODELS=str(network))
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stdout + again.stderr


def test_a_refused_token_ends_it_before_anything_is_measured(experiment, network, tmp_path):
    done = experiment(MODELS=str(network), DAGSHUB_USER_TOKEN=standin.WRONG)
    assert done.returncode == 3, done.stderr
    assert not (tmp_path / "data" / "mine").exists()


def test_a_server_that_is_down_costs_only_the_push(server, experiment, network, tmp_path):
    server.stop()
    done = experiment(MODELS=str(network))
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert (tmp_path / "data" / "mine" / "run.json").exists()
    again = next(line for line in said.splitlines() if line.startswith("Not pushed; later: "))
    assert "data_version.py push" in again
    assert standin.TOKEN not in said
