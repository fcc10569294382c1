"""Several sensors read together as one: `--sensor nvml,rapl`.

Channels are numbered through, groups keep their own rhythm. A rail that two sensors call the same
gets the later one's name behind it (`VDD_IN@tegrastats`).

Standard library only.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

from edgejoule.power.sensor import Channel, FileBacked, Group, Sensor


class SeveralSensors:
    """Some open sensors as one; they are closed with it.

    Args:
        sensors: The sensors, in the order they were asked for.
    """

    def __init__(self, sensors: Sequence[Sensor]) -> None:
        self.name = ",".join(sensor.name for sensor in sensors)
        self.simulated = any(sensor.simulated for sensor in sensors)
        self._sensors = tuple(sensors)
        self._from: list[tuple[Sensor, int]] = []
        self._channels: list[Channel] = []
        self._groups: list[Group] = []
        for sensor in sensors:
            self._add(sensor)

    def channels(self) -> tuple[Channel, ...]:
        """The channels of all sensors."""
        return tuple(self._channels)

    def groups(self) -> tuple[Group, ...]:
        """The groups of all sensors."""
        return tuple(self._groups)

    def read(self, index: int) -> int:
        """Return the raw value of a channel now; raises OSError as its sensor does."""
        sensor, own = self._from[index]
        return sensor.read(own)

    def descriptors(self) -> tuple[int | None, ...]:
        """Per channel the file it can be read from, or None."""
        found: list[int | None] = []
        for sensor in self._sensors:
            if isinstance(sensor, FileBacked):
                found += sensor.descriptors()
            else:
                found += [None] * len(sensor.channels())
        return tuple(found)

    def configuration(self) -> dict[str, Any]:
        """Return each sensor's configuration by its name."""
        return {"sensors": {sensor.name: sensor.configuration() for sensor in self._sensors}}

    def close(self) -> None:
        """Close all sensors."""
        with contextlib.ExitStack() as stack:
            for sensor in self._sensors:
                stack.callback(sensor.close)

    def _add(self, sensor: Sensor) -> None:
        first = len(self._channels)
        taken = {channel.rail for channel in self._channels}
        for channel in sensor.channels():
            rail = channel.rail
            if rail in taken:
                rail = f"{rail}@{sensor.name}"
            self._from.append((sensor, channel.index))
            self._channels.append(
                dataclasses.replace(
                    channel, index=first + channel.index, rail=rail, sensor=sensor.name
                )
            )
        for group in sensor.groups():
            moved = tuple(first + index for index in group.channels)
            self._groups.append(dataclasses.replace(group, channels=moved))
