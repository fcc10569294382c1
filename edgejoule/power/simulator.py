"""The simulated board: a process that keeps an INA3221-like sysfs tree in a temporary folder.

`edgejoule.power.simulated_board` says what it draws. Here: the tree (as the Linux driver lays it
out on an Orin NX), the loop that looks at the run's shared page once per conversion, and
`truth.json`. The usual reader, sampler and arithmetic work on it as on a board.

Every value is rewritten in place by one `pwrite` of eight bytes, so that a reader with a kept
descriptor sees a whole, current number.

Config: `tree` (becomes the sysfs root), `page`, `phase_log`, `truth`, `seed`. Says `ready`, at the
end `done`. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError
from edgejoule.files import write_json
from edgejoule.phases import PHASES, PageReader
from edgejoule.power.sampler import raise_priority, sharpen_timer
from edgejoule.power.simulated_board import (
    CHIP,
    CYCLE_NS,
    RAILS,
    SHUNT_UOHM,
    SLOT_NS,
    Board,
    EnergyBook,
    Load,
)
from edgejoule.processes import Parent, child_main

_WIDTH = 8
_SETTLE_EVERY_NS = 500_000_000
_WARM_EVERY_NS = 100_000_000
_NOTHING = Load("setup")


class Tree:
    """The files of the simulated board.

    Args:
        root: A folder that becomes the sysfs root; it is created.
    """

    def __init__(self, root: Path) -> None:
        chip = root / "devices" / "i2c-1" / CHIP
        hwmon = chip / "hwmon" / "hwmon0"
        zone = root / "class" / "thermal" / "thermal_zone0"
        classes = root / "class" / "hwmon"
        for directory in (hwmon, zone, classes):
            directory.mkdir(parents=True, exist_ok=True)
        # As on a board: the class entry and the device are links, and the address is in the path.
        _link(classes / "hwmon0", Path("../../devices/i2c-1", CHIP, "hwmon/hwmon0"))
        _link(hwmon / "device", Path("../..", "..", CHIP))
        constants = {"name": "ina3221", "samples": "1", "update_interval": "7"}
        for number, rail in enumerate(RAILS, 1):
            constants[f"in{number}_label"] = rail.label
            constants[f"in{number}_enable"] = "1"
            constants[f"shunt{number}_resistor"] = str(SHUNT_UOHM)
        for name, text in constants.items():
            (hwmon / name).write_text(f"{text}\n", encoding="ascii")
        (zone / "type").write_text("tj-thermal\n", encoding="ascii")
        numbers = range(1, len(RAILS) + 1)
        self._bus = [_open_value(hwmon / f"in{number}_input") for number in numbers]
        self._current = [_open_value(hwmon / f"curr{number}_input") for number in numbers]
        self._temperature = _open_value(zone / "temp")

    def show(self, rail: int, bus_mv: int, current_ma: int) -> None:
        """Put a conversion's result into a channel's two files."""
        _write_value(self._bus[rail], bus_mv)
        _write_value(self._current[rail], current_ma)

    def show_temperature(self, temperature_c: float) -> None:
        """Put the temperature into its file, in thousandths of a degree."""
        _write_value(self._temperature, round(temperature_c * 1000))

    def close(self) -> None:
        """Close the files; they stay as they are."""
        for descriptor in (*self._bus, *self._current, self._temperature):
            os.close(descriptor)


class Observer:
    """What the simulated board knows of the run: the shared page and the phase log.

    Args:
        page_path: `page.bin`; it may come later than this process.
        log_path: `phases.jsonl`; likewise.
    """

    def __init__(self, page_path: Path, log_path: Path) -> None:
        self._page_path = page_path
        self._log_path = log_path
        self._page: PageReader | None = None
        self._log_fd: int | None = None
        self._rest = b""
        self._load = _NOTHING

    def look(self) -> Load:
        """Return what the board is asked to do now."""
        if self._page is None:
            try:
                self._page = PageReader(self._page_path)
            except (OSError, ValueError):  # not there, or not yet of its size
                return self._load
        state = self._page.read()
        if state is not None and state.phase_start_ns:  # 0: nobody has marked a phase yet
            start_ns = state.inference_start_ns if state.inference >= 0 else None
            self._load = Load(state.phase, start_ns)
        return self._load

    def new_marks(self) -> list[tuple[int, str]]:
        """Return the marks that were logged since the last call."""
        if self._log_fd is None:
            try:
                self._log_fd = os.open(self._log_path, os.O_RDONLY)
            except OSError:
                return []
        found = []
        while data := os.read(self._log_fd, 65536):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    mark = json.loads(line)
                    if mark["phase"] in PHASES:
                        found.append((int(mark["start_ns"]), str(mark["phase"])))
        return found

    def close(self) -> None:
        """Close page and log."""
        if self._page is not None:
            self._page.close()
        if self._log_fd is not None:
            os.close(self._log_fd)


def main(config: dict[str, Any], parent: Parent) -> None:
    """Run the simulated board."""
    sharpen_timer()
    raise_priority()
    root = Path(config["tree"])
    try:
        tree = Tree(root)
    except OSError as error:
        raise MeasurementError(
            f"cannot make the simulated board's files in {root}: {error.strerror}",
            "see the folder's permissions and its disk",
        ) from error
    observer = Observer(Path(config["page"]), Path(config["phase_log"]))
    book = EnergyBook()
    with contextlib.closing(tree), contextlib.closing(observer):
        last_ns = _run(tree, observer, book, int(config["seed"]), parent)
        for mark in observer.new_marks():
            book.mark(*mark)
    book.settle(None)
    truth = {**book.to_json(last_ns), "seed": int(config["seed"]), "cpu_s": time.process_time()}
    write_json(Path(config["truth"]), truth)
    parent.say("done", truth=config["truth"])


def _run(tree: Tree, observer: Observer, book: EnergyBook, seed: int, parent: Parent) -> int:
    """Play the board until the parent says stop; return when its last window ended."""
    clock = time.monotonic_ns
    start_ns = clock()
    board = Board(seed, start_ns)
    since_ns, due_ns = [], []
    for rail, power_mw in enumerate(board.power_mw):
        since_ns.append(clock())
        tree.show(rail, *board.registers(power_mw))
        due_ns.append(start_ns + CYCLE_NS + rail * SLOT_NS)
    tree.show_temperature(board.temperature_c)
    warm_ns, settle_ns = start_ns + _WARM_EVERY_NS, start_ns + _SETTLE_EVERY_NS
    parent.say("ready", rails=[rail.label for rail in RAILS])
    while not parent.poll((min(due_ns) - clock()) * 1e-9):
        load = observer.look()
        now_ns = clock()
        for rail, due in enumerate(due_ns):
            if due > now_ns:
                continue
            old_mw = board.power_mw[rail]
            values = board.registers(board.step(rail, load, now_ns, now_ns - since_ns[rail]))
            shown_ns = clock()  # as near as can be to the moment at which readers see it
            tree.show(rail, *values)
            book.add(rail, since_ns[rail], shown_ns, old_mw)
            since_ns[rail] = shown_ns
            due_ns[rail] += CYCLE_NS * max(1, -(-(now_ns - due) // CYCLE_NS))
        if now_ns >= warm_ns:
            tree.show_temperature(board.warm(now_ns))
            warm_ns = now_ns + _WARM_EVERY_NS
        if now_ns >= settle_ns:
            for mark in observer.new_marks():
                book.mark(*mark)
            book.settle(now_ns)
            settle_ns = now_ns + _SETTLE_EVERY_NS
    last_ns = clock()
    for rail, power_mw in enumerate(board.power_mw):
        book.add(rail, since_ns[rail], last_ns, power_mw)
    return last_ns


def _open_value(path: Path) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    _write_value(descriptor, 0)
    return descriptor


def _write_value(descriptor: int, value: int) -> None:
    os.pwrite(descriptor, f"{value:<{_WIDTH - 1}d}\n".encode("ascii"), 0)


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


if __name__ == "__main__":
    child_main(main, death_signal=signal.SIGTERM)
