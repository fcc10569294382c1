"""`tegrastats` as a sensor: the power that it prints for each rail, for boards without better.

    sampler --- starts ---> python -m edgejoule.power.tegrastats_sensor PID tegrastats ...
       ^                    asks the kernel to be ended with the sampler, then becomes tegrastats
       '--- pipe, one line per interval, read without waiting ---'

It is a second hand: power is already multiplied, rounded to mW, printed once per interval, and its
moment is known only as the time by which the line had come. The INA3221 files are the better source
wherever they can be read.

Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError
from edgejoule.power.sensor import Channel, Group
from edgejoule.power.tegrastats import Sample, TegrastatsError, parse_line
from edgejoule.processes import child_environment, die_with_parent

NAME = "tegrastats"
USUAL_FOLDER = "/usr/bin"
AVERAGING = "the newest figure that tegrastats printed, one per interval"
_DEFAULT_INTERVAL_MS = 1000.0  # without --interval
_STALE_INTERVALS = 10
_STALE_AT_LEAST_NS = 3_000_000_000
_LONGEST_LINE = 1 << 20
_READS_AT_ONCE = 16  # of 64 KiB: a program that floods the pipe must not hold the sampler
_GRACE_S = 2.0


class TegrastatsSensor:
    """The rails that tegrastats prints, as power in mW.

    Args:
        command: The program and its arguments; a name without a slash is looked for on PATH and in
            /usr/bin.
        first_line_s: How long to wait for the first line.
        clock_ns: Monotonic time, for tests.

    Raises:
        MeasurementError: There is no such program, it ends, prints no line in time, or a line
            without rails.
    """

    name = NAME
    simulated = False

    def __init__(
        self,
        command: Sequence[str] = (NAME, "--interval", "100"),
        *,
        first_line_s: float | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._interval_ms = interval_ms(command)
        self._clock_ns = clock_ns
        self._pending = b""
        self._ended = self._closed = False
        self._broken_lines = 0
        self._last_text = ""
        self._powers: dict[str, int] = {}
        self._came_ns = clock_ns()
        program = find_program(command[0])
        if program is None:
            raise MeasurementError(
                f"no {command[0]} on PATH or in {USUAL_FOLDER}",
                "it comes with JetPack; in a container use the INA3221 sensor",
            )
        self._command = (program, *command[1:])
        self._process = _start(self._command)
        assert self._process.stdout is not None  # noqa: S101 (narrowing for the type checker)
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)
        try:
            first = self._first_sample(first_line_s or 5.0 + 3e-3 * self._interval_ms)
            self._left_out: list[dict[str, Any]] = []
            self._channels = self._make_channels(first)
        except BaseException:
            self.close()
            raise

    def channels(self) -> tuple[Channel, ...]:
        """The rails of the first line, in its order."""
        return self._channels

    def groups(self) -> tuple[Group, ...]:
        """One group, renewed once per interval."""
        refresh_ns = round(self._interval_ms * 1e6)
        return (Group(NAME, tuple(range(len(self._channels))), refresh_ns),)

    def read(self, index: int) -> int:
        """Return the newest power of a rail in mW; takes what has come and never waits.

        Raises:
            OSError: ENODEV the program has ended, ETIMEDOUT nothing has come for ten intervals,
                ENODATA the newest line has no such rail.
        """
        self._take()
        if self._ended:
            raise OSError(errno.ENODEV, "tegrastats has ended")
        quiet_ns = self._clock_ns() - self._came_ns
        if quiet_ns > max(_STALE_AT_LEAST_NS, _STALE_INTERVALS * self._interval_ms * 1e6):
            raise OSError(
                errno.ETIMEDOUT, f"tegrastats printed nothing for {quiet_ns * 1e-9:.0f} s"
            )
        power_mw = self._powers.get(self._channels[index].rail)
        if power_mw is None:
            raise OSError(errno.ENODATA, "not in the newest line of tegrastats")
        return power_mw

    def configuration(self) -> dict[str, Any]:
        """Return the command, its interval, what was left out, and how many lines were broken."""
        return {
            "command": list(self._command),
            "interval_ms": self._interval_ms,
            "left_out": self._left_out,
            "broken_lines": self._broken_lines,
        }

    def close(self) -> None:
        """End the program and whatever it started; harmless if done twice."""
        if self._closed:
            return
        self._closed = self._ended = True
        process = self._process
        for signum in (signal.SIGTERM, signal.SIGKILL):
            # The group has the program's own children as well.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
        if process.stdout is not None:
            process.stdout.close()

    def _first_sample(self, wait_s: float) -> Sample:
        deadline = time.monotonic() + wait_s
        while (left := deadline - time.monotonic()) > 0:
            select.select([self._output], [], [], left)
            sample = self._take()
            if sample is not None:
                return sample
            if self._ended:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_GRACE_S)
                status = self._process.returncode
                said = f" ({self._last_text})" if self._last_text else ""
                raise MeasurementError(
                    f"{self._command[0]} ended with status {status}{said}",
                    f"try it by hand: {' '.join(self._command)}",
                )
        raise MeasurementError(
            f"{self._command[0]} printed no line within {wait_s:g} s",
            f"try it by hand: {' '.join(self._command)}",
        )

    def _make_channels(self, first: Sample) -> tuple[Channel, ...]:
        rails = []
        for rail in first.rails:
            if rail.name.partition("#")[0] == "NC":
                why = {"chip": NAME, "rail": rail.name, "source": rail.name, "why": "not connected"}
                self._left_out.append(why)
            else:
                rails.append(rail.name)
        if not rails:
            raise MeasurementError(
                "tegrastats prints no rails here",
                "on some boards it shows them to root only: run with sudo",
            )
        return tuple(
            Channel(i, rail, "power", "mW", NAME, rail, sensor=NAME, averaging=AVERAGING)
            for i, rail in enumerate(rails)
        )

    def _take(self) -> Sample | None:
        """Take what has come; return the newest whole line's sample, None if there was none."""
        if self._ended:
            return None
        for _ in range(_READS_AT_ONCE):
            try:
                data = os.read(self._output, 65536)
            except BlockingIOError:
                break
            if not data:
                self._ended = True
                break
            self._pending += data
        *lines, self._pending = self._pending.split(b"\n")
        if len(self._pending) > _LONGEST_LINE:
            self._pending = b""
            self._broken_lines += 1
        for line in reversed(lines):
            text = line.decode("utf-8", "replace")
            if not text.strip():
                continue
            try:
                sample = parse_line(text)
            except TegrastatsError:
                self._broken_lines += 1
                self._last_text = text.strip()[:200]
                continue
            self._powers = {rail.name: rail.power_mw for rail in sample.rails}
            self._came_ns = self._clock_ns()
            return sample
        return None


def find_program(name: str = NAME) -> str | None:
    """Return where a program is, on PATH or in /usr/bin; None if nowhere."""
    return shutil.which(name) or shutil.which(str(Path(USUAL_FOLDER, name)))


def looked_for() -> list[str]:
    """Return what was looked for, and whether it is there, for people."""
    found = find_program()
    return [f"{NAME}: {found or f'not on PATH and not in {USUAL_FOLDER}'}"]


def interval_ms(command: Sequence[str]) -> float:
    """Return the `--interval` of a command in ms; 1000 is what tegrastats does without one.

    Raises:
        MeasurementError: It is no time.
    """
    text: str | None = None
    for word, following in zip(command, (*command[1:], ""), strict=True):
        if word == "--interval":
            text = following
        elif word.startswith("--interval="):
            text = word.partition("=")[2]
    if text is None:
        return _DEFAULT_INTERVAL_MS
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:12]) <= 3_600_000:
        raise MeasurementError(
            f"--interval {text!r} of tegrastats", "give whole milliseconds, up to an hour"
        )
    return float(text)


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the program in a group of its own, so that it ends with this process.

    Call it from the main thread: the kernel's parent-death signal follows the starting thread.
    """
    starter = [sys.executable, "-m", __spec__.name, str(os.getpid())]
    return subprocess.Popen(
        [*starter, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=child_environment(),
    )


def become(words: Sequence[str]) -> None:
    """Become the program, tied to the life of the parent: what the started process does.

    Args:
        words: The parent's process id, then the program's path and its arguments.
    """
    parent, *command = words
    die_with_parent(signal.SIGKILL)
    if os.getppid() != int(parent):
        return  # it died before the kernel was asked
    try:
        os.execv(command[0], command)  # noqa: S606 (no shell is the point)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    become(sys.argv[1:])
