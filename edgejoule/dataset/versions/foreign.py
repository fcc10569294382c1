"""What a version of others may bring into a folder, and what of ours it replaces.

git overwrites files that it ignores without a word, and runs are ignored by git; settings that are
never committed are trusted. So the names in a foreign version are looked at before it is checked
out. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgejoule.config import check_name
from edgejoule.dataset.run_directory import PARTIAL, RUN_JSON
from edgejoule.dataset.versions.git import git_output
from edgejoule.dataset.versions.pointers import pointers_at
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import disk_errors

_OF_DVC = {".dvc/config", ".dvc/.gitignore"}
_PLOTS = ".dvc/plots/"
_SMALL = {*_OF_DVC, ".dvcignore", ".gitignore", "dataset.json", "idling_power.json"}
_ATTRIBUTES = """\
# Lines of two sides would be neither's: these are taken whole, and as they are.
/*.dvc merge=binary -text -filter -ident
/*.json merge=binary -text -filter -ident
/.dvc/config merge=binary -text -filter -ident
"""


def check_tree(dataset: Path, rev: str) -> None:
    """Refuse a version whose git files would replace something here, or change DVC's settings.

    Args:
        dataset: The repository.
        rev: The version, before it is checked out.

    Raises:
        MeasurementError: There is such a file, or a pointer of a name that no run can have.
    """
    names = _names(dataset, rev)
    ours = _names(dataset, "HEAD")
    for run in pointers_at(dataset, rev):
        try:
            check_name(run)
        except UsageError as error:
            raise MeasurementError(f"a pointer in the version: {error.message}", _MEND) from error
    for name in sorted(names - ours):
        first, _, rest = name.partition("/")
        of_dvc = first.casefold() == ".dvc" and not (
            name in _OF_DVC or name.startswith(_PLOTS) or name == ".dvc"
        )
        of_a_run = bool(rest) and (f"{first}.dvc" in names or first == PARTIAL)
        if of_dvc or of_a_run or (dataset / first / RUN_JSON).exists():
            raise MeasurementError(f"{_shown(name)} is in the version's git, and refused", _MEND)
        if name in _SMALL or name.endswith(".dvc"):
            continue
        if os.path.lexists(dataset / name):
            raise MeasurementError(
                f"{_shown(name)} is here and in the version's git", "move the one here, then pull"
            )


_MEND = "its owner takes it out of git (git rm --cached) and pushes"


def take_files_whole(dataset: Path) -> None:
    """Have git take pointers, defaults and baseline from one side of a merge, never lines of both.

    Written below `.git`, where it comes before what a version says of itself.
    """
    path = dataset / ".git" / "info" / "attributes"
    if not (dataset / ".git").is_dir():
        return  # a worktree shares the file of its repository
    with disk_errors(dataset):
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if _ATTRIBUTES not in text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text + _ATTRIBUTES, encoding="utf-8")


def unversioned(dataset: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return small files of the folder that are not as the version that it shows has them."""
    found = {}
    for name in names:
        path = dataset / name
        if not path.is_file():
            continue
        committed = git_output(dataset, "rev-parse", "--quiet", "--verify", f"HEAD:{name}") or ""
        here = git_output(dataset, "hash-object", "--no-filters", "--", str(path.resolve())) or ""
        if committed.strip() != here.strip():
            found[name] = path.read_bytes()
    return found


def keep_replaced(dataset: Path, before: Mapping[str, bytes]) -> list[str]:
    """Keep what was replaced below `.git`, and return a line for each."""
    lines = []
    for name, content in before.items():
        if (dataset / name).is_file() and (dataset / name).read_bytes() == content:
            continue
        kept = dataset / ".git" / "edgejoule" / "replaced" / name
        if not (dataset / ".git").is_dir():
            continue  # a worktree; git has it in a commit
        with disk_errors(dataset):
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(content)
        lines.append(f"{name} is the remote's now; the one that was here is kept as {kept}")
    return lines


def _names(dataset: Path, rev: str) -> set[str]:
    listed = git_output(dataset, "ls-tree", "-r", "-z", "--name-only", rev)
    return set(filter(None, (listed or "").split("\0")))


def _shown(name: str) -> str:
    return name if name.isprintable() else repr(name)
