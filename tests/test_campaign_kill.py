"""A campaign that is killed takes every process below it along, and starting again continues."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support_kill import alive, descendants

pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
    pytest.mark.once("the kernel kills and the pipes end alike; whole runs are in both passes"),
]
ROOT = Path(__file__).resolve().parent.parent
KNOBS = {
    "MODELS": "lenet", "RUNS": "50", "CLEAN_SECONDS": "20", "WARMUP": "5", "IDLE_DURATION": "2",
    "WEIGHTS": "random", "BACKEND": "onnxruntime", "SENSOR": "simulated", "PUSH": "off",
}  # fmt: skip


def start(dataset, **more):
    environment = {**os.environ, **KNOBS, **more, "RESULT_DIR": str(dataset)}
    return subprocess.Popen(
        [sys.executable, "-m", "edgejoule.cli.run_experiment"], cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("module", ["power.sampler", "inference.measure_process"])
def test_no_process_outlives_a_killed_campaign(module, tmp_path):
    campaign = start(tmp_path / "d")
    seen: dict[int, str] = {}
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not any(module in line for line in seen.values()):
        seen.update(descendants(campaign.pid))
        time.sleep(0.05)
    time.sleep(0.5)
    seen.update(descendants(campaign.pid))
    os.kill(campaign.pid, signal.SIGKILL)
    campaign.wait()
    assert any(module in line for line in seen.values())
    patience = time.monotonic() + 10
    while any(map(alive, seen)) and time.monotonic() < patience:
        time.sleep(0.05)
    assert [line for pid, line in seen.items() if alive(pid)] == []
    assert not (tmp_path / "d" / "lenet").exists()
    again = start(tmp_path / "d", CLEAN_SECONDS="0.5", IDLE_DURATION="0.2")
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0, said
    # Killed in the cold baseline nothing of the run is there yet.
    assert ("1 unfinished" in said) == (module == "inference.measure_process")
    assert (tmp_path / "d" / "lenet" / "run.json").exists()
