"""Pointers of this folder's versions whose runs a push does not send.

The branch that moves brings every pointer that the folder's versions have: also those of runs that
only another remote holds, that are not for others, or that were not named. None of them may point
at data that the store lacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgejoule.dataset.run_directory import RUN_JSON
from edgejoule.dataset.versions.pointers import Pointer, pointer_texts, pointers_at
from edgejoule.dataset.versions.push_checks import Plan
from edgejoule.dataset.versions.remote_check import list_version
from edgejoule.dataset.versions.remote_objects import check_objects
from edgejoule.dataset.versions.remotes import Remote
from edgejoule.dataset.versions.repository import FETCHED, has_commits, has_fetched
from edgejoule.dataset.versions.stores import with_store_of
from edgejoule.errors import MeasurementError


def with_lost_pointers(dataset: Path, plan: Plan, version: Mapping[str, Pointer]) -> Plan:
    """Return the plan with runs added again whose pointer is in the version, but not in ours.

    Without it the new version would drop them, though they are here and taken for known.
    """
    held = pointers_at(dataset, "HEAD") if has_commits(dataset) else {}
    lost = [run for run in plan.known if run not in held or held[run].oid != version[run].oid]
    known = tuple(run for run in plan.known if run not in lost)
    return replace(plan, new=(*plan.new, *lost), known=known)


def find_strays(
    dataset: Path, remote: Remote, plan: Plan, version: Mapping[str, Pointer]
) -> list[str]:
    """Return runs of our versions that are not sent and that the remote's version has not so.

    Args:
        dataset: The dataset, its branch joined with the remote's.
        remote: The remote, with the store that the new version names.
        plan: What is sent.
        version: The remote's version; its runs are whole in its own store alone.
    """
    if has_fetched(dataset):
        before = with_store_of(dataset, replace(remote, store_given=False), FETCHED)
        if before.store != remote.store:
            version = {}
    held = pointers_at(dataset, "HEAD") if has_commits(dataset) else {}
    settled = {*plan.sent, *plan.vanished}
    there = {run: pointer.oid for run, pointer in version.items()}
    return [
        run for run, pointer in held.items() if run not in settled and there.get(run) != pointer.oid
    ]


def refuse_absent(repo: Any, dataset: Path, remote: Remote, runs: Sequence[str]) -> None:
    """Refuse runs that the store has not, or not whole.

    Args:
        repo: The DVC repository, opened with the remote.
        dataset: The dataset.
        remote: The remote.
        runs: As `find_strays` found them.

    Raises:
        MeasurementError: It lacks something of one.
    """
    if not runs:
        return
    texts = pointer_texts(dataset, "HEAD")
    for run in runs:
        listing = list_version(repo, dataset, {run: texts[run]})
        left = [item for oid, item in listing.objects.items() if not listing.is_settled(oid)]
        if not (listing.bad or listing.findings or check_objects(repo, left)):
            continue
        here = (dataset / run / RUN_JSON).exists()
        raise MeasurementError(
            f"{run} is in the versions of {dataset}, but neither whole in {remote.store} nor sent",
            "push without --run; --force, if it is not for others"
            if here
            else f"pull --run {run} from where it came, then push",
        )
