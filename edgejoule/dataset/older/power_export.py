"""From a run's power trace to the readings of the older layout: one voltage, one current.

A rail that has both goes as it was read. A total over several rails, or a sensor that gives power
or counts energy, has no voltage and current of its own: its power goes as 1000 mV times so many
mA as it has mW, and the log says so. Numpy and pyarrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgejoule.dataset.schema import read_metadata
from edgejoule.energy.trace import rail_names
from edgejoule.summary import TOTAL, read_power

NOMINAL_MV = 1000.0
_PER_MILLI = {"mV": 1, "uV": 1000, "mA": 1, "uA": 1000}


@dataclass(frozen=True)
class PowerLines:
    """Readings: `t_ns` int64, `mv` and `ma` float64, all (n,)."""

    t_ns: np.ndarray
    mv: np.ndarray
    ma: np.ndarray


def power_lines(path: Path) -> tuple[PowerLines | None, str]:
    """Return the readings of a `power.parquet` and how they were made.

    They are None where the board's total is not known.

    Raises:
        MeasurementError: The trace is damaged.
    """
    channels = read_metadata(path)["channels"]
    power = read_power(path)
    rails = power.total_of or tuple(power.rails)
    if len(rails) == 1:
        found = _as_read(path, channels, rails[0])
        if found is not None:
            lines, failed = found
            lost = f"; {failed} reads that failed are left out" if failed else ""
            return lines, f"power is rail {rails[0]} as read{lost}"
    if power.total_of is None and len(rails) != 1:
        return None, "the board's total is not known: there is no power log"
    series = power.rails[TOTAL if power.total_of else rails[0]]
    mw = np.round(series.power_mw, 3)
    lines = PowerLines(series.t_ns, np.full(len(mw), NOMINAL_MV), mw)
    of = " + ".join(rails)
    return lines, f"power is {of} as {NOMINAL_MV} mV x mW: no voltage and current belong to it"


def _as_read(
    path: Path, channels: list[dict[str, Any]], rail: str
) -> tuple[PowerLines, int] | None:
    """Return each current of a rail with the voltage read nearest in time, and how many failed."""
    import pyarrow.parquet as pq

    own = {
        channel["quantity"]: channel
        for name, channel in zip(rail_names(channels), channels, strict=True)
        if name == rail
    }
    if not {"voltage", "current"} <= set(own):
        return None
    table = pq.read_table(path)
    channel, t0 = table["channel"].to_numpy(), table["t0_ns"].to_numpy()
    middle = t0 + (table["t1_ns"].to_numpy() - t0) // 2
    valid = ~table["raw"].is_null().to_numpy()
    raw = table["raw"].fill_null(0).to_numpy()
    parts = {}
    for quantity in ("voltage", "current"):
        chosen = valid & (channel == own[quantity]["index"])
        scale = _PER_MILLI[own[quantity]["unit"]]
        parts[quantity] = (middle[chosen], raw[chosen] / scale)
    (volts_ns, volts), (amps_ns, amps) = parts["voltage"], parts["current"]
    if not len(volts):
        return None
    after = np.clip(np.searchsorted(volts_ns, amps_ns), 0, len(volts) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(amps_ns - volts_ns[before] < volts_ns[after] - amps_ns, before, after)
    failed = int(np.count_nonzero(~valid & (channel == own["current"]["index"])))
    return PowerLines(amps_ns, volts[nearest], amps), failed
