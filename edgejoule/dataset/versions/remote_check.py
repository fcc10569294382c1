"""Whether a remote has every object of a version, and with the right content.

Of runs that are not here, the list of files is read from the remote and held against its MD5, and
`run.json`, which knows every file's size and SHA-256. Each object is then asked for, or with
`deep` read back and hashed; nothing is kept. What is bad is remembered below `.git`, so that the
next push sends it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgejoule.dataset.run_directory import RUN_JSON
from edgejoule.dataset.versions import dvc_adapter
from edgejoule.dataset.versions.dagshub import need_token, user_of
from edgejoule.dataset.versions.git import git_succeeds, is_repository, run_git
from edgejoule.dataset.versions.history import cached, tags_of
from edgejoule.dataset.versions.notes import (
    CONTENT,
    Damage,
    forget_damaged,
    note_damaged,
    noted_damaged,
)
from edgejoule.dataset.versions.pointers import Pointer, pointer_texts, read_pointer
from edgejoule.dataset.versions.remote_objects import (
    BadObject,
    StoredObject,
    check_objects,
    md5_of,
    read_object,
)
from edgejoule.dataset.versions.remotes import Remote, need_store
from edgejoule.dataset.versions.repository import FETCHED, fetch, init, set_git_remote
from edgejoule.dataset.versions.stores import with_store_of
from edgejoule.errors import UsageError
from edgejoule.files import sha256_of

# Objects done, of how many, bytes done.
Progress = Callable[[int, int, int], None]

_JOBS = 8
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class RemoteFinding:
    """One thing that is wrong with a remote's copy.

    Attributes:
        run: The run.
        file: The file in it; "" is the list of its files.
        problem: One line.
        oid: The object's name in DVC, None where it is not about one object.
        here: Where this machine has the right content: `folder`, with the run, so that a push sends
            it again; `cache`, so that a pull of the run brings it back first; None: nowhere.
    """

    run: str
    file: str
    problem: str
    oid: str | None = None
    here: str | None = None


@dataclass(frozen=True)
class RemoteReport:
    """What was found about a remote.

    Attributes:
        remote: How people know it.
        store: Where its data are.
        commit: The version that was checked.
        tags: Names of it.
        deep: Whether content was read back and hashed.
        runs: How many were checked.
        objects, bytes: How many objects they consist of, each once, and their size as far as known.
        findings: What is wrong.
    """

    remote: str
    store: str
    commit: str
    tags: tuple[str, ...]
    deep: bool
    runs: int
    objects: int
    bytes: int
    findings: tuple[RemoteFinding, ...]

    @property
    def ok(self) -> bool:
        """Whether every object was checked and is right."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"ok": self.ok, **asdict(self)}


@dataclass
class Listing:
    """What a version consists of, as far as it could be found out."""

    objects: dict[str, StoredObject] = field(default_factory=dict)
    bad: dict[str, BadObject] = field(default_factory=dict)  # seen while listing
    findings: list[RemoteFinding] = field(default_factory=list)
    intact: set[str] = field(default_factory=set)  # runs that the folder has as the version means

    def is_settled(self, oid: str) -> bool:
        """Say whether an object needs no further look: it is bad, or a list that was hashed."""
        return oid in self.bad or oid.endswith(".dir")


def check_remote(
    dataset: Path,
    remote: Remote,
    *,
    scratch: bool = False,
    runs: Sequence[str] = (),
    rev: str | None = None,
    branch: str = "main",
    deep: bool = False,
    progress: Progress | None = None,
) -> RemoteReport:
    """Check a remote's copy of a version.

    Args:
        dataset: The dataset; need not be there with `scratch`. Its cache says what could be sent
            again, and its repository remembers what is bad.
        remote: The remote.
        scratch: Fetch the version into a temporary folder and not into the dataset's repository:
            for a remote that is not the dataset's own.
        runs: Names of the runs to check; all if empty.
        rev: A commit or tag; None is the newest version of the remote's branch.
        branch: The branch.
        deep: Read every object back and hash it.
        progress: Told how far it is.

    Raises:
        TokenError, ServerError: As they say; nothing is then said of any object.
        UsageError: No such remote, version or run.
    """
    if not remote.shared and not Path(remote.git_url).is_dir():
        raise UsageError(
            f"{remote.label} is no remote of a dataset", "say verify DATASET --remote [URL]"
        )
    token = need_token() if remote.needs_token else None
    if token:
        user_of(token)  # DVC would report a refused token as missing files
    with _home(dataset, remote, scratch=scratch) as home:
        commit = _fetched(home, remote, token, branch, rev)
        remote = need_store(with_store_of(home, remote, commit))
        texts = pointer_texts(home, commit)
        if unknown := sorted(set(runs) - texts.keys()):
            raise UsageError(
                f"{remote.label} has no run {unknown[0]}",
                f"it has {', '.join(list(texts)[:20]) or 'none'}",
            )
        chosen = {run: text for run, text in texts.items() if not runs or run in runs}
        token = token if remote.store_takes_token else None
        with dvc_adapter.opened(home, remote, token) as repo:
            listing = list_version(repo, dataset, chosen)
            left = [x for oid, x in listing.objects.items() if not listing.is_settled(oid)]
            seen = _counted(progress, listing)
            found = check_objects(repo, left, deep=deep, seen=seen)
        bad = {**listing.bad, **{item.object.oid: item for item in found}}
        if is_repository(dataset):
            _remember(dataset, remote, listing.objects, bad, deep=deep)
        return RemoteReport(
            remote=remote.label,
            store=remote.store,
            commit=commit,
            tags=tags_of(home).get(commit, ()),
            deep=deep,
            runs=len(chosen),
            objects=len(listing.objects),
            bytes=sum(item.size or 0 for item in listing.objects.values()),
            findings=tuple(_findings(dataset, listing, bad)),
        )


@contextlib.contextmanager
def _home(dataset: Path, remote: Remote, *, scratch: bool) -> Iterator[Path]:
    """Give the repository into which the version is fetched."""
    if not scratch:
        if not is_repository(dataset):
            raise UsageError(f"{dataset} has no versions yet", "push makes the first")
        yield dataset
        return
    with tempfile.TemporaryDirectory(prefix="edgejoule-") as folder:
        home = Path(folder) / "version"
        init(home, commit=False)
        set_git_remote(home, remote)
        yield home


def _fetched(home: Path, remote: Remote, token: str | None, branch: str, rev: str | None) -> str:
    """Fetch the remote's branch and return the commit to check."""
    token = token if remote.hosted else None
    if not fetch(home, remote, token, branch):
        raise UsageError(f"{remote.label} has no branch {branch}", "push makes it; or --branch")
    name = FETCHED if rev is None else rev
    words = ("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if name.startswith("-") or not git_succeeds(home, *words):
        raise UsageError(f"{remote.label} has no version {rev}", "give a commit or a tag")
    return run_git(home, *words).strip()


def list_version(repo: Any, dataset: Path, texts: Mapping[str, str]) -> Listing:
    """Find out what the runs consist of."""
    listing = Listing()
    pointers = [read_pointer(run, text) for run, text in texts.items()]
    for run, pointer in zip(texts, pointers, strict=True):
        if pointer is None:
            listing.findings.append(RemoteFinding(run, "", f"{run}.dvc points at no run"))
    known = [pointer for pointer in pointers if pointer is not None]
    with ThreadPoolExecutor(_JOBS) as pool:
        answers = list(pool.map(lambda pointer: _list_run(repo, dataset, pointer), known))
    for part in answers:
        for oid, item in part.objects.items():
            listing.objects[oid] = _joined(listing.objects.get(oid), item)
        listing.bad.update(part.bad)
        listing.intact |= part.intact
        listing.findings += part.findings
    return listing


def _joined(old: StoredObject | None, new: StoredObject) -> StoredObject:
    """Return an object with the files of both; equal files of several runs are one object."""
    if old is None:
        return new
    known = old if new.size is None else new
    return StoredObject(new.oid, new.local, known.size, (*old.files, *new.files), known.sha256)


def _list_run(repo: Any, dataset: Path, pointer: Pointer) -> Listing:
    part, run = Listing(), pointer.run
    local, own_json = cached(dataset, pointer.oid), dataset / pointer.run / RUN_JSON
    if own_json.is_file() and sha256_of(own_json) == pointer.run_json_sha256:
        part.intact.add(run)
    content = read_object(repo, pointer.oid)
    own = StoredObject(pointer.oid, local, len(content or b"") or None, (f"{run}/",))
    part.objects[pointer.oid] = own
    if content is None or md5_of(content) != pointer.oid[: -len(".dir")]:
        reason = "is missing" if content is None else "has other content (MD5)"
        part.bad[pointer.oid] = BadObject(own, reason)
        content = _right(local, pointer.oid)
    entries = _entries(content)
    if not entries:
        count = "its" if pointer.files is None else f"its {pointer.files}"
        problem = f"{count} files cannot be told, and were not checked"
        part.findings.append(RemoteFinding(run, "", problem))
        return part
    if RUN_JSON not in entries:
        part.findings.append(RemoteFinding(run, RUN_JSON, "is not in the version"))
    told = _run_json(repo, dataset, pointer, entries.get(RUN_JSON), part)
    files = _object(_object(told).get("files"))
    for name in sorted(files.keys() - entries.keys()):
        problem = "is not in the version, though run.json lists it"
        part.findings.append(RemoteFinding(run, name, problem))
    for name, oid in entries.items():
        facts = _object(files.get(name))
        size, sha256 = facts.get("bytes"), facts.get("sha256")
        item = StoredObject(oid, cached(dataset, oid), size, (f"{run}/{name}",), sha256)
        part.objects[oid] = _joined(part.objects.get(oid), item)
    return part


def _run_json(
    repo: Any, dataset: Path, pointer: Pointer, oid: str | None, part: Listing
) -> dict[str, Any] | None:
    """Return what `run.json` of the version says; from here if possible, else from the remote."""
    if oid is None:
        return None
    wanted = pointer.run_json_sha256
    for path in (dataset / pointer.run / RUN_JSON, cached(dataset, oid)):
        content = _right(path, oid)
        if content is not None and wanted in {None, hashlib.sha256(content).hexdigest()}:
            break
    else:
        content = read_object(repo, oid)
    item = StoredObject(oid, cached(dataset, oid), None, (f"{pointer.run}/{RUN_JSON}",))
    if content is None:
        part.bad[oid] = BadObject(item, "is missing")
        return None
    if md5_of(content) != oid:
        part.bad[oid] = BadObject(item, "has other content (MD5)", CONTENT)
        return None
    if wanted not in {None, hashlib.sha256(content).hexdigest()}:
        problem = "is not the file whose SHA-256 the version's pointer names"
        part.findings.append(RemoteFinding(pointer.run, RUN_JSON, problem))
        wanted = None  # said once
    part.objects[oid] = StoredObject(oid, item.local, len(content), (), wanted)
    try:
        return _object(json.loads(content))
    except ValueError:
        part.findings.append(RemoteFinding(pointer.run, RUN_JSON, "is no JSON"))
        return None


def _entries(content: bytes | None) -> dict[str, str]:
    """Return file -> MD5 of DVC's list of a folder's files, {} where it is none."""
    try:
        listed = json.loads(content or b"")
        found = {str(entry["relpath"]): str(entry["md5"]) for entry in listed}
        return found if all(map(_MD5.fullmatch, found.values())) else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _right(path: Path, oid: str) -> bytes | None:
    """Return a small file's content if it is that of the object."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if md5_of(content) == oid.removesuffix(".dir") else None


def _counted(progress: Progress | None, listing: Listing) -> Callable[[int], None] | None:
    if progress is None:
        return None
    total, done = len(listing.objects), [sum(map(listing.is_settled, listing.objects)), 0]

    def seen(size: int) -> None:
        done[0] += 1
        done[1] += size
        progress(done[0], total, done[1])

    return seen


def _remember(
    dataset: Path,
    remote: Remote,
    checked: Mapping[str, StoredObject],
    bad: Mapping[str, BadObject],
    *,
    deep: bool,
) -> None:
    """Note what is bad, and take off the list what was seen to be right."""
    before = noted_damaged(dataset, remote.store)
    right = [
        oid
        for oid, why in before.items()
        # A look at the size does not clear what was found by content.
        if oid in checked and oid not in bad and (deep or why.kind != CONTENT)
    ]
    forget_damaged(dataset, remote.store, right)
    found: dict[str, Damage] = {oid: item.damage() for oid, item in bad.items()}
    note_damaged(dataset, remote.store, found)


def _findings(
    dataset: Path, listing: Listing, bad: Mapping[str, BadObject]
) -> Iterator[RemoteFinding]:
    """Yield what is wrong, by run and file."""
    found = list(listing.findings)
    for oid, item in bad.items():
        files = listing.objects[oid].files or item.object.files
        for place in files:
            run, _, name = place.partition("/")
            here = _where(dataset, place, oid, intact=run in listing.intact)
            found.append(RemoteFinding(run, name, item.reason, oid, here))
    yield from sorted(found, key=lambda finding: (finding.run, finding.file))


def _where(dataset: Path, place: str, oid: str, *, intact: bool) -> str | None:
    """Say where this machine has an object's right content; `intact`: the run itself is here."""
    kept = _is_right(cached(dataset, oid), oid)
    if intact and (kept or place.endswith("/") or _is_right(dataset / place, oid)):
        return "folder"  # a list is made anew from the run's files
    return "cache" if kept else None


def _is_right(path: Path, oid: str) -> bool:
    return path.is_file() and _md5(path) == oid.removesuffix(".dir")


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
