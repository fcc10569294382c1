"""Push and pull through a folder: no server, no token, no network."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("dvc")

from edgejoule.cli.data_version import main
from edgejoule.dataset.verify import verify_dataset
from edgejoule.dataset.versions import dvc_adapter
from edgejoule.dataset.versions.commands import pull, push, resolve_remote
from edgejoule.dataset.versions.git import run_git
from edgejoule.dataset.versions.remotes import Remote, folder_remote
from edgejoule.dataset.versions.repository import configured_remote, init
from edgejoule.errors import MeasurementError, TokenError, UsageError
from tests.support_dataset import build_run, reseal

pytestmark = [pytest.mark.dvc, pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("DAGSHUB_", "GIT_", "CREATE_REPO")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def data(tmp_path):
    """A dataset with the runs a and b."""
    build_run(tmp_path / "data", model="a")
    build_run(tmp_path / "data", model="b")
    return tmp_path / "data"


def quiet(_line):
    pass


def do_push(dataset, remote=None, **options):
    remote = remote or resolve_remote(dataset, None, None, None)
    return push(dataset, remote, say=quiet, **options)


def do_pull(dataset, remote, **options):
    return pull(dataset, remote, say=quiet, **options)


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_round_trip_brings_every_byte(data, tmp_path):
    pushed = do_push(data)
    assert (pushed.new, pushed.known, pushed.refused) == (("a", "b"), (), {})
    assert pushed.remote.label == str(tmp_path / "data-remote")
    pulled = do_pull(tmp_path / "copy", pushed.remote)
    assert pulled.runs == ("a", "b")
    assert pulled.commit == pushed.commit
    for name in ("a", "b"):
        assert tree(tmp_path / "copy" / name) == tree(data / name)
    assert verify_dataset(tmp_path / "copy").ok()
    assert run_git(data, "status", "--porcelain") == ""


def test_pushing_again_sends_only_what_is_new(data):
    first = do_push(data)
    again = do_push(data)
    assert (again.new, again.known, again.commit) == ((), ("a", "b"), first.commit)
    build_run(data, model="c")
    third = do_push(data, message="one more")
    assert (third.new, third.known) == (("c",), ("a", "b"))
    assert run_git(data, "log", "-1", "--format=%s").strip() == "one more"


def test_a_folder_with_some_of_the_runs_does_not_drop_the_others(data, tmp_path):
    remote = do_push(data).remote
    do_pull(tmp_path / "board", remote, runs=["b"])
    assert not (tmp_path / "board" / "a").exists()
    build_run(tmp_path / "board", model="c")
    assert do_push(tmp_path / "board").new == ("c",)
    assert do_pull(tmp_path / "all", remote).runs == ("a", "b", "c")


def test_two_who_push_different_runs_both_get_in(data, tmp_path):
    remote = do_push(data).remote
    do_pull(tmp_path / "other", remote)
    build_run(tmp_path / "other", model="c")
    (tmp_path / "other" / "idling_power.json").write_text('{"timestamp": "1"}\n', encoding="utf-8")
    do_push(tmp_path / "other")
    build_run(data, model="d")
    (data / "idling_power.json").write_text('{"timestamp": "2"}\n', encoding="utf-8")
    assert do_push(data).new == ("d",)
    do_pull(tmp_path / "other", remote)
    assert sorted(path.name for path in (tmp_path / "other").glob("*/run.json")) == ["run.json"] * 4
    assert sorted(dvc_adapter.pointers(tmp_path / "other")) == ["a", "b", "c", "d"]


def test_a_push_that_met_a_faster_one_joins_it(data, tmp_path, monkeypatch):
    from edgejoule.dataset.versions import pushing as version_push

    remote = do_push(data).remote
    do_pull(tmp_path / "fast", remote)
    build_run(tmp_path / "fast", model="c")
    build_run(data, model="d")
    commit = version_push.commit_files

    def overtaken(dataset, *arguments):
        commit(dataset, *arguments)
        if dataset == data:
            do_push(tmp_path / "fast", remote)

    monkeypatch.setattr(version_push, "commit_files", overtaken)
    assert do_push(data).new == ("d",)
    assert sorted(do_pull(tmp_path / "all", remote).runs) == ["a", "b", "c", "d"]


def test_another_run_of_the_same_name_is_refused(data, tmp_path):
    remote = do_push(data).remote
    build_run(tmp_path / "mine", model="a", profiled=3)
    before = tree(tmp_path / "mine" / "a")
    for action in (do_push, do_pull):
        with pytest.raises(MeasurementError, match="a is another run here than"):
            action(tmp_path / "mine", remote)
    assert tree(tmp_path / "mine" / "a") == before
    assert do_push(tmp_path / "mine", remote, allow_change=True).new == ("a",)
    do_pull(tmp_path / "copy", remote)
    assert tree(tmp_path / "copy" / "a") == before


def test_a_changed_run_is_refused(data):
    do_push(data)
    reseal(data / "a", board_id="another")
    with pytest.raises(MeasurementError, match="a is another run here"):
        do_push(data)
    assert do_push(data, allow_change=True).new == ("a",)


def test_a_damaged_run_is_not_pushed(data):
    (data / "b" / "layers.parquet").write_bytes(b"?")
    with pytest.raises(MeasurementError, match=r"b/layers\.parquet has 1 bytes"):
        do_push(data)
    assert not list(data.glob("[ab].dvc"))
    (data / "b" / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(MeasurementError, match=r"b/run\.json is damaged"):
        do_push(data)


def test_unreal_runs_stay_away_from_others_unless_forced(tmp_path):
    from edgejoule.dataset.versions.push_checks import choose

    data = tmp_path / "data"
    build_run(data, model="real")
    build_run(data, model="sim", simulated=True, sensor="simulated")
    build_run(data, model="rand", weights="random")
    reseal(build_run(data, model="cut"), status="incomplete", missing=["killed"])
    shared = Remote("", "", "there", shared=True)
    chosen, refused = choose(data, shared, [], force=False)
    assert chosen == ["real"]
    assert refused == {
        "sim": "its power is simulated",
        "rand": "its weights are random",
        "cut": "it is incomplete",
    }
    assert choose(data, shared, [], force=True) == (["cut", "rand", "real", "sim"], {})
    assert do_push(data).new == ("cut", "rand", "real", "sim")  # a folder of one's own takes all


def test_an_object_that_the_remote_lost_is_sent_again(data, tmp_path):
    remote = do_push(data).remote
    stored = sorted(path for path in Path(remote.dvc_url).rglob("*") if path.is_file())
    files = [path for path in stored if path.suffix != ".dir"]
    files[0].unlink()
    lists = [path for path in stored if path.suffix == ".dir"]
    for damaged in (files[3], lists[0]):
        damaged.chmod(0o644)
        damaged.write_bytes(b"short")
    do_push(data)
    do_pull(tmp_path / "copy", remote)
    assert verify_dataset(tmp_path / "copy").ok()


def test_a_damaged_object_is_found_by_pull(data, tmp_path):
    remote = do_push(data).remote
    stored = [path for path in Path(remote.dvc_url).rglob("*") if path.is_file()]
    victim = next(path for path in stored if path.suffix != ".dir")
    victim.chmod(0o644)
    victim.write_bytes(b"x" * victim.stat().st_size)
    with pytest.raises(MeasurementError):
        do_pull(tmp_path / "copy", remote)
    shutil.copy(next(data.glob(f"{find(data, victim)}")), victim)
    do_pull(tmp_path / "copy", remote)
    assert verify_dataset(tmp_path / "copy").ok()


def find(data, stored):
    """Return the path below `data` of the file that an object was made of, by its MD5."""
    import hashlib

    wanted = stored.parent.name + stored.name
    for path in data.glob("*/*"):
        if path.is_file() and hashlib.md5(path.read_bytes()).hexdigest() == wanted:
            return path.relative_to(data)
    raise AssertionError(wanted)


def test_what_pull_brought_is_held_against_its_hashes(data, tmp_path, monkeypatch):
    remote = do_push(data).remote
    put = dvc_adapter.check_out

    def put_damaged(repo, run):
        put(repo, run)
        if run == "a":
            (tmp_path / "copy" / "a" / "run.json").unlink()
            return
        path = tmp_path / "copy" / "b" / "run.log"
        path.chmod(0o644)
        path.write_text("other")

    monkeypatch.setattr(dvc_adapter, "check_out", put_damaged)
    with pytest.raises(MeasurementError) as caught:
        do_pull(tmp_path / "copy", remote)
    assert "a/run.json is not what was pushed" in str(caught.value)
    assert "b/run.log has 5 bytes" in str(caught.value)


def test_an_interrupted_push_is_repeated(data, monkeypatch):
    from edgejoule.dataset.versions import pushing as version_push

    def interrupted(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(version_push, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            do_push(data)
    assert (data / "a.dvc").exists()
    assert do_push(data).new == ("a", "b")
    assert run_git(data, "status", "--porcelain") == ""


def test_an_old_version_can_be_shown(data, tmp_path):
    first = do_push(data)
    build_run(data, model="c")
    do_push(data)
    copy = tmp_path / "copy"
    assert do_pull(copy, first.remote, rev=first.commit).runs == ("a", "b")
    with pytest.raises(UsageError, match="shows an old version"):
        do_push(copy)
    with pytest.raises(UsageError, match="has no version nope"):
        do_pull(copy, first.remote, rev="nope")
    assert do_pull(copy, first.remote).runs == ("a", "b", "c")


def test_a_repository_around_the_dataset_is_left_alone(tmp_path):
    outer = tmp_path / "code"
    outer.mkdir()
    subprocess.run(["git", "init", "-q", str(outer)], check=True)
    (outer / ".gitignore").write_text("data/\n")
    before = tree(outer / ".git")
    build_run(outer / "data", model="a")
    do_push(outer / "data")
    do_pull(outer / "copy", folder_remote(outer / "data-remote"))
    assert tree(outer / ".git") == before
    status = ["git", "-C", str(outer), "status", "--porcelain", "--untracked-files=all"]
    shown = subprocess.run(status, check=True, capture_output=True, text=True).stdout
    assert "data-remote" not in shown
    assert (outer / "data" / ".git").is_dir()


def test_git_variables_of_a_hook_do_not_lead_elsewhere(data, tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path / "code")], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "code" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "code"))
    before = tree(tmp_path / "code" / ".git")
    assert init(data)
    assert tree(tmp_path / "code" / ".git") == before


def test_init_twice_and_settings(data):
    assert init(data)
    assert not init(data)
    assert "analytics = false" in (data / ".dvc" / "config").read_text()
    assert ".partial" in (data / ".gitignore").read_text()
    assert configured_remote(data) is None
    tracked = run_git(data, "ls-files").split()
    assert tracked == [".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitignore", "dataset.json"]


def test_what_is_being_measured_is_not_versioned(data):
    from tests.support_dataset import write_partial

    write_partial(data)
    do_push(data)
    assert run_git(data, "status", "--porcelain", "--untracked-files=all") == ""
    assert "partial" not in run_git(data, "ls-files")


@pytest.mark.parametrize("what", ["git", "files"])
def test_init_refuses_what_is_something_else(tmp_path, what):
    folder = tmp_path / "mine"
    folder.mkdir()
    if what == "git":
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
        commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty"]
        subprocess.run(["git", "-C", str(folder), *commit, "-m", "x"], check=True)
    else:
        (folder / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"something else|is no dataset"):
        init(folder)
    assert not (folder / ".dvc").exists()


def test_wrong_arguments_are_one_line(data, tmp_path):
    remote = do_push(data).remote
    with pytest.raises(UsageError, match="has no run z"):
        do_push(data, runs=["z"])
    with pytest.raises(UsageError, match="has no run z"):
        do_pull(tmp_path / "copy", remote, runs=["z"])
    with pytest.raises(UsageError, match="has no branch dev"):
        do_pull(tmp_path / "copy", remote, branch="dev")
    with pytest.raises(UsageError, match="is no remote of a dataset"):
        do_pull(tmp_path / "copy2", folder_remote(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="is no dataset"):
        do_push(tmp_path / "nowhere", remote)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UsageError, match="is no remote of a dataset"):
        do_push(data, folder_remote(tmp_path / "full"))


def test_where_to(data, tmp_path, monkeypatch):
    beside = folder_remote(tmp_path / "data-remote")
    assert resolve_remote(data, None, None, None) == beside
    assert resolve_remote(data, str(tmp_path / "x"), None, None) == folder_remote(tmp_path / "x")
    with pytest.raises(UsageError, match="an address and --owner"):
        resolve_remote(data, "x", "o", None)
    with pytest.raises(TokenError, match="no token"):
        resolve_remote(data, None, None, "name")
    monkeypatch.setenv("DAGSHUB_OWNER", "rosa")
    monkeypatch.setenv("DAGSHUB_REPO_NAME", "power")
    assert resolve_remote(data, None, None, None).label == "https://dagshub.com/rosa/power"
    assert resolve_remote(data, None, None, "other").name == "other"
    monkeypatch.delenv("DAGSHUB_OWNER")
    monkeypatch.delenv("DAGSHUB_REPO_NAME")
    do_push(data, folder_remote(tmp_path / "disk"))
    assert resolve_remote(data, None, None, None) == folder_remote(tmp_path / "disk")
    assert configured_remote(data) == folder_remote(tmp_path / "disk")


def test_commands_say_what_they_did(data, tmp_path, capsys):
    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    assert "is now its own" in call("init", data)[1]
    assert "already is its own" in call("init", data)[1]
    code, out, err = call("push", "--dataset", data)
    assert (code, err) == (0, "")
    assert "2 new and 0 known runs" in out
    copy = tmp_path / "copy"
    code, out, err = call("pull", tmp_path / "data-remote", "--dataset", copy, "--run", "b")
    assert (code, err) == (0, "")
    assert "1 runs of version data-1" in out
    code, out, err = call("push", "https://elsewhere.example/a/b", "--dataset", data)
    assert code == 2
    assert "is not on the configured host" in err
    code, out, err = call("pull", tmp_path / "nowhere", "--dataset", tmp_path / "copy2")
    assert (code, len(err.splitlines())) == (2, 1)
    assert json.loads(call("verify", copy, "--json")[1])["ok"] is True
