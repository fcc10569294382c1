"""`trt_engine_info.json` of the older layout from a run: TensorRT's own words, or ours in its form.

Where TensorRT's inspector was kept, its words are written; where there was no TensorRT, or a layer
is none of its, the object is built from `engine.json`, under the keys that readers of that layout
look for: `Kernel`, `WindowSize`, `Stride`, `PrePadding`, `PostPadding`, `Dimensions`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The name of a layer that had to be changed because the older layout's names are keys.
OWN_NAME = "EdgejouleName"
READ_TYPES = ("CaskConvolution", "CaskPooling", "CaskGemmConvolution")
_PARAMETER_TYPES = {"convolution": "Convolution", "pooling": "Pooling"}
INSPECTOR = re.compile(r"inspector(-\d+)?\.json")


@dataclass(frozen=True)
class EngineInfo:
    """What to write: the bytes of a kept file, or an object; and what a user must know of it."""

    kept: bytes | None
    document: dict[str, Any] | None
    notes: tuple[str, ...]


def engine_info(run: Path, engine: Mapping[str, Any], names: Sequence[str]) -> EngineInfo:
    """Return the engine's description in the older layout.

    Args:
        run: The run's directory.
        engine: Its `engine.json`.
        names: The names that its layers have in the older layout, in order.
    """
    files = sorted(path for path in run.iterdir() if INSPECTOR.fullmatch(path.name))
    layers = engine["layers"]
    renamed = [
        layer["name"] for layer, name in zip(layers, names, strict=True) if layer["name"] != name
    ]
    if len(files) == 1 and not renamed:
        return EngineInfo(files[0].read_bytes(), None, tuple(_dimension_notes(layers)))
    records = _records(files)
    found, built = [], 0
    for layer, name in zip(layers, names, strict=True):
        waiting = records.get(layer["name"])
        record = waiting.pop(0) if waiting else None
        if record is None:
            record = _record(layer)
            built += 1
        if name != layer["name"]:
            record = {**record, "Name": name, OWN_NAME: layer["name"]}
        found.append(record)
    notes = []
    if renamed:
        notes.append(
            f"{len(renamed)} layers have a name that another one has: they are written with a "
            f"number behind it, their own name stands under {OWN_NAME}"
        )
    if built:
        notes.append(
            f"{built} of {len(layers)} layers are described from engine.json: LayerType is the "
            f"word of {engine['backend']}, and readers of {', '.join(READ_TYPES)} pass over others"
        )
    notes += _dimension_notes(layers)
    return EngineInfo(None, {"Layers": found, "Bindings": _bindings(layers)}, tuple(notes))


def _records(files: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the inspectors' objects by name, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        try:
            document = json.loads(file.read_text(encoding="utf-8"), strict=False)
        except ValueError:
            continue  # then the layers are built from engine.json, and that is said
        entries = document.get("Layers") if isinstance(document, dict) else document
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("Name"), str):
                found.setdefault(entry["Name"], []).append(entry)
    return found


def _record(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a layer of `engine.json` in the inspector's form."""
    record: dict[str, Any] = {
        "Name": layer["name"],
        "LayerType": layer.get("type") or "Unknown",
        "Inputs": [_tensor(one) for one in layer.get("inputs") or ()],
        "Outputs": [_tensor(one) for one in layer.get("outputs") or ()],
    }
    window, kernel = layer.get("operation"), layer.get("kernel")
    if kernel is not None:
        record["WindowSize" if window == "pooling" else "Kernel"] = kernel
        # By these whoever reads the inspector's words tells a convolution from a pooling.
        if window in _PARAMETER_TYPES:
            record["ParameterType"] = _PARAMETER_TYPES[window]
        shape = (layer.get("outputs") or [{}])[0].get("shape")
        if window == "convolution" and shape is not None and len(shape) > 1:
            record["OutMaps"] = shape[1]
        padding = layer.get("padding")
        if padding is not None:
            axes = len(kernel)
            record["PrePadding"], record["PostPadding"] = padding[:axes], padding[-axes:]
        for key, name in (("stride", "Stride"), ("dilation", "Dilation"), ("groups", "Groups")):
            if layer.get(key) is not None:
                record[name] = layer[key]
    if layer.get("tactic"):
        record["TacticName"] = layer["tactic"]
    return {**record, **(layer.get("attributes") or {})}


def _tensor(tensor: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Name": tensor.get("name") or "",
        "Location": "Device",
        "Dimensions": list(tensor.get("shape") or ()),
        "Format/Datatype": str(tensor.get("dtype") or "unknown"),
    }


def _bindings(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the tensors that no layer makes and those that none reads, as the engine's own."""
    made = [one["name"] for layer in layers for one in layer.get("outputs") or ()]
    read = [one["name"] for layer in layers for one in layer.get("inputs") or ()]
    before = [name for name in read if name not in set(made)]
    after = [name for name in made if name not in set(read)]
    return list(dict.fromkeys([*before, *after]))


def _dimension_notes(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which layers a strict reader refuses: it takes tensors of 2 or 4 dimensions."""
    wrong = 0
    for layer in layers:
        ends = [*(layer.get("inputs") or ())[:1], *(layer.get("outputs") or ())[:1]]
        shapes = [one.get("shape") for one in ends]
        if layer.get("type") in READ_TYPES and any(
            shape is None or len(shape) not in {2, 4} for shape in shapes
        ):
            wrong += 1
    if not wrong:
        return []
    return [
        f"{wrong} layers have tensors of other than 2 or 4 dimensions: strict readers refuse them"
    ]
