"""The places that the lane pushes to: DagsHub's HTTP store, its S3 endpoint, a folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import standin
from tests.servers.s3 import BucketStore, FolderStore, Moto, Store
from tests.servers.watcher import Watch
from tests.support_dataset import build_run

NAME = "rosa/edgejoule-raw-data"
HOSTED = ("http", "s3")
ALL = ("http", "s3", "local")
# What does not depend on the kind of store is seen on one; with EDGEJOULE_EVERY_STORE=1 on each.
_EVERY = bool(os.environ.get("EDGEJOULE_EVERY_STORE"))
ANY_HOSTED = HOSTED if _EVERY else ("http",)
ANY = ALL if _EVERY else ("http", "local")


@dataclass
class Place:
    """Where a dataset's versions go in a test.

    Attributes:
        kind: `http`, `s3`, `local`.
        server: The stand-in; `local` does not ask it for anything.
        url: What a command is told.
        store: The objects behind it.
        repository: The bare git repository behind it.
    """

    kind: str
    server: standin.StandIn
    url: str
    store: Store
    repository: Path

    @property
    def target(self) -> list[str]:
        """What `push` is told; a pull finds the store by itself."""
        return [self.url, "--create"] + (["--store", "s3"] if self.kind == "s3" else [])

    def restart(self, **settings: object) -> None:
        """Start the stand-in anew with other settings."""
        self.server.stop()
        for name, value in settings.items():
            setattr(self.server, name, value)
        self.server.start()


def place_of(kind: str, server: standin.StandIn, folder: Path, moto: Moto | None) -> Place:
    """Return a place of this kind; `folder` is for the one that is a folder."""
    if kind == "local":
        remote = folder / "remote"
        return Place(
            kind, server, str(remote), FolderStore(remote / "objects"), remote / "data.git"
        )
    store: Store = FolderStore(server.home / "dvc" / f"{NAME}.dvc")
    if kind == "s3":
        assert moto is not None
        moto.empty()
        store = BucketStore(moto)
    place = Place(kind, server, f"{server.url}/{NAME}", store, server.repository(NAME))
    if moto is not None:
        place.restart(s3_port=moto.port)
    return place


@contextlib.contextmanager
def serving(watch: Watch, stores: Path, folder: Path) -> Iterator[standin.StandIn]:
    """Run a stand-in, with the environment that points a command at it; home is in `folder`."""
    home = folder / "home"
    watch.trace_git(home)
    (home / "tmp").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("DAGSHUB_", "GIT_", "CREATE_REPO", "AWS_", "EDGEJOULE_STORE")):
                patch.delenv(name)
        for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
            patch.setenv(name, str(home))
        patch.setenv("TMPDIR", str(home / "tmp"))
        patch.setattr(tempfile, "tempdir", None)
        with standin.running(stores, standin.TOKEN, standin.READER) as running:
            watch.excluded.add(running.private)
            patch.setenv("DAGSHUB_CLIENT_HOST", running.url)
            patch.setenv("DAGSHUB_USER_TOKEN", standin.TOKEN)
            yield running


def add_runs(dataset: Path, *names: str) -> Path:
    """Build runs whose files differ from run to run; return the dataset's folder."""
    for name in names:
        step = sum(map(ord, name)) % 1000
        build_run(
            dataset, model=name, layer_ns=(400_000 + step, 300_000, 200_000), idle_ma=100 + step,
            rails=(("VDD_A", 1000 + step), ("VDD_B", 300)),
        )  # fmt: skip
    return dataset


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def runs_of(dataset: Path) -> dict[str, dict[str, bytes]]:
    """Every run of a dataset with its files."""
    return {path.name: files(path) for path in dataset.iterdir() if (path / "run.json").exists()}
