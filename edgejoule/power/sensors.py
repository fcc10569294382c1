"""Which sensors there are, and how one is chosen: by reading a value from it.

A new sensor is one more line in `SENSORS`. `auto` takes the first real one that gives a value and
never the simulated board.

Standard library only.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgejoule.errors import EdgejouleError, UsageError
from edgejoule.power.ina3221 import Ina3221Sensor
from edgejoule.power.sensor import Sensor

NONE = "none"
AUTO = "auto"
SIMULATED = "simulated"


@dataclass(frozen=True)
class SensorKind:
    """A sensor that can be asked for.

    Attributes:
        open: Opens it, given the sysfs root; raises `EdgejouleError` if it is not here.
        summary: What it is, a few words.
        simulated: Whether its values are made up; such a one is taken only by name.
    """

    open: Callable[[str], Sensor]
    summary: str
    simulated: bool = False


def _open_simulated(sysfs_root: str) -> Sensor:
    return Ina3221Sensor(sysfs_root, SIMULATED, simulated=True)


SENSORS: dict[str, SensorKind] = {
    "ina3221": SensorKind(Ina3221Sensor, "INA3221 power monitor of Jetson boards, through hwmon"),
    SIMULATED: SensorKind(_open_simulated, "a made-up board, for trying things out", True),
}


@dataclass(frozen=True)
class SensorChoice:
    """Which sensor a measurement uses.

    Attributes:
        name: The sensor, or `none`.
        why: Why this one, or why none.
        usable: Whether there will be power readings.
        mend: What to do to get some, empty if there are.
        tried: Each sensor that was looked for, with what was found.
    """

    name: str
    why: str
    usable: bool
    mend: str
    tried: tuple[tuple[str, str], ...]


def known_sensors() -> tuple[str, ...]:
    """Return what `--sensor` takes."""
    return (AUTO, NONE, *SENSORS)


def open_sensor(name: str, sysfs_root: str = "/sys") -> Sensor:
    """Open a sensor by name; `simulated` wants the simulated board's tree as its root.

    Raises:
        UsageError: No such sensor.
        MeasurementError: It is not here, or cannot be read.
    """
    if name not in SENSORS:
        raise UsageError(f"unknown sensor {name!r}", f"known are {', '.join(known_sensors())}")
    return SENSORS[name].open(sysfs_root)


def choose_sensor(name: str, sysfs_root: str = "/sys") -> SensorChoice:
    """Choose a sensor as `--sensor` says; `auto` reads a value from each real one in turn.

    Args:
        name: `auto`, `none` or a sensor's name.
        sysfs_root: Where sysfs lies.

    Raises:
        UsageError: No such sensor, or one asked for by name that is not here.
    """
    if "," in name:
        raise UsageError(
            f"--sensor {name}: one sensor at a time", f"give one of {', '.join(known_sensors())}"
        )
    if name == NONE:
        return SensorChoice(NONE, "asked for no sensor", usable=False, mend="", tried=())
    if name == AUTO:
        return _choose_real(sysfs_root)
    if name not in SENSORS:
        raise UsageError(f"unknown sensor {name!r}", f"known are {', '.join(known_sensors())}")
    if SENSORS[name].simulated:
        if sys.platform == "win32":
            raise UsageError("the simulated board needs Linux or macOS", "use --sensor none")
        why = "asked for by name; its power is made up"
        return SensorChoice(name, why, usable=True, mend="", tried=())
    try:
        found = _try(name, sysfs_root)
    except EdgejouleError as error:
        mend = error.mend or "use --sensor none to measure time alone"
        raise UsageError(f"sensor {name}: {error.message}", mend) from error
    return SensorChoice(name, f"asked for by name; {found}", True, "", ((name, found),))


def _choose_real(sysfs_root: str) -> SensorChoice:
    tried: list[tuple[str, str]] = []
    mends: list[str] = []
    for name, kind in SENSORS.items():
        if kind.simulated:
            continue
        try:
            found = _try(name, sysfs_root)
        except EdgejouleError as error:
            tried.append((name, error.message))
            mends.append(error.mend)
            continue
        tried.append((name, found))
        return SensorChoice(name, found, usable=True, mend="", tried=tuple(tried))
    why = "; ".join(f"{name}: {reason}" for name, reason in tried)
    mends.append("`--sensor simulated` tries things out with made-up power")
    mend = "; ".join(filter(None, mends))
    return SensorChoice(NONE, why, usable=False, mend=mend, tried=tuple(tried))


def _try(name: str, sysfs_root: str) -> str:
    """Read one value; return what was read, for people.

    Raises:
        EdgejouleError: It is not here or gives no value.
    """
    sensor = open_sensor(name, sysfs_root)
    reasons: set[str] = set()
    try:
        for channel in sensor.channels():
            try:
                value = sensor.read(channel.index)
            except OSError as error:
                code = errno.errorcode.get(error.errno or 0, str(error))
                reasons.add(f"{channel.rail} {channel.source}: {code}")
                continue
            rails = len({other.rail for other in sensor.channels()})
            return f"{channel.rail} reads {value} {channel.unit}, {rails} rails"
    finally:
        sensor.close()
    raise UsageError(
        f"found below {Path(sysfs_root)}, but no value can be read ({', '.join(sorted(reasons))})",
        "see `dmesg` for what the driver says",
    )
