"""The table of runs, one row each, and the long table of energies: every method and rail.

Latency and energy per inference come from the clean pass, as in the reports. Numpy and pyarrow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.schema import METADATA_KEY
from edgejoule.dataset.tables.attribution_columns import attribution_columns
from edgejoule.dataset.tables.layer_table import choose_rail, configuration_columns
from edgejoule.dataset.tables.run_columns import (
    ENERGY_TABLE_VERSION,
    RUN_TABLE_VERSION,
    energy_table_schema,
    run_table_schema,
)
from edgejoule.dataset.tables.source import SourceRun, finite, part

if TYPE_CHECKING:
    import pyarrow as pa

_ENERGY = ("gross_mj", "gross_statistical_mj", "dynamic_mj", "dynamic_statistical_mj")


def run_table(
    runs: Sequence[SourceRun], facts: Mapping[str, Any], *, rail: str | None = None
) -> pa.Table:
    """Return one row per run.

    Args:
        runs: The runs, as `choose_runs` gives them.
        facts: Which dataset they are of, as `dataset_facts` says.
        rail: Rail of the energy; None: as for the layers.

    Raises:
        MeasurementError: A file that is read is damaged.
    """
    import pyarrow as pa

    schema = run_table_schema()
    rows = [_run_row(one, rail) for one in runs]
    columns = {name: [row[name] for row in rows] for name in schema.names}
    return pa.table(columns, _with_header(schema, "runs", RUN_TABLE_VERSION, facts))


def energy_table(runs: Sequence[SourceRun], facts: Mapping[str, Any]) -> pa.Table:
    """Return every row of every run's `energy.parquet`, with the layers' names.

    Raises:
        MeasurementError: A file that is read is damaged.
    """
    import pyarrow as pa

    schema = energy_table_schema()
    rows = [row for one in runs for row in _energy_rows(one)]
    # Formats below 5 lack the newer columns.
    columns = {name: [row.get(name) for row in rows] for name in schema.names}
    return pa.table(columns, _with_header(schema, "energy", ENERGY_TABLE_VERSION, facts))


def _with_header(
    schema: pa.Schema, table: str, version: int, facts: Mapping[str, Any]
) -> pa.Schema:
    header = {"table": table, "table_version": version, "dataset": dict(facts)}
    return schema.with_metadata({METADATA_KEY: json.dumps(header, sort_keys=True).encode()})


def _energy_rows(one: SourceRun) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    if not one.has("energy.parquet"):
        return
    layers = one.engine()["layers"] if one.has("engine.json") else []
    for row in pq.read_table(one.checked("energy.parquet")).to_pylist():
        index = row["layer"]
        layer = layers[index] if index is not None and index < len(layers) else {}
        yield {
            "run": one.name,
            "network": one.network(),
            **row,
            "layer_name": layer.get("name"),
            "operation": layer.get("operation"),
            "simulated": one.run["simulated"],
        }


def _run_row(one: SourceRun, rail: str | None) -> dict[str, Any]:
    run, config = one.run, one.config
    engine = one.engine() if one.has("engine.json") else {}
    shape = _input_shape(one)
    times = _times(one)
    summary = run["summary"]
    return {
        "run": one.name,
        "network": one.network(),
        "batch_size": shape[0] if shape else None,
        "input_shape": shape,
        **_totals(engine.get("layers")),
        **times,
        "samples_per_s": _product(times["inferences_per_s"], shape[0] if shape else None),
        "profiled_over_clean": finite(summary.get("profiled_over_clean")),
        "layers_share": finite(part(summary, "profiled", "layers_share")),
        "held_mean_ms": finite(part(summary, "profiled", "held_ms_mean")),
        "rate_hz": finite(config.get("rate_hz")),
        "rate_missed_deadlines": part(summary, "rate", "missed_deadlines"),
        **_energy_columns(one, rail, times["latency_mean_ms"], shape[0] if shape else None),
        "memory_peak_mib": finite(part(summary, "memory", "peak_mib")),
        "memory_process_mib": finite(part(summary, "memory", "measure_peak_rss_mib")),
        "memory_gpu_allocator_mib": finite(part(summary, "memory", "peak_gpu_allocator_mib")),
        "memory_gpu_driver_mib": finite(part(summary, "memory", "peak_gpu_driver_mib")),
        "memory_board_mib": finite(part(summary, "memory", "peak_board_mib")),
        **{
            f"accuracy_{name}": finite(part(run, "accuracy", name))
            for name in ("max_relative_error", "mean_relative_error", "sqnr_db", "top1_agreement")
        },
        **{name: config.get(name) for name in ("repeat", "rebuild", "seed", "threads")},
        **_machine(run["machine"]),
        **configuration_columns(one, engine),
        "config": json.dumps(dict(config), sort_keys=True),
        **{name: _json_or_null(run.get(name)) for name in ("command", "source", "imported")},
        "notes": _json_or_null(summary.get("notes")),
    }


def _input_shape(one: SourceRun) -> list[int] | None:
    """Return the shape of the first input: as asked, else as it was made."""
    asked = one.config.get("input_shape")
    made = part(one.run, "input", "shapes")
    found = asked or (next(iter(made.values()), None) if isinstance(made, Mapping) else None)
    return list(found) if found else None


def _totals(layers: Sequence[Mapping[str, Any]] | None) -> dict[str, int | None]:
    """Return what is known of the whole network; sums are over the layers that tell."""

    def known(name: str) -> int | None:
        values = [layer[name] for layer in layers or () if layer.get(name) is not None]
        return sum(values) if values else None

    without = None if layers is None else sum(layer.get("flops") is None for layer in layers)
    return {
        "layers": None if layers is None else len(layers),
        "layers_without_flops": without,
        **{f"{name}_known": known(name) for name in ("flops", "bytes_moved", "weights")},
    }


def _times(one: SourceRun) -> dict[str, Any]:
    """Return the figures of both passes, from the inferences themselves."""
    from edgejoule.energy.statistics import mean_of
    from edgejoule.summary import latency, read_inferences

    passes = {}
    if one.has("inferences.parquet"):
        passes = read_inferences(one.checked("inferences.parquet"))
    clean, profiled = passes.get("clean"), passes.get("profiled")
    figures = latency(clean) if clean is not None else {}
    half_ms = None if clean is None else mean_of(clean.duration_ns * 1e-6).half_width
    mean_ms = figures.get("mean_ms")
    return {
        "clean_inferences": figures.get("inferences"),
        "latency_mean_ms": mean_ms,
        "latency_mean_statistical_ms": half_ms,
        "latency_p50_ms": figures.get("median_ms"),
        **{
            f"latency_{name}_ms": figures.get(f"{name}_ms") for name in ("p90", "p99", "min", "max")
        },
        "inferences_per_s": 1e3 / mean_ms if mean_ms else None,
        "profiled_inferences": None if profiled is None else len(profiled.index),
        "profiled_p50_ms": None if profiled is None else latency(profiled)["median_ms"],
    }


def _energy_columns(
    one: SourceRun, asked: str | None, latency_ms: float | None, batch: int | None
) -> dict[str, Any]:
    """Return energy of an inference, how it was split over layers, and what checks say of that."""
    rails = part(one.run, "summary", "energy", "rails") or {}
    rail = choose_rail(one, list(rails), asked) if rails else None
    columns = _energy(rails, rail)
    gross_mj = columns["energy_gross_mj"]
    return {
        **columns,
        "energy_gross_mj_per_sample": gross_mj / batch if gross_mj is not None and batch else None,
        "edp_uj_s": _product(gross_mj, latency_ms),
        **attribution_columns(part(one.run, "summary"), rail),
    }


def _energy(rails: Mapping[str, Any], rail: str | None) -> dict[str, Any]:
    """Return energy and mean power of an inference of the clean pass on one rail."""
    figures = part(rails, rail, "clean") if rail is not None else None
    energy = {name: finite(part(figures, name)) for name in _ENERGY}
    power_mw = finite(part(figures, "mean_mw"))
    # The pass's own time: what energy and mean power are of.
    seconds = energy["gross_mj"] / power_mw if energy["gross_mj"] and power_mw else None
    powers = {
        f"power_{name.removesuffix('_mj')}_mw": None
        if value is None or seconds is None
        else value / seconds
        for name, value in energy.items()
    }
    dynamic_mw = powers["power_dynamic_mw"]
    return {
        "energy_rail": None if figures is None else rail,
        **{f"energy_{name}": value for name, value in energy.items()},
        **powers,
        "idle_power_mw": None if power_mw is None or dynamic_mw is None else power_mw - dynamic_mw,
    }


def _machine(machine: Mapping[str, Any]) -> dict[str, Any]:
    names = ("architecture", "distribution", "kernel", "l4t", "jetpack", "container")
    return {
        **{name: machine.get(name) for name in names},
        "memory_total_mib": finite(machine.get("memory_mib")),
        "cpu_clocks_locked": part(machine, "cpu", "locked"),
        "gpu_clocks_locked": part(machine, "gpu", "locked"),
    }


def _product(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one * other


def _json_or_null(value: Any) -> str | None:
    return None if value is None else json.dumps(value, sort_keys=True)
