"""The three tables that the older pipeline trained on: convolutional, pooling and dense layers.

Columns, order and units are the older ones (docs/Modelling.md): power in microwatts above idle,
runtime in ms, sizes without the batch. They are made from the tidy table.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.tables.layer_columns import schema_of
from edgejoule.dataset.tables.source import SourceRun, finite, part

if TYPE_CHECKING:
    import pyarrow as pa

CLASSIC_TABLE_VERSION = 1
_SIZES = {
    f"{side}_size_{axis}": "int64" for side in ("input", "output") for axis in range(3)
}  # fmt: skip
_WINDOW = {"kernel_0": "int64", "kernel_1": "int64"}
_PADDING = {"padding_0": "int64", "padding_1": "int64"}
_STRIDE = {"stride_0": "int64", "stride_1": "int64"}
_TARGETS = {"power": "float64", "runtime": "float64", "layer_name": "string"}
CLASSIC_COLUMNS: dict[str, dict[str, str]] = {
    "convolutional": {
        "batch_size": "int64", **_SIZES, **_WINDOW, **_PADDING, **_STRIDE, **_TARGETS,
    },
    "pooling": {"batch_size": "int64", **_SIZES, **_WINDOW, **_STRIDE, **_TARGETS},
    "dense": {"batch_size": "int64", "input_size": "int64", "output_size": "int64", **_TARGETS},
}  # fmt: skip
_OLDER_TYPES = {
    "CaskConvolution": "convolutional",
    "CaskGemmConvolution": "dense",
    "CaskPooling": "pooling",
}
_MICROWATTS_PER_MILLIWATT = 1e3


def classic_schema(kind: str) -> pa.Schema:
    """Return the columns of one of the three; only `layer_name` is never null."""
    return schema_of(CLASSIC_COLUMNS[kind], ("layer_name",))


def cold_idle_mw(one: SourceRun, rail: str | None) -> float | None:
    """Return the mean of a run's cold baselines on a rail, None where there is none.

    Raises:
        MeasurementError: `idle.json` is damaged.
    """
    from edgejoule.files import read_json

    if rail is None or not one.has("idle.json"):
        return None
    found = [
        finite(part(item, "rails", rail, "mean_mw"))
        for item in read_json(one.checked("idle.json"))
        if item["kind"] == "cold"
    ]
    known = [mean_mw for mean_mw in found if mean_mw is not None]
    return sum(known) / len(known) if known else None


def classic_tables(
    layers: pa.Table, cold_mw: Mapping[str, float | None] | None = None
) -> tuple[dict[str, dict[str, pa.Table]], dict[str, int]]:
    """Sort the layers of a tidy table into the classic three.

    Args:
        layers: As `layer_table` returns it.
        cold_mw: Run -> cold baseline, for runs that have no loaded one: what an imported run's
            power is above, as it was in the older pipeline.

    Returns:
        Run -> kind -> table (a run's kinds are always all three, empty where it has none), and per
        kind how many layers were left out, because their tensors have other than four dimensions.
    """
    import pyarrow as pa

    rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
    left_out = dict.fromkeys(CLASSIC_COLUMNS, 0)
    for layer in layers.to_pylist():
        own = rows.setdefault(layer["run"], {kind: [] for kind in CLASSIC_COLUMNS})
        kind = classic_kind(layer)
        if kind is None:
            continue
        row = _row(kind, layer, (cold_mw or {}).get(layer["run"]))
        if row is None:
            left_out[kind] += 1
        else:
            own[kind].append(row)
    tables = {
        run: {
            kind: pa.Table.from_pylist(found, schema=classic_schema(kind))
            for kind, found in kinds.items()
        }
        for run, kinds in rows.items()
    }
    return tables, left_out


def classic_kind(layer: Mapping[str, Any]) -> str | None:
    """Return which of the three a layer belongs to, None for any other.

    TensorRT's types that the older tables were made from go where they went there. Any other layer
    goes by what it does, whatever the runtime calls it; a mean over a window, which TensorRT runs
    as a pooling, is one.
    """
    by_type = _OLDER_TYPES.get(layer["layer_type"])
    if by_type is not None:
        return by_type
    operation = layer["operation"]
    if operation == "convolution":
        return "convolutional"
    if operation == "pooling" or (operation == "reduction" and layer["kernel_0"] is not None):
        return "pooling"
    return "dense" if operation == "dense" else None


def _row(kind: str, layer: Mapping[str, Any], cold_mw: float | None) -> dict[str, Any] | None:
    """Return a row, None for tensors that the classic columns have no place for."""
    dynamic_mw, gross_mw = layer["power_dynamic_mw"], layer["power_gross_mw"]
    if dynamic_mw is None and gross_mw is not None and cold_mw is not None:
        dynamic_mw = gross_mw - cold_mw
    row = {
        "batch_size": layer["batch_size"],
        "power": None if dynamic_mw is None else dynamic_mw * _MICROWATTS_PER_MILLIWATT,
        "runtime": layer["runtime_ms"],
        "layer_name": layer["layer_name"],
    }
    shapes = {"input": layer["input_shape"], "output": layer["output_shape"]}
    for side, shape in shapes.items():
        if kind == "dense":
            row[f"{side}_size"] = None if shape is None else prod(shape)
            continue
        if shape is not None and len(shape) != 4:
            return None
        for axis in range(3):
            row[f"{side}_size_{axis}"] = None if shape is None else shape[axis + 1]
    return {name: row[name] if name in row else layer[name] for name in CLASSIC_COLUMNS[kind]}
