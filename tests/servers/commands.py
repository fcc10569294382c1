"""Runs `data_version.py` for the lane: within this process, or as one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgejoule.cli import data_version
from edgejoule.dataset.versions.dagshub import TOKEN_VARIABLE
from tests.servers.watcher import Watch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "data_version.py"
_PROGRESS = re.compile(r"\w+: \d+ of \d+")


@dataclass(frozen=True)
class Done:
    """How a command ended: exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines on stderr that are no progress; a slow machine says how far it is."""
        return [line for line in self.err.splitlines() if not _PROGRESS.match(line)]


class Commands:
    """Runs `data_version.py`; what it prints is looked at for secrets."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def call(self, *arguments: object, **environment: str) -> Done:
        """Run it within this process, which saves a second; `environment` is set meanwhile."""
        out, err = io.StringIO(), io.StringIO()
        words = [str(argument) for argument in arguments]
        with (
            _environment(environment),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = data_version.main(words)
        self.watch.look_at_output(" ".join(words), out.getvalue(), err.getvalue())
        return Done(code, out.getvalue(), err.getvalue())

    def spawn(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start it as a process of its own."""
        words = [sys.executable, str(SCRIPT), *map(str, arguments)]
        process: subprocess.Popen[str] = self.watch.popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **environment}, start_new_session=True,
        )  # fmt: skip
        return process

    def run(self, *arguments: object, **environment: str) -> Done:
        """Run it as a process of its own to its end."""
        return wait(self.spawn(*arguments, **environment))

    def kill_when(
        self, ready: Callable[[], bool], *arguments: object, **environment: str
    ) -> subprocess.Popen[str]:
        """Start it, and kill it and its children without a warning as soon as `ready` says so."""
        process = self.spawn(*arguments, **environment)
        while not ready() and process.poll() is None:
            time.sleep(0.002)
        if process.poll() is not None:
            raise AssertionError(f"it ended before it was killed: {process.communicate()}")
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return process


def wait(process: subprocess.Popen[str]) -> Done:
    """Wait for a started command's end."""
    out, err = process.communicate(timeout=200)
    return Done(process.returncode, out, err)


@contextlib.contextmanager
def when(ready: Callable[[], bool], act: Callable[[], Any]) -> Iterator[list[bool]]:
    """Do `act` in a thread as soon as `ready` says so; the list is not empty once it was done."""
    over = threading.Event()
    done: list[bool] = []

    def look() -> None:
        while not over.is_set():
            if ready():
                act()
                done.append(True)
                return
            time.sleep(0.002)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def without_token() -> dict[str, str]:
    """The environment of somebody who has no token."""
    return {TOKEN_VARIABLE: ""}
