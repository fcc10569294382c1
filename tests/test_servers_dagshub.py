"""Push and pull against real git and DVC servers on loopback, with the token enforced."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dvc")

from edgejoule.dataset import dagshub
from edgejoule.dataset.dagshub import check_access, create_repository
from edgejoule.dataset.verify import verify_dataset
from edgejoule.dataset.versions import configured_remote, pull, push, resolve_remote
from edgejoule.errors import MeasurementError, ServerError, TokenError, UsageError
from tests.servers import standin
from tests.support_dataset import build_run

TOKEN, READER = standin.TOKEN, standin.READER
DEFAULT = "rosa/edgejoule-raw-data"
SCRIPT = Path(__file__).resolve().parent.parent / "data_version.py"

pytestmark = [
    pytest.mark.real_servers,
    pytest.mark.skipif(standin.lacking() is not None, reason=str(standin.lacking())),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(dvc|aiohttp_retry)"),
]


@pytest.fixture
def data(tmp_path):
    build_run(tmp_path / "data", model="a")
    build_run(tmp_path / "data", model="b")
    return tmp_path / "data"


def quiet(_line):
    pass


def do_push(dataset, *where, **options):
    remote = resolve_remote(dataset, *(where or (None, None, None)))
    return push(dataset, remote, say=quiet, **options)


def do_pull(dataset, url=None, **options):
    return pull(dataset, resolve_remote(dataset, url, None, None), say=quiet, **options)


def call(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_no_secret_below(folder):
    secrets = [TOKEN, READER, dagshub.basic_authorization(TOKEN).split()[1]]
    guilty = [name for name, raw in files(folder).items() for one in secrets if one.encode() in raw]
    assert guilty == []


def test_a_round_trip_over_http(server, data, tmp_path):
    done = call("push", "--dataset", data, "--create", "--debug")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 new and 0 known runs" in done.stdout
    url = f"{server.url}/{DEFAULT}"
    pulled = call("pull", url, "--dataset", tmp_path / "copy", "--debug")
    assert (pulled.returncode, pulled.stderr) == (0, "")
    for name in ("a", "b"):
        assert files(tmp_path / "copy" / name) == files(data / name)
    assert verify_dataset(tmp_path / "copy").ok()
    assert TOKEN not in done.stdout + pulled.stdout
    assert_no_secret_below(tmp_path)
    # The settings let others use plain DVC on what was pulled.
    settings = (tmp_path / "copy" / ".dvc" / "config").read_text(encoding="utf-8")
    assert f"url = {url}.dvc" in settings
    assert "verify = true" in settings
    assert configured_remote(tmp_path / "copy").label == url


def test_a_second_version_and_a_partial_folder(server, data, tmp_path):
    do_push(data, create=True)
    url = f"{server.url}/{DEFAULT}"
    do_pull(tmp_path / "board", url, runs=["b"])
    build_run(tmp_path / "board", model="c")
    assert do_push(tmp_path / "board").new == ("c",)
    assert do_pull(tmp_path / "all", url).runs == ("a", "b", "c")
    assert do_pull(data).runs == ("a", "b", "c")


def test_the_repository_is_made_only_when_asked(server, data):
    with pytest.raises(UsageError, match="does not exist or the token cannot see it"):
        do_push(data)
    assert not (data / ".git").exists()
    assert call("push", "--dataset", data, CREATE_REPO="1").returncode == 0
    with pytest.raises(UsageError, match=r"does not create edgejoule-raw-data \(exists\)"):
        create_repository("edgejoule-raw-data")
    with pytest.raises(UsageError, match="can only be created by tom"):
        do_push(data, None, "tom", "power", create=True)


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_a_wrong_or_missing_token(server, data, tmp_path, monkeypatch, verb):
    do_push(data, create=True)
    for token in ("wrong-3d1f", ""):
        done = call(
            verb, f"{server.url}/{DEFAULT}", "--dataset", data, DAGSHUB_USER_TOKEN=token
        )  # fmt: skip
        assert done.returncode == 3
        assert len(done.stderr.splitlines()) == 1
        assert not token or token not in done.stderr


def test_a_token_that_may_only_read(server, data, tmp_path, monkeypatch):
    do_push(data, create=True)
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", READER)
    access = check_access()
    assert (access.label, access.exists, access.writable) == (DEFAULT, True, False)
    build_run(data, model="c")
    with pytest.raises(TokenError, match=r"may read .* but not write"):
        do_push(data)
    assert do_pull(tmp_path / "copy", f"{server.url}/{DEFAULT}").runs == ("a", "b")


def test_access_of_the_preflight(server):
    access = check_access()
    assert (access.user, access.exists, access.writable) == ("rosa", False, False)
    server.new_repository("rosa/power")
    access = check_access("rosa", "power")
    assert (access.exists, access.writable) == (True, True)


def test_a_server_that_is_down(server, data, tmp_path):
    do_push(data, create=True)
    commit = configured_remote(data)
    server.stop()
    build_run(data, model="c")
    for action in (lambda: do_push(data), lambda: do_pull(tmp_path / "x", commit.label)):
        with pytest.raises(ServerError, match="cannot be reached"):
            action()
    with pytest.raises(ServerError):
        check_access()
    assert call("push", "--dataset", data).returncode == 4
    server.start()
    assert do_push(data).new == ("c",)


def test_a_server_that_dies_in_mid_push(server, data, monkeypatch):
    from edgejoule.dataset import dvc_adapter

    do_push(data, create=True)
    build_run(data, model="c")
    send = dvc_adapter.push_runs

    def die(repo, runs):
        server.stop()
        return send(repo, runs)

    monkeypatch.setattr(dvc_adapter, "push_runs", die)
    with pytest.raises(ServerError, match="cannot be reached"):
        do_push(data)
    monkeypatch.undo()


def test_objects_that_the_server_lost_or_cut_are_sent_again(server, data, tmp_path):
    do_push(data, create=True)
    stored = server.objects(DEFAULT)
    stored[0].unlink()
    stored[2].write_bytes(b"short")
    assert do_push(data).new == ()
    do_pull(tmp_path / "copy", f"{server.url}/{DEFAULT}")
    assert verify_dataset(tmp_path / "copy").ok()


def test_a_damaged_object_of_the_same_size_never_arrives(server, data, tmp_path):
    do_push(data, create=True)
    victim = next(path for path in server.objects(DEFAULT) if path.suffix != ".dir")
    victim.write_bytes(b"x" * victim.stat().st_size)
    with pytest.raises(MeasurementError):
        do_pull(tmp_path / "copy", f"{server.url}/{DEFAULT}")


def test_a_server_that_refuses_large_files(server, data):
    server.stop()
    server.max_body = "2k"
    server.start()
    with pytest.raises(MeasurementError):
        do_push(data, create=True)


def test_unreal_runs_are_refused_and_the_others_sent(server, tmp_path):
    data = tmp_path / "data"
    build_run(data, model="real")
    build_run(data, model="sim", simulated=True, sensor="simulated")
    done = call("push", "--dataset", data, "--create")
    assert done.returncode == 1
    assert "not sent: sim (its power is simulated)" in done.stderr
    assert "1 new" in done.stdout
    assert call("push", "--dataset", data, "--run", "sim").returncode == 1
    done = call("push", "--dataset", data, "--force")
    assert (done.returncode, done.stderr) == (0, "")
    assert do_pull(tmp_path / "copy", f"{server.url}/{DEFAULT}").runs == ("real", "sim")


def test_the_token_goes_to_the_configured_host_alone(server, data, tmp_path, monkeypatch):
    do_push(data, create=True)
    # A foreign dataset whose settings point elsewhere must not lead the token there.
    config = data / ".dvc" / "config"
    text = config.read_text(encoding="utf-8").replace(server.url, "http://127.0.0.1:9")
    config.write_text(text, encoding="utf-8")
    build_run(data, model="c")
    assert do_push(data).new == ("c",)
    monkeypatch.setenv("DAGSHUB_CLIENT_HOST", "https://dagshub.example")
    with pytest.raises(UsageError, match="is not the configured host"):
        do_pull(tmp_path / "copy", f"{server.url}/{DEFAULT}")
