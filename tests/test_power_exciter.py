"""The exciter: its plan, its loads, and the children that play them."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.phases import PhaseBoard
from edgejoule.power import exciter, exciter_gpu, exciter_worker
from edgejoule.power.exciter import Edge, play, read_edges, wait_until, write_edges
from edgejoule.power.exciter_gpu import GpuLoad
from edgejoule.power.exciter_schedule import FRAME_REFRESHES, SHORTEST_PULSE_NS, plan_edges
from edgejoule.processes import Child, start_child


class Quiet:
    """A parent that wants nothing, or wants to stop after so many looks."""

    def __init__(self, looks: int | None = None) -> None:
        self.left = looks
        self.stopping = False

    def poll(self, timeout_s: float = 0.0) -> bool:
        if self.left is not None:
            self.left -= 1
            self.stopping = self.left < 0
        if not self.stopping:
            time.sleep(min(0.01, max(0.0, timeout_s)))
        return self.stopping


# --- the plan ----------------------------------------------------------------


@given(
    seconds=st.integers(2, 100),
    refresh_ns=st.integers(100_000, 8_000_000),
    seed=st.integers(0, 99),
)
def test_a_plan_is_whole_pulses_within_its_time(seconds: int, refresh_ns: int, seed: int) -> None:
    plan = plan_edges(seconds * 10**9, refresh_ns, seed)
    assert plan[0] == 0
    assert len(plan) % 2 == 0
    assert plan[-1] <= seconds * 10**9
    lengths = [b - a for a, b in itertools.pairwise(plan)]
    assert min(lengths) >= SHORTEST_PULSE_NS - 1
    assert plan == plan_edges(seconds * 10**9, refresh_ns, seed)
    assert plan != plan_edges(seconds * 10**9, refresh_ns, seed + 1)


def test_the_edges_fall_on_every_part_of_the_refresh() -> None:
    refresh = 6_600_000
    plan = plan_edges(30 * 10**9, refresh, 0)
    for edges in (plan[::2], plan[1::2]):
        counts = [0] * 10
        for edge in edges:
            counts[edge % refresh * 10 // refresh] += 1
        assert min(counts) > 0.6 * len(edges) / 10
    longest = max(b - a for a, b in itertools.pairwise(plan))
    assert 20 * refresh < longest < 61 * refresh


def test_too_short_a_time_names_the_least() -> None:
    with pytest.raises(UsageError, match="give at least 22 s"):
        plan_edges(5 * 10**9, 100_000_000, 0)
    assert abs(FRAME_REFRESHES - 177.6) < 0.1
    plan_edges(22 * 10**9, 100_000_000, 0)


# --- edges -------------------------------------------------------------------


def test_edges_come_back_in_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "edges.jsonl"
    edges = [Edge(5, 6, -1.0), Edge(1, 2, 1.0)]
    write_edges(path, edges)
    assert read_edges(path) == edges[::-1]


@given(st.text(max_size=40))
def test_a_damaged_log_is_our_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("edges") / "edges.jsonl"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(MeasurementError):
        assert read_edges(path) == [] or text.strip()


def test_no_log_at_all(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="cannot be used"):
        read_edges(tmp_path / "absent")


# --- playing -----------------------------------------------------------------


def test_a_plan_is_played_and_a_missed_pulse_is_left_out() -> None:
    asked = []

    def busy(until_ns: int) -> tuple[int, int, int, int]:
        asked.append(until_ns)
        return until_ns - 30, until_ns - 20, until_ns - 10, until_ns

    start = time.monotonic_ns()
    # The first pulse is over already; the second ends so late that no machine sleeps past it.
    plan = [-2000, -1000, 5_000_000, 600_000_000_000]
    found = play(plan, start, busy, Quiet(), step=0.5)
    assert asked == [start + 600_000_000_000]
    assert [edge.step for edge in found] == [0.5, -0.5]
    assert found[1].after_ns == start + 600_000_000_000


def test_the_wish_to_stop_ends_a_plan() -> None:
    far = time.monotonic_ns() + 10**12
    assert not wait_until(far, Quiet(looks=2))
    assert play([0, 10**9], far, lambda _until: (0, 0, 0, 0), Quiet(looks=1)) == []


def test_a_busy_loop_stamps_its_edges() -> None:
    until = time.monotonic_ns() + 5_000_000
    begin, same, before, after = exciter_worker.busy_loop(until, Quiet())
    assert begin == same <= before <= after
    assert after >= until
    stopped = Quiet()
    stopped.stopping = True
    exciter_worker.busy_loop(time.monotonic_ns() + 10**12, stopped)  # ends at once


# --- the children ------------------------------------------------------------


def config(folder: Path, load: str, seconds: float = 2.2, **more: Any) -> dict[str, Any]:
    return {
        "load": load,
        "duration_ns": int(seconds * 1e9),
        "refresh_ns": 6_600_000,
        "seed": 0,
        "edges": str(folder / "edges.jsonl"),
        "lead_ns": 50_000_000,
        "page": str(folder / "page.bin"),
        "phase_log": str(folder / "phases.jsonl"),
        "log": str(folder / "run.log"),
        **more,
    }


def run_exciter(folder: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    child = start_child("exciter", "edgejoule.power.exciter", settings, folder / "run.log")
    try:
        child.wait_for("done", 60.0)
    finally:
        status = child.stop()
    assert status == 0, (folder / "run.log").read_text()
    return child.received


@pytest.mark.alone
def test_busy_loops_on_two_workers(tmp_path: Path) -> None:
    ready, done = run_exciter(tmp_path, config(tmp_path, "cpu", workers=2))
    assert (ready["kind"], ready["load"]) == ("ready", "cpu")
    plan = plan_edges(2_200_000_000, 6_600_000, 0)
    edges = read_edges(tmp_path / "edges.jsonl")
    assert {edge.step for edge in edges} == {0.5, -0.5}
    assert sum(edge.step for edge in edges) == 0
    assert done["pulses"] + done["missed"] == len(plan) // 2
    assert done["pulses"] >= len(plan) // 4  # most of them even on a busy machine
    assert done["start_ns"] == edges[0].before_ns
    # No rise is before its time in the plan, and no worker falls early.
    first = edges[0].before_ns
    assert done["end_ns"] - first >= plan[-1] - 100_000_000
    assert not list(tmp_path.glob("edges.[0-9]"))


def test_an_announced_load_is_written_ahead_and_shown_in_the_page(tmp_path: Path) -> None:
    board = PhaseBoard(tmp_path / "page.bin", tmp_path / "phases.jsonl")
    board.mark("idle_before")
    began = time.monotonic_ns()
    ready, done = run_exciter(tmp_path, config(tmp_path, "announced"))
    board.close()
    edges = read_edges(tmp_path / "edges.jsonl")
    plan = plan_edges(2_200_000_000, 6_600_000, 0)
    assert [edge.before_ns - edges[0].before_ns for edge in edges] == plan
    assert all(edge.before_ns == edge.after_ns for edge in edges)
    assert edges[0].before_ns > began
    assert ready["load"] == "announced"
    assert (done["pulses"], done["missed"]) == (len(plan) // 2, 0)


def test_a_stopped_exciter_ends_and_leaves_no_worker(tmp_path: Path) -> None:
    for load in ("cpu", "announced"):
        settings = config(tmp_path, load, seconds=60.0, workers=1)
        child = start_child("exciter", "edgejoule.power.exciter", settings, tmp_path / "run.log")
        assert child.wait_for("ready", 60.0) is not None
        assert child.stop(grace_s=20.0) == 0
        assert not any(message["kind"] == "done" for message in child.received)


def error_of(child: Child) -> dict[str, Any]:
    message = child.wait_for("error", 60.0)
    child.stop()
    assert message is not None
    return message


def test_a_plan_that_cannot_be_is_reported(tmp_path: Path) -> None:
    settings = config(tmp_path, "announced", seconds=0.5)
    child = start_child("exciter", "edgejoule.power.exciter", settings, tmp_path / "run.log")
    assert "too short" in error_of(child)["message"]


# --- the GPU's load, over a made-up torch ------------------------------------


class FakeTorch(SimpleNamespace):
    """A GPU that adds 10^10 values a second, by a clock of its own."""

    def __init__(self, broken: str = "") -> None:
        super().__init__()
        self.size = 0
        self.launched = 0
        self.unfinished = 0
        self.broken = broken
        self.float16 = "float16"
        self.cuda = SimpleNamespace(
            is_available=lambda: broken != "absent",
            set_device=lambda _d: None,
            synchronize=lambda _d: None,
            get_device_name=lambda _d: "Fake GPU",
            Event=self._event,
        )

    def device(self, name: str) -> str:
        if self.broken == "busy":
            raise RuntimeError("CUDA error: out of memory\nmore lines")
        return name

    def randn(self, size: int, **_more: Any) -> Any:
        self.size = size
        return object()

    def empty(self, _size: int, **_more: Any) -> Any:
        return object()

    def add(self, _a: Any, _b: Any, out: Any) -> Any:
        self.launched += 1
        return out

    def _event(self) -> Any:
        looks = [2]

        def query() -> bool:
            looks[0] -= 1
            return looks[0] < 0

        return SimpleNamespace(record=lambda: None, query=query)


def test_sums_stay_short(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = FakeTorch()
    now_s = [0.0]

    def perf_counter() -> float:
        # Twenty sums between two looks.
        now_s[0] += 20 * torch.size / 1e10
        return now_s[0]

    monkeypatch.setattr(exciter_gpu.time, "perf_counter", perf_counter)
    load = GpuLoad("cuda:0", torch)
    # 2^18 values take 26 us, 2^19 52 us; 2^20 would take 105 us, beyond the longest.
    assert "sums of 0.5 Mi values on Fake GPU, 52 us each" in load.detail


def test_a_pulse_ends_when_the_last_sum_has() -> None:
    torch = FakeTorch()
    load = GpuLoad("cuda:0", torch)
    torch.launched = 0
    until = time.monotonic_ns() + 3_000_000
    rise_before, rise_after, fall_before, fall_after = load.busy(until, Quiet())
    assert rise_before <= rise_after <= until <= fall_before <= fall_after
    assert torch.launched > 3
    stopped = Quiet()
    stopped.stopping = True
    torch.launched = 0
    load.busy(time.monotonic_ns() + 10**12, stopped)
    assert torch.launched == 1


def test_pulses_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, Any]] = []
    parent = Quiet()
    parent.say = lambda kind, **fields: said.append({"kind": kind, **fields})  # type: ignore[attr-defined]
    monkeypatch.setattr(exciter_gpu, "_import_torch", FakeTorch)
    exciter.main(config(tmp_path, "gpu", device="cuda:0"), parent)  # type: ignore[arg-type]
    ready, done = said
    assert "Fake GPU" in ready["detail"]
    edges = read_edges(tmp_path / "edges.jsonl")
    # A busy machine misses some; all that were planned are accounted for.
    assert done["pulses"] == len(edges) // 2 > 0
    assert done["pulses"] + done["missed"] > 50
    assert [edge.step for edge in edges] == [1.0, -1.0] * (len(edges) // 2)


def test_why_there_is_no_gpu_load(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="torch sees no GPU"):
        GpuLoad("cuda:0", FakeTorch("absent"))
    with pytest.raises(MeasurementError, match="CUDA error: out of memory; see"):
        GpuLoad("cuda:0", FakeTorch("busy"))
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(EdgejouleError, match="needs torch"):
        GpuLoad("cuda:0")
    assert exciter_gpu.gpu_load_possible() in {True, False}


def test_edge_lines_are_json() -> None:
    assert json.loads(Edge(1, 2, -0.5).line()) == {"before_ns": 1, "after_ns": 2, "step": -0.5}
