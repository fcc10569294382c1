"""Addresses, the token, and what git and the host say; no git or DVC server needed."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from edgejoule.dataset.versions import dagshub
from edgejoule.dataset.versions.dagshub import (
    basic_authorization,
    check_access,
    create_repository,
    host,
    redact,
    user_of,
)
from edgejoule.dataset.versions.git import PushRejectedError, _error, run_git
from edgejoule.dataset.versions.remotes import dagshub_remote, folder_remote, remote_from_url
from edgejoule.errors import MeasurementError, ServerError, TokenError, UsageError

TOKEN = "tok-6b1f"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("DAGSHUB_CLIENT_HOST", "DAGSHUB_USER_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def answers(monkeypatch):
    """A host whose answers are a list of (status, body, headers); what it was asked is kept."""
    planned, asked = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length).decode()
            asked.append((self.command, self.path, self.headers["Authorization"], body))
            status, text, headers = planned.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET  # noqa: N815 (the base class's spelling)

        def log_message(self, *_arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("DAGSHUB_CLIENT_HOST", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", TOKEN)
    yield planned, asked
    server.shutdown()
    thread.join()
    server.server_close()


def user(status=200, name="rosa"):
    return (status, json.dumps({"username": name}), {})


def test_the_host(monkeypatch):
    assert host() == "https://dagshub.com"
    monkeypatch.setenv("DAGSHUB_CLIENT_HOST", "http://localhost:80/")
    assert host() == "http://localhost:80"
    for wrong, says in (
        ("dagshub.com", "is no address"),
        ("ftp://dagshub.com", "is no address"),
        ("http://dagshub.com", "unencrypted"),
        ("https://me:secret@dagshub.com", "holds a user or password"),
    ):
        monkeypatch.setenv("DAGSHUB_CLIENT_HOST", wrong)
        with pytest.raises(UsageError, match=says) as caught:
            host()
        assert "secret" not in str(caught.value)


def test_addresses(tmp_path):
    remote = remote_from_url("https://dagshub.com/rosa/power")
    assert remote == remote_from_url("https://dagshub.com/rosa/power.git/")
    assert remote == dagshub_remote("rosa", "power")
    assert remote.dvc_url == "https://dagshub.com/rosa/power.dvc"
    assert remote_from_url(str(tmp_path)) == folder_remote(tmp_path)
    for wrong in ("https://dagshub.com/rosa", "https://dagshub.com/a/b/c", "https://dagshub.com/"):
        with pytest.raises(UsageError, match="names no owner or repository"):
            remote_from_url(wrong)
    with pytest.raises(UsageError, match="holds a user or password") as caught:
        remote_from_url(f"https://x:{TOKEN}@evil.example/rosa/power")
    assert TOKEN not in str(caught.value)


def test_the_token_is_taken_out_of_text():
    text = f"a {TOKEN} b {basic_authorization(TOKEN)} c"
    assert redact(text, TOKEN) == "a *** b Basic *** c"
    assert redact(text, None) == text


def test_no_token_is_said_so():
    with pytest.raises(TokenError, match=r"no token for https://dagshub\.com"):
        check_access()


def test_the_tokens_user(answers):
    planned, asked = answers
    planned.append(user())
    assert user_of(TOKEN) == "rosa"
    assert asked == [("GET", "/api/v1/user", f"Bearer {TOKEN}", "")]
    for status in (401, 403):
        planned.append(user(status))
        with pytest.raises(TokenError, match="refused the token"):
            user_of(TOKEN)
    for answer in ((500, "", {}), (200, "<html>", {}), (200, "[]", {}), (404, "{}", {})):
        planned.append(answer)
        with pytest.raises(ServerError, match="answers"):
            user_of(TOKEN)


def test_a_redirect_is_not_followed(answers):
    planned, asked = answers
    planned.append((302, "", {"Location": "http://127.0.0.1:9/steal"}))
    with pytest.raises(ServerError, match="answers 302"):
        user_of(TOKEN)
    assert len(asked) == 1


def test_access_is_asked_of_git(answers):
    planned, asked = answers
    planned += [user(), (200, "", {})]
    access = check_access(None, "power")
    assert (access.label, access.exists, access.writable) == ("rosa/power", True, True)
    assert asked[1][1] == "/rosa/power.git/info/refs?service=git-receive-pack"
    planned += [user(), (403, "", {}), (200, "", {})]
    assert (check_access().exists, check_access.__doc__ is not None) == (True, True)
    planned += [user(), (404, "", {}), (404, "", {})]
    assert not check_access().exists
    planned += [user(), (503, "", {}), (503, "", {})]
    with pytest.raises(ServerError, match="answers 503"):
        check_access()


def test_creating_a_repository(answers):
    planned, asked = answers
    planned.append((201, "{}", {}))
    create_repository("power")
    assert asked[0][:3] == ("POST", "/api/v1/user/repos", f"Bearer {TOKEN}")
    assert asked[0][3].startswith("name=power&")
    for status, kind in ((401, TokenError), (422, UsageError), (500, ServerError)):
        planned.append((status, '{"message": "no"}', {}))
        with pytest.raises(kind):
            create_repository("power")
    planned += [user(), (404, "", {}), (404, "", {}), (201, "{}", {})]
    planned += [user(), (404, "", {}), (200, "", {})]
    with pytest.raises(MeasurementError, match="does not take a push yet"):
        dagshub.ensure_repository(dagshub_remote("rosa", "power"), create=True)


@pytest.mark.parametrize(
    ("stderr", "kind"),
    [
        ("fatal: Authentication failed for 'https://x/'", TokenError),
        ("error: The requested URL returned error: 403", TokenError),
        ("fatal: could not read Username for 'https://x': terminal prompts disabled", TokenError),
        ("fatal: unable to access 'https://x/': Could not resolve host: x", ServerError),
        ("fatal: unable to access 'https://x/': Failed to connect to x port 443", ServerError),
        ("error: RPC failed; HTTP 500 curl 22 The requested URL returned error: 500", ServerError),
        (" ! [rejected]  HEAD -> main (fetch first)\nerror: failed to push", PushRejectedError),
        ("fatal: bad object", MeasurementError),
        ("", MeasurementError),
    ],
)
def test_what_git_says(stderr, kind):
    error = _error("push", stderr, dagshub_remote("rosa", "power"))
    assert type(error) is kind
    assert "\n" not in str(error)


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="git is not installed"):
        run_git(tmp_path, "status")


def test_without_dvc(tmp_path, monkeypatch):
    import sys

    from edgejoule.dataset.versions.repository import init

    monkeypatch.setitem(sys.modules, "dvc.repo", None)
    with pytest.raises(UsageError, match="DVC is not installed"):
        init(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_pointers_name_the_hash_of_their_run():
    from edgejoule.dataset.versions.dvc_adapter import pointer_sha256

    sha = "0" * 64
    for text in (f"  run_json_sha256: {sha}\n", f"  run_json_sha256:\n    '{sha}'\n"):
        assert pointer_sha256(f"outs:\n- md5: a\nmeta:\n  edgejoule:\n  {text}") == sha
    assert pointer_sha256("outs:\n- md5: a\n") is None


def test_a_folder_stays_a_folder():
    assert not folder_remote(Path("x")).shared
    assert dagshub_remote("a", "b").shared
