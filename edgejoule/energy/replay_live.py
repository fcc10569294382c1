"""The power of a run that is still being measured, from the sampler's own file. Numpy.

The replay pass asks it after every round whether an interval is narrow enough. Only rows since the
pass began are read: they rise in time, so that the first of them is found by halving.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.energy.trace import RailPower, rail_powers_of_samples, total_power
from edgejoule.errors import MeasurementError
from edgejoule.power.totals import total_rails_of
from edgejoule.records import read_header

if TYPE_CHECKING:
    import numpy.typing as npt

_UNKNOWN_REFRESH_NS = 100_000_000
_AVERAGED_NS = 1_000_000_000
_SETTLING = 5


def reach_ns(header: Mapping[str, Any], rails: tuple[str, ...] | None = None) -> int:
    """Return how far a reading of some rails reaches back: two refreshes, and what it averages.

    A register shows the mean of the window before its last refresh, so it may be two old. Of a
    counter, of which whole stretches are taken, one is enough. An INA3221's averaging is a running
    mean of `samples` conversions, which takes five times as many to come within 1 %.

    Args:
        header: Of `power.bin`, or the metadata of `power.parquet`: `channels`, `groups`.
        rails: Which rails, None: all.
    """
    found = 0
    for group in header.get("groups") or ():
        for index in group["channels"]:
            channel = header["channels"][index]
            if rails is not None and channel["rail"] not in rails:
                continue
            times = 1 if channel["quantity"] == "energy" else 2
            refresh_ns = group["refresh_ns"] or _UNKNOWN_REFRESH_NS
            found = max(found, times * refresh_ns + _averaged_ns(channel, refresh_ns))
    return found or 2 * (header.get("refresh_ns") or _UNKNOWN_REFRESH_NS)


def _averaged_ns(channel: Mapping[str, Any], refresh_ns: int) -> int:
    """Return over how long a channel says that it averages."""
    said = channel.get("averaging")
    if not said:
        return 0
    conversions = re.match(r"running mean of (\d+) conversions", said)
    if conversions is not None:
        return _SETTLING * int(conversions[1]) * refresh_ns
    return 0 if "conversions" in said else _AVERAGED_NS  # a block's mean: its refresh has it


class LiveTrace:
    """The power of the rail that energy is attributed on: the board's total, else the first rail.

    Args:
        power_bin: The file that the sampler appends to.

    Attributes:
        rails: What the total is made of.
        reach_ns: How far a reading reaches back.

    Raises:
        MeasurementError: It is not there, or shows no rail of which power is known.
    """

    def __init__(self, power_bin: Path) -> None:
        self._path = power_bin
        if not power_bin.is_file():
            raise MeasurementError("no power is recorded")
        self._header, self._offset = read_header(power_bin)
        self._dtype = np.dtype([tuple(field) for field in self._header["fields"]])
        self.rails: tuple[str, ...] = ()
        self._since_ns = 0
        self._first_row = 0
        names = tuple(self._powers(self._rows()[-4096:]))
        self.rails = total_rails_of(self._header, names) or names[:1]
        if not self.rails:
            raise MeasurementError("no rail's power is known")
        self.reach_ns = reach_ns(self._header, self.rails)

    def begin(self, since_ns: int) -> None:
        """Say from when on power is wanted."""
        times = self._rows()["t0_ns"]
        self._first_row = int(np.searchsorted(times, since_ns))

    def power(self) -> RailPower:
        """Return power since `begin`, up to what the sampler has written."""
        found = self._powers(self._rows()[self._first_row :])
        return total_power([found[rail] for rail in self.rails if rail in found])

    def end_ns(self) -> int:
        """Return the time of the last row, 0 without one."""
        rows = self._rows()
        return int(rows["t1_ns"][-1]) if len(rows) else 0

    def _powers(self, rows: npt.NDArray[Any]) -> dict[str, RailPower]:
        found = rail_powers_of_samples(self._header["channels"], rows)
        return {rail: series for rail, series in found.items() if len(series.t_ns) or self.rails}

    def _rows(self) -> npt.NDArray[Any]:
        count = (self._path.stat().st_size - self._offset) // self._dtype.itemsize
        if not count:
            return np.empty(0, self._dtype)
        return np.memmap(self._path, self._dtype, "r", self._offset, (count,))
