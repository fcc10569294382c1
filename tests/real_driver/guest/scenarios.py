"""What is done to the chips while the project's reader and sampler run, scenario by scenario.

    scenarios.py NAME...       results in $OUT: <name>.json, and a folder <name>/ of files

Each scenario stands alone: one that fails leaves `failed` in its JSON, the others run. Judged on
the host, by tests/real_driver/test_*.py. Standard library only: it runs in the guest, as root.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgejoule.power.acquire import Attribution, start_sampler
from edgejoule.power.boards import total_rails
from edgejoule.power.sensor import Sensor, Where
from edgejoule.power.sensors import open_sensor
from tests.real_driver.guest import chip, signals

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
            {"name": g.name, "refresh_ns": g.refresh_ns, "blocking": g.blocking}
            for g in sensor.groups()
        ],
        "total": total_rails([channel.rail for channel in sensor.channels()]),
        "configuration": sensor.configuration(),
    }


def rails(_out: Path) -> Result:
    """What is found, before anything is measured."""
    with opened() as sensor:
        return {**facts(sensor), "values": read_all(sensor)}


def values(_out: Path) -> Result:
    """Steps written to every channel of every chip, and what is read of them."""
    pairs = [(625, 100), (609, 250), (1, 1), (0, 0), (4000, 4095), (625, -10), (2047, -4090)]
    rows = []
    with opened() as sensor:
        for at, (bus, shunt) in enumerate(pairs):
            written = {}
            for name, address in chips():
                for channel in (1, 2, 3):
                    own = (bus + channel * (at % 2), shunt - channel)
                    chip.set_channel(address, channel, *own)
                    written[f"{name} {channel}"] = own
            rows.append({"written": written, "read": read_all(sensor)})
    return {"rows": rows}


def switched_off(_out: Path) -> Result:
    """A channel that is switched off while the reader has it open, and back on."""
    for channel in (1, 2, 3):
        chip.set_channel(0x40, channel, 600 + channel, 50)
    with opened() as sensor:
        with setting("1-0040", "in2_enable", "0"):
            off = read_all(sensor)
            with opened() as other:
                left = {**facts(other), "values": read_all(other)}
        return {"off": off, "on": read_all(sensor), "opened_while_off": left}


def shunts(_out: Path) -> Result:
    """Shunts that are not alike."""
    found: Result = {}
    for channel in (1, 2, 3):
        chip.set_channel(0x40, channel, 600, 100)
    for shunt in ("2000", "10000"):
        with setting("1-0040", "shunt2_resistor", shunt), opened() as sensor:
            found[shunt] = {**facts(sensor), "values": read_all(sensor)}
    return found


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


def moving(out: Path, seconds: float = 8.0) -> Result:
    """The monitor rate on a moving signal."""
    return _moving(out, "moving", None, seconds)


def moving_attribution(out: Path, seconds: float = 5.0) -> Result:
    """Both rates on a moving signal; the rails of the board's total are polled."""
    return _moving(out, "moving_attribution", Attribution(seed=5), seconds)


def _moving(out: Path, name: str, attribution: Attribution | None, seconds: float) -> Result:
    tables = [(*found, signals.wandering(found[1], seconds + 1.0)) for found in chips()]
    start_ns = 0

    def during() -> None:
        nonlocal start_ns
        start_ns = time.monotonic_ns() + 100_000_000
        for chip_name, address, table in tables:
            data = table.to_bytes(start_ns)
            (out / name / f"{chip_name}.table").write_bytes(data)
            chip.play(address, data)
        if time.monotonic_ns() > start_ns:
            raise TimeoutError("the tables came too late")
        time.sleep(seconds + 0.5)

    result = record(out / name, during, attribution)
    for _, address in chips():
        chip.play(address, b"")
    return {**result, "start_ns": start_ns, "end_ns": start_ns + int(seconds * 1e9)}


def rebinding(out: Path) -> Result:
    """The driver is taken off the chip and put back while the sampler runs."""
    times: dict[str, int] = {}

    def bind(what: str) -> None:
        times[f"{what}_from_ns"] = time.monotonic_ns()
        (DRIVER / what).write_text("1-0040")
        times[f"{what}_until_ns"] = time.monotonic_ns()

    def during() -> None:
        chip.set_channel(0x40, 1, 625, 100)
        time.sleep(0.5)
        bind("unbind")
        time.sleep(0.5)
        chip.set_channel(0x40, 1, 600, 200)
        bind("bind")
        time.sleep(0.7)

    result = record(out / "rebinding", during)
    return {**result, **times}


def no_conversion(out: Path) -> Result:
    """The conversion-ready flag stays away for a while: reads that wait for it time out."""
    times: dict[str, int] = {}

    def during() -> None:
        chip.set_channel(0x40, 1, 625, 100)
        time.sleep(0.5)
        chip.set_parameter("ready", "N")
        times["gone_ns"] = time.monotonic_ns()
        time.sleep(1.0)
        times["back_ns"] = time.monotonic_ns()
        chip.set_parameter("ready", "Y")
        time.sleep(0.5)

    return {**record(out / "no_conversion", during), **times}


def gone_for_good(out: Path) -> Result:
    """The driver is taken off the chip and stays away: the sampler ends and says so."""

    def during() -> None:
        time.sleep(0.3)
        (DRIVER / "unbind").write_text("1-0040")
        time.sleep(3.5)

    try:
        return record(out / "gone_for_good", during)
    finally:
        (DRIVER / "bind").write_text("1-0040")


SCENARIOS: dict[str, Callable[[Path], Result]] = {
    function.__name__: function
    for function in (
        rails,
        values,
        switched_off,
        shunts,
        moving,
        moving_attribution,
        rebinding,
        no_conversion,
        gone_for_good,
    )
}


def main(names: list[str], out: Path) -> int:
    """Run scenarios by name; return how many failed."""
    failed = 0
    for name in names:
        started_ns = time.monotonic_ns()
        try:
            result = SCENARIOS[name](out)
        except Exception:  # noqa: BLE001 (the other scenarios run all the same)
            result = {"failed": traceback.format_exc()}
            failed += 1
        seconds = (time.monotonic_ns() - started_ns) * 1e-9
        (out / f"{name}.json").write_text(json.dumps({**result, "guest_s": seconds}))
        print(f"{name}: {seconds:.1f} s")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(os.environ["OUT"])))
