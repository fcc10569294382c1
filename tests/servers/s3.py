"""An S3 server behind the stand-in: moto's, in a process of its own, its objects in memory.

It checks no credentials; the stand-in before it does. Its start takes seconds, so one serves a
whole session and is emptied for each test.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.servers import standin

BUCKET = "dvc"
_OWNER = {  # an object may be read by who wrote it; the signature is not looked at
    "Authorization": "AWS4-HMAC-SHA256 Credential=tests/20240101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=none",
    "Content-Type": "application/octet-stream",
}


class Moto:
    """A running S3 server."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.process = process

    def call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Ask the server itself, past the stand-in."""
        address = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(address, data=body, method=method, headers=_OWNER)
        with urllib.request.urlopen(request, timeout=20) as answer:
            content: bytes = answer.read()
        return content

    def empty(self) -> None:
        """Forget everything and make the bucket anew."""
        self.call("POST", "/moto-api/reset", b"")
        self.call("PUT", f"/{BUCKET}")


@contextlib.contextmanager
def running(home: Path) -> Iterator[Moto]:
    """Run the server until the block ends; its log goes to `home`, where tokens may lie."""
    home.mkdir(parents=True, exist_ok=True)
    port = standin.free_port()
    with (home / "moto.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**standin.program_environment(), "HOME": str(home)}, cwd=home,
        )  # fmt: skip
    moto = Moto(port, process)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                moto.call("GET", "/moto-api/")
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((home / "moto.log").read_text(encoding="utf-8"))
            time.sleep(0.02)
        yield moto
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Store:
    """The objects that a DVC remote keeps, looked at and spoilt behind its back.

    An object's name is its hash; a list of files has `.dir` at its end.
    """

    def names(self) -> list[str]:
        """The objects, in order."""
        found = (re.search(r"files/md5/(..)/([^/]+)$", key) for key in self.keys())
        return sorted(match[1] + match[2] for match in found if match)

    def keys(self) -> list[str]:
        """Where the objects lie."""
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        """An object's content."""
        raise NotImplementedError

    def write(self, name: str, content: bytes) -> None:
        """Put other content in an object's place."""
        raise NotImplementedError

    def delete(self, name: str) -> None:
        """Take an object away."""
        raise NotImplementedError


class FolderStore(Store):
    """Objects as files: the stand-in's HTTP store, or a folder remote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keys(self) -> list[str]:
        """Paths of the objects; a file that is being written has another name."""
        return [path.as_posix() for path in self.folder.glob("files/md5/??/*")]

    def path(self, name: str) -> Path:
        """An object's file."""
        return self.folder / "files" / "md5" / name[:2] / name[2:]

    def read(self, name: str) -> bytes:
        """An object's content."""
        return self.path(name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Put other content in an object's place; DVC keeps objects read-only."""
        self.delete(name)
        self.path(name).write_bytes(content)

    def delete(self, name: str) -> None:
        """Take an object away."""
        self.path(name).unlink()


class BucketStore(Store):
    """Objects in the S3 server's bucket."""

    def __init__(self, moto: Moto) -> None:
        self.moto = moto

    def keys(self) -> list[str]:
        """Keys of the objects."""
        listed = self.moto.call("GET", f"/{BUCKET}?list-type=2&max-keys=1000").decode()
        return re.findall(r"<Key>([^<]+)</Key>", listed)

    def path(self, name: str) -> str:
        """An object's address on the server."""
        tail = f"files/md5/{name[:2]}/{name[2:]}"
        return f"/{BUCKET}/{next(key for key in self.keys() if key.endswith(tail))}"

    def read(self, name: str) -> bytes:
        """An object's content."""
        return self.moto.call("GET", self.path(name))

    def write(self, name: str, content: bytes) -> None:
        """Put other content in an object's place."""
        self.moto.call("PUT", self.path(name), content)

    def delete(self, name: str) -> None:
        """Take an object away."""
        self.moto.call("DELETE", self.path(name))
