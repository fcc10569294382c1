"""The watch over secrets finds what is planted, wherever it may leak, and nothing else."""

import base64
import gzip
import logging
import os
import secrets
import subprocess
import sys
import threading

import pytest

from edgejoule.errors import UsageError
from tests.servers import standin
from tests.servers.sampler import Sampler
from tests.servers.secrets_found import Finder
from tests.servers.watcher import Watch

pytestmark = [
    pytest.mark.real_servers,
    pytest.mark.skipif(standin.lacking() is not None, reason=str(standin.lacking())),
]
# A shell reads the secret from stdin: whoever starts the shell does not give it away.
GIVES_ARGUMENT = 'read -r secret; sh -c "sleep 0.5; true" sh "$secret"; true'
GIVES_ENVIRONMENT = "read -r secret; export secret; sleep 0.5; true"


@pytest.fixture
def secret():
    return f"planted-{secrets.token_hex(10)}"


@pytest.fixture
def planted(secret, tmp_path):
    """A watch of its own, with its own secret: the lane's must not find anything."""
    root = tmp_path / "root"
    root.mkdir()
    watch = Watch({"planted": secret}, root)
    watch.start()
    yield watch
    watch.stop()


def git(folder, *arguments, **options):
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    command = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(folder), *arguments]
    subprocess.run(command, check=True, env=environment, capture_output=True, **options)


@pytest.mark.parametrize("user", ["", "ci", "rosa", "name-of-7", None])
def test_base64_with_any_user_is_found(secret, user):
    pair = f"{secret if user is None else user}:{secret}".encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        assert Finder({"x": secret})(b"Authorization: Basic " + encode(pair) + b"\r\n") == {"x"}
    assert Finder({"x": secret})(b"nothing " + base64.b64encode(b"ci:other")) == set()


def test_files_of_every_kind(planted, secret, tmp_path):
    root = planted.root
    (root / "plain.txt").write_text(f"a {secret} b")
    (root / f"name-{secret}").touch()
    (root / "link").symlink_to(secret)
    (root / "basic").write_bytes(base64.b64encode(f"rosa:{secret}".encode()))
    (root / "log.gz").write_bytes(gzip.compress(secret.encode()))
    (root / "private").mkdir()
    (root / "private" / "settings").write_text(secret)
    planted.excluded.add(root / "private")
    (root / "short").write_text(secret)
    (root / "short").unlink()
    # In a pack alone: committed, taken back, packed.
    git(root, "init", "-q", "repository")
    repository = root / "repository"
    (repository / "f").write_text(secret * 50)
    git(repository, "add", "f")
    git(repository, "commit", "-q", "-m", "one")
    (repository / "f").write_text("clean")
    git(repository, "commit", "-q", "-a", "-m", "two")
    git(repository, "gc", "-q", "--prune=now")
    assert list((repository / ".git" / "objects" / "pack").glob("*.pack"))
    planted.stop()
    found = "\n".join(planted.found)
    for place in (
        "plain.txt: planted", "name-<planted>: planted in its name",
        "link: planted in its target", "basic: planted", "log.gz: planted unpacked",
        "short: planted (then removed)", "repository/.git: planted in a git object",
    ):  # fmt: skip
        assert place in found
    assert "private" not in found
    assert secret not in found


def test_arguments_and_environments_of_children(planted, secret):
    subprocess.run(["sh", "-c", "true", secret], check=True)
    subprocess.run(["true"], check=True, env={**os.environ, "X": f"a{secret}"})
    for script in (GIVES_ARGUMENT, GIVES_ENVIRONMENT):
        subprocess.run(["sh", "-c", script], check=True, input=secret, text=True)
    planted.stop()
    found = "\n".join(planted.found)
    assert "arguments of sh -c true <planted>: planted" in found
    assert "environment of true: planted" in found
    sampled = [line for line in planted.found if line.endswith("(sampled)")]
    assert any(line.startswith("arguments of sh -c sleep 0.5") for line in sampled)
    assert any(line.startswith("environment of sleep 0.5: planted") for line in sampled)
    assert secret not in found


def test_the_one_that_was_given_it_may_have_it_and_its_children_not(planted, secret):
    script = "import os, subprocess; subprocess.run(['sleep', '0.3'], env={})"
    leaky = "import subprocess; subprocess.run(['sleep', '0.4'])"
    for text in (script, leaky):
        process = planted.popen([sys.executable, "-c", text], env={**os.environ, "X": secret})
        assert process.wait() == 0
    planted.stop()
    assert planted.found == ["environment of sleep 0.4: planted (sampled)"]


def test_what_is_printed_logged_and_said(planted, secret):
    with planted.given():  # the argument is not the point here
        subprocess.run(["sh"], input=f"echo {secret} >&2", text=True, capture_output=True)  # noqa: PLW1510
    logging.getLogger("some.library").error("with %s", secret)
    with pytest.raises(UsageError):
        raise UsageError("bad", f"say {secret}")
    planted.look_at_output("stdout of it", secret)
    planted.stop()
    assert set(planted.found) == {
        "output of sh: planted", "log of some.library: planted", "the words of an error: planted",
        "stdout of it: planted",
    }  # fmt: skip


def test_a_thread_is_no_process_even_if_its_number_was_one(secret):
    sampler = Sampler(Finder({"planted": secret}))
    sampler.own = -1  # let it look at this process
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        sampler.seen[thread.native_id] = {0}
        assert not sampler.look_at(thread.native_id)
        assert sampler.look_at(os.getpid())
    finally:
        go.set()
        thread.join()


def test_a_clean_lane_is_clean(planted):
    (planted.root / "f").write_text("nothing")
    subprocess.run(["sleep", "0.2"], check=True)
    planted.stop()
    assert planted.found == []
    assert planted.counts["files"] == 1
    assert planted.counts["processes started"] >= 1
    assert planted.sampled["samples"] > 100
