"""A simulated session as the files that the processes of a run would have left.

    power.bin  inferences.bin  layers.bin  phases.jsonl     rows
    engine.json  measure.json  sampler.json                 what the processes say
    truth.json                                              what nobody could know

Everything downstream is the project's own: conversion, closing, `verify`, reports.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.config import RunConfig
from edgejoule.files import write_json
from edgejoule.records import (
    INFERENCES,
    LAYERS,
    NULL_NS,
    PASSES,
    POWER,
    RecordKind,
    RecordWriter,
)
from edgejoule.simulation.network import longest_wait_ns

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.simulation.scenario import Scenario
    from edgejoule.simulation.simulate import Simulated, SimulatedChannel

BACKEND = "simulated"
_UNITS = {"voltage": "mV", "current": "mA", "power": "mW"}
_FILES = {"voltage": "in{}_input", "current": "curr{}_input", "power": "power"}


def config_of(scenario: Scenario, seed: int, energy: str | None) -> RunConfig:
    """Return the configuration under which a session stands in `run.json`.

    Args:
        scenario: With its clean pass.
        seed: The seed.
        energy: Methods of attribution, as `RunConfig.energy`.
    """
    text = json.dumps(asdict(scenario), sort_keys=True)
    return RunConfig(
        model=scenario.name,
        backend=BACKEND,
        dtype="float32",
        weights="random",
        seed=seed,
        warmup=0,
        runs=scenario.inferences,
        clean_runs=scenario.clean,
        idle_duration_s=scenario.idle_s / 2,
        sensor=BACKEND,
        extra={"scenario_sha256": hashlib.sha256(text.encode()).hexdigest()},
        energy=energy,
    )


def write_session(run: Simulated, directory: Path) -> dict[str, dict[str, Any]]:
    """Write a session's files into a run's working directory.

    Args:
        run: Simulated with a clean pass.
        directory: An empty working directory.

    Returns:
        What the set-up, the measuring process and the sampler would have said: `setup`,
        `measure`, `sampler`.
    """
    anchor = {"monotonic_ns": run.base_ns, "wall_ns": run.base_ns}
    _write_rows(
        directory / "power.bin", POWER, {**_sensor(run), "wall_anchor": anchor}, _power(run)
    )
    _write_rows(
        directory / "inferences.bin", INFERENCES, {"passes": list(PASSES)}, _inferences(run)
    )
    layers = _layers(run)
    _write_rows(directory / "layers.bin", LAYERS, {}, layers)
    marks = [{"phase": name, "start_ns": _at(run, at)} for name, at in run.workload.marks]
    text = "".join(json.dumps(mark) + "\n" for mark in marks)
    (directory / "phases.jsonl").write_text(text, encoding="utf-8")
    (directory / "run.log").write_text("simulated: nothing ran\n", encoding="utf-8")
    said = {
        "setup": {
            "weights": "random",
            "input": {"kind": "none"},
            "source": {"simulated": True},
            "settings": {},
            "seconds": {},
            "versions": {},
        },
        "measure": _measure(run, len(layers[0])),
        "sampler": _sampler(run),
    }
    write_json(directory / "measure.json", said["measure"])
    write_json(directory / "sampler.json", said["sampler"])
    write_json(directory / "engine.json", _engine(run))
    write_json(directory / "truth.json", truth_of(run))
    return said


def truth_of(run: Simulated) -> dict[str, Any]:
    """Return `truth.json`: energies per inference of the profiled pass, by rail and layer."""
    return {
        "simulated": True,
        "seed": run.seed,
        "model": _plain(asdict(run.scenario)),
        "layers": {
            rail: {
                "energy_mj": [float(value) for value in truth.layer_mj],
                "power_mw": [float(value) for value in truth.layer_mw],
                "gap_mj": truth.gap_mj,
                "inference_mj": truth.inference_mj,
                "idle_mw": truth.idle_mw,
            }
            for rail, truth in run.truth.items()
        },
        "gap_ns": [float(value) for value in run.plan.gap_ns],
        "clocks_ppm": {str(chip): clock.ppm for chip, clock in run.clocks.items()},
    }


def _at(run: Simulated, offset_ns: float) -> int:
    return run.base_ns + round(offset_ns)


def _write_rows(
    path: Path, kind: RecordKind, header: Mapping[str, Any], columns: list[Any]
) -> None:
    """Write records from columns in the order of the kind's fields."""
    rows = np.zeros(len(columns[0]), dtype=np.dtype(list(kind.fields)))
    for (name, _), column in zip(kind.fields, columns, strict=True):
        rows[name] = column
    writer = RecordWriter(path, kind, dict(header))
    try:
        writer.write_packed(rows.tobytes(), len(rows))
    finally:
        writer.close()


def _power(run: Simulated) -> list[Any]:
    polls = run.polls
    return [polls.t0 + run.base_ns, polls.t1 + run.base_ns, run.raw, polls.channel, 0]


def _inferences(run: Simulated) -> list[Any]:
    work = run.workload
    clean = np.rint(work.clean).astype(np.int64) + run.base_ns
    start = np.concatenate((clean[:, 0], run.timeline.start_ns))
    end = np.concatenate((clean[:, 1], run.timeline.end_ns))
    index = np.concatenate((np.arange(len(clean)), np.arange(len(run.timeline.start_ns))))
    which = np.repeat(
        [PASSES.index("clean"), PASSES.index("profiled")], [len(clean), len(index) - len(clean)]
    )
    known = {"start_ns": start, "end_ns": end, "index": index, "pass": which, "due_ns": NULL_NS}
    return [known[name] for name, _ in INFERENCES.fields]


def _layers(run: Simulated) -> list[npt.NDArray[np.int64]]:
    n, layers = run.timeline.layer_ns.shape
    offset = run.timeline.offset_ns
    return [
        np.full(n * layers, NULL_NS) if offset is None else offset.ravel(),
        np.rint(run.timeline.layer_ns).astype(np.int64).ravel(),
        np.repeat(np.arange(n), layers),
        np.tile(np.arange(layers), n),
    ]


def _sensor(run: Simulated) -> dict[str, Any]:
    """Return the header of `power.bin` as the sampler writes it."""
    sensor = run.scenario.sensor
    total = [rail.label for rail in run.scenario.rails if rail.attributed]
    refresh_ns = int(sensor.refresh_ns)
    groups = [
        {
            "name": _chip(chip),
            "channels": [i for i, channel in enumerate(run.channels) if channel.chip == chip],
            "refresh_ns": refresh_ns,
            "blocking": False,
            "period_ns": refresh_ns,
        }
        for chip in run.clocks
    ]
    return {
        "channels": [_channel(index, one) for index, one in enumerate(run.channels)],
        "sensor": BACKEND,
        "simulated": True,
        "refresh_ns": refresh_ns,
        "groups": groups,
        "board": None,
        "total": {
            "rails": total,
            "contains": "what the scenario says is attributed",
            "excludes": "nothing",
            "source": "the simulation",
        },
        "configuration": {"chips": _chips(run), "scenario": run.scenario.name},
    }


def _chips(run: Simulated) -> dict[str, Any]:
    """Return how each chip is set, as a driver's files say it (`Ina3221Sensor.configuration`)."""
    sensor = run.scenario.sensor
    if sensor.kind != "ina3221":
        return {}
    refresh_ns = int(sensor.refresh_ns)
    slots = {
        chip: {rail.slot for rail in run.scenario.rails if rail.chip == chip} for chip in run.clocks
    }
    enabled = round(sensor.refresh_ns / (2 * sensor.window_ns))  # a chip converts all it is set to
    return {
        _chip(chip): {
            "driver": "ina3221",
            "update_interval_ms": round(refresh_ns * 1e-6),
            "samples": sensor.samples,
            "enabled": {f"ch{k + 1}": int(k in used or len(used) < enabled) for k in range(3)},
            "single_shot": False,
            "refresh": {"period_ns": refresh_ns, "blocking": False, "samples": sensor.samples},
        }
        for chip, used in slots.items()
    }


def _channel(index: int, channel: SimulatedChannel) -> dict[str, Any]:
    return {
        "index": index,
        "rail": channel.rail.label,
        "quantity": channel.quantity,
        "unit": _UNITS[channel.quantity],
        "chip": _chip(channel.chip),
        "source": _FILES[channel.quantity].format(channel.rail.slot + 1),
        "shunt_uohm": channel.rail.shunt_uohm or None,
        "lsb": channel.lsb,
        "sensor": "",
        "wrap": None,
        "averaging": None,
    }


def _chip(number: int) -> str:
    return f"1-{0x40 + number:04x}"


def _engine(run: Simulated) -> dict[str, Any]:
    return {
        "backend": BACKEND,
        "versions": {},
        "settings": {},
        "start_offsets": run.scenario.true_starts,
        "layers": [
            {"index": index, "name": f"layer {index}", "type": "simulated"}
            for index in range(len(run.plan.layer_ns))
        ],
    }


def _measure(run: Simulated, rows: int) -> dict[str, Any]:
    n = run.scenario.inferences
    clean_ms = (run.workload.clean[:, 1] - run.workload.clean[:, 0]) * 1e-6
    lengths_ms = (run.timeline.end_ns - run.timeline.start_ns) * 1e-6
    waited_ns = run.timeline.start_ns[1:] - run.timeline.end_ns[:-1]
    return {
        "clean": {"inferences": run.scenario.clean, "median_ms": float(np.median(clean_ms))},
        "profiled": {
            "inferences": n,
            "recorded": n,
            "rows": rows,
            "median_ms": float(np.median(lengths_ms)),
            "dither": {
                "most_ms": longest_wait_ns(run.scenario, float(np.median(lengths_ms)) * 1e6) * 1e-6,
                "seconds": float(waited_ns.sum()) * 1e-9,
            },
        },
    }


def _sampler(run: Simulated) -> dict[str, Any]:
    work = run.workload
    polled = sum(rail.attributed for rail in run.scenario.rails)
    reads = int(np.count_nonzero(run.polls.attribution))
    return {
        "sensor": BACKEND,
        "simulated": True,
        "reads": len(run.raw) - reads,
        "refresh_ns": int(run.scenario.sensor.refresh_ns),
        "errors": {},
        "attribution": {
            "seconds": (work.begin("harvest") - work.begin("profiled")) * 1e-9,
            "sweeps": reads // polled,
            "reads": reads,
        },
    }


def _plain(value: Any) -> Any:
    """Return a tree with lists for tuples, as JSON has it."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
