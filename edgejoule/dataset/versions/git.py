"""git on the dataset's own repository, and on no other.

Every call names the repository and its work tree, so that a dataset inside somebody's repository
never reaches the outer one. The token travels as `credentials` says, and to the configured host
alone; for any other host git's own settings apply (credential helpers, ssh). Standard library only.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from edgejoule.dataset.versions.credentials import GitAccess, git_access
from edgejoule.dataset.versions.dagshub import TOKEN_VARIABLE, host, redact
from edgejoule.dataset.versions.remotes import Remote
from edgejoule.errors import EdgejouleError, MeasurementError, ServerError, TokenError, UsageError
from edgejoule.processes import child_environment

_KEPT = ("GIT_SSL_", "GIT_AUTHOR_", "GIT_COMMITTER_")
_KEPT_ELSEWHERE = (*_KEPT, "GIT_SSH", "GIT_ASKPASS")
_REFUSED = re.compile(
    r"Authentication failed|error: (401|403)|could not read (User|Pass)"
    r"|Permission denied \(|terminal prompts disabled",
    re.I,
)
_UNREACHABLE = re.compile(
    r"Could not resolve|Failed to connect|Connection refused|Connection reset|timed out"
    r"|Empty reply|error: 5\d\d|unexpected disconnect|RPC failed|early EOF|SSL|certificate"
    r"|Network is unreachable|No route to host|Connection closed|kex_exchange",
    re.IGNORECASE,
)
_OVERTAKEN = re.compile(
    r"\[rejected\]|fetch first|cannot lock ref"
    r"|\[remote rejected\].*\((failed to update ref|reference already exists|atomic)",
    re.IGNORECASE,
)
_ABSENT = re.compile(
    r"repository .* (not found|does not exist)|does not appear to be a git repository|error: 404",
    re.IGNORECASE,
)
_ANSWER_S = 3600.0  # longer than any of these small transfers takes


class PushRejectedError(MeasurementError):
    """Someone pushed in between: fetch, merge, push again."""


def run_git(
    dataset: Path, *arguments: str, remote: Remote | None = None, token: str | None = None
) -> str:
    """Run git on the dataset's repository and return its output.

    Args:
        dataset: The dataset's folder.
        arguments: Command and its arguments.
        remote: The remote it talks to; with it, `token` is given to that host.
        token: The token, or None.

    Raises:
        TokenError, ServerError, PushRejectedError: As git's words say.
        UsageError: There is no such repository, or git has no credentials for a foreign host.
        MeasurementError: Anything else that git refuses, in its last line.
    """
    environment = _environment(dataset, remote)
    if arguments[0] in {"commit", "merge", "tag"} and not git_succeeds(
        dataset, "config", "user.email"
    ):
        for role in ("AUTHOR", "COMMITTER"):  # a container has no identity of its own
            environment.setdefault(f"GIT_{role}_NAME", "edgejoule")
            environment.setdefault(f"GIT_{role}_EMAIL", "edgejoule@localhost")
    done = _talk(_command(dataset, remote), arguments, environment, remote, token)
    if done.returncode:
        raise _error(arguments[0], redact(done.stderr, token), remote)
    return done.stdout


def git_succeeds(dataset: Path, *arguments: str) -> bool:
    """Say whether a git command that asks something answers yes (exit 0)."""
    return git_output(dataset, *arguments) is not None


def git_output(dataset: Path, *arguments: str) -> str | None:
    """Return the output of a git command that asks something, None if it finds nothing."""
    done = _run([*_command(dataset), *arguments], _environment(dataset, None))
    return None if done.returncode else done.stdout


def remote_refs(remote: Remote, token: str | None) -> dict[str, str]:
    """Return branches and tags of a remote: `refs/heads/main` -> commit. Needs no repository.

    Raises:
        TokenError, ServerError, UsageError, MeasurementError: As `run_git`.
    """
    here = Path.cwd()
    command = ["git", *_settings(here, remote)]
    words = ("ls-remote", "--quiet", remote.git_url)
    done = _talk(command, words, _environment(here, remote), remote, token)
    if done.returncode:
        raise _error("ls-remote", redact(done.stderr, token), remote)
    pairs = (line.split("\t") for line in done.stdout.splitlines() if "\t" in line)
    return {name: commit for commit, name in pairs}


def init_repository(folder: Path, *, bare: bool = False) -> None:
    """Make a git repository in `folder` itself, with `main` as its branch.

    Raises:
        MeasurementError: git refuses.
    """
    environment = _environment(folder, None)
    command = ["git", "init", "--quiet", *(["--bare"] if bare else []), str(folder)]
    own = folder if bare else folder / ".git"
    # Not --initial-branch: Ubuntu 20.04, of JetPack 5, has a git that does not know it.
    name = ["git", "--git-dir", str(own), "symbolic-ref", "HEAD", "refs/heads/main"]
    for words in (command, name):
        done = _run(words, environment)
        if done.returncode:
            raise _error("init", done.stderr, None)


def is_repository(dataset: Path) -> bool:
    """Say whether the folder itself (not one around it) is a git and DVC repository."""
    return (dataset / ".git").exists() and (dataset / ".dvc").is_dir()


def _talk(
    command: list[str],
    arguments: tuple[str, ...],
    environment: dict[str, str],
    remote: Remote | None,
    token: str | None,
) -> subprocess.CompletedProcess[str]:
    """Run git, with the token for the remote if its repository is on the configured host."""
    if remote is None or not remote.hosted or not token:
        return _run([*command, *arguments], environment)
    with git_access(remote.git_url, token) as access:
        extra = [word for setting in access.settings for word in ("-c", setting)]
        return _run([*command, *extra, *arguments], {**environment, **access.environment}, access)


def _run(
    command: list[str], environment: dict[str, str], access: GitAccess | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
            timeout=_ANSWER_S,
            pass_fds=access.descriptors if access else (),
        )
    except FileNotFoundError:
        raise UsageError("git is not installed", "install it (apt install git)") from None
    except subprocess.TimeoutExpired:
        raise ServerError("git got no answer for an hour", "run it again later") from None


def _command(dataset: Path, remote: Remote | None = None) -> list[str]:
    dataset = dataset.resolve()
    own = ["--git-dir", str(dataset / ".git"), "--work-tree", str(dataset)]
    return ["git", "-C", str(dataset), *_settings(dataset, remote), *own]


def _settings(dataset: Path, remote: Remote | None) -> list[str]:
    """Return settings that keep a user's own (hooks, signing, helpers) out of it."""
    settings = {
        "core.hooksPath": os.devnull,
        "core.fsmonitor": "false",
        "commit.gpgsign": "false",
        "tag.gpgsign": "false",
        "push.gpgsign": "false",
        "push.followTags": "false",
        "core.autocrlf": "false",
        "core.quotepath": "false",
        # A foreign version's link could lead what is written here out of the folder.
        "core.symlinks": "false",
        "submodule.recurse": "false",
        "protocol.ext.allow": "never",
        "protocol.fd.allow": "never",
        # A pointer that went and another that came are not one that was renamed.
        "merge.renames": "false",
        "merge.directoryRenames": "false",
        # A mounted dataset may belong to another user than the container's.
        "safe.directory": str(dataset),
        "advice.detachedHead": "false",
        "gc.auto": "0",
    }
    if remote is not None and remote.hosted:
        # A redirect would carry the token to wherever it points.
        settings.update({"credential.helper": "", "http.followRedirects": "false"})
    return [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]


def _environment(dataset: Path, remote: Remote | None) -> dict[str, str]:
    """Return git's environment: never our token, and a user's own secrets for foreign hosts alone.

    Somebody's credential helper may well take them from there (`GH_TOKEN`).
    """
    if remote is not None and remote.shared and not remote.hosted:
        found = dict(os.environ)
        kept_git: tuple[str, ...] = _KEPT_ELSEWHERE
        found.pop(TOKEN_VARIABLE, None)
    else:
        found, kept_git = child_environment(), _KEPT
    kept = {
        name: value
        for name, value in found.items()
        if not name.startswith("GIT_") or name.startswith(kept_git)
    }
    kept.update(
        GIT_CEILING_DIRECTORIES=str(dataset.resolve().parent),
        GIT_TERMINAL_PROMPT="0",
        LC_ALL="C.UTF-8",
    )
    return kept


def _error(  # noqa: PLR0911 (one line per kind of failure)
    verb: str, stderr: str, remote: Remote | None
) -> EdgejouleError:
    lines = [line for line in stderr.splitlines() if line.strip()]
    line = next((line for line in lines if line.startswith(("fatal:", "error:"))), "")
    line = line or (lines[-1] if lines else "no message")
    # What the other side says of itself is worth more than git's summary of it.
    told = [line.strip() for line in lines if line.startswith("remote: ") or "[remote rej" in line]
    line = " | ".join([*told, line])[:400] if told else line
    where = remote.label if remote else "the dataset's repository"
    if _OVERTAKEN.search(stderr):
        return PushRejectedError(f"{where} has moved on meanwhile", "run the push again")
    if remote is not None and _ABSENT.search(stderr):
        return UsageError(f"{where} has no git repository ({line})", "check the address")
    if remote is not None and _REFUSED.search(stderr):
        if not remote.hosted:
            return UsageError(
                f"{where} wants credentials that git does not have, and it is not the configured "
                f"host {host()} ({line})",
                "set up git for it (a credential helper or an ssh key); or, if it is a DagsHub "
                f"that may see your {TOKEN_VARIABLE}, set DAGSHUB_CLIENT_HOST to it",
            )
        return TokenError(
            f"{where} refused the token ({line})", f"check {TOKEN_VARIABLE} and its rights there"
        )
    if remote is not None and _UNREACHABLE.search(stderr):
        return ServerError(f"{where} cannot be reached ({line})", "run it again later")
    if "dubious ownership" in stderr:
        path = remote.git_url if remote else "DATASET"
        return UsageError(
            f"{where} belongs to another user, and git refuses it",
            f"if you trust it: git config --global --add safe.directory {path}",
        )
    if "No space left" in stderr:
        return MeasurementError(f"the disk of {where} is full ({line})", "free some space")
    return MeasurementError(f"git {verb} failed on {where}: {line}", _mend(verb))


def _mend(verb: str) -> str:
    if verb == "push":
        return "the data are there; once its reason is mended, run the push again"
    return "run it again; git's own words say more with `git -C DATASET status`"
