"""The dataset's own repository: how it is made, set to a remote, and joined with the remote's.

Only a few small files are in git: pointers, defaults, the latest baseline, settings. Nothing here
moves data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgejoule.dataset import dvc_adapter as dvc
from edgejoule.dataset.dagshub import Remote, folder_remote, remote_from_url
from edgejoule.dataset.git import git_succeeds, init_repository, is_repository, run_git
from edgejoule.dataset.run_directory import RUN_JSON, check_result_folder
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import disk_errors, sha256_of, sync_folder

_GITIGNORE = """\
# Runs are kept by DVC, one pointer file <run>.dvc each; .partial holds runs being measured.
/*/
!/.dvc/
/.partial/
/.dataset.json.*
*.tmp
"""
_DVCIGNORE = "# Runs being measured are no data yet.\n.partial\n"
_SMALL_FILES = (
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvcignore",
    ".gitignore",
    "dataset.json",
    "idling_power.json",
)
_FETCHED = "refs/remotes/origin/edgejoule"


def init(dataset: Path, *, commit: bool = True) -> bool:
    """Make a dataset's folder its own git and DVC repository; False if it is one already.

    A repository around the folder is left alone.

    Args:
        dataset: The folder; made if it is not there.
        commit: Make a first commit; `push` and `pull` rather start from the remote's.

    Raises:
        UsageError: The folder holds other things, is another git repository, or git or DVC is not
            installed.
    """
    if is_repository(dataset):
        return False
    check_result_folder(dataset)
    if (dataset / ".git").exists() and has_commits(dataset):
        raise UsageError(f"{dataset} is a git repository of something else", "give another folder")
    dvc.need_dvc()
    with disk_errors(dataset):
        dataset.mkdir(parents=True, exist_ok=True)
        if not (dataset / ".git").exists():
            init_repository(dataset)
        dvc.init_dvc(dataset)
        (dataset / ".gitignore").write_text(_GITIGNORE, encoding="utf-8")
        (dataset / ".dvcignore").write_text(_DVCIGNORE, encoding="utf-8")
        _write_dvc_config(dataset, None)
    if commit:
        commit_files(dataset, "Make this folder a dataset with versions")
    return True


def has_commits(dataset: Path) -> bool:
    """Say whether the repository has any commit yet."""
    return git_succeeds(dataset, "rev-parse", "--verify", "--quiet", "HEAD")


def on_branch(dataset: Path) -> bool:
    """Say whether the folder shows a branch, and not an old version."""
    return git_succeeds(dataset, "symbolic-ref", "--quiet", "HEAD")


def configured_remote(dataset: Path) -> Remote | None:
    """Return the remote that the dataset was last pushed to or pulled from, None if none."""
    if not is_repository(dataset) or not git_succeeds(dataset, "remote", "get-url", "origin"):
        return None
    url = run_git(dataset, "remote", "get-url", "origin").strip()
    if url.startswith(("http://", "https://")):
        return remote_from_url(url)
    return folder_remote(Path(url).parent)


def make_folder_remote(remote: Remote) -> None:
    """Make the folder of a remote unless it is one.

    Raises:
        UsageError: The folder holds other things, or cannot be written.
    """
    folder = Path(remote.git_url).parent
    if Path(remote.git_url).is_dir():
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is no remote of a dataset", "give a new or empty folder")
    with disk_errors(folder):
        Path(remote.dvc_url).mkdir(parents=True)
        # Beside the dataset it may lie in the code's repository, which must stay clean.
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        init_repository(Path(remote.git_url), bare=True)
        sync_folder(folder)


def join(dataset: Path, remote: Remote, token: str | None, branch: str) -> bool:
    """Fetch the remote's branch and bring ours onto it; False if the remote has none yet.

    Different runs are different files. Of the few small files that both may have changed (defaults,
    the latest baseline) the remote's are taken.

    Raises:
        TokenError, ServerError: As they say.
    """
    set_git_remote(dataset, remote)
    found = fetch(dataset, remote, token, branch)
    _drop_leftovers(dataset)
    if not has_commits(dataset):
        if found:
            run_git(dataset, "checkout", "--quiet", "--force", "-B", "main", _FETCHED)
    else:
        commit_files(dataset, "Keep local changes")
        merge(dataset)
    _write_dvc_config(dataset, remote)
    return found


def set_git_remote(dataset: Path, remote: Remote) -> None:
    """Point `origin` at the remote."""
    verb = "set-url" if git_succeeds(dataset, "remote", "get-url", "origin") else "add"
    run_git(dataset, "remote", verb, "origin", remote.git_url)


def fetch(dataset: Path, remote: Remote, token: str | None, branch: str) -> bool:
    """Fetch the remote's branch; False if it has none.

    Raises:
        TokenError, ServerError: As they say.
    """
    listed = run_git(
        dataset, "ls-remote", "--heads", "origin", f"refs/heads/{branch}",
        remote=remote, token=token,
    )  # fmt: skip
    run_git(dataset, "update-ref", "-d", _FETCHED)
    if not listed.strip():
        return False
    run_git(
        dataset, "fetch", "--quiet", "--tags", "origin", f"+refs/heads/{branch}:{_FETCHED}",
        remote=remote, token=token,
    )  # fmt: skip
    return True


def refuse_collisions(dataset: Path) -> None:
    """Refuse if a run here has the name of another run on the remote's branch as fetched.

    Raises:
        MeasurementError: There is one.
    """
    if not _has_fetched(dataset):
        return
    names = run_git(dataset, "ls-tree", "--name-only", _FETCHED).splitlines()
    for pointer in (name for name in names if name.endswith(".dvc")):
        local = dataset / pointer[: -len(".dvc")] / RUN_JSON
        if not local.exists():
            continue
        theirs = dvc.pointer_sha256(run_git(dataset, "show", f"{_FETCHED}:{pointer}"))
        if theirs is not None and theirs != sha256_of(local):
            raise MeasurementError(
                f"{local.parent.name} is another run here than on the remote",
                "rename the one here; or push --allow-change to replace the remote's",
            )


def merge(dataset: Path) -> None:
    """Merge what was fetched, if anything was."""
    if _has_fetched(dataset):
        run_git(
            dataset, "merge", "--quiet", "--no-edit", "--allow-unrelated-histories",
            "-X", "theirs", _FETCHED,
        )  # fmt: skip


def commit_files(dataset: Path, message: str, pointers: Sequence[str] = ()) -> None:
    """Commit the dataset's own small files and these pointers, if they changed."""
    paths = [name for name in (*_SMALL_FILES, *pointers) if (dataset / name).exists()]
    run_git(dataset, "add", "--force", "--", *paths)
    if has_commits(dataset) and git_succeeds(
        dataset, "diff", "--cached", "--quiet", "HEAD", "--", *paths
    ):
        return
    run_git(dataset, "commit", "--quiet", "-m", message, "--", *paths)


def head(dataset: Path) -> str:
    """Return the commit that the folder shows."""
    return run_git(dataset, "rev-parse", "HEAD").strip()


def _drop_leftovers(dataset: Path) -> None:
    """Take back pointers that a push wrote but did not commit; their runs are added anew."""
    for run in dvc.pointers(dataset):
        pointer = f"{run}.dvc"
        if git_succeeds(dataset, "cat-file", "-e", f"HEAD:{pointer}"):
            run_git(dataset, "checkout", "--quiet", "HEAD", "--", pointer)
        else:
            run_git(
                dataset, "rm", "--cached", "--force", "--quiet", "--ignore-unmatch", "--", pointer
            )
            (dataset / pointer).unlink()


def _has_fetched(dataset: Path) -> bool:
    return git_succeeds(dataset, "rev-parse", "--verify", "--quiet", _FETCHED)


def _write_dvc_config(dataset: Path, remote: Remote | None) -> None:
    """Write DVC's settings; a folder's address is this machine's own and is not committed."""
    core = "[core]\n    analytics = false\n    check_update = false\n    autostage = true\n"
    if remote is None:
        (dataset / ".dvc" / "config").write_text(core, encoding="utf-8")
        return
    basic = "    auth = basic\n" if remote.shared else ""
    section = (
        f"    remote = {dvc.REMOTE_NAME}\n['remote \"{dvc.REMOTE_NAME}\"']\n"
        f"    url = {remote.dvc_url}\n{basic}    verify = true\n"
    )
    local = dataset / ".dvc" / "config.local"
    if remote.shared:
        (dataset / ".dvc" / "config").write_text(core + section, encoding="utf-8")
        local.unlink(missing_ok=True)
    else:
        local.write_text("[core]\n" + section, encoding="utf-8")
