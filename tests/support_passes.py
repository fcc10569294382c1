"""What passes run on in tests: real files and pages, and a parent that is a pipe."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from edgejoule.inference import passes
from edgejoule.phases import PhaseBoard
from edgejoule.processes import Parent
from edgejoule.records import INFERENCES, LAYERS, RecordWriter, read_header


class Bench:
    """A runner over real files, as the measuring process has it, and a parent that is a pipe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stdin, self.to_child = os.pipe()
        self.read_fd, self.write_fd = os.pipe()
        kept = os.dup(0)
        os.dup2(self.stdin, 0)
        self.kept = kept
        self.board = PhaseBoard(folder / "page.bin", folder / "phases.jsonl")
        self.inferences = RecordWriter(folder / "inferences.bin", INFERENCES, {})
        self.layers = RecordWriter(folder / "layers.bin", LAYERS, {})
        self.parent = Parent(self.write_fd, os.getppid())
        self.runner = passes.Runner(self.board, self.inferences, self.parent, sets=3)

    def table(self, name: str) -> np.ndarray:
        getattr(self, name).flush()
        header, offset = read_header(self.folder / f"{name}.bin")
        dtype = np.dtype([tuple(field) for field in header["fields"]])
        return np.fromfile(self.folder / f"{name}.bin", dtype, offset=offset)

    def close(self) -> None:
        os.dup2(self.kept, 0)
        for fd in (self.kept, self.stdin, self.read_fd, self.write_fd):
            os.close(fd)
        self.hang_up()
        self.board.close()
        self.inferences.close()
        self.layers.close()

    def hang_up(self) -> None:
        if self.to_child >= 0:
            os.close(self.to_child)
            self.to_child = -1
