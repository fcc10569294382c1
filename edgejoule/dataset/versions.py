"""Versions of a dataset: push and pull; `init` is in `repository`.

The dataset is its own git and DVC repository with one pointer file per run. A push sends the data,
asks the remote for every object, and moves the branch last: a branch never points at data that is
not there, and a push that was cut short is simply run again. DagsHub or a folder: see `dagshub`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgejoule.dataset import dvc_adapter as dvc
from edgejoule.dataset.dagshub import (
    DEFAULT_NAME,
    Remote,
    dagshub_remote,
    ensure_repository,
    folder_remote,
    need_token,
    remote_from_url,
    token_from_environment,
    user_of,
)
from edgejoule.dataset.findings import ERROR, FAILED
from edgejoule.dataset.git import PushRejectedError, git_succeeds, run_git
from edgejoule.dataset.remote_objects import missing_on_remote, objects_of, send_again
from edgejoule.dataset.repository import (
    commit_files,
    configured_remote,
    fetch,
    head,
    init,
    join,
    make_folder_remote,
    merge,
    on_branch,
    refuse_collisions,
)
from edgejoule.dataset.run_directory import RUN_JSON, is_dataset, run_directories
from edgejoule.dataset.verify import check_hashes, run_json_is_whole, verify_run
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import sha256_of

__all__ = ["Pulled", "Pushed", "configured_remote", "init", "pull", "push", "resolve_remote"]

Say = Callable[[str], None]

_PUSH_ATTEMPTS = 3


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        remote: Where to.
        new: Runs that the version gained.
        known: Runs that it had already.
        refused: Run -> why it was not sent.
        commit: The commit that the branch points at now.
    """

    remote: Remote
    new: tuple[str, ...]
    known: tuple[str, ...]
    refused: dict[str, str]
    commit: str


@dataclass(frozen=True)
class Pulled:
    """What a pull brought: runs now here and checked, and the commit they belong to."""

    remote: Remote
    runs: tuple[str, ...]
    commit: str


def resolve_remote(dataset: Path, url: str | None, owner: str | None, name: str | None) -> Remote:
    """Decide where to push to or pull from.

    In this order: the URL or folder given; owner and name (flag or environment, the owner may be
    left to the token's user); what the dataset is set to; with a token, `edgejoule-raw-data` of
    its user; else the folder `<dataset>-remote` beside the dataset, which needs neither token nor
    network.

    Raises:
        UsageError: URL and names at once, or a bad one.
        TokenError, ServerError: If the token's user has to be asked for.
    """
    if url and (owner or name):
        raise UsageError("an address and --owner or --name are given", "give one of them")
    if url:
        return remote_from_url(url)
    owner = owner or os.environ.get("DAGSHUB_OWNER") or None
    name = name or os.environ.get("DAGSHUB_REPO_NAME") or None
    if owner or name:
        return dagshub_remote(owner or user_of(need_token()), name or DEFAULT_NAME)
    beside = folder_remote(dataset.resolve().with_name(f"{dataset.resolve().name}-remote"))
    configured = configured_remote(dataset)
    token = token_from_environment()
    if configured is not None and (configured != beside or not token):
        return configured
    return dagshub_remote(user_of(token), DEFAULT_NAME) if token else beside


def push(
    dataset: Path,
    remote: Remote,
    *,
    runs: Sequence[str] = (),
    message: str | None = None,
    branch: str = "main",
    force: bool = False,
    allow_change: bool = False,
    create: bool = False,
    say: Say = print,
) -> Pushed:
    """Send runs to the remote as a new version.

    Args:
        dataset: The dataset's folder; made a repository if it is none.
        remote: Where to.
        runs: Names of the runs to send; all if empty.
        message: The version's message.
        branch: The branch to move.
        force: Send simulated, random-weight and incomplete runs to a shared remote, too.
        allow_change: Replace runs that the version has with other content.
        create: Create the repository if it is not there.
        say: Takes lines for people.

    Raises:
        TokenError, ServerError: As they say; nothing was changed on the remote's branch.
        MeasurementError: A run is wrong, was changed, or the remote lacks what was sent.
        UsageError: No such run, no such repository.
    """
    if not is_dataset(dataset):
        raise UsageError(f"{dataset} is no dataset", "give a folder of runs with --dataset")
    token = need_token() if remote.shared else None
    if remote.shared:
        ensure_repository(remote, create=create)
    else:
        make_folder_remote(remote)
    init(dataset, commit=False)
    if not on_branch(dataset):
        raise UsageError(
            f"{dataset} shows an old version", "run pull without --rev first, then push"
        )
    chosen, refused = _choose(dataset, remote, runs, force=force)
    join(dataset, remote, token, branch)
    if not allow_change:
        refuse_collisions(dataset)
    new, known = _sort(dataset, chosen, allow_change=allow_change)
    for run in new:
        _check_run(dataset, run)
    with dvc.opened(dataset, remote, token) as repo:
        for run in new:
            say(f"adding {run}")
            dvc.add_run(repo, run, _meta(dataset, run))
        if chosen:
            say(f"sending {_count(chosen)} to {remote.label}")
            _send(repo, chosen, remote)
    commit_files(dataset, message or _message(new), [f"{run}.dvc" for run in new])
    _move_branch(dataset, remote, token, branch, allow_change=allow_change)
    return Pushed(remote, tuple(new), tuple(known), refused, head(dataset))


def pull(
    dataset: Path,
    remote: Remote,
    *,
    runs: Sequence[str] = (),
    branch: str = "main",
    rev: str | None = None,
    say: Say = print,
) -> Pulled:
    """Bring runs of a remote into a folder and check every file of them.

    Args:
        dataset: A dataset, or a folder that is empty or not there yet.
        remote: Where from.
        runs: Names of the runs to bring; all if empty.
        branch: The branch to follow.
        rev: A commit or tag to show instead of the branch's newest version.
        say: Takes lines for people.

    Raises:
        TokenError, ServerError: As they say.
        MeasurementError: The remote lacks a file or has it damaged, or a local run of the same name
            differs; the line names them.
        UsageError: No such remote, run, branch or version.
    """
    token = need_token() if remote.shared else None
    if token:
        user_of(token)  # DVC would report a refused token as missing files
    elif not Path(remote.git_url).is_dir():
        raise UsageError(f"{remote.label} is no remote of a dataset", "push to it first")
    init(dataset, commit=False)
    if not on_branch(dataset):
        run_git(dataset, "checkout", "--quiet", "main")
    if not join(dataset, remote, token, branch):
        raise UsageError(f"{remote.label} has no branch {branch}", "give --branch")
    refuse_collisions(dataset)
    if rev is not None:
        if not git_succeeds(dataset, "rev-parse", "--quiet", "--verify", f"{rev}^{{commit}}"):
            raise UsageError(f"{remote.label} has no version {rev}", "give a commit or a tag")
        run_git(dataset, "checkout", "--quiet", "--detach", f"{rev}^{{commit}}")
    available = dvc.pointers(dataset)
    if unknown := sorted(set(runs) - set(available)):
        raise UsageError(
            f"{remote.label} has no run {unknown[0]}",
            f"it has {', '.join(available[:20]) or 'none'}",
        )
    chosen = list(dict.fromkeys(runs)) or available
    if chosen:
        say(f"fetching {_count(chosen)} from {remote.label}")
        with dvc.opened(dataset, remote, token) as repo:
            dvc.pull_runs(repo, chosen)
    _check_pulled(dataset, chosen)
    return Pulled(remote, tuple(chosen), head(dataset))


def _choose(
    dataset: Path, remote: Remote, runs: Sequence[str], *, force: bool
) -> tuple[list[str], dict[str, str]]:
    """Return the runs to send and those refused with the reason."""
    here = {path.name: path for path in run_directories(dataset)}
    if unknown := sorted(set(runs) - set(here)):
        raise UsageError(
            f"{dataset} has no run {unknown[0]}", f"it has {', '.join(sorted(here)[:20]) or 'none'}"
        )
    chosen, refused = [], {}
    for name in list(dict.fromkeys(runs)) or sorted(here):
        run = run_json_is_whole(here[name])
        if run is None:
            raise MeasurementError(f"{name}/run.json is damaged", "verify says in what")
        reasons = _unreal(run)
        if reasons and remote.shared and not force:
            refused[name] = ", ".join(reasons)
        else:
            chosen.append(name)
    return chosen, refused


def _unreal(run: dict[str, Any]) -> list[str]:
    """Return why others should not take this run for a real one."""
    reasons = []
    if run["simulated"]:
        reasons.append("its power is simulated")
    if run["weights"] == "random":
        reasons.append("its weights are random")
    if run.get("shared_gpu"):
        reasons.append("somebody else used the GPU")
    if run["status"] != "complete":
        reasons.append(f"it is {run['status']}")
    return reasons


def _sort(
    dataset: Path, chosen: Sequence[str], *, allow_change: bool
) -> tuple[list[str], list[str]]:
    """Return the runs that the version lacks, and those it has as they are here."""
    new, known = [], []
    for run in chosen:
        pointer = dvc.pointer_of(dataset, run)
        if not pointer.exists() or not git_succeeds(dataset, "cat-file", "-e", f"HEAD:{run}.dvc"):
            new.append(run)
            continue
        committed = run_git(dataset, "show", f"HEAD:{run}.dvc")
        if dvc.pointer_sha256(committed) == sha256_of(dataset / run / RUN_JSON):
            known.append(run)
        elif allow_change:
            new.append(run)
        else:
            raise MeasurementError(
                f"{run} differs from the run of that name in the version",
                "rename it, or push --allow-change to replace it",
            )
    return new, known


def _check_run(dataset: Path, run: str) -> None:
    report = verify_run(dataset / run)
    # That the measurement failed is the run's own word; with --force it may be sent all the same.
    errors = [
        finding
        for finding in report.findings
        if finding.severity == ERROR and not finding.problem.startswith(FAILED)
    ]
    if errors:
        first = errors[0]
        raise MeasurementError(
            f"{run}/{first.file} {first.problem}", f"data_version.py verify {dataset / run}"
        )


def _meta(dataset: Path, run: str) -> dict[str, Any]:
    """Return what the pointer says of the run: enough to check and to choose without the data."""
    found = run_json_is_whole(dataset / run) or {}
    return {
        "run_json_sha256": sha256_of(dataset / run / RUN_JSON),
        "config_sha256": found.get("config_sha256"),
        "status": found.get("status"),
        "simulated": found.get("simulated"),
        "weights": found.get("weights"),
    }


def _send(repo: Any, runs: Sequence[str], remote: Remote) -> None:
    """Push, then ask the remote for every object; send what it lacks once more."""
    dvc.push_runs(repo, runs)
    objects = [item for run in runs for item in objects_of(repo, run)]
    if lacking := missing_on_remote(repo, objects):
        send_again(repo, lacking)
        lacking = missing_on_remote(repo, lacking)
    if lacking:
        raise MeasurementError(
            f"{remote.label} lacks {len(lacking)} of {len(objects)} objects after the push",
            "push again; the version was not moved",
        )


def _check_pulled(dataset: Path, runs: Sequence[str]) -> None:
    """Hash every file that was pulled.

    Raises:
        MeasurementError: Some are missing or wrong; all are named.
    """
    wrong = []
    for run in runs:
        text = dvc.pointer_of(dataset, run).read_text(encoding="utf-8")
        wanted = dvc.pointer_sha256(text)
        content = run_json_is_whole(dataset / run)
        if content is None or wanted not in {None, sha256_of(dataset / run / RUN_JSON)}:
            wrong.append(f"{run}/{RUN_JSON} is not what was pushed")
            continue
        findings = check_hashes(dataset / run, content)
        wrong += [f"{run}/{finding.file} {finding.problem}" for finding in findings]
    if wrong:
        raise MeasurementError("; ".join(wrong), "the remote's copy is wrong: push it again")


def _move_branch(
    dataset: Path, remote: Remote, token: str | None, branch: str, *, allow_change: bool
) -> None:
    """Push the commit; if someone else was faster, join theirs and try again.

    Raises:
        PushRejectedError: Others were faster each time.
    """
    for attempt in range(1, _PUSH_ATTEMPTS + 1):
        try:
            run_git(
                dataset, "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}",
                remote=remote, token=token,
            )  # fmt: skip
            return
        except PushRejectedError:
            if attempt == _PUSH_ATTEMPTS:
                raise
            fetch(dataset, remote, token, branch)
            if not allow_change:
                refuse_collisions(dataset)
            merge(dataset)


def _count(runs: Sequence[str]) -> str:
    return f"{len(runs)} run" + ("s" if len(runs) != 1 else "")


def _message(new: Sequence[str]) -> str:
    if not new:
        return "Update the dataset"
    return f"Add {', '.join(new[:5])}" + (f" and {len(new) - 5} more" if len(new) > 5 else "")
