"""Which phase a run is in: a log that survives a kill, and a page of shared memory.

Exactly one phase holds at a time, over the whole run and all processes:

    idle_before | load | idle_loaded_before | warmup | clean | rate | observed, unsampled, ... |
    profiled, harvest, ... | replay | idle_loaded_after | unload | cooldown | idle_after

`PhaseBoard.mark` appends a line to `phases.jsonl` (one `write` in append mode, so that two
processes may share the file) and publishes the phase in the page; the parent marks the phases
before the measuring process starts and after it ends, the measuring process those between. The
page also holds the inference now running. Readers (the progress bar, the simulated board) never
disturb the writer: it is a sequence lock, 2 us a write in CPython.

Standard library only.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PHASES = (
    "setup",
    "idle_before",
    "load",
    "idle_loaded_before",
    "warmup",
    "clean",
    "rate",
    "observed",
    "unsampled",
    "profiled",
    "harvest",
    "replay",
    "idle_loaded_after",
    "unload",
    "cooldown",
    "idle_after",
    "end",
)

# The idle phases, with the kind of baseline each gives and when it is taken.
BASELINE_PHASES: dict[str, tuple[Literal["sampler", "loaded"], Literal["before", "after"]]] = {
    "idle_before": ("sampler", "before"),
    "idle_loaded_before": ("loaded", "before"),
    "idle_loaded_after": ("loaded", "after"),
    "idle_after": ("sampler", "after"),
}

_MAGIC = b"EJPAGE01"
_PAGE_BYTES = 64
_SEQUENCE = struct.Struct("<Q")
# phase, inference index (-1: none runs), start of the phase, start of the running inference
_BODY = struct.Struct("<qqqq")
_SEQUENCE_AT = 8
_BODY_AT = 16


@dataclass(frozen=True)
class PageState:
    """What the page says: phase, its start, and the running inference (-1 and 0: none)."""

    phase: str
    phase_start_ns: int
    inference: int
    inference_start_ns: int


@dataclass(frozen=True)
class PhaseSpan:
    """One stretch of one phase; `end_ns` is None where the log was cut off."""

    phase: str
    start_ns: int
    end_ns: int | None


class PhaseBoard:
    """Writer of the phase log and the shared page. `page_path` is created if it is not there."""

    def __init__(self, page_path: Path, log_path: Path) -> None:
        fd = os.open(page_path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fresh = os.fstat(fd).st_size < _PAGE_BYTES
            if fresh:
                os.ftruncate(fd, _PAGE_BYTES)
            self._page = mmap.mmap(fd, _PAGE_BYTES)
        finally:
            os.close(fd)
        if fresh:
            self._page[: len(_MAGIC)] = _MAGIC
        self._log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        (self._sequence,) = _SEQUENCE.unpack_from(self._page, _SEQUENCE_AT)
        self._sequence += self._sequence & 1  # a writer died in mid-write
        self._phase, _, self._phase_start_ns, _ = _BODY.unpack_from(self._page, _BODY_AT)

    def mark(self, phase: str, at_ns: int | None = None) -> int:
        """Begin `phase` (which ends the one before) and return its start in nanoseconds."""
        start_ns = time.monotonic_ns() if at_ns is None else at_ns
        self._phase = PHASES.index(phase)
        self._phase_start_ns = start_ns
        self._publish(-1, 0)
        line = json.dumps({"phase": phase, "start_ns": start_ns}) + "\n"
        os.write(self._log_fd, line.encode())
        return start_ns

    def begin_inference(self, index: int, start_ns: int) -> None:
        """Publish that inference `index` of this pass started at `start_ns`."""
        self._publish(index, start_ns)

    def end_inference(self) -> None:
        """Publish that no inference runs."""
        self._publish(-1, 0)

    def close(self) -> None:
        """Close page and log."""
        if self._log_fd >= 0:
            os.close(self._log_fd)
            self._log_fd = -1
            self._page.close()

    def _publish(self, inference: int, inference_start_ns: int) -> None:
        self._sequence += 1
        _SEQUENCE.pack_into(self._page, _SEQUENCE_AT, self._sequence)
        _BODY.pack_into(
            self._page, _BODY_AT, self._phase, inference, self._phase_start_ns, inference_start_ns
        )
        self._sequence += 1
        _SEQUENCE.pack_into(self._page, _SEQUENCE_AT, self._sequence)


class PageReader:
    """Reader of the shared page."""

    def __init__(self, page_path: Path) -> None:
        fd = os.open(page_path, os.O_RDONLY)
        try:
            self._page = mmap.mmap(fd, _PAGE_BYTES, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)

    def read(self) -> PageState | None:
        """Return a consistent state, or None if the writer was in mid-write three times over."""
        for _ in range(3):
            (before,) = _SEQUENCE.unpack_from(self._page, _SEQUENCE_AT)
            phase, inference, phase_start_ns, inference_start_ns = _BODY.unpack_from(
                self._page, _BODY_AT
            )
            (after,) = _SEQUENCE.unpack_from(self._page, _SEQUENCE_AT)
            if before == after and not before & 1 and 0 <= phase < len(PHASES):
                return PageState(PHASES[phase], phase_start_ns, inference, inference_start_ns)
        return None

    def close(self) -> None:
        """Unmap the page."""
        self._page.close()


def read_phases(log_path: Path) -> list[PhaseSpan]:
    """Return the phases of a log in order; a half-written last line is left out.

    The phase `end` is the mark that closes the last one; it is not returned itself.
    """
    marks: list[tuple[str, int]] = []
    for line in log_path.read_text(encoding="utf-8").splitlines():
        try:
            mark = json.loads(line)
            marks.append((str(mark["phase"]), int(mark["start_ns"])))
        except (ValueError, KeyError, TypeError):
            continue
    ends: list[int | None] = [start for _, start in marks[1:]]
    ends.append(None)
    return [
        PhaseSpan(phase, start, end)
        for (phase, start), end in zip(marks, ends, strict=True)
        if phase != "end"
    ]
