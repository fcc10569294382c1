"""Power of a run that is still measured, from the sampler's growing file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgejoule.energy.replay_live import LiveTrace, reach_ns
from edgejoule.errors import MeasurementError
from edgejoule.records import POWER, RecordWriter

SECOND = 1_000_000_000


def channel(index: int, rail: str, quantity: str, unit: str, **more: Any) -> dict[str, Any]:
    return {"index": index, "rail": rail, "quantity": quantity, "unit": unit, "chip": "c", **more}


CHANNELS = [channel(0, "GPU", "power", "mW"), channel(1, "CPU", "power", "mW")]
GROUPS = [{"name": "c", "channels": [0, 1], "refresh_ns": 7_000_000}]


def written(folder: Path, total: dict[str, Any] | None) -> RecordWriter:
    header = {"channels": CHANNELS, "groups": GROUPS, "total": total, "sensor": "made up"}
    return RecordWriter(folder / "power.bin", POWER, header)


def sweep(writer: RecordWriter, at_ns: int, gpu: int, cpu: int) -> None:
    writer.write(at_ns, at_ns + 10, gpu, 0, 0)
    writer.write(at_ns + 10, at_ns + 20, cpu, 1, 0)
    writer.flush()


def test_the_total_is_taken_from_where_it_is_wanted_and_follows_the_file(tmp_path: Path) -> None:
    writer = written(tmp_path, {"rails": ["GPU", "CPU"]})
    for second in range(5):
        sweep(writer, second * SECOND, 1000 + second, 100)
    trace = LiveTrace(tmp_path / "power.bin")
    assert trace.rails == ("GPU", "CPU")
    assert trace.reach_ns == 14_000_000
    trace.begin(3 * SECOND)
    assert trace.end_ns() == 4 * SECOND + 20
    assert trace.power().power_mw == pytest.approx([1103.0, 1103.0, 1104.0, 1104.0][1:3], abs=1.0)
    sweep(writer, 5 * SECOND, 2000, 100)
    assert trace.end_ns() == 5 * SECOND + 20
    assert trace.power().power_mw.max() == pytest.approx(2100.0, abs=1.0)
    writer.close()


def test_without_a_total_the_first_rail_stands_for_all(tmp_path: Path) -> None:
    writer = written(tmp_path, None)
    sweep(writer, SECOND, 1000, 100)
    sweep(writer, 2 * SECOND, 1000, 100)
    trace = LiveTrace(tmp_path / "power.bin")
    assert trace.rails == ("GPU",)
    assert set(trace.power().power_mw.tolist()) == {1000.0}
    writer.close()


def test_no_power_is_said(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="no power is recorded"):
        LiveTrace(tmp_path / "power.bin")
    writer = written(tmp_path, None)
    writer.flush()
    with pytest.raises(MeasurementError, match="no rail's power is known"):
        LiveTrace(tmp_path / "power.bin")
    writer.close()


def test_how_far_readings_reach_back() -> None:
    header = {
        "channels": [
            channel(0, "gpu_instant", "power", "mW"),
            channel(1, "gpu_average", "power", "mW", averaging="mean over 1 s"),
            channel(2, "gpu_energy", "energy", "mJ"),
        ],
        "groups": [
            {"name": "g", "channels": [0, 1], "refresh_ns": 100_000_000},
            {"name": "g counter", "channels": [2], "refresh_ns": 100_000_000},
        ],
    }
    assert reach_ns(header, ("gpu_instant",)) == 200_000_000
    assert reach_ns(header, ("gpu_average",)) == 1_200_000_000
    assert reach_ns(header, ("gpu_energy",)) == 100_000_000  # whole ticks do the rest
    assert reach_ns(header) == 1_200_000_000
    unknown = {**header, "groups": [{"name": "g", "channels": [0], "refresh_ns": None}]}
    assert reach_ns(unknown, ("gpu_instant",)) == 200_000_000
    for averaging, refreshes in (
        ("running mean of 16 conversions", 2 + 5 * 16),
        ("mean of 16 conversions", 2),
    ):
        averaged = {
            "channels": [channel(0, "VDD_IN", "current", "mA", averaging=averaging)],
            "groups": [{"name": "1-0040", "channels": [0], "refresh_ns": 7_000_000}],
        }
        assert reach_ns(averaged) == refreshes * 7_000_000
    assert reach_ns({"channels": [], "refresh_ns": 5_000_000}) == 10_000_000
