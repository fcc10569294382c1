"""Read `trt_layer_latency.json` of the older layout: layer after layer, never the whole file.

Such a file has hundreds of megabytes. What is kept of each layer are 4 bytes per inference, and of
the first layer the times of its callbacks; the text of one layer at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgejoule.dataset.older.times import parse_stamps
from edgejoule.errors import MeasurementError

LONGEST_MS = 86_400_000.0  # a layer that takes longer than a day is a damaged number
_MOST_LAYERS = 2**15 - 1
_MEND = "it is no recording of layers' times; leave this model out with --model for the others"


@dataclass(frozen=True)
class LayerLists:
    """What the file says.

    Attributes:
        names: The layers, in the order of execution.
        durations_ms: Per layer float32 (n,), n may differ.
        callbacks_us: Local microseconds of the first layer's callbacks, int64 (n,); None where the
            file holds plain numbers.
        rounded: Durations that are no float32 number: at most 6e-8 of them was lost.
        unordered: Callbacks that are earlier than that of the layer before, in the same inference.
        bytes: Size of the file.
    """

    names: tuple[str, ...]
    durations_ms: list[np.ndarray]
    callbacks_us: np.ndarray | None
    rounded: int
    unordered: int
    bytes: int


def read_layer_times(
    path: Path, said: Callable[[int, int], None] = lambda done, total: None
) -> LayerLists:
    """Read the file.

    Args:
        path: The file.
        said: Is told after each layer how many bytes of how many are read.

    Raises:
        MeasurementError: It is damaged, or holds something else.
    """
    import ijson

    reader = _Reader(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            for event, value in ijson.basic_parse(file, use_float=True):
                if reader.take(event, value):
                    said(file.tell(), size)
        except (ijson.JSONError, UnicodeDecodeError, ValueError, OverflowError) as error:
            line = " ".join(str(error).split())[:100]
            raise MeasurementError(f"{path} is damaged ({line})", _MEND) from error
        except OSError as error:
            raise MeasurementError(f"{path} cannot be read ({error.strerror})") from error
    if not reader.names:
        raise MeasurementError(f"{path} holds no layer", _MEND)
    return LayerLists(
        tuple(reader.names),
        reader.durations,
        reader.callbacks,
        reader.rounded,
        reader.unordered,
        size,
    )


class _Reader:
    """Collects layers from the parser's events; each must look like the first.

    What does not fit ends it at once, so that no nesting, however deep, is ever built.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: set[str] = set()
        self._before: np.ndarray | None = None
        self._name: str | None = None
        self._opened = False
        self._depth = 0  # 1: in a layer's list, 2: in a pair
        self._place = 0  # of the next value in a pair
        self._durations: list[float] = []
        self._stamps: list[str] = []
        self.names: list[str] = []
        self.durations: list[np.ndarray] = []
        self.callbacks: np.ndarray | None = None
        self.rounded = 0
        self.unordered = 0

    def take(self, event: str, value: Any) -> bool:
        """Take one event of the parser; say whether a layer is whole with it."""
        fits, whole = True, False
        if event == "number":
            fits = self._depth == 1 or (self._depth == 2 and self._place == 0)
            self._durations.append(value)
            self._place = 1
        elif event == "string":
            fits = self._depth == 2 and self._place == 1
            self._stamps.append(value)
            self._place = 2
        elif event == "start_array":
            fits = self._name is not None and self._depth < 2
            self._depth += 1
            self._place = 0
        elif event == "end_array":
            fits = self._depth == 1 or self._place == 2
            self._depth -= 1
            whole = fits and not self._depth
        elif event == "map_key":
            self._name = value
        else:
            fits = event == "end_map" or (event == "start_map" and not self._opened)
            self._opened = True
        if not fits:
            raise self._wrong("is no list of numbers, or of pairs of number and time")
        if whole:
            self._end_layer()
        return whole

    def _end_layer(self) -> None:
        name = str(self._name)
        if name in self._seen:
            raise self._wrong("stands there twice")
        if len(self.names) == _MOST_LAYERS:
            raise MeasurementError(f"{self._path} has more than {_MOST_LAYERS} layers", _MEND)
        if self._stamps:
            if len(self._stamps) != len(self._durations):
                raise self._wrong("holds plain numbers among pairs of number and time")
            self._take_stamps(self._stamps)
        elif self._durations and self.callbacks is not None:
            raise self._wrong("holds plain numbers, the layers before it times as well")
        self.durations.append(self._numbers(self._durations))
        self.names.append(name)
        self._seen.add(name)
        self._durations, self._stamps, self._name = [], [], None

    def _numbers(self, durations: list[float]) -> np.ndarray:
        exact = np.array(durations, np.float64)
        bad = np.flatnonzero(~((exact >= 0) & (exact <= LONGEST_MS)))
        if len(bad):
            value = durations[int(bad[0])]
            raise self._wrong(f"has a duration of {value:.6g} ms at inference {int(bad[0])}")
        found = exact.astype(np.float32)
        self.rounded += int(np.count_nonzero(found.astype(np.float64) != exact))
        return found

    def _take_stamps(self, stamps: list[str]) -> None:
        if self.callbacks is None and any(map(len, self.durations)):
            raise self._wrong("holds times, the layers before it plain numbers")
        try:
            # Only the first layer's are needed as numbers; as text they have the same order.
            if self.callbacks is None:
                self.callbacks = parse_stamps(stamps)
            text = np.array(stamps, "S24")
        except ValueError as error:
            raise self._wrong(str(error)) from error
        if self._before is not None:
            common = min(len(text), len(self._before))
            self.unordered += int(np.count_nonzero(text[:common] < self._before[:common]))
        self._before = text

    def _wrong(self, what: str) -> MeasurementError:
        if self._name is None:
            return MeasurementError(f"{self._path} holds no layer", _MEND)
        short = self._name if len(self._name) <= 60 else f"{self._name[:57]}..."
        return MeasurementError(f"{self._path}: layer {short!r} {what}", _MEND)
