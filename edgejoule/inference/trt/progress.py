"""What a build says while it goes on, and how Ctrl-C ends it.

TensorRT calls the monitor from the thread that builds (and says that it may call from others), so
it only counts and prints a line now and then: a monitor that draws makes builds slower and, since
tactics are timed meanwhile, engines too (issue 3215 of pytorch/TensorRT).

An exception that leaves a callback is printed by the bindings and counts as "cancel" in
`step_complete` only; elsewhere it is lost (seen with `tensorrt_rtx` 1.5). Ctrl-C therefore raises
nothing while a build is on: its handler leaves a note that the next step answers.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_QUIET_S = 5.0  # between two lines of a phase


def make_monitor(
    trt: Any,
    say: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Any:
    """Return a `trt.IProgressMonitor`, or None where TensorRT has none (before 9).

    Args:
        trt: The module.
        say: Takes each line; None prints to stderr, which is the run's log.
        clock: Seconds.

    Returns:
        A monitor with `cancel()` and `cancelled`, which ends the build at its next step.
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class _Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # known at run time only
        def __init__(self) -> None:
            # Not `super()`: pybind11 wants the base's own initialiser called by its name.
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self._lock = threading.Lock()
            self._steps: dict[str, int] = {}
            self._said_s = clock()

        def cancel(self) -> None:
            """End the build at its next step."""
            self.cancelled = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Note a phase; called by TensorRT."""
            with self._lock:
                self._steps[phase_name] = num_steps
            if parent_phase is None:
                self._say(f"{phase_name}: {num_steps} steps")

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Say where the build is, at most every few seconds; False ends it."""
            now = clock()
            if now - self._said_s >= _QUIET_S:
                self._say(f"{phase_name}: step {step + 1} of {self._steps.get(phase_name, 0)}")
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            """Forget a phase; called by TensorRT."""
            with self._lock:
                self._steps.pop(phase_name, None)

        def _say(self, line: str) -> None:
            self._said_s = clock()
            if say is not None:
                say(line)
            else:
                print(f"tensorrt: {line}", file=sys.stderr, flush=True)

    return _Monitor()


@contextlib.contextmanager
def ends_on_interrupt(monitor: Any) -> Iterator[None]:
    """Let Ctrl-C end the build of this monitor; KeyboardInterrupt follows when it has ended.

    Only where Python itself handles it, and in the main thread: elsewhere nothing is changed.
    """
    usual = signal.getsignal(signal.SIGINT)
    if (
        monitor is None
        or usual is not signal.default_int_handler
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def on_interrupt(_signum: int, _frame: object) -> None:
        monitor.cancel()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if monitor.cancelled:
        raise KeyboardInterrupt
