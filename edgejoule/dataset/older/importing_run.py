"""Write what was read of a recording of the older layout as a run of ours.

The run is made inside its working directory's `artefacts`, sealed there, and put into its place by
one rename: killed at any point, an import leaves a whole run or nothing that `recover` would keep.
"""

from __future__ import annotations

import dataclasses
import datetime
import shutil
from pathlib import Path
from typing import Any

from edgejoule import __version__
from edgejoule.config import RunConfig, defaults_of, run_name, slug
from edgejoule.dataset.older.facts import RunFile
from edgejoule.dataset.older.layout import LAYOUT
from edgejoule.dataset.older.recording import Read
from edgejoule.dataset.older.tables import (
    SENSOR,
    Supply,
    write_inferences,
    write_layers,
    write_power,
)
from edgejoule.dataset.run_directory import (
    create_partial,
    move_into_place,
    read_defaults,
    release,
    set_defaults_if_absent,
    write_run_json,
)
from edgejoule.dataset.schema import write_table
from edgejoule.energy.baseline import Baseline
from edgejoule.energy.rows import EnergyRow
from edgejoule.errors import MeasurementError
from edgejoule.files import config_sha256, disk_errors, write_json
from edgejoule.phases import PhaseSpan
from edgejoule.summary import (
    TOTAL,
    Inferences,
    attribution,
    pass_energy,
    phase_energies,
    profiled_figures,
    read_inferences,
    read_power,
    sum_layers,
)

BACKEND = "torch-tensorrt"
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Said:
    """What the user says of the recordings: the layout does not.

    Attributes:
        weights: `pretrained`, `random` or `unknown`.
        board: The board, or None.
    """

    weights: str = "unknown"
    board: str | None = None


def config_of(model: str, facts: RunFile, said: Said) -> RunConfig:
    """Return what names a run; the rest of a configuration is not known and is not written."""
    return RunConfig(
        model=facts.model or model,
        backend=BACKEND,
        dtype=facts.dtype or UNKNOWN,
        input_shape=facts.input_shape,
        weights=said.weights,
        board=said.board,
    )


def known_config(read: Read, said: Said, status: str) -> dict[str, Any]:
    """Return `config` of `run.json`: what is known, and nothing that only has a default here."""
    facts = read.facts
    config = config_of(read.recording.name, facts, said)
    asked = read.inferences if status == "complete" or facts.runs is None else facts.runs
    shape = None if facts.input_shape is None else list(facts.input_shape)
    known = {
        "model": config.model,
        "backend": config.backend,
        "dtype": config.dtype,
        "device": "cuda:0",
        "input_shape": shape,
        "weights": config.weights,
        "runs": asked,
        "sensor": "none" if read.power_ns is None else SENSOR,
        "mode": None,
        "board": config.board,
        "extra": facts.extra,
    }
    return known if facts.warmup is None else {**known, "warmup": facts.warmup}


def name_of(dataset: Path, model: str, config: RunConfig) -> str:
    """Return the name that the run has in this dataset."""
    defaults = read_defaults(dataset) if dataset.is_dir() else None
    return run_name(slug(model), config, defaults or defaults_of(config))


def write_recording(
    dataset: Path, read: Read, said: Said, supply: Supply, hashes: dict[str, str]
) -> tuple[Path, dict[str, Any]]:
    """Write a recording into a dataset.

    Args:
        dataset: The dataset.
        read: The recording.
        said: What the user says of it.
        supply: Which rail the power is of.
        hashes: SHA-256 of its files, by their names below the folder of recordings.

    Returns:
        The run's directory and its `run.json`.

    Raises:
        MeasurementError: The disk is full.
        UsageError: A run of its name exists, or the folder cannot be written.
    """
    config = config_of(read.recording.name, read.facts, said)
    name = name_of(dataset, read.recording.name, config)
    request = {"imported": LAYOUT, "config": known_config(read, said, "incomplete")}
    partial = create_partial(dataset, name, request)
    try:
        with disk_errors(dataset):
            inner = partial / "artefacts" / name
            inner.mkdir(parents=True)
            run = _fill(inner, read, said, supply, hashes)
            set_defaults_if_absent(dataset, defaults_of(config))
            name = name_of(dataset, read.recording.name, config)
            sealed = write_run_json(inner, run, name)
            move_into_place(inner, dataset / name, overwrite=False)
    finally:
        release(partial)
        shutil.rmtree(partial, ignore_errors=True)
    return dataset / name, sealed


def _fill(
    folder: Path, read: Read, said: Said, supply: Supply, hashes: dict[str, str]
) -> dict[str, Any]:
    """Write all files but `run.json`, and return that one's content."""
    notes, missing = list(read.notes), list(read.missing)
    if read.words.kept is not None:
        (folder / "inspector.json").write_bytes(read.words.kept)
    engine = {
        "backend": BACKEND,
        "versions": {},
        "settings": dict(read.facts.extra),
        "start_offsets": False,
        "layers": read.joined.layers,
    }
    write_json(folder / "engine.json", engine)
    write_inferences(folder / "inferences.parquet", read.start_ns, read.end_ns)
    write_layers(folder / "layers.parquet", read.durations_ms)
    span = PhaseSpan("profiled", int(read.start_ns[0]), int(read.end_ns[-1]))
    profiled = read_inferences(folder / "inferences.parquet")["profiled"]
    sums = sum_layers(folder / "layers.parquet", read.inferences, len(read.durations_ms))
    summary: dict[str, Any] = {
        "inferences": {"profiled": read.inferences},
        "profiled": profiled_figures(profiled, sums),
        "energy": {"why": "no power was recorded"},
        "notes": [],
    }
    sensor: dict[str, Any] = {"name": "none", "simulated": False}
    if read.power_ns is not None and read.log is not None and read.wall_ns is not None:
        sensor, more = write_power(
            folder / "power.parquet", read.power_ns, read.log, supply, read.wall_ns
        )
        notes += more
        missing += _energy(folder, read, profiled, sums, span, summary)
    missing += absent(read)
    status = "failed" if read.wrong else "incomplete" if missing else "complete"
    if read.wrong:
        missing.insert(0, read.wrong)
    config = known_config(read, said, status)
    if config["runs"] != read.facts.runs and read.facts.runs is not None:
        notes.append(f"asked were {read.facts.runs} inferences, {read.inferences} are recorded")
    started_ns = _started_ns(read, notes)
    anchor = None if read.wall_ns is None else {"monotonic_ns": 0, "wall_ns": read.wall_ns}
    return {
        "status": status,
        "missing": missing,
        "started_at": _iso(started_ns),
        "config": config,
        "config_sha256": config_sha256(config),
        "machine": {},
        "board_id": said.board,
        "power_mode": None,
        "sensor": sensor,
        "simulated": False,
        "shared_gpu": None,
        "weights": said.weights,
        "input": {},
        "clock": {"wall_anchor": anchor},
        "phases": [dataclasses.asdict(span)],
        "summary": summary,
        "versions": {"edgejoule": __version__},
        "imported": {
            "layout": LAYOUT,
            "files": hashes,
            "times": "modelled" if read.modelled else "callback",
            "notes": notes,
        },
    }


def absent(read: Read) -> list[str]:
    """Return which files of the layout are not there, or hold too little."""
    missing = []
    model = read.recording.name
    if read.recording.run_file is None:
        missing.append(f"no {model}_tensorrt.json: precision and input are not known")
    elif read.facts.dtype in {None, UNKNOWN}:
        missing.append(f"{model}_tensorrt.json does not say the precision")
    if read.facts.runs is not None and read.inferences < read.facts.runs:
        missing.append(f"{read.inferences} of {read.facts.runs} profiled inferences are recorded")
    if read.power_ns is not None:
        if read.idling is None:
            missing.append("no idling_power.json: idle power is not known")
    elif read.log is not None:
        missing.append(f"{model}_power_log.log holds no reading")
    elif not read.modelled:  # plain numbers are of a desktop that never had a sensor
        missing.append(f"no {model}_power_log.log: times only")
    return missing


def _energy(
    folder: Path,
    read: Read,
    profiled: Inferences,
    sums: Any,
    span: PhaseSpan,
    summary: dict[str, Any],
) -> list[str]:
    """Write `idle.json` and `energy.parquet`; return what a complete run would have."""
    power = read_power(folder / "power.parquet")
    idle = []
    if read.idling is not None:
        idle = [_cold(read, tuple(power.rails))]
    write_json(folder / "idle.json", idle)
    if read.modelled:
        summary["energy"] = {"why": "when the inferences ran is not known"}
        return ["no energy: when the inferences ran is not known"]
    if (profiled.duration_ns <= 0).any():
        summary["energy"] = {"why": "an inference takes no time"}
        return [f"no energy: {int((profiled.duration_ns <= 0).sum())} inferences take no time"]
    try:
        rows = attribution(power, profiled, sums, idle)
    except MeasurementError as error:
        summary["energy"] = {"why": error.message}
        return [f"no energy: {error.message}"]
    if why := _impossible(rows):
        summary["energy"] = {"why": why}
        return [f"no energy: {why}"]
    names = [field.name for field in dataclasses.fields(EnergyRow)]
    columns = {name: [getattr(row, name) for row in rows] for name in names}
    write_table(folder / "energy.parquet", "energy", columns)
    summary["phase_energies"] = phase_energies(power, [span])
    rails = {rail: {"profiled": pass_energy(power, rail, profiled, idle)} for rail in power.rails}
    total = rails[TOTAL] if power.total_of else {}
    summary["energy"] = {
        "rail": TOTAL if power.total_of else None,
        "total_of": power.total_of,
        "rails": rails,
        "methods": ["proportional"],
        **total,
    }
    return []


def _impossible(rows: list[EnergyRow]) -> str:
    """Say why these energies cannot be those of a network, empty if they can."""
    whole = {row.rail: row.gross_mj or 0.0 for row in rows if row.kind == "inference"}
    for row in rows:
        gross_mj = row.gross_mj or 0.0
        if row.kind == "layer" and not 0.0 <= gross_mj <= whole[row.rail] * (1 + 1e-6):
            return (
                f"by the readings of {row.rail} layer {row.layer} takes {gross_mj:.3g} mJ of "
                f"{whole[row.rail]:.3g} mJ"
            )
    return ""


def _cold(read: Read, rails: tuple[str, ...]) -> dict[str, Any]:
    """Return the stated idle power as a cold baseline of every rail that there is."""
    stated = read.idling
    assert stated is not None  # noqa: S101 (asked before)
    baseline = Baseline(
        mean_mw=stated.mean_mw,
        sd_mw=None,
        half_width_mw=None,
        interval_mw=None,
        n=0,
        blocks=0,
        duration_s=0.0,
        drift_mw=None,
        coverage=0.0,
        method="stated by idling_power.json; its readings were not kept",
    )
    return {
        "kind": "cold",
        "when": "before",
        "rails": {rail: baseline.to_json() for rail in rails},
        "conditions": None,
        "verdicts": [],
        "stated": {"timestamp": stated.timestamp, "avg_idle_power": stated.avg_idle_power_uw},
    }


def _started_ns(read: Read, notes: list[str]) -> int:
    if read.started_ns is not None:
        return read.started_ns
    notes.append("when it was recorded is not known: started_at is its file's time")
    return read.recording.layer_times.stat().st_mtime_ns


def _iso(utc_ns: int) -> str:
    at = datetime.datetime.fromtimestamp(utc_ns / 1e9, datetime.timezone.utc)
    return at.isoformat()
