"""A refused, absent or too weak token is said to be that, by every command, and nothing else is."""

import re

import pytest

pytest.importorskip("dvc")

from edgejoule.dataset.versions.dagshub import basic_authorization
from tests.servers import standin
from tests.servers.places import ANY_HOSTED, HOSTED, add_runs, files, place_of, runs_of, serving
from tests.servers.recorder import recording
from tests.servers.secrets_found import Finder

pytestmark = [
    pytest.mark.real_servers,
    pytest.mark.skipif(standin.lacking() is not None, reason=str(standin.lacking())),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(dvc|aiohttp_retry)"),
]
COMMANDS = {
    "push": ["push", "--dataset", "DATA"],
    "pull": ["pull", "URL", "--dataset", "NEW"],
    "pull again": ["pull", "--dataset", "DATA"],
    "verify": ["verify", "DATA", "--remote"],
    "verify deep": ["verify", "DATA", "--remote", "--deep"],
    "status": ["status", "DATA", "--remote"],
}
# Words that lay the blame on the data.
_BLAMES_DATA = re.compile(r"missing|lacks|lost|damaged|not there", re.IGNORECASE)


@pytest.fixture(scope="module", params=HOSTED)
def sent(request, watch, tmp_path_factory, commands):
    """A dataset that was pushed, and to which a run was added since."""
    folder = tmp_path_factory.mktemp(f"sent-{request.param}")
    with serving(watch, tmp_path_factory.mktemp("s"), folder) as server:
        moto = request.getfixturevalue("moto") if request.param == "s3" else None
        place = place_of(request.param, server, folder, moto)
        data = add_runs(folder / "data", "a")
        done = commands.call("push", *place.target, "--dataset", data)
        assert done.code == 0, done
        add_runs(data, "later")
        yield place, data


def run(commands, sent, which, new, token):
    place, data = sent
    words = {"DATA": data, "URL": place.url, "NEW": new}
    arguments = [words.get(word, word) for word in COMMANDS[which]]
    return commands.call(*arguments, DAGSHUB_USER_TOKEN=token)


@pytest.mark.parametrize("which", COMMANDS)
@pytest.mark.parametrize("token", [standin.WRONG, ""], ids=["wrong", "none"])
def test_a_refused_or_absent_token(sent, commands, tmp_path, which, token):
    before = sorted(sent[0].store.names())
    done = run(commands, sent, which, tmp_path / "new", token)
    assert done.code == 3, done
    assert "token" in done.out + done.err
    assert len(done.errors) == (0 if which == "status" else 1)  # which says it in its table
    assert not _BLAMES_DATA.search(done.out + done.err)
    assert sorted(sent[0].store.names()) == before
    assert not runs_of(tmp_path / "new") if (tmp_path / "new").exists() else True


@pytest.mark.parametrize("which", COMMANDS)
def test_a_token_that_may_only_read(sent, commands, tmp_path, which):
    before = sorted(sent[0].store.names())
    done = run(commands, sent, which, tmp_path / "new", standin.READER)
    if which == "push":
        assert done.code == 3, done
        assert re.search(r"may read .* but not write", done.err)
        assert not _BLAMES_DATA.search(done.out + done.err)
    elif which == "status":  # 1: there is a run that the version has not
        assert (done.code, done.errors) == (1, [])
        assert "token" not in done.out
    else:
        assert (done.code, done.errors) == (0, []), done
    assert sorted(sent[0].store.names()) == before


@pytest.mark.parametrize("place", HOSTED, indirect=True)
def test_a_foreign_address_in_the_settings_of_a_version_gets_no_token(place, commands, tmp_path):
    data = add_runs(tmp_path / "data", "a")
    assert commands.call("push", *place.target, "--dataset", data).code == 0
    with recording() as foreign:
        config = data / ".dvc" / "config"
        text = config.read_text(encoding="utf-8")
        assert place.server.url in text
        config.write_text(text.replace(place.server.url, foreign.url), encoding="utf-8")
        add_runs(data, "b")
        for words in (
            ["push", "--dataset", data],
            ["verify", data, "--remote", "--deep"],
            ["status", data, "--remote"],
            ["pull", "--dataset", data],
        ):
            config.write_text(text.replace(place.server.url, foreign.url), encoding="utf-8")
            commands.call(*words)
    assert_no_secret(foreign)


@pytest.mark.parametrize("auth", ["    auth = basic\n", ""], ids=["basic", "none"])
def test_a_foreign_store_in_a_version_that_somebody_pushed_gets_no_token(
    server, commands, tmp_path, auth
):
    """The settings come with what is pulled: here those of a repository on the configured host."""
    from edgejoule.dataset.versions.git import run_git

    place = place_of("http", server, tmp_path, None)
    data = add_runs(tmp_path / "data", "a")
    assert commands.call("push", *place.target, "--dataset", data).code == 0
    with recording() as foreign:
        config = data / ".dvc" / "config"
        text = config.read_text(encoding="utf-8").replace(server.url, foreign.url)
        text = text.replace(standin.USER, "mallory").replace("    auth = basic\n", auth)
        assert foreign.url in text
        config.write_text(text, encoding="utf-8")
        run_git(data, "add", "--force", ".dvc/config")
        run_git(data, "commit", "-m", "lead them there")
        run_git(
            data, "push", "--force", str(server.repository("rosa/edgejoule-raw-data")), "HEAD:main"
        )
        done = commands.call("pull", place.url, "--dataset", tmp_path / "copy")
        assert done.code in {1, 2, 4}, done
        assert len(done.errors) == 1
        assert auth or foreign.requests  # it was led there
    assert_no_secret(foreign)


@pytest.mark.parametrize("place", ANY_HOSTED, indirect=True)
def test_a_redirect_carries_no_token(place, commands, tmp_path):
    data = add_runs(tmp_path / "data", "a")
    assert commands.call("push", *place.target, "--dataset", data).code == 0
    add_runs(data, "b")
    with recording() as foreign:
        place.restart(redirect=foreign.url)
        for words in (
            ["push", "--dataset", data],
            ["pull", place.url, "--dataset", tmp_path / "copy"],
            ["verify", data, "--remote", "--deep"],
            ["status", data, "--remote"],
        ):
            assert commands.call(*words).code in {1, 3, 4}
    assert_no_secret(foreign)


@pytest.mark.parametrize("place", HOSTED, indirect=True)
def test_a_redirect_of_the_store_alone_carries_no_token(place, commands, tmp_path):
    data = add_runs(tmp_path / "data", "a")
    assert commands.call("push", *place.target, "--dataset", data).code == 0
    add_runs(data, "b")
    with recording() as foreign:
        place.restart(redirect=foreign.url, redirected=r"^/[^/]+/[^/]+\.(dvc|s3)/")
        for words in (
            ["push", "--dataset", data],
            ["pull", place.url, "--dataset", tmp_path / "copy"],
            ["verify", data, "--remote", "--deep"],
        ):
            done = commands.call(*words)
            assert done.code in {1, 3, 4}, done
    assert_no_secret(foreign)


def assert_no_secret(foreign):
    secrets = {"token": standin.TOKEN, "basic": basic_authorization(standin.TOKEN).split()[1]}
    assert Finder(secrets)(foreign.text.encode("latin-1")) == set()
    assert "authorization" not in foreign.text.lower()


def test_the_watch_excludes_settings_and_logs_alone(server, watch):
    held = files(server.home)
    guilty = {name for name, content in held.items() if watch.finder(content)}
    assert guilty
    assert all(name.startswith("private/") for name in guilty)
