"""What repeating does not average out: a bound on each energy, apart from its interval.

    reading = (1 + gain) x truth + offset, in steps

    bound of a row = gain x gross  +  (offset + step) x time  +  choice of baseline x time

`gain` is the relative error of chip and shunt resistor, `offset` that of both voltages as a power,
`step` what rounding leaves on average. It holds for the gross energy and for the dynamic one. For
the gross energy the last term is needed only where idle power is part of the rule (`replay`: idle
power times the difference of the two times); for the dynamic energy the offset is in load and
baseline alike and cancels. A bound that holds for both is the sum, and one number says it.

The bound takes every part at its worst at once. All rows of a rail are wrong the same way (one
gain, one offset): comparing layers of one run is better than the bound says, comparing boards is
not. Nothing is added to the statistical interval, and neither is hidden in the other.

Where a figure is not known (RAPL has none) the bound is None: not known, which is not 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.energy import systematic_table as table
from edgejoule.energy.trace import rail_names
from edgejoule.power.sensor import UNITS
from edgejoule.power.totals import total_rails_of

if TYPE_CHECKING:
    from edgejoule.energy.rows import EnergyRow
    from edgejoule.energy.systematic_table import Accuracy

TOTAL = "total"
_INA3221_BUS_LSB_MV = 8.0
_ROWS_OF_VOLTAGE = 200_000
_HARMONICS = 20


@dataclass(frozen=True)
class SensorTolerance:
    """How far a rail's readings may be off, all the time in one direction.

    Attributes:
        gain_rel: Relative, None: not known.
        offset_mw: Constant, None: not known.
        step_mw: What rounding to steps leaves of a mean, None: not known.
        sources: Where the figures are from.
        assumptions: What is taken for granted.
    """

    gain_rel: float | None
    offset_mw: float | None
    step_mw: float | None
    sources: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()

    def bound_mj(self, energy_mj: float, time_ms: float | None) -> float | None:
        """Return the bound on an energy that was drawn in a time, None: not known."""
        if self.gain_rel is None or self.offset_mw is None or self.step_mw is None:
            return None
        constant_mw = self.offset_mw + self.step_mw
        if time_ms is None and constant_mw:
            return None
        return self.gain_rel * abs(energy_mj) + constant_mw * (time_ms or 0.0) * 1e-3

    def to_json(self) -> dict[str, Any]:
        """Return it for `run.json` and reports."""
        return {
            "gain_rel": self.gain_rel,
            "offset_mw": self.offset_mw,
            "step_mw": self.step_mw,
            "sources": list(self.sources),
            "assumptions": list(self.assumptions),
        }


def systematic_bounds(
    sensor: Mapping[str, Any],
    rail: str,
    voltage_mv: Mapping[str, float] | None = None,
    spread_mw: Mapping[str, float] | None = None,
) -> SensorTolerance:
    """Return what is known of a rail's accuracy.

    Args:
        sensor: `sensor` of `run.json`: `name`, `simulated`, `channels`, `total`.
        rail: A rail, or `total`: the sum of its rails, each at its worst.
        voltage_mv: Rail -> its usual voltage (`rail_voltages_mv`); without it the offset of a rail
            of voltage and current is not known.
        spread_mw: Rail -> standard deviation of its readings, of load and idle alike, since both
            are in a dynamic energy; without it rounding is taken at its worst, half a step.
    """
    channels = sensor.get("channels") or []
    names = rail_names(channels)
    by_rail: dict[str, list[Mapping[str, Any]]] = {}
    for name, channel in zip(names, channels, strict=True):
        by_rail.setdefault(name, []).append(channel)
    parts: Sequence[str] | None = (rail,)
    if rail == TOTAL and rail not in by_rail:
        parts = total_rails_of(sensor, tuple(by_rail))
    if parts is None or any(part not in by_rail for part in parts):
        return SensorTolerance(None, None, None, (f"no channel of rail {rail} is described",))
    known = [
        _of_rail(sensor, by_rail[part], (voltage_mv or {}).get(part), (spread_mw or {}).get(part))
        for part in parts
    ]
    return _summed(known)


def with_systematic(
    rows: Sequence[EnergyRow], tolerance: SensorTolerance, baseline_choice_mw: float | None
) -> list[EnergyRow]:
    """Fill `systematic_mj` of the rows of one method on one rail.

    Args:
        rows: All its rows.
        tolerance: Of the rail.
        baseline_choice_mw: How far another baseline of the run lies from the one used
            (`baseline_choice_mw`); None: there is none, and nothing is dynamic.

    Returns:
        The rows in their order. A row without a gross energy has no bound; a group's time is that
        of its layers, that of the whole is the sum of layers and gap.
    """
    done = []
    for row in rows:
        bound = None
        if row.gross_mj is not None:
            time_ms = _time_ms(row, rows)
            bound = tolerance.bound_mj(row.gross_mj, time_ms)
            choice_mw = baseline_choice_mw if row.dynamic_mj is not None else None
            if bound is not None and choice_mw:
                # Alone a layer may take longer than in the network; idle is taken off there.
                longest = max(time_ms or 0.0, row.alone_ms or 0.0)
                bound = bound + choice_mw * longest * 1e-3 if longest else None
        done.append(replace(row, systematic_mj=bound))
    return done


def baseline_choice_mw(used_mw: float | None, others_mw: Sequence[float]) -> float | None:
    """Return how far the farthest baseline lies from the one that was used, None without one.

    Args:
        used_mw: What dynamic energy is counted from.
        others_mw: Every baseline that could have been used as well: loaded, before and after; the
            replay pass's own.
    """
    if used_mw is None or not others_mw:
        return None
    return max(abs(other - used_mw) for other in others_mw)


def rounding_mw(step_mw: float, spread_mw: float | None) -> float:
    """Return what rounding to steps can leave of the mean of many readings, mW.

    Readings that spread over steps dither the rounding away: of values with a normal spread s in
    steps q, harmonic k of the error leaves at most q / (pi k) exp(-2 (pi k s / q)^2), and this is
    their sum (Widrow and Kollar, "Quantization Noise", 2008, on the mean of the rounding error). Of
    one power, always read alike, up to half a step is left.
    """
    if step_mw <= 0:
        return 0.0
    if spread_mw is None:
        return 0.5 * step_mw
    left = sum(
        math.exp(-2.0 * (math.pi * k * spread_mw / step_mw) ** 2) / k for k in range(1, _HARMONICS)
    )
    return step_mw * min(0.5, left / math.pi)


def rail_voltages_mv(power_parquet: Path) -> dict[str, float]:
    """Return each rail's usual voltage from a trace: the median of its first readings."""
    import numpy as np
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from edgejoule.dataset.schema import read_metadata

    channels = read_metadata(power_parquet).get("channels") or []
    wanted = {
        int(channel["index"]): (name, UNITS["voltage"][channel["unit"]])
        for name, channel in zip(rail_names(channels), channels, strict=True)
        if channel["quantity"] == "voltage"
    }
    found: dict[str, list[float]] = {}
    if wanted:
        with pq.ParquetFile(power_parquet) as file:
            batch = next(file.iter_batches(_ROWS_OF_VOLTAGE, columns=["channel", "raw"]), None)
        if batch is not None:
            batch = batch.filter(pc.is_valid(batch["raw"]))  # null: the read failed
            channel, raw = batch["channel"].to_numpy(), batch["raw"].to_numpy()
            for index, (name, scale) in wanted.items():
                values = raw[channel == index]
                if len(values):
                    found.setdefault(name, []).append(float(np.median(values)) * scale)
    return {name: values[0] for name, values in found.items()}


def _of_rail(
    sensor: Mapping[str, Any],
    channels: Sequence[Mapping[str, Any]],
    voltage_mv: float | None,
    spread_mw: float | None,
) -> SensorTolerance:
    by_quantity = {channel["quantity"]: channel for channel in reversed(channels)}
    accuracy = _accuracy(sensor, channels)
    current, voltage = by_quantity.get("current"), by_quantity.get("voltage")
    gain, assumptions = accuracy.gain_rel, accuracy.assumptions
    if gain is not None and accuracy.has_shunt:
        gain += table.SHUNT_TOLERANCE_REL
        assumptions = (*assumptions, table.SHUNT_ASSUMED)
    if current is not None and voltage is not None:
        step = _step_mw(current, voltage_mv)
        if accuracy.shows_power:
            return SensorTolerance(
                gain, 0.0, _rounded(step, spread_mw), accuracy.sources, assumptions
            )
        offset = None
        shunt_uohm = current.get("shunt_uohm")
        if voltage_mv and shunt_uohm and accuracy.shunt_offset_uv is not None:
            offset = accuracy.shunt_offset_uv / shunt_uohm * voltage_mv  # uV / uOhm = A; A mV = mW
        if gain is not None and accuracy.bus_offset_mv is not None:
            gain = gain + accuracy.bus_offset_mv / voltage_mv if voltage_mv else None
        return SensorTolerance(
            gain, offset, _rounded(step, spread_mw), accuracy.sources, assumptions
        )
    if not accuracy.shows_power:
        return SensorTolerance(gain, None, None, accuracy.sources, assumptions)
    step = None
    if "power" in by_quantity:
        # Power is shown in whole units where nothing else is known of its step.
        unit = by_quantity["power"]["unit"]
        step = float(by_quantity["power"].get("lsb") or 1.0) * UNITS["power"][unit]
    elif "energy" in by_quantity:
        step = 0.0  # a counter's step is once per window and not per time
    return SensorTolerance(gain, 0.0, _rounded(step, spread_mw), accuracy.sources, assumptions)


def _accuracy(sensor: Mapping[str, Any], channels: Sequence[Mapping[str, Any]]) -> Accuracy:
    if sensor.get("simulated"):
        return table.SIMULATED
    name = str(channels[0].get("sensor") or sensor.get("name"))
    known = {
        "nvml": table.NVML,
        "rapl": table.RAPL,
        "battery": table.BATTERY,
        "tegrastats": table.TEGRASTATS,
    }
    if name in known:
        return known[name]
    if name != "ina3221":
        return table.unknown(name)
    # One sensor reads both chips; they differ in the step of their voltage.
    steps = {channel.get("lsb") for channel in channels if channel["quantity"] == "voltage"}
    return table.INA3221 if steps <= {_INA3221_BUS_LSB_MV, None} else table.INA238


def _step_mw(current: Mapping[str, Any], voltage_mv: float | None) -> float | None:
    lsb = current.get("lsb")
    if not lsb or not voltage_mv:
        return None
    step_ma: float = float(lsb) * UNITS["current"][current["unit"]]
    return step_ma * voltage_mv * 1e-3


def _rounded(step_mw: float | None, spread_mw: float | None) -> float | None:
    return None if step_mw is None else rounding_mw(step_mw, spread_mw)


def _summed(parts: Sequence[SensorTolerance]) -> SensorTolerance:
    """Return the tolerance of a sum: the largest gain, all offsets and steps at once."""
    gains = [part.gain_rel for part in parts]
    return SensorTolerance(
        None if None in gains else max(gain for gain in gains if gain is not None),
        _sum(part.offset_mw for part in parts),
        _sum(part.step_mw for part in parts),
        tuple(dict.fromkeys(text for part in parts for text in part.sources)),
        tuple(dict.fromkeys(text for part in parts for text in part.assumptions)),
    )


def _sum(values: Any) -> float | None:
    listed = list(values)
    return None if any(value is None for value in listed) else float(sum(listed))


def _time_ms(row: EnergyRow, rows: Sequence[EnergyRow]) -> float | None:
    """Return a row's time per inference; of a group or the whole that of what it is made of."""
    if row.time_ms is not None:
        return row.time_ms
    if row.kind == "group":
        members = [other for other in rows if other.kind == "layer" and other.group == row.group]
    elif row.kind in ("inference", "closure"):
        members = [other for other in rows if other.kind in ("layer", "gap")]
    else:
        return None
    times = [other.time_ms for other in members if other.time_ms is not None]
    return sum(times) if times and len(times) == len(members) else None
