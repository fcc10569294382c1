"""The versions of a dataset: what each brought, and in what two of them differ.

Read from git alone: the pointers of a version name every run with the hash of its `run.json`. Where
that file itself is at hand, in the folder or in the local cache, configurations and headline
figures are compared as well. Nothing is fetched and nothing is changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgejoule.dataset.run_directory import RUN_JSON, is_dataset, run_directories
from edgejoule.dataset.versions.git import git_succeeds, is_repository, run_git
from edgejoule.dataset.versions.notes import had_here
from edgejoule.dataset.versions.pointers import Pointer, pointers_at
from edgejoule.errors import UsageError

FOLDER = "the folder"
# Facts of a run beside its configuration that make it another run: key of `run.json`.
_FACTS = ("status", "simulated", "weights", "board_id", "power_mode", "started_at")
# Headline figure -> where `summary` of `run.json` keeps it.
FIGURES = {
    "latency_ms": ("clean", "median_ms"),
    "energy_mj": ("energy", "clean", "gross_mj"),
}


@dataclass(frozen=True)
class Version:
    """One version of a dataset.

    Attributes:
        commit: Its commit.
        tags: Names of it.
        date: When it was made, ISO 8601 with the zone.
        author: Who made it.
        message: The first line of its message.
        joins: Whether it joins two lines of versions that were pushed at the same time.
        added, changed, removed: Runs, against the version before it.
        runs: How many it holds.
        bytes: Size of all of them; None where a pointer does not say.
    """

    commit: str
    tags: tuple[str, ...]
    date: str
    author: str
    message: str
    joins: bool
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    runs: int
    bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class ChangedRun:
    """A run that is in both versions, with other content.

    Attributes:
        run: Its name.
        known: Whether both `run.json` files are at hand; else only the hashes are known.
        config: Knobs that differ -> the two values.
        facts: What else differs of status, weights, board, ... -> the two values.
        figures: `latency_ms` (median of the clean pass), `energy_mj` (gross, per inference, clean
            pass) -> the two values, where they differ; null is not measured.
        files: Files whose content differs, or that only one has.
        same_config: Whether the configuration is the same; None where a pointer does not say.
        simulated: Whether the power of either is not measured; None: not known.
    """

    run: str
    known: bool
    config: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    facts: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    figures: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    same_config: bool | None = None
    simulated: bool | None = None


@dataclass(frozen=True)
class Difference:
    """In what two versions differ, or a version and the folder.

    Attributes:
        old, new: Their commits; `new` is None for the folder.
        added, removed: Runs that only one has.
        absent: Runs of the version that this folder has never had; empty between two versions.
        changed: Runs that both have, with other content.
        same: How many runs are the same.
    """

    old: str
    new: str | None
    added: tuple[str, ...]
    removed: tuple[str, ...]
    absent: tuple[str, ...]
    changed: tuple[ChangedRun, ...]
    same: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def need_versions(dataset: Path) -> None:
    """Check that the folder has versions.

    Raises:
        UsageError: It is no dataset, or has none yet.
    """
    if not is_dataset(dataset) and not is_repository(dataset):
        raise UsageError(f"{dataset} is no dataset", "give a folder of runs")
    if not is_repository(dataset) or not git_succeeds(
        dataset, "rev-parse", "--verify", "--quiet", "HEAD"
    ):
        raise UsageError(f"{dataset} has no versions yet", "push makes the first")


def resolve(dataset: Path, rev: str) -> str:
    """Return the commit that a commit, tag or branch names.

    Raises:
        UsageError: Nothing here has that name.
    """
    wanted = f"{rev}^{{commit}}"
    if rev.startswith("-") or not git_succeeds(dataset, "rev-parse", "--verify", "-q", wanted):
        raise UsageError(f"{dataset} has no version {rev}", "log lists them; pull fetches newer")
    return run_git(dataset, "rev-parse", "--verify", "-q", wanted).strip()


def tags_of(dataset: Path) -> dict[str, tuple[str, ...]]:
    """Return the tags of every tagged commit, in the order of their names' numbers."""
    found: dict[str, tuple[str, ...]] = {}
    form = "%(objectname) %(*objectname) %(refname:strip=2)"
    words = ["for-each-ref", "--sort=version:refname", f"--format={form}", "refs/tags"]
    for line in run_git(dataset, *words).splitlines():
        own, target, name = line.split(" ", 2)
        commit = target or own  # an annotated tag is an object of its own
        found[commit] = (*found.get(commit, ()), name)
    return found


def log(dataset: Path, limit: int | None = None, rev: str = "HEAD") -> list[Version]:
    """Return the versions up to one of them, newest first.

    Args:
        dataset: The dataset.
        limit: How many at most.
        rev: The newest.

    Raises:
        UsageError: The folder has no versions, or none of that name.
    """
    need_versions(dataset)
    count = [] if limit is None else [f"--max-count={limit}"]
    # -c: a joining version shows what neither side had, so that each run is told once.
    words = ["log", "--topo-order", "-c", "--name-status", "--no-renames", "--no-color", *count]
    form = "--format=%x01%H%x00%P%x00%cI%x00%an%x00%s%x00"
    text = run_git(dataset, *words, "--no-show-signature", form, resolve(dataset, rev))
    tags = tags_of(dataset)
    versions = []
    for entry in text.split("\x01")[1:]:
        commit, parents, date, author, message, names = entry.split("\0")
        changes: dict[str, list[str]] = {"A": [], "M": [], "D": []}
        for line in names.split("\n"):
            letters, _, name = line.partition("\t")
            if letters and name.endswith(".dvc") and "/" not in name:
                kind = letters[0] if letters[0] in changes else "M"
                changes[kind].append(name[: -len(".dvc")])
        added, changed, removed = (tuple(sorted(changes[kind])) for kind in "AMD")
        runs = pointers_at(dataset, commit).values()
        sizes = [pointer.bytes for pointer in runs]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        versions.append(
            Version(
                commit=commit,
                tags=tags.get(commit, ()),
                date=date,
                author=author,
                message=message,
                joins=" " in parents,
                added=added,
                changed=changed,
                removed=removed,
                runs=len(runs),
                bytes=total,
            )
        )
    return versions


def count_versions(dataset: Path, rev: str = "HEAD") -> int:
    """Return how many versions there are up to one of them."""
    return int(run_git(dataset, "rev-list", "--count", resolve(dataset, rev)))


def compare(dataset: Path, old: str = "HEAD", new: str | None = None) -> Difference:
    """Compare two versions, or a version with the folder.

    Args:
        dataset: The dataset.
        old: A commit or tag.
        new: Another one; None is the folder as it is.

    Raises:
        UsageError: The folder has no versions, or none of that name.
    """
    need_versions(dataset)
    first = resolve(dataset, old)
    second = None if new is None else resolve(dataset, new)
    before = pointers_at(dataset, first)
    after = _local_runs(dataset) if second is None else pointers_at(dataset, second)
    gone = [run for run in sorted(before) if run not in after]
    had = had_here(dataset)
    absent = [run for run in gone if second is None and run not in had]
    shared = [run for run in sorted(before) if run in after]
    changed = [run for run in shared if not same_run(before[run], after[run])]
    return Difference(
        old=first,
        new=second,
        added=tuple(run for run in sorted(after) if run not in before),
        removed=tuple(run for run in gone if run not in absent),
        absent=tuple(absent),
        changed=tuple(_changed(dataset, before[run], after[run]) for run in changed),
        same=len(shared) - len(changed),
    )


def same_run(old: Pointer, new: Pointer) -> bool:
    """Say whether two pointers point at the same content."""
    if old.run_json_sha256 is not None and new.run_json_sha256 is not None:
        return old.run_json_sha256 == new.run_json_sha256
    return bool(old.oid) and old.oid == new.oid


def run_json_of(dataset: Path, pointer: Pointer) -> dict[str, Any] | None:
    """Return a run's `run.json` as the pointer means it, None if it is not at hand.

    From the folder or from the local cache, and only if its SHA-256 is the pointer's.
    """
    for path in (dataset / pointer.run / RUN_JSON, _cached_run_json(dataset, pointer)):
        try:
            content = path.read_bytes() if path else b""
            if sha256(content).hexdigest() == pointer.run_json_sha256:
                found = json.loads(content)
                return found if isinstance(found, dict) else None
        except (OSError, ValueError):
            continue
    return None


def cached(dataset: Path, oid: str) -> Path:
    """Return where this folder's cache keeps an object."""
    return dataset / ".dvc" / "cache" / "files" / "md5" / oid[:2] / oid[2:]


def _cached_run_json(dataset: Path, pointer: Pointer) -> Path | None:
    try:
        listed = json.loads(cached(dataset, pointer.oid).read_bytes()) if pointer.oid else []
        return next(cached(dataset, x["md5"]) for x in listed if x["relpath"] == RUN_JSON)
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None


def _local_runs(dataset: Path) -> dict[str, Pointer]:
    """Return the folder's runs as a version would point at them, without an object's name."""
    found = {}
    for path in run_directories(dataset):
        try:
            content = (path / RUN_JSON).read_bytes()
        except OSError:
            continue
        found[path.name] = Pointer(path.name, "", run_json_sha256=sha256(content).hexdigest())
    return found


def _changed(dataset: Path, old: Pointer, new: Pointer) -> ChangedRun:
    before, after = run_json_of(dataset, old), run_json_of(dataset, new)
    if before is None or after is None:
        pair = (old.config_sha256, new.config_sha256)
        return ChangedRun(old.run, False, same_config=None if None in pair else pair[0] == pair[1])
    config = _differing(_object(before.get("config")), _object(after.get("config")))
    return ChangedRun(
        run=old.run,
        known=True,
        config=config,
        facts=_differing(*({name: run.get(name) for name in _FACTS} for run in (before, after))),
        figures=_differing(*(_figures(run) for run in (before, after))),
        files=tuple(sorted(_differing(_hashes(before), _hashes(after)))),
        same_config=not config,
        simulated=bool(before.get("simulated") or after.get("simulated")),
    )


def _figures(run: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: _figure(run, where) for name, where in FIGURES.items()}


def _hashes(run: Mapping[str, Any]) -> dict[str, Any]:
    listed = _object(run.get("files"))
    return {name: _object(facts).get("sha256") for name, facts in listed.items()}


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted(old.keys() | new.keys())
    pairs = {name: (old.get(name), new.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _figure(run: Mapping[str, Any], where: tuple[str, ...]) -> float | None:
    found: Any = run.get("summary")
    for key in where:
        found = _object(found).get(key)
    real = isinstance(found, (int, float)) and not isinstance(found, bool)
    return float(found) if real else None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
