"""Energy through the model of an INA3221: steps of its registers, averaging, jitter, 1.1 of 6.6 ms.

And a guard against the pitfall of other tools: leaving out samples equal to the one before.
"""

from __future__ import annotations

import numpy as np
import pytest

from edgejoule.energy.integrate import energy_mj
from edgejoule.energy.sensor_model import SensorParameters, Waveform, simulate
from edgejoule.energy.trace import RailPower, rail_powers_of_samples
from tests.support_power import SAMPLE, voltage_and_current

MS = 1_000_000
SECOND = 1000 * MS
UPTIME = 8_640_000_000_000_001
CYCLE = 6_600_000  # three channels of two conversions of 1.1 ms each
CONVERSION = 1_100_000
AVERAGED = (1, 4, 16, 64)
OPEN_MV, DROOP_MV_PER_MA = 5050.0, 0.02


def voltage_of(current_ma: np.ndarray) -> np.ndarray:
    return OPEN_MV - DROOP_MV_PER_MA * current_ma


def truth_mj(current: Waveform, start: int, end: int) -> float:
    power = Waveform(current.edges_ns, voltage_of(current.power) * current.power * 1e-3)
    return power.energy_mj(start, end)


def read_rail(current: Waveform, seconds: float, samples: int, seed: int) -> RailPower:
    """Read one rail for a while as the sampler does, and derive its power from mV and mA.

    One sweep per refresh of 7 ms as the driver tells it, begun late by 0.1 ms or so and by 3 ms now
    and then; current and voltage are two files, 0.5 ms apart.
    """
    rng = np.random.default_rng(seed)
    phase = UPTIME + rng.uniform(0, CYCLE)
    chip = {"refresh_ns": CYCLE, "window_ns": CONVERSION, "samples": samples, "noise": 4.0}
    bus = SensorParameters(phase_ns=phase, lsb=8.0, **chip)
    shunt = SensorParameters(phase_ns=phase + CONVERSION, lsb=8.0, **chip)
    sweeps = UPTIME + np.arange(int(seconds * 1e9) // (7 * MS), dtype=np.int64) * 7 * MS
    late = np.abs(rng.normal(0, 0.1 * MS, len(sweeps)))
    late += np.where(rng.random(len(sweeps)) < 0.02, 3.0 * MS, 0.0)
    sweeps = sweeps + late.astype(np.int64)
    volts = Waveform(current.edges_ns, voltage_of(current.power))
    rows = np.zeros(2 * len(sweeps), SAMPLE)
    rows["t0_ns"] = np.column_stack([sweeps, sweeps + MS // 2]).ravel()
    rows["t1_ns"] = rows["t0_ns"] + MS // 2
    rows["channel"] = np.tile([0, 1], len(sweeps))
    middle = rows["t0_ns"] + MS // 4
    rows["raw"][0::2] = np.rint(simulate(bus, volts, middle[0::2], rng))
    rows["raw"][1::2] = np.rint(simulate(shunt, current, middle[1::2], rng))
    return rail_powers_of_samples(voltage_and_current(), rows)["VDD_IN"]


def share_off(series: RailPower, current: Waveform, start_s: float, end_s: float) -> float:
    start, end = UPTIME + int(start_s * SECOND), UPTIME + int(end_s * SECOND)
    found = energy_mj(series, start, end, refresh_ns=7 * MS)
    assert found.coverage == 1.0
    assert found.gaps == 0
    return found.energy_mj / truth_mj(current, start, end) - 1.0


@pytest.mark.parametrize("samples", AVERAGED)
@pytest.mark.parametrize("level_ma", [503.0, 1001.0, 4444.0])
def test_a_steady_load_within_a_hundredth_after_a_second(samples: int, level_ma: float) -> None:
    current = Waveform.constant(level_ma)
    series = read_rail(current, 1.3, samples, seed=samples)
    assert abs(share_off(series, current, 0.1, 1.1)) < 0.01


@pytest.mark.parametrize("samples", AVERAGED)
def test_a_small_load_is_off_by_half_a_step_at_most(samples: int) -> None:
    """What integration cannot mend: with averaging no noise is left that would blur the steps."""
    current = Waveform.constant(203.0)
    series = read_rail(current, 1.3, samples, seed=samples)
    assert abs(share_off(series, current, 0.1, 1.1)) < 4.0 / 203 + 4.0 / 5000 + 0.001


@pytest.mark.parametrize("samples", AVERAGED)
@pytest.mark.parametrize("period_ms", [1.3, 23.0, 61.0, 337.0])
@pytest.mark.parametrize("duty", [0.25, 0.6])
def test_a_load_that_comes_and_goes_within_a_hundredth(
    samples: int, period_ms: float, duty: float
) -> None:
    """Inferences of 1 to 340 ms: periods that are not in step with the chip's 6.6 ms."""
    current = Waveform.square(
        UPTIME - 5 * SECOND, UPTIME + 13 * SECOND, period_ms * MS, 1000.0, 1600.0, duty
    )
    series = read_rail(current, 12.5, samples, seed=7)
    assert abs(share_off(series, current, 0.5, 12.2)) < 0.01


@pytest.mark.parametrize("samples", AVERAGED)
def test_a_pulse_that_the_window_holds_with_its_tail_within_a_hundredth(samples: int) -> None:
    """Averaging moves energy later and loses none: leave five time constants behind the load."""
    edges = np.array([UPTIME + 2 * SECOND, UPTIME + 5 * SECOND], np.int64)
    current = Waveform(edges, np.array([1000.0, 2500.0, 1000.0]))
    series = read_rail(current, 8.0, samples, seed=11)
    assert abs(share_off(series, current, 1.0, 7.5)) < 0.01


def test_a_step_that_the_window_does_not_hold_is_off_by_the_lag() -> None:
    """What integration cannot mend: the chip's average lags, 64 x 6.6 ms, where power differs.

    Both edges are steady, so that the error is the step times the lag and nothing else.
    """
    current = Waveform(np.array([UPTIME + 3 * SECOND], np.int64), np.array([1000.0, 2500.0]))
    series = read_rail(current, 8.0, 64, seed=13)
    start, end = UPTIME + SECOND, UPTIME + 7 * SECOND
    error = energy_mj(series, start, end).energy_mj - truth_mj(current, start, end)
    step_mw = float(np.diff(voltage_of(current.power) * current.power)[0]) * 1e-3
    lag_s = 63 * CYCLE * 1e-9 + CYCLE * 1e-9 / 2 + CONVERSION * 1e-9 / 2
    assert error == pytest.approx(-step_mw * lag_s, rel=0.05)


def without_equal_samples(series: RailPower) -> RailPower:
    """Leave out what is equal to the sample before, as some power monitors do to save memory."""
    kept = np.concatenate([[True], np.diff(series.power_mw) != 0])
    return RailPower(series.rail, series.t_ns[kept], series.power_mw[kept])


def test_leaving_out_equal_samples_would_be_wrong_by_tens_of_percent() -> None:
    """Pitfall: equal samples are no repetition to be spared, they say that power stayed.

    Without them a flat stretch becomes a straight line to the next change, or nothing at all.
    """
    times = UPTIME + np.arange(0, 10 * SECOND, CYCLE)
    start, end = int(times[0]), int(times[-1])
    step = RailPower("A", times, np.where(times < UPTIME + 5 * SECOND, 1000.0, 9000.0))
    truth = (5 * 1.0 + (end - UPTIME - 5 * SECOND) * 1e-9 * 9.0) * 1e3
    assert energy_mj(step, start, end).energy_mj == pytest.approx(truth, rel=1e-3)
    sparse = without_equal_samples(step)
    assert len(sparse.t_ns) == 2
    fallen = energy_mj(sparse, start, end)
    assert fallen.energy_mj < 0.7 * truth  # half the time, and a ramp that never was
    assert fallen.coverage < 0.51

    load = np.where((times >= UPTIME + 2 * SECOND) & (times < UPTIME + 8 * SECOND), 9e3, 1e3)
    pulse = RailPower("B", times, load)
    whole = energy_mj(pulse, start, end).energy_mj
    assert whole == pytest.approx(4000 + 54_000, rel=2e-3)
    last = int(without_equal_samples(pulse).t_ns[-1])
    ours = energy_mj(pulse, start, last).energy_mj
    ramp = energy_mj(without_equal_samples(pulse), start, last).energy_mj
    assert ours == pytest.approx(2000 + 54_000, rel=2e-3)
    assert ramp < 0.75 * ours

    flat = RailPower("C", times, np.full(len(times), 5000.0))
    assert energy_mj(flat, start, end).mean_mw == pytest.approx(5000.0)
    assert np.isnan(energy_mj(without_equal_samples(flat), start, end).energy_mj)
