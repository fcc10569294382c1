"""The names in TensorRT's own Python bindings, asked of the bindings themselves.

A wheel of bindings is a pybind11 module without the library behind it. `standin.c` compiles to
libraries with the dozen C functions that the module asks for by name, so that it can be imported:
classes, methods, properties, enum members and the signatures in docstrings are then NVIDIA's own,
and a subclass of `IProfiler` or `ILogger` is called through the real trampoline.

What this proves: that a name exists in that version (or does not), whether a property can be set,
what a method takes. What it does not: what any of it does, since no engine can be made; and nothing
of bindings that a board's own packages bring, should those differ from the published wheels.

Where there is no wheel for the interpreter at hand, the names are searched for as strings in the
module's file instead: enough to miss a name that is gone altogether, not enough to tell a method of
one class from that of another, or the end of a longer name from a name, nor that a name is absent.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgejoule.inference.trt.library import ReliedOn
from tests.contracts.folder import HERE, ROOT, numbers


@dataclass(frozen=True)
class Bindings:
    """One version's names.

    Attributes:
        version: As the list names it.
        names: Dotted name -> (kind, signatures); empty where they could not be imported.
        content: The module's file, to search where `names` is empty.
    """

    version: str
    names: Mapping[str, tuple[str, str]]
    content: bytes = b""

    @property
    def imported(self) -> bool:
        """Whether the names are from an import, not from strings."""
        return bool(self.names)

    def has(self, name: str) -> bool:
        """Whether the name is there."""
        if self.imported:
            return name in self.names
        return all(f"{part}\0".encode() in self.content for part in name.split("."))


def run_in_bindings(
    contracts: Path, package: Path, *arguments: str, project: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run the bindings' interpreter with a folder of bindings on its path."""
    path = [str(package), str(ROOT)] if project else [str(package)]
    return subprocess.run(
        [str(contracts / "python" / "bin" / "python"), *arguments],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            "LD_LIBRARY_PATH": str(contracts / "standin"),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        cwd=contracts,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def look(contracts: Path, package: Path, version: str) -> Bindings:
    """Return the names of bindings that are unpacked in a folder."""
    done = run_in_bindings(contracts, package, str(HERE / "introspect.py"))
    if done.returncode:
        raise RuntimeError(f"bindings {version} cannot be imported: {done.stderr}")
    found = json.loads(done.stdout)
    assert version.startswith(found["version"].split(".post")[0]), found["version"]
    names = {name: (kind, signatures) for name, (kind, signatures) in found["names"].items()}
    return Bindings(version, names)


def look_at_version(contracts: Path, version: str) -> Bindings:
    """Return the names of a fetched version, by import if this machine has a Python for it."""
    package = contracts / "bindings" / version
    if package.is_dir():
        return look(contracts, package, version)
    module = contracts / "bindings-3.10" / version / "tensorrt_bindings" / "tensorrt.so"
    return Bindings(version, {}, module.read_bytes())


def disagreements(bindings: Bindings, table: Iterable[ReliedOn]) -> list[str]:
    """Return where the bindings are not what the table says, one line each."""
    version = numbers(bindings.version)
    found = []
    for entry in table:
        there, expected = bindings.has(entry.name), entry.expected(version)
        if expected and not there:
            found.append(f"TensorRT {bindings.version} has no {entry.name}")
        elif there and not expected and bindings.imported:
            found.append(
                f"TensorRT {bindings.version} has {entry.name}, which it lacks by the table "
                f"(since {entry.since}, until {entry.until})"
            )
    return found
