"""What a push refuses, heals, numbers and leaves alone; with folders."""

import json
import shutil
import subprocess
import sys
import threading

import pytest

pytest.importorskip("dvc")

from edgejoule.dataset.run_directory import seal_file
from edgejoule.dataset.versions import locking, tags
from edgejoule.dataset.versions import pushing as version_push
from edgejoule.dataset.versions.git import PushRejectedError
from edgejoule.dataset.versions.notes import CONTENT, Damage, note_damaged, noted_damaged
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import write_json
from tests.support_dataset import build_run
from tests.support_versions import (
    copied,
    do_pull,
    do_push,
    files,
    git,
    objects,
    pushed_once,
    spoil,
)

pytestmark = [
    pytest.mark.dvc,
    pytest.mark.usefixtures("plain_home"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc"),
]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A dataset with the runs a and b as data-1; tests use copies of it."""
    with pushed_once(tmp_path_factory, "a", "b") as data:
        yield data


@pytest.fixture
def data(pushed, tmp_path):
    return copied(pushed, tmp_path)


@pytest.fixture
def remote(data):
    return data.with_name("data-remote")


def test_versions_are_numbered(data, remote):
    build_run(data, model="c")
    second = do_push(data, message="a third network")
    assert (second.version, second.moved, second.new) == ("data-2", True, ("c",))
    assert git(remote / "data.git", "tag") == "data-1\ndata-2"
    assert git(remote / "data.git", "cat-file", "-t", "data-2") == "tag"
    assert "a third network" in git(data, "tag", "-n", "-l", "data-2")
    before = git(remote / "data.git", "rev-parse", "main")
    again = do_push(data)
    assert (again.version, again.moved, again.sent_objects) == ("data-2", False, 0)
    assert git(remote / "data.git", "rev-parse", "main") == before
    assert git(remote / "data.git", "tag") == "data-1\ndata-2"


def test_a_version_can_have_a_name(data, remote):
    do_push(data, tag="paper")
    assert git(remote / "data.git", "tag").split() == ["data-1", "paper"]
    assert git(data, "rev-parse", "paper^{commit}") == git(data, "rev-parse", "data-1^{commit}")
    for name, says in (
        ("paper", "is there already"),
        ("data-7", "is counted by push itself"),
        ("a b", "is no name for a tag"),
        ("-d", "is no name for a tag"),
    ):
        with pytest.raises(UsageError, match=says):
            do_push(data, tag=name)


def test_a_number_that_somebody_else_took(data, remote, monkeypatch):
    build_run(data, model="c")
    push = tags._push
    lost = []

    def overtaken(*arguments):
        if not lost:
            lost.append(1)
            git(remote / "data.git", "tag", "-a", "-m", "theirs", "data-2", "main")
        push(*arguments)

    monkeypatch.setattr(tags, "_push", overtaken)
    assert do_push(data).version == "data-3"
    assert git(data, "rev-parse", "data-3^{commit}") == git(
        remote / "data.git", "rev-parse", "main"
    )
    assert git(data, "rev-parse", "data-2^{commit}") == git(data, "rev-parse", "data-1^{commit}")


def test_who_is_always_overtaken_gives_up_and_leaves_no_number(data, monkeypatch):
    build_run(data, model="c")

    def overtaken(*_arguments):
        raise PushRejectedError("has moved on meanwhile")

    monkeypatch.setattr(tags, "_push", overtaken)
    with pytest.raises(PushRejectedError):
        do_push(data)
    monkeypatch.undo()
    assert git(data, "tag") == "data-1"
    assert do_push(data).version == "data-2"


def test_a_run_that_vanished_is_refused(data, tmp_path):
    shutil.move(data / "a", tmp_path / "a")
    with pytest.raises(MeasurementError, match=r"a: in the version, was in .* and is gone"):
        do_push(data)
    assert do_push(data, runs=["b"]).known == ("b",)  # it is not about a
    assert do_pull(data).fetched == ("a",)
    assert files(data / "a") == files(tmp_path / "a")


def test_a_run_that_vanished_is_taken_out_if_allowed(data, remote, tmp_path):
    do_pull(tmp_path / "other", remote)
    shutil.rmtree(data / "a")
    done = do_push(data, allow_change=True)
    assert (done.version, done.taken_out, done.known) == ("data-2", ("a",), ("b",))
    assert not do_push(data).moved
    assert do_pull(tmp_path / "copy", remote).runs == ("b",)
    assert do_pull(tmp_path / "old", remote, rev="data-1").runs == ("a", "b")
    # Whoever still has it does not bring it back by accident.
    build_run(tmp_path / "other", model="c")
    for _ in range(2):
        done = do_push(tmp_path / "other")
        assert (done.removed, done.version) == (("a",), "data-3")
    assert (tmp_path / "other" / "a").is_dir()
    assert do_push(tmp_path / "other", runs=["a"]).new == ("a",)


def test_a_run_that_never_was_here_is_not_missed(data, remote, tmp_path):
    do_pull(tmp_path / "board", remote, runs=["b"])
    build_run(tmp_path / "board", model="c")
    assert do_push(tmp_path / "board").new == ("c",)
    assert do_pull(data).runs == ("a", "b", "c")


def test_changed_files_under_the_same_run_json_are_refused(data):
    (data / "a" / "run.log").write_text("other")
    for options in ({}, {"allow_change": True}):
        with pytest.raises(MeasurementError, match=r"a/run\.log has 5 bytes.*pull --run a"):
            do_push(data, **options)
    assert do_push(data, runs=["b"]).known == ("b",)


def test_a_failing_git_push_after_the_data_is_repeated(data, remote):
    hook = remote / "data.git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho no luck today >&2\nexit 1\n")
    hook.chmod(0o755)
    build_run(data, model="c")
    with pytest.raises(MeasurementError, match=r"no luck today.*the data are there.*push again"):
        do_push(data)
    assert git(data, "tag") == "data-1"
    hook.unlink()
    done = do_push(data)
    assert (done.new, done.sent_objects, done.version) == (("c",), 0, "data-2")


def test_what_a_check_of_the_remote_found_is_sent_again(data, remote, tmp_path):
    victim = objects(remote)[1]
    content = victim.read_bytes()
    spoil(victim)
    assert do_push(data).sent_objects == 0  # its size is right
    oid = victim.parent.name + victim.name
    store = str(remote / "objects")
    note_damaged(data, store, {oid: Damage(("a/x",), "has other content", CONTENT)})
    assert do_push(data).sent_objects == 1
    assert victim.read_bytes() == content
    assert noted_damaged(data, store) == {}
    assert do_push(data).sent_objects == 0


def test_deep_reads_everything_back(data, remote):
    wrong = [objects(remote)[0], objects(remote, lists=True)[0]]
    for path in wrong:
        spoil(path)
    done = do_push(data, deep=True)
    assert (done.sent_objects, done.moved) == (2, False)
    assert do_push(data, deep=True).sent_objects == 0


def test_a_store_that_keeps_nothing_is_noticed(data, monkeypatch):
    build_run(data, model="c")
    monkeypatch.setattr(version_push, "send", lambda _repo, _objects, _meter: None)
    with pytest.raises(MeasurementError, match=r"objects are wrong on .* is missing; push again"):
        do_push(data)
    monkeypatch.undo()
    assert do_push(data).version == "data-2"


def test_an_emptied_cache_is_filled_again(data):
    cache = data / ".dvc" / "cache"
    for path in cache.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(cache)
    assert do_push(data).known == ("a", "b")


def test_one_push_at_a_time_in_a_folder(data):
    with (
        locking.one_at_a_time(data),
        pytest.raises(MeasurementError, match="another push or pull is at work"),
    ):
        do_push(data)
    assert do_push(data).known == ("a", "b")


@pytest.mark.once("two processes that import DVC")
def test_two_folders_push_at_once(data, remote, tmp_path):
    do_pull(tmp_path / "other", remote)
    build_run(data, model="c")
    build_run(tmp_path / "other", model="d")
    script = "import sys; from edgejoule.cli.data_version import main; sys.exit(main(sys.argv[1:]))"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, "push", "--dataset", str(folder)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for folder in (data, tmp_path / "other")
    ]  # fmt: skip
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert git(remote / "data.git", "tag").split() == ["data-1", "data-2", "data-3"]
    assert do_pull(data).runs == ("a", "b", "c", "d")
    assert git(data, "rev-parse", "data-3^{commit}") == git(data, "rev-parse", "HEAD")


def test_of_two_baselines_one_is_taken_whole(data, remote, tmp_path):
    do_pull(tmp_path / "other", remote)
    for folder, timestamp, power in ((data, "1", 5), (tmp_path / "other", "2", 7)):
        document = {"timestamp": f"2024010{timestamp}-000000", "avg_idle_power": power, "rails": {}}
        write_json(folder / "idling_power.json", seal_file(document))
    theirs = (data / "idling_power.json").read_bytes()
    assert do_push(data).version == "data-2"
    # Nothing of the other one is left, so it makes no version.
    assert not do_push(tmp_path / "other").moved
    assert (tmp_path / "other" / "idling_power.json").read_bytes() == theirs


def test_git_and_data_in_different_places(data, tmp_path):
    git(tmp_path, "init", "-q", "--bare", "-b", "main", "power.git")
    where = tmp_path / "power.git"
    with pytest.raises(UsageError, match="names no store"):
        do_push(data, where)
    done = do_push(data, where, store=str(tmp_path / "disk"))
    assert (done.new, done.remote.store) == (("a", "b"), str(tmp_path / "disk"))
    assert do_pull(tmp_path / "copy", where).remote.store == str(tmp_path / "disk")
    build_run(tmp_path / "copy", model="c")
    assert do_push(tmp_path / "copy").new == ("c",)  # the store is kept
    do_pull(tmp_path / "board", where, runs=["b"])
    with pytest.raises(UsageError, match=r"2 of its runs \(a, \.\.\.\) are not here"):
        do_push(tmp_path / "board", store=str(tmp_path / "disk2"))
    moved = do_push(tmp_path / "copy", store=str(tmp_path / "disk2"))
    assert (moved.version, moved.new) == ("data-4", ())
    assert do_pull(tmp_path / "copy2", where).remote.store == str(tmp_path / "disk2")


def test_a_folder_whose_data_are_elsewhere(data, tmp_path):
    done = do_push(data, tmp_path / "small", store=str(tmp_path / "disk"))
    assert done.remote.store == str(tmp_path / "disk")
    assert not list((tmp_path / "small" / "objects").iterdir())
    copy = do_pull(tmp_path / "copy", tmp_path / "small")
    assert (copy.fetched, copy.remote.store) == (("a", "b"), str(tmp_path / "disk"))


def test_a_folder_that_was_moved(data, remote, tmp_path):
    remote.rename(tmp_path / "moved")
    remote.mkdir()
    assert do_pull(tmp_path / "copy", tmp_path / "moved").fetched == ("a", "b")
    assert not do_push(data, tmp_path / "moved").moved


def test_a_second_remote_gets_the_numbers_too(data, tmp_path):
    build_run(data, model="c")
    do_push(data)
    done = do_push(data, tmp_path / "second")
    assert (done.version, done.sent_objects > 0) == ("data-2", True)
    assert git(tmp_path / "second" / "data.git", "tag").split() == ["data-1", "data-2"]
    assert do_pull(tmp_path / "old", tmp_path / "second", rev="data-1").runs == ("a", "b")


def test_what_a_store_needs_is_missed_before_anything_is_made(tmp_path, monkeypatch):
    from importlib import util

    build_run(tmp_path / "data", model="a")
    monkeypatch.setattr(util, "find_spec", lambda _name: None)
    for store, package in (("s3://bucket", "dvc-s3"), ("gs://bucket", "dvc-gs")):
        with pytest.raises(UsageError, match=f"pip install '{package}'"):
            do_push(tmp_path / "data", store=store)
    assert not (tmp_path / "data" / ".git").exists()
    assert not (tmp_path / "data-remote").exists()


def test_odd_paths(tmp_path):
    folder = tmp_path / "data \u00e4\u03b2 'x' [1]"
    build_run(folder, model="a")
    assert do_push(folder).new == ("a",)
    copy = tmp_path / "a:b c"
    assert do_pull(copy, f"{folder}-remote").fetched == ("a",)
    assert files(copy / "a") == files(folder / "a")
    assert json.loads((copy / "a" / "run.json").read_text())["name"] == "a"


def test_another_thread_that_dies_ends_the_transfer():
    from edgejoule.dataset.versions.transfer import Meter, _each
    from edgejoule.report.progress import Progress

    meter = Meter("sending", 100, 0, Progress(quiet=True))
    started = threading.Event()

    def work(item):
        if item == 0:
            started.wait(20)
            raise OSError("broken")
        started.set()
        while not meter.stopped.is_set():
            pass
        meter.add_bytes(1)

    with pytest.raises(OSError, match="broken"):
        _each(work, range(100), meter)
    assert meter.bytes == 0
