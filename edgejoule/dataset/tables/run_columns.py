"""The columns of the tables of runs and of energies; `docs/Modelling.md` says what each means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgejoule.dataset.tables.layer_columns import CONFIGURATION, schema_of

if TYPE_CHECKING:
    import pyarrow as pa

RUN_TABLE_VERSION = 1
ENERGY_TABLE_VERSION = 1

RUN_COLUMNS = {
    "run": "string",
    "network": "string",
    "batch_size": "int64",
    "input_shape": "list<int64>",
    "layers": "int64",
    "layers_without_flops": "int64",
    "flops_known": "int64",
    "bytes_moved_known": "int64",
    "weights_known": "int64",
    "clean_inferences": "int64",
    "latency_mean_ms": "float64",
    "latency_mean_statistical_ms": "float64",
    "latency_p50_ms": "float64",
    "latency_p90_ms": "float64",
    "latency_p99_ms": "float64",
    "latency_min_ms": "float64",
    "latency_max_ms": "float64",
    "inferences_per_s": "float64",
    "samples_per_s": "float64",
    "profiled_inferences": "int64",
    "profiled_p50_ms": "float64",
    "profiled_over_clean": "float64",
    "layers_share": "float64",
    "held_mean_ms": "float64",
    "rate_hz": "float64",
    "rate_missed_deadlines": "int64",
    "energy_rail": "string",
    "energy_gross_mj": "float64",
    "energy_gross_statistical_mj": "float64",
    "energy_dynamic_mj": "float64",
    "energy_dynamic_statistical_mj": "float64",
    "power_gross_mw": "float64",
    "power_gross_statistical_mw": "float64",
    "power_dynamic_mw": "float64",
    "power_dynamic_statistical_mw": "float64",
    "idle_power_mw": "float64",
    "memory_peak_mib": "float64",
    "memory_process_mib": "float64",
    "memory_gpu_allocator_mib": "float64",
    "memory_gpu_driver_mib": "float64",
    "memory_board_mib": "float64",
    "accuracy_max_relative_error": "float64",
    "accuracy_mean_relative_error": "float64",
    "accuracy_sqnr_db": "float64",
    "accuracy_top1_agreement": "float64",
    "repeat": "int64",
    "rebuild": "int64",
    "seed": "int64",
    "threads": "int64",
    "architecture": "string",
    "distribution": "string",
    "kernel": "string",
    "l4t": "string",
    "jetpack": "string",
    "memory_total_mib": "float64",
    "container": "bool",
    "cpu_clocks_locked": "bool",
    "gpu_clocks_locked": "bool",
    **CONFIGURATION,
    "config": "string",
    "command": "string",
    "source": "string",
    "imported": "string",
    "notes": "string",
}
ENERGY_COLUMNS = {
    "run": "string",
    "network": "string",
    "method": "string",
    "rail": "string",
    "kind": "string",
    "layer": "int16",
    "layer_name": "string",
    "operation": "string",
    "gross_mj": "float64",
    "gross_statistical_mj": "float64",
    "dynamic_mj": "float64",
    "dynamic_statistical_mj": "float64",
    "systematic_mj": "float64",
    "n": "int64",
    "resolved": "bool",
    "simulated": "bool",
}


def run_table_schema() -> pa.Schema:
    """Return the columns of the table of runs; every column but `run` may be null."""
    return schema_of(RUN_COLUMNS, ("run",))


def energy_table_schema() -> pa.Schema:
    """Return the columns of the table of energies; what is never null says so."""
    never = ("run", "network", "method", "rail", "kind", "gross_mj", "n", "simulated")
    return schema_of(ENERGY_COLUMNS, never)
