"""A small synthetic run, written through the same record files, conversion and sealing as a real
one, from given arrays. Power is constant per rail, so every energy is known without integrating.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgejoule.config import RunConfig, defaults_of, identity_sha256
from edgejoule.dataset.run_directory import (
    convert,
    create_partial,
    finish,
    seal,
    set_defaults_if_absent,
)
from edgejoule.dataset.schema import table_schema, write_table
from edgejoule.files import canonical_json
from edgejoule.records import (
    INFERENCES,
    LAYERS,
    NULL_NS,
    PASSES,
    POWER,
    REPLAY,
    REPLAY_KINDS,
    RESOURCES,
    RecordWriter,
)

MV = 5000
MS = 1_000_000  # nanoseconds
SEGMENT_NS = 20 * MS  # of the replay pass; its last millisecond is a pause


@dataclass(frozen=True)
class Plan:
    """What to build. Times in ns; layers' durations per inference, offsets back to back.

    Attributes:
        model: Names the run.
        warmup, clean, profiled: Inferences of each pass.
        layer_ns: Duration of each layer.
        gap_ns: Time of an inference in no layer, at its end.
        pause_ns: Between inferences.
        starts: Whether layers have start offsets.
        sensor: `none` for no power files.
        rails: Rail -> current in mA, at 5000 mV.
        idle_ma: Current in the idle baselines (they are stated, not sampled).
        sample_ns: Period of the power trace.
        replay: Rounds of the replay pass, 0 for none.
    """

    model: str = "lenet"
    warmup: int = 2
    clean: int = 4
    profiled: int = 6
    layer_ns: Sequence[int] = (400_000, 300_000, 200_000)
    gap_ns: int = 100_000
    pause_ns: int = 50_000
    starts: bool = True
    sensor: str = "fake"
    simulated: bool = False
    weights: str = "pretrained"
    rails: tuple[tuple[str, int], ...] = (("VDD_A", 1000), ("VDD_B", 300))
    idle_ma: int = 200
    sample_ns: int = 200_000
    replay: int = 0

    @property
    def span_ns(self) -> int:
        """Duration of an inference."""
        return sum(self.layer_ns) + self.gap_ns


def config_of(plan: Plan) -> RunConfig:
    """The configuration of the plan."""
    return RunConfig(
        model=plan.model,
        backend="onnxruntime",
        dtype="float32",
        input_shape=(1, 3, 8, 8),
        weights=plan.weights,
        warmup=plan.warmup,
        runs=plan.profiled,
        clean_runs=plan.clean,
        sensor=plan.sensor,
    )


def request_of(plan: Plan) -> dict[str, Any]:
    """What the parent writes into request.json."""
    config = config_of(plan)
    return {
        "config": config.to_json(),
        "config_sha256": identity_sha256(config),
        "machine": {"cpu": "synthetic"},
        "board_id": None,
        "power_mode": None,
        "input": {"kind": "normal", "seed": 0},
        "weights": plan.weights,
        "versions": {"edgejoule": "0.1.0"},
        "started_at": "2024-11-21T05:20:04Z",
    }


def phases_of(plan: Plan, t_ns: int = 10_000 * MS) -> list[dict[str, Any]]:
    """Idle, then the three passes, then idle; each pass just as long as its inferences."""
    phases = []
    for phase, count in (
        ("idle_before", None),
        ("warmup", plan.warmup),
        ("clean", plan.clean),
        ("profiled", plan.profiled),
        ("replay", plan.replay),
        ("idle_after", None),
    ):
        if count == 0 and phase == "replay":
            continue
        length = 20 * MS if count is None else count * (plan.span_ns + plan.pause_ns)
        if phase == "replay":
            length = plan.replay * len(replayed(plan)) * SEGMENT_NS
        phases.append({"phase": phase, "start_ns": t_ns, "end_ns": t_ns + length})
        t_ns += length
    return phases


def replayed(plan: Plan) -> list[tuple[str, int, int, int]]:
    """What one round of the replay pass repeats: kind, layer, copies, time of one execution."""
    layers = [("layer", index, 1, ns) for index, ns in enumerate(plan.layer_ns)]
    copied = [("duplicate", 1, n, plan.span_ns + (n - 1) * plan.layer_ns[1]) for n in (1, 2, 4)]
    return [("idle", -1, 1, 0), ("whole", -1, 1, plan.span_ns), *layers, *copied]


def channels_of(plan: Plan) -> list[dict[str, Any]]:
    """A voltage and a current channel per rail."""
    found = []
    for number, (rail, _) in enumerate(plan.rails, start=1):
        for quantity, unit, source in (
            ("voltage", "mV", f"in{number}_input"),
            ("current", "mA", f"curr{number}_input"),
        ):
            channel = {
                "index": len(found),
                "rail": rail,
                "quantity": quantity,
                "unit": unit,
                "chip": "1-0040",
                "source": source,
                "shunt_uohm": 5000,
                "lsb": 8.0,
            }
            found.append(channel)
    return found


def write_partial(dataset: Path, plan: Plan = Plan(), *, name: str | None = None) -> Path:
    """Leave a working directory as the parent finds it when all children are done."""
    partial = create_partial(dataset, name or plan.model, request_of(plan))
    phases = phases_of(plan)
    marks = [{"phase": item["phase"], "start_ns": item["start_ns"]} for item in phases]
    marks.append({"phase": "end", "start_ns": phases[-1]["end_ns"]})
    lines = "".join(json.dumps(mark) + "\n" for mark in marks)
    (partial / "phases.jsonl").write_text(lines, encoding="utf-8")
    (partial / "run.log").write_text("synthetic\n", encoding="utf-8")
    (partial / "page.bin").write_bytes(bytes(64))
    (partial / "artefacts").mkdir()
    (partial / "artefacts" / "model.onnx").write_bytes(b"x" * 100)
    layers = [
        {
            "index": index,
            "name": f"layer{index}",
            "type": "Conv",
            "inputs": [],
            "outputs": [],
            "attributes": {},
            "module_path": None,
            "nodes": [],
            "flops": None,
            "bytes_moved": None,
        }
        for index in range(len(plan.layer_ns))
    ]
    engine = {
        "backend": "onnxruntime",
        "versions": {"onnxruntime": "1.0"},
        "layers": layers,
        "settings": {},
        "start_offsets": plan.starts,
    }
    (partial / "engine.json").write_bytes(canonical_json(engine))
    _write_inferences(partial, plan, phases)
    if plan.replay:
        _write_replay(partial, plan, phases)
    resources = RecordWriter(
        partial / "resources.bin",
        RESOURCES,
        {"columns": ["cpu_mhz", {"name": "temperature_c", "scale": 0.001}]},
    )
    for second in range(3):
        t_ns = phases[0]["start_ns"] + second * 1000 * MS
        resources.write(t_ns, 1500, 0, 0)
        resources.write(t_ns, NULL_NS if second == 1 else 45_250, 1, 0)
    resources.close()
    if plan.sensor != "none":
        _write_power(partial, plan, phases)
    return partial


def _write_inferences(partial: Path, plan: Plan, phases: list[dict[str, Any]]) -> None:
    inferences = RecordWriter(partial / "inferences.bin", INFERENCES, {})
    layers = RecordWriter(partial / "layers.bin", LAYERS, {})
    for phase in phases:
        count = getattr(plan, phase["phase"], 0) if phase["phase"] in PASSES else 0
        for index in range(count):
            start = phase["start_ns"] + index * (plan.span_ns + plan.pause_ns)
            number = PASSES.index(phase["phase"])
            inferences.write(start, start + plan.span_ns, NULL_NS, index, number)
            if phase["phase"] != "profiled":
                continue
            offset = 0
            for layer, duration in enumerate(plan.layer_ns):
                layers.write(offset if plan.starts else NULL_NS, duration, index, layer)
                offset += duration
    inferences.close()
    layers.close()


def _write_replay(partial: Path, plan: Plan, phases: list[dict[str, Any]]) -> None:
    replay = RecordWriter(partial / "replay.bin", REPLAY, {})
    (t_ns,) = (phase["start_ns"] for phase in phases if phase["phase"] == "replay")
    for turn in range(plan.replay):
        for kind, layer, copies, once_ns in replayed(plan):
            times = (SEGMENT_NS - MS) // once_ns if once_ns else 0
            end_ns = t_ns + (times * once_ns or SEGMENT_NS - MS)
            replay.write(t_ns, end_ns, times, layer, copies, turn, REPLAY_KINDS.index(kind))
            t_ns += SEGMENT_NS
    replay.close()


def _write_power(partial: Path, plan: Plan, phases: list[dict[str, Any]]) -> None:
    header = {
        "channels": channels_of(plan),
        "sensor": plan.sensor,
        "simulated": plan.simulated,
        "refresh_ns": plan.sample_ns,
        "configuration": {"update_interval": 1},
        "wall_anchor": {"monotonic_ns": 0, "wall_ns": 1_732_166_404_000_000_000},
    }
    power = RecordWriter(partial / "power.bin", POWER, header)
    t_ns = phases[0]["start_ns"] - 5 * MS
    while t_ns < phases[-1]["end_ns"] + 5 * MS:
        for number, (_, current) in enumerate(plan.rails):
            for step, raw in enumerate((MV, current)):
                t0 = t_ns + (2 * number + step) * 10_000
                power.write(t0, t0 + 5_000, raw, 2 * number + step, 0)
        t_ns += plan.sample_ns
    power.close()


def energy_columns(plan: Plan) -> dict[str, list[Any]]:
    """The rows of energy.parquet: constant power times time."""
    rows = []
    idle_mw = MV * plan.idle_ma / 1000
    for rail, current in plan.rails:
        power_mw = MV * current / 1000
        parts = [("layer", index, ns) for index, ns in enumerate(plan.layer_ns)]
        parts += [("gap", None, plan.gap_ns), ("inference", None, plan.span_ns)]
        parts += [("closure", None, plan.span_ns)]
        rows += [
            {
                "method": "proportional",
                "rail": rail,
                "kind": kind,
                "layer": layer,
                "gross_mj": power_mw * ns * 1e-9,
                "gross_statistical_mj": 0.0,
                "dynamic_mj": (power_mw - idle_mw) * ns * 1e-9,
                "dynamic_statistical_mj": None,
                "systematic_mj": None,
                "n": plan.profiled,
                "resolved": None,
            }
            for kind, layer, ns in parts
        ]
    names = table_schema("energy").names
    return {key: [row.get(key) for row in rows] for key in names} if rows else {}


def run_of(plan: Plan) -> dict[str, Any]:
    """The content of run.json that the parent gives to `finish`."""
    request = request_of(plan)
    energies = {
        phase["phase"]: {
            rail: {
                "energy_mj": MV * current / 1000 * (phase["end_ns"] - phase["start_ns"]) * 1e-9,
                "seconds": (phase["end_ns"] - phase["start_ns"]) * 1e-9,
                "mean_mw": MV * current / 1000,
            }
            for rail, current in plan.rails
        }
        for phase in phases_of(plan)
        if phase["end_ns"] > phase["start_ns"]
    }
    summary: dict[str, Any] = {
        "inferences": {"warmup": plan.warmup, "clean": plan.clean, "profiled": plan.profiled}
    }
    sensor: dict[str, Any] = {"name": plan.sensor, "simulated": plan.simulated}
    if plan.sensor != "none":
        summary["phase_energies"] = energies
        sensor["channels"] = channels_of(plan)
    return {
        **request,
        "status": "complete",
        "sensor": sensor,
        "simulated": plan.simulated,
        "clock": {"wall_anchor": {"monotonic_ns": 0, "wall_ns": 1_732_166_404_000_000_000}},
        "summary": summary,
    }


def prepare(dataset: Path, plan: Plan = Plan(), *, name: str | None = None) -> Path:
    """Leave a working directory that needs only `finish`."""
    partial = write_partial(dataset, plan, name=name)
    convert(partial)
    if plan.sensor != "none":
        write_table(partial / "energy.parquet", "energy", energy_columns(plan))
        baseline = {
            "kind": "loaded",
            "when": "before",
            "rails": {
                rail: {"mean_mw": MV * plan.idle_ma / 1000, "n": 100} for rail, _ in plan.rails
            },
        }
        (partial / "idle.json").write_bytes(canonical_json([baseline]))
    return partial


def build_run(
    dataset: Path, plan: Plan = Plan(), *, name: str | None = None, **changes: Any
) -> Path:
    """Build a finished run and return its directory; `changes` replace fields of the plan."""
    plan = replace(plan, **changes)
    set_defaults_if_absent(dataset, defaults_of(config_of(plan)))
    partial = prepare(dataset, plan, name=name)
    return finish(partial, run_of(plan), name or plan.model)


def reseal(run_directory: Path, **changes: Any) -> None:
    """Write hashes, sizes and rows of the files as they are now into run.json, and seal it.

    What is left for `verify` to find is then what is wrong in itself.
    """
    from edgejoule.dataset.convert import file_facts
    from edgejoule.files import files_below

    path = run_directory / "run.json"
    run = json.loads(path.read_text(encoding="utf-8"))
    names = [name for name in files_below(run_directory) if name != "run.json"]
    run["files"] = {name: file_facts(run_directory / name).to_json() for name in names}
    path.write_bytes(canonical_json(seal({**run, **changes})))
