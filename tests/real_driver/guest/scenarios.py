"""What is done to the chips while the project's reader and sampler run, scenario by scenario.

    scenarios.py NAME...       results in $OUT: <name>.json, and a folder <name>/ of files

Each scenario stands alone: one that fails leaves `failed` in its JSON, the others run. Judged on
the host, by tests/real_driver/test_*.py. Standard library only: it runs in the guest, as root.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from edgejoule.power.acquire import Attribution
from edgejoule.power.chip_settings import changed_chip_settings, restore_left_over
from edgejoule.power.exciter_schedule import plan_edges
from edgejoule.power.sweeper import Changes, Sweeper, Tally
from edgejoule.records import POWER, RecordWriter
from tests.real_driver.guest import chip, signals
from tests.real_driver.guest.driver import (
    DRIVER,
    Result,
    attribute,
    bind_anew,
    chips,
    configurations,
    facts,
    opened,
    read_all,
    record,
    setting,
)


def rails(_out: Path) -> Result:
    """What is found, before anything is measured."""
    openings = []
    for _ in range(12):  # what reading tells of the driver must not depend on the moment
        with opened() as sensor:
            openings.append([group.blocking for group in sensor.groups()])
        time.sleep(0.0137)
    with opened() as sensor:
        return {**facts(sensor), "values": read_all(sensor), "openings": openings}


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


# The truth that a calibration is compared with; a chip has one clock, its channels have their own
# low-pass on the board, and in a chip's real life one averaging.
PERIOD_NS = round(chip.CYCLE_NS * signals.OSCILLATOR)
CONVERTERS = (
    signals.Converter(PERIOD_NS, 1_100_000, 700_000, 4, 400_000, low=60, high=310, noise=0.6),
    signals.Converter(PERIOD_NS, 588_000, 1_200_000, 1, 250_000, low=40, high=180, noise=0.6),
)


def pulses(out: Path, seconds: float = 20.0) -> Result:
    """Pulses of known times on the first two rails, polled at the attribution rate."""
    edges = plan_edges(int(seconds * 1e9), chip.CYCLE_NS, seed=3)
    table = signals.pulses(CONVERTERS, edges, seconds + 0.3, seed=3)
    start_ns = 0

    def during() -> None:
        nonlocal start_ns
        start_ns = time.monotonic_ns() + 100_000_000
        chip.play(0x40, table.to_bytes(start_ns))
        time.sleep(seconds + 0.2)

    with opened() as sensor:
        currents = [c for c in sensor.channels() if c.quantity == "current"][: len(CONVERTERS)]
    polled = Attribution(tuple(channel.rail for channel in currents), seed=7)
    result = record(out / "pulses", during, polled)
    chip.play(0x40, b"")
    known = [
        {**asdict(one), "channel": channel.index, "shown_ns": start_ns + table.complete_ns[2 * n]}
        for n, (one, channel) in enumerate(zip(CONVERTERS, currents, strict=True))
    ]
    return {**result, "start_ns": start_ns, "edges_ns": edges, "truth": known}


def cpu(_out: Path, sweeps: int = 400) -> Result:
    """CPU time of a sweep: the sampler's own, and opening, reading and closing each file."""
    spent: Result = {}
    with opened() as sensor, tempfile.TemporaryDirectory() as folder:
        for channel in (1, 2, 3):
            chip.set_channel(0x40, channel, 625, 100)
        count = len(sensor.channels())
        writer = RecordWriter(Path(folder, "power.bin"), POWER, {})
        every = tuple(range(count))
        sweeper = Sweeper(sensor, every, writer, Tally(), Changes(count))
        paths = [attribute(c.chip, c.source) for c in sensor.channels()]
        for _ in range(sweeps // 10):
            sweeper.sweep()
            rows = [_poll(path) for path in paths]
        began_ns = time.process_time_ns()
        for _ in range(sweeps):
            sweeper.sweep()
        spent["sampler_ns"] = (time.process_time_ns() - began_ns) / sweeps
        writer.close()
        began_ns = time.process_time_ns()
        for _ in range(sweeps):
            rows = [_poll(path) for path in paths]
        spent["polling_ns"] = (time.process_time_ns() - began_ns) / sweeps
        return {**spent, "files": count, "values": [value for *_, value in rows]}


def _poll(path: Path) -> tuple[int, int, int]:
    """Read a value as one would at first."""
    t0_ns = time.monotonic_ns()
    with open(path) as file:  # noqa: PTH123 (the plain way is what this is)
        value = int(file.read())
    return t0_ns, time.monotonic_ns(), value


# samples, update_interval as written (ms), in3_enable
SETTINGS = (
    ("1", "7", "1"),
    ("1", "0", "1"),
    ("1", "50", "1"),
    ("4", "26", "1"),
    ("64", "40", "1"),
    ("1", "4", "0"),
    ("16", "20", "0"),
)


def settings(_out: Path) -> Result:
    """What the reader makes of other settings of the driver."""
    found = []
    for samples, interval, enabled in SETTINGS:
        attribute("1-0040", "in3_enable").write_text(enabled)
        attribute("1-0040", "samples").write_text(samples)
        attribute("1-0040", "update_interval").write_text(interval)
        with opened() as sensor:
            config = chip.read_register(0x40, 0)
            shown = int(attribute("1-0040", "update_interval").read_text())
            found.append({"config": config, "shown_ms": shown, **facts(sensor)})
        bind_anew()
    return {"found": found, "asked": SETTINGS}


def put_back(out: Path) -> Result:
    """The project changes the settings of all chips, and puts them back however it ends."""
    rows = []
    for samples, interval in (("1", "7"), ("1", "0"), ("16", "100"), ("4", "5"), ("256", "2000")):
        for registers_shown in (True, False):
            for name, _ in chips():
                attribute(name, "samples").write_text(samples)
                attribute(name, "update_interval").write_text(interval)
            if not registers_shown:
                subprocess.run(["umount", "/sys/kernel/debug"], check=True)
            try:
                ways = ("done", "raised", "killed") if samples == "16" else ("done", "raised")
                rows += [_changed(how, registers_shown) for how in ways]
            finally:
                if not registers_shown:
                    command = ["mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug"]
                    subprocess.run(command, check=True)
            bind_anew()
    return {"rows": rows}


def _changed(how: str, registers_shown: bool) -> Result:
    """Change settings, end in one of three ways, and look at the registers."""
    said: list[str] = []
    notes: list[str] = []
    during: list[int] = []
    before = configurations()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        if how == "killed":
            code = KILLED.format(state=str(state))
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
            during = json.loads(done.stdout or b"[]")
            said = restore_left_over(state=state)
        else:
            with contextlib.suppress(ZeroDivisionError):
                change = changed_chip_settings(
                    update_interval_ms=2, samples=4, state=state, say=said.append
                )
                with change as changed:
                    during = configurations()
                    notes = [one.note for one in changed if one.note]
                    if how == "raised":
                        raise ZeroDivisionError
        left = [path.name for path in state.iterdir() if path.suffix == ".json"]
    return {
        "how": how,
        "registers_shown": registers_shown,
        "before": before,
        "during": during,
        "after": configurations(),
        "notes": notes,
        "said": said,
        "left": left,
    }


KILLED = """
import json, os, signal
from pathlib import Path
from edgejoule.power.chip_settings import changed_chip_settings
from tests.real_driver.guest.driver import configurations
with changed_chip_settings(update_interval_ms=2, samples=4, state=Path({state!r})):
    print(json.dumps(configurations()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


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
        pulses,
        cpu,
        settings,
        put_back,
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
