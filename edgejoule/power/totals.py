"""What makes up the total of a trace, from whichever sensors it was read.

A trace's header names its total (`total`: rails, what it contains, what not, source), so that a
dataset stays readable when the tables here have moved on. Traces that came before that have their
rails' labels only.

Rules, where several sensors are read together:

- A board's own rails (INA3221, INA238, tegrastats) cover the GPU and the CPU: nothing is added.
- Otherwise the GPU (NVML) and the CPU packages with their memory (RAPL) are different supplies and
  are added; what else the machine draws is not in it, and the total says so.
- A battery feeds all of that: it is the total where it is read, and nothing is added to it.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgejoule.power.boards import total_rails
from edgejoule.power.sensor import Total

BATTERY = "battery"


def combined_total(
    rails_by_sensor: Mapping[str, Sequence[str]], board: Total | None
) -> Total | None:
    """Return the total over several sensors' rails, None where none is known.

    Args:
        rails_by_sensor: Sensor name -> its rails, in the order they were asked for.
        board: The total of the board's own rails, if the board is known.
    """
    # Those that read a dataset import this module too, and need no sensor.
    from edgejoule.power.battery import battery_total
    from edgejoule.power.nvml import nvml_total
    from edgejoule.power.rapl import rapl_total

    others = {"nvml": nvml_total, "rapl": rapl_total, BATTERY: battery_total}
    if board_sensors(rails_by_sensor):
        return board
    if BATTERY in rails_by_sensor:
        return battery_total(tuple(rails_by_sensor[BATTERY]))
    parts = []
    for name, rails in rails_by_sensor.items():
        part = others[name](tuple(rails))
        if part is None:
            return None
        parts.append(part)
    if len(parts) <= 1:
        return parts[0] if parts else None
    return Total(
        rails=tuple(rail for part in parts for rail in part.rails),
        contains="; ".join(part.contains for part in parts),
        excludes="whatever is neither on the GPU board nor on the CPU's counted supplies: "
        "drives, fans, losses of the power supply",
        source="; ".join(part.source for part in parts),
    )


def board_sensors(sensors: Iterable[str]) -> tuple[str, ...]:
    """Return those sensors whose rails are a board's own."""
    return tuple(name for name in sensors if name not in {"nvml", "rapl", BATTERY})


def rails_by_sensor(channels: Sequence[Mapping[str, Any]], sensor: str) -> dict[str, list[str]]:
    """Return each sensor's rails, in order; channels of a single sensor may leave its name out."""
    found: dict[str, list[str]] = {}
    for channel in channels:
        rails = found.setdefault(channel.get("sensor") or sensor, [])
        if channel["rail"] not in rails:
            rails.append(channel["rail"])
    return found


def total_rails_of(header: Mapping[str, Any], rails: Sequence[str]) -> tuple[str, ...] | None:
    """Return the rails of a trace whose sum is its total, None where it has none.

    Args:
        header: The header of `power.bin`, or the metadata of `power.parquet`.
        rails: The rails that gave values; a total of which one is missing is no total.
    """
    if "total" in header:
        recorded = header["total"]
        wanted = tuple(recorded["rails"]) if recorded else None
    else:
        wanted = total_rails(tuple(rails))
    if wanted is None or any(rail not in rails for rail in wanted):
        return None
    return wanted
