"""The columns of the tidy table: one row per layer and run, for whoever models power and runtime.

`docs/Modelling.md` says what each means. The same names are used for a network that nobody
measured: then what was measured is null. pyarrow is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

LAYER_TABLE_VERSION = 2  # 2: what is not resolved has no energy

# Which layer of which run.
IDENTITY = {
    "run": "string",
    "network": "string",  # the model's name as asked, the same over its runs
    "layer": "int16",  # `index` of engine.json
    "layer_name": "string",
    "layer_type": "string",  # the runtime's own word
    "operation": "string",  # the common word, docs/DatasetFormats.md; null: unknown
    "module_path": "string",
}
# What a predictor may use of a layer; null is *unknown* or *has none*. Shapes count from the batch.
FEATURES = {
    "batch_size": "int64",  # first dimension of the first input
    "input_shape": "list<int64>",  # first input
    "output_shape": "list<int64>",  # first output
    "inputs": "int16",  # how many tensors
    "outputs": "int16",
    "input_elements": "int64",  # over all inputs
    "output_elements": "int64",
    "input_channels": "int64",  # second dimension of the first input
    "output_channels": "int64",
    "input_height": "int64",  # shapes of four dimensions
    "input_width": "int64",
    "output_height": "int64",
    "output_width": "int64",
    "kernel_0": "int64",
    "kernel_1": "int64",
    "stride_0": "int64",
    "stride_1": "int64",
    "padding_0": "int64",  # begin plus end of the first spatial axis, as the classic tables have it
    "padding_1": "int64",
    "dilation_0": "int64",
    "dilation_1": "int64",
    "groups": "int64",
    "weights": "int64",
    "flops": "int64",
    "bytes_moved": "int64",
    "layer_dtype": "string",  # of the first output
    "fused": "string",  # the parts joined by `+`
    "tactic": "string",
}
# Per inference of the profiled pass; half-widths are of 95 % intervals within this process.
MEASURED = {
    "inferences": "int64",
    "runtime_ms": "float64",  # mean
    "runtime_statistical_ms": "float64",
    "runtime_median_ms": "float64",
    "runtime_share": "float64",  # of the time in layers
    "energy_method": "string",
    "energy_rail": "string",
    "energy_resolved": "bool",
    "energy_gross_mj": "float64",
    "energy_gross_statistical_mj": "float64",
    "energy_dynamic_mj": "float64",
    "energy_dynamic_statistical_mj": "float64",
    "energy_systematic_mj": "float64",
    "energy_group": "int16",  # index of a layer
    "energy_why": "string",
    "energy_dynamic_other_mj": "float64",  # replay's other rule
    "energy_scaled_gross_mj": "float64",  # of the clean pass
    "energy_scaled_dynamic_mj": "float64",
    "alone_ms": "float64",
    "power_gross_mw": "float64",  # energy over runtime, and so its half-width
    "power_gross_statistical_mw": "float64",
    "power_dynamic_mw": "float64",
    "power_dynamic_statistical_mw": "float64",
    "edp_uj_s": "float64",  # energy times runtime
    "gflops_per_s": "float64",
    "gbytes_per_s": "float64",
    "gflop_per_joule": "float64",
    "flop_per_byte": "float64",
    "roofline_bound": "string",  # compute, memory
    "roofline_share": "float64",
    "roofline_note": "string",
}
# Under which configuration, on what.
CONFIGURATION = {
    "backend": "string",
    "dtype": "string",
    "device": "string",
    "board": "string",
    "power_mode": "string",
    "processor": "string",  # the GPU's name where the device is one, else the CPU's
    "sensor": "string",
    "simulated": "bool",
    "weights_kind": "string",  # pretrained, random, user, unknown
    "shared_gpu": "bool",
    "status": "string",
    "started_at": "string",
    "config_sha256": "string",
    "run_sha256": "string",
    "schema_version": "int64",
    "edgejoule_version": "string",
    "backend_version": "string",
    "versions": "string",  # all of them, a JSON object
}
COLUMNS = {**IDENTITY, **FEATURES, **MEASURED, **CONFIGURATION}


def layer_table_schema() -> pa.Schema:
    """Return the columns with their types; every column but `run` and `layer` may be null."""
    return schema_of(COLUMNS, ("run", "layer"))


def schema_of(columns: Mapping[str, str], never_null: Collection[str]) -> pa.Schema:
    """Return named columns with their types as an Arrow schema.

    Args:
        columns: Name -> type, in the words used above.
        never_null: Names of the columns that hold no null.
    """
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int16": pa.int16(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "list<int64>": pa.list_(pa.int64()),
    }
    return pa.schema(
        [
            pa.field(name, types[kind], nullable=name not in never_null)
            for name, kind in columns.items()
        ]
    )
