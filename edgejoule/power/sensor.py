"""What a power sensor is: channels that are read one by one, raw.

A sensor is chosen by reading a value from it, never by its library loading. Readings stay as the
hardware gives them (mV, mA, mW, uW, mJ, uJ as integers); watts are derived later, in
`edgejoule.energy`.

Standard library only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

# What a channel may count in, and how many of the derived unit (mV, mA, mW, mJ) one of it is.
UNITS: dict[str, dict[str, float]] = {
    "voltage": {"mV": 1.0, "uV": 1e-3},
    "current": {"mA": 1.0, "uA": 1e-3},
    "power": {"mW": 1.0, "uW": 1e-3},
    "energy": {"mJ": 1.0, "uJ": 1e-3},
}


@dataclass(frozen=True)
class Channel:
    """One number that can be read.

    Attributes:
        index: Position in the sensor's list; `power.bin` and `power.parquet` refer to it.
        rail: The supply it belongs to (`VDD_IN`); channels of one rail share it.
        quantity: `voltage`, `current`, `power` or `energy` (a counter).
        unit: One of `UNITS[quantity]`.
        chip: Which chip, by its address (`1-0040`), or the device (`GPU-<uuid>`).
        source: File name below the chip (`in1_input`) or API field.
        shunt_uohm: Shunt resistance in micro-ohms, where there is one.
        lsb: Smallest step in `unit` (8 mV; 40 uV over the shunt gives 8 mA at 5 mOhm), if known.
        sensor: Name of the sensor it comes from, where several are read together.
        wrap: An energy counter's range: having reached it, it starts again from 0. None: it does
            not wrap.
        averaging: What one reading is, where it is no snapshot: `1 s mean` (NVML on many GPUs).
    """

    index: int
    rail: str
    quantity: str
    unit: str
    chip: str
    source: str
    shunt_uohm: int | None = None
    lsb: float | None = None
    sensor: str = ""
    wrap: int | None = None
    averaging: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class Group:
    """Channels that the hardware renews in one rhythm; the sampler sweeps them together.

    Attributes:
        name: The chip or device: `1-0040`, `GPU-<uuid>`.
        channels: Indices into the sensor's channels, in the order of reading.
        refresh_ns: Period at which the hardware changes its values, None if it cannot be known.
        blocking: Whether a read waits for the hardware's next conversion (Linux' INA3221 driver up
            to 5.10, and any in single-shot mode).
        period_ns: How often it should be swept so that no refresh is missed, None: as often as it
            refreshes.
    """

    name: str
    channels: tuple[int, ...]
    refresh_ns: int | None = None
    blocking: bool = False
    period_ns: int | None = None


class Sensor(Protocol):
    """A source of power readings, opened in the sampler process."""

    name: str
    simulated: bool

    def channels(self) -> tuple[Channel, ...]:
        """The channels; `index` is the position."""

    def groups(self) -> tuple[Group, ...]:
        """The channels by rhythm; each channel is in exactly one group."""

    def read(self, index: int) -> int:
        """Return the raw value of a channel now.

        Raises:
            OSError: As the file gave it (ENODATA a disabled channel, ETIMEDOUT, ENODEV unbound,
                EACCES no permission), so that kinds of failure are told apart by their errno.
        """

    def configuration(self) -> dict[str, Any]:
        """How the hardware is set (update_interval, samples, enabled channels), for provenance."""

    def close(self) -> None:
        """Close descriptors, end helper processes."""


@runtime_checkable
class FileBacked(Protocol):
    """A sensor whose values are text in files: the sampler may read those itself, and quicker."""

    def descriptors(self) -> tuple[int | None, ...]:
        """Per channel the open file from which `pread` gives its value as decimal text, or None.

        After a failed read they may be others.
        """


@dataclass(frozen=True)
class Where:
    """Where sensors are looked for, and which device is meant.

    Attributes:
        sysfs_root: Where sysfs lies; `/sys` but for the simulated board and for tests.
        gpu_uuid: The NVIDIA GPU that is measured (`GPU-...`); None: the only or first one.
    """

    sysfs_root: str = "/sys"
    gpu_uuid: str | None = None


@dataclass(frozen=True)
class Total:
    """Which rails make up the power of the whole, and what that whole is.

    Attributes:
        rails: Their sum is the total.
        contains: What it covers (`module: CPU, GPU, memory`).
        excludes: What it does not (`carrier board, fan, input losses`).
        source: Where this is from.
    """

    rails: tuple[str, ...]
    contains: str
    excludes: str
    source: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as they stand in a trace's header."""
        return {**asdict(self), "rails": list(self.rails)}
