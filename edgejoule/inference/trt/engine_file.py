"""Engine files: a plan behind a header that says what built it.

    0       8          12             16           20         24
    | magic | format 1 | header bytes | header crc | zero     | header: JSON and blanks | plan ...

Integers are little-endian; blanks after the JSON put the plan at a multiple of 64 bytes. The JSON
is `{"plan_bytes", "plan_sha256", "facts"}`. `plain_plan` gives the plan back, as TensorRT and
trtexec take it.

Plans without a header, and those behind the JSON that Ultralytics writes, are taken as they are:
then nothing is known of what built them but the version that the plan itself tells, and TensorRT
decides whether it loads. What is no plan is refused with what it is.

Standard library only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform as machine
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgejoule.errors import UsageError
from edgejoule.files import disk_errors, sync_file
from edgejoule.inference.common import plain
from edgejoule.inference.trt.engine_foreign import (
    MOST_METADATA,
    OLD_MAGIC,
    PLAN_MAGIC,
    metadata_before_plan,
    plan_version,
    what_it_is,
)

# The first byte and the line ends show a file that went through a conversion of text.
MAGIC = b"\x89EJE\r\n\x1a\n"
FORMAT = 1
_FIXED = 24
_ALIGNMENT = 64
_AGAIN = "build it again on this machine"
_COPY = "copy it again, or build it again"
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# Release 11.4 names the only steps over a major version (support matrix, engine portability).
_NEXT_MAJOR = {8: 10, 10: 11}

Tensors = tuple[tuple[str, tuple[int, ...], str], ...]


@dataclass(frozen=True)
class EngineFacts:
    """What built an engine.

    Attributes:
        name: The model's short name.
        tensorrt: TensorRT's version, as the module tells it.
        gpu: The GPU's name.
        compute_capability: As (8, 7).
        dtype: What it was asked to be built in.
        model_sha256: Of the model's file.
        inputs: Name, shape (-1: any) and dtype of each input.
        outputs: The same of each output.
        platform: The processor's architecture (`aarch64`).
        built_by: Program and version.
        settings: What was applied; `version_compatible` (bool) and `hardware_compatibility`
            (`ampere_plus`, `same_compute_capability`) are looked at by `check_engine`.
        layers: The layers as they were described while the graph was at hand, as JSON.
    """

    name: str
    tensorrt: str
    gpu: str
    compute_capability: tuple[int, int] | str
    dtype: str
    model_sha256: str
    inputs: Tensors
    outputs: Tensors
    platform: str
    built_by: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    layers: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class EngineFile:
    """A file that was read.

    Attributes:
        path: Where it lies.
        plan: What TensorRT takes.
        facts: What built it, None: the file does not say.
        header: Whose header stood before the plan: `edgejoule`, `ultralytics`, `none`.
        metadata: The other tool's header, if any.
        plan_version: The TensorRT that built the plan as the plan itself tells, if it does.
    """

    path: Path
    plan: bytes
    facts: EngineFacts | None
    header: str
    metadata: Mapping[str, Any] | None = None
    plan_version: str | None = None

    def source(self) -> dict[str, Any]:
        """Return what goes into `run.json`: of the file and of what built it."""
        return {
            "name": None if self.facts is None else self.facts.name,
            "file": self.path.name,
            "plan_sha256": hashlib.sha256(self.plan).hexdigest(),
            "plan_bytes": len(self.plan),
            "plan_version": self.plan_version,
            "header": self.header,
            "metadata": None if self.metadata is None else plain(self.metadata),
            "built": None if self.facts is None else _without_layers(self.facts),
        }


def _without_layers(facts: EngineFacts) -> dict[str, Any]:
    """Return the facts as JSON; the layers stand in `engine.json`."""
    found: dict[str, Any] = plain(dataclasses.asdict(facts))
    del found["layers"]
    return found


def write_engine_file(path: Path, plan: bytes, facts: EngineFacts) -> None:
    """Write a plan behind a header, whole or not at all.

    Raises:
        MeasurementError: The disk is full.
    """
    said = {**plain(dataclasses.asdict(facts)), "compute_capability": _dotted(facts)}
    header = {
        "facts": said,
        "plan_bytes": len(plan),
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
    }
    text = json.dumps(header, sort_keys=True, allow_nan=False).encode()
    text += b" " * (-(_FIXED + len(text)) % _ALIGNMENT)
    if len(text) > MOST_METADATA:
        raise ValueError(f"a header of {len(text)} bytes")
    numbers = (FORMAT, len(text), zlib.crc32(text), 0)
    unfinished = path.with_name(path.name + ".tmp")
    with disk_errors(path.parent):
        with unfinished.open("wb") as file:
            file.write(MAGIC + b"".join(n.to_bytes(4, "little") for n in numbers) + text)
            file.write(plan)
        sync_file(unfinished)
        unfinished.replace(path)


def read_engine_file(path: Path) -> EngineFile:
    """Read an engine from any file that holds one.

    Raises:
        UsageError: It cannot be read, is damaged, or is something else, and what.
    """
    try:
        data = path.read_bytes()
    except IsADirectoryError as error:
        raise UsageError(f"--engine {path} is a folder", "give one file") from error
    except OSError as error:
        raise UsageError(f"--engine {path} cannot be read ({error.strerror})") from error
    except MemoryError as error:
        raise UsageError(f"--engine {path} does not fit into this machine's memory") from error
    if not data:
        raise UsageError(f"--engine {path} is empty", _COPY)
    if data.startswith(MAGIC):
        return _ours(path, data)
    if len(data) < len(MAGIC) + 4 and MAGIC.startswith(data[: len(MAGIC)]):
        raise UsageError(f"--engine {path} ends within its header", _COPY)
    if MAGIC[1:4] == data[1:4]:
        raise UsageError(
            f"--engine {path} was changed on its way, as text is (line ends, or bits lost)",
            "copy it as a binary file",
        )
    if data[:4] in (PLAN_MAGIC, OLD_MAGIC):
        return EngineFile(path, data, None, "none", plan_version=plan_version(data))
    before = metadata_before_plan(data)
    if before is not None:
        return _behind_metadata(path, data, *before)
    found = what_it_is(data)
    if found is not None:
        raise UsageError(f"--engine {path} is {found[0]}", found[1])
    # The tag of a plan is documented nowhere and may change: TensorRT decides.
    return EngineFile(path, data, None, "none")


def plain_plan(path: Path) -> bytes:
    """Return the plan in an engine file without any header, as TensorRT and trtexec take it.

    Raises:
        UsageError: As `read_engine_file`.
    """
    return read_engine_file(path).plan


def check_engine(
    file: EngineFile,
    *,
    tensorrt: str,
    gpu: str,
    compute_capability: tuple[int, int] | str,
    platform: str | None = None,
) -> tuple[str, ...]:
    """Refuse an engine that is not for this machine, as far as its file says.

    TensorRT's documentation (engine compatibility; support matrix): an engine is for the version,
    the platform and the kind of GPU that built it; `version_compatible` engines also run on later
    versions, `hardware_compatibility` ones on other GPUs.

    Args:
        file: What was read.
        tensorrt: Version of the TensorRT that is to run it.
        gpu: Name of the GPU that is to run it.
        compute_capability: Of that GPU.
        platform: The processor's architecture; None: this one's.

    Returns:
        Notes for the user: what cannot be known before TensorRT loads the engine.

    Raises:
        UsageError: It was built for something else, and for what.
    """
    facts = file.facts
    if facts is None:
        return _unknown(file, tensorrt)
    here, built = _architecture(platform or machine.machine()), _architecture(facts.platform)
    if built != here:
        raise _foreign(file, f"for {built}, this machine is {here}")
    _check_version(file, facts, tensorrt)
    return _check_gpu(file, facts, gpu, compute_capability)


def _check_version(file: EngineFile, facts: EngineFacts, tensorrt: str) -> None:
    built, here = _numbers(facts.tensorrt), _numbers(tensorrt)
    common = min(len(built), len(here))
    if built[:common] == here[:common]:
        return
    by = f"by TensorRT {facts.tensorrt}, this is {tensorrt}"
    if not facts.settings.get("version_compatible"):
        raise _foreign(file, by, f"{_AGAIN}, or install TensorRT {facts.tensorrt}")
    if built > here:
        raise _foreign(file, f"{by}; version-compatible engines run on later versions only")
    if built[0] != here[0] and _NEXT_MAJOR.get(built[0]) != here[0]:
        raise _foreign(file, f"{by}; compatible versions do not reach that far")


def _check_gpu(
    file: EngineFile, facts: EngineFacts, gpu: str, compute_capability: tuple[int, int] | str
) -> tuple[str, ...]:
    built, here = _pair(facts.compute_capability), _pair(compute_capability)
    level = str(facts.settings.get("hardware_compatibility") or "none").lower()
    of = f"for {facts.gpu} (compute capability {_text(built)}), this is {gpu} ({_text(here)})"
    if level == "ampere_plus":
        if min(built, here) < (8, 0):
            raise _foreign(file, f"{of}; it runs on compute capability 8.0 and newer only")
    elif built != here or (facts.gpu != gpu and level != "same_compute_capability"):
        raise _foreign(file, of)
    if facts.gpu == gpu:
        return ()
    return (f"the engine was built on {facts.gpu}; one built here may be faster",)


def _unknown(file: EngineFile, tensorrt: str) -> tuple[str, ...]:
    note = f"{file.path.name} does not say what built it: TensorRT decides whether it can run"
    if file.plan_version is None:
        return (note,)
    built, here = _numbers(file.plan_version), _numbers(tensorrt)
    common = min(len(built), len(here))
    if built[:common] == here[:common]:
        return (note,)
    return (f"{note}; the plan is of TensorRT {file.plan_version}, this is {tensorrt}",)


def _foreign(file: EngineFile, reason: str, mend: str = _AGAIN) -> UsageError:
    return UsageError(f"--engine {file.path} was built {reason}", mend)


def _ours(path: Path, data: bytes) -> EngineFile:
    fixed = data[len(MAGIC) : _FIXED]
    if len(fixed) < _FIXED - len(MAGIC):
        raise UsageError(f"--engine {path} ends within its header", _COPY)
    version, length, crc, _ = (int.from_bytes(fixed[at : at + 4], "little") for at in (0, 4, 8, 12))
    if version != FORMAT:
        raise UsageError(
            f"--engine {path} is of format {version}, this edgejoule reads {FORMAT}",
            "use the version that wrote it, or build it again",
        )
    if length > MOST_METADATA:
        raise UsageError(f"--engine {path} is damaged: a header of {length} bytes", _COPY)
    text, plan = data[_FIXED : _FIXED + length], data[_FIXED + length :]
    if len(text) < length:
        raise UsageError(f"--engine {path} ends within its header", _COPY)
    if zlib.crc32(text) != crc:
        raise UsageError(f"--engine {path} is damaged: its header was changed", _COPY)
    try:
        header = json.loads(text.decode("utf-8"))
        facts = _facts(header["facts"])
        expected, digest = int(header["plan_bytes"]), str(header["plan_sha256"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise UsageError(
            f"--engine {path} is damaged: its header does not hold what it must ({error!r})", _COPY
        ) from error
    if len(plan) != expected:
        what = "is cut off" if len(plan) < expected else "has something behind its end"
        raise UsageError(
            f"--engine {path} {what}: {len(plan)} bytes of plan, {expected} were written", _COPY
        )
    if hashlib.sha256(plan).hexdigest() != digest:
        raise UsageError(f"--engine {path} is damaged: the plan's SHA-256 does not agree", _COPY)
    return EngineFile(path, plan, facts, "edgejoule", plan_version=plan_version(plan))


def _behind_metadata(path: Path, data: bytes, metadata: dict[str, Any], start: int) -> EngineFile:
    plan = data[start:]
    if not plan:
        raise UsageError(f"--engine {path} has a header and no plan behind it", _COPY)
    found = what_it_is(plan)
    if found is not None:
        raise UsageError(f"--engine {path} has a header, and behind it {found[0]}", found[1])
    return EngineFile(path, plan, None, "ultralytics", metadata, plan_version(plan))


def _facts(said: Any) -> EngineFacts:
    """Check what a header says; raises what Python does where it is missing or of another kind."""
    texts = ("name", "tensorrt", "gpu", "dtype", "model_sha256", "platform", "built_by")
    for name in texts:
        if not isinstance(said[name], str):
            raise TypeError(name)
    if not isinstance(said["settings"], dict):
        raise TypeError("settings")
    _numbers(said["tensorrt"])
    return EngineFacts(
        **{name: said[name] for name in texts},
        compute_capability=_pair(said["compute_capability"]),
        inputs=_tensors(said["inputs"]),
        outputs=_tensors(said["outputs"]),
        settings=said["settings"],
        layers=_objects(said.get("layers", [])),
    )


def _tensors(said: Any) -> Tensors:
    return tuple(
        (str(name), tuple(int(dim) for dim in shape), str(dtype)) for name, shape, dtype in said
    )


def _objects(said: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
        raise TypeError("layers")
    return tuple(said)


def _numbers(version: str) -> tuple[int, ...]:
    """`10.3.0.26` and `8.6.1.post1` as numbers."""
    found = re.match(r"\d{1,9}(?:\.\d{1,9})*", version)
    if found is None:
        raise ValueError(f"{version!r} is no version")
    return tuple(int(part) for part in found[0].split("."))


def _pair(capability: Any) -> tuple[int, int]:
    parts = capability.split(".") if isinstance(capability, str) else capability
    major, minor = (int(part) for part in parts)
    return major, minor


def _text(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _dotted(facts: EngineFacts) -> str:
    return _text(_pair(facts.compute_capability))


def _architecture(name: str) -> str:
    return _MACHINES.get(name.lower(), name.lower())
