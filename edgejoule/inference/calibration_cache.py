"""Ranges found by a calibration, kept in a JSON file that is checked before it is used.

A file says which model, data, method and runtime its ranges come from. It is used only if all of
that is what it would be made from now; otherwise it is refused with what differs, since ranges of
another network or other images give an engine that is fast and wrong. Only JSON is read: ranges as
numbers, and what TensorRT's calibrator makes (opaque, of one TensorRT release) as base64.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import disk_error, read_json, write_json

FORMAT = "edgejoule calibration"
VERSION = 1
_OTHER_FILE = "give another --calibration-cache, or delete it to have it made again"


@dataclass(frozen=True)
class CacheKey:
    """What ranges depend on.

    Attributes:
        model_sha256: Of the graph's computation (`quantization.model_hash`).
        data_sha256: Of the values of the calibration sets.
        files: Name and SHA-256 of the files they were read from.
        dtype: `int8` or `fp8`.
        method: How ranges are taken from values, with its parameters.
        versions: Of the libraries that computed the ranges.
    """

    model_sha256: str
    data_sha256: str
    files: tuple[tuple[str, str], ...]
    dtype: str
    method: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Cache:
    """A calibration: what it was made from and what it found.

    Attributes:
        key: What it was made from.
        ranges: Lowest and highest value to represent, per tensor.
        calibrator: What TensorRT's own calibrator wrote, where it was that which calibrated.
    """

    key: CacheKey
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    calibrator: bytes | None = None


def read_cache(path: Path) -> Cache:
    """Read a calibration.

    Raises:
        UsageError: The file is damaged or no calibration, with what is wrong about it.
    """
    try:
        document = read_json(path)
    except MeasurementError as error:
        raise UsageError(f"calibration cache {error.message}", _OTHER_FILE) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UsageError(f"{path} is no calibration cache of this program", _OTHER_FILE)
    if document.get("version") != VERSION:
        raise UsageError(
            f"calibration cache {path} is of format {document.get('version')!r}, "
            f"this version reads {VERSION}",
            _OTHER_FILE,
        )
    try:
        return _parse(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise UsageError(f"calibration cache {path} is damaged ({what})", _OTHER_FILE) from error


def write_cache(path: Path, cache: Cache) -> None:
    """Write a calibration whole or not at all.

    Raises:
        UsageError: It cannot be written there.
        MeasurementError: The disk is full.
    """
    key = cache.key
    document = {
        "format": FORMAT,
        "version": VERSION,
        "model_sha256": key.model_sha256,
        "data_sha256": key.data_sha256,
        "files": [list(file) for file in key.files],
        "dtype": key.dtype,
        "method": key.method,
        "versions": dict(key.versions),
        "ranges": {name: list(pair) for name, pair in cache.ranges.items()},
        "calibrator": None
        if cache.calibrator is None
        else base64.b64encode(cache.calibrator).decode("ascii"),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, document)
    except OSError as error:
        told = disk_error(path, error)
        raise type(told)(
            f"calibration cache: {told.message}", "give another --calibration-cache"
        ) from error


def check_cache(path: Path, cache: Cache, wanted: CacheKey) -> None:
    """Refuse a calibration that was made from something else.

    Raises:
        UsageError: It is stale; every difference is named.
    """
    own = cache.key
    differences: list[str] = []
    if own.model_sha256 != wanted.model_sha256:
        differences.append(
            f"it is of another model (sha256 {own.model_sha256[:12]}, "
            f"this one is {wanted.model_sha256[:12]})"
        )
    if own.files != wanted.files:
        differences.append(_files_differ(own.files, wanted.files))
    elif own.data_sha256 != wanted.data_sha256:
        differences.append("its data are prepared in another way (shape, normalisation, seed)")
    if own.dtype != wanted.dtype:
        differences.append(f"it is for {own.dtype}, not {wanted.dtype}")
    if own.method != wanted.method:
        differences.append(f"its ranges were found by {own.method!r}, not {wanted.method!r}")
    for name in sorted({*own.versions, *wanted.versions}):
        before, now = own.versions.get(name, "none"), wanted.versions.get(name, "none")
        if before != now:
            differences.append(f"it was made with {name} {before}, this is {now}")
    if differences:
        raise UsageError(
            f"calibration cache {path} is stale: {'; '.join(differences)}", _OTHER_FILE
        )


def _files_differ(before: Sequence[tuple[str, str]], now: Sequence[tuple[str, str]]) -> str:
    old, new = dict(before), dict(now)
    parts = [
        _named(what, names)
        for what, names in (
            ("added", [name for name in new if name not in old]),
            ("removed", [name for name in old if name not in new]),
            ("changed", [name for name in new if name in old and new[name] != old[name]]),
        )
        if names
    ]
    return f"its data differ ({'; '.join(parts) or 'their order'})"


def _named(what: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    rest = len(names) - 3
    return f"{what}: {shown}" + (f" and {rest} more" if rest > 0 else "")


def _parse(document: Mapping[str, Any]) -> Cache:
    key = CacheKey(
        model_sha256=_text(document, "model_sha256"),
        data_sha256=_text(document, "data_sha256"),
        files=tuple((str(name), str(sha256)) for name, sha256 in document["files"]),
        dtype=_text(document, "dtype"),
        method=_text(document, "method"),
        versions={str(name): str(value) for name, value in document["versions"].items()},
    )
    ranges = {str(name): _pair(name, pair) for name, pair in document["ranges"].items()}
    encoded = document["calibrator"]
    if encoded is None:
        return Cache(key, ranges)
    try:
        return Cache(key, ranges, base64.b64decode(encoded, validate=True))
    except binascii.Error as error:
        raise ValueError(f"the calibrator's part is no base64: {error}") from error


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value


def _pair(name: str, pair: Any) -> tuple[float, float]:
    low, high = pair
    if not (
        isinstance(low, (int, float))
        and isinstance(high, (int, float))
        and math.isfinite(low)
        and math.isfinite(high)
        and low <= high
    ):
        raise ValueError(f"the range of {name!r} is {pair}")
    return float(low), float(high)
