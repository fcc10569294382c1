"""The speed benchmark compares two ways to the same energies, and takes each inference alone."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.attribution_speed import plain_loop, series_of, some
from edgejoule.energy.interval import attribute_interval
from edgejoule.simulation import SCENARIOS, simulate


@pytest.mark.parametrize("name", ["base", "gap30-starts"])
def test_the_plain_loop_gives_what_the_older_rule_gives(name):
    found = simulate(replace(SCENARIOS[name], inferences=120), 3)
    ((_, reads),) = found.reads.items()
    series = series_of(reads)
    timeline = some(found.timeline, 50)
    assert timeline.layer_ns.shape == (50, found.timeline.layers)
    rows = attribute_interval("x", series, timeline, None, None)[: timeline.layers]
    have = [np.nan if row.gross_mj is None else row.gross_mj for row in rows]
    np.testing.assert_allclose(plain_loop(series, timeline), have, rtol=1e-9)
    assert np.isfinite(have).any()
