"""verify --remote: what a store lost or spoilt is named by run and file, wherever it is asked from.

The store is a folder here, the same code asks all kinds; real servers are in `test_servers_*`.
"""

import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import pytest

pytest.importorskip("dvc")

from edgejoule.cli import data_version
from edgejoule.dataset.versions import dvc_adapter
from edgejoule.dataset.versions.commands import push
from edgejoule.dataset.versions.git import run_git
from edgejoule.dataset.versions.notes import noted_damaged
from edgejoule.dataset.versions.remote_check import check_remote
from edgejoule.dataset.versions.remotes import folder_remote
from edgejoule.errors import UsageError
from tests.support_dataset import build_run, reseal
from tests.support_history import commit_version, make_repository, send_by_hand, write_pointer

pytestmark = [pytest.mark.dvc, pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("DAGSHUB_", "GIT_", "EDGEJOULE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The runs a and b, sent; and c, in a second version."""
    home = tmp_path_factory.mktemp("made")
    data = home / "data"
    make_repository(data)
    build_run(data, model="a")
    build_run(data, model="b", layer_ns=(400_000, 200_000), rails=(("VDD_A", 900),), idle_ma=100)
    commit_version(data, "first", "a", "b", tag="data-1")
    build_run(data, model="c", profiled=3, layer_ns=[100_000] * 4, rails=(("VDD_B", 800),))
    commit_version(data, "second", "c", tag="data-2")
    send_by_hand(data, home / "remote")
    return home


class Sent:
    """A dataset and the folder that it was sent to."""

    def __init__(self, home):
        self.data = home / "data"
        self.remote = folder_remote(home / "remote")
        self.elsewhere = home / "elsewhere"  # no dataset is there
        run_git(self.data, "remote", "set-url", "origin", self.remote.git_url)

    def stored(self, oid):
        return Path(self.remote.dvc_url) / "files" / "md5" / oid[:2] / oid[2:]

    def object(self, name):
        """The stored object of `run/file`, of `run/` the list of its files."""
        run, _, file = name.partition("/")
        if file:
            return self.stored(hashlib.md5((self.data / name).read_bytes()).hexdigest())
        pointer = (self.data / f"{run}.dvc").read_text(encoding="utf-8")
        return self.stored(pointer.split("md5: ")[1].split()[0])

    def check(self, **options):
        return check_remote(self.data, self.remote, **options)

    def check_elsewhere(self, **options):
        return check_remote(self.elsewhere, self.remote, scratch=True, **options)


@pytest.fixture
def sent(made, tmp_path):
    return Sent(Path(shutil.copytree(made, tmp_path / "home")))


def delete(path):
    path.unlink()
    return "is missing"


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    return f"has {len(content) - 1} bytes instead of {len(content)}"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return "has other content (MD5)"


def named(report):
    found = {}
    for finding in report.findings:
        found.setdefault(f"{finding.run}/{finding.file}", []).append(finding.problem)
    return {place: "; ".join(problems) for place, problems in found.items()}


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_remote(sent, deep):
    seen = []
    report = sent.check(deep=deep, progress=lambda *state: seen.append(state))
    stored = [path for path in Path(sent.remote.dvc_url).rglob("*") if path.is_file()]
    assert report.ok
    assert (report.runs, report.objects, report.deep) == (3, len(stored), deep)
    assert report.bytes == sum(path.stat().st_size for path in stored)
    assert (report.commit, report.tags) == (
        run_git(sent.data, "rev-parse", "HEAD").strip(), ("data-2",),
    )  # fmt: skip
    assert seen[-1][:2] == (len(stored), len(stored))
    assert [state[0] for state in seen] == list(range(4, len(stored) + 1))  # the lists came first
    assert noted_damaged(sent.data, sent.remote.store) == {}


def test_the_double_of_a_push_is_like_one(sent, tmp_path):
    data = tmp_path / "real"
    for run in ("a", "c"):
        shutil.copytree(sent.data / run, data / run)
    push(data, folder_remote(tmp_path / "real-remote"), say=lambda _line: None)
    for run in ("a", "c"):
        written = (data / f"{run}.dvc").read_text(encoding="utf-8")
        write_pointer(data, run)
        assert written == (data / f"{run}.dvc").read_text(encoding="utf-8")
    report = check_remote(data, folder_remote(tmp_path / "real-remote"), deep=True)
    assert (report.ok, report.runs, report.tags) == (True, 2, ("data-1",))


@pytest.mark.parametrize("damage", [delete, cut, flip])
@pytest.mark.parametrize("file", ["engine.json", "run.json", ""])
def test_each_damage_of_each_kind_of_object(sent, damage, file):
    reason = damage(sent.object(f"a/{file}"))
    if not file and damage is cut:
        reason = "has other content (MD5)"  # nobody knows a list's size
    deep = sent.check(deep=True)
    assert named(deep) == {f"a/{file}": reason}
    assert [finding.here for finding in deep.findings] == ["folder"]
    assert not deep.ok
    # Where nothing of the dataset is at hand, the same is found; without its list or run.json a
    # run's other files are known by name or not at all.
    there = named(sent.check_elsewhere(deep=True))
    if file == "engine.json":
        assert there == {f"a/{file}": reason}
    elif file == "run.json":
        assert set(there) == {"a/run.json"}
    else:
        assert there == {"a/": f"its 9 files cannot be told, and were not checked; {reason}"}
    # Sizes alone show what is missing or cut, and lists are read anyway.
    assert named(sent.check()) == ({} if damage is flip and file else {f"a/{file}": reason})


def test_one_object_of_several_runs_names_them_all(sent):
    delete(sent.object("a/run.log"))
    everyone = ["a/run.log", "b/run.log", "c/run.log"]
    assert named(sent.check()) == dict.fromkeys(everyone, "is missing")
    assert set(named(sent.check(runs=["b"]))) == {"b/run.log"}


def test_runs_that_are_not_here_are_checked(sent):
    cut_object, flipped = sent.object("b/power.parquet"), sent.object("c/power.parquet")
    shutil.rmtree(sent.data / "b")
    shutil.rmtree(sent.data / ".dvc" / "cache")
    size = cut(cut_object)
    other = flip(flipped)
    report = sent.check(deep=True)
    assert named(report) == {"b/power.parquet": size, "c/power.parquet": other}
    assert report.runs == 3
    assert {finding.run: finding.here for finding in report.findings} == {"b": None, "c": "folder"}


def test_what_this_machine_has_of_what_is_wrong(sent):
    for name in ("a/power.parquet", "b/energy.parquet", "c/power.parquet", "c/"):
        sent.object(name).unlink()
    shutil.rmtree(sent.data / "b")  # its objects are in the cache
    cache = sent.data / ".dvc" / "cache" / "files" / "md5"
    oid = hashlib.md5((sent.data / "c" / "power.parquet").read_bytes()).hexdigest()
    (cache / oid[:2] / oid[2:]).write_bytes(b"x")
    (sent.data / "c" / "power.parquet").write_bytes(b"x")
    here = {f"{x.run}/{x.file}": x.here for x in sent.check().findings}
    assert here["a/power.parquet"] == "folder"
    assert here["b/energy.parquet"] == "cache"
    assert here["c/power.parquet"] is None
    assert here["c/"] == "folder"


def test_older_versions_and_single_runs(sent):
    delete(sent.object("c/power.parquet"))
    assert sent.check(rev="data-1").ok
    assert sent.check(rev="data-1").runs == 2
    assert sent.check(runs=["a", "b"]).ok
    assert sent.check_elsewhere(rev="data-1").tags == ("data-1",)
    with pytest.raises(UsageError, match=r"has no run z; it has a, b, c"):
        sent.check(runs=["z"])
    with pytest.raises(UsageError, match="has no version nope"):
        sent.check(rev="nope")
    with pytest.raises(UsageError, match="has no branch dev"):
        sent.check(branch="dev")
    with pytest.raises(UsageError, match="is no remote of a dataset"):
        check_remote(sent.data, folder_remote(sent.elsewhere))


def test_a_note_is_kept_until_its_reason_was_looked_at(sent):
    def noted():
        notes = noted_damaged(sent.data, sent.remote.store).values()
        return {name for damage in notes for name in damage.files}

    path = sent.object("a/power.parquet")
    whole = path.read_bytes()
    flip(path)
    delete(sent.object("b/energy.parquet"))
    sent.check(deep=True)
    assert noted() == {"a/power.parquet", "b/energy.parquet"}
    sent.check()  # finds nothing wrong with the sizes, and says nothing of the content
    assert noted() == {"a/power.parquet", "b/energy.parquet"}
    path.write_bytes(whole)
    sent.check(deep=True, runs=["c"])
    assert noted() == {"a/power.parquet", "b/energy.parquet"}
    sent.check(deep=True, runs=["a"])
    assert noted() == {"b/energy.parquet"}
    sent.check_elsewhere(deep=True)  # there is no repository to note it in
    assert not sent.elsewhere.exists()


def test_push_sends_again_what_was_noted(sent):
    path = sent.object("a/power.parquet")
    whole = path.read_bytes()
    flip(path)
    assert not sent.check(deep=True).ok
    push(sent.data, sent.remote, say=lambda _line: None)
    assert path.read_bytes() == whole
    assert noted_damaged(sent.data, sent.remote.store) == {}
    assert sent.check(deep=True).ok


def test_a_version_that_contradicts_itself(sent):
    # run.json of `a` is another than its pointer names; `b` lists a file that is not sent; `c` has
    # content that DVC finds right and the run does not.
    pointer = sent.data / "a.dvc"
    wanted = hashlib.sha256((sent.data / "a" / "run.json").read_bytes()).hexdigest()
    text = pointer.read_text(encoding="utf-8").replace(wanted, "0" * 64)
    run = json.loads((sent.data / "b" / "run.json").read_text(encoding="utf-8"))
    reseal(sent.data / "b")
    run["files"]["more.bin"] = {"sha256": "0" * 64, "bytes": 3, "rows": None}
    (sent.data / "b" / "run.json").write_text(json.dumps(run), encoding="utf-8")
    run = json.loads((sent.data / "c" / "run.json").read_text(encoding="utf-8"))
    run["files"]["power.parquet"]["sha256"] = "1" * 64
    (sent.data / "c" / "run.json").write_text(json.dumps(run), encoding="utf-8")
    (sent.data / "file.dvc").write_text("outs:\n- md5: 0\n  path: file\n", encoding="utf-8")
    for name in ("b", "c"):
        write_pointer(sent.data, name)
    pointer.write_text(text, encoding="utf-8")
    commit_version(sent.data, "odd")
    send_by_hand(sent.data, Path(sent.remote.label))
    found = named(sent.check(deep=True))
    assert found["a/run.json"] == "is not the file whose SHA-256 the version's pointer names"
    assert found["b/more.bin"] == "is not in the version, though run.json lists it"
    assert found["c/power.parquet"] == "has other content than the run says (SHA-256)"
    assert found["file/"] == "file.dvc points at no run"
    assert named(sent.check()) == {k: v for k, v in found.items() if k != "c/power.parquet"}


def test_ctrl_c_ends_it_and_notes_nothing(sent):
    delete(sent.object("a/power.parquet"))

    def interrupt(*_state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sent.check(deep=True, progress=interrupt)
    assert noted_damaged(sent.data, sent.remote.store) == {}
    assert [thread.name for thread in threading.enumerate() if "ThreadPool" in thread.name] == []


def test_a_store_that_cannot_be_read_is_not_a_store_that_lacks(sent, monkeypatch):
    from edgejoule.errors import MeasurementError

    def refuse(_self, path, **_options):
        raise PermissionError(13, "Permission denied", path)

    with dvc_adapter.opened(sent.data, sent.remote) as repo:
        kind = type(repo.cloud.get_remote_odb(dvc_adapter.REMOTE_NAME).fs)
    monkeypatch.setattr(kind, "info", refuse)
    with pytest.raises(MeasurementError, match=r"objects cannot be read .*Permission denied"):
        sent.check()


def call(capsys, *arguments):
    code = data_version.main(list(map(str, arguments)))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_for_people(sent, capsys, monkeypatch):
    monkeypatch.chdir(sent.data.parent)
    code, out, err = call(capsys, "verify", "data", "--remote", "--deep")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "data: 3 right, 0 incomplete, 0 wrong"
    assert out.splitlines()[-1].endswith(": all read back and hashed")
    flip(sent.object("a/power.parquet"))
    (sent.data / "b" / "run.log").unlink()
    code, out, err = call(capsys, "verify", "data", "--remote", "--deep")
    assert (code, err) == (1, "")
    assert "error: b/run.log: is missing" in out.splitlines()
    assert "error: a/power.parquet: has other content (MD5), on the remote" in out.splitlines()
    assert out.splitlines()[-1] == "a: push sends what is wrong again"
    # A URL means the remote alone, from anywhere.
    monkeypatch.chdir(sent.data.parent.parent)
    code, out, _ = call(capsys, "verify", "--remote", sent.remote.label, "--run", "c", "--deep")
    assert (code, len(out.splitlines())) == (0, 2)
    code, out, err = call(capsys, "verify", sent.data, "--deep")
    assert (code, out) == (2, "")
    assert err == "error: --deep is about a remote; add --remote [URL]\n"


def test_the_command_for_programs(sent, capsys):
    delete(sent.object("a/power.parquet"))
    code, out, err = call(capsys, "verify", sent.data, "--remote", "--json")
    plain = json.loads(out)
    assert (code, err, plain["ok"]) == (1, "", False)
    assert [run["ok"] for run in plain["runs"]] == [True] * 3
    assert sorted(plain["remote"]) == [
        "bytes", "commit", "deep", "findings", "objects", "ok", "remote", "runs", "store", "tags",
    ]  # fmt: skip
    (finding,) = plain["remote"]["findings"]
    assert finding == {
        "run": "a", "file": "power.parquet", "problem": "is missing", "here": "folder",
        "oid": hashlib.md5((sent.data / "a" / "power.parquet").read_bytes()).hexdigest(),
    }  # fmt: skip
    code, out, _ = call(capsys, "verify", sent.data, "--remote", "--rev", "data-1", "--json")
    assert (code, sorted(json.loads(out))) == (1, ["ok", "remote"])
