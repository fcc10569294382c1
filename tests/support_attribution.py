"""A synthetic run whose energies are those that attribution gives: replay, interval, proportional.

Power is flat but for the replay pass: there each thing draws a current of its own, and idle
segments draw the baseline's, so that every layer has a dynamic energy of its own.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from edgejoule import __version__, attributing
from edgejoule.dataset.run_directory import finish, set_defaults_if_absent
from edgejoule.dataset.schema import open_writer, read_metadata, write_table
from edgejoule.energy.rows import EnergyRow
from edgejoule.files import write_json
from edgejoule.phases import PhaseSpan
from edgejoule.summary import pass_energy, phase_energies, read_inferences, read_power, sum_layers
from tests.support_dataset import (
    MV,
    SEGMENT_NS,
    Plan,
    config_of,
    defaults_of,
    phases_of,
    prepare,
    replayed,
    run_of,
)

METHODS = ("replay", "interval")
PLAN = Plan(replay=3)
SAID = {
    "why": None, "groups": [[0], [1], [2]], "nothing": [], "left_out": {}, "notes": [],
    "rounds": 3, "segments": 3 * len(replayed(PLAN)), "seconds": 0.5, "reason": "all are known",
}  # fmt: skip


def _draw(partial: Path, plan: Plan) -> None:
    """Give each segment of the replay pass a current of its own."""
    path = partial / "power.parquet"
    metadata, table = read_metadata(path), pq.read_table(path)
    (span,) = (phase for phase in phases_of(plan) if phase["phase"] == "replay")
    t_ns, raw = table["t0_ns"].to_numpy(), table["raw"].to_numpy().copy()
    channel = table["channel"].to_numpy()
    within = (t_ns >= span["start_ns"]) & (t_ns < span["end_ns"])
    number = (t_ns - span["start_ns"]) // SEGMENT_NS % len(replayed(plan))
    for index, (kind, layer, copies, _) in enumerate(replayed(plan)):
        for rail, (_, current) in enumerate(plan.rails):
            drawn = current + 40 * max(layer, 0) + 5 * copies if kind != "idle" else plan.idle_ma
            raw[within & (number == index) & (channel == 2 * rail + 1)] = drawn
    changed = table.set_column(
        table.column_names.index("raw"), table.schema.field("raw"), [list(map(int, raw))]
    )
    with open_writer(path, "power", changed.schema.remove_metadata(), metadata) as writer:
        writer.write_table(changed.replace_schema_metadata(None))


def build_attributed(dataset: Path, plan: Plan = PLAN, said: dict[str, Any] | None = None) -> Path:
    """Build a finished run with a replay pass and return its directory."""
    set_defaults_if_absent(dataset, defaults_of(config_of(plan)))
    partial = prepare(dataset, plan)
    _draw(partial, plan)
    measure = {"replay": said or SAID, "profiled": {"inferences": plan.profiled, "held_us": []}}
    write_json(partial / "measure.json", measure)
    rows = pq.read_metadata(partial / "power.parquet").num_rows
    write_json(partial / "sampler.json", {"reads": rows})
    run = run_of(plan)
    run["versions"] = {"edgejoule": __version__}
    idle = json.loads((partial / "idle.json").read_text(encoding="utf-8"))
    for figures in (one for entry in idle for one in entry["rails"].values()):
        figures["half_width_mw"] = 1.0
    write_json(partial / "idle.json", idle)
    power = read_power(partial / "power.parquet")
    passes = read_inferences(partial / "inferences.parquet")
    rails = {
        rail: {name: pass_energy(power, rail, passes[name], idle) for name in ("clean", "profiled")}
        for rail in power.rails
    }
    task = attributing.Task(
        directory=partial,
        methods=METHODS,
        power=power,
        profiled=passes["profiled"],
        sums=sum_layers(partial / "layers.parquet", plan.profiled, len(plan.layer_ns)),
        idle=idle,
        spans=[PhaseSpan(**phase) for phase in phases_of(plan)],
        sensor=run["sensor"],
        measure=measure,
        sampler={"reads": rows},
        clean={
            rail: (one["clean"]["gross_mj"], one["clean"]["dynamic_mj"])
            for rail, one in rails.items()
        },
    )
    found = attributing.attribute_run(task)
    names = [field.name for field in dataclasses.fields(EnergyRow)]
    columns = {name: [getattr(row, name) for row in found.rows] for name in names}
    write_table(partial / "energy.parquet", "energy", columns)
    run["summary"]["phase_energies"] = phase_energies(power, task.spans)
    run["summary"]["energy"] = {
        "rail": None, "total_of": None, "methods": found.methods, "rails": rails,
        "attribution": found.attribution, "duplication": found.duplication,
    }  # fmt: skip
    return finish(partial, run, plan.model)


def drawn_mw(plan: Plan, rail: int, layer: int) -> float:
    """What a layer draws above idle while it repeats alone."""
    current = plan.rails[rail][1] + 40 * layer + 5
    return MV * (current - plan.idle_ma) / 1000
