"""Hold a run or a dataset against its contract, `docs/DatasetFormats.md`.

Hashes and sizes say that the files are those that were sealed; the checks behind them (`checks`)
say that what was sealed makes sense. A run that was cut short is reported as incomplete, and what
it does hold is checked all the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgejoule.dataset.checks import check_tables
from edgejoule.dataset.checks.json_files import not_finite
from edgejoule.dataset.findings import FAILED, INCOMPLETE, NOTE, DatasetReport, Finding, RunReport
from edgejoule.dataset.run_directory import (
    RUN_JSON,
    is_dataset,
    run_directories,
    seal,
    seal_problem,
)
from edgejoule.dataset.schema import DATASET_FILES, JSON_FILES, row_count, schema_problems
from edgejoule.dataset.verify_version import check_version
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import canonical_json, config_sha256, files_below, read_json, sha256_of

CALIBRATION = "calibration.json"
FIGURES = "figures"  # of a report, like report.html: no part of the dataset
_ALWAYS = ("engine.json", "inferences.parquet", "layers.parquet")
_WITH_SENSOR = ("power.parquet", "idle.json", "energy.parquet")


def verify(path: Path) -> DatasetReport:
    """Verify a dataset, or one run directory (then the report holds that run alone).

    Raises:
        UsageError: The folder is neither.
    """
    if (path / RUN_JSON).exists() or (not is_dataset(path) and _looks_like_run(path)):
        return DatasetReport(path, (), (verify_run(path),))
    return verify_dataset(path)


def verify_dataset(path: Path) -> DatasetReport:
    """Verify every run of a dataset.

    Raises:
        UsageError: The folder is no dataset.
    """
    if not path.is_dir():
        raise UsageError(f"{path} is no folder", "give a dataset or a run directory")
    folders = [entry for entry in sorted(path.iterdir()) if _is_visible_folder(entry)]
    orphans = [
        folder for folder in folders if not (folder / RUN_JSON).exists() and _looks_like_run(folder)
    ]
    if not is_dataset(path):
        raise UsageError(f"{path} is no dataset", "give a folder of runs, or one run directory")
    findings = []
    for name, schema in DATASET_FILES.items():
        if (path / name).exists():
            problems = _json_problems(path / name, schema) or _seal_problems(path / name)
            findings += [Finding(name, problem) for problem in problems]
    findings += [Finding(f"{folder.name}/{RUN_JSON}", "is missing") for folder in orphans]
    for folder in folders:
        if folder.name == FIGURES or folder in orphans:
            continue
        if not (folder / RUN_JSON).exists():
            findings.append(Finding(folder.name, "is no run", NOTE))
    if (path / CALIBRATION).exists():
        findings += _check_calibration(path / CALIBRATION, None)
    runs = tuple(verify_run(run) for run in run_directories(path))
    findings += check_version(path, {report.path.name: report for report in runs})
    return DatasetReport(path, tuple(findings), runs)


def verify_run(path: Path) -> RunReport:
    """Verify one run directory; a folder without a `run.json` is itself a finding."""
    findings: list[Finding] = []
    try:
        run = read_json(path / RUN_JSON)
    except MeasurementError as error:
        return RunReport(path, None, (Finding(RUN_JSON, _without_path(error, path)),))
    problems = schema_problems("run", run)
    if problems:
        return RunReport(path, None, tuple(Finding(RUN_JSON, problem) for problem in problems))
    findings += _check_run_json(path, run)
    sound = _check_files(path, run, findings)
    for name in sorted(sound):
        if name.endswith(".json"):
            problems = _run_file_problems(path / name)
            findings += [Finding(name, problem) for problem in problems]
            if problems:
                sound.discard(name)
    findings += check_tables(path, run, sound)
    if CALIBRATION in sound:
        findings += _check_calibration(path / CALIBRATION, run)
    return RunReport(path, run["status"], tuple(findings))


def _check_calibration(path: Path, run: dict[str, Any] | None) -> list[Finding]:
    """Check that a calibration can be read and, for a run's own, is of the run's sensor."""
    from edgejoule.energy.calibration_file import read_calibration

    try:
        found = read_calibration(path)
    except MeasurementError as error:
        return [Finding(path.name, _without_path(error, path))]
    if run is None:
        return []
    sensor = run["sensor"]["name"]
    if found.sensor != sensor or found.simulated != run["simulated"]:
        return [Finding(path.name, f"is of sensor {found.sensor}, the run's is {sensor}")]
    return []


def check_hashes(path: Path, run: dict[str, Any]) -> list[Finding]:
    """Compare the files of a run with hash and size in its `run.json`; nothing else."""
    findings: list[Finding] = []
    _check_files(path, run, findings)
    return findings


def run_json_is_whole(path: Path) -> dict[str, Any] | None:
    """Return a run's `run.json` if it fits the schema and its own hash agrees, else None."""
    try:
        run = read_json(path / RUN_JSON)
    except MeasurementError:
        return None
    if schema_problems("run", run) or _run_seal_problem(path, run):
        return None
    found: dict[str, Any] = run
    return found


def _check_run_json(path: Path, run: dict[str, Any]) -> list[Finding]:
    findings = []
    if problem := _run_seal_problem(path, run):
        findings.append(Finding(RUN_JSON, problem))
    elif canonical_json(run) != (path / RUN_JSON).read_bytes():
        findings.append(Finding(RUN_JSON, "was rewritten: its bytes are not canonical JSON"))
    if config_sha256(run["config"]) != run["config_sha256"]:
        findings.append(Finding(RUN_JSON, "config_sha256 is not the hash of config"))
    if run["name"] != path.resolve().name:
        findings.append(Finding(RUN_JSON, f"names the run {run['name']}, its folder does not"))
    if run["sensor"].get("simulated", run["simulated"]) != run["simulated"]:
        findings.append(Finding(RUN_JSON, "simulated and sensor.simulated contradict each other"))
    missing = "; ".join(run.get("missing", ()))
    if run["status"] == "incomplete":
        findings.append(Finding(RUN_JSON, f"incomplete: {missing or 'cut short'}", INCOMPLETE))
    elif run["status"] == "failed":
        findings.append(Finding(RUN_JSON, f"{FAILED}: {missing or 'no reason kept'}"))
    else:
        needed = _ALWAYS + (() if run["sensor"]["name"] == "none" else _WITH_SENSOR)
        findings += [
            Finding(name, "is missing from a complete run")
            for name in needed
            if name not in run["files"]
        ]
        if any(phase["end_ns"] is None for phase in run["phases"]):
            findings.append(Finding(RUN_JSON, "a phase of a complete run has no end"))
    end_ns = None
    for number, phase in enumerate(run["phases"]):
        name = f"phase {number} ({phase['phase']})"
        if end_ns is not None and phase["start_ns"] < end_ns:
            findings.append(Finding(RUN_JSON, f"{name} starts before the one before it ends"))
        end_ns = phase["end_ns"]
        if end_ns is not None and end_ns < phase["start_ns"]:
            findings.append(Finding(RUN_JSON, f"{name} ends before it starts"))
        end_ns = phase["start_ns"] if end_ns is None else end_ns
    return findings


def _run_seal_problem(path: Path, run: dict[str, Any]) -> str | None:
    # A number beyond what a float holds is read as infinite, and has no canonical form.
    if problem := not_finite(path / RUN_JSON):
        return problem
    changed = seal(run)["run_sha256"] != run["run_sha256"]
    return "was changed after the run was sealed (run_sha256)" if changed else None


def _check_files(path: Path, run: dict[str, Any], findings: list[Finding]) -> set[str]:
    """Compare files with their entries; return those that agree, which the checks may open."""
    sound = set()
    for name, facts in run["files"].items():
        file = path / name
        if file.is_symlink() and not file.exists():
            findings.append(Finding(name, "is a link to nothing"))
        elif not file.is_file():
            findings.append(Finding(name, "is missing"))
        elif file.stat().st_size != facts["bytes"]:
            size = file.stat().st_size
            findings.append(Finding(name, f"has {size} bytes, run.json says {facts['bytes']}"))
        elif sha256_of(file) != facts["sha256"]:
            findings.append(Finding(name, "has another SHA-256 than run.json says"))
        elif name.endswith(".parquet") and (problem := _row_problem(file, facts["rows"])):
            findings.append(Finding(name, problem))
        else:
            sound.add(name)
    unlisted = set(files_below(path)) - set(run["files"]) - {RUN_JSON}
    findings += [Finding(name, "is not listed in run.json") for name in sorted(unlisted)]
    return sound


def _row_problem(file: Path, rows: int | None) -> str | None:
    import pyarrow as pa

    try:
        found = row_count(file)
    except (pa.ArrowException, OSError) as error:
        return f"cannot be read as Parquet ({' '.join(str(error).split())[:120]})"
    return None if found == rows else f"has {found} rows, run.json says {rows}"


def _json_problems(path: Path, schema: str) -> list[str]:
    try:
        return schema_problems(schema, read_json(path))
    except MeasurementError as error:
        return [_without_path(error, path.parent)]


def _run_file_problems(path: Path) -> list[str]:
    """Return what is wrong with a JSON file of a run, whichever wrote it."""
    if problem := not_finite(path):
        return [problem]
    schema = JSON_FILES.get(path.name)
    # A calibration has a reader of its own, which says more than a schema can.
    return [] if schema is None or path.name == CALIBRATION else _json_problems(path, schema)


def _seal_problems(path: Path) -> list[str]:
    """Return what is wrong with the hash that one of the dataset's own files carries."""
    document = read_json(path)
    if problem := seal_problem(document):
        return [problem]
    if "sha256" in document and canonical_json(document) != path.read_bytes():
        return ["was rewritten: its bytes are not canonical JSON"]
    return []


def _without_path(error: MeasurementError, folder: Path) -> str:
    """Return the error's line without the file's path, which the finding names anyway."""
    line = str(error)
    start = line.find(str(folder))
    if start != 0:
        return line
    return line[len(str(folder)) :].lstrip("/\\").partition(" ")[2]


def _is_visible_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _looks_like_run(folder: Path) -> bool:
    return any(folder.glob("*.parquet")) or (folder / "engine.json").exists()
