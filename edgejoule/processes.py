"""Child processes that cannot become orphans and never see a secret.

Every child is `python -m <module>`, a fresh interpreter in a session of its own. Its first line of
stdin is a JSON object; the pipe then stays open, and its end-of-file tells the child that the
parent is gone (on Linux the kernel also sends a signal). Its messages come back as JSON lines over
a pipe of their own, because stdout and stderr belong to the user's model and go to `run.log`.

Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from edgejoule.errors import EdgejouleError

PROJECT_ROOT = Path(__file__).resolve().parent.parent

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_SECRET = re.compile(
    r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE
)


def child_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without anything that looks like a secret.

    The project's own folder leads PYTHONPATH, so that a child runs the same code from anywhere.
    """
    kept = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    paths = [str(PROJECT_ROOT), *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    kept["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    kept["PYTHONSAFEPATH"] = "1"  # a queue.py in the working directory must not be imported
    kept["PYTHONUNBUFFERED"] = "1"
    return {**kept, **(extra or {})}


def hide_environment() -> None:
    """Keep same-user processes from reading this one's environment in /proc, if it holds a secret.

    A model is foreign code under the same user; `/proc/<parent>/environ` would show it the token.
    """
    if any(_SECRET.search(name) for name in os.environ):
        _prctl(_PR_SET_DUMPABLE, 0)


def die_with_parent(death_signal: int) -> None:
    """Ask the kernel to signal this process when the thread that started it ends (Linux only)."""
    _prctl(_PR_SET_PDEATHSIG, death_signal)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


@dataclass
class Child:
    """A running child: its process, its message pipe and what it has said so far."""

    name: str
    process: subprocess.Popen[bytes]
    _messages: BinaryIO
    _pending: bytes = b""
    received: list[dict[str, Any]] = field(default_factory=list)

    @property
    def closed(self) -> bool:
        """Whether the message pipe has ended."""
        return self._messages.closed

    def fileno(self) -> int:
        """The message pipe's descriptor, for `select`."""
        return self._messages.fileno()

    def poll_messages(self, timeout_s: float = 0.0) -> list[dict[str, Any]]:
        """Return the messages that arrived, waiting at most `timeout_s` for the first."""
        if self._messages.closed:
            return []
        found: list[dict[str, Any]] = []
        while select.select([self._messages], [], [], 0 if found else timeout_s)[0]:
            data = os.read(self._messages.fileno(), 65536)
            if not data:
                self._messages.close()
                break
            *lines, self._pending = (self._pending + data).split(b"\n")
            found += [json.loads(line) for line in lines if line.strip()]
            if found:
                timeout_s = 0
        self.received += found
        return found

    def wait_for(self, kind: str, timeout_s: float) -> dict[str, Any] | None:
        """Return the first message of `kind`, or None if the child ends or the time is over."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for message in self.poll_messages(0.05):
                if message.get("kind") == kind:
                    return message
            if self.process.poll() is not None and self._messages.closed:
                return None
        return None

    def send(self, **message: Any) -> None:
        """Send one JSON line; a child that is gone is not an error here."""
        assert self.process.stdin is not None  # noqa: S101 (narrowing for the type checker)
        with contextlib.suppress(BrokenPipeError, ValueError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def stop(self, grace_s: float = 3.0) -> int:
        """End the child and whatever it started; return its exit status.

        First by closing its stdin, then SIGTERM, then SIGKILL to its whole session's group.
        """
        stdin = self.process.stdin
        if stdin is not None and not stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                stdin.close()
        for signum, wait_s in ((None, grace_s), (signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
            if signum is not None:
                self.signal_group(signum)
            try:
                self.process.wait(wait_s)
                break
            except subprocess.TimeoutExpired:
                continue
        self.signal_group(signal.SIGKILL)  # its own children, if it left any
        self.poll_messages()
        if not self._messages.closed:
            self._messages.close()
        return self.process.wait(5.0)

    def kill(self) -> int:
        """End the child and its group at once."""
        self.signal_group(signal.SIGKILL)
        return self.stop(grace_s=0.0)

    def signal_group(self, signum: int) -> None:
        """Send a signal to the child's process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signum)


def start_child(
    name: str,
    module: str,
    config: dict[str, Any],
    log: Path,
    *,
    pass_fds: Iterable[int] = (),
    extra_environment: dict[str, str] | None = None,
) -> Child:
    """Start `python -m module` with `config`, output to `log` (appended), messages to us.

    Call it from the main thread: the kernel's parent-death signal follows the starting thread.
    """
    read_fd, write_fd = os.pipe()
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(write_fd, *pass_fds),
                start_new_session=True,
                env=child_environment(extra_environment),
            )
    except BaseException:
        os.close(read_fd)
        raise
    finally:
        os.close(write_fd)
    child = Child(name, process, os.fdopen(read_fd, "rb", buffering=0))
    child.send(parent_pid=os.getpid(), message_fd=write_fd, config=config)
    return child


class Parent:
    """The child's side: messages to the parent, its commands, and whether it is still there."""

    def __init__(self, message_fd: int, parent_pid: int) -> None:
        self._message_fd = message_fd
        self._parent_pid = parent_pid
        self._pending = b""
        self.commands: list[dict[str, Any]] = []
        self.stopping = False

    def say(self, kind: str, **fields: Any) -> None:
        """Send one message; if the parent is gone, begin to stop."""
        try:
            line = json.dumps({"kind": kind, **fields}).encode() + b"\n"
            os.write(self._message_fd, line)
        except BrokenPipeError:
            self.stopping = True

    def poll(self, timeout_s: float = 0.0) -> bool:
        """Wait up to `timeout_s` for a command or the parent's end; True means: stop now.

        Used as the sleep of a child's loop, so that it wakes at once when it has to.
        """
        if not self.stopping and select.select([0], [], [], max(0.0, timeout_s))[0]:
            data = os.read(0, 65536)
            if not data:
                self.stopping = True
            *lines, self._pending = (self._pending + data).split(b"\n")
            self.commands += [json.loads(line) for line in lines if line.strip()]
        if os.getppid() != self._parent_pid:
            self.stopping = True
        return self.stopping


def child_main(
    main: Callable[[dict[str, Any], Parent], None], death_signal: int | None = None
) -> None:
    """Entry of every child module: arm against orphanhood, read the config, run, report, exit.

    A project error becomes the message `error` with its exit code; anything else a message
    `crash` with its last line (the traceback goes to the log). `death_signal` is what the kernel
    sends when the parent dies: SIGTERM for a child that has a file to close, SIGKILL otherwise
    (no default argument: Windows, which reads datasets too, has no SIGKILL).
    """
    die_with_parent(signal.SIGKILL if death_signal is None else death_signal)
    first = _read_line(0)
    if not first:
        sys.exit(0)
    start = json.loads(first)
    parent = Parent(start["message_fd"], start["parent_pid"])
    if os.getppid() != start["parent_pid"]:
        sys.exit(0)

    def on_signal(_signum: int, _frame: object) -> None:
        parent.stopping = True

    if death_signal == signal.SIGTERM:
        signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        main(start["config"], parent)
    except EdgejouleError as error:
        parent.say("error", message=error.message, mend=error.mend, exit_code=error.exit_code)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 (the parent must hear of any failure)
        traceback.print_exc()
        name = type(error).__name__
        parent.say("crash", message=f"{name}: {' '.join(str(error).split())[:500]}")
        sys.exit(1)


def _read_line(fd: int) -> bytes:
    """Read one line byte by byte, so that nothing behind it is swallowed into a buffer."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            return b""
        line += byte
    return bytes(line)
