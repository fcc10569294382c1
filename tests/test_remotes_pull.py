"""What a pull brings, resumes, refuses and leaves alone; with folders."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dvc")

from edgejoule.cli.data_version import main
from edgejoule.dataset.verify import verify_dataset
from edgejoule.dataset.versions import dvc_adapter
from edgejoule.dataset.versions import pulling as version_pull
from edgejoule.errors import MeasurementError, UsageError
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
    """A dataset with the runs a, b, c: data-1 has a and b, data-2 all. Tests use copies of it."""
    with pushed_once(tmp_path_factory, "a", "b") as data:
        build_run(data, model="c")
        do_push(data)
        yield data


@pytest.fixture
def data(pushed, tmp_path):
    return copied(pushed, tmp_path)


@pytest.fixture
def remote(data):
    return data.with_name("data-remote")


@pytest.fixture
def copy(tmp_path):
    return tmp_path / "copy"


def publish(copy, remote):
    """Commit and push what a test did to a copy, as somebody else might with plain git."""
    git(copy, "commit", "-q", "-a", "-m", "by hand")
    git(copy, "push", "-q", str(remote / "data.git"), "HEAD:main")


def test_what_is_here_is_not_fetched_again(data, remote, copy, monkeypatch):
    assert do_pull(copy, remote, runs=["b"]).fetched == ("b",)
    assert do_pull(copy).fetched == ("a", "c")
    monkeypatch.setattr(version_pull, "_bring", None)
    monkeypatch.setattr(version_pull, "check_hashes", None)
    done = do_pull(copy)
    assert (done.runs, done.fetched, done.version) == (("a", "b", "c"), (), "data-2")
    # A file that was touched since is looked at again.
    monkeypatch.undo()
    (copy / "a" / "run.log").touch()
    assert do_pull(copy).fetched == ("a",)


def test_versions_by_number(data, remote, copy):
    old = do_pull(copy, remote, rev="data-1")
    assert (old.runs, old.version, old.others) == (("a", "b"), "data-1", ())
    new = do_pull(copy)
    assert (new.runs, new.fetched, new.version) == (("a", "b", "c"), ("c",), "data-2")
    back = do_pull(copy, rev="data-1")
    assert (back.fetched, back.others) == ((), ("c",))
    assert (copy / "c" / "run.json").exists()
    for rev in ("data-9", "--all", "-1"):
        with pytest.raises(UsageError, match="has no version"):
            do_pull(copy, rev=rev)


def test_runs_of_other_names_stay(remote, copy):
    build_run(copy, model="mine")
    before = files(copy / "mine")
    done = do_pull(copy, remote, runs=["a"])
    assert (done.fetched, done.others) == (("a",), ("mine",))
    assert files(copy / "mine") == before
    # Another run here matters only if its name is asked for.
    build_run(copy, model="b", profiled=3)
    assert do_pull(copy, runs=["c"]).fetched == ("c",)
    with pytest.raises(MeasurementError, match="b is another run here"):
        do_pull(copy)


def test_what_is_in_the_way_is_not_lost(remote, copy):
    do_pull(copy, remote)
    (copy / "a" / "notes.txt").write_text("mine")
    with pytest.raises(MeasurementError, match=r"a/notes\.txt is not in the version's run"):
        do_pull(copy)
    (copy / "a" / "notes.txt").unlink()
    (copy / "a" / "run.log").write_text("mine")
    with pytest.raises(MeasurementError, match=r"a/run\.log differs from the version's run"):
        do_pull(copy)
    assert (copy / "a" / "run.log").read_text() == "mine"
    (copy / "a" / "run.log").unlink()
    (copy / "a" / f".{'x' * 22}.tmp").write_text("left by a killed copy")
    assert do_pull(copy).fetched == ("a",)
    assert verify_dataset(copy).ok()


def test_objects_that_the_remote_has_wrong_are_named(data, remote, copy):
    spoil(objects(remote)[0])
    objects(remote)[1].unlink()
    with pytest.raises(
        MeasurementError, match=r"is (damaged|missing); .* is (missing|damaged) on /.*push --deep"
    ) as one:
        do_pull(copy, remote)
    assert str(remote / "objects") in str(one.value)
    assert not list(copy.glob("*/run.json"))
    do_push(data, deep=True)
    assert do_pull(copy, remote).fetched == ("a", "b", "c")
    assert verify_dataset(copy).ok()


def test_a_list_of_files_that_is_wrong_is_named(data, remote, copy):
    spoil(objects(remote, lists=True)[0], b"[]")
    with pytest.raises(MeasurementError, match=r"[abc]/ is damaged on"):
        do_pull(copy, remote)


def test_a_killed_pull_is_resumed(remote, copy, monkeypatch):
    bring = version_pull.bring
    asked = []

    def interrupted(repo, oids, meter):
        asked.append(dict(oids))
        if len(asked) == 2:
            bring(repo, dict(list(oids.items())[:5]), meter)
            raise KeyboardInterrupt
        bring(repo, oids, meter)

    monkeypatch.setattr(version_pull, "bring", interrupted)
    with pytest.raises(KeyboardInterrupt):
        do_pull(copy, remote)
    # One of those that had arrived is damaged on this disk.
    cached = Path(copy, ".dvc", "cache", "files", "md5")
    arrived = next(iter(asked[1]))
    spoil(cached / arrived[:2] / arrived[2:])
    assert do_pull(copy, remote).fetched == ("a", "b", "c")
    assert len(asked[2]) == len(asked[1]) - 4
    assert verify_dataset(copy).ok()


def test_a_pull_that_was_cut_while_runs_were_put_in_place(remote, copy, monkeypatch):
    put = dvc_adapter.check_out

    def half(repo, run):
        put(repo, run)
        if run == "b":
            (copy / "b" / "run.json").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(dvc_adapter, "check_out", half)
    with pytest.raises(KeyboardInterrupt):
        do_pull(copy, remote)
    monkeypatch.undo()
    assert set(do_pull(copy).fetched) >= {"b", "c"}
    assert verify_dataset(copy).ok()


def test_a_pointer_that_leads_elsewhere_is_refused(remote, copy, tmp_path):
    do_pull(copy, remote)
    pointer = copy / "a.dvc"
    pointer.write_text(pointer.read_text().replace("path: a\n", "path: ../stolen\n"))
    publish(copy, remote)
    for action in (lambda: do_pull(tmp_path / "victim", remote), lambda: do_push(copy)):
        with pytest.raises(MeasurementError, match=r"a\.dvc does not point at the folder a"):
            action()
    assert not (tmp_path / "stolen").exists()


def test_a_link_of_a_foreign_version_is_not_followed(remote, copy, tmp_path):
    do_pull(copy, remote)
    (tmp_path / "home").mkdir()
    git(copy, "rm", "-q", "--cached", "a.dvc")
    shutil.rmtree(copy / "a")
    (copy / "a").symlink_to(tmp_path / "home")
    git(copy, "add", "-f", "a")
    publish(copy, remote)
    build_run(tmp_path / "other", model="d")
    done = do_pull(tmp_path / "other", remote)
    assert done.runs == ("b", "c")
    assert not (tmp_path / "other" / "a").is_symlink()


def test_foreign_settings_do_not_reach_dvc(remote, copy, tmp_path):
    do_pull(copy, remote)
    settings = copy / ".dvc" / "config"
    hostile = f"[cache]\n    dir = {tmp_path / 'elsewhere'}\n[core]\n    hardlink_lock = maybe\n"
    settings.write_text(settings.read_text() + hostile)
    publish(copy, remote)
    victim = tmp_path / "victim"
    assert do_pull(victim, remote).fetched == ("a", "b", "c")
    assert not (tmp_path / "elsewhere").exists()
    # Taking it out is no change of ours, until we push.
    assert do_pull(victim).commit == git(remote / "data.git", "rev-parse", "main")
    assert do_push(victim).moved
    assert "elsewhere" not in git(remote / "data.git", "show", "main:.dvc/config")


def test_a_store_that_is_not_mounted(remote, copy, tmp_path, data):
    git(tmp_path, "init", "-q", "--bare", "-b", "main", "power.git")
    do_push(data, tmp_path / "power.git", store=str(tmp_path / "disk"))
    (tmp_path / "disk").rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="disk, which is not there; mount it"):
        do_pull(copy, tmp_path / "power.git")
    done = do_pull(copy, tmp_path / "power.git", store=str(tmp_path / "moved"))
    assert done.fetched == ("a", "b", "c")
    # Plain DVC in this folder finds it there, too.
    assert str(tmp_path / "moved") in (copy / ".dvc" / "config.local").read_text()


def test_nothing_is_made_if_there_is_nothing_to_pull(tmp_path, monkeypatch, copy):
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q", "--bare", "empty.git")
    for url, says in (
        ("rosa/power", "is no remote of a dataset.*https://dagshub.com/rosa/power"),
        ("nowhere", "is no remote of a dataset; push to it first$"),
        ("empty.git", "has no branch main; push to it first"),
    ):
        with pytest.raises(UsageError, match=says):
            do_pull(copy, url)
    assert not copy.exists()


def test_plain_dvc_pulls_a_clone(remote, data, tmp_path):
    git(tmp_path, "clone", "-q", str(remote / "data.git"), "plain")
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path),
                   "DVC_NO_ANALYTICS": "1"}  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "dvc", "pull", "-q"],
        check=True, cwd=tmp_path / "plain", env=environment,
    )  # fmt: skip
    for run in ("a", "b", "c"):
        assert files(tmp_path / "plain" / run) == files(data / run)
    assert do_pull(tmp_path / "plain").version == "data-2"


def test_what_the_command_says(data, remote, copy, capsys):
    assert main(["pull", str(remote), "--dataset", str(copy), "--run", "a"]) == 0
    assert "1 runs of version data-2 (" in capsys.readouterr().out
    assert main(["pull", "--dataset", str(copy), "--rev", "data-1"]) == 0
    assert "1 were here already, every file checked" in capsys.readouterr().out
    assert main(["pull", "--dataset", str(copy), "--rev", "data-1"]) == 0
    assert "were all here already" in capsys.readouterr().out
    assert main(["push", "--dataset", str(copy)]) == 2
    assert "shows an old version; run pull without --rev" in capsys.readouterr().err
    shutil.rmtree(data / "a")
    assert main(["push", "--dataset", str(data)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["push", "--dataset", str(data), "--allow-change"]) == 0
    said = capsys.readouterr().out
    assert "taken out of the version: a; older versions keep it" in said
    assert "version data-3 (" in said
    assert main(["pull", "--dataset", str(copy)]) == 0
    assert "also here, not of this version: a" in capsys.readouterr().out
