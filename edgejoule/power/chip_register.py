"""The two knobs of an INA3221 that the Linux driver gives, and the register behind them.

`samples` and `update_interval` are one register (TI data sheet, configuration register 00h; Linux
drivers/hwmon/ina3221.c):

    bit   14..12     11..9      8..6              5..3                2..0
          channels   samples    time of voltage   time of current     mode
                     1 .. 1024  140 .. 8244 us, eight steps each

`samples` is how many conversions the chip averages. `update_interval` names the conversion time by
way of the cycle over all enabled channels, in whole ms:

- Writing: every driver divides what is written by channels *and samples*, and takes the nearest
  step, for voltage and current alike.
- Reading: 6.1 and later (and NVIDIA's 5.15) leave the samples out, 5.10 multiplies with them. So
  what was read is not what must be written to get it back, and 1 ms may stand for two steps.

Therefore the step is what is kept. It is read from the register itself where the kernel shows it to
root (debugfs, `regmap/<address>/registers`). Elsewhere the reading tells it, on 5.10 exactly if
`samples` is set to 1024 for a moment; a reading that several steps give is said so. (The driver
always sets both times alike; times that differ, set by something else, can hide behind a reading of
6.1 in ms.) A step that no whole number of ms names at the samples in force is written with 1024
samples, and keeps.

Standard library only.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.power.ina3221 import Chip

STEPS_US = (140, 204, 332, 588, 1100, 2116, 4156, 8244)
SAMPLES = (1, 4, 16, 64, 128, 256, 512, 1024)
_FINEST = SAMPLES[-1]
_LONGEST_CYCLE_MS = 50  # of three channels: 49.5 ms; a 5.10 reading at 1024 samples is far above
_REGISTER = re.compile(r"^0+:\s*([0-9a-fA-F]{4})$", re.MULTILINE)


class Files(Protocol):
    """How a chip's files are read and written; a test puts a model of the driver here."""

    def read(self, path: Path) -> str | None:
        """Return a file's text, None if it cannot be read."""

    def write(self, path: Path, text: str) -> None:
        """Write a file that is there; raises OSError."""


class SysfsFiles:
    """The real files."""

    def read(self, path: Path) -> str | None:
        """Return a file's text, None if it cannot be read."""
        try:
            return path.read_text(encoding="ascii")
        except (OSError, ValueError):
            return None

    def write(self, path: Path, text: str) -> None:
        """Write a file that is there; raises OSError."""
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(descriptor, text.encode("ascii"))
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class ChangedChip:
    """What came of asking, for one chip.

    Attributes:
        address: The chip (`1-0040`).
        asked_update_interval_ms: The cycle that was asked for; None: was not.
        asked_samples: Likewise.
        before_update_interval_ms: What the driver read before.
        before_samples: Likewise.
        update_interval_ms: What it reads now; 5.10 multiplies with the samples.
        samples: What it reads now.
        cycle_us: The cycle that was set: channels times twice the chip's step, without samples;
            None if it was not asked for.
        note: What cannot be put back exactly, else empty.
    """

    address: str
    asked_update_interval_ms: int | None
    asked_samples: int | None
    before_update_interval_ms: int | None
    before_samples: int | None
    update_interval_ms: int | None
    samples: int | None
    cycle_us: int | None
    note: str = ""


def step_of(written_ms: int, channels: int, samples: int) -> int:
    """Return the step that every driver takes when `written_ms` is written.

    Linux drivers/hwmon/ina3221.c, ina3221_interval_ms_to_conv_time and find_closest.
    """
    divisor = channels * samples
    time_us = (written_ms * 500 + divisor // 2) // divisor
    for step, (low, high) in enumerate(itertools.pairwise(STEPS_US)):
        if time_us <= (low + high) // 2:
            return step
    return len(STEPS_US) - 1


def to_write_ms(step: int, channels: int, samples: int) -> int | None:
    """Return what to write to get a step, None where no whole number of ms gives it."""
    exact = 2 * STEPS_US[step] * channels * samples / 1000
    nearest = sorted((int(exact), int(exact) + 1), key=lambda ms: abs(ms - exact))
    return next((ms for ms in nearest if step_of(ms, channels, samples) == step), None)


class Knobs:
    """The two knobs of one chip.

    Attributes:
        address: The chip.
        touched: Whether anything was written.
    """

    def __init__(self, chip: Chip, sysfs_root: str, io: Files) -> None:
        self.address = chip.address
        self.touched = False
        self._folder = chip.directory
        self._io = io
        self._registers = Path(sysfs_root, "kernel/debug/regmap", chip.address, "registers")

    def saved(self) -> dict[str, Any]:
        """Return what is needed to put the chip back; the step only once `find_step` has it."""
        return {
            "address": self.address,
            "samples": self._read("samples"),
            "update_interval_ms": self._read("update_interval"),
            "step": None,
        }

    def find_step(self) -> tuple[int, str]:
        """Return the step in force, and what is doubtful about it.

        Raises:
            UsageError: It could not be put back.
        """
        steps = self._steps()
        if steps is not None:
            if steps[0] != steps[1]:
                raise self._no_way_back("its two conversion times differ")
            return steps[0], ""
        samples, reading = self._read("samples"), self._read("update_interval")
        if samples is None or reading is None:
            raise MeasurementError(f"{self.address} has no `samples` or `update_interval`")
        if samples != _FINEST:
            self._write("samples", _FINEST)
            reading = self._read("update_interval") or 0
            self._write("samples", samples)
        factor = _FINEST if reading > _LONGEST_CYCLE_MS else 1  # 5.10 multiplies
        readings = [_rounded_ms(self._cycle_us(step) * factor) for step in range(len(STEPS_US))]
        found = [step for step, would_read in enumerate(readings) if would_read == reading]
        if not found:
            raise self._no_way_back(f"no single conversion time makes it read {reading} ms")
        if len(found) == 1:
            return found[0], ""
        times = " or ".join(f"{STEPS_US[step]} us" for step in found)
        note = f"{self.address} reads {reading} ms, which is {times}; put back as the first"
        return found[0], note

    def change(
        self, saved: dict[str, Any], update_interval_ms: int | None, samples: int | None
    ) -> ChangedChip:
        """Set what is asked for and see that the driver has it.

        Raises:
            UsageError: The files cannot be written.
            MeasurementError: The driver reads something else.
        """
        cycle_us = None
        if samples is not None and self._read("samples") != samples:
            self._write("samples", samples)
            if self._read("samples") != samples:
                raise self._disobeys("samples", samples)
        if update_interval_ms is not None:
            step = min(
                range(len(STEPS_US)),
                key=lambda one: abs(self._cycle_us(one) - 1000 * update_interval_ms),
            )
            self._set_step(step)
            cycle_us = self._cycle_us(step)
        return ChangedChip(
            self.address,
            update_interval_ms,
            samples,
            saved["update_interval_ms"],
            saved["samples"],
            self._read("update_interval"),
            self._read("samples"),
            cycle_us,
            saved.get("note", ""),
        )

    def restore(self, saved: dict[str, Any]) -> None:
        """Set the saved samples, then the saved step.

        Raises:
            UsageError: The files cannot be written.
            MeasurementError: The driver reads something else.
        """
        if saved["samples"] is not None and self._read("samples") != saved["samples"]:
            self._write("samples", saved["samples"])
        step = saved["step"]
        if step is not None and self._steps() != (step, step):
            self._set_step(step)

    def _set_step(self, step: int) -> None:
        samples = self._read("samples")
        if samples is None:
            raise MeasurementError(f"{self.address} has no `samples`")
        written_ms = to_write_ms(step, self._channels(), samples)
        if written_ms is None:
            self._write("samples", _FINEST)
            written_ms = to_write_ms(step, self._channels(), _FINEST)
        self._write("update_interval", written_ms or 0)
        if self._read("samples") != samples:
            self._write("samples", samples)
        cycle_us = self._cycle_us(step)
        readings = {_rounded_ms(cycle_us), _rounded_ms(cycle_us * samples)}
        if self._steps() not in {None, (step, step)} or (
            self._read("update_interval") not in readings
        ):
            raise self._disobeys("update_interval", written_ms or 0)

    def _channels(self) -> int:
        enabled = [self._read(f"in{number}_enable") for number in (1, 2, 3)]
        count = sum(one != 0 for one in enabled)
        if not count:  # the driver would divide by it
            raise MeasurementError(f"all channels of {self.address} are switched off")
        return count

    def _cycle_us(self, step: int) -> int:
        return 2 * STEPS_US[step] * self._channels()

    def _steps(self) -> tuple[int, int] | None:
        """Return the steps of voltage and current from the register, if the kernel shows it."""
        match = _REGISTER.search(self._io.read(self._registers) or "")
        if match is None:
            return None
        value = int(match[1], 16)
        return value >> 6 & 7, value >> 3 & 7

    def _read(self, name: str) -> int | None:
        text = (self._io.read(self._folder / name) or "").strip()
        return int(text) if text.isascii() and text.isdigit() else None

    def _write(self, name: str, value: int) -> None:
        path = self._folder / name
        try:
            self._io.write(path, f"{value}\n")
        except OSError as error:
            what = f"{name} of {self.address} cannot be set ({error.strerror})"
            if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
                mend = "it needs root: run with sudo; in a container /sys must be writable"
                raise UsageError(what, mend) from error
            raise MeasurementError(what, f"see {path}") from error
        self.touched = True

    def _no_way_back(self, why: str) -> UsageError:
        return UsageError(
            f"update_interval of {self.address} could not be put back: {why}",
            "leave it as it is, and ask for samples alone",
        )

    def _disobeys(self, name: str, value: int) -> MeasurementError:
        now = self._read(name)
        return MeasurementError(f"{name} of {self.address} reads {now} after {value} was written")


def _rounded_ms(time_us: int) -> int:
    return (time_us + 500) // 1000
