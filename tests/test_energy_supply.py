"""A supply that gives way: found around the pass or bounded within it, and taken off."""

from dataclasses import replace

import numpy as np
import pytest

from edgejoule.energy.supply import with_supply
from edgejoule.energy.timeline import ChannelReads

REFRESH_NS = 6_600_000
START_NS = 5_000_000_000


def board(ohm, seed=0, n=4000, around=60, drift=0.0, step_mv=8.0):
    """Reads of a current and the stale voltage beside it; the true power of each window.

    Each window holds a mixture of layers; the voltage's is another one, of the same kind.
    """
    rng = np.random.default_rng(seed)
    at = START_NS + REFRESH_NS * np.arange(-around, n + around)
    inside = (at >= START_NS) & (at < START_NS + n * REFRESH_NS)

    def currents():
        loaded = rng.uniform(600, 2200, len(at))
        return np.where(inside, loaded, 500.0 + rng.normal(0, 2, len(at)))

    no_load = 5000.0 * (1 + drift * np.arange(len(at)) / len(at))
    current, other = currents(), currents()
    # What a real board shows: whole mA steps of 8, mV steps of 8, with a little noise before it.
    shown_ma = np.rint((current + rng.normal(0, 2, len(at))) / 8) * 8
    volts = no_load - ohm * other + rng.normal(0, 0.25 * step_mv, len(at))
    shown_v = np.rint(volts / step_mv) * step_mv * 1e-3
    true_mw = current * (no_load - ohm * current) * 1e-3
    reads = ChannelReads("VDD_IN", at, at + 500_000, shown_ma.astype(np.int64), shown_ma * shown_v)
    return reads, true_mw, inside, (START_NS, START_NS + n * REFRESH_NS)


def error_slope(power_mw, true_mw, inside):
    """By how much the relative error changes over the span of powers."""
    relative = power_mw[inside] / true_mw[inside] - 1
    fall = np.polyfit(true_mw[inside], relative, 1)[0]
    return fall * np.ptp(true_mw[inside])


@pytest.mark.parametrize("ohm", [0.02, 0.06])
def test_high_powers_are_no_longer_too_high(ohm):
    reads, true_mw, inside, span = board(ohm)
    mended, supply = with_supply(reads, *span)
    before, after = (error_slope(r.power_mw, true_mw, inside) for r in (reads, mended))
    assert before > 0.8 * ohm * 1600 / 5000
    assert abs(after) < 0.3 * before
    true_fall = ohm / 4.95**2 * 1e-3
    assert abs(supply.per_mw - true_fall) <= supply.half_width + 0.05 * true_fall
    assert np.mean(mended.power_mw[inside]) == pytest.approx(np.mean(true_mw[inside]), rel=5e-4)
    assert np.array_equal(mended.raw, reads.raw)


def test_what_is_not_seen_around_the_pass_is_bounded_by_what_varies_within():
    """Only the pass was read: from nothing to as much as the voltage moves at all."""
    reads, _, _, span = board(0.06, around=0)
    _, supply = with_supply(reads, *span)
    true_fall = 0.06 / 4.92**2 * 1e-3
    assert abs(supply.per_mw - true_fall) <= supply.half_width
    assert supply.per_mw == supply.half_width  # nothing at all is possible too
    powers = np.array([3000.0, supply.mean_mw, 11000.0])
    assert supply.moved(powers)[1] == 0.0
    assert supply.moved(powers)[2] > 0 > supply.moved(powers)[0]


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_of_the_fall_holds_it(seed):
    reads, _, _, span = board(0.03, seed=seed, n=2000, around=12)
    _, supply = with_supply(reads, *span)
    assert abs(supply.per_mw - 0.03 / 4.96**2 * 1e-3) <= supply.half_width


def test_a_slow_change_of_the_supply_is_followed():
    reads, true_mw, inside, span = board(0.02, drift=0.02)
    mended, _ = with_supply(reads, *span)
    off = mended.power_mw[inside] / true_mw[inside] - 1
    thirds = [part.mean() for part in np.array_split(off, 3)]
    assert np.ptp(thirds) < 1e-3


def test_a_sensor_of_power_is_left_as_it_is():
    reads, *_, span = board(0.02)
    watts = replace(reads, power_mw=reads.raw * 1.0)
    same, supply = with_supply(watts, *span)
    assert same is watts
    assert supply is None
    nothing = replace(reads, raw=np.zeros_like(reads.raw), power_mw=np.zeros(len(reads.raw)))
    assert with_supply(nothing, *span)[1] is None


def test_a_current_of_nothing_is_no_division_by_zero():
    reads, _, _, span = board(0.02)
    raw, power = reads.raw.copy(), reads.power_mw.copy()
    raw[100:110], power[100:110] = 0, 0.0
    mended, supply = with_supply(replace(reads, raw=raw, power_mw=power), *span)
    assert np.all(np.isfinite(mended.power_mw))
    assert np.all(mended.power_mw[100:110] == 0)
    assert supply.per_mw > 0


def test_the_simulated_boards_supply_is_found_in_what_its_sampler_read():
    """Another idea of a board: droop within each conversion, late reads, a clock of its own."""
    simulation = pytest.importorskip("edgejoule.simulation")
    scenario = replace(simulation.SCENARIOS["base"], inferences=3000, droop_mv_per_ma=0.06)
    run = simulation.simulate(scenario, 1)
    reads = run.reads["VDD_IN"]
    start, end = int(run.timeline.start_ns[0]), int(run.timeline.end_ns[-1])
    _, supply = with_supply(reads, start, end)
    assert abs(supply.per_mw - 0.06 / 4.92**2 * 1e-3) <= supply.half_width
