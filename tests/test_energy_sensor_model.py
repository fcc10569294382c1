"""The forward model of a power sensor against brute force and closed formulae."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.energy.sensor_model import (
    Filtered,
    SensorParameters,
    Waveform,
    chip_average,
    convert,
    ina3221,
    nvml_mean,
    nvml_part_time,
    recurrence,
    simulate,
)
from edgejoule.errors import UsageError

FAR = 86_400 * 10**9  # a day of uptime: arithmetic must not lose ns there


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-5, 5)), max_size=70),
)
def test_the_scan_is_the_recurrence(pairs: list[tuple[float, float]]) -> None:
    decay = np.array([a for a, _ in pairs])
    fed = np.array([b for _, b in pairs])
    expected, last = [], 0.0
    for a, b in pairs:
        last = a * last + b
        expected.append(last)
    np.testing.assert_allclose(recurrence(decay, fed), expected, atol=1e-12)


@pytest.mark.parametrize("tau_ns", [0.0, 30e3, 500e3, 40e6])
def test_the_low_pass_is_the_differential_equation(tau_ns: float) -> None:
    rng = np.random.default_rng(1)
    edges = FAR + np.sort(rng.integers(0, 20_000_000, 12))
    wave = Waveform(edges, rng.uniform(0, 100, 13))
    filtered = Filtered(wave, tau_ns)
    # 1 us steps, exact within one (the power is sampled in its middle).
    t_ns = FAR + np.arange(-1_000_000, 25_000_000, 1000, dtype=np.int64)
    power = wave.power[np.searchsorted(edges, t_ns[:-1] + 500, side="right")]
    y = np.empty(len(t_ns))
    y[0] = wave.power[0]
    keep = math.exp(-1000 / tau_ns) if tau_ns else 0.0
    for k, p in enumerate(power):
        y[k + 1] = p + (y[k] - p) * keep
    if tau_ns:
        np.testing.assert_allclose(filtered.value(t_ns), y, atol=2.5)
    area = np.concatenate([[0.0], np.cumsum(0.5 * (y[1:] + y[:-1]) * 1000)])
    exact = filtered.integral(t_ns) - filtered.integral(t_ns[:1])
    np.testing.assert_allclose(exact, area, atol=1.2e-3 * area[-1])


def test_the_step_response_has_its_closed_form() -> None:
    wave = Waveform(np.array([FAR]), np.array([10.0, 30.0]))
    filtered = Filtered(wave, 200e3)
    at = FAR + np.array([-1, 0, 200_000, 2_000_000])
    np.testing.assert_allclose(
        filtered.value(at), [10, 10, 30 - 20 / math.e, 30 - 20 * math.exp(-10)], rtol=1e-9
    )


def test_a_value_is_the_mean_of_its_window_and_appears_after_the_delay() -> None:
    # High for 2 ms; windows of 1.1 ms end 0.3 ms before a value is shown at 5, 11.6, ... ms.
    wave = Waveform(FAR + np.array([4_000_000, 6_000_000]), np.array([1000.0, 3000.0, 1000.0]))
    model = SensorParameters(6.6e6, 1.1e6, phase_ns=FAR + 5e6, delay_ns=0.3e6, lsb=8.0)
    values = convert(model, wave, FAR, FAR + 12_000_000)
    np.testing.assert_allclose(values.shown_ns - FAR, [-1.6e6, 5e6, 11.6e6])
    assert values.end_ns[1] - FAR == pytest.approx(4.7e6)
    assert values.start_ns[1] - FAR == pytest.approx(3.6e6)
    mean = 1000 + 2000 * 0.7 / 1.1  # 4.0 to 4.7 of 3.6 to 4.7
    reads = simulate(model, wave, FAR + np.array([4_999_999, 5_000_000, 11_599_999, 11_600_000]))
    assert reads.tolist() == [1000.0, round(mean / 8) * 8.0, round(mean / 8) * 8.0, 1000.0]


def test_averaging_in_the_chip_forgets_as_the_data_sheet_says() -> None:
    step = np.array([0.0, 0.0, 100.0, 100.0, 100.0])
    np.testing.assert_allclose(chip_average(step, 4), [0, 0, 25, 43.75, 57.8125])
    assert chip_average(step, 1) is step
    # A window's mean does not depend on when the simulation begins.
    wave = Waveform.square(0, 10**10, 130e6, 500, 2500)
    model = ina3221(16, lsb=0.0)
    late = simulate(model, wave, np.arange(8 * 10**9, 9 * 10**9, 500_000))
    whole = simulate(model, wave, np.arange(0, 9 * 10**9, 500_000))
    np.testing.assert_allclose(late, whole[-len(late) :], atol=1e-4)


def test_a_running_mean_is_longer_than_its_refresh() -> None:
    wave = Waveform(np.array([10**9]), np.array([0.0, 1000.0]))
    reads = simulate(nvml_mean(), wave, np.array([10**9, 1_500_000_001, 3 * 10**9]))
    np.testing.assert_allclose(reads, [0, 500, 1000])


def test_a_part_time_sensor_misses_what_it_does_not_look_at() -> None:
    wave = Waveform.square(0, 10**9, 100e6, 100, 900, duty=0.7)  # always over when it looks
    assert set(simulate(nvml_part_time(), wave, np.arange(10**8, 9 * 10**8, 10**6))) == {100.0}


def test_a_minute_is_energy_true_in_the_mean() -> None:
    wave = Waveform.square(FAR, FAR + 60 * 10**9, 17.3e6, 2000, 9000, duty=0.3)
    reads = FAR + np.arange(10**9, 59 * 10**9, 500_000)
    model = SensorParameters(6.6e6, 1.1e6, tau_ns=100e3, samples=4, lsb=40.0, noise=20.0)
    values = simulate(model, wave, reads, np.random.default_rng(3))
    truth = wave.energy_mj(int(reads[0]), int(reads[-1])) / 58e0
    assert truth == pytest.approx(2000 + 0.3 * 7000, rel=1e-3)
    assert float(np.mean(values)) == pytest.approx(truth, rel=0.01)


def test_clock_drift_and_walk_move_the_times() -> None:
    wave = Waveform.constant(5.0)
    steady = convert(SensorParameters(1e6, 1e5), wave, 0, 10**9)
    drifting = convert(SensorParameters(1e6, 1e5, drift_per_s=1e-4), wave, 0, 10**9)
    # Half a second's mean change of 1e-4 per s over 1 s: 50 us late at its end.
    last = len(drifting.shown_ns) - 1
    assert drifting.shown_ns[last] - steady.shown_ns[last] == pytest.approx(50_000, rel=0.01)
    walk = SensorParameters(1e6, 1e5, walk_ns=1000.0)
    steps = np.diff(convert(walk, wave, 0, 10**9, np.random.default_rng(0)).shown_ns)
    assert float(np.std(steps)) == pytest.approx(1000, rel=0.1)
    assert set(np.diff(convert(walk, wave, 0, 10**9).shown_ns)) == {1e6}
    assert set(steady.value) == {5.0}


def test_noise_is_of_the_conversion_not_of_the_read() -> None:
    model = SensorParameters(1e6, 1e5, noise=3.0)
    values = simulate(
        model, Waveform.constant(100.0), np.arange(0, 10**9, 100_000), np.random.default_rng(0)
    )
    assert len(set(values)) == pytest.approx(1000, abs=3)
    assert float(np.std(values)) == pytest.approx(3, rel=0.1)


def test_nothing_read_is_nothing() -> None:
    assert simulate(ina3221(), Waveform.constant(1.0), []).shape == (0,)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="above 0"):
        SensorParameters(0, 1)
    with pytest.raises(UsageError, match="samples"):
        SensorParameters(1, 1, samples=0.5)
    with pytest.raises(UsageError, match="below 0"):
        SensorParameters(1, 1, tau_ns=-1)
    with pytest.raises(UsageError, match="one power more"):
        Waveform(np.array([1]), np.array([1.0]))
    with pytest.raises(UsageError, match="step back"):
        Waveform(np.array([2, 1]), np.array([1.0, 2.0, 3.0]))
    with pytest.raises(UsageError, match="end before"):
        convert(ina3221(), Waveform.constant(1.0), 10, 9)
    values = convert(ina3221(), Waveform.constant(1.0), 0, 10**8)
    with pytest.raises(UsageError, match="before the first"):
        values.read(np.array([-(10**9)]))
