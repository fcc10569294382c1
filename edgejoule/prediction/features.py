"""What a predictor sees of a layer: numbers made of the tidy table's features, and its type.

Rows are mappings with the names of `dataset/tables/layer_columns.py`; whether the layer was
measured or only described makes no difference here. Null becomes NaN, and each model says what it
does with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

UNKNOWN = "unknown"
REST = "rest"

# Columns of the tidy table that are taken as they are.
TAKEN = (
    "batch_size",
    "inputs",
    "outputs",
    "input_elements",
    "output_elements",
    "input_channels",
    "output_channels",
    "input_height",
    "input_width",
    "output_height",
    "output_width",
    "kernel_0",
    "kernel_1",
    "stride_0",
    "stride_1",
    "padding_0",
    "padding_1",
    "dilation_0",
    "dilation_1",
    "groups",
    "weights",
    "flops",
    "bytes_moved",
)
# Made of them: what decides how well a processor is used, which trees would have to multiply for.
DERIVED = ("intensity", "channels_per_group", "outputs_per_group", "window", "positions", "parts")
NUMBERS = (*TAKEN, *DERIVED)


@dataclass(frozen=True)
class Layers:
    """Layers as columns.

    Attributes:
        numbers: One float64 array (n,) per name in `NUMBERS`; NaN is unknown or none.
        kinds: Type of each layer as `kind_of` says.
        layer_types: The runtime's own word for each.
    """

    numbers: Mapping[str, np.ndarray]
    kinds: np.ndarray
    layer_types: np.ndarray

    def __len__(self) -> int:
        return len(self.kinds)

    def take(self, which: np.ndarray) -> Layers:
        """Return the layers that a mask or a list of indices names."""
        numbers = {name: column[which] for name, column in self.numbers.items()}
        return Layers(numbers, self.kinds[which], self.layer_types[which])


def kind_of(row: Mapping[str, Any]) -> str:
    """Return the type under which a layer is modelled: its operation, convolutions by groups."""
    operation = row.get("operation")
    groups = row.get("groups")
    if operation == "convolution" and groups is not None and groups > 1:
        whole = groups == row.get("input_channels")
        return "depthwise convolution" if whole else "grouped convolution"
    return str(operation) if operation else UNKNOWN


def layers_of(rows: Sequence[Mapping[str, Any]]) -> Layers:
    """Return rows of the tidy table as columns of numbers."""
    numbers = {
        name: np.array(
            [np.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64
        )
        for name in TAKEN
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        groups = numbers["groups"]
        bytes_moved = numbers["bytes_moved"]
        numbers["intensity"] = np.where(bytes_moved > 0, numbers["flops"] / bytes_moved, np.nan)
        numbers["channels_per_group"] = numbers["input_channels"] / groups
        numbers["outputs_per_group"] = numbers["output_channels"] / groups
    numbers["window"] = numbers["kernel_0"] * np.where(
        np.isnan(numbers["kernel_1"]), 1.0, numbers["kernel_1"]
    )
    numbers["positions"] = (
        numbers["batch_size"] * numbers["output_height"] * numbers["output_width"]
    )
    numbers["parts"] = np.array(
        [np.nan if not row.get("fused") else row["fused"].count("+") + 1 for row in rows],
        dtype=np.float64,
    )
    kinds = np.array([kind_of(row) for row in rows], dtype=object)
    types = np.array([str(row.get("layer_type") or UNKNOWN) for row in rows], dtype=object)
    return Layers(numbers, kinds, types)


def or_zero(layers: Layers, names: Sequence[str]) -> np.ndarray:
    """Return numbers as a matrix (n, names), NaN as zero: what is not there adds nothing."""
    columns = [layers.numbers[name] for name in names]
    return np.nan_to_num(np.stack(columns, axis=1), nan=0.0) if columns else _empty(layers)


def logarithms(layers: Layers, words: Sequence[str]) -> np.ndarray:
    """Return what trees split on, (n, NUMBERS + words), float32.

    log(1 + number), -1 where it is not known, and for each word 1 where the runtime calls the
    layer that. Rounded to float32, because scikit-learn compares in it.
    """
    columns = [
        np.where(np.isnan(layers.numbers[name]), -1.0, np.log1p(layers.numbers[name]))
        for name in NUMBERS
    ]
    columns += [(layers.layer_types == word).astype(np.float64) for word in words]
    return np.stack(columns, axis=1).astype(np.float32)


def _empty(layers: Layers) -> np.ndarray:
    return np.empty((len(layers), 0))
