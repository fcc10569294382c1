"""The sampler rests in some phases, wakes by itself, and ends while it rests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgejoule.energy.trace import read_samples
from edgejoule.phases import PhaseBoard
from edgejoule.power.acquire import start_sampler
from edgejoule.power.sensor import Where
from edgejoule.processes import Child
from tests.support_power import orin_nx


@pytest.fixture
def board(tmp_path: Path) -> Iterator[PhaseBoard]:
    made = PhaseBoard(tmp_path / "page.bin", tmp_path / "phases.jsonl")
    made.mark("clean")
    yield made
    made.close()


def start(tmp_path: Path) -> Child:
    orin_nx(tmp_path / "sys")
    where = Where(str(tmp_path / "sys"))
    child, _ = start_sampler("ina3221", tmp_path, where, pause_phases=("unsampled",))
    return child


def rows_until(tmp_path: Path, after_ns: int) -> np.ndarray:
    """Return the times of all rows once there is one that was read after `after_ns`."""
    deadline = time.monotonic() + 20
    while True:
        times = read_samples(tmp_path / "power.bin")[1]["t0_ns"]
        if len(times) and times[-1] > after_ns:
            return times
        assert time.monotonic() < deadline, "it never woke"
        time.sleep(0.02)


def wait_for_rest(tmp_path: Path) -> int:
    """Wait until nothing is written for longer than it may stay unwritten; return the last time."""
    deadline = time.monotonic() + 20
    count, since = -1, time.monotonic()
    while time.monotonic() - since < 0.8:
        times = read_samples(tmp_path / "power.bin")[1]["t0_ns"]
        if len(times) != count:
            count, since = len(times), time.monotonic()
        assert time.monotonic() < deadline, "it never rested"
        time.sleep(0.02)
    return int(times[-1])


def test_it_rests_in_its_phase_and_the_rest_is_neither_gap_nor_late(
    tmp_path: Path, board: PhaseBoard
) -> None:
    child = start(tmp_path)
    rows_until(tmp_path, board.mark("observed"))
    board.mark("unsampled")
    last_ns = wait_for_rest(tmp_path)
    woken_ns = board.mark("observed")
    times = rows_until(tmp_path, woken_ns)
    child.send(kind="stop", after_ns=woken_ns)
    assert child.wait_for("done", 10) is not None
    child.stop()
    assert not ((times > last_ns) & (times < woken_ns)).any()
    report = json.loads((tmp_path / "sampler.json").read_text())
    assert report["pauses"] == 1
    assert report["paused_s"] > 0.7
    # Were the rest a gap, it would be the largest.
    assert report["largest_gap_ns"] < 1e9 * report["paused_s"]


def test_a_stop_is_heeded_while_it_rests_and_what_it_waits_for_is_read(
    tmp_path: Path, board: PhaseBoard
) -> None:
    child = start(tmp_path)
    board.mark("unsampled")
    wait_for_rest(tmp_path)
    asked_ns = time.monotonic_ns()
    child.send(kind="stop", after_ns=asked_ns)
    assert child.wait_for("done", 10) is not None
    assert child.stop() == 0
    assert read_samples(tmp_path / "power.bin")[1]["t0_ns"][-1] >= asked_ns


def test_it_ends_with_its_parent_while_it_rests(tmp_path: Path, board: PhaseBoard) -> None:
    child = start(tmp_path)
    board.mark("unsampled")
    wait_for_rest(tmp_path)
    assert child.stop() == 0
    report = json.loads((tmp_path / "sampler.json").read_text())
    assert report["reads"] == len(read_samples(tmp_path / "power.bin")[1])
