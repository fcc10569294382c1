"""`measure_power.py simulate`: a run whose true energies are known, to try attribution on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgejoule.config import RunConfig
    from edgejoule.simulation import Scenario

_CLEAN = 2000
_CLEAN_SHARE = 4  # a shorter pass has a clean pass of this part of its inferences
_IDLE_S = 8.0
_ENERGY = "window,interval"


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb `simulate`."""
    parser = verbs.add_parser(
        "simulate",
        help="write a run of known truth, to try attribution on",
        description="""\
Simulate a network, its board, its sensor and the sampler's reads, and write them
as a run with truth.json beside what attribution makes of it; print how far each
method is from the truth. The run is marked simulated.""",
        epilog="example:\n  measure_power.py simulate --scenario gap30-unequal --seed 3 \\\n"
        "    --result-dir simulated",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="list the scenarios and end")
    parser.add_argument(
        "--scenario", default="base", metavar="NAME", help="which (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="seeds noise, gaps and clocks (default: %(default)s)",
    )
    parser.add_argument(
        "--inferences",
        type=int,
        metavar="N",
        help="inferences of the profiled pass (default: as the scenario has it, mostly 20000)",
    )
    parser.add_argument(
        "--energy",
        default=_ENERGY,
        metavar="METHODS",
        help="window, proportional, interval: one or more with commas between (default: "
        "%(default)s); replay needs a network that runs",
    )
    parser.add_argument("--result-dir", type=Path, metavar="D", help="folder of the dataset")
    parser.add_argument(
        "--run-name", metavar="NAME", help="the run's name (default: <scenario>-s<seed>)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a run of this name")


def run(arguments: argparse.Namespace) -> int:
    """Simulate, write, close."""
    from edgejoule.config import check_name
    from edgejoule.dataset.run_directory import check_result_folder
    from edgejoule.energy_methods import resolve_methods
    from edgejoule.errors import UsageError
    from edgejoule.invocation import still_to_do
    from edgejoule.simulation import SCENARIOS
    from edgejoule.simulation.recording import BACKEND, config_of

    if arguments.list:
        width = max(len(name) for name in SCENARIOS)
        for name, scenario in SCENARIOS.items():
            print(f"{name:{width}}  {scenario.about}")
        return 0
    if arguments.result_dir is None:
        raise UsageError("no --result-dir", "give the folder of a dataset, a new one will do")
    if arguments.seed < 0:
        raise UsageError(f"--seed {arguments.seed}: no such seed", "give a number from 0")
    scenario = _scenario(arguments.scenario, arguments.inferences)
    name = check_name(arguments.run_name or f"{scenario.name}-s{arguments.seed}")
    check_result_folder(arguments.result_dir)
    methods = resolve_methods(arguments.energy, BACKEND, BACKEND)
    config = config_of(scenario, arguments.seed, methods.energy)
    if not still_to_do(arguments.result_dir, name, config, overwrite=arguments.overwrite):
        print(f"{arguments.result_dir / name} is complete: nothing to do")
        return 0
    print(f"simulating {scenario.inferences} inferences of {scenario.name}: {scenario.about}")
    written = _write(scenario, config, name, arguments)
    print(f"written: {written}")
    print(against_truth(written))
    return 0


def against_truth(run: Path) -> str:
    """Return how far each method's layers are from the truth of a simulated run, as a table.

    Only layers with a figure of their own have an error; a closure near 100 % says nothing of them.
    """
    import json
    from statistics import median

    import pyarrow.parquet as pq

    from edgejoule.report.text import ABSENT, percent, table

    truth = json.loads((run / "truth.json").read_text(encoding="utf-8"))["layers"]
    columns = ["method", "rail", "kind", "layer", "gross_mj", "gross_statistical_mj"]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in pq.read_table(run / "energy.parquet", columns=columns).to_pylist():
        if row["kind"] == "layer" and row["rail"] in truth:
            found.setdefault((row["method"], row["rail"]), []).append(row)
    rows = []
    for (method, rail), layers in found.items():
        known = [row for row in layers if row["gross_mj"] is not None]
        true_mj = [truth[rail]["energy_mj"][row["layer"]] for row in known]
        off_mj = [abs(row["gross_mj"] - mj) for row, mj in zip(known, true_mj, strict=True)]
        errors = [off / mj for off, mj in zip(off_mj, true_mj, strict=True) if mj]
        halves = [row["gross_statistical_mj"] for row in known]
        pairs = [(off, half) for off, half in zip(off_mj, halves, strict=True) if half is not None]
        held = sum(off <= half for off, half in pairs)
        rows.append(
            [
                method,
                rail,
                f"{len(known)} of {len(layers)}",
                percent(median(errors)) if errors else ABSENT,
                percent(max(errors)) if errors else ABSENT,
                f"{held} of {len(pairs)}" if pairs else ABSENT,
            ]
        )
    header = ["method", "rail", "layers", "median %", "largest %", "interval holds"]
    title = "SIMULATED gross energies of layers, how far they are from the truth:"
    return f"{title}\n{table(header, rows, {2, 3, 4, 5})}"


def _scenario(name: str, inferences: int | None) -> Scenario:
    """Return the named scenario with a clean pass and idle phases around.

    Raises:
        UsageError: No such scenario, or no such number of inferences.
    """
    from dataclasses import replace

    from edgejoule.errors import UsageError
    from edgejoule.simulation import SCENARIOS

    if name not in SCENARIOS:
        raise UsageError(f"there is no scenario {name}", "`measure_power.py simulate --list`")
    count = SCENARIOS[name].inferences if inferences is None else inferences
    if not 20 <= count <= 1_000_000:
        raise UsageError(
            f"--inferences {count}: cannot be simulated", "give a number from 20 to 1000000"
        )
    clean = max(1, min(_CLEAN, count // _CLEAN_SHARE))
    return replace(SCENARIOS[name], inferences=count, clean=clean, idle_s=_IDLE_S)


def _write(scenario: Scenario, config: RunConfig, name: str, arguments: argparse.Namespace) -> Path:
    """Simulate the session and write it as a run of the dataset; return its directory."""
    import shutil
    import time

    from edgejoule.closing import close_run
    from edgejoule.cooldown import CoolDown, Level
    from edgejoule.dataset.run_directory import create_partial, release
    from edgejoule.experiment import Measured, Task, request_of
    from edgejoule.simulation import simulate
    from edgejoule.simulation.recording import write_session

    found = simulate(scenario, arguments.seed)
    machine: dict[str, Any] = {"cpu": {}, "simulated": True}
    task = Task(
        config=config,
        name=name,
        dataset=arguments.result_dir,
        loader="",
        overwrite=arguments.overwrite,
        command=_command(arguments, name),
        why={"sensor": "simulated"},
    )
    partial = create_partial(task.dataset, task.name, request_of(task, machine))
    try:
        said = write_session(found, partial)
        nothing = Level(None, None)
        measured = Measured(
            setup=said["setup"],
            measure=said["measure"],
            sampler=said["sampler"],
            cooldown=CoolDown(None, 0.0, nothing, nothing, "simulated"),
            wall_anchor={"monotonic_ns": found.base_ns, "wall_ns": found.base_ns},
        )
        return close_run(partial, task, measured, machine, time.time())
    except BaseException:
        # Nothing is lost: the same seed gives the same run again.
        release(partial)
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _command(arguments: argparse.Namespace, name: str) -> tuple[str, ...]:
    words = ["measure_power.py", "simulate", "--scenario", arguments.scenario]
    words += ["--seed", str(arguments.seed), "--run-name", name]
    words += [] if arguments.energy == _ENERGY else ["--energy", arguments.energy]
    if arguments.inferences is not None:
        words += ["--inferences", str(arguments.inferences)]
    return (*words, "--result-dir", str(arguments.result_dir))
