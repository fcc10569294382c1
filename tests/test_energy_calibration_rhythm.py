"""The refresh from changes with strays, gaps and dense polls; and fits that do not fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgejoule.energy.calibration import fit_rail
from edgejoule.energy.calibration_clock import ClockFit, NoClock, fit_clock
from edgejoule.energy.calibration_rhythm import Rhythm, find_rhythm
from edgejoule.energy.calibration_step import find_step, rounding
from edgejoule.energy.sensor_model import Waveform, simulate
from tests.test_energy_calibration import PART_TIME, START, polls, pulses

PERIOD = 100_045_729.0  # as an H200's driver renews its values
RESPONSE = ("window_ns", "samples", "delay_ns", "tau_ns", "centre_ns", "low", "high")


def reads_of_changes(
    at_ns: np.ndarray, poll_ns: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return reads of a value that is another one after each of these moments."""
    span = float(at_ns[-1] - at_ns[0]) + 4 * PERIOD
    gaps = rng.uniform(0.6, 1.4, int(1.1 * span / poll_ns)) * poll_ns
    t0 = START + np.cumsum(gaps).astype(np.int64)
    t1 = t0 + rng.integers(2_000, 20_000, len(t0))
    return t0, t1, np.searchsorted(at_ns, t0 + (t1 - t0) // 2)


def moments(
    rng: np.random.Generator,
    count: int = 900,
    missed: float = 0.0,
    strays: int = 0,
    jitter_ns: float = 1e6,
) -> np.ndarray:
    """Return when values change: every period, but for those missed, and at any time besides."""
    numbers = np.flatnonzero(rng.random(count) >= missed)
    at = START + 1.3 * PERIOD + numbers * PERIOD + rng.normal(0, jitter_ns, len(numbers))
    anywhere = rng.uniform(at[0], at[-1], strays)
    return np.sort(np.concatenate([at, anywhere]))


def clock_of(at_ns: np.ndarray, poll_ns: float, rng: np.random.Generator) -> ClockFit:
    found = fit_clock(*reads_of_changes(at_ns, poll_ns, rng))
    assert isinstance(found, ClockFit), found
    return found


@pytest.mark.parametrize("poll_ns", [1.4e6, 10e6, 40e6])
@pytest.mark.parametrize(
    ("missed", "strays"), [(0.0, 0), (0.05, 0), (0.0, 20), (0.05, 20), (0.5, 10), (0.8, 3)]
)
def test_neither_missed_nor_stray_changes_move_the_period(
    poll_ns: float, missed: float, strays: int
) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        clock = clock_of(moments(rng, missed=missed, strays=strays), poll_ns, rng)
        assert clock.refresh_ns == pytest.approx(PERIOD, rel=2e-4)
        assert clock.strays <= strays + 0.02 * clock.changes
        # Those within a few milliseconds of a refresh, or of another change, do not show.
        if poll_ns < 2e6 and not missed:
            assert clock.strays >= 0.6 * strays


@pytest.mark.parametrize("at", [0.5, 1 / 3, 0.25, 0.005])
def test_a_change_at_a_part_of_the_period_decides_nothing(at: float) -> None:
    rng = np.random.default_rng(1)
    regular = moments(rng, 1300, missed=0.04)
    stray = regular[[300, 900]] + at * PERIOD
    clock = clock_of(np.sort(np.concatenate([regular, stray])), 1.4e6, rng)
    assert clock.refresh_ns == pytest.approx(PERIOD, rel=2e-5)


def test_with_dense_polls_the_half_and_the_third_agree_as_well_and_are_not_taken() -> None:
    # As the recording of an H200 in which the half was taken: 70 reads per refresh. Where the peak
    # alone decided, it depended on where the true frequency lay among those of the transform.
    for seed in range(12):
        rng = np.random.default_rng(seed)
        at = moments(rng, 1500, missed=0.1, jitter_ns=1.3e5)
        at = START + (at - START) * rng.uniform(0.99, 1.01)
        period = float(np.median(np.diff(at)))
        clock = clock_of(at, 1.4e6, rng)
        assert clock.refresh_ns == pytest.approx(period, rel=1e-3)
        assert clock.strays == 0


@pytest.mark.parametrize("parts", [2, 3])
def test_changes_in_between_that_are_no_small_share_are_refreshes(parts: int) -> None:
    # The value often stays as it was, but for whole periods; it is renewed in parts of them.
    rng = np.random.default_rng(parts)
    numbers = np.arange(parts * 900)
    kept = (numbers % parts == 0) | (rng.random(len(numbers)) < 0.3)
    at = START + PERIOD + numbers[kept] * PERIOD / parts + rng.normal(0, 1e6, int(kept.sum()))
    clock = clock_of(at, 1.4e6, rng)
    assert clock.refresh_ns == pytest.approx(PERIOD / parts, rel=2e-4)


def test_where_every_second_change_never_shows_the_period_seen_is_twice_as_long() -> None:
    rng = np.random.default_rng(0)
    clock = clock_of(moments(rng)[::2], 1.4e6, rng)
    assert clock.refresh_ns == pytest.approx(2 * PERIOD, rel=2e-4)


def test_equal_neighbours_by_coarse_steps() -> None:
    rng = np.random.default_rng(0)
    at = moments(rng)
    t0, t1, number = reads_of_changes(at, 1.4e6, rng)
    coarse = np.rint(rng.normal(0, 0.6, len(at) + 1))[number]  # half of the neighbours are equal
    clock = fit_clock(t0, t1, coarse)
    assert isinstance(clock, ClockFit)
    assert clock.refresh_ns == pytest.approx(PERIOD, rel=2e-4)
    assert 0.3 * len(at) < clock.changes < 0.8 * len(at)


def test_no_rhythm_in_moments_without_one() -> None:
    rng = np.random.default_rng(0)
    at = np.sort(rng.uniform(START, START + 900 * PERIOD, 900))
    assert isinstance(fit_clock(*reads_of_changes(at, 1.4e6, rng)), NoClock)
    assert find_rhythm(np.zeros(40), np.ones(40), 1e6) is None
    assert find_rhythm(np.array([5.0]), np.ones(1), 1e6) is None
    assert find_rhythm(np.linspace(0, 1e5, 40), np.ones(40), 1e6) is None  # all within one read
    assert find_rhythm(np.linspace(0, 1e9, 40), np.ones(40), 0.0) is None  # no time between reads


def test_steps_and_what_rounding_may_do() -> None:
    assert find_step(np.arange(0, 90, 7.0)) == pytest.approx((7.0, 0.0))
    coprime = np.array([0, 10, 29, 33, 41, 50, 69, 71, 83, 97], float)
    assert find_step(coprime) == pytest.approx((1.0, 0.0))
    assert find_step(coprime + 0.013 * coprime**1.5) == "the values lie on no common step"
    assert find_step(np.arange(7.0)) == "only 7 different values were read"
    assert rounding(0.0, 1.0) == 0.0
    assert rounding(8.0, 0.0) == pytest.approx(8 / np.pi)
    assert rounding(8.0, 8.0) < 1e-7


# --- how well the response fits ----------------------------------------------


def gpu_like(
    share: float, slow_ns: float, noise: float = 1000.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Waveform]:
    """Return reads of a load that rises in part at once and in part slowly: no low-pass fits it.

    A negative share overshoots.
    """
    rng = np.random.default_rng(seed)
    model = dataclasses.replace(
        PART_TIME, noise=0.0, lsb=0.0, phase_ns=START + rng.uniform(0, PART_TIME.refresh_ns)
    )
    t0, t1 = polls(rng, 60.0, PART_TIME.refresh_ns)
    load = pulses(60.0, PART_TIME.refresh_ns, (120e3, 650e3), seed)
    middle = t0 + (t1 - t0) // 2
    quick = simulate(model, load, middle, rng)
    slow = simulate(dataclasses.replace(model, tau_ns=slow_ns), load, middle, rng)
    number = ((middle - model.phase_ns) // model.refresh_ns).astype(np.int64)
    each = rng.normal(0, noise, int(np.ptp(number)) + 1)[number - number.min()]
    return t0, t1, np.rint((1 - share) * quick + share * slow + each), load


def test_a_model_that_does_not_fit_gives_a_refresh_and_no_response() -> None:
    found = fit_rail(*gpu_like(-0.7, 300e6), unit="mW")
    assert found.facts["misfit"] > 0.05
    assert found["refresh_ns"].value == pytest.approx(PART_TIME.refresh_ns, rel=1e-4)
    assert found.model is None
    assert found.groups == ()
    for name in RESPONSE:
        parameter = found[name]
        assert (parameter.value, parameter.low, parameter.high) == (None, None, None)
        assert parameter.why.startswith("the model does not fit")
    assert "of the swing), " in found["window_ns"].why
    assert "mW where the load is steady" in found["window_ns"].why


def test_a_wrong_refresh_would_not_give_confident_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Half the refresh, as once was found on an H200: every value counts twice.
    def half(middle: np.ndarray, width: np.ndarray, spacing: float) -> Rhythm | None:
        found = find_rhythm(middle, width, spacing)
        return None if found is None else dataclasses.replace(found, frequency=2 * found.frequency)

    monkeypatch.setattr("edgejoule.energy.calibration_clock.find_rhythm", half)
    found = fit_rail(*gpu_like(0.0, 5e6), unit="mW")
    assert found["refresh_ns"].value == pytest.approx(0.5 * PART_TIME.refresh_ns, rel=1e-4)
    assert found["window_ns"].why.startswith("the model does not fit")
    assert found.model is None


def test_a_small_misfit_widens_what_would_not_hold_the_truth() -> None:
    # The sensor looks 25 ms of each 100 and shows after 10; a fifth of the power comes slowly.
    wide = {}
    for share in (0.0, 0.2):
        found = fit_rail(*gpu_like(share, 60e6, seed=1))
        assert found.model is not None
        assert found.facts["misfit"] < 0.05
        for name, truth in (("window_ns", 25e6), ("delay_ns", 10e6)):
            parameter = found[name]
            assert parameter.low is not None
            assert parameter.high is not None
            wide[name, share] = parameter.high - parameter.low
            slack = 0.1 * wide[name, share]
            assert parameter.low - slack <= truth <= parameter.high + slack, (name, share)
        if share == 0.0:
            assert found.facts["residual"] < 1.2 * found.facts["noise"]
            assert found.facts["noise"] == pytest.approx(1000.0, rel=0.15)
        else:
            assert found.facts["residual"] > 3 * found.facts["noise"]
    assert wide["window_ns", 0.2] > 5 * wide["window_ns", 0.0]


def test_noise_alone_is_no_misfit() -> None:
    found = fit_rail(*gpu_like(0.0, 5e6, noise=120e3))
    assert found.facts["residual"] > 0.2 * 530e3
    assert found["centre_ns"].low is not None
    assert found.model is not None


def test_without_a_steady_stretch_nobody_knows_the_noise() -> None:
    rng = np.random.default_rng(0)
    model = dataclasses.replace(PART_TIME, noise=60e3, phase_ns=float(START))
    t0, t1 = polls(rng, 60.0, 100e6)
    edges = START - 10**10 + np.cumsum(rng.integers(60_000_000, 250_000_000, 600))
    load = Waveform(edges, np.where(np.arange(len(edges) + 1) % 2, 650e3, 120e3))
    found = fit_rail(t0, t1, simulate(model, load, t0, rng), load, unit="mW")
    assert "noise" not in found.facts
    assert found["window_ns"].why.endswith("no steady stretch tells the noise")
    quiet = dataclasses.replace(model, noise=500.0)
    found = fit_rail(t0, t1, simulate(quiet, load, t0, rng), load, unit="mW")
    assert found["window_ns"].value == pytest.approx(25e6, rel=0.05)
