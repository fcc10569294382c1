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


def experiment(folder, **knobs):
    return subprocess.run(
        [sys.executable, "-m", "edgejoule.cli.run_experiment"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT), **KNOBS, **knobs},
    )  # fmt: skip


def data_version(folder, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "data_version.py"), *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_finished_network_is_on_the_server(server, network, tmp_path):
    done = experiment(tmp_path, MODELS=str(network))
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Not pushed" not in said
    url = f"{server.url}/rosa/edgejoule-raw-data"
    pulled = data_version(tmp_path, "pull", url, "--dataset", "elsewhere")
    assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / "elsewhere" / "mine" / "run.json").exists()
    assert data_version(tmp_path, "verify", "elsewhere").returncode == 0
    assert standin.TOKEN not in said
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or standin.TOKEN.encode() not in path.read_bytes(), path
    again = experiment(tmp_path, MODELS=str(network))
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stdout + again.stderr


def test_a_refused_token_ends_it_before_anything_is_measured(server, network, tmp_path):
    done = experiment(tmp_path, MODELS=str(network), DAGSHUB_USER_TOKEN="wrong")
    assert done.returncode == 3, done.stderr
    assert not (tmp_path / "data" / "mine").exists()


def test_a_server_that_is_down_costs_only_the_push(server, network, tmp_path):
    server.stop()
    done = experiment(tmp_path, MODELS=str(network))
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert (tmp_path / "data" / "mine" / "run.json").exists()
    again = next(line for line in said.splitlines() if line.startswith("Not pushed; later: "))
    assert "data_version.py push" in again
    assert standin.TOKEN not in said
