"""What a store lost or spoilt is found, named, and healed by a push; and what a push refuses."""

import json
import shutil
import subprocess

import pytest

pytest.importorskip("dvc")

from tests.servers import standin
from tests.servers.places import ALL, ANY, add_runs, files, runs_of

pytestmark = [
    pytest.mark.real_servers,
    pytest.mark.skipif(standin.lacking() is not None, reason=str(standin.lacking())),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(dvc|aiohttp_retry)"),
]


def oid_of(place, content):
    """The name of the stored object with this content."""
    return next(name for name in place.store.names() if place.store.read(name) == content)


def lists(place):
    return [name for name in place.store.names() if name.endswith(".dir")]


@pytest.fixture
def sent(place, commands, tmp_path):
    data = add_runs(tmp_path / "data", "a", "b")
    done = commands.call("push", *place.target, "--dataset", data)
    assert done.code == 0, done
    return data


@pytest.mark.parametrize("place", ALL, indirect=True)
def test_deleted_cut_and_corrupted_objects(place, sent, commands, tmp_path):
    store = place.store
    deleted = oid_of(place, (sent / "a" / "power.parquet").read_bytes())
    cut = oid_of(place, (sent / "b" / "energy.parquet").read_bytes())
    corrupted = oid_of(place, (sent / "b" / "run.json").read_bytes())
    before = {name: store.read(name) for name in store.names()}
    store.delete(deleted)
    store.write(cut, before[cut][:-7])
    content = bytearray(before[corrupted])
    content[len(content) // 2] ^= 1
    store.write(corrupted, bytes(content))

    done = commands.call("verify", sent, "--remote", "--deep")
    assert done.code == 1, done
    for name in ("a/power.parquet", "b/energy.parquet", "b/run.json"):
        assert name in done.out
    assert "a/engine.json" not in done.out
    # Nobody gets a wrong file.
    copy = tmp_path / "copy"
    assert commands.call("pull", place.url, "--dataset", copy).code == 1
    for run, held in (runs_of(copy) if copy.exists() else {}).items():
        for name, raw in held.items():
            assert raw == (sent / run / name).read_bytes()

    done = commands.call("push", "--dataset", sent)
    assert done.code == 0, done
    assert {name: store.read(name) for name in store.names()} == before
    done = commands.call("verify", sent, "--remote", "--deep")
    assert (done.code, done.errors) == (0, []), done
    done = commands.call("pull", place.url, "--dataset", copy)
    assert done.code == 0, done
    assert runs_of(copy) == runs_of(sent)


@pytest.mark.parametrize("place", ANY, indirect=True)
def test_the_list_of_a_runs_files(place, sent, commands, tmp_path):
    store = place.store
    before = {name: store.read(name) for name in store.names()}
    first, second = lists(place)
    store.delete(first)
    entries = json.loads(before[second])
    store.write(second, json.dumps(entries[:-1]).encode().ljust(len(before[second])))
    done = commands.call("verify", sent, "--remote", "--deep")
    assert done.code == 1, done
    for run in ("a", "b"):
        assert any(line.startswith(f"error: {run}") for line in done.out.splitlines()), done
    assert commands.call("pull", place.url, "--dataset", tmp_path / "copy").code == 1
    done = commands.call("push", "--dataset", sent)
    assert done.code == 0, done
    assert {name: store.read(name) for name in store.names()} == before
    assert commands.call("verify", sent, "--remote", "--deep").code == 0
    assert commands.call("pull", place.url, "--dataset", tmp_path / "copy").code == 0


@pytest.mark.parametrize("place", ANY, indirect=True)
def test_a_push_that_looks_deep_finds_it_by_itself(place, sent, commands):
    victim = oid_of(place, (sent / "a" / "energy.parquet").read_bytes())
    right = place.store.read(victim)
    place.store.write(victim, bytes(len(right)))
    done = commands.call("push", "--dataset", sent, "--deep")
    assert done.code == 0, done
    assert place.store.read(victim) == right


@pytest.mark.parametrize("place", ["http"], indirect=True)
def test_a_run_that_lacks_files_is_refused(place, sent, commands):
    add_runs(sent, "c")
    for run in ("a", "c"):  # one that the version has, and a new one
        victim = sent / run / "power.parquet"
        content = victim.read_bytes()
        victim.unlink()
        done = commands.call("push", "--dataset", sent)
        assert done.code == 1, done
        assert f"{run}/power.parquet" in done.err
        victim.write_bytes(content)
    assert commands.call("push", "--dataset", sent).code == 0


@pytest.mark.parametrize("place", ["http"], indirect=True)
def test_a_run_that_vanished_is_refused_unless_allowed(place, sent, commands, tmp_path):
    add_runs(sent, "c")
    shutil.rmtree(sent / "a")
    done = commands.call("push", "--dataset", sent)
    assert done.code == 1, done
    assert done.err.startswith("error: a: in the version")
    assert "--allow-change" in done.err
    done = commands.call("push", "--dataset", sent, "--allow-change")
    assert done.code == 0, done
    copy = tmp_path / "copy"
    assert commands.call("pull", place.url, "--dataset", copy).code == 0
    assert sorted(runs_of(copy)) == ["b", "c"]
    old = tmp_path / "old"
    done = commands.call("pull", place.url, "--dataset", old, "--rev", "data-1")
    assert done.code == 0, done
    assert sorted(runs_of(old)) == ["a", "b"]


@pytest.mark.parametrize("place", ["http"], indirect=True)
def test_a_folder_that_never_had_the_other_runs_may_push(place, sent, commands, tmp_path):
    board = tmp_path / "board"
    assert commands.call("pull", place.url, "--dataset", board, "--run", "b").code == 0
    add_runs(board, "c")
    assert commands.call("push", "--dataset", board).code == 0
    copy = tmp_path / "copy"
    assert commands.call("pull", place.url, "--dataset", copy).code == 0
    assert sorted(runs_of(copy)) == ["a", "b", "c"]


@pytest.mark.parametrize("place", ["http"], indirect=True)
def test_a_repository_around_the_dataset_is_left_alone(place, commands, tmp_path):
    outer = tmp_path / "outer"
    outer.mkdir()

    def git(*words):
        subprocess.run(
            ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(outer), *words],
            check=True, capture_output=True, env={"PATH": "/usr/bin:/bin", "HOME": str(outer)},
        )  # fmt: skip

    git("init", "-q")
    (outer / "code.py").write_text("print()\n")
    (outer / ".gitignore").write_text("raw_data/\n")
    git("add", ".")
    git("commit", "-q", "-m", "code")
    (outer / "staged.py").write_text("1\n")
    git("add", "staged.py")
    data = add_runs(outer / "raw_data", "a")

    def rest():
        return {name: raw for name, raw in files(outer).items() if not name.startswith("raw_data")}

    before = rest()
    for words in (
        ["push", *place.target, "--dataset", data],
        ["status", data, "--remote"],
        ["log", data],
        ["verify", data, "--remote", "--deep"],
        ["pull", "--dataset", data],
        ["pull", place.url, "--dataset", outer / "raw_data" / ".." / "raw_data"],
    ):
        done = commands.call(*words)
        assert done.code == 0, done
    assert rest() == before
