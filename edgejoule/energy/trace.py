"""From raw reads to power over time, per rail. Numpy; pyarrow only to read a table.

A rail with voltage and current: each current read times the voltage read nearest in time,
mV x mA / 1000 = mW, stamped with the middle of the current read. A rail with a power channel: the
value as it is. A rail with an energy counter: the constant power between two of its ticks.
Failed reads have no value; nothing else is left out, equal values included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.errors import MeasurementError
from edgejoule.records import read_header

if TYPE_CHECKING:
    import numpy.typing as npt

_PARTS = ("voltage", "current")


@dataclass(frozen=True)
class RailPower:
    """Power of one rail: linear between its points.

    Attributes:
        rail: The rail's name.
        t_ns: int64 (n,), strictly increasing, CLOCK_MONOTONIC.
        power_mw: float64 (n,).

    Raises:
        MeasurementError: The times do not increase, or the two differ in length.
    """

    rail: str
    t_ns: npt.NDArray[np.int64]
    power_mw: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.t_ns.shape != self.power_mw.shape or self.t_ns.ndim != 1:
            raise MeasurementError(f"rail {self.rail}: times and powers differ in length")
        if np.any(np.diff(self.t_ns) <= 0):
            raise MeasurementError(f"rail {self.rail}: its times do not increase")


@dataclass(frozen=True)
class _Reads:
    """The reads of one channel that gave a value: middle of the read, value."""

    t_ns: npt.NDArray[np.int64]
    raw: npt.NDArray[np.int64]


def read_samples(power_bin: Path) -> tuple[dict[str, Any], npt.NDArray[Any]]:
    """Return header and records of a `power.bin`; a half-written last record is left out.

    Raises:
        MeasurementError: It is no record file.
    """
    header, offset = read_header(power_bin)
    dtype = np.dtype([tuple(field) for field in header["fields"]])
    count = (power_bin.stat().st_size - offset) // dtype.itemsize
    return header, np.fromfile(power_bin, dtype=dtype, count=count, offset=offset)


def rail_powers_of_samples(
    channels: Sequence[Mapping[str, Any]],
    samples: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]],
) -> dict[str, RailPower]:
    """Derive each rail's power.

    Args:
        channels: The channel table: `index`, `rail`, `quantity`, `unit`.
        samples: Columns `t0_ns`, `t1_ns`, `raw`, `channel`, `errno` (0: a value), by name.

    Returns:
        Rail -> series, in the order of the channel table. A rail of which power cannot be known
        (a voltage without a current) is left out; one without a value has an empty series.

    Raises:
        MeasurementError: A unit that is not mV, mA, mW, mJ; times that do not increase.
    """
    valid = np.asarray(samples["errno"]) == 0
    t0_ns = np.asarray(samples["t0_ns"])[valid]
    middle_ns = t0_ns + (np.asarray(samples["t1_ns"])[valid] - t0_ns) // 2
    raw = np.asarray(samples["raw"])[valid]
    channel = np.asarray(samples["channel"])[valid]
    rails: dict[str, dict[str, _Reads]] = {}
    for entry in channels:
        expected = {"voltage": "mV", "current": "mA", "power": "mW", "energy": "mJ"}
        if expected.get(entry["quantity"]) != entry["unit"]:
            raise MeasurementError(f"rail {entry['rail']}: {entry['quantity']} in {entry['unit']}?")
        chosen = channel == entry["index"]
        reads = _Reads(middle_ns[chosen], raw[chosen])
        rails.setdefault(entry["rail"], {})[entry["quantity"]] = reads
    found = {}
    for rail, parts in rails.items():
        if all(part in parts for part in _PARTS):
            found[rail] = _product(rail, parts["voltage"], parts["current"])
        elif "power" in parts:
            power = parts["power"]
            found[rail] = RailPower(rail, power.t_ns, power.raw.astype(np.float64))
        elif "energy" in parts:
            found[rail] = _slope(rail, parts["energy"])
    return found


def rail_powers(power_parquet: Path) -> dict[str, RailPower]:
    """Derive each rail's power from a `power.parquet`.

    Raises:
        MeasurementError: The file has no channel table.
    """
    import json

    import pyarrow.parquet as pq

    table = pq.read_table(power_parquet)
    metadata = (table.schema.metadata or {}).get(b"edgejoule")
    if metadata is None:
        raise MeasurementError(f"{power_parquet} has no channel table")
    channels = json.loads(metadata)["channels"]
    names = ("t0_ns", "t1_ns", "raw", "channel", "errno")
    # Nulls: `raw` where the read failed, `errno` where it did not.
    columns = {name: table[name].fill_null(0).to_numpy() for name in names}
    return rail_powers_of_samples(channels, columns)


def total_power(rails: Sequence[RailPower], name: str = "total") -> RailPower:
    """Add rails up, at all their times together, over the span that all of them cover.

    Between points power is linear, so the sum at the union of the points loses nothing.
    """
    if not rails or any(not len(rail.t_ns) for rail in rails):
        return RailPower(name, np.empty(0, np.int64), np.empty(0))
    first, last = max(rail.t_ns[0] for rail in rails), min(rail.t_ns[-1] for rail in rails)
    times = np.unique(np.concatenate([rail.t_ns for rail in rails]))
    times = times[(times >= first) & (times <= last)]
    # As differences from the first: 2**53 ns are 104 days of uptime.
    base = times[0] if len(times) else 0
    power = np.zeros(len(times))
    for rail in rails:
        power += np.interp(times - base, rail.t_ns - base, rail.power_mw)
    return RailPower(name, times, power)


def _product(rail: str, voltage: _Reads, current: _Reads) -> RailPower:
    if not len(voltage.t_ns) or not len(current.t_ns):
        return RailPower(rail, np.empty(0, np.int64), np.empty(0))
    after = np.clip(np.searchsorted(voltage.t_ns, current.t_ns), 0, len(voltage.t_ns) - 1)
    before = np.maximum(after - 1, 0)
    nearer_before = np.abs(current.t_ns - voltage.t_ns[before]) <= np.abs(
        voltage.t_ns[after] - current.t_ns
    )
    nearest = np.where(nearer_before, before, after)
    power_mw = (voltage.raw[nearest] * current.raw).astype(np.float64) * 1e-3
    return RailPower(rail, current.t_ns, power_mw)


def _slope(rail: str, counter: _Reads) -> RailPower:
    """Return the power of an energy counter: constant from tick to tick.

    A counter moves in ticks; reads between two of them say nothing of power, and a slope over them
    would be zero and then a spike. Each stretch becomes two points, one at its start and one 1 ns
    before its end.
    """
    rise = np.diff(counter.raw)
    if np.any(rise < 0):
        raise MeasurementError(f"rail {rail}: its energy counter went backwards")
    ticks = np.flatnonzero(rise > 0) + 1
    if len(ticks) < 2:
        return RailPower(rail, np.empty(0, np.int64), np.empty(0))
    t_ns, energy_mj = counter.t_ns[ticks], counter.raw[ticks]
    seconds = np.diff(t_ns).astype(np.float64) * 1e-9
    power_mw = np.diff(energy_mj).astype(np.float64) / seconds
    points = np.column_stack([t_ns[:-1], t_ns[1:] - 1]).ravel()
    return RailPower(rail, points, np.repeat(power_mw, 2).astype(np.float64))
