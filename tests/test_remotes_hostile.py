"""What a version of somebody else's may not do to the one who pulls it; with folders."""

import hashlib
import json
from pathlib import Path

import pytest

pytest.importorskip("dvc")

from edgejoule.errors import EdgejouleError, MeasurementError
from tests.support_dataset import build_run
from tests.support_versions import (
    copied,
    do_pull,
    files,
    git,
    pushed_once,
)

pytestmark = [
    pytest.mark.dvc,
    pytest.mark.usefixtures("plain_home"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc"),
]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A dataset with the run a as data-1; tests use copies of it."""
    with pushed_once(tmp_path_factory, "a") as data:
        yield data


@pytest.fixture
def data(pushed, tmp_path):
    return copied(pushed, tmp_path)


@pytest.fixture
def remote(data):
    return data.with_name("data-remote")


def publish(data, remote, *names):
    """Commit these files and push them, as somebody may with plain git."""
    git(data, "add", "-f", "--", *names)
    git(data, "commit", "-q", "-m", "by hand")
    git(data, "push", "-q", str(remote / "data.git"), "HEAD:main")


def list_of(remote, pointer):
    """Return the path of the object that lists a run's files."""
    oid = next(line.split()[-1] for line in pointer.read_text().splitlines() if "md5: " in line)
    return remote / "objects" / "files" / "md5" / oid[:2] / oid[2:]


def set_list(data, remote, change):
    """Change the list of a's files and have the pointer follow."""
    pointer = data / "a.dvc"
    path = list_of(remote, pointer)
    entries = json.loads(path.read_text())
    change(entries)
    content = json.dumps(entries, sort_keys=True).encode()
    oid = hashlib.md5(content, usedforsecurity=False).hexdigest()
    target = remote / "objects" / "files" / "md5" / oid[:2] / f"{oid[2:]}.dir"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    old = path.parent.name + path.name.removesuffix(".dir")
    pointer.write_text(pointer.read_text().replace(old, oid))
    publish(data, remote, "a.dvc")


@pytest.mark.parametrize("form", ["aa{}", "../../../../../../..{}"])
def test_a_hash_that_is_a_path_deletes_nothing(data, remote, tmp_path, form):
    precious = tmp_path / "thesis.tex"
    precious.write_text("two weeks")

    def change(entries):
        entries[0]["md5"] = form.format(precious)

    set_list(data, remote, change)
    with pytest.raises(MeasurementError, match="the list of a's files is damaged"):
        do_pull(tmp_path / "victim", remote)
    assert precious.read_text() == "two weeks"


@pytest.mark.parametrize("name", ["../stolen", "x/../../stolen", "/tmp/stolen", "..\\stolen"])
def test_a_file_outside_its_run_is_refused(data, remote, tmp_path, name):
    set_list(data, remote, lambda entries: entries[0].update(relpath=name))
    with pytest.raises(MeasurementError, match="names a file outside its folder"):
        do_pull(tmp_path / "victim", remote)
    assert not (tmp_path / "victim" / "stolen").exists()


def test_files_that_the_pointer_itself_lists_are_refused(data, remote, tmp_path):
    listed = json.loads(list_of(remote, data / "a.dvc").read_text())
    evil = f"  files:\n  - relpath: ../../stolen\n    md5: {listed[0]['md5']}\n"
    pointer = data / "a.dvc"
    pointer.write_text(pointer.read_text().replace("  path: a\n", f"  path: a\n{evil}"))
    publish(data, remote, "a.dvc")
    with pytest.raises(MeasurementError, match=r"a\.dvc"):
        do_pull(tmp_path / "victim", remote)
    assert not (tmp_path / "stolen").exists()


def test_a_pointer_that_says_two_things_is_refused(data, remote, tmp_path):
    """What our reader takes for the list and what DVC takes for it have to be the same."""
    pointer = data / "a.dvc"
    other = "0" * 32
    pointer.write_text(f"desc: >\n  md5: {other}.dir\n{pointer.read_text()}")
    publish(data, remote, "a.dvc")
    with pytest.raises(EdgejouleError):
        do_pull(tmp_path / "victim", remote)
    assert not (tmp_path / "victim" / "a").exists()


@pytest.mark.parametrize(
    "name",
    [".dvc/config.local", ".dvc/tmp/x", ".DVC/config.local", "a/run.json", "mine/run.json"],
)
def test_files_that_git_may_not_bring(data, remote, tmp_path, name):
    victim = tmp_path / "victim"
    build_run(victim, model="mine")
    before = files(victim)
    path = data / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("hostile")
    git(data, "add", "-f", "--", name)
    publish(data, remote, name)
    with pytest.raises(MeasurementError, match=f"{name} is in the version's git"):
        do_pull(victim, remote)
    after = files(victim)
    assert {file: after.get(file) for file in before} == before
    assert not (victim / ".dvc" / "config.local").exists()


@pytest.mark.parametrize("run", [".", "..", ".git", "-x", "a\x1b[2Jb"])
def test_names_that_no_run_has(data, remote, tmp_path, run):
    (data / f"{run}.dvc").write_text(
        (data / "a.dvc").read_text().replace("path: a", f"path: {run}")
    )
    publish(data, remote, f"{run}.dvc")
    with pytest.raises(MeasurementError, match="cannot name a run"):
        do_pull(tmp_path / "victim", remote)


@pytest.mark.parametrize(
    "url", ["ext::sh -c touch% PWNED", "-oProxyCommand:x", "--upload-pack:x", "fd::7"]
)
def test_addresses_that_are_commands(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgejouleError) as caught:
        do_pull(tmp_path / "victim", url)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "PWNED").exists()
    assert not Path(tmp_path / "victim").exists()
