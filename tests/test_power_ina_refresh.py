"""What an INA3221's rhythm is, learned from a driver that shows rounded milliseconds."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.power.ina_refresh import (
    INA238_TIMES_US,
    INA3221_TIMES_US,
    LEGAL_SAMPLES,
    Refresh,
    enough_reads,
    learn_ina238,
    learn_refresh,
    refresh_of_register,
    shown_ms,
    typical_read_ns,
)

times = st.sampled_from(INA3221_TIMES_US)
samples = st.sampled_from(LEGAL_SAMPLES)


def test_the_tables_are_those_of_the_data_sheets() -> None:
    assert INA3221_TIMES_US == (140, 204, 332, 588, 1100, 2116, 4156, 8244)
    assert INA238_TIMES_US == (50, 84, 150, 280, 540, 1052, 2074, 4120)
    assert LEGAL_SAMPLES == (1, 4, 16, 64, 128, 256, 512, 1024)


@pytest.mark.parametrize(
    # What the unmodified drivers were seen to show, and the cycle that was set.
    ("shown", "averaged", "channels", "cycle_ns"),
    [
        (7, 1, 3, 6_600_000),  # the default
        (1, 1, 3, 840_000),  # 0 was written
        (13, 4, 3, 12_696_000),  # 50 was written with 4 samples, 6.1
        (26, 4, 3, 6_600_000),  # 5.10
        (106, 16, 3, 6_600_000),
        (422, 64, 3, 6_600_000),
        (3379, 512, 3, 6_600_000),
        (2, 1, 1, 2_200_000),  # AGX Orin's second chip
        (49, 1, 3, 49_464_000),  # the slowest
    ],
)
def test_known_readings(shown: int, averaged: int, channels: int, cycle_ns: int) -> None:
    refresh = learn_refresh(shown, averaged, channels, None)
    assert refresh.period_ns == cycle_ns
    assert cycle_ns in refresh.candidates_ns
    assert (refresh.samples, refresh.blocking) == (averaged, False)


def test_rounding_is_to_the_nearest_half_up() -> None:
    assert [shown_ms(us) for us in (0, 499, 500, 1499, 1500, 6600)] == [0, 0, 1, 1, 2, 7]
    assert shown_ms(6600, 4) == 26


@given(times, times, st.integers(1, 3), samples, st.booleans(), st.booleans())
def test_the_true_cycle_is_among_the_candidates(
    bus_us: int, shunt_us: int, channels: int, averaged: int, counted: bool, count_known: bool
) -> None:
    cycle_us = channels * (bus_us + shunt_us)
    shown = (cycle_us * (averaged if counted else 1) + 500) // 1000
    refresh = learn_refresh(shown, averaged, channels if count_known else None, None)
    assert cycle_us * 1000 in refresh.candidates_ns
    assert refresh.period_ns in refresh.candidates_ns
    assert refresh.safe_ns is not None
    assert refresh.safe_ns <= cycle_us * 1000
    assert list(refresh.candidates_ns) == sorted(set(refresh.candidates_ns))
    assert json.loads(json.dumps(refresh.to_json()))["safe_ns"] == refresh.safe_ns


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_what_a_driver_can_have_written_is_found_exactly(channels: int) -> None:
    # Drivers write equal times, of those that some whole number of ms leads to.
    for written_ms in range(60):
        wanted_us = (written_ms * 500 + channels // 2) // channels
        # find_closest: the lower one up to the middle
        step = sum(
            wanted_us > (low + high) // 2 for low, high in itertools.pairwise(INA3221_TIMES_US)
        )
        cycle_us = 2 * channels * INA3221_TIMES_US[step]
        refresh = learn_refresh(shown_ms(cycle_us), 1, channels, None)
        if shown_ms(cycle_us) > 1 or channels == 3:
            assert refresh.period_ns == cycle_us * 1000
        else:  # two pairs of equal times read 1 ms: the shorter one misses nothing
            assert refresh.period_ns is not None
            assert refresh.period_ns <= cycle_us * 1000


@given(
    st.one_of(st.none(), st.integers(-5, 20_000)),
    st.one_of(st.none(), st.integers(-5, 2000)),
    st.one_of(st.none(), st.integers(0, 3)),
    st.one_of(st.none(), st.integers(0, 10**11)),
    st.booleans(),
)
def test_any_numbers_give_an_answer_or_none(
    shown: int | None, averaged: int | None, channels: int | None, read: int | None, single: bool
) -> None:
    refreshes = (
        learn_refresh(shown, averaged, channels, read, single_shot=single),
        learn_ina238(shown, averaged, read),
    )
    for refresh in refreshes:
        assert refresh.how
        assert (refresh.period_ns is None) == (refresh.safe_ns is None)
        if refresh.period_ns is not None and refresh.safe_ns is not None:
            assert refresh.safe_ns <= refresh.period_ns
        json.dumps(refresh.to_json())


def test_what_no_setting_gives_is_taken_as_read_and_said_so() -> None:
    refresh = learn_refresh(60, 1, 3, None)
    assert (refresh.period_ns, refresh.candidates_ns) == (60_000_000, ())
    assert refresh.safe_ns == 59_500_000
    assert "as read" in refresh.how
    assert learn_refresh(0, 1, 3, None).period_ns is None  # three channels take 0.84 ms at least
    nothing = learn_refresh(None, None, 3, 80_000)
    assert nothing == Refresh(None, (), None, False, None, 80_000, nothing.how)


@pytest.mark.parametrize(
    ("read_ns", "single_shot", "blocking", "said"),
    [
        (None, False, False, "1100 us"),
        (554_000, False, False, "1100 us"),  # reported on an AGX Orin, JetPack 6
        (2_900_000, False, False, "1100 us"),
        (6_650_000, False, True, "waits for a conversion"),
        (70_000, True, True, "single-shot"),
    ],
)
def test_a_read_as_long_as_a_cycle_waits(
    read_ns: int | None, single_shot: bool, blocking: bool, said: str
) -> None:
    refresh = learn_refresh(7, 1, 3, read_ns, single_shot=single_shot)
    assert refresh.blocking is blocking
    assert said in refresh.how


def test_a_cycle_as_short_as_a_transfer_does_not_make_a_driver_wait() -> None:
    refresh = learn_refresh(1, 1, 3, 700_000)  # 0.84 ms
    assert not refresh.blocking
    assert "as long as a cycle" in refresh.how
    assert learn_refresh(1, 1, 3, 1_500_000).blocking


def test_samples_counted_in_are_likely_where_reads_wait() -> None:
    waiting = learn_refresh(26, 4, 3, 6_650_000)
    assert waiting.period_ns == 6_600_000
    assert "counted in" in waiting.how
    fast, slow = learn_refresh(8, 4, 3, 70_000), learn_refresh(8, 4, 3, 30_000_000)
    # 4 x 1.992 ms = 7.97 ms, equal times; 7.5 to 8.5 ms without the samples only of unequal ones.
    assert fast.period_ns == slow.period_ns == 1_992_000
    fast, slow = learn_refresh(13, 16, 3, 70_000), learn_refresh(13, 16, 3, 13_500_000)
    # 12.696 ms, or 16 x 0.84 ms = 13.44 ms.
    assert (fast.period_ns, slow.period_ns) == (12_696_000, 840_000)
    assert {840_000, 12_696_000} <= set(fast.candidates_ns)
    single = learn_refresh(13, 16, 3, 13_000_000, single_shot=True)
    assert single.period_ns == 12_696_000


def test_the_register_says_it_exactly() -> None:
    # NVIDIA's device trees of JetPack 4 give 0x7c07; 0x7127 is the value after a reset.
    jetpack4 = refresh_of_register(0x7C07, 300_000)
    assert (jetpack4.period_ns, jetpack4.samples) == (840_000, 512)
    assert (jetpack4.safe_ns, jetpack4.candidates_ns) == (840_000, (840_000,))
    assert not jetpack4.blocking
    reset = refresh_of_register(0x7127, None)
    assert (reset.period_ns, reset.samples) == (6_600_000, 1)
    assert refresh_of_register(0x2127, None).period_ns == 2_200_000  # one channel
    assert refresh_of_register(0x7125, None).period_ns == 3_300_000  # shunt alone
    assert refresh_of_register(0x7126, None).period_ns == 3_300_000  # bus alone
    for register in (0x7003, 0x7000, 0x0127):  # triggered, switched off, no channel
        off = refresh_of_register(register, None)
        assert (off.period_ns, off.blocking) == (None, True)


def test_an_ina238_renews_once_a_block() -> None:
    fixed = learn_ina238(None, None, 300_000)
    assert fixed.period_ns == fixed.safe_ns == 50_496_000  # 16 x 3 x 1.052 ms
    assert (fixed.samples, fixed.blocking) == (16, False)
    shown = learn_ina238(3, 16, None)  # 3 x 1.052 ms = 3.156 ms, without the samples
    assert shown.period_ns == 50_496_000
    counted = learn_ina238(50, 16, None)
    assert 50_496_000 in counted.candidates_ns
    assert learn_ina238(500, 1, None).period_ns == 500_000_000
    assert "as read" in learn_ina238(500, 1, None).how


@given(st.tuples(*[st.sampled_from(INA238_TIMES_US)] * 3), samples, st.booleans())
def test_an_ina238s_true_cycle_is_among_the_candidates(
    chosen: tuple[int, int, int], averaged: int, counted: bool
) -> None:
    shown = (sum(chosen) * (averaged if counted else 1) + 500) // 1000
    refresh = learn_ina238(shown, averaged, None)
    true_ns = sum(chosen) * averaged * 1000
    assert true_ns in refresh.candidates_ns
    assert refresh.safe_ns is not None
    assert refresh.safe_ns <= true_ns


def test_a_typical_read_is_no_first_and_no_disturbed_one() -> None:
    assert typical_read_ns([]) is None
    assert typical_read_ns([5]) == 5
    assert typical_read_ns([900, 5]) == 5
    assert typical_read_ns([1, 7, 7, 50_000, 7]) == 7
    assert typical_read_ns([1, 7, 50_000]) == 7


def test_how_many_reads_are_enough() -> None:
    ms = 1_000_000
    assert not enough_reads([])
    assert not enough_reads([1 * ms] * 18)
    assert not enough_reads([60 * ms, 60 * ms])
    assert enough_reads([60 * ms] * 3)
    assert not enough_reads([3000 * ms])
    assert enough_reads([1 * ms, 3000 * ms])
