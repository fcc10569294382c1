"""Write the files of the older text layout, in pieces, in the form of `json.dump(..., indent=4)`.

Scripts read these files with any JSON reader; the form is kept to the byte all the same, so that a
file that was imported and exported again can be compared as text. Numpy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgejoule.dataset.older.times import format_stamps

_LINES = 50_000  # readings or durations that are held as text at once


def write_indented(path: Path, document: Any) -> None:
    """Write a document as the older scripts do."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        json.dump(document, file, indent=4)


def unique_names(names: Sequence[str]) -> list[str]:
    """Return names that are keys: the second `x` becomes `x #2`, unless that is a name itself."""
    taken, found = set(names), []
    seen: dict[str, int] = {}
    for name in names:
        count = seen[name] = seen.get(name, 0) + 1
        unique = name
        while count > 1 and unique in taken:
            unique = f"{name} #{count}"
            count += 1
        taken.add(unique)
        found.append(unique)
    return found


def write_layer_times(
    path: Path,
    names: Sequence[str],
    durations_ms: np.ndarray,
    callbacks_us: Callable[[int], np.ndarray] | None,
    said: Callable[[int], None] = lambda layer: None,
) -> None:
    """Write `trt_layer_latency.json`.

    Args:
        path: The file.
        names: The layers' names, none twice.
        durations_ms: float32 (layers, inferences).
        callbacks_us: Of a layer's number the local microseconds of its callbacks, int64
            (inferences,); None writes plain numbers, as the oldest recordings have them.
        said: Is told how many layers are written.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("{" if names else "{}")
        for number, (name, row) in enumerate(zip(names, durations_ms, strict=True)):
            file.write(f"{',' if number else ''}\n    {json.dumps(name)}: ")
            stamps_us = None if callbacks_us is None else callbacks_us(number)
            for start in range(0, len(row), _LINES):
                part = slice(start, start + _LINES)
                items: Iterable[str] = map(repr, row[part].astype(np.float64).tolist())
                if stamps_us is not None:
                    items = [
                        f'[\n            {one},\n            "{stamp}"\n        ]'
                        for one, stamp in zip(items, format_stamps(stamps_us[part]), strict=True)
                    ]
                file.write(",\n        " if start else "[\n        ")
                file.write(",\n        ".join(items))
            file.write("\n    ]" if len(row) else "[]")
            said(number + 1)
        file.write("\n}" if names else "")


def write_power_log(path: Path, local_us: np.ndarray, mv: np.ndarray, ma: np.ndarray) -> None:
    """Write `<model>_power_log.log`: a line per reading, `20241121-05:20:04.261448,5000.0,1096.0`.

    Args:
        path: The file.
        local_us: int64 (n,) local microseconds.
        mv: float64 (n,).
        ma: float64 (n,).
    """
    with path.open("w", encoding="ascii", newline="\n") as file:
        for start in range(0, len(local_us), _LINES):
            part = slice(start, start + _LINES)
            lines = zip(
                format_stamps(local_us[part]), mv[part].tolist(), ma[part].tolist(), strict=True
            )
            file.writelines(f"{stamp},{volts!r},{amps!r}\n" for stamp, volts, amps in lines)
