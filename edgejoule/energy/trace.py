"""From raw reads to power over time, per rail. Numpy; pyarrow only to read a table.

A rail with voltage and current: each current read times the voltage read nearest in time,
mV x mA / 1000 = mW, stamped with the middle of the current read. A rail with a power channel: the
value as it is. A rail with an energy counter: the constant power between two of its ticks.
Failed reads have no value; nothing else is left out, equal values included.

    counter   ____________|~~~~~~~~~~~~|~~~~~~~~~  the hardware's ticks, one per update
    reads     .  .  .  .  . 1  .  .  .  . 2  .  .  1, 2: the first read that shows a tick
    power                   |---- P12 ----|        its energy over the time between the two

Read more often than it ticks, a tick is stamped late by at most one read's distance; read less
often, each read counts as a tick and its value is old by at most one update. Either way the energy
between two stamps is the counter's own, and only the edges of a window are uncertain:
`integrate.Integral.edge_error_mj` says by how much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.errors import MeasurementError
from edgejoule.power.sensor import UNITS
from edgejoule.records import read_header

if TYPE_CHECKING:
    import numpy.typing as npt

# A supply's voltage moves little; one that was read longer ago than this says nothing any more.
VOLTAGE_REACH_NS = 1_000_000_000
# A counter's step back is a wrap if what it then counted is no more than this many times the
# largest power elsewhere in the trace; what a reset looks like is thousands of times that.
_WRAP_POWER_RATIO = 100.0


def _no_spans() -> npt.NDArray[np.int64]:
    return np.empty((0, 2), np.int64)


@dataclass(frozen=True)
class RailPower:
    """Power of one rail: linear between its points.

    Attributes:
        rail: The rail's name.
        t_ns: int64 (n,), strictly increasing, CLOCK_MONOTONIC.
        power_mw: float64 (n,).
        unknown_ns: int64 (k, 2), start and end of stretches between two points in which power is
            not known although there are points on both sides (a counter was reset).
        late_ns: int64 (n,), of an energy counter: by how much the point's stamp may lie behind the
            tick it stands for. Two successive points are one stretch of which the energy is known
            and its distribution is not. None: the points are readings of power.
        parts: Of a sum: the rails it was made of; gaps and errors at edges are theirs.

    Raises:
        MeasurementError: The times do not increase, or the lengths differ.
    """

    rail: str
    t_ns: npt.NDArray[np.int64]
    power_mw: npt.NDArray[np.float64]
    unknown_ns: npt.NDArray[np.int64] = field(default_factory=_no_spans)
    late_ns: npt.NDArray[np.int64] | None = None
    parts: tuple[RailPower, ...] = ()

    def __post_init__(self) -> None:
        if self.t_ns.shape != self.power_mw.shape or self.t_ns.ndim != 1:
            raise MeasurementError(f"rail {self.rail}: times and powers differ in length")
        if self.late_ns is not None and self.late_ns.shape != self.t_ns.shape:
            raise MeasurementError(f"rail {self.rail}: times and lateness differ in length")
        if np.any(np.diff(self.t_ns) <= 0):
            raise MeasurementError(f"rail {self.rail}: its times do not increase")


@dataclass(frozen=True)
class _Reads:
    """The reads of one channel that gave a value: middle of the read, value; unit and wrap."""

    t_ns: npt.NDArray[np.int64]
    raw: npt.NDArray[np.int64]
    scale: float
    wrap: int | None


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
        channels: The channel table: `index`, `rail`, `quantity`, `unit`, of a counter `wrap`; where
            one label stands on two chips, `chip` tells them apart.
        samples: Columns `t0_ns`, `t1_ns`, `raw`, `channel`, `errno` (0: a value), by name.

    Returns:
        Rail -> series, in the order of the channel table; a label's second chip is
        `<rail>@<chip>`. A rail of which power cannot be known (a voltage without a current) is
        left out; one without a value has an empty series. Of a rail with several quantities
        voltage x current is taken, else its counter if its power is no snapshot (`averaging`),
        else its power.

    Raises:
        MeasurementError: A unit that is not in `edgejoule.power.sensor.UNITS`; times that do not
            increase.
    """
    valid = np.asarray(samples["errno"]) == 0
    t0_ns = np.asarray(samples["t0_ns"])[valid]
    middle_ns = t0_ns + (np.asarray(samples["t1_ns"])[valid] - t0_ns) // 2
    raw = np.asarray(samples["raw"])[valid]
    channel = np.asarray(samples["channel"])[valid]
    rails: dict[str, dict[str, _Reads]] = {}
    averaged: set[str] = set()
    for name, entry in zip(rail_names(channels), channels, strict=True):
        scale = UNITS.get(entry["quantity"], {}).get(entry["unit"])
        if scale is None:
            raise MeasurementError(f"rail {name}: {entry['quantity']} in {entry['unit']}?")
        chosen = channel == entry["index"]
        reads = _Reads(middle_ns[chosen], raw[chosen], scale, entry.get("wrap"))
        rails.setdefault(name, {}).setdefault(entry["quantity"], reads)
        if entry["quantity"] == "power" and entry.get("averaging"):
            averaged.add(name)
    found = {}
    for rail, parts in rails.items():
        if "voltage" in parts and "current" in parts:
            found[rail] = _product(rail, parts["voltage"], parts["current"])
        elif "power" in parts and not (rail in averaged and "energy" in parts):
            power = parts["power"]
            found[rail] = RailPower(rail, power.t_ns, power.raw.astype(np.float64) * power.scale)
        elif "energy" in parts:
            found[rail] = _slope(rail, parts["energy"])
    return found


def rail_names(channels: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the rail that each channel belongs to, by the name it has in a trace.

    A label on two chips is two rails; the second bears its chip's address.
    """
    chips: dict[str, list[str]] = {}
    names = []
    for entry in channels:
        rail, chip = entry["rail"], str(entry.get("chip", ""))
        known = chips.setdefault(rail, [])
        if chip not in known:
            known.append(chip)
        names.append(rail if chip == known[0] else f"{rail}@{chip}")
    return names


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
    parts = tuple(rails)
    if not rails or any(not len(rail.t_ns) for rail in rails):
        return RailPower(name, np.empty(0, np.int64), np.empty(0), parts=parts)
    first, last = max(rail.t_ns[0] for rail in rails), min(rail.t_ns[-1] for rail in rails)
    times = np.unique(np.concatenate([rail.t_ns for rail in rails]))
    times = times[(times >= first) & (times <= last)]
    # As differences from the first: 2**53 ns are 104 days of uptime.
    base = times[0] if len(times) else 0
    power = np.zeros(len(times))
    for rail in rails:
        power += np.interp(times - base, rail.t_ns - base, rail.power_mw)
    unknown = np.concatenate([rail.unknown_ns for rail in rails])
    return RailPower(name, times, power, unknown, parts=parts)


def nearest_read(
    times_ns: npt.NDArray[np.int64], at_ns: npt.NDArray[np.int64]
) -> npt.NDArray[np.intp]:
    """Return which of some times, rising, is nearest to each of others; the earlier of two."""
    after = np.clip(np.searchsorted(times_ns, at_ns), 0, len(times_ns) - 1)
    before = np.maximum(after - 1, 0)
    nearer = np.abs(at_ns - times_ns[before]) <= np.abs(times_ns[after] - at_ns)
    result: npt.NDArray[np.intp] = np.where(nearer, before, after)
    return result


def _product(rail: str, voltage: _Reads, current: _Reads) -> RailPower:
    """Pair each current with the voltage nearest in time; one without a voltage near is left out.

    In attribution mode the current is read many times as often as the voltage, so that many pairs
    share one voltage.
    """
    if not len(voltage.t_ns) or not len(current.t_ns):
        return RailPower(rail, np.empty(0, np.int64), np.empty(0))
    nearest = nearest_read(voltage.t_ns, current.t_ns)
    scale = 1e-3 * voltage.scale * current.scale
    power_mw = (voltage.raw[nearest] * current.raw).astype(np.float64) * scale
    near = np.abs(current.t_ns - voltage.t_ns[nearest]) <= VOLTAGE_REACH_NS
    if near.all():
        return RailPower(rail, current.t_ns, power_mw)
    return RailPower(rail, current.t_ns[near], power_mw[near])


def _slope(rail: str, counter: _Reads) -> RailPower:
    """Return the power of an energy counter: constant from tick to tick.

    A counter moves in ticks; reads between two of them say nothing of power, and a slope over them
    would be zero and then a spike. Each stretch becomes two points, one at its start and one 1 ns
    before its end. A counter that was reset begins anew: from its last tick before to its first
    two after, power is unknown. A counter that wraps goes on; how often it wrapped while nothing
    was read cannot be known, once is assumed.
    """
    if np.any(np.diff(counter.t_ns) <= 0):
        raise MeasurementError(f"rail {rail}: its times do not increase")
    rise, reset = _rises(counter)
    ticks = np.flatnonzero(rise > 0) + 1
    life = np.cumsum(reset)[ticks - 1]
    whole = life[1:] == life[:-1]
    start, end = ticks[:-1][whole], ticks[1:][whole]
    if not len(end):
        nothing = np.empty(0, np.int64)
        return RailPower(rail, nothing, np.empty(0), late_ns=nothing)
    start_ns, end_ns = counter.t_ns[start], counter.t_ns[end]
    energy_mj = rise[end - 1].astype(np.float64) * counter.scale
    power_mw = energy_mj / ((end_ns - start_ns).astype(np.float64) * 1e-9)
    points = np.column_stack([start_ns, end_ns - 1]).ravel()
    # A tick came after the read before the one that shows it.
    late = np.diff(counter.t_ns)
    lateness = np.column_stack([late[start - 1], late[end - 1]]).ravel()
    between = np.column_stack([end_ns[:-1], start_ns[1:]])
    unknown = between[between[:, 0] != between[:, 1]]
    return RailPower(rail, points, np.repeat(power_mw, 2), unknown, lateness)


def _rises(counter: _Reads) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return what the counter rose from each read to the next, and where it was reset instead."""
    rise = np.diff(counter.raw)
    back = rise < 0
    if counter.wrap is None or not back.any():
        return rise, back
    wrapped = np.where(back, rise + counter.wrap, rise)
    rate = wrapped / np.diff(counter.t_ns)
    usual = rate[~back & (rise > 0)]
    most = _WRAP_POWER_RATIO * float(usual.max()) if len(usual) else np.inf
    # Half the range: with nothing to compare with, more is rather a reset.
    good = (wrapped >= 0) & (wrapped <= counter.wrap // 2) & (rate <= most)
    reset = back & ~good
    return np.where(reset, rise, wrapped), reset
