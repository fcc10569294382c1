"""Make readable what killed runs left under `.partial`.

Everything here can be killed at any point and run again. The record files are deleted only after
the Parquet files made of them are on the disk and `run.json` names their hashes, and the directory
moves to its place by one rename.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgejoule.dataset.alive import LOCK_NAME, gate, hold_lock, parent_lives
from edgejoule.dataset.builds import sweep_builds
from edgejoule.dataset.convert import RECORD_FILES, convert_one
from edgejoule.dataset.findings import ERROR
from edgejoule.dataset.run_directory import (
    ASIDE,
    PARTIAL,
    RUN_JSON,
    is_dataset,
    move_into_place,
    remove_working_files,
    utc_now,
    write_run_json,
)
from edgejoule.dataset.schema import row_count
from edgejoule.dataset.verify import check_hashes, run_json_is_whole
from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.files import config_sha256, disk_errors, read_json

Action = Literal["live", "finished", "recovered", "removed", "stuck"]


@dataclass(frozen=True)
class Recovered:
    """What became of one working directory.

    Attributes:
        partial: Its name under `.partial`.
        action: `live` (left alone), `finished` (only the rename was missing), `recovered` (an
            incomplete run), `removed` (nothing had been measured), `stuck` (see `detail`).
        path: Where it is now, None if removed.
        detail: One clause for people.
    """

    partial: str
    action: Action
    path: Path | None
    detail: str


def recover(dataset: Path) -> list[Recovered]:
    """Recover every working directory of a dataset whose parent is gone.

    Raises:
        UsageError: The folder is no dataset, or cannot be written.
    """
    if not is_dataset(dataset):
        raise UsageError(f"{dataset} is no dataset", "give a folder of runs")
    partials = dataset / PARTIAL
    if not partials.is_dir():
        return []
    found: list[Recovered] = []
    with disk_errors(dataset), gate(partials):
        # Claimed behind the gate: whoever makes or finishes a run holds it meanwhile.
        names = sorted(entry.name for entry in partials.iterdir() if _is_partial(entry))
        claims = {name: _claim(partials / name) for name in names}
    for name, fd in claims.items():
        partial = partials / name
        if fd is None:
            found.append(Recovered(name, "live", partial, "is being measured or recovered"))
            continue
        try:
            with disk_errors(dataset):
                found.append(_recover_one(partial))
        except EdgejouleError as error:
            found.append(Recovered(name, "stuck", partial, str(error)))
        finally:
            os.close(fd)
    with disk_errors(dataset), gate(partials):
        _settle_asides(partials)
    sweep_builds(partials)
    return found


def _is_partial(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _claim(partial: Path) -> int | None:
    """Return the descriptor of the lock if the directory's parent is gone, None if it lives."""
    fd = hold_lock(partial / LOCK_NAME)
    if fd is None:
        return None
    if parent_lives(_request(partial).get("parent")):
        os.close(fd)
        return None
    return fd


def _request(partial: Path) -> dict[str, Any]:
    return _object_in(partial / "request.json")


def _recover_one(partial: Path) -> Recovered:
    dataset = partial.parent.parent
    name, _, identity = partial.name.rpartition("-")
    run = run_json_is_whole(partial)
    if run is not None and _hashes_agree(partial, run):
        if run["status"] != "incomplete" and not (dataset / run["name"]).exists():
            remove_working_files(partial)
            move_into_place(partial, dataset / run["name"], overwrite=False)
            return Recovered(
                partial.name, "finished", dataset / run["name"], "only its last rename was missing"
            )
        reason = "another run of its name exists" if run["status"] != "incomplete" else ""
    else:
        reason = "" if run is None else "files do not agree with run.json"
        run = None
    request = _request(partial)
    if run is None and not _measured(partial):
        shutil.rmtree(partial)
        return Recovered(partial.name, "removed", None, "nothing had been measured")
    final_name = f"{name}--incomplete-{identity}"
    if run is None:
        damaged = _convert_what_can_be(partial) + _set_damaged_aside(partial)
        run = _incomplete_run(partial, request)
        run["missing"] += damaged
    if reason:
        run = {**run, "missing": [*run.get("missing", []), reason]}
    if run.get("name") != final_name or run["status"] != "incomplete" or reason:
        write_run_json(partial, {**run, "status": "incomplete"}, final_name)
    remove_working_files(partial)
    move_into_place(partial, dataset / final_name, overwrite=False)
    missing = "; ".join(run["missing"])
    return Recovered(partial.name, "recovered", dataset / final_name, missing)


def _hashes_agree(partial: Path, run: dict[str, Any]) -> bool:
    """Say whether each file named in `run.json` is there and as named; others do not matter."""
    return not any(
        finding.severity == ERROR and finding.file in run["files"]
        for finding in check_hashes(partial, run)
    )


def _measured(partial: Path) -> bool:
    """Say whether the directory holds anything that someone may want to read."""
    files = ("engine.json", "run.log", "phases.jsonl")
    return (
        any((partial / name).is_file() and (partial / name).stat().st_size for name in files)
        or any(partial.glob("*.bin"))
        or any(partial.glob("*.parquet"))
    )


def _convert_what_can_be(partial: Path) -> list[str]:
    """Convert the record files; one whose header is damaged is kept as `<name>.damaged`."""
    damaged = []
    for name in RECORD_FILES:
        source = partial / f"{name}.bin"
        try:
            readable = convert_one(partial, name) is not None
        except MeasurementError as error:
            if isinstance(error.__cause__, OSError):
                raise  # the disk, not the file
            readable = False
        if not readable and source.is_file() and source.stat().st_size:
            source.rename(source.with_name(f"{source.name}.damaged"))
            damaged.append(f"{source.name} is damaged")
    return damaged


def _set_damaged_aside(partial: Path) -> list[str]:
    """Rename what a kill left half-written to `<name>.damaged`, so that readers pass it by."""
    import pyarrow as pa

    damaged = []
    for path in sorted([*partial.glob("*.json"), *partial.glob("*.parquet")]):
        try:
            if path.suffix == ".parquet":
                row_count(path)
            elif path.name not in {"request.json", RUN_JSON}:
                read_json(path)
        except (MeasurementError, pa.ArrowException, OSError):
            path.rename(path.with_name(f"{path.name}.damaged"))
            damaged.append(f"{path.name} is damaged")
    return damaged


def _incomplete_run(partial: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Return the `run.json` of a killed run, from its request, its set-up and what it recorded."""
    lacking = "request.json is missing or damaged" if not request.get("config") else ""
    config = request.get("config") or _UNKNOWN_CONFIG
    setup = _object_in(partial / "artefacts" / "setup.json")
    engine = _object_in(partial / "engine.json")
    machine = _object(request.get("machine"))
    power = _power_facts(partial)
    simulated = bool(power.get("simulated"))
    counts = _inference_counts(partial)
    missing = [lacking] if lacking else []
    done, asked = counts.get("profiled", 0), config.get("runs")
    missing.append(f"killed with {done} of {asked} profiled inferences recorded")
    if segments := _segments(partial):
        missing.append(
            f"killed with {segments} segments of the replay pass recorded, and no energy of layers"
        )
    missing += [
        f"no {name}"
        for name in ("engine.json", "inferences.parquet", "layers.parquet", "power.parquet")
        if not (partial / name).is_file()
        and not (name == "power.parquet" and config.get("sensor") == "none")
    ]
    if not setup:
        missing.append("setup.json is missing or damaged: weights are taken from the request")
    program = _object(machine.get("libraries")).get("edgejoule")
    versions = _object(setup.get("versions")) or _object(engine.get("versions"))
    facts = {
        "command": [str(word) for word in request.get("command") or ()],
        "why": _object(request.get("why")),
        "machine": machine,
        "board_id": machine.get("board_id"),
        "power_mode": machine.get("power_mode"),
        "source": _object(setup.get("source")),
        "input": _object(setup.get("input")),
        "accuracy": _object(setup.get("accuracy")) or None,
        "versions": {**({"edgejoule": program} if program else {}), **versions},
    }
    return {
        **facts,
        "status": "incomplete",
        "missing": missing,
        "started_at": request.get("started_at") or request.get("created_at") or utc_now(),
        "config": config,
        "config_sha256": config_sha256(config),
        "sensor": {
            "name": str(power.get("sensor") or config.get("sensor", "none")),
            "simulated": simulated,
            **{key: power[key] for key in _SENSOR_FACTS if key in power},
        },
        "simulated": simulated,
        "weights": _weights(setup, config),
        "clock": {"wall_anchor": power.get("wall_anchor") or request.get("wall_anchor")},
        "summary": {"inferences": counts},
    }


# As a finished run has them; of these a trace of the first versions has the first three alone.
_SENSOR_FACTS = ("refresh_ns", "configuration", "channels", "groups", "board", "total")
_UNKNOWN_CONFIG: dict[str, Any] = {
    "model": "unknown",
    "backend": "unknown",
    "dtype": "unknown",
    "runs": 1,
    "weights": "unknown",
    "sensor": "none",
}
_WEIGHTS = ("pretrained", "random", "user")


def _weights(setup: dict[str, Any], config: dict[str, Any]) -> str:
    """Return where the weights come from: as the set-up found them, else as they were asked for.

    Of a user's file they are the user's, whatever was asked; what cannot be known counts as random,
    never as real.
    """
    if setup.get("weights") in _WEIGHTS:
        return str(setup["weights"])
    own = config.get("engine") or config.get("model_sha256")
    if own or _OWN_FILE.search(str(config.get("model"))):
        return "user"
    asked = config.get("weights")
    return str(asked) if asked in _WEIGHTS else "random"


_OWN_FILE = re.compile(r"\.(py(:\w*)?|onnx|pt2)$", re.IGNORECASE)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _object_in(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, {} if it is absent or damaged."""
    try:
        return _object(read_json(path))
    except MeasurementError:
        return {}


def _power_facts(partial: Path) -> dict[str, Any]:
    from edgejoule.dataset.schema import read_metadata

    path = partial / "power.parquet"
    return read_metadata(path) if path.is_file() else {}


def _segments(partial: Path) -> int:
    path = partial / "replay.parquet"
    return row_count(path) if path.is_file() else 0


def _inference_counts(partial: Path) -> dict[str, int]:
    import pyarrow.parquet as pq

    path = partial / "inferences.parquet"
    if not path.is_file() or not row_count(path):
        return {}
    counts = pq.read_table(path, columns=["pass"])["pass"].cast("string").value_counts()
    return {str(item["values"]): int(item["counts"]) for item in counts.to_pylist()}


def _settle_asides(partials: Path) -> None:
    """Finish an interrupted `--overwrite`: drop the old run if the new one is there, else undo."""
    for aside in partials.glob(f"{ASIDE}*"):
        name = aside.name[len(ASIDE) :].rpartition("-")[0]
        if (partials / aside.name[len(ASIDE) :]).exists():
            continue  # the new one waits for its own recovery
        final = partials.parent / name
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(final)
