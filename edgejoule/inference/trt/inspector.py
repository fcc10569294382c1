"""The JSON of `tensorrt.EngineInspector`, as each version writes it.

Three amounts of it, by the verbosity the engine was built with (EngineInspector's documentation):
DETAILED gives an object per layer, LAYER_NAMES_ONLY a string per layer, NONE nothing. What an
object holds differs by version and by layer, so that every field is optional:

* up to 8.5 no `StreamId` and no `Metadata`; `Bindings` is a list of names, or absent;
* 8.6 and 10: `Metadata` (the ONNX nodes), control characters between its parts, which may stand
  unescaped in the JSON;
* layers that Myelin compiled (`kgen`, `gemm`) have neither `Location` nor `ParameterType`, and
  their `Format/Datatype` is a dtype alone (`Half`);
* 11: `I/O Tensors` (objects) in place of `Bindings`, with the keys of NVIDIA's page
  "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x" (11.0 to 11.3). That page's index
  also says that the layers' field of format and dtype is split in two. How the two are spelt
  there is not on what could be read of it, so `Format`, `DataType` and `Datatype` are all taken;
  `DataType` says more than a format's text, which was seen to call an int64 "INT8" (NVIDIA/TensorRT
  issue 4048).

Engines with several optimisation profiles hold the layers of each; from the second on names end in
` [profile N]`. Nothing that a record holds is dropped: it stays in `InspectedLayer.record`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgejoule.errors import MeasurementError

Detail = Literal["detailed", "names", "none"]

_MEND = "keep the file and build the engine again; if it is the same, report it with the file"
_PROFILE = re.compile(r" ?\[profile ([0-9]{1,9})\]$")

# Words that name a dtype in `Format/Datatype` and `DataType`. Sources: TensorRT's engine explorer
# (trex/activations.py, v10: the texts of formats, and the plain words of Myelin's layers), enum
# DataType of NvInferRuntimeBase.h (kFP8 is E4M3, kFP4 is E2M1), recordings of 8.x and 10.1.
_DTYPES = {
    "float": "float32",
    "fp32": "float32",
    "half": "float16",
    "fp16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "fp8": "float8_e4m3fn",
    "fp4": "float4_e2m1fn",
    "e8m0": "float8_e8m0fnu",
    "double": "float64",
    "int4": "int4",
    "int8": "int8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "bool": "bool",
}


@dataclass(frozen=True)
class InspectedTensor:
    """A tensor of a layer; `dimensions` as written, -1 where open at build."""

    name: str
    dimensions: tuple[int, ...] | None = None
    dtype: str | None = None
    format: str | None = None
    location: str | None = None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Dimensions where all are known, else None."""
        known = self.dimensions is not None and all(size >= 0 for size in self.dimensions)
        return self.dimensions if known else None


@dataclass(frozen=True)
class InspectedLayer:
    """One layer of an engine.

    Attributes:
        name: As the inspector and the profiler give it, with the profile's mark.
        layer_type: `LayerType`; None where only names are known.
        inputs: As written.
        outputs: As written.
        metadata: `Metadata`, empty where there is none.
        profile: The optimisation profile it belongs to.
        stream: `StreamId`.
        record: All that the inspector said, unchanged; empty where only names are known.
    """

    name: str
    layer_type: str | None = None
    inputs: tuple[InspectedTensor, ...] = ()
    outputs: tuple[InspectedTensor, ...] = ()
    metadata: str = ""
    profile: int = 0
    stream: int | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plain_name(self) -> str:
        """Name without the profile's mark."""
        return _PROFILE.sub("", self.name)


@dataclass(frozen=True)
class IoTensor:
    """An input or output of the engine; before version 11 only its name is known."""

    name: str
    is_input: bool | None = None
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Inspected:
    """What the inspector says of an engine."""

    layers: tuple[InspectedLayer, ...]
    tensors: tuple[IoTensor, ...]
    detail: Detail
    profiles: tuple[int, ...] = (0,)

    def of_profile(self, profile: int) -> tuple[InspectedLayer, ...]:
        """Return the layers that run under one optimisation profile, in order."""
        return tuple(layer for layer in self.layers if layer.profile == profile)


def read_inspector(text: str) -> Inspected:
    """Read the inspector's JSON of any version.

    Raises:
        MeasurementError: It is no JSON, or one of another shape.
    """
    if not text.strip():
        return Inspected((), (), "none")
    try:
        # Not strict: control characters stand unescaped within names (NVIDIA/TensorRT issue 2779).
        found = json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise MeasurementError(
            f"the engine inspector's text is no JSON ({str(error)[:80]})", _MEND
        ) from error
    if found is None:
        return Inspected((), (), "none")
    if isinstance(found, list):
        found = {"Layers": found}
    if not isinstance(found, dict):
        raise MeasurementError("the engine inspector's JSON is no object", _MEND)
    entries = found.get("Layers") or []
    if not isinstance(entries, list):
        raise MeasurementError("the engine inspector's JSON has no list of layers", _MEND)
    layers = tuple(_layer(position, entry) for position, entry in enumerate(entries))
    detailed = any(isinstance(entry, dict) for entry in entries)
    detail: Detail = "detailed" if detailed else "names" if layers else "none"
    profiles = tuple(sorted({layer.profile for layer in layers})) or (0,)
    return Inspected(layers, _io_tensors(found), detail, profiles)


def dtype_of(text: Any) -> str | None:
    """Return the dtype that a format or data type names; None where it names none or several."""
    words = re.findall(r"[a-z]+[0-9]*[a-z]*[0-9]*", text.lower()) if isinstance(text, str) else []
    named = {_DTYPES[word] for word in words if word in _DTYPES}
    return named.pop() if len(named) == 1 else None


def profile_of(name: str) -> int:
    """Return the optimisation profile that a layer's or tensor's name is marked with."""
    mark = _PROFILE.search(name)
    return int(mark.group(1)) if mark else 0


def _layer(position: int, entry: Any) -> InspectedLayer:
    if isinstance(entry, str):
        # The profiler names unnamed ones by their number.
        return InspectedLayer(entry or str(position), profile=profile_of(entry))
    if not isinstance(entry, dict):
        raise MeasurementError(
            f"the engine inspector's layer {position} is neither an object nor a name", _MEND
        )
    name = _text(entry.get("Name")) or str(position)
    kind = _text(entry.get("LayerType")) or _text(entry.get("ParameterType"))
    return InspectedLayer(
        name=name,
        layer_type=kind,
        inputs=_tensors(entry.get("Inputs")),
        outputs=_tensors(entry.get("Outputs")),
        metadata=_text(entry.get("Metadata")) or "",
        profile=profile_of(name),
        stream=_integer(entry.get("StreamId")),
        record=entry,
    )


def _tensors(entries: Any) -> tuple[InspectedTensor, ...]:
    if not isinstance(entries, list):
        return ()
    found = []
    for entry in entries:
        if isinstance(entry, str):
            found.append(InspectedTensor(entry))
        elif isinstance(entry, dict):
            layout = _text(_first(entry, "Format/Datatype", "Format/DataType", "Format"))
            dtype = dtype_of(_first(entry, "DataType", "Datatype")) or dtype_of(layout)
            found.append(
                InspectedTensor(
                    _text(entry.get("Name")) or "",
                    _dimensions(entry.get("Dimensions")),
                    dtype,
                    layout,
                    _text(entry.get("Location")),
                )
            )
    return tuple(found)


def _io_tensors(found: Mapping[str, Any]) -> tuple[IoTensor, ...]:
    entries = found.get("I/O Tensors")
    if not isinstance(entries, list):
        entries = found.get("Bindings")
    tensors = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, str):
            tensors.append(IoTensor(entry))
        elif isinstance(entry, dict) and _text(entry.get("Name")):
            mode = str(entry.get("IOMode", "")).lower()
            tensors.append(
                IoTensor(
                    entry["Name"],
                    {"input": True, "output": False}.get(mode),
                    dtype_of(_first(entry, "DataType", "Datatype")),
                    _dimensions(entry.get("Dimensions")),
                    entry,
                )
            )
    return tuple(tensors)


def _first(entry: Mapping[str, Any], *keys: str) -> Any:
    return next((entry[key] for key in keys if key in entry), None)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _dimensions(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list) or any(_integer(size) is None for size in value):
        return None
    return tuple(value)
