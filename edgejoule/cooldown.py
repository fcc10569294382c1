"""Wait until the board is back where it was: power and temperature watched, time bounded.

A run that starts on a board still hot from the last one draws more power at the same work. The
parent follows the tail of `power.bin`, which the sampler flushes twice a second, and the thermal
zones. Numpy is imported only if there is a power trace to follow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgejoule.records import POWER, read_header

_TAIL_RECORDS = 4000
_WINDOW_NS = 1_000_000_000
_POWER_TOLERANCE = 0.03
_TEMPERATURE_TOLERANCE_C = 2.0


@dataclass(frozen=True)
class Level:
    """Power (mW, None without a sensor) and hottest zone (deg C, None without zones) at a time."""

    power_mw: float | None
    temperature_c: float | None


@dataclass(frozen=True)
class CoolDown:
    """How a cool-down went; `returned` is None where there was nothing to watch."""

    returned: bool | None
    seconds: float
    before: Level
    after: Level
    why: str

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries."""
        return asdict(self)


def recent_power_mw(power_bin: Path, window_ns: int = _WINDOW_NS) -> float | None:
    """Return the mean total power over the last `window_ns` of a growing `power.bin`, in mW.

    On a board without a known total it is the sum over all rails: good enough to see a return.
    """
    import numpy as np

    from edgejoule.energy.trace import rail_powers_of_samples
    from edgejoule.power.totals import total_rails_of

    header, offset = read_header(power_bin)
    size = POWER.struct.size
    count = (power_bin.stat().st_size - offset) // size
    first = max(0, count - _TAIL_RECORDS)
    with power_bin.open("rb") as file:
        file.seek(offset + first * size)
        samples = np.frombuffer(
            file.read((count - first) * size), dtype=[tuple(f) for f in header["fields"]]
        )
    if not len(samples):
        return None
    samples = samples[samples["t0_ns"] >= samples["t1_ns"][-1] - window_ns]
    rails = rail_powers_of_samples(header["channels"], samples)
    here = tuple(name for name, rail in rails.items() if len(rail.power_mw))
    wanted = total_rails_of(header, here) or here
    means = [float(rails[name].power_mw.mean()) for name in wanted if len(rails[name].power_mw)]
    return sum(means) if means else None


def has_returned(before: Level, now: Level) -> bool:
    """Whether power and temperature are back at what they were, within 3 % and 2 deg C."""
    cool = (
        before.temperature_c is None
        or now.temperature_c is None
        or now.temperature_c <= before.temperature_c + _TEMPERATURE_TOLERANCE_C
    )
    calm = (
        before.power_mw is None
        or now.power_mw is None
        or now.power_mw <= before.power_mw * (1 + _POWER_TOLERANCE)
    )
    return cool and calm


def cool_down(
    before: Level, look: Callable[[], Level], wait: Callable[[float], None], longest_s: float
) -> CoolDown:
    """Wait until `look` has returned to `before`, at most `longest_s`.

    Args:
        before: The level before the run.
        look: Gives the level now.
        wait: Lets time pass (and watches the children meanwhile).
        longest_s: When to give up; the run says that it did.
    """
    started = time.monotonic()
    now = look()
    if before.power_mw is None and before.temperature_c is None:
        return CoolDown(None, 0.0, before, now, "neither power nor temperature can be read")
    while True:
        seconds = time.monotonic() - started
        if has_returned(before, now):
            return CoolDown(True, seconds, before, now, "power and temperature are back")
        if seconds >= longest_s:
            return CoolDown(False, seconds, before, now, f"not back after {longest_s:g} s")
        wait(min(1.0, longest_s - seconds))
        now = look()
