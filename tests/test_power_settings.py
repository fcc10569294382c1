"""Settings of INA3221 chips: changed on request, put back on every way out.

The model below does the arithmetic of both Linux drivers on the chip's register (drivers/hwmon/
ina3221.c of 5.10 and of 6.1); the same round trips were run by hand against the drivers themselves
in an emulator.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.power import chip_settings, left_over
from edgejoule.power.chip_register import SAMPLES, STEPS_US, SysfsFiles, step_of, to_write_ms
from edgejoule.power.chip_settings import changed_chip_settings, restore_left_over
from tests.support_power import make_chip, orin_nx, without_privilege

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hwmon is Linux's")

DRIVERS = ("5.10", "6.1")


class DriverModel:
    """Chips whose files behave as the driver's: reads and writes go to a register each.

    Attributes:
        registers: Configuration register by address; 0x7127 after a reset: three channels, one
            sample, 1100 us.
        shown: Whether debugfs shows the register.
        writes: What was written, in order: (file, value).
        broken: Errors by file name, raised at the next writes of it.
        stuck: Files whose writes are ignored.
    """

    def __init__(self, driver: str, *, shown: bool, addresses: tuple[str, ...] = ("1-0040",)):
        self.driver = driver
        self.shown = shown
        self.registers = dict.fromkeys(addresses, 0x7127)
        self.writes: list[tuple[str, int]] = []
        self.broken: dict[str, list[int]] = {}
        self.stuck: set[str] = set()

    def address(self, path: Path) -> str:
        return next(a for a in self.registers if a in os.path.realpath(path))

    def channels(self, register: int) -> int:
        return bin(register >> 12 & 7).count("1")

    def samples(self, register: int) -> int:
        return (1, 4, 16, 64, 128, 256, 512, 1024)[register >> 9 & 7]

    def interval_us(self, register: int) -> int:
        times = (140, 204, 332, 588, 1100, 2116, 4156, 8244)
        cycle = self.channels(register) * (times[register >> 6 & 7] + times[register >> 3 & 7])
        return cycle * self.samples(register) if self.driver == "5.10" else cycle

    def read(self, path: Path) -> str | None:
        register = self.registers[self.address(path)]
        if path.name == "registers":
            return f"0: {register:04x}\n1: 0000\n" if self.shown else None
        if path.name == "samples":
            return f"{self.samples(register)}\n"
        if path.name == "update_interval":
            return f"{(self.interval_us(register) + 500) // 1000}\n"
        number = int(path.name[2])  # inN_enable
        return f"{register >> (15 - number) & 1}\n"

    def write(self, path: Path, text: str) -> None:
        if self.broken.get(path.name):
            code = self.broken[path.name].pop(0)
            if code:
                raise OSError(code, os.strerror(code))
        value = int(text)
        self.writes.append((path.name, value))
        if path.name in self.stuck:
            return
        address = self.address(path)
        register = self.registers[address]
        if path.name == "samples":
            place = closest(value, (1, 4, 16, 64, 128, 256, 512, 1024))
            self.registers[address] = register & ~0x0E00 | place << 9
        else:
            divisor = self.channels(register) * self.samples(register)
            time_us = (value * 1000 // 2 + divisor // 2) // divisor
            place = closest(time_us, (140, 204, 332, 588, 1100, 2116, 4156, 8244))
            self.registers[address] = register & ~0x01F8 | place << 6 | place << 3


def closest(value: int, table: tuple[int, ...]) -> int:
    """The kernel's find_closest."""
    for place in range(len(table) - 1):
        if value <= (table[place] + table[place + 1] + 1) // 2:
            return place
    return len(table) - 1


def register(step: int, samples: int, channels: int = 7) -> int:
    return channels << 12 | SAMPLES.index(samples) << 9 | step << 6 | step << 3 | 7


@pytest.fixture
def root(tmp_path: Path) -> str:
    orin_nx(tmp_path / "sys")
    return str(tmp_path / "sys")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def attempt(*words: Any, **named: Any) -> None:
    """Change settings for nothing: for what must be refused."""
    with changed_chip_settings(*words, **named):
        raise AssertionError


@contextmanager
def no_note_left(state: Path) -> Iterator[None]:
    yield
    assert not (state / "chip-settings.json").exists()


def test_the_emulated_drivers_gave_these_readings() -> None:
    # Seen on Debian's 6.1 driver with three channels: (samples, written, read, register).
    for samples, written, read, value in (
        (1, 0, 1, 0x7007),
        (1, 2, 2, 0x7097),
        (1, 3, 4, 0x70DF),
        (1, 50, 49, 0x71FF),
        (4, 7, 2, 0x7297),
        (4, 50, 13, 0x736F),
        (16, 106, 7, 0x7527),
    ):
        model = DriverModel("6.1", shown=True)
        model.write(Path("1-0040/samples"), f"{samples}\n")
        model.write(Path("1-0040/update_interval"), f"{written}\n")
        assert model.registers["1-0040"] == value
        assert model.read(Path("1-0040/update_interval")) == f"{read}\n"
        assert step_of(written, 3, samples) == value >> 6 & 7


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_every_step_can_be_written_with_1024_samples(channels: int) -> None:
    for step in range(8):
        written = to_write_ms(step, channels, 1024)
        assert written is not None
        assert step_of(written, channels, 1024) == step
    assert to_write_ms(1, 3, 1) is None  # 1 ms is step 0, 2 ms is step 2
    assert to_write_ms(4, 3, 1) == 7


@settings(max_examples=60, deadline=None)
@given(
    driver=st.sampled_from(DRIVERS),
    shown=st.booleans(),
    step=st.integers(0, 7),
    old=st.sampled_from(SAMPLES),
    channels=st.sampled_from([7, 6, 5, 4, 2]),
    interval=st.none() | st.integers(0, 60),
    new=st.none() | st.sampled_from(SAMPLES),
)
def test_the_register_is_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    driver: str,
    shown: bool,
    step: int,
    old: int,
    channels: int,
    interval: int | None,
    new: int | None,
) -> None:
    folder = tmp_path_factory.mktemp("x")
    orin_nx(folder)
    model = DriverModel(driver, shown=shown)
    model.registers["1-0040"] = before = register(step, old, channels)
    model.shown = shown
    with changed_chip_settings(
        str(folder), interval, new, files=model, state=folder / "state"
    ) as changes:
        inside = model.registers["1-0040"]
        count = bin(channels).count("1")
        assert model.samples(inside) == (new or old)
        if interval is None and new is None:
            assert changes == ()
            assert model.writes == []
        else:
            (change,) = changes
            assert change.samples == model.samples(inside)
            assert change.before_samples == old
            assert f"{change.update_interval_ms}\n" == model.read(Path("1-0040/update_interval"))
        if interval is None:
            assert inside >> 3 & 63 == before >> 3 & 63
        else:
            assert change.cycle_us == 2 * count * STEPS_US[inside >> 6 & 7]
            assert change.cycle_us is not None
            wish = interval * 1000
            assert abs(change.cycle_us - wish) == min(
                abs(2 * count * time_us - wish) for time_us in STEPS_US
            )
    if changes and changes[0].note:
        # 6.1 without debugfs: 1 ms is several steps, and that is said.
        assert (driver, shown) == ("6.1", False)
        readings = [(2 * count * STEPS_US[s] + 500) // 1000 for s in range(8)]
        assert readings.count(readings[step]) > 1
        assert model.samples(model.registers["1-0040"]) == old
    else:
        assert model.registers["1-0040"] == before
    assert not (folder / "state" / "chip-settings.json").exists()


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_is_asked_and_what_is_got(root: str, state: Path, driver: str) -> None:
    model = DriverModel(driver, shown=True)
    with no_note_left(state), changed_chip_settings(root, 2, 16, files=model, state=state) as got:
        (chip,) = got
        assert (chip.address, chip.asked_update_interval_ms, chip.asked_samples) == (
            "1-0040",
            2,
            16,
        )
        assert (chip.before_update_interval_ms, chip.before_samples) == (7, 1)
        assert (chip.cycle_us, chip.samples) == (1992, 16)
        assert chip.update_interval_ms == {"5.10": 32, "6.1": 2}[driver]
        note = json.loads((state / "chip-settings.json").read_text())
        assert note["chips"][0] | {"note": ""} == {
            **{"address": "1-0040", "samples": 1, "update_interval_ms": 7, "step": 4, "note": ""}
        }
    assert model.registers["1-0040"] == 0x7127


def test_both_chips_are_set_and_put_back(tmp_path: Path, state: Path) -> None:
    make_chip(tmp_path, "1-0040", ("A", "B", "C"))
    make_chip(tmp_path, "1-0041", ("NC", "D", "NC"), hwmon=1, enabled=(0, 1, 0))
    model = DriverModel("6.1", shown=True, addresses=("1-0040", "1-0041"))
    model.registers["1-0041"] = register(4, 64, 2)
    before = dict(model.registers)
    with changed_chip_settings(str(tmp_path), 4, 1, files=model, state=state) as changes:
        assert [(change.address, change.cycle_us) for change in changes] == [
            ("1-0040", 3528),
            ("1-0041", 4232),
        ]
        assert model.registers != before
    assert model.registers == before


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit, UsageError])
def test_an_exception_puts_back(root: str, state: Path, fault: type[BaseException]) -> None:
    model = DriverModel("6.1", shown=True)

    def work() -> None:
        with changed_chip_settings(root, 1, 64, files=model, state=state):
            assert model.registers["1-0040"] != 0x7127
            raise fault("x")

    with no_note_left(state), pytest.raises(fault):
        work()
    assert model.registers["1-0040"] == 0x7127


def test_a_fault_halfway_puts_back_the_first_chip(tmp_path: Path, state: Path) -> None:
    make_chip(tmp_path, "1-0040", ("A", "B", "C"))
    make_chip(tmp_path, "1-0041", ("D", "E", "F"), hwmon=1)
    model = DriverModel("6.1", shown=True, addresses=("1-0040", "1-0041"))
    model.broken = {"samples": [0, errno.EIO]}
    with (
        no_note_left(state),
        pytest.raises(MeasurementError, match="samples of 1-0041 cannot be set"),
    ):
        attempt(str(tmp_path), samples=16, files=model, state=state)
    assert set(model.registers.values()) == {0x7127}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_it_needs_root(root: str, state: Path, code: int) -> None:
    model = DriverModel("6.1", shown=True)
    model.broken = {"samples": [code]}
    with no_note_left(state), pytest.raises(UsageError, match="run with sudo; in a container"):
        attempt(root, samples=16, files=model, state=state)
    assert model.writes == []


def test_a_driver_that_does_not_obey(root: str, state: Path) -> None:
    model = DriverModel("6.1", shown=True)
    model.stuck = {"samples"}
    with (
        no_note_left(state),
        pytest.raises(MeasurementError, match="samples of 1-0040 reads 1 after 4"),
    ):
        attempt(root, samples=4, files=model, state=state)
    model.stuck = {"update_interval"}
    with (
        no_note_left(state),
        pytest.raises(MeasurementError, match="update_interval of 1-0040 reads 7"),
    ):
        attempt(root, 1, files=model, state=state)


def test_a_step_without_a_way_back_is_refused(root: str, state: Path) -> None:
    model = DriverModel("6.1", shown=True)
    model.registers["1-0040"] = 0x7127 & ~0x38 | 3 << 3  # 1100 us of voltage, 588 us of current
    with no_note_left(state), pytest.raises(UsageError, match="its two conversion times differ"):
        attempt(root, 1, files=model, state=state)
    for driver in DRIVERS:
        model.driver, model.shown = driver, False
        with no_note_left(state), pytest.raises(UsageError, match="no single conversion time"):
            attempt(root, 1, files=model, state=state)
        with changed_chip_settings(root, samples=64, files=model, state=state):
            assert model.samples(model.registers["1-0040"]) == 64
        assert model.registers["1-0040"] == 0x7127 & ~0x38 | 3 << 3


def test_all_channels_off(root: str, state: Path) -> None:
    model = DriverModel("6.1", shown=True)
    model.registers["1-0040"] = register(4, 1, 0)
    with pytest.raises(MeasurementError, match="switched off"):
        attempt(root, 1, files=model, state=state)


def test_what_cannot_be_put_back_is_said_and_stays_noted(root: str, state: Path) -> None:
    model = DriverModel("6.1", shown=True)
    said: list[str] = []

    def work() -> None:
        with changed_chip_settings(root, samples=16, files=model, state=state, say=said.append):
            model.broken = {"samples": [errno.EIO]}

    with pytest.raises(MeasurementError, match=r"put back: .*; the old values stand in"):
        work()
    assert "1-0040 could not be put back: samples of 1-0040 cannot be set" in said[0]
    assert (state / "chip-settings.json").exists()
    # What ends the block wins over what goes wrong behind it.

    def fail() -> None:
        with changed_chip_settings(root, samples=4, files=model, state=state, say=said.append):
            model.stuck = {"samples"}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert said[1] == "an earlier command was killed: 1-0040 put back to samples 1, " + (
        "update_interval 7 ms"
    )
    assert "1-0040 reads samples 4, update_interval 7 ms and not 1, 7 ms as before" in said[2]
    model.stuck = set()
    model.broken = {"samples": [errno.EACCES]}
    (line,) = restore_left_over(root, files=model, state=state)
    assert "run with sudo" in line
    model.broken = {"samples": [errno.EACCES]}
    with pytest.raises(UsageError, match="older settings of the power monitors are not put back"):
        attempt(root, samples=4, files=model, state=state, say=said.append)
    assert restore_left_over(root, files=model, state=state) == [said[1]]
    assert restore_left_over(root, files=model, state=state) == []
    assert model.registers["1-0040"] == 0x7127


def killed_inside(root: str, state: Path) -> None:
    """Change plain files below `root` in a process that is killed meanwhile."""
    pid = os.fork()
    if pid == 0:
        with changed_chip_settings(root, samples=64, state=state):
            os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def samples_of(root: str) -> int:
    return int(Path(root, "class/hwmon/hwmon0/samples").read_text())


def test_a_killed_process_is_made_up_for(root: str, state: Path) -> None:
    killed_inside(root, state)
    assert samples_of(root) == 64
    assert restore_left_over(root, state=state) == [
        "an earlier command was killed: 1-0040 put back to samples 1, update_interval 7 ms"
    ]
    assert samples_of(root) == 1
    assert restore_left_over(root, state=state) == []


def test_what_was_left_is_not_taken_for_the_old_values(root: str, state: Path) -> None:
    killed_inside(root, state)
    said: list[str] = []
    with changed_chip_settings(root, samples=16, state=state, say=said.append) as (change,):
        assert change.before_samples == 1
        assert samples_of(root) == 16
    assert samples_of(root) == 1
    assert len(said) == 1


def test_a_restart_resets_the_chip(root: str, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_inside(root, state)
    monkeypatch.setattr(chip_settings, "boot_id", lambda: "another")
    (line,) = restore_left_over(root, state=state)
    assert "the restart since has reset them" in line
    assert samples_of(root) == 64  # not touched
    assert restore_left_over(root, state=state) == []


def test_notes_about_other_places_and_gone_chips(root: str, state: Path, tmp_path: Path) -> None:
    killed_inside(root, state)
    assert restore_left_over(str(tmp_path), state=state) == []
    Path(root, "class/hwmon/hwmon0/name").write_text("other\n")
    assert restore_left_over(root, state=state) == ["1-0040: the chip is gone"]
    Path(root, "class/hwmon/hwmon0/name").write_text("ina3221\n")
    assert len(restore_left_over(root, state=state)) == 1
    assert samples_of(root) == 1


@pytest.mark.parametrize("text", ["{", "[]", "", '{"a"'])
def test_a_damaged_note(root: str, state: Path, text: str) -> None:
    state.mkdir()
    (state / "chip-settings.json").write_text(text)
    (line,) = restore_left_over(root, state=state)
    assert "is damaged" in line


def test_a_note_without_its_values(root: str, state: Path) -> None:
    state.mkdir()
    boot = left_over.boot_id()
    for chips in ([{"address": "1-0040"}], [7]):
        note = {"boot_id": boot, "sysfs_root": root, "chips": chips}
        (state / "chip-settings.json").write_text(json.dumps(note))
        (line,) = restore_left_over(root, state=state)
        assert "is damaged; see the settings of the power monitors, then remove it" in line


def test_one_at_a_time(root: str, state: Path) -> None:
    with changed_chip_settings(root, samples=16, state=state):
        with pytest.raises(UsageError, match="another edgejoule has changed the settings"):
            attempt(root, samples=4, state=state)
        assert restore_left_over(root, state=state) == []  # it is in use, not left over
        assert samples_of(root) == 16
    assert samples_of(root) == 1


def test_real_files(root: str, state: Path) -> None:
    with changed_chip_settings(root, 25, state=state) as (change,):
        assert (change.update_interval_ms, change.cycle_us) == (25, 24936)
        folder = Path(root, "class/hwmon/hwmon0")
        assert (folder / "update_interval").read_text() == "25\n"
    assert (folder / "update_interval").read_text() == "7\n"
    assert SysfsFiles().read(folder) is None
    with pytest.raises(FileNotFoundError):  # never made
        SysfsFiles().write(folder / "nothing", "1")


def test_a_driver_without_the_knobs(root: str, state: Path) -> None:
    Path(root, "class/hwmon/hwmon0/samples").unlink()
    with (
        no_note_left(state),
        pytest.raises(MeasurementError, match="samples of 1-0040 cannot be set"),
    ):
        attempt(root, samples=4, state=state)
    with no_note_left(state), pytest.raises(MeasurementError, match="has no `samples`"):
        attempt(root, 4, state=state)


def test_what_makes_no_sense(root: str, tmp_path: Path, state: Path) -> None:
    for interval, samples, why in ((None, 10, "averages one of 1, 4, 16"), (-1, None, "0 to 1000")):
        with pytest.raises(UsageError, match=why):
            attempt(root, interval, samples, state=state)
    with pytest.raises(MeasurementError, match="no INA3221 below"):
        attempt(str(tmp_path / "none"), samples=4, state=state)
    with changed_chip_settings(str(tmp_path / "none"), state=state) as changes:
        assert changes == ()
    assert not state.exists()


def test_where_the_note_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert left_over.state_folder() == tmp_path / "edgejoule"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert left_over.state_folder() == tmp_path / "home/.local/state/edgejoule"

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UsageError, match=r"no home directory.*; set XDG_STATE_HOME"):
        left_over.state_folder()
    (line,) = restore_left_over()
    assert "no home directory" in line


def test_no_change_without_a_note(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UsageError, match="could not be put back after a kill; set XDG_STATE_HOME"):
        attempt(root, samples=4, state=blocked / "x")

    def full(*_words: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(left_over, "write_json", full)
    with pytest.raises(UsageError, match="No space left"):
        attempt(root, samples=4, state=tmp_path / "state")
    assert samples_of(root) == 1


def test_a_note_that_cannot_be_looked_at(root: str, tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir(mode=0)
    with without_privilege():
        (line,) = restore_left_over(root, state=shut)
    shut.chmod(0o700)
    assert "Permission denied" in line


def test_without_locks(root: str, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def none(*_words: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with changed_chip_settings(root, samples=4, state=state):
        assert samples_of(root) == 4
    assert samples_of(root) == 1


def test_boot_and_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert left_over.boot_id()
    left_over.tell("hello")
    assert capsys.readouterr().err == "hello\n"

    def none(*_words: object, **_named: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", none)
    assert left_over.boot_id() is None
