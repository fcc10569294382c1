"""A run that is killed in its replay pass keeps what it had recorded of it."""

import json
import sys

import pyarrow.parquet as pq
import pytest

from edgejoule.dataset.recover import recover
from edgejoule.dataset.verify import verify_run
from edgejoule.files import config_sha256
from edgejoule.records import REPLAY
from tests.support_dataset import Plan, phases_of, replayed, write_partial
from tests.support_dataset_kill import orphan

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is measured there")
PLAN = Plan(replay=3)


def killed_in_the_replay_pass(dataset, segments):
    """Leave a working directory whose measuring process died in the midst of writing a segment."""
    partial = write_partial(dataset, PLAN)
    path = partial / "replay.bin"
    size = REPLAY.struct.size
    whole = path.stat().st_size - 3 * len(replayed(PLAN)) * size
    with path.open("r+b") as file:
        file.truncate(whole + segments * size + size // 2)
    marks = [
        {"phase": phase["phase"], "start_ns": phase["start_ns"]}
        for phase in phases_of(PLAN)
        if phase["phase"] != "idle_after"
    ]
    lines = "".join(json.dumps(mark) + "\n" for mark in marks)
    (partial / "phases.jsonl").write_text(lines, encoding="utf-8")
    request = json.loads((partial / "request.json").read_text(encoding="utf-8"))
    request["config"] |= {"energy": "replay", "replay_budget_s": 60.0, "check_attribution": 2}
    request["config_sha256"] = config_sha256(request["config"])
    (partial / "request.json").write_text(json.dumps(request), encoding="utf-8")
    orphan(partial)


@pytest.mark.parametrize("segments", [0, 13])
def test_whole_segments_are_kept(tmp_path, segments):
    killed_in_the_replay_pass(tmp_path, segments)
    (found,) = recover(tmp_path)
    assert found.action == "recovered"
    table = pq.read_table(found.path / "replay.parquet")
    assert table.num_rows == segments
    assert table["kind"].to_pylist() == (2 * [kind for kind, *_ in replayed(PLAN)])[:segments]
    report = verify_run(found.path)
    assert not report.wrong, report
    assert report.incomplete
    said = json.loads((found.path / "run.json").read_text(encoding="utf-8"))
    assert said["phases"][-1] == {**phases_of(PLAN)[-2], "end_ns": None}
    assert said["config"]["energy"] == "replay"
    told = "killed with 13 segments of the replay pass recorded, and no energy of layers"
    assert (told in said["missing"]) == (segments == 13)
    assert "killed with 6 of 6 profiled inferences recorded" in said["missing"]
