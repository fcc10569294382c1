"""The objects that a version consists of, and whether a remote has them.

DVC stores each file under its MD5, and per run a list of its files under the list's own MD5. It
takes "the list is there" for "all files are there"; here every object is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgejoule.dataset.dvc_adapter import REMOTE_NAME, pointer_of
from edgejoule.errors import MeasurementError

_JOBS = 8


@dataclass(frozen=True)
class StoredObject:
    """An object that a run's version consists of: its hash, the local copy and its size."""

    oid: str
    local: Path
    size: int


def objects_of(repo: Any, run: str) -> list[StoredObject]:
    """Return the objects of a run's version, the list of its files last.

    Raises:
        MeasurementError: The local cache lacks one; `push` needs it.
    """
    cache = repo.cache.local
    found = []
    for out in repo.stage.load_file(str(pointer_of(Path(repo.root_dir), run)))[0].outs:
        oids = [hash_info.value for _, _, hash_info in out.get_obj() or ()]
        for oid in dict.fromkeys([*oids, out.hash_info.value]):
            local = Path(cache.oid_to_path(oid))
            if not local.is_file():
                raise MeasurementError(
                    f"the cache lacks object {oid} of {run}", f"pull --run {run} fetches it again"
                )
            found.append(StoredObject(oid, local, local.stat().st_size))
    return found


def missing_on_remote(repo: Any, objects: Sequence[StoredObject]) -> list[StoredObject]:
    """Return the objects that the remote lacks or has in another size.

    DVC takes "the list of files is there" for "all files are there", and so reports success for a
    version that nobody can pull; here every object is asked for.
    """
    odb = repo.cloud.get_remote_odb(REMOTE_NAME)

    def wrong(item: StoredObject) -> bool:
        try:
            size = odb.fs.info(odb.oid_to_path(item.oid)).get("size")
        except FileNotFoundError:
            return True
        return size is not None and size != item.size

    with ThreadPoolExecutor(_JOBS) as pool:
        answers = list(pool.map(wrong, objects))
    return [item for item, bad in zip(objects, answers, strict=True) if bad]


def send_again(repo: Any, objects: Sequence[StoredObject]) -> None:
    """Send objects to the remote one by one, over whatever it has of them."""
    odb = repo.cloud.get_remote_odb(REMOTE_NAME)
    for item in objects:
        path = odb.oid_to_path(item.oid)
        if odb.fs.protocol == "local" and Path(path).exists():
            Path(path).chmod(0o644)  # DVC keeps objects read-only
        odb.fs.makedirs(odb.fs.parent(path), exist_ok=True)
        odb.fs.put_file(str(item.local), path)
