"""Write runs in the older text layout, so that scripts made for it run unchanged.

docs/OlderLayout.md says what becomes what. The whole folder is written beside its place and renamed
at the end; what a reader must know of the numbers goes into a log beside it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgejoule.dataset.older.exporting_run import export_run, started_short
from edgejoule.dataset.older.layout import IDLING_POWER
from edgejoule.dataset.older.times import Zone
from edgejoule.dataset.older.writing import write_indented
from edgejoule.dataset.run_directory import RUN_JSON, run_directories
from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.files import disk_errors, read_json

Say = Callable[[str], None]


@dataclass
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        log: Where the log lies.
        runs: Per run its `run`, `layers`, `inferences`, `power_lines`, `bytes`.
        left_out: Runs that could not be written, with the reason.
        lines: The log: what a reader must know of the numbers.
    """

    folder: Path
    log: Path
    runs: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "folder": str(self.folder),
            "log": str(self.log),
            "runs": self.runs,
            "left_out": self.left_out,
            "notes": self.lines,
        }


def export(
    dataset: Path,
    folder: Path,
    zone: Zone,
    *,
    runs: Sequence[str] = (),
    say: Say = lambda text: None,
) -> Exported:
    """Write runs of a dataset in the older layout.

    Args:
        dataset: The dataset.
        folder: The new folder.
        zone: The zone that its local times are in.
        runs: Names of runs; empty: all.
        say: Is told what is being done.

    Raises:
        UsageError: No such run or dataset, or the folder is not empty.
        MeasurementError: No run could be written, or the disk is full.
    """
    chosen = _chosen(dataset, runs)
    _check_target(dataset, folder)
    done = Exported(folder, folder.with_name(f"{folder.name}.export.log"))
    with disk_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for run in chosen:
                try:
                    facts, notes = export_run(run, beside / run.name, zone, say)
                    done.runs.append(facts)
                except EdgejouleError as error:
                    shutil.rmtree(beside / run.name, ignore_errors=True)
                    done.left_out[run.name] = str(error)
                    notes = [f"left out: {error}"]
                done.lines += [f"{run.name}: {note}" for note in notes]
            if not done.runs:
                reasons = "; ".join(f"{name}: {why}" for name, why in done.left_out.items())
                raise MeasurementError(f"{dataset}: no run can be written so ({reasons})")
            whole = [run for run in chosen if run.name not in done.left_out]
            idling, why = _idling_power(dataset, whole, zone)
            done.lines.append(why)
            if idling is not None:
                write_indented(beside / IDLING_POWER, idling)
            done.lines.insert(0, f"local times are those of {zone.name}")
            beside.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            beside.rename(folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        done.log.write_text("".join(f"{line}\n" for line in done.lines), encoding="utf-8")
    return done


def _chosen(dataset: Path, names: Sequence[str]) -> list[Path]:
    if not dataset.is_dir():
        raise UsageError(f"{dataset} is no folder", "give a dataset")
    there = {path.name: path for path in run_directories(dataset)}
    if not there:
        raise UsageError(f"{dataset} holds no run", "give a dataset")
    for name in names:
        if name not in there:
            raise UsageError(
                f"{dataset} has no run {name!r}", f"it has {', '.join(sorted(there)[:10])}"
            )
    return [there[name] for name in names] if names else list(there.values())


def _check_target(dataset: Path, folder: Path) -> None:
    inside = folder.resolve()
    if inside == dataset.resolve() or dataset.resolve() in inside.parents:
        raise UsageError(f"{folder} lies in the dataset itself", "give another folder with -o")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} is no folder", "give a new or empty folder with -o")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", "give a new or empty folder with -o")


def _idling_power(
    dataset: Path, runs: Sequence[Path], zone: Zone
) -> tuple[dict[str, Any] | None, str]:
    """Return `idling_power.json` in microwatts, None if no idle power is known; and where from."""
    if found := _idle_of_runs(runs, "cold", zone):
        return found
    kept = dataset / IDLING_POWER
    known = read_json(kept) if kept.is_file() else {}
    if known.get("avg_idle_power") is not None:
        plain = {key: known[key] for key in ("timestamp", "avg_idle_power")}
        return plain, f"{IDLING_POWER}: the dataset's own"
    if found := _idle_of_runs(runs, "sampler", zone):
        return found
    return None, f"no idle power is known: there is no {IDLING_POWER}"


def _idle_of_runs(runs: Sequence[Path], kind: str, zone: Zone) -> tuple[dict[str, Any], str] | None:
    """Return the first baseline of this kind on the total, or on the only rail, and its origin."""
    for run in runs:
        path = run / "idle.json"
        for entry in read_json(path) if path.is_file() else []:
            rails = entry["rails"]
            rail = "total" if "total" in rails or len(rails) != 1 else next(iter(rails))
            mean = rails.get(rail, {}).get("mean_mw")
            if entry["kind"] != kind or mean is None:
                continue
            stated = entry.get("stated") or {}
            plain = {
                "timestamp": stated.get("timestamp")
                or started_short(read_json(run / RUN_JSON), zone),
                "avg_idle_power": stated.get("avg_idle_power", mean * 1000.0),
            }
            what = {
                "cold": "the cold baseline", "sampler": "idle with the sampler alone"
            }[kind]  # fmt: skip
            watts = plain["avg_idle_power"] / 1e6
            return plain, f"{IDLING_POWER}: {watts:.4g} W, {what} of {run.name}, {rail}"
    return None
