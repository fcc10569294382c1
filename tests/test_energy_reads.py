"""Reads of single channels out of a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.dataset.schema import write_table
from edgejoule.energy.reads import channel_reads
from edgejoule.errors import MeasurementError

MS = 1_000_000


def channel(index: int, rail: str, quantity: str, unit: str, **more: Any) -> dict[str, Any]:
    return {
        "index": index, "rail": rail, "quantity": quantity, "unit": unit, "chip": "1-0040",
        "source": "x", "shunt_uohm": None, "lsb": None, **more,
    }  # fmt: skip


CHANNELS = [
    channel(0, "VDD_IN", "voltage", "mV", lsb=8),
    channel(1, "VDD_IN", "current", "mA", lsb=8),
    channel(2, "GPU", "power", "uW"),
    channel(3, "LONE", "voltage", "mV"),
]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Voltage falls from 5.0 to 4.0 V half way; one read of current fails."""
    n = 400
    t0 = np.repeat(np.arange(n) * 2 * MS, 3)
    which = np.tile([0, 1, 2], n)
    raw: list[int | None] = []
    for k in range(n):
        raw += [5000 if k < n // 2 else 4000, 1000 + k, 7_000_000]
    raw[3 * 7 + 1] = None
    path = tmp_path / "power.parquet"
    write_table(
        path, "power",
        {
            "t0_ns": t0, "t1_ns": t0 + 1000, "channel": which, "raw": raw,
            "errno": [61 if value is None else None for value in raw],
        },
        channels=CHANNELS, refresh_ns=5,
        groups=[{"channels": [0, 1], "refresh_ns": 6_600_000, "name": "1-0040"}],
    )  # fmt: skip
    return path


def test_a_current_becomes_power_with_the_voltage_read_nearest(trace: Path) -> None:
    reads = channel_reads(trace, ["VDD_IN"], 0, 10**12)["VDD_IN"]
    assert len(reads.raw) == 399  # the failed read is no value
    assert reads.power_mw[0] == pytest.approx(1000 * 5.0)
    assert reads.power_mw[-1] == pytest.approx(1399 * 4.0)
    assert reads.lsb_mw == pytest.approx(8 * 4.5, rel=0.12)
    assert reads.refresh_ns == 6_600_000
    assert np.all(np.diff(reads.t0_ns) > 0)


def test_power_is_taken_where_there_is_no_current_and_a_lone_voltage_is_none(trace: Path) -> None:
    found = channel_reads(trace, ["GPU", "LONE", "NOWHERE"], 0, 10**12)
    assert list(found) == ["GPU"]
    assert found["GPU"].power_mw == pytest.approx(7000.0)
    assert found["GPU"].refresh_ns == 5  # of no group: the trace's own


def test_only_the_stretch_is_read_and_too_few_reads_are_none(trace: Path) -> None:
    reads = channel_reads(trace, ["VDD_IN"], 200 * MS, 500 * MS)["VDD_IN"]
    assert reads.t0_ns[0] == 200 * MS
    assert reads.t0_ns[-1] == 500 * MS
    assert channel_reads(trace, ["VDD_IN"], 0, 20 * MS) == {}


def test_a_trace_without_a_channel_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "power.parquet"
    columns: dict[str, list[int]] = {
        name: [] for name in ("t0_ns", "t1_ns", "channel", "raw", "errno")
    }
    write_table(path, "power", columns)
    with pytest.raises(MeasurementError, match="no channel table"):
        channel_reads(path, ["VDD_IN"], 0, 1)
