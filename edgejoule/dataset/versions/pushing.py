"""Send runs as a new version.

In this order: is the token good; what does the remote's version say of the runs here; add what is
new; send what the store lacks; ask the store for every object; commit; move the remote's branch and
number the version. The branch moves last, so it never points at data that are not there, and a push
that was cut short is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgejoule.dataset.run_directory import RUN_JSON, is_dataset
from edgejoule.dataset.versions import dvc_adapter as dvc
from edgejoule.dataset.versions import tags
from edgejoule.dataset.versions.dagshub import ensure_repository, need_token, user_of
from edgejoule.dataset.versions.locking import one_at_a_time
from edgejoule.dataset.versions.notes import forget_damaged, forget_here, note_here, noted_damaged
from edgejoule.dataset.versions.pointers import Pointer, read_pointer
from edgejoule.dataset.versions.push_checks import Plan, check_run, choose, compare, pointer_meta
from edgejoule.dataset.versions.remote_objects import (
    BadObject,
    StoredObject,
    check_objects,
    objects_of,
)
from edgejoule.dataset.versions.remotes import Remote, need_store
from edgejoule.dataset.versions.repository import (
    FETCHED,
    commit_files,
    configured_remote,
    fetch,
    fetched_runs,
    head,
    init,
    join,
    make_folder_remote,
    on_branch,
    set_git_remote,
    set_store,
)
from edgejoule.dataset.versions.stamps import stamp
from edgejoule.dataset.versions.stores import with_store_of
from edgejoule.dataset.versions.strays import find_strays, refuse_absent, with_lost_pointers
from edgejoule.dataset.versions.transfer import Meter, md5_of_file, megabytes, send
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import disk_errors, sha256_of
from edgejoule.report.progress import Progress

Say = Callable[[str], None]

_ADDED_AT_ONCE = 20
_NAMED = 5


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        remote: Where to.
        new: Runs that the version gained, or has in another form now.
        known: Runs that it had already.
        refused: Run -> why it was not sent.
        commit: The commit that the branch points at now.
        version: Its name: `data-3`.
        moved: Whether there was anything for a new version.
        taken_out: Runs that vanished here and are not in the new version.
        removed: Runs here that others took out of the version; they were not sent.
        sent_objects: Objects that the store lacked or had wrong.
        objects: Objects that were looked at on the store.
    """

    remote: Remote
    new: tuple[str, ...]
    known: tuple[str, ...]
    refused: dict[str, str]
    commit: str
    version: str = ""
    moved: bool = False
    taken_out: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    sent_objects: int = 0
    objects: int = 0


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
    deep: bool = False,
    tag: str | None = None,
    say: Say = print,
    progress: Progress | None = None,
) -> Pushed:
    """Send runs to the remote as a new version.

    Args:
        dataset: The dataset's folder; made a repository if it is none.
        remote: Where to.
        runs: Names of the runs to send; all if empty.
        message: The version's message.
        branch: The branch to move.
        force: Send simulated, random-weight and incomplete runs to a shared remote, too.
        allow_change: Replace runs that the version has with other content, and take runs that
            vanished here out of the new version. Older versions keep them.
        create: Create the repository if it is not there.
        deep: Read every object back from the store and hash it.
        tag: A name of one's own for the version, beside its number.
        say: Takes lines for people.
        progress: Shows objects and bytes.

    Raises:
        TokenError, ServerError: As they say; nothing was changed on the remote's branch.
        MeasurementError: A run is wrong, was changed or vanished, or the store lacks what was sent.
        UsageError: No such run, repository or store.
    """
    if not is_dataset(dataset):
        raise UsageError(f"{dataset} is no dataset", "give a folder of runs with --dataset")
    if not remote.dvc_url:
        configured = configured_remote(dataset)
        if configured is not None and configured.git_url == remote.git_url:
            remote = configured
    need_store(remote)
    dvc.need_dvc(remote)
    token = need_token() if remote.needs_token else None
    if remote.hosted:
        ensure_repository(remote, create=create)
    elif remote.in_folder:
        make_folder_remote(remote)
    init(dataset, commit=False)
    with one_at_a_time(dataset), disk_errors(dataset):
        if not on_branch(dataset):
            raise UsageError(
                f"{dataset} shows an old version", "run pull without --rev first, then push"
            )
        chosen, refused = choose(dataset, remote, runs, force=force)
        found = fetch(dataset, remote, token, branch)
        remote, token = _with_its_store(dataset, remote, token, found=found)
        if tag is not None:
            tags.check_name(dataset, tag)
        version = fetched_runs(dataset)
        plan = compare(
            dataset, version, chosen, whole=not runs, named=bool(runs), allow_change=allow_change
        )
        set_git_remote(dataset, remote)
        for line in join(dataset):
            say(line)
        plan = with_lost_pointers(dataset, plan, version)
        strays = find_strays(dataset, remote, plan, version)
        apart = tuple(run for run in strays if run in refused and run not in version)
        for run in plan.new:
            check_run(dataset, run)
        sent, looked_at = _send_data(
            dataset, remote, token, plan, version, allow_change=allow_change, deep=deep, say=say,
            progress=progress or Progress(quiet=True),
            strays=[run for run in strays if run not in apart],
        )  # fmt: skip
        _take_out(dataset, (*plan.vanished, *apart))
        set_store(dataset, remote)
        text = message or _message(plan)
        changed = (*plan.new, *plan.vanished, *apart)
        commit_files(dataset, text, [f"{run}.dvc" for run in changed])
        moved = tags.publish(
            dataset, remote, token, branch, message=text, name=tag, allow_change=allow_change
        )
        _take_note(dataset, plan, apart)
        return Pushed(
            remote, plan.new, plan.known, refused, head(dataset),
            version=tags.version_of(dataset), moved=moved is not None, taken_out=plan.vanished,
            removed=plan.removed, sent_objects=sent, objects=looked_at,
        )  # fmt: skip


def _with_its_store(
    dataset: Path, remote: Remote, token: str | None, *, found: bool
) -> tuple[Remote, str | None]:
    """Return the remote with the store of its version, or of ours, and the token for it.

    Raises:
        UsageError: Nobody names a store, or the data of the version would stay in another one.
        TokenError: The store needs a token.
    """
    named = with_store_of(dataset, remote, FETCHED) if found else remote
    if remote.store_given and found:
        before = with_store_of(dataset, replace(remote, store_given=False), FETCHED)
        absent = sorted(
            run for run in fetched_runs(dataset) if not (dataset / run / RUN_JSON).exists()
        )
        if before.dvc_url and before.store != remote.store and absent:
            raise UsageError(
                f"the version has its data in {before.store}, and {len(absent)} of its runs "
                f"({absent[0]}, ...) are not here to go to {remote.store}",
                "pull them first, then push --store",
            )
    if named.needs_token and token is None:
        token = need_token()
        user_of(token)
    return named, token


def _send_data(
    dataset: Path,
    remote: Remote,
    token: str | None,
    plan: Plan,
    version: dict[str, Pointer],
    *,
    allow_change: bool,
    deep: bool,
    say: Say,
    progress: Progress,
    strays: Sequence[str],
) -> tuple[int, int]:
    """Add what is new, send what the store lacks, and look at every object there.

    Returns:
        How many objects were sent, and how many were looked at.

    Raises:
        MeasurementError: The store lacks something after all.
    """
    if not plan.sent and not strays:
        return 0, 0
    with dvc.opened(dataset, remote, token) as repo:
        refuse_absent(repo, dataset, remote, strays)
        _add(repo, dataset, plan.new, version, allow_change=allow_change, say=say, show=progress)
        every, lacking, noted = _lacking(repo, dataset, remote, plan, deep=deep, show=progress)
        if _mend_cache(repo, dataset, lacking):
            every, lacking, noted = _lacking(repo, dataset, remote, plan, deep=deep, show=progress)
        if lacking:
            total = sum(item.size or 0 for item in lacking)
            say(f"sending {_objects_count(lacking)}, {megabytes(total)}, to {remote.label}")
            send(repo, lacking, Meter("sending", len(lacking), total, progress))
            _look_again(repo, remote, lacking, noted, deep=deep)
        forget_damaged(dataset, remote.store, [item.oid for item in every])
        return len(lacking), len(every)


def _lacking(
    repo: Any, dataset: Path, remote: Remote, plan: Plan, *, deep: bool, show: Progress
) -> tuple[list[StoredObject], list[StoredObject], set[str]]:
    """Return all objects of the runs, those that the store lacks or has wrong, and those noted."""
    objects: dict[str, StoredObject] = {}
    for run in plan.sent:
        objects.update((item.oid, item) for item in _objects(repo, dataset, run))
    every = list(objects.values())
    bad = check_objects(
        repo, every, deep=deep, seen=Meter("asking the store", len(every), 0, show).seen
    )
    noted = set(noted_damaged(dataset, remote.store)) & set(objects)
    wrong = noted | {one.object.oid for one in bad}
    return every, [item for item in every if item.oid in wrong], noted


def _mend_cache(repo: Any, dataset: Path, objects: Sequence[StoredObject]) -> bool:
    """Make objects of the cache anew that a power cut or a bad disk has left wrong.

    DVC takes an object that is there for right. It is sent under its right name, so what is in it
    has to be looked at before.

    Returns:
        Whether there was any.

    Raises:
        MeasurementError: It comes out wrong again.
    """

    def wrong() -> list[StoredObject]:
        return [
            item
            for item in objects
            if not item.local.is_file() or md5_of_file(item.local) != item.oid.partition(".")[0]
        ]

    found = wrong()
    for item in found:
        item.local.unlink(missing_ok=True)
    for run in sorted({name.partition("/")[0] for item in found for name in item.files}):
        dvc.add_runs(repo, {run: pointer_meta(dataset, run)})
    if found and (still := wrong()):
        name = ", ".join(still[0].files) or still[0].oid
        raise MeasurementError(
            f"the cache {dataset / '.dvc' / 'cache'} does not keep {name} right",
            "check the disk; then data_version.py verify, and push again",
        )
    return bool(found)


def _add(
    repo: Any,
    dataset: Path,
    runs: Sequence[str],
    version: Mapping[str, Pointer],
    *,
    allow_change: bool,
    say: Say,
    show: Progress,
) -> None:
    """Add runs; a pointer of the version without our notes must come to the same.

    Raises:
        MeasurementError: It does not.
    """
    if runs:
        names = ", ".join(runs[:_NAMED]) + (
            f" and {len(runs) - _NAMED} more" * (len(runs) > _NAMED)
        )
        say(f"adding {names}")
    for start in range(0, len(runs), _ADDED_AT_ONCE):
        some = runs[start : start + _ADDED_AT_ONCE]
        show.update("adding", start, len(runs))
        dvc.add_runs(repo, {run: pointer_meta(dataset, run) for run in some})
    for run in runs:
        before = version.get(run)
        if before is None or before.run_json_sha256 is not None or allow_change:
            continue
        now = read_pointer(run, dvc.pointer_of(dataset, run).read_text(encoding="utf-8"))
        if now is None or now.oid != before.oid:
            raise MeasurementError(
                f"{run} is another run here than in the version",
                "move it out of the dataset and pull --run; or push --allow-change to replace the "
                "version's (older versions keep it)",
            )


def _objects(repo: Any, dataset: Path, run: str) -> list[StoredObject]:
    """Return a run's objects; a cache that was emptied is filled again from the run's files."""
    dvc.check_pointer(repo, run)
    try:
        return objects_of(repo, run)
    except MeasurementError:
        dvc.add_runs(repo, {run: pointer_meta(dataset, run)})
        return objects_of(repo, run)


def _look_again(
    repo: Any, remote: Remote, sent: Sequence[StoredObject], noted: set[str], *, deep: bool
) -> None:
    """Ask for what was sent; what had been wrong in its content is read back.

    Raises:
        MeasurementError: Something is still not there, or not right.
    """
    doubtful = [item for item in sent if deep or item.oid in noted]
    others = [item for item in sent if not (deep or item.oid in noted)]
    bad: list[BadObject] = [
        *check_objects(repo, others),
        *(check_objects(repo, doubtful, deep=True) if doubtful else ()),
    ]
    if bad:
        first = bad[0]
        name = ", ".join(first.object.files) or first.object.oid
        raise MeasurementError(
            f"after the push {len(bad)} of {len(sent)} objects are wrong on {remote.label}: "
            f"{name} {first.reason}",
            "push again; the version was not moved",
        )


def _take_out(dataset: Path, runs: Sequence[str]) -> None:
    for run in runs:
        dvc.pointer_of(dataset, run).unlink(missing_ok=True)


def _take_note(dataset: Path, plan: Plan, apart: Sequence[str]) -> None:
    """Remember what was here, and that all of it was just checked.

    What is kept from others, `apart`, was not taken out by them: it may be forced later.
    """
    forget_here(dataset, (*plan.vanished, *apart))
    note_here(dataset, {run: sha256_of(dataset / run / RUN_JSON) for run in plan.sent})
    stamp(dataset, plan.new)


def _objects_count(objects: Sequence[StoredObject]) -> str:
    return f"{len(objects)} object" + ("s" if len(objects) != 1 else "")


def _message(plan: Plan) -> str:
    parts = []
    for verb, runs in (("Add", plan.new), ("Take out", plan.vanished)):
        if runs:
            more = f" and {len(runs) - 5} more" if len(runs) > 5 else ""
            parts.append(f"{verb} {', '.join(runs[:5])}{more}")
    return "; ".join(parts) or "Update the dataset"
