"""git on the dataset's own repository, and on no other.

Every call names the repository and its work tree, so that a dataset inside somebody's repository
never reaches the outer one. The token travels in the environment of the one git process that needs
it. Standard library only.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from edgejoule.dataset.dagshub import Remote, basic_authorization, redact
from edgejoule.errors import EdgejouleError, MeasurementError, ServerError, TokenError, UsageError
from edgejoule.processes import child_environment

_KEPT = ("GIT_SSL_", "GIT_AUTHOR_", "GIT_COMMITTER_")
_REFUSED = re.compile(r"Authentication failed|error: (401|403)|could not read (User|Pass)", re.I)
_UNREACHABLE = re.compile(
    r"Could not resolve|Failed to connect|Connection refused|Connection reset|timed out"
    r"|Empty reply|error: 5\d\d|unexpected disconnect|RPC failed|early EOF",
    re.IGNORECASE,
)


class PushRejectedError(MeasurementError):
    """Someone pushed in between: fetch, merge, push again."""


def run_git(
    dataset: Path, *arguments: str, remote: Remote | None = None, token: str | None = None
) -> str:
    """Run git on the dataset's repository and return its output.

    Args:
        dataset: The dataset's folder.
        arguments: Command and its arguments.
        remote: The remote it talks to; with it, `token` is sent to that host.
        token: The token, or None.

    Raises:
        TokenError, ServerError, PushRejectedError: As git's words say.
        MeasurementError: Anything else that git refuses, in its last line.
    """
    environment = _environment(dataset, remote, token)
    if arguments[0] in {"commit", "merge"} and not git_succeeds(dataset, "config", "user.email"):
        for role in ("AUTHOR", "COMMITTER"):  # a container has no identity of its own
            environment.setdefault(f"GIT_{role}_NAME", "edgejoule")
            environment.setdefault(f"GIT_{role}_EMAIL", "edgejoule@localhost")
    done = _run([*_command(dataset), *arguments], environment)
    if done.returncode:
        raise _error(arguments[0], redact(done.stderr, token), remote)
    return done.stdout


def git_succeeds(dataset: Path, *arguments: str) -> bool:
    """Say whether a git command that asks something answers yes (exit 0)."""
    environment = _environment(dataset, None, None)
    return _run([*_command(dataset), *arguments], environment).returncode == 0


def init_repository(folder: Path, *, bare: bool = False) -> None:
    """Make a git repository in `folder` itself, with `main` as its branch.

    Raises:
        MeasurementError: git refuses.
    """
    kind = ["--bare"] if bare else []
    command = ["git", "init", "--quiet", *kind, "--initial-branch=main", str(folder)]
    done = _run(command, _environment(folder, None, None))
    if done.returncode:
        raise _error("init", done.stderr, None)


def is_repository(dataset: Path) -> bool:
    """Say whether the folder itself (not one around it) is a git and DVC repository."""
    return (dataset / ".git").exists() and (dataset / ".dvc").is_dir()


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError:
        raise UsageError("git is not installed", "install it (apt install git)") from None


def _command(dataset: Path) -> list[str]:
    dataset = dataset.resolve()
    own = ["--git-dir", str(dataset / ".git"), "--work-tree", str(dataset)]
    return ["git", "-C", str(dataset), *_settings(dataset), *own]


def _settings(dataset: Path) -> list[str]:
    """Return settings that keep a user's own (hooks, signing, helpers) out of it."""
    settings = {
        "core.hooksPath": os.devnull,
        "commit.gpgsign": "false",
        "credential.helper": "",
        "http.followRedirects": "false",
        "core.autocrlf": "false",
        "core.quotepath": "false",
        # A mounted dataset may belong to another user than the container's.
        "safe.directory": str(dataset),
        "advice.detachedHead": "false",
        "gc.auto": "0",
    }
    return [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]


def _environment(dataset: Path, remote: Remote | None, token: str | None) -> dict[str, str]:
    kept = {
        name: value
        for name, value in child_environment().items()
        if not name.startswith("GIT_") or name.startswith(_KEPT)
    }
    kept.update(
        GIT_CEILING_DIRECTORIES=str(dataset.resolve().parent),
        GIT_TERMINAL_PROMPT="0",
        LC_ALL="C.UTF-8",
    )
    if remote is not None and remote.shared and token:
        kept.update(
            GIT_CONFIG_COUNT="1",
            GIT_CONFIG_KEY_0=f"http.{remote.git_url}.extraHeader",
            GIT_CONFIG_VALUE_0=f"Authorization: {basic_authorization(token)}",
        )
    return kept


def _error(verb: str, stderr: str, remote: Remote | None) -> EdgejouleError:
    lines = [line for line in stderr.splitlines() if line.strip()]
    line = next((line for line in lines if line.startswith(("fatal:", "error:"))), "")
    line = line or (lines[-1] if lines else "no message")
    where = remote.label if remote else "the dataset's repository"
    if "[rejected]" in stderr or "fetch first" in stderr or "cannot lock ref" in stderr:
        return PushRejectedError(f"{where} has moved on meanwhile", "run the push again")
    if remote is not None and _REFUSED.search(stderr):
        return TokenError(f"{where} refused the token ({line})")
    if remote is not None and _UNREACHABLE.search(stderr):
        return ServerError(f"{where} cannot be reached ({line})", "run it again later")
    return MeasurementError(f"git {verb} failed on {where}: {line}")
