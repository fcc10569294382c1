"""Versions made by git and by hand, without DVC: quick, and where DVC is not installed.

What DVC would write (pointer, list of a run's files, cache) is written by its rules;
`test_remote_check_folder.py` holds that against DVC itself.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from edgejoule.dataset.versions.git import git_succeeds, init_repository, run_git
from edgejoule.dataset.versions.remotes import Remote, folder_remote
from edgejoule.files import files_below


def make_repository(dataset: Path) -> None:
    """Make the folder a repository as `init` does."""
    dataset.mkdir(parents=True, exist_ok=True)
    init_repository(dataset)
    (dataset / ".dvc").mkdir()
    (dataset / ".dvc" / "config").write_text("[core]\n    analytics = false\n", encoding="utf-8")
    (dataset / ".dvc" / ".gitignore").write_text("/cache\n/tmp\n", encoding="utf-8")
    (dataset / ".gitignore").write_text("/*/\n!/.dvc/\n/.partial/\n", encoding="utf-8")


def write_pointer(dataset: Path, run: str) -> str:
    """Take a run into the cache and write its pointer; return the name of the list's object."""
    folder = dataset / run
    listed, size = [], 0
    for name in files_below(folder):
        content = (folder / name).read_bytes()
        size += len(content)
        oid = hashlib.md5(content).hexdigest()
        _keep(dataset, oid, content)
        listed.append({"md5": oid, "relpath": name})
    content = json.dumps(listed, sort_keys=True).encode()
    oid = hashlib.md5(content).hexdigest() + ".dir"
    _keep(dataset, oid, content)
    run_json = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    sha256 = hashlib.sha256((folder / "run.json").read_bytes()).hexdigest()
    lines = [
        "outs:",
        f"- md5: {oid}",
        f"  size: {size}",
        f"  nfiles: {len(listed)}",
        "  hash: md5",
        f"  path: {run}",
        "meta:",
        "  edgejoule:",
        "    run_json_sha256: ",
        f"      {sha256}",
        "    config_sha256: ",
        f"      {run_json['config_sha256']}",
        f"    status: {run_json['status']}",
        f"    simulated: {json.dumps(run_json['simulated'])}",
        f"    weights: {run_json['weights']}",
    ]
    (dataset / f"{run}.dvc").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return oid


def commit_version(dataset: Path, message: str, *runs: str, tag: str | None = None) -> str:
    """Commit these runs with the small files as a version; return the commit."""
    for run in runs:
        write_pointer(dataset, run)
    run_git(dataset, "add", "--all", "--", ".")
    run_git(dataset, "commit", "--quiet", "--message", message)
    if tag is not None:
        run_git(dataset, "tag", tag)
    return run_git(dataset, "rev-parse", "HEAD").strip()


def drop_run(dataset: Path, run: str) -> None:
    """Take a run out of the folder and, with the next commit, out of the version."""
    shutil.rmtree(dataset / run)
    (dataset / f"{run}.dvc").unlink(missing_ok=True)


def _keep(dataset: Path, oid: str, content: bytes) -> None:
    path = dataset / ".dvc" / "cache" / "files" / "md5" / oid[:2] / oid[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def send_by_hand(dataset: Path, folder: Path) -> Remote:
    """Put the version and every object of the cache into a folder, as a push leaves it."""
    remote = folder_remote(folder)
    if not Path(remote.git_url).exists():
        init_repository(Path(remote.git_url), bare=True)
    if not git_succeeds(dataset, "remote", "get-url", "origin"):
        run_git(dataset, "remote", "add", "origin", remote.git_url)
    run_git(dataset, "remote", "set-url", "origin", remote.git_url)
    run_git(dataset, "push", "--quiet", "--tags", "origin", "HEAD:refs/heads/main")
    objects = Path(remote.dvc_url) / "files" / "md5"
    shutil.copytree(dataset / ".dvc" / "cache" / "files" / "md5", objects, dirs_exist_ok=True)
    return remote
