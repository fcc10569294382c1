"""The columns of the tables of runs and of energies; `docs/Modelling.md` says what each means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgejoule.dataset.tables.layer_columns import CONFIGURATION, schema_of

if TYPE_CHECKING:
    import pyarrow as pa

RUN_TABLE_VERSION = 1
ENERGY_TABLE_VERSION = 2  # 2: what is not resolved has no energy; kind `group`
PART_TABLE_VERSION = 1
# Methods whose closure is a finding; `proportional` adds up by construction.
CLOSURES = ("replay", "window", "interval")

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
    "energy_gross_mj_per_sample": "float64",
    "edp_uj_s": "float64",
    "layer_energy_method": "string",
    "resolved_layers": "int64",
    "resolved_share": "float64",
    **{
        f"closure_{method}_{kind}": "float64"
        for method in CLOSURES
        for kind in ("gross", "dynamic")
    },
    "closure_window_held_out": "float64",
    "closure_replay_other_rule": "float64",
    "closure_replay_time_share": "float64",
    "duplication_layers": "int64",
    "duplication_ratio_median": "float64",
    "duplication_ratio_min": "float64",
    "duplication_ratio_max": "float64",
    "observer_sampler_percent": "float64",
    "observer_sampler_resolved": "bool",
    "observer_profiler_percent": "float64",
    "observer_profiler_resolved": "bool",
    "roofline_gflops_per_s": "float64",
    "roofline_gbytes_per_s": "float64",
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
    "group": "int16",
    "time_ms": "float64",
    "alone_ms": "float64",
    "dynamic_other_mj": "float64",
    "scaled_gross_mj": "float64",
    "scaled_dynamic_mj": "float64",
    "why": "string",
    "simulated": "bool",
}
PART_COLUMNS = {
    "run": "string",
    "network": "string",
    "method": "string",
    "rail": "string",
    "by": "string",
    "kind": "string",
    "name": "string",
    "depth": "int16",
    "layers": "int64",
    "layers_unknown": "int64",
    "layers_outside": "int64",
    "time_ms": "float64",
    "gross_mj": "float64",
    "gross_statistical_mj": "float64",
    "dynamic_mj": "float64",
    "dynamic_statistical_mj": "float64",
    "systematic_mj": "float64",
    "own_gross_mj": "float64",
    "own_dynamic_mj": "float64",
    "unresolved_mj": "float64",
    "share": "float64",
    "scaled_gross_mj": "float64",
    "scaled_dynamic_mj": "float64",
    "power_gross_mw": "float64",
    "power_dynamic_mw": "float64",
    "edp_uj_s": "float64",
    "simulated": "bool",
}


def run_table_schema() -> pa.Schema:
    """Return the columns of the table of runs; every column but `run` may be null."""
    return schema_of(RUN_COLUMNS, ("run",))


def energy_table_schema() -> pa.Schema:
    """Return the columns of the table of energies; what is never null says so."""
    never = ("run", "network", "method", "rail", "kind", "n", "simulated")
    return schema_of(ENERGY_COLUMNS, never)
