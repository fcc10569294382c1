"""What an HTTP store answers, and what that means: only "not there" is a missing object."""

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("dvc")
pytest.importorskip("dvc_http")

from edgejoule.dataset.versions import dvc_adapter
from edgejoule.dataset.versions.remote_objects import (
    StoredObject,
    check_objects,
    read_object,
)
from edgejoule.dataset.versions.remotes import Remote
from edgejoule.dataset.versions.repository import init
from edgejoule.errors import ServerError, TokenError

pytestmark = [
    pytest.mark.dvc,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(dvc|aiohttp_retry)"),
]


class Store:
    """Objects behind HTTP, and what is answered for some of them instead."""

    def __init__(self):
        self.objects = {}
        self.status = {}  # oid -> status
        self.breaks = {}  # oid -> how often the connection breaks in the middle
        self.without_size = set()  # oids that are sent in chunks
        self.asked = []

    def put(self, content):
        oid = hashlib.md5(content).hexdigest()
        self.objects[oid] = content
        return StoredObject(oid, None, len(content), (f"a/{len(content)}.bin",))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *_arguments):
        """Say nothing."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        oid = "".join(self.path.rsplit("/", 2)[1:])
        self.store.asked.append((self.command, oid))
        status = self.store.status.get(oid, 200 if oid in self.store.objects else 404)
        content = self.store.objects.get(oid, b"") if status == 200 else b""
        self.send_response(status)
        if oid in self.store.without_size and status == 200:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if body:
                self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content))
            return
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body and self.store.breaks.get(oid, 0) > 0:
            self.store.breaks[oid] -= 1
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
        elif body:
            self.wfile.write(content)


@contextmanager
def serving(store):
    handler = type("OneStore", (Handler,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "data"
    init(folder, commit=False)
    return folder


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def repo(store, dataset):
    with serving(store) as url:
        remote = Remote("nowhere.git", f"{url}/store", f"{url}/store", shared=True)
        with dvc_adapter.opened(dataset, remote) as repo:
            yield repo


def reasons(found):
    return {bad.object.oid: bad.reason for bad in found}


def test_what_is_there_missing_cut_and_other(repo, store):
    right, gone, short, other = (store.put(bytes([n]) * (1000 + n)) for n in range(4))
    del store.objects[gone.oid]
    store.objects[short.oid] = b"x" * 10
    store.objects[other.oid] = b"x" * other.size
    seen = []
    found = check_objects(repo, [right, gone, short, other], deep=True, seen=seen.append)
    assert reasons(found) == {
        gone.oid: "is missing",
        short.oid: "has 10 bytes instead of 1002",
        other.oid: "has other content (MD5)",
    }
    assert sorted(seen) == [1000, 1001, 1002, 1003]
    assert set(reasons(check_objects(repo, [right, gone, short, other]))) == {gone.oid, short.oid}
    store.asked.clear()
    check_objects(repo, [right], deep=True)
    check_objects(repo, [right])
    read_object(repo, right.oid)
    assert store.asked == [("GET", right.oid), ("HEAD", right.oid), ("GET", right.oid)]
    store.status[right.oid] = 410
    assert reasons(check_objects(repo, [right])) == {right.oid: "is missing"}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        (401, TokenError, r"refused the token \(status 401\)"),
        (403, TokenError, r"refused the token \(status 403\)"),
        (413, ServerError, "answers 413"),
    ],
)
def test_any_other_answer_ends_the_check(repo, store, status, error, text, deep):
    objects = [store.put(bytes([n]) * 100) for n in range(5)]
    store.status[objects[3].oid] = status
    with pytest.raises(error, match=text):
        check_objects(repo, objects, deep=deep)
    with pytest.raises(error, match=text):
        read_object(repo, objects[3].oid)


def test_a_server_that_is_unwell(repo, store, monkeypatch):
    import aiohttp_retry

    quick = aiohttp_retry.ExponentialRetry(attempts=2, start_timeout=0.001, factor=1)
    monkeypatch.setattr(aiohttp_retry, "ExponentialRetry", lambda **_options: quick)
    item = store.put(b"x" * 100)
    store.status[item.oid] = 503
    with pytest.raises(ServerError, match="answers 503"):
        check_objects(repo, [item])


def test_nobody_listens(dataset, store, monkeypatch):
    import aiohttp_retry

    quick = aiohttp_retry.ExponentialRetry(attempts=2, start_timeout=0.001, factor=1)
    monkeypatch.setattr(aiohttp_retry, "ExponentialRetry", lambda **_options: quick)
    item = store.put(b"x" * 100)
    with serving(store) as url:
        remote = Remote("nowhere.git", f"{url}/store", f"{url}/store", shared=True)
    for ask in (lambda repo: check_objects(repo, [item]), lambda repo: read_object(repo, item.oid)):
        with (
            dvc_adapter.opened(dataset, remote) as repo,
            pytest.raises(ServerError, match="cannot be reached"),
        ):
            ask(repo)


def test_a_connection_that_breaks_is_tried_again(repo, store):
    item = store.put(bytes(range(256)) * 4000)
    store.breaks[item.oid] = 2
    assert check_objects(repo, [item], deep=True) == []
    assert read_object(repo, item.oid) == store.objects[item.oid]
    store.breaks[item.oid] = 99
    with pytest.raises(ServerError, match="cannot be reached"):
        check_objects(repo, [item], deep=True)


def test_a_server_that_tells_no_size_is_asked_for_the_content(repo, store):
    right, short = store.put(b"r" * 500), store.put(b"s" * 600)
    store.without_size = {right.oid, short.oid}
    store.objects[short.oid] = b"s" * 60
    assert reasons(check_objects(repo, [right, short])) == {
        short.oid: "has 60 bytes instead of 600"
    }


def test_other_content_of_the_right_md5(repo, store):
    item = store.put(b"x" * 100)
    sealed = StoredObject(item.oid, None, 100, item.files, hashlib.sha256(b"x" * 100).hexdigest())
    other = StoredObject(item.oid, None, 100, item.files, "0" * 64)
    assert check_objects(repo, [sealed], deep=True) == []
    assert reasons(check_objects(repo, [other], deep=True)) == {
        item.oid: "has other content than the run says (SHA-256)"
    }
