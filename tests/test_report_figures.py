"""What figures are made of: names, colours, units, fronts, phases, trees."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.energy.rollup import Node
from edgejoule.energy.rollup_amounts import Amount
from edgejoule.report.figures import phases
from edgejoule.report.figures.modules import boxes
from edgejoule.report.figures.names import plain, wrapped
from edgejoule.report.figures.over_time import band_outline, rails_to_draw, reduce_rail
from edgejoule.report.figures.pareto import front
from edgejoule.report.figures.style import (
    ENERGY,
    NEUTRAL,
    PALETTE,
    TIME,
    colours_of,
    faded,
    five,
    log_ticks,
    unit_for,
)
from edgejoule.report.series import PhaseSpan, RailSeries

# How the three kinds of colour-blindness mix linear red, green and blue (Machado, Oliveira,
# Fernandes 2009, severity 1), and normal sight.
SIGHT = {
    "normal": np.eye(3),
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
# To OKLab (Ottosson 2020): cone responses, then lightness and two colours.
CONES = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
         [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
LAB = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
       [0.0259040371, 0.7827717662, -0.8086757660]]  # fmt: skip


def linear(colour: str) -> np.ndarray:
    value = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(linear(colour) @ np.array([0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_are_told_apart_by_everybody(sight: str) -> None:
    def seen(colour: str) -> np.ndarray:
        mixed = np.clip(np.array(SIGHT[sight]) @ linear(colour), 0, 1)
        return np.array(LAB) @ np.cbrt(np.array(CONES) @ mixed)

    least = 0.1 if sight != "tritan" else 0.075
    for one, other in itertools.combinations((*PALETTE, NEUTRAL), 2):
        assert np.linalg.norm(seen(one) - seen(other)) > least, (one, other)


@pytest.mark.parametrize("colour", [*PALETTE, NEUTRAL])
def test_colours_stand_out_from_white_and_from_near_black(colour: str) -> None:
    assert 1.05 / (luminance(colour) + 0.05) > 2.3
    assert (luminance(colour) + 0.05) / (luminance("#14181d") + 0.05) > 2.8


def test_colours_of_more_words_than_there_are() -> None:
    found = colours_of(["a", "unknown", "a", *(str(k) for k in range(20))])
    assert (found["a"], found["unknown"], found["19"]) == (PALETTE[0], NEUTRAL, NEUTRAL)
    assert faded("#0a141e", 0.5) == "rgba(10,20,30,0.5)"


@given(st.text(max_size=300), st.integers(min_value=5, max_value=60))
def test_names_come_back_as_they_were_but_for_what_cannot_be_shown(name: str, width: int) -> None:
    shown = plain(name, width)
    back = html.unescape(shown)
    assert len(back) <= width
    assert "<" not in shown
    assert "%{" not in shown
    assert back.isprintable()
    if name.isprintable() and len(name) <= width:
        assert back == name


@given(st.text(alphabet="ab.c,d|e <&%{", max_size=170))
def test_a_wrapped_name_loses_nothing(name: str) -> None:
    lines = wrapped(name).split("<br>")
    assert html.unescape("".join(lines)) == name
    assert max(len(html.unescape(line)) for line in lines) <= 44


@given(st.floats())
def test_five_digits(value: float) -> None:
    found = five(value)
    if not math.isfinite(value):
        assert found is None
    else:
        assert found is not None
        assert found == pytest.approx(value, rel=6e-5)
        assert type(found) in {int, float}


def test_one_unit_by_the_greatest() -> None:
    assert unit_for([0.002, 0.9], TIME).name == "µs"
    assert unit_for([0.002, 3.0, None], TIME).name == "ms"
    assert unit_for([4.2e-7], TIME).name == "ns"
    assert unit_for([], ENERGY).name == unit_for([0.0, float("nan")], ENERGY).name == "mJ"
    assert unit_for([-2500.0], ENERGY).of(-2500.0) == -2.5


def test_ticks_of_a_logarithmic_axis() -> None:
    assert log_ticks(0.0, 1.05) == [1, 2, 5, 10]
    assert log_ticks(-1.0, 3.0) == [0.1, 1, 10, 100, 1000]
    assert 3 <= len(log_ticks(-20.0, 20.0)) <= 9


@st.composite
def points(draw: st.DrawFn) -> list[tuple[float | None, float | None]]:
    value = st.none() | st.integers(min_value=0, max_value=6).map(float)
    return draw(st.lists(st.tuples(value, value), max_size=25))


@given(points())
def test_the_front_is_all_that_nothing_dominates(
    given_points: list[tuple[float | None, float | None]],
) -> None:
    known = {k: p for k, p in enumerate(given_points) if None not in p}

    def dominated(point: tuple[float, float]) -> bool:
        return any(
            other[0] <= point[0] and other[1] <= point[1] and other != point
            for other in known.values()
        )

    found = front(given_points)
    assert set(found) == {k for k, point in known.items() if not dominated(point)}
    firsts = [known[k][0] for k in found]
    assert firsts == sorted(firsts)


def spans(*named: tuple[str, float]) -> list[PhaseSpan]:
    found, at = [], 0.0
    for phase, seconds in named:
        found.append(PhaseSpan(phase, at, at + seconds))
        at += seconds
    return found


def test_a_phase_that_is_interrupted_again_and_again_is_one_band() -> None:
    chunks = [("profiled", 1.0), ("harvest", 0.1)] * 50
    found = phases.bands(spans(("clean", 20), *chunks, ("idle_after", 5), ("end", 0)))
    assert [band.name for band in found] == ["clean", "profiled", "idle"]
    assert found[1].parts["harvest"] == pytest.approx(5.0)
    assert found[1].stretches == 100


def test_a_long_stretch_between_stays() -> None:
    found = phases.bands(spans(("observed", 5), ("unsampled", 5), ("observed", 5)))
    assert [band.name for band in found] == ["observed", "sampler off", "observed"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(min_value=0, max_value=50)),
        max_size=60,
    )
)
def test_bands_cover_what_the_phases_cover(named: list[tuple[str, float]]) -> None:
    given_spans = spans(*named)
    found = phases.bands(given_spans)
    covered = sum(sum(band.parts.values()) for band in found)
    assert covered == pytest.approx(sum(one.end_s - one.start_s for one in given_spans))
    for one, after in itertools.pairwise(found):
        assert one.end_s <= after.start_s + 1e-9


def rail(mean: Sequence[float], name: str = "VDD") -> RailSeries:
    values = np.array(mean, dtype=float)
    return RailSeries(name, np.arange(float(len(values))), values, values - 1, values + 1, 1)


@given(
    st.lists(
        st.floats(min_value=0, max_value=100) | st.just(float("nan")), min_size=1, max_size=300
    ),
    st.integers(min_value=1, max_value=50),
)
def test_reducing_keeps_peaks_and_gaps(mean: list[float], most: int) -> None:
    whole = rail(mean)
    found = reduce_rail(whole, most)
    if not np.isfinite(whole.mean_w).any():
        return
    assert np.nanmax(found.high_w) == np.nanmax(whole.high_w)
    assert np.nanmin(found.low_w) == np.nanmin(whole.low_w)
    gaps = np.diff(np.isnan(whole.mean_w).astype(int))
    shown = np.diff(np.isnan(found.mean_w).astype(int))
    assert (gaps == 1).sum() == (shown == 1).sum()
    assert len(found.t_s) <= most + 2 * int((gaps != 0).sum()) + 1


def test_the_outline_of_a_band_has_a_piece_per_stretch() -> None:
    low = np.array([1.0, 2.0, np.nan, 3.0])
    x, y = band_outline(np.arange(4.0), low, low + 1)
    assert x == [0, 1, 1, 0, None, 3, 3]
    assert y == [1, 2, 3, 2, None, 3, 4]


def test_a_total_of_one_rail_stands_for_it() -> None:
    one, other, total = rail([1, 2], "VDD_IN"), rail([1, 1], "VDD_SOC"), rail([1, 2], "total")
    assert [name for name, _ in rails_to_draw([one, total, other])] == ["VDD_SOC", "total = VDD_IN"]
    assert [name for name, _ in rails_to_draw([one, other])] == ["VDD_IN", "VDD_SOC"]


@st.composite
def trees(draw: st.DrawFn) -> list[Node]:
    """A tree of modules as `rollup` makes it, with own energies of any sign."""
    own = st.floats(min_value=-5, max_value=20)
    nodes = [Node("inference", "", 0, Amount(0.0), Amount(1.0))]

    def grow(path: tuple[str, ...], depth: int) -> None:
        nodes.append(Node("module", ".".join(path), depth, Amount(draw(own)), Amount(1.0)))
        for k in range(draw(st.integers(min_value=0, max_value=3 if depth < 4 else 0))):
            grow((*path, str(k)), depth + 1)

    grow((), 1)
    nodes.append(Node("gap", "", 1, Amount(draw(own)), Amount(1.0)))
    return nodes


@given(trees())
def test_boxes_add_up_and_none_is_negative(nodes: list[Node]) -> None:
    found = boxes(nodes)
    assert all(box.inner >= 0 for box in found)
    for place, box in enumerate(found):
        inside = sum(found[child].total for child in box.children)
        assert box.total == pytest.approx(box.inner + inside)
        assert all(found[child].parent == place for child in box.children)
    every = sum(max(0.0, node.own.gross_mj or 0.0) for node in nodes)
    assert found[0].total == pytest.approx(every)
    assert sum(box.below_zero for box in found) == sum((n.own.gross_mj or 0) < 0 for n in nodes)
