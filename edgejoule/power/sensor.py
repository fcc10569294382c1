"""What a power sensor is: channels that are read one by one, raw.

A sensor is chosen by reading a value from it, never by its library loading. Readings stay as the
hardware gives them (mV, mA, mW, mJ as integers); watts are derived later, in `edgejoule.energy`.

Standard library only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Channel:
    """One number that can be read.

    Attributes:
        index: Position in the sensor's list; `power.bin` and `power.parquet` refer to it.
        rail: The supply it belongs to (`VDD_IN`); channels of one rail share it.
        quantity: `voltage`, `current`, `power` or `energy`.
        unit: `mV`, `mA`, `mW` or `mJ`.
        chip: Which chip, by its address (`1-0040`), or the device (`GPU-<uuid>`).
        source: File name below the chip (`in1_input`) or API field.
        shunt_uohm: Shunt resistance in micro-ohms, where there is one.
        lsb: Smallest step in `unit` (8 mV; 40 uV over the shunt gives 8 mA at 5 mOhm), if known.
    """

    index: int
    rail: str
    quantity: str
    unit: str
    chip: str
    source: str
    shunt_uohm: int | None = None
    lsb: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary."""
        return asdict(self)


class Sensor(Protocol):
    """A source of power readings, opened in the sampler process."""

    name: str
    simulated: bool
    refresh_ns: int | None  # period at which the hardware changes its values, if it can be known

    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order they are read in one sweep."""

    def read(self, index: int) -> int:
        """Return the raw value of a channel now.

        Raises:
            OSError: As the file gave it (ENODATA a disabled channel, ETIMEDOUT, ENODEV unbound).
        """

    def configuration(self) -> dict[str, Any]:
        """How the hardware is set (update_interval, samples, enabled channels), for provenance."""

    def close(self) -> None:
        """Close descriptors."""
