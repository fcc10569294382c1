"""An external meter beside the board's sensor, with clocks, gains and offsets that are known."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.energy.meter import MeterTrace, compare, read_meter
from edgejoule.energy.sensor_model import SensorParameters, Waveform, convert
from edgejoule.energy.trace import RailPower
from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.power.exciter_schedule import plan_edges

START = 10**13
GAIN, SHIFT_W, DRIFT = 0.97, -0.08, 80e-6


def both(seed: int, refresh_ns: float, seconds: float = 30.0) -> tuple[RailPower, MeterTrace]:
    """Return our reading with a known gain and offset, and a meter's with a clock of its own."""
    rng = np.random.default_rng(seed)
    edges = START + np.array(plan_edges(int(seconds * 1e9), int(refresh_ns), seed), np.int64)
    power = np.full(len(edges) + 1, 5000.0)
    power[1::2] = 8000.0
    load = Waveform(edges, power)
    end = START + int((seconds + 2) * 1e9)
    model = SensorParameters(refresh_ns, refresh_ns / 6, START, 1e6, lsb=40.0, noise=20.0)
    ours = convert(model, load, START - 2 * 10**9, end, rng)
    shown = np.rint(ours.shown_ns).astype(np.int64)
    rail = RailPower("VDD_IN", shown, GAIN * ours.value + SHIFT_W * 1e3)
    theirs = convert(SensorParameters(1e6, 1e6, START), load, START - 10**9, end - 10**9)
    t_ns = (theirs.shown_ns - START) / (1 + DRIFT) + 1.7e18  # since 1970
    watts = 1e-3 * theirs.value + rng.normal(0, 0.01, len(t_ns))
    return rail, MeterTrace(t_ns, watts)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gain_offset_and_clock_are_found(seed: int) -> None:
    rail, meter = both(seed, 6.6e6)
    found = compare(rail, meter)
    # Twice the 95 % interval: of three seeds none lies beyond by chance.
    assert abs(found.gain - GAIN) < 2 * found.gain_half
    assert found.gain_half < 0.01
    assert abs(found.shift_w - SHIFT_W) < 2 * found.shift_half_w
    assert found.shift_half_w < 0.06
    assert abs(found.clock_drift - DRIFT) < 2 * found.drift_half
    assert found.drift_half < 30e-6
    # A value stands for the time until it was shown; it is the mean of 1.1 ms that ended 1 ms
    # before: it seems to be early by half a refresh less its age.
    early = 3.3e6 - 1.55e6
    expected = (START - 10**9) - meter.t_ns[0] - early
    assert found.clock_offset_ns - expected == pytest.approx(0, abs=1e6)
    assert found.correlation > 0.99
    assert found.to_json()["rail"] == "VDD_IN"


def test_a_meter_of_something_else_is_refused() -> None:
    rail, meter = both(0, 6.6e6)
    other, _ = both(5, 6.6e6)
    with pytest.raises(MeasurementError, match="same load"):
        compare(other, meter)
    flat = MeterTrace(meter.t_ns, np.ones(len(meter.t_ns)))
    with pytest.raises(MeasurementError, match="same load"):
        compare(rail, flat)
    few = MeterTrace(meter.t_ns[:20], meter.power_w[:20])
    with pytest.raises(MeasurementError, match="too few"):
        compare(rail, few)
    # From 0.15 s before the pulses to 0.6 s after their start.
    short = RailPower("R", rail.t_ns[280:394], rail.power_mw[280:394])
    with pytest.raises(MeasurementError, match="too shortly"):
        compare(short, meter)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("header", "row", "t_ns", "watts"),
    [
        ("time_s,power_w", "{k}.5,{k}", 1e9, 1.0),
        ("Timestamp;Voltage;Power_mW", "{k};5;{k}", 1e9, 1e-3),
        ("n\tt_ms\tW", "{k}\t{k}\t{k}", 1e6, 1.0),
        ("power uW,t_ns,x", "{k},{k},", 1.0, 1e-6),
    ],
)
def test_columns_are_found_by_name(
    tmp_path: Path, header: str, row: str, t_ns: float, watts: float
) -> None:
    rows = "\n".join(row.format(k=k) for k in range(60))
    meter = read_meter(write(tmp_path / "m.csv", f"\ufeff{header}\n{rows}\n\n"))
    assert len(meter.t_ns) == 60
    assert meter.t_ns[11] - meter.t_ns[1] == pytest.approx(10 * t_ns)
    assert meter.power_w[7] == pytest.approx(7 * watts)


def test_of_rows_with_one_time_the_last_counts(tmp_path: Path) -> None:
    rows = "\n".join(f"{k // 2},{k}" for k in range(120))
    meter = read_meter(write(tmp_path / "m.csv", f"time_s,power_w\n{rows}"))
    assert meter.power_w.tolist() == list(range(1, 120, 2))


ROWS = "\n".join(f"{k},1" for k in range(60))


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", UsageError, "no column of time"),
        (f"a,power_w\n{ROWS}", UsageError, "no column of time"),
        (f"time_s,volts\n{ROWS}", UsageError, "no column of power"),
        ("time_s,power_w\n1,2\n", UsageError, "has 1 rows"),
        (f"time_s,power_w\n{ROWS}\nx,1", MeasurementError, "row 62"),
        (f"time_s,power_w\n{ROWS}\n7", MeasurementError, "row 62"),
        (f"time_s,power_w\n{ROWS}\n7,1", MeasurementError, "step back"),
        (f"time_s,power_w\n{ROWS}\nnan,1", MeasurementError, "not finite"),
    ],
)
def test_what_cannot_be_used_is_said(
    tmp_path: Path, text: str, error: type[EdgejouleError], says: str
) -> None:
    with pytest.raises(error, match=says):
        read_meter(write(tmp_path / "m.csv", text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="cannot be read"):
        read_meter(tmp_path / "absent.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MeasurementError, match="no text"):
        read_meter(tmp_path / "b.csv")


CELLS = st.text('0123456789.,-+en\n\r"\x00 ', max_size=80)


@given(st.text(max_size=60) | CELLS.map("time_s,power_w\n".__add__))
def test_no_text_raises_anything_but_our_errors(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "m.csv"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(EdgejouleError):
        read_meter(path)
