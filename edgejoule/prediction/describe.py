"""The layers of a network that nobody measured, as rows of the tidy table.

From an ONNX file, from `engine.json` (what set-up writes without measuring), or from a run, whose
measured figures then stand beside the predictions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgejoule.dataset.schema import schema_problems
from edgejoule.dataset.tables.layer_features import layer_features
from edgejoule.errors import EdgejouleError, UsageError

_MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Described:
    """A network as layers.

    Attributes:
        name: What it is called in the output.
        rows: A row per layer: `layer`, `layer_name`, `layer_type`, `operation` and the FEATURES.
        notes: What a reader must know of how the layers were found.
        network: Its name in a dataset, for a run; else None.
        measured: Of a run: `runtime_ms` (a list, null where unknown), `latency_ms`, and powers and
            energies under the names of totals.
    """

    name: str
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    network: str | None = None
    measured: dict[str, Any] | None = None


def describe(
    path: Path,
    model: Mapping[str, Any],
    batch: int | None = None,
    input_shape: Sequence[int] | None = None,
) -> Described:
    """Describe a network's layers.

    Args:
        path: An ONNX file, an `engine.json`, or a run's directory.
        model: The model that will predict: its backend and dtype decide what layers there are.
        batch: Size of the batch, None for the network's own.
        input_shape: Shape of an ONNX file's first input.

    Raises:
        UsageError: It is none of these, or cannot be described so.
    """
    if input_shape is not None and path.suffix != ".onnx":
        raise UsageError("--input-shape is for ONNX files", "use --batch for a described engine")
    if path.is_dir():
        return _of_run(path, model, batch)
    if not path.is_file():
        raise UsageError(f"{path}: no such file", "give x.onnx, an engine.json, or a run")
    if path.suffix == ".onnx":
        from edgejoule.prediction.onnx_layers import onnx_layers

        layers, notes = onnx_layers(path, model, batch, input_shape)
        return Described(path.stem, rows_of(layers), notes)
    if path.suffix == ".json":
        engine = _engine(path)
        layers, notes = _at_batch(engine, batch)
        return Described(str(path), rows_of(layers), [*_foreign(engine, model), *notes])
    raise UsageError(f"{path} is neither .onnx nor .json nor a run", "give one of these")


def rows_of(layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return layers of `engine.json` as rows with the columns that a predictor reads."""
    return [
        {
            "layer": index,
            "layer_name": layer.get("name"),
            "layer_type": layer.get("type"),
            "operation": layer.get("operation"),
            **layer_features(layer),
        }
        for index, layer in enumerate(layers)
    ]


def _engine(path: Path) -> dict[str, Any]:
    """Read `engine.json`.

    Raises:
        UsageError: It is no such file.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path} is too large for an engine.json", "give another file")
        engine = json.loads(path.read_bytes().decode("utf-8"))
        problem = next(iter(schema_problems("engine", engine)), None)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as engine.json ({error})", "give one") from None
    if problem is not None:
        raise UsageError(f"{path} is no engine.json: {problem}", "give one that set-up has written")
    if not engine["layers"]:
        raise UsageError(f"{path} describes no layer", "give another")
    return dict(engine)


def _foreign(engine: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    learnt = model["configuration"].get("backend")
    if engine["backend"] == learnt:
        return []
    return [
        f"the layers are those that {engine['backend']} executes, and the model was learnt from "
        f"{learnt}: what the two fuse differs"
    ]


def _of_run(path: Path, model: Mapping[str, Any], batch: int | None) -> Described:
    from edgejoule.dataset.tables.source import finite, layer_runtimes, open_run, part

    if not (path / "run.json").is_file():
        raise UsageError(f"{path} is no run", "give a folder with run.json, or an engine.json")
    try:
        run = open_run(path)
        engine = _engine(run.checked("engine.json"))
        whole = run.has("layers.parquet") and batch is None
        times = (
            layer_runtimes(run.checked("layers.parquet"), len(engine["layers"])) if whole else None
        )
    except EdgejouleError as error:
        raise UsageError(error.message, error.mend) from None
    layers, notes = _at_batch(engine, batch)
    notes = [*_foreign(engine, model), *notes]
    for name in ("dtype", "device"):
        learnt, own = model["configuration"].get(name), run.config.get(name)
        if own != learnt:
            notes.append(f"the run's {name} is {own}, the model was learnt from {learnt}")
    measured = None
    if times is not None:
        measured = {
            "runtime_ms": [finite(float(one)) for one in times.mean_ms],
            "latency_ms": finite(part(run.run, "summary", "clean", "mean_ms")),
            **_energies(run.run, model.get("rail")),
        }
    if run.network() in model["networks"]:
        notes.append(f"{run.network()} is among the networks that the model was learnt from")
    return Described(run.name, rows_of(layers), notes, run.network(), measured)


def _energies(run: Mapping[str, Any], rail: str | None) -> dict[str, float]:
    """Return power and energy of a run's clean pass on the rail that the model is for."""
    from edgejoule.dataset.tables.source import finite, part

    latency = finite(part(run, "summary", "clean", "mean_ms"))
    found: dict[str, float] = {}
    if rail is None:
        return found
    for name in ("gross", "dynamic"):
        mj = finite(part(run, "summary", "energy", "rails", rail, "clean", f"{name}_mj"))
        if mj is not None and latency:
            found |= {f"{name}_mj": mj, f"{name}_mw": mj / latency * 1e3}
    return found


# --- another batch --------------------------------------------------------------------------------


def _at_batch(
    engine: Mapping[str, Any], batch: int | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the layers at another batch: shapes, FLOPs and bytes of activations grow with it.

    Raises:
        UsageError: A tensor's first dimension is not the batch.
    """
    layers = [dict(layer) for layer in engine["layers"]]
    if batch is None:
        return layers, []
    first = next(
        (t["shape"] for one in layers for t in one.get("inputs") or () if t.get("shape")), None
    )
    if not first:
        raise UsageError("the batch of this engine is not known", "leave --batch out")
    own = int(first[0])
    if own == batch:
        return layers, []
    for layer in layers:
        tensors = [*(layer.get("inputs") or ()), *(layer.get("outputs") or ())]
        odd = [t for t in tensors if t.get("shape") and t["shape"][0] != own]
        if odd:
            raise UsageError(
                f"layer {layer.get('name')!r} has a tensor of shape {odd[0]['shape']}, whose first "
                f"dimension is not the batch of {own}",
                f"describe the network at batch {batch}",
            )
        _grow(layer, own, batch)
    note = f"shapes, FLOPs and bytes were scaled from batch {own} to {batch}"
    return layers, [f"{note}; the runtime may choose other implementations there"]


def _grow(layer: dict[str, Any], own: int, batch: int) -> None:
    from edgejoule.inference.flops import bytes_of

    activations = bytes_of(
        (tensor.get("shape"), tensor.get("dtype"))
        for tensor in {
            str(one.get("name")): one
            for one in (*(layer.get("inputs") or ()), *(layer.get("outputs") or ()))
        }.values()
    )
    for side in ("inputs", "outputs"):
        layer[side] = [
            {**one, "shape": [batch, *one["shape"][1:]] if one.get("shape") else None}
            for one in layer.get(side) or ()
        ]
    if layer.get("flops") is not None:
        layer["flops"] = layer["flops"] * batch // own
    if layer.get("bytes_moved") is not None:
        # What is not an activation is a weight, read once whatever the batch.
        grown = None if activations is None else activations * batch // own - activations
        layer["bytes_moved"] = None if grown is None else layer["bytes_moved"] + grown
