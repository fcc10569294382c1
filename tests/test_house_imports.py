"""Who may import whom, and what `--help` may cost. Each check runs in a fresh interpreter."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.write_help import SCRIPTS

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "edgejoule").rglob("*.py")
)
BARE = ("records", "phases", "processes", "errors", "config", "files")
ROOMS = ("energy", "dataset", "report")  # they read and analyse, anywhere
HEAVY = ("numpy", "pandas", "pyarrow", "torch", "dvc", "onnx", "onnxruntime")


def under(module: str, rooms: tuple[str, ...]) -> bool:
    return any((module + ".").startswith(f"edgejoule.{room}.") for room in rooms)


def imported_names(path: Path) -> set[str]:
    """Return the first part of each absolutely imported name, wherever in the file it stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_edgejoule_knows_no_model() -> None:
    guilty = [
        str(path) for path in (ROOT / "edgejoule").rglob("*.py") if "model" in imported_names(path)
    ]
    assert guilty == []


def test_the_check_sees_an_import_anywhere(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from model.loading import a\n    from . import b\n")
    assert imported_names(file) == {"model"}


# The finder stands first and knows only the standard library and this project. coverage, which may
# measure this process, was imported before it.
BLOCKED = """
import importlib, importlib.abc, json, sys
class OnlyStandard(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        first = name.split(".")[0]
        if first not in sys.stdlib_module_names and first != "edgejoule":
            raise ModuleNotFoundError(f"{name} is not in the standard library")
sys.meta_path.insert(0, OnlyStandard())
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
"""


def test_the_sensor_side_needs_only_the_standard_library() -> None:
    modules = [name for name in MODULES if under(name, (*BARE, "power"))]
    assert len(modules) > len(BARE)
    done = run_python(BLOCKED, json.dumps(modules))
    assert done.returncode == 0, done.stderr


def test_the_block_blocks() -> None:
    done = run_python(BLOCKED, json.dumps(["numpy"]))
    assert "numpy is not in the standard library" in done.stderr


# What Windows has not, goes: modules, and attributes of `os` and `signal`. The libraries come
# first, because their Linux builds may use them.
ELSEWHERE = """
import builtins, importlib, json, os, signal, sys
import numpy, pyarrow.parquet, rich.console, rich.progress, jsonschema, subprocess, multiprocessing
import concurrent.futures, tempfile, shutil, asyncio, ctypes, platform, getpass, socket
ABSENT = {"torch", "torchvision", "tensorrt", "torch_tensorrt", "onnx", "onnxruntime", "dvc",
          "pandas", "fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "posix", "model"}
real = builtins.__import__
def without(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if level == 0 and importer.startswith("edgejoule") and name.split(".")[0] in ABSENT:
        raise ModuleNotFoundError(f"{importer} imports {name}")
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = without
for module, names in ((signal, ["SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "pthread_sigmask"]),
                      (os, ["getuid", "geteuid", "killpg", "setsid", "fork", "pread", "pwrite",
                            "uname", "sched_getaffinity", "statvfs", "getloadavg"])):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.platform = "win32"
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
sys.platform = "linux"
"""


def test_reading_and_analysing_need_neither_torch_nor_linux() -> None:
    modules = [name for name in MODULES if under(name, ROOMS)]
    assert len(modules) > len(ROOMS)
    # Without measurement: what has been patched away would break the tracer's own exit.
    quiet = {"COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}
    done = run_python(ELSEWHERE, json.dumps(modules), **quiet)
    assert done.returncode == 0, done.stderr


HELP = """
import json, runpy, sys
target, heavy = sys.argv[1], sys.argv[2]
sys.argv = [target, "--help"]
try:
    if target.endswith(".py"):
        runpy.run_path(target, run_name="__main__")
    else:
        runpy.run_module(target, run_name="__main__", alter_sys=True)
except SystemExit as end:
    status = end.code or 0
print("LOADED", json.dumps([status, sorted(set(sys.modules) & set(json.loads(heavy)))]))
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_loads_nothing_heavy(script: str) -> None:
    done = run_python(HELP, SCRIPTS[script], json.dumps(HEAVY))
    assert done.returncode == 0, done.stderr
    usage, loaded = done.stdout.rsplit("LOADED", 1)
    assert "usage:" in usage.lower()
    assert json.loads(loaded) == [0, []]
