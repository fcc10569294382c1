"""SIGKILL of any process in any phase: no orphan, no lost second, nothing that looks finished.

A reduced set of seeds; `benchmarks/kills.py` runs over a hundred.
"""

import sys

import pytest

from tests.support_kill import MOMENTS, kill_once

pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
    pytest.mark.once("the kernel kills and the pipes end alike; whole runs are in both passes"),
]

SEEDS = (*range(0, len(MOMENTS), 3), len(MOMENTS) - 1)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: "-".join(MOMENTS[seed % len(MOMENTS)]))
def test_a_killed_process_leaves_no_orphan_and_no_finished_looking_run(seed, tmp_path):
    outcome = kill_once(seed, tmp_path)
    assert outcome.faults == (), (tmp_path / "output").read_text()
