"""Read `<model>_power_log.log` of the older layout: `20241121-05:20:04.261448,5000.0,1096.0`.

Lines that are none are counted and the first of them named; a last line without its end is left
out, because a number may be cut. Memory: 24 bytes per line. Numpy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgejoule.dataset.older.times import parse_stamps
from edgejoule.errors import MeasurementError

_BLOCK = 1 << 22
_LONGEST = 1 << 16  # bytes without a line end that are no line any more
_LARGEST = 1e9  # mV and mA: a thousand kilovolts is no reading
_MOST = 1e12  # mV x mA: nor is a megawatt, of which the product in millionths would not fit
_LINE = re.compile(
    rb"^(\d{8}-\d\d:\d\d:\d\d\.\d{6}),(-?\d{1,12}(?:\.\d{1,17})?),(-?\d{1,12}(?:\.\d{1,17})?)\r?\n",
    re.MULTILINE,
)


@dataclass(frozen=True)
class PowerLog:
    """What the log says.

    Attributes:
        local_us: int64 (n,) local microseconds, as written.
        mv: float64 (n,).
        ma: float64 (n,).
        wrong: Lines that are none.
        first_wrong: The first of them, shortened.
        torn: Whether a last line without its end was left out.
    """

    local_us: np.ndarray
    mv: np.ndarray
    ma: np.ndarray
    wrong: int
    first_wrong: str
    torn: bool


def read_power_log(
    path: Path, said: Callable[[int, int], None] = lambda done, total: None
) -> PowerLog:
    """Read the log.

    Args:
        path: The file.
        said: Is told after each block how many bytes of how many are read.

    Raises:
        MeasurementError: It cannot be read.
    """
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    wrong, first_wrong, number = 0, "", 0
    rest = b""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                text = rest + block
                end = text.rfind(b"\n") + 1
                lines, rest = text[:end], text[end:]
                if len(rest) > _LONGEST:
                    raise MeasurementError(
                        f"{path} is no power log: it has a line of more than {_LONGEST} bytes"
                    )
                part, bad = _parse(lines)
                parts.append(part)
                if bad and not first_wrong:
                    first_wrong = f"line {number + bad[0][0]}: {bad[0][1]}"
                wrong += len(bad)
                number += lines.count(b"\n")
                said(file.tell(), size)
    except OSError as error:
        raise MeasurementError(f"{path} cannot be read ({error.strerror})") from error
    nothing = (np.empty(0, np.int64), np.empty(0), np.empty(0))
    columns = [np.concatenate(column) for column in zip(nothing, *parts, strict=True)]
    return PowerLog(columns[0], columns[1], columns[2], wrong, first_wrong, bool(rest.strip()))


def _parse(
    text: bytes,
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], list[tuple[int, str]]]:
    """Return times, mV and mA of the right lines, and number and text of the others."""
    found = _LINE.findall(text)
    bad = []
    if len(found) != text.count(b"\n"):
        found = []
        for number, line in enumerate(text.splitlines(keepends=True), start=1):
            match = _LINE.fullmatch(line)
            if match and _sound(match.groups()):
                found.append(match.groups())
            elif line.strip():
                bad.append((number, line[:60].decode("ascii", "replace").strip()))
    try:
        return _columns(found), bad
    except ValueError:  # a time or a number that only looks like one
        good = [_sound(one) for one in found]
        lines = text.splitlines() if not bad else []
        bad += [
            (number, lines[number - 1][:60].decode("ascii", "replace"))
            for number, is_good in enumerate(good, start=1)
            if not is_good
        ]
        return _columns([one for one, is_good in zip(found, good, strict=True) if is_good]), bad


def _columns(found: list[tuple[bytes, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not found:
        return np.empty(0, np.int64), np.empty(0), np.empty(0)
    stamps, volts, amps = zip(*found, strict=True)
    mv, ma = np.array(volts).astype(np.float64), np.array(amps).astype(np.float64)
    if max(np.abs(mv).max(), np.abs(ma).max()) > _LARGEST or np.abs(mv * ma).max() > _MOST:
        raise ValueError
    return parse_stamps(b"".join(stamps)), mv, ma


def _sound(one: tuple[bytes, ...]) -> bool:
    try:
        _columns([one])
    except ValueError:
        return False
    return True


def as_raw(values: np.ndarray, unit: str) -> tuple[np.ndarray, str, int]:
    """Return readings as whole numbers with their unit, and how many had to be rounded.

    Whole milli-units stay; where one has a fraction, all are taken in millionths (`mV` -> `uV`).
    """
    whole = np.round(values)
    if (whole == values).all():
        return whole.astype(np.int64), unit, 0
    fine = np.round(values * 1000.0)
    lost = int(np.count_nonzero(fine / 1000.0 != values))
    return fine.astype(np.int64), f"u{unit[1:]}", lost
