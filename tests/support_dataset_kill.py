"""Kill a process at every step at which it changes a folder.

    python -m tests.support_dataset_kill MODE FOLDER

An audit hook sees each call that opens for writing, renames, links or removes; the n-th repetition
is killed (SIGKILL, as the kernel would) just before its n-th such call, in `FOLDER/<n>`. The first
repetition that is not killed ends it; it prints how many there were.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet  # noqa: F401 (here and in `load_all`: once, before the forks)

from edgejoule.dataset.recover import recover
from edgejoule.dataset.run_directory import create_partial, finish, release
from edgejoule.dataset.verify import verify_dataset  # noqa: F401
from tests.support_dataset import Plan, build_run, prepare, request_of, run_of, write_partial

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree"}
PLAN = Plan(rails=(("VDD_A", 1000),), sample_ns=2_000_000)
OLD = Plan(rails=(("VDD_A", 1000),), sample_ns=2_000_000, profiled=5)

_left = -1  # calls until the kill; below zero: not armed


def arm(count: int) -> None:
    global _left  # noqa: PLW0603 (an audit hook cannot be taken back, only told)
    _left = count


def hook(event: str, arguments: tuple[object, ...]) -> None:
    if _left < 0:
        return
    flags = arguments[2] if event == "open" and len(arguments) > 2 else 0
    writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event in CHANGES or writes:
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        arm(_left - 1)


def orphan(partial: Path) -> None:
    """Make a working directory look as if its parent had died."""
    request = json.loads((partial / "request.json").read_text(encoding="utf-8"))
    request["parent"]["start_ticks"] = 1
    (partial / "request.json").write_text(json.dumps(request), encoding="utf-8")
    release(partial)


def prepare_finish(dataset: Path) -> Callable[[], object]:
    partial = prepare(dataset, PLAN)
    return lambda: finish(partial, run_of(PLAN), "lenet")


def prepare_overwrite(dataset: Path) -> Callable[[], object]:
    build_run(dataset, OLD)
    partial = prepare(dataset, PLAN)
    return lambda: finish(partial, run_of(PLAN), "lenet", overwrite=True)


def prepare_recover(dataset: Path) -> Callable[[], object]:
    orphan(write_partial(dataset, PLAN))
    return lambda: recover(dataset)


def prepare_create(dataset: Path) -> Callable[[], object]:
    return lambda: create_partial(dataset, "lenet", request_of(PLAN))


MODES = {
    "finish": prepare_finish,
    "overwrite": prepare_overwrite,
    "recover": prepare_recover,
    "create": prepare_create,
}


def load_all(folder: Path) -> None:
    """Load what the work imports on its way (pyarrow looks for pandas, 2 s), not in every fork."""
    pid = os.fork()  # its threads must not be there when others are forked
    if pid == 0:
        code = 1
        try:
            known = set(sys.modules)
            build_run(folder / "loading")
            names = [name for name in sys.modules if name not in known]
            (folder / "modules.json").write_text(json.dumps(names), encoding="utf-8")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    for name in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
        with contextlib.suppress(ImportError):  # made while it ran, no file
            importlib.import_module(name)


def main(mode: str, folder: Path) -> int:
    load_all(folder)
    sys.addaudithook(hook)
    for point in range(1000):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work = MODES[mode](folder / str(point))
                arm(point)
                work()
                arm(-1)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            print(json.dumps({"killed": point, "code": os.WEXITSTATUS(status)}))
            return os.WEXITSTATUS(status)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
