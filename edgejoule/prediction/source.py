"""What a model is learnt from: the runs of one configuration, their layers and their totals.

Numpy and pyarrow, imported inside the functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgejoule.dataset.tables.layer_table import configuration_columns, table_of_runs
from edgejoule.dataset.tables.source import SourceRun, choose_runs, dataset_facts, finite, part
from edgejoule.errors import UsageError

Say = Callable[[str], None]
# What one model is for, and the option that chooses it where a dataset has several.
CONFIGURATION = {
    "backend": "--backend",
    "dtype": "--dtype",
    "board": "--board",
    "device": "--device",
    "processor": "--processor",
    "power_mode": "--mode",
    "settings": "--run",
}
POWERS = ("gross", "dynamic")
PROPORTIONAL = "proportional"
ABSENT = "none"  # how null is asked for


@dataclass(frozen=True)
class RunTotals:
    """A run as a whole.

    Attributes:
        name: The run's.
        network: Its network's.
        run_sha256: Its seal.
        latency_ms: Mean of the clean pass; None where there was none.
        gross_mw, dynamic_mw: Mean power of the clean pass, None where not measured or left out.
        unreal: What about it is not as in use: simulated power, random weights, a shared GPU.
    """

    name: str
    network: str
    run_sha256: str
    latency_ms: float | None
    gross_mw: float | None
    dynamic_mw: float | None
    unreal: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Runs of one configuration.

    Attributes:
        rows: Rows of the tidy table, sorted by run and layer.
        runs: The runs, by name.
        configuration: Values of `CONFIGURATION`.
        dataset: Which version of the dataset: `sha256`, `commit`, `tags`.
        versions: Versions of the backend that are among the runs.
        rail: Rail of the power, None without power.
        simulated: Power is simulated.
        notes: What a reader must know.
    """

    rows: list[dict[str, Any]]
    runs: dict[str, RunTotals]
    configuration: dict[str, Any]
    dataset: dict[str, Any]
    versions: list[str]
    rail: str | None = None
    simulated: bool = False
    notes: list[str] = field(default_factory=list)


def load_source(
    dataset: Path,
    filters: Mapping[str, str],
    runs: Sequence[str] = (),
    *,
    allow_simulated: bool = False,
    say: Say = lambda line: None,
) -> Source:
    """Read the runs of a dataset that one model can be learnt from.

    Args:
        dataset: The dataset's folder.
        filters: Name in `CONFIGURATION` -> the value to keep; `none` is null.
        runs: Only these.
        allow_simulated: Learn simulated power, too.
        say: Gets a line per run that is left out.

    Raises:
        UsageError: No such dataset or run; several configurations; nothing is left.
        MeasurementError: A file of a run is damaged.
    """
    chosen, left_out = choose_runs(dataset, runs)
    for name, why in left_out.items():
        say(f"{name} is left out: {why}")
    facts = {one.name: _facts_of(one) for one in chosen}
    kept = [one for one in chosen if _matches(facts[one.name], filters)]
    if not kept:
        asked = ", ".join(f"{CONFIGURATION[key]} {value}" for key, value in filters.items())
        raise UsageError(f"no run of {dataset} has {asked}", _offer(list(facts.values())))
    _refuse_several(dataset, [facts[one.name] for one in kept])
    table = table_of_runs(kept, dataset_facts(dataset, kept), say=say)
    rows = table.to_pylist()
    simulated = any(one.run["simulated"] for one in kept)
    rails = {one.name: _rail(rows, one.name) for one in kept}
    notes, rail = _notes(kept, rails, simulated, allow_simulated)
    with_power = rail is not None and (allow_simulated or not simulated)
    if not with_power:
        rail = None
        for row in rows:
            row.update({name: None for name in row if name.startswith(("energy_", "power_g"))})
            row.update(power_dynamic_mw=None)
    totals = {one.name: _totals(one, rail) for one in kept}
    version = dataset_facts(dataset, kept)
    del version["runs"]
    return Source(
        rows,
        totals,
        facts[kept[0].name],
        version,
        sorted({str(row["backend_version"]) for row in rows}),
        rail,
        simulated and with_power,
        notes,
    )


def _facts_of(one: SourceRun) -> dict[str, Any]:
    """Return the configuration of a run as far as it must be the same over a model's runs."""
    columns = configuration_columns(one, one.engine())
    config = one.config
    settings = {key: value for key, value in (config.get("extra") or {}).items() if value}
    if config.get("threads"):
        settings["threads"] = config["threads"]
    text = json.dumps(settings, sort_keys=True) if settings else None
    return {**{name: columns.get(name) for name in CONFIGURATION}, "settings": text}


def _matches(facts: Mapping[str, Any], filters: Mapping[str, str]) -> bool:
    return all(_word(facts[name]) == value for name, value in filters.items())


def _word(value: Any) -> str:
    return ABSENT if value is None else str(value)


def _refuse_several(dataset: Path, facts: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a mixture: a model is for one configuration."""
    mixed = {
        name: sorted({_word(one[name]) for one in facts})
        for name in CONFIGURATION
        if len({_word(one[name]) for one in facts}) > 1
    }
    if mixed:
        what = "; ".join(f"{name}: {', '.join(values)}" for name, values in mixed.items())
        raise UsageError(
            f"{dataset} has runs of several configurations ({what}), and a model is for one",
            _offer(facts),
        )


def _offer(facts: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for name, option in CONFIGURATION.items():
        values = sorted({_word(one[name]) for one in facts})
        if len(values) > 1:
            shown = "RUN ..." if option == "--run" else "|".join(values)
            parts.append(f"{option} {shown}")
    return f"choose with {', '.join(parts)}" if parts else "leave the filter out"


def _rail(rows: Sequence[Mapping[str, Any]], run: str) -> str | None:
    found = [row["energy_rail"] for row in rows if row["run"] == run and row["energy_rail"]]
    return str(found[0]) if found else None


def _notes(
    kept: Sequence[SourceRun], rails: Mapping[str, str | None], simulated: bool, allowed: bool
) -> tuple[list[str], str | None]:
    """Return what a reader must know, and the rail whose power is learnt."""
    notes = []
    known = sorted({rail for rail in rails.values() if rail is not None})
    rail = known[0] if len(known) == 1 else None
    if len(known) > 1:
        notes.append(f"power was measured on several rails ({', '.join(known)}): it is left out")
    if simulated:
        notes.append(
            "POWER IS SIMULATED, not measured"
            if allowed
            else "power is simulated and left out (--allow-simulated takes it in)"
        )
    versions = sorted({str(one.run["versions"].get(str(one.config["backend"]))) for one in kept})
    if len(versions) > 1:
        notes.append(f"the runs are of several versions of the backend: {', '.join(versions)}")
    random = [one.name for one in kept if one.run["weights"] == "random"]
    if random and rail is not None:
        notes.append(
            f"{len(random)} of {len(kept)} runs have random weights: power depends on them"
        )
    shared = [one.name for one in kept if one.run.get("shared_gpu")]
    if shared:
        notes.append(f"{len(shared)} runs shared their GPU with others: {', '.join(shared[:5])}")
    return notes, rail


def _totals(one: SourceRun, rail: str | None) -> RunTotals:
    latency = finite(part(one.run, "summary", "clean", "mean_ms"))
    energy = part(one.run, "summary", "energy", "rails", rail, "clean") if rail else None
    powers: dict[str, float | None] = {}
    for name in POWERS:
        mj = finite(part(energy, f"{name}_mj"))
        powers[name] = mj / latency * 1e3 if mj is not None and latency and mj > 0 else None
    unreal = [
        word
        for word, said in (
            ("simulated power", rail is not None and one.run["simulated"]),
            ("random weights", one.run["weights"] == "random"),
            ("shared GPU", bool(one.run.get("shared_gpu"))),
        )
        if said
    ]
    return RunTotals(
        one.name, one.network(), one.run["run_sha256"], latency, powers["gross"],
        powers["dynamic"], tuple(unreal),
    )  # fmt: skip
