"""The end of a run: record files to tables, figures, energy, and the directory into the dataset."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule import __version__, attributing
from edgejoule.config import SCHEMA_VERSION, RunConfig, defaults_of, identity_sha256
from edgejoule.dataset.run_directory import convert, finish, set_defaults_if_absent
from edgejoule.dataset.schema import write_table
from edgejoule.energy.observer import observer_effect
from edgejoule.energy.rows import EnergyRow
from edgejoule.errors import MeasurementError
from edgejoule.experiment import Measured, Task
from edgejoule.files import disk_errors, write_json
from edgejoule.idle import drift_of, idle_notes, read_meanwhile
from edgejoule.measure_settings import methods_of
from edgejoule.memory import memory_summary
from edgejoule.phases import read_phases
from edgejoule.records import read_header
from edgejoule.summary import (
    TOTAL,
    Inferences,
    LayerSums,
    baselines,
    latency,
    pass_energy,
    phase_energies,
    profiled_figures,
    rate_energy,
    rate_figures,
    read_inferences,
    read_power,
    stability_notes,
    sum_layers,
    waited_spans,
)

if TYPE_CHECKING:
    import numpy as np

NO_SENSOR = {"name": "none", "simulated": False}


def close_run(
    directory: Path, task: Task, measured: Measured, machine: dict[str, Any], started: float
) -> Path:
    """Turn a measured run's working directory into a finished run; return where it lies.

    Raises:
        MeasurementError: The recorded inferences are not those asked for, or the disk is full.
            The working directory stays, readable through `recover`.
    """
    config = task.config
    sensor = _sensor(directory)
    with disk_errors(directory):
        convert(directory)
        passes = read_inferences(directory / "inferences.parquet")
        _check_counts(passes, config)
        engine = json.loads((directory / "engine.json").read_text(encoding="utf-8"))
        sums = sum_layers(directory / "layers.parquet", config.runs, len(engine["layers"]))
        spans = read_phases(directory / "phases.jsonl")
        summary = _summary(config, passes, sums, measured)
        summary["memory"] = memory_summary(
            directory,
            measured.setup,
            measured.measure,
            machine,
            config.memory_limit_gib,
            max((s.end_ns or 0 for s in spans if s.phase == "profiled"), default=0) or None,
        )
        if sensor is not NO_SENSOR:
            power = read_power(directory / "power.parquet")
            meanwhile = read_meanwhile(
                directory / "resources.parquet", machine, measured.shared_gpu
            )
            idle = baselines(power, spans, meanwhile)
            held_ns = _held_ns(measured)
            work = attributing.Task(
                directory,
                methods_of(config),
                power,
                passes["profiled"],
                sums,
                idle,
                spans,
                sensor,
                measured.measure,
                measured.sampler or {},
                {},
                held_ns,
                config.seed,
            )
            _write_energy(work, summary, passes, config)
            summary["notes"] += adopt_calibration(task.dataset, directory, sensor)
        else:
            summary["energy"] = {"why": _why_no_energy(task)}
            effect = observer_effect(measured.measure.get("observer"), {}, lambda rail: 0)
            summary["energy"]["observer"] = effect
    run = {
        "schema_version": SCHEMA_VERSION,
        "name": task.name,
        "status": "complete",
        "missing": [],
        "started_at": datetime.datetime.fromtimestamp(started, datetime.timezone.utc).isoformat(),
        "config": config.to_json(),
        "config_sha256": identity_sha256(config),
        "command": list(task.command),
        "why": task.why,
        "machine": machine,
        "board_id": machine.get("board_id"),
        "power_mode": machine.get("power_mode"),
        "sensor": sensor,
        "simulated": bool(sensor["simulated"]),
        "shared_gpu": measured.shared_gpu,
        "sharing": measured.sharing,
        "weights": measured.setup["weights"],
        "source": measured.setup.get("source", {}),
        "input": measured.setup["input"],
        "accuracy": measured.setup.get("accuracy"),
        "clock": {"wall_anchor": measured.wall_anchor},
        "phases": [dataclasses.asdict(span) for span in spans],
        "summary": summary,
        "versions": {"edgejoule": __version__, **measured.setup.get("versions", {})},
    }
    set_defaults_if_absent(task.dataset, defaults_of(config))
    return finish(directory, run, task.name, overwrite=task.overwrite)


def _sensor(directory: Path) -> dict[str, Any]:
    """Return what `power.bin`'s header says of the sensor."""
    path = directory / "power.bin"
    if not path.exists():
        return NO_SENSOR
    header, _ = read_header(path)
    return {
        "name": header["sensor"],
        "simulated": header["simulated"],
        "refresh_ns": header.get("refresh_ns"),
        "configuration": header.get("configuration"),
        "channels": header["channels"],
        **{key: header[key] for key in ("groups", "board", "total") if key in header},
    }


def _check_counts(passes: dict[str, Inferences], config: RunConfig) -> None:
    """Refuse a run that did not record what it was asked for."""
    recorded = len(passes["profiled"].index) if "profiled" in passes else 0
    if recorded != config.runs:
        raise MeasurementError(
            f"{recorded} profiled inferences are recorded, {config.runs} were asked for"
        )
    if "clean" not in passes:
        raise MeasurementError("no inference of the clean pass is recorded")


def _summary(
    config: RunConfig, passes: dict[str, Inferences], sums: LayerSums, measured: Measured
) -> dict[str, Any]:
    """Return latency, memory and how the measurement went."""
    clean = latency(passes["clean"])
    held_ns = _held_ns(measured)
    profiled = profiled_figures(passes["profiled"], sums, held_ns)
    rate = None
    if config.rate_hz is not None and "rate" in passes:
        # Frames that were due and how many were dropped only the measuring process knows.
        counted = measured.measure.get("rate") or {}
        names = ("frames", "dropped", "missed_deadlines")
        rate = rate_figures(passes["rate"], config.rate_hz)
        rate |= {name: counted[name] for name in names if name in counted}
    return {
        "inferences": {name: len(found.index) for name, found in passes.items()},
        "clean": clean,
        "profiled": profiled,
        "profiled_over_clean": profiled["without_held_ms_median"] / clean["median_ms"],
        "rate": rate,
        "warmup": measured.measure.get("warmup"),
        "settings": measured.measure.get("settings"),
        "outputs": measured.measure.get("outputs"),
        "setup_seconds": measured.setup.get("seconds"),
        "sampler": _without_kind(measured.sampler),
        "cooldown": measured.cooldown.to_json(),
        "energy": None,
        "roofline": measured.measure.get("roofline"),
        "notes": [*stability_notes(clean), *_output_notes(measured.setup, config)],
    }


def _held_ns(measured: Measured) -> np.ndarray | None:
    """Return each profiled inference's time that is there because of the profiler alone, if any."""
    import numpy as np

    held_us = (measured.measure.get("profiled") or {}).get("held_us")
    return np.array(held_us, dtype=np.int64) * 1000 if held_us else None


def _output_notes(setup: dict[str, Any], config: RunConfig) -> list[str]:
    """Return what a reader must know of the outputs: a fast engine that is wrong must show."""
    note = (setup.get("accuracy") or {}).get("note")
    notes = [str(note)] if note else []
    settings = setup.get("settings") or {}
    notes += [str(one) for one in settings.get("notes") or ()]
    if settings.get("aux_streams_warning"):
        notes.append(str(settings["aux_streams_warning"]))
    if config.calibration_sha256 is not None and config.input_sha256 is None:
        notes.append(
            f"calibrated with {config.calibration} and fed with {config.input} values: how far the "
            "outputs are from float32 is of those; give --input of the same kind"
        )
    if setup.get("killed"):
        notes.append(
            f"the kernel killed the build {setup['killed']} times for lack of memory; it was built "
            "with less"
        )
    return notes


def _write_energy(
    work: attributing.Task,
    summary: dict[str, Any],
    passes: dict[str, Inferences],
    config: RunConfig,
) -> None:
    """Write `idle.json` and `energy.parquet`, and put energy into the summary."""
    power, idle = work.power, list(work.idle)
    write_json(work.directory / "idle.json", idle)
    drift = drift_of(idle)
    summary["idle_drift"] = drift
    summary["notes"] += idle_notes(idle, drift)
    summary["phase_energies"] = phase_energies(power, work.spans)
    waited = {"profiled": waited_spans(work.spans, work.measure.get("profiled"))}
    rails = {
        rail: {
            name: pass_energy(power, rail, passes[name], idle, waited.get(name))
            for name in _BACK_TO_BACK
        }
        for rail in power.rails
    }
    clean = {
        rail: (found["clean"]["gross_mj"], found["clean"]["dynamic_mj"])
        for rail, found in rails.items()
    }
    attributed = attributing.attribute_run(dataclasses.replace(work, clean=clean))
    _write_rows(work.directory / "energy.parquet", attributed.rows)
    energy: dict[str, Any] = {
        "rail": TOTAL if power.total_of else None,
        "total_of": power.total_of,
        "rails": rails,
        "methods": attributed.methods,
        "attribution": attributed.attribution,
        "duplication": attributed.duplication,
        "accuracy": attributed.accuracy,
        "observer": observer_effect(
            work.measure.get("observer"), power.rails, attributing.reach_of(work)
        ),
    }
    summary["notes"] += attributed.notes
    if power.total_of:
        energy |= rails[TOTAL]
    else:
        summary["notes"].append(
            "this board's total is not known: energy is given per rail and nothing is added up"
        )
    summary["notes"] += _too_short(passes, work.sensor.get("refresh_ns"))
    if summary["rate"] is not None and config.rate_hz is not None:
        for rail in rails:
            found = rate_energy(power, rail, passes["rate"], config.rate_hz)
            summary["rate"].setdefault("energy", {})[rail] = found
    summary["energy"] = energy


_BACK_TO_BACK = ("clean", "profiled")
_FEWEST_REFRESHES = 30


def _too_short(passes: dict[str, Inferences], refresh_ns: int | None) -> list[str]:
    """Say which passes hold too few readings of the sensor for their energy to mean much."""
    if not refresh_ns:
        return []
    notes = []
    for name in _BACK_TO_BACK:
        length_ns = int(passes[name].end_ns[-1] - passes[name].start_ns[0])
        if length_ns < _FEWEST_REFRESHES * refresh_ns:
            notes.append(
                f"the {name} pass lasted {length_ns * 1e-6:.3g} ms, under {_FEWEST_REFRESHES} "
                f"refreshes of the sensor ({refresh_ns * 1e-6:g} ms): its energy is hardly known; "
                "ask for more inferences"
            )
    return notes


def adopt_calibration(dataset: Path, directory: Path, sensor: dict[str, Any]) -> list[str]:
    """Copy the dataset's calibration into a run whose sensor it is of; return a note if it is not.

    A damaged file is a note as well: what has just been measured must not fail for it.
    """
    import shutil

    from edgejoule.energy.calibration_file import FILE_NAME, read_calibration

    source = dataset / FILE_NAME
    if not source.is_file():
        return []
    try:
        found = read_calibration(source)
    except MeasurementError as error:
        return [f"the dataset's calibration is left out: {error}"]
    rails = {channel["rail"] for channel in sensor["channels"]}
    foreign = [rail.rail for rail in found.rails if rail.rail not in rails]
    if (found.sensor, found.simulated) != (sensor["name"], sensor["simulated"]) or foreign:
        return [
            f"the dataset's {FILE_NAME} is of sensor {found.sensor}, not of this one: left out; "
            "calibrate this one with measure_power.py calibrate"
        ]
    shutil.copyfile(source, directory / FILE_NAME)
    return []


def _write_rows(path: Path, rows: list[EnergyRow]) -> None:
    names = [field.name for field in dataclasses.fields(EnergyRow)]
    write_table(path, "energy", {name: [getattr(row, name) for row in rows] for name in names})


def _why_no_energy(task: Task) -> str:
    why = task.why.get("sensor", "")
    return f"no power sensor was read ({why})" if why else "no power sensor was read"


def _without_kind(message: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if message is None else {k: v for k, v in message.items() if k != "kind"}
