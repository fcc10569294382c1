"""How often a power monitor renews its registers, learned from what its driver shows.

An INA3221 converts one input after the other and starts again:

    | ch1 shunt | ch1 bus | ch2 shunt | ch2 bus | ch3 shunt | ch3 bus | ch1 shunt | ...
    |<---------------------------- cycle ---------------------------->|

Either conversion takes one of eight times, so a cycle is one of few values, while the driver shows
`update_interval` in whole milliseconds, rounded. Which cycles fit is a small search; that the
driver writes equal times for bus and shunt (drivers/hwmon/ina3221.c) says which of them is likely.

`samples` is a running mean in the INA3221 (TI SBOS576, averaging function): each conversion moves
the register by its difference over `samples`, so it smooths and does not slow down. Drivers up to
Linux 5.10 count `samples` into `update_interval` all the same, 6.1 (and NVIDIA's 5.15) do not.
The INA238 averages in blocks and renews its registers once a block (TI SLYS026, 7.3.4).

Pure functions; standard library only.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Conversion times, TI SBOS576 (INA3221) table of the configuration register, TI SLYS026 (INA238).
INA3221_TIMES_US = (140, 204, 332, 588, 1100, 2116, 4156, 8244)
INA238_TIMES_US = (50, 84, 150, 280, 540, 1052, 2074, 4120)
LEGAL_SAMPLES = (1, 4, 16, 64, 128, 256, 512, 1024)
CHANNELS = 3
_RESET_US = 1100  # the INA3221's times after a reset (0x7127), which the drivers begin with
# drivers/hwmon/ina238.c writes ADC_CONFIG 0xfb6a at its start: 1052 us for each of the three
# inputs (shunt, bus, temperature), mean of 16. Without `update_interval` nothing changes it.
_INA238_INPUTS = 3
_INA238_SET_US = 1052
_INA238_SET_SAMPLES = 16

# A read of one register over I2C: 0.55 ms reported on an AGX Orin. One that is longer waits.
PLAIN_READ_NS = 1_000_000
_WAITING_SHARE = 0.45  # of a cycle, in the mean of two reads: they have waited for a conversion
FEWEST_READS = 4


@dataclass(frozen=True)
class Refresh:
    """The rhythm of one chip's registers.

    Attributes:
        period_ns: The cycle that fits best, None where nothing is known of it.
        candidates_ns: All cycles that fit, shortest first; empty if none does.
        safe_ns: A sweep this often misses no refresh, whichever candidate is true.
        blocking: Whether a read waits for the end of a conversion.
        samples: Conversions in the chip's own mean, None if not known.
        read_ns: How long one read took, None if it was not measured.
        how: Where this is from, for people.
    """

    period_ns: int | None
    candidates_ns: tuple[int, ...]
    safe_ns: int | None
    blocking: bool
    samples: int | None
    read_ns: int | None
    how: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "candidates_ns": list(self.candidates_ns)}


@dataclass(frozen=True)
class _Fit:
    """One way in which a chip can be set and the driver shows what it shows."""

    cycle_us: int
    equal: bool
    reset: bool
    samples_counted: bool
    text: str


def shown_ms(cycle_us: int, samples: int = 1) -> int:
    """Return what `update_interval` shows: DIV_ROUND_CLOSEST of microseconds to milliseconds.

    Args:
        cycle_us: Conversion times of all enabled channels together.
        samples: Conversions averaged, for a driver that counts them in; else 1.
    """
    return (cycle_us * samples + 500) // 1000


def typical_read_ns(durations_ns: Sequence[int]) -> int | None:
    """Return how long a read takes, from some that followed each other at once.

    A driver that waits looks for the conversion, sleeps between a quarter of a cycle and a whole
    one, and looks again (drivers/hwmon/ina3221.c, ina3221_wait_for_data): its reads take now half a
    cycle, now more than one, but two in a row at least one cycle, because each uses up a
    conversion. A driver that does not wait has two quick reads in a row, even if the machine was
    busy in one of the others. So this is the mean of the quickest two in a row; the first read is
    left out: a conversion can be ready for it.
    """
    rest = durations_ns[1:] or durations_ns
    if not rest:
        return None
    if len(rest) < FEWEST_READS - 1:
        return statistics.median_low(rest)
    return min(first + second for first, second in itertools.pairwise(rest)) // 2


def enough_reads(durations_ns: Sequence[int]) -> bool:
    """Whether more reads would only cost time: a driver that waits takes long for each."""
    taken_ns = sum(durations_ns)
    return (taken_ns >= 100_000_000 and len(durations_ns) >= 3) or (
        taken_ns >= 1_000_000_000 and len(durations_ns) >= 2
    )


def learn_refresh(
    update_interval_ms: int | None,
    samples: int | None,
    enabled_channels: int | None,
    read_ns: int | None,
    *,
    single_shot: bool = False,
) -> Refresh:
    """Learn the rhythm of an INA3221 from its hwmon files.

    Args:
        update_interval_ms: What the file shows.
        samples: Conversions averaged; None is taken for 1.
        enabled_channels: Of three; None: not known.
        read_ns: Time that one read takes, see `typical_read_ns`.
        single_shot: The device tree says `ti,single-shot`: each read starts a conversion.
    """
    if update_interval_ms is None or update_interval_ms < 0:
        how = "the driver shows no update_interval"
        return Refresh(None, (), None, single_shot, samples, read_ns, how)
    averaged = max(1, samples or 1)
    counts = (enabled_channels,) if enabled_channels else range(1, CHANNELS + 1)
    fits = [fit for count in counts for fit in _ina3221_fits(update_interval_ms, averaged, count)]
    shown = f"update_interval {update_interval_ms} ms"
    if not fits:
        period_ns = update_interval_ms * 1_000_000 or None
        safe_ns = period_ns - 500_000 if period_ns else None  # it is rounded
        blocking, waits = _waits(period_ns, read_ns, single_shot)
        how = f"{shown} as read, no pair of conversion times gives it{waits}"
        return Refresh(period_ns, (), safe_ns, blocking, samples, read_ns, how)
    cycles_ns = tuple(sorted({fit.cycle_us * 1000 for fit in fits}))
    blocking, waits = _waits(cycles_ns[0], read_ns, single_shot)
    counted_likely = blocking and not single_shot  # the drivers that wait are those that count
    best = min(fits, key=lambda fit: _unlikely(fit, counted_likely))
    how = f"{shown}: {best.text}{waits}"
    return Refresh(best.cycle_us * 1000, cycles_ns, cycles_ns[0], blocking, samples, read_ns, how)


def refresh_of_register(register: int, read_ns: int | None) -> Refresh:
    """Return the rhythm of an INA3221 whose configuration register (00h) is known.

    NVIDIA's iio driver of JetPack 4 writes `ti,continuous-config` of the device tree into it, and
    there is 0x7c07 in it: three channels, 140 us each, a running mean of 512.

    Args:
        register: The register's 16 bits.
        read_ns: Time that one read takes.
    """
    channels = ((register >> 12) & 7).bit_count()
    samples = LEGAL_SAMPLES[(register >> 9) & 7]
    bus_us = INA3221_TIMES_US[(register >> 6) & 7] if register & 2 else 0
    shunt_us = INA3221_TIMES_US[(register >> 3) & 7] if register & 1 else 0
    period_ns = channels * (bus_us + shunt_us) * 1000
    what = f"configuration register 0x{register:04x}"
    if not period_ns or not register & 4:
        how = f"{what}: no continuous conversion"
        return Refresh(None, (), None, True, samples, read_ns, how)
    how = f"{what}: {channels} channels of {bus_us} + {shunt_us} us"
    return Refresh(period_ns, (period_ns,), period_ns, False, samples, read_ns, how)


def learn_ina238(
    update_interval_ms: int | None, samples: int | None, read_ns: int | None
) -> Refresh:
    """Learn the rhythm of an INA238 from its hwmon files.

    Args:
        update_interval_ms: What the file shows; None with drivers that have no such file.
        samples: Conversions averaged in a block, likewise.
        read_ns: Time that one read takes.
    """
    if update_interval_ms is None or update_interval_ms < 0:
        period_ns = _INA238_SET_SAMPLES * _INA238_INPUTS * _INA238_SET_US * 1000
        how = (
            f"fixed in the Linux driver: mean of {_INA238_SET_SAMPLES} times "
            f"{_INA238_INPUTS} x {_INA238_SET_US} us"
        )
        return Refresh(period_ns, (period_ns,), period_ns, False, _INA238_SET_SAMPLES, read_ns, how)
    averaged = max(1, samples or 1)
    fits = [
        _ina238_fit(times, averaged, counted)
        for times in itertools.combinations_with_replacement(INA238_TIMES_US, _INA238_INPUTS)
        for counted in (False, True)
        if shown_ms(sum(times), averaged if counted else 1) == update_interval_ms
    ]
    shown = f"update_interval {update_interval_ms} ms"
    if not fits:
        period_ns = update_interval_ms * 1_000_000
        how = f"{shown} as read, no conversion times give it"
        return Refresh(period_ns, (), period_ns - 500_000, False, samples, read_ns, how)
    cycles_ns = tuple(sorted({fit.cycle_us * 1000 for fit in fits}))
    best = min(fits, key=lambda fit: _unlikely(fit, counted_likely=False))
    return Refresh(
        best.cycle_us * 1000,
        cycles_ns,
        cycles_ns[0],
        False,
        samples,
        read_ns,
        f"{shown}: {best.text}",
    )


def _ina238_fit(times_us: tuple[int, ...], samples: int, counted: bool) -> _Fit:
    equal = len(set(times_us)) == 1
    text = f"{samples} x ({' + '.join(map(str, times_us))}) us"
    reset = equal and times_us[0] == _INA238_SET_US
    return _Fit(sum(times_us) * samples, equal, reset, counted, text)


def _ina3221_fits(update_interval_ms: int, samples: int, channels: int) -> list[_Fit]:
    fits = []
    for bus_us, shunt_us in itertools.product(INA3221_TIMES_US, repeat=2):
        cycle_us = channels * (bus_us + shunt_us)
        for counted in (False, True) if samples > 1 else (False,):
            if shown_ms(cycle_us, samples if counted else 1) == update_interval_ms:
                text = f"{channels} channels of {bus_us} + {shunt_us} us"
                text += f", {samples} samples counted in" if counted else ""
                reset = bus_us == shunt_us == _RESET_US
                fits.append(_Fit(cycle_us, bus_us == shunt_us, reset, counted, text))
    return fits


def _unlikely(fit: _Fit, counted_likely: bool) -> tuple[bool, bool, bool, int]:
    return (not fit.equal, fit.samples_counted != counted_likely, not fit.reset, fit.cycle_us)


def _waits(cycle_ns: int | None, read_ns: int | None, single_shot: bool) -> tuple[bool, str]:
    """Return whether a read waits for a conversion, and a remark."""
    if single_shot:
        return True, "; each read starts a conversion and waits for it (ti,single-shot)"
    if read_ns is None or cycle_ns is None or read_ns < _WAITING_SHARE * cycle_ns:
        return False, ""
    took = f"{read_ns * 1e-6:.2f} ms"
    if read_ns <= PLAIN_READ_NS:
        # As long as the cycle, but no longer than the bus takes: not to be told apart.
        return False, f"; a read takes {took}, as long as a cycle"
    return True, f"; a read takes {took}, so it waits for a conversion"
