"""A process that draws runs' figures: `python -m edgejoule.report.paper.worker`.

    stdin   a pickle after the other: `workers.Job`
    stdout  a pickle for each: whether anything was drawn, or the error

It ends when stdin does, hence also when its parent is gone, and at SIGTERM, which leaves no file
half written.
"""

from __future__ import annotations

import pickle
import signal
import sys
import traceback
from typing import Any, BinaryIO

from edgejoule.processes import die_with_parent
from edgejoule.report.paper.workers import Job
from edgejoule.report.paper.write import write_figures


def main() -> None:
    """Draw until there is no more to draw."""
    signal.signal(signal.SIGTERM, _leave)
    die_with_parent(signal.SIGTERM)
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints is no answer
    serve(jobs, answers)


def serve(jobs: BinaryIO, answers: BinaryIO) -> None:
    """Answer each job of one stream on another until the first ends."""
    while True:
        try:
            job: Job = pickle.load(jobs)  # noqa: S301 - from the parent's pipe
        except (EOFError, pickle.UnpicklingError):  # the parent is gone, perhaps within a job
            return
        answer: bool | Exception
        try:
            answer = bool(write_figures(job.folder, job.run, job.overviews, name=job.name or None))
        except OSError as error:
            answer = OSError(error.errno, error.strerror or str(error))
        except Exception:  # noqa: BLE001 - the parent must hear of any failure
            answer = RuntimeError(traceback.format_exc())
        pickle.dump(answer, answers)
        answers.flush()


def _leave(_signum: int, _frame: Any) -> None:
    raise SystemExit(1)


if __name__ == "__main__":
    main()
