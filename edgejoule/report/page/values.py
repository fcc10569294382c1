"""Values as JSON inside a page: short, without NaN, and unable to end the element they stand in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

DIGITS = 5
# JSON has no such characters but inside strings, where an escape is the same text.
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def plain(value: Any, digits: int = DIGITS) -> Any:
    """Return a value as JSON has it: arrays as lists, floats rounded, None for what is no number.

    Args:
        value: Mappings, sequences, numpy arrays and scalars, texts, None.
        digits: Significant digits that are kept of a float.

    Raises:
        TypeError: It is nothing of these.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return _rounded(value, digits)
    if isinstance(value, Mapping):
        return {str(key): plain(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, digits) for item in value]
    if hasattr(value, "tolist"):  # numpy, without importing it
        return plain(value.tolist(), digits)
    raise TypeError(f"{type(value).__name__} is nothing a page can hold")


def _rounded(value: float, digits: int) -> float | int | None:
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    if not math.isfinite(short):  # the greatest numbers there are, rounded up
        return value
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def embedded(value: Any, digits: int = DIGITS) -> str:
    """Return a value as JSON for a `<script type="application/json">`.

    Everything beyond ASCII is escaped too, so that no line separator, no half of a surrogate pair
    and no encoding can change it.
    """
    text = json.dumps(plain(value, digits), separators=(",", ":"), allow_nan=False)
    for char, escape in _ESCAPES.items():
        text = text.replace(char, escape)
    return text
