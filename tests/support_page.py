"""A page's values as its script reads them."""

from __future__ import annotations

from typing import Any


def unpacked(value: Any, lists: list[Any]) -> Any:
    """What figures.js makes of packed values."""
    if isinstance(value, list):
        return [unpacked(item, lists) for item in value]
    if not isinstance(value, dict):
        return value
    if "$" in value:
        found = lists[value["$"]]
        return [*found, *found[::-1]] if value.get("back") else found
    return {key: unpacked(item, lists) for key, item in value.items()}
