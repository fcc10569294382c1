"""Which channels of a trace the window regression can use."""

from __future__ import annotations

import numpy as np

from edgejoule.attributing import swept
from edgejoule.energy.timeline import ChannelReads


def reads(rail: str, *stretches: tuple[int, int, int]) -> ChannelReads:
    at = np.concatenate([np.arange(*stretch, dtype=np.int64) for stretch in stretches])
    return ChannelReads(rail, at, at + 1, np.zeros(len(at), np.int64), np.zeros(len(at)))


def test_a_rail_read_at_the_monitor_rate_is_none_however_long_it_was_read_around() -> None:
    # A second before and after at 6.6 ms, and 0.3 s of the pass: polled six times as often.
    around = (-1_000_000, 0, 6_600), (300_000, 1_300_000, 6_600)
    polled = reads("total", around[0], (0, 300_000, 1_100), around[1])
    monitored = reads("other", around[0], (0, 300_000, 6_600), around[1])
    assert 2 * len(monitored.raw) > len(polled.raw)
    assert list(swept({"total": polled, "other": monitored}, 0, 300_000)) == ["total"]
    assert swept({}, 0, 1) == {}
