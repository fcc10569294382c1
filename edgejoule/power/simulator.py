"""The simulated board: a process that keeps an INA3221-like sysfs tree in a temporary folder.

`edgejoule.power.simulated_board` says what it draws. Here: the tree (as the Linux driver lays it
out on an Orin NX), the loop that looks at the run's shared page once per conversion, and
`truth.json`. The usual reader, sampler and arithmetic work on it as on a board.

Every value is rewritten in place by one `pwrite` of eight bytes, so that a reader with a kept
descriptor sees a whole, current number.

Config: `tree` (becomes the sysfs root), `page`, `phase_log`, `truth`, `seed`; and, beside the page,
`chip.json` if a chip is to be modelled. Says `ready`, at the end `done`. Standard library only.
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
from edgejoule.power.scheduling import raise_priority, sharpen_timer
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
from edgejoule.power.simulated_chip import (
    CHIP_FILE,
    EDGES_FILE,
    AnnouncedEdges,
    ChipParameters,
    LoadSignal,
    read_chip,
)
from edgejoule.processes import Parent, child_main

_WIDTH = 8
_SETTLE_EVERY_NS = 500_000_000
_WARM_EVERY_NS = 100_000_000
_EARLY_NS = 150_000
_NOTHING = Load("setup")


class Tree:
    """The files of the simulated board.

    Args:
        root: A folder that becomes the sysfs root; it is created.
        settings: What the chip says of itself: refresh and averaging.
    """

    def __init__(self, root: Path, settings: ChipParameters = ChipParameters()) -> None:  # noqa: B008 (frozen)
        chip = root / "devices" / "i2c-1" / CHIP
        hwmon = chip / "hwmon" / "hwmon0"
        zone = root / "class" / "thermal" / "thermal_zone0"
        classes = root / "class" / "hwmon"
        for directory in (hwmon, zone, classes):
            directory.mkdir(parents=True, exist_ok=True)
        # As on a board: the class entry and the device are links, and the address is in the path.
        _link(classes / "hwmon0", Path("../../devices/i2c-1", CHIP, "hwmon/hwmon0"))
        _link(hwmon / "device", Path("../..", "..", CHIP))
        constants = {
            "name": "ina3221",
            "samples": str(settings.samples),
            "update_interval": str(-(-settings.refresh_ns // 1_000_000)),
        }
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
    """Run the simulated board, with the chip of `chip.json` if that file is there."""
    sharpen_timer()
    raise_priority()
    root = Path(config["tree"])
    beside = Path(config["page"]).parent
    chip = read_chip(beside / CHIP_FILE)
    try:
        tree = Tree(root, chip or ChipParameters())
    except OSError as error:
        raise MeasurementError(
            f"cannot make the simulated board's files in {root}: {error.strerror}",
            "see the folder's permissions and its disk",
        ) from error
    observer = Observer(Path(config["page"]), Path(config["phase_log"]))
    book = EnergyBook()
    board = Board(int(config["seed"]), time.monotonic_ns())
    source: Following | Chip = Following(board, observer)
    if chip is not None:
        source = Chip(board, chip, beside / EDGES_FILE)
    with contextlib.closing(tree), contextlib.closing(observer), contextlib.closing(source):
        last_ns = _run(tree, source, board, observer, book, parent)
        for mark in observer.new_marks():
            book.mark(*mark)
    book.settle(None)
    truth = {**book.to_json(last_ns), "seed": int(config["seed"]), "cpu_s": time.process_time()}
    if chip is not None:
        truth["chip"] = chip.to_json()
    write_json(Path(config["truth"]), truth)
    parent.say("done", truth=config["truth"])


class Following:
    """The default: rails follow the run's load, the registers show the very power drawn.

    Args:
        board: What is drawn.
        observer: What the run does.
    """

    cycle_ns, slot_ns, early_ns = CYCLE_NS, SLOT_NS, 0

    def __init__(self, board: Board, observer: Observer) -> None:
        self._board = board
        self._observer = observer
        self._ended = list(board.power_mw)
        self._load = _NOTHING

    def look(self) -> None:
        """Take note of what is asked for now."""
        self._load = self._observer.look()

    def convert(self, rail: int, _due_ns: int, now_ns: int, since_ns: int) -> tuple[int, int]:
        """Return mV and mA to be shown from now on."""
        self._ended[rail] = self._board.power_mw[rail]
        power_mw = self._board.step(rail, self._load, now_ns, now_ns - since_ns)
        return self._board.registers(power_mw)

    def drawn_mw(self, rail: int, _since_ns: int, _until_ns: int) -> float:
        """Return the mean power over the window that the last `convert` of this rail ended."""
        return self._ended[rail]

    def close(self) -> None:
        """Nothing to close: the observer is somebody else's."""


class Chip:
    """A modelled chip over an announced load (`edgejoule.power.simulated_chip`).

    Args:
        board: For noise and the steps of the registers.
        parameters: The chip.
        edges: The file of edges.
    """

    def __init__(self, board: Board, parameters: ChipParameters, edges: Path) -> None:
        self.cycle_ns = parameters.refresh_ns
        self.slot_ns = parameters.refresh_ns // len(RAILS)
        self.early_ns = _EARLY_NS
        self._board = board
        self._parameters = parameters
        self._signal = LoadSignal(parameters.tau_ns)
        self._edges = AnnouncedEdges(edges, self._signal)
        self._shown = [rail.idle_mw for rail in RAILS]

    def look(self) -> None:
        """Take note of the edges announced since."""
        self._edges.look()

    def convert(self, rail: int, due_ns: int, now_ns: int, _since_ns: int) -> tuple[int, int]:
        """Return mV and mA to be shown from now on: the conversion that was due last.

        Windows belong to when values are due, not to when this process got round to showing them;
        conversions that it slept through enter the chip's average all the same.
        """
        chip = self._parameters
        for due in range(due_ns, max(due_ns, now_ns) + 1, chip.refresh_ns):
            end_ns = due - chip.delay_ns
            mean_mw = self._power(rail, self._signal.mean(end_ns - chip.window_ns, end_ns))
            self._shown[rail] += (mean_mw - self._shown[rail]) / chip.samples
        return self._board.registers(self._shown[rail])

    def drawn_mw(self, rail: int, since_ns: int, until_ns: int) -> float:
        """Return the mean of the power drawn, before any low-pass."""
        if until_ns <= since_ns:
            return RAILS[rail].idle_mw
        return self._power(rail, self._signal.mean(since_ns, until_ns, filtered=False))

    def close(self) -> None:
        """Close the file of edges."""
        self._edges.close()

    @staticmethod
    def _power(rail: int, load: float) -> float:
        return RAILS[rail].idle_mw + load * RAILS[rail].inference_mw


def _run(
    tree: Tree, source: Following | Chip, board: Board, observer: Observer, book: EnergyBook,
    parent: Parent,
) -> int:  # fmt: skip
    """Play the board until the parent says stop; return when its last window ended."""
    clock = time.monotonic_ns
    start_ns, cycle_ns = clock(), source.cycle_ns
    since_ns, due_ns = [], []
    for rail, power_mw in enumerate(board.power_mw):
        since_ns.append(clock())
        tree.show(rail, *board.registers(power_mw))
        due_ns.append(start_ns + cycle_ns + rail * source.slot_ns)
    tree.show_temperature(board.temperature_c)
    warm_ns, settle_ns = start_ns + _WARM_EVERY_NS, start_ns + _SETTLE_EVERY_NS
    parent.say("ready", rails=[rail.label for rail in RAILS])
    while not parent.poll((min(due_ns) - source.early_ns - clock()) * 1e-9):
        source.look()
        while source.early_ns and clock() < min(due_ns):
            pass  # a modelled chip shows its values on time, not when the scheduler wakes us
        now_ns = clock()
        for rail, due in enumerate(due_ns):
            if due > now_ns:
                continue
            values = source.convert(rail, due, now_ns, since_ns[rail])
            shown_ns = clock()  # as near as can be to the moment at which readers see it
            tree.show(rail, *values)
            book.add(
                rail, since_ns[rail], shown_ns, source.drawn_mw(rail, since_ns[rail], shown_ns)
            )
            since_ns[rail] = shown_ns
            due_ns[rail] += cycle_ns * max(1, -(-(now_ns - due) // cycle_ns))
        if now_ns >= warm_ns:
            tree.show_temperature(board.warm(now_ns))
            warm_ns = now_ns + _WARM_EVERY_NS
        if now_ns >= settle_ns:
            for mark in observer.new_marks():
                book.mark(*mark)
            book.settle(now_ns)
            settle_ns = now_ns + _SETTLE_EVERY_NS
    last_ns = clock()
    for rail in range(len(RAILS)):
        source.convert(
            rail, last_ns, last_ns, since_ns[rail]
        )  # ends the window; nobody sees its value
        book.add(rail, since_ns[rail], last_ns, source.drawn_mw(rail, since_ns[rail], last_ns))
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
