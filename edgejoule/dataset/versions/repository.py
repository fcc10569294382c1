"""The dataset's own repository: how it is made, set to a remote, and joined with the remote's.

Only a few small files are in git: pointers, defaults, the latest baseline, settings. Nothing here
moves data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from edgejoule.dataset.run_directory import RUN_JSON, check_result_folder
from edgejoule.dataset.versions import dvc_adapter as dvc
from edgejoule.dataset.versions.foreign import (
    check_tree,
    keep_replaced,
    take_files_whole,
    unversioned,
)
from edgejoule.dataset.versions.git import (
    git_output,
    git_succeeds,
    init_repository,
    is_repository,
    remote_refs,
    run_git,
)
from edgejoule.dataset.versions.locking import one_at_a_time
from edgejoule.dataset.versions.pointers import Pointer, pointers_at
from edgejoule.dataset.versions.remotes import Remote, remote_from_url
from edgejoule.dataset.versions.stores import (
    CONFIG,
    ORIGIN,
    format_settings,
    read_settings,
    safe_text,
    settings_at,
    settings_for,
    with_settings,
    with_store_of,
    write_settings,
)
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
_DVC_GITIGNORE = "/config.local\n/tmp\n/cache\n"
_WHOLE_FILES = ("dataset.json", "idling_power.json")
_SMALL_FILES = (CONFIG, ".dvc/.gitignore", ".dvcignore", ".gitignore", *_WHOLE_FILES)
FETCHED = "refs/remotes/origin/edgejoule"


def init(dataset: Path, *, commit: bool = True) -> bool:
    """Make a dataset's folder its own git and DVC repository; False if it is one already.

    A repository around the folder is left alone.

    Args:
        dataset: The folder; made if it is not there.
        commit: Make a first commit; `push` and `pull` rather start from the remote's.

    Raises:
        UsageError: The folder holds other things, is another git repository, or git or DVC is not
            installed.
        MeasurementError: Another command is making it one.
    """
    if _is_made(dataset):
        return False
    check_result_folder(dataset)
    if (dataset / ".git").exists() and has_commits(dataset):
        raise UsageError(f"{dataset} is a git repository of something else", "give another folder")
    dvc.need_dvc()
    with disk_errors(dataset):
        dataset.mkdir(parents=True, exist_ok=True)
        if not (dataset / ".git").exists():
            init_repository(dataset)
    with one_at_a_time(dataset), disk_errors(dataset):
        if _is_made(dataset):
            return False  # another first push was faster
        if (dataset / ".dvc").is_dir():  # of one that was killed at it
            (dataset / ".dvc" / ".gitignore").write_text(_DVC_GITIGNORE, encoding="utf-8")
        else:
            dvc.init_dvc(dataset)
        (dataset / ".gitignore").write_text(_GITIGNORE, encoding="utf-8")
        (dataset / ".dvcignore").write_text(_DVCIGNORE, encoding="utf-8")
        write_settings(dataset, settings_for(None, {}))
    if commit:
        commit_files(dataset, "Make this folder a dataset with versions")
    return True


def _is_made(dataset: Path) -> bool:
    return is_repository(dataset) and (dataset / CONFIG).is_file()


def has_commits(dataset: Path) -> bool:
    """Say whether the repository has any commit yet."""
    return git_succeeds(dataset, "rev-parse", "--verify", "--quiet", "HEAD")


def on_branch(dataset: Path) -> bool:
    """Say whether the folder shows a branch, and not an old version."""
    return git_succeeds(dataset, "symbolic-ref", "--quiet", "HEAD")


def configured_remote(dataset: Path) -> Remote | None:
    """Return the remote that the dataset was last pushed to or pulled from, None if none.

    Raises:
        UsageError: Its address can no longer be used.
    """
    if not is_repository(dataset):
        return None
    url = git_output(dataset, "remote", "get-url", "origin")
    if url is None:
        return None
    remote = remote_from_url(url.strip())
    return with_store_of(dataset, remote, "HEAD") if has_commits(dataset) else remote


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
        (folder / "objects").mkdir(parents=True)
        # Beside the dataset it may lie in the code's repository, which must stay clean.
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        init_repository(Path(remote.git_url), bare=True)
        sync_folder(folder)


def join(dataset: Path) -> list[str]:
    """Bring our branch onto the remote's as fetched.

    Different runs are different files. Of the few small files that both may have changed (defaults,
    the latest baseline) the remote's are taken; what was here and in no version is kept beside.

    Returns:
        One line for each small file of ours that was replaced.

    Raises:
        MeasurementError: As `merge` and `check_tree`.
    """
    if has_fetched(dataset):
        check_tree(dataset, FETCHED)
    _drop_leftovers(dataset)
    before = unversioned(dataset, _WHOLE_FILES)
    _join(dataset)
    return keep_replaced(dataset, before)


def _join(dataset: Path) -> None:
    if has_commits(dataset):
        commit_files(dataset, "Keep local changes")
        merge(dataset)
    elif has_fetched(dataset):
        run_git(dataset, "checkout", "--quiet", "--force", "-B", "main", FETCHED)


def set_store(dataset: Path, remote: Remote) -> None:
    """Write where the data are into the settings that are committed with the version.

    The path of a folder is this machine's own: once a version names one, another path to it
    changes nothing.
    """
    before = read_settings((dataset / CONFIG).read_text(encoding="utf-8", errors="replace"))
    if remote.in_folder and not remote.store_given and _names_a_folder(before):
        return
    write_settings(dataset, settings_for(remote, before))


def set_store_here(dataset: Path, remote: Remote) -> None:
    """Tell plain DVC in this folder where the data are, if the version says otherwise.

    Written to `.dvc/config.local`, which is not versioned.
    """
    committed = read_settings((dataset / CONFIG).read_text(encoding="utf-8", errors="replace"))
    local = dataset / ".dvc" / "config.local"
    same = with_settings(replace(remote, dvc_url="", endpoint="", store_given=False), committed)
    if same.store == remote.store or local.exists():
        return
    section = settings_for(remote, {})
    section["core"] = {"remote": ORIGIN}
    with disk_errors(dataset):
        local.write_text(format_settings(section), encoding="utf-8")


def _names_a_folder(sections: dict[str, dict[str, str]]) -> bool:
    probe = with_settings(Remote("", "", "", shared=False), sections)
    return bool(probe.dvc_url) and not probe.shared


def set_git_remote(dataset: Path, remote: Remote) -> None:
    """Point `origin` at the remote; another spelling of the same address stays."""
    if (before := git_output(dataset, "remote", "get-url", "origin")) is not None:
        try:
            if remote_from_url(before.strip()).git_url == remote.git_url:
                return
        except UsageError:
            pass  # of another host, once
    verb = "set-url" if git_succeeds(dataset, "remote", "get-url", "origin") else "add"
    run_git(dataset, "remote", verb, "origin", remote.git_url)


def fetch(dataset: Path, remote: Remote, token: str | None, branch: str) -> bool:
    """Fetch the remote's branch and its tags; False if it has no such branch.

    The remote's tags replace ours of the same name.

    Raises:
        TokenError, ServerError: As they say.
    """
    refs = remote_refs(remote, token)
    found = f"refs/heads/{branch}" in refs
    if not found:  # else replaced in one step: a push beside a status must not see it missing
        run_git(dataset, "update-ref", "-d", FETCHED)
    wanted = [f"+refs/heads/{branch}:{FETCHED}"] if found else []
    if any(name.startswith("refs/tags/") for name in refs):
        wanted.append("+refs/tags/*:refs/tags/*")
    if wanted:
        run_git(
            dataset, "fetch", "--quiet", "--no-tags", remote.git_url, *wanted,
            remote=remote, token=token,
        )  # fmt: skip
    return found


def fetched_runs(dataset: Path) -> dict[str, Pointer]:
    """Return the runs of the remote's branch as fetched, by name."""
    return pointers_at(dataset, FETCHED) if has_fetched(dataset) else {}


def refuse_collisions(dataset: Path, runs: Iterable[str] | None = None) -> None:
    """Refuse if a run here has the name of another run on the remote's branch as fetched.

    Args:
        dataset: The dataset's folder.
        runs: Look at these alone.

    Raises:
        MeasurementError: There is one.
    """
    for run, pointer in fetched_runs(dataset).items():
        local = dataset / run / RUN_JSON
        if (runs is not None and run not in runs) or not local.exists():
            continue
        if pointer.run_json_sha256 not in {None, sha256_of(local)}:
            raise MeasurementError(
                f"{run} is another run here than on the remote",
                "move the one here out of the dataset, then pull; or push --allow-change to "
                "replace the remote's (older versions keep it)",
            )


def merge(dataset: Path) -> None:
    """Merge what was fetched, if anything was.

    Raises:
        MeasurementError: Both sides changed the same file in ways that exclude each other.
    """
    if not has_fetched(dataset) or git_succeeds(
        dataset, "merge-base", "--is-ancestor", FETCHED, "HEAD"
    ):
        return
    check_tree(dataset, FETCHED)
    if git_succeeds(dataset, "merge-base", "--is-ancestor", "HEAD", FETCHED):
        run_git(dataset, "merge", "--quiet", "--ff-only", FETCHED)
        return
    take_files_whole(dataset)
    try:
        run_git(
            dataset, "merge", "--quiet", "--no-commit", "--no-ff", "--allow-unrelated-histories",
            "-X", "theirs", FETCHED,
        )  # fmt: skip
    except MeasurementError as error:
        run_git(dataset, "merge", "--abort")
        raise MeasurementError(
            f"the versions here and on the remote exclude each other ({error.message})",
            f"merge {FETCHED} in {dataset} by hand with git",
        ) from error
    run_git(dataset, "commit", "--quiet", "-m", "Join the versions of others")
    if git_succeeds(dataset, "diff", "--quiet", FETCHED, "HEAD"):
        run_git(dataset, "reset", "--quiet", "--soft", FETCHED)  # nothing of ours is left in it


def commit_files(dataset: Path, message: str, pointers: Sequence[str] = ()) -> None:
    """Commit the dataset's own small files and these pointers, if they changed."""
    paths = [
        name
        for name in (*_SMALL_FILES, *pointers)
        if (dataset / name).exists() or _is_in(dataset, "HEAD", name)
    ]
    run_git(dataset, "add", "--force", "--all", "--", *paths)
    if has_commits(dataset) and git_succeeds(
        dataset, "diff", "--cached", "--quiet", "HEAD", "--", *paths
    ):
        return
    run_git(dataset, "commit", "--quiet", "-m", message, "--", *paths)


def head(dataset: Path) -> str:
    """Return the commit that the folder shows."""
    return run_git(dataset, "rev-parse", "HEAD").strip()


def has_fetched(dataset: Path) -> bool:
    """Say whether the remote's branch has been fetched."""
    return git_succeeds(dataset, "rev-parse", "--verify", "--quiet", FETCHED)


def at_remote(dataset: Path) -> bool:
    """Say whether our branch is the remote's as fetched."""
    return git_output(dataset, "rev-parse", "--verify", "--quiet", FETCHED) == git_output(
        dataset, "rev-parse", "--verify", "--quiet", "HEAD"
    )


def _drop_leftovers(dataset: Path) -> None:
    """Take back what a push wrote but did not commit; its runs are added anew."""
    if git_succeeds(dataset, "rev-parse", "--verify", "--quiet", "MERGE_HEAD"):
        run_git(dataset, "merge", "--abort")
    for run in dvc.pointers(dataset):
        pointer = f"{run}.dvc"
        if _is_in(dataset, "HEAD", pointer):
            run_git(dataset, "checkout", "--quiet", "HEAD", "--", pointer)
        else:
            run_git(
                dataset, "rm", "--cached", "--force", "--quiet", "--ignore-unmatch", "--", pointer
            )
            (dataset / pointer).unlink()
    if _is_in(dataset, "HEAD", CONFIG) and safe_text(dataset / CONFIG) is None:
        # What `opened` took out of others' settings is not a change of ours.
        text = git_output(dataset, "show", f"HEAD:{CONFIG}") or ""
        here = (dataset / CONFIG).read_text(encoding="utf-8", errors="replace")
        if here != text and read_settings(here) == settings_at(dataset, "HEAD"):
            run_git(dataset, "checkout", "--quiet", "HEAD", "--", CONFIG)


def _is_in(dataset: Path, rev: str, name: str) -> bool:
    return git_succeeds(dataset, "cat-file", "-e", f"{rev}:{name}")
