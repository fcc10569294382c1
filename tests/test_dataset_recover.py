"""Whatever point a run or a recovery is killed at, the next recovery leaves readable data."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from edgejoule.closing import _sensor
from edgejoule.dataset.alive import hold_lock, parent_facts, parent_lives
from edgejoule.dataset.recover import recover
from edgejoule.dataset.run_directory import (
    PARTIAL,
    create_partial,
    existing_run,
    finish,
    release,
    run_directories,
    write_run_json,
)
from edgejoule.dataset.verify import verify_dataset, verify_run
from edgejoule.errors import UsageError
from edgejoule.records import POWER, RecordWriter, read_header
from tests.support_dataset import Plan, build_run, prepare, run_of, write_partial
from tests.support_dataset_kill import OLD, PLAN, orphan

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is measured there")


def kill_everywhere(mode, folder):
    """Kill `mode` at each of its steps; return how often."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support_dataset_kill", mode, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed = json.loads(done.stdout)["killed"]
    assert killed > 5
    return killed


def leftovers(dataset):
    return [path.name for path in (dataset / PARTIAL).glob("*") if path.name != ".gate"]


def rows(run):
    return pq.read_metadata(run / "layers.parquet").num_rows


def test_a_finish_killed_anywhere_is_finished_by_recover(tmp_path):
    for point in range(kill_everywhere("finish", tmp_path)):
        dataset = tmp_path / str(point)
        assert verify_dataset(dataset).ok(), point  # nothing finished-looking that is not right
        already = (dataset / "lenet").exists()
        found = recover(dataset)
        assert leftovers(dataset) == [], point
        runs = run_directories(dataset)
        assert len(runs) == 1, point
        report = verify_run(runs[0])
        assert not report.wrong, (point, report)
        assert rows(runs[0]) == PLAN.profiled * len(PLAN.layer_ns)
        if already:
            assert found == []
        assert (report.status == "complete") == (runs[0].name == "lenet"), point
        assert recover(dataset) == []


def test_an_overwrite_killed_anywhere_leaves_the_old_or_the_new_run(tmp_path):
    ends = set()
    for point in range(kill_everywhere("overwrite", tmp_path)):
        dataset = tmp_path / str(point)
        recover(dataset)
        assert leftovers(dataset) == [], point
        report = verify_dataset(dataset)
        assert report.ok(allow_incomplete=True), (point, report)
        kept = existing_run(dataset, "lenet")["summary"]["inferences"]["profiled"]
        others = [run for run in run_directories(dataset) if run.name != "lenet"]
        if kept == PLAN.profiled:
            assert others == [], point
        else:  # the old one is still in place, so the new one stands beside it
            assert kept == OLD.profiled
            assert [rows(run) for run in others] == [PLAN.profiled * len(PLAN.layer_ns)], point
        ends.add(kept)
    assert ends == {OLD.profiled, PLAN.profiled}


def test_a_recovery_killed_anywhere_is_ended_by_the_next(tmp_path):
    for point in range(kill_everywhere("recover", tmp_path)):
        dataset = tmp_path / str(point)
        recover(dataset)
        assert leftovers(dataset) == [], point
        (run,) = run_directories(dataset)
        assert run.name.startswith("lenet--incomplete-")
        report = verify_run(run)
        assert report.incomplete, point
        assert not report.wrong, (point, report)
        assert rows(run) == PLAN.profiled * len(PLAN.layer_ns)
        assert recover(dataset) == []


def test_a_start_killed_anywhere_leaves_nothing(tmp_path):
    for point in range(kill_everywhere("create", tmp_path)):
        dataset = tmp_path / str(point)
        if not dataset.is_dir():
            continue
        if (dataset / PARTIAL).is_dir():
            recover(dataset)
            assert leftovers(dataset) == [], point
        assert run_directories(dataset) == []


def test_a_live_run_is_left_alone_and_named(tmp_path):
    partial = write_partial(tmp_path)
    before = sorted(path.name for path in partial.iterdir())
    (found,) = recover(tmp_path)
    assert (found.action, found.path) == ("live", partial)
    assert sorted(path.name for path in partial.iterdir()) == before


def test_a_live_run_is_known_by_its_pid_where_locks_do_not_work(tmp_path):
    partial = write_partial(tmp_path)
    release(partial)
    assert [item.action for item in recover(tmp_path)] == ["live"]
    orphan(partial)
    assert [item.action for item in recover(tmp_path)] == ["recovered"]


def test_a_live_run_is_known_by_its_lock_from_another_pid_namespace(tmp_path):
    partial = write_partial(tmp_path)
    request = json.loads((partial / "request.json").read_text(encoding="utf-8"))
    request["parent"]["pid_namespace"] = "pid:[1]"
    (partial / "request.json").write_text(json.dumps(request), encoding="utf-8")
    assert not parent_lives(request["parent"])
    assert [item.action for item in recover(tmp_path)] == ["live"]


def test_the_parents_identity():
    facts = parent_facts()
    assert parent_lives(facts)
    assert not parent_lives({**facts, "start_ticks": facts["start_ticks"] + 1})
    assert not parent_lives({**facts, "boot_id": "another boot"})
    assert not parent_lives({**facts, "pid": 2**22 + 1})
    assert not parent_lives(None)


def test_a_lock_is_held_once(tmp_path):
    first = hold_lock(tmp_path / "lock")
    assert first is not None
    assert hold_lock(tmp_path / "lock") is None
    os.close(first)
    again = hold_lock(tmp_path / "lock")
    assert again is not None
    os.close(again)


def test_cut_records_are_dropped_and_the_rest_is_read(tmp_path):
    partial = write_partial(tmp_path)
    for name in ("power", "layers", "inferences"):
        with (partial / f"{name}.bin").open("r+b") as file:
            file.truncate((partial / f"{name}.bin").stat().st_size - 3)
    orphan(partial)
    (found,) = recover(tmp_path)
    run = found.path
    content = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert content["files"]["layers.parquet"]["rows"] == 17
    assert content["summary"]["inferences"]["profiled"] == 5
    assert "killed with 5 of 6 profiled inferences recorded" in content["missing"]
    report = verify_run(run)
    assert not report.wrong, report
    assert any("cut short" in finding.problem for finding in report.findings)


def test_a_run_killed_before_anything_was_recorded_goes(tmp_path):
    partial = create_partial(tmp_path, "lenet", {})
    orphan(partial)
    (found,) = recover(tmp_path)
    assert (found.action, found.path) == ("removed", None)
    assert not partial.exists()


def test_a_run_without_its_request_is_recovered_all_the_same(tmp_path):
    partial = write_partial(tmp_path)
    orphan(partial)
    (partial / "request.json").write_text("{", encoding="utf-8")
    (found,) = recover(tmp_path)
    content = json.loads((found.path / "run.json").read_text(encoding="utf-8"))
    assert "request.json is missing or damaged" in content["missing"]
    assert content["weights"] == "random"  # what is not known is not passed off as real
    assert not verify_run(found.path).wrong


SETUP = {
    "name": "lenet",
    "weights": "random",
    "source": {"library": "torchvision", "seed": 3},
    "input": {"kind": "uniform", "seed": 3},
    "accuracy": {"top1_agreement": 1.0},
    "versions": {"onnxruntime": "1.2"},
}


def recovered(dataset, partial, *, setup=None, config=None, **request):
    """Recover a run killed with this set-up (text is written as it is); return its run.json."""
    if setup is not None:
        text = setup if isinstance(setup, str) else json.dumps(setup)
        (partial / "artefacts" / "setup.json").write_text(text, encoding="utf-8")
    orphan(partial)
    path = partial / "request.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said = {**said, **request, "config": {**said["config"], **(config or {})}}
    path.write_text(json.dumps(said), encoding="utf-8")
    (found,) = recover(dataset)
    assert found.action == "recovered"
    assert not verify_run(found.path).wrong
    return json.loads((found.path / "run.json").read_text(encoding="utf-8"))


def test_what_the_set_up_found_is_kept(tmp_path):
    content = recovered(tmp_path, write_partial(tmp_path), setup=SETUP)
    kept = ("weights", "source", "input", "accuracy", "versions")
    assert {key: content[key] for key in kept} == {key: SETUP[key] for key in kept}
    assert not any("setup.json" in reason for reason in content["missing"])


def test_what_the_request_knows_is_kept(tmp_path):
    machine = {"board_id": "orin", "power_mode": "MAXN", "libraries": {"edgejoule": "9.8"}}
    content = recovered(
        tmp_path,
        write_partial(tmp_path),
        setup=SETUP,
        machine=machine,
        command=["measure_inference_power.py", "--model", "lenet"],
        why={"backend": ["it is here"]},
    )
    assert content["command"] == ["measure_inference_power.py", "--model", "lenet"]
    assert content["why"] == {"backend": ["it is here"]}
    assert content["machine"] == machine
    assert (content["board_id"], content["power_mode"]) == ("orin", "MAXN")
    assert content["versions"] == {"edgejoule": "9.8", "onnxruntime": "1.2"}


@pytest.mark.parametrize("damage", [None, "", "{", "[]", '{"weights": "stolen", "source": 3}'])
def test_without_a_set_ups_word_nothing_is_made_up(tmp_path, damage):
    content = recovered(tmp_path, write_partial(tmp_path), setup=damage)
    assert content["weights"] == "pretrained"  # as asked for
    assert (content["source"], content["input"], content["accuracy"]) == ({}, {}, None)
    assert content["versions"] == {"onnxruntime": "1.0"}  # of engine.json
    lost = "setup.json is missing or damaged: weights are taken from the request"
    assert (lost in content["missing"]) is (damage is None or "weights" not in damage)


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        ({"weights": "random"}, "random"),
        ({"model": "nets/own.py:small"}, "user"),
        ({"model": "own.PY:small", "weights": "random"}, "user"),
        ({"model": "own.onnx"}, "user"),
        ({"model": "own.pt2"}, "user"),
        ({"model": "own.ejplan", "engine": "own.ejplan"}, "user"),
        ({"model": "renamed", "model_sha256": "ab" * 32}, "user"),
        ({"weights": "unheard of"}, "random"),
    ],
)
def test_weights_that_were_not_published_are_not_called_pretrained(tmp_path, config, weights):
    content = recovered(tmp_path, write_partial(tmp_path), config=config)
    assert content["weights"] == weights


def test_the_sensor_is_told_as_in_a_finished_run(tmp_path):
    partial = write_partial(tmp_path)
    path = partial / "power.bin"
    header, offset = read_header(path)
    records = path.read_bytes()[offset:]
    path.unlink()
    more = {"groups": [{"name": "chip", "channels": [0, 1]}], "board": {"id": "x"}, "total": None}
    power = RecordWriter(path, POWER, {**header, **more})
    power.write_packed(records, len(records) // POWER.struct.size)
    power.close()
    finished = _sensor(partial)
    assert {"groups", "board", "total"} <= set(finished)
    assert recovered(tmp_path, partial)["sensor"] == finished


def test_a_trace_that_looked_for_no_total_says_nothing_of_one(tmp_path):
    sensor = recovered(tmp_path, write_partial(tmp_path))["sensor"]
    assert not {"groups", "board", "total"} & set(sensor)


def test_damaged_files_are_kept_aside(tmp_path):
    partial = write_partial(tmp_path)
    raw = bytearray((partial / "power.bin").read_bytes())
    raw[14] ^= 255
    (partial / "power.bin").write_bytes(raw)
    (partial / "engine.json").write_text('{"backend": ', encoding="utf-8")
    (partial / "energy.parquet").write_bytes(b"PAR1")
    orphan(partial)
    (found,) = recover(tmp_path)
    kept = {path.name for path in found.path.iterdir()}
    assert {"power.bin.damaged", "engine.json.damaged", "energy.parquet.damaged"} <= kept
    assert (found.path / "power.bin.damaged").read_bytes() == bytes(raw)
    assert "power.bin is damaged" in found.detail
    assert not verify_run(found.path).wrong


def test_a_header_cut_short_is_no_record_file(tmp_path):
    partial = write_partial(tmp_path)
    for name, size in (("power", 0), ("resources", 30)):
        with (partial / f"{name}.bin").open("r+b") as file:
            file.truncate(size)
    orphan(partial)
    (found,) = recover(tmp_path)
    assert not (found.path / "power.parquet").exists()
    assert "no power.parquet" in found.detail
    assert not verify_run(found.path).wrong


def test_a_complete_run_beside_one_of_its_name_stays_beside_it(tmp_path):
    build_run(tmp_path)
    partial = prepare(tmp_path, Plan())
    write_run_json(partial, run_of(Plan()), "lenet")
    orphan(partial)
    (found,) = recover(tmp_path)
    assert found.path.name.startswith("lenet--incomplete-")
    assert found.detail == "another run of its name exists"
    assert verify_dataset(tmp_path).ok(allow_incomplete=True)


def test_a_sealed_run_whose_files_changed_is_not_passed_off_as_complete(tmp_path):
    partial = prepare(tmp_path, Plan())
    write_run_json(partial, run_of(Plan()), "lenet")
    (partial / "idle.json").write_text("[]\n", encoding="utf-8")
    orphan(partial)
    (found,) = recover(tmp_path)
    assert found.action == "recovered"
    assert "files do not agree with run.json" in found.detail
    report = verify_run(found.path)
    assert report.incomplete
    assert not report.wrong


def test_several_at_once_and_hidden_ones(tmp_path):
    for name in ("a", "b"):
        orphan(write_partial(tmp_path, name=name))
    (tmp_path / PARTIAL / ".hidden").mkdir()
    found = recover(tmp_path)
    assert [item.action for item in found] == ["recovered", "recovered"]
    assert len(run_directories(tmp_path)) == 2


def test_a_directory_that_cannot_be_recovered_is_named_and_kept(tmp_path):
    partial = write_partial(tmp_path)
    orphan(partial)
    strange = partial.rename(partial.with_name("_x-1"))
    (found,) = recover(tmp_path)
    assert found.action == "stuck"
    assert "does not fit its schema" in found.detail
    assert (strange / "power.bin").exists()


def test_recover_needs_a_dataset(tmp_path):
    with pytest.raises(UsageError, match="is no dataset"):
        recover(tmp_path / "nowhere")
    build_run(tmp_path)
    shutil.rmtree(tmp_path / PARTIAL)
    assert recover(tmp_path) == []


def test_finish_gives_the_lock_back_and_leaves_nothing(tmp_path):
    partial = prepare(tmp_path, Plan())
    finish(partial, run_of(Plan()), "lenet")
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "lenet" / "lock").exists()
