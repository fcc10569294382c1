"""The chips as kernel/ina3221_model.c models them: write their registers, let them play a table.

    cycle of three channels      |s1 |b1 |s2 |b2 |s3 |b3 |s1 |b1 ...      s: shunt, b: bus voltage
    register shows the new value     ^   ^   ^   ^   ^   ^                complete_ns of each

A table is what a chip's conversions give, cycle by cycle. The module looks a register up when it
is read, so that values change at exact times whatever the scheduler does. Where the table came
from is the truth that a trace is judged by.

Standard library only: it runs in the guest.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BUS = "/dev/i2c-1"
PLAYERS = Path("/sys/kernel/debug/ina3221_model")
PARAMETERS = Path("/sys/module/ina3221_model/parameters")
BUS_STEP_MV = 8
SHUNT_STEP_UV = 40
CONVERSION_NS = 1_100_000  # after a reset, for bus and shunt alike (TI, INA3221 data sheet)
CYCLE_NS = 6 * CONVERSION_NS

_I2C_SLAVE_FORCE = 0x0706  # the driver has the address, we write all the same
_I2C_SMBUS = 0x0720
_WORD_DATA = 3
_MAGIC = 0x31504A45
_HEADER = struct.Struct("<IIqq6I")


class _Request(ctypes.Structure):
    """`struct i2c_smbus_ioctl_data` of linux/i2c-dev.h."""

    _fields_ = (
        ("read", ctypes.c_uint8),
        ("command", ctypes.c_uint8),
        ("size", ctypes.c_uint32),
        ("data", ctypes.c_void_p),
    )


def write_register(address: int, register: int, word: int) -> None:
    """Write one of a chip's registers, over the head of the driver."""
    _transfer(address, register, word)


def read_register(address: int, register: int) -> int:
    """Read one of a chip's registers."""
    return _transfer(address, register, None)


def _transfer(address: int, register: int, word: int | None) -> int:
    # SMBus words are little-endian, the chip's are not.
    data = ctypes.create_string_buffer(struct.pack(">H", (word or 0) & 0xFFFF), 34)
    request = _Request(word is None, register, _WORD_DATA, ctypes.addressof(data))
    descriptor = os.open(BUS, os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, _I2C_SLAVE_FORCE, address)
        fcntl.ioctl(descriptor, _I2C_SMBUS, request)
    finally:
        os.close(descriptor)
    (value,) = struct.unpack_from(">H", data)
    return int(value)


def bus_word(steps: int) -> int:
    """Return the register of a bus voltage of so many steps of 8 mV."""
    return steps << 3 & 0xFFFF


def shunt_word(steps: int) -> int:
    """Return the register of so many steps of 40 uV over the shunt, two's complement."""
    return steps << 3 & 0xFFFF


def set_channel(address: int, channel: int, bus_steps: int, shunt_steps: int) -> None:
    """Let channel 1 to 3 of a chip measure this from now on."""
    write_register(address, 2 * channel, bus_word(bus_steps))
    write_register(address, 2 * channel - 1, shunt_word(shunt_steps))


def set_parameter(name: str, value: str) -> None:
    """Set `ready` (Y or N) or `transfer_us` of the model."""
    (PARAMETERS / name).write_text(value)


@dataclass(frozen=True)
class Table:
    """What a chip's conversions give.

    Attributes:
        period_ns: From one cycle to the next.
        complete_ns: When in its cycle each of the registers 01h to 06h gets its value.
        steps: Per cycle six numbers of steps: shunt and bus of channel 1, of 2, of 3.
    """

    period_ns: int
    complete_ns: tuple[int, ...]
    steps: Sequence[Sequence[int]]

    def to_bytes(self, start_ns: int) -> bytes:
        """Return it as the kernel module takes it, the first cycle beginning at `start_ns`."""
        words = array("H", (step << 3 & 0xFFFF for row in self.steps for step in row))
        header = _HEADER.pack(_MAGIC, len(self.steps), start_ns, self.period_ns, *self.complete_ns)
        return header + words.tobytes()


def in_turn(period_ns: int) -> tuple[int, ...]:
    """Return when in its cycle each register gets its value, if the conversions fill the cycle."""
    return tuple(period_ns * (n + 1) // 6 for n in range(6))


def play(address: int, data: bytes) -> None:
    """Let a chip play a table: the last cycle stays. No bytes: it shows its registers again."""
    data = data or _HEADER.pack(_MAGIC, 0, 0, 1, *(0,) * 6)
    descriptor = os.open(PLAYERS / f"{address:02x}", os.O_WRONLY)
    try:
        written = os.write(descriptor, data)
    finally:
        os.close(descriptor)
    if written != len(data):
        raise OSError(f"{written} of {len(data)} bytes of the table were taken")
