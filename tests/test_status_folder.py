"""status: folder against version, version against the remote, and what it does not know."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from edgejoule.cli import data_version
from edgejoule.dataset.versions.git import init_repository, run_git
from edgejoule.dataset.versions.notes import Damage, note_damaged, note_here
from edgejoule.dataset.versions.remotes import folder_remote
from edgejoule.dataset.versions.status import STATES, status
from edgejoule.errors import EXIT_SERVER, EXIT_TOKEN, UsageError
from tests.support_dataset import build_run, reseal
from tests.support_history import commit_version, make_repository


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("DAGSHUB_", "GIT_", "EDGEJOULE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The runs a, b and c, in one version."""
    data = tmp_path_factory.mktemp("made") / "data"
    make_repository(data)
    for model in "abc":
        build_run(data, model=model)
    commit_version(data, "first", *"abc", tag="data-1")
    return data


@pytest.fixture
def data(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "data")


@pytest.fixture
def remote(data, tmp_path):
    """A folder that the version was pushed to."""
    remote = folder_remote(tmp_path / "data-remote")
    Path(remote.dvc_url).mkdir(parents=True)
    init_repository(Path(remote.git_url), bare=True)
    run_git(data, "remote", "add", "origin", remote.git_url)
    run_git(data, "push", "--quiet", "origin", "HEAD:refs/heads/main")
    return remote


def states(found):
    return {run.run: run.state for run in found.runs}


def test_nothing_to_do(data, remote):
    found = status(data)
    assert states(found) == {"a": "same", "b": "same", "c": "same"}
    assert (found.small_files, found.unfinished) == ((), ())
    assert (found.differs, found.exit_code) == (False, 0)
    assert (found.remote.label, found.remote.state) == (remote.label, "in step")
    version = found.version
    assert (version.tags, version.branch, version.runs) == (("data-1",), "main", 3)
    assert found.version.commit == run_git(data, "rev-parse", "HEAD").strip()


def test_each_state(data):
    (data / "a" / "run.log").unlink()
    reseal(data / "b", board_id="another")
    shutil.rmtree(data / "c")
    build_run(data, model="d", weights="random", simulated=True, sensor="simulated")
    reseal(build_run(data, model="e"), status="incomplete", missing=["killed"])
    build_run(data, model="f")
    (data / "f" / "run.json").write_text("{}", encoding="utf-8")
    found = status(data)
    assert states(found) == {
        "a": "damaged", "b": "changed", "c": "absent", "d": "new", "e": "new", "f": "damaged",
    }  # fmt: skip
    assert [STATES.index(run.state) for run in found.runs] == sorted(
        STATES.index(run.state) for run in found.runs
    )
    marks = {run.run: run.marks for run in found.runs if run.marks}
    assert marks == {"d": ("simulated", "random weights"), "e": ("incomplete",)}
    why = {run.run: run.why for run in found.runs if run.why}
    assert why == {"a": "run.log is missing", "f": "run.json is damaged"}
    assert found.exit_code == 1
    note_here(data, {"c": "0" * 64})
    assert states(status(data))["c"] == "vanished"


def test_a_run_that_was_never_here_is_no_difference(data):
    shutil.rmtree(data / "c")
    found = status(data)
    assert (states(found)["c"], found.exit_code) == ("absent", 0)


def test_other_content_of_the_same_size_is_found_when_all_is_hashed(data):
    path = data / "a" / "layers.parquet"
    path.write_bytes(bytes(reversed(path.read_bytes())))
    assert states(status(data))["a"] == "same"
    found = status(data, full=True)
    assert states(found)["a"] == "damaged"
    assert found.runs[0].why == "layers.parquet has another SHA-256 than run.json says"


def test_small_files_and_what_is_unfinished(data):
    (data / "dataset.json").write_text("{}", encoding="utf-8")
    (data / "idling_power.json").write_text("{}", encoding="utf-8")
    (data / "report.md").write_text("mine", encoding="utf-8")
    (data / ".partial" / "d-1234").mkdir(parents=True)
    (data / ".partial" / ".gate").touch()
    found = status(data)
    assert found.small_files == ("dataset.json", "idling_power.json")
    assert found.unfinished == ("d-1234",)
    assert found.exit_code == 1


def test_ahead_behind_and_apart(data, remote, tmp_path):
    build_run(data, model="d")
    commit_version(data, "second", "d")
    found = status(data).remote
    assert (found.state, found.ahead, found.behind, found.runs_there) == ("ahead", 1, 0, ())
    run_git(data, "push", "--quiet", "origin", "HEAD:refs/heads/main")
    run_git(data, "reset", "--quiet", "--hard", "HEAD~1")
    shutil.rmtree(data / "d")
    found = status(data).remote
    assert (found.state, found.ahead, found.behind, found.runs_there) == ("behind", 0, 1, ("d",))
    build_run(data, model="e")
    commit_version(data, "mine", "e")
    found = status(data)
    assert (found.remote.state, found.remote.ahead, found.remote.behind) == ("apart", 1, 1)
    assert found.exit_code == 1


def test_a_remote_without_a_version_and_one_that_is_gone(data, remote):
    command = ["git", "--git-dir", remote.git_url, "update-ref", "-d", "refs/heads/main"]
    subprocess.run(command, check=True)
    assert status(data).remote.state == "empty"
    shutil.rmtree(remote.git_url)
    found = status(data)
    assert (found.remote.state, found.exit_code) == ("unknown", 0)
    assert "is not there" in found.remote.why
    assert status(data, ask_remote=True).exit_code == EXIT_SERVER


def test_what_a_check_of_the_remote_found_is_shown(data, remote):
    damage = Damage(("a/layers.parquet", "b/layers.parquet"), "is missing")
    note_damaged(data, remote.store, {"0" * 32: damage})
    found = status(data)
    assert found.remote.damaged == ("a/layers.parquet", "b/layers.parquet")
    assert found.exit_code == 1


def test_a_remote_over_the_network_is_asked_only_on_request(data, monkeypatch):
    with socket.socket() as probe:  # nobody listens there afterwards
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("DAGSHUB_CLIENT_HOST", host)
    run_git(data, "remote", "add", "origin", f"{host}/rosa/power.git")
    found = status(data)
    assert (found.remote.state, found.remote.ahead, found.exit_code) == ("not asked", None, 0)
    found = status(data, ask_remote=True)
    assert (found.remote.state, found.exit_code) == ("unknown", EXIT_TOKEN)
    assert "no token" in found.remote.why
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "tok")
    found = status(data, ask_remote=True)
    assert (found.remote.state, found.exit_code) == ("unknown", EXIT_SERVER)
    assert "cannot be reached" in found.remote.why
    assert states(found) == {"a": "same", "b": "same", "c": "same"}


def test_an_old_version_and_runs_of_a_newer_one(data, remote):
    build_run(data, model="d")
    commit_version(data, "second", "d")
    run_git(data, "checkout", "--quiet", "--detach", "data-1")
    found = status(data)
    assert states(found)["d"] == "later"
    assert (found.version.branch, found.version.tags) == (None, ("data-1",))
    reseal(data / "d", board_id="another")
    assert states(status(data))["d"] == "new"


def test_a_run_that_others_took_out(data):
    note_here(data, {"b": hashlib.sha256((data / "b" / "run.json").read_bytes()).hexdigest()})
    run_git(data, "rm", "--quiet", "b.dvc", "c.dvc")
    run_git(data, "commit", "--quiet", "--message", "out")
    found = status(data)
    assert states(found) == {"a": "same", "b": "removed", "c": "new"}
    reseal(data / "b", board_id="measured again")
    assert states(status(data))["b"] == "new"


@pytest.mark.parametrize("content", [b"{}", b"[]", b"\xff", b'{"files": 3}'])
def test_a_version_with_a_run_that_is_none(data, content):
    path = data / "a" / "run.json"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(content)
    pointer = (data / "a.dvc").read_text(encoding="utf-8")
    wanted = hashlib.sha256(content).hexdigest()
    (data / "a.dvc").write_text(pointer.replace(before, wanted), encoding="utf-8")
    run_git(data, "commit", "--quiet", "--all", "--message", "odd")
    assert states(status(data))["a"] == "damaged"


def test_a_folder_that_is_not_versioned_yet(tmp_path):
    build_run(tmp_path / "data", model="a")
    found = status(tmp_path / "data")
    assert (found.versioned, found.version, states(found)) == (False, None, {"a": "new"})
    assert found.remote.state == "none"
    make_repository(tmp_path / "data")
    assert (status(tmp_path / "data").versioned, states(found)) == (False, {"a": "new"})
    with pytest.raises(UsageError, match="is no dataset"):
        status(tmp_path / "nothing")


def call(capsys, *arguments):
    code = data_version.main(list(map(str, arguments)))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_status_for_people(data, remote, capsys, monkeypatch):
    monkeypatch.chdir(data.parent)
    code, out, err = call(capsys, "status", "data")
    assert (code, err, out.splitlines()[-1]) == (0, "", "nothing to do")
    (data / "a" / "layers.parquet").unlink()
    build_run(data, model="d", weights="random")
    shutil.rmtree(data / "c")
    code, out, err = call(capsys, "status", "data")
    assert (code, err) == (1, "")
    assert "nothing to do" not in out
    lines = out.splitlines()
    assert "damaged  a                    layers.parquet is missing" in lines
    assert "new      d    random weights" in lines
    assert max(len(line) for line in lines if str(data.parent) not in line) <= 80
    shutil.rmtree(data / ".git")
    shutil.rmtree(data / ".dvc")
    code, out, _ = call(capsys, "status", "data")
    assert (code, out.splitlines()[1]) == (
        1, "version     none yet: push makes the first, to a folder or to DagsHub",
    )  # fmt: skip


def test_status_for_programs(data, remote, capsys):
    code, out, _ = call(capsys, "status", data, "--json")
    plain = json.loads(out)
    assert code == 0
    assert sorted(plain) == [
        "dataset", "differs", "full", "remote", "runs", "small_files", "unfinished", "version",
        "versioned",
    ]  # fmt: skip
    assert plain["runs"][0] == {"run": "a", "state": "same", "marks": [], "why": ""}
    assert sorted(plain["remote"]) == [
        "ahead", "asked", "behind", "damaged", "label", "runs_there", "state", "why",
    ]  # fmt: skip
