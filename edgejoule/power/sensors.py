"""Which sensors there are, and how they are chosen: by reading a value from each.

A new sensor is one more line in `SENSORS`. `auto` takes what is there for the device that is
measured and never the simulated board; several can be asked for together (`nvml,rapl`).

Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgejoule.errors import EdgejouleError, UsageError
from edgejoule.power.sensor import Channel, Sensor, Total, Where
from edgejoule.power.several import SeveralSensors

NONE = "none"
AUTO = "auto"
SIMULATED = "simulated"


@dataclass(frozen=True)
class SensorKind:
    """A sensor that can be asked for.

    Attributes:
        open: Opens it; raises `EdgejouleError` if it is not here or gives no value.
        looked_for: Says what was looked for and why it is not here, one line each.
        summary: What it is, a few words.
        simulated: Whether its values are made up; such a one is taken only by name.
    """

    open: Callable[[Where], Sensor]
    looked_for: Callable[[Where], list[str]]
    summary: str
    simulated: bool = False


def _ina(where: Where) -> Sensor:
    from edgejoule.power.ina3221 import Ina3221Sensor

    return Ina3221Sensor(where.sysfs_root)


def _ina_looked_for(where: Where) -> list[str]:
    from edgejoule.power.ina_layouts import looked_for

    return looked_for(where.sysfs_root)


def _simulated(where: Where) -> Sensor:
    from edgejoule.power.ina3221 import Ina3221Sensor

    return Ina3221Sensor(where.sysfs_root, SIMULATED, simulated=True)


def _nvml(where: Where) -> Sensor:
    from edgejoule.power.nvml import NvmlSensor

    return NvmlSensor(where.gpu_uuid)


def _nvml_looked_for(where: Where) -> list[str]:
    from edgejoule.power.nvml import looked_for

    return looked_for(where.gpu_uuid)


def _rapl(where: Where) -> Sensor:
    from edgejoule.power.rapl import RaplSensor

    return RaplSensor(where.sysfs_root)


def _rapl_looked_for(where: Where) -> list[str]:
    from edgejoule.power.rapl import looked_for

    return looked_for(where.sysfs_root)


def _battery(where: Where) -> Sensor:
    from edgejoule.power.battery import BatterySensor

    return BatterySensor(where.sysfs_root)


def _battery_looked_for(where: Where) -> list[str]:
    from edgejoule.power.battery import looked_for

    return looked_for(where.sysfs_root)


def _tegrastats(_where: Where) -> Sensor:
    from edgejoule.power.tegrastats_sensor import TegrastatsSensor

    return TegrastatsSensor()


def _tegrastats_looked_for(_where: Where) -> list[str]:
    from edgejoule.power.tegrastats_sensor import looked_for

    return looked_for()


SENSORS: dict[str, SensorKind] = {
    "ina3221": SensorKind(
        _ina, _ina_looked_for, "INA3221 and INA238 power monitors of Jetson boards, through sysfs"
    ),
    "nvml": SensorKind(_nvml, _nvml_looked_for, "an NVIDIA GPU's own readings, through its driver"),
    "rapl": SensorKind(_rapl, _rapl_looked_for, "energy counters of x86 CPUs, through powercap"),
    "tegrastats": SensorKind(
        _tegrastats, _tegrastats_looked_for, "NVIDIA's tegrastats program on a Jetson"
    ),
    "battery": SensorKind(_battery, _battery_looked_for, "a laptop's battery; slow"),
    SIMULATED: SensorKind(
        _simulated, lambda _where: [], "a made-up board, for trying things out", simulated=True
    ),
}
# What `auto` tries, in order; what stands together are different supplies, taken together.
_AUTO_ANY = (("ina3221",), ("tegrastats",), ("nvml", "rapl"), ("battery",))
_AUTO_GPU = (("ina3221",), ("tegrastats",), ("nvml",))
_AUTO_CPU = (("ina3221",), ("tegrastats",), ("rapl",), ("battery",))


@dataclass(frozen=True)
class SensorChoice:
    """Which sensor a measurement uses.

    Attributes:
        name: The sensor, several with commas between, or `none`.
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


def names_of(text: str) -> tuple[str, ...]:
    """Return the sensors of a list `a,b`, each once.

    Raises:
        UsageError: No such sensor, or one that goes with no other.
    """
    names = tuple(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))
    for name in names or (text,):
        if name not in known_sensors():
            known = ", ".join(known_sensors())
            raise UsageError(f"unknown sensor {name!r}", f"known are {known}")
        if len(names) > 1 and name in {AUTO, NONE, SIMULATED}:
            raise UsageError(f"--sensor {text}: {name} goes with no other", f"give {name} alone")
    return names


def open_sensor(text: str, where: Where = Where()) -> Sensor:  # noqa: B008 (frozen)
    """Open a sensor by name, or several; `simulated` wants the simulated board's tree as its root.

    Raises:
        UsageError: No such sensor.
        MeasurementError: It is not here, or cannot be read.
    """
    names = names_of(text)
    for name in names:
        if name not in SENSORS:
            raise UsageError(
                f"sensor {name!r} cannot be opened", f"give one of {', '.join(SENSORS)}"
            )
    opened: list[Sensor] = []
    try:
        for name in names:
            opened.append(SENSORS[name].open(where))  # noqa: PERF401 (closed if one fails)
    except BaseException:
        for sensor in opened:
            sensor.close()
        raise
    return opened[0] if len(opened) == 1 else SeveralSensors(opened)


def choose_sensor(
    text: str,
    where: Where = Where(),  # noqa: B008 (frozen)
    device: str | None = None,
) -> SensorChoice:
    """Choose a sensor as `--sensor` says; `auto` reads a value from each candidate in turn.

    Args:
        text: `auto`, `none`, a sensor's name or several with commas between.
        where: Where to look.
        device: What is measured, `cpu` or `cuda:<n>`: `auto` then takes only a sensor that sees
            it. None: whatever is here.

    Raises:
        UsageError: No such sensor, or one asked for by name that is not here.
    """
    names = names_of(text)
    if text == NONE:
        return SensorChoice(NONE, "asked for no sensor", usable=False, mend="", tried=())
    if text == AUTO:
        return _choose_real(where, device)
    if names == (SIMULATED,):
        if sys.platform == "win32":
            raise UsageError("the simulated board needs Linux or macOS", "use --sensor none")
        why = "asked for by name; its power is made up"
        return SensorChoice(SIMULATED, why, usable=True, mend="", tried=())
    tried = []
    for name in names:
        try:
            tried.append((name, try_sensor(name, where, device)))
        except EdgejouleError as error:
            mend = error.mend or "use --sensor none to measure time alone"
            raise UsageError(f"sensor {name}: {error.message}", mend) from error
    why = "asked for by name; " + "; ".join(found for _, found in tried)
    return SensorChoice(",".join(names), why, usable=True, mend="", tried=tuple(tried))


def _choose_real(where: Where, device: str | None) -> SensorChoice:
    tried: list[tuple[str, str]] = []
    mends: list[str] = []
    if device is None:
        order: Sequence[Sequence[str]] = _AUTO_ANY
    else:
        order = _AUTO_CPU if device == "cpu" else _AUTO_GPU
    for together in order:
        usable = []
        for name in together:
            try:
                tried.append((name, try_sensor(name, where, device)))
                usable.append(name)
            except EdgejouleError as error:
                tried.append((name, error.message))
                mends.append(error.mend)
        if usable:
            found = dict(tried)
            why = "; ".join(found[name] for name in usable)
            return SensorChoice(",".join(usable), why, True, "", tuple(tried))
    why = "; ".join(f"{name}: {reason}" for name, reason in tried)
    mends.append("`--sensor simulated` tries things out with made-up power")
    mend = "; ".join(dict.fromkeys(filter(None, mends)))
    return SensorChoice(NONE, why, usable=False, mend=mend, tried=tuple(tried))


def try_sensor(name: str, where: Where, device: str | None = None) -> str:
    """Read one value; return what was read, for people.

    Raises:
        EdgejouleError: It is not here or gives no value; or it cannot be told which of NVML's GPUs
            the measured one is, whose place the first must not take.
    """
    if name == "nvml" and device not in {None, "cpu"} and where.gpu_uuid is None:
        raise UsageError(
            f"which of NVML's GPUs {device} is cannot be told",
            "see `measure_power.py rails` and that CUDA and NVML show the same GPUs",
        )
    sensor = open_sensor(name, where)
    reasons: set[str] = set()
    with contextlib.closing(sensor):
        for channel in sensor.channels():
            try:
                value = sensor.read(channel.index)
            except OSError as error:
                code = errno.errorcode.get(error.errno or 0, str(error))
                reasons.add(f"{channel.rail} {channel.source}: {code}")
                continue
            rails = len({other.rail for other in sensor.channels()})
            return f"{channel.rail} reads {value} {channel.unit}, {rails} rails"
    raise UsageError(
        f"found, but no value can be read ({', '.join(sorted(reasons))})",
        "see `dmesg` for what the driver says",
    )


def board_channels(where: Where) -> tuple[Channel, ...]:
    """Return the channels of the board's own power monitors, none where there are none.

    They tell which board this is where nothing else does (a container without device tree).
    """
    try:
        sensor = open_sensor("ina3221", where)
    except EdgejouleError:
        return ()
    with contextlib.closing(sensor):
        return sensor.channels()


def identify(sensor: Sensor, where: Where) -> tuple[dict[str, Any] | None, Total | None]:
    """Return the board that an open sensor's rails are of, as plain values, and the total.

    Rails that are of no board (NVML, RAPL, a battery) have none.

    Raises:
        UsageError: EDGEJOULE_BOARD names a board that these rails are not of.
    """
    from edgejoule.power.recognise import read_clues, recognise
    from edgejoule.power.totals import board_sensors, combined_total, rails_by_sensor

    plain = [channel.to_json() for channel in sensor.channels()]
    own = rails_by_sensor(plain, sensor.name)
    if not board_sensors(own):
        return None, combined_total(own, None)
    configuration = sensor.configuration()
    parts = [configuration, *configuration.get("sensors", {}).values()]
    left_out = [item for part in parts for item in part.get("left_out", ())]
    found = recognise(plain, read_clues(where.sysfs_root), left_out)
    return found.to_json(), combined_total(own, found.total)
