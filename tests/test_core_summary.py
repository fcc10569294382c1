"""From tables to figures: latency, layers, baselines, energy, cool-down."""

import json

import numpy as np
import pytest

from edgejoule import summary
from edgejoule.cooldown import Level, cool_down, has_returned, recent_power_mw
from edgejoule.energy.trace import RailPower
from edgejoule.errors import MeasurementError
from edgejoule.phases import PhaseSpan
from edgejoule.records import POWER, RecordWriter

MS = 1_000_000
S = 1_000_000_000


def steady(rail, mw, seconds, start_ns=0, step_ns=10 * MS):
    times = np.arange(start_ns, start_ns + seconds * S + 1, step_ns, dtype=np.int64)
    return RailPower(rail, times, np.full(len(times), float(mw)))


def stepped(rail, levels):
    """A trace of (seconds, mW) levels, 1 ms apart."""
    powers = np.concatenate([np.full(int(s * 1000), float(mw)) for s, mw in levels])
    return RailPower(rail, np.arange(len(powers), dtype=np.int64) * MS, powers)


def inferences(count, duration_ns=10 * MS, start_ns=0, pause_ns=0, due=False):
    starts = start_ns + np.arange(count, dtype=np.int64) * (duration_ns + pause_ns)
    return summary.Inferences(
        np.arange(count), starts, starts + duration_ns, starts if due else np.empty(0, np.int64)
    )


def test_latency_of_known_durations():
    starts = np.arange(100, dtype=np.int64) * S
    found = summary.latency(
        summary.Inferences(np.arange(100), starts, starts + np.arange(1, 101) * MS, np.empty(0))
    )
    assert found["inferences"] == 100
    assert found["median_ms"] == pytest.approx(50.5)
    assert found["p99_ms"] == pytest.approx(99.01)
    assert (found["min_ms"], found["max_ms"]) == (1.0, 100.0)
    low, high = found["interval_mean_ms"]
    assert found["mean_ms"] == pytest.approx(50.5)
    assert low < 50.5 < high
    assert json.loads(json.dumps(found)) == found


def test_an_unsteady_clean_pass_is_noted():
    steady_pass = summary.latency(inferences(100))
    assert summary.stability_notes(steady_pass) == []
    wild = {**steady_pass, "interval_mean_ms": [8.0, 12.0]}
    assert "known within 20% only" in summary.stability_notes(wild)[0]
    assert "--clean-runs" in summary.stability_notes(summary.latency(inferences(1)))[0]


def test_one_inference_has_no_interval():
    assert summary.latency(inferences(1))["interval_mean_ms"] is None


def test_layers_are_summed_per_inference_and_block(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    n, layers = 45, 3
    inference = np.repeat(np.arange(n, dtype=np.int32), layers)
    layer = np.tile(np.arange(layers, dtype=np.int16), n)
    duration = np.float32(1.0) + layer.astype(np.float32)
    pq.write_table(
        pa.table({"inference": inference, "layer": layer, "duration_ms": duration}),
        tmp_path / "layers.parquet",
    )
    sums = summary.sum_layers(tmp_path / "layers.parquet", n, layers)
    assert sums.per_inference_ns == pytest.approx(np.full(n, 6.0 * MS))
    assert sums.per_block_ns.sum(axis=0) == pytest.approx(np.array([1.0, 2.0, 3.0]) * n * MS)
    found = summary.profiled_figures(inferences(n, 10 * MS), sums)
    assert found["layers_share"] == pytest.approx(0.6)
    assert found["gap_ms_median"] == pytest.approx(4.0)


def test_baselines_leave_the_settling_out_and_average_before_and_after():
    # 1 s of settling at 9 W, then 4 s at 5 W; busy; idle again at 5.2 W
    trace = stepped("VDD_IN", [(1, 9000), (4, 5000), (2, 12000), (1, 9000), (4, 5200)])
    power = summary.Power({"VDD_IN": trace, summary.TOTAL: trace}, ("VDD_IN",))
    spans = [
        PhaseSpan("idle_loaded_before", 0, 5 * S),
        PhaseSpan("clean", 5 * S, 7 * S),
        PhaseSpan("idle_loaded_after", 7 * S, 12 * S - MS),
        PhaseSpan("idle_after", 12 * S, None),
    ]
    idle = summary.baselines(power, spans)
    assert [(entry["kind"], entry["when"]) for entry in idle] == [
        ("loaded", "before"), ("loaded", "after"),
    ]  # fmt: skip
    mean, _ = summary.loaded_baseline(idle, summary.TOTAL)
    assert mean == pytest.approx(5100, rel=1e-3)
    assert summary.loaded_baseline(idle, "no rail") == (None, None)
    phases = summary.phase_energies(power, spans)
    assert phases["clean"]["VDD_IN"]["energy_mj"] == pytest.approx(24_000, rel=2e-3)
    assert phases["clean"]["VDD_IN"]["mean_mw"] == pytest.approx(12_000, rel=2e-3)
    assert "idle_after" not in phases


def test_a_phase_before_the_trace_has_no_energy():
    power = summary.Power({"VDD_IN": steady("VDD_IN", 5000, 2, start_ns=10 * S)}, None)
    assert summary.phase_energies(power, [PhaseSpan("setup", 0, 11 * S)]) == {}


def test_energy_of_a_pass_gross_and_dynamic():
    power = summary.Power({"total": steady("total", 8000, 30)}, ("VDD_IN",))
    idle = [
        {"kind": "loaded", "rails": {"total": {"mean_mw": 5000.0, "half_width_mw": 10.0, "n": 9}}},
        {"kind": "sampler", "rails": {"total": {"mean_mw": 4000.0, "half_width_mw": 1.0, "n": 9}}},
    ]
    found = summary.pass_energy(power, "total", inferences(100, start_ns=S), idle)
    assert found["gross_mj"] == pytest.approx(80.0)
    assert found["dynamic_mj"] == pytest.approx(30.0)
    assert found["dynamic_statistical_mj"] == pytest.approx(0.1)
    assert found["mean_mw"] == pytest.approx(8000.0)


def test_inferences_outside_the_trace_are_an_error_and_not_a_guess():
    power = summary.Power({"total": steady("total", 8000, 1)}, ("VDD_IN",))
    with pytest.raises(MeasurementError, match="50 of 100 inferences lie outside"):
        summary.pass_energy(power, "total", inferences(100, start_ns=S // 2), [])


def test_the_rate_pass_counts_missed_deadlines_and_the_power_between_frames():
    frames = inferences(50, duration_ns=20 * MS, pause_ns=80 * MS, start_ns=S, due=True)
    late = summary.Inferences(
        frames.index, frames.start_ns, frames.end_ns + (frames.index == 7) * 90 * MS, frames.due_ns
    )
    found = summary.rate_figures(late, 10.0)
    assert (found["frames"], found["missed_deadlines"]) == (50, 1)
    # 20 ms of 12 W every 100 ms, 6 W between
    times = np.arange(0, 8 * S, MS, dtype=np.int64)
    busy = ((times - S) % (100 * MS) < 20 * MS) & (times >= S) & (times < 6 * S)
    power = summary.Power({"t": RailPower("t", times, np.where(busy, 12_000.0, 6_000.0))}, None)
    energy = summary.rate_energy(power, "t", frames, 10.0)
    assert energy["gross_mj_per_frame"] == pytest.approx(720, rel=0.01)
    assert energy["between_frames_mw"] == pytest.approx(6000, rel=0.01)


def test_a_pass_of_few_readings_is_noted():
    from edgejoule.closing import _too_short

    passes = {"clean": inferences(100, 10 * MS), "profiled": inferences(10, 10 * MS)}
    notes = _too_short(passes, 7 * MS)
    assert len(notes) == 1
    assert notes[0].startswith("the profiled pass lasted 100 ms, under 30 refreshes")
    assert _too_short(passes, None) == []


def write_power(path, milliwatts, samples=400):
    channels = [
        {"index": 0, "rail": "VDD_IN", "quantity": "voltage", "unit": "mV"},
        {"index": 1, "rail": "VDD_IN", "quantity": "current", "unit": "mA"},
    ]
    writer = RecordWriter(path, POWER, {"channels": channels})
    for i in range(samples):
        for channel, raw in ((0, 5000), (1, milliwatts // 5)):
            at = i * 10 * MS + channel * MS
            writer.write(at, at + 1000, raw, channel, 0)
    writer.close()


def test_the_tail_of_a_growing_trace_gives_the_power_now(tmp_path):
    write_power(tmp_path / "power.bin", 7000)
    assert recent_power_mw(tmp_path / "power.bin") == pytest.approx(7000)
    write_power(tmp_path / "empty.bin", 7000, samples=0)
    assert recent_power_mw(tmp_path / "empty.bin") is None


@pytest.mark.parametrize(
    ("before", "now", "back"),
    [
        (Level(5000, 40), Level(5100, 41), True),
        (Level(5000, 40), Level(6000, 41), False),
        (Level(5000, 40), Level(5000, 45), False),
        (Level(None, 40), Level(None, 41), True),
        (Level(5000, None), Level(4900, None), True),
        (Level(5000, 40), Level(None, None), True),
    ],
)
def test_back_means_power_and_temperature(before, now, back):
    assert has_returned(before, now) is back


def test_cool_down_waits_until_the_board_is_back():
    levels = iter([Level(9000, 60), Level(7000, 50), Level(5050, 41)])
    waits = []
    found = cool_down(Level(5000, 40), lambda: next(levels), waits.append, longest_s=100)
    assert found.returned is True
    assert len(waits) == 2
    assert found.to_json()["after"] == {"power_mw": 5050, "temperature_c": 41}


def test_cool_down_gives_up_and_says_so():
    found = cool_down(Level(5000, 40), lambda: Level(9000, 60), lambda _: None, longest_s=0.05)
    assert found.returned is False
    assert "0.05 s" in found.why


def test_nothing_to_watch_is_said():
    found = cool_down(Level(None, None), lambda: Level(None, None), lambda _: None, 10)
    assert found.returned is None
