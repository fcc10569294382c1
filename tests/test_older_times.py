"""Stamps of the older layout: to numbers and back, hours that come twice, clocks set back."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.dataset.older.clock import apart_ns, follow, spans_of, unroll
from edgejoule.dataset.older.times import (
    Zone,
    format_short,
    format_stamps,
    parse_short,
    parse_stamps,
    to_utc,
    zone_of,
)
from edgejoule.errors import MeasurementError, UsageError
from tests.support_older import Berlin

SECOND = 1_000_000
BERLIN = Zone("Berlin", Berlin())


def seconds(*texts: str) -> np.ndarray:
    return parse_stamps([f"{text}.000000" for text in texts])


@given(st.lists(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)), max_size=20))
def test_stamps_are_what_the_standard_library_says(times):
    texts = [f"{at:%Y%m%d-%H:%M:%S}.{at.microsecond:06d}" for at in times]
    wanted = [(at - datetime(1970, 1, 1)) // timedelta(microseconds=1) for at in times]
    assert parse_stamps(texts).tolist() == wanted
    assert format_stamps(np.array(wanted, np.int64)) == texts


@pytest.mark.parametrize(
    "text",
    ["20241121-05:22:50,156286", "20241121-25:22:50.156286", "20241321-05:22:50.156286",
     "20240230-05:22:50.156286", "2024112-105:22:50.15628", "20241121-05:22:50.1562860", "",
     "2024\u066221-05:22:50.1562860", "20241121-05:2a:50.156286", "19691231-05:22:50.156286"],
)  # fmt: skip
def test_what_is_no_stamp_is_named(text):
    with pytest.raises(ValueError, match="is no time"):
        parse_stamps(["20241121-05:22:50.156286", text])


def test_short_stamps():
    assert format_short(parse_short("20241121-052004")) == "20241121-052004"
    assert [parse_short(text) for text in ("20241121", None, 5, "20241341-052004")] == [None] * 4


def test_zones_by_name_offset_and_not_at_all():
    local = parse_stamps(["20240701-12:00:00.000000"])
    assert zone_of("UTC").offset_us(int(local[0])) == 0
    assert zone_of("-03:30").offset_us(int(local[0])) == -3.5 * 3600 * SECOND
    assert BERLIN.offset_us(int(local[0])) == 2 * 3600 * SECOND
    with contextlib.suppress(UsageError):  # a machine without a table of zones
        assert zone_of("Europe/Berlin").offset_us(int(local[0])) == 2 * 3600 * SECOND
    assert "this machine's zone" in zone_of(None).name
    for wrong in ("Nowhere/Atall", "../etc/passwd", "+25:00", ""):
        with pytest.raises(UsageError, match="no time zone"):
            zone_of(wrong)


def test_the_hour_that_comes_twice_goes_by_the_order_of_the_stamps():
    zone = BERLIN
    local = seconds(
        "20241027-01:59:59", "20241027-02:59:59", "20241027-02:00:00", "20241027-02:59:59",
        "20241027-03:00:00",
    )  # fmt: skip
    utc = to_utc(local, zone, "the log")
    assert np.diff(utc.us).tolist() == [3600 * SECOND, SECOND, 3599 * SECOND, SECOND]
    assert any("3 times lie in the hour that comes twice" in note for note in utc.notes)
    assert "2 of them were taken as its second pass" in utc.notes[-1]
    assert zone.to_local_us(utc.us).tolist() == local.tolist()


def test_without_a_jump_what_follows_or_what_lies_around_tells_the_hour():
    zone = BERLIN
    after = to_utc(seconds("20241027-02:59:59", "20241027-03:00:00"), zone, "x")
    assert np.diff(after.us).tolist() == [SECOND]
    alone = seconds("20241027-02:30:00")
    first, second = (to_utc(alone, zone, "x", near).us[0] for near in (None, (0, 0)))
    assert first == second == alone[0] - 2 * 3600 * SECOND
    around = (int(alone[0]) - 3600 * SECOND - 5, int(alone[0]) - 3600 * SECOND + 5)
    assert to_utc(alone, zone, "x", around).us[0] == alone[0] - 3600 * SECOND


def test_the_hour_in_spring_that_is_left_out_does_not_exist():
    zone = BERLIN
    over = to_utc(seconds("20240331-01:59:59", "20240331-03:00:00"), zone, "x")
    assert np.diff(over.us).tolist() == [SECOND]
    assert "between summer and winter" in over.notes[0]
    with pytest.raises(MeasurementError, match=r"02:30:00.*leaps over.*--timezone"):
        to_utc(seconds("20240331-02:30:00"), zone, "the log")


def test_a_clock_set_back_is_undone_in_the_log_and_in_the_callbacks():
    true = np.arange(0, 1000, 10)
    log = np.where(true >= 500, true - 55, true)
    moved, steps = unroll(log, "log")
    assert moved.tolist() == true.tolist()
    assert [(s.before_us, s.after_us, s.shift_us) for s in steps] == [(490, 445, 55)]
    # A fall to see; a step that lies in a pause of 100, which it cut to 45; all before; all after.
    for true_ends in (
        [100, 300, 480, 505, 700], [200, 300, 400, 500, 600], [10, 480], [560, 900],
        [200, 300, 400, 500], [450],
    ):  # fmt: skip
        ends = np.array(true_ends)
        shown = np.where(ends >= 500, ends - 55, ends)
        assert follow(shown, steps).tolist() == ends.tolist()


def test_time_without_order_is_no_recording():
    with pytest.raises(MeasurementError, match="the log: time runs backwards 200 times"):
        unroll(np.tile([5, 4], 200), "the log")


def test_equal_stamps_are_a_nanosecond_apart():
    moved, equal = apart_ns(np.array([1, 1, 1, 2, 3, 3]))
    assert (moved.tolist(), equal) == ([1000, 1001, 1002, 2000, 3000, 3001], 3)
    with pytest.raises(MeasurementError, match="a thousand lines"):
        apart_ns(np.zeros(1001, np.int64))


def test_starts_by_latency_by_layers_and_never_before_the_end_before():
    ends = np.array([10_000_000, 20_000_000, 30_000_000])
    layers = np.array([4e6, 5e6, 6e6])
    plain = spans_of(ends, layers, None)
    assert (ends - plain.start_ns).tolist() == [4_000_000, 5_000_000, 6_000_000]
    spans = spans_of(ends, layers, np.array([8e6, 12e6, 5e6]))
    assert (ends - spans.start_ns).tolist() == [8_000_000, 10_000_000, 6_000_000]
    assert "1 latencies are shorter" in spans.notes[0]
    assert "1 inferences would start before" in spans.notes[1]
    assert "2000 us later at most" in spans.notes[1]
    assert spans.wrong == 0
    assert spans_of(ends, np.array([1e6, 11e6, 1e6]), None).wrong == 1


def test_without_ends_inferences_lie_back_to_back():
    spans = spans_of(None, np.array([4.0, 5.5]), None)
    assert (spans.start_ns.tolist(), spans.end_ns.tolist()) == ([0, 4], [4, 10])
