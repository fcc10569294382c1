"""Versions have names: `data-1`, `data-2`, ... are annotated tags, beside names of one's own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from edgejoule.dataset.versions.git import PushRejectedError, git_output, git_succeeds, run_git
from edgejoule.dataset.versions.remotes import Remote
from edgejoule.dataset.versions.repository import (
    FETCHED,
    at_remote,
    fetch,
    merge,
    refuse_collisions,
)
from edgejoule.dataset.versions.stores import with_store_of
from edgejoule.errors import MeasurementError, UsageError

PREFIX = "data-"
_NUMBERED = re.compile(rf"^{PREFIX}(\d+)$")
_ATTEMPTS = 5


def check_name(dataset: Path, name: str) -> None:
    """Refuse a name that a version cannot get.

    Raises:
        UsageError: It is no name for a tag, is taken, or looks like a number of ours.
    """
    if not git_succeeds(dataset, "check-ref-format", f"refs/tags/{name}") or name.startswith("-"):
        raise UsageError(f"{name!r} is no name for a tag", "use letters, digits, dots and dashes")
    if _NUMBERED.match(name):
        raise UsageError(f"{name} is counted by push itself", "choose another --tag")
    if commit_of(dataset, name) is not None:
        raise UsageError(f"a version named {name} is there already", "choose another --tag")


def commit_of(dataset: Path, name: str) -> str | None:
    """Return the commit of a tag, None if there is no such tag."""
    found = git_output(dataset, "rev-parse", "--verify", "--quiet", f"refs/tags/{name}^{{commit}}")
    return found.strip() if found else None


def numbered(dataset: Path, *which: str) -> dict[int, str]:
    """Return the versions by number: 3 -> `data-3`.

    Args:
        dataset: The repository.
        which: Further words for `git tag --list`, as `--points-at HEAD`.
    """
    names = run_git(dataset, "tag", "--list", f"{PREFIX}*", *which).split()
    return {int(found[1]): name for name in names if (found := _NUMBERED.match(name))}


def version_of(dataset: Path, rev: str = "HEAD") -> str:
    """Return what people call a commit: its newest number, or the beginning of its hash."""
    names = numbered(dataset, "--points-at", rev)
    if names:
        return names[max(names)]
    return run_git(dataset, "rev-parse", "--short=12", rev).strip()


def publish(
    dataset: Path,
    remote: Remote,
    token: str | None,
    branch: str,
    *,
    message: str,
    name: str | None = None,
    allow_change: bool = False,
) -> str | None:
    """Move the remote's branch to ours and give the version its number, both or neither.

    Someone may be faster: then theirs is joined and the next number is taken.

    Args:
        dataset: The repository, its branch holding the version.
        remote: The remote.
        token: The token, or None.
        branch: The branch to move.
        message: What the tags say.
        name: A name of the user's own for the version.
        allow_change: Runs of ours replace others of the same name.

    Returns:
        The version's number as a tag; None if the remote had it already.

    Raises:
        PushRejectedError: Others were faster each time.
        TokenError, ServerError, MeasurementError: As git says; run it again.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        made: list[str] = []
        try:
            if not at_remote(dataset) and not numbered(dataset, "--points-at", "HEAD"):
                made.append(f"{PREFIX}{max(numbered(dataset), default=0) + 1}")
            if name is not None:
                made.append(name)
            moved = not at_remote(dataset)
            for tag in made:
                run_git(dataset, "tag", "--annotate", "--message", message, tag, "HEAD")
            if moved or made:
                _push(dataset, remote, token, branch, made)
            return version_of(dataset) if moved else None
        except BaseException as error:
            for tag in made:
                git_succeeds(dataset, "tag", "--delete", tag)
            if not isinstance(error, PushRejectedError) or attempt == _ATTEMPTS:
                raise
        fetch(dataset, remote, token, branch)
        theirs = with_store_of(dataset, replace(remote, store_given=False), FETCHED)
        if theirs.store != remote.store:  # our data are not where their version looks for them
            raise PushRejectedError(
                f"{remote.label} has moved on meanwhile, to the store {theirs.store}",
                "run the push again",
            )
        if not allow_change:
            refuse_collisions(dataset)
        merge(dataset)
    raise AssertionError  # the last attempt returns or raises


def _push(dataset: Path, remote: Remote, token: str | None, branch: str, made: list[str]) -> None:
    """Push the branch and the tags that the remote may lack, all or nothing."""
    ours = [*numbered(dataset, "--merged", "HEAD").values(), *made]
    refs = [f"HEAD:refs/heads/{branch}", *(f"refs/tags/{tag}" for tag in dict.fromkeys(ours))]
    words = ["push", "--quiet", "--atomic", remote.git_url, *refs]
    try:
        run_git(dataset, *words, remote=remote, token=token)
    except MeasurementError as error:
        if "--atomic" not in str(error) and "atomic push" not in str(error):
            raise
        words.remove("--atomic")
        run_git(dataset, *words, remote=remote, token=token)
