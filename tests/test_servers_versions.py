"""Two versions over HTTP, S3 and a folder; then all the ways to bring them elsewhere."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("dvc")

from edgejoule.dataset.verify import verify_dataset
from edgejoule.dataset.versions.git import run_git
from tests.servers import standin
from tests.servers.commands import without_token
from tests.servers.places import ALL, Place, add_runs, place_of, runs_of, serving

pytestmark = [
    pytest.mark.real_servers,
    pytest.mark.skipif(standin.lacking() is not None, reason=str(standin.lacking())),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(dvc|aiohttp_retry)"),
]


@dataclass
class Published:
    """A dataset with two versions: runs a and b, then c as well."""

    place: Place
    data: Path
    first: str
    second: str


@pytest.fixture(scope="module", params=ALL)
def published(request, watch, tmp_path_factory, commands):
    folder = tmp_path_factory.mktemp(f"published-{request.param}")
    with serving(watch, tmp_path_factory.mktemp("s"), folder) as server:
        moto = request.getfixturevalue("moto") if request.param == "s3" else None
        place = place_of(request.param, server, folder, moto)
        data = add_runs(folder / "data", "a", "b")
        done = commands.call("push", *place.target, "--dataset", data)
        assert (done.code, "2 new and 0 known runs" in done.out) == (0, True), done
        first = run_git(data, "rev-parse", "HEAD").strip()
        add_runs(data, "c")
        done = commands.call("push", "--dataset", data)  # the place is remembered
        assert (done.code, "1 new and 2 known runs" in done.out) == (0, True), done
        second = run_git(data, "rev-parse", "HEAD").strip()
        yield Published(place, data, first, second)


def pull(commands, published, to, *arguments):
    done = commands.call("pull", published.place.url, "--dataset", to, *arguments)
    assert done.code == 0, done
    assert verify_dataset(to).ok()
    return runs_of(to)


def test_every_file_arrives_in_a_new_folder(published, commands, tmp_path):
    arrived = pull(commands, published, tmp_path / "new")
    sent = runs_of(published.data)
    assert sorted(arrived) == ["a", "b", "c"]
    for run, held in sent.items():
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in held.items()}
        assert hashes == {
            name: hashlib.sha256(content).hexdigest() for name, content in arrived[run].items()
        }


def test_one_run_alone_in_an_empty_folder_and_then_the_others(published, commands, tmp_path):
    (tmp_path / "empty").mkdir()
    assert list(pull(commands, published, tmp_path / "empty", "--run", "b")) == ["b"]
    done = commands.call("pull", "--dataset", tmp_path / "empty")
    assert done.code == 0, done
    assert runs_of(tmp_path / "empty") == runs_of(published.data)


@pytest.mark.parametrize("which", ["commit", "tag"])
def test_an_old_version_and_back(published, commands, tmp_path, which):
    tags = run_git(published.data, "tag", "--points-at", published.first).split()
    rev = published.first if which == "commit" else tags[0]
    old = pull(commands, published, tmp_path / "old", "--rev", rev)
    assert sorted(old) == ["a", "b"]
    assert run_git(tmp_path / "old", "rev-parse", "HEAD").strip() == published.first
    done = commands.call("pull", "--dataset", tmp_path / "old")
    assert done.code == 0, done
    assert sorted(runs_of(tmp_path / "old")) == ["a", "b", "c"]


def test_a_second_push_sends_nothing(published, commands):
    before = sorted(published.place.store.names())
    done = commands.call("push", "--dataset", published.data)
    assert (done.code, "0 new and 3 known runs" in done.out) == (0, True), done
    assert sorted(published.place.store.names()) == before
    assert run_git(published.data, "rev-parse", "HEAD").strip() == published.second


def test_the_remote_is_found_whole(published, commands):
    done = commands.call("verify", published.data, "--remote", "--deep")
    assert (done.code, done.errors) == (0, [])


def test_a_folder_beside_needs_neither_token_nor_server(server, commands, tmp_path):
    server.stop()
    data = add_runs(tmp_path / "data", "a")
    assert commands.call("push", "--dataset", data, **without_token()).code == 0
    beside = tmp_path / "data-remote"
    to = tmp_path / "copy"
    assert commands.call("pull", beside, "--dataset", to, **without_token()).code == 0
    assert runs_of(to) == runs_of(data)
