"""Move objects between DVC's cache and a store, each checked when it arrives.

DVC's own push and fetch report success where objects are missing or wrong; its stores' clients and
its cache's layout are used here, and every object is looked at.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PureWindowsPath
from typing import Any

from edgejoule.dataset.versions.dvc_adapter import REMOTE_NAME
from edgejoule.dataset.versions.remote_objects import StoredObject
from edgejoule.errors import MeasurementError, ServerError, TokenError
from edgejoule.report.progress import Progress

_JOBS = 8
_TOO_LARGE = 413
_BLOCK_BYTES = 1 << 20
_MD5 = re.compile(r"[0-9a-f]{32}")


class Meter:
    """Counts objects and bytes of one transfer and shows them.

    Args:
        phase: What is done, as the bar says it.
        objects: Out of how many.
        total: Out of how many bytes, 0 if nobody knows.
        progress: Where it is shown.
    """

    def __init__(self, phase: str, objects: int, total: int, progress: Progress) -> None:
        self._phase, self._objects, self._total = phase, objects, total
        self._progress = progress
        self._lock = threading.Lock()
        self.done = 0
        self.bytes = 0
        self.stopped = threading.Event()

    def add_bytes(self, count: int) -> None:
        """Take note of bytes that have moved; ends the transfer if it was interrupted."""
        if self.stopped.is_set():
            raise InterruptedError("interrupted")
        with self._lock:
            self.bytes += count

    def add_object(self) -> None:
        """Take note of an object that is there; call it from one thread."""
        self.done += 1
        self.show()

    def seen(self, size: int) -> None:
        """Take note of a whole object."""
        self.add_bytes(size)
        self.add_object()

    def show(self) -> None:
        """Draw what is done."""
        note = megabytes(self.bytes)
        if self._total:
            note += f" of {megabytes(self._total)}"
        self._progress.update(self._phase, self.done, self._objects, note=note)


def megabytes(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def send(repo: Any, objects: Sequence[StoredObject], meter: Meter) -> None:
    """Send objects from the cache to the store, over whatever it has of them; lists last.

    A list of a run's files that is there says to DVC that all of them are: it must not arrive
    before them.

    Raises:
        MeasurementError: The store refuses an object for its size.
        OSError: What the store's client raises.
    """
    odb = repo.cloud.get_remote_odb(REMOTE_NAME)
    callback = _callback(meter)

    def put(item: StoredObject) -> None:
        path = odb.oid_to_path(item.oid)
        if odb.fs.protocol == "local":
            _copy(item.local, Path(path))
            meter.add_bytes(item.size or 0)
            return
        odb.fs.makedirs(odb.fs.parent(path), exist_ok=True)
        try:
            odb.fs.put_file(str(item.local), path, callback=callback)
        except Exception as error:
            if _too_large(error):
                over_http = odb.fs.protocol in {"http", "https"}
                raise MeasurementError(
                    f"{store_name(odb)} refuses {', '.join(item.files) or item.oid} for its size "
                    f"({megabytes(item.size or 0)}, status {_TOO_LARGE})",
                    "push --store s3, which sends large files in parts"
                    if over_http
                    else "ask for a higher limit there, or push to another --store",
                ) from None
            raise

    for lists in (False, True):
        _each(put, [item for item in objects if item.oid.endswith(".dir") == lists], meter)


def _too_large(error: BaseException) -> bool:
    """Say whether a store's answer was that an object is too large, over HTTP or S3."""
    said = getattr(error, "status", None)
    # s3fs turns the answer into an OSError and keeps it as the cause.
    answer = getattr(error.__cause__, "response", None)
    if isinstance(answer, dict):
        said = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", said)
    return bool(said == _TOO_LARGE)


def bring(repo: Any, oids: dict[str, tuple[str, ...]], meter: Meter) -> None:
    """Bring objects from the store into the cache; what does not have its hash is not kept.

    Args:
        repo: The DVC repository, opened with its remote.
        oids: Hash -> whose content it is, as `run/file`.
        meter: Counts them.

    Raises:
        MeasurementError: The store lacks some, or has others' content for them; they are named.
        TokenError, ServerError: The store refuses, or answers with an error.
        OSError: What the store's client or the disk raises.
    """
    odb = repo.cloud.get_remote_odb(REMOTE_NAME)
    callback = _callback(meter)
    bad: list[str] = []

    def get(oid: str) -> None:
        target = Path(repo.cache.local.oid_to_path(oid))
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f"{target.name}.edgejoule.tmp")
        try:
            odb.fs.get_file(odb.oid_to_path(oid), str(unfinished), callback=callback)
            if md5_of_file(unfinished) == oid.partition(".")[0]:
                unfinished.chmod(0o444)  # as DVC keeps them
                unfinished.replace(target)
            else:
                bad.append(f"{_named(oids[oid])} is damaged")
        except FileNotFoundError:
            bad.append(f"{_named(oids[oid])} is missing")
        except Exception as error:  # noqa: BLE001 (each store's client raises its own)
            raise _refusal(error, store_name(odb)) or error from None
        finally:
            unfinished.unlink(missing_ok=True)

    _each(get, list(oids), meter)
    if bad:
        more = f", and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise MeasurementError(
            f"{'; '.join(sorted(bad)[:5])}{more} on {store_name(odb)}",
            "whoever has these runs mends it: data_version.py push --deep",
        )


def lacking_in_cache(repo: Any, oids: Sequence[str], *, trusted: bool = False) -> list[str]:
    """Return the objects that the cache lacks; one that is there with other content is deleted.

    Args:
        repo: The DVC repository.
        oids: What to look for.
        trusted: Do not look at content.
    """
    found = []
    for oid in oids:
        path = Path(repo.cache.local.oid_to_path(oid))
        if not path.is_file():
            found.append(oid)
        elif not trusted and md5_of_file(path) != oid.partition(".")[0]:
            path.unlink()
            found.append(oid)
    return found


def files_of(repo: Any, run: str, oid: str) -> dict[str, str]:
    """Return the files of a run, path -> hash, from the list of them in the cache.

    Raises:
        MeasurementError: The list is not one, or leads out of the run's folder.
    """
    path = Path(repo.cache.local.oid_to_path(oid))
    try:
        found = {str(item["relpath"]): str(item["md5"]) for item in json.loads(path.read_bytes())}
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError(f"the list of {run}'s files is damaged", "push it again") from error
    for name, md5 in found.items():
        # A hash becomes a path in the cache, where a wrong object is deleted.
        if not _MD5.fullmatch(md5):
            raise MeasurementError(
                f"the list of {run}'s files is damaged: {md5!r} is no hash",
                "refused; do not push it",
            )
        windows = PureWindowsPath(name)
        if name.startswith("/") or windows.anchor or ".." in windows.parts:
            raise MeasurementError(f"{run} names a file outside its folder: {name!r}", "refused")
    return found


def store_name(odb: Any) -> str:
    """Return a store's address as people know it."""
    return str(odb.fs.unstrip_protocol(odb.path)).removesuffix("/").removesuffix("/files/md5")


def md5_of_file(path: Path) -> str:
    """Return the MD5 of a file, under which DVC keeps it."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _copy(source: Path, target: Path) -> None:
    """Copy an object into a folder, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.edgejoule.tmp")
    try:
        shutil.copyfile(source, unfinished)
        unfinished.chmod(0o444)  # as DVC keeps them
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _each(work: Callable[[Any], None], items: Sequence[Any], meter: Meter) -> None:
    """Do the work for each item, several at once; the first error ends it."""
    pool = ThreadPoolExecutor(_JOBS)
    try:
        for future in as_completed([pool.submit(work, item) for item in items]):
            future.result()
            meter.add_object()
    except BaseException:
        meter.stopped.set()  # what is on its way ends at its next block
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _callback(meter: Meter) -> Any:
    """Return an fsspec callback that counts bytes."""
    from fsspec.callbacks import Callback  # type: ignore[import-untyped]

    class Bytes(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            meter.add_bytes(inc)

    return Bytes()


def _refusal(error: Exception, where: str) -> TokenError | ServerError | None:
    status = getattr(error, "status", None)
    if status in {401, 403}:
        return TokenError(
            f"{where} refused access (status {status})",
            "check what the token may do there; another store's credentials are DVC's: "
            "dvc remote modify --local origin user ...",
        )
    if isinstance(status, int) and status >= 400:
        return ServerError(f"{where} answers {status}", "run it again later")
    return None


def _named(files: tuple[str, ...]) -> str:
    return ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
