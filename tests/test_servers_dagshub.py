"""The command and its REST calls against real git and DVC servers, with the token enforced."""

import pytest

pytest.importorskip("dvc")

from edgejoule.dataset.versions.dagshub import check_access, create_repository
from edgejoule.errors import ServerError, UsageError
from tests.servers import standin
from tests.servers.places import NAME, add_runs, runs_of
from tests.servers.recorder import recording
from tests.support_dataset import build_run

pytestmark = [
    pytest.mark.real_servers,
    pytest.mark.skipif(standin.lacking() is not None, reason=str(standin.lacking())),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(dvc|aiohttp_retry)"),
]


@pytest.fixture
def data(tmp_path):
    return add_runs(tmp_path / "data", "a", "b")


def test_the_command_itself(server, commands, data, tmp_path):
    """As processes of their own: exit codes, what is printed, and nothing else on stderr."""
    done = commands.run("push", "--dataset", data, "--create", "--debug")
    assert (done.code, done.errors) == (0, [])
    assert "2 new and 0 known runs" in done.out
    url = f"{server.url}/{NAME}"
    pulled = commands.run("pull", url, "--dataset", tmp_path / "copy", "--debug")
    assert (pulled.code, pulled.errors) == (0, [])
    assert runs_of(tmp_path / "copy") == runs_of(data)
    # The settings let others use plain DVC on what was pulled.
    settings = (tmp_path / "copy" / ".dvc" / "config").read_text(encoding="utf-8")
    assert f"url = {url}.dvc" in settings
    assert "verify = true" in settings
    refused = commands.run("pull", "--dataset", data, DAGSHUB_USER_TOKEN=standin.WRONG)
    assert refused.code == 3
    assert "refused the token" in refused.err
    assert len(refused.errors) == 1


def test_the_repository_is_made_only_when_asked(server, commands, data):
    done = commands.call("push", "--dataset", data)
    assert done.code == 2
    assert "does not exist or the token cannot see it" in done.err
    assert not (data / ".git").exists()
    assert commands.call("push", "--dataset", data, CREATE_REPO="1").code == 0
    with pytest.raises(UsageError, match=r"does not create edgejoule-raw-data \(exists\)"):
        create_repository("edgejoule-raw-data")
    done = commands.call("push", "--dataset", data, "--owner", "tom", "--name", "x", "--create")
    assert done.code == 2
    assert "can only be created by tom" in done.err


def test_access_of_the_preflight(server, monkeypatch):
    access = check_access()
    assert (access.user, access.exists, access.writable) == ("rosa", False, False)
    server.new_repository("rosa/power")
    access = check_access("rosa", "power")
    assert (access.exists, access.writable) == (True, True)
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", standin.READER)
    access = check_access("rosa", "power")
    assert (access.label, access.exists, access.writable) == ("rosa/power", True, False)
    server.stop()
    with pytest.raises(ServerError, match="cannot be reached"):
        check_access()


def test_unreal_runs_are_refused_and_the_others_sent(server, commands, tmp_path):
    data = add_runs(tmp_path / "data", "real")
    build_run(data, model="sim", simulated=True, sensor="simulated")
    done = commands.call("push", "--dataset", data, "--create")
    assert done.code == 1
    assert "not sent: sim (its power is simulated)" in done.err
    assert "1 new" in done.out
    assert commands.call("push", "--dataset", data, "--run", "sim").code == 1
    assert commands.call("push", "--dataset", data, "--force").code == 0
    copy = tmp_path / "copy"
    assert commands.call("pull", f"{server.url}/{NAME}", "--dataset", copy).code == 0
    assert sorted(runs_of(copy)) == ["real", "sim"]


def test_a_store_of_ones_own_beside_the_repository(server, commands, data, tmp_path):
    own = tmp_path / "disk"
    own.mkdir()
    done = commands.call(
        "push", f"{server.url}/{NAME}", "--create", "--store", own, "--dataset", data
    )
    assert done.code == 0, done
    assert server.objects(NAME) == []
    assert any(own.rglob("*.dir"))
    copy = tmp_path / "copy"
    done = commands.call("pull", f"{server.url}/{NAME}", "--store", own, "--dataset", copy)
    assert done.code == 0, done
    assert runs_of(copy) == runs_of(data)


def test_an_address_that_is_not_the_configured_host_gets_no_token(server, commands, tmp_path):
    with recording() as foreign:
        for words in (
            ["pull", f"{foreign.url}/{NAME}", "--dataset", tmp_path / "copy"],
            ["pull", f"{foreign.url}/{NAME}", "--store", "http", "--dataset", tmp_path / "copy"],
            ["pull", f"{foreign.url}/{NAME}.git", "--dataset", tmp_path / "copy",
             "--store", f"{foreign.url}/{NAME}.dvc"],
        ):  # fmt: skip
            done = commands.call(*words)
            assert done.code == 2, done
            assert len(done.errors) == 1
    assert "authorization" not in foreign.text.lower()
