"""What the small files of the older layout say: `<model>_tensorrt.json` and `idling_power.json`.

A key that is absent is not known; one of another type is an error, because then the file is not
what it is taken for. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from edgejoule.dataset.older.times import parse_short
from edgejoule.errors import MeasurementError
from edgejoule.files import read_json

_LARGEST = 256 << 20
_MEND = "move it away to import without it"
_LONGEST_S = 86_400.0


@dataclass(frozen=True)
class RunFile:
    """What a recording says of its configuration; None: it does not.

    Attributes:
        model: The model as asked.
        dtype: Precision.
        input_shape: Shape of the input.
        warmup: Warm-up inferences.
        runs: Inferences asked for.
        extra: `optimization_level` and `min_block_size`, as far as they are there.
        started_us: Local microseconds of its time stamp.
        latencies_s: How long each inference took; None where the list is not usable.
    """

    model: str | None = None
    dtype: str | None = None
    input_shape: tuple[int, ...] | None = None
    warmup: int | None = None
    runs: int | None = None
    extra: dict[str, int] = field(default_factory=dict)
    started_us: int | None = None
    latencies_s: Sequence[float] | None = None


def read_run_file(path: Path | None) -> RunFile:
    """Read `<model>_tensorrt.json`; all is None without one.

    Raises:
        MeasurementError: It is damaged, or holds other types.
    """
    if path is None:
        return RunFile()
    document = _object(path)
    config = document.get("config", {})
    if not isinstance(config, dict):
        raise MeasurementError(f"{path}: config is no object", _MEND)
    shape = config.get("input_shape")
    if shape is not None and not (
        isinstance(shape, list) and shape and all(_is_count(size, 1) for size in shape)
    ):
        raise MeasurementError(f"{path}: input_shape is no list of sizes", _MEND)
    extra = {key: _count(path, config, key, 0) for key in ("optimization_level", "min_block_size")}
    return RunFile(
        model=_text(path, config, "model"),
        dtype=_text(path, config, "dtype"),
        input_shape=None if shape is None else tuple(shape),
        warmup=_count(path, config, "warmup", 0),
        runs=_count(path, config, "runs", 1),
        extra={key: value for key, value in extra.items() if value is not None},
        started_us=parse_short(document.get("timestamp")),
        latencies_s=_latencies(path, document.get("latencies")),
    )


@dataclass(frozen=True)
class Idling:
    """Idle power of a folder of recordings, as it is stated: microwatts."""

    avg_idle_power_uw: float
    timestamp: str | None

    @property
    def mean_mw(self) -> float:
        """The same in milliwatts."""
        return self.avg_idle_power_uw / 1000.0


def read_idling(path: Path | None) -> Idling | None:
    """Read `idling_power.json`; None without one.

    Raises:
        MeasurementError: It is damaged, or holds no power.
    """
    if path is None:
        return None
    document = _object(path)
    power = document.get("avg_idle_power")
    if not _is_number(power) or not 0 <= power <= 1e12:
        raise MeasurementError(f"{path}: avg_idle_power is no power in microwatts", _MEND)
    return Idling(float(power), _text(path, document, "timestamp"))


def _object(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST:
        raise MeasurementError(f"{path} has more than {_LARGEST >> 20} MiB", _MEND)
    try:
        document = read_json(path)
    except RecursionError as error:
        raise MeasurementError(f"{path} is damaged (nested too deeply)", _MEND) from error
    if not isinstance(document, dict):
        raise MeasurementError(f"{path} holds no JSON object", _MEND)
    return document


def _text(path: Path, document: Mapping[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is not None and (not isinstance(value, str) or len(value) > 1000):
        raise MeasurementError(f"{path}: {key} is no text", _MEND)
    return value or None


def _count(path: Path, document: Mapping[str, Any], key: str, least: int) -> int | None:
    value = document.get(key)
    if value is None:
        return None
    if not _is_count(value, least):
        raise MeasurementError(f"{path}: {key} is no whole number from {least}", _MEND)
    count: int = value
    return count


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1e300 and math.isfinite(value)


def _latencies(path: Path, value: Any) -> Sequence[float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(
        _is_number(one) and 0 <= one <= _LONGEST_S for one in value
    ):
        raise MeasurementError(f"{path}: latencies is no list of seconds", _MEND)
    return [float(one) for one in value]
