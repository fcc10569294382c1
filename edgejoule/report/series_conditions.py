"""Clocks, temperatures, loads and memory of a run: the columns of `resources.parquet`, reduced.

What a column is of stands in its name (`docs/DatasetFormats.md`, `edgejoule.resources`):

    cpu_mhz_mean, gpu_mhz_17000000.gpu      clock, MHz        gpu_load_percent    load, %
    temperature_tj-thermal_c                temperature, deg C    rss_measuring_mib   memory, MiB
    throttling_gpu-throttle-alert           state of a cooling device, 0 is full speed
    throttled_oc1                           counter of events since the machine started
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgejoule.energy.statistics import block_starts
from edgejoule.report.series import ConditionSeries

if TYPE_CHECKING:
    import numpy as np

MOST_POINTS = 1200
_UNITS = {
    "ghz": "GHz",
    "mhz": "MHz",
    "khz": "kHz",
    "hz": "Hz",
    "c": "\u00b0C",
    "percent": "%",
    "gib": "GiB",
    "mib": "MiB",
    "mw": "mW",
    "mv": "mV",
    "ma": "mA",
    "rpm": "rpm",
    "bits": "bits",
}
_KINDS = {
    **dict.fromkeys(("GHz", "MHz", "kHz", "Hz"), "clock"),
    **dict.fromkeys(("GiB", "MiB"), "memory"),
    "\u00b0C": "temperature",
    "%": "load",
    "rpm": "fan",
}
# The unit stands behind the figure or, where a device's name follows, before it.
_TAIL = re.compile(rf"_({'|'.join(_UNITS)})$")
_INNER = re.compile(r"_(mhz)_")
# Of these the greatest value of a stretch is kept when there are too many: a short one counts.
_GREATEST = ("temperature", "throttling", "memory")


@dataclass(frozen=True)
class Resources:
    """The columns that hold anything: their names, and values (n, columns) at t_ns, int64 (n,)."""

    t_ns: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray

    @property
    def span_ns(self) -> tuple[int, ...]:
        """First and last time; nothing without a row."""
        return (int(self.t_ns.min()), int(self.t_ns.max())) if len(self.t_ns) else ()

    def since(self, origin_ns: int) -> tuple[ConditionSeries, ...]:
        """Return the columns, seconds counted from `origin_ns`."""
        t_s = (self.t_ns - origin_ns) * 1e-9
        return tuple(
            _reduced(name, t_s, self.values[:, place]) for place, name in enumerate(self.names)
        )


def kind_of(name: str) -> tuple[str, str]:
    """Return what a column is of and its unit, both from its name."""
    found = _TAIL.search(name) or _INNER.search(name)
    unit = _UNITS[found.group(1)] if found else ""
    if name.startswith("throttling_") or name == "gpu_throttled":
        return "throttling", ""
    if name.startswith("throttled_"):
        return "throttling", "events"
    if "fan" in re.split(r"[_-]", name) and unit in {"", "%"}:
        return "fan", unit
    return _KINDS.get(unit, "load" if name.startswith("load_") else "other"), unit


def load_conditions(path: Path) -> Resources:
    """Read `resources.parquet`.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no such table.
        KeyError: It has no times.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        try:
            table = pq.ParquetFile(file).read()
        except (OSError, ValueError) as error:
            raise ValueError(f"{path.name} cannot be read ({error})") from error
    if "t_ns" not in table.column_names:
        raise KeyError(f"{path.name} has no column t_ns")
    t_ns = table["t_ns"].to_numpy()
    if t_ns.dtype != np.int64 or (np.diff(t_ns) < 0).any():
        raise ValueError(f"{path.name} has times that are no rising whole nanoseconds")
    names: list[str] = []
    columns: list[np.ndarray] = []
    for place, name in enumerate(table.column_names):  # by place: a name may stand there twice
        kind = table.schema.field(place).type
        if name == "t_ns" or not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            continue
        values = table.column(place).cast(pa.float64()).to_numpy()
        values = np.where(np.isfinite(values), values, np.nan)
        if np.isfinite(values).any():
            names.append(name)
            columns.append(values)
    shaped = np.column_stack(columns) if columns else np.empty((len(t_ns), 0))
    return Resources(t_ns, tuple(names), shaped)


def _reduced(name: str, t_s: np.ndarray, values: np.ndarray) -> ConditionSeries:
    import numpy as np

    kind, unit = kind_of(name)
    if unit == "events":  # counted since the machine started: only what came on top is the run's
        values = values - values[np.isfinite(values)][0]
    return thinned(ConditionSeries(name, kind, unit, t_s, values), MOST_POINTS)


def thinned(one: ConditionSeries, most: int) -> ConditionSeries:
    """Return a column with at most `most` values: means of stretches, of some kinds the greatest.

    Args:
        one: The column.
        most: At least 1.
    """
    import numpy as np

    if len(one.t_s) <= most:
        return one
    starts = block_starts(len(one.t_s), most)
    peaks = one.kind in _GREATEST and "available" not in one.name
    values = _greatest(one.values, starts) if peaks else _mean(one.values, starts)
    t_s = np.add.reduceat(one.t_s, starts) / np.diff(np.append(starts, len(one.t_s)))
    return ConditionSeries(one.name, one.kind, one.unit, t_s, values)


def _greatest(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    import numpy as np

    found: np.ndarray = np.fmax.reduceat(values, starts)
    return found


def _mean(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    import numpy as np

    known = np.isfinite(values)
    sums = np.add.reduceat(np.where(known, values, 0.0), starts)
    counts = np.add.reduceat(known, starts, dtype=np.int64)
    found: np.ndarray = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return found


def greatest(conditions: Sequence[ConditionSeries], kind: str) -> float | None:
    """Return the greatest value of all columns of a kind, None without one."""
    import numpy as np

    found = [float(np.nanmax(one.values)) for one in conditions if one.kind == kind]
    return max(found, default=None)
