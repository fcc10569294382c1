"""Stamps of the older text layout: `20241121-05:22:50.156286`, local wall clock without a zone.

Whole arrays at once, because a recording has millions. In the autumn an hour of local time comes
twice; which of the two is meant follows from the order of the stamps. Numpy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo

import numpy as np

from edgejoule.errors import MeasurementError, UsageError

STAMP_LENGTH = 24
US = 1_000_000  # microseconds per second
_EPOCH = datetime(1970, 1, 1)
_DIGITS = np.array([i for i, c in enumerate("dddddddd-dd:dd:dd.dddddd") if c == "d"])
# From the 20 digits of a stamp to date, hour, minute, second, microseconds; exact in float64.
_PLACES = np.zeros((20, 5))
for _column, (_first, _last) in enumerate(((0, 8), (8, 10), (10, 12), (12, 14), (14, 20))):
    _PLACES[_first:_last, _column] = 10.0 ** np.arange(_last - _first - 1, -1, -1)
_PAIRS = np.array([list(f"{n:02d}".encode()) for n in range(100)], np.uint8)
_MARKS = ((8, "-"), (11, ":"), (14, ":"), (17, "."))
_SHORT = re.compile(r"(\d{4})(\d\d)(\d\d)-(\d\d):?(\d\d):?(\d\d)")
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")
_BLOCK_US = 900 * US  # offsets from UTC change on quarters of an hour only


@dataclass(frozen=True)
class Zone:
    """The zone that local times are in; `tz` None is the machine's own."""

    name: str
    tz: tzinfo | None

    def offset_us(self, local_us: int, fold: int = 0) -> int:
        """Return local time minus UTC; `fold` 1 is the second of an hour that comes twice."""
        local = (_EPOCH + timedelta(microseconds=local_us)).replace(fold=fold)
        aware = local.astimezone() if self.tz is None else local.replace(tzinfo=self.tz)
        return (aware.utcoffset() or timedelta()) // timedelta(microseconds=1)

    def offset_at_us(self, utc_us: int) -> int:
        """Return local time minus UTC at a time in UTC."""
        at = (_EPOCH + timedelta(microseconds=utc_us)).replace(tzinfo=timezone.utc)
        local = at.astimezone() if self.tz is None else at.astimezone(self.tz)
        return (local.utcoffset() or timedelta()) // timedelta(microseconds=1)

    def to_local_us(self, utc_us: np.ndarray) -> np.ndarray:
        """Return the local times of times in UTC, int64 microseconds."""
        blocks, which = np.unique(utc_us // _BLOCK_US, return_inverse=True)
        offsets = np.array([self.offset_at_us(int(b) * _BLOCK_US) for b in blocks], np.int64)
        local: np.ndarray = utc_us + offsets[which] if len(utc_us) else utc_us
        return local


def zone_of(name: str | None) -> Zone:
    """Return the zone of that name (`Europe/Berlin`, `UTC`, `+01:00`), None: the machine's.

    Raises:
        UsageError: There is no such zone.
    """
    if name is None:
        now = datetime.now().astimezone()
        return Zone(f"this machine's zone ({now.tzname()}, UTC{now:%z})", None)
    if name.upper() == "UTC":
        return Zone("UTC", timezone.utc)
    if offset := _OFFSET.fullmatch(name):
        sign = -1 if offset[1] == "-" else 1
        minutes = int(offset[2]) * 60 + int(offset[3])
        if minutes < 24 * 60:
            return Zone(f"UTC{name}", timezone(sign * timedelta(minutes=minutes)))
    from zoneinfo import ZoneInfo

    try:
        return Zone(name, ZoneInfo(name))
    except (OSError, ValueError, LookupError) as error:
        raise UsageError(
            f"there is no time zone {name!r} here",
            "give one as Europe/Berlin, UTC, or as +01:00",
        ) from error


def parse_stamps(stamps: Sequence[str] | bytes) -> np.ndarray:
    """Return stamps as local microseconds since 1970, int64 (n,).

    Args:
        stamps: Strings of 24 characters each, or those one after the other as bytes.

    Raises:
        ValueError: One of them is no stamp; the text names it.
    """
    if not isinstance(stamps, bytes):
        if any(len(stamp) != STAMP_LENGTH for stamp in stamps):
            wrong = next(stamp for stamp in stamps if len(stamp) != STAMP_LENGTH)
            raise ValueError(f"{wrong[:40]!r} is no time as 20241121-05:22:50.156286")
        stamps = "".join(stamps).encode("ascii", "replace")
    found = np.frombuffer(stamps, np.uint8).reshape(-1, STAMP_LENGTH)
    digits = found[:, _DIGITS] - np.uint8(ord("0"))  # what is below "0" wraps to above 9
    good = (digits <= 9).all(axis=1)
    for at, mark in _MARKS:
        good &= found[:, at] == ord(mark)
    numbers = (digits.astype(np.float64) @ _PLACES).astype(np.int64)
    date, hour, minute, second, micro = numbers.T
    good &= (hour < 24) & (minute < 60) & (second < 61)
    dates, which = np.unique(np.where(good, date, 0), return_inverse=True)
    days = np.array([_day(int(date)) for date in dates], np.int64)
    good &= days[which] >= 0
    if not good.all():
        wrong_at = int(np.flatnonzero(~good)[0])
        text = found[wrong_at].tobytes().decode("ascii", "replace")
        raise ValueError(f"{text!r} is no time as 20241121-05:22:50.156286")
    seconds = days[which] * 86_400 + hour * 3600 + minute * 60 + second
    result: np.ndarray = seconds * US + micro
    return result


def _day(date: int) -> int:
    """Return a date as days since 1970, -1 if it is none."""
    try:
        day = datetime(date // 10_000, date // 100 % 100, date % 100)
    except ValueError:
        return -1
    return max(-1, (day - _EPOCH).days)


def format_stamps(local_us: np.ndarray) -> list[str]:
    """Return local microseconds since 1970 as stamps; turns `parse_stamps` round."""
    text = np.empty((len(local_us), STAMP_LENGTH), np.uint8)
    for at, mark in _MARKS:
        text[:, at] = ord(mark)
    days, of_day = np.divmod(local_us, 86_400 * US)
    known, which = np.unique(days, return_inverse=True)
    dates = [list(f"{_EPOCH + timedelta(days=int(day)):%Y%m%d}".encode()) for day in known]
    text[:, :8] = np.array(dates, np.uint8).reshape(-1, 8)[which]
    seconds, micro = of_day // US, of_day % US
    for column, number in (
        (9, seconds // 3600),
        (12, seconds // 60 % 60),
        (15, seconds % 60),
        (18, micro // 10_000),
        (20, micro // 100 % 100),
        (22, micro % 100),
    ):
        text[:, column : column + 2] = _PAIRS[number]
    joined = text.tobytes().decode("ascii")
    return [joined[i : i + STAMP_LENGTH] for i in range(0, len(joined), STAMP_LENGTH)]


def parse_short(text: object) -> int | None:
    """Return `20241121-052004` as local microseconds since 1970, None if it is no such text."""
    found = _SHORT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    try:
        parsed = datetime(*(int(part) for part in found.groups()))  # type: ignore[arg-type]
    except ValueError:
        return None
    return (parsed - _EPOCH) // timedelta(microseconds=1)


def format_short(local_us: int) -> str:
    """Return local microseconds since 1970 as `20241121-052004`."""
    return f"{_EPOCH + timedelta(microseconds=local_us):%Y%m%d-%H%M%S}"


@dataclass(frozen=True)
class Utc:
    """Times in UTC, int64 microseconds, and what had to be decided to get there."""

    us: np.ndarray
    notes: tuple[str, ...] = ()


def to_utc(local_us: np.ndarray, zone: Zone, what: str, near: tuple[int, int] | None = None) -> Utc:
    """Turn local times, in the order in which they were taken, into UTC.

    Args:
        local_us: int64 (n,) local microseconds.
        zone: Their zone.
        what: What they are the times of, for notes.
        near: First and last UTC time of what was recorded around them: tells the two hours apart
            where the order of the times does not.

    Raises:
        MeasurementError: A time does not exist in this zone.
    """
    if not len(local_us):
        return Utc(local_us)
    blocks, which = np.unique(local_us // _BLOCK_US, return_inverse=True)
    starts = [int(block) * _BLOCK_US for block in blocks]
    first = np.array([zone.offset_us(at, 0) for at in starts], np.int64)
    second = np.array([zone.offset_us(at, 1) for at in starts], np.int64)
    missing = (first < second)[which]
    if missing.any():
        text = format_stamps(local_us[np.flatnonzero(missing)[:1]])[0]
        raise MeasurementError(
            f"{what} has the time {text}, which the clock of {zone.name} leaps over",
            "give the recording board's --timezone",
        )
    utc = local_us - first[which]
    later = local_us - second[which]
    notes = []
    twice = (first > second)[which]
    if len(set(first.tolist()) | set(second.tolist())) > 1:
        notes.append(f"{what}: the clock changed between summer and winter time meanwhile")
    if twice.any():
        start, end = int(np.flatnonzero(twice)[0]), int(np.flatnonzero(twice)[-1]) + 1
        back = np.flatnonzero(np.diff(local_us[start:end]) < -_BLOCK_US) + start + 1
        if len(back):
            from_there = int(back[0])
        elif start == 0 and end < len(local_us):
            from_there = start  # it goes on after that hour: so it was the second
        elif start > 0 or near is None or _inside(utc[start:end], near):
            from_there = end
        else:
            from_there = start if _inside(later[start:end], near) else end
        chosen = np.zeros(len(utc), bool)
        chosen[from_there:] = True
        utc = np.where(twice & chosen, later, utc)
        seconds = int(np.count_nonzero(twice & chosen))
        notes.append(
            f"{what}: {int(twice.sum())} times lie in the hour that comes twice in {zone.name}; "
            f"{seconds} of them were taken as its second pass"
        )
    return Utc(utc, tuple(notes))


def _inside(utc_us: np.ndarray, near: tuple[int, int]) -> bool:
    return bool(near[0] <= utc_us.min() and utc_us.max() <= near[1])
