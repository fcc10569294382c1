"""Bring runs of a version into a folder, and hash every file of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgejoule.dataset.run_directory import RUN_JSON, run_directories
from edgejoule.dataset.verify import check_hashes, run_json_is_whole
from edgejoule.dataset.versions import dvc_adapter as dvc
from edgejoule.dataset.versions.dagshub import need_token, user_of
from edgejoule.dataset.versions.foreign import check_tree
from edgejoule.dataset.versions.git import git_succeeds, remote_refs, run_git
from edgejoule.dataset.versions.locking import one_at_a_time
from edgejoule.dataset.versions.notes import note_here
from edgejoule.dataset.versions.pointers import Pointer, pointers_at
from edgejoule.dataset.versions.remotes import Remote, need_store
from edgejoule.dataset.versions.repository import (
    FETCHED,
    fetch,
    head,
    init,
    join,
    on_branch,
    refuse_collisions,
    set_git_remote,
    set_store_here,
)
from edgejoule.dataset.versions.stamps import is_stamped, stamp
from edgejoule.dataset.versions.stores import with_store_of
from edgejoule.dataset.versions.tags import version_of
from edgejoule.dataset.versions.transfer import (
    Meter,
    bring,
    files_of,
    lacking_in_cache,
    md5_of_file,
)
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import disk_errors, files_below, sha256_of
from edgejoule.report.progress import Progress

Say = Callable[[str], None]
# What DVC leaves in a folder when it is killed while it copies a file.
_LEFT_BY_DVC = re.compile(r"(^|/)\.[0-9A-Za-z_-]{20,}\.tmp$")


@dataclass(frozen=True)
class Pulled:
    """What a pull brought.

    Attributes:
        remote: Where from.
        runs: Runs that were asked for; all are here and checked.
        commit: The commit that they belong to.
        version: Its name: `data-3`.
        fetched: Those of the runs that were not here.
        others: Runs in this folder that are not of this version; they were left alone.
    """

    remote: Remote
    runs: tuple[str, ...]
    commit: str
    version: str = ""
    fetched: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def pull(
    dataset: Path,
    remote: Remote,
    *,
    runs: Sequence[str] = (),
    branch: str = "main",
    rev: str | None = None,
    say: Say = print,
    progress: Progress | None = None,
) -> Pulled:
    """Bring runs of a remote into a folder and check every file of them.

    Args:
        dataset: A dataset, or a folder that is empty or not there yet.
        remote: Where from.
        runs: Names of the runs to bring; all if empty.
        branch: The branch to follow.
        rev: A commit or tag to show instead of the branch's newest version.
        say: Takes lines for people.
        progress: Shows objects and bytes.

    Raises:
        TokenError, ServerError: As they say.
        MeasurementError: The remote lacks a file or has it damaged, or a local run of the same name
            differs; the line names them.
        UsageError: No such remote, run, branch, version or store.
    """
    dvc.need_dvc(remote)
    token = need_token() if remote.needs_token else None
    if token:
        user_of(token)  # stores report a refused token as missing files
    _check_remote(remote, token, branch)
    init(dataset, commit=False)
    with one_at_a_time(dataset), disk_errors(dataset):
        if not on_branch(dataset):
            run_git(dataset, "checkout", "--quiet", "main")
        if not fetch(dataset, remote, token, branch):
            raise UsageError(f"{remote.label} has no branch {branch}", "give --branch")
        commit = _commit_of(dataset, remote, rev)
        remote = need_store(with_store_of(dataset, remote, commit))
        dvc.need_dvc(remote)
        if remote.needs_token and token is None:
            token = need_token()
            user_of(token)
        _check_store(remote)
        version = pointers_at(dataset, commit)
        chosen = _chosen(remote, version, runs)
        refuse_collisions(dataset, chosen)
        set_git_remote(dataset, remote)
        check_tree(dataset, commit)
        for line in join(dataset):
            say(line)
        if rev is not None:
            run_git(dataset, "checkout", "--quiet", "--detach", commit)
        set_store_here(dataset, remote)
        wanted = [
            run for run in chosen if not is_stamped(dataset, run, version[run].run_json_sha256)
        ]
        if wanted:
            _bring(dataset, remote, token, {run: version[run] for run in wanted}, say, progress)
            _check_pulled(dataset, version, wanted)
            stamp(dataset, wanted)
        note_here(dataset, {run: sha256_of(dataset / run / RUN_JSON) for run in chosen})
        here = {path.name for path in run_directories(dataset)}
        return Pulled(
            remote, tuple(chosen), head(dataset), version=version_of(dataset),
            fetched=tuple(wanted), others=tuple(sorted(here - set(version))),
        )  # fmt: skip


def _check_remote(remote: Remote, token: str | None, branch: str) -> None:
    """Look at the remote before anything is made here.

    Raises:
        UsageError: It is none, or has no such branch.
        TokenError, ServerError: As they say.
    """
    if not remote.shared and not Path(remote.git_url).is_dir():
        hint = "push to it first"
        if _looks_like_owner_and_name(remote.label):
            hint += f"; OWNER/NAME on DagsHub is https://dagshub.com/{_relative(remote.label)}"
        raise UsageError(f"{remote.label} is no remote of a dataset", hint)
    refs = remote_refs(remote, token)
    heads = [name[len("refs/heads/") :] for name in refs if name.startswith("refs/heads/")]
    if branch not in heads:
        has = (
            f"it has {', '.join(sorted(heads)[:5])}; give --branch" if heads else "push to it first"
        )
        raise UsageError(f"{remote.label} has no branch {branch}", has)


def _looks_like_owner_and_name(label: str) -> bool:
    owner, _, name = _relative(label).partition("/")
    return bool(name) and "/" not in name and not Path(owner or "/").exists()


def _relative(label: str) -> str:
    try:
        return Path(label).relative_to(Path.cwd()).as_posix()
    except ValueError:
        return label


def _check_store(remote: Remote) -> None:
    """Refuse a store in a folder that is not there, before each object is called missing."""
    if "://" not in remote.dvc_url and not Path(remote.dvc_url).is_dir():
        raise UsageError(
            f"the data of {remote.label} are in {remote.dvc_url}, which is not there",
            "mount it, or say where it is with --store",
        )


def _commit_of(dataset: Path, remote: Remote, rev: str | None) -> str:
    wanted = FETCHED if rev is None else rev
    if wanted.startswith("-") or not git_succeeds(
        dataset, "rev-parse", "--quiet", "--verify", f"{wanted}^{{commit}}"
    ):
        raise UsageError(
            f"{remote.label} has no version {rev}",
            "give a tag (data-1) or a commit; log lists them",
        )
    return run_git(dataset, "rev-parse", f"{wanted}^{{commit}}").strip()


def _chosen(remote: Remote, version: dict[str, Pointer], runs: Sequence[str]) -> list[str]:
    if unknown := sorted(set(runs) - set(version)):
        raise UsageError(
            f"{remote.label} has no run {unknown[0]}",
            f"it has {', '.join(sorted(version)[:20]) or 'none'}",
        )
    return list(dict.fromkeys(runs)) or sorted(version)


def _bring(
    dataset: Path,
    remote: Remote,
    token: str | None,
    wanted: dict[str, Pointer],
    say: Say,
    progress: Progress | None,
) -> None:
    """Bring the objects of runs into the cache, then their files into the folder."""
    progress = progress or Progress(quiet=True)
    with dvc.opened(dataset, remote, token) as repo:
        lists: dict[str, tuple[str, ...]] = {
            pointer.oid: (f"{run}/",) for run, pointer in wanted.items()
        }
        missing = {oid: lists[oid] for oid in lacking_in_cache(repo, list(lists))}
        if missing:
            bring(repo, missing, Meter("fetching lists", len(missing), 0, progress))
        oids: dict[str, tuple[str, ...]] = {}
        for run, pointer in wanted.items():
            files = files_of(repo, run, pointer.oid)
            _refuse_what_is_in_the_way(dataset, run, files)
            for name, oid in files.items():
                oids[oid] = (*oids.get(oid, ()), f"{run}/{name}")
        missing = {oid: oids[oid] for oid in lacking_in_cache(repo, list(oids))}
        if missing:
            total = sum(pointer.bytes or 0 for pointer in wanted.values())
            count = f"{len(wanted)} run" + ("s" if len(wanted) != 1 else "")
            say(f"fetching {count} from {remote.label}")
            # Of a resumed pull the total is not known: lists do not tell sizes.
            known = total if len(missing) == len(oids) else 0
            bring(repo, missing, Meter("fetching", len(missing), known, progress))
        for number, run in enumerate(wanted, 1):
            progress.update("putting in place", number, len(wanted))
            dvc.check_out(repo, run)


def _refuse_what_is_in_the_way(dataset: Path, run: str, files: dict[str, str]) -> None:
    """Refuse if the run's folder holds what the version does not: it would be lost.

    Raises:
        MeasurementError: It does.
    """
    folder = dataset / run
    if not folder.is_dir():
        return
    for name in files_below(folder):
        path = folder / name
        if name in files and not path.is_symlink() and md5_of_file(path) == files[name]:
            continue
        if _LEFT_BY_DVC.search(name):
            path.unlink()
            continue
        what = "differs from" if name in files else "is not in"
        raise MeasurementError(
            f"{run}/{name} {what} the version's run",
            f"move or delete {path}, then pull again",
        )


def _check_pulled(dataset: Path, version: dict[str, Pointer], runs: Sequence[str]) -> None:
    """Hash every file that was pulled.

    Raises:
        MeasurementError: Some are missing or wrong; all are named.
    """
    wrong = []
    for run in runs:
        content = run_json_is_whole(dataset / run)
        wanted = version[run].run_json_sha256
        if content is None or wanted not in {None, sha256_of(dataset / run / RUN_JSON)}:
            wrong.append(f"{run}/{RUN_JSON} is not what was pushed")
            continue
        findings = check_hashes(dataset / run, content)
        wrong += [f"{run}/{finding.file} {finding.problem}" for finding in findings]
    if wrong:
        raise MeasurementError(
            "; ".join(wrong), "whoever has these runs pushes again with `push --deep`"
        )
