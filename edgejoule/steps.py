"""One command of a campaign as a child: same terminal, no secret, and the reason if it fails.

    stop signal -> campaign -- SIGTERM --> command -> its own children
                      ^                      |
                      '------ stderr --------'   passed on as it comes, the end of it kept

The child gets a process group of its own, so that Ctrl-C on the terminal, `docker stop` (which
signals a whole group) and a plain `kill` all reach it exactly once: through us. It is told by the
kernel if we are killed. Its stderr is a pseudo-terminal where ours is a terminal, so that it still
shows its live view; it is told the terminal's size, also when that changes.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgejoule.power.ina3221 import inherited_descriptors
from edgejoule.processes import die_with_parent
from edgejoule.supervision import StopFlag

GRACE_S = 8.0  # of the ten seconds that `docker stop` gives
_TAIL_B = 8192
_SHOW_CURSOR = b"\x1b[?25h"
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class StepResult:
    """How a command ended.

    Attributes:
        code: Exit status, negative for a signal.
        reason: The last error line it printed, or what its end means; empty if it succeeded.
        seconds: How long it ran.
    """

    code: int
    reason: str
    seconds: float


def run_step(
    command: Sequence[str],
    environment: Mapping[str, str],
    stop: StopFlag,
    *,
    stderr_fd: int = 2,
    grace_s: float = GRACE_S,
    descriptors: Sequence[int] = (),
) -> StepResult:
    """Run a command to its end.

    Args:
        command: The program and its arguments.
        environment: Its whole environment.
        stop: Once raised, the command gets SIGTERM, then `grace_s`, then SIGKILL.
        stderr_fd: Where its stderr is passed on to.
        grace_s: Time to end after SIGTERM.
        descriptors: What it inherits besides the sensors' files.
    """
    start = time.monotonic()
    reading, writing = _stderr_like(stderr_fd)
    try:
        process = _start(command, environment, writing, descriptors)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    tail = b""
    size = _size_of(stderr_fd)
    deadline: float | None = None
    try:
        while True:
            # Asked before reading: what an ended command wrote is already in the pipe.
            ended = process.poll() is not None
            size = _follow_size(stderr_fd, reading, size)
            data = _read(reading, 0.0 if ended else 0.2)
            if data:
                _pass_on(stderr_fd, data)
                tail = (tail + data)[-_TAIL_B:]
            elif ended:
                break
            elif data is not None:  # it closed its stderr and goes on
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
            if stop.signum and deadline is None:
                deadline = time.monotonic() + grace_s
                process.terminate()
            if deadline is not None and time.monotonic() > deadline:
                _kill_group(process.pid)
    finally:
        if process.poll() is None:
            _kill_group(process.pid)
        code = process.wait()
        os.close(reading)
        if code < 0 and size is not None:  # it could not put the cursor back
            _pass_on(stderr_fd, _SHOW_CURSOR)
    return StepResult(code, reason_of(code, tail), time.monotonic() - start)


def reason_of(code: int, tail: bytes) -> str:
    """Return why a command failed: its error line, else its last line, else what its end means."""
    if code == 0:
        return ""
    lines = [line.strip() for line in _ESCAPE.sub("", tail.decode("utf-8", "replace")).splitlines()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        memory = ", probably by the kernel for memory" if name == "SIGKILL" else ""
        return f"killed by {name}{memory}"
    said = [line for line in lines if line]
    return said[-1] if said else f"exit status {code}"


def _start(
    command: Sequence[str], environment: Mapping[str, str], stderr: int, descriptors: Sequence[int]
) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def prepare() -> None:
        os.setpgid(0, 0)
        die_with_parent(signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return subprocess.Popen(
        list(command),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stderr=stderr,
        # Rail files that the container's entrypoint opened as root: on to the command's sampler.
        pass_fds=(*inherited_descriptors().values(), *descriptors),
        preexec_fn=prepare,  # noqa: PLW1509 (this process has no thread)
    )


def _stderr_like(fd: int) -> tuple[int, int]:
    """Return a reading and a writing end: a pseudo-terminal if `fd` is a terminal, else a pipe."""
    if not os.isatty(fd):
        return os.pipe()
    import pty
    import tty

    reading, writing = pty.openpty()
    tty.setraw(writing)  # our own terminal turns newlines into what it needs
    _follow_size(fd, writing, None)
    return reading, writing


def _size_of(fd: int) -> bytes | None:
    """Return the size of a terminal as the kernel packs it, None if it is none."""
    if not os.isatty(fd):
        return None
    import fcntl
    import termios

    try:
        return fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8)
    except OSError:
        return None


def _follow_size(fd: int, inner: int, known: bytes | None) -> bytes | None:
    """Give the size of a terminal to a pseudo-terminal if it is not `known`; return it."""
    size = _size_of(fd)
    if size is not None and size != known:
        import fcntl
        import termios

        with contextlib.suppress(OSError):
            fcntl.ioctl(inner, termios.TIOCSWINSZ, size)
    return size


def _read(fd: int, timeout_s: float) -> bytes | None:
    """Return what there is to read, `b""` at the end, None if nothing came in time."""
    if not select.select([fd], [], [], timeout_s)[0]:
        return None
    try:
        return os.read(fd, 65536)
    except OSError:  # how a pseudo-terminal says that its other end is closed
        return b""


def _pass_on(fd: int, data: bytes) -> None:
    # A terminal that is gone must not end the measurement.
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
