"""The threads of OpenBLAS are one during an attribution, and as they were after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgejoule.energy import window_threads
from edgejoule.energy.window_threads import one_thread, switches
from edgejoule.errors import MeasurementError

Switches = list[tuple[Callable[[], int], Callable[[int], None]]]


@pytest.fixture
def found() -> Switches:
    np.ones((2, 2)) @ np.ones((2, 2))
    found = switches()
    if not found:
        pytest.skip("numpy has no OpenBLAS here")
    return found


def _fails_within(libraries: int) -> None:
    with one_thread():
        assert [count() for count, _ in switches()] == [1] * libraries
        raise MeasurementError("within")


def test_threads_are_one_within_and_as_before_after(found: Switches) -> None:
    (count, change), *_ = found
    before = count()
    change(2)
    try:
        several = count()  # 1 where OpenBLAS was built for one
        with pytest.raises(MeasurementError):
            _fails_within(len(found))
        assert count() == several
    finally:
        change(before)


def test_without_openblas_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = tmp_path / "maps"
    monkeypatch.setattr(window_threads, "_LOADED", maps)
    assert switches() == []  # no such file
    maps.write_text(f"7f00-7f01 r-xp 0 00:00 1 {tmp_path}/libopenblas.so.0\n7f02-7f03 rw-p\n")
    assert switches() == []  # a file that is no library
    (tmp_path / "libopenblas.so.0").write_text("text")
    with one_thread():
        assert switches() == []
