"""A page's figures without what they hold twice: times, labels, outlines there and back.

    {"x": [1, 2, ...], ...}, {"x": [1, 2, ...], ...}    lists that stand several times
    {"x": {"$": 0}, ...}, {"x": {"$": 0}, ...}          lists: [[1, 2, ...], ...]
    {"x": {"$": 0, "back": true}, ...}                  the list, then the list from its end

`figures.js` puts them back: what is drawn is the same. A third of a page of many runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

FEWEST = 12  # shorter lists are not worth their number
_SCALARS = (str, int, float, type(None))


def packed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values with each long list of scalars once, under `lists`.

    Args:
        value: Of dicts, lists and scalars as JSON has them; a dict has no key `$`.
    """
    seen: dict[str, int] = {}
    for one in _lists(value):
        text, back = _half(one)
        seen[text] = seen.get(text, 0) + 1 + back
    places: dict[str, int] = {}
    lists: list[Any] = []

    def short(one: Any) -> Any:
        if isinstance(one, Mapping):
            return {key: short(item) for key, item in one.items()}
        if not isinstance(one, list):
            return one
        if not _long(one):
            return [short(item) for item in one]
        text, back = _half(one)
        if seen[text] < 2:
            return one
        if text not in places:
            places[text] = len(lists)
            lists.append(one[: len(one) // 2] if back else one)
        return {"$": places[text], **({"back": True} if back else {})}

    found = {key: short(item) for key, item in value.items()}
    return {**found, "lists": lists}


def _lists(value: Any) -> Iterator[list[Any]]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _lists(item)
    elif isinstance(value, list):
        if _long(value):
            yield value
        else:
            for item in value:
                yield from _lists(item)


def _long(value: list[Any]) -> bool:
    return len(value) >= FEWEST and all(isinstance(item, _SCALARS) for item in value)


def _half(value: list[Any]) -> tuple[str, bool]:
    """Return a list as JSON, or its first half where the second is the same from the end."""
    half = len(value) // 2
    first = json.dumps(value[:half])
    back = len(value) % 2 == 0 and json.dumps(value[: half - 1 : -1]) == first
    return (first if back else json.dumps(value)), back
