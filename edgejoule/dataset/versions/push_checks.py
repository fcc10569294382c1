"""What is held against the version before anything is sent: which runs are new, known, or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgejoule.dataset.findings import ERROR, FAILED
from edgejoule.dataset.run_directory import RUN_JSON, run_directories
from edgejoule.dataset.verify import check_hashes, run_json_is_whole, verify_run
from edgejoule.dataset.versions.git import git_output, git_succeeds
from edgejoule.dataset.versions.notes import had_here
from edgejoule.dataset.versions.pointers import Pointer
from edgejoule.dataset.versions.remotes import Remote
from edgejoule.dataset.versions.repository import FETCHED, has_commits, has_fetched
from edgejoule.dataset.versions.stamps import is_stamped, stamp
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import sha256_of


@dataclass(frozen=True)
class Plan:
    """What a push does with the runs.

    Attributes:
        new: Runs that the version lacks, or is to get in another form.
        known: Runs that it has as they are here.
        vanished: Runs of the version that this folder had and has no more.
        removed: Runs here that others took out of the version.
    """

    new: tuple[str, ...]
    known: tuple[str, ...]
    vanished: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def sent(self) -> tuple[str, ...]:
        """All runs whose objects the remote has to have."""
        return (*self.new, *self.known)


def choose(
    dataset: Path, remote: Remote, runs: Sequence[str], *, force: bool
) -> tuple[list[str], dict[str, str]]:
    """Return the runs to send and those refused with the reason.

    Raises:
        UsageError: There is no such run.
        MeasurementError: A `run.json` is damaged.
    """
    here = {path.name: path for path in run_directories(dataset)}
    if unknown := sorted(set(runs) - set(here)):
        raise UsageError(
            f"{dataset} has no run {unknown[0]}", f"it has {', '.join(sorted(here)[:20]) or 'none'}"
        )
    chosen, refused = [], {}
    for name in list(dict.fromkeys(runs)) or sorted(here):
        run = run_json_is_whole(here[name])
        if run is None:
            raise MeasurementError(
                f"{name}/run.json is damaged", f"data_version.py verify {here[name]} says in what"
            )
        reasons = unreal(run)
        if reasons and remote.shared and not force:
            refused[name] = ", ".join(reasons)
        else:
            chosen.append(name)
    return chosen, refused


def unreal(run: Mapping[str, Any]) -> list[str]:
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


def compare(
    dataset: Path,
    version: Mapping[str, Pointer],
    chosen: Sequence[str],
    *,
    whole: bool,
    named: bool,
    allow_change: bool,
) -> Plan:
    """Hold the runs here against the version, and refuse what would lose something.

    Args:
        dataset: The dataset's folder.
        version: The remote's newest version, run -> pointer.
        chosen: Runs to send.
        whole: All of the folder is sent, so a run that vanished is told.
        named: The runs were named by the user, so one that others removed is sent again.
        allow_change: Replace changed runs, and take vanished ones out of the version.

    Raises:
        MeasurementError: A run of the version is another one here, was changed, or vanished.
    """
    new: list[str] = []
    known: list[str] = []
    removed: list[str] = []
    for run in chosen:
        there = version.get(run)
        if there is None:
            (removed if not named and _was_removed(dataset, run) else new).append(run)
        elif there.run_json_sha256 == sha256_of(dataset / run / RUN_JSON):
            _check_unchanged(dataset, run)
            known.append(run)
        elif allow_change or there.run_json_sha256 is None:
            new.append(run)
        else:
            raise MeasurementError(
                f"{run} is another run here than in the version",
                "move it out of the dataset and pull --run; or push --allow-change to replace the "
                "version's (older versions keep it)",
            )
    here = {path.name for path in run_directories(dataset)}
    vanished = sorted((set(had_here(dataset)) - here) & set(version)) if whole else []
    if vanished and not allow_change:
        names = ", ".join(vanished[:5]) + (", ..." if len(vanished) > 5 else "")
        raise MeasurementError(
            f"{names}: in the version, was in {dataset}, and is gone",
            "pull brings it back; push --run RUN sends others without it; push --allow-change "
            "takes it out of the new version",
        )
    return Plan(tuple(new), tuple(known), tuple(vanished), tuple(removed))


def check_run(dataset: Path, run: str) -> None:
    """Verify a run that is to become part of a version.

    Raises:
        MeasurementError: It is wrong; the first finding is named.
    """
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


def pointer_meta(dataset: Path, run: str) -> dict[str, Any]:
    """Return what the pointer says of the run: enough to check and to choose without the data."""
    found = run_json_is_whole(dataset / run) or {}
    return {
        "run_json_sha256": sha256_of(dataset / run / RUN_JSON),
        "config_sha256": found.get("config_sha256"),
        "status": found.get("status"),
        "simulated": found.get("simulated"),
        "weights": found.get("weights"),
    }


def _check_unchanged(dataset: Path, run: str) -> None:
    """Refuse a run of the version whose files were changed here under the same `run.json`."""
    if is_stamped(dataset, run, sha256_of(dataset / run / RUN_JSON)):
        return
    findings = check_hashes(dataset / run, run_json_is_whole(dataset / run) or {})
    if findings:
        first = findings[0]
        raise MeasurementError(
            f"{run}/{first.file} {first.problem}; the version has the run whole",
            f"delete {dataset / run} and pull --run {run}",
        )
    stamp(dataset, [run])


def _was_removed(dataset: Path, run: str) -> bool:
    """Say whether the version once had this very run and others took it out."""
    if had_here(dataset).get(run) != sha256_of(dataset / run / RUN_JSON):
        return False
    if not has_fetched(dataset) or not has_commits(dataset):
        return False
    if not git_succeeds(dataset, "cat-file", "-e", f"HEAD:{run}.dvc"):
        return True
    base = (git_output(dataset, "merge-base", "HEAD", FETCHED) or "").strip()
    return bool(base) and git_succeeds(dataset, "cat-file", "-e", f"{base}:{run}.dvc")
