"""A stand-in for NVIDIA's libraries: `fake_nvml.c`, compiled here, with answers in a file."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

H200 = "GPU-11111111-2222-3333-4444-555555555555"
OTHER = "GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
SLICE = "MIG-99999999-2222-3333-4444-555555555555"
MIB = 2**20
ONE_GPU = {
    "count": "1",
    "driver": "580.159.03",
    "0.name": "NVIDIA H200",
    "0.uuid": H200,
    "0.pci": "00000000:1B:00.0",
    "0.capability": "9.0",
    "0.power": "121000",
    "0.field185": "1 122000",
    "0.field186": "1 123000",
    "0.energy": "987654321012",
    "0.limit": "700000",
    "0.enforced": "650000",
    "0.default": "700000",
    "0.range": "200000 700000",
    "0.clock0": "1980",
    "0.clock1": "1970",
    "0.clock2": "3201",
    "0.max0": "1981",
    "0.max1": "1971",
    "0.max2": "3202",
    "0.temperature": "31",
    "0.reasons": "0x1",
    "0.utilisation": "0 0",
    "0.memory": f"{1000 * MIB} {50 * MIB} {946 * MIB} {54 * MIB}",
    "0.compute": "0 0 0",
    "0.graphics": "0 0 0",
    "0.persistence": "1",
    "0.mig": "0",
}


@functools.cache
def compiled(old: bool = False) -> str:
    """Return the library; `old` is one that lacks newer functions.

    Made once per test process, in a folder of the system's temporary one.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the stand-in of NVIDIA's library")
    folder = Path(tempfile.mkdtemp(prefix="edgejoule-nvml-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / ("old.so" if old else "new.so")
    source = Path(__file__).with_name("fake_nvml.c")
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", *(["-DOLD"] if old else [])]
    subprocess.run([compiler, *flags, "-o", str(library), str(source)], check=True, timeout=120)
    return str(library)


class FakeNvidia:
    """The library's path, and what it answers.

    Args:
        folder: Where the file of answers lies.
        monkeypatch: Names that file in the environment, from which C reads it.
        answers: See `fake_nvml.c`.
        old: Whether it lacks newer functions.
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
        self._file = folder / "answers"
        self._answers = dict(ONE_GPU if answers is None else answers)
        monkeypatch.setenv("FAKE_NVML", str(self._file))
        self.say()

    def say(self, answers: dict[str, str] | None = None, *missing: str) -> None:
        """Change answers, and take some away."""
        self._answers.update(answers or {})
        for key in missing:
            self._answers.pop(key, None)
        fresh = self._file.with_suffix(".new")
        fresh.write_text("".join(f"{key} {value}\n" for key, value in self._answers.items()))
        fresh.replace(self._file)


def two_gpus() -> dict[str, str]:
    """Answers with a second GPU, behind the first in PCI order."""
    second = {
        key.replace("0.", "1.", 1): value for key, value in ONE_GPU.items() if key.startswith("0.")
    }
    named = {"count": "2", "1.uuid": OTHER, "1.pci": "00000000:5E:00.0"}
    return {**ONE_GPU, **second, **named}
