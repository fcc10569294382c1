"""The few calls to DagsHub's REST interface are those that its own client makes.

The client is not a dependency (docs/Versions.md says why); its sources say which addresses it
calls, with what, and what it takes for a yes. A release that calls others fails here.
"""

from __future__ import annotations

import ast
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs

import pytest

from edgejoule.dataset.versions import dagshub
from edgejoule.dataset.versions.remotes import dagshub_remote
from tests.contracts.folder import listed

pytestmark = pytest.mark.contracts

VERSIONS = listed("dagshub.txt")
TOKEN = "tok-a1"


class Recorder(BaseHTTPRequestHandler):
    """Says yes to everything and remembers what was asked."""

    seen: ClassVar[list[tuple[str, str, str, dict[str, list[str]]]]] = []

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        authorization = self.headers.get("Authorization", "")
        self.seen.append((self.command, self.path, authorization, parse_qs(body)))
        said = json.dumps({"id": 1, "login": "ann", "username": "ann"}).encode()
        self.send_response(201 if self.command == "POST" else 200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = answer  # noqa: N815 (http.server finds it by this name)
    do_POST = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list]:
    Recorder.seen = []
    server = HTTPServer(("127.0.0.1", 0), Recorder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("DAGSHUB_CLIENT_HOST", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", TOKEN)
    yield Recorder.seen
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=VERSIONS)
def client(request: pytest.FixtureRequest, contracts: Path) -> Path:
    return contracts / "dagshub" / request.param / "dagshub"


def function(file: Path, name: str) -> ast.FunctionDef:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return next(
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name
    )


def constants(file: Path) -> dict[str, object]:
    return {
        node.targets[0].id: node.value.value
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }


def texts(node: ast.AST) -> set[object]:
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}


def test_the_question_for_the_user(client: Path, asked: list) -> None:
    assert dagshub.user_of(TOKEN) == "ann"
    method, path, authorization, _ = asked[0]
    theirs = function(client / "auth" / "tokens.py", "get_username_of_token")
    assert (method, authorization) == ("GET", f"Bearer {TOKEN}")
    assert path.lstrip("/") in texts(theirs)
    assert {"GET", 200, "login", "username"} <= texts(theirs)
    assert "HTTPBearerAuth" in ast.unparse(theirs)


def test_the_creation_of_a_repository(client: Path, asked: list) -> None:
    dagshub.create_repository("power")
    method, path, authorization, form = asked[0]
    wrapper = client / "upload" / "wrapper.py"
    assert (method, authorization) == ("POST", f"Bearer {TOKEN}")
    assert path.lstrip("/") == constants(wrapper)["REPO_CREATE_URL"]
    theirs = function(wrapper, "create_repo")
    assert set(form) <= texts(theirs)  # the fields that the client sends
    assert form["name"] == ["power"]
    said = ast.unparse(theirs)
    assert "HTTPStatus.CREATED" in said
    assert "HTTPStatus.UNPROCESSABLE_ENTITY" in said


def test_the_store_behind_a_repository(client: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSHUB_CLIENT_HOST", raising=False)
    remote = dagshub_remote("ann", "power")
    theirs = ast.unparse(function(client / "common" / "init.py", "init"))
    assert "f'{url}.dvc'" in theirs
    assert "'auth': 'basic', 'user': token, 'password': token" in theirs
    assert remote.dvc_url == f"{dagshub.DEFAULT_HOST}/ann/power.dvc"
