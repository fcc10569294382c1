"""What the parent shows and writes while a run lasts."""

import os
import time

import pytest

from edgejoule.phases import PhaseBoard
from edgejoule.watch import Watch

pytest.importorskip("pyarrow")
S = 1_000_000_000


class Shown:
    """Stands where the progress bar stands."""

    def __init__(self):
        self.updates, self.lines = [], []

    def update(self, phase, done, total, rate_hz, remaining_s, note):
        self.updates.append((phase, done, total, rate_hz, remaining_s))

    def line(self, text):
        self.lines.append(text)


@pytest.fixture
def watched(tmp_path):
    board = PhaseBoard(tmp_path / "page.bin", tmp_path / "phases.jsonl")
    shown = Shown()
    watch = Watch(tmp_path, shown)
    yield board, watch, shown, tmp_path
    watch.close()
    board.close()


def test_a_pass_is_announced_with_its_length(watched):
    _, watch, shown, _ = watched
    watch.on_message({"kind": "pass", "name": "warmup", "inferences": None, "estimate_s": 0.0})
    watch.on_message({"kind": "pass", "name": "clean", "inferences": None, "estimate_s": 30.0})
    watch.on_message({"kind": "pass", "name": "profiled", "inferences": 200, "estimate_s": 4.2})
    watch.on_message({"kind": "pass", "name": "observed", "inferences": None, "estimate_s": 7.6})
    watch.on_message({"kind": "pass", "name": "replay", "inferences": None, "estimate_s": 300.0})
    watch.on_message({"kind": "ready"})
    assert shown.lines == [
        "warmup pass: until steady",
        "clean pass: as many inferences as there is time for, about 30 s",
        "profiled pass: 200 inferences, about 4 s",
        "observer pass: sampler and profiler on and off, up to 8 s",
        "replay pass: each layer alone, up to 300 s",
    ]


def test_rate_and_time_left_follow_the_page(watched):
    board, watch, shown, _ = watched
    watch.on_message({"kind": "pass", "name": "profiled", "inferences": 101, "estimate_s": 1.0})
    start = board.mark("profiled")
    board.begin_inference(0, start)
    watch.tick(start)
    board.begin_inference(50, start)
    watch.tick(start + 5 * S)
    assert shown.updates[-1] == ("profiled", 51, 101, pytest.approx(10.0), pytest.approx(5.0))
    board.mark("harvest")
    watch.tick(start + 6 * S)
    assert shown.updates[-1][:2] == ("harvest", 51)  # the count stays while a chunk is read


def test_without_a_count_the_announced_time_runs_down(watched):
    board, watch, shown, _ = watched
    watch.on_message({"kind": "pass", "name": "clean", "inferences": None, "estimate_s": 1000.0})
    board.mark("clean")
    watch.tick(0)
    assert 900 < shown.updates[-1][4] <= 1000


def test_the_observer_pass_runs_down_over_its_switches(watched):
    board, watch, shown, _ = watched
    watch.on_message({"kind": "pass", "name": "observed", "inferences": None, "estimate_s": 900.0})
    now_ns = time.monotonic_ns()
    for phase, ago_s in (
        ("observed", 300),
        ("unsampled", 200),
        ("observed", 100),
        ("unsampled", 0),
    ):
        board.mark(phase, now_ns - ago_s * S)
        watch.tick(0)
    assert shown.updates[-1][0] == "observed"
    assert 500 < shown.updates[-1][4] <= 600


def test_an_idle_phase_runs_down_and_a_warm_up_promises_nothing(watched):
    board, watch, shown, _ = watched
    watch.expect("idle_before", 500.0)
    watch.on_message({"kind": "pass", "name": "warmup", "inferences": None, "estimate_s": 0.0})
    board.mark("idle_before")
    watch.tick(0)
    assert 400 < shown.updates[-1][4] <= 500
    board.mark("warmup")
    watch.tick(1)
    assert shown.updates[-1][4] is None


def test_resources_are_written_once_a_second(watched, tmp_path):
    from edgejoule.records import RESOURCES, read_header

    _, watch, _, folder = watched
    watch.tick(0)
    assert not (folder / "resources.bin").exists()  # nobody said yet where the board's files lie
    watch.board_is_there(str(tmp_path / "sys"), has_power=False)
    watch.follow("measuring", os.getpid())
    for quarter in range(9):
        watch.tick(quarter * S // 4)
    watch.close()
    header, offset = read_header(folder / "resources.bin")
    rows = list(RESOURCES.struct.iter_unpack((folder / "resources.bin").read_bytes()[offset:]))
    assert sorted({row[0] for row in rows}) == [0, S, 2 * S]
    names = [column["name"] for column in header["columns"]]
    mine = [row[1] / 1000 for row in rows if names[row[2]] == "rss_measuring_mib"]
    assert len(mine) == 3
    assert min(mine) > 1


def test_a_trace_that_cannot_be_read_gives_no_level(watched, tmp_path):
    _, watch, _, folder = watched
    (folder / "power.bin").write_bytes(b"short")
    watch.board_is_there(str(tmp_path / "sys"), has_power=True)
    assert watch.level().power_mw is None
