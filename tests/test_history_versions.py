"""log and diff: the versions of a dataset from git alone, with the data there or not."""

import json
import os
import shutil

import pytest

from edgejoule.cli import data_version
from edgejoule.dataset.versions.git import run_git
from edgejoule.dataset.versions.history import compare, count_versions, log, resolve, tags_of
from edgejoule.dataset.versions.notes import forget_here, had_here, note_here
from edgejoule.dataset.versions.pointers import pointers_at, read_pointer
from edgejoule.errors import EXIT_USAGE, UsageError
from tests.support_dataset import build_run, reseal
from tests.support_history import commit_version, drop_run, make_repository


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))


def change_summary(run, **changes):
    summary = json.loads((run / "run.json").read_text(encoding="utf-8"))["summary"]
    reseal(run, summary={**summary, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three versions: a and b; b measured otherwise and c added; a removed."""
    data = tmp_path_factory.mktemp("made") / "data"
    make_repository(data)
    build_run(data, model="a")
    change_summary(build_run(data, model="b"), clean={"median_ms": 2.0})
    commit_version(data, "first", "a", "b", tag="data-1")
    shutil.rmtree(data / "b")
    figures = {"clean": {"median_ms": 1.5}, "energy": {"clean": {"gross_mj": 4.0}}}
    change_summary(build_run(data, model="b", profiled=3), **figures)
    build_run(data, model="c", simulated=True, sensor="simulated")
    commit_version(data, "second\n\nwith a body", "b", "c", tag="data-2")
    drop_run(data, "a")
    commit_version(data, "third")
    return data


@pytest.fixture
def data(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "data")


def test_each_version_tells_what_it_brought(data):
    versions = log(data)
    told = [(x.message, x.tags, x.added, x.changed, x.removed, x.runs) for x in versions]
    assert told == [
        ("third", (), (), (), ("a",), 2),
        ("second", ("data-2",), ("c",), ("b",), (), 3),
        ("first", ("data-1",), ("a", "b"), (), (), 2),
    ]
    assert [version.commit for version in versions] == run_git(data, "rev-list", "HEAD").split()
    size = sum(path.stat().st_size for run in "bc" for path in (data / run).rglob("*"))
    assert versions[0].bytes == size
    assert [version.message for version in log(data, 1)] == ["third"]
    assert [version.message for version in log(data, rev="data-2")] == ["second", "first"]
    assert count_versions(data) == 3


def test_two_lines_that_are_joined_tell_each_run_once(data):
    run_git(data, "checkout", "--quiet", "-b", "other", "data-1")
    build_run(data, model="d")
    commit_version(data, "elsewhere", "d")
    run_git(data, "checkout", "--quiet", "main")
    run_git(data, "merge", "--quiet", "--no-edit", "other")
    versions = log(data)
    assert [version.joins for version in versions] == [True, *[False] * 4]
    assert versions[0].runs == 3
    assert [x.message for x in versions if "d" in x.added] == ["elsewhere"]
    assert versions[0].added == versions[0].changed == versions[0].removed == ()


def test_users_settings_of_git_do_not_change_what_is_read(data, tmp_path):
    settings = "[grep]\n lineNumber = true\n column = true\n fullName = true\n"
    settings += "[color]\n ui = always\n[log]\n showSignature = true\n decorate = full\n"
    settings += "[diff]\n renames = copies\n noprefix = true\n[core]\n quotePath = true\n"
    before = log(data)
    (tmp_path / ".gitconfig").write_text(settings, encoding="utf-8")
    assert log(data) == before
    assert [version.runs for version in before] == [2, 3, 2]


def test_two_versions_are_compared_by_their_pointers(data):
    found = compare(data, "data-1", "HEAD")
    assert (found.added, found.removed, found.absent, found.same) == (("c",), ("a",), (), 0)
    (run,) = found.changed
    assert (run.run, run.known, run.same_config) == ("b", True, False)
    assert run.config == {"runs": (6, 3)}
    assert run.figures == {"latency_ms": (2.0, 1.5), "energy_mj": (None, 4.0)}
    assert "layers.parquet" in run.files
    assert "idle.json" not in run.files
    back = compare(data, "HEAD", "data-1")
    assert (back.added, back.removed, back.changed[0].config) == (("a",), ("c",), {"runs": (3, 6)})
    assert compare(data, "data-2", "data-2").same == 3


def test_without_the_data_only_the_hashes_are_compared(data, tmp_path):
    shutil.rmtree(data / ".dvc" / "cache")
    (run,) = compare(data, "data-1", "data-2").changed
    assert (run.known, run.config, run.same_config) == (False, {}, False)
    # A damaged cache is no source either.
    build_run(tmp_path / "x", model="b")
    shutil.copy(tmp_path / "x" / "b" / "run.json", data / "b" / "run.json")
    assert not compare(data, "data-1", "data-2").changed[0].known


def test_a_version_against_the_folder(data):
    build_run(data, model="e")
    reseal(data / "b", board_id="another")
    shutil.rmtree(data / "c")
    found = compare(data)
    assert (found.new, found.added, found.removed, found.absent) == (None, ("e",), (), ("c",))
    assert [(run.run, run.facts) for run in found.changed] == [
        ("b", {"board_id": (None, "another")})
    ]
    note_here(data, {"c": "0" * 64})
    assert compare(data).removed == ("c",)
    assert had_here(data) == {"c": "0" * 64}
    forget_here(data, ["c"])
    assert compare(data).absent == ("c",)


def test_names_of_versions(data):
    commit = run_git(data, "rev-parse", "data-1").strip()
    assert resolve(data, "data-1") == resolve(data, commit[:10]) == commit
    run_git(
        data, "-c", "user.name=x", "-c", "user.email=x@y", "tag", "-a", "-m", "x", "own", "data-1"
    )
    for number in (10, 9):
        run_git(data, "tag", f"data-{number}", "data-1")
    assert tags_of(data)[commit] == ("data-1", "data-9", "data-10", "own")
    for wrong in ("nope", "--all", "HEAD:a.dvc", ""):
        with pytest.raises(UsageError, match="has no version"):
            resolve(data, wrong)


def test_a_folder_without_versions_says_so(tmp_path):
    build_run(tmp_path / "data", model="a")
    for read in (log, compare):
        with pytest.raises(UsageError, match="has no versions yet; push makes the first"):
            read(tmp_path / "data")
        with pytest.raises(UsageError, match="is no dataset"):
            read(tmp_path / "nothing")


def test_pointers_that_others_wrote(data):
    (data / "file.onnx.dvc").write_text("outs:\n- md5: " + "a" * 32 + "\n  path: file.onnx\n")
    (data / "plain.dvc").write_text("outs:\n- md5: " + "b" * 32 + ".dir\n  path: plain\n")
    (data / "deep").mkdir()
    commit_version(data, "foreign")
    found = pointers_at(data, "HEAD")
    assert sorted(found) == ["b", "c", "plain"]
    assert (found["plain"].bytes, found["plain"].run_json_sha256) == (None, None)
    assert found["c"].simulated is True
    assert log(data)[0].bytes is None
    assert read_pointer("x", "<<<<<<< HEAD\n") is None


def call(capsys, *arguments):
    code = data_version.main(list(map(str, arguments)))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_log_for_people(data, capsys):
    code, out, err = call(capsys, "log", data)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 9
    assert lines[3].split()[1] == "(data-2)"
    assert lines[4:6] == ["    second", lines[5]]
    assert lines[5].startswith("    added c; changed b; holds 3 runs, ")
    assert max(map(len, lines)) <= 80
    code, out, _ = call(capsys, "log", data, "-n", "1")
    assert out.splitlines()[-1] == "2 older; -n 0 shows all"
    code, out, _ = call(capsys, "log", data, "--json", "-n", "2")
    plain = json.loads(out)
    assert (plain["total"], len(plain["versions"])) == (3, 2)
    assert plain["versions"][1]["tags"] == ["data-2"]


def test_diff_for_people(data, capsys):
    code, out, err = call(capsys, "diff", "data-1", "data-2", "--dataset", data)
    assert (code, err) == (0, "")
    assert out.splitlines()[1:5] == [
        "added       c",
        "changed     b",
        "              runs: 6 -> 3",
        "              latency: 2 -> 1.5 ms (-25.0 %)",
    ]
    assert out.splitlines()[-1] == "2 runs differ, 1 the same"
    code, out, _ = call(capsys, "diff", "--dataset", data, "--json")
    plain = json.loads(out)
    assert (code, plain["new"], plain["changed"], plain["same"]) == (0, None, [], 2)
    code, out, err = call(capsys, "diff", "nope", "--dataset", data)
    assert (code, out, len(err.splitlines())) == (EXIT_USAGE, "", 1)


def test_a_version_by_a_hostile_author(data, capsys):
    evil = "red\x1b[31m"
    (data / "dataset.json").write_text("{}", encoding="utf-8")
    run_git(data, "-c", f"user.name={evil}", "-c", "user.email=x", "commit", "-aqm", f"{evil} text")
    _, out, _ = call(capsys, "log", data, "-n", "1")
    assert "\x1b" not in out
    assert "text" in out
