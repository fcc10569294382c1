"""Reads of single channels out of a trace, as the window regression takes them. Numpy.

A rail's current (or its power, where the sensor gives that) is read far more often than its voltage
in the profiled pass, and shows when the sensor renews its value; `trace.rail_powers` gives power at
the same reads, but not the numbers as they were read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.energy.timeline import ChannelReads
from edgejoule.energy.trace import nearest_read, rail_names
from edgejoule.errors import MeasurementError
from edgejoule.power.ina_refresh import INA3221_TIMES_US
from edgejoule.power.sensor import UNITS

if TYPE_CHECKING:
    import numpy.typing as npt

_FEWEST = 100
_CLOSE = 0.01  # a conversion time is one of the chip's if it is as near as that


def channel_reads(
    power_parquet: Path, rails: Sequence[str], start_ns: int, end_ns: int
) -> dict[str, ChannelReads]:
    """Return the reads of each rail's current (else power) in a stretch of time.

    Args:
        power_parquet: The trace.
        rails: Names of rails as in `trace.rail_names`.
        start_ns: Begin of the stretch, CLOCK_MONOTONIC.
        end_ns: Its end.

    Returns:
        Rail -> its reads; a rail without such a channel, or with fewer than 100 reads, is left out.

    Raises:
        MeasurementError: The file has no channel table.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(power_parquet)
    metadata = (table.schema.metadata or {}).get(b"edgejoule")
    if metadata is None:
        raise MeasurementError(f"{power_parquet} has no channel table")
    header = json.loads(metadata)
    valid = table["raw"].is_valid().to_numpy(zero_copy_only=False)
    t0_ns, t1_ns = (table[name].to_numpy()[valid] for name in ("t0_ns", "t1_ns"))
    raw = table["raw"].fill_null(0).to_numpy()[valid]
    channel = table["channel"].to_numpy()[valid]
    inside = (t1_ns >= start_ns) & (t0_ns <= end_ns)
    columns = {"t0_ns": t0_ns, "t1_ns": t1_ns, "raw": raw, "channel": channel}
    found = {}
    for rail in rails:
        reads = _reads_of(rail, header, columns, inside)
        if reads is not None and len(reads.raw) >= _FEWEST:
            found[rail] = reads
    return found


def _reads_of(
    rail: str,
    header: Mapping[str, Any],
    columns: Mapping[str, npt.NDArray[np.int64]],
    inside: npt.NDArray[np.bool_],
) -> ChannelReads | None:
    channels = header["channels"]
    names = rail_names(channels)
    own = {entry["quantity"]: entry for entry, name in zip(channels, names, strict=True)
           if name == rail}  # fmt: skip
    entry = own.get("current") if "voltage" in own else None
    entry = entry or own.get("power")
    if entry is None:
        return None
    chosen = inside & (columns["channel"] == entry["index"])
    t0_ns, t1_ns, raw = (columns[name][chosen] for name in ("t0_ns", "t1_ns", "raw"))
    scale = UNITS[entry["quantity"]][entry["unit"]]
    power_mw = raw.astype(np.float64) * scale
    lsb_mw = float(entry.get("lsb") or 0.0) * scale
    if entry["quantity"] == "current":
        # The supply's voltage in volts: mA times V is mW. Read near the stretch as well.
        at = columns["channel"] == own["voltage"]["index"]
        if not at.any():
            return None
        volts = columns["raw"][at] * UNITS["voltage"][own["voltage"]["unit"]] * 1e-3
        power_mw = power_mw * volts[nearest_read(columns["t0_ns"][at], t0_ns)]
        lsb_mw *= float(np.median(volts))
    refresh_ns = _refresh_ns(header, entry["index"])
    samples, window_ns = _conversion(header, entry, refresh_ns)
    return ChannelReads(
        rail=rail,
        t0_ns=t0_ns,
        t1_ns=t1_ns,
        raw=raw,
        power_mw=power_mw,
        lsb_mw=lsb_mw,
        refresh_ns=refresh_ns,
        samples=samples,
        window_ns=window_ns,
    )


def _refresh_ns(header: Mapping[str, Any], index: int) -> float | None:
    for group in header.get("groups") or ():
        if index in group["channels"]:
            return None if group["refresh_ns"] is None else float(group["refresh_ns"])
    return None if header.get("refresh_ns") is None else float(header["refresh_ns"])


def _conversion(
    header: Mapping[str, Any], entry: Mapping[str, Any], refresh_ns: float | None
) -> tuple[int | None, float | None]:
    """Return the averaging and conversion time of an INA3221's channel, None where not known.

    A cycle is a shunt and a bus conversion of each enabled channel; averaging does not lengthen it
    (TI SBOS576, averaging function). The Linux driver writes equal times for both; where the cycle
    is not a whole number of one of the chip's times they differ, and nobody says which is which.
    """
    said = header.get("configuration") or {}
    every = [said, *(said.get("sensors") or {}).values()]
    chips = {name: chip for one in every for name, chip in (one.get("chips") or {}).items()}
    chip = chips.get(entry.get("chip")) or {}
    if not str(chip.get("driver", "")).startswith("ina3221"):
        return None, None
    samples = chip.get("samples")
    enabled = list((chip.get("enabled") or {}).values())
    rhythm = chip.get("refresh") or {}
    if refresh_ns is None or not enabled or None in enabled or not any(enabled):
        return samples, None
    if rhythm.get("blocking") or chip.get("single_shot"):
        return samples, None
    window_ns = refresh_ns / (2 * sum(map(bool, enabled)))
    legal = min((1e3 * time_us for time_us in INA3221_TIMES_US), key=lambda t: abs(t - window_ns))
    return samples, legal if abs(legal - window_ns) <= _CLOSE * window_ns else None
