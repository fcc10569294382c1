"""Servers and clients that die, and servers that refuse: the rerun sends or fetches the rest."""

import shutil

import pytest

pytest.importorskip("dvc")

from edgejoule.dataset.verify import verify_dataset
from edgejoule.dataset.versions.git import run_git
from tests.servers import standin
from tests.servers.commands import wait, when
from tests.servers.places import ANY, ANY_HOSTED, HOSTED, NAME, add_runs, runs_of

pytestmark = [
    pytest.mark.real_servers,
    pytest.mark.skipif(standin.lacking() is not None, reason=str(standin.lacking())),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(dvc|aiohttp_retry)"),
]
RATE = 15  # objects per second: slow enough to step in between two of them


def assert_whole(commands, place, data, copy):
    """The remote has every object right, and a pull brings every file."""
    done = commands.call("verify", data, "--remote", "--deep")
    assert (done.code, done.errors) == (0, []), done
    done = commands.call("pull", place.url, "--dataset", copy)
    assert done.code == 0, done
    assert runs_of(copy) == runs_of(data)


def stored(place):
    """What the store holds, None where it cannot say."""
    return {name: place.store.read(name) for name in place.store.names()}


def is_upload(line, name):
    """Whether a line of the server's log says that this object was sent."""
    return f"/{name[:2]}/{name[2:]} " in line and ('"PUT' in line or '"POST' in line)


@pytest.mark.parametrize("place", ANY_HOSTED, indirect=True)
def test_no_server(place, commands, tmp_path):
    data = add_runs(tmp_path / "data", "a")
    assert commands.call("push", *place.target, "--dataset", data).code == 0
    add_runs(data, "b")
    place.server.stop()
    for words in (
        ["push", "--dataset", data],
        ["pull", place.url, "--dataset", tmp_path / "new"],
        ["pull", "--dataset", data],
        ["verify", data, "--remote"],
        ["verify", data, "--remote", "--deep"],
        ["status", data, "--remote"],
    ):
        done = commands.call(*words)
        assert done.code == 4, done
        assert "cannot be reached" in done.out + done.err
        assert len(done.errors) <= 1
    place.server.start()
    assert commands.call("push", "--dataset", data).code == 0


@pytest.mark.parametrize("place", HOSTED, indirect=True)
def test_a_server_killed_in_mid_push(place, commands, tmp_path):
    data = add_runs(tmp_path / "data", "a", "b")
    place.restart(rate=RATE)
    with when(lambda: len(place.store.names()) >= 4, place.server.stop) as killed:
        done = commands.call("push", *place.target, "--dataset", data)
    assert killed
    assert done.code == 4, done
    assert "cannot be reached" in done.err
    held = stored(place)
    log = place.server.log()
    place.restart(rate=None)
    # No branch points at what is not there.
    assert run_git(data, "ls-remote", str(place.repository)) == ""
    done = commands.call("push", *place.target, "--dataset", data)
    assert done.code == 0, done
    after = stored(place)
    assert len(held) < len(after)
    assert {name: after[name] for name in held} == held
    # Exactly the rest was sent.
    lines = place.server.log()[len(log) :].splitlines()
    sent = {name for name in after for line in lines if is_upload(line, name)}
    assert sent == set(after) - set(held), lines
    assert_whole(commands, place, data, tmp_path / "copy")


@pytest.mark.parametrize("place", ANY_HOSTED, indirect=True)
def test_a_client_killed_in_mid_push(place, commands, tmp_path):
    data = add_runs(tmp_path / "data", "a", "b")
    place.restart(rate=RATE)
    commands.kill_when(
        lambda: len(place.store.names()) >= 4, "push", *place.target, "--dataset", data
    )
    held = stored(place)
    place.restart(rate=None)
    assert commands.call("push", *place.target, "--dataset", data).code == 0
    after = stored(place)
    assert len(held) < len(after)
    assert_whole(commands, place, data, tmp_path / "copy")


@pytest.mark.parametrize("place", ANY_HOSTED, indirect=True)
def test_a_client_killed_in_mid_pull(place, commands, tmp_path):
    data = add_runs(tmp_path / "data", "a", "b")
    assert commands.call("push", *place.target, "--dataset", data).code == 0
    place.restart(rate=RATE)
    copy = tmp_path / "copy"

    def fetched():
        return sum(path.is_file() for path in copy.glob(".dvc/cache/files/md5/??/*"))

    commands.kill_when(lambda: fetched() >= 5, "pull", place.url, "--dataset", copy)
    held = fetched()
    place.restart(rate=None)
    done = commands.call("pull", place.url, "--dataset", copy)
    assert done.code == 0, done
    assert held < fetched()
    assert runs_of(copy) == runs_of(data)
    assert verify_dataset(copy).ok()


@pytest.mark.parametrize("place", HOSTED, indirect=True)
def test_a_server_that_takes_only_small_files(place, commands, tmp_path):
    data = add_runs(tmp_path / "data", "a", "b")
    place.restart(max_body="3k")
    done = commands.call("push", *place.target, "--dataset", data)
    assert done.code == 1, done
    assert len(done.errors) == 1
    assert "413" in done.err or ".parquet" in done.err or "run.json" in done.err
    # Files are sent side by side, so the first refusal may come before any small one is held.
    sizes = [len(content) for content in stored(place).values()]
    assert max(sizes, default=0) <= 3 << 10
    assert run_git(data, "ls-remote", str(place.repository)) == ""
    place.restart(max_body="0")
    assert commands.call("push", *place.target, "--dataset", data).code == 0
    assert_whole(commands, place, data, tmp_path / "copy")


@pytest.mark.parametrize("place", ANY_HOSTED, indirect=True)
def test_git_refuses_after_the_data_were_sent(place, commands, tmp_path):
    data = add_runs(tmp_path / "data", "a")
    assert commands.call("push", *place.target, "--dataset", data).code == 0
    add_runs(data, "b")
    before = run_git(data, "ls-remote", str(place.repository))
    place.server.refuse_next_push(NAME)
    done = commands.call("push", "--dataset", data)
    assert done.code in {1, 4}, done
    assert len(done.errors) == 1
    assert run_git(data, "ls-remote", str(place.repository)) == before
    objects = place.store.names()
    done = commands.call("push", "--dataset", data)
    assert done.code == 0, done
    assert place.store.names() == objects
    assert (
        len(run_git(data, "ls-remote", "--tags", str(place.repository), "data-*^{}").split()) == 4
    )
    assert_whole(commands, place, data, tmp_path / "copy")


@pytest.mark.parametrize("place", ANY, indirect=True)
def test_two_pushes_at_once_from_two_folders(place, commands, tmp_path):
    one = add_runs(tmp_path / "one", "a")
    assert commands.call("push", *place.target, "--dataset", one).code == 0
    two = tmp_path / "two"
    assert commands.call("pull", place.url, "--dataset", two).code == 0
    add_runs(one, "b")
    add_runs(two, "c")
    started = [commands.spawn("push", "--dataset", folder) for folder in (one, two)]
    for done in [wait(process) for process in started]:
        assert done.code == 0, done
    tags = run_git(one, "ls-remote", "--tags", "--refs", str(place.repository)).splitlines()
    assert len(tags) == 3
    copy = tmp_path / "copy"
    assert commands.call("pull", place.url, "--dataset", copy).code == 0
    assert runs_of(copy) == {**runs_of(one), **runs_of(two)}
    for folder in (one, two):
        assert commands.call("pull", "--dataset", folder).code == 0
        assert runs_of(folder) == runs_of(copy)
        assert run_git(folder, "status", "--porcelain") == ""


def test_two_pushes_at_once_from_one_folder(server, commands, tmp_path):
    data = add_runs(tmp_path / "data", "a", "b")
    url = f"{server.url}/{NAME}"
    server.new_repository(NAME)
    started = [commands.spawn("push", url, "--dataset", data) for _ in range(2)]
    ends = [wait(process) for process in started]
    # One of them may be told to wait for the other; neither spoils anything.
    assert {done.code for done in ends} <= {0, 1}, ends
    assert 0 in {done.code for done in ends}, ends
    for done in ends:
        busy = "another push or pull is at work" in done.err or "holds the dataset" in done.err
        assert done.code == 0 or busy, ends
    assert commands.call("push", "--dataset", data).code == 0
    copy = tmp_path / "copy"
    assert commands.call("pull", url, "--dataset", copy).code == 0
    assert runs_of(copy) == runs_of(data)
    shutil.rmtree(copy)
