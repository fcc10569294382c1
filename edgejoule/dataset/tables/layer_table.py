"""The tidy table: one row per layer and run, with features, time, power, energy, configuration.

`layer_columns` names the columns, `docs/Modelling.md` says what each means. One method of
attribution and one rail per run, said in the columns: the best method there is, on the total.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.schema import METADATA_KEY
from edgejoule.dataset.tables.attribution_columns import NEVER_BEST
from edgejoule.dataset.tables.layer_columns import LAYER_TABLE_VERSION, layer_table_schema
from edgejoule.dataset.tables.layer_features import layer_features
from edgejoule.dataset.tables.source import (
    LayerRuntimes,
    Progress,
    Say,
    SourceRun,
    choose_runs,
    dataset_facts,
    finite,
    layer_runtimes,
    part,
)
from edgejoule.energy.roofline import Roof, layer_roofline, roof_of
from edgejoule.energy.rows import METHODS
from edgejoule.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

TOTAL = "total"


def layer_table(
    dataset: Path,
    *,
    runs: Sequence[str] = (),
    method: str | None = None,
    rail: str | None = None,
    incomplete: bool = False,
    say: Say = lambda line: None,
) -> pa.Table:
    """Return the tidy table of a dataset.

    Args:
        dataset: The dataset's folder.
        runs: Only these runs; none given: all complete ones.
        method: Method of attribution; None: per run the best there is (`METHODS`, without
            `interval`).
        rail: Rail of the energy; None: per run `total`, else the only one, else the only one of the
            sensor that sees the device.
        incomplete: Take incomplete and failed runs, too.
        say: Gets one line per run that is left out or has no energy, and why.

    Returns:
        Sorted by run, then layer. Its metadata says under `edgejoule` which dataset it is of.

    Raises:
        UsageError: No such dataset, run, method or rail.
        MeasurementError: A file of a chosen run is damaged.
    """
    chosen, left_out = choose_runs(dataset, runs, incomplete=incomplete)
    for name, why in left_out.items():
        say(f"{name} is left out: {why}")
    return table_of_runs(chosen, dataset_facts(dataset, chosen), method=method, rail=rail, say=say)


def table_of_runs(
    runs: Sequence[SourceRun],
    facts: Mapping[str, Any],
    *,
    method: str | None = None,
    rail: str | None = None,
    say: Say = lambda line: None,
    progress: Progress = lambda what, done, total: None,
) -> pa.Table:
    """As `layer_table`, of runs already chosen; `facts` is what `dataset_facts` says of them."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {name: [] for name in layer_table_schema().names}
    offered: set[tuple[str, str]] = set()
    without: dict[str, list[str]] = {}
    with_energy = False
    for number, one in enumerate(runs):
        progress(f"layers of {one.name}", number, len(runs))
        if not (one.has("engine.json") and one.has("layers.parquet")):
            say(f"{one.name} is left out: it has no layers")
            continue
        energies = layer_energies(one)
        offered |= energies.keys()
        choice = choose_energy(one, list(energies), method, rail)
        chosen = None if isinstance(choice, str) else choice
        if isinstance(choice, str):
            without.setdefault(choice, []).append(one.name)
        with_energy = with_energy or chosen is not None
        for row in _rows(one, chosen, energies.get(chosen, {}) if chosen else {}):
            for name, values in columns.items():
                values.append(row[name])
    if not with_energy:
        _refuse_unknown(offered, method, rail)
    for why, names in without.items():
        say(f"no energy of layers in this table for {listed(names)}: {why}")
    header = {"table": "layers", "table_version": LAYER_TABLE_VERSION, "dataset": dict(facts)}
    text = json.dumps(header, sort_keys=True).encode()
    return pa.table(columns, layer_table_schema().with_metadata({METADATA_KEY: text}))


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return names for people: the first few, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _refuse_unknown(offered: set[tuple[str, str]], method: str | None, rail: str | None) -> None:
    """Refuse a method or rail that was asked for and that no run has.

    Raises:
        UsageError: Names those that there are.
    """
    if method is None and rail is None:
        return
    asked = " on ".join(str(word) for word in (method, rail) if word is not None)
    there = ", ".join(f"{one} on {other}" for one, other in sorted(offered))
    raise UsageError(f"no run has energy of layers by {asked}", f"there is {there or 'none'}")


def layer_energies(one: SourceRun) -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
    """Return the rows of kind `layer` of `energy.parquet`: (method, rail) -> layer -> row."""
    import pyarrow.parquet as pq

    if not one.has("energy.parquet"):
        return {}
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in pq.read_table(one.checked("energy.parquet")).to_pylist():
        if row["kind"] == "layer":
            found.setdefault((row["method"], row["rail"]), {})[row["layer"]] = row
    return found


def choose_energy(
    one: SourceRun,
    offered: Sequence[tuple[str, str]],
    method: str | None = None,
    rail: str | None = None,
) -> tuple[str, str] | str:
    """Choose method and rail of a run's energy.

    Args:
        one: The run.
        offered: (method, rail) that its `energy.parquet` has.
        method: The method asked for, None for the best.
        rail: The rail asked for, None for the total, else the only one, else the device's.

    Returns:
        (method, rail), or why there is none, in words.
    """
    if not offered:
        return str(part(one.run, "summary", "energy", "why") or "no power sensor was read")
    methods = [name for name in METHODS if any(pair[0] == name for pair in offered)]
    methods += sorted({pair[0] for pair in offered} - set(METHODS))
    best = [name for name in methods if name != NEVER_BEST]
    if method is None and not best:
        return f"it has {NEVER_BEST} only, which tells no layers apart; --method takes it"
    wanted = best if method is None else [method]
    for name in wanted:
        rails = [pair[1] for pair in offered if pair[0] == name]
        chosen = choose_rail(one, rails, rail)
        if chosen is not None:
            return name, chosen
    rails = sorted({pair[1] for pair in offered if pair[0] in wanted})
    if not rails:
        return f"it has {', '.join(methods)}, not {method}"
    if rail is not None:
        return f"it has {', '.join(rails)}, not {rail}"
    return f"its total is not known; choose one of {', '.join(rails)} with --rail"


def choose_rail(one: SourceRun, rails: Sequence[str], asked: str | None) -> str | None:
    """Return the rail that stands for the run, None where nothing tells which of several.

    Rails are never added up here: what makes up a total is for the trace's header to say.
    """
    if asked is not None:
        return asked if asked in rails else None
    if TOTAL in rails:
        return TOTAL
    if len(rails) == 1:
        return rails[0]
    sensor = "nvml" if str(one.config.get("device", "")).startswith("cuda") else "rapl"
    own = [rail for rail in rails if rail in one.rails().get(sensor, ())]
    return own[0] if len(own) == 1 else None


def _rows(
    one: SourceRun, chosen: tuple[str, str] | None, energies: Mapping[int, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    engine = one.engine()
    layers = engine["layers"]
    times = layer_runtimes(one.checked("layers.parquet"), len(layers))
    whole = float(times.mean_ms.sum())
    common = configuration_columns(one, engine)
    roof = roof_of(part(one.run, "summary", "roofline"))
    return [
        {
            "run": one.name,
            "network": one.network(),
            "layer": layer["index"],
            "layer_name": layer["name"],
            "layer_type": layer.get("type"),
            "operation": layer.get("operation"),
            "module_path": layer.get("module_path"),
            **layer_features(layer),
            **_runtime(times, layer["index"], whole),
            **_energy(layer, times, chosen, energies.get(layer["index"]), roof),
            **common,
        }
        for layer in layers
    ]


def _runtime(times: LayerRuntimes, layer: int, whole_ms: float) -> dict[str, Any]:
    mean_ms = finite(float(times.mean_ms[layer]))
    return {
        "inferences": times.inferences,
        "runtime_ms": mean_ms,
        "runtime_statistical_ms": times.half_ms[layer],
        "runtime_median_ms": finite(float(times.median_ms[layer])),
        "runtime_share": mean_ms / whole_ms if mean_ms is not None and whole_ms > 0 else None,
    }


def _energy(
    layer: Mapping[str, Any],
    times: LayerRuntimes,
    chosen: tuple[str, str] | None,
    row: Mapping[str, Any] | None,
    roof: Roof,
) -> dict[str, Any]:
    """Return energy, power as energy over runtime, and the roofline; nothing is over no time."""
    energy = _LayerEnergy() if row is None else _LayerEnergy.of_row(row)
    mean_ms = finite(float(times.mean_ms[layer["index"]]))
    method, rail = chosen if chosen is not None and row is not None else (None, None)
    under = layer_roofline(
        layer.get("flops"), layer.get("bytes_moved"), mean_ms, energy.gross_mj, roof
    )

    def power_mw(energy_mj: float | None) -> float | None:
        return None if energy_mj is None or not mean_ms else energy_mj / mean_ms * 1e3

    return {
        "energy_method": method,
        "energy_rail": rail,
        "energy_resolved": energy.resolved,
        "energy_gross_mj": energy.gross_mj,
        "energy_gross_statistical_mj": energy.gross_statistical_mj,
        "energy_dynamic_mj": energy.dynamic_mj,
        "energy_dynamic_statistical_mj": energy.dynamic_statistical_mj,
        "energy_systematic_mj": energy.systematic_mj,
        "energy_group": energy.group,
        "energy_why": energy.why,
        "energy_dynamic_other_mj": energy.dynamic_other_mj,
        "energy_scaled_gross_mj": energy.scaled_gross_mj,
        "energy_scaled_dynamic_mj": energy.scaled_dynamic_mj,
        "alone_ms": energy.alone_ms,
        "power_gross_mw": power_mw(energy.gross_mj),
        "power_gross_statistical_mw": power_mw(energy.gross_statistical_mj),
        "power_dynamic_mw": power_mw(energy.dynamic_mj),
        "power_dynamic_statistical_mw": power_mw(energy.dynamic_statistical_mj),
        "edp_uj_s": None
        if energy.gross_mj is None or mean_ms is None
        else energy.gross_mj * mean_ms,
        "gflops_per_s": under.gflops_per_s,
        "gbytes_per_s": under.gbytes_per_s,
        "gflop_per_joule": under.gflop_per_joule,
        "flop_per_byte": under.intensity,
        "roofline_bound": under.bound,
        "roofline_share": under.share,
        "roofline_note": under.note or None,
    }


@dataclass(frozen=True)
class _LayerEnergy:
    """What `energy.parquet` says of a layer; the names are its columns', newer ones optional."""

    gross_mj: float | None = None
    gross_statistical_mj: float | None = None
    dynamic_mj: float | None = None
    dynamic_statistical_mj: float | None = None
    systematic_mj: float | None = None
    resolved: bool | None = None
    group: int | None = None
    why: str | None = None
    dynamic_other_mj: float | None = None
    scaled_gross_mj: float | None = None
    scaled_dynamic_mj: float | None = None
    alone_ms: float | None = None

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> _LayerEnergy:
        return cls(**{name: row.get(name) for name in cls.__dataclass_fields__})


def configuration_columns(one: SourceRun, engine: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns `layer_columns.CONFIGURATION` of a run."""
    run, config = one.run, one.config
    versions = dict(run["versions"])
    return {
        "backend": config["backend"],
        "dtype": config["dtype"],
        "device": config.get("device"),
        "board": run["board_id"],
        "power_mode": run["power_mode"],
        "processor": processor(run, engine),
        "sensor": run["sensor"]["name"],
        "simulated": run["simulated"],
        "weights_kind": run["weights"],
        "shared_gpu": run.get("shared_gpu"),
        "status": run["status"],
        "started_at": run["started_at"],
        "config_sha256": run["config_sha256"],
        "run_sha256": run["run_sha256"],
        "schema_version": run["schema_version"],
        "edgejoule_version": versions.get("edgejoule"),
        "backend_version": _backend_version(config["backend"], versions, engine),
        "versions": json.dumps(versions, sort_keys=True),
    }


def processor(run: Mapping[str, Any], engine: Mapping[str, Any]) -> str | None:
    """Return the name of what computed: the GPU's where the device is one, else the CPU's."""
    if not str(run["config"].get("device", "cpu")).startswith("cuda"):
        return _text(part(run, "machine", "cpu", "model"))
    named = part(run, "summary", "settings", "gpu") or part(engine, "settings", "gpu")
    names = part(run, "machine", "gpu", "names") or []
    return _text(named) or (_text(names[0]) if len(names) == 1 else None)


def _backend_version(
    backend: str, versions: Mapping[str, Any], engine: Mapping[str, Any]
) -> str | None:
    """Return the version of the backend's own library, which a package spells with `_`."""
    everything = {**dict(engine.get("versions") or {}), **versions}
    return _text(everything.get(backend.replace("-", "_")) or everything.get(backend))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
