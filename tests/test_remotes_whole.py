"""Whoever pulls a version gets all of it, whatever was pushed where before; with folders."""

import shutil
from dataclasses import replace

import pytest

pytest.importorskip("dvc")

from edgejoule.dataset.versions import commands, locking
from edgejoule.dataset.versions.pointers import pointers_at
from edgejoule.errors import MeasurementError
from tests.support_dataset import build_run
from tests.support_versions import (
    copied,
    do_pull,
    do_push,
    files,
    git,
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


def test_some_of_the_runs_do_not_go_to_another_remote(remote, tmp_path):
    """The pointers of the others would go there without their data."""
    some, second = tmp_path / "some", tmp_path / "second"
    do_pull(some, remote, runs=["a"])
    with pytest.raises(MeasurementError, match="b is in the versions of") as caught:
        do_push(some, second)
    assert "pull --run b" in str(caught.value)
    do_pull(some, remote)
    do_push(some, second)
    assert do_pull(tmp_path / "fresh", second).runs == ("a", "b")


def test_one_run_does_not_go_alone_to_another_store(data, remote, tmp_path):
    with pytest.raises(MeasurementError, match="b is in the versions of"):
        do_push(data, store=str(tmp_path / "disk"), runs=["a"])
    assert do_pull(tmp_path / "fresh", remote).runs == ("a", "b")
    assert do_push(data, store=str(tmp_path / "disk")).objects
    assert do_pull(tmp_path / "fresh2", remote).runs == ("a", "b")


def test_a_second_branch_needs_not_all_runs_here(remote, tmp_path):
    """Their data are in the store already."""
    some = tmp_path / "some"
    do_pull(some, remote, runs=["a"])
    build_run(some, model="c")
    assert do_push(some, branch="dev").new == ("a", "c")
    assert do_pull(tmp_path / "fresh", remote, branch="dev").runs == ("a", "b", "c")


def test_what_is_not_for_others_leaves_no_pointer_with_them(tmp_path):
    """A simulated run of a folder's versions, and then the versions go to others."""
    data, own = tmp_path / "data", tmp_path / "data-remote"
    build_run(data, model="real")
    build_run(data, model="sim", simulated=True, sensor="simulated")
    do_push(data, own)
    shared = replace(
        commands.resolve_remote(data, str(tmp_path / "shared"), None, None), shared=True
    )

    def share(**options):
        return commands.push(data, shared, say=lambda _line: None, **options)

    from edgejoule.dataset.versions.repository import make_folder_remote

    make_folder_remote(shared)
    assert share().refused == {"sim": "its power is simulated"}
    assert do_pull(tmp_path / "fresh", tmp_path / "shared").runs == ("real",)
    # The folder of one's own keeps it, and others get it if it is forced.
    assert do_push(data, own).version
    assert do_pull(tmp_path / "fresh2", own).runs == ("real", "sim")
    assert share().refused
    assert share(force=True).new == ("sim",)
    assert do_pull(tmp_path / "fresh3", tmp_path / "shared").runs == ("real", "sim")


@pytest.mark.parametrize("size", [0, None])
@pytest.mark.parametrize("lists", [False, True])
def test_a_cache_that_a_power_cut_spoilt_is_not_sent(data, remote, tmp_path, size, lists):
    """DVC takes an object that is there for right, whatever is in it."""
    build_run(data, model="c")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgejoule.dataset.versions.pushing.send", _cut)
        with pytest.raises(KeyboardInterrupt):
            do_push(data)
    known = {path.name for path in (remote / "objects").rglob("*")}
    cached = sorted((data / ".dvc" / "cache" / "files" / "md5").rglob("??*"))
    fresh = [p for p in cached if p.is_file() and p.name not in known]
    chosen = [path for path in fresh if (path.suffix == ".dir") == lists]
    assert chosen
    for path in chosen:
        spoil(path, None if size is None else b"")
    do_push(data)
    assert do_pull(tmp_path / "fresh", remote).runs == ("a", "b", "c")
    assert files(tmp_path / "fresh" / "c") == files(data / "c")


def _cut(*_words):
    raise KeyboardInterrupt


def test_a_run_whose_pointer_got_lost_is_pointed_at_again(data, remote, tmp_path):
    git(data, "rm", "-q", "b.dvc")
    git(data, "commit", "-q", "-m", "by hand")
    done = do_push(data)
    assert "b" in pointers_at(data, "HEAD")
    assert "b" in (*done.new, *done.known)
    assert do_pull(tmp_path / "fresh", remote).runs == ("a", "b")


@pytest.mark.parametrize("name", ["dataset.json", "idling_power.json"])
def test_small_files_of_a_folder_without_versions_are_kept(remote, data, tmp_path, name):
    (data / name).write_text('{"theirs": 1}')
    do_push(data)
    mine = tmp_path / "mine"
    build_run(mine, model="c")
    (mine / name).write_text('{"mine": 1}')
    do_pull(mine, remote)
    kept = [path.read_text() for path in (mine / ".git" / "edgejoule").rglob(f"*{name}*")]
    assert '{"mine": 1}' in kept
    assert (mine / name).read_text() == '{"theirs": 1}'


def test_a_baseline_that_only_we_changed_is_ours(data, remote, tmp_path):
    name = "idling_power.json"
    (data / name).write_text('{"power": 1}\n')
    do_push(data)
    do_pull(tmp_path / "other", remote)
    build_run(tmp_path / "other", model="c")
    do_push(tmp_path / "other")
    (data / name).write_text('{"power": 2}\n')
    build_run(data, model="d")
    do_push(data)
    assert (data / name).read_text() == '{"power": 2}\n'
    do_pull(tmp_path / "other")
    assert (tmp_path / "other" / name).read_text() == '{"power": 2}\n'


def test_a_run_that_one_took_out_and_another_replaced_is_not_mixed(data, remote, tmp_path):
    """git would take the new pointer of the one for the renamed pointer of the other."""
    other = tmp_path / "other"
    do_pull(other, remote)
    shutil.rmtree(other / "b")
    build_run(other, model="b", weights="random")
    do_push(other, allow_change=True)
    shutil.rmtree(data / "b")
    build_run(data, model="c")
    git(data, "rm", "-q", "b.dvc")
    (data / "c.dvc").write_text((data / "a.dvc").read_text().replace("path: a", "path: c"))
    git(data, "add", "-f", "c.dvc")
    git(data, "commit", "-q", "-m", "took b out, not pushed yet")
    with pytest.raises(MeasurementError):
        do_push(data, allow_change=True)
    done = do_pull(tmp_path / "fresh", remote)
    assert done.runs == ("a", "b")


def test_two_first_pushes_of_one_folder(tmp_path):
    """The second says who is at work, and does not meet half a repository."""
    build_run(tmp_path / "data", model="a")
    git(tmp_path, "init", "-q", "data")
    with (
        locking.one_at_a_time(tmp_path / "data"),
        pytest.raises(MeasurementError, match="another push or pull is at work"),
    ):
        do_push(tmp_path / "data")
    assert do_push(tmp_path / "data").new == ("a",)


def test_a_folder_that_was_killed_on_its_way_to_a_repository(tmp_path):
    build_run(tmp_path / "data", model="a")
    git(tmp_path, "init", "-q", "data")
    (tmp_path / "data" / ".dvc").mkdir()
    do_push(tmp_path / "data")
    assert "/config.local" in (tmp_path / "data" / ".dvc" / ".gitignore").read_text()
    assert do_pull(tmp_path / "fresh", tmp_path / "data-remote").runs == ("a",)
