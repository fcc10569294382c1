"""Push and pull against folders, in this process."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgejoule.dataset.versions.commands import Pulled, Pushed, pull, push, resolve_remote
from tests.support_dataset import build_run


def plain_environment(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Take the user's settings out of the environment."""
    for name in list(os.environ):
        if name.startswith(("DAGSHUB_", "EDGEJOULE_STORE", "GIT_", "CREATE_REPO")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))


def build_pushed(folder: Path, *names: str) -> Path:
    """Build a dataset with runs of these names and push it to the folder beside it."""
    for name in names:
        build_run(folder / "data", model=name)
    do_push(folder / "data")
    return folder / "data"


@contextlib.contextmanager
def pushed_once(factory: pytest.TempPathFactory, *names: str) -> Iterator[Path]:
    """Give a dataset with runs of these names as data-1, for a module; tests use copies of it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = factory.mktemp("pushed")
        plain_environment(patch, folder)
        yield build_pushed(folder, *names)


def copied(source: Path, folder: Path) -> Path:
    """Copy a dataset and its remote, so that a test may spoil both."""
    for name in ("data", "data-remote"):
        shutil.copytree(source.with_name(name), folder / name)
    git(folder / "data", "remote", "set-url", "origin", str(folder / "data-remote" / "data.git"))
    return folder / "data"


def do_push(dataset: Path, url: Path | str | None = None, **options: Any) -> Pushed:
    """Push as the command does, without its words."""
    store = options.pop("store", None)
    remote = resolve_remote(dataset, None if url is None else str(url), None, None, store)
    return push(dataset, remote, say=_quiet, **options)


def do_pull(dataset: Path, url: Path | str | None = None, **options: Any) -> Pulled:
    """Pull as the command does, without its words."""
    store = options.pop("store", None)
    remote = resolve_remote(dataset, None if url is None else str(url), None, None, store)
    return pull(dataset, remote, say=_quiet, **options)


def git(repository: Path, *words: str) -> str:
    """Run git as a user does, and return its output."""
    identity = ["-c", "user.name=rosa", "-c", "user.email=rosa@example.org"]
    done = subprocess.run(
        ["git", "-C", str(repository), *identity, *words],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


def files(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder with their content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def objects(remote: Path, *, lists: bool = False) -> list[Path]:
    """Return the stored objects of a folder, lists of a run's files or files."""
    found = sorted(path for path in (remote / "objects").rglob("*") if path.is_file())
    return [path for path in found if (path.suffix == ".dir") == lists]


def spoil(path: Path, content: bytes | None = None) -> None:
    """Give a stored object another content, of the same size if none is given."""
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size if content is None else content)


def _quiet(_line: str) -> None:
    pass
