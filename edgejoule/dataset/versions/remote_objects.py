"""The objects that a version consists of, and whether a remote has them.

DVC stores each file under its MD5, and per run a list of its files under the list's own MD5. It
takes "the list is there" for "all files are there", its HTTP client tells a refused token and a
dead server as "no such file", and it hashes nothing that it does not fetch. Here every object is
asked for, an answer other than "not there" is an error, and content is read back where asked.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from edgejoule.dataset.versions.dvc_adapter import REMOTE_NAME, pointer_of
from edgejoule.dataset.versions.notes import CONTENT, PRESENCE, Damage
from edgejoule.errors import EdgejouleError, MeasurementError, ServerError, TokenError

Seen = Callable[[int], None]

_JOBS = 8
_BLOCK_BYTES = 1 << 20  # what a thread holds of an object
_S3_BLOCK_BYTES = 4 << 20  # of its reader, whose own choice is 50 MiB for each
_SMALL_BYTES = 64 << 20  # no list of files and no run.json is larger
_TRIES = 3


@dataclass(frozen=True)
class StoredObject:
    """An object that a run's version consists of.

    Attributes:
        oid: Its MD5; with `.dir` behind it for the list of a run's files.
        local: Where the local cache keeps it; it need not be there.
        size: Bytes; None where nobody here knows.
        files: Whose content it is, as `run/file`.
        sha256: Of its content, as the run says; None where nobody here knows.
    """

    oid: str
    local: Path
    size: int | None
    files: tuple[str, ...] = ()
    sha256: str | None = None


@dataclass(frozen=True)
class BadObject:
    """An object that the remote lacks or has otherwise than the version says."""

    object: StoredObject
    reason: str
    kind: str = PRESENCE

    def damage(self) -> Damage:
        """Return what is noted of it."""
        return Damage(self.object.files, self.reason, self.kind)


def objects_of(repo: Any, run: str) -> list[StoredObject]:
    """Return the objects of a run's version, the list of its files last.

    Raises:
        MeasurementError: The local cache lacks one; `push` needs it.
    """
    cache = repo.cache.local
    found = []
    for out in repo.stage.load_file(str(pointer_of(Path(repo.root_dir), run)))[0].outs:
        files: dict[str, tuple[str, ...]] = {}
        for key, _, hash_info in out.get_obj() or ():
            files[hash_info.value] = (*files.get(hash_info.value, ()), f"{run}/{'/'.join(key)}")
        for oid, names in {**files, out.hash_info.value: (f"{run}/",)}.items():
            local = Path(cache.oid_to_path(oid))
            if oid.endswith(".dir") and local.is_file() and not _is_list(local, oid):
                local.unlink()  # cut by a power failure: made again from the run's files
            if not local.is_file():
                raise MeasurementError(
                    f"the cache lacks object {oid} of {run}", f"pull --run {run} fetches it again"
                )
            found.append(StoredObject(oid, local, local.stat().st_size, names))
    return found


def _is_list(path: Path, oid: str) -> bool:
    return md5_of(path.read_bytes()) == oid.removesuffix(".dir")


def check_objects(
    repo: Any, objects: Sequence[StoredObject], *, deep: bool = False, seen: Seen | None = None
) -> list[BadObject]:
    """Ask the remote for each object; with `deep` read it back and hash it, keeping nothing.

    Args:
        repo: The DVC repository, opened with its remote.
        objects: What to ask for.
        deep: Compare content, not only size.
        seen: Told the bytes of each object that is done, from this thread.

    Returns:
        The bad ones, in the order given.

    Raises:
        TokenError: The remote refuses the token.
        ServerError: It cannot be reached, or answers anything but "there" and "not there".
        MeasurementError: A folder cannot be read.
    """
    odb = repo.cloud.get_remote_odb(REMOTE_NAME)
    stop = threading.Event()

    def check(item: StoredObject) -> BadObject | None:
        return None if stop.is_set() else _check(odb, item, stop, deep=deep)

    pool = ThreadPoolExecutor(_JOBS)
    try:
        futures = {pool.submit(check, item): item for item in objects}
        for future in as_completed(futures):
            future.result()  # an answer that is none ends it all
            if seen is not None:
                seen(futures[future].size or 0)
        return [bad for future in futures if (bad := future.result()) is not None]
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def read_object(repo: Any, oid: str) -> bytes | None:
    """Return a small object's content as the remote has it, None if it has none.

    What is larger than such an object can be is cut, so that its hash does not agree.

    Raises:
        TokenError, ServerError, MeasurementError: As `check_objects`.
    """
    odb = repo.cloud.get_remote_odb(REMOTE_NAME)

    def read() -> bytes:
        content = bytearray()
        for block in _blocks(odb, odb.oid_to_path(oid)):
            content += block
            if len(content) > _SMALL_BYTES:
                break
        return bytes(content)

    content: bytes | None = _tried(odb, read, _TRIES)
    return content


def md5_of(content: bytes) -> str:
    """Return the MD5 under which DVC keeps this content."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _check(odb: Any, item: StoredObject, stop: threading.Event, *, deep: bool) -> BadObject | None:
    path = odb.oid_to_path(item.oid)
    if deep:
        return _check_content(odb, item, path, stop, deep=True)
    info = _tried(odb, lambda: odb.fs.info(path))
    if info is None or info.get("type") == "directory":
        return BadObject(item, "is missing")
    size = info.get("size")
    if size is None and item.size is not None:
        # A server that tells no size is asked for the content, which has one.
        return _check_content(odb, item, path, stop, deep=False)
    if item.size is not None and size != item.size:
        return BadObject(item, _other_size(size, item.size))
    return None


def _check_content(
    odb: Any, item: StoredObject, path: str, stop: threading.Event, *, deep: bool
) -> BadObject | None:
    def hashed() -> tuple[int, str, str]:
        md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        size = 0
        for block in _blocks(odb, path):
            if stop.is_set():
                break
            size += len(block)
            md5.update(block)
            if item.sha256 is not None:
                sha256.update(block)
        return size, md5.hexdigest(), sha256.hexdigest()

    found = _tried(odb, hashed, _TRIES)
    if found is None:
        return BadObject(item, "is missing")
    size, md5, sha256 = found
    if stop.is_set():
        return None
    if item.size is not None and size != item.size:
        return BadObject(item, _other_size(size, item.size))
    if deep and md5 != item.oid.removesuffix(".dir"):
        return BadObject(item, "has other content (MD5)", CONTENT)
    if deep and item.sha256 is not None and sha256 != item.sha256:
        return BadObject(item, "has other content than the run says (SHA-256)", CONTENT)
    return None


def _other_size(size: int, wanted: int) -> str:
    return f"has {size} bytes instead of {wanted}"


def _blocks(odb: Any, path: str) -> Iterator[bytes]:
    """Yield an object's content block by block, from one stream."""
    options: dict[str, Any] = {}
    if odb.fs.protocol in {"http", "https"}:
        # One plain GET: not every server answers for ranges, and the size is not asked for first.
        options = {"block_size": 0, "size": 1}
    elif odb.fs.protocol == "s3":
        options = {"block_size": _S3_BLOCK_BYTES}
    with closing(odb.fs.open(path, "rb", **options)) as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _tried(odb: Any, ask: Callable[[], Any], tries: int = 1) -> Any:
    """Return what the remote answers, None for "not there".

    Args:
        odb: The remote's store.
        ask: Asks it.
        tries: How often, where the connection breaks while content is read; the stores' clients
            try again by themselves until an answer begins.
    """
    for attempt in range(1, tries + 1):
        try:
            return ask()
        except EdgejouleError:
            raise
        except Exception as error:  # noqa: BLE001 (each store's client raises its own)
            status = _status(error)
            if status in {404, 410} or (status is None and _says_absent(error)):
                return None
            if attempt == tries or status is not None or odb.fs.protocol == "local":
                _refuse(odb, error, status)
    raise AssertionError  # the last attempt returns or raises


def _refuse(odb: Any, error: Exception, status: int | None) -> NoReturn:
    where = odb.fs.unstrip_protocol(odb.path).partition("/files/md5")[0]
    line = " ".join(str(_root(error)).split())[:200] or type(_root(error)).__name__
    if odb.fs.protocol == "local":
        raise MeasurementError(f"{where} cannot be read ({line})") from None
    if status in {401, 403} or isinstance(error, PermissionError):
        said = f" (status {status})" if status else ""
        raise TokenError(f"{where} refused the token{said}") from None
    if status is not None:
        raise ServerError(f"{where} answers {status}", "try again later") from None
    raise ServerError(f"{where} cannot be reached ({line})", "run it again later") from None


def _says_absent(error: Exception) -> bool:
    """Say whether the store itself said "not there": the HTTP client says so of everything."""
    absent = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
    return isinstance(error, absent) and error.__cause__ is None


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status behind an exception, None if there was no answer."""
    while error is not None:
        status = getattr(error, "status", None)  # aiohttp
        if isinstance(status, int) and status:
            return status
        response = getattr(error, "response", None)  # botocore
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if isinstance(status, int):
                return status
        error = error.__cause__
    return None


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
