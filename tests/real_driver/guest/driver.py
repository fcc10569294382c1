"""The driver's files as the guest sees them, and the project's reader and sampler on them.

Standard library only: it runs in the guest, as root.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgejoule.power.acquire import Attribution, start_sampler
from edgejoule.power.boards import total_rails
from edgejoule.power.sensor import Sensor, Where
from edgejoule.power.sensors import open_sensor
from tests.real_driver.guest import chip

DRIVER = Path("/sys/bus/i2c/drivers/ina3221")
Result = dict[str, Any]


def chips() -> list[tuple[str, int]]:
    """Return name and address of each chip that the driver is bound to: `1-0040`, 0x40."""
    return [(path.name, int(path.name[-2:], 16)) for path in sorted(DRIVER.glob("1-00*"))]


def attribute(chip_name: str, name: str) -> Path:
    """Return one of the driver's files of a chip, wherever its hwmon is now."""
    (directory,) = (DRIVER / chip_name / "hwmon").iterdir()
    return directory / name


@contextlib.contextmanager
def setting(chip_name: str, name: str, value: str) -> Iterator[None]:
    """Change one of the driver's settings for a while."""
    before = attribute(chip_name, name).read_text()
    attribute(chip_name, name).write_text(value)
    try:
        yield
    finally:
        attribute(chip_name, name).write_text(before)


@contextlib.contextmanager
def opened() -> Iterator[Sensor]:
    """The project's reader on the driver's real files."""
    sensor = open_sensor("ina3221", Where())
    try:
        yield sensor
    finally:
        sensor.close()


def read_all(sensor: Sensor) -> dict[str, int | str]:
    """Read each channel once: the value, or the error's name."""
    values: dict[str, int | str] = {}
    for channel in sensor.channels():
        try:
            value: int | str = sensor.read(channel.index)
        except OSError as error:
            value = errno.errorcode.get(error.errno or 0, str(error))
        values[f"{channel.chip} {channel.source}"] = value
    return values


def facts(sensor: Sensor) -> Result:
    """Return what the reader found."""
    return {
        "channels": [channel.to_json() for channel in sensor.channels()],
        "groups": [
            {
                "name": group.name,
                "refresh_ns": group.refresh_ns,
                "period_ns": group.period_ns,
                "blocking": group.blocking,
            }
            for group in sensor.groups()
        ],
        "total": total_rails([channel.rail for channel in sensor.channels()]),
        "configuration": sensor.configuration(),
    }


def bind_anew() -> None:
    """Take the driver off all chips and put it back: it resets them."""
    for name, _ in chips():
        (DRIVER / "unbind").write_text(name)
        (DRIVER / "bind").write_text(name)


def record(
    folder: Path, during: Callable[[], None], attribution: Attribution | None = None
) -> Result:
    """Let the project's sampler process run while something happens."""
    folder.mkdir()
    child, ready = start_sampler("ina3221", folder, Where(), attribution=attribution)
    try:
        during()
    finally:
        status = child.stop(grace_s=30.0)
    said = [message for message in child.received if message["kind"] != "ready"]
    return {"ready": ready, "said": said, "status": status}


def configurations() -> list[int]:
    """Return each chip's configuration register."""
    return [chip.read_register(address, 0) for _, address in chips()]
