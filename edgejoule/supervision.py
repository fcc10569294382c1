"""The parent's side of a run: watch the children, notice who died and why, stop them all.

The parent never spins: it waits in `select` on the children's message pipes, at most 0.25 s at a
time, and between two waits samples resources and refreshes the progress line.

Standard library only.
"""

from __future__ import annotations

import contextlib
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from edgejoule.errors import EdgejouleError, Interrupted, MeasurementError
from edgejoule.processes import Child

_TICK_S = 0.25


class StopFlag:
    """Set by Ctrl-C, SIGTERM or SIGHUP; the loops look at it. A second signal breaks in at once."""

    def __init__(self) -> None:
        self.signum = 0

    def __call__(self, signum: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.signum:
            raise Interrupted(f"interrupted twice by {signal.Signals(signum).name}")
        self.signum = signum

    def check(self) -> None:
        """Raise `Interrupted` if a signal came."""
        if self.signum:
            raise Interrupted(f"interrupted by {signal.Signals(self.signum).name}")


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into a flag for as long as the context lasts."""
    flag = StopFlag()
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    old = {name: signal.signal(getattr(signal, name), flag) for name in names}
    try:
        yield flag
    finally:
        for name, handler in old.items():
            signal.signal(getattr(signal, name), handler)


def kernel_memory_kills(proc_root: str = "/proc", cgroup_root: str = "/sys/fs/cgroup") -> int:
    """Count processes that the kernel killed for memory so far, in this cgroup and on the machine.

    Sources: `oom_kill` of /proc/vmstat (Linux 4.13), of memory.events (cgroup v2) and of
    memory.oom_control (v1). Unreadable ones count nothing; only differences mean anything.
    """
    total = 0
    for path in (
        Path(proc_root, "vmstat"),
        Path(cgroup_root, "memory.events"),
        Path(cgroup_root, "memory", "memory.oom_control"),
    ):
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return total


class KilledForMemoryError(MeasurementError):
    """The kernel killed a child because memory ran out."""


@dataclass
class Supervisor:
    """Children of one run, in the order they were started; stopped in reverse, whatever happens.

    Attributes:
        stop: Raises when the user wants to end.
        on_tick: Called about four times a second with the current time in ns.
        smaller: What to try when the kernel killed a child for memory, one clause.
    """

    stop: StopFlag
    on_tick: Callable[[int], None]
    smaller: str = "try a smaller batch or network"
    children: list[Child] = field(default_factory=list)
    _memory_kills: int = field(default_factory=kernel_memory_kills)

    def add(self, child: Child) -> Child:
        """Watch one more child."""
        self.children.append(child)
        return child

    def wait(self, seconds: float) -> None:
        """Let time pass while every child must live on."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._pass_time(min(_TICK_S, left))
            for child in self.children:
                self._must_live(child)

    def run_to_end(
        self, child: Child, on_message: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Wait for `child` to say `done` and exit; return that message. The others must live on.

        Raises:
            EdgejouleError: As the child reported it; or it was killed, or another child died.
        """
        done: dict[str, Any] | None = None
        while True:
            self._pass_time(_TICK_S)
            ended = child.process.poll() is not None
            for message in child.poll_messages():
                if message["kind"] == "done":
                    done = message
                elif on_message is not None:
                    on_message(message)
            if ended:
                self._raise_reported(child)
                if done is None or child.process.returncode != 0:
                    raise self._death(child)
                self.children.remove(child)
                child.stop(grace_s=0.0)
                return done
            for other in self.children:
                if other is not child:
                    self._must_live(other)

    def finish(self, sampler: Child, later_ns: int) -> None:
        """Let a sampler go on until it has read everything once more, and wait for its end.

        Args:
            sampler: A child that takes the command `stop` with `after_ns`.
            later_ns: How much later than now its last readings must be.

        Raises:
            EdgejouleError: As it reported it, or it died.
        """
        sampler.send(kind="stop", after_ns=time.monotonic_ns() + later_ns)
        self.run_to_end(sampler)

    def end(self, child: Child, grace_s: float = 5.0) -> None:
        """Ask one child to end and check that it ended well."""
        status = child.stop(grace_s)
        if child in self.children:
            self.children.remove(child)
        self._raise_reported(child)
        if status != 0:
            raise self._death(child)

    def forget(self, child: Child) -> None:
        """Give up a child that is dead already."""
        if child in self.children:
            self.children.remove(child)
        child.stop(grace_s=0.0)

    def stop_all(self) -> None:
        """Stop every child, last started first; never raises for a child's sake."""
        while self.children:
            with contextlib.suppress(OSError, EdgejouleError):
                self.children.pop().stop(grace_s=2.0)

    def _pass_time(self, seconds: float) -> None:
        open_children = [child for child in self.children if not child.closed]
        if open_children:
            select.select(open_children, [], [], seconds)
        else:
            time.sleep(seconds)
        self.stop.check()
        self.on_tick(time.monotonic_ns())

    def _must_live(self, child: Child) -> None:
        child.poll_messages()
        self._raise_reported(child)
        if child.process.poll() is not None:
            raise self._death(child)

    def _raise_reported(self, child: Child) -> None:
        for message in child.received:
            if message["kind"] == "error":
                raise EdgejouleError(message["message"], message["mend"], message["exit_code"])
            if message["kind"] == "crash":
                raise MeasurementError(
                    f"the {child.name} failed: {message['message']}", "the traceback is in run.log"
                )

    def _death(self, child: Child) -> MeasurementError:
        status = child.process.wait()
        if status == -signal.SIGKILL and kernel_memory_kills() > self._memory_kills:
            self._memory_kills = kernel_memory_kills()
            return KilledForMemoryError(
                f"the {child.name} was killed by the kernel for lack of memory", self.smaller
            )
        if status < 0:
            name = signal.Signals(-status).name
            return MeasurementError(f"the {child.name} was ended by {name}", "see run.log")
        return MeasurementError(
            f"the {child.name} ended early with status {status}", "see the end of run.log"
        )
