"""Figures for papers, drawn by several processes at the same time.

    parent: a thread per worker -- job --> worker 0, 1, ...: python -m edgejoule.report.paper.worker
                                <- done --

Each worker is a session of its own, so that Ctrl-C reaches the parent alone, which then ends them;
none outlives the parent, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from edgejoule.errors import MeasurementError
from edgejoule.processes import child_environment
from edgejoule.report.overview import Overview
from edgejoule.report.tables import RunTables

MOST_WORKERS = 4  # each takes 150 MB
_WORKER = "edgejoule.report.paper.worker"
_GRACE_S = 5.0


@dataclass(frozen=True)
class Job:
    """What one worker draws in one go.

    Attributes:
        folder: Where the runs' folders go.
        run: The run; None: what compares runs.
        name: The folder of the run.
        overviews: All runs, for what compares them.
    """

    folder: Path
    run: RunTables | None
    name: str
    overviews: tuple[Overview, ...] = ()


def worker_count(jobs: int) -> int:
    """Return how many workers do so many jobs: one per CPU that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    cpus = len(allowed(0)) if allowed else os.cpu_count() or 1
    return max(1, min(jobs, cpus, MOST_WORKERS))


def draw_in_workers(jobs: Sequence[Job], workers: int, progress: Callable[[int], None]) -> bool:
    """Draw all figures and return whether there was any.

    Args:
        jobs: What is drawn.
        workers: How many processes.
        progress: Told how many jobs are done.

    Raises:
        OSError: Figures cannot be written.
        MeasurementError: A worker was ended by something else.
    """
    drawn = False
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for _ in range(workers):
            idle.put(stack.enter_context(_worker()))

        def draw(job: Job) -> bool:
            worker = idle.get()
            try:
                return _asked(worker, job)
            finally:
                idle.put(worker)

        waiting = [pool.submit(draw, job) for job in jobs]
        try:
            for count, done in enumerate(as_completed(waiting), 1):
                drawn |= done.result()
                progress(count)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return drawn


@contextlib.contextmanager
def _worker() -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker and end it: at once if it is still at work."""
    process = subprocess.Popen(
        [sys.executable, "-m", _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=child_environment(),
    )
    try:
        yield process
    except BaseException:
        process.terminate()
        raise
    finally:
        _ended(process)


def _ended(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _asked(worker: subprocess.Popen[bytes], job: Job) -> bool:
    """Return what a worker says to a job; raise the error that it had."""
    assert worker.stdin is not None  # noqa: S101 (narrowing for the type checker)
    assert worker.stdout is not None  # noqa: S101
    try:
        pickle.dump(job, worker.stdin)
        worker.stdin.flush()
        answer = pickle.load(worker.stdout)  # noqa: S301 - this project's own process
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
        raise MeasurementError(
            "a process that draws figures was ended", "free memory, or give --no-figures"
        ) from error
    if isinstance(answer, Exception):
        raise answer
    return bool(answer)
