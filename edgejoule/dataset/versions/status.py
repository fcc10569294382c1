"""How a dataset's folder stands against its version, and the version against the remote.

Fast: of each run `run.json` is hashed, and of the other files only the sizes are looked at, unless
all are to be hashed. What cannot be found out is said to be unknown, with the reason; it is never
reported as "in step".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgejoule.dataset.findings import Finding
from edgejoule.dataset.run_directory import PARTIAL, RUN_JSON, is_dataset, run_directories
from edgejoule.dataset.verify import check_hashes, run_json_is_whole
from edgejoule.dataset.versions.dagshub import need_token, user_of
from edgejoule.dataset.versions.git import git_succeeds, is_repository, run_git
from edgejoule.dataset.versions.history import tags_of
from edgejoule.dataset.versions.notes import had_here, noted_damaged
from edgejoule.dataset.versions.pointers import Pointer, pointers_at
from edgejoule.dataset.versions.repository import (
    FETCHED,
    configured_remote,
    fetch,
    has_commits,
    on_branch,
)
from edgejoule.errors import (
    EXIT_DONE,
    EXIT_SERVER,
    EXIT_WRONG,
    EdgejouleError,
    MeasurementError,
    UsageError,
)
from edgejoule.files import read_json, sha256_of

# In the order in which they are shown.
STATES = ("damaged", "changed", "vanished", "new", "removed", "later", "absent", "same")
_DIFFERING = {"damaged", "changed", "vanished", "new"}
_SMALL_FILES = {"dataset.json", "idling_power.json", ".gitignore", ".dvcignore", ".dvc/config"}


@dataclass(frozen=True)
class RunStatus:
    """How one run stands.

    Attributes:
        run: Its name.
        state: `new` (here, not in the version), `changed` (another run than the version's),
            `damaged` (its files are not those of its `run.json`), `vanished` (this folder had it),
            `absent` (in the version, never fetched here), `removed` (others took it out of the
            version), `later` (the folder shows an old version, the run is of a newer one), `same`.
        marks: `incomplete`, `failed`, `simulated`, `random weights`.
        why: One line where the state does not say it all.
    """

    run: str
    state: str
    marks: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class VersionStatus:
    """Which version the folder shows.

    Attributes:
        commit: Its commit.
        tags: Names of it.
        branch: The branch, None where an old version is shown.
        date: When it was made, ISO 8601 with the zone.
        runs: How many it holds.
        bytes: Size of all of them; None where a pointer does not say.
    """

    commit: str
    tags: tuple[str, ...]
    branch: str | None
    date: str
    runs: int
    bytes: int | None


@dataclass(frozen=True)
class RemoteStatus:
    """How the version stands against the remote's.

    Attributes:
        label: The remote; None: the dataset was never pushed or pulled.
        state: `in step`, `ahead`, `behind`, `apart` (both), `empty` (no version there yet),
            `not asked`, `unknown`, `none`.
        ahead, behind: Versions that only this folder, only the remote has; None: not known.
        runs_there: Runs that a pull would bring or replace.
        why: Why it is unknown.
        asked: Whether the remote was asked now; else the figures are of the last push or pull.
        damaged: Files whose objects a check of the remote found bad, `run/file`.
        exit_code: That of the failure, where the remote was to be asked.
    """

    label: str | None
    state: str
    ahead: int | None = None
    behind: int | None = None
    runs_there: tuple[str, ...] = ()
    why: str = ""
    asked: bool = False
    damaged: tuple[str, ...] = ()
    exit_code: int = EXIT_DONE


@dataclass(frozen=True)
class Status:
    """How a dataset stands.

    Attributes:
        dataset: Its folder.
        versioned: Whether it is a repository with a version.
        version: Which it shows; None without one.
        runs: Every run of the folder and of the version, in the order of `STATES`, then by name.
        small_files: Files in git (defaults, baseline, settings) that differ from the version's.
        unfinished: Working directories of runs that are being measured or were killed.
        remote: The remote.
        full: Whether all files were hashed.
    """

    dataset: Path
    versioned: bool
    version: VersionStatus | None
    runs: tuple[RunStatus, ...]
    small_files: tuple[str, ...]
    unfinished: tuple[str, ...]
    remote: RemoteStatus = field(default_factory=lambda: RemoteStatus(None, "none"))
    full: bool = False

    @property
    def exit_code(self) -> int:
        """0: nothing to do; 1: something differs; 3, 4: the remote was asked and did not answer."""
        if self.remote.exit_code:
            return self.remote.exit_code
        return EXIT_WRONG if self.differs else EXIT_DONE

    @property
    def differs(self) -> bool:
        """Whether there is anything to push, pull, mend or decide."""
        here = self.small_files or any(run.state in _DIFFERING for run in self.runs)
        there = self.remote.ahead or self.remote.behind or self.remote.state == "empty"
        return bool(here or there or self.remote.damaged)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        remote = asdict(self.remote)
        del remote["exit_code"]
        return {
            "dataset": str(self.dataset),
            "versioned": self.versioned,
            "version": None if self.version is None else asdict(self.version),
            "runs": [asdict(run) for run in self.runs],
            "small_files": list(self.small_files),
            "unfinished": list(self.unfinished),
            "remote": remote,
            "full": self.full,
            "differs": self.differs,
        }


def status(
    dataset: Path, *, full: bool = False, ask_remote: bool = False, branch: str = "main"
) -> Status:
    """Compare a dataset's folder with its version, and the version with the remote.

    A folder as remote is always asked; another only with `ask_remote`.

    Args:
        dataset: The folder.
        full: Hash every file, not only each `run.json`.
        ask_remote: Ask a remote that needs the network.
        branch: The remote's branch.

    Raises:
        UsageError: The folder is no dataset.
    """
    repository = is_repository(dataset)
    if not repository and not is_dataset(dataset):
        raise UsageError(f"{dataset} is no dataset", "give a folder of runs")
    versioned = repository and has_commits(dataset)
    pointers = pointers_at(dataset, "HEAD") if versioned else {}
    attached = not versioned or on_branch(dataset)
    later = {} if attached else _newest(dataset)
    had = had_here(dataset)
    found = [_of_run(path, pointers, later, had, full=full) for path in run_directories(dataset)]
    here = {run.run for run in found}
    for run in sorted(pointers.keys() - here):
        state = "vanished" if run in had else "absent"
        found.append(RunStatus(run, state, _marks_of(pointers[run])))
    found.sort(key=lambda run: (STATES.index(run.state), run.run))
    return Status(
        dataset=dataset,
        versioned=versioned,
        version=_version(dataset, pointers, attached=attached) if versioned else None,
        runs=tuple(found),
        small_files=_small_files(dataset) if versioned else (),
        unfinished=_unfinished(dataset),
        remote=_remote(dataset, pointers, branch, ask=ask_remote)
        if repository
        else RemoteStatus(None, "none"),
        full=full,
    )


def _of_run(
    path: Path,
    pointers: Mapping[str, Pointer],
    later: Mapping[str, Pointer],
    had: Mapping[str, str],
    *,
    full: bool,
) -> RunStatus:
    wanted = pointers[path.name].run_json_sha256 if path.name in pointers else None
    try:
        sha256 = sha256_of(path / RUN_JSON)
    except OSError as error:
        return RunStatus(path.name, "damaged", why=f"{RUN_JSON} cannot be read ({error.strerror})")
    run = _sealed(path) if sha256 == wanted else None
    run = run or run_json_is_whole(path)
    if run is None:
        return RunStatus(path.name, "damaged", why=f"{RUN_JSON} is damaged")
    marks = [run["status"]] if run["status"] != "complete" else []
    marks += ["simulated"] if run["simulated"] else []
    marks += ["random weights"] if run["weights"] == "random" else []
    findings = check_hashes(path, run) if full else _sizes(path, run)
    if findings:
        first = findings[0]
        more = f" and {len(findings) - 1} more" if len(findings) > 1 else ""
        why = f"{first.file} {first.problem}{more}"
        return RunStatus(path.name, "damaged", tuple(marks), why)
    state, why = "new", ""
    if path.name in pointers:
        state = "same" if wanted == sha256 else "changed"
        why = "the version's pointer names no hash of it" if wanted is None else ""
    elif had.get(path.name) == sha256:
        state = "removed"
    if state != "same" and path.name in later and later[path.name].run_json_sha256 == sha256:
        state, why = "later", ""
    return RunStatus(path.name, state, tuple(marks), why)


def _sealed(path: Path) -> dict[str, Any] | None:
    """Return a `run.json` whose hash the version names, without holding it against the schema.

    That takes seconds for hundreds, and was done before it was pushed. None where it lacks what
    is needed here, so that the schema says why.
    """
    try:
        run = read_json(path / RUN_JSON)
        needed = (run["status"], run["simulated"], run["weights"])
        sizes = [facts["bytes"] for facts in run["files"].values()]
    except (MeasurementError, LookupError, TypeError, AttributeError):
        return None
    found: dict[str, Any] | None = run if None not in (*needed, *sizes) else None
    return found


def _sizes(path: Path, run: Mapping[str, Any]) -> list[Finding]:
    """Compare the sizes of a run's files with its `run.json`; reads none of them."""
    findings = []
    for name, facts in run["files"].items():
        try:
            size = (path / name).stat().st_size
        except OSError:
            findings.append(Finding(name, "is missing"))
            continue
        if size != facts["bytes"]:
            findings.append(Finding(name, f"has {size} bytes, run.json says {facts['bytes']}"))
    return findings


def _marks_of(pointer: Pointer) -> tuple[str, ...]:
    marks = [pointer.status] if pointer.status not in {None, "complete"} else []
    marks += ["simulated"] if pointer.simulated else []
    marks += ["random weights"] if pointer.weights == "random" else []
    return tuple(str(mark) for mark in marks)


def _newest(dataset: Path) -> dict[str, Pointer]:
    """Return the runs of the newest version that is known here."""
    for name in (FETCHED, "refs/heads/main"):
        if git_succeeds(dataset, "rev-parse", "--verify", "--quiet", name):
            return pointers_at(dataset, name)
    return {}


def _version(dataset: Path, pointers: Mapping[str, Pointer], *, attached: bool) -> VersionStatus:
    commit, date = run_git(dataset, "log", "-1", "--format=%H %cI").split()
    branch = run_git(dataset, "symbolic-ref", "--short", "HEAD").strip() if attached else None
    sizes = [pointer.bytes for pointer in pointers.values()]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    tags = tags_of(dataset).get(commit, ())
    return VersionStatus(commit, tags, branch, date, len(pointers), total)


def _small_files(dataset: Path) -> tuple[str, ...]:
    """Return the versioned small files that differ from the version's, or are not in it yet."""
    words = ["status", "--porcelain", "-z", "--no-renames", "--untracked-files=all"]
    names = [entry[3:] for entry in run_git(dataset, *words).split("\0") if len(entry) > 3]
    return tuple(sorted(name for name in names if name in _SMALL_FILES))


def _unfinished(dataset: Path) -> tuple[str, ...]:
    folder = dataset / PARTIAL
    if not folder.is_dir():
        return ()
    return tuple(
        sorted(x.name for x in folder.iterdir() if x.is_dir() and not x.name.startswith("."))
    )


def _remote(
    dataset: Path, pointers: Mapping[str, Pointer], branch: str, *, ask: bool
) -> RemoteStatus:
    try:
        remote = configured_remote(dataset)
    except EdgejouleError as error:  # set to another host than the one configured now
        return RemoteStatus(
            None, "unknown", why=str(error), exit_code=error.exit_code if ask else 0
        )
    if remote is None:
        return RemoteStatus(None, "none")
    notes = noted_damaged(dataset, remote.store).values()
    damaged = tuple(sorted({name for damage in notes for name in damage.files}))
    if remote.shared and not ask:
        ahead, behind, there = _counts(dataset, pointers)
        return RemoteStatus(
            remote.label, "not asked", ahead, behind, there, "it needs the network", damaged=damaged
        )
    try:
        if not remote.shared and not Path(remote.git_url).is_dir():
            raise EdgejouleError(f"{remote.label} is not there", exit_code=EXIT_SERVER)
        token = need_token() if remote.needs_token else None
        if token:
            user_of(token)  # git and DVC tell a refused token in other words
        there_is_one = fetch(dataset, remote, token, branch)
    except EdgejouleError as error:
        code = error.exit_code if ask else EXIT_DONE
        why = error.message
        return RemoteStatus(
            remote.label, "unknown", why=why, asked=True, damaged=damaged, exit_code=code
        )
    if not there_is_one:
        return RemoteStatus(remote.label, "empty", asked=True, damaged=damaged)
    ahead, behind, there = _counts(dataset, pointers)
    state = {(False, False): "in step", (True, False): "ahead", (False, True): "behind"}.get(
        (bool(ahead), bool(behind)), "apart"
    )
    return RemoteStatus(remote.label, state, ahead, behind, there, asked=True, damaged=damaged)


def _counts(
    dataset: Path, pointers: Mapping[str, Pointer]
) -> tuple[int | None, int | None, tuple[str, ...]]:
    """Return versions only here, only there as last fetched, and the runs that these bring."""
    known = git_succeeds(dataset, "rev-parse", "--verify", "--quiet", FETCHED)
    if not known or not has_commits(dataset):
        return None, None, ()
    text = run_git(dataset, "rev-list", "--left-right", "--count", f"HEAD...{FETCHED}")
    ahead, behind = map(int, text.split())
    theirs = pointers_at(dataset, FETCHED) if behind else {}
    return ahead, behind, tuple(sorted(r for r, p in theirs.items() if pointers.get(r) != p))
