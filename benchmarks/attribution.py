#!/usr/bin/env python3
"""Attribute simulated passes of known truth to layers, by three methods, and report their errors.

    python benchmarks/attribution.py [--seeds 30] [--scenario NAME ...] [--quick] [--json] [--each]

Each seed draws a network (20 layers, powers spanning 7.5 W), a sensor's phase and clock, noise and
the sampler's polls, 20 000 inferences long; then `window`, the older `interval` rule and
`proportional` attribute the same pass in turn. Nothing of the sensor's phase is told to them.

Figures are of layers with at least 5 % of the energy, over all seeds:
  resolved    share of them that got a number of their own
  missed      median error, one that is not resolved counted as infinite
  error       median error of the resolved ones, and the worst
  rank        rank correlation of their energies and of their powers with the truth, median of seeds
  half        median half-width of the 95 % interval, of the energy
  covered     share of intervals that hold the truth; beside it that of all resolved layers, and of
              groups
  held out    median distance of the closure from 1 on blocks of time that were not fitted
What was asked for stands behind a figure: + met, ! not met. 30 seeds of all scenarios take hours;
with --keep FILE the passes made so far are kept and a broken-off benchmark goes on from there
(remove the file when the code changes). At most two processes are used.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one process per core

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.attribution_figures import (  # noqa: E402
    LIMITS,
    OR_NOT_RESOLVED,
    Answer,
    Layer,
    figures_of,
    finite,
    judge,
    print_scenario,
    print_seed,
)
from edgejoule.energy.proportional import attribute  # noqa: E402
from edgejoule.energy.rows import EnergyRow  # noqa: E402
from edgejoule.energy.statistics import block_starts  # noqa: E402
from edgejoule.energy.trace import RailPower, total_power  # noqa: E402
from edgejoule.energy.waiting import energies_without_waiting  # noqa: E402
from edgejoule.simulation import SCENARIOS, Simulated, simulate  # noqa: E402

METHODS = ("window", "interval", "proportional")
_BIG = 0.05
_QUICK = ("base", "gap30-unequal", "no-information")
_QUICK_INFERENCES = 4000
TOTAL = "total"


def by_window(run: Simulated) -> tuple[list[EnergyRow], float | None]:
    """Attribute by window regression, rail by rail; several are added up."""
    from edgejoule.energy.window import add_rails, attribute_window

    parts = {
        rail: attribute_window(
            rail,
            run.timeline,
            reads,
            baseline_mw=run.idle_mw[rail].measured_mw,
            baseline_half_width_mw=run.idle_mw[rail].half_width_mw,
            seed=run.seed,
        )
        for rail, reads in run.reads.items()
    }
    whole = (
        next(iter(parts.values())) if len(parts) == 1 else add_rails(list(parts.values()), TOTAL)
    )
    told = (whole.facts.get("held_out_closure") or {}).get("gross") or {}
    return whole.rows, (whole.facts.get("closure") or {}).get("held_out", told.get("value"))


def by_interval(run: Simulated) -> tuple[list[EnergyRow], float | None]:
    """Attribute by the mean of the readings in a layer's interval."""
    from edgejoule.energy.interval import attribute_interval

    idle = run.idle_mw[TOTAL]
    return attribute_interval(
        TOTAL, _series(run), run.timeline, idle.measured_mw, idle.half_width_mw
    ), None


def by_proportional(run: Simulated) -> tuple[list[EnergyRow], float | None]:
    """Attribute in proportion to time."""
    series, timeline, idle = _series(run), run.timeline, run.idle_mw[TOTAL]
    energies = energies_without_waiting(
        series, timeline.start_ns, timeline.end_ns, timeline.spans_ns, idle.measured_mw
    )
    layer_ns = np.add.reduceat(timeline.layer_ns, block_starts(len(timeline.start_ns)), axis=0)
    rows = attribute(
        TOTAL,
        energies,
        timeline.end_ns - timeline.start_ns,
        layer_ns,
        idle.measured_mw,
        idle.half_width_mw,
    )
    return rows, None


def _series(run: Simulated) -> RailPower:
    """Return the total's power at its readings, as a trace has it."""
    rails = [
        RailPower(rail, (reads.t0_ns + reads.t1_ns) // 2, reads.power_mw)
        for rail, reads in run.reads.items()
    ]
    return rails[0] if len(rails) == 1 else total_power(rails, TOTAL)


_BY = {"window": by_window, "interval": by_interval, "proportional": by_proportional}


# Scenario, seed, inferences (None: the scenario's), methods.
Task = tuple[str, int, int | None, tuple[str, ...]]


def answers(task: Task) -> list[Answer]:
    """Simulate one pass and let every method attribute it."""
    name, seed, inferences, methods = task
    scenario = SCENARIOS[name]
    if inferences is not None:
        scenario = dataclasses.replace(scenario, inferences=min(inferences, scenario.inferences))
    run = simulate(scenario, seed)
    found = []
    for method in methods:
        started = time.perf_counter()
        rows, held_out = _BY[method](run)
        found.append(attributed(method, run, rows, held_out, time.perf_counter() - started))
    return found


def attributed(
    method: str, run: Simulated, rows: list[EnergyRow], held_out: float | None, seconds: float
) -> Answer:
    """Hold a method's rows against the truth."""
    truth = run.truth[TOTAL]
    times_s = run.workload.layer_ns.mean(axis=0) * 1e-9
    by_kind = {kind: [row for row in rows if row.kind == kind] for kind in
               ("layer", "group", "gap", "inference", "closure")}  # fmt: skip
    layers = []
    for row in by_kind["layer"]:
        at = row.layer
        energy = None if row.resolved is False else row.gross_mj
        layers.append(
            Layer(
                at,
                float(truth.layer_mj[at]),
                float(truth.layer_mw[at]),
                bool(truth.layer_mj[at] >= _BIG * truth.inference_mj),
                at == run.plan.short,
                energy,
                row.gross_statistical_mj,
                None if energy is None else float(energy / times_s[at]),
            )
        )
    groups = []
    for row in by_kind["group"]:
        members = [one.layer for one in by_kind["layer"] if one.group == row.group]
        if row.resolved and row.gross_mj is not None and row.gross_statistical_mj is not None:
            true_mj = float(sum(truth.layer_mj[member] for member in members))
            groups.append((true_mj, row.gross_mj, row.gross_statistical_mj))
    first = {kind: next((row.gross_mj for row in of), None) for kind, of in by_kind.items()}
    whole = first["inference"]
    closure = first["closure"] / whole if whole and first["closure"] is not None else None
    return Answer(
        method,
        layers,
        groups,
        (truth.gap_mj, first["gap"]),
        (truth.inference_mj, whole),
        closure,
        held_out,
        seconds,
    )


def keep(path: Path, task: Task, found: list[Answer]) -> None:
    """Add a pass to the file of passes that have been made."""
    with path.open("a", encoding="utf-8") as file:
        row = {"task": task, "answers": [dataclasses.asdict(answer) for answer in found]}
        file.write(json.dumps(row) + "\n")


def read_kept(path: Path | None) -> dict[Task, list[Answer]]:
    """Return the passes that have been made; a line that was cut short is left out."""
    kept: dict[Task, list[Answer]] = {}
    if path is None or not path.exists():
        return kept
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        name, seed, inferences, methods = row["task"]
        kept[name, seed, inferences, tuple(methods)] = [
            Answer(
                **{
                    **answer,
                    "layers": [Layer(**layer) for layer in answer["layers"]],
                    "groups": [tuple(group) for group in answer["groups"]],
                    "gap": tuple(answer["gap"]),
                    "inference": tuple(answer["inference"]),
                }
            )
            for answer in row["answers"]
        ]
    return kept


def main() -> int:
    """Run the passes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=30, help="passes per scenario (%(default)s)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS), metavar="NAME",
                        help=f"only this one; again for more: {', '.join(SCENARIOS)}")  # fmt: skip
    parser.add_argument("--method", action="append", choices=METHODS, help="only this one")
    parser.add_argument("--inferences", type=int, help="at most (default: as the scenario has it)")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=2)
    parser.add_argument("--keep", type=Path, metavar="FILE",
                        help="file of passes: those in it are not made again")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a few short passes, within a minute")
    parser.add_argument("--each", action="store_true", help="print every seed's errors as well")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    names = args.scenario or (_QUICK if args.quick else list(SCENARIOS))
    seeds = 2 if args.quick else args.seeds
    methods = tuple(args.method or METHODS)
    inferences = _QUICK_INFERENCES if args.quick else args.inferences
    results: dict[str, dict] = {}
    kept = read_kept(args.keep)
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        for name in names:
            tasks = [(name, args.first_seed + seed, inferences, methods) for seed in range(seeds)]
            missing = [task for task in tasks if task not in kept]
            for task, found in zip(missing, pool.imap(answers, missing), strict=True):
                kept[task] = found
                if args.keep is not None:
                    keep(args.keep, task, found)
            by_seed = [kept[task] for task in tasks]
            if args.each and not args.json:
                for task, found in zip(tasks, by_seed, strict=True):
                    print_seed(task[1], found[0])
            results[name] = {}
            for at, method in enumerate(methods):
                figures = figures_of([found[at] for found in by_seed])
                limits = LIMITS.get(name, OR_NOT_RESOLVED)
                met = judge(limits, figures) if method == "window" else {}
                results[name][method] = {**figures, "met": met}
            if not args.json:
                print_scenario(name, results[name])
    if args.json:
        print(json.dumps({"inferences": inferences, "scenarios": finite(results)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
