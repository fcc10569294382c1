"""What a file is that is given as an engine: told by its first bytes, for one line that helps.

Each entry rests on the format's own description: PNG-like magics, FlatBuffers identifiers, ZIP
members, the length before a JSON header. What is not known here is left to TensorRT.

Standard library only.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

PLAN_MAGIC = b"ftrt"  # trtexec (sampleEngines.cpp) calls it the plan's tag
OLD_MAGIC = b"ptrt"  # as Netron knows it; within newer plans it begins the engine's section
RTX_MAGIC = b"vtrt"  # seen in engines that TensorRT-RTX 1.5 built
MOST_METADATA = 16 << 20  # bytes of JSON before a plan; class names of a detector are a few kB

_BUILD = "build it with --model x.onnx --backend tensorrt, or with trtexec --saveEngine"
_SAVE_PLAN = (
    "save the plan itself (torch_tensorrt's convert_exported_program_to_serialized_trt_engine), "
    "or measure the model with --backend torch-tensorrt"
)
# First bytes -> what it is, what to do.
_BY_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a pointer of git LFS, not the file", "git lfs pull"),
    (b"outs:\n", "a pointer of DVC, not the file", "dvc pull"),
    (b"\x7fELF", "a shared library or a program", "give a TensorRT plan"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", f"export it to ONNX and {_BUILD}"),
    (b"\x93NUMPY", "an array of numpy", "give it as --input, and an engine as --engine"),
    (b"GGUF", "weights of llama.cpp (GGUF)", f"export the model to ONNX and {_BUILD}"),
    (b"TR01", "a plan inside a header of ExecuTorch", _SAVE_PLAN),
    (b"TR02", "a plan inside a header of ExecuTorch", _SAVE_PLAN),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it"),
    (b"TRT-", "a calibration cache", "give it as --calibration-cache when the engine is built"),
)
_BY_IDENTIFIER = {  # FlatBuffers: four bytes behind the first four
    b"TFL3": ("a model of TensorFlow Lite", f"export the model to ONNX and {_BUILD}"),
    b"ORTM": (
        "a model of ONNX Runtime (.ort)",
        f"take the .onnx that it was made from and {_BUILD}",
    ),
    b"ET12": ("a program of ExecuTorch", _SAVE_PLAN),
    b"ET13": ("a program of ExecuTorch", _SAVE_PLAN),
}


def _any_ends(names: list[str], end: str) -> bool:
    return any(name.endswith(end) for name in names)


def _in_folder(names: list[str], folder: str) -> bool:
    return any(f"/{folder}/" in f"/{name}" for name in names)


# What torch's and numpy's archives hold -> what they are; the first that fits counts.
_MEMBERS: tuple[tuple[Callable[[list[str]], bool], str, str], ...] = (
    (
        lambda names: (
            _any_ends(names, "serialized_exported_program.json")
            or _in_folder(names, "models")
            or _in_folder(names, "aotinductor")
        ),
        "a program of torch.export (.ep, .pt2), not a plan",
        _SAVE_PLAN,
    ),
    (
        lambda names: _any_ends(names, "constants.pkl") and _in_folder(names, "code"),
        "a TorchScript program, not a plan",
        _SAVE_PLAN,
    ),
    (
        lambda names: _any_ends(names, "data.pkl"),
        "what torch.save wrote (weights or a module), not a plan",
        _SAVE_PLAN,
    ),
    (
        lambda names: bool(names) and all(name.endswith(".npy") for name in names),
        "arrays of numpy (.npz)",
        "give them as --input, and an engine as --engine",
    ),
)


def plan_version(plan: bytes) -> str | None:
    """Return the version that built a plan, as `10.3.0.26`; None: it is not told.

    From the plan's own header, where `trtexec --getPlanVersionOnly` reads it (release 8.6 and
    newer): tag, serialisation version 0, and at byte 24 one byte each of major, minor, patch,
    build.
    """
    if len(plan) < 28 or plan[:4] not in (PLAN_MAGIC, RTX_MAGIC) or plan[4:8] != bytes(4):
        return None
    parts = plan[24:28]
    return ".".join(str(part) for part in parts) if parts[0] else None


def metadata_before_plan(data: bytes) -> tuple[dict[str, Any], int] | None:
    """Return the JSON object that Ultralytics and others write before a plan, and the plan's place.

    Four bytes, little-endian, give its length (`ultralytics.engine.exporter`, export_engine).
    """
    length = int.from_bytes(data[:4], "little")
    if data[4:5] != b"{" or not 2 <= length <= min(MOST_METADATA, len(data) - 4):
        return None
    try:
        found = json.loads(data[4 : 4 + length].decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return (found, 4 + length) if isinstance(found, dict) else None


def what_it_is(data: bytes) -> tuple[str, str] | None:
    """Return what a file is if it is known and no plan, and what to do; None otherwise."""
    if data.startswith(RTX_MAGIC):
        version = plan_version(data) or "of an unknown version"
        return f"an engine of TensorRT-RTX {version}, which TensorRT does not load", _BUILD
    for magic, what, mend in _BY_MAGIC:
        if data.startswith(magic):
            return what, mend
    if data[4:8] in _BY_IDENTIFIER:
        return _BY_IDENTIFIER[data[4:8]]
    for look in (_zip, _safetensors, _pickle, _onnx, _text):
        found = look(data)
        if found is not None:
            return found
    return None


def _zip(data: bytes) -> tuple[str, str] | None:
    if not data.startswith(b"PK\x03\x04"):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError):
        return "a ZIP archive that is damaged", "copy it again"
    return next(
        ((what, mend) for found, what, mend in _MEMBERS if found(names)),
        ("a ZIP archive", "unpack it and give the plan inside"),
    )


def _safetensors(data: bytes) -> tuple[str, str] | None:
    """Eight bytes of length, then a JSON object of that length."""
    length = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or not 2 <= length <= len(data) - 8 or data[7 + length] not in b"} ":
        return None
    return "weights (safetensors), without a network", f"export the model to ONNX and {_BUILD}"


def _pickle(data: bytes) -> tuple[str, str] | None:
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle of Python, as older torch.save writes, not a plan", _SAVE_PLAN
    return None


def _onnx(data: bytes) -> tuple[str, str] | None:
    """ModelProto begins with its `ir_version`, a varint in field 1; the fields after it vary."""
    fields = {0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72}
    if len(data) < 4 or data[0] != 0x08 or not 1 <= data[1] < 0x40 or data[2] not in fields:
        return None
    if b"EPContext" in data and b"ep_cache_context" in data:
        return (
            "an ONNX Runtime model with an engine of an execution provider inside (EPContext)",
            f"take the .onnx that it was made from and {_BUILD}",
        )
    return "an ONNX model, not an engine", "give it as --model FILE --backend tensorrt"


def _text(data: bytes) -> tuple[str, str] | None:
    head = data[:512]
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # otherwise a character is cut off at the end
            return None
        text = head[: error.start].decode("utf-8")
    if any(ord(letter) < 32 and letter not in "\t\n\r\f" for letter in text):
        return None
    if text.lstrip().startswith(("{", "[")):
        return "JSON, as an engine's inspector gives, not an engine", "give the plan itself"
    if text.lstrip().startswith("<"):
        return "a page of HTML or XML, maybe a server's refusal", "download the file again"
    return "text", "give the plan itself"
