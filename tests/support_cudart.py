"""A stand-in for the CUDA runtime: `fake_cudart.c`, compiled here, with answers in a file."""

from __future__ import annotations

import atexit
import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgejoule.inference.trt import cuda as cuda_module
from edgejoule.inference.trt.cuda import Cuda, load_cuda

MIB = 2**20
ORIN = {
    "count": "1",
    "driver": "12060",
    "runtime": "12060",
    "0.name": "Orin",
    "0.uuid": "1111111122223333444455555555abcd",
    "0.capability": "8 7",
    "0.total": str(64 * MIB),
    "0.used": "0",
    "0.integrated": "1",
    "clock": "virtual",
}
_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def compiled(old: bool = False) -> str:
    """Return the library; `old` has graphs as CUDA 11.3 and older.

    Made once per test process, under a name that is not taken for a loaded runtime.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the stand-in of the CUDA runtime")
    folder = Path(tempfile.mkdtemp(prefix="edgejoule-cuda-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / "fake-cuda.so"
    source = Path(__file__).with_name("fake_cudart.c")
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    more = ["-DOLD"] if old else []
    command = [compiler, *flags, *more, "-o", str(library), str(source)]
    subprocess.run(command, check=True, timeout=120)
    # What a child process finds by name.
    (folder / "libcudart.so.12").symlink_to(library)
    return str(library)


class FakeCuda:
    """The stand-in, made known to `load_cuda` for the time of a test.

    Args:
        folder: Where the file of answers lies.
        monkeypatch: Names that file in the environment, and the library to `load_cuda`.
        answers: See `fake_cudart.c`; added to those of a Jetson Orin with 64 MiB.
        old: Whether graphs are as in CUDA 11.3 and older.
    """

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        answers: dict[str, str] | None = None,
        *,
        old: bool = False,
    ) -> None:
        self.library = compiled(old)
        self._file = folder / "cuda-answers"
        self._answers = {**ORIN, **(answers or {})}
        self._raw: Any = ctypes.CDLL(self.library)
        self._raw.fake_counter.argtypes = (ctypes.c_char_p,)
        self._raw.fake_counter.restype = ctypes.c_longlong
        self._raw.fake_enqueue.argtypes = (ctypes.c_void_p, _WORK, ctypes.c_void_p)
        self._raw.fake_advance.argtypes = (ctypes.c_void_p, ctypes.c_double)
        self._raw.fake_capturing.argtypes = (ctypes.c_void_p,)
        self._raw.fake_is_device.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        self._raw.cudaPeekAtLastError.argtypes = ()
        self._work: list[Any] = []  # ctypes frees a callback that nobody holds
        monkeypatch.setenv("FAKE_CUDART", str(self._file))
        monkeypatch.setattr(cuda_module, "candidates", lambda: [self.library])
        self.say()
        self._raw.fake_reset()

    @property
    def environment(self) -> dict[str, str]:
        """What a child's environment must have for `load_cuda` to find the stand-in there."""
        return {
            "FAKE_CUDART": str(self._file),
            "LD_LIBRARY_PATH": str(Path(self.library).parent),
        }

    def load(self) -> Cuda:
        """Load it as the code under test does."""
        return load_cuda()

    def say(self, answers: dict[str, str] | None = None, *missing: str) -> None:
        """Change answers, and take some away."""
        self._answers.update(answers or {})
        for key in missing:
            self._answers.pop(key, None)
        fresh = self._file.with_suffix(".new")
        fresh.write_text("".join(f"{key} {value}\n" for key, value in self._answers.items()))
        fresh.replace(self._file)

    def count(self, name: str) -> int:
        """A counter.

        Alive: `memory` (allocations), `live_bytes`, `streams`, `events`, `recorded`, `graphs`; with
        `made_` before it, all that were made. Also `peak_bytes`, `launches`, `refused`.
        """
        value = int(self._raw.fake_counter(name.encode()))
        assert value >= 0, name
        return value

    def alive(self) -> dict[str, int]:
        """What was not given back; empty where nothing leaks."""
        kinds = ("memory", "streams", "events", "recorded", "graphs")
        return {kind: self.count(kind) for kind in kinds if self.count(kind)}

    def enqueue(self, stream: int, work: Callable[[], object]) -> int:
        """Put work on a stream, or into the graph that is recorded from it; returns the error."""
        held = _WORK(lambda _argument: work() and None)
        self._work.append(held)
        return int(self._raw.fake_enqueue(stream, held, None))

    def advance(self, stream: int, ms: float) -> None:
        """Let a stream's own time pass (`clock virtual`); from within its work."""
        assert self._raw.fake_advance(stream, ms) == 0

    def capturing(self, stream: int) -> bool:
        """Whether a stream is being captured."""
        return bool(self._raw.fake_capturing(stream))

    def is_device(self, address: int, nbytes: int) -> bool:
        """Whether all these bytes are live device memory."""
        return bool(self._raw.fake_is_device(address, nbytes))

    def last_error(self) -> int:
        """The error that the next to ask in this thread would get."""
        return int(self._raw.cudaPeekAtLastError())
